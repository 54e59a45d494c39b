"""Rows of atoms and edges: by type, by structure, and gathered."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

__all__ = ["RowGroups", "Segments", "gather_rows"]


class RowGroups(NamedTuple):
    """Rows of equal type.

    ``rows[t]`` lists the rows of type t; None where there is one type only.
    """

    rows: tuple[Tensor, ...] | None
    inverse: Tensor | None

    @classmethod
    def of(cls, kind: Tensor, kinds: int) -> RowGroups:
        """From a type per row (rows,)."""
        if kinds == 1:
            return cls(None, None)
        index = tuple(torch.nonzero(kind == t).reshape(-1) for t in range(kinds))
        return cls(index, torch.argsort(torch.cat(index)))


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
    def forward(ctx: Any, value: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(index)
        ctx.rows = len(value)
        return value.index_select(0, index)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (index,) = ctx.saved_tensors
        total = gradient.new_zeros(ctx.rows, *gradient.shape[1:])
        return total.index_add_(0, index, gradient.contiguous()), None


def gather_rows(value: Tensor, index: Tensor) -> Tensor:
    """``value[index]``, whose gradient is summed from contiguous rows: torch takes up to a hundred
    times as long for strided ones."""
    if not torch.is_grad_enabled():
        return value.index_select(0, index)
    return _GatherRows.apply(value, index)
