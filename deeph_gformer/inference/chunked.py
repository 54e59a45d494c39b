"""Both stages on one structure with the edges in chunks, in memory that is known beforehand, on one process or several.

The numbers are those of :meth:`HamiltonianModel.predict` to rounding; ``docs/scaling.md`` tells what is kept and for how long.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..algebra.rotation import random_rotation, wigner_blocks
from ..data.edges import EdgeChoice
from ..data.features import Stage1Features
from ..data.graph import Graph, batch_graphs, rotate_graph
from ..data.stream import FinalChunk, IrrepStream, NoStream, Rows, count_rows
from ..errors import ModelError
from ..io.blocks import BlockMatrix, match_keys, reverse_keys
from ..io.structure import Structure
from ..pipeline import HamiltonianModel, Prediction, rotate_flat
from ..runtime.communicator import Communicator
from ..runtime.plan import ExecutionPlan
from ..runtime.processes import agreed
from ..stage1.stream import open_stream

__all__ = ["Item", "predict_batch", "predict_chunked", "own_edges"]

#: Edges at a time where blocks are averaged, checked and put into their file order.
BLOCK_CHUNK = 16384


def own_edges(graph: Graph, execution: ExecutionPlan) -> Graph:
    """The edges of this rank's atoms, with all atoms; the graph itself where there is one rank."""
    if execution.comm.size == 1:
        return graph
    rows = slice(*execution.comm.rows(graph.edge_key.cpu().numpy()))
    return graph._replace(
        edge_index=graph.edge_index[:, rows],
        edge_vector=graph.edge_vector[rows],
        edge_key=graph.edge_key[rows],
    )


def _sums(
    model: HamiltonianModel, graph: Graph, mine: Graph, execution: ExecutionPlan
) -> Iterator[tuple[Rows, Tensor | None, Tensor | None]]:
    """Direct sums of this rank's edges, chunk by chunk: (rows, stage 1's, GFormer's), eV."""
    network = None if model.bundle is None else model.bundle.model
    stream: IrrepStream = (
        NoStream(mine, execution.chunk)
        if model.stage1 is None
        else open_stream(model.stage1, mine, execution, graph)
    )
    made: Iterator[tuple[FinalChunk, Tensor | None]]
    if network is not None:
        made = network.corrections(mine, stream, execution)
    else:
        made = _alone(stream)
    for final, second in made:
        yield final.rows, None if model.stage1 is None else final.direct_sum(), second
        execution.timer.start("stage 1")
        execution.tick("blocks", count_rows(final.rows))
    if model.observe is not None:
        model.observe(graph, Stage1Features(tuple(stream.nodes), (), torch.zeros(0)))
    stream.close()


def _alone(stream: IrrepStream) -> Iterator[tuple[FinalChunk, None]]:
    """Stage 1 without a GFormer."""
    for _ in stream.groups(False):
        pass
    for final in stream.final(False):
        yield final, None


def _framed(
    model: HamiltonianModel, graph: Graph, mine: Graph, execution: ExecutionPlan, frames: int
) -> Iterator[tuple[Rows, Tensor | None, Tensor | None]]:
    """:func:`_sums` with the correction averaged over rotated frames, as :func:`deeph_gformer.pipeline.correction` does."""
    if model.bundle is None or frames <= 1 or model.bundle.model.equivariant:
        yield from _sums(model, graph, mine, execution)
        return
    irreps = model.bundle.model.irreps_out
    lmax = max(ir.l for _, ir in irreps)
    generator = torch.Generator().manual_seed(0)
    total, first = None, None
    for frame in range(frames):
        rotation = random_rotation(generator) if frame else torch.eye(3, dtype=torch.float64)
        back = [b.T for b in wigner_blocks(rotation, lmax)]
        turned = [g if not frame else rotate_graph(g, rotation) for g in (graph, mine)]
        for rows, own, value in _sums(model, turned[0], turned[1], execution):
            if total is None:
                total = value.new_zeros(mine.edges, irreps.dim)  # type: ignore[union-attr]
                first = None if own is None else torch.empty_like(total)
            total[rows] += (rotate_flat(value, irreps, back) if frame else value) / frames
            if not frame and own is not None:
                first[rows] = own  # type: ignore[index]
    for start in range(0, mine.edges, execution.chunk):
        rows = slice(start, min(start + execution.chunk, mine.edges))
        yield rows, None if first is None else first[rows], None if total is None else total[rows]


