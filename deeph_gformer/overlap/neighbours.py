"""Edges of a structure: every pair of atoms closer than the cutoff of its two elements, over all periodic images.

A k-d tree over the images that can matter; no Python loop over atoms or edges. Distances are computed in a way that is exactly
antisymmetric, so (R, i, j) and (-R, j, i) are always both in or both out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from ..io.blocks import sort_keys
from ..io.structure import Structure

__all__ = ["Cutoffs", "edge_keys", "find_edges", "pair_cutoff", "symbol"]

#: Largest distance (Å) at which two elements overlap, by atomic numbers with the smaller one first.
Cutoffs = Mapping[tuple[int, int], float]


def symbol(number: int) -> str:
    """The element's symbol, e.g. ``Bi`` for 83."""
    from ase.data import chemical_symbols

    return (
        chemical_symbols[int(number)]
        if 0 <= int(number) < len(chemical_symbols)
        else f"Z={int(number)}"
    )


def pair_cutoff(cutoffs: Cutoffs, a: int, b: int) -> float:
    """The cutoff of two elements in Å, whichever comes first; 0 where they never overlap (the pair is not named).

    Args:
        cutoffs: by pair. a: atomic number. b: atomic number.
    """
    return float(cutoffs.get((min(a, b), max(a, b)), 0.0))


def _cutoff_matrix(cutoffs: Cutoffs, kinds: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.array(
        [[pair_cutoff(cutoffs, int(a), int(b)) for b in kinds] for a in kinds], dtype=np.float64
    ).reshape(len(kinds), len(kinds))


def edge_keys(
    structure: Structure, cutoffs: Cutoffs, pbc: Sequence[bool] = (True, True, True)
) -> NDArray[np.int64]:
    """Edges of a structure; see :func:`find_edges`."""
    return find_edges(structure.lattice, structure.positions, structure.numbers, cutoffs, pbc)


def find_edges(
    lattice: NDArray[np.float64],
    positions: NDArray[np.float64],
    numbers: NDArray[np.int64],
    cutoffs: Cutoffs,
    pbc: Sequence[bool] = (True, True, True),
) -> NDArray[np.int64]:
    """Every (R, i, j) with ``|r_j + R - r_i| < cutoff(i, j)``, and every atom with itself.

    Args:
        lattice: (3, 3), rows are the lattice vectors, Å.
        positions: (N, 3), Cartesian, Å; may lie outside the cell, R counts from where they are.
        numbers: (N,), atomic numbers.
        cutoffs: by pair of atomic numbers, Å; a pair that is not named has no edges.
        pbc: whether each lattice vector repeats.

    Returns:
        (E, 5) int64, Rx Ry Rz i j, i and j 0-based, canonical order; contains (-R, j, i) with each (R, i, j).

    Raises:
        DataError: the lattice spans no volume, two atoms sit on one place, or shapes do not fit.
    """
    from scipy.spatial import cKDTree

    lattice, positions, numbers = (
        np.asarray(lattice, float),
        np.asarray(positions, float),
        np.asarray(numbers, np.int64),
    )
    if lattice.shape != (3, 3) or positions.shape != (len(numbers), 3):
        raise DataError(
            f"edges: lattice {lattice.shape}, positions {positions.shape} and {len(numbers)} elements do not fit together"
        )
    if abs(np.linalg.det(lattice)) < 1e-6:
        raise DataError(
            "edges: the lattice vectors span no volume; give a cell with three independent vectors (vacuum counts)"
        )
    if not len(numbers):
        return np.zeros((0, 5), dtype=np.int64)
    kinds, kind = np.unique(numbers, return_inverse=True)
    limits = _cutoff_matrix(cutoffs, kinds)
    reach = float(limits.max()) + 1e-6
    shift, wrapped = _wrap(lattice, positions, pbc)
    cells, atoms = _images(lattice, wrapped, pbc, reach)
    near = cKDTree(wrapped @ lattice).sparse_distance_matrix(
        cKDTree((wrapped[atoms] + cells) @ lattice), reach, output_type="ndarray"
    )
    i, image = near["i"].astype(np.int64), near["j"].astype(np.int64)
    j = atoms[image]
    keys = np.empty((len(i), 5), dtype=np.int64)
    keys[:, :3] = cells[image] + shift[j] - shift[i]
    keys[:, 3], keys[:, 4] = i, j
    squared = _squared_distance(lattice, positions, keys)
    itself = (i == j) & ~keys[:, :3].any(axis=1)
    clash = np.flatnonzero((squared < 1e-6) & ~itself)
    if len(clash):
        key = keys[clash[0]]
        raise DataError(
            f"atoms {key[3] + 1} and {key[4] + 1} (cell {key[:3].tolist()}) sit on the same place; remove one of them"
        )
    keys = keys[itself | (squared < limits[kind[i], kind[j]] ** 2)]
    return keys[sort_keys(keys)]


def _wrap(
    lattice: NDArray[np.float64], positions: NDArray[np.float64], pbc: Sequence[bool]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """(N, 3) cells that were added to each atom, and (N, 3) fractional coordinates in [0, 1) along the periodic directions."""
    fractional = positions @ np.linalg.inv(lattice)
    shift = np.where(np.asarray(pbc, bool), np.floor(fractional), 0.0)
    return -shift.astype(np.int64), fractional - shift


def _images(
    lattice: NDArray[np.float64], wrapped: NDArray[np.float64], pbc: Sequence[bool], reach: float
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(M, 3) cells and (M,) atoms of every image no further than ``reach`` from the home cell."""
    heights = 1.0 / np.linalg.norm(np.linalg.inv(lattice), axis=0)
    margin = reach / heights
    cells = np.zeros((len(wrapped), 3), dtype=np.int64)
    atoms = np.arange(len(wrapped), dtype=np.int64)
    for axis in range(3):
        if not pbc[axis]:
            continue
        count = int(np.ceil(margin[axis]))
        steps = np.arange(-count, count + 1)
        cells = np.repeat(cells, len(steps), axis=0)
        cells[:, axis] = np.tile(steps, len(atoms))
        atoms = np.repeat(atoms, len(steps))
        place = wrapped[atoms, axis] + cells[:, axis]
        keep = (place >= -margin[axis]) & (place <= 1 + margin[axis])
        cells, atoms = cells[keep], atoms[keep]
    return cells, atoms


def _squared_distance(
    lattice: NDArray[np.float64], positions: NDArray[np.float64], keys: NDArray[np.int64]
) -> NDArray[np.float64]:
    """(E,) |r_j - r_i + R|² in Å², bit for bit the same for (R, i, j) and (-R, j, i): element-wise sums in one fixed order."""
    total = np.zeros(len(keys))
    cell = keys[:, :3].astype(np.float64)
    for axis in range(3):
        part = positions[keys[:, 4], axis] - positions[keys[:, 3], axis]
        part += (
            cell[:, 0] * lattice[0, axis]
            + cell[:, 1] * lattice[1, axis]
            + cell[:, 2] * lattice[2, axis]
        )
        total += part * part
    return total
