"""One wrong value among those of a radial function.

Functions of SIESTA and OpenMX have kinks where zetas end, so that smoothness as such tells nothing.
But on one side of a kink they are smooth: a good value is what the values before it, those after
it, or those on both sides say. A wrong one is none of these, and those beside it are right.
"""

from __future__ import annotations

import math
import pathlib

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from ..errors import DataError

__all__ = ["require_fitting", "require_uniform"]

#: Values that a value is told from: on one side, and on both.
_ONE_SIDE, _BOTH_SIDES = (3, 4, 5, 6), (4, 6, 8)
#: How far two values in a row may be off, of the largest r R(r): 1e-4 in a file of OpenMX.
_PAIR_OFF = 3e-4
#: How many times more it must be off than values that are near. 14 beside a true step in a file of
#: OpenMX.
_ALONE = 30.0
_NEAR = 4
#: Rows around the end of a function, where nothing but its own size is asked.
_END = 3
#: Of a step, how far radii may be off a uniform grid; files print 1e-8.
_STEP = 1e-5


def _misfit(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n,), least difference of a value from what polynomials say: through values before it, after
    it, and on both sides."""
    least = np.full(len(values), np.inf)
    for order in sorted({*_ONE_SIDE, *_BOTH_SIDES}):
        change = np.abs(np.diff(values, order))
        if order in _ONE_SIDE:
            least[order:] = np.minimum(least[order:], change)
            least[:-order] = np.minimum(least[:-order], change)
        if order in _BOTH_SIDES:
            half = order // 2
            inside = slice(half, len(values) - half)
            least[inside] = np.minimum(least[inside], change / math.comb(order, half))
    return least


def require_fitting(
    radius: NDArray[np.float64],
    values: NDArray[np.float64],
    weight: NDArray[np.float64],
    least: float,
    orbital: int,
    path: pathlib.Path,
) -> None:
    """Raise where one value of a function, or two in a row, are not those of their neighbours.

    Args:
        radius: (n,), for the message.
        values: (n,), as the file has them, in equal steps of r or of ln r.
        weight: (n,); times ``values`` it is r R(r).
        least: how far a value may be off where those beside it fit, of the largest r R(r).
        orbital: its number, for the message.
        path: the file.

    Raises:
        DataError: names orbital and radius.
    """
    there = values != 0
    runs = np.flatnonzero(there[2:] & there[1:-1] & there[:-2])
    if len(values) < 20 or not len(runs) or not np.isfinite(values).all():
        return
    end = int(runs[-1]) + 2  # the last value but for lonely ones behind
    size = np.abs(values * weight)
    off = _misfit(values) * weight / max(size[: max(end - _END, 1)].max(), 1e-300)
    around = sliding_window_view(np.pad(off, _NEAR, mode="edge"), 2 * _NEAR + 1)
    wrong = np.zeros(len(values), dtype=bool)
    for alone, limit in ((1, least), (2, _PAIR_OFF)):
        beside = np.delete(around, np.arange(_NEAR - alone + 1, _NEAR + alone), axis=1).max(axis=1)
        wrong |= (off > limit) & (off > _ALONE * beside)
    wrong[max(end - _END, 0) : end + _END + 1] = False
    wrong |= off > 1.0
    if wrong.any():
        at = int(np.argmax(np.where(wrong, off, 0.0)))
        raise DataError(
            f"{path}: a value of orbital {orbital} at {radius[at]:.4g} bohr does not fit those "
            "beside it; the file is damaged"
        )


def require_uniform(grid: NDArray[np.float64], radius: NDArray[np.float64], where: str) -> None:
    """Raise unless a grid has equal steps.

    Args:
        grid: (n,), r or ln r, ascending.
        radius: (n,), for the message.
        where: the file.

    Raises:
        DataError: names the radius.
    """
    off = np.abs(grid - np.linspace(grid[0], grid[-1], len(grid)))
    off /= (grid[-1] - grid[0]) / (len(grid) - 1)
    if not off.max() <= _STEP:
        raise DataError(
            f"{where}: its radii have no equal steps at {radius[int(np.argmax(off))]:.4g} bohr; "
            "the file is damaged"
        )
