"""The same crystal described otherwise.

Exact maps, judged by spectra, distances and ASE's own supercells.
"""

from __future__ import annotations

import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import make_supercell
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import eigh

from deeph_gformer.analysis.redescribe import (
    Description,
    move_by_lattice,
    relattice,
    renumber,
    supercell,
)
from deeph_gformer.bands.bloch import BlochProblem
from deeph_gformer.errors import DataError
from deeph_gformer.io import read_folder, read_matrix

from ..conftest import random_structure

MATRICES = {
    "2x1x1": [2, 1, 1],
    "1x3x2": [1, 3, 2],
    "diagonal": [[1, 1, 0], [-1, 1, 0], [0, 0, 1]],
    "left-handed": [[2, 1, 0], [0, 1, 1], [1, 0, -1]],
}
DESCRIPTIONS = {
    **{name: lambda n, m=m: supercell(n, m) for name, m in MATRICES.items()},
    "signs": lambda n: relattice(n, np.diag([-1, -1, 1])),
    "sheared": lambda n: relattice(n, [[1, 2, 0], [0, 1, 0], [-1, 0, 1]]),
    "mirrored": lambda n: relattice(n, [[0, 1, 0], [1, 0, 0], [0, 0, 1]]),
    "renumbered": lambda n: renumber(np.random.default_rng(0).permutation(n)),
    "moved": lambda n: move_by_lattice(np.random.default_rng(1).integers(-3, 4, (n, 3))),
}


def spectrum(structure: Any, h: Any, s: Any, k: Any) -> np.ndarray:
    return eigh(*BlochProblem(structure, h, s).at(k), eigvals_only=True)


@pytest.mark.parametrize("name", DESCRIPTIONS)
@pytest.mark.parametrize("spinful", [False, True])
def test_spectrum_is_that_of_the_unfolded_points(name: str, spinful: bool) -> None:
    structure, h, s = random_structure(3, atoms=4, spinful=spinful)
    new = DESCRIPTIONS[name](4)
    k = np.array([0.31, -0.12, 0.07])
    points = new.unfolded(k)
    back = np.array([new.kpoint(p) for p in points]) - k
    assert len(points) == new.copies and np.abs(back - np.round(back)).max() < 1e-12
    expected = np.sort(np.concatenate([spectrum(structure, h, s, p) for p in points]))
    got = spectrum(new.structure(structure), new.blocks(h), new.blocks(s), k)
    assert np.abs(got - expected).max() < 1e-9


@pytest.mark.parametrize("name", DESCRIPTIONS)
def test_edges_keep_their_vectors_and_elements(name: str) -> None:
    structure, h, _ = random_structure(5, atoms=6)
    new = DESCRIPTIONS[name](6)
    there = new.structure(structure)
    keys, source = new.keys(h.keys)
    assert np.abs(there.edge_vectors(keys) - structure.edge_vectors(h.keys[source])).max() < 1e-12
    assert (there.numbers[keys[:, 3:]] == structure.numbers[h.keys[source, 3:]]).all()
    assert len(np.unique(keys, axis=0)) == len(keys) == new.copies * len(h.keys)
    new.blocks(h).require_symmetric("new")


@pytest.mark.parametrize("name", MATRICES)
def test_supercells_are_those_of_ase(name: str) -> None:
    structure, _, _ = random_structure(2, atoms=4)
    matrix = np.array(MATRICES[name])
    matrix = np.diag(matrix) if matrix.ndim == 1 else matrix
    mine = supercell(4, matrix).structure(structure)
    atoms = Atoms(structure.numbers, structure.positions, cell=structure.lattice, pbc=True)
    theirs = make_supercell(atoms, matrix)
    assert np.allclose(theirs.cell.array, mine.lattice) and len(theirs) == len(mine)
    other = Atoms(mine.numbers, mine.positions, cell=mine.lattice, pbc=True)
    for z, place in zip(theirs.numbers, theirs.positions):
        probe = other[other.numbers == z]
        probe.append("H")
        probe.positions[-1] = place
        distance = probe.get_distances(-1, range(len(probe) - 1), mic=True)
        assert distance.min() < 1e-9


@given(
    st.lists(st.integers(-2, 2), min_size=9, max_size=9),
    st.lists(st.integers(-6, 6), min_size=3, max_size=3),
)
@settings(max_examples=60, deadline=None)
def test_any_matrix_covers_space_once(entries: list[int], cell: list[int]) -> None:
    matrix = np.array(entries).reshape(3, 3)
    n = abs(round(np.linalg.det(matrix)))
    if n == 0 or n > 12:
        return
    new = supercell(2, matrix)
    key = np.array([[*cell, 0, 1], [*(-np.array(cell)), 1, 0]])
    keys, source = new.keys(key)
    back = new.cell[keys[:, 4]] + keys[:, :3] @ matrix - new.cell[keys[:, 3]]
    assert (back == key[source, :3]).all()
    assert len(np.unique(keys, axis=0)) == 2 * n


def test_blocks_of_dft_survive_there_and_back(
    dft: Callable[[str, str], tuple[pathlib.Path, Any]],
) -> None:
    folder, bands = dft("mos2", "0000")
    structure = read_folder(folder)
    h, s = read_matrix(folder, "hamiltonian", structure), read_matrix(folder, "overlap", structure)
    order = np.random.default_rng(4).permutation(len(structure))
    new = renumber(order)
    back = renumber(np.argsort(order))
    assert (back.blocks(new.blocks(h)).values == h.values).all()
    doubled = supercell(len(structure), [2, 1, 1])
    k = np.array([0.5, 0.25, 0.0])
    row = int(np.argmin(np.abs(bands["k"] - doubled.unfolded(k)[0]).sum(axis=1)))
    big = doubled.structure(structure)
    levels = spectrum(big, doubled.blocks(h), doubled.blocks(s), doubled.kpoint(bands["k"][row]))
    code = np.sort(bands["energy_eV"][row])
    code = code[code < code[0] + 20]
    away = np.abs(levels[:, None] - code).min(axis=0)
    assert away.max() < 2e-4  # the code's own eigenvalues are all there


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Description(np.eye(3, dtype=int), np.array([0, 0]), np.zeros((2, 3), dtype=int)),
        lambda: supercell(2, [[1, 0, 0], [1, 0, 0], [0, 0, 1]]),
        lambda: Description(np.diag([2, 1, 1]), np.array([0, 0]), np.array([[0, 0, 0], [2, 0, 0]])),
    ],
)
def test_what_is_no_description_is_refused(wrong: Callable[[], Description]) -> None:
    with pytest.raises(DataError, match="each atom of each cell is needed once"):
        wrong()
