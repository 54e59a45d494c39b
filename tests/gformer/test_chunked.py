"""The chunked GFormer against the whole one, in global axes and in turned frames, where everything is given turned."""

from __future__ import annotations

import pytest
import torch
from e3nn.o3 import Irreps

from deeph_gformer.algebra.layout import Features, Layout
from deeph_gformer.algebra.rotation import edge_frames, spherical_harmonics
from deeph_gformer.data.features import Stage1Features
from deeph_gformer.data.graph import Graph
from deeph_gformer.data.stream import EdgeChunk, FinalChunk, project
from deeph_gformer.gformer.chunked import ChunkedGFormer
from deeph_gformer.gformer.model import GFormer
from deeph_gformer.runtime.plan import ExecutionPlan

from .test_gformer import EDGE, NODE, TARGETS, _double, features, graph, model, shake  # noqa: F401

LMAX = 4


def split(irreps: Irreps, flat: torch.Tensor, frames: list[torch.Tensor] | None) -> Features:
    made = Layout(irreps).split(flat)
    return (
        made
        if frames is None
        else {k: torch.einsum("enm,enc->emc", frames[k[0]], v) for k, v in made.items()}
    )


def run(made: GFormer, g: Graph, f: Stage1Features, size: int, turned: bool) -> torch.Tensor:
    """Feed chunks of ``size`` edges; ``turned``: every edge's irreps in a frame of its own (here any rotation will do)."""
    chunked = ChunkedGFormer(made, g, ExecutionPlan(30))
    irreps = TARGETS.irreps()

    def parts(rows: torch.Tensor) -> tuple[list[torch.Tensor] | None, list[torch.Tensor]]:
        harmonics = list(
            spherical_harmonics(g.edge_vector[rows], LMAX).split(
                [2 * l + 1 for l in range(LMAX + 1)], dim=1
            )
        )
        if not turned:
            return None, harmonics
        frames = edge_frames(torch.randn(len(rows), 3), LMAX)
        return frames, [torch.einsum("enm,en->em", d, y) for d, y in zip(frames, harmonics)]

    def final(rows: torch.Tensor) -> FinalChunk:
        frames, harmonics = parts(rows)
        ends = [split(NODE[-1], f.node[-1][index], frames) for index in g.edge_index[:, rows]]
        edges = [split(i, e[rows], frames) for i, e in zip(EDGE, f.edge)]

        def flat(value: Features) -> torch.Tensor:
            back = (
                value
                if frames is None
                else {k: torch.einsum("emn,enc->emc", frames[k[0]], v) for k, v in value.items()}
            )
            return Layout(irreps).flat(back)

        return FinalChunk(
            rows,
            split(irreps, f.direct_sum[rows], frames),
            edges,
            *ends,
            harmonics,
            frames,
            flat,
            lambda: f.direct_sum[rows],
        )

    pieces = torch.randperm(g.edges).split(size)
    for p in range(len(NODE)):
        for rows in pieces:
            frames, harmonics = parts(rows)
            edge = split(EDGE[p], f.edge[p][rows], frames)
            ends = [
                project(split(NODE[p], f.node[p][index], frames), harmonics)
                for index in g.edge_index[:, rows]
            ]
            chunked.take(
                EdgeChunk(
                    rows,
                    p,
                    edge,
                    project(edge, harmonics),
                    *ends,
                    lambda rows=rows, p=p: f.edge[p][rows],
                )
            )
    for rows in pieces:
        chunked.take_own(final(rows))
    chunked.encode(f.node)
    if chunked.sends:
        for rows in pieces:
            chunked.send(final(rows))
        chunked.gather()
    out = torch.empty(g.edges, irreps.dim)
    for rows in pieces:
        out[rows] = chunked.head(final(rows))
    return out


@pytest.mark.parametrize(
    ("arch", "turned"), [("paper", False), ("equivariant", False), ("equivariant", True)]
)
@pytest.mark.parametrize("size", [7, 1000])
def test_chunks_in_any_order_and_frame(arch: str, turned: bool, size: int) -> None:
    g = graph()
    f = features(g)
    made = model(arch)
    shake(made)
    made.fit_scales([f], [f.direct_sum * torch.linspace(0.1, 2, g.edges)[:, None]], [g.self_loop])
    with torch.no_grad():
        wanted = made(g, f)
        got = run(made, g, f, size, turned)
    assert (got - wanted).abs().max() < 1e-12 * wanted.abs().max()
