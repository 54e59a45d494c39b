"""DeepH-E3's network (Eq. 1) on our engine: node and edge updates, same parameters, same numbers.

Edge features stay in the frame of their edge from the first layer to the last; node features are
turned into each edge's frame where a convolution needs them, and messages are turned back before
they are summed. Wigner-D matrices are made once per structure.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from e3nn.o3 import Irreps
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ...algebra.layout import Features, merge, rotate
from ...algebra.rotation import edge_frames, moved_frames
from ...algebra.wigner import Generation
from ...data.graph import Graph
from ...runtime.storage import Storage
from ..net_config import NetConfig
from .convolution import EquivariantConvolution
from .layout import Layout
from .linear import ChannelLinear, SelfConnection
from .norm import LayerNorm
from .output import OutputScale, edge_types
from .radial import INITIAL_RADIUS, bessel_factors, bessel_slopes, gaussians
from .rows import RowGroups, Segments, gather_rows

__all__ = ["DeepHE3Net", "NodeUpdate", "EdgeUpdate", "Update", "Prepared"]


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


def _add(a: Features, b: Features) -> Features:
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


class NodeUpdate(Update):
    """Messages of (n_i, n_j, e_ij) summed over the neighbours of i (Eq. 1, first line)."""

    def forward(self, node: Features, edge: Features, p: Prepared, chunk: int = 0) -> Features:
        """New node features, global axes.

        Args:
            node: global axes.
            edge: edge frames.
            p: the structure.
            chunk: see :attr:`DeepHE3Net.chunk`.
        """
        pre, matrices = self.lin_pre(node), self.conv.tp.both_matrices()

        def messages(part: Prepared, a: int, b: int) -> Features:
            pair = gather_pair(pre, rows(edge, a, b), part)
            out = self.conv(pair, matrices, part.distance, part.regular, part.radial)
            return rotate(out, part.frames, to_local=False)

        count = len(next(iter(node.values())))
        total: Features = {}
        for a, b, made in in_chunks(messages, p, chunk):
            for key, value in made.items():
                if key not in total:
                    total[key] = value.new_zeros(count, *value.shape[1:])
                total[key] = total[key].index_add_(0, p.source[a:b], value.contiguous())
        new = _add(self.lin_post(total), self.sc(node, p.node_kind))
        return self.skip_connect(node, self.norm(new, p.node_segments))


class EdgeUpdate(Update):
    """e_ij from (n_i, n_j, e_ij) (Eq. 1, second line)."""

    def forward(self, node: Features, edge: Features, p: Prepared, chunk: int = 0) -> Features:
        """New edge features, in edge frames; arguments as those of :meth:`NodeUpdate.forward`."""
        pre, matrices = self.lin_pre(edge), self.conv.tp.both_matrices()

        def messages(part: Prepared, a: int, b: int) -> Features:
            pair = gather_pair(node, rows(pre, a, b), part)
            return self.conv(pair, matrices, part.distance, part.regular, part.radial)

        parts = [made for _, _, made in in_chunks(messages, p, chunk)]
        new = {
            key: torch.cat([made[key] for made in parts]) if len(parts) > 1 else value
            for key, value in parts[0].items()
        }
        new = _add(self.lin_post(new), self.sc(edge, p.edge_kind))
        return self.skip_connect(edge, self.norm(new, p.edge_segments, p.frames))


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
    edges = len(p.source)
    if not chunk or chunk >= edges:
        yield 0, edges, messages(p, 0, edges)
        return
    pieces = -(-edges // chunk)
    marks = [edges * n // pieces for n in range(pieces + 1)]
    for a, b in itertools.pairwise(marks):
        part = p.span(a, b)
        made = checkpoint(messages, part, a, b, use_reentrant=False, preserve_rng_state=False)
        yield a, b, made


def gather_pair(node: Features, edge: Features, p: Prepared) -> Features:
    """(n_i, n_j, e_ij) of every edge in its frame; channels in that order, as the official
    concatenation."""
    pair = {
        key: torch.cat([gather_rows(value, p.source), gather_rows(value, p.destination)], dim=2)
        for key, value in node.items()
    }
    return merge(rotate(pair, p.frames, to_local=True), edge)


class DeepHE3Net(nn.Module):
    """The network, for training.

    ``forward`` and the fields of :class:`NetConfig` mirror DeepH-E3's ``Net``; parameters map one
    to one (checkpoint.py).

    Without gradients :class:`.inference.InferenceEngine` gives the same numbers faster.

    Attributes:
        chunk: edges per chunk of a convolution in training; 0: all at once. In chunks what a
            convolution needs inside is made again in the backward pass: a fraction of the memory
            for a third more arithmetic.
    """

    def __init__(self, config: NetConfig, generation: Generation) -> None:
        """
        Args:
            config: network arguments.
            generation: e3nn generation that the parameters mean.
        """
        super().__init__()
        config.check("network")
        self.config, self.generation = config, generation
        node, edge = Irreps(config.irreps_embed_node), Irreps(config.irreps_edge_init)
        # first, as its parameters are the first of the official network
        self.scale: OutputScale | None = None
        if config.index_to_Z is not None:
            self.scale = OutputScale(Irreps(config.irreps_out_edge), config.num_species)
        self.embedding = ChannelLinear(
            Irreps(f"{config.num_species}x0e"), node, generation, biases=False
        )
        self.layout_edge_init = Layout(edge)
        self.updates: list[tuple[NodeUpdate, EdgeUpdate]] = []
        for number in range(config.num_block):
            last = number == config.num_block - 1
            update = NodeUpdate(
                config,
                node,
                node + node + edge,
                Irreps(config.irreps_post_node if last else config.irreps_mid_node),
                config.num_species,
                generation,
            )
            node = update.irreps_out
            edge_update = EdgeUpdate(
                config,
                edge,
                node + node + edge,
                Irreps(config.irreps_post_edge if last else config.irreps_mid_edge),
                config.num_species**2,
                generation,
            )
            edge = edge_update.irreps_out
            self.updates.append((update, edge_update))
        self.node_update_blocks = nn.ModuleList(update for update, _ in self.updates)
        self.edge_update_blocks = nn.ModuleList(update for _, update in self.updates)
        self.lin_node = ChannelLinear(node, Irreps(config.irreps_out_node), generation, biases=True)
        self.lin_edge = ChannelLinear(edge, Irreps(config.irreps_out_edge), generation, biases=True)
        self.node_irreps = tuple(update.irreps_out for update, _ in self.updates)
        self.edge_irreps = tuple(update.irreps_out for _, update in self.updates)
        layouts = [
            Layout(i)
            for i in (*self.node_irreps, *self.edge_irreps, Irreps(config.irreps_out_edge))
        ]
        self.lmax = max(layout.lmax for layout in layouts)
        self.chunk = 0

    def prepare(
        self, graph: Graph, inference: bool = False, storage: Storage | None = None
    ) -> Prepared:
        """Everything that depends on the structure only; reusable for every call on the same graph.

        Args:
            graph: one or several structures; its vectors' dtype is that of the parameters.
            inference: leave out what :mod:`.inference` makes chunk by chunk.
            storage: where edge-wise arrays go.
        """
        config, loops = self.config, graph.self_loop
        order = torch.cat([torch.nonzero(~loops), torch.nonzero(loops)]).reshape(-1)
        source, destination = graph.edge_index[:, order]
        dtype = self.lin_edge.weight.dtype
        vector = graph.edge_vector[order]
        length = torch.linalg.vector_norm(vector, dim=-1).to(dtype)
        regular = int((~loops).sum())
        nothing = length.new_empty(0, 0)
        kind = (
            None
            if inference
            else graph.node_type[source] * config.num_species + graph.node_type[destination]
        )
        return Prepared(
            order=order,
            inverse=torch.argsort(order),
            source=source,
            destination=destination,
            frames=self._frames(vector, dtype, storage or Storage()),
            regular=regular,
            length=length,
            distance=nothing if inference else gaussians(length, config.r_max, config.num_basis),
            initial=nothing
            if inference
            else gaussians(length, INITIAL_RADIUS, Irreps(config.irreps_edge_init).dim),
            radial=bessel_factors(length, Irreps(config.irreps_sh), config.r_max, regular)
            if config.use_sbf
            else None,
            node_type=graph.node_type,
            node_kind=RowGroups.of(graph.node_type, config.num_species),
            edge_kind=RowGroups(None, None)
            if kind is None
            else RowGroups.of(kind, config.num_species**2),
            node_segments=Segments.of(graph.node_batch, graph.structures, dtype),
            edge_segments=Segments.of(graph.node_batch[source], graph.structures, dtype),
            output_type=None
            if self.scale is None
            else edge_types(graph.node_type, source, destination, loops[order], config.num_species),
        )

    def moved(self, p: Prepared, start: Tensor, vectors: Tensor) -> Prepared:
        """A prepared structure whose edges move, to first order.

        Args:
            p: of :meth:`prepare`, not for inference.
            start: (E, 3), edge vectors that ``p`` was made of, in the graph's order, Å.
            vectors: (E, 3), the same numbers, with derivatives.
        """
        config = self.config
        dtype, sh = p.length.dtype, Irreps(config.irreps_sh)
        start, vectors = start[p.order], vectors[p.order]
        along = (start * (vectors - start)).sum(dim=1) / p.length.clamp(min=1e-30)
        length = p.length + along.to(dtype)
        radial = None
        if p.radial is not None:
            slope = bessel_slopes(p.length, sh, config.r_max, p.regular)
            radial = p.radial + slope * along.to(dtype)[:, None]
        return p._replace(
            frames=moved_frames(p.frames, start.to(dtype), vectors.to(dtype)),
            length=length,
            distance=gaussians(length, config.r_max, config.num_basis),
            initial=gaussians(length, INITIAL_RADIUS, Irreps(config.irreps_edge_init).dim),
            radial=radial,
        )

    def _frames(
        self, vector: Tensor, dtype: torch.dtype, storage: Storage, size: int = 65536
    ) -> list[Tensor]:
        """D^l of every edge, per l (E, 2 l + 1, 2 l + 1); made piece by piece, as they are computed
        in float64.

        In memory each matrix is transposed: both ways of turning then read it along its rows.
        """
        like = vector.new_empty(0, dtype=dtype)
        out = [
            storage.empty(len(vector), (2 * l + 1) ** 2, like).view(-1, 2 * l + 1, 2 * l + 1)
            for l in range(self.lmax + 1)
        ]
        for start in range(0, len(vector), size):
            for whole, part in zip(
                out, edge_frames(vector[start : start + size], self.lmax), strict=True
            ):
                whole[start : start + size] = part.transpose(1, 2).to(dtype)
        return [whole.transpose(1, 2) for whole in out]

    def output(self, edge: Features, types: Tensor | None) -> Features:
        """The direct sum, eV, in the frame of the edge features.

        Args:
            edge: (E, 2 l + 1, channels) per key, after the last update.
            types: (E,), of the same edges: see :attr:`Prepared.output_type`.
        """
        out = self.lin_edge(edge)
        return out if self.scale is None or types is None else self.scale(out, types)

    def forward(
        self, graph: Graph, prepared: Prepared | None = None, features: bool = False
    ) -> tuple[Tensor, tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Direct-sum Hamiltonian and, where asked, the irreps after each encoder group.

        Args:
            graph: see :meth:`prepare`.
            prepared: its result, where it was made before.
            features: whether irreps are wanted.

        Returns:
            ``(direct_sum (E, D) eV, node irreps P x (N, d), edge irreps P x (E, d))``; global axes,
            e3nn's flat layout, the graph's edge order.
        """
        p = self.prepare(graph) if prepared is None else prepared
        one_hot = nn.functional.one_hot(p.node_type, self.config.num_species).to(p.distance.dtype)
        node = self.embedding({(0, 1): one_hot[:, None, :]})
        edge = self.layout_edge_init.split(p.initial)
        nodes, edges = [], []
        for node_update, edge_update in self.updates:
            node = node_update(node, edge, p, self.chunk)
            edge = edge_update(node, edge, p, self.chunk)
            if features:
                nodes.append(Layout(node_update.irreps_out).flat(node))
                edges.append(Layout(edge_update.irreps_out).flat_global(edge, p.frames)[p.inverse])
        return (
            self.lin_edge.layout_out.flat_global(self.output(edge, p.output_type), p.frames)[
                p.inverse
            ],
            tuple(nodes),
            tuple(edges),
        )
