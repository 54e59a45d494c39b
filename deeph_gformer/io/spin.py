"""Time reversal on spin-doubled blocks, for NumPy arrays and torch tensors alike."""

from __future__ import annotations

from typing import Any

__all__ = ["time_reversed"]


def time_reversed(uu: Any, ud: Any, du: Any, dd: Any) -> tuple[Any, Any, Any, Any]:
    """T H T⁻¹ with T = iσ_y and complex conjugation.

    Args:
        uu: the spin part ↑↑ of H; all four are arrays of one shape.
        ud: ↑↓.
        du: ↓↑.
        dd: ↓↓.

    Returns:
        The same four parts of T H T⁻¹.
    """
    return dd.conj(), -du.conj(), -ud.conj(), uu.conj()
