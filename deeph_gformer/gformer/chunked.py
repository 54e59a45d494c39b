"""The GFormer without gradients, edges in chunks of whole atoms: the numbers of :meth:`GFormer.forward` to rounding.

Kept per edge: one vector of width d per encoder group, what stage 1's irreps of that group add to ẽ (Eq. 2; linear, so it is made while stage 1 runs and the
irreps need not stay). The last two groups' irreps, which the equivariant head reads, come from the stream again. All edges of an atom are in one chunk, so the softmax
over its neighbours (Eq. 4-5) and the adjacent pairs of Ω(i) (Eq. 3) need no second pass. The edge update (Eq. 6) of a group is made when the next one reads it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..algebra.layout import Features, Key, Layout, rotate
from ..algebra.rotation import spherical_harmonics
from ..data.graph import Graph
from ..data.stream import EdgeChunk, FinalChunk
from ..errors import ConfigError
from ..runtime.plan import ExecutionPlan
from .attention import NeighbourAttention
from .block import EncoderGroup
from .gated import GatedHead, node_invariants, saturated
from .invariants import find_triplets
from .layers import gaussian_basis, norms
from .model import FeatureScale, GFormer

__all__ = ["ChunkedGFormer", "atom_spans"]


class Span(NamedTuple):
    """Edges start to stop (rows of the graph), which are those of atoms first to last."""

    start: int
    stop: int
    first: int
    last: int


def atom_spans(degree: Tensor, first: int, chunk: int) -> list[Span]:
    """Whole atoms, at most ``chunk`` edges together.

    Args:
        degree: (n,), edges of each atom from number ``first`` on. chunk: edges.

    Raises:
        ConfigError: one atom has more edges; the message names the minimum.
    """
    counts = degree.tolist()
    most = max(counts, default=0)
    if most > chunk:
        raise ConfigError(
            f"a chunk of {chunk} edges is too small: one atom has {most}, and all edges of an atom belong together; give more --max-memory"
        )
    out, start, row, begin = [], 0, 0, 0
    for atom, count in enumerate(counts):
        if row + count - start > chunk:
            out.append(Span(start, row, first + begin, first + atom))
            start, begin = row, atom
        row += count
    if row > start:
        out.append(Span(start, row, first + begin, first + len(counts)))
    return out


class _Scale:
    """A :class:`FeatureScale` on features instead of e3nn's flat vector."""

    def __init__(self, scale: FeatureScale) -> None:
        index = Layout(scale.irreps).multiplicity_index()
        self.factor = {
            key: scale.factor[place.to(scale.factor.device)] for key, place in index.items()
        }
        self.mean = {
            key: scale.mean[place.to(scale.mean.device)]
            for key, place in index.items()
            if key == (0, 1)
        }

    def __call__(self, features: Features) -> Features:
        centred = {
            key: features[key] - self.mean[key] if key in self.mean else features[key]
            for key in self.factor
            if key in features
        }
        return {key: value * self.factor[key] for key, value in centred.items()}

    def axis(self, values: dict[Key, Tensor]) -> list[Tensor]:
        """Projections on the edge axis as :func:`.gated.edge_invariants` has them."""
        return [
            values[key] * (factor / (2 * key[0] + 1))
            for key, factor in self.factor.items()
            if key in values
        ]


