from __future__ import annotations

import dataclasses
import json
import pathlib

import ase
import numpy as np
import pytest

from deeph_gformer.errors import DataError
from deeph_gformer.io import BlockMatrix, Structure, legacy
from deeph_gformer.overlap import (
    BasisOverlap,
    FolderOverlap,
    TableOverlap,
    load,
    load_table,
    save_table,
    structure_from_atoms,
    two_centre,
)
from deeph_gformer.overlap.basis import BOHR

from .test_basis import gaussian_basis, orb_text

SHELLS = ((0, 0.9), (1, 1.0), (2, 0.8))


@pytest.fixture
def structure() -> Structure:
    lattice = np.diag([3.0, 3.2, 3.4])
    return Structure(
        lattice,
        np.array([[0.1, 0, 0], [1.4, 1.5, 1.7]]),
        np.array([6, 6]),
        ((0, 1, 2),) * 2,
        False,
        {},
        "cell",
    )


@pytest.fixture
def table(structure: Structure) -> TableOverlap:
    return TableOverlap(two_centre([gaussian_basis(6, SHELLS, 4.0)]))


def same(a: BlockMatrix, b: BlockMatrix) -> bool:
    return np.array_equal(a.keys, b.keys) and np.array_equal(a.values, b.values)


def test_a_table_is_the_same_after_a_round_trip(
    tmp_path: pathlib.Path, structure: Structure, table: TableOverlap
) -> None:
    path = save_table(tmp_path / "c", table.table)
    assert path.name == "c.npz"
    again = load(path)
    assert isinstance(again, TableOverlap) and same(
        again.overlap(structure), table.overlap(structure)
    )
    assert (
        again.cutoffs == table.cutoffs
        and again.orbital_types == table.orbital_types
        and again.table.report == table.table.report
    )


def test_a_table_is_read_once_and_again_when_its_file_changes(
    tmp_path: pathlib.Path, table: TableOverlap
) -> None:
    path = save_table(tmp_path / "c.npz", table.table)
    first = load_table(path)
    assert load_table(path) is first
    with pytest.raises(ValueError, match="read-only"):
        first.onsite[6][0, 0] = 2.0
    longer = two_centre([gaussian_basis(6, SHELLS, 5.0)])
    save_table(path, longer)
    assert load_table(path).cutoffs == longer.cutoffs != first.cutoffs


def test_damaged_tables_are_refused(tmp_path: pathlib.Path, table: TableOverlap) -> None:
    path = save_table(tmp_path / "c.npz", table.table)
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", b"text"):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match="(not an|no) overlap table, or damaged"):
            load(path)
    np.savez(path, header=np.array('{"format": "deeph-gformer overlap table", "version": 99}'))
    with pytest.raises(DataError, match="version 99"):
        load_table(path)
    np.savez(path, other=np.zeros(3))
    with pytest.raises(DataError, match="not an overlap table"):
        load_table(path)


@pytest.mark.parametrize("version", [1, 2])
def test_changed_numbers_of_a_table_are_noticed(
    tmp_path: pathlib.Path, table: TableOverlap, version: int
) -> None:
    """Version 2 by its digest, every one of them; version 1 where they are no overlaps."""
    path = save_table(tmp_path / "c.npz", table.table)
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    if version == 1:
        header = json.loads(str(arrays["header"])) | {"version": 1}
        arrays["header"] = np.array(json.dumps(header))
        del arrays["digest"]
        np.savez(path, **arrays)
        assert load_table(path).cutoffs == table.cutoffs
    blocks = {
        "onsite_6": [lambda v: v * 1.001, lambda v: -v, lambda v: v[:1], lambda v: v[0]],
        "coefficients_6_6": [lambda v: v * 1.001, lambda v: v * np.nan, lambda v: v[:-1], np.ravel],
    }
    small = 0 if version == 2 else 1  # plausible numbers pass without a digest
    for name, changes in blocks.items():
        for change in changes[small:]:
            np.savez(path, **{**arrays, name: change(arrays[name])})
            with pytest.raises(DataError, match="not an overlap table, or damaged"):
                load_table(path)


def test_load_knows_what_it_is_given(
    tmp_path: pathlib.Path, structure: Structure, table: TableOverlap
) -> None:
    orbital = tmp_path / "basis" / "C.orb"
    orbital.parent.mkdir()
    orbital.write_text(orb_text(gaussian_basis(6, SHELLS, 4.0).normalised(), "C"))
    for source in (orbital, [orbital], orbital.parent):
        provider = load(source)
        assert isinstance(provider, BasisOverlap)
        assert np.allclose(
            provider.overlap(structure).values, table.overlap(structure).values, atol=1e-9
        )
    legacy.write_structure(tmp_path / "all" / "cell", structure)
    legacy.write_blocks(tmp_path / "all" / "cell" / "overlaps.h5", table.overlap(structure))
    for source in (
        tmp_path / "all",
        tmp_path / "all" / "cell",
        tmp_path / "all" / "cell" / "overlaps.h5",
    ):
        assert isinstance(load(source), FolderOverlap) and same(
            load(source).overlap(structure), table.overlap(structure)
        )
    (tmp_path / "x.txt").write_text("")
    for wrong, words in (
        (tmp_path / "nothing", "no such file"),
        (tmp_path / "x.txt", "no source of overlaps"),
    ):
        with pytest.raises(DataError, match=words):
            load(wrong)


