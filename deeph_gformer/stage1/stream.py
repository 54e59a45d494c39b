"""Any stage 1 as a stream: one ordinary forward pass, its output handed out in chunks."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ..data.features import Stage1Features
from ..data.graph import Graph
from ..data.stream import EdgeChunk, FinalChunk, IrrepStream, TensorStream
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
            provider: stage 1.
            graph: this rank's edges.
            execution: chunk, communicator.
            whole: all edges; each rank then runs all of them and keeps its own.
        """
        self.provider, self.graph, self.execution = provider, graph, execution
        self.whole = whole or graph
        self.nodes: list[Tensor] = []
        self._made: TensorStream | None = None

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
        out = self._output(features)
        self.execution.tick("stage 1", self.graph.edges)
        self._made = TensorStream(
            self.graph,
            self.provider.node_irreps,
            self.provider.edge_irreps,
            self.provider.targets.irreps(self.provider.parity),
            out.node,
            out.edge,
            out.direct_sum,
            self.execution.chunk,
        )
        self.nodes = self._made.nodes
        yield from self._made.groups(features)

    def final(self, features: bool) -> Iterator[FinalChunk]:
        """See :class:`IrrepStream`."""
        if self._made is not None:
            yield from self._made.final(features)

    def close(self) -> None:
        """See :class:`IrrepStream`."""
        self._made, self.nodes = None, []


def open_stream(
    provider: Stage1Provider, graph: Graph, execution: ExecutionPlan, whole: Graph | None = None
) -> IrrepStream:
    """The best stream that a stage 1 has.

    Args:
        provider: stage 1.
        graph: one structure; with several ranks this rank's edges.
        execution: see :class:`ExecutionPlan`.
        whole: all edges, with several ranks.

    Raises:
        ModelError: see :meth:`Stage1Provider.check_complete`.
    """
    result = provider.stream(graph, execution)
    return WholeStream(provider, graph, execution, whole) if result is None else result
