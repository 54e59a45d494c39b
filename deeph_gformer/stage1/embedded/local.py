"""Edge features for inference: sorted by \\|m\\| instead of l, so that one matrix product per
\\|m\\| does a whole convolution.

In the frame of an edge the two components m and -m of all irreps of one family (natural parity
(-1)^l, or the other) mix among themselves only. A family's channels stand in order of falling l, so
those with l >= m are a prefix: one column range serves every m.
"""

from __future__ import annotations

from collections.abc import Mapping

from e3nn.o3 import Irreps
from torch import Tensor

from ...algebra.layout import Features, Key
from ...runtime.storage import Storage
from .layout import Layout

__all__ = ["Local", "LocalLayout", "BlockDiagonal", "by_m"]

#: Per family and m = 0..lmax: (rows * s, channels with l >= m), s = 1 for m = 0, else 2 (first -m,
#: then +m).
Local = list[list[Tensor]]


def signs(m: int) -> int:
    """How many components have this \\|m\\|."""
    return 2 if m else 1


def by_m(l: int) -> list[int]:
    """Where the components m = 0, -1, 1, -2, 2, ... stand in e3nn's order -l .. l."""
    return [l, *(l + sign * m for m in range(1, l + 1) for sign in (-1, 1))]


class LocalLayout:
    """Where the irreps of a :class:`Layout` stand in :data:`Local`.

    Attributes:
        layout: the irreps.
        keys: per family (natural parity first), its keys with l falling.
    """

    def __init__(self, irreps: Irreps | str, parity: bool) -> None:
        """
        Args:
            irreps: in e3nn's order.
            parity: False where every irrep is called even (one family then).
        """
        self.layout = Layout(irreps)
        keys = sorted(self.layout.channels, key=lambda k: -k[0])
        self.keys = [
            [k for k in keys if (not parity or k[1] == (-1) ** k[0]) == natural]
            for natural in (True, False)
        ]

    def family(self, key: Key) -> int:
        """The family of an irrep of these."""
        return 0 if key in self.keys[0] else 1

    def lmax(self, family: int) -> int:
        """Largest l of a family, -1 where it is empty."""
        return self.keys[family][0][0] if self.keys[family] else -1

    def width(self, family: int, m: int) -> int:
        """Channels with l >= m."""
        return sum(self.layout.channels[k] for k in self.keys[family] if k[0] >= m)

    def columns(self, family: int, key: Key) -> slice:
        """Channels of one irrep; the same for every m."""
        start = 0
        for k in self.keys[family]:
            if k == key:
                return slice(start, start + self.layout.channels[k])
            start += self.layout.channels[k]
        return slice(0, 0)

    def empty(self, rows: int, like: Tensor, storage: Storage | None = None) -> Local:
        """Storage for ``rows`` edges; ``storage`` says where (default: plain memory)."""

        def one(n: int, columns: int) -> Tensor:
            """An array of n edges."""
            return (
                like.new_empty(n, columns) if storage is None else storage.empty(n, columns, like)
            )

        return [
            [one(rows * signs(m), self.width(f, m)) for m in range(self.lmax(f) + 1)]
            for f in (0, 1)
        ]

    def numbers(self) -> int:
        """How many numbers one edge takes."""
        return sum(signs(m) * self.width(f, m) for f in (0, 1) for m in range(self.lmax(f) + 1))

    def fill(self, local: Local, features: Features) -> Local:
        """Copy (rows, 2 l + 1, channels) per irrep into ``local``; returns it."""
        for f in (0, 1):
            for key in self.keys[f]:
                l, columns = key[0], self.columns(f, key)
                local[f][0][:, columns] = features[key][:, l]
                for m in range(1, l + 1):
                    local[f][m].view(len(features[key]), 2, -1)[:, :, columns] = features[key][
                        :, l - m : l + m + 1 : 2 * m
                    ]
        return local

    def features(self, local: Local) -> Features:
        """The inverse of :meth:`fill`, as a copy."""
        out: Features = {}
        for key in self.layout.channels:
            f = self.family(key)
            l, columns = key[0], self.columns(f, key)
            rows = len(local[f][0])
            value = local[f][0].new_empty(rows, 2 * l + 1, self.layout.channels[key])
            value[:, l] = local[f][0][:, columns]
            for m in range(1, l + 1):
                value[:, l - m : l + m + 1 : 2 * m] = local[f][m].view(rows, 2, -1)[:, :, columns]
            out[key] = value
        return out


def chunk(local: Local, start: int, stop: int) -> Local:
    """The rows of edges ``start:stop``, as views."""
    return [
        [t[start * signs(m) : stop * signs(m)] for m, t in enumerate(family)] for family in local
    ]


class BlockDiagonal:
    """A map that mixes the channels of each irrep.

    Small neighbouring irreps (l > 0) share one matrix with zeros between them: one product instead
    of several thin ones. Its leading part serves every m.
    """

    #: Channels up to which irreps are joined.
    JOINED = 64

    def __init__(
        self, matrices: Mapping[Key, Tensor], layout_in: LocalLayout, layout_out: LocalLayout
    ) -> None:
        """
        Args:
            matrices: per irrep (channels in, channels out).
            layout_in: of rows and columns.
            layout_out: of rows and columns.
        """
        self.parts: list[
            tuple[int, Tensor, list[tuple[slice, slice]]]
        ] = []  # family, matrix, per m: columns in, columns out
        for f in (0, 1):
            group: list[Key] = []
            for key in [k for k in layout_out.keys[f] if k in layout_in.keys[f] and k in matrices]:
                joined = (
                    sum(layout_out.layout.channels[k] for k in group)
                    + layout_out.layout.channels[key]
                )
                adjacent = bool(group) and all(
                    layout.columns(f, group[-1]).stop == layout.columns(f, key).start
                    for layout in (layout_in, layout_out)
                )
                if group and not (adjacent and key[0] > 0 and joined <= self.JOINED):
                    self._add(f, group, matrices, layout_in, layout_out)
                    group = []
                group.append(key)
            if group:
                self._add(f, group, matrices, layout_in, layout_out)

    def _add(
        self,
        f: int,
        group: list[Key],
        matrices: Mapping[Key, Tensor],
        layout_in: LocalLayout,
        layout_out: LocalLayout,
    ) -> None:
        places = [(layout_in.columns(f, k), layout_out.columns(f, k)) for k in group]
        first, left = places[0][0].start, places[0][1].start
        mixed = matrices[group[0]].new_zeros(places[-1][0].stop - first, places[-1][1].stop - left)
        for key, (rows, columns) in zip(group, places, strict=True):
            mixed[
                rows.start - first : rows.stop - first, columns.start - left : columns.stop - left
            ] = matrices[key]
        ranges = []
        for m in range(group[0][0] + 1):
            rows, columns = next(
                place
                for key, place in reversed(list(zip(group, places, strict=True)))
                if key[0] >= m
            )
            ranges.append((slice(first, rows.stop), slice(left, columns.stop)))
        self.parts.append((f, mixed, ranges))

    def add_to(self, out: Local, local: Local, keep: bool = True) -> None:
        """``out += map(local)``, row by row; ``out = map(local)`` with ``keep`` off, for irreps
        that stay the same."""
        beta = 1 if keep else 0
        for f, mixed, ranges in self.parts:
            for m, (rows, columns) in enumerate(ranges):
                matrix = mixed[: rows.stop - rows.start, : columns.stop - columns.start]
                out[f][m][:, columns].addmm_(local[f][m][:, rows], matrix, beta=beta)
