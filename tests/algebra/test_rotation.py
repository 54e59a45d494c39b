"""Wigner-D, edge frames, rotated irreps."""

from __future__ import annotations

import math

import pytest
import torch
from e3nn import o3
from hypothesis import given, settings
from hypothesis import strategies as st

from deeph_gformer.algebra.rotation import (
    edge_frames,
    random_rotation,
    rotate_irreps,
    spherical_harmonics,
    spin_rotation,
    to_e3nn_axes,
    wigner_blocks,
)


def test_wigner_blocks_turn_harmonics() -> None:
    """Y(R r) = D Y(r) to rounding, and they are e3nn's matrices."""
    generator = torch.Generator().manual_seed(1)
    rotation = random_rotation(generator)
    points = torch.randn(7, 3, dtype=torch.float64, generator=generator)
    turned, plain = spherical_harmonics(points @ rotation.T, 6), spherical_harmonics(points, 6)
    for l, block in enumerate(wigner_blocks(rotation, 6)):
        part = slice(l * l, (l + 1) ** 2)
        assert (turned[:, part] - plain[:, part] @ block.T).abs().max() < 1e-12
        assert (block - o3.Irrep(l, 1).D_from_matrix(to_e3nn_axes(rotation))).abs().max() < 1e-5


def test_edge_frames_put_edges_on_the_polar_axis() -> None:
    """In its own frame an edge has m = 0 only; also along ±z; a zero vector keeps the identity."""
    vectors = torch.tensor(
        [[0.3, -1.0, 2.0], [0.0, 0.0, 1.5], [0.0, 0.0, -2.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]],
        dtype=torch.float64,
    )
    harmonics = spherical_harmonics(vectors, 6)
    for l, frame in enumerate(edge_frames(vectors, 6)):
        assert (
            frame @ frame.transpose(1, 2) - torch.eye(2 * l + 1, dtype=torch.float64)
        ).abs().max() < 1e-12
        local = torch.einsum("ekm,ek->em", frame, harmonics[:, l * l : (l + 1) ** 2])
        expected = torch.zeros_like(local)
        expected[:, l] = (2 * l + 1) ** 0.5
        if l:
            expected[-1] = 0
        assert (local - expected).abs().max() < 1e-12
        assert torch.allclose(frame[-1], torch.eye(2 * l + 1, dtype=torch.float64))


@pytest.mark.parametrize("inversion", [False, True])
def test_rotated_irreps(inversion: bool) -> None:
    """A group action, and l = 1 is a vector."""
    generator = torch.Generator().manual_seed(2)
    a, b = random_rotation(generator, inversion), random_rotation(generator)
    assert (torch.linalg.det(a) < 0) == inversion
    irreps = o3.Irreps("2x0e+1x0o+2x1o+1x1e+1x3o+2x2e")
    x = torch.randn(4, irreps.dim, dtype=torch.float64, generator=generator)
    assert (
        rotate_irreps(rotate_irreps(x, irreps, b), irreps, a) - rotate_irreps(x, irreps, a @ b)
    ).abs().max() < 1e-12
    vector = torch.randn(3, dtype=torch.float64, generator=generator)
    turned = rotate_irreps(vector[[1, 2, 0]][None], o3.Irreps("1o"), a)[0]
    assert (turned - (a @ vector)[[1, 2, 0]]).abs().max() < 1e-12


def test_spin_rotation_is_the_double_cover() -> None:
    """U σ·v U† = σ·(R v), and U is unitary."""
    sigma = torch.tensor(
        [[[0, 1], [1, 0]], [[0, -1j], [1j, 0]], [[1, 0], [0, -1]]], dtype=torch.complex128
    )
    rotation = random_rotation(torch.Generator().manual_seed(3))
    u = spin_rotation(rotation)
    assert (u @ u.conj().T - torch.eye(2)).abs().max() < 1e-12
    vector = torch.tensor([0.2, -0.7, 1.1], dtype=torch.float64)
    turned = u @ torch.einsum("i,ijk->jk", vector.to(torch.complex128), sigma) @ u.conj().T
    assert (
        turned - torch.einsum("i,ijk->jk", (rotation @ vector).to(torch.complex128), sigma)
    ).abs().max() < 1e-12


ANGLES = st.tuples(*[st.floats(-7.0, 7.0)] * 3)


def _rotation(angles: tuple[float, float, float]) -> torch.Tensor:
    """Turns about x, y and z, one after the other, (3, 3)."""
    made = torch.eye(3, dtype=torch.float64)
    for axis, angle in enumerate(angles):
        a, b = [n for n in range(3) if n != axis]
        turn = torch.eye(3, dtype=torch.float64)
        turn[a, a] = turn[b, b] = math.cos(angle)
        turn[a, b], turn[b, a] = -math.sin(angle), math.sin(angle)
        made = turn @ made
    return made


@settings(max_examples=25, deadline=None)
@given(ANGLES, ANGLES)
def test_wigner_blocks_are_a_representation(
    one: tuple[float, float, float], two: tuple[float, float, float]
) -> None:
    """D(R1 R2) = D(R1) D(R2), D(R⁻¹) = D(R)ᵀ; spin up to the sign of the double cover."""
    a, b = _rotation(one), _rotation(two)
    for l, (first, second, both) in enumerate(
        zip(wigner_blocks(a, 5), wigner_blocks(b, 5), wigner_blocks(a @ b, 5), strict=True)
    ):
        assert (first @ second - both).abs().max() < 1e-11, l
        assert (first @ first.T - torch.eye(2 * l + 1, dtype=torch.float64)).abs().max() < 1e-11
    spin, wanted = spin_rotation(a) @ spin_rotation(b), spin_rotation(a @ b)
    assert min((spin - wanted).abs().max(), (spin + wanted).abs().max()) < 1e-6