class ChunkedGFormer:
    """One pass over one structure: :meth:`take` what stage 1 gives, :meth:`encode`, where it :attr:`sends` also :meth:`send` and :meth:`gather`, then :meth:`head`."""

    def __init__(self, model: GFormer, graph: Graph, execution: ExecutionPlan) -> None:
        """
        Args:
            model: in evaluation mode. graph: one structure; with several ranks the edges of this rank's atoms, and all atoms. execution: chunk, storage, communicator.

        Raises:
            ConfigError: see :func:`atom_spans`.
        """
        self.model, self.graph, self.execution = model, graph, execution
        first, last = execution.comm.atoms if execution.comm.size > 1 else (0, graph.nodes)
        self.spans = atom_spans(
            torch.bincount(graph.edge_index[0], minlength=graph.nodes)[first:last],
            first,
            execution.chunk,
        )
        self.like = model.out_scale
        self.loops = graph.self_loop
        self.node_scale, self.edge_scale = [
            [_Scale(s) for s in scales] for scales in (model.node_scale, model.edge_scale)
        ]
        self.read: list[Tensor | None] = [None] * len(model.groups)
        self.parts: tuple[Tensor, Tensor] | None = None
        self.received: Features | None = None
        if model.equivariant:
            self.layout = Layout(model.irreps_out)
            self.unit = [
                {k: v[0, 0] for k, v in self.layout.split(s[None]).items()}
                for s in (model.out_scale, model.onsite_scale)
            ]

    # --- what stage 1 gives ------------------------------------------------------------------------------------------
    @torch.no_grad()
    def take(self, chunk: EdgeChunk) -> None:
        """Read stage 1's irreps of some edges after one encoder group."""
        group: EncoderGroup = self.model.groups[chunk.group]
        if group.from_edge is None:
            return
        storage = self.read[chunk.group]
        if storage is None:
            storage = self.read[chunk.group] = self.execution.storage.empty(
                self.graph.edges, self.model.config.width, self.like
            )
        if self.model.equivariant:
            edge_scale, node_scale = self.edge_scale[chunk.group], self.node_scale[chunk.group]
            parts = norms(edge_scale(chunk.edge)) + edge_scale.axis(chunk.axis_edge)
            value = torch.cat(
                parts + node_scale.axis(chunk.axis_i) + node_scale.axis(chunk.axis_j), dim=1
            )
        else:
            value = self.model.edge_scale[chunk.group](chunk.flat())
        made = nn.functional.linear(
            value, group.from_edge.weight[:, : value.shape[1]], group.from_edge.bias
        )
        storage[chunk.rows] = made.mul_(group.lam)

    def _own(self, chunk: FinalChunk) -> Features:
        """Stage 1's prediction in units of the residual, saturated."""
        loops = self.loops[chunk.rows]
        unit = {
            k: torch.where(loops[:, None, None], self.unit[1][k], self.unit[0][k])
            for k in self.layout.channels
        }
        return saturated({k: chunk.own[k] / v for k, v in unit.items()})

    @torch.no_grad()
    def take_own(self, chunk: FinalChunk) -> None:
        """Read stage 1's own prediction of some edges (equivariant arch only)."""
        if not self.model.equivariant:
            return
        value = torch.cat(norms(self._own(chunk)), dim=1)
        for group, storage in zip(self.model.groups, self.read):
            if storage is not None:
                weight = group.from_edge.weight[:, -value.shape[1] :]
                storage[chunk.rows] = torch.addmm(
                    storage[chunk.rows], value, weight.T, alpha=group.lam
                )

    # --- Eq. 2-6 -----------------------------------------------------------------------------------------------------
    @torch.no_grad()
    def encode(self, nodes: Sequence[Tensor]) -> None:
        """All encoder groups.

        Args:
            nodes: stage 1's node irreps per group (N, d_n^p), flat; empty for a GFormer that reads none.
        """
        model, storage = self.model, self.execution.storage
        z = model.embedding.element(self.graph.node_type)
        node = model.embedding.node(z)  # (N, d)
        invariant = self._invariant() if model.invariant is not None else None
        state = (
            self.read[0]
            if self.read[0] is not None
            else storage.empty(self.graph.edges, model.config.width, self.like)
        )
        for p, group in enumerate(model.groups):
            node_in = node
            if group.from_node is not None:
                value = model.node_scale[p](nodes[p])
                value = (
                    node_invariants(Layout(model.node_irreps[p]).split(value))
                    if model.equivariant
                    else value
                )
                node_in = node_in + group.alpha * group.from_node(value)
            if invariant is not None and group.beta:
                node_in = node_in + group.beta * invariant
            attention = _Attention(group.attention, node_in)
            mixed = torch.zeros_like(node)
            for span in self.spans:
                edge = (
                    self._initial(span)
                    if p == 0
                    else self._update(p - 1, slice(span.start, span.stop))
                )
                read = self.read[p]
                tilde = edge if read is None else edge + read[span.start : span.stop]
                state[span.start : span.stop] = tilde if group.residual else edge
                source = self.graph.edge_index[0, span.start : span.stop] - span.first
                mixed[span.first : span.last] = attention(
                    tilde, source, self.graph.edge_index[1, span.start : span.stop], span
                )
                self.execution.tick("GFormer", span.stop - span.start)
            if p and self.read[p] is not None:
                storage.release(self.read[p])
            self.read[p], self.state = None, state
            layer = group.attention
            node = layer.fc(layer.norm(layer.output(self.execution.comm.gather_rows(mixed))) + node)
            self.parts = group.edge_node_i(node), group.edge_node_j(node)

    def _initial(self, span: Span) -> Tensor:
        """e^(0) of some edges, (n, d)."""
        embedding, graph = self.model.embedding, self.graph
        source, target = graph.edge_index[:, span.start : span.stop]
        weight = embedding.edge.weight
        width = embedding.pair.embedding_dim
        table = nn.functional.linear(embedding.pair.weight, weight[:, :width], embedding.edge.bias)
        kind = graph.node_type[source] * embedding.elements + graph.node_type[target]
        parts = [self._distances(span)]
        if embedding.lmax >= 0:
            parts.append(
                spherical_harmonics(graph.edge_vector[span.start : span.stop], embedding.lmax)
            )
        return torch.addmm(table[kind], torch.cat(parts, dim=1), weight[:, width:].T)

    def _distances(self, span: Span) -> Tensor:
        length = torch.linalg.vector_norm(self.graph.edge_vector[span.start : span.stop], dim=-1)
        return gaussian_basis(length, self.model.embedding.cutoff, self.model.embedding.gaussians)

    def _update(self, p: int, rows: slice | Tensor) -> Tensor:
        """e^(p + 1) of some edges (Eq. 6), (n, d), from the kept state of group p."""
        group: EncoderGroup = self.model.groups[p]
        old, (of_i, of_j) = self.state[rows], self.parts  # type: ignore[misc]
        source, target = self.graph.edge_index[0, rows], self.graph.edge_index[1, rows]
        update = group.edge_old(group.edge_norm(old)).add_(of_i[source]).add_(of_j[target])
        update = group.edge_out(update)
        return update.add_(old) if group.residual else update

    def _invariant(self) -> Tensor:
        """n_invar (Eq. 3), (N, d); FC's first layer is taken apart, its second one acts once per atom."""
        model, graph = self.model, self.graph
        layer, table = model.invariant, model.embedding.element.weight
        first, second = layer.fc[0], layer.fc[2]
        z, g = table.shape[1], model.embedding.gaussians
        zi, zj, zk, dj, dk, c = first.weight.split([z, z, z, g, g, layer.repeat], dim=1)
        by_i, by_j, by_k = nn.functional.linear(table, zi, first.bias), table @ zj.T, table @ zk.T
        out = self.like.new_zeros(graph.nodes, first.out_features)
        count = self.like.new_zeros(graph.nodes, 1)
        for span in self.spans:
            rows = slice(span.start, span.stop)
            part = graph._replace(
                edge_index=graph.edge_index[:, rows],
                edge_vector=graph.edge_vector[rows],
                edge_key=graph.edge_key[rows],
            )
            j, k, cosine = find_triplets(part)
            source, kind = part.edge_index[0], graph.node_type[part.edge_index[1]]
            distances = self._distances(span)
            hidden = (
                by_i[graph.node_type[source[j]]]
                + (by_j[kind] + distances @ dj.T)[j]
                + (by_k[kind] + distances @ dk.T)[k]
            )
            hidden = nn.functional.silu(
                hidden.addmm_(cosine[:, None], c.sum(dim=1)[None]), inplace=True
            )
            out[span.first : span.last].index_add_(0, source[j] - span.first, hidden)
            count[span.first : span.last].index_add_(
                0, source[j] - span.first, torch.ones_like(cosine)[:, None]
            )
            self.execution.tick("GFormer", span.stop - span.start)
        return self.execution.comm.gather_rows(out @ second.weight.T + count * second.bias)

    # --- Eq. 7 -------------------------------------------------------------------------------------------------------
    def _final(self, chunk: FinalChunk) -> tuple[Tensor, list[Features]]:
        """e^(P) and the irreps of some edges that the equivariant head reads."""
        edges = [
            scale(part) for scale, part in zip(self.edge_scale[-len(chunk.edges) :], chunk.edges)
        ]
        last = self.node_scale[-1]
        return self._update(len(self.model.groups) - 1, chunk.rows), [
            self._own(chunk),
            *edges,
            last(chunk.node_i),
            last(chunk.node_j),
        ]

    @property
    def sends(self) -> bool:
        """Whether :meth:`send` has to see every edge, and then :meth:`gather` be called, before :meth:`head`."""
        return self.model.equivariant and self.model.head.messages is not None

    @torch.no_grad()
    def send(self, chunk: FinalChunk) -> None:
        """Add what some edges give to their atoms."""
        if self.received is None:
            self.received = self.model.head.messages.empty(self.graph.nodes, self.like)
        sent = _turned(
            self.model.head.send(*self._final(chunk), chunk.harmonics), chunk.frames, to_local=False
        )
        for key, value in sent.items():
            self.received[key].index_add_(0, self.graph.edge_index[0, chunk.rows], value)

    @torch.no_grad()
    def gather(self) -> None:
        """After the last :meth:`send`: u of all atoms, from all ranks."""
        source, comm = self.graph.edge_index[0], self.execution.comm
        degree = torch.bincount(source, minlength=self.graph.nodes).to(self.like.dtype)[:, None]
        received = {}
        for key, value in self.received.items():
            mine = value.flatten(1) * degree.clamp(min=1).rsqrt()
            received[key] = comm.gather_rows(mine).reshape(value.shape)
        self.received, self.sizes = received, self.model.head.messages.sizes(received)

    @torch.no_grad()
    def head(self, chunk: FinalChunk) -> Tensor:
        """The correction of some edges, (n, D), eV, e3nn's flat layout in global axes."""
        model = self.model
        loops = self.loops[chunk.rows]
        if not isinstance(model.head, GatedHead):
            edge = self._update(len(model.groups) - 1, chunk.rows)
            return model.head(edge) * torch.where(
                loops[:, None], model.onsite_scale, model.out_scale
            )  # type: ignore[no-any-return]
        edge, irreps = self._final(chunk)
        if self.sends:
            for index, size in zip(self.graph.edge_index[:, chunk.rows], self.sizes):
                edge = edge + size[index]
                irreps.append(
                    _turned(
                        {k: v[index] for k, v in self.received.items()}, chunk.frames, to_local=True
                    )
                )
        made = model.head(edge, irreps, chunk.harmonics)
        return chunk.flat(
            {
                k: v * torch.where(loops[:, None, None], self.unit[1][k], self.unit[0][k])
                for k, v in made.items()
            }
        )


