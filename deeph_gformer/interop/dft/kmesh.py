"""H(k) on a Γ-centred mesh -> H(R), and meshes on which no two wanted R coincide."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["aliased", "mesh_for", "half_mesh", "inverse_fourier"]


def aliased(keys: NDArray[np.int64], mesh: NDArray[np.int64]) -> bool:
    """Whether two cells of one pair of atoms are the same on the mesh.

    Args:
        keys: (E, 5), Rx Ry Rz i j.
        mesh: (3,), number of k-points along each reciprocal vector.
    """
    folded = np.concatenate([keys[:, :3] % mesh, keys[:, 3:]], axis=1)
    return len(np.unique(folded, axis=0)) < len(keys)


def mesh_for(keys: NDArray[np.int64], mesh: NDArray[np.int64]) -> NDArray[np.int64]:
    """The smallest mesh, not below the given one, on which no two of the cells of an atom pair
    coincide.

    Args:
        keys: (E, 5), Rx Ry Rz i j.
        mesh: (3,).
    """
    mesh = mesh.copy()
    while aliased(keys, mesh):
        spread = np.array([np.ptp(keys[:, axis]) + 1 for axis in range(3)])
        mesh[np.argmax(spread / mesh)] += 1
    return mesh


def half_mesh(mesh: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """One of each pair k, -k of a Γ-centred mesh.

    Args:
        mesh: (3,).

    Returns:
        (points (K, 3), fractional; weights (K,), which sum to 1).
    """
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in mesh), indexing="ij"), axis=-1)
    grid = grid.reshape(-1, 3)
    code = np.ravel_multi_index(tuple(grid.T), tuple(mesh))
    mirror = np.ravel_multi_index(tuple((-grid % mesh).T), tuple(mesh))
    keep = code <= mirror
    weights = np.where(code == mirror, 1.0, 2.0)[keep] / len(grid)
    return grid[keep] / mesh, weights


def inverse_fourier(
    matrices: Sequence[NDArray[np.number]],
    points: NDArray[np.float64],
    weights: NDArray[np.float64],
    cell: NDArray[np.int64],
) -> NDArray[np.float64]:
    """X(R) = Σ_k w_k Re[e^{-2πi k·R} X(k)] of X(k) = Σ_R e^{+2πi k·R} X(R) with real X(R).

    The real part is the sum with the time-reversed half of the zone.

    Args:
        matrices: (K,) matrices X(k).
        points: (K, 3), fractional.
        weights: (K,).
        cell: (3,), R; -R for codes with the other sign in the phase.
    """
    phases = np.exp(-2j * np.pi * points @ cell) * weights
    return sum(p.real * m.real - p.imag * np.imag(m) for p, m in zip(phases, matrices, strict=True))
