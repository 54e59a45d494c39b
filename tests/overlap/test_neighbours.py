from __future__ import annotations

import subprocess
import sys
import time

import numpy as np
import pytest
from ase.neighborlist import primitive_neighbor_list

from deeph_gformer.errors import DataError
from deeph_gformer.io.blocks import reverse_keys, sort_keys
from deeph_gformer.io.structure import Structure
from deeph_gformer.overlap.neighbours import edge_keys, find_edges


def by_ase(lattice, positions, numbers, cutoffs, pbc) -> set[tuple[int, ...]]:
    table = {pair: radius for pair, radius in cutoffs.items()}
    i, j, cell = primitive_neighbor_list(
        "ijS", pbc, lattice, positions, table, numbers=numbers, self_interaction=False
    )
    itself = {(0, 0, 0, a, a) for a in range(len(numbers))}
    return {(*s, a, b) for s, a, b in zip(cell.tolist(), i.tolist(), j.tolist())} | itself


@pytest.mark.parametrize("seed", range(12))
def test_edges_are_those_of_ase(seed: int) -> None:
    random = np.random.default_rng(seed)
    lattice = np.diag(random.uniform(2.0, 9.0, 3)) + random.uniform(-1.5, 1.5, (3, 3))
    count = int(random.integers(1, 12))
    positions = random.uniform(-1.5, 2.5, (count, 3)) @ lattice  # many lie outside the cell
    numbers = random.choice([6, 42, 83], count)
    pbc = random.integers(0, 2, 3).astype(bool)
    cutoffs = {(6, 6): 3.1, (6, 42): 4.0, (42, 42): 5.3, (6, 83): 2.0, (42, 83): 0.7, (83, 83): 6.0}
    keys = find_edges(lattice, positions, numbers, cutoffs, pbc)
    assert {tuple(k) for k in keys.tolist()} == by_ase(lattice, positions, numbers, cutoffs, pbc)
    assert len(np.unique(keys, axis=0)) == len(keys) and np.array_equal(keys, keys[sort_keys(keys)])
    assert not keys[:, :3][:, ~pbc].any() or (~pbc).sum() == 0


@pytest.mark.parametrize(
    "lattice, radius",
    [
        (np.diag([2.0, 2.0, 1e6]), 9.0),  # long in one direction: vesin alone dies here
        (np.diag([1e4, 1e4, 10.0]), 9.0),  # and here, long in two
        (np.diag([3000.0, 3000.0, 20.0]), 9.0),
        (np.diag([1e9, 1e9, 1e9]), 3.0),
        (np.array([[3.0, 0, 0], [30, 3, 0], [60, 30, 3]]), 6.1),  # a needle
        (np.array([[4.0, 0, 0], [2, 3.5, 0], [0.3, 0.2, -6]]), 7.1),  # left-handed
        (np.diag([0.9, 1.1, 1.3]), 6.0),
    ],
)
def test_cells_of_extreme_shapes(lattice: np.ndarray, radius: float) -> None:
    random = np.random.default_rng(0)
    cluster = random.uniform(0, 1, (4, 3)) @ np.minimum(lattice, 8.0)
    positions = cluster + random.integers(-3, 4, (4, 3)) @ lattice  # in many cells
    keys = find_edges(lattice, positions, np.full(4, 6), {(6, 6): radius})
    heights = 1 / np.linalg.norm(np.linalg.inv(lattice), axis=0)
    most = np.ceil(radius / heights).astype(int) + 1
    grid = np.stack(np.meshgrid(*[np.arange(-n, n + 1) for n in most]), -1).reshape(-1, 3)
    cell = np.floor(positions @ np.linalg.inv(lattice)).astype(int)
    expected = set()
    for i in range(4):
        for j in range(4):
            shifted = grid + cell[i] - cell[j]
            vectors = positions[j] + shifted @ lattice - positions[i]
            near = np.linalg.norm(vectors, axis=1) < radius
            expected |= {(*r, i, j) for r in shifted[near].tolist()}
    assert {tuple(k) for k in keys.tolist()} == expected and len(expected) == len(keys)


def test_one_atom_in_a_cell_much_smaller_than_the_cutoff() -> None:
    keys = find_edges(np.eye(3), np.array([[7.3, -2.0, 0.1]]), np.array([6]), {(6, 6): 3.0})
    grid = np.stack(np.meshgrid(*[np.arange(-3, 4)] * 3)).reshape(3, -1).T
    assert (
        len(keys) == (np.linalg.norm(grid, axis=1) < 3.0).sum()
    )  # pairs exactly at the cutoff are out


def test_edges_come_in_pairs_even_at_the_cutoff() -> None:
    random = np.random.default_rng(5)
    lattice, positions = (
        np.diag([6.0, 7, 8]) + random.normal(0, 0.3, (3, 3)),
        random.uniform(0, 7, (9, 3)),
    )
    lengths = np.linalg.norm(positions[None] - positions[:, None], axis=2)
    for radius in lengths[np.triu_indices(9, 1)]:  # the cutoff is a distance that occurs
        keys = find_edges(lattice, positions, np.full(9, 6), {(6, 6): float(radius)})
        assert np.array_equal(np.unique(keys, axis=0), np.unique(reverse_keys(keys), axis=0))


