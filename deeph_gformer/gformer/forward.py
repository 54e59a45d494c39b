"""One pass of the GFormer (Eq. 2-7) over the edges of a graph, set of whole atoms after set.

Kept per edge: one vector of width d per encoder group, what stage 1's irreps of that group add to ẽ
(Eq. 2; linear, so it is made while stage 1 runs, and the irreps need not stay). The irreps that the
equivariant head reads come from the stream again. All edges of an atom are in one set, so the
softmax over its neighbours (Eq. 4-5) and the pairs of Ω(i) (Eq. 3) need no second pass. The edge
update (Eq. 6) of a group is made when the next one reads it. In training all edges are one set, and
nothing is written in place, so gradients flow.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..algebra.layout import Features, Frame, Layout, rotate
from ..data.graph import Graph
from ..data.stream import EdgeChunk, FinalChunk, Rows
from ..errors import ModelError
from ..runtime.plan import ExecutionPlan
from .gated import GatedHead, saturated
from .layers import norms
from .scale import KeyedScale
from .spans import graph_spans

if TYPE_CHECKING:
    from .model import GFormer

__all__ = ["ForwardPass"]


class ForwardPass:
    """The state of a pass: :meth:`read_group` for what stage 1 gives, :meth:`encode`, :meth:`send`,
    :meth:`head`.

    :meth:`GFormer.corrections` calls them in this order.
    """

    def __init__(self, model: GFormer, graph: Graph, execution: ExecutionPlan) -> None:
        """
        Args:
            model: the parameters.
            graph: all atoms, and the edges of this rank's.
            execution: chunk, storage, communicator.

        Raises:
            ConfigError: see :func:`graph_spans`.
        """
        self.model, self.graph, self.execution = model, graph, execution
        self.floor = model.norm_floor
        comm = execution.comm
        self.first, self.last = comm.atoms if comm.size > 1 else (0, graph.nodes)
        self.spans = graph_spans(graph, self.first, self.last, execution.chunk)
        self.like = model.out_scale
        self.loops, self.envelope = graph.self_loop, model.envelope(graph)
        self.node_scale = [KeyedScale(s) for s in model.node_scale]
        self.edge_scale = [KeyedScale(s) for s in model.edge_scale]
        self.stage1_part: list[Tensor | None] = [None] * len(model.groups)
        self.state: Tensor
        self.ends: tuple[Tensor, Tensor]
        self.received: Features = {}
        self._kept: dict[int, tuple[Tensor, tuple[Features, ...]]] = {}
        if model.equivariant:
            split = Layout(model.irreps_out).split
            self.unit, self.per_unit = [
                [{k: v[0, 0] for k, v in split(row[None]).items()} for row in table]
                for table in ((model.out_scale, model.onsite_scale), model.own_factor)
            ]

    def _again(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """``function(*arguments)``; in training what happens inside is made again in the backward
        pass, where that is asked for."""
        if not (self.model.again and torch.is_grad_enabled()):
            return function(*arguments)
        return checkpoint(function, *arguments, use_reentrant=False, preserve_rng_state=False)

    # --- edge-wise arrays ---------------------------------------------------------------------
    def _whole(self, rows: Rows) -> bool:
        """Whether these are all edges, so that an array need not be filled piece by piece."""
        return rows == slice(0, self.graph.edges) if isinstance(rows, slice) else False

    def _put(self, array: Tensor | None, rows: Rows, value: Tensor) -> Tensor:
        """``array`` with some rows set, made where there is none."""
        if self._whole(rows) and self.execution.storage.folder is None:
            return value
        if array is None:
            array = self.execution.storage.empty(self.graph.edges, value.shape[1], self.like)
        array[rows] = value
        return array

    # --- what stage 1 gives -------------------------------------------------------------------
    def read_group(self, chunk: EdgeChunk) -> None:
        """Stage 1's irreps of some edges after one encoder group."""
        model, p = self.model, chunk.group
        group = model.groups[p]
        if group.from_edge is None:
            return
        if model.equivariant:
            edge_scale, node_scale = self.edge_scale[p], self.node_scale[p]
            parts = norms(edge_scale(chunk.edge), self.floor) + edge_scale.axis(chunk.axis_edge)
            parts += node_scale.axis(chunk.axis_i) + node_scale.axis(chunk.axis_j)
            value = torch.cat(parts, dim=1)
        else:
            value = model.edge_scale[p](chunk.flat())
        result = group.edge_part(value, slice(0, value.shape[1]), bias=True)
        self.stage1_part[p] = self._put(self.stage1_part[p], chunk.rows, result)

    def _own(self, chunk: FinalChunk) -> Features:
        """Stage 1's prediction, in units of the residual where that has a spread, saturated."""
        loops = self.loops[chunk.rows][:, None, None]
        between, onsite = self.per_unit
        return saturated(
            {k: v * torch.where(loops, onsite[k], between[k]) for k, v in chunk.own.items()}
        )

    def read_own(self, chunk: FinalChunk) -> None:
        """Stage 1's prediction of some edges."""
        value = torch.cat(norms(self._own(chunk), self.floor), dim=1)
        columns = slice(-value.shape[1], None)
        for p, group in enumerate(self.model.groups):
            part = self.stage1_part[p]
            if part is not None:
                added = group.edge_part(value, columns, bias=False)
                self.stage1_part[p] = self._put(part, chunk.rows, part[chunk.rows] + added)

    # --- Eq. 2-6 ------------------------------------------------------------------------------
    def _atoms(self, spans: Sequence[Tensor]) -> Tensor:
        """(N, ...) from this rank's atoms, span after span; the others' come from other ranks."""
        mine = torch.cat(list(spans)) if len(spans) > 1 else spans[0]
        if self.execution.comm.size == 1:
            return mine
        whole = mine.new_zeros(self.graph.nodes, *mine.shape[1:])
        whole[self.first : self.last] = mine
        return self.execution.comm.gather_rows(whole)

    def _invariant(self) -> Tensor | None:
        """n_invar (Eq. 3), (N, d)."""
        layer, embedding = self.model.invariant, self.model.embedding
        if layer is None:
            return None
        table, sums = embedding.element.weight, []
        for span in self.spans:
            part = span.of(self.graph)
            distances, f = embedding.distances(part), self.envelope[span.rows]
            sums.append(layer.span(part, span, table, distances, f))
            self.execution.tick("GFormer", span.stop - span.start)
        return layer.finish(self._atoms(sums), table[self.graph.node_type])

    def encode(self, nodes: Sequence[Tensor]) -> None:
        """All encoder groups.

        Args:
            nodes: stage 1's node irreps per group (N, d_n^p), flat; empty for a GFormer that reads
                none.
        """
        model = self.model
        node, invariant = model.embedding.nodes(self.graph), self._invariant()
        state = self.stage1_part[0]  # its rows are replaced as they are read
        for p, group in enumerate(model.groups):
            stage1 = self._node_input(p, nodes[p]) if nodes else None
            parts = group.attention.atoms(group.node_input(node, stage1, invariant))
            mixed, read = [], self.stage1_part[p]
            for span in self.spans:
                rows = span.rows
                edge = (
                    model.embedding.edges(span.of(self.graph))
                    if p == 0
                    else self._update(p - 1, rows)
                )
                tilde = edge if read is None else edge + read[rows]
                index = self.graph.edge_index[:, rows]
                mixed.append(
                    self._again(group.attention.mix, tilde, parts, self.envelope[rows], index, span)
                )
                state = self._put(state, rows, tilde if group.residual else edge)
                self.execution.tick("GFormer", span.stop - span.start)
            if p and read is not None:
                self.execution.storage.release(read)
            self.stage1_part[p] = None
            if state is not None:
                self.state = state
            node = group.attention.finish(self._atoms(mixed), node)
            self.ends = group.edge_node_i(node), group.edge_node_j(node)

    def _node_input(self, p: int, value: Tensor) -> Tensor:
        value = self.model.node_scale[p](value)
        if not self.model.equivariant:
            return value
        return torch.cat(norms(Layout(self.model.node_irreps[p]).split(value), self.floor), dim=1)

    def _update(self, p: int, rows: Rows) -> Tensor:
        """e^(p + 1) of some edges (Eq. 6), (n, d), from what is kept of group p."""
        source, target = self.graph.edge_index[:, rows]
        of_i, of_j = self.ends
        update = self.model.groups[p].edge_update
        return self._again(update, self.state[rows], of_i[source], of_j[target])

    # --- Eq. 7 --------------------------------------------------------------------------------
    def _final(self, chunk: FinalChunk) -> tuple[Tensor, list[Features]]:
        """e^(P) of some edges, and the irreps that the equivariant head reads.

        Kept where the chunk comes again.
        """
        if id(chunk) in self._kept:
            edge, known = self._kept[id(chunk)]
            return edge, list(known)
        scales, last = self.edge_scale[-len(chunk.edges) :], self.node_scale[-1]
        edges = [scale(part) for scale, part in zip(scales, chunk.edges, strict=True)]
        irreps = [self._own(chunk), *edges, last(chunk.node_i), last(chunk.node_j)]
        edge = self._update(len(self.model.groups) - 1, chunk.rows)
        if chunk.again:
            self._kept[id(chunk)] = edge, tuple(irreps)
        return edge, irreps

    def send(self, chunk: FinalChunk) -> None:
        """Add what some edges give to their atoms."""
        head = self.model.head
        if not isinstance(head, GatedHead) or head.messages is None:
            raise ModelError("this GFormer sends no messages (model.messages is 0)")
        sent = head.send(*self._final(chunk), chunk.harmonics, chunk.aligned)
        sent = _turned(sent, chunk.frames, False)
        source, f = self.graph.edge_index[0, chunk.rows], self.envelope[chunk.rows][:, None, None]
        if not self.received:
            self.received = head.messages.empty(self.graph.nodes, self.like)
        for key, value in sent.items():
            self.received[key] = self.received[key].index_add_(0, source, f * value)

    def gather(self) -> None:
        """After the last :meth:`send`: u of all atoms, from all ranks."""
        count = self.like.new_zeros(self.graph.nodes)
        count = count.index_add(0, self.graph.edge_index[0], self.envelope)
        factor = count.clamp(min=1).rsqrt()[:, None]  # an atom's own edge counts as one
        messages, gather = self.model.messages, self.execution.comm.gather_rows
        self.received = {
            key: gather(value.flatten(1) * factor).reshape(value.shape)
            for key, value in self.received.items()
        }
        if messages is not None:
            self.sizes = messages.sizes(self.received, self.floor)

    def head(self, chunk: FinalChunk) -> Tensor:
        """The correction of some edges, (n, D), eV, e3nn's flat layout in global axes."""
        model, head, loops = self.model, self.model.head, self.loops[chunk.rows]
        if not isinstance(head, GatedHead):
            edge = self._update(len(model.groups) - 1, chunk.rows)
            unit = torch.where(loops[:, None], model.onsite_scale, model.out_scale)
            return head(edge) * unit
        edge, irreps = self._final(chunk)
        if head.messages is not None:
            for index, size in zip(self.graph.edge_index[:, chunk.rows], self.sizes, strict=True):
                edge = edge + size[index]
                given = {k: v.index_select(0, index) for k, v in self.received.items()}
                irreps.append(_turned(given, chunk.frames, True))
        between, onsite = self.unit
        return chunk.flat(
            {
                k: v * torch.where(loops[:, None, None], onsite[k], between[k])
                for k, v in self._again(head, edge, irreps, chunk.harmonics, chunk.aligned).items()
            }
        )


def _turned(features: Features, frames: Sequence[Frame] | None, to_local: bool) -> Features:
    """Features between global axes and a chunk's frames."""
    return features if frames is None else rotate(features, frames, to_local)
