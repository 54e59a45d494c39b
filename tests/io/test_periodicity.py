"""Directions of repetition from couplings: closed cases, and invariance under moves of atoms by
lattice vectors and under other cells."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, graphene, make_supercell, molecule, mx2

from deeph_gformer.io.periodicity import coupling, skeleton
from deeph_gformer.overlap.neighbours import find_edges

CUTOFF = {(a, b): 3.2 for a in (1, 6, 8, 14, 16, 42) for b in (1, 6, 8, 14, 16, 42) if a <= b}


def edges(atoms: Atoms) -> np.ndarray:
    return find_edges(atoms.cell[:], atoms.positions, atoms.numbers.astype(np.int64), CUTOFF)


def chain() -> Atoms:
    return Atoms("C2", [[0, 0, 0], [1.3, 0, 0]], cell=[2.6, 12, 12])


def diagonal_chain() -> Atoms:
    """A chain along a1 + a2: one direction of repetition, along neither lattice vector."""
    cell = np.array([[2.5, 15, 0], [0.0, -15, 0], [0, 0, 12]])
    return Atoms("C", [[0.0, 0, 0]], cell=cell)


def two_chains() -> Atoms:
    """Chains along x and along y, far from each other: both directions repeat."""
    spots = [(2.5 * n, 0, 0) for n in range(6)] + [(0, 2.5 * n, 10) for n in range(6)]
    return Atoms("C12", spots, cell=[15, 15, 20])


def water() -> Atoms:
    atoms = molecule("H2O")
    atoms.set_cell([10, 10, 10])
    return atoms


CASES = {
    "water": (water, 0, (False, False, False)),
    "chain": (chain, 1, (True, False, False)),
    "diagonal chain": (diagonal_chain, 1, (True, True, False)),
    "two chains": (two_chains, 2, (True, True, False)),
    "graphene": (lambda: graphene(vacuum=6), 2, (True, True, False)),
    "MoS2": (lambda: mx2("MoS2", vacuum=6), 2, (True, True, False)),
    "silicon": (lambda: bulk("Si"), 3, (True, True, True)),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("seed", range(4))
def test_where_atoms_lie_does_not_matter(name: str, seed: int) -> None:
    make, rank, directions = CASES[name]
    atoms = make()
    random = np.random.default_rng(seed)
    if seed:  # into other images, across every boundary
        atoms.positions += random.uniform(0, 1, 3) @ atoms.cell[:]
        atoms.positions += random.integers(-2, 3, (len(atoms), 3)) @ atoms.cell[:]
    keys = edges(atoms)
    found = coupling(keys, len(atoms))
    assert (found.rank, found.directions) == (rank, directions)
    whole = atoms.copy()
    whole.positions += found.shifts @ atoms.cell[:]
    again = coupling(edges(whole), len(atoms))
    assert again.rank == rank and len(edges(whole)) == len(keys)
    crossed = (edges(whole)[:, :3] != 0).any(axis=0)
    if name != "two chains":  # put together, nothing crosses where nothing repeats
        assert not (crossed & ~np.array(directions)).any()


@pytest.mark.parametrize("name", CASES)
def test_supercells_and_other_cells_repeat_alike(name: str) -> None:
    make, rank, _ = CASES[name]
    for matrix in (
        np.diag([2, 2, 2]),
        [[1, 1, 0], [0, 1, 1], [0, 0, 1]],
        [[-1, 0, 0], [1, 1, 0], [0, 2, -1]],
    ):
        atoms = make_supercell(make(), matrix)
        assert coupling(edges(atoms), len(atoms)).rank == rank


def test_pieces_and_their_shortest_bonds() -> None:
    """Three water molecules cut by the boundary are three pieces, each put together along its
    O-H bonds."""
    atoms = Atoms(cell=[9.0, 9, 9])
    for n in range(3):
        part = water()
        part.positions += [0, 0, 3.0 * n]
        atoms += part
    atoms.wrap(pbc=True)
    keys = edges(atoms)
    vectors = (
        atoms.positions[keys[:, 4]] + keys[:, :3] @ atoms.cell[:] - atoms.positions[keys[:, 3]]
    )
    length = np.linalg.norm(vectors, axis=1)
    found = coupling(keys[length < 1.2], len(atoms), length[length < 1.2])
    assert found.pieces == 3 and found.rank == 0
    whole = atoms.positions + found.shifts @ atoms.cell[:]
    for n in range(3):
        bonds = np.linalg.norm(whole[3 * n + 1 : 3 * n + 3] - whole[3 * n], axis=1)
        assert np.abs(bonds - 0.9686).max() < 0.01
    assert coupling(np.zeros((0, 5), dtype=np.int64), 2).pieces == 2


@pytest.mark.parametrize("name", CASES)
def test_parts_of_the_edges_say_it_together(name: str) -> None:
    """Processes that have the edges of some atoms each send few of them on."""
    make, rank, directions = CASES[name]
    atoms = make().repeat((2, 2, 2) if name != "water" else (1, 1, 1))
    atoms.set_positions(atoms.positions + 0.3 * atoms.cell[:].sum(axis=0))
    atoms.wrap()
    keys, count = edges(atoms), len(atoms)
    marks = np.searchsorted(keys[:, 3], [0, count // 3, count // 2, count])
    parts = [skeleton(keys[a:b], count) for a, b in zip(marks[:-1], marks[1:])]
    found, whole = coupling(np.concatenate(parts), count), coupling(keys, count)
    assert found[:2] == whole[:2] == (rank, directions) and found.pieces == whole.pieces
    assert max(map(len, parts)) < count + 30
