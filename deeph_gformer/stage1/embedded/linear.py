"""Linear maps that mix the channels of equal irreps.

They commute with rotations, so they work in any frame. Parameter names are those of DeepH-E3's
checkpoints.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from e3nn.o3 import Irreps
from torch import Tensor, nn

from ...algebra.layout import Features, Key
from ...algebra.wigner import Generation, path_weights
from .layout import Layout
from .rows import RowGroups

__all__ = ["ChannelLinear", "SelfConnection", "CachedWeights"]


class CachedWeights(nn.Module):
    """Keeps matrices that are made from parameters, as long as no gradient is wanted and the
    parameters stay as they are."""

    _cached: Any = None
    _stamp: tuple[object, ...] = ()

    def cached(self, build: Callable[[], Any]) -> Any:
        """``build()``, or what it gave before."""
        parameters = tuple(self.parameters(recurse=False))
        if torch.is_grad_enabled() and any(p.requires_grad for p in parameters):
            self._cached = None
            return build()
        stamp = tuple(v for p in parameters for v in (p.data_ptr(), p._version, p.dtype, p.device))
        if self._cached is None or stamp != self._stamp:
            with torch.no_grad():
                self._cached, self._stamp = build(), stamp
        return self._cached


class SlotPair(NamedTuple):
    """A slot in and a slot out of equal irrep, which a block of weights joins.

    Attributes:
        key: the irrep.
        rows, columns: its channels in and out.
        factor: path normalisation.
    """

    key: Key
    rows: slice
    columns: slice
    factor: float

    @property
    def shape(self) -> tuple[int, int]:
        """Multiplicities in and out."""
        return self.rows.stop - self.rows.start, self.columns.stop - self.columns.start


def slot_pairs(
    layout_in: Layout, layout_out: Layout, generation: Generation, copies: int = 1
) -> list[SlotPair]:
    """The pairs in the order of e3nn's flat weights: slot in after slot in, for each slot out after
    slot out.

    Args:
        layout_in: the slots.
        layout_out: the slots.
        generation: of e3nn, for the normalisation.
        copies: multiplicity of the second input of a tensor product.
    """
    pairs = [
        (a, b)
        for a, (key_in, _, _) in enumerate(layout_in.slots)
        for b, (key_out, _, _) in enumerate(layout_out.slots)
        if key_in == key_out
    ]
    out: list[SlotPair] = []
    for a, b in pairs:
        key, row, rows = layout_in.slots[a]
        _, column, columns = layout_out.slots[b]
        into = [other for other, end in pairs if end == b]
        factors = path_weights([layout_in.slots[n][2] * copies for n in into], generation)
        out.append(
            SlotPair(
                key, slice(row, row + rows), slice(column, column + columns), factors[into.index(a)]
            )
        )
    return out


class ChannelLinear(CachedWeights):
    """e3nn's ``Linear``: mixes channels of equal irreps; bias on 0e."""

    def __init__(
        self, irreps_in: Irreps, irreps_out: Irreps, generation: Generation, biases: bool
    ) -> None:
        super().__init__()
        self.layout_in, self.layout_out = Layout(irreps_in), Layout(irreps_out)
        self.keys = [key for key in self.layout_out.channels if key in self.layout_in.channels]
        shapes = {k: (self.layout_in.channels[k], self.layout_out.channels[k]) for k in self.keys}
        # matrix[key] = weight[index] * scale; every element belongs to just one pair of slots
        index = {key: torch.zeros(shape, dtype=torch.int64) for key, shape in shapes.items()}
        scale = {key: torch.zeros(shape, dtype=torch.float64) for key, shape in shapes.items()}
        count = 0
        for pair in slot_pairs(self.layout_in, self.layout_out, generation):
            rows, columns = pair.shape
            places = torch.arange(count, count + rows * columns).reshape(rows, columns)
            index[pair.key][pair.rows, pair.columns] = places
            scale[pair.key][pair.rows, pair.columns] = pair.factor
            count += rows * columns
        for n, key in enumerate(self.keys):
            self.register_buffer(f"_index_{n}", index[key], persistent=False)
            self.register_buffer(
                f"_scale_{n}", scale[key].to(torch.get_default_dtype()), persistent=False
            )
        scalars = [mul for key, _, mul in self.layout_out.slots if key == (0, 1)]
        self.weight = nn.Parameter(torch.randn(count))
        self.bias = nn.Parameter(torch.zeros(sum(scalars) if biases else 0))

    def matrices(self) -> dict[Key, Tensor]:
        """Per key (channels in, channels out), normalised."""
        return self.cached(
            lambda: {
                key: self.weight[self.get_buffer(f"_index_{n}")] * self.get_buffer(f"_scale_{n}")
                for n, key in enumerate(self.keys)
            }
        )

    def forward(self, features: Features) -> Features:
        """Channels of each key; keys without input come out as zeros."""
        matrices = self.matrices()
        rows = next(iter(features.values()))
        out = {}
        for key, channels in self.layout_out.channels.items():
            out[key] = (
                features[key] @ matrices[key]
                if key in matrices
                else rows.new_zeros(len(rows), 2 * key[0] + 1, channels)
            )
        if len(self.bias) and (0, 1) in out:
            out[0, 1] = out[0, 1] + self.bias
        return out


class SelfConnection(CachedWeights):
    """``FullyConnectedTensorProduct`` with the one-hot type: one :class:`ChannelLinear` without
    bias per element (or pair of elements)."""

    def __init__(
        self, irreps_in: Irreps, types: int, irreps_out: Irreps, generation: Generation
    ) -> None:
        super().__init__()
        self.types = types
        self.layout_in, self.layout_out = Layout(irreps_in), Layout(irreps_out)
        self.pairs = slot_pairs(self.layout_in, self.layout_out, generation, types)
        count = sum(rows * types * columns for rows, columns in (p.shape for p in self.pairs))
        self.weight = nn.Parameter(torch.randn(count))

    def matrices(self) -> dict[Key, Tensor]:
        """Per key (types, channels in, channels out)."""
        return self.cached(self._build)

    def _build(self) -> dict[Key, Tensor]:
        out: dict[Key, Tensor] = {}
        start = 0
        for pair in self.pairs:
            key, (rows, columns) = pair.key, pair.shape
            size = rows * self.types * columns
            block = self.weight[start : start + size].reshape(rows, self.types, columns)
            block = block.transpose(0, 1) * pair.factor
            start += size
            whole = (self.types, self.layout_in.channels[key], self.layout_out.channels[key])
            if block.shape == whole:
                out[key] = block
                continue
            if key not in out:
                out[key] = self.weight.new_zeros(whole)
            out[key][:, pair.rows, pair.columns] = block
        return out

    def forward(self, features: Features, groups: RowGroups) -> Features:
        """Channels mixed with the matrix of each row's type; keys without input are left out."""
        out = {}
        for key, matrix in self.matrices().items():
            value = features[key]
            if groups.rows is None:
                out[key] = value @ matrix[0]
            else:
                out[key] = torch.cat(
                    [value[index] @ matrix[t] for t, index in enumerate(groups.rows)]
                )[groups.inverse]
        return out