def test_a_million_edges_in_a_minute() -> None:
    side = 76  # 11,552 atoms in a plane
    lattice = np.array([[2.46, 0, 0], [1.23, 2.1304, 0], [0, 0, 30.0]]) * np.array(
        [[side], [side], [1]]
    )
    unit = np.stack(np.meshgrid(np.arange(side), np.arange(side), indexing="ij")).reshape(
        2, -1
    ).T @ (lattice[:2] / side)
    positions = np.concatenate([unit, unit + [1.23, 0.7101, 0]])
    start = time.process_time()
    keys = find_edges(lattice, positions, np.full(len(positions), 6), {(6, 6): 9.6})
    assert len(keys) > 1_200_000 and time.process_time() - start < 30
    assert (np.bincount(keys[:, 3]) == len(keys) // len(positions)).all()


def test_edges_need_no_torch() -> None:
    """vesin imports torch where it is there, which would cost every command some seconds."""
    code = """
import sys
import numpy as np
from deeph_gformer.overlap import find_edges
keys = find_edges(np.eye(3) * 3, np.zeros((1, 3)), np.array([6]), {(6, 6): 3.5})
assert len(keys) == 7 and "torch" not in sys.modules
import vesin
assert vesin.NeighborList(cutoff=3.5, full_list=True).compute(
    np.zeros((1, 3)), np.eye(3) * 3, True, "S")[0].shape == (6, 3)
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


def test_bad_structures_are_named() -> None:
    with pytest.raises(DataError, match="atoms 1 and 2"):
        find_edges(
            np.eye(3) * 5, np.array([[0.0, 0, 0], [5, 5, -5]]), np.array([6, 6]), {(6, 6): 2.0}
        )
    with pytest.raises(DataError, match="no volume"):
        find_edges(np.zeros((3, 3)), np.zeros((1, 3)), np.array([6]), {})
    for lattice, positions, words in (
        (np.eye(3) * 0.05, np.zeros((1, 3)), "too small for its 1 atoms"),
        (np.eye(3) * 9, np.array([[1e9, 0, 0]]), "atom 1 at .* more than 400 cells away"),
        (np.eye(3) * 9, np.array([[np.nan, 0, 0]]), "NaN or infinite"),
        (np.array([[9, 0, 0], [0, 9, 0], [9e5, 0, 1e-3]]), np.zeros((1, 3)), "small|needle"),
    ):
        with pytest.raises(DataError, match=words):
            find_edges(lattice, positions, np.array([6]), {(6, 6): 5.0})
    with pytest.raises(DataError, match="do not fit"):
        find_edges(np.eye(3), np.zeros((2, 3)), np.array([6]), {})


@pytest.mark.parametrize("seed", range(8))
def test_edges_of_some_atoms_are_rows_of_all(seed: int) -> None:
    """Processes that share a structure find the edges of their own atoms, to the last bit."""
    random = np.random.default_rng(seed)
    size = (60.0, 25, 4.0) if seed % 2 else (5.0, 6, 7)
    lattice = np.diag(size) + random.uniform(-1.5, 1.5, (3, 3))
    count = 150 if seed % 2 else 7
    positions = random.uniform(-1.5, 2.5, (count, 3)) @ lattice
    numbers = random.choice([6, 42], count)
    cutoffs = {(6, 6): 3.1, (6, 42): 2.5, (42, 42): 4.9}
    every = find_edges(lattice, positions, numbers, cutoffs)
    marks = [0, *sorted(random.integers(0, count, 3).tolist()), count]
    parts = [
        find_edges(lattice, positions, numbers, cutoffs, atoms=(a, b))
        for a, b in zip(marks[:-1], marks[1:])
    ]
    assert np.array_equal(np.concatenate(parts), every) and len(every) > count


@pytest.mark.parametrize("height", [40.0, 5.0])
def test_edges_of_some_atoms_where_nothing_repeats(height: float) -> None:
    """A slab across the boundary of its cell; 5 Å are too thin for a slab, which is refused."""
    lattice = np.diag([6.0, 6.0, height])
    positions = np.random.default_rng(0).uniform(0, 6, (9, 3)) - [0, 0, 3.0]
    positions[:, 2] = np.where(positions[:, 2] < 0, positions[:, 2] + height, positions[:, 2])
    shells = tuple((0,) for _ in positions)
    structure = Structure(lattice, positions, np.full(9, 6), shells, False, {}, "x")
    if height < 6:
        for atoms in ((0, 4), None):
            with pytest.raises(DataError, match="couple to their own images along a3"):
                edge_keys(structure, {(6, 6): 4.0}, (True, True, False), atoms=atoms)
        return
    every = edge_keys(structure, {(6, 6): 4.0}, (True, True, False))
    assert every[:, 2].any()
    parts = [
        edge_keys(structure, {(6, 6): 4.0}, (True, True, False), atoms=part)
        for part in ((0, 4), (4, 9))
    ]
    assert np.array_equal(np.concatenate(parts), every)
