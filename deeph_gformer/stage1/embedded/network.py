"""DeepH-E3's network (Eq. 1) on our engine: node and edge updates, same parameters, same numbers.

Edge features stay in the frame of their edge from the first layer to the last; node features are
turned into each edge's frame where a convolution needs them, and messages are turned back before
they are summed. Wigner-D matrices are made once per structure.
"""

from __future__ import annotations

import numpy as np
import torch
from e3nn.o3 import Irreps
from torch import Tensor, nn

from ...algebra.layout import Features
from ...algebra.rotation import edge_frames, moved_frames
from ...algebra.wigner import Generation
from ...data.graph import Graph
from ...runtime.storage import Storage
from ..net_config import NetConfig
from .layout import Layout
from .linear import ChannelLinear
from .local import by_m
from .output import OutputScale, edge_types
from .radial import INITIAL_RADIUS, bessel_factors, bessel_slopes, gaussians
from .rows import RowGroups, Segments, permuted
from .updates import EdgeUpdate, NodeUpdate, Prepared, Update

__all__ = ["DeepHE3Net", "NodeUpdate", "EdgeUpdate", "Update", "Prepared"]


class DeepHE3Net(nn.Module):
    """The network, for training.

    ``forward`` and the fields of :class:`NetConfig` mirror DeepH-E3's ``Net``; parameters map one
    to one (checkpoint.py).

    Without gradients :class:`.inference.InferenceEngine` gives the same numbers faster.

    Attributes:
        chunk: edges per chunk of a convolution in training; 0: all at once. In chunks what a
            convolution needs inside is made again in the backward pass: a fraction of the memory
            for a third more arithmetic.
        again: without chunks: make what is cheap of it again (:mod:`.recompute`).
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
                node,
                edge,
                Irreps(config.irreps_post_node if last else config.irreps_mid_node),
                config.num_species,
                generation,
            )
            node = update.irreps_out
            edge_update = EdgeUpdate(
                config,
                edge,
                node,
                edge,
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
        self.chunk, self.again = 0, False

    def prepare(
        self,
        graph: Graph,
        inference: bool = False,
        storage: Storage | None = None,
        by_kind: bool = True,
    ) -> Prepared:
        """Everything that depends on the structure only; reusable for every call on the same graph.

        Args:
            graph: one or several structures; its vectors' dtype is that of the parameters.
            inference: leave out what :mod:`.inference` makes chunk by chunk.
            storage: where edge-wise arrays go.
            by_kind: sort edges by their pair of elements (not for inference), which saves moving
                them; else their order stays, but for self-loops.
        """
        config, loops = self.config, graph.self_loop
        order = torch.cat([torch.nonzero(~loops), torch.nonzero(loops)]).reshape(-1)
        if by_kind and not inference:
            kind = self._kind(graph, *graph.edge_index[:, order])
            order = order[torch.argsort(kind + config.num_species**2 * loops[order], stable=True)]
        source, destination = graph.edge_index[:, order]
        dtype = self.lin_edge.weight.dtype
        vector = graph.edge_vector[order]
        length = torch.linalg.vector_norm(vector, dim=-1).to(dtype)
        regular = int((~loops).sum())
        nothing = length.new_empty(0, 0)
        frames = self._frames(vector, dtype, storage or Storage())
        return Prepared(
            order=order,
            inverse=torch.argsort(order),
            source=source,
            destination=destination,
            frames=frames,
            turns=[] if inference else [_sorted_by_m(frame) for frame in frames],
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
            edge_kind=RowGroups([], [], None, None)
            if inference
            else RowGroups.of(self._kind(graph, source, destination), config.num_species**2),
            node_segments=Segments.of(graph.node_batch, graph.structures, dtype),
            edge_segments=Segments.of(graph.node_batch[source], graph.structures, dtype),
            output_type=None
            if self.scale is None
            else edge_types(graph.node_type, source, destination, loops[order], config.num_species),
        )

    def _kind(self, graph: Graph, source: Tensor, destination: Tensor) -> Tensor:
        """Pair of elements of each edge."""
        types = graph.node_type
        return types[source] * self.config.num_species + types[destination]

    def moved(self, p: Prepared, start: Tensor, vectors: Tensor, chunk: int = 512) -> Prepared:
        """A prepared structure whose first edges move, to first order.

        Args:
            p: of :meth:`prepare` without ``by_kind``, of a graph with its self-loops last.
            start: (M, 3), the first edge vectors that ``p`` was made of, Å; no self-loops.
            vectors: (M, 3), the same numbers, with derivatives.
            chunk: edges that are worked on together.
        """
        config, count = self.config, len(start)
        dtype, sh = p.length.dtype, Irreps(config.irreps_sh)
        first, size = p.span(0, count), p.length[:count]
        along = ((start * (vectors - start)).sum(dim=1) / size.clamp(min=1e-30)).to(dtype)
        length, radial = size + along, first.radial
        if radial is not None:
            slope = bessel_slopes(size, sh, config.r_max, count)
            radial = radial + slope * along[:, None]
        turns = moved_frames(p.turns, start.to(dtype), vectors.to(dtype))
        first = first._replace(
            turns=[turn.moving for turn in turns],
            distance=gaussians(length, config.r_max, config.num_basis),
            radial=radial,
        )
        initial = gaussians(length, INITIAL_RADIUS, Irreps(config.irreps_edge_init).dim)
        return p._replace(
            initial=torch.cat([initial, p.initial[count:]]),
            parts=(first, *p.pieces(count, chunk)),
            split=tuple(turns),
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
        return self.scaled(self.lin_edge(edge), types)

    def scaled(self, out: Features, types: Tensor | None) -> Features:
        """What :attr:`lin_edge` gives, scaled and shifted where the network does so."""
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
            ``(direct_sum (E, D) eV, node irreps P x (N, d), edge irreps P x (E, d))``; e3nn's flat
            layout, the graph's edge order; global axes, but for the edges' of a structure that is
            :meth:`moved`: those are in edge frames.
        """
        p = self.prepare(graph) if prepared is None else prepared
        one_hot = nn.functional.one_hot(p.node_type, self.config.num_species).to(p.distance.dtype)
        node = self.embedding({(0, 1): one_hot[:, None, :]})
        edge = self.layout_edge_init.split(p.initial)
        nodes, edges = [], []
        for number, (node_update, edge_update) in enumerate(self.updates):
            again = self.again and not (0 < self.chunk < len(p.source))  # chunks are made again
            last = number == len(self.updates) - 1 and not features
            node = node_update(node, edge, p, self.chunk, again)
            edge = edge_update(node, edge, p, self.chunk, again, self.lin_edge if last else None)
            if features:
                nodes.append(Layout(node_update.irreps_out).flat(node))
                edges.append(_flat(Layout(edge_update.irreps_out), edge, p))
        own = self.lin_edge(edge) if features else edge
        out = _flat(self.lin_edge.layout_out, self.scaled(own, p.output_type), p)
        return out, tuple(nodes), tuple(edges)


def _sorted_by_m(frame: Tensor) -> Tensor:
    """D^l with its columns in the order of :func:`.local.by_m`; transposed in memory, as it was."""
    rows = frame.transpose(1, 2)
    return rows[:, by_m(rows.shape[1] // 2)].transpose(1, 2)


def _flat(layout: Layout, edge: Features, p: Prepared) -> Tensor:
    """Edge features as :meth:`DeepHE3Net.forward` gives them."""
    if not p.parts:
        return permuted(layout.flat_global(edge, p.turns), p.inverse, p.order, dim=0)
    return layout.flat(
        {key: value[:, np.argsort(by_m(key[0])).tolist()] for key, value in edge.items()}
    )