def _products(
    model: HamiltonianModel, graph: Graph, execution: ExecutionPlan, frames: int
) -> tuple[Tensor, Tensor]:
    """Direct-product H of stage 1 and of both stages on the CPU, (E, K) or (E, 4, K) for this rank's edges, as they leave the network."""
    mine = own_edges(graph, execution)
    made: list[Tensor] = []
    for rows, own, second in _framed(model, graph, mine, execution, frames):
        execution.timer.start("blocks")
        if own is None:
            own = torch.zeros_like(second)  # type: ignore[arg-type]
        both = (
            own
            if second is None
            else own + second
            if model.stage1 is None or model.bundle.cascade
            else second
        )  # type: ignore[union-attr]
        products = [model.to_product(own)] + (
            [model.to_product(both)] if second is not None else []
        )
        if not made:
            made = [
                execution.storage.empty(
                    mine.edges, p[0].numel(), p.new_empty(0, device="cpu")
                ).view(mine.edges, *p.shape[1:])
                for p in products
            ]
        place = rows if isinstance(rows, slice) else rows.cpu()
        for whole, part in zip(made, products):
            whole[place] = part.cpu()
    execution.timer.start("blocks")
    return made[0], made[-1]


def hermitian_in_place(
    vector: Tensor,
    partner: Tensor,
    index: Tensor,
    comm: Communicator | None = None,
    bounds: Sequence[int] = (),
    chunk: int = BLOCK_CHUNK,
) -> None:
    """:func:`deeph_gformer.data.dataset.hermitian_product`, in place and by pairs of edges.

    Args:
        vector: (E, K) or (E, 4, K), contiguous, this rank's edges. partner: (E,), edge (-R, j, i) of each edge, counted over all ranks.
        index: see :func:`deeph_gformer.data.dataset.transpose_index`. comm, bounds: processes, and size + 1 edge numbers that part them.
    """
    flat = vector.view(len(vector), -1)
    clamped, known = index.clamp(min=0), bool((index >= 0).all())

    def average(target: Tensor, x: Tensor, y: Tensor) -> None:
        turned = y[:, clamped]
        mean = (x + (turned.conj() if turned.is_complex() else turned)) / 2
        flat[target] = mean if known else torch.where(index >= 0, mean, x)

    first = 0
    if comm is not None and comm.size > 1:
        first = bounds[comm.rank]
        owner = torch.bucketize(partner, torch.tensor(bounds), right=True) - 1
        theirs = [
            torch.nonzero(owner == rank).reshape(-1) if rank != comm.rank else partner[:0]
            for rank in range(comm.size)
        ]
        # each sends in the order of the partners, which is the order in which they are wanted there
        got = comm.exchange([flat[rows[torch.argsort(partner[rows])]] for rows in theirs])
        for rows, values in zip(theirs, got):
            for part, value in zip(rows.split(chunk), values.split(chunk)):
                average(part, flat[part], value)
        partner = torch.where(owner == comm.rank, partner - first, -1)
    for part in torch.nonzero(torch.arange(len(partner)) <= partner).reshape(-1).split(chunk):
        other = partner[part]
        a, b = flat[part], flat[other]
        average(part, a, b)
        average(other, b, a)


def _check_finite(product: Tensor, name: str) -> None:
    for part in product.split(BLOCK_CHUNK):
        if not torch.isfinite(torch.view_as_real(part) if part.is_complex() else part).all():
            raise ModelError(
                f"structure '{name}': the prediction is not finite; it lies far outside what the model was trained on, or the weights are damaged"
            )


def _matrix(
    model: HamiltonianModel, product: Tensor, types: NDArray[np.int64], keys: NDArray[np.int64]
) -> BlockMatrix:
    """Vectors to blocks, some edges at a time."""
    fill = getattr(model.stage1, "fill_missing", None)
    shapes = model.blocks.shapes(types, keys)
    offsets = np.concatenate([[0], np.cumsum(shapes.prod(axis=1))])
    vectors = product.numpy()
    values = np.empty(offsets[-1], dtype=vectors.dtype)
    for start in range(0, len(keys), BLOCK_CHUNK):
        stop = min(start + BLOCK_CHUNK, len(keys))
        part = model.blocks.to_matrix(
            vectors[start:stop], types, keys[start:stop], np.nan if fill is None else fill
        )
        values[offsets[start] : offsets[stop]] = part.values
        if not np.isfinite(part.values).all():
            raise ModelError(
                f"the model does not predict every block; missing: {'; '.join(model.targets.missing()[:4])}. "
                "Give the folder of all models, or --fill-missing 0"
            )
    return BlockMatrix(keys, shapes, values)


