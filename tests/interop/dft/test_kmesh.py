"""Fourier sums between k meshes and lattice vectors."""

from __future__ import annotations

import numpy as np
import pytest

from deeph_gformer.interop.dft.kmesh import half_mesh, inverse_fourier, mesh_for


@pytest.mark.parametrize("mesh", [(1, 1, 1), (4, 1, 3), (5, 2, 4)])
def test_half_mesh_and_back(mesh: tuple[int, int, int]) -> None:
    """A real X(R) on all cells of the mesh comes back from half of its k-points."""
    rng = np.random.default_rng(0)
    cells = np.stack(np.meshgrid(*map(np.arange, mesh), indexing="ij"), -1).reshape(-1, 3)
    x = rng.normal(size=(len(cells), 2, 2))
    points, weights = half_mesh(np.array(mesh))
    assert weights.sum() == pytest.approx(1) and len(points) <= len(cells) // 2 + 4
    x_k = [np.einsum("r,rij->ij", np.exp(2j * np.pi * cells @ k), x) for k in points]
    for cell, expected in zip(cells, x):
        np.testing.assert_allclose(
            inverse_fourier(x_k, points, weights, cell), expected, atol=1e-12
        )


def test_mesh_grows_where_cells_coincide() -> None:
    keys = np.array([[x, y, 0, 0, 0] for x in (-2, -1, 0, 1, 2) for y in (-1, 0, 1)])
    assert mesh_for(keys, np.array([2, 2, 1])).tolist() == [5, 3, 1]
    assert mesh_for(keys, np.array([6, 3, 2])).tolist() == [6, 3, 2]
