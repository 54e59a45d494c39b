"""Rows of atoms and edges: by type, by structure, and gathered."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

__all__ = ["RowGroups", "Segments", "gather_rows", "permuted"]


class RowGroups(NamedTuple):
    """Rows of equal type, run after run.

    Attributes:
        types: of each run.
        sizes: rows of each run.
        order: (rows,), which row stands where in the runs; None: rows stand so already.
        inverse: its inverse.
    """

    types: list[int]
    sizes: list[int]
    order: Tensor | None
    inverse: Tensor | None

    @classmethod
    def of(cls, kind: Tensor, kinds: int) -> RowGroups:
        """From a type per row (rows,), 0 to ``kinds`` - 1."""
        if kinds == 1:
            return cls([0], [len(kind)], None, None)
        types, sizes = torch.unique_consecutive(kind, return_counts=True)
        if len(types) <= 2 * kinds:  # self-loops stand apart
            return cls(types.tolist(), sizes.tolist(), None, None)
        order = torch.argsort(kind, stable=True)
        types, sizes = torch.unique_consecutive(kind[order], return_counts=True)
        return cls(types.tolist(), sizes.tolist(), order, torch.argsort(order))


class Segments(NamedTuple):
    """Which structure each row belongs to, for the graph-wide means of :class:`LayerNorm`.

    Attributes:
        rows: (rows,) int64, or None for a single structure.
        structures: how many there are.
        sizes: (structures,), rows of each.
    """

    rows: Tensor | None
    structures: int
    sizes: Tensor

    @classmethod
    def of(cls, batch: Tensor, count: int, dtype: torch.dtype) -> Segments:
        """From a structure number per row."""
        if count == 1:
            return cls(
                None, 1, torch.full((1,), float(len(batch)), dtype=dtype, device=batch.device)
            )
        return cls(batch, count, torch.bincount(batch, minlength=count).clamp(min=1).to(dtype))

    def part(self, start: int, stop: int) -> Segments:
        """Of some rows; ``sizes`` stay those of whole structures."""
        return self if self.rows is None else self._replace(rows=self.rows[start:stop])

    def sum(self, value: Tensor) -> Tensor:
        """Sum over the rows of each structure: (rows, ...) to (count, ...)."""
        if self.rows is None:
            return value.sum(dim=0, keepdim=True)
        return value.new_zeros(self.structures, *value.shape[1:]).index_add(0, self.rows, value)

    def mean(self, value: Tensor) -> Tensor:
        """Mean over the rows of each structure: (rows, ...) to (count, ...)."""
        return self.sum(value) / self.sizes.reshape(-1, *[1] * (value.dim() - 1))

    def spread(self, value: Tensor) -> Tensor:
        """(count, ...) back to rows (broadcasting for a single structure)."""
        return value if self.rows is None else value[self.rows]


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(value: Tensor, index: Tensor) -> Tensor:
        return value.index_select(0, index)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        value, index = inputs
        ctx.rows = len(value)
        ctx.save_for_backward(index)
        ctx.save_for_forward(index)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (index,) = ctx.saved_tensors
        total = gradient.new_zeros(ctx.rows, *gradient.shape[1:])
        return total.index_add_(0, index, gradient.contiguous()), None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, _: None) -> Tensor:
        return tangent.index_select(0, ctx.saved_tensors[0])


def gather_rows(value: Tensor, index: Tensor) -> Tensor:
    """``value[index]``, whose gradient is summed from contiguous rows: torch takes up to a hundred
    times as long for strided ones."""
    if not torch.is_grad_enabled():
        return value.index_select(0, index)
    return _GatherRows.apply(value, index)


class _Permuted(torch.autograd.Function):
    @staticmethod
    def forward(value: Tensor, order: Tensor, inverse: Tensor, dim: int) -> Tensor:
        return value.index_select(dim, order)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, order, inverse, ctx.dim = inputs
        ctx.save_for_backward(order, inverse)
        ctx.save_for_forward(order, inverse)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        order, inverse = ctx.saved_tensors
        return permuted(gradient, inverse, order, ctx.dim), None, None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: Any) -> Tensor:
        return tangent.index_select(ctx.dim, ctx.saved_tensors[0])


def permuted(value: Tensor, order: Tensor, inverse: Tensor, dim: int) -> Tensor:
    """``value`` in another order, whose gradient is put back in order: torch adds it up, number by
    number.

    Args:
        value: any shape.
        order: of the entries of one dimension, a permutation.
        inverse: its inverse.
        dim: the dimension.
    """
    if not torch.is_grad_enabled():
        return value.index_select(dim, order)
    result: Tensor = _Permuted.apply(value, order, inverse, dim)
    return result
