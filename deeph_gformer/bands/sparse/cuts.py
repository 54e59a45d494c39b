"""Where the states that are kept end: in gaps, so that eigenvalues can be counted there."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

__all__ = ["Cut", "cut_in_gaps"]

_GAP_EV = 1e-5
"""Narrowest gap in which eigenvalues are counted."""


@dataclasses.dataclass(frozen=True)
class Cut:
    """States low to high - 1 of those found, and two energies just outside them.

    Attributes:
        low: first state.
        high: the one after the last.
        bottom: eV, in the gap below.
        top: eV, in the gap above.
        apart: whether both gaps are wide enough to count eigenvalues in.
    """

    low: int
    high: int
    bottom: float
    top: float
    apart: bool


def cut_in_gaps(energies: NDArray[np.float64], sigma: float, nbands: int) -> Cut:
    """The ``nbands`` states nearest sigma, and more where both cuts fall into gaps only then.

    Args:
        energies: (M,), those nearest sigma, ascending; so nothing else is nearer than the farthest.
        sigma: eV.
        nbands: least number of states kept, M or fewer.
    """
    reach = float(np.abs(energies - sigma).max())
    padded = np.concatenate([[sigma - reach], energies, [sigma + reach]])
    below = np.diff(padded)  # (M + 1,), gap below state n; the last one is above all
    chosen = np.sort(np.argsort(np.abs(energies - sigma))[:nbands])
    low, high = int(chosen[0]), int(chosen[-1]) + 1
    while low > 0 and below[low] < _GAP_EV:
        low -= 1
    while high < len(energies) and below[high] < _GAP_EV:
        high += 1
    bottom, top = (float(padded[n] + padded[n + 1]) / 2 for n in (low, high))
    return Cut(low, high, bottom, top, bool(min(below[low], below[high]) >= _GAP_EV))
