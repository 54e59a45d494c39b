"""``eval`` and ``convert`` from the command line."""

from __future__ import annotations

import argparse
import json
import pathlib

import pytest

from deeph_gformer.commands import interop
from deeph_gformer.errors import GFormerError

SHARED = pathlib.Path(__file__).resolve().parents[3] / "shared" / "golden"


def _run(*argv: str) -> int:
    parser = argparse.ArgumentParser()
    interop.register(parser.add_subparsers(required=True))
    args = parser.parse_args(argv)
    return int(args.run(args) or 0)


def test_help_needs_no_torch(capsys: pytest.CaptureFixture[str]) -> None:
    for verb in ("eval", "convert"):
        with pytest.raises(SystemExit) as end:
            _run(verb, "--help")
        assert end.value.code == 0
    assert "--mesh" in capsys.readouterr().out


def test_convert(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = SHARED / "external" / "MoTe2" / "legacy"
    if not source.is_dir():
        pytest.skip(f"golden references are not beside the repository ({source})")
    assert _run("convert", str(source), str(tmp_path / "dock"), "--json", str(tmp_path / "a.json")) == 0
    assert "(dock)" in capsys.readouterr().out
    assert json.loads((tmp_path / "a.json").read_text())["structures"][0]["files"] == ["hamiltonian.h5", "overlap.h5"]
    assert _run("convert", str(source), str(tmp_path / "a.npz"), "--to", "npz") == 0
    assert _run("convert", str(tmp_path / "a.npz"), str(tmp_path / "again"), "--to", "legacy") == 0
    assert (tmp_path / "again" / "hamiltonians.h5").is_file()
    with pytest.raises(GFormerError, match="--overwrite"):
        _run("convert", str(source), str(tmp_path / "dock"))


def test_eval_reports_the_line(tmp_path: pathlib.Path) -> None:
    (tmp_path / "eval.ini").write_text("[basic]\ntrained_model_dir = x\noutput_dir = y\nquick = True\n[data]\nprocessed_data_dir = z\n")
    with pytest.raises(GFormerError, match="line 4: key 'quick' is unknown"):
        _run("eval", str(tmp_path / "eval.ini"))
