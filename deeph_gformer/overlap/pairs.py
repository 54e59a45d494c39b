"""Pairs of atoms and images that are near each other, found by vesin
(https://github.com/Luthaf/vesin): of all atoms, or of some of them.
"""

from __future__ import annotations

import functools
import math
import sys
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from ..io.blocks import MAX_CELL

if TYPE_CHECKING:
    from vesin import NeighborList

__all__ = ["near_pairs"]

_MOST_NEIGHBOURS = 200_000  # of one atom: 15 Å in a crystal hold 2,000
_FARTHEST = MAX_CELL // 2 - 100  # cells between the cell and an atom of it
_BINS = 1e5  # vesin's limit of bins of atoms
_SLAB = 4  # times the reach: where the edges of some atoms are wanted, atoms are taken in slabs


def near_pairs(
    lattice: NDArray[np.float64], positions: NDArray[np.float64], reach: float, atoms: slice
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """All pairs closer than ``reach``, and some more, without those of an atom with itself.

    Args:
        lattice: see :func:`.neighbours.find_edges`.
        positions: see there.
        reach: Å.
        atoms: which atoms i.

    Returns:
        (M,) i, (M,) j and (M, 3) R, R counted from where the atoms are.
    """
    fractional = positions @ np.linalg.inv(lattice)
    far = np.flatnonzero(np.abs(fractional).max(axis=1) > _FARTHEST)
    if len(far):
        raise DataError(
            f"edges: atom {far[0] + 1} at {positions[far[0]].tolist()} Å lies more than "
            f"{_FARTHEST} "
            "cells away; check the units of the file"
        )
    dense = len(positions) / abs(np.linalg.det(lattice)) * 4 / 3 * math.pi * reach**3
    if dense > _MOST_NEIGHBOURS:
        raise DataError(
            f"edges: an atom would have {dense:.0f} neighbours within {reach:.2f} Å, the cell is "
            "too "
            f"small for its {len(positions)} atoms ({abs(np.linalg.det(lattice)):.3g} Å³); check "
            "its lattice vectors and their unit"
        )
    heights = 1.0 / np.linalg.norm(np.linalg.inv(lattice), axis=0)
    if (reach / heights).max() > _MOST_NEIGHBOURS / 100:
        raise DataError(
            f"edges: planes of the lattice are {heights.min():.2g} Å apart, the cell is a needle; "
            "reduce it, e.g. with ase.build.niggli_reduce"
        )
    shift = np.floor(fractional).astype(np.int64)
    if atoms.stop - atoms.start < len(positions) and np.prod(heights / reach) < _BINS:
        i, j, cells = _near_some(lattice, fractional - shift, heights, reach, atoms)
    else:
        wrapped = positions - shift @ lattice
        finder = _neighbour_list()(cutoff=_bin(heights, reach), full_list=True)
        i, j, cells = finder.compute(wrapped, lattice, True, "ijS")
        i, j, cells = i.astype(np.int64), j.astype(np.int64), cells.astype(np.int64)
        own = (i >= atoms.start) & (i < atoms.stop)
        i, j, cells = (i, j, cells) if own.all() else (i[own], j[own], cells[own])
    return i, j, cells + (shift[i] - shift[j]) if shift.any() else cells


def _near_some(
    lattice: NDArray[np.float64],
    fractional: NDArray[np.float64],
    heights: NDArray[np.float64],
    reach: float,
    atoms: slice,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """:func:`near_pairs` of some atoms, slab after slab, with the atoms and images that are near.

    Args:
        lattice: see :func:`.neighbours.find_edges`.
        fractional: (N, 3), from 0 to 1.
        heights: (3,), distances of the lattice's planes, Å.
        reach: Å.
        atoms: which atoms i.
    """
    axis = int(np.argmax(heights))
    slabs = max(1, int(heights[axis] / (_SLAB * reach)))
    slab = np.minimum((fractional[atoms, axis] * slabs).astype(np.int64), slabs - 1)
    parts = [(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, 3), np.int64))]
    for number in np.unique(slab):
        own = np.flatnonzero(slab == number) + atoms.start
        # nothing further from the own atoms' planes than reach is near them
        low = fractional[own].min(axis=0) - reach / heights - 1e-9
        high = fractional[own].max(axis=0) + reach / heights + 1e-9
        index, cells = _images(fractional, low, high)
        place = (fractional[index] + cells) @ lattice
        finder = _neighbour_list()(cutoff=reach, full_list=True)
        i, j = finder.compute(place, np.zeros((3, 3)), False, "ij")
        mine = (np.isin(index, own) & ~cells.any(axis=1))[i]
        i, j = i[mine].astype(np.int64), j[mine].astype(np.int64)
        parts.append((index[i], index[j], cells[j]))
    i, j, cells = (np.concatenate(column) for column in zip(*parts, strict=True))
    return i, j, cells


def _images(
    fractional: NDArray[np.float64], low: NDArray[np.float64], high: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Atoms and images with fractional coordinates from ``low`` to ``high``.

    Args:
        fractional: (N, 3), from 0 to 1.
        low: (3,).
        high: (3,).

    Returns:
        (M,) atom and (M, 3) R.
    """
    index, cells = np.arange(len(fractional)), np.zeros((len(fractional), 3), np.int64)
    for axis in range(3):  # one vector after the other, so that few are looked at
        steps = np.arange(math.floor(low[axis]), math.floor(high[axis]) + 1)
        place = fractional[index, axis][:, None] + steps
        inside, step = np.nonzero((place >= low[axis]) & (place <= high[axis]))
        index, cells = index[inside], cells[inside]
        cells[:, axis] = steps[step]
    return index, cells


@functools.cache
def _neighbour_list() -> type[NeighborList]:
    """vesin's class, without the seconds that its import of torch takes.

    vesin imports torch wherever it is installed, for tensors that it never gets from here. Its
    modules
    are forgotten again, so that whoever imports vesin later gets it whole.
    """
    if "torch" in sys.modules or "vesin" in sys.modules:
        from vesin import NeighborList

        return NeighborList
    sys.modules["torch"] = None  # type: ignore[assignment]
    try:
        from vesin import NeighborList
    finally:
        del sys.modules["torch"]
        for name in [name for name in sys.modules if name.partition(".")[0] == "vesin"]:
            del sys.modules[name]
    return NeighborList


def _bin(heights: NDArray[np.float64], reach: float) -> float:
    """The cutoff to give to vesin, Å.

    vesin 0.6 sorts atoms into at most 10⁵ bins at least ``reach`` wide. In cells that are very long
    in one or two directions only, the way in which it lowers their number leaves none along the
    others, and the process dies of a division by zero. A larger cutoff makes fewer bins.
    """
    while True:
        bins = np.maximum(np.trunc(heights / reach), 1.0)
        if bins.prod() <= 0.9 * _BINS:
            return reach
        third = math.trunc(math.cbrt(0.9 * _BINS / (bins[0] * bins[1] / bins[2] ** 2)))
        second = math.trunc(bins[1] / bins[2] * third)
        if min(third, second, math.trunc(bins[0] / bins[1] * second)) >= 1:
            return reach
        reach *= 1.05
