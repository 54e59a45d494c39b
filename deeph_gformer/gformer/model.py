r"""The GFormer: Eq. 2-6 stacked over the encoder groups, and Eq. 7:

.. math:: \Delta\hat H_{ij} = DStoDP(\Delta\hat h_{ij}) = DStoDP(FC(e_{ij}^{(P)}))

This module gives the direct-sum correction; :mod:`deeph_gformer.pipeline` applies DStoDP.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from e3nn.o3 import Irreps
from torch import Tensor, nn

from ..algebra.layout import Features, Layout, rotate
from ..algebra.rotation import edge_frames, spherical_harmonics
from ..config import GFormerConfig
from ..data.features import Stage1Features
from ..data.graph import Graph
from ..errors import ModelError
from .block import EncoderGroup
from .embedding import Embedding
from .gated import GatedHead, edge_invariants, invariant_widths, node_invariants, saturated
from .invariants import InvariantFeature, Triplets, find_triplets
from .layers import fully_connected, norms

__all__ = ["GFormer", "FeatureScale"]


class FeatureScale(nn.Module):
    """Equivariant scaling of irreps to unit variance: one factor per channel, and a mean for 0e (an invariant)."""

    def __init__(self, irreps: Irreps) -> None:
        super().__init__()
        self.irreps = Irreps(irreps)
        index, scalar = [], []
        channel = 0
        for mul, ir in self.irreps:
            for _ in range(mul):
                index += [channel] * ir.dim
                scalar.append(ir.l == 0 and ir.p == 1)
                channel += 1
        self.register_buffer("index", torch.tensor(index, dtype=torch.int64), persistent=False)
        self.register_buffer("scalar", torch.tensor(scalar, dtype=torch.bool), persistent=False)
        self.register_buffer("mean", torch.zeros(channel))
        self.register_buffer("factor", torch.ones(channel))

    def fit(self, samples: Sequence[Tensor]) -> None:
        """Set mean and factor from features (rows, dim) of the training set. Channels that never vary keep factor 1."""
        count = torch.bincount(self.index, minlength=len(self.mean)).double()
        rows = float(sum(len(s) for s in samples))

        def average(values: list[Tensor]) -> Tensor:
            total = torch.stack(values).sum(0) / rows
            return (
                torch.zeros(len(self.mean), dtype=torch.float64).index_add(
                    0, self.index.cpu(), total
                )
                / count.cpu()
            )

        mean = torch.where(
            self.scalar.cpu(),
            average([s.double().sum(0).cpu() for s in samples]),
            torch.zeros(()).double(),
        )
        square = average(
            [(s.double().cpu() - mean[self.index.cpu()]).square().sum(0) for s in samples]
        )
        self.mean.copy_(mean)
        self.factor.copy_(
            torch.where(square > 1e-12, square.clamp(min=1e-12).rsqrt(), torch.ones(()).double())
        )

    def forward(self, value: Tensor) -> Tensor:
        """(rows, dim) -> (rows, dim)."""
        return (value - self.mean[self.index]) * self.factor[self.index]


class GFormer(nn.Module):
    """Stage 2: predicts the direct-sum correction of every edge. See the package docstring for the files of its equations."""

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
            config: hyper-parameters. elements: number of elements. irreps_out: direct sum.
            node_irreps, edge_irreps: of stage 1's encoder groups; empty for a GFormer without stage-1 features.
            cutoff: last Gaussian of the distance, Å.

        Raises:
            ConfigError: width is no multiple of the heads. ModelError: the equivariant arch without stage-1 features.
        """
        super().__init__()
        self.config, self.irreps_out, self.cutoff = config, Irreps(irreps_out), cutoff
        self.node_irreps, self.edge_irreps = (
            tuple(map(Irreps, node_irreps)),
            tuple(map(Irreps, edge_irreps)),
        )
        self.equivariant = config.arch == "equivariant"
        if self.equivariant and not self.node_irreps:
            raise ModelError(
                "arch: equivariant gates stage 1's irreps and needs them; use arch: paper without stage-1 features"
            )
        groups = len(self.node_irreps) or config.groups
        width = config.width
        self.embedding = Embedding(
            elements,
            width,
            config.embed,
            config.gaussians,
            cutoff,
            -1 if self.equivariant else config.lmax,
        )
        self.invariant = (
            InvariantFeature(width, config.embed, config.gaussians, config.cosine_repeat)
            if config.beta
            else None
        )
        self.node_scale = nn.ModuleList([FeatureScale(i) for i in self.node_irreps])
        self.edge_scale = nn.ModuleList([FeatureScale(i) for i in self.edge_irreps])
        self.groups = nn.ModuleList()
        for p in range(groups):
            node_in, edge_in = (
                (self.node_irreps[p].dim, self.edge_irreps[p].dim) if self.node_irreps else (0, 0)
            )
            if self.equivariant:
                node_in, edge_in = invariant_widths(self.node_irreps[p], self.edge_irreps[p])
                edge_in += self.irreps_out.num_irreps
            self.groups.append(
                EncoderGroup(
                    width,
                    config.heads,
                    node_in,
                    edge_in,
                    config.alpha,
                    config.beta,
                    config.lam,
                    config.attention,
                    config.residual,
                )
            )
        if self.equivariant:
            self.sh_lmax = max(
                ir.l
                for irreps in (*self.node_irreps, *self.edge_irreps, self.irreps_out)
                for _, ir in irreps
            )
            self.head: nn.Module = GatedHead(
                (self.irreps_out, *self.edge_irreps[-2:]),
                self.node_irreps[-1],
                self.irreps_out,
                width,
                config.gated_channels,
                self.sh_lmax,
                config.mixing,
                config.messages,
            )
        else:
            self.head = fully_connected(width, self.irreps_out.dim, width)
            nn.init.zeros_(self.head[-1].weight)  # an untrained GFormer returns stage 1 exactly
            nn.init.zeros_(self.head[-1].bias)
        self.register_buffer("out_scale", torch.ones(self.irreps_out.dim))
        self.register_buffer("onsite_scale", torch.ones(self.irreps_out.dim))

    def fit_scales(
        self,
        features: Sequence[Stage1Features],
        targets: Sequence[Tensor],
        onsite: Sequence[Tensor],
    ) -> None:
        """Set the units of inputs and output from the training set.

        Args:
            features: stage 1's irreps per structure. targets: residual in the direct sum per structure, (E, D), eV.
            onsite: per structure (E,) bool, self-loops; they have their own spread.
        """
        for p, scale in enumerate(self.node_scale):
            scale.fit([f.node[p] for f in features])
        for p, scale in enumerate(self.edge_scale):
            scale.fit([f.edge[p] for f in features])
        spread = FeatureScale(self.irreps_out)
        for buffer, keep in ((self.out_scale, False), (self.onsite_scale, True)):
            chosen = [t[mask if keep else ~mask] for t, mask in zip(targets, onsite)]
            spread.fit(chosen)
            spread.mean.zero_()
            index = spread.index
            rms = torch.stack([c.double().cpu().square().sum(0) for c in chosen]).sum(0) / max(
                1, sum(len(c) for c in chosen)
            )
            channel = torch.zeros(len(spread.mean), dtype=torch.float64).index_add(
                0, index, rms
            ) / torch.bincount(index, minlength=len(spread.mean)).clamp(min=1)
            buffer.copy_(channel.sqrt().clamp(min=1e-9)[index])

    def forward(
        self, graph: Graph, features: Stage1Features | None = None, triplets: Triplets | None = None
    ) -> Tensor:
        """The correction Δh (Eq. 2-7, before DStoDP).

        Args:
            graph: one or several structures. features: stage 1's irreps of this graph. triplets: of Eq. 3, where they were found before.

        Returns:
            (E, D), eV.
        """
        distances = self.embedding.distances(graph)
        z, node, edge = self.embedding(graph, distances)
        invariant = None
        if self.invariant is not None:
            invariant = self.invariant(
                z, distances, graph, find_triplets(graph) if triplets is None else triplets
            )
        nodes = (
            [scale(value) for scale, value in zip(self.node_scale, features.node)]
            if features
            else [None] * len(self.groups)
        )
        edges = (
            [scale(value) for scale, value in zip(self.edge_scale, features.edge)]
            if features
            else [None] * len(self.groups)
        )
        if self.equivariant:
            if features is None:
                raise ModelError("arch: equivariant needs stage 1's irreps and its direct sum")
            return self._equivariant(
                graph, node, edge, invariant, nodes, edges, features.direct_sum
            )
        for group, node1, edge1 in zip(self.groups, nodes, edges):
            node, edge = group(node, edge, node1, edge1, invariant, graph.edge_index)
        return self._units(self.head(edge), graph)

    def _equivariant(
        self,
        graph: Graph,
        node: Tensor,
        edge: Tensor,
        invariant: Tensor | None,
        nodes: Sequence[Tensor],
        edges: Sequence[Tensor],
        direct_sum: Tensor,
    ) -> Tensor:
        source, target = graph.edge_index
        own = saturated(Layout(self.irreps_out).split(direct_sum / self._unit(graph)))
        own_norms = torch.cat(norms(own), dim=1)
        harmonics = list(
            spherical_harmonics(graph.edge_vector, self.sh_lmax).split(
                [2 * l + 1 for l in range(self.sh_lmax + 1)], dim=1
            )
        )
        split_nodes = [
            Layout(irreps).split(value) for irreps, value in zip(self.node_irreps, nodes)
        ]
        split_edges = [
            Layout(irreps).split(value) for irreps, value in zip(self.edge_irreps, edges)
        ]
        for group, node1, edge1 in zip(self.groups, split_nodes, split_edges):
            edge_in = torch.cat(
                [edge_invariants(edge1, node1, harmonics, graph.edge_index), own_norms], dim=1
            )
            node, edge = group(
                node, edge, node_invariants(node1), edge_in, invariant, graph.edge_index
            )
        # from here on in the frame of each edge, where mixing across l needs no further rotation
        frames = edge_frames(graph.edge_vector, self.sh_lmax)
        harmonics = [torch.einsum("emn,em->en", d, y) for d, y in zip(frames, harmonics)]
        last = split_nodes[-1]
        irreps = [own, *split_edges[-2:], _rows(last, source), _rows(last, target)]
        irreps = [rotate(part, frames, to_local=True) for part in irreps]
        head: GatedHead = self.head
        if head.messages is not None:
            sent = rotate(head.send(edge, irreps, harmonics), frames, to_local=False)
            weight = (
                torch.bincount(source, minlength=graph.nodes)
                .clamp(min=1)
                .to(edge.dtype)
                .rsqrt()[:, None, None]
            )
            received = {
                k: v.index_add(0, source, sent[k]) * weight
                for k, v in head.messages.empty(graph.nodes, edge).items()
            }
            of_i, of_j = head.messages.sizes(received)
            edge = edge + of_i[source] + of_j[target]
            irreps += [
                rotate(_rows(received, index), frames, to_local=True) for index in (source, target)
            ]
        return self._units(
            Layout(self.irreps_out).flat(
                rotate(head(edge, irreps, harmonics), frames, to_local=False)
            ),
            graph,
        )

    def _units(self, value: Tensor, graph: Graph) -> Tensor:
        """From units of the residual's spread to eV."""
        return value * self._unit(graph)

    def _unit(self, graph: Graph) -> Tensor:
        """(E, D), eV: the residual's spread, on-site and between atoms."""
        return torch.where(graph.self_loop[:, None], self.onsite_scale, self.out_scale)


def _rows(features: Features, index: Tensor) -> Features:
    """Atoms' features at one end of every edge."""
    return {key: value.index_select(0, index) for key, value in features.items()}
