"""What a structure takes of memory with a given model, and the plan that follows from it."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import NamedTuple

import torch

from ..data.graph import Graph
from ..pipeline import HamiltonianModel
from ..runtime.communicator import Communicator
from ..runtime.plan import ExecutionPlan, MemoryNeed, choose_plan

__all__ = ["Size", "memory_need", "plan_structure"]


class Size(NamedTuple):
    """Of one structure, or of several that run together.

    Attributes:
        nodes: atoms.
        edges: of this process.
        most: edges of one atom at most.
    """

    nodes: int
    edges: int
    most: int

    @classmethod
    def of(cls, graph: Graph) -> Size:
        """The size of a graph."""
        return cls(graph.nodes, graph.edges, int(torch.bincount(graph.edge_index[0]).max()))


def memory_need(
    model: HamiltonianModel, size: Size, comm: Communicator, keep_pairs: bool
) -> MemoryNeed:
    """Bytes of one structure on this process.

    Args:
        model: both stages.
        size: of the structure.
        comm: processes that share it.
        keep_pairs: see :class:`ExecutionPlan`.
    """
    item = 4 if model.dtype == torch.float32 else 8
    gformer = None if model.bundle is None else model.bundle.model
    width = 0 if gformer is None else gformer.config.width
    groups = 0 if gformer is None else max(1, len(gformer.node_irreps))
    spins = 4 * 2 if model.targets.basis.spinful else 1
    vector = model.targets.width * spins * item
    stage1, irreps = 0, 0
    if model.stage1 is not None:
        if gformer is not None and gformer.node_irreps:
            irreps = sum(i.dim for i in model.stage1.edge_irreps)
        widest = max(
            (i.dim for i in (*model.stage1.edge_irreps, *model.stage1.node_irreps)), default=100
        )
        stage1 = model.stage1.stream_bytes(keep_pairs) or (irreps + 40 * widest) * item
    else:
        widest = width
    edges, on_cpu = size.edges, model.device.type == "cpu"
    features = stage1 + groups * width * item + 3 * item
    end = stage1 + width * item + (2 * vector if on_cpu else 0)
    messages = getattr(gformer.head, "messages", None) if gformer is not None else None
    sent = (
        0
        if messages is None
        else sum((2 * l + 1) * channels for (l, _), channels in messages.channels.items())
    )
    density = 0
    if gformer is not None and gformer.invariant is not None:
        density = 3 * getattr(gformer.invariant, "sums", width)
    levels = model.bundle is not None and model.bundle.levels is not None  # S, and a copy of H
    return MemoryNeed(
        edges=edges * (max(features, end) + 8 * levels * model.targets.width),
        # several processes: partner edges are sent and received
        host=((1.5 if comm.size == 1 else 2.0) * 2 + 1.5 * levels) * vector * edges,
        blocks=2 * vector * edges if on_cpu else 0,
        node=size.nodes * (10 * widest + 12 * width + 3 * sent) * item,
        chunk=(20 * widest + max(16 * width + 8 * sent, density)) * item + 6 * vector,
        on_cpu=on_cpu,
    )


def plan_structure(
    model: HamiltonianModel,
    graph: Graph | Size,
    *,
    limit: int | None = None,
    spill: str | os.PathLike[str] | None = None,
    comm: Communicator | None = None,
    tick: Callable[[str, int], None] = lambda step, edges: None,
) -> ExecutionPlan:
    """:func:`deeph_gformer.runtime.plan.choose_plan` for one structure.

    Args:
        model: both stages.
        graph: the structure, with the edges of this process; or its size.
        limit: bytes that this process may take.
        spill: folder for what does not fit.
        comm: processes that share the structure.
        tick: for the progress bar.

    Raises:
        ConfigError: it does not fit; the message names the minimum.
    """
    comm = comm or Communicator()
    # asking a provider folds its parameters, so it comes before one looks at memory
    size = graph if isinstance(graph, Size) else Size.of(graph)
    needs = {keep: memory_need(model, size, comm, keep) for keep in (True, False)}
    edges = comm.edges[-1] if comm.edges else size.edges
    return choose_plan(
        needs, edges, size.most, model.device, limit=limit, spill=spill, comm=comm, tick=tick
    )
