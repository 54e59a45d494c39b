"""μ, H - μS, and errors without μS."""

from __future__ import annotations

import pathlib
from collections.abc import Callable

import numpy as np
import pytest
import torch

from deeph_gformer.algebra.orbitals import Basis, make_target_blocks
from deeph_gformer.data import dataset
from deeph_gformer.data import gauge as d
from deeph_gformer.errors import DataError
from deeph_gformer.io import legacy

from ..conftest import random_structure

Folder = Callable[..., pathlib.Path]


@pytest.mark.parametrize("spinful", [False, True])
def test_gauge(make_folder: Folder, spinful: bool) -> None:
    """H + μS has a gauge larger by μ, and the standard gauge removes it."""
    _, h, s = random_structure(spinful=spinful)
    doubled = d.spin_double(s) if spinful else s
    moved = d.subtract_overlap(h, doubled, -0.7)
    assert d.gauge_shift(moved, s, spinful) == pytest.approx(
        d.gauge_shift(h, s, spinful) + 0.7, abs=1e-12
    )
    basis = Basis((16, 42), ((0, 1), (0, 1, 2)), spinful)
    sample = dataset.load_sample(
        make_folder(spinful=spinful),
        make_target_blocks(basis),
        "hamiltonians",
        torch.float64,
        "standard",
    )
    assert sample.gauge == pytest.approx(d.gauge_shift(h, s, spinful))


@pytest.mark.parametrize("spinful", [False, True])
def test_errors_do_not_see_the_zero_of_energy(spinful: bool) -> None:
    """H + 3S and H are one; and what is left of any difference is orthogonal to S."""
    _, h, s = random_structure(spinful=spinful)
    _, other, _ = random_structure(seed=1, spinful=spinful)
    other = other.__class__(
        h.keys, h.shapes, h.values + 0.1 * np.resize(other.values, len(h.values))
    )
    doubled = d.spin_double(s) if spinful else s
    moved = d.subtract_overlap(other, doubled, -3.0)
    one, two = (d.aligned(m, h, s, spinful).values for m in (other, moved))
    np.testing.assert_allclose(one, two, atol=1e-12)
    assert abs(np.vdot(doubled.values, one - h.values)) < 1e-9


def test_hamiltonian_without_a_block_of_s_is_named(make_folder: Folder) -> None:
    folder = make_folder()
    structure, h, _ = random_structure()
    near = np.flatnonzero((h.keys[:, :3] == 0).all(axis=1))
    legacy.write_blocks(folder / "hamiltonians.h5", h.select(near))
    targets = make_target_blocks(Basis((16, 42), ((0, 1), (0, 1, 2)), False))
    with pytest.raises(DataError, match=r"hamiltonians\.h5: the gauge needs H on every block"):
        dataset.load_sample(folder, targets, "hamiltonians", torch.float64, "standard")
