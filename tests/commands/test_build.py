"""``build twist|supercell``."""

from __future__ import annotations

import argparse
import json
import pathlib

import pytest
from ase.build import graphene
from ase.io import read

from deeph_gformer.commands import build as area
from deeph_gformer.errors import ConfigError


def run(*words: object) -> int:
    parser = argparse.ArgumentParser()
    area.register(parser.add_subparsers(dest="verb", required=True))
    args = parser.parse_args([str(w) for w in words])
    return args.run(args) or 0


def test_twist_prints_a_table_and_builds(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    cell = tmp_path / "POSCAR"
    graphene(a=2.46, vacuum=8).write(cell)
    assert run("build", "twist", "--cell", cell, "--max-atoms", 80) == 0
    assert "21.7868" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="--distance"):
        run("build", "twist", "--cell", cell, "--mn", "1,2", "-o", tmp_path / "t.vasp")
    words = ["build", "twist", "--cell", cell, "--distance", 3.35]
    assert run(*words, "--mn", "1,2", "-o", tmp_path / "t.vasp") == 0
    assert len(read(tmp_path / "t.vasp")) == 28
    assert run(*words, "--mn", "1,2", "2,3", "-o", tmp_path / "many", "--json", tmp_path / "t.json") == 0
    assert sorted(p.name for p in (tmp_path / "many").iterdir()) == ["twist_1_2.vasp", "twist_2_3.vasp"]
    assert json.loads((tmp_path / "t.json").read_text())["twists"][1]["angle_deg"] == pytest.approx(13.1736, abs=1e-4)
    with pytest.raises(ConfigError, match="strains the top layer"):
        run(*words, "--mn", "1,2", "--pq", "1,1", "-o", tmp_path / "s.vasp")
    with pytest.raises(ConfigError, match="no format by this name"):
        run(*words, "--mn", "1,2", "-o", tmp_path / "t.nonsense")


def test_supercell(tmp_path: pathlib.Path) -> None:
    cell = tmp_path / "POSCAR"
    graphene(a=2.46, vacuum=8).write(cell)
    assert run("build", "supercell", "--cell", cell, "--size", "3,2,1", "-o", tmp_path / "s.cif") == 0
    assert len(read(tmp_path / "s.cif")) == 12
    assert run("build", "supercell", "--cell", cell, "--matrix", "1,1,0,-1,2,0,0,0,1", "-o", tmp_path / "POSCAR_3") == 0
    assert len(read(tmp_path / "POSCAR_3", format="vasp")) == 6
    for words, match in ((["--size", "0,1,1"], "positive"), ([], "either")):
        with pytest.raises(ConfigError, match=match):
            run("build", "supercell", "--cell", cell, *words, "-o", tmp_path / "x.cif")
