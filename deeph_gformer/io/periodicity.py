"""Along which lattice vectors a crystal repeats, told by its couplings.

A slab that lies across the cell boundary has blocks with R_z = ±1 and still repeats in two
directions only: no path of couplings leads from an atom to its own image along z. Atoms are nodes
and blocks (R, i, j) are edges that carry R (a quotient graph: Chung, Hahn and Klee, Acta Cryst.
A40, 42). A spanning tree places every atom into one image; what is left over around each cycle is a
lattice vector along which the structure percolates. The rank of these vectors is the number of
directions in which it repeats.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Coupling", "coupling", "periods", "piece_of", "skeleton", "unwrap_shifts", "upright"]


class Coupling(NamedTuple):
    """How a structure hangs together.

    Attributes:
        rank: number of independent lattice vectors along which it percolates, 0 to 3.
        directions: whether any percolating vector has a component along each lattice vector.
        shifts: (N, 3) cells to add to each atom so that the atoms of a piece lie together.
        pieces: number of pieces that no block connects.
    """

    rank: int
    directions: tuple[bool, bool, bool]
    shifts: NDArray[np.int64]
    pieces: int


def unwrap_shifts(
    keys: NDArray[np.int64], atoms: int, length: NDArray[np.float64] | None = None
) -> tuple[NDArray[np.int64], int]:
    """Put the atoms of each piece together.

    Args:
        keys: (E, 5), Rx Ry Rz i j, 0-based, containing (-R, j, i) with each (R, i, j) or not.
        atoms: number of atoms.
        length: (E,), pieces are held together by their shortest edges; default: all are alike.

    Returns:
        (N, 3) cells to add to each atom (the first atom of each piece stays), and the number of
        pieces.
    """
    from scipy.sparse import coo_matrix, csr_matrix
    from scipy.sparse.csgraph import (
        breadth_first_order,
        connected_components,
        minimum_spanning_tree,
    )

    other = np.flatnonzero(keys[:, 3] != keys[:, 4])
    weight = np.ones(len(other)) if length is None else np.asarray(length, float)[other] + 1e-9
    order = np.lexsort((weight, keys[other, 4], keys[other, 3]))
    code = keys[other[order], 3] * atoms + keys[other[order], 4]
    code, first = np.unique(code, return_index=True)  # the shortest edge of each pair of atoms
    chosen, weight = other[order][first], weight[order][first]
    graph = csr_matrix((weight, (keys[chosen, 3], keys[chosen, 4])), shape=(atoms, atoms))
    pieces, piece = connected_components(graph, directed=False)
    tree = minimum_spanning_tree(graph).tocoo()
    # a root above the first atom of each piece, so that one walk reaches all of them
    tops = np.unique(piece, return_index=True)[1]
    rows = np.concatenate([tree.row, np.full(len(tops), atoms)])
    columns = np.concatenate([tree.col, tops])
    joined = coo_matrix((np.ones(len(rows)), (rows, columns)), shape=(atoms + 1, atoms + 1))
    above = breadth_first_order(joined.tocsr(), atoms, directed=False)[1].astype(np.int64)
    above[atoms] = atoms
    shifts = np.zeros((atoms + 1, 3), dtype=np.int64)
    child = np.flatnonzero(above[:atoms] != atoms)
    for sign, wanted in (
        (-1, child * atoms + above[child]),  # child -> above, read backwards
        (1, above[child] * atoms + child),
    ):
        place = np.minimum(np.searchsorted(code, wanted), max(len(code) - 1, 0))
        there = code[place] == wanted if len(code) else np.zeros(len(child), bool)
        shifts[child[there]] = sign * keys[chosen[place[there]], :3]
    while (above != atoms).any():  # add what lies above, twice as far each time
        shifts += shifts[above]
        above = above[above]
    return shifts[:atoms], int(pieces)


def coupling(
    keys: NDArray[np.int64], atoms: int, length: NDArray[np.float64] | None = None
) -> Coupling:
    """How blocks connect the images of a structure.

    Args:
        keys: (E, 5), Rx Ry Rz i j, 0-based.
        atoms: number of atoms.
        length: (E,), Å, see :func:`unwrap_shifts`.
    """
    shifts, pieces = unwrap_shifts(keys, atoms, length)
    cycles = _cycles(keys, shifts)
    cycles = cycles[cycles.any(axis=1)]
    x, y, z = (bool(v) for v in (cycles != 0).any(axis=0))
    return Coupling(_rank(cycles), (x, y, z), shifts, pieces)


def skeleton(keys: NDArray[np.int64], atoms: int) -> NDArray[np.int64]:
    """A few edges that connect the same images: :func:`coupling` of them, together with any others,
    has the rank, directions and pieces that it has of all.

    From the first atom of each piece one edge leads to each of the others, and one for each cycle
    back to itself.

    Args:
        keys: (E, 5), Rx Ry Rz i j, 0-based; of some of the atoms.
        atoms: number of atoms.

    Returns:
        (n, 5) int64.
    """
    shifts, _ = unwrap_shifts(keys, atoms)
    piece = piece_of(keys, atoms)
    top = np.unique(piece, return_index=True)[1][piece]
    met = np.unique(keys[:, 3:])
    star = np.column_stack([shifts[met] - shifts[top[met]], top[met], met])
    cycles = _cycles(keys, shifts)
    round_ = cycles.any(axis=1)
    loops = np.unique(np.column_stack([cycles[round_], top[keys[round_, 3]]]), axis=0)
    return np.concatenate([star, loops[:, [0, 1, 2, 3, 3]]]).astype(np.int64)


def periods(keys: NDArray[np.int64], atoms: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The lattice along which atoms percolate, whatever the lattice vectors of the cell.

    Args:
        keys: (E, 5), Rx Ry Rz i j, 0-based.
        atoms: N.

    Returns:
        (rank, 3), integer combinations of the lattice vectors that generate it; and (N, 3), cells
        to add to each atom, see :attr:`Coupling.shifts`.
    """
    shifts, _ = unwrap_shifts(keys, atoms)
    cycles = _cycles(keys, shifts)
    rows = np.unique(cycles[cycles.any(axis=1)], axis=0)
    basis: list[NDArray[np.int64]] = []
    for column in range(3):  # Euclid's algorithm, column after column
        while len(rows):
            used = np.flatnonzero(rows[:, column])
            if not len(used):
                break
            least = used[np.abs(rows[used, column]).argmin()]
            pivot = rows[least]
            rows = np.delete(rows, least, axis=0)
            rows = rows - (rows[:, column] // pivot[column])[:, None] * pivot
            if not rows[:, column].any():
                basis.append(pivot)
                break
            rows = np.concatenate([rows, pivot[None]])
        rows = np.unique(rows[rows.any(axis=1)], axis=0)
    return np.array(basis, dtype=np.int64).reshape(-1, 3), shifts


def piece_of(keys: NDArray[np.int64], atoms: int) -> NDArray[np.int64]:
    """(N,), the number of each atom's piece; no block connects two pieces.

    Args:
        keys: (E, 5), Rx Ry Rz i j, 0-based.
        atoms: N.
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    ones = np.ones(len(keys), dtype=bool)
    graph = coo_matrix((ones, (keys[:, 3], keys[:, 4])), shape=(atoms, atoms))
    return np.asarray(connected_components(graph.tocsr(), directed=False)[1], dtype=np.int64)


def _cycles(keys: NDArray[np.int64], shifts: NDArray[np.int64]) -> NDArray[np.int64]:
    """(E, 3), the lattice vector that is left over around each edge's cycle."""
    return shifts[keys[:, 3]] + keys[:, :3] - shifts[keys[:, 4]]


def _rank(vectors: NDArray[np.int64]) -> int:
    """Rank of non-zero integer vectors (n, 3), exact."""
    if not len(vectors):
        return 0
    normals = np.cross(vectors[0], vectors)
    normals = normals[normals.any(axis=1)]
    if not len(normals):
        return 1
    return 3 if (vectors @ normals[0]).any() else 2


def upright(lattice: NDArray[np.float64], periodic: tuple[bool, bool, bool]) -> NDArray[np.float64]:
    """(3, 3), rows, Å: vectors that do not repeat made perpendicular to those that do.

    The reciprocal vectors of a slab then lie in it, those of a chain along it, wherever the vacuum
    vectors of ``lattice`` (3, 3) point.
    """
    repeats = np.array(periodic)
    plane, found = lattice[repeats], lattice.astype(np.float64)
    found[~repeats] -= lattice[~repeats] @ np.linalg.pinv(plane) @ plane
    return found
