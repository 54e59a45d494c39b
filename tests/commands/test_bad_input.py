"""Bad input gets one clear line and exit code 2, in every verb, and leaves nothing behind."""

from __future__ import annotations

import errno
import os
import pathlib
import re
from collections.abc import Callable

import pytest

from deeph_gformer.cli import main, verbs

from ..overlap.test_basis import gaussian_basis, orb_text

#: Of each verb a command with a place for what is not what it should be.
WORDS = {
    "refine": ["refine --preprocessed x --output out --stage1 {} --stage1-only"],
    "eval": ["eval {}"],
    "train": ["train --preprocessed data --output run --stage1 {}", "train {}"],
    "train-stage1": ["train-stage1 --preprocessed {} --output run", "train-stage1 {}"],
    "onsite": ["onsite --preprocessed data --splits s.json --stage1 {} --model b -o new"],
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


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
def test_a_disk_that_fails_gives_one_line(
    code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Errors of reads and writes name no file; those of other calls are still defects of ours."""

    def fails() -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("deeph_gformer.cli.build_parser", fails)
    assert main(["info", "x"]) == 2
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1 and "error: a file could not be read or written" in said
    assert os.strerror(code) in said
    code = errno.EBADF
    with pytest.raises(OSError, match="Bad file"):
        main(["info", "x"])


@pytest.mark.parametrize("kind", ["pipe", "zero", "1e9 atoms"])
@pytest.mark.parametrize(
    "words",
    [
        "build supercell --cell cell.vasp --size 2,1,1 -o out.vasp",
        "build twist --cell cell.vasp --mn 1,2 -o out.vasp",
        "overlap predict --basis Mo.orb --input cell.vasp --output out.vasp",
    ],
)
def test_files_for_ase_are_files_of_their_size(
    kind: str,
    words: str,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A pipe would be waited for, a device read for ever, and so many atoms make arrays first."""
    monkeypatch.chdir(tmp_path)
    cell = tmp_path / "cell.vasp"
    if kind == "pipe":
        os.mkfifo(cell)
    elif kind == "zero":
        cell.symlink_to("/dev/zero")
    else:
        cell.write_text("x\n1.0\n3 0 0\n0 3 0\n0 0 9\nMo\n1000000000\nDirect\n0 0 0\n")
    (tmp_path / "Mo.orb").write_text(orb_text(gaussian_basis(42, ((0, 0.8),)), "Mo"))
    assert main(words.split()) == 2
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1 and "cell.vasp: " in said
    assert ("a file is needed" in said) == (kind != "1e9 atoms")
    assert not (tmp_path / "out.vasp").exists()


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ("--energies 1000000000", "at most 10.8 of both"),  # 7 GiB
        ("--window -1e300 1e300", "within 10.6 eV"),
    ],
)
def test_energies_that_no_figure_has(
    more: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["surface", "none", *more.split()]) == 2
    assert re.search(words, capsys.readouterr().err)
