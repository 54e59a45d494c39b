"""Building blocks of the network that act on channels only; all commute with rotations, so they
work in any frame.

Parameter names are those of DeepH-E3's checkpoints.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from e3nn.math import normalize2mom
from e3nn.o3 import Irreps
from torch import Tensor, nn

from ...algebra.layout import Features, Key
from ...algebra.wigner import Generation, path_weights
from ...errors import ModelError
from .layout import Layout

__all__ = [
    "ChannelLinear",
    "SelfConnection",
    "LayerNorm",
    "Gate",
    "Collapsing",
    "RowGroups",
    "Segments",
    "INITIAL_RADIUS",
    "gaussians",
]


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
        count: number of structures.
        sizes: (count,), rows of each.
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


class Collapsing(nn.Module):
    """Keeps matrices that are made from parameters, as long as no gradient is wanted and the
    parameters stay as they are."""

    _made: Any = None
    _stamp: tuple[object, ...] = ()

    def collapsed(self, build: Callable[[], Any]) -> Any:
        """``build()``, or what it gave before."""
        parameters = tuple(self.parameters(recurse=False))
        if torch.is_grad_enabled() and any(p.requires_grad for p in parameters):
            self._made = None
            return build()
        stamp = tuple(v for p in parameters for v in (p.data_ptr(), p._version, p.dtype, p.device))
        if self._made is None or stamp != self._stamp:
            with torch.no_grad():
                self._made, self._stamp = build(), stamp
        return self._made


#: The initial edge features are Gaussians up to this length (Å), whatever the cutoff.
INITIAL_RADIUS = 6.0


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
    return _GatherRows.apply(value, index)  # type: ignore[no-any-return]


def gaussians(length: Tensor, stop: float, count: int) -> Tensor:
    """Gaussians on ``count`` equidistant centres from 0 to ``stop`` (Å), width = spacing; (rows,
    count)."""
    centres = torch.linspace(0.0, stop, count, dtype=length.dtype, device=length.device)
    width = centres[1] - centres[0]
    return torch.exp(-0.5 / width**2 * (length[:, None] - centres) ** 2)


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


class ChannelLinear(Collapsing):
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
        return self.collapsed(
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


class SelfConnection(Collapsing):
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
        return self.collapsed(self._build)

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


class LayerNorm(nn.Module):
    """DeepH-E3's ``e3LayerNorm``: subtracts the mean over a structure's rows and a slot's channels;
    scalars are also divided by their rms.

    In edge frames the mean of l > 0 is taken in global axes and turned back (``frames``), so the
    result is that of the official network.
    """

    eps = 1e-5

    def __init__(self, irreps: Irreps) -> None:
        super().__init__()
        self.layout = Layout(irreps)
        total = sum(mul for _, _, mul in self.layout.slots)
        self.weight = nn.Parameter(torch.ones(total))
        self.bias = nn.Parameter(
            torch.zeros(sum(mul for key, _, mul in self.layout.slots if key == (0, 1)))
        )
        for n, index in enumerate(self.layout.multiplicity_index().values()):
            self.register_buffer(f"_place_{n}", index, persistent=False)

    def forward(
        self, features: Features, segments: Segments, frames: list[Tensor] | None = None
    ) -> Features:
        """Normalise; ``frames`` turn the rows into edge frames, where the features are in such."""
        out = {}
        for n, key in enumerate(self.layout.channels):
            value = features[key]
            slots = [(start, mul) for other, start, mul in self.layout.slots if other == key]
            if len(slots) == 1:
                made = self._slot(value, key, segments, frames)
            else:
                made = torch.cat(
                    [
                        self._slot(value[:, :, start : start + mul], key, segments, frames)
                        for start, mul in slots
                    ],
                    dim=2,
                )
            weight = self.weight[self.get_buffer(f"_place_{n}")]
            out[key] = made * weight + self.bias if key == (0, 1) else made * weight
        return out

    def _slot(
        self, value: Tensor, key: Key, segments: Segments, frames: list[Tensor] | None
    ) -> Tensor:
        mean = value.mean(dim=2)  # (rows, 2l+1)
        if key[0] and frames is not None:
            frame = frames[key[0]]
            mean = (frame @ mean[:, :, None])[:, :, 0]
            centre = segments.spread(segments.mean(mean))
            centre = (frame.transpose(1, 2) @ centre.expand(len(frame), -1)[:, :, None])[:, :, 0]
        else:
            centre = segments.spread(segments.mean(mean))
        value = value - centre[:, :, None]
        if key[0] == 0:
            square = segments.mean((value * value).mean(dim=(1, 2))[:, None, None])
            value = value / (segments.spread(square.sqrt()) + self.eps)
        return value


@functools.cache
def activation(name: str) -> tuple[Callable[[Tensor], Tensor], float]:
    """A function of torch and the factor that e3nn gives it: unit second moment under a normal
    distribution (a million samples of a fixed seed)."""
    functions: dict[str, Callable[[Tensor], Tensor]] = {
        "silu": nn.functional.silu,
        "tanh": torch.tanh,
        "sigmoid": torch.sigmoid,
    }
    function = functions[name]
    return function, float(normalize2mom(function).cst)


class Gate(nn.Module):
    """e3nn's ``Gate`` as DeepH-E3 uses it: SiLU/tanh on scalars, sigmoid/tanh gates times l > 0,
    each scaled to unit second moment.

    Attributes:
        irreps_in: what the tensor product must give (sorted and joined by e3nn: scalars and gates
            share a slot).
        irreps_out: scalars, then the gated irreps.
        gate_key: the irrep of the gates, None where nothing is gated.
        gate_channels: per gated irrep, which gate multiplies each of its channels.
    """

    def __init__(self, irreps_in1: Irreps, irreps_in2: Irreps, irreps_out: Irreps) -> None:
        super().__init__()

        def reachable(ir: object) -> bool:
            return any(ir in a * b for _, a in irreps_in1 for _, b in irreps_in2)

        scalars = Irreps(
            [(mul, ir) for mul, ir in irreps_out if ir.l == 0 and reachable(ir)]
        ).simplify()
        gated = Irreps(
            [(mul, ir) for mul, ir in irreps_out if ir.l > 0 and reachable(ir)]
        ).simplify()
        gate_ir = next(
            (ir for ir in (Irreps("0e")[0].ir, Irreps("0o")[0].ir) if reachable(ir)), None
        )
        if gated.dim and gate_ir is None:
            raise ModelError(f"{irreps_in1} x {irreps_in2} gives no scalars to gate {gated} with")
        gates = Irreps([(mul, gate_ir) for mul, _ in gated]).simplify() if gated.dim else Irreps([])
        parts = list(scalars) + list(gates)
        self.irreps_in = (scalars + gates + gated).sort().irreps.simplify()
        self.irreps_out = scalars + gated
        self.layout_in, self.layout_out = Layout(self.irreps_in), Layout(self.irreps_out)
        # sorting is stable, so within a joined scalar slot the scalars of its parity come first,
        # then the gates
        used: dict[Key, int] = {}
        self.pieces: list[tuple[Key, int, int]] = []
        for mul, ir in parts:
            start = used.get((ir.l, ir.p), 0)
            self.pieces.append(((ir.l, ir.p), start, mul))
            used[ir.l, ir.p] = start + mul
        self.scalar_count = len(scalars)
        self.gated = [((ir.l, ir.p), mul) for mul, ir in gated]
        self.gate_key: Key | None = (0, gate_ir.p) if gated.dim and gate_ir is not None else None
        self.gate_channels: dict[Key, list[int]] = {}
        first = 0
        for key, mul in self.gated:
            self.gate_channels.setdefault(key, []).extend(range(first, first + mul))
            first += mul
        self.act = {1: activation("silu"), -1: activation("tanh")}  # by parity
        self.gate_act = {1: activation("sigmoid"), -1: activation("tanh")}

    def forward(self, features: Features) -> Features:
        """Scalars through their activation, l > 0 times their gates."""
        # split, not slices: the gradient of each slice would be a tensor of zeros of the whole size
        sizes: dict[Key, list[int]] = {}
        for key, _, mul in self.pieces:
            sizes.setdefault(key, []).append(mul)
        parts = {key: iter(features[key].split(split, dim=2)) for key, split in sizes.items()}
        out: dict[Key, list[Tensor]] = {}
        gates = []
        for number, (key, _, _) in enumerate(self.pieces):
            is_gate = number >= self.scalar_count
            function, scale = (self.gate_act if is_gate else self.act)[key[1]]
            value = function(next(parts[key])) * scale
            if is_gate:
                gates.append(value)
            else:
                out.setdefault(key, []).append(value)
        made = {key: _join(values) for key, values in out.items()}
        factors: dict[Key, list[Tensor]] = {}
        if gates:
            each = _join(gates).split([mul for _, mul in self.gated], dim=2)
            for (key, _), factor in zip(self.gated, each, strict=True):
                factors.setdefault(key, []).append(factor)
        made.update({key: features[key] * _join(values) for key, values in factors.items()})
        return made


def _join(values: list[Tensor]) -> Tensor:
    """Channels after channels."""
    return torch.cat(values, dim=2) if len(values) > 1 else values[0]
