r"""The GFormer: Eq. 2-6 stacked over the encoder groups, and Eq. 7:

.. math:: \Delta\hat H_{ij} = DStoDP(\Delta\hat h_{ij}) = DStoDP(FC(e_{ij}^{(P)}))

This module gives the direct-sum correction; :mod:`deeph_gformer.pipeline` applies DStoDP.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from e3nn.o3 import Irreps
from torch import Tensor, nn

from ..algebra.layout import Frame
from ..config import GFormerConfig
from ..data.features import Stage1Features
from ..data.graph import Graph
from ..data.stream import FinalChunk, IrrepStream, NoStream, TensorStream
from ..errors import ModelError
from ..runtime.plan import ExecutionPlan
from .block import EncoderGroup
from .embedding import Embedding
from .envelope import Envelope
from .forward import ForwardPass
from .gated import GatedHead, invariant_widths
from .invariants import AdjacentPairs, DensityPairs
from .layers import FullyConnected, Modules
from .messages import Messages
from .scale import FeatureScale, channel_rms, constant_channels
from .spans import Span

__all__ = ["GFormer"]

#: Stage 1's own prediction is read in units of the residual's spread, but in none smaller than this
#: part of its own rms between atoms: it is saturated, and a step of 0.001 Å must not do that.
OWN_FLOOR = 0.3


class GFormer(nn.Module):
    """Stage 2: predicts the direct-sum correction of every edge.

    The package docstring lists the files.
    """

    groups: Modules[EncoderGroup]
    node_scale: Modules[FeatureScale]
    edge_scale: Modules[FeatureScale]
    out_scale: Tensor
    onsite_scale: Tensor
    own_factor: Tensor

    def __init__(
        self,
        config: GFormerConfig,
        elements: int,
        irreps_out: Irreps,
        node_irreps: Sequence[Irreps] = (),
        edge_irreps: Sequence[Irreps] = (),
        cutoff: float = 8.0,
    ) -> None:
        """
        Args:
            config: hyper-parameters.
            elements: number of elements.
            irreps_out: direct sum.
            node_irreps: of stage 1's encoder groups; empty: no stage-1 features are read.
            edge_irreps: likewise.
            cutoff: last Gaussian of the distance, Å.

        Raises:
            ConfigError: width is no multiple of the heads.
            ModelError: the equivariant arch without stage-1 features.
        """
        super().__init__()
        self.config, self.irreps_out, self.cutoff = config, Irreps(irreps_out), cutoff
        self.node_irreps = tuple(map(Irreps, node_irreps))
        self.edge_irreps = tuple(map(Irreps, edge_irreps))
        self.equivariant = config.arch == "equivariant"
        if self.equivariant and not self.node_irreps:
            raise ModelError(
                "arch: equivariant gates stage 1's irreps and needs them; use arch: paper without "
                "stage-1 features"
            )
        width, self.norm_floor = config.width, config.norm_floor
        self.again = False  # see ForwardPass
        lmax = -1 if self.equivariant else config.lmax
        self.embedding = Embedding(elements, width, config.embed, config.gaussians, cutoff, lmax)
        self.envelope = Envelope(elements, config.envelope if self.equivariant else 0.0)
        self.invariant = self._invariant(config) if config.beta else None
        self.node_scale = Modules([FeatureScale(i) for i in self.node_irreps])
        self.edge_scale = Modules([FeatureScale(i) for i in self.edge_irreps])
        self.groups = Modules()
        for p in range(len(self.node_irreps) or config.groups):
            self.groups.append(
                EncoderGroup(
                    width,
                    config.heads,
                    *self._widths(p),
                    config.alpha,
                    config.beta,
                    config.lam,
                    config.attention,
                    config.residual,
                )
            )
        self.head = self._head(config)
        columns = self.irreps_out.dim
        self.register_buffer("out_scale", torch.ones(columns))
        self.register_buffer("onsite_scale", torch.ones(columns))
        self.register_buffer("own_factor", torch.ones(2, columns))

    def _load_from_state_dict(
        self, state_dict: dict[str, Tensor], prefix: str, *rest: Any, **more: Any
    ) -> None:
        """Weights of earlier bundle formats, too (a hook for it is public from torch 2.5 on)."""
        _upgrade_state(self, state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *rest, **more)

    def _invariant(self, config: GFormerConfig) -> AdjacentPairs | DensityPairs:
        sizes = config.width, config.embed, config.gaussians
        if self.equivariant and config.pairs == "all":
            return DensityPairs(*sizes, config.density_channels, config.density_lmax)
        return AdjacentPairs(*sizes, config.cosine_repeat)

    def _widths(self, p: int) -> tuple[int, int]:
        """Widths of what group p reads of stage 1's nodes and edges."""
        if not self.node_irreps:
            return 0, 0
        node, edge = self.node_irreps[p], self.edge_irreps[p]
        if not self.equivariant:
            return node.dim, edge.dim
        node_in, edge_in = invariant_widths(node, edge)
        return node_in, edge_in + self.irreps_out.num_irreps

    def _head(self, config: GFormerConfig) -> FullyConnected | GatedHead:
        """Eq. 7; zero before training, so an untrained GFormer returns stage 1 exactly."""
        if not self.equivariant:
            head = FullyConnected(config.width, self.irreps_out.dim, config.width)
            head.start_at(0.0)
            return head
        irreps = (*self.node_irreps, *self.edge_irreps, self.irreps_out)
        return GatedHead(
            (self.irreps_out, *self.edge_irreps[-2:]),
            self.node_irreps[-1],
            self.irreps_out,
            config.width,
            config.gated_channels,
            max(ir.l for each in irreps for _, ir in each),
            config.mixing,
            config.messages,
        )

    @property
    def messages(self) -> Messages | None:
        """What the head gathers from an atom's edges first; None where it gathers nothing."""
        return self.head.messages if isinstance(self.head, GatedHead) else None

    @torch.no_grad()
    def fit_scales(
        self, graphs: Sequence[Graph], features: Sequence[Stage1Features], targets: Sequence[Tensor]
    ) -> None:
        """Set units of inputs and output, and the ranges of edges, from the training set.

        Args:
            graphs: the structures.
            features: stage 1's irreps and direct sum of each; empty where none are read.
            targets: residual in the direct sum of each, (E, D), eV.
        """
        self.envelope.fit(graphs)
        for p, scale in enumerate(self.node_scale):
            scale.fit([f.node[p] for f in features])
        for p, scale in enumerate(self.edge_scale):
            scale.fit([f.edge[p] for f in features])
        channel, floor = FeatureScale(self.irreps_out).index, torch.zeros(()).double()
        if features:
            own = [f.direct_sum[~g.self_loop] for g, f in zip(graphs, features, strict=True)]
            between = channel_rms(self.irreps_out, own)
            floor = OWN_FLOOR * between.square().mean().sqrt()
        for row, (buffer, onsite) in enumerate(
            ((self.out_scale, False), (self.onsite_scale, True))
        ):
            chosen = [t[g.self_loop == onsite] for g, t in zip(graphs, targets, strict=True)]
            spread = channel_rms(self.irreps_out, chosen)
            off = constant_channels(spread)
            buffer.copy_(torch.where(off, 0.0, spread)[channel])
            self.own_factor[row] = torch.where(off, 0.0, 1 / spread.clamp(min=floor))[channel]
        if isinstance(self.invariant, DensityPairs):
            density, device = self.invariant, self.out_scale.device
            density.fit([self._density(density, g.to(device)) for g in graphs])

    def _density(self, pairs: DensityPairs, graph: Graph) -> Tensor:
        graph = graph._replace(edge_vector=graph.edge_vector.to(self.out_scale.dtype))
        distances, f = self.embedding.distances(graph), self.envelope(graph)
        whole = Span(0, graph.edges, 0, graph.nodes)
        return pairs.span(graph, whole, self.embedding.element.weight, distances, f)

    def corrections(
        self, graph: Graph, stream: IrrepStream, execution: ExecutionPlan
    ) -> Iterator[tuple[FinalChunk, Tensor]]:
        """The correction Δh, some edges after the others (Eq. 2-7, before DStoDP).

        Args:
            graph: all atoms, and the edges of this rank's.
            stream: stage 1's features of these edges.
            execution: chunk, storage, processes.

        Yields:
            The stream's last word on some edges, and their correction, (n, D), eV.

        Raises:
            ConfigError: the chunk is smaller than the edges of one atom.
        """
        run, timer = ForwardPass(self, graph, execution), execution.timer
        for chunk in stream.groups(bool(self.node_irreps)):
            timer.start("GFormer")
            run.read_group(chunk)
            timer.start("stage 1")
        if self.equivariant:
            for final in stream.final(False):
                run.read_own(final)
        timer.start("GFormer")
        run.encode(stream.nodes if self.node_irreps else ())
        if self.messages is not None:
            for final in stream.final(True):
                run.send(final)
            run.gather()
        timer.start("stage 1")
        for final in stream.final(self.equivariant):
            timer.start("GFormer")
            value = run.head(final)
            timer.start("stage 1")
            yield final, value

    def forward(
        self,
        graph: Graph,
        features: Stage1Features | None = None,
        frames: Sequence[Frame] | None = None,
        chunks: Sequence[slice] = (),
    ) -> Tensor:
        """:meth:`corrections` of all edges at the same time.

        Args:
            graph: one or several structures.
            features: stage 1's irreps of this graph.
            frames: of its edges, where features of edges are given in these; see
                :class:`TensorStream`.
            chunks: of edges, in which the equivariant head works; default: all at once.

        Returns:
            (E, D), eV; in the frames, where they are given.

        Raises:
            ModelError: the features, or stage 1's direct sum, are missing.
        """
        execution = ExecutionPlan(graph.edges)
        if not self.node_irreps:
            return next(iter(self.corrections(graph, NoStream(graph, graph.edges), execution)))[1]
        if features is None:
            raise ModelError("this GFormer needs stage 1's irreps and its direct sum")
        stream = TensorStream(
            graph,
            self.node_irreps,
            self.edge_irreps,
            self.irreps_out,
            *features,
            chunk=graph.edges,
            local=self.equivariant,
            frames=frames,
            turned=frames is not None,
            final=chunks if self.equivariant else (),
        )
        parts = [result for _, result in self.corrections(graph, stream, execution)]
        return torch.cat(parts) if len(parts) > 1 else parts[0]


def _upgrade_state(model: GFormer, state: dict[str, Tensor], prefix: str) -> None:
    """Weights from before bundle format 3: no ranges.

    Channels that only rounding scaled are switched off.
    """
    if f"{prefix}own_factor" in state:
        return
    state[f"{prefix}envelope.range"] = model.envelope.range
    factors = []
    for name in ("out_scale", "onsite_scale"):
        scale = state[prefix + name]
        off = (scale <= 1e-9) | constant_channels(scale.double())
        factors.append(torch.where(off, 0.0, 1 / scale))
        state[prefix + name] = torch.where(off, 0.0, scale)
    state[f"{prefix}own_factor"] = torch.stack(factors)
    for kind in ("node_scale", "edge_scale"):
        for p in range(len(getattr(model, kind))):
            name = f"{prefix}{kind}.{p}.factor"
            if name in state:
                off = constant_channels(1 / state[name].double())
                state[name] = torch.where(off, 0.0, state[name])
