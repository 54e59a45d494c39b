"""Sets of whole atoms of any size, edges in any order, and irreps in any frame give the same
numbers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from e3nn.o3 import Irreps

from deeph_gformer.algebra.layout import Features, Layout
from deeph_gformer.algebra.rotation import edge_frames, spherical_harmonics
from deeph_gformer.data.features import Stage1Features
from deeph_gformer.data.graph import Graph
from deeph_gformer.data.stream import EdgeChunk, FinalChunk, IrrepStream, TensorStream, project
from deeph_gformer.errors import ConfigError
from deeph_gformer.gformer.model import GFormer
from deeph_gformer.runtime.plan import ExecutionPlan

from .test_gformer import EDGE, NODE, TARGETS, _double, features, graph, model, shake  # noqa: F401

LMAX = 4


class TurnedStream(IrrepStream):
    """Edges in random order, every edge's irreps in a frame of its own: any rotation will do."""

    def __init__(self, g: Graph, f: Stage1Features, size: int) -> None:
        self.g, self.f, self.nodes = g, f, list(f.node)
        self.pieces = torch.randperm(g.edges).split(size)

    def parts(self, rows: torch.Tensor) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        sizes = [2 * l + 1 for l in range(LMAX + 1)]
        harmonics = spherical_harmonics(self.g.edge_vector[rows], LMAX).split(sizes, dim=1)
        frames = edge_frames(torch.randn(len(rows), 3), LMAX)
        return frames, [torch.einsum("enm,en->em", d, y) for d, y in zip(frames, harmonics)]

    @staticmethod
    def split(irreps: Irreps, flat: torch.Tensor, frames: list[torch.Tensor]) -> Features:
        made = Layout(irreps).split(flat)
        return {k: torch.einsum("enm,enc->emc", frames[k[0]], v) for k, v in made.items()}

    def ends(self, p: int, rows: torch.Tensor, frames: list[torch.Tensor]) -> list[Features]:
        index = self.g.edge_index[:, rows]
        return [self.split(NODE[p], self.f.node[p][i], frames) for i in index]

    def groups(self, features: bool) -> Iterator[EdgeChunk]:
        for p in range(len(NODE)):
            for rows in self.pieces:
                flat = self.f.edge[p][rows]
                frames, harmonics = self.parts(rows)
                edge = self.split(EDGE[p], flat, frames)
                axes = [project(x, harmonics) for x in (edge, *self.ends(p, rows, frames))]
                yield EdgeChunk(rows, p, edge, *axes, lambda flat=flat: flat)

    def final(self, features: bool) -> Iterator[FinalChunk]:
        layout = Layout(TARGETS.irreps())
        for rows in self.pieces:
            frames, harmonics = self.parts(rows)
            edges = [self.split(i, e[rows], frames) for i, e in zip(EDGE, self.f.edge)]
            own = self.split(layout.irreps, self.f.direct_sum[rows], frames)

            def flat(value: Features, frames: list[torch.Tensor] = frames) -> torch.Tensor:
                return layout.flat(
                    {k: torch.einsum("emn,enc->emc", frames[k[0]], v) for k, v in value.items()}
                )

            i, j = self.ends(-1, rows, frames)
            yield FinalChunk(
                rows, own, edges, i, j, harmonics, frames, flat, lambda own=own, f=flat: f(own)
            )


def run(made: GFormer, g: Graph, stream: IrrepStream, chunk: int) -> torch.Tensor:
    out = torch.empty(g.edges, TARGETS.irreps().dim)
    for final, value in made.corrections(g, stream, ExecutionPlan(chunk)):
        out[final.rows] = value
    return out


@pytest.mark.parametrize("arch", ["paper", "equivariant"])
@pytest.mark.parametrize("size", [7, 1000])
def test_sets_orders_and_frames(arch: str, size: int) -> None:
    g = graph()
    f = features(g)
    made = model(arch)
    shake(made)
    made.fit_scales([g], [f], [f.direct_sum * torch.linspace(0.1, 2, g.edges)[:, None]])
    with torch.no_grad():
        wanted = made(g, f)
        plain = TensorStream(g, NODE, EDGE, TARGETS.irreps(), *f, chunk=size)
        for stream in (plain, TurnedStream(g, f, size)):
            got = run(made, g, stream, 30)
            assert (got - wanted).abs().max() < 1e-12 * wanted.abs().max()


def test_gradients_are_those_of_finite_differences() -> None:
    """Training runs the same code with gradients: nothing in it is written in place."""
    g = graph()
    f = features(g)
    made = model("equivariant")
    shake(made)
    weight = torch.randn(g.edges, TARGETS.irreps().dim)
    (made(g, f) * weight).sum().backward()
    for name in ("invariant.radial.weight", "groups.0.from_edge.weight", "embedding.edge.weight"):
        parameter = made.get_parameter(name)
        slope = parameter.grad[0, 0].item()
        values = []
        with torch.no_grad():
            for step in (1e-5, -2e-5):
                parameter[0, 0] += step
                values.append((made(g, f) * weight).sum().item())
            parameter[0, 0] += 1e-5
        assert (values[0] - values[1]) / 2e-5 == pytest.approx(slope, rel=1e-4), name


def test_a_chunk_holds_whole_atoms() -> None:
    g = graph()
    f = features(g)
    made = model("equivariant")
    with pytest.raises(ConfigError, match="one atom has 11"):
        run(made, g, TensorStream(g, NODE, EDGE, TARGETS.irreps(), *f, chunk=5), 5)
