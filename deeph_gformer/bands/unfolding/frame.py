"""Positions relative to the vectors along which a structure repeats; layers of a slab."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...errors import ConfigError
from ...io import Structure

__all__ = ["Frame", "cell_height", "repeating_axes", "split_frame", "split_layers"]

Array = NDArray[np.float64]


class Frame(NamedTuple):
    """Positions relative to some periodic vectors: fractions (n, d), and the rest (n, 3) in Å."""

    fractions: Array
    rest: Array


def split_frame(vectors: Array, positions: Array, period: float = 0.0) -> Frame:
    """Split positions; for two vectors the rest is the height along their normal, unwrapped.

    Args:
        vectors: (d, 3), rows, Å.
        positions: (n, 3), Å.
        period: of the height, Å, for a slab that lies across the cell boundary.
    """
    inverse = np.linalg.pinv(vectors)
    fractions = positions @ inverse
    rest = positions - fractions @ vectors
    if len(vectors) == 2:
        normal = np.cross(*vectors)
        height = rest @ normal / np.linalg.norm(normal)
        rest = np.zeros_like(rest)
        rest[:, 2] = _unwrapped(height, period)
    return Frame(fractions, rest)


def _unwrapped(height: Array, period: float) -> Array:
    """Heights moved by whole periods so that the widest gap lies outside of the slab."""
    if period <= 0:
        return height
    folded = height % period
    order = np.sort(folded)
    gaps = np.diff(np.append(order, order[0] + period))
    start = order[(int(np.argmax(gaps)) + 1) % len(order)]
    return (folded - start + 1e-9) % period


def repeating_axes(periodic: tuple[bool, bool, bool]) -> list[int]:
    """Numbers of the lattice vectors along which a structure repeats.

    Raises:
        ConfigError: there is none.
    """
    axes = [axis for axis in range(3) if periodic[axis]]
    if not axes:
        raise ConfigError("the structure is periodic in no direction: there is nothing to unfold")
    return axes


def cell_height(lattice: Array, axes: list[int]) -> float:
    """Height of the cell over two periodic vectors, Å."""
    if len(axes) != 2:
        return 0.0
    normal = np.cross(*lattice[axes])
    other = next(axis for axis in range(3) if axis not in axes)
    return float(abs(lattice[other] @ normal) / np.linalg.norm(normal))


def split_layers(
    structure: Structure, periodic: tuple[bool, bool, bool], count: int
) -> list[NDArray[np.int64]]:
    """Atoms of each layer of a slab, the lowest first: cut at the widest gaps between heights.

    Raises:
        ConfigError: the structure is no slab, or has fewer atoms than layers.
    """
    axes = repeating_axes(periodic)
    if len(axes) != 2 or count > len(structure):
        raise ConfigError(
            f"{count} layers are asked (by --fat, or one for each --unfold): they need a slab, and "
            f"'{structure.name}' repeats in {len(axes)} directions with {len(structure)} atoms"
        )
    frame = split_frame(
        structure.lattice[axes], structure.positions, cell_height(structure.lattice, axes)
    )
    height = frame.rest[:, 2] * np.sign(
        np.cross(*structure.lattice[axes]) @ structure.lattice[3 - sum(axes)]
    )
    order = np.argsort(height, kind="stable")
    gaps = np.diff(height[order])
    cuts = np.sort(np.argsort(-gaps, kind="stable")[: count - 1]) + 1
    return [np.sort(part) for part in np.split(order, cuts)]
