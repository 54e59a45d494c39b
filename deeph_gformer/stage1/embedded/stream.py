"""The embedded engine as a stream: features in edge frames, straight from where the engine keeps
them."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator

import torch
from torch import Tensor

from ...algebra.layout import Features, Key
from ...data.graph import Graph
from ...data.stream import EdgeChunk, FinalChunk, IrrepStream
from ...runtime.plan import ExecutionPlan
from .inference import InferenceEngine
from .layout import Layout
from .local import Local, LocalLayout, chunk

__all__ = ["EmbeddedStream", "bytes_per_edge"]


def bytes_per_edge(engine: InferenceEngine, keep_pairs: bool) -> int:
    """What the engine keeps of an edge at most: features before and after an update, rotated atoms
    and distance basis, frames, bookkeeping."""
    net, plan = engine.net, engine.plan
    layouts = [plan.edge_init, *(edge_plan.layout for _, edge_plan in plan.edge_plans)]
    numbers = [a.numbers() + b.numbers() for a, b in itertools.pairwise(layouts)]
    if keep_pairs:
        numbers = [
            n + conv.pair.numbers() + net.config.num_basis
            for n, (conv, _) in zip(numbers, plan.edge_plans, strict=True)
        ]
    frames = sum((2 * l + 1) ** 2 for l in range(net.lmax + 1))
    indices = 4 if net.scale is None else 5
    return (max(numbers) + frames + 1) * net.lin_edge.weight.element_size() + 8 * indices


class EmbeddedStream(IrrepStream):
    """One pass of the engine; see :class:`IrrepStream`."""

    def __init__(self, engine: InferenceEngine, graph: Graph, execution: ExecutionPlan) -> None:
        """
        Args:
            engine: the network.
            graph: on its device, in its type.
            execution: chunk, storage, communicator.
        """
        self.net, self.plan, self.run = engine.net, engine.plan, engine.run(graph, execution)
        self.nodes: list[Tensor] = []

    @torch.no_grad()
    def groups(self, features: bool) -> Iterator[EdgeChunk]:
        """See :class:`IrrepStream`."""
        run = self.run
        for group in run.groups():
            if not features:
                continue
            self.nodes.append(Layout(self.net.node_irreps[group]).flat(run.node))
            for a, b, loops in run.spans:
                yield self._chunk(group, a, b, loops)

    def _chunk(self, group: int, a: int, b: int, loops: bool) -> EdgeChunk:
        run, layout = self.run, self.run.layouts[1]
        edge, pairs = chunk(run.edge, a, b), self.plan.edge_plans[group][0].pair
        pair = run.pair(pairs, a, b)
        of_pair = _axis(pairs, pair, loops)
        halves = [
            {key: value.chunk(2, dim=1)[side] for key, value in of_pair.items()} for side in (0, 1)
        ]
        features = layout.features(edge)
        return EdgeChunk(
            run.p.order[a:b],
            group,
            features,
            _axis(layout, edge, loops),
            halves[0],
            halves[1],
            lambda: layout.layout.flat_global(features, run.frames(a, b)),
        )

    @torch.no_grad()
    def final(self, features: bool) -> Iterator[FinalChunk]:
        """See :class:`IrrepStream`."""
        run, target = self.run, self.net.lin_edge.layout_out
        pairs = self.plan.edge_plans[-1][0].pair
        scalars = {key: value[:, 0] for key, value in run.node.items() if key[0] == 0}
        for a, b, loops in run.spans:
            value = run.layouts[1].features(chunk(run.edge, a, b))
            own = self.net.output(value, run.output_type(a, b))
            frames = run.frames(a, b)

            def flat(result: Features, frames: list[Tensor] = frames) -> Tensor:
                return target.flat_global(result, frames)

            edges: list[Features] = []
            ends: tuple[Features, Features] = ({}, {})
            harmonics: list[Tensor] = []
            if features:
                edges = (
                    [run.layouts[0].features(chunk(run.old, a, b)), value]
                    if len(self.plan.edge_plans) > 1
                    else [value]
                )
                both = pairs.features(run.pair(pairs, a, b))
                for side, index in enumerate((run.p.source[a:b], run.p.destination[a:b])):
                    ends[side].update({k: part.chunk(2, dim=2)[side] for k, part in both.items()})
                    ends[side].update({key: part[index][:, None] for key, part in scalars.items()})
                harmonics = self._harmonics(b - a, loops)
            yield FinalChunk(
                run.p.order[a:b],
                own,
                edges,
                ends[0],
                ends[1],
                harmonics,
                frames,
                flat,
                functools.partial(flat, own),
                aligned=True,
            )

    def _harmonics(self, rows: int, loops: bool) -> list[Tensor]:
        """Y_l in edge frames: sqrt(2l + 1) at m = 0; zero on self-loops where l > 0."""
        out = []
        for l in range(self.net.lmax + 1):
            value = self.run.like.new_zeros(rows, 2 * l + 1)
            if not (loops and l):
                value[:, l] = (2 * l + 1) ** 0.5
            out.append(value)
        return out

    def close(self) -> None:
        """See :class:`IrrepStream`."""
        run = self.run
        for local in (run.edge, run.old, run._pair):
            run.release(local)
        run.storage.release(*run.p.frames)
        del self.run


def _axis(layout: LocalLayout, local: Local, loops: bool) -> dict[Key, Tensor]:
    """Y_l · x of the natural-parity keys with l > 0: in edge frames their m = 0 component times
    sqrt(2l + 1); zero on self-loops."""
    out = {}
    for f in (0, 1):
        for l, p in layout.keys[f]:
            if l and p == (-1) ** l:
                out[l, p] = local[f][0][:, layout.columns(f, (l, p))] * (
                    0.0 if loops else (2 * l + 1) ** 0.5
                )
    return out
