"""Edges that no model saw: zeros are left out and told, anything else is refused."""

from __future__ import annotations

import dataclasses
import pathlib
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from ase.build import mx2

import deeph_gformer
from deeph_gformer.algebra.orbitals import Basis, make_target_blocks
from deeph_gformer.data.dataset import load_sample
from deeph_gformer.data.edges import at_the_cutoff, select_edges
from deeph_gformer.data.ranges import LONGEST, Ranges, beyond, bundle_ranges
from deeph_gformer.errors import DataError
from deeph_gformer.io import BlockMatrix, Structure, legacy
from deeph_gformer.io.blocks import match_keys
from deeph_gformer.overlap import load, structure_from_atoms
from deeph_gformer.overlap.neighbours import find_edges

from ..conftest import ROOT, SHELLS, random_structure

MODEL = ROOT / "examples" / "systems" / "models" / "mos2"


@pytest.fixture(scope="module")
def mos2() -> deeph_gformer.pipeline.HamiltonianModel:
    return deeph_gformer.load(MODEL / "gformer", MODEL / "stage1")


@pytest.fixture
def sheet() -> tuple[Structure, BlockMatrix]:
    """A MoS2 sheet with S of the model's own table."""
    provider = load(MODEL / "gformer")
    atoms = mx2("MoS2", a=3.18, thickness=3.13, vacuum=10.0)
    atoms.pbc = True
    structure = structure_from_atoms(atoms, provider.orbital_types, "sheet", False)
    return structure, provider.overlap(structure)


@pytest.mark.parametrize("beyond", [3e-5, -3e-5])
def test_a_shell_at_the_very_cutoff_is_told(
    sheet: tuple[Structure, BlockMatrix], beyond: float
) -> None:
    """Six Mo-Mo neighbours at a distance where other last digits would decide otherwise."""
    structure, overlap = sheet
    cutoffs = dict(load(MODEL / "gformer").cutoffs)
    assert at_the_cutoff(structure, cutoffs) == ()
    mo = (structure.numbers[overlap.keys[:, 3:]] == 42).all(axis=1)
    length = np.linalg.norm(structure.edge_vectors(overlap.keys[mo]), axis=1)
    last = length.max()
    shell = int((length > last - 1e-6).sum())
    (said,) = at_the_cutoff(structure, cutoffs | {(42, 42): last + beyond})
    assert f"{shell} of " in said and f"{last:.5f} of {last + beyond:.5f}" in said
    for away in (1e-3, -1e-3):
        assert at_the_cutoff(structure, cutoffs | {(42, 42): last + away}) == ()


def test_a_few_edges_of_many_at_the_cutoff_are_chance(sheet: tuple[Structure, BlockMatrix]) -> None:
    """8 x 8 sheets with random displacements: thousands of edges, dozens within 5 mÅ."""
    structure, _ = sheet
    cutoffs = {(16, 16): 6.36, (16, 42): 6.36, (42, 42): 6.36}  # twice the lattice constant
    steps = np.array([(x, y, 0) for x in range(8) for y in range(8)])
    large = structure.positions + (steps @ structure.lattice)[:, None]
    noise = np.random.default_rng(0).normal(0, 0.05, (3 * len(steps), 3))
    many = dataclasses.replace(
        structure,
        lattice=structure.lattice * [[8], [8], [1]],
        positions=large.reshape(-1, 3) + noise,
        numbers=np.tile(structure.numbers, len(steps)),
        orbital_types=structure.orbital_types * len(steps),
    )
    keys = find_edges(many.lattice, many.positions, many.numbers, cutoffs)
    assert (np.linalg.norm(many.edge_vectors(keys), axis=1) > 6.355).sum() > 20
    assert at_the_cutoff(many, cutoffs) == ()


