"""Invariance: faults that are put in on purpose are found, in their kind and with their size."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import deeph_gformer
from deeph_gformer.analysis.evaluate import evaluate
from deeph_gformer.analysis.invariance import Invariance, crossing, invariance
from deeph_gformer.data.edges import EdgeChoice
from deeph_gformer.io import BlockMatrix, Structure
from deeph_gformer.pipeline import Prediction
from deeph_gformer.prediction.reading import Item

from ..conftest import random_structure
from ..test_pipeline import make_bundle

KINDS = ["supercell", "lattice_vectors", "renumbered", "moved_by_lattice_vectors"]
Fault = Callable[[Structure, np.ndarray], np.ndarray]


class ClosedForm:
    """H_ij(R)_ab = exp(-r) cos(ab), a and b from 0; a fault is added to exp(-r), eV."""

    def __init__(self, fault: Fault | None = None) -> None:
        self.fault = fault

    def predict(self, structure: Structure, keys: np.ndarray, frames: int = 1) -> Prediction:
        shapes = structure.orbital_counts[keys[:, 3:]]
        length = np.linalg.norm(structure.edge_vectors(keys), axis=1)
        pattern = np.concatenate(
            [np.cos(np.outer(np.arange(n), np.arange(m))).ravel() for n, m in shapes]
        )
        size, out = shapes.prod(axis=1), []
        for fault in (None, self.fault):
            each = np.exp(-length)
            if fault is not None:
                each = each + fault(structure, keys)
            out.append(BlockMatrix(keys, shapes, np.repeat(each, size) * pattern))
        return Prediction(structure, None, out[1], out[0], EdgeChoice(keys, "made"), 0.0)

    def read(self, structure: Structure, keys: np.ndarray) -> Item:
        return Item(structure, Any, EdgeChoice(keys, "made"))  # type: ignore[arg-type]

    def predict_graphs(self, items: list[Item], frames: int = 1) -> Iterator[Prediction]:
        for item in items:
            keys = item.edges.keys
            assert item.s is None or len(item.s) == len(keys)  # S of this description
            yield self.predict(item.structure, keys, frames)


def found(fault: Fault | None, overlap: bool = True) -> Invariance:
    structure, h, s = random_structure(1, atoms=4)
    model: Any = ClosedForm(fault)
    given = model.predict(structure, h.keys)
    return invariance(model, given, h, s if overlap else None, seed=3)


FAULTS: dict[str, tuple[Fault, set[str]]] = {
    "knows the number of atoms": (lambda s, k: np.full(len(k), 1e-3 * len(s)), {"supercell"}),
    "knows the order of atoms": (
        lambda s, k: 1e-3 * (np.minimum(k[:, 3], k[:, 4]) == 0),
        {"supercell", "renumbered"},
    ),
    "knows the lattice vectors": (
        lambda s, k: np.full(len(k), 1e-3 * np.abs(np.arccos(s.lattice[0, 1] / 5))),
        {"lattice_vectors"},
    ),
    "knows the cells": (
        lambda s, k: 1e-3 * np.abs(k[:, :3]).sum(axis=1),
        {"supercell", "lattice_vectors", "moved_by_lattice_vectors"},
    ),
}


def test_what_depends_on_distances_alone_is_invariant_and_smooth() -> None:
    result = found(None)
    assert list(result.eigenvalues) == KINDS
    assert max(result.eigenvalues.values()) < 1e-9 and max(result.blocks.values()) < 1e-9
    assert result.smoothness == result.stage1_smoothness < 1e-2  # H'' h² = 1 eV/Å² (1e-3 Å)²
    assert not result.notes


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_found_in_its_kind(name: str) -> None:
    fault, kinds = FAULTS[name]
    result = found(fault)
    assert {k for k, v in result.blocks.items() if v > 1e-6} == kinds
    assert {k for k, v in result.eigenvalues.items() if v > 1e-6} == kinds
    assert max(result.stage1_blocks.values()) < 1e-9


def test_a_difference_is_told_with_its_size() -> None:
    result = found(FAULTS["knows the number of atoms"][0])
    assert result.blocks["supercell"] == pytest.approx(4.0, rel=1e-9)  # 1 meV times 8 - 4 atoms


def nearest_two(structure: Structure, keys: np.ndarray) -> np.ndarray:
    """1 meV where the first of an atom's two competing neighbours is the nearer one."""
    vectors = structure.edge_vectors(keys)
    atom, direction, away = crossing(STRUCTURE, KEYS)
    start = STRUCTURE.positions[atom]
    along = (structure.positions[atom] - start) @ direction
    return np.full(len(vectors), 1e-3 * (along > away))


