"""The network without gradients: in place, edges in chunks, every linear map folded.

Same numbers as :mod:`.network` to rounding; the pass itself is :mod:`.forward_pass`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...data.graph import Graph
from ...runtime.plan import ExecutionPlan, usual_chunk
from .forward_pass import ForwardPass
from .layout import Layout
from .network import DeepHE3Net
from .plan import InferencePlan
from .updates import Prepared

__all__ = ["InferenceEngine"]


class InferenceEngine:
    """Runs a network without gradients, always in the type of its parameters; follows them when
    they change."""

    def __init__(self, net: DeepHE3Net) -> None:
        """
        Args:
            net: the network.
        """
        self.net = net
        self._plan: InferencePlan | None = None
        self._stamp: tuple[object, ...] = ()

    @property
    def plan(self) -> InferencePlan:
        """Made anew when a parameter has changed."""
        stamp = tuple(
            v for q in self.net.parameters() for v in (q.data_ptr(), q._version, q.dtype, q.device)
        )
        if self._plan is None or stamp != self._stamp:
            with torch.no_grad():
                self._plan, self._stamp = InferencePlan(self.net), stamp
        return self._plan

    @torch.no_grad()
    def run(
        self, graph: Graph, execution: ExecutionPlan, prepared: Prepared | None = None
    ) -> ForwardPass:
        """A pass over a graph, to be run with :meth:`ForwardPass.groups`.

        Args:
            graph: on the network's device, in its type; with several ranks this rank's edges.
            execution: chunk, storage, communicator.
            prepared: see :meth:`DeepHE3Net.prepare`, where it was made before.
        """
        p = self.net.prepare(graph, True, execution.storage) if prepared is None else prepared
        return ForwardPass(self.net, self.plan, p, execution)

    @torch.no_grad()
    def __call__(
        self,
        graph: Graph,
        prepared: Prepared | None = None,
        features: bool = False,
        chunk: int | None = None,
    ) -> tuple[Tensor, tuple[Tensor, ...], tuple[Tensor, ...]]:
        """What :meth:`DeepHE3Net.forward` gives.

        Args:
            graph: one or several structures, on the network's device, in its type.
            prepared: see :meth:`DeepHE3Net.prepare`, where it was made before.
            features: whether irreps are wanted.
            chunk: edges per chunk; None: by device.
        """
        device = graph.edge_vector.device
        with torch.autocast(device.type, enabled=False):  # it would give sums in bfloat16
            run = self.run(graph, ExecutionPlan(chunk or usual_chunk(device)), prepared)
            nodes, edges = [], []
            for group in run.groups():
                if features:
                    nodes.append(Layout(self.net.node_irreps[group]).flat(run.node))
                    edges.append(run.flat(run.layouts[1], run.edge))
            own = run.flat(run.layouts[1], run.edge, output=True)
        return own, tuple(nodes), tuple(edges)
