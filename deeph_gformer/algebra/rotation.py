"""Rotations of spherical tensors.

Wigner-D blocks, edge frames on e3nn's polar axis, rotated Hamiltonians.

e3nn orders vectors (y, z, x), so its polar axis is the Cartesian z axis: with an edge along it,
only m = 0 of Y_l is non-zero.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from e3nn import o3
from torch import Tensor

from .dual import Dual
from .layout import SplitFrame

__all__ = [
    "edge_frames",
    "generators",
    "moved_frames",
    "direction_frames",
    "wigner_blocks",
    "to_e3nn_axes",
    "random_rotation",
    "spin_rotation",
    "spherical_harmonics",
    "rotate_irreps",
]

_AXES = [1, 2, 0]


def to_e3nn_axes(rotation: Tensor) -> Tensor:
    """A Cartesian (x, y, z) rotation matrix in e3nn's order (y, z, x); (..., 3, 3)."""
    return rotation[..., _AXES, :][..., _AXES]


def random_rotation(generator: torch.Generator | None = None, inversion: bool = False) -> Tensor:
    """A random proper rotation of Cartesian vectors (times -1 with ``inversion``).

    (3, 3) float64, uniform over SO(3).
    """
    matrix, upper = torch.linalg.qr(torch.randn(3, 3, generator=generator, dtype=torch.float64))
    matrix = matrix * torch.diagonal(upper).sign()
    matrix = matrix * torch.linalg.det(matrix).sign()
    return -matrix if inversion else matrix


def wigner_blocks(rotation: Tensor, lmax: int) -> list[Tensor]:
    """D^l(R) for l = 0..lmax of one proper Cartesian rotation, acting on columns in e3nn's order.

    Args:
        rotation: (3, 3), proper (take an inversion out first: it multiplies an irrep by its
            parity).
        lmax: largest l.

    Returns:
        lmax + 1 matrices (2 l + 1, 2 l + 1), in the rotation's dtype; computed in float64.
    """
    return [
        _fit_wigner(l, to_e3nn_axes(rotation.double().cpu()).T).to(rotation)
        for l in range(lmax + 1)
    ]


@functools.lru_cache(maxsize=32)
def _sample(l: int) -> tuple[Tensor, Tensor]:
    """Points on the sphere (e3nn's axes) and the pseudo-inverse of Y_l at them."""
    points = torch.nn.functional.normalize(
        torch.randn(4 * l + 8, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(l)),
        dim=-1,
    )
    return points, torch.linalg.pinv(o3.spherical_harmonics(l, points, normalize=False))


def _fit_wigner(l: int, turn: Tensor) -> Tensor:
    """D^l with Y_l(x R^T) = Y_l(x) D^T, solved from Y_l itself in float64.

    (``o3.wigner_D`` is good to 1e-7 only.)

    Args:
        l: degree.
        turn: (..., 3, 3), R^T in e3nn's axes, float64, proper.

    Returns:
        (..., 2 l + 1, 2 l + 1).
    """
    points, inverse = _sample(l)
    return (inverse @ o3.spherical_harmonics(l, points @ turn, normalize=False)).transpose(-1, -2)


@functools.lru_cache(maxsize=32)
def _tilt_table(l: int, device: torch.device) -> Tensor:
    """(2l+1, (2l+1)^2): coefficients of D^l(0, β, 0) in cos kβ (k = 0..l), sin kβ (k = 1..l)."""
    beta = torch.arange(2 * l + 1, dtype=torch.float64) * (2 * torch.pi / (2 * l + 1)) + 0.3
    one, zero, c, s = (
        torch.ones_like(beta),
        torch.zeros_like(beta),
        torch.cos(beta),
        torch.sin(beta),
    )
    about_x = torch.stack([one, zero, zero, zero, c, -s, zero, s, c], dim=-1).reshape(-1, 3, 3)
    k = torch.arange(l + 1, dtype=torch.float64)
    waves = torch.cat([torch.cos(beta[:, None] * k), torch.sin(beta[:, None] * k[1:])], dim=1)
    return torch.linalg.solve(
        waves, _fit_wigner(l, about_x.transpose(-1, -2)).reshape(2 * l + 1, -1)
    ).to(device)


def edge_frames(vectors: Tensor, lmax: int) -> list[Tensor]:
    """Matrices that turn e3nn's polar axis onto each edge.

    ``global = D @ local``, ``local = D^T @ global``.

    Args:
        vectors: (E, 3), Cartesian, any length; a zero vector (self-loop) gets the identity.
        lmax: largest l.

    Returns:
        lmax + 1 tensors (E, 2 l + 1, 2 l + 1) in the vectors' dtype; D^l(α, β, 0) computed in
        float64.
    """
    return _frames(vectors.roll(-1, dims=1), lmax)


