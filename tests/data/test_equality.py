"""The same crystal in other words is recognised, another one is not."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from deeph_gformer.data.equality import (
    StructureDescriptor,
    equal_structures,
    match_descriptors,
    structure_descriptor,
)
from deeph_gformer.io.structure import Structure

from ..conftest import random_structure

HOW = ["copy", "shift", "tiny shift", "cells", "rotation", "order", "atom", "lattice"]


def moved(structure: Structure, how: str) -> Structure:
    """The same crystal, described otherwise; ``atom`` and ``lattice`` make it another one."""
    lattice, positions, numbers = structure.lattice, structure.positions, structure.numbers
    if how in ("shift", "tiny shift"):
        positions = positions + {"shift": 0.3, "tiny shift": 2e-6}[how]
    elif how == "cells":
        positions = positions + np.arange(len(numbers))[:, None] * lattice[1]
    elif how == "rotation":
        turn = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))[0]
        lattice, positions = lattice @ turn, positions @ turn
    elif how == "order":
        order = np.arange(len(numbers))[::-1]
        shells = tuple(structure.orbital_types[n] for n in order)
        return dataclasses.replace(
            structure, positions=positions[order], numbers=numbers[order], orbital_types=shells
        )
    elif how == "atom":
        positions = positions + np.eye(len(numbers), 3) * 3e-3
    elif how == "lattice":
        lattice, positions = lattice * 1.002, positions * 1.002
    return dataclasses.replace(structure, lattice=lattice, positions=positions)


@pytest.mark.parametrize("how", HOW)
def test_same_crystal_is_recognised(how: str) -> None:
    first, other = random_structure(1)[0], random_structure(2)[0]
    pairs = equal_structures([other, first, moved(first, how)])
    assert [sorted(p) for p in pairs] == ([] if how in ("atom", "lattice") else [[1, 2]])


@pytest.mark.parametrize("how", HOW)
def test_descriptor_recognises_a_structure(how: str) -> None:
    """Also after it went through a file."""
    first, other = random_structure(1)[0], random_structure(2)[0]
    known = [structure_descriptor("other", other), structure_descriptor("first", first)]
    known = [StructureDescriptor.from_json(json.loads(json.dumps(m.to_json()))) for m in known]
    found = match_descriptors([structure_descriptor("new name", moved(first, how))], known)[0]
    assert (found is None) if how in ("atom", "lattice") else (found is not None)
    if found is not None:
        assert found.name == "first"


def test_descriptor_is_the_mean_distance_to_each_neighbour() -> None:
    """A cube of side 2 Å: itself, six neighbours at 2, then nine of twelve at 2 √2."""
    structure = random_structure(1)[0]
    cube = dataclasses.replace(
        structure,
        lattice=2 * np.eye(3),
        positions=np.zeros((1, 3)),
        numbers=structure.numbers[:1],
        orbital_types=structure.orbital_types[:1],
    )
    row = structure_descriptor("cube", cube).neighbours[int(cube.numbers[0])]
    expected = [0.0, *[2.0] * 6, *[2 * 2**0.5] * 9]
    assert np.allclose(row, expected, atol=1e-6)


def test_damaged_descriptors_are_refused() -> None:
    table = structure_descriptor("a", random_structure(1)[0]).to_json()
    for wrong in ({"lengths": [1.0]}, {"neighbours": {}}, {"elements": {"Xx": 1}}):
        with pytest.raises((KeyError, ValueError)):
            StructureDescriptor.from_json({**table, **wrong})
