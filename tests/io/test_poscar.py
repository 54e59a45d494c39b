"""Structure files through ASE: which file, and which of its structures."""

from __future__ import annotations

import pathlib

import pytest
from ase import Atoms
from ase.io import write

from deeph_gformer.commands.build import _read_atoms
from deeph_gformer.errors import DataError
from deeph_gformer.io.poscar import read_frames

BOX = [6.0, 6.0, 6.0]


def formulas(path: pathlib.Path, name: str) -> list[str]:
    return [atoms.get_chemical_formula() for atoms in read_frames(path / name)]


def test_name_at_index(tmp_path: pathlib.Path) -> None:
    frames = [Atoms(symbol, cell=BOX, pbc=True) for symbol in ("Si", "C", "Ge")]
    write(tmp_path / "t.xyz", frames)
    assert formulas(tmp_path, "t.xyz") == ["Si", "C", "Ge"]
    assert formulas(tmp_path, "t.xyz@0") == ["Si"]
    assert formulas(tmp_path, "t.xyz@-1") == ["Ge"]
    assert formulas(tmp_path, "t.xyz@0:2") == ["Si", "C"]
    assert _read_atoms(str(tmp_path / "t.xyz@1")).get_chemical_formula() == "C"
    with pytest.raises(DataError, match="t.xyz@foo"):
        _read_atoms(str(tmp_path / "t.xyz@foo"))


def test_a_file_whose_name_has_an_at_sign(tmp_path: pathlib.Path) -> None:
    write(tmp_path / "a.xyz", Atoms("Si", cell=BOX, pbc=True))
    write(tmp_path / "other.xyz", Atoms("Ge2", [[0, 0, 0], [2, 0, 0]], cell=BOX, pbc=True))
    (tmp_path / "other.xyz").rename(tmp_path / "a@2.xyz")
    assert formulas(tmp_path, "a@2.xyz") == ["Ge2"]
    (tmp_path / "a.xyz").unlink()
    assert formulas(tmp_path, "a@2.xyz") == ["Ge2"]
