"""∂S/∂r against central differences of S itself, and what must hold of it."""

from __future__ import annotations

import dataclasses
import pathlib

import numpy as np
import pytest
from numpy.typing import NDArray

from deeph_gformer.io import Structure
from deeph_gformer.overlap import TwoCentre, edge_keys, load_table
from deeph_gformer.overlap.gradient import overlap_gradient, shell_generators
from deeph_gformer.overlap.rotation import shell_rotation

MODELS = pathlib.Path(__file__).parents[2] / "examples" / "systems" / "models"


def crystal(name: str) -> tuple[TwoCentre, Structure, NDArray[np.int64]]:
    """A distorted cell, its table and its edges."""
    table = load_table(MODELS / name / "gformer" / "overlap.npz")
    numbers = np.array([42, 16, 16]) if name == "mos2" else np.array([6, 6, 6])
    shells = tuple(tuple(table.orbital_types[z]) for z in numbers.tolist())
    lattice = np.array([[3.2, 0.1, 0.0], [-1.5, 2.9, 0.2], [0.0, 0.3, 14.0]])
    positions = np.array([[0.1, 0.0, 0.0], [0.1, 0.0, 2.4], [1.7, 0.9, -1.5]])
    structure = Structure(lattice, positions, numbers, shells, False, {}, name)
    return table, structure, edge_keys(structure, table.cutoffs)


@pytest.mark.parametrize("l", range(4))
def test_generators_are_those_of_rotations(l: int) -> None:
    j = shell_generators(l)
    assert abs(j + np.swapaxes(j, 1, 2)).max() < 1e-12  # rotations are orthogonal
    for a, b, c in ((0, 1, 2), (1, 2, 0), (2, 0, 1)):
        assert abs(j[a] @ j[b] - j[b] @ j[a] - j[c]).max() < 1e-12
    turn = np.array(
        [[1.0, 0.0, 0.0], [0.0, np.cos(0.7), -np.sin(0.7)], [0.0, np.sin(0.7), np.cos(0.7)]]
    )
    values, vectors = np.linalg.eig(0.7 * j[0])
    exponential = (vectors * np.exp(values)) @ np.linalg.inv(vectors)
    assert abs(exponential - shell_rotation(l, turn[None])[0]).max() < 1e-12


@pytest.mark.parametrize("name", ["mos2", "bilayer_graphene"])
def test_gradient_is_that_of_the_blocks(name: str) -> None:
    """Moving one atom moves the edges that start or end at it, the one along z included."""
    table, structure, keys = crystal(name)
    gradient = overlap_gradient(table, structure, keys)
    assert all(np.array_equal(g.keys, keys) for g in gradient)
    sign = (keys[:, 4] == 1).astype(float) - (keys[:, 3] == 1)
    for axis in range(3):
        step, sums = 2e-3, []
        for k in (1, 2):
            ends = []
            for side in (1, -1):
                moved = structure.positions.copy()
                moved[1, axis] += side * k * step
                other = dataclasses.replace(structure, positions=moved)
                ends.append(table.blocks(other, keys, extrapolate=True).values)
            sums.append((ends[0] - ends[1]) / (2 * k * step))
        expected = (4 * sums[0] - sums[1]) / 3
        mine = gradient[axis].values * np.repeat(sign, np.diff(gradient[axis].offsets))
        assert abs(expected).max() > 0.05
        assert abs(mine - expected).max() < 1e-7


def test_gradient_of_the_reversed_edge_is_minus_the_transpose() -> None:
    table, structure, keys = crystal("mos2")
    for component in overlap_gradient(table, structure, keys):
        for e, partner in enumerate(component.partner.tolist()):
            assert np.array_equal(component.block(partner), -component.block(e).T)


def test_some_edges_alone_have_the_same_gradient() -> None:
    table, structure, keys = crystal("mos2")
    whole = overlap_gradient(table, structure, keys)[2]
    rows = np.flatnonzero(keys[:, 3] == 2)[::3]
    part = overlap_gradient(table, structure, keys[rows])[2]
    assert np.array_equal(part.values, whole.select(rows).values)