STRUCTURE, _H, _ = random_structure(1, atoms=4)
KEYS = _H.keys


def test_a_jump_at_the_crossing_is_seen() -> None:
    assert found(nearest_two).smoothness == pytest.approx(1.0, abs=1e-2)
    assert found(nearest_two).stage1_smoothness < 1e-2


def test_two_neighbours_are_equally_far_at_the_crossing() -> None:
    atom, direction, away = crossing(STRUCTURE, KEYS)
    assert np.linalg.norm(direction) == pytest.approx(1)
    own = KEYS[KEYS[:, 3] == atom]

    def order(shift: float) -> list[int]:
        positions = STRUCTURE.positions.copy()
        positions[atom] += shift * direction
        moved = Structure(STRUCTURE.lattice, positions, STRUCTURE.numbers, STRUCTURE.orbital_types)
        return np.argsort(np.linalg.norm(moved.edge_vectors(own), axis=1), kind="stable").tolist()

    assert order(away - 2e-4) != order(away + 2e-4)
    assert away < 0.1


def test_without_overlaps_there_are_blocks_and_a_word() -> None:
    result = found(None, overlap=False)
    assert set(result.eigenvalues.values()) == {None}
    assert result.notes == ("no overlaps: no eigenvalues",) and len(result.blocks) == 4


def test_a_fault_is_found_where_no_state_is_near_the_level() -> None:
    structure, h, s = random_structure(1, atoms=4)
    structure.info["fermi_level"] = -100.0
    model: Any = ClosedForm(FAULTS["knows the cells"][0])
    result = invariance(model, model.predict(structure, h.keys), h, s, seed=3)
    assert result.eigenvalues["supercell"] > 0.1


def test_an_overlap_that_is_none_is_named() -> None:
    structure, h, s = random_structure(1, atoms=4)
    model: Any = ClosedForm()
    broken = BlockMatrix(s.keys, s.shapes, -s.values)
    result = invariance(model, model.predict(structure, h.keys), h, broken)
    assert set(result.eigenvalues.values()) == {None}
    assert all("not positive definite" in note and "made" in note for note in result.notes)


def test_evaluate_reports_per_structure_and_in_total(
    make_folder: Callable[..., pathlib.Path], tiny_stage1: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    for n in range(2):
        make_folder(f"s{n}", seed=n, atoms=2)
    bundle = make_bundle(tiny_stage1, tmp_path / "b", "equivariant")
    model = deeph_gformer.load(bundle, stage1=tiny_stage1)
    result = evaluate(model, tmp_path / "data", rotations=0)
    total, records = result["total"], result["structures"]
    for key in ("invariance_meV", "invariance_blocks_meV", "stage1_invariance_blocks_meV"):
        for kind in KINDS:
            assert total[key][kind] == max(r[key][kind] for r in records)
    assert max(total["stage1_invariance_blocks_meV"].values()) < 1e-6  # float64, exact
    assert total["smoothness_meV"]["step_angstrom"] == 1e-3
    assert (
        "invariance_meV"
        not in evaluate(model, tmp_path / "data", rotations=0, invariance=False)["total"]
    )
