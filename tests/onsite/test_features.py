"""Features by plain loops; the same in every description of a crystal; they fade out."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from deeph_gformer.analysis.redescribe import (
    Description,
    move_by_lattice,
    relattice,
    supercell,
)
from deeph_gformer.errors import DataError
from deeph_gformer.io import Structure
from deeph_gformer.onsite import Radial, onsite_features
from deeph_gformer.onsite.waves import lattice_waves

from ..conftest import random_structure

RADIAL = Radial(4.0, 2.0, 1.5, 3)
ELEMENTS = (16, 42)


def test_sums_and_dipoles_by_loops() -> None:
    structure, h, _ = random_structure()
    found = onsite_features(structure, h.keys, ELEMENTS, RADIAL).features
    around, dipoles = np.zeros((4, 2, 2, 3)), np.zeros((4, 2, 2, 3, 3))
    for key in h.keys.tolist():
        r, i, j = np.array(key[:3]), key[3], key[4]
        vector = structure.positions[j] + r @ structure.lattice - structure.positions[i]
        d = np.linalg.norm(vector)
        if d < 1e-9 or d > 4.0:
            continue
        a, b = (ELEMENTS.index(int(structure.numbers[n])) for n in (i, j))
        for c, centre in enumerate((2.0, 2.75, 3.5)):
            value = np.exp(-(((d - centre) / 0.75) ** 2)) * (1 + np.cos(np.pi * d / 4.0)) / 2
            around[i, a, b, c] += value
            dipoles[i, a, b, c] += value * vector / d
    assert np.allclose(found[:, :12], around.reshape(4, -1), atol=1e-13)
    near = np.linalg.norm(structure.edge_vectors(h.keys), axis=1) < 4.0
    waves = lattice_waves(structure.lattice, structure.positions, h.keys[near])
    assert np.allclose(found[:, 12:], waves.potentials(dipoles.reshape(4, -1, 3)), atol=1e-13)


def test_every_description_of_a_crystal_is_the_same() -> None:
    structure, h, _ = random_structure()
    found = onsite_features(structure, h.keys, ELEMENTS, RADIAL).features
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
    turned = dataclasses.replace(
        structure, lattice=structure.lattice @ turn.T, positions=structure.positions @ turn.T
    )
    assert np.allclose(onsite_features(turned, h.keys, ELEMENTS, RADIAL).features, found, atol=1e-9)
    moved = dataclasses.replace(structure, positions=structure.positions + [0.3, -1.0, 7.0])
    assert np.allclose(onsite_features(moved, h.keys, ELEMENTS, RADIAL).features, found, atol=1e-9)
    order = np.array([2, 0, 3, 1])
    place = np.argsort(order)
    other = Structure(
        structure.lattice,
        structure.positions[order],
        structure.numbers[order],
        tuple(structure.orbital_types[n] for n in order),
        False,
        {},
        "other",
    )
    keys = np.concatenate([h.keys[:, :3], place[h.keys[:, 3:]]], axis=1)
    assert np.allclose(
        onsite_features(other, keys, ELEMENTS, RADIAL).features, found[order], atol=1e-9
    )


@pytest.mark.parametrize(
    "new",
    [
        supercell(4, np.diag([2, 1, 2])),
        relattice(4, [[1, 1, 0], [0, 1, 0], [0, -2, 1]]),
        move_by_lattice([[1, 0, 0], [0, 0, 0], [0, -1, 2], [0, 0, 1]]),
    ],
    ids=["supercell", "other vectors", "moved by lattice vectors"],
)
def test_other_cells_of_the_same_crystal(new: Description) -> None:
    structure, h, _ = random_structure()
    found = onsite_features(structure, h.keys, ELEMENTS, RADIAL).features
    other = onsite_features(new.structure(structure), new.blocks(h).keys, ELEMENTS, RADIAL).features
    assert np.allclose(other, found[new.atom], atol=1e-9)


def test_features_are_smooth_where_an_atom_leaves() -> None:
    radial = RADIAL(np.array([4.0 - 1e-4, 4.0]))
    assert np.abs(radial[1]).max() == pytest.approx(0.0, abs=1e-16)
    assert np.abs(radial[0]).max() < 1e-8


def test_far_blocks_do_not_say_how_a_slab_repeats() -> None:
    """A block across the vacuum beyond the cutoff, which one file has and another has not."""
    lattice = np.diag([3.0, 3.0, 12.0])
    positions = np.array([[0.0, 0.0, 0.0], [1.5, 1.5, 2.0]])
    structure = Structure(lattice, positions, np.array([16, 42]), ((0,), (0,)), False, {}, "slab")
    keys = np.array([[0, 0, 0, 0, 1], [1, 0, 0, 0, 0], [0, 1, 0, 0, 0], [1, 0, 0, 1, 1]])
    keys = np.concatenate([keys, np.column_stack([-keys[:, :3], keys[:, 4], keys[:, 3]])])
    far = np.array([[0, 0, 1, 1, 0], [0, 0, -1, 0, 1]])
    found = onsite_features(structure, keys, ELEMENTS, RADIAL)
    more = onsite_features(structure, np.concatenate([keys, far]), ELEMENTS, RADIAL)
    assert found.rank == more.rank == 2
    assert np.array_equal(found.features, more.features) and found.features[:, 12:].any()


def test_unknown_elements_are_refused() -> None:
    structure, h, _ = random_structure()
    with pytest.raises(DataError, match="made: has Mo, which no structure has that the on-site"):
        onsite_features(structure, h.keys, (15, 16), RADIAL)