def _turned(features: Features, frames: Sequence[Tensor] | None, to_local: bool) -> Features:
    """Features between global axes and a chunk's frames."""
    return features if frames is None else rotate(features, frames, to_local)


class _Attention:
    """Eq. 4 of one group on whole atoms; the atoms' parts of q, k and v are made once."""

    def __init__(self, layer: NeighbourAttention, node: Tensor) -> None:
        self.layer = layer
        linears = [layer.query, layer.key, layer.value] if layer.attention else [layer.value]
        self.nodes = [linear.node(node) for linear in linears]
        self.weight = torch.cat([linear.edge.weight for linear in linears]).T.contiguous()
        self.bias = torch.cat([linear.edge.bias for linear in linears])

    def __call__(self, edge: Tensor, source: Tensor, target: Tensor, span: Span) -> Tensor:
        """ẽ (n, d), source counted from the span's first atom -> mixed values of its atoms (atoms, d)."""
        heads, atoms = self.layer.heads, span.last - span.first
        parts = list(torch.addmm(self.bias, edge, self.weight).chunk(len(self.nodes), dim=1))
        v = (parts[-1] + self.nodes[-1][target]).unflatten(1, (heads, -1))  # (n, H, d/H)
        degree = torch.bincount(source, minlength=atoms)
        if self.layer.attention:
            q = (parts[0] + self.nodes[0][span.first : span.last][source]).unflatten(1, (heads, -1))
            k = (parts[1] + self.nodes[1][target]).unflatten(1, (heads, -1))
            logits = (q * k).sum(-1) / q.shape[-1] ** 0.5  # (n, H)
            largest = torch.segment_reduce(logits, "max", lengths=degree, axis=0)
            weight = torch.exp(logits - largest[source])
            total = torch.zeros_like(largest).index_add_(0, source, weight)
            weight = weight / total[source]
        else:
            weight = (1 / degree.to(v.dtype))[source][:, None].expand(-1, heads)
        return v.new_zeros(atoms, v.shape[1] * v.shape[2]).index_add_(
            0, source, (weight[..., None] * v).flatten(1)
        )
