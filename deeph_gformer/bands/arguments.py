"""Energies, numbers, windows and matrices that are asked of the solvers: what they must be."""

from __future__ import annotations

import operator
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError, DataError

__all__ = ["require_count", "require_energy", "require_pencil", "require_window"]

#: Accepted part of the largest value that H - H† of one k-point may have, and what it may have
#: where all of H(k) cancels (a band that crosses zero), eV: rounding.
_HERMITIAN, _CANCELLED = 1e-4, 1e-9


def require_window(window: Sequence[float]) -> tuple[float, float]:
    """Two finite energies, the first below the second.

    Raises:
        ConfigError: it is something else.
    """
    try:
        low, high = (float(v) for v in window)
    except (TypeError, ValueError):
        low = high = np.nan
    if not -np.inf < low < high < np.inf:
        raise ConfigError(
            f"window {window}: two finite energies in eV are needed, the first below the second"
        )
    return low, high


def require_energy(value: float, what: str) -> float:
    """A finite real number.

    Args:
        value: eV.
        what: begins the message.

    Raises:
        ConfigError: it is something else.
    """
    try:
        energy = float(value)
    except (TypeError, ValueError, OverflowError):
        energy = np.nan
    if not np.isfinite(energy):
        raise ConfigError(f"{what} {value!s:.40} eV: a finite number is needed")
    return energy


def require_count(value: int, what: str, most: int | None = None) -> int:
    """A whole number from 1 on.

    Args:
        value: the number.
        what: names it, in the plural; what comes before a colon is put first.
        most: the largest; None: any.

    Raises:
        ConfigError: it is something else.
    """
    try:
        count = operator.index(value)
    except TypeError:
        count = 0
    if count < 1 or (most is not None and count > most):
        place, colon, what = what.rpartition(": ")
        to = "" if most is None else f" and at most {most}"
        raise ConfigError(
            f"{place}{colon}{value!s:.40} {what} asked; at least 1{to} is needed, a whole number"
        )
    return count


def require_pencil(h: NDArray[np.number], s: NDArray[np.number], where: str) -> None:
    """Refuse matrices that are no H and S: LAPACK reads one triangle and would not notice.

    Args:
        h: (n, n).
        s: (n, n).
        where: file and k-point, for messages.

    Raises:
        DataError: shapes differ, a value is not finite, or one is not Hermitian.
    """
    where = where or "solve_dense"
    if h.ndim != 2 or h.shape != s.shape or h.shape[0] != h.shape[1] or not len(h):
        raise DataError(f"{where}: H {h.shape} and S {s.shape} are no square matrices of one size")
    for name, matrix in (("H", h), ("S", s)):
        if not np.isfinite(matrix).all():
            raise DataError(f"{where}: {name}(k) contains NaN or infinite values")
        largest, defect = float(np.abs(matrix).max()), 0.0
        for start in range(0, len(matrix), 256):  # no second matrix in memory
            rows = matrix[start : start + 256]
            other = matrix[:, start : start + 256].conj().T
            defect = max(defect, float(np.abs(rows - other).max()))
        if defect > max(_HERMITIAN * largest, _CANCELLED):
            raise DataError(f"{where}: {name}(k) is not Hermitian, by {defect:.3g}")
