"""Both stages over the edges of a structure, in chunks.

Direct sums, and direct products from them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..algebra.layout import rotate_flat
from ..algebra.rotation import random_rotation, wigner_blocks
from ..data.graph import Graph, rotate_graph
from ..data.stream import FinalChunk, IrrepStream, NoStream, Rows, count_rows
from ..errors import ModelError
from ..runtime.plan import ExecutionPlan, usual_chunk
from ..stage1.stream import open_stream

if TYPE_CHECKING:
    from ..pipeline import HamiltonianModel

__all__ = ["both_stages", "direct_products", "direct_sums", "fast_plan", "whole_sums"]


def _once(
    model: HamiltonianModel,
    graph: Graph,
    execution: ExecutionPlan,
    nodes: list[Tensor] | None = None,
) -> Iterator[tuple[Rows, Tensor | None, Tensor | None]]:
    """Direct sums of this rank's edges, chunk by chunk: (rows, stage 1's, GFormer's), eV; ``nodes``
    gets stage 1's last node irreps (N, d)."""
    network = None if model.bundle is None else model.bundle.model
    stream: IrrepStream = (
        NoStream(graph, execution.chunk)
        if model.stage1 is None
        else open_stream(model.stage1, graph, execution)
    )
    result: Iterator[tuple[FinalChunk, Tensor | None]]
    if network is not None:
        result = network.corrections(graph, stream, execution)
    else:
        result = _alone(stream)
    for final, second in result:
        yield final.rows, None if model.stage1 is None else final.direct_sum(), second
        execution.timer.start("stage 1")
        execution.tick("blocks", count_rows(final.rows))
    if nodes is not None and stream.nodes:
        nodes.append(stream.nodes[-1])
    stream.close()


def _alone(stream: IrrepStream) -> Iterator[tuple[FinalChunk, None]]:
    """Stage 1 without a GFormer."""
    for _ in stream.groups(False):
        pass
    for final in stream.final(False):
        yield final, None


def direct_sums(
    model: HamiltonianModel,
    graph: Graph,
    execution: ExecutionPlan,
    frames: int = 1,
    seed: int = 0,
    nodes: list[Tensor] | None = None,
) -> Iterator[tuple[Rows, Tensor | None, Tensor | None]]:
    """Direct sums of this rank's edges, stage 1's and the GFormer's, chunk by chunk.

    Args:
        model: both stages.
        graph: the structure, with this rank's edges.
        execution: chunk, storage, processes.
        frames: K; 1 uses the axes of the file, more are K - 1 random rotations besides, over which
            the correction is averaged (not for ``arch: equivariant``, which needs none).
        seed: of the rotations.
        nodes: gets stage 1's last node irreps (N, d), where there is a stage 1, at the end.

    Yields:
        Rows, (n, D) of stage 1 and (n, D) of the GFormer, eV; None of a stage that is not there.
    """
    if model.bundle is None or frames <= 1 or model.bundle.model.equivariant:
        yield from _once(model, graph, execution, nodes)
        return
    irreps = model.bundle.model.irreps_out
    lmax = max(ir.l for _, ir in irreps)
    generator = torch.Generator().manual_seed(seed)
    total: Tensor | None = None
    first: Tensor | None = None
    for frame in range(frames):
        rotation = random_rotation(generator) if frame else torch.eye(3, dtype=torch.float64)
        back = [b.T for b in wigner_blocks(rotation, lmax)]
        turned = rotate_graph(graph, rotation) if frame else graph
        for rows, own, value in _once(model, turned, execution, None if frame else nodes):
            if value is None:
                raise ModelError("no GFormer ran, although there is one")
            if total is None:
                total = value.new_zeros(graph.edges, irreps.dim)
            total[rows] += (rotate_flat(value, irreps, back) if frame else value) / frames
            if not frame and own is not None:
                first = torch.empty_like(total) if first is None else first
                first[rows] = own
    for start in range(0, graph.edges, execution.chunk):
        rows = slice(start, min(start + execution.chunk, graph.edges))
        yield rows, None if first is None else first[rows], None if total is None else total[rows]


def both_stages(model: HamiltonianModel, own: Tensor | None, second: Tensor | None) -> Tensor:
    """The refined direct sum from stage 1's and the GFormer's: their sum, or, where it predicts all
    of H, the latter.

    Args:
        model: both stages.
        own: (n, D), of stage 1, eV; None without one.
        second: (n, D), of the GFormer, eV; None without one.
    """
    if own is not None and model.bundle is not None and model.bundle.cascade:
        return own if second is None else own + second
    one = own if second is None else second
    if one is None:
        raise ModelError("neither a stage 1 nor a GFormer ran")
    return one


@torch.no_grad()
def direct_products(
    model: HamiltonianModel,
    graph: Graph,
    execution: ExecutionPlan,
    frames: int,
    nodes: list[Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Direct-product H of stage 1 (zero without one) and of both stages, as they leave the network.

    Args:
        model: see :func:`direct_sums`; the others, too.
        graph: the structure, with this rank's edges.
        execution: chunk, storage, processes.
        frames: rotated frames to average.
        nodes: gets stage 1's last node irreps.

    Returns:
        (E, K) or (E, 4, K) each, eV, on the CPU, of this rank's edges; the same tensor twice
        without a GFormer.
    """
    result: list[Tensor] = []
    for rows, own, second in direct_sums(model, graph, execution, frames, nodes=nodes):
        execution.timer.start("blocks")
        both = both_stages(model, own, second)
        if own is None:
            own = torch.zeros_like(both)
        products = [model.to_product(own)] + (
            [model.to_product(both)] if second is not None else []
        )
        if not result:
            result = [
                execution.storage.empty(
                    graph.edges, p[0].numel(), p.new_empty(0, device="cpu")
                ).view(graph.edges, *p.shape[1:])
                for p in products
            ]
        place = rows if isinstance(rows, slice) else rows.cpu()
        for whole, part in zip(result, products, strict=True):
            whole[place] = part.cpu()
    execution.timer.start("blocks")
    return result[0], result[-1]


def fast_plan(graphs: Sequence[Graph], device: torch.device) -> ExecutionPlan:
    """Chunks of a size that is fast on a device, without a limit of memory."""
    most = max(int(torch.bincount(graph.edge_index[0]).max()) for graph in graphs)
    return ExecutionPlan(max(usual_chunk(device), most))


@torch.no_grad()
def whole_sums(
    model: HamiltonianModel, graph: Graph, frames: int = 1, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """:func:`direct_sums` of all edges at once.

    Args:
        model: both stages.
        graph: one structure.
        frames: rotated frames to average.
        seed: of the rotations.

    Returns:
        (E, D) of stage 1 (zero where there is none) and of both stages, eV.
    """
    graph = graph.to(model.device, model.dtype)
    found = list(direct_sums(model, graph, fast_plan([graph], model.device), frames, seed))
    sums: list[Tensor] = []
    for values in ([own for _, own, _ in found], [both_stages(model, o, s) for _, o, s in found]):
        whole = graph.edge_vector.new_zeros(graph.edges, model.targets.irreps().dim)
        for (rows, _, _), value in zip(found, values, strict=True):
            if value is not None:
                whole[rows] = value
        sums.append(whole)
    return sums[0], sums[1]
