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

from ...algebra.layout import Features, Frame, SplitFrame, rotate, turn
from ...algebra.wigner import Generation
from ..net_config import NetConfig
from .convolution import EquivariantConvolution, Inputs
from .linear import ChannelLinear, SelfConnection, by_type
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
    "rotated_pair",
]


class Prepared(NamedTuple):
    """What depends on the structure only. Edges: regular ones first, self-loops last.

    Attributes:
        order: (E,), the graph's edge at each row.
        inverse: its inverse.
        source, destination: (E,), atoms i and j.
        frames: D^l of every edge, per l (E, 2 l + 1, 2 l + 1), as
            :func:`deeph_gformer.algebra.rotation.edge_frames` makes them.
        turns: the same, with the components in the edge's frame sorted as :func:`.local.by_m`.
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

    For inference ``distance``, ``initial``, ``turns`` and ``edge_kind`` are empty: they are not
    needed, or cheap to make chunk by chunk.
    """

    order: Tensor
    inverse: Tensor
    source: Tensor
    destination: Tensor
    frames: list[Tensor]
    turns: list[Tensor]
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
            turns=[each[start:stop] for each in self.turns],
            regular=min(max(self.regular - start, 0), stop - start),
            distance=self.distance[start:stop],
            radial=None if self.radial is None else self.radial[start:stop],
        )

    def pieces(self, start: int, size: int) -> tuple[Prepared, ...]:
        """The edges from ``start`` on in equal pieces of at most ``size``; those of self-loops are
        apart."""
        marks = [start]
        for stop in (self.regular, len(self.source)):
            first = marks[-1]
            count = -(-(stop - first) // size) if stop > first else 0
            marks += [first + (stop - first) * n // count for n in range(1, count + 1)]
        return tuple(self.span(a, b) for a, b in itertools.pairwise(marks))


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
        irreps_node: Irreps,
        irreps_edge: Irreps,
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
            irreps_node,
            irreps_edge,
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
        self,
        node: Features,
        pair: Features | None,
        edge: Features,
        matrices: tuple[Matrices, Matrices],
        p: Prepared,
        again: bool,
    ) -> Features:
        """Messages of the edges ``p``, in their frames.

        Args:
            node: global axes.
            pair: see :func:`rotated_pair`, where it was made before.
            edge: edge frames.
            matrices: of the convolution, for regular edges and for self-loops.
            p: edges, either all self-loops or none.
            again: make again what is cheap in the backward pass.
        """
        pair = rotated_pair(node, p) if pair is None else pair
        remake = None
        if again and torch.is_grad_enabled():
            nodes, edges = ({k: v.detach() for k, v in x.items()} for x in (node, edge))
            remake = functools.partial(_again, nodes, edges, p)
        inputs = Inputs(pair, node, edge, p.source, p.destination, p.distance, p.radial)
        return self.conv(inputs, matrices[p.regular == 0], remake)


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
        pre, matrices = self.lin_pre(node), self.conv.tp.matrices()

        def messages(part: Prepared, own: Features) -> Features:
            """Of some edges, in global axes."""
            out = self.convolve(pre, None, own, matrices, part, again)
            return rotate(out, part.turns, to_local=False)

        count = len(next(iter(node.values())))
        total: Features = {}
        for part, result in in_pieces(messages, edge, p, chunk):
            for key, value in result.items():
                if key not in total:
                    total[key] = value.new_zeros(count, *value.shape[1:])
                total[key] = total[key].index_add_(0, part.source, value.contiguous())
        new = add_features(self.lin_post(total), self.sc(node, p.node_kind))
        return self.skip_connect(node, self.norm(new, p.node_segments))


class EdgeUpdate(Update):
    """e_ij from (n_i, n_j, e_ij) (Eq. 1, second line)."""

    def forward(
        self,
        node: Features,
        edge: Features,
        p: Prepared,
        chunk: int = 0,
        again: bool = False,
        last: ChannelLinear | None = None,
    ) -> Features:
        """New edge features, in edge frames.

        Args:
            node: global axes.
            edge: edge frames.
            p: the structure.
            chunk: see :attr:`DeepHE3Net.chunk`.
            again: see :attr:`DeepHE3Net.again`.
            last: a map of the new features, where it alone is wanted.
        """
        pre, matrices = self.lin_pre(edge), self.conv.tp.matrices()

        def messages(part: Prepared, own: Features) -> Features:
            """Of some edges, in their frames."""
            return self.convolve(node, None, own, matrices, part, again)

        parts = [result for _, result in in_pieces(messages, pre, p, chunk)]
        new = {
            key: torch.cat([result[key] for result in parts]) if len(parts) > 1 else value
            for key, value in parts[0].items()
        }
        if last is not None:
            return self._through(last, new, edge, p)
        new = add_features(self.lin_post(new), self.sc(edge, p.edge_kind))
        turns: Sequence[Frame] = p.split or p.turns
        return self.skip_connect(edge, self.norm(new, p.edge_segments, turns))

    def _through(
        self, last: ChannelLinear, message: Features, edge: Features, p: Prepared
    ) -> Features:
        r"""What ``last`` makes of the new features.

        With l > 0 all that follows the convolution is linear but for the mean: one map, not three,

        .. math:: L (K e + w (P x + S e - \bar{x})) = (L w P) x + (L K + L w S) e - (L w) \bar{x}

        Args:
            last: L.
            message: x.
            edge: e.
            p: the structure.
        """
        post, own, final = self.lin_post.matrices(), self.sc.matrices(), last.matrices()
        skip = None if self.skip_connect.sc is None else self.skip_connect.sc.matrices()
        turns: Sequence[Frame] = p.split or p.turns
        norm, out = self.norm, last.zeros(message)
        for key, matrix in final.items():
            x, mine = message[key], own.get(key)
            if key[0] == 0:
                value = x @ post[key]
                value = value + self.lin_post.bias if key == (0, 1) else value
                value = value if mine is None else value + by_type(edge[key], mine, p.edge_kind)
                value = norm.of_key(key, value, p.edge_segments, turns)
                if mine is not None:
                    value = value + (edge[key] if skip is None else edge[key] @ skip[key])
                out[key] = value @ matrix
                continue
            weighed = norm.weight_of(key)[:, None] * matrix
            kinds = RowGroups([0], [len(x)], None, None) if mine is None else p.edge_kind
            inputs, maps = [], []
            if mine is not None:
                inputs.append(edge[key])
                maps.append(mine @ weighed + (matrix if skip is None else skip[key] @ matrix))
            if norm.graph:
                average = norm.average(key)
                mean = x @ (post[key] @ average)
                mean = mean if mine is None else mean + by_type(edge[key], mine @ average, kinds)
                inputs.append(norm.centre(key, mean, p.edge_segments, turns))
                down = (average > 0).to(average).T @ weighed
                maps.append(-down.expand(1 if mine is None else len(mine), -1, -1))
            whole = post[key] @ weighed
            if inputs:
                columns = torch.cat(inputs, dim=2) if len(inputs) > 1 else inputs[0]
                out[key] = by_type(columns, torch.cat(maps, dim=1), kinds, (x, whole))
            else:
                out[key] = x @ whole
        return last.biased(out)


def in_pieces(
    messages: Callable[[Prepared, Features], Features], edge: Features, p: Prepared, chunk: int
) -> Iterator[tuple[Prepared, Features]]:
    """What ``messages`` makes of the edges: regular ones, then self-loops.

    Args:
        messages: of some edges and their features.
        edge: features of all edges.
        p: the structure.
        chunk: edges per piece; what happens inside is then not kept for the backward pass but made
            again there, piece by piece. 0: all regular edges at once.
    """
    edges = len(p.source)
    parts, split = p.parts or p.pieces(0, chunk or edges), 0 < chunk < edges and not p.parts
    sizes = [len(part.source) for part in parts]
    rows = {key: value.split(sizes) for key, value in edge.items()}
    for n, part in enumerate(parts):
        own = {key: pieces[n] for key, pieces in rows.items()}
        if split:
            yield (
                part,
                checkpoint(messages, part, own, use_reentrant=False, preserve_rng_state=False),
            )
        else:
            yield part, messages(part, own)


def rotated_pair(node: Features, p: Prepared) -> Features:
    """Features of nodes i and j with l > 0 in the frame of each edge: (E, 2 l + 1, 2 channels),
    those of i first, the components in the order of :func:`.local.by_m`."""
    ends = torch.stack([p.source, p.destination], dim=1).flatten()
    out = {}
    for key, value in node.items():
        if key[0]:
            both = gather_rows(value.transpose(1, 2).contiguous(), ends)  # (2 E, channels, 2 l + 1)
            both = both.view(len(p.source), -1, both.shape[2])
            out[key] = turn(p.turns[key[0]], both.transpose(1, 2), to_local=True)
    return out


def _again(node: Features, edge: Features, p: Prepared) -> tuple[Features, Features]:
    """What a convolution makes again."""
    return rotated_pair(node, p), edge
