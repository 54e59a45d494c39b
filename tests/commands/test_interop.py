"""``eval`` and ``convert`` from the command line."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Callable

import pytest

from deeph_gformer.errors import GFormerError

from .helpers import run

SHARED = pathlib.Path(__file__).resolve().parents[3] / "shared" / "golden"


def test_help_needs_no_torch(capsys: pytest.CaptureFixture[str]) -> None:
    for verb in ("eval", "convert"):
        with pytest.raises(SystemExit) as end:
            run(verb, "--help")
        assert end.value.code == 0
    assert "--mesh" in capsys.readouterr().out


def test_convert(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = SHARED / "external" / "MoTe2" / "legacy"
    if not source.is_dir():
        pytest.skip(f"golden references are not beside the repository ({source})")
    assert (
        run("convert", str(source), str(tmp_path / "dock"), "--json", str(tmp_path / "a.json")) == 0
    )
    assert "(dock)" in capsys.readouterr().out
    assert json.loads((tmp_path / "a.json").read_text())["structures"][0]["files"] == [
        "hamiltonian.h5",
        "overlap.h5",
    ]
    assert run("convert", str(source), str(tmp_path / "a.npz"), "--to", "npz") == 0
    assert run("convert", str(tmp_path / "a.npz"), str(tmp_path / "again"), "--to", "legacy") == 0
    assert (tmp_path / "again" / "hamiltonians.h5").is_file()
    with pytest.raises(GFormerError, match="--overwrite"):
        run("convert", str(source), str(tmp_path / "dock"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["{folder}", "{out}", "--to", "dock", "--kind", "prediction", "--mesh", "3x3x1"],
            "--kind, --mesh: has no effect on dock",
        ),
        (["{folder}", "{out}", "--to", "npz", "--mesh", "3x3x1"], "--mesh: has no effect on npz"),
        (
            ["{folder}", "{out}", "--fdf", "nope.fdf"],
            "--fdf: has no effect on .*, which holds structure folders .its DFT runs: --from CODE",
        ),
        (
            ["{file}.npz", "{out}", "--kind", "prediction", "--fdf", "a.fdf"],
            "--kind, --fdf: has no effect on .*, which is a file",
        ),
        (["{folder}", "{file}", "--to", "dock"], "file: is a file, and a folder is to be written"),
        (
            ["{folder}", "{file}", "--to", "wannier90", "--overwrite"],
            "file: is a file; --to wannier90 writes a folder",
        ),
        (
            ["{folder}", "{folder}", "--to", "npz", "--overwrite"],
            "is a folder; --to npz writes a file",
        ),
    ],
)
def test_convert_names_what_has_no_meaning(
    words: list[str], message: str, tmp_path: pathlib.Path, make_folder: Callable[..., pathlib.Path]
) -> None:
    folder, file = make_folder("x"), tmp_path / "file"
    for path in (file, tmp_path / "file.npz"):
        path.write_text("mine")
    with pytest.raises(GFormerError, match=message):
        run(
            "convert",
            *(word.format(folder=folder, file=file, out=tmp_path / "out") for word in words),
        )
    assert not (tmp_path / "out").exists() and file.read_text() == "mine"


@pytest.mark.parametrize("threads", [0, -3])
def test_eval_needs_a_thread(
    threads: int, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        run("eval", str(tmp_path / "eval.ini"), "-n", str(threads))
    assert f"argument -n: '{threads}': an integer of at least 1" in capsys.readouterr().err


def test_eval_reports_the_line(tmp_path: pathlib.Path) -> None:
    (tmp_path / "eval.ini").write_text(
        "[basic]\ntrained_model_dir = x\noutput_dir = y\nquick = "
        "True\n[data]\nprocessed_data_dir = z\n"
    )
    with pytest.raises(GFormerError, match="line 4: key 'quick' is unknown"):
        run("eval", str(tmp_path / "eval.ini"))
