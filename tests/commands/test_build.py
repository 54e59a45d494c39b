"""``build twist|supercell``."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Callable

import numpy as np
import pytest
from ase.build import graphene
from ase.io import read

from deeph_gformer.errors import ConfigError, DataError, GFormerError

from .helpers import run


def test_twist_prints_a_table_and_builds(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cell = tmp_path / "POSCAR"
    graphene(a=2.46, vacuum=8).write(cell)
    assert run("build", "twist", "--cell", cell, "--max-atoms", 80) == 0
    assert "21.7868" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="--distance"):
        run("build", "twist", "--cell", cell, "--mn", "1,2", "-o", tmp_path / "t.vasp")
    words = ["build", "twist", "--cell", cell, "--distance", 3.35]
    assert run(*words, "--mn", "1,2", "-o", tmp_path / "t.vasp") == 0
    assert len(read(tmp_path / "t.vasp")) == 28
    assert (
        run(*words, "--mn", "1,2", "2,3", "-o", tmp_path / "many", "--json", tmp_path / "t.json")
        == 0
    )
    assert sorted(p.name for p in (tmp_path / "many").iterdir()) == [
        "twist_1_2.vasp",
        "twist_2_3.vasp",
    ]
    assert json.loads((tmp_path / "t.json").read_text())["twists"][1]["angle_deg"] == pytest.approx(
        13.1736, abs=1e-4
    )
    with pytest.raises(ConfigError, match="strains the top layer"):
        run(*words, "--mn", "1,2", "--pq", "1,1", "-o", tmp_path / "s.vasp")
    with pytest.raises(ConfigError, match="no format by this name"):
        run(*words, "--mn", "1,2", "-o", tmp_path / "t.nonsense")


def test_a_structure_folder_is_a_cell(
    tmp_path: pathlib.Path, make_folder: Callable[..., pathlib.Path]
) -> None:
    folder, target = make_folder(atoms=2), tmp_path / "big.vasp"
    assert run("build", "supercell", "--cell", folder, "--size", "2,1,1", "-o", target) == 0
    lattice = np.loadtxt(folder / "lat.dat").T
    found, positions = read(target), np.loadtxt(folder / "site_positions.dat").T
    assert np.allclose(found.cell, lattice * np.array([[2], [1], [1]]))
    for shift in (0 * lattice[0], lattice[0]):
        off = (found.positions[:, None] - positions - shift) @ np.linalg.inv(found.cell)
        away = np.abs(off - np.round(off)).max(axis=-1)  # of the nearest image
        assert away.min(axis=0).max() < 1e-6
    with pytest.raises(DataError, match="nothing: "):
        run("build", "twist", "--cell", tmp_path / "nothing", "--max-atoms", 80)


def test_supercell(tmp_path: pathlib.Path) -> None:
    cell = tmp_path / "POSCAR"
    graphene(a=2.46, vacuum=8).write(cell)
    assert (
        run("build", "supercell", "--cell", cell, "--size", "3,2,1", "-o", tmp_path / "s.cif") == 0
    )
    assert len(read(tmp_path / "s.cif")) == 12
    assert (
        run(
            "build",
            "supercell",
            "--cell",
            cell,
            "--matrix",
            "1,1,0,-1,2,0,0,0,1",
            "-o",
            tmp_path / "POSCAR_3",
        )
        == 0
    )
    assert len(read(tmp_path / "POSCAR_3", format="vasp")) == 6
    for words, match in (
        (["--size", "0,1,1"], "positive"),
        ([], "either"),
        (["--size", "100000,100000,1"], "20000000000 atoms, more than"),
        (["--size", f"{10**20},1,1"], "atoms, more than"),
    ):
        with pytest.raises(ConfigError, match=match):
            run("build", "supercell", "--cell", cell, *words, "-o", tmp_path / "x.cif")
    words = ["build", "supercell", "--cell", cell, "--size", "2,2,1", "-o", tmp_path / "s.cif"]
    with pytest.raises(DataError, match="s.cif: is there already; add --overwrite"):
        run(*words)
    assert run(*words, "--overwrite", "--max-atoms", 8) == 0 and len(read(tmp_path / "s.cif")) == 8
    with pytest.raises(ConfigError, match="8 atoms, more than 7"):
        run(*words, "--overwrite", "--max-atoms", 7)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--mn 1,2 -o there.vasp", "there.vasp: is there already; add --overwrite"),
        ("--mn 1,2 2,3 -o there.vasp", "there.vasp: is the name of a file; for 2 cells"),
        ("--mn 1,2 2,3 -o new.vasp", "new.vasp: is the name of a file; for 2 cells"),
        ("--mn 3000,3001 -o t.vasp", "108036004 atoms, more than 2000000.*--max-atoms 108036004"),
        ("--mn 1,2 --max-atoms 27 -o t.vasp", "28 atoms, more than 27"),
        ("--pq 1,2", "--pq goes with --mn"),
    ],
)
def test_twists_that_are_not_built(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, words: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    graphene(a=2.46, vacuum=8).write("POSCAR")
    pathlib.Path("there.vasp").write_text("old")
    with pytest.raises(GFormerError, match=message):
        run("build", "twist", "--cell", "POSCAR", "--distance", 3.35, *words.split())
    assert pathlib.Path("there.vasp").read_text() == "old" and len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    "words",
    [
        "--shift nan,0",
        "--shift inf,0",
        "--distance inf",
        "--distance 0",
        "--vacuum nan",
        "--max-atoms -1",
        "--max-strain -1",
    ],
)
def test_numbers_of_a_twist_must_be_some(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        run("build", "twist", "--cell", "POSCAR", "--mn", "1,2", *words.split())
    assert f"argument {words.split()[0]}: " in capsys.readouterr().err
