"""Edges of a structure: every pair of atoms closer than their cutoff, over all periodic images.

Pairs are found by vesin (https://github.com/Luthaf/vesin); which of them lie below the cutoff is
decided here, from distances that are the same to the last bit for (R, i, j) and (-R, j, i), so both
are always in or both out.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from ..io.blocks import sort_keys
from ..io.periodicity import Coupling, coupling
from ..io.structure import Structure
from .pairs import near_pairs

__all__ = ["Cutoffs", "edge_keys", "find_edges", "pair_cutoff", "symbol"]

_MARGIN = 1e-6  # Å: pairs are looked for a little further than the cutoff

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
    """The cutoff of two elements in Å, whichever comes first; 0 where they never overlap (the pair
    is not named).

    Args:
        cutoffs: by pair.
        a: atomic number.
        b: atomic number of the other.
    """
    return float(cutoffs.get((min(a, b), max(a, b)), 0.0))


def _cutoff_matrix(cutoffs: Cutoffs, kinds: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.array(
        [[pair_cutoff(cutoffs, int(a), int(b)) for b in kinds] for a in kinds], dtype=np.float64
    ).reshape(len(kinds), len(kinds))


def edge_keys(
    structure: Structure,
    cutoffs: Cutoffs,
    pbc: Sequence[bool] = (True, True, True),
    cut: bool = False,
    atoms: tuple[int, int] | None = None,
) -> NDArray[np.int64]:
    """Edges of a structure, none of them lost to the way in which its atoms lie in the cell.

    Where ``pbc`` is False but atoms couple to images in the next cell, nothing repeats there as
    long as no atom couples to its own image, through others or directly: it is a slab, wire or
    molecule across the cell boundary, and its edges are kept, with R counted from where the atoms
    are.

    Args:
        structure: positions and lattice, Å.
        cutoffs: see :func:`find_edges`.
        pbc: whether each lattice vector repeats.
        cut: where the structure repeats against ``pbc``, put its pieces together and leave out what
            couples them to their images, with a warning.
        atoms: first atom whose edges are wanted, and the one after the last; default: all.

    Returns:
        As :func:`find_edges`.

    Raises:
        DataError: it repeats along a vector whose ``pbc`` is False (unless ``cut``); see also
            :func:`find_edges`.
    """
    open_ = ~np.asarray(pbc, bool)
    if atoms is not None and open_.any() and _may_cross(structure, cutoffs, open_):
        keys = edge_keys(structure, cutoffs, pbc, cut)  # how they cross, all edges say together
        return keys[slice(*np.searchsorted(keys[:, 3], atoms))]
    every = (True, True, True)
    keys = find_edges(
        structure.lattice, structure.positions, structure.numbers, cutoffs, every, atoms
    )
    if not (keys[:, :3] != 0)[:, open_].any():
        return keys
    length = np.sqrt(
        _squared_distance(
            structure.lattice, structure.positions, keys[:, 3], keys[:, 4], keys[:, :3]
        )
    )
    found = coupling(keys, len(structure), length)
    against = open_ & np.array(found.directions)
    if not against.any():
        return keys
    kept = _kept(keys, found, open_, len(structure))
    axes = [f"a{n}" for n, wrong in enumerate(against, 1) if wrong]
    flags = ", ".join(str(bool(p)) for p in pbc)
    crossed = coupling(keys[kept], len(structure)).rank
    what = (
        f"'{structure.name}': with pbc = ({flags}) its blocks cross {crossed} of the 3 lattice "
        f"vectors, but its atoms couple to their own images along {' and '.join(axes)}, too"
    )
    lost = f"{int((~kept).sum())} of {len(keys)} blocks"
    if cut:
        warnings.warn(f"{what}: {lost} are left out", stacklevel=2)
        return keys[kept]
    kinds = set(structure.numbers.tolist())
    longest = max(pair_cutoff(cutoffs, a, b) for a in kinds for b in kinds)
    raise DataError(
        f"{what}: {lost} would be lost. Set pbc to True along each vector that repeats (in the "
        "file, atoms.pbc = ..., or --pbc of overlap predict); where nothing repeats, make that "
        f"lattice vector longer, so that images are more than {longest:.1f} Å apart"
    )


def _may_cross(structure: Structure, cutoffs: Cutoffs, open_: NDArray[np.bool_]) -> bool:
    """Whether atoms may be near images in the next cell along vectors that do not repeat."""
    inverse = np.linalg.inv(structure.lattice)
    gap = 1.0 - np.ptp(structure.positions @ inverse, axis=0)
    kinds = set(structure.numbers.tolist())
    longest = max(pair_cutoff(cutoffs, a, b) for a in kinds for b in kinds)
    return bool((gap / np.linalg.norm(inverse, axis=0) <= longest + _MARGIN)[open_].any())


def _kept(
    keys: NDArray[np.int64], found: Coupling, open_: NDArray[np.bool_], atoms: int
) -> NDArray[np.bool_]:
    """(E,), edges that do not cross the vectors ``open_``; atoms that would fall apart are
    moved."""
    plain = ~(keys[:, :3] != 0)[:, open_].any(axis=1)
    if coupling(keys[plain], atoms).pieces == found.pieces:
        return plain
    around = found.shifts[keys[:, 3]] + keys[:, :3] - found.shifts[keys[:, 4]]
    return ~(around != 0)[:, open_].any(axis=1)


def find_edges(
    lattice: NDArray[np.float64],
    positions: NDArray[np.float64],
    numbers: NDArray[np.int64],
    cutoffs: Cutoffs,
    pbc: Sequence[bool] = (True, True, True),
    atoms: tuple[int, int] | None = None,
) -> NDArray[np.int64]:
    """Every (R, i, j) with ``|r_j + R - r_i| < cutoff(i, j)``, and every atom with itself.

    Args:
        lattice: (3, 3), rows are the lattice vectors, Å.
        positions: (N, 3), Cartesian, Å; may lie outside the cell, R counts from where they are.
        numbers: (N,), atomic numbers.
        cutoffs: by pair of atomic numbers, Å; a pair that is not named has no edges.
        pbc: whether each lattice vector repeats; along others R is 0, wherever the atoms are.
        atoms: first i, and the one after the last; default: all atoms.

    Returns:
        (E, 5) int64, Rx Ry Rz i j, i and j 0-based, canonical order; of all atoms, contains
        (-R, j, i) with each (R, i, j).

    Raises:
        DataError: the lattice spans no volume, two atoms sit on one place, values are not finite or
            absurd, or shapes do not fit.
    """
    lattice, positions, numbers = (
        np.asarray(lattice, float),
        np.asarray(positions, float),
        np.asarray(numbers, np.int64),
    )
    _check_cell(lattice, positions, numbers)
    if not len(numbers):
        return np.zeros((0, 5), dtype=np.int64)
    kinds, kind = np.unique(numbers, return_inverse=True)
    limits = _cutoff_matrix(cutoffs, kinds)
    first, last = (0, len(numbers)) if atoms is None else atoms
    reach = max(float(limits.max()), 0.1) + _MARGIN
    i, j, cells = near_pairs(lattice, positions, reach, slice(first, last))
    fixed = ~np.asarray(pbc, bool)
    if fixed.any():
        inside = ~cells[:, fixed].any(axis=1)
        i, j, cells = i[inside], j[inside], cells[inside]
    squared = _squared_distance(lattice, positions, i, j, cells)
    clash = np.flatnonzero(squared < 1e-6)
    if len(clash):
        e = clash[0]
        raise DataError(
            f"atoms {i[e] + 1} and {j[e] + 1} (cell {cells[e].tolist()}) sit on the same place; "
            "remove one of them"
        )
    limit = limits[0, 0] if len(kinds) == 1 else limits.ravel()[kind[i] * len(kinds) + kind[j]]
    kept = np.flatnonzero(squared < limit**2)
    own = np.arange(first, last)
    keys = np.zeros((len(own) + len(kept), 5), dtype=np.int64)
    keys[: len(own), 3:] = own[:, None]
    keys[len(own) :, :3] = cells[kept]
    keys[len(own) :, 3] = i[kept]
    keys[len(own) :, 4] = j[kept]
    return keys[sort_keys(keys)]


def _check_cell(
    lattice: NDArray[np.float64], positions: NDArray[np.float64], numbers: NDArray[np.int64]
) -> None:
    """Raise on shapes that do not fit, on values that are not finite, and on cells without
    volume."""
    if lattice.shape != (3, 3) or positions.shape != (len(numbers), 3):
        raise DataError(
            f"edges: lattice {lattice.shape}, positions {positions.shape} and {len(numbers)} "
            "elements do not fit together"
        )
    if not (np.isfinite(lattice).all() and np.isfinite(positions).all()):
        raise DataError("edges: lattice or positions contain NaN or infinite values")
    if abs(np.linalg.det(lattice)) < 1e-6:
        raise DataError(
            "edges: the lattice vectors span no volume; give a cell with three independent vectors "
            "(vacuum counts)"
        )


def _squared_distance(
    lattice: NDArray[np.float64],
    positions: NDArray[np.float64],
    i: NDArray[np.int64],
    j: NDArray[np.int64],
    cells: NDArray[np.int64],
) -> NDArray[np.float64]:
    """(E,) |r_j - r_i + R|² in Å², bit for bit the same for (R, i, j) and (-R, j, i)."""
    total = np.zeros(len(i))
    x, y, z = cells.T.astype(np.float64)
    for axis in range(3):
        column = positions[:, axis].copy()
        part = column[j] - column[i]
        part += x * lattice[0, axis] + y * lattice[1, axis] + z * lattice[2, axis]
        total += part * part
    return total