def with_far(matrix: BlockMatrix, structure: Structure, cell: int, value: float) -> BlockMatrix:
    """S with two more blocks, of the first atom with its image ``cell`` cells away."""
    n = int(structure.orbital_counts[0])
    keys = np.concatenate([matrix.keys, [[cell, 0, 0, 0, 0], [-cell, 0, 0, 0, 0]]])
    blocks = [matrix.block(e) for e in range(len(matrix))] + [np.full((n, n), value)] * 2
    return BlockMatrix.from_blocks(keys, blocks)


def written(folder: pathlib.Path, structure: Structure, s: BlockMatrix) -> pathlib.Path:
    legacy.write_structure(folder, structure)
    legacy.write_blocks(folder / "overlaps.h5", s)
    return folder


@pytest.mark.parametrize("cell", [3, 40])
def test_zeros_that_reach_too_far_change_nothing(mos2, sheet, tmp_path, cell: int) -> None:
    structure, s = sheet
    plain = mos2.predict(written(tmp_path / "plain", structure, s))
    far = written(tmp_path / "far", structure, with_far(s, structure, cell, 0.0))
    found = mos2.predict(far)
    assert np.array_equal(found.hamiltonian.keys, plain.hamiltonian.keys)
    assert np.array_equal(found.hamiltonian.values, plain.hamiltonian.values)
    assert (
        f"overlaps.h5: blocks of zeros are left out, 'far': block [{cell}, 0, 0, 1, 1]"
        in (found.edges.notes[0])
        or f"block [-{cell}, 0, 0, 1, 1]" in found.edges.notes[0]
    )
    assert "(2 such blocks)" in found.edges.notes[0] and plain.edges.notes == ()
    report = deeph_gformer.refine(far, mos2, tmp_path / "out")
    assert any("blocks of zeros are left out" in w for w in report["structures"][0]["warnings"])


def test_other_blocks_that_reach_too_far_are_refused(mos2, sheet, tmp_path) -> None:
    structure, s = sheet
    far = written(tmp_path / "far", structure, with_far(s, structure, 3, 1e-5))
    words = (
        r"atoms 1 \(Mo\) and 1 \(Mo\) 9.540 Å apart; Mo-Mo edges of the model's training set end"
    )
    with pytest.raises(DataError, match=words):
        mos2.predict(far)
    with pytest.raises(DataError, match=words):
        mos2.predict(structure, keys=with_far(s, structure, 3, 0.0).keys)
    farther = written(tmp_path / "farther", structure, with_far(s, structure, 40, 1e-5))
    with pytest.raises(DataError, match="127.200 Å apart; no orbitals reach 60 Å"):
        select_edges(farther, structure)


def test_ranges_are_those_of_the_training_set(mos2, sheet) -> None:
    structure, s = sheet
    ranges = bundle_ranges(mos2.bundle)
    assert ranges is not None and set(ranges.longest) == {
        (a, b) for a in (16, 42) for b in (16, 42)
    }
    assert not beyond(structure, s.keys, ranges).any()
    table = load(MODEL / "gformer").cutoffs
    for (a, b), reach in ranges.longest.items():
        assert reach == pytest.approx(table[min(a, b), max(a, b)], abs=0.6)


def test_pairs_without_edges_and_distances_without_ranges() -> None:
    structure = Structure(
        np.eye(3) * 100, np.array([[0.0, 0, 0], [3, 0, 0]]), np.array([1, 2]), ((0,), (0,))
    )
    keys = np.array([[0, 0, 0, 0, 0], [0, 0, 0, 0, 1], [0, 0, 0, 1, 0], [1, 0, 0, 0, 1]])
    assert beyond(structure, keys, Ranges({(1, 2): 3.0}, False)).tolist() == [
        False,
        False,
        True,
        True,
    ]
    assert beyond(structure, keys, None).tolist() == [False, False, False, True]
    assert 103 > LONGEST and (match_keys(keys, keys) == np.arange(4)).all()


