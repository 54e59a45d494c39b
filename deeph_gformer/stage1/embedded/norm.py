"""DeepH-E3's ``e3LayerNorm``, for training and for inference in chunks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from e3nn.o3 import Irreps
from torch import Tensor, nn

from ...algebra.layout import Features, Frame, Key, turn
from .layout import Layout
from .local import Local, LocalLayout
from .rows import Segments

__all__ = ["LayerNorm", "NormPlan"]


class LayerNorm(nn.Module):
    """DeepH-E3's ``e3LayerNorm``: subtracts the mean over a structure's rows and a slot's channels;
    scalars are also divided by their rms.

    In edge frames the mean of l > 0 is taken in global axes and turned back (``frames``), so the
    result is that of the official network.

    With ``graph`` off nothing is summed over the structure: the mean and the rms of scalars are
    those of the training set, once for all (see :func:`.calibrate.calibrate`), and nothing is
    subtracted for l > 0, where a mean over all directions is zero. As constants they are part of
    ``weight`` and ``bias``: :math:`w (x - c) / s + b = (w / s) x + (b - w c / s)`.
    """

    eps = 1e-5

    def __init__(self, irreps: Irreps, graph: bool = True) -> None:
        """
        Args:
            irreps: of the features.
            graph: whether means are those of the structure, as DeepH-E3 has it.
        """
        super().__init__()
        self.layout, self.graph = Layout(irreps), graph
        total = sum(mul for _, _, mul in self.layout.slots)
        self.weight = nn.Parameter(torch.ones(total))
        self.bias = nn.Parameter(
            torch.zeros(sum(mul for key, _, mul in self.layout.slots if key == (0, 1)))
        )
        self._number = {key: n for n, key in enumerate(self.layout.channels)}
        dtype = torch.get_default_dtype()
        for (key, index), n in zip(
            self.layout.multiplicity_index().items(), self._number.values(), strict=True
        ):
            slots = self._slots(key)
            average = torch.zeros(len(index), len(slots), dtype=dtype)
            for column, (start, mul) in enumerate(slots):
                average[start : start + mul, column] = 1 / mul
            self.register_buffer(f"_place_{n}", index, persistent=False)
            self.register_buffer(f"_average_{n}", average, persistent=False)

    def _slots(self, key: Key) -> list[tuple[int, int]]:
        """First channel and multiplicity of each slot of an irrep."""
        return [(start, mul) for other, start, mul in self.layout.slots if other == key]

    def weight_of(self, key: Key) -> Tensor:
        """(channels,), of one irrep."""
        return self.weight.index_select(0, self.get_buffer(f"_place_{self._number[key]}"))

    def average(self, key: Key) -> Tensor:
        """(channels, slots) of one irrep: 1 / multiplicity where the channel is in the slot."""
        return self.get_buffer(f"_average_{self._number[key]}")

    def forward(
        self, features: Features, segments: Segments, frames: Sequence[Frame] | None = None
    ) -> Features:
        """Normalise; ``frames`` turn the rows into edge frames, where the features are in such."""
        return {
            key: self.of_key(key, features[key], segments, frames) for key in self.layout.channels
        }

    def of_key(
        self, key: Key, value: Tensor, segments: Segments, frames: Sequence[Frame] | None
    ) -> Tensor:
        """:meth:`forward` of one irrep (rows, 2 l + 1, channels)."""
        slots = self._slots(key)
        if not self.graph:
            result = value
        elif len(slots) == 1:
            result = self._slot(value, key, segments, frames)
        else:
            parts = value.split([mul for _, mul in slots], dim=2)
            result = torch.cat([self._slot(part, key, segments, frames) for part in parts], dim=2)
        result = result * self.weight_of(key)
        return result + self.bias if key == (0, 1) else result

    def centre(
        self, key: Key, mean: Tensor, segments: Segments, frames: Sequence[Frame] | None
    ) -> Tensor:
        """What is subtracted of each slot.

        Args:
            key: the irrep.
            mean: (rows, 2 l + 1, slots), over the channels of each slot.
            segments: see :meth:`forward`.
            frames: see :meth:`forward`.

        Returns:
            The mean over the rows of each structure, of the same shape or broadcasting to it.
        """
        if not key[0] or frames is None:
            return segments.spread(segments.mean(mean))
        frame = frames[key[0]]
        if segments.rows is None and isinstance(frame, Tensor):  # turn and sum in one product
            rows = frame.transpose(1, 2).reshape(-1, frame.shape[1])
            whole = rows.T @ mean.flatten(0, 1) / segments.sizes
            return (rows @ whole).view(mean.shape)
        turned = segments.spread(segments.mean(turn(frame, mean, to_local=False)))
        return turn(frame, turned.expand(len(mean), -1, -1), to_local=True)

    def _slot(
        self, value: Tensor, key: Key, segments: Segments, frames: Sequence[Frame] | None
    ) -> Tensor:
        mean = value.mean(dim=2)[:, :, None]
        value = value - self.centre(key, mean, segments, frames)
        if key[0] == 0:
            square = segments.mean((value * value).mean(dim=(1, 2))[:, None, None])
            value = value / (segments.spread(square.sqrt()) + self.eps)
        return value


class NormPlan:
    r"""``e3LayerNorm`` on :data:`Local`: sums over edges first (chunk by chunk), then the
    subtraction.

    Per family, each term for its slots s (``mul x ir`` of e3nn) and channels c in s:

    .. math:: x_c \leftarrow w_c\, (x_c - D^T \bar{x}_s) \quad (l > 0), \qquad
       x_c \leftarrow w_c\, (x_c - \bar{x}_s) / (\mathrm{rms}_s + \epsilon) + b_c \quad (l = 0).

    Slots of one family stand by falling l like its channels, so those with l >= m come first.

    Attributes:
        average: per family (channels, slots): 1 / multiplicity where the channel belongs to the
            slot.
        spread: per family (slots, channels): the channel's weight where it belongs to the slot.
        weight: per family (channels,).
        count: per family and m: slots with l >= m.
    """

    def __init__(self, norm: LayerNorm, parity: bool) -> None:
        """
        Args:
            norm: the trained module.
            parity: see :class:`LocalLayout`.
        """
        self.layout = LocalLayout(norm.layout.irreps, parity)
        self.eps, self.bias, self.graph = norm.eps, norm.bias, norm.graph
        self.average: list[Tensor] = []
        self.spread: list[Tensor] = []
        self.weight: list[Tensor] = []
        self.count: list[list[int]] = []
        #: Per family with scalars: their key, (channels, slots) averages, and (slots, channels) of
        #: ones.
        self.scalars: dict[int, tuple[Key, Tensor, Tensor]] = {}
        places = norm.layout.multiplicity_index()
        for f in (0, 1):
            keys = self.layout.keys[f]
            slots = [s for k in keys for s in norm.layout.slots if s[0] == k]
            average = norm.weight.new_zeros(self.layout.width(f, 0), len(slots))
            for n, (key, start, mul) in enumerate(slots):
                first = self.layout.columns(f, key).start + start
                average[first : first + mul, n] = 1 / mul
            weight = torch.cat([norm.weight[places[k]] for k in keys] or [norm.weight[:0]])
            member = (average > 0).to(average)
            self.average.append(average)
            self.weight.append(weight)
            self.spread.append(member.T * weight)
            self.count.append(
                [sum(1 for s in slots if s[0][0] >= m) for m in range(self.layout.lmax(f) + 1)]
            )
            if keys and keys[-1][0] == 0:
                channels, first = self.layout.columns(f, keys[-1]), self._slots(f, 0).start
                self.scalars[f] = (
                    keys[-1],
                    average[channels, first:].contiguous(),
                    member[channels, first:].T.contiguous(),
                )

    def _slots(self, f: int, l: int) -> slice:
        """The slots of one l."""
        return slice(self.count[f][l + 1] if l < self.layout.lmax(f) else 0, self.count[f][l])

    def sums(
        self,
        local: Local,
        frames: list[Tensor],
        segments: Segments,
        into: dict[tuple[int, int], Tensor],
    ) -> None:
        """Add, per family and l, the means over each slot's channels in global axes: (structures, 2
        l + 1, slots).

        Args:
            local: some edges.
            frames: theirs.
            segments: theirs.
            into: where to add.
        """
        for f in (0, 1):
            edges = len(local[f][0]) if local[f] else 0
            means = [
                local[f][m] @ self.average[f][: self.layout.width(f, m), : self.count[f][m]]
                for m in range(self.layout.lmax(f) + 1)
            ]
            for l, _ in self.layout.keys[f]:
                slots = self._slots(f, l)
                value = means[0].new_empty(edges, 2 * l + 1, slots.stop - slots.start)
                value[:, l] = means[0][:, slots]
                for m in range(1, l + 1):
                    pair = means[m].view(edges, 2, -1)
                    value[:, l - m : l + m + 1 : 2 * m] = pair[:, :, slots]
                if (f, l) not in into:
                    into[f, l] = value.new_zeros(segments.structures, *value.shape[1:])
                if segments.rows is None:  # turn and sum in one product
                    turn = frames[l].transpose(1, 2).reshape(-1, 2 * l + 1).T
                    into[f, l][0].addmm_(turn, value.view(-1, value.shape[2]))
                else:
                    into[f, l].index_add_(0, segments.rows, torch.bmm(frames[l], value))

    def squares(
        self,
        local: Local,
        centre: dict[tuple[int, int], Tensor],
        segments: Segments,
        into: dict[int, Tensor],
    ) -> None:
        """Add, per family with scalars, the mean squares over each slot's channels: (structures,
        slots).

        Args:
            local: some edges.
            centre: per family and l, see :meth:`apply`.
            segments: of these edges.
            into: where to add.
        """
        for f, (key, average, member) in self.scalars.items():
            middle = segments.spread(centre[f, 0][:, 0] @ member)
            square = (local[f][0][:, self.layout.columns(f, key)] - middle).square_()
            value = segments.sum(square @ average)
            into[f] = into[f].add_(value) if f in into else value

    def apply(
        self,
        local: Local,
        centre: dict[tuple[int, int], Tensor],
        inverse: dict[int, Tensor],
        frames: list[Tensor],
        segments: Segments,
    ) -> None:
        """Norm of some edges, in place.

        Args:
            local: their features.
            centre: per family and l (structures, 2 l + 1, slots), global axes: what is subtracted.
            inverse: per family with scalars (structures, slots): what scalars are multiplied by.
            frames: of these edges.
            segments: of these edges.
        """
        for f in (0, 1):
            if not local[f]:
                continue
            turned = {}
            for l, _ in self.layout.keys[f]:
                mean = centre[f, l]
                if segments.rows is None:
                    rows = frames[l].transpose(1, 2).reshape(-1, 2 * l + 1)
                    turned[l] = (rows @ mean[0]).view(len(local[f][0]), 2 * l + 1, -1)
                else:
                    turned[l] = torch.bmm(frames[l].transpose(1, 2), mean[segments.rows])
            for m in range(self.layout.lmax(f) + 1):
                components = [
                    turned[l][:, l - m : l + m + 1 : 2 * m or 1]
                    for l, _ in self.layout.keys[f]
                    if l >= m
                ]
                shift = torch.cat(components, dim=2).flatten(0, 1)  # (edges * signs, slots)
                width = self.layout.width(f, m)
                local[f][m].mul_(self.weight[f][:width]).addmm_(
                    shift, self.spread[f][: self.count[f][m], :width], alpha=-1
                )
        for f, (key, _, member) in self.scalars.items():
            value = local[f][0][:, self.layout.columns(f, key)]
            value.mul_(segments.spread(inverse[f] @ member))
            if key == (0, 1):
                value.add_(self.bias)

    def scale(self, local: Local) -> None:
        """The norm with the training set's means, which are part of its parameters; in place."""
        for f in (0, 1):
            for m, value in enumerate(local[f]):
                value.mul_(self.weight[f][: self.layout.width(f, m)])
        if (0, 1) in self.layout.layout.channels:
            local[0][0][:, self.layout.columns(0, (0, 1))].add_(self.bias)
