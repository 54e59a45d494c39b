"""Stage 1's features chunk by chunk: what stage 2 reads of an edge, in frames of stage 1's choice.

Everything stage 2's equivariant head does commutes with rotations, so it may work in any frame per
edge, as long as irreps, harmonics and the atoms' irreps are given in the same one.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from e3nn.o3 import Irreps
from torch import Tensor

from ..algebra.layout import Features, Frame, Key, Layout, SplitFrame, rotate
from ..algebra.rotation import edge_frames, spherical_harmonics
from .graph import Graph

__all__ = [
    "Rows",
    "EdgeChunk",
    "FinalChunk",
    "IrrepStream",
    "TensorStream",
    "NoStream",
    "axis_harmonics",
    "count_rows",
    "project",
]

#: Edges of the graph: a range, or (n,) int64.
Rows = slice | Tensor


def count_rows(rows: Rows) -> int:
    """Number of edges."""
    return rows.stop - rows.start if isinstance(rows, slice) else len(rows)


class EdgeChunk(NamedTuple):
    """Some edges after one encoder group.

    Attributes:
        rows: which edges of the graph, n of them.
        group: number of the encoder group.
        edge: their irreps, (n, 2 l + 1, C) per key.
        axis_edge, axis_i, axis_j: Y_l · x of every natural-parity key with l > 0, of the edge and
            of its two atoms, (n, C).
        flat: function without arguments: the irreps in e3nn's flat layout and global axes, (n, d).
    """

    rows: Rows
    group: int
    edge: Features
    axis_edge: dict[Key, Tensor]
    axis_i: dict[Key, Tensor]
    axis_j: dict[Key, Tensor]
    flat: Callable[[], Tensor]


class FinalChunk(NamedTuple):
    """Some edges at the end of stage 1.

    Attributes:
        rows: which edges of the graph, n of them.
        own: the direct sum, eV.
        edges: irreps of the last (up to two) encoder groups.
        node_i, node_j: the last node irreps of both atoms.
        harmonics: Y_l, per l (n, 2 l + 1).
        frames: D^l of the frames that all of these are in, per l (n, 2 l + 1, 2 l + 1) (see
            :func:`deeph_gformer.algebra.rotation.edge_frames`); None: they are in global axes.
        flat: turns direct-sum features in these frames into e3nn's flat layout and global axes
            (of a stream that is ``turned``: into the layout alone), (n, D).
        direct_sum: function without arguments: ``flat(own)``.
        aligned: the polar axis of each frame lies along its edge.
        again: a second :meth:`IrrepStream.final` gives the same object, so that what is made of it
            may be kept.
    """

    rows: Rows
    own: Features
    edges: Sequence[Features]
    node_i: Features
    node_j: Features
    harmonics: Sequence[Tensor]
    frames: Sequence[Frame] | None
    flat: Callable[[Features], Tensor]
    direct_sum: Callable[[], Tensor]
    aligned: bool = False
    again: bool = False


def project(features: Features, harmonics: Sequence[Tensor]) -> dict[Key, Tensor]:
    """Y_l · x of every natural-parity key with l > 0 (those of unnatural parity are pseudoscalars).

    Args:
        features: (n, 2 l + 1, C) per key.
        harmonics: per l (n, 2 l + 1).

    Returns:
        Per key (n, C).
    """
    return {
        (l, p): (harmonics[l][:, None] @ value).squeeze(1)
        for (l, p), value in features.items()
        if l > 0 and p == (-1) ** l
    }


class IrrepStream(abc.ABC):
    """One pass of a stage 1 over a graph (the edges of this rank's atoms, all atoms).

    Attributes:
        nodes: after encoder group p, ``nodes[p]`` is (N, d_n^p), e3nn's flat layout, global axes.
    """

    nodes: list[Tensor]

    @abc.abstractmethod
    def groups(self, features: bool) -> Iterator[EdgeChunk]:
        """Run the encoder groups.

        Args:
            features: give every edge of every group once, group after group; False: nothing is
                given.
        """

    @abc.abstractmethod
    def final(self, features: bool) -> Iterator[FinalChunk]:
        """After :meth:`groups`: every edge once more.

        Args:
            features: False: only rows, own, flat and direct_sum are set.
        """

    def close(self) -> None:  # noqa: B027  (nothing to give back is the rule)
        """Forget edge-wise arrays."""


def _given(value: Tensor) -> Callable[[], Tensor]:
    return lambda: value


def axis_harmonics(loops: Tensor, lmax: int, like: Tensor) -> list[Tensor]:
    """Y_l in edge frames: sqrt(2l + 1) at m = 0; zero on self-loops where l > 0.

    Args:
        loops: (n,) bool.
        lmax: of the harmonics.
        like: gives the floating type and the device.

    Returns:
        Per l (n, 2 l + 1).
    """
    out = []
    for l in range(lmax + 1):
        value = torch.zeros(len(loops), 2 * l + 1, dtype=like.dtype, device=like.device)
        there = torch.ones_like(loops) if l == 0 else ~loops
        value[:, l] = (2 * l + 1) ** 0.5 * there.to(value)  # a bool would make it float32
        out.append(value)
    return out


def _rows(frame: Frame, rows: slice) -> Frame:
    """Some rows of a frame; of a split one all, or rows on one side."""
    if not isinstance(frame, SplitFrame):
        return frame[rows]
    count = len(frame.moving)
    if rows.stop <= count:
        return frame.moving[rows]
    if rows.start < count:
        return SplitFrame(frame.moving[rows.start :], frame.still[: rows.stop - count])
    return frame.still[rows.start - count : rows.stop - count]


def _ranges(edges: int, chunk: int) -> list[slice]:
    return [slice(a, min(a + chunk, edges)) for a in range(0, edges, chunk)]


class NoStream(IrrepStream):
    """For a GFormer that stands alone: the edges, and nothing of them."""

    def __init__(self, graph: Graph, chunk: int) -> None:
        self.nodes, self._rows = [], _ranges(graph.edges, chunk)

    def groups(self, features: bool) -> Iterator[EdgeChunk]:
        """Nothing."""
        yield from ()

    def final(self, features: bool) -> Iterator[FinalChunk]:
        """Rows only."""
        nothing = torch.zeros(0)
        for rows in self._rows:
            yield FinalChunk(
                rows, {}, (), {}, {}, (), None, lambda result: nothing, _given(nothing)
            )


class TensorStream(IrrepStream):
    """Features that are there already as tensors, handed out in edge frames.

    If all edges are one chunk, what was made of them is kept between two uses.
    """

    def __init__(
        self,
        graph: Graph,
        node_irreps: Sequence[Irreps],
        edge_irreps: Sequence[Irreps],
        irreps_out: Irreps,
        node: Sequence[Tensor],
        edge: Sequence[Tensor],
        direct_sum: Tensor | None,
        chunk: int,
        local: bool = True,
        frames: Sequence[Frame] | None = None,
        turned: bool = False,
        final: Sequence[slice] = (),
    ) -> None:
        """
        Args:
            graph: with the edges that are handed out.
            node_irreps: per encoder group.
            edge_irreps: likewise.
            irreps_out: direct sum.
            node: stage 1's node features per group, (N, d_n^p), flat.
            edge: its edge features per group, (E, d_e^p), flat.
            direct_sum: (E, D), eV; None where nobody asks for it.
            chunk: edges per chunk.
            local: give invariants and edge frames; False: flat features only.
            frames: D^l of all edges; default: :func:`deeph_gformer.algebra.rotation.edge_frames`.
                Given only where the chunk is all edges.
            turned: the edges' features and the direct sum are in these frames already.
            final: chunks of :meth:`final`, where they are others.
        """
        self.graph, self.nodes, self.local = graph, list(node), local
        self._node = [Layout(i) for i in node_irreps]
        self._edge = [Layout(i) for i in edge_irreps]
        self._out = Layout(irreps_out)
        self._flat_edges, self._direct_sum = list(edge), direct_sum
        self._frames, self._turned = frames, turned
        self._ranges = _ranges(graph.edges, chunk)
        self._lmax = max(layout.lmax for layout in (*self._node, *self._edge, self._out))
        self._known_harmonics: list[Tensor] = []
        self._known_final: list[FinalChunk] = []
        self._finals = list(final) or self._ranges

    def _harmonics(self, rows: slice) -> list[Tensor]:
        """Y_l of some edges in global axes, per l (n, 2 l + 1)."""
        if self._known_harmonics:
            return self._known_harmonics
        sizes = [2 * l + 1 for l in range(self._lmax + 1)]
        vectors = self.graph.edge_vector[rows]
        result = list(spherical_harmonics(vectors, self._lmax).split(sizes, dim=1))
        if len(self._ranges) == 1:
            self._known_harmonics = result
        return result

    def _axes(self, rows: slice) -> list[Tensor]:
        """:meth:`_harmonics` in edge frames."""
        return axis_harmonics(self.graph.self_loop[rows], self._lmax, self.graph.edge_vector)

    def _ends(self, rows: slice, features: Features) -> list[Features]:
        """Atoms' features at both ends of the edges."""
        return [
            {key: value.index_select(0, index) for key, value in features.items()}
            for index in self.graph.edge_index[:, rows]
        ]

    def groups(self, features: bool) -> Iterator[EdgeChunk]:
        """See :class:`IrrepStream`."""
        if not features:
            return
        for p, (node, flat) in enumerate(zip(self.nodes, self._flat_edges, strict=True)):
            atoms = {k: v for k, v in self._node[p].split(node).items() if k[0]}
            for rows in self._ranges:
                part = flat[rows]
                if not self.local:
                    yield EdgeChunk(rows, p, {}, {}, {}, {}, _given(part))
                    continue
                edge, ends = self._edge[p].split(part), self._ends(rows, atoms)
                if self._turned and self._frames is not None:
                    harmonics = self._axes(rows)
                    ends = [rotate(f, self._frames, to_local=True) for f in ends]
                else:
                    harmonics = self._harmonics(rows)
                own = project(edge, harmonics)
                of_i, of_j = (project(f, harmonics) for f in ends)
                yield EdgeChunk(rows, p, edge, own, of_i, of_j, _given(part))

    def final(self, features: bool) -> Iterator[FinalChunk]:
        """See :class:`IrrepStream`."""
        if not features:
            for rows in self._ranges:
                flat, own = self._own(rows)
                given = _given(flat)
                yield FinalChunk(rows, own, (), {}, {}, (), None, self._out.flat, given)
        elif len(self._ranges) > 1:
            yield from map(self._final, self._finals)
        else:
            if not self._known_final:
                self._known_final = [
                    self._final(rows)._replace(again=True) for rows in self._finals
                ]
            yield from self._known_final

    def _own(self, rows: slice) -> tuple[Tensor, Features]:
        """The direct sum of some edges, flat and per irrep, in global axes."""
        if self._direct_sum is None:
            return self.graph.edge_vector[:0], {}
        flat = self._direct_sum[rows]
        return flat, self._out.split(flat) if self.local else {}

    def _final(self, rows: slice) -> FinalChunk:
        """Some edges at the end of stage 1, everything in edge frames."""
        frames: Sequence[Frame] = [_rows(frame, rows) for frame in self._frames or ()]
        frames = frames or edge_frames(self.graph.edge_vector[rows], self._lmax)
        flat, own = self._own(rows)
        ends = self._ends(rows, self._node[-1].split(self.nodes[-1]))
        edges = [
            layout.split(value[rows])
            for layout, value in zip(self._edge[-2:], self._flat_edges[-2:], strict=True)
        ]
        i, j = (rotate(f, frames, to_local=True) for f in ends)
        if not self._turned:
            own, *edges = [rotate(f, frames, to_local=True) for f in (own, *edges)]

        def back(result: Features) -> Tensor:
            return self._out.flat(
                result if self._turned else rotate(result, frames, to_local=False)
            )

        axes = self._axes(rows)
        return FinalChunk(rows, own, edges, i, j, axes, frames, back, _given(flat), True)

    def close(self) -> None:
        """See :class:`IrrepStream`."""
        self.nodes, self._flat_edges, self._direct_sum = [], [], None
        self._known_harmonics, self._known_final = [], []
