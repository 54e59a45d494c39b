"""Hermitian averages of direct-product vectors."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deeph_gformer.algebra.blocks import BlockAssembly
from deeph_gformer.algebra.orbitals import Basis, make_target_blocks
from deeph_gformer.data.symmetry import hermitian_product, transpose_index

from ..conftest import random_structure


@settings(max_examples=15, deadline=None)
@given(
    st.lists(st.integers(0, 3), min_size=1, max_size=3).map(tuple),
    st.lists(st.integers(0, 3), min_size=1, max_size=3).map(tuple),
    st.booleans(),
)
def test_hermitian_average_is_a_projection(
    first: tuple[int, ...], second: tuple[int, ...], spinful: bool
) -> None:
    """Any shells: averaging twice is averaging once, and what it makes is Hermitian."""
    structure, h, _ = random_structure()
    targets = make_target_blocks(Basis((16, 42), (first, second), spinful))
    index = transpose_index(targets)
    generator = torch.Generator().manual_seed(0)
    shape = (len(h.keys), *((4,) if spinful else ()), targets.width)
    kind = torch.complex128 if spinful else torch.float64
    vector = torch.randn(shape, dtype=kind, generator=generator)
    partner = torch.from_numpy(h.partner)
    once = hermitian_product(vector, partner, index)
    assert (hermitian_product(once, partner, index) - once).abs().max() < 1e-15
    types = (structure.numbers == 42).astype(np.int64)
    made = BlockAssembly(targets).to_matrix(once.numpy(), types, h.keys)
    made.require_symmetric("here")
    before = BlockAssembly(targets).to_matrix(vector.numpy(), types, h.keys)
    assert np.abs(before.hermitian().values - made.values).max() < 1e-14
