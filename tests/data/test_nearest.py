"""Atoms that are nearer to others, or further from all, than those of training."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from deeph_gformer.algebra.orbitals import Basis
from deeph_gformer.data.graph import build_graph
from deeph_gformer.data.nearest import nearest_table, unlike_nearest
from deeph_gformer.io import Structure
from deeph_gformer.overlap.neighbours import edge_keys

BASIS = Basis((16, 42), ((0,), (0,)), False)
REACH = {(16, 16): 5.0, (16, 42): 5.0, (42, 42): 5.0}


def disulfide(repeat: int = 1, shake: float = 0.0, seed: int = 0) -> Structure:
    """MoS2: Mo-S 2.407 Å, S-S 3.14 Å (over the layer) and 3.16 Å, Mo-Mo 3.16 Å."""
    lattice = np.array([[3.16, 0, 0], [-1.58, 1.58 * 3**0.5, 0], [0, 0, 20.0]])
    third = np.array([[0, 0, 0], [1 / 3, 2 / 3, 0], [1 / 3, 2 / 3, 0]])
    cell = third @ lattice + np.array([[0, 0, 10], [0, 0, 11.57], [0, 0, 8.43]])
    shifts = np.array([[x, y, 0] for x in range(repeat) for y in range(repeat)]) @ lattice
    positions = (cell[:, None] + shifts).reshape(-1, 3)
    positions += np.random.default_rng(seed).normal(0, shake, positions.shape)
    numbers = np.repeat([42, 16, 16], len(shifts))
    shape = lattice * np.array([[repeat], [repeat], [1]])
    return Structure(shape, positions, numbers, ((0,),) * len(numbers))


def table() -> dict[str, object]:
    graphs = []
    for seed in range(4):
        structure = disulfide(2, 0.03, seed)
        keys = edge_keys(structure, REACH)
        graphs.append(build_graph(structure, keys, BASIS, torch.float64))
    return nearest_table(graphs, 2)


def said(structure: Structure) -> str:
    return unlike_nearest(table(), BASIS, structure, edge_keys(structure, REACH))


def test_what_is_remembered() -> None:
    found = table()
    perfect = np.array([[3.14, 2.41], [2.41, 3.16]])
    off = np.array(found["shortest"], dtype=float) - perfect
    assert (off < 0).all() and (off > -0.3).all()
    alone = np.array(found["alone"], dtype=float)
    assert (alone > 2.3).all() and (alone < 2.6).all()


@pytest.mark.parametrize("seed", range(4, 8))
def test_structures_of_the_kind_are_silent(seed: int) -> None:
    assert said(disulfide()) == "" and said(disulfide(3, 0.03, seed)) == ""
    plain = disulfide(2, 0.03, seed)
    assert (
        said(
            dataclasses.replace(
                plain, lattice=plain.lattice * 1.03, positions=plain.positions * 1.03
            )
        )
        == ""
    )


def test_atoms_out_of_place() -> None:
    structure = disulfide()
    # rows of a three-atom cell that changed places: Mo where S was
    swapped = structure.positions[[1, 0, 2]]
    assert "atoms 2 (S) and 3 (S) are 2.407 Å apart" in said(
        dataclasses.replace(structure, positions=swapped)
    )
    # a digit that is there twice: 11.57 becomes 111.57, 8.43 88.43
    for atom, z in ((1, 14.57), (2, 5.43)):
        moved = structure.positions.copy()
        moved[atom, 2] = z
        words = f"nearest to atom {atom + 1} (S) is 3.16"
        assert words in said(dataclasses.replace(structure, positions=moved))
    # nothing within the edges but an atom's own images: alone
    far = {(16, 16): 3.0, (16, 42): 3.0, (42, 42): 3.0}
    lone = dataclasses.replace(structure, positions=moved)
    words = "atom nearest to atom 3 (S) is beyond all edges"
    assert words in unlike_nearest(table(), BASIS, lone, edge_keys(lone, far))


def test_elements_in_the_order_of_the_model() -> None:
    """Which need not ascend: DeepH-E3's folders have the order of their training set."""
    other = Basis((42, 16), ((0,), (0,)), False)
    graphs = [build_graph(s, edge_keys(s, REACH), other) for s in (disulfide(2, 0.03, 0),)]
    record = nearest_table(graphs, 2)
    structure = disulfide()
    assert unlike_nearest(record, other, structure, edge_keys(structure, REACH)) == ""
    swapped = dataclasses.replace(structure, positions=structure.positions[[1, 0, 2]])
    words = unlike_nearest(record, other, swapped, edge_keys(swapped, REACH))
    assert "atoms 2 (S) and 3 (S) are 2.407 Å apart" in words


def test_a_record_that_is_none_says_nothing() -> None:
    structure = disulfide()
    keys = edge_keys(structure, REACH)
    for record in (None, {}, {"shortest": [[1.0]], "alone": [1.0]}, {"shortest": "x", "alone": []}):
        assert unlike_nearest(record, BASIS, structure, keys) == ""
    never = {"shortest": [[None] * 2] * 2, "alone": [None] * 2}
    assert unlike_nearest(never, BASIS, structure, keys) == ""
