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
from .rows import RowGroups, permuted

__all__ = ["ChannelLinear", "SelfConnection", "CachedWeights", "by_type"]


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

    _index: Tensor
    _scale: Tensor

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
        self._shapes = [shapes[key] for key in self.keys]
        flat = (
            [torch.cat([table[key].flatten() for key in self.keys]) for table in (index, scale)]
            if self.keys
            else [torch.zeros(0, dtype=torch.int64), torch.zeros(0)]
        )
        self.register_buffer("_index", flat[0], persistent=False)
        self.register_buffer("_scale", flat[1].to(torch.get_default_dtype()), persistent=False)
        scalars = [mul for key, _, mul in self.layout_out.slots if key == (0, 1)]
        self.weight = nn.Parameter(torch.randn(count))
        self.bias = nn.Parameter(torch.zeros(sum(scalars) if biases else 0))

    def matrices(self) -> dict[Key, Tensor]:
        """Per key (channels in, channels out), normalised."""
        return self.cached(self._build)

    def _build(self) -> dict[Key, Tensor]:
        # one index_select for all: its gradient is one sum
        whole = self.weight.index_select(0, self._index) * self._scale
        parts = whole.split([rows * columns for rows, columns in self._shapes])
        return {
            key: part.view(shape)
            for key, part, shape in zip(self.keys, parts, self._shapes, strict=True)
        }

    def forward(self, features: Features) -> Features:
        """Channels of each key; keys without input come out as zeros."""
        out = self.zeros(features)
        out.update({key: features[key] @ matrix for key, matrix in self.matrices().items()})
        return self.biased(out)

    def zeros(self, features: Features) -> Features:
        """The keys without input."""
        like = next(iter(features.values()))
        return {
            key: like.new_zeros(len(like), 2 * key[0] + 1, channels)
            for key, channels in self.layout_out.channels.items()
            if key not in self.layout_in.channels
        }

    def biased(self, features: Features) -> Features:
        """With the bias, on 0e."""
        if len(self.bias) and (0, 1) in features:
            features[0, 1] = features[0, 1] + self.bias
        return features


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
        self._shapes = [pair.shape for pair in self.pairs]
        count = sum(rows * types * columns for rows, columns in self._shapes)
        self.weight = nn.Parameter(torch.randn(count))

    def matrices(self) -> dict[Key, Tensor]:
        """Per key (types, channels in, channels out)."""
        return self.cached(self._build)

    def _build(self) -> dict[Key, Tensor]:
        out: dict[Key, Tensor] = {}
        parts = self.weight.split([rows * self.types * columns for rows, columns in self._shapes])
        for pair, part in zip(self.pairs, parts, strict=True):
            key, (rows, columns) = pair.key, pair.shape
            block = part.reshape(rows, self.types, columns).transpose(0, 1) * pair.factor
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
        return {
            key: by_type(features[key], matrix, groups) for key, matrix in self.matrices().items()
        }


def by_type(
    value: Tensor, matrices: Tensor, groups: RowGroups, more: tuple[Tensor, Tensor] | None = None
) -> Tensor:
    """Rows times the matrix of their type.

    Args:
        value: (rows, ..., channels in).
        matrices: (types, channels in, channels out).
        groups: the rows of each type.
        more: (rows, ..., channels) and a matrix for all types (channels, channels out), whose
            product is added.
    """
    each = matrices.unbind(0)
    values = [value] if more is None else [value, more[0]]
    if groups.order is not None and groups.inverse is not None:
        values = [permuted(x, groups.order, groups.inverse, dim=0) for x in values]
    parts = []
    for t, *rows in zip(groups.types, *(x.split(groups.sizes) for x in values), strict=True):
        part = rows[0].flatten(0, -2) @ each[t]
        if more is not None:
            part = torch.addmm(part, rows[1].flatten(0, -2), more[1])
        parts.append(part)
    whole = torch.cat(parts) if len(parts) > 1 else parts[0]
    whole = whole.view(*value.shape[:-1], whole.shape[-1])
    if groups.order is not None and groups.inverse is not None:
        whole = permuted(whole, groups.inverse, groups.order, dim=0)
    return whole
