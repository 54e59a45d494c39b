"""Levels of H, H with other levels against plain loops, and what files may hold."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import numpy as np
import pytest

from deeph_gformer.io import BlockMatrix
from deeph_gformer.onsite import LevelModel, Radial, Surroundings, shell_levels, with_levels
from deeph_gformer.onsite.levels import centred, kinds_of
from deeph_gformer.onsite.reach import Reach

from ..conftest import random_structure

KINDS = ((0, 0), (1, 0), (2, 0))


def some_levels(seed: int = 0, scale: float = 0.1) -> LevelModel:
    """For the made-up crystals; sulfur has no d."""
    rng = np.random.default_rng(seed)
    levels = rng.normal(size=(2, 3))
    levels[0, 2] = np.nan
    return LevelModel(
        (16, 42),
        KINDS,
        Radial(4.0, 2.0, 1.5, 3),
        (2, 3),
        rng.normal(size=(2, 24)),
        levels,
        scale * rng.normal(size=(3, 24)),
        np.array([1.0, 0.5, 0.8]),
        np.array([0.7, 0.2]),
    )


def test_kinds_of_shells() -> None:
    assert kinds_of((0, 0, 1, 0, 1)) == [(0, 0), (0, 1), (1, 0), (0, 2), (1, 1)]


@pytest.mark.parametrize("spinful", [False, True])
def test_levels_are_means_of_diagonals(spinful: bool) -> None:
    structure, h, _ = random_structure(spinful=spinful)
    found = shell_levels(structure, h, KINDS)
    for atom, shells in enumerate(structure.orbital_types):
        block = h.block([tuple(k) for k in h.keys.tolist()].index((0, 0, 0, atom, atom)))
        diagonal, start = np.diag(block).real, 0
        count = len(diagonal) // (2 if spinful else 1)
        for l in shells:
            own = np.arange(start, start + 2 * l + 1)
            both = np.concatenate([own, own + count]) if spinful else own
            assert found[atom, l] == pytest.approx(diagonal[both].mean(), abs=1e-14)
            start += 2 * l + 1
        assert np.isnan(found[atom, len(shells) :]).all()


def test_centred_takes_out_means_of_what_is_there() -> None:
    values = np.array([[1.0, 5.0], [3.0, np.nan], [8.0, 7.0]])
    there = np.isfinite(values)
    found = centred(values, there, np.zeros(3, dtype=np.int64))
    assert np.allclose(found, [[-3, -1], [-1, 0], [4, 1]])
    found = centred(values, there, np.array([0, 0, 1]))  # two pieces
    assert np.allclose(found, [[-1, 0], [1, 0], [0, 0]])


@pytest.mark.parametrize("spinful", [False, True])
def test_shifts_enter_blocks_by_overlaps(spinful: bool) -> None:
    structure, h, s = random_structure(spinful=spinful)
    rng = np.random.default_rng(3)
    shifts, between = rng.normal(size=(2, 4, 3))
    found = with_levels(structure, h, s, KINDS, shifts, between, spinful)
    assert found.values.dtype == h.values.dtype

    def orbitals(table: Any, atom: int) -> np.ndarray:
        return np.concatenate(
            [np.full(2 * l + 1, table[atom, l]) for l in structure.orbital_types[atom]]
        )

    for e, key in enumerate(h.keys.tolist()):
        table = shifts if key[:3] == [0, 0, 0] and key[3] == key[4] else between
        half = (orbitals(table, key[3])[:, None] + orbitals(table, key[4])[None]) / 2
        expected = half * s.block(e)
        if spinful:
            expected = np.kron(np.eye(2), expected)
        assert np.abs(found.block(e) - h.block(e) - expected).max() < 1e-12
    moved = shell_levels(structure, found, KINDS) - shell_levels(structure, h, KINDS)
    assert np.allclose(moved[np.isfinite(moved)], shifts[np.isfinite(moved)])
    assert np.abs(found.hermitian().values - found.values).max() < 1e-14


def test_blocks_without_overlap_stay() -> None:
    structure, h, s = random_structure()
    few = s.select(np.arange(0, len(s), 3))
    found = with_levels(structure, h, few, KINDS, np.ones((4, 3)), np.ones((4, 3)), False)
    changed = [e for e in range(len(h)) if not np.array_equal(found.block(e), h.block(e))]
    assert changed and set(changed) <= set(range(0, len(s), 3))


def test_a_constant_is_no_difference() -> None:
    """H + μS: the zero of energy is no level."""
    structure, h, s = random_structure()
    model = some_levels()
    numbers = np.random.default_rng(1).normal(size=(4, 24))
    features = Surroundings(numbers, np.zeros(4, dtype=np.int64), 3)
    there = shell_levels(structure, h, KINDS)
    other = BlockMatrix(h.keys, h.shapes, h.values + 0.37 * s.values)
    moved = shell_levels(structure, other, KINDS)
    assert np.allclose(
        model.differences(structure, features, there), model.differences(structure, features, moved)
    )
    full = dataclasses.replace(model, share=np.ones(3))
    shifts = full.shifts(structure, features, there)
    done = with_levels(structure, h, s, KINDS, shifts, shifts, False)
    again = full.differences(structure, features, shell_levels(structure, done, KINDS))
    assert np.abs(again).max() < 1e-12  # a share of 1 leaves no difference


def test_means_and_rests_between_atoms() -> None:
    structure, *_ = random_structure()
    model, shifts = some_levels(), np.array([[1.0, 3.0, 0.0], [1.0, 2.0, 6.0]] * 2)
    found = model.between_atoms(structure, shifts)
    assert np.allclose(found[0], [0.7 * 2 - 0.2, 0.7 * 2 + 0.2, 0.0])
    assert np.allclose(found[1], [0.7 * 3 - 0.4, 0.7 * 3 - 0.2, 0.7 * 3 + 0.6])


def test_json_keeps_eight_digits() -> None:
    model = some_levels()
    again = LevelModel.from_json(model.to_json())
    assert again.radial == model.radial and again.kinds == model.kinds
    for name in ("features", "levels", "weights", "share", "between"):
        assert np.allclose(getattr(again, name), getattr(model, name), rtol=1e-7, equal_nan=True)
    assert again.to_json() == model.to_json()


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.pop("weights"),
        lambda t: t["weights"].pop(),
        lambda t: t["weights"][0].__setitem__(0, None),
        lambda t: t["weights"][0].__setitem__(0, "x"),
        lambda t: t["share"].__setitem__(0, 1.5),
        lambda t: t["share"].__setitem__(0, None),
        lambda t: t["between"].append(0.1),
        lambda t: t["radial"].__setitem__(3, 1),
        lambda t: t["radial"].__setitem__(0, -1.0),
        lambda t: t.__setitem__("kinds", [[0]]),
        lambda t: t.__setitem__("elements", "ab"),
        lambda t: t.__setitem__("ranks", 2),
        lambda t: t.__setitem__("reach", None),
        lambda t: t["reach"]["factor"].pop(),
        lambda t: t["reach"].__setitem__("apart", 0.0),
    ],
)
def test_what_is_no_model_is_refused(change: Any) -> None:
    table = copy.deepcopy(dataclasses.replace(some_levels(), reach=Reach(np.eye(24))).to_json())
    assert LevelModel.from_json(table).reach is not None
    change(table)
    with pytest.raises(ValueError, match="no model of levels"):
        LevelModel.from_json(table)