@functools.lru_cache(maxsize=32)
def generators(l: int) -> Tensor:
    """J_a of D^l(1 + ω×) = 1 + Σ_a ω_a J_a, a = x, y, z (Cartesian); (3, 2l+1, 2l+1) float64.

    From the derivatives of Y_l itself (o3.so3_generators is good to 1e-7 only).
    """
    points, inverse = _sample(l)
    out = []
    for axis in torch.eye(3, dtype=torch.float64):
        speed = torch.linalg.cross(axis[_AXES].expand_as(points), points)
        # e3nn's (y, z, x) is an even permutation of (x, y, z): it keeps the sense of ω x p
        slope = torch.func.jvp(
            functools.partial(o3.spherical_harmonics, l, normalize=False), (points,), (speed,)
        )[1]
        out.append((inverse @ slope).T)
    return torch.stack(out)


def moved_frames(frames: Sequence[Tensor], start: Tensor, vectors: Tensor) -> list[SplitFrame]:
    """:func:`edge_frames` of edges of which the first move, smooth to first order, also along the
    polar axis.

    Angles about the edge are free; here the frame turns with the edge and not about it.

    Args:
        frames: D^l of all edges, (E, 2 l + 1, 2 l + 1).
        start: (M, 3), where the first edges are; a zero vector keeps its frame.
        vectors: (M, 3), the same numbers, with derivatives.

    Returns:
        The same matrices, with the derivatives that follow from those of ``vectors``.
    """
    square = start.square().sum(dim=1, keepdim=True)
    unit = torch.where(square > 0, start / square.clamp(min=1e-30), 0.0)
    turn = torch.linalg.cross(unit, vectors)  # zero, but not its derivative
    out = []
    for l, frame in enumerate(frames):
        moving, still = frame.split([len(start), len(frame) - len(start)])
        if l > 0:
            rate = torch.einsum("ea,amn->emn", turn, generators(l).to(frame))
            moving = moving + rate @ moving
        out.append(SplitFrame(moving, still))
    return out


def direction_frames(directions: Tensor, lmax: int) -> list[Tensor]:
    """:func:`edge_frames` of vectors in e3nn's order (y, z, x)."""
    return _frames(directions, lmax)


@torch.no_grad()
def _frames(directions: Tensor, lmax: int) -> list[Tensor]:
    x, y, z = directions.double().unbind(-1)
    alpha = torch.atan2(x, z)
    beta = torch.atan2(torch.hypot(x, z), y)
    out = []
    for l in range(lmax + 1):
        k = torch.arange(l + 1, dtype=torch.float64, device=directions.device)
        waves = torch.cat([torch.cos(beta[:, None] * k), torch.sin(beta[:, None] * k[1:])], dim=1)
        tilt = (waves @ _tilt_table(l, directions.device)).reshape(-1, 2 * l + 1, 2 * l + 1)
        m = torch.arange(l, -l - 1, -1, dtype=torch.float64, device=directions.device)
        turned = torch.cos(alpha[:, None] * m)[..., None] * tilt + torch.sin(alpha[:, None] * m)[
            ..., None
        ] * tilt.flip(1)
        out.append(turned.to(directions.dtype))
    return out


def spherical_harmonics(vectors: Tensor, lmax: int) -> Tensor:
    """e3nn's Y_lm, component normalised, of Cartesian vectors, as DeepH-E3 uses them.

    Args:
        vectors: (E, 3). A zero vector has Y_00 = 1 and all other components 0.
        lmax: largest l.

    Returns:
        (E, (lmax + 1)^2).
    """
    if isinstance(vectors, Dual):  # e3nn's are compiled
        result: Any = vectors.row_wise(lambda rows: spherical_harmonics(rows, lmax))
        return result
    return o3.spherical_harmonics(
        list(range(lmax + 1)), vectors.roll(-1, dims=1), normalize=True, normalization="component"
    )


def spin_rotation(rotation: Tensor) -> Tensor:
    """D^{1/2}(R) of one proper Cartesian rotation in the basis (up, down) along z.

    (2, 2) complex128, defined up to a sign.
    """
    angles = o3.matrix_to_angles(to_e3nn_axes(rotation.double()))
    about_z = [
        torch.diag(torch.exp(torch.tensor([-0.5j, 0.5j], dtype=torch.complex128) * a))
        for a in angles
    ]
    to_y = torch.tensor([[1, 1], [1j, -1j]], dtype=torch.complex128) / 2**0.5
    return about_z[0] @ to_y @ about_z[1] @ to_y.conj().T @ about_z[2]


def rotate_irreps(flat: Tensor, irreps: o3.Irreps, rotation: Tensor) -> Tensor:
    """Turn features in e3nn's flat layout.

    Args:
        flat: (rows, irreps.dim).
        irreps: of the columns.
        rotation: (3, 3), Cartesian, orthogonal; an improper one also multiplies by the parity.

    Returns:
        (rows, irreps.dim): each irrep's components times D^l(R)^T.
    """
    improper = bool(torch.linalg.det(rotation.double()) < 0)
    turns = wigner_blocks((-rotation if improper else rotation).double(), irreps.lmax)
    parts, start = [], 0
    for mul, ir in irreps:
        turn = turns[ir.l].to(flat) * (ir.p if improper else 1)
        block = flat[:, start : start + mul * ir.dim].reshape(-1, mul, ir.dim)
        parts.append((block @ turn.T).reshape(-1, mul * ir.dim))
        start += mul * ir.dim
    return torch.cat(parts, dim=1)
