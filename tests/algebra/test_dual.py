"""Dual numbers against :func:`torch.func.jvp`, function by function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from deeph_gformer.algebra.dual import Dual, derivatives_along
from deeph_gformer.algebra.layout import SplitFrame, turn
from deeph_gformer.algebra.rotation import edge_frames, spherical_harmonics

GENERATOR = torch.Generator().manual_seed(5)


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=GENERATOR, dtype=torch.float64)


A, B, W, V, F = random(6, 3, 4), random(6, 3, 4), random(4, 5), random(4), random(6, 3, 3)
INDEX = torch.tensor([0, 2, 2, 1, 5, 4])
MASK = (A > 0)[:, :, :1]
NORM = torch.nn.LayerNorm(4).double()
torch.nn.init.normal_(NORM.weight, generator=GENERATOR)
torch.nn.init.normal_(NORM.bias, generator=GENERATOR)
LINEAR = torch.nn.Linear(4, 2).double()


def _in_place(x: Any) -> Any:
    total = x * 2
    total.index_add_(0, INDEX, x * x)
    return total


FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "sums": lambda x: (x + 2) + (V + x) - (1 - x) * 3 + x[:, 0][:, None] - B + (-x),
    "fewer dimensions": lambda x: x[0, 0] + B * x[0, 0] + x[:, :1] * B[0, 0],
    "products": lambda x: (x * x[:, :1]) * V / (2 + x * x) + 1 / (3 + x**2) + x**3 / B,
    "matrices": lambda x: (x @ W) @ (x @ W).transpose(1, 2) @ B,
    "matrix from the left": lambda x: torch.bmm(F, x) + F @ x + torch.matmul(F[0], x),
    "linear": lambda x: LINEAR(x[:, 0]) + torch.addmm(V[:2], x[:, 1], W[:, :2]),
    "shapes": lambda x: x.reshape(6, 12).view(3, 24).flatten().unflatten(0, (9, -1))[1:, None],
    "more shapes": lambda x: x[:, :1].expand(6, 2, 4).transpose(1, 2).squeeze(0).unsqueeze(-1),
    "parts": lambda x: torch.cat([x.split([1, 2], 1)[1], x.unbind(1)[0][:, None], B[:, :1]], dim=1),
    "stack": lambda x: torch.stack([x, B, x * x], dim=1),
    "rows": lambda x: x.index_select(0, INDEX) * x[INDEX] + x[:, [0, 2, 1]],
    "sum into rows": lambda x: (
        B.index_add(0, INDEX, x) + x.new_zeros(6, 3, 4).index_add_(0, INDEX, x * x)
    ),
    "means": lambda x: x.sum(dim=0) * x.mean(dim=(1, 2)).sum(0) + x.square().mean(dim=1)[:3, None],
    "element-wise": lambda x: x.exp() + torch.sigmoid(x) * torch.tanh(x) + (x.square() + 1).sqrt(),
    "more element-wise": lambda x: (x * x + 1).log() * (x * x + 1).rsqrt() + functional.silu(x),
    "choice": lambda x: torch.where(MASK, x, 1.0) + torch.where(MASK, B, x) + x.clamp(-0.5, 0.5),
    "norm": lambda x: NORM(x),
    "norm of two dimensions": lambda x: functional.layer_norm(x, (3, 4)),
    "a multiple is added": lambda x: torch.add(x, x * x, alpha=2) + torch.add(B, x, alpha=-3),
    "a choice by more dimensions": lambda x: torch.where(MASK[:, :1], x[0], 0.5 * x[1]),
    "matrices of more dimensions": lambda x: (
        x[0] @ B.transpose(1, 2) @ x[1] + B @ (x[0].transpose(0, 1) @ x[0])
    ),
    "vectors": lambda x: x @ x[0, 0] + V @ x[0].transpose(0, 1),
    "constants of more dimensions": lambda x: B / (2 + x[0] * x[0]) + x[0] / B,
    "separate lists": lambda x: x[INDEX[:3], :, [0, 3, 1]],
    "in place": lambda x: _in_place(x),
    "no rule": lambda x: torch.linalg.vector_norm(x, dim=-1) + torch.einsum("eij,j->ei", x, V),
    "row by row": lambda x: spherical_harmonics(x[:, :, 0], 3),
    "frames": lambda x: turn(SplitFrame(x[:2, :, :3], F[2:]), B, True) + turn(F, x, False),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_derivatives_are_those_of_torch(name: str) -> None:
    function, directions = FUNCTIONS[name], random(3, *A.shape)
    directions[:, 1] = 0  # a row that stands still
    made = function(Dual(torch.cat([A[None], directions])))
    assert (made.value - function(A)).abs().max() < 1e-12
    slopes = derivatives_along(function, A, directions)
    for slope, direction in zip(slopes, directions, strict=True):
        expected = torch.func.jvp(function, (A,), (direction,))[1]
        assert slope.shape == expected.shape and (slope - expected).abs().max() < 1e-11


def test_what_does_not_move() -> None:
    directions = random(3, *A.shape)
    assert not derivatives_along(lambda x: x.detach() * 2, A, directions).any()
    assert not derivatives_along(lambda x: torch.where(x > 0, 1.0, V), A, directions).any()
    dual = Dual(torch.cat([A[None], directions]))
    assert dual.dim() == 3 and len(dual) == 6 and dual.dtype == torch.float64
    assert torch.equal(torch.argsort(dual), torch.argsort(A))
    assert torch.equal(torch.ones_like(dual), torch.ones_like(A))


def test_a_split_frame_turns_as_a_whole_one() -> None:
    frame = edge_frames(random(6, 3), 2)[2]
    value, split = random(6, 5, 2), SplitFrame(frame[:2], frame[2:])
    for to_local in (True, False):
        assert torch.equal(turn(split, value, to_local), turn(frame, value, to_local))
