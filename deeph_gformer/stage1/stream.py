"""Any stage 1 as a stream: one ordinary forward pass, its output handed out in chunks, in global axes."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ..algebra.layout import Features, Layout
from ..algebra.rotation import spherical_harmonics
from ..data.features import Stage1Features
from ..data.graph import Graph
from ..data.stream import EdgeChunk, FinalChunk, IrrepStream, project
from ..runtime.plan import ExecutionPlan
from .provider import Stage1Provider

__all__ = ["WholeStream", "open_stream"]


class WholeStream(IrrepStream):
    """See the module's text. Memory is that of the provider's forward pass."""

    def __init__(
        self,
        provider: Stage1Provider,
        graph: Graph,
        execution: ExecutionPlan,
        whole: Graph | None = None,
    ) -> None:
        """
        Args:
            provider: stage 1. graph: this rank's edges. execution: chunk and comm. whole: all edges; each rank then runs all of them and keeps its own.
        """
        self.provider, self.graph, self.execution, self.whole = (
            provider,
            graph,
            execution,
            whole or graph,
        )
        self.nodes, self._out = [], None
        irreps = (
            *provider.node_irreps,
            *provider.edge_irreps,
            provider.targets.irreps(provider.parity),
        )
        self._lmax = max((ir.l for i in irreps for _, ir in i), default=0)
        self._own = Layout(provider.targets.irreps(provider.parity))

    def _rows(self) -> Iterator[Tensor]:
        for start in range(0, self.graph.edges, self.execution.chunk):
            yield torch.arange(
                start,
                min(start + self.execution.chunk, self.graph.edges),
                device=self.graph.edge_index.device,
            )

    def _harmonics(self, rows: Tensor) -> list[Tensor]:
        value = spherical_harmonics(self.graph.edge_vector[rows], self._lmax)
        return list(value.split([2 * l + 1 for l in range(self._lmax + 1)], dim=1))

    def _output(self, features: bool) -> Stage1Features:
        out = self.provider(self.whole, features=features)
        if self.graph.edges == self.whole.edges:
            return out
        start = int(
            torch.searchsorted(self.whole.edge_index[0].contiguous(), self.graph.edge_index[0, 0])
        )
        mine = slice(start, start + self.graph.edges)
        return Stage1Features(out.node, tuple(e[mine] for e in out.edge), out.direct_sum[mine])

    def groups(self, features: bool) -> Iterator[EdgeChunk]:
        """See :class:`IrrepStream`."""
        self._out = out = self._output(features)
        self.execution.tick("stage 1", self.graph.edges)
        self.nodes = list(out.node)
        for p, (node, flat) in enumerate(zip(out.node, out.edge)):
            edges, atoms = (
                Layout(self.provider.edge_irreps[p]),
                Layout(self.provider.node_irreps[p]).split(node),
            )
            for rows in self._rows():
                harmonics, part = self._harmonics(rows), flat[rows]
                split = edges.split(part)
                i, j = (
                    {k: v[index] for k, v in atoms.items() if k[0]}
                    for index in self.graph.edge_index[:, rows]
                )
                yield EdgeChunk(
                    rows,
                    p,
                    split,
                    project(split, harmonics),
                    project(i, harmonics),
                    project(j, harmonics),
                    lambda part=part: part,
                )

    def final(self, features: bool) -> Iterator[FinalChunk]:
        """See :class:`IrrepStream`."""
        out = self._out
        if out is None:
            return
        layouts = [Layout(irreps) for irreps in self.provider.edge_irreps[-2:]]
        atoms: Features = (
            Layout(self.provider.node_irreps[-1]).split(out.node[-1])
            if features and out.node
            else {}
        )
        for rows in self._rows():
            flat = out.direct_sum[rows]
            edges = (
                [layout.split(value[rows]) for layout, value in zip(layouts, out.edge[-2:])]
                if features
                else []
            )
            i, j = (
                {k: v[index] for k, v in atoms.items()} for index in self.graph.edge_index[:, rows]
            )
            harmonics = self._harmonics(rows) if features else []
            yield FinalChunk(
                rows,
                self._own.split(flat),
                edges,
                i,
                j,
                harmonics,
                None,
                self._own.flat,
                lambda flat=flat: flat,
            )

    def close(self) -> None:
        """See :class:`IrrepStream`."""
        self._out, self.nodes = None, []


def open_stream(
    provider: Stage1Provider, graph: Graph, execution: ExecutionPlan, whole: Graph | None = None
) -> IrrepStream:
    """The best stream that a stage 1 has.

    Args:
        provider: stage 1. graph: one structure; with several ranks this rank's edges. execution: see :class:`ExecutionPlan`. whole: all edges, with several ranks.

    Raises:
        ModelError: see :meth:`Stage1Provider.check_complete`.
    """
    made = provider.stream(graph, execution)
    return WholeStream(provider, graph, execution, whole) if made is None else made
