"""DeepH-E3's encoder group (Eq. 1): node and edge update, on the edges of a prepared structure."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from e3nn.o3 import Irreps
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ...algebra.layout import Features, Frame, SplitFrame, merge, rotate
from ...algebra.wigner import Generation
from ..net_config import NetConfig
from .convolution import EquivariantConvolution
from .linear import ChannelLinear, SelfConnection
from .norm import LayerNorm
from .rows import RowGroups, Segments, gather_rows
from .tensor_product import Matrices

__all__ = [
    "Prepared",
    "SkipConnection",
    "add_features",
    "Update",
    "NodeUpdate",
    "EdgeUpdate",
    "rows",
    "in_chunks",
    "gather_pair",
]


class Prepared(NamedTuple):
    """What depends on the structure only. Edges: regular ones first, self-loops last.

    Attributes:
        order: (E,), the graph's edge at each row.
        inverse: its inverse.
        source, destination: (E,), atoms i and j.
        frames: D^l of every edge, per l (E, 2 l + 1, 2 l + 1), as
            :func:`deeph_gformer.algebra.rotation.edge_frames` makes them.
        regular: number of edges that are no self-loops.
        length: (E,), Å.
        distance: (E, basis).
        initial: (E, channels), see :data:`INITIAL_RADIUS`.
        radial: (E, copies) with a Bessel basis.
        node_kind, edge_kind: rows by element and by pair of elements.
        node_segments, edge_segments: rows by structure.
        output_type: (E,), see :func:`.output.edge_types`; None where the output is not scaled.
        parts: what a convolution needs of the edges that move, and of the others, which have no
            derivative; empty where none moves.
        split: frames of both, per l; empty likewise.

    For inference ``distance`` and ``initial`` are empty and ``edge_kind`` is not made: they are
    cheap to make chunk by chunk.
    """

    order: Tensor
    inverse: Tensor
    source: Tensor
    destination: Tensor
    frames: list[Tensor]
    regular: int
    length: Tensor
    distance: Tensor
    initial: Tensor
    radial: Tensor | None
    node_type: Tensor
    node_kind: RowGroups
    edge_kind: RowGroups
    node_segments: Segments
    edge_segments: Segments
    output_type: Tensor | None
    parts: tuple[Prepared, ...] = ()
    split: tuple[SplitFrame, ...] = ()

    def span(self, start: int, stop: int) -> Prepared:
        """What a convolution needs of some edges."""
        return self._replace(
            source=self.source[start:stop],
            destination=self.destination[start:stop],
            frames=[frame[start:stop] for frame in self.frames],
            regular=min(max(self.regular - start, 0), stop - start),
            distance=self.distance[start:stop],
            radial=None if self.radial is None else self.radial[start:stop],
        )

    def pieces(self, start: int, size: int) -> Iterator[Prepared]:
        """The edges from ``start`` on, ``size`` after ``size``."""
        for first in range(start, len(self.source), size):
            yield self.span(first, min(first + size, len(self.source)))


class SkipConnection(nn.Module):
    """Old features plus new ones; a linear map where the irreps differ."""

    def __init__(self, irreps_in: Irreps, irreps_out: Irreps, generation: Generation) -> None:
        super().__init__()
        self.sc = (
            None
            if irreps_in == irreps_out
            else ChannelLinear(irreps_in, irreps_out, generation, biases=False)
        )

    def forward(self, old: Features, new: Features) -> Features:
        """Sum, key by key."""
        old = old if self.sc is None else self.sc(old)
        return {key: old[key] + value for key, value in new.items()}


def add_features(a: Features, b: Features) -> Features:
    return {key: value + b[key] if key in b else value for key, value in a.items()}


class Update(nn.Module):
    """What node and edge updates have in common: Linear, convolution, Linear, self-connection,
    norm, skip connection."""

    def __init__(
        self,
        config: NetConfig,
        irreps_in: Irreps,
        irreps_conv: Irreps,
        irreps_out: Irreps,
        types: int,
        generation: Generation,
    ) -> None:
        super().__init__()
        sh = Irreps(config.irreps_sh)
        if config.no_parity:
            sh = Irreps([(mul, (ir.l, 1)) for mul, ir in sh])
        self.lin_pre = ChannelLinear(irreps_in, irreps_in, generation, biases=True)
        self.conv = EquivariantConvolution(
            config.num_basis,
            irreps_conv,
            sh,
            irreps_out,
            generation,
            not config.no_parity,
            config.use_sbf,
        )
        self.irreps_out = self.conv.irreps_out
        self.lin_post = ChannelLinear(self.irreps_out, self.irreps_out, generation, biases=True)
        self.sc = SelfConnection(irreps_in, types, self.irreps_out, generation)
        self.norm = LayerNorm(self.irreps_out, config.norm == "graph")
        self.skip_connect = SkipConnection(irreps_in, self.irreps_out, generation)

    def convolve(
        self, node: Features, edge: Features, matrices: Matrices, p: Prepared, again: bool
    ) -> Features:
        """Messages of the edges ``p``, in their frames.

        Args:
            node: global axes.
            edge: edge frames.
            matrices: of the convolution.
            p: edges.
            again: make again what is cheap in the backward pass.
        """
        remake = None
        if again and torch.is_grad_enabled():
            nodes, edges = ({k: v.detach() for k, v in x.items()} for x in (node, edge))
            remake = functools.partial(gather_pair, nodes, edges, p)
        pair = gather_pair(node, edge, p)
        return self.conv(pair, matrices, p.distance, p.regular, p.radial, remake)


class NodeUpdate(Update):
    """Messages of (n_i, n_j, e_ij) summed over the neighbours of i (Eq. 1, first line)."""

    def forward(
        self, node: Features, edge: Features, p: Prepared, chunk: int = 0, again: bool = False
    ) -> Features:
        """New node features, global axes.

        Args:
            node: global axes.
            edge: edge frames.
            p: the structure.
            chunk: see :attr:`DeepHE3Net.chunk`.
            again: see :attr:`DeepHE3Net.again`.
        """
        pre, matrices = self.lin_pre(node), self.conv.tp.both_matrices()

        def messages(part: Prepared, a: int, b: int) -> Features:
            """The convolution of edges a to b."""
            out = self.convolve(pre, rows(edge, a, b), matrices, part, again)
            return rotate(out, part.frames, to_local=False)

        count = len(next(iter(node.values())))
        total: Features = {}
        for a, b, result in in_chunks(messages, p, chunk):
            for key, value in result.items():
                if key not in total:
                    total[key] = value.new_zeros(count, *value.shape[1:])
                total[key] = total[key].index_add_(0, p.source[a:b], value.contiguous())
        new = add_features(self.lin_post(total), self.sc(node, p.node_kind))
        return self.skip_connect(node, self.norm(new, p.node_segments))


class EdgeUpdate(Update):
    """e_ij from (n_i, n_j, e_ij) (Eq. 1, second line)."""

    def forward(
        self, node: Features, edge: Features, p: Prepared, chunk: int = 0, again: bool = False
    ) -> Features:
        """New edge features, in edge frames; arguments as those of :meth:`NodeUpdate.forward`."""
        pre, matrices = self.lin_pre(edge), self.conv.tp.both_matrices()

        def messages(part: Prepared, a: int, b: int) -> Features:
            """The convolution of edges a to b."""
            return self.convolve(node, rows(pre, a, b), matrices, part, again)

        parts = [result for _, _, result in in_chunks(messages, p, chunk)]
        new = {
            key: torch.cat([result[key] for result in parts]) if len(parts) > 1 else value
            for key, value in parts[0].items()
        }
        new = add_features(self.lin_post(new), self.sc(edge, p.edge_kind))
        frames: Sequence[Frame] = p.split or p.frames
        return self.skip_connect(edge, self.norm(new, p.edge_segments, frames))


def rows(features: Features, start: int, stop: int) -> Features:
    """Some rows, as views."""
    return {key: value[start:stop] for key, value in features.items()}


def in_chunks(
    messages: Callable[[Prepared, int, int], Features], p: Prepared, chunk: int
) -> Iterator[tuple[int, int, Features]]:
    """What ``messages`` makes of the edges, chunk by chunk: (first edge, the one after the last,
    features).

    With several chunks what happens inside is not kept for the backward pass but made again there,
    chunk by chunk.
    """
    edges, start = len(p.source), 0
    for part in p.parts:
        stop = start + len(part.source)
        yield start, stop, messages(part, start, stop)
        start = stop
    if p.parts:
        return
    if not chunk or chunk >= edges:
        yield 0, edges, messages(p, 0, edges)
        return
    pieces = -(-edges // chunk)
    marks = [edges * n // pieces for n in range(pieces + 1)]
    for a, b in itertools.pairwise(marks):
        part = p.span(a, b)
        result = checkpoint(messages, part, a, b, use_reentrant=False, preserve_rng_state=False)
        yield a, b, result


def gather_pair(node: Features, edge: Features, p: Prepared) -> Features:
    """(n_i, n_j, e_ij) of every edge in its frame; channels in that order, as the official
    concatenation."""
    pair = {
        key: torch.cat([gather_rows(value, p.source), gather_rows(value, p.destination)], dim=2)
        for key, value in node.items()
    }
    return merge(rotate(pair, p.frames, to_local=True), edge)
