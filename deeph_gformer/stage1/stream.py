"""Any stage 1 as a stream: one ordinary forward pass, its output handed out in chunks."""

from __future__ import annotations

from collections.abc import Iterator

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
    ) -> None:
        """
        Args:
            provider: stage 1.
            graph: this rank's edges.
            execution: chunk, communicator; each rank runs all edges and keeps its own.
        """
        self.provider, self.graph, self.execution = provider, graph, execution
        self.nodes: list[Tensor] = []
        self._made: TensorStream | None = None

    def _output(self, features: bool) -> Stage1Features:
        comm, graph = self.execution.comm, self.graph
        if comm.size == 1:
            return self.provider(graph, features=features)
        whole = graph._replace(
            edge_index=comm.gather_edges(graph.edge_index.T.contiguous()).T.contiguous(),
            edge_vector=comm.gather_edges(graph.edge_vector),
            edge_key=comm.gather_edges(graph.edge_key),
        )
        out, mine = self.provider(whole, features=features), comm.own_edges
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


def open_stream(provider: Stage1Provider, graph: Graph, execution: ExecutionPlan) -> IrrepStream:
    """The best stream that a stage 1 has.

    Args:
        provider: stage 1.
        graph: one structure; with several ranks this rank's edges.
        execution: see :class:`ExecutionPlan`.

    Raises:
        ModelError: see :meth:`Stage1Provider.check_complete`.
    """
    result = provider.stream(graph, execution)
    return WholeStream(provider, graph, execution) if result is None else result
