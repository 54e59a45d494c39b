"""Metrics against sums done by hand."""

from __future__ import annotations

import numpy as np
import pytest

from deeph_gformer.algebra.orbitals import Basis, make_target_blocks
from deeph_gformer.analysis.metrics import block_errors, structure_errors, summarise
from deeph_gformer.errors import DataError
from deeph_gformer.io.blocks import BlockMatrix

from ..conftest import random_structure


@pytest.mark.parametrize("spinful", [False, True])
def test_errors_by_hand(spinful: bool) -> None:
    structure, h, _ = random_structure(spinful=spinful)
    basis = Basis((16, 42), ((0, 1), (0, 1, 2)), spinful)
    targets = make_target_blocks(basis)
    types = np.array([basis.elements.index(z) for z in structure.numbers])
    rng = np.random.default_rng(0)
    noise = rng.normal(size=len(h.values)) * 1e-3 + (
        1j * rng.normal(size=len(h.values)) * 1e-3 if spinful else 0
    )
    first, both = (BlockMatrix(h.keys, h.shapes, h.values + s * noise) for s in (2.0, 0.5))
    errors = structure_errors("x", h, first, both, targets, types)
    assert errors.stage1_meV == pytest.approx(
        2e3 * np.abs(noise).mean()
    ) and errors.refined_meV == pytest.approx(0.5e3 * np.abs(noise).mean())
    assert errors.refined_max_meV == pytest.approx(
        0.5e3 * np.abs(noise).max()
    ) and errors.elements == len(h.values)
    ss = next(
        c
        for c, channel in enumerate(targets.blocks)
        if (0, 0) in channel and channel[0, 0] == (0, 0)
    )  # s-s of every pair of elements
    total, count = 0.0, 0
    for e, (_, block) in enumerate(BlockMatrix(h.keys, h.shapes, noise)):
        n, m = h.shapes[e] // (2 if spinful else 1)
        parts = [block[0, 0], block[0, m], block[n, 0], block[n, m]] if spinful else [block[0, 0]]
        total, count = total + np.abs(parts).sum(), count + len(parts)
    assert block_errors([errors])[1, ss] == pytest.approx(0.5e3 * total / count)
    table = summarise([errors], targets)
    assert table["ratio_mae_all"] == pytest.approx(0.25) and table["better_structures"] == 1
    assert table["stage1"]["mae_challenging_block_meV"] == pytest.approx(
        np.nanmax(block_errors([errors])[0])
    )


def test_all_is_the_mean_over_structures() -> None:
    basis = Basis((16, 42), ((0, 1), (0, 1, 2)), False)
    targets = make_target_blocks(basis)
    errors = []
    for atoms, shift in ((4, 1e-3), (2, 3e-3)):
        structure, h, _ = random_structure(atoms=atoms)
        types = np.array([basis.elements.index(z) for z in structure.numbers])
        moved = BlockMatrix(h.keys, h.shapes, h.values + shift)
        errors.append(structure_errors(str(atoms), h, moved, h, targets, types))
    table = summarise(errors, targets)
    assert table["stage1"]["mae_all_meV"] == pytest.approx(2.0)
    assert table["stage1"]["mae_elements_meV"] == pytest.approx(
        (errors[0].elements + 3 * errors[1].elements) / (errors[0].elements + errors[1].elements)
    )
    assert table["challenging_structure"] == "2"


def test_nothing_in_common() -> None:
    structure, h, _ = random_structure()
    targets = make_target_blocks(Basis((16, 42), ((0, 1), (0, 1, 2)), False))
    moved = BlockMatrix(h.keys + np.array([50, 0, 0, 0, 0]), h.shapes, h.values)
    with pytest.raises(DataError, match="no block in common"):
        structure_errors("x", moved, h, h, targets, np.zeros(4, dtype=int))
