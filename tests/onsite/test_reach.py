"""Leverage by its closed formula; how far parts are apart, by construction."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from deeph_gformer.io import Structure
from deeph_gformer.onsite import (
    Known,
    fit_levels,
    onsite_features,
    shell_levels,
    with_levels,
    with_share,
)
from deeph_gformer.onsite.reach import Reach, furthest_bond, leverage
from deeph_gformer.overlap.neighbours import find_edges

from ..conftest import random_structure
from .test_levels import KINDS


def test_leverage_by_hand() -> None:
    rng = np.random.default_rng(0)
    parts = [rng.normal(size=(n, 5)) * [1.0, 10.0, 0.1, 0.0, 2.0] for n in (4, 6, 5, 3)]
    reach = leverage(parts, ridge=0.3)
    used = [0, 1, 2, 4]
    scale = np.concatenate(parts).std(axis=0)[used]

    def h(x: np.ndarray, others: list[np.ndarray]) -> np.ndarray:
        z, every = x[:, used] / scale, np.concatenate(others)[:, used] / scale
        inverse = np.linalg.inv(every.T @ every + 0.3 * np.eye(4))
        return np.array([row @ inverse @ row for row in z])

    unit = max(h(x, parts[:n] + parts[n + 1 :]).max() for n, x in enumerate(parts))
    new = rng.normal(size=(7, 5))
    assert np.allclose(reach.distances(new), np.sqrt(h(new, parts) / unit), rtol=1e-10)
    assert max(reach.distances(x).max() for x in parts) < 1.0
    assert np.array_equal(reach.factor, np.tril(reach.factor))


def layers(apart: float, period: float = 40.0, count: int = 2) -> Structure:
    """Square layers of atoms 2 Å from each other, one above the other."""
    positions = np.array([[0.0, 0.0, 3.0 + n * apart] for n in range(count)])
    shells = ((0,),) * count
    return Structure(
        np.diag([2.0, 2.0, period]), positions, np.full(count, 6), shells, False, {}, "layers"
    )


def edges(structure: Structure, reach: float = 8.0) -> np.ndarray:
    return find_edges(structure.lattice, structure.positions, structure.numbers, {(6, 6): reach})


@pytest.mark.parametrize("apart", [2.5, 3.7, 5.9])
def test_how_far_layers_are_apart(apart: float) -> None:
    structure = layers(apart)
    found = furthest_bond(structure, edges(structure), 6.0)
    assert apart <= found <= apart + 0.006
    assert furthest_bond(structure, edges(structure), 6.0, enough=apart + 0.2) == apart + 0.2
    found = furthest_bond(structure, edges(structure), 6.0, enough=apart - 0.2)
    assert apart <= found <= apart + 0.006


def test_what_holds_a_crystal_together() -> None:
    far = layers(7.0)  # blocks reach there, bonds within the cutoff do not
    assert furthest_bond(far, edges(far), 6.0) == math.inf
    one = layers(0.0, count=1)
    assert 2.0 <= furthest_bond(one, edges(one), 6.0) <= 2.006
    bulk = layers(0.0, period=4.5, count=1)  # the bond to its own image, along z
    assert 4.5 <= furthest_bond(bulk, edges(bulk), 6.0) <= 4.506


def test_fits_know_how_far_they_reach() -> None:
    made = [random_structure(n) for n in range(8)]
    model = fit_levels([(a, h) for a, h, _ in made[:6]]).model
    assert model.reach is not None and model.reach.shift == math.inf
    wanted = [furthest_bond(a, h.keys, model.radial.cutoff) for a, h, _ in made[:6]]
    assert model.reach.apart == max(wanted)

    def distance(structure: Structure, keys: np.ndarray) -> float:
        around = onsite_features(structure, keys, model.elements, model.radial)
        assert model.reach is not None
        return float(model.reach.distances(model.moved(structure, around)).max())

    assert all(distance(a, h.keys) < 1.0 for a, h, _ in made[:6])
    structure, h, _ = made[6]
    wide = dataclasses.replace(
        structure, lattice=0.8 * structure.lattice, positions=0.8 * structure.positions
    )
    assert distance(wide, h.keys) > 2 * distance(structure, h.keys)
    # rms shifts of validation, with the share that was found; networks whose levels are off
    rng, known = np.random.default_rng(3), []
    for structure, h, s in made[6:]:
        wrong = rng.normal(size=(4, 3))
        net = with_levels(structure, h, s, KINDS, wrong, 0 * wrong, False)
        known.append(Known(structure, h, net, s))
    shared, sizes = with_share(model, known, False), []
    for one in known:
        around = onsite_features(one.structure, one.truth.keys, model.elements, model.radial)
        levels = shell_levels(one.structure, one.made, KINDS)
        sizes.append(np.sqrt(np.mean(shared.shifts(one.structure, around, levels) ** 2)))
    assert shared.reach is not None
    assert shared.reach.shift == pytest.approx(max(sizes)) and max(sizes) > 0.1


def test_json_of_a_triangle() -> None:
    factor = np.tril(np.random.default_rng(0).normal(size=(4, 4)))
    for reach in (Reach(factor), Reach(factor, 3.5, 0.2)):
        again = Reach.from_json(reach.to_json(), 4)
        assert np.allclose(again.factor, factor, rtol=1e-4) and again[1:] == reach[1:]
    for change in (
        {"factor": reach.to_json()["factor"][:3]},
        {"factor": [[1.0], [2.0, "x"], [0.0] * 3, [0.0] * 4]},
        {"factor": [[1.0], [2.0, math.inf], [0.0] * 3, [0.0] * 4]},
        {"apart": -1.0},
        {"shift": 0.0},
        {"shift": "x"},
    ):
        with pytest.raises((ValueError, TypeError)):
            Reach.from_json(reach.to_json() | change, 4)
    with pytest.raises(KeyError):
        Reach.from_json({"factor": reach.to_json()["factor"]}, 4)