class Item(NamedTuple):
    """A structure to predict; see :meth:`HamiltonianModel.read`."""

    structure: Structure
    graph: Graph
    edges: EdgeChoice


def predict_chunked(
    model: HamiltonianModel,
    structure: Structure,
    graph: Graph,
    choice: EdgeChoice,
    execution: ExecutionPlan,
    hermitian: bool = True,
    frames: int = 1,
) -> Prediction:
    """Predict the Hamiltonian of one structure, edges in chunks; see :func:`predict_batch`.

    Args:
        structure, graph, choice: see :meth:`HamiltonianModel.read`; with several processes the same on each.
        model, execution, hermitian, frames: see :func:`predict_batch`.
    """
    items = [Item(structure, graph, choice)]
    return next(predict_batch(model, items, execution, hermitian, frames))


@torch.no_grad()
def predict_batch(
    model: HamiltonianModel,
    items: Sequence[Item],
    execution: ExecutionPlan,
    hermitian: bool = True,
    frames: int = 1,
) -> Iterator[Prediction]:
    """Predict the Hamiltonians of some structures in one pass, edges in chunks: to rounding those that each gets alone.

    Args:
        model: both stages.
        items: the structures; with several processes one, the same on each.
        execution: see :func:`deeph_gformer.inference.requirements.plan_structure`, of all of them.
        hermitian, frames: see :meth:`HamiltonianModel.predict`.

    Yields:
        The predictions in order; ``model.observe`` is called before each. With several processes ``hamiltonian`` and ``stage1``
        hold the blocks of this process's atoms.

    Raises:
        ModelError: a prediction is not finite, or blocks are missing.
        ConfigError: the chunk is smaller than the edges of one atom.
    """
    execution.timer.start("stage 1")
    graph = batch_graphs([item.graph for item in items])
    bounds = [0, graph.edges]
    if execution.comm.size > 1:
        keys = items[0].edges.keys
        comm = execution.comm.over(np.bincount(keys[:, 3], minlength=graph.nodes))
        execution = dataclasses.replace(execution, comm=comm)
        bounds = [0, *(comm.rows(keys, rank)[1] for rank in range(comm.size))]
    observe, seen = model.observe, []
    if observe is not None:
        model.observe = lambda graph, features: seen.append(features)
    try:
        first, both = _products(model, graph.to(model.device, model.dtype), execution, frames)
    finally:
        model.observe = observe
    atoms = [item.graph.nodes for item in items]
    nodes = [value.split(atoms) for value in seen[0].node] if seen else []
    sizes = [len(first)] if len(items) == 1 else [item.graph.edges for item in items]
    firsts = list(first.split(sizes))
    boths: list[Tensor | None] = [None] * len(items)
    boths = boths if first is both else list(both.split(sizes))
    del first, both  # each structure's part is given away, so that its memory comes back early
    for number, item in enumerate(items):
        if observe is not None and seen:
            node = tuple(value[number] for value in nodes)
            observe(item.graph, Stage1Features(node, (), torch.zeros(0)))
        yield _finished(model, item, firsts.pop(0), boths.pop(0), hermitian, execution.comm, bounds)


def _finished(
    model: HamiltonianModel,
    item: Item,
    first: Tensor,
    both: Tensor | None,
    hermitian: bool,
    comm: Communicator,
    bounds: Sequence[int],
) -> Prediction:
    """Vectors of one structure to a prediction; ``both`` is None where there is no second stage."""
    structure, graph, choice = item
    alone = both is None
    both = first if both is None else both
    keys = choice.keys
    own = keys if comm.size == 1 else keys[bounds[comm.rank] : bounds[comm.rank + 1]]
    if hermitian:
        partner = torch.from_numpy(match_keys(reverse_keys(own), keys))
        index = model._transpose.cpu()
        for product in (first,) if alone else (first, both):
            hermitian_in_place(product, partner, index, comm, bounds)
    types = graph.node_type.cpu().numpy()
    with agreed(comm):
        _check_finite(both, structure.name)
        parts = zip(both.split(BLOCK_CHUNK), first.split(BLOCK_CHUNK))
        total = 0.0 if alone else sum(float((b - f).abs().double().sum()) for b, f in parts)
        width = both[:1].numel()
        refined = _matrix(model, both, types, own)
        del both
        stage1 = refined if alone else _matrix(model, first, types, own)
    size = sum(comm.objects(total)) / (len(keys) * width)
    return Prediction(structure, graph, refined, stage1, choice, size)