def test_a_bundle_with_ranges_of_its_own_edges() -> None:
    """Ordered pairs; what was never seen has no edges; an envelope that was never fitted says
    nothing."""

    def bundle(values: list[list[float]]) -> SimpleNamespace:
        envelope = SimpleNamespace(range=torch.tensor(values))
        basis = SimpleNamespace(elements=(16, 42))
        return SimpleNamespace(
            model=SimpleNamespace(envelope=envelope),
            targets=SimpleNamespace(basis=basis),
            path=None,
        )

    ranges = bundle_ranges(bundle([[4.0, 5.0], [5.5, 0.0]]))  # type: ignore[arg-type]
    assert ranges == Ranges({(16, 16): 4.0, (16, 42): 5.0, (42, 16): 5.5}, False)
    assert bundle_ranges(bundle([[1e6, 1e6], [1e6, 1e6]])) is None  # type: ignore[arg-type]
    assert bundle_ranges(None) is None


@pytest.mark.parametrize("order", [(2, 1, 0), (0, 2, 1), (1, 2, 0), (2, 0, 1)])
def test_coordinates_that_changed_places_are_told(sheet, tmp_path, order: tuple[int, ...]) -> None:
    """Without overlaps of a training set: near atoms have no block then, and far ones have one."""
    structure, s = sheet
    assert select_edges(written(tmp_path / "plain", structure, s), structure).notes == ()
    other = dataclasses.replace(structure, positions=structure.positions[:, list(order)])
    choice = select_edges(written(tmp_path / "other", other, s), other)
    assert "overlaps.h5: atoms" in choice.lacking and choice.notes == (choice.lacking,)
    assert "and have no block, others of these elements have one at" in choice.lacking


def test_a_training_warns_of_coordinates_that_changed_places(tmp_path, caplog) -> None:
    structure, h, _ = random_structure(3, 4)
    targets = make_target_blocks(Basis((16, 42), (SHELLS[16], SHELLS[42]), False))
    for name, order in (("plain", [0, 1, 2]), ("other", [2, 0, 1])):
        moved = dataclasses.replace(structure, positions=structure.positions[:, order])
        legacy.write_structure(tmp_path / name, moved)
        legacy.write_blocks(tmp_path / name / "hamiltonians.h5", h)
        caplog.clear()
        load_sample(tmp_path / name, targets, "hamiltonians", torch.float64)
        assert ("do positions, lattice and blocks belong together?" in caplog.text) is (
            name == "other"
        )


def test_blocks_are_missing_and_small_ones_reach_further(sheet, tmp_path) -> None:
    structure, s = sheet
    small = 0.99e-4 * float(np.abs(s.values).max())
    far = written(tmp_path / "far", structure, with_far(s, structure, 6, small))
    assert select_edges(far, structure).lacking == ""  # as projectors of a third atom do
    large = written(tmp_path / "large", structure, with_far(s, structure, 6, 2 * small))
    assert "have one at 19.080 Å" in select_edges(large, structure).lacking
    length = np.linalg.norm(structure.edge_vectors(s.keys), axis=1)
    gone = (s.keys[:, 3] != s.keys[:, 4]) & (length < 2.5)
    holes = written(tmp_path / "holes", structure, s.select(np.flatnonzero(~gone)))
    words = f"2.4.. Å apart and have no block.*{int(gone.sum())} such blocks"
    assert re.search(words, select_edges(holes, structure).lacking)


def test_a_molecule_in_a_small_cell_lacks_nothing(tmp_path) -> None:
    """Nothing repeats, so images in the next cell have no block."""
    positions = np.array([[0.0, 0, 0], [0, 0, 3.0], [0, 0, 6.0]])
    molecule = Structure(np.diag([9.0, 9, 9]), positions, np.array([1, 1, 1]), ((0,),) * 3)
    keys = find_edges(molecule.lattice, positions, molecule.numbers, {(1, 1): 7.0}, (False,) * 3)
    s = BlockMatrix.from_blocks(keys, [np.full((1, 1), 0.5)] * len(keys))
    assert select_edges(written(tmp_path / "m", molecule, s), molecule).lacking == ""
