"""Rotation of real spherical harmonics in the legacy (OpenMX) order, and the frame of a bond.

Order inside a shell, all with the usual positive signs: l=1 x, y, z; l=2 3z²-r², x²-y², xy, xz, yz;
l=3 z³, xz², yz², z(x²-y²), xyz, x(x²-3y²), y(3x²-y²).
"""

from __future__ import annotations

import functools
import math

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError

__all__ = [
    "MAX_L",
    "ORDER",
    "block_rotation",
    "bond_rotation",
    "harmonics",
    "sample_points",
    "shell_rotation",
]

MAX_L = 3

#: m of each component, legacy order: +m is cos(mφ), -m is sin(mφ).
ORDER: dict[int, tuple[int, ...]] = {
    0: (0,),
    1: (1, -1, 0),
    2: (0, 2, -2, 1, -1),
    3: (0, 1, -1, 2, -2, 3, -3),
    4: (0, 1, -1, 2, -2, 3, -3, 4, -4),  # in no file: f orbitals times a coordinate
}


def harmonics(l: int, points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Real solid harmonics of degree l, normalised to Σ_m Y_m² = r^(2l) (so that rotation matrices
    are orthogonal).

    Args:
        l: 0 to 3.
        points: (..., 3), x y z.

    Returns:
        (..., 2l+1), legacy order.

    Raises:
        DataError: l is not 0 to 3.
    """
    x, y, z = np.moveaxis(np.asarray(points, float), -1, 0)
    if l == 0:
        parts = [np.ones_like(x)]
    elif l == 1:
        parts = [x, y, z]
    elif l == 2:
        root = math.sqrt(3.0)
        parts = [
            z * z - (x * x + y * y) / 2,
            root / 2 * (x * x - y * y),
            root * x * y,
            root * x * z,
            root * y * z,
        ]
    elif l == 3:
        a, b, c = math.sqrt(3 / 8), math.sqrt(15.0), math.sqrt(5 / 8)
        rest = 4 * z * z - x * x - y * y
        parts = [
            z * (z * z - 1.5 * (x * x + y * y)),
            a * x * rest,
            a * y * rest,
            b / 2 * z * (x * x - y * y),
            b * x * y * z,
            c * x * (x * x - 3 * y * y),
            c * y * (3 * x * x - y * y),
        ]
    else:
        raise DataError(f"l = {l}: the legacy orbital order is defined for l = 0 to {MAX_L} only")
    return np.stack(parts, axis=-1)


@functools.cache
def sample_points(l: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Points (P, 3) and the pseudo-inverse (P, 2l+1) of their harmonics: D = Y(R p)ᵀ pinv."""
    generator = np.random.default_rng(0)
    points = generator.normal(size=(max(2 * l + 1, 4) * 2, 3))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    return points, np.asarray(np.linalg.pinv(harmonics(l, points).T), np.float64)


def shell_rotation(l: int, rotations: NDArray[np.float64]) -> NDArray[np.float64]:
    """D with ``Y_l(R p) = D(R) Y_l(p)`` for real harmonics in the legacy order.

    Args:
        l: 0 to 3.
        rotations: (E, 3, 3), proper or improper.

    Returns:
        (E, 2l+1, 2l+1), orthogonal.

    Raises:
        DataError: l is not 0 to 3.
    """
    rotations = np.asarray(rotations, float)
    if l == 0:
        return np.ones((len(rotations), 1, 1))
    if l == 1:
        return rotations
    points, inverse = sample_points(l)
    turned = np.einsum("eab,pb->epa", rotations, points, optimize=True)
    return np.swapaxes(harmonics(l, turned), 1, 2) @ inverse


def bond_rotation(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rotations that turn each vector onto +z.

    Args:
        vectors: (E, 3), any length; a zero vector gets the identity.

    Returns:
        (E, 3, 3), proper rotations: ``R @ v = |v| (0, 0, 1)``.
    """
    vectors = np.asarray(vectors, float).reshape(-1, 3)
    length = np.linalg.norm(vectors, axis=1)
    axis = np.zeros_like(vectors)
    axis[:, 2] = 1.0
    np.divide(vectors, length[:, None], out=axis, where=length[:, None] > 0)
    # Householder reflection of the axis onto -+z, made proper by a second reflection; stable in
    # both hemispheres.
    up = np.where(axis[:, 2] >= 0, 1.0, -1.0)
    normal = axis.copy()
    normal[:, 2] += up
    reflection = (
        np.eye(3)
        - 2 * normal[:, :, None] * normal[:, None, :] / (normal**2).sum(axis=1)[:, None, None]
    )
    # reflection @ axis = -up z; flipping z where up > 0 and x where up < 0 gives +z with
    # determinant +1
    flip = np.ones((len(vectors), 3))
    flip[up > 0, 2] = -1.0
    flip[up < 0, 0] = -1.0
    return flip[:, :, None] * reflection


def block_rotation(shells: tuple[int, ...], rotations: NDArray[np.float64]) -> NDArray[np.float64]:
    """Block-diagonal rotation of all orbitals of an atom.

    Args:
        shells: l of each shell.
        rotations: (E, 3, 3).

    Returns:
        (E, n, n) with n = Σ(2l+1).
    """
    size = sum(2 * l + 1 for l in shells)
    result = np.zeros((len(rotations), size, size))
    parts = {l: shell_rotation(l, rotations) for l in set(shells)}
    start = 0
    for l in shells:
        result[:, start : start + 2 * l + 1, start : start + 2 * l + 1] = parts[l]
        start += 2 * l + 1
    return result
