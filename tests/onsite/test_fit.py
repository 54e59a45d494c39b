"""Planted levels are found again, and so is a planted share."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from deeph_gformer.data.gauge import spin_double, subtract_overlap
from deeph_gformer.errors import DataError
from deeph_gformer.io import BlockMatrix, Structure
from deeph_gformer.onsite import (
    Known,
    fit_levels,
    onsite_features,
    shell_levels,
    with_levels,
    with_share,
)
from deeph_gformer.onsite.levels import centred

from ..conftest import random_structure
from .test_levels import KINDS, some_levels

Made = tuple[Structure, BlockMatrix, BlockMatrix]


def planted(count: int, fitted: int, noise: float = 0.0, spinful: bool = False) -> list[Made]:
    """Structures whose levels are linear in the features that a fit of the first ones has, but for
    noise, eV; their zeros of energy differ."""
    first = random_structure(0)
    radial = fit_levels([random_structure(n)[:2] for n in range(fitted)]).model.radial
    rng, result = np.random.default_rng(7), []
    size = onsite_features(first[0], first[1].keys, (16, 42), radial).features.shape[1]
    weights = rng.normal(size=(3, size))
    for seed in range(count):
        structure, h, s = random_structure(seed, spinful=spinful)
        wanted = onsite_features(structure, h.keys, (16, 42), radial).features @ weights.T
        wanted += (structure.numbers == 42)[:, None] * [3.0, -1.0, 0.0] + rng.normal()
        wanted += noise * rng.normal(size=wanted.shape)
        shifts = np.nan_to_num(wanted - shell_levels(structure, h, KINDS))
        only = np.zeros_like(shifts)
        result.append((structure, with_levels(structure, h, s, KINDS, shifts, only, spinful), s))
    return result


def test_planted_levels_are_found() -> None:
    made = planted(34, 30)
    fit = fit_levels([(a, h) for a, h, _ in made[:30]])
    assert fit.model.elements == (16, 42) and fit.model.kinds == KINDS
    assert (fit.left_out < 1e-3 * fit.spread).all()
    for structure, h, _ in made[30:]:
        features = onsite_features(structure, h.keys, (16, 42), fit.model.radial)
        off = fit.model.differences(structure, features, shell_levels(structure, h, KINDS))
        assert np.abs(off).max() < 1e-3 * fit.spread.max()


def test_errors_of_structures_left_out_are_those_of_fits_without_them() -> None:
    """Against fits that are made again, with the ridge parameter that was chosen."""
    made = [(a, h) for a, h, _ in planted(7, 7, noise=0.2)]
    fit = fit_levels(made)
    off = []
    for n in range(7):
        without = fit_levels(made[:n] + made[n + 1 :]).model
        structure, h = made[n]
        features = onsite_features(structure, h.keys, (16, 42), without.radial)
        levels = shell_levels(structure, h, KINDS)
        off.append(without.differences(structure, features, levels)[:, 0])
    rms = np.sqrt(np.mean(np.square(off)))
    assert fit.left_out[0] == pytest.approx(rms, rel=0.35)  # other means, other choices
    assert 0.1 < fit.left_out[0] < 1.0


@pytest.mark.parametrize("spinful", [False, True])
def test_planted_shares_are_found(spinful: bool) -> None:
    """A network whose levels are wrong, by overlaps to a known part: shares of 1, and that part."""
    made = planted(32, 30, spinful=spinful)
    model = fit_levels([(a, h) for a, h, _ in made[:30]]).model
    model = dataclasses.replace(model, between=np.array([0.6, 0.3]))
    known = []
    for structure, truth, s in made[30:]:
        there = np.isfinite(shell_levels(structure, truth, KINDS))
        wrong = centred(
            np.random.default_rng(len(known)).normal(size=(4, 3)), there, np.zeros(4, np.int64)
        )
        parts = model.between_atoms(structure, wrong)
        net = with_levels(structure, truth, s, KINDS, wrong, parts, spinful)
        both = spin_double(s) if spinful else s
        net = subtract_overlap(net, both, 1.3)  # another zero of energy
        known.append(Known(structure, truth, net, s))
    found = with_share(model, known, spinful)
    assert np.allclose(found.share, 1.0, atol=0.02)
    assert np.allclose(found.between, [0.6, 0.3], atol=0.02)
    right = [Known(a, h, h, s) for a, h, s in made[30:]]
    far = dataclasses.replace(model, weights=0.5 * model.weights)  # would like a share of 2
    some = with_share(far, known, spinful)
    assert some.share.max() <= 1.0 and (some.between <= 1.0).all() and (some.between >= 0.0).all()
    spoiled = dataclasses.replace(model, weights=model.weights + 1.0)
    assert not with_share(spoiled, right, spinful).share.any()  # a network that needs no help


def test_few_structures_and_lonely_atoms_are_refused() -> None:
    made = [random_structure(n)[:2] for n in range(4)]
    with pytest.raises(DataError, match="3 training structures: a model of levels needs 4"):
        fit_levels(made[:3])
    structure, h = made[0]
    alone = h.select(np.flatnonzero((h.keys[:, 3] == h.keys[:, 4]) & ~h.keys[:, :3].any(axis=1)))
    with pytest.raises(DataError, match="has no block between two atoms"):
        fit_levels([*made[1:], (structure, alone)])


def test_the_cutoff_is_within_all_blocks() -> None:
    """Pairs of elements whose blocks end early, in one structure only."""
    made = [random_structure(n)[:2] for n in range(5)]
    structure, h = made[2]
    distance = np.linalg.norm(structure.edge_vectors(h.keys), axis=1)
    sulfur = (structure.numbers[h.keys[:, 3:]] == 16).all(axis=1)
    short = h.select(np.flatnonzero(~sulfur | (distance < 3.0)))
    made[2] = structure, short
    left = distance[sulfur & (distance < 3.0)].max()
    assert fit_levels(made).model.radial.cutoff == pytest.approx(left, abs=1e-3)


def test_some_levels_are_of_the_made_up_crystals() -> None:
    structure, h, _ = random_structure()
    assert (
        np.isfinite(shell_levels(structure, h, KINDS)).sum()
        == np.isfinite(some_levels().levels[[0, 1, 0, 1]]).sum()
    )