def test_messages_name_the_file_of_overlaps(
    tmp_path: pathlib.Path, structure: Structure, table: TableOverlap
) -> None:
    """A file is given, and what is wrong is said of the file, not of its folder."""
    matrix = table.overlap(structure)
    lone = tmp_path / "lone" / "overlaps.h5"
    for folder in (lone.parent, tmp_path / "cell"):
        folder.mkdir()
        legacy.write_blocks(folder / "overlaps.h5", matrix)
    cell = tmp_path / "cell" / "overlaps.h5"
    moved = dataclasses.replace(structure, positions=structure.positions + 0.01)
    with pytest.raises(DataError, match="lone/overlaps.h5: no structure beside it"):
        load(lone)
    legacy.write_structure(cell.parent, structure)
    (cell.parent / "overlap.h5").write_bytes(cell.read_bytes())
    with pytest.raises(DataError, match="cell/overlap.h5: its folder is of format legacy, whose"):
        load(cell.parent / "overlap.h5")
    for source in (cell, cell.parent):
        provider = load(source)
        with pytest.raises(DataError, match=r"cell/overlaps.h5: its atoms or lattice are up to"):
            provider.edges(moved)
        with pytest.raises(DataError, match=r"cell/overlaps.h5: its atoms or shells are not"):
            provider.edges(dataclasses.replace(structure, numbers=structure.numbers + 1))
        with pytest.raises(DataError, match=r"cell/overlaps.h5: S repeats along a1"):
            provider.edges(structure, (False, True, True))
        with pytest.raises(DataError, match=r"cell/overlaps.h5: S of .* has no block"):
            provider.overlap(structure, np.array([[9, 0, 0, 0, 0]]))
    cell.unlink()
    with pytest.raises(DataError, match=r"cell/overlaps.h5: no such file"):
        load(cell)
    with pytest.raises(DataError, match=r"cell/overlaps.h5: file not found"):
        load(cell.parent).edges(structure)


def test_the_users_own_overlaps(
    tmp_path: pathlib.Path, structure: Structure, table: TableOverlap
) -> None:
    matrix = table.overlap(structure)
    legacy.write_structure(tmp_path / "cell", structure)
    legacy.write_blocks(tmp_path / "cell" / "overlaps.h5", matrix)
    provider = FolderOverlap(tmp_path)
    with pytest.raises(DataError, match=r"holds folders of structures.* such as .*/cell$"):
        _ = provider.cutoffs
    assert np.array_equal(provider.edges(structure), matrix.keys) and provider.orbital_types == {
        6: (0, 1, 2)
    }
    longest = np.linalg.norm(structure.edge_vectors(matrix.keys), axis=1).max()
    assert provider.cutoffs == {(6, 6): pytest.approx(longest, abs=1e-5)} and longest <= 8 * BOHR
    assert same(
        provider.overlap(structure, matrix.keys[::2]), matrix.select(np.arange(0, len(matrix), 2))
    )
    with pytest.raises(DataError, match=r"no block \[9, 0, 0, 1, 1\] \(1 such"):
        provider.overlap(structure, np.array([[9, 0, 0, 0, 0]]))
    with pytest.raises(DataError, match="S repeats along a1, but pbc"):
        provider.edges(structure, (False, True, True))
    with pytest.raises(DataError, match="another geometry"):
        provider.overlap(dataclasses.replace(structure, positions=structure.positions + 0.1))
    with pytest.raises(DataError, match="atoms or shells"):
        provider.overlap(dataclasses.replace(structure, numbers=np.array([6, 7])))


def test_structures_from_atoms(table: TableOverlap, structure: Structure) -> None:
    atoms = ase.Atoms("C2", structure.positions, cell=structure.lattice, pbc=(True, True, False))
    made = structure_from_atoms(atoms, table.orbital_types, "cell")
    assert (
        np.array_equal(made.positions, structure.positions)
        and made.orbital_types == structure.orbital_types
    )
    every = table.edges(made)
    lost = int((every[:, 2] != 0).sum())
    with pytest.raises(DataError, match=f"along a3, too: {lost} of {len(every)} blocks would be"):
        table.edges(made, atoms.pbc)
    wide = TableOverlap(table.table, extrapolate=True)
    with pytest.warns(UserWarning, match=f"{lost} of {len(every)} blocks are left out"):
        flat = wide.edges(made, atoms.pbc)
    assert np.array_equal(flat, every[every[:, 2] == 0]) and lost
    with pytest.raises(DataError, match="no full cell"):
        structure_from_atoms(
            ase.Atoms("C2", structure.positions, cell=[3, 3, 0]), table.orbital_types
        )
    with pytest.raises(DataError, match="no orbitals are known of element N; known: C"):
        structure_from_atoms(ase.Atoms("N", cell=[3, 3, 3]), table.orbital_types)
