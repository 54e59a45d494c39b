"""Bad input gets one clear line and exit code 2, in every verb, and leaves nothing behind."""

from __future__ import annotations

import pathlib
from collections.abc import Callable

import pytest

from deeph_gformer.cli import main, verbs

#: Of each verb a command with a place for what is not what it should be.
WORDS = {
    "refine": ["refine --preprocessed x --output out --stage1 {} --stage1-only"],
    "eval": ["eval {}"],
    "train": ["train --preprocessed data --output run --stage1 {}", "train {}"],
    "train-stage1": ["train-stage1 --preprocessed {} --output run", "train-stage1 {}"],
    "ablate": ["ablate --preprocessed {} --output run", "ablate {}"],
    "evaluate": ["evaluate --preprocessed data --stage1 {}"],
    "compare": ["compare {}", "compare data/made {}", "compare data/made data/made --overlap {}"],
    "report": ["report {}"],
    "info": ["info {}"],
    "convert": ["convert {} out", "convert data/made o.npz --to npz --overlap {}"],
    "overlap": [
        "overlap fit --preprocessed {} -o t.npz",
        "overlap predict --overlap {} --input data/made --output out",
        "overlap predict --overlap data --input {} --output out",
        "overlap info {}",
    ],
    "build": [
        "build twist --cell {}",
        "build twist --cell data --top {}",
        "build supercell --cell {} --size 2,2,1 -o s.vasp",
    ],
    "derivative": ["derivative data/made --atom 1 --stage1 {} --stage1-only"],
    "bands": ["bands {}", "bands data/made --overlap {}", "bands data/made --refined {}"],
    "fermi": ["fermi {}", "fermi data/made --overlap {}"],
    "dos": ["dos {}", "dos data/made --overlap {}"],
    "gap": ["gap {}", "gap data/made --overlap {}"],
    "optics": ["optics {}", "optics data/made --overlap {}"],
    "ldos": ["ldos {} --window -1 1"],
    "surface": ["surface {}"],
    "spin-texture": ["spin-texture {}"],
    "topology": ["topology {}", "topology data/made --overlap {}"],
}


def test_every_verb_is_tried() -> None:
    assert {verb.name for verb in verbs()} <= WORDS.keys()


@pytest.mark.parametrize("words", [text for texts in WORDS.values() for text in texts])
@pytest.mark.parametrize("kind", ["missing", "empty", "file"])
def test_one_line(
    words: str,
    kind: str,
    make_folder: Callable[..., pathlib.Path],
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    make_folder()
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("hello")
    assert main(words.format(kind).split()) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if "note: " not in line]
    assert len(lines) == 1 and lines[0].startswith(f"deeph-gformer {words.split()[0]}")
    assert ": error: " in lines[0] and len(lines[0]) < 400
    assert kind in lines[0] or "data" in lines[0]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data", "empty", "file"]
    assert not list((tmp_path / "empty").iterdir())
    assert (tmp_path / "file").read_text() == "hello"


def test_the_operating_system_says_no(
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What no reader or writer expected is still one line that names the file."""

    def refuse(path: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("deeph_gformer.analysis.describe.describe", refuse)
    assert main(["info", str(tmp_path)]) == 2
    line = f"deeph-gformer info: error: {tmp_path}: Permission denied\n"
    assert capsys.readouterr().err == line
