"""Direct sum <-> direct product <-> blocks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deeph_gformer.algebra.blocks import (
    BlockAssembly,
    DirectSumToProduct,
    block_transform,
    orbital_rotation,
    rotate_blocks,
)
from deeph_gformer.algebra.orbitals import Basis, TargetBlocks, make_target_blocks
from deeph_gformer.algebra.rotation import random_rotation, rotate_irreps
from deeph_gformer.algebra.wigner import GENERATIONS, Generation
from deeph_gformer.errors import ModelError
from deeph_gformer.io.blocks import BlockMatrix, sort_keys

SHELLS = st.lists(st.integers(0, 3), min_size=1, max_size=4).map(tuple)


@settings(max_examples=25, deadline=None)
@given(st.lists(SHELLS, min_size=1, max_size=2), st.booleans(), st.sampled_from(GENERATIONS))
def test_round_trip(shells: list[tuple[int, ...]], spinful: bool, generation: Generation) -> None:
    """Any shells, with and without spin: there and back to 1e-12, both ways."""
    basis = Basis(tuple(range(1, len(shells) + 1)), tuple(shells), spinful)
    targets = make_target_blocks(basis)
    transform = DirectSumToProduct(targets, generation, torch.float64)
    generator = torch.Generator().manual_seed(0)
    h = torch.randn(3, targets.irreps().dim, dtype=torch.float64, generator=generator)
    product = transform(h)
    assert (transform.inverse(product) - h).abs().max() < 1e-12
    other = torch.randn(product.shape, dtype=product.dtype, generator=generator)
    assert (transform(transform.inverse(other)) - other).abs().max() < 1e-12


@pytest.mark.parametrize("spinful", [False, True])
def test_transform_scale(spinful: bool) -> None:
    """Spinless, the inverse carries 2l + 1 (DESIGN: the scale of the symbols)."""
    matrix = block_transform(1, 2, spinful, "0.3")
    if not spinful:
        weights = torch.cat(
            [torch.full((2 * l + 1,), 2.0 * l + 1, dtype=torch.float64) for l in (1, 2, 3)]
        )
        assert (torch.linalg.inv(matrix) - weights[:, None] * matrix.T).abs().max() < 1e-12
    assert matrix.shape == ((60, 60) if spinful else (15, 15))


@pytest.mark.parametrize("spinful", [False, True])
def test_direct_sum_and_blocks_turn_alike(spinful: bool) -> None:
    """Rotating the irreps of the direct sum = rotating the blocks in legacy order, inversion
    included."""
    basis = Basis((6, 8), ((0, 1, 2), (1, 3)), spinful)
    targets = make_target_blocks(basis)
    transform, assembly = DirectSumToProduct(targets, "0.3", torch.float64), BlockAssembly(targets)
    keys = np.array([[0, 0, 0, i, j] for i in (0, 1) for j in (0, 1)])
    types = np.array([0, 1])
    h = torch.randn(
        4, targets.irreps().dim, dtype=torch.float64, generator=torch.Generator().manual_seed(5)
    )
    for inversion in (False, True):
        rotation = random_rotation(torch.Generator().manual_seed(6), inversion)
        turned = assembly.to_matrix(
            transform(rotate_irreps(h, targets.irreps(), rotation)).numpy(), types, keys
        )
        expected = rotate_blocks(
            assembly.to_matrix(transform(h).numpy(), types, keys), basis, types, rotation
        )
        assert np.abs(turned.values - expected.values).max() < 1e-12
        u = orbital_rotation(basis, 1, rotation)
        assert np.abs(u @ u.conj().T - np.eye(len(u))).max() < 1e-12


@pytest.mark.parametrize("spinful", [False, True])
def test_assembly_and_back(spinful: bool) -> None:
    """Blocks to vectors to blocks; the mask says what an element pair has.

    Unpredicted elements get the filling.
    """
    basis = Basis((6, 8), ((0, 1), (0, 0, 2)), spinful)
    keys = np.array([[0, 0, r, i, j] for r in (0, 1) for i in (0, 1) for j in (0, 1)])
    keys = keys[sort_keys(keys)]
    types = np.array([0, 1])
    rng = np.random.RandomState(0)
    counts = [basis.counts(n) * (2 if spinful else 1) for n in types]
    made = [
        rng.standard_normal((counts[i], counts[j]))
        + (1j * rng.standard_normal((counts[i], counts[j])) if spinful else 0)
        for _, _, _, i, j in keys
    ]
    matrix = BlockMatrix.from_blocks(keys, made)
    assembly = BlockAssembly(make_target_blocks(basis))
    vectors, mask = assembly.from_matrix(matrix, types)
    assert np.array_equal(assembly.to_matrix(vectors, types, keys).values, matrix.values)
    assert mask.sum() == len(matrix.values)
    part = make_target_blocks(basis, "diag")
    partial = BlockAssembly(part)
    vectors, _ = partial.from_matrix(matrix, types)
    values = partial.to_matrix(vectors, types, keys, missing=-7.0).values
    assert (
        ((values == matrix.values) | (values == -7)).all()
        and (values == -7).any()
        and (values == matrix.values).any()
    )


def test_a_block_predicted_twice_is_refused() -> None:
    """Two channels for the same shells."""
    basis = Basis((6,), ((0, 0),), False)
    with pytest.raises(ModelError, match="two output channels"):
        BlockAssembly(TargetBlocks(basis, ({(0, 0): (0, 1)}, {(0, 0): (0, 1)})))
