"""The weight of an edge: closed form, ranges of a training set, two continuous derivatives."""

from __future__ import annotations

import torch

from deeph_gformer.data.features import Stage1Features
from deeph_gformer.data.graph import Graph
from deeph_gformer.gformer.envelope import Envelope

from .test_gformer import _double, features, graph, model, shake  # noqa: F401


def test_ranges_are_the_longest_edges() -> None:
    graphs = [graph(0), graph(3)]
    envelope = Envelope(3, 0.25)
    envelope.fit(graphs)
    for a in range(3):
        for b in range(3):
            lengths = [
                float(r)
                for g in graphs
                for r, i, j in zip(g.edge_length, *g.node_type[g.edge_index])
                if (i, j) == (a, b)
            ]
            assert float(envelope.range[a, b]) == max(lengths, default=0.0)
    assert torch.equal(envelope.range, envelope.range.T) and envelope.range[0, 2] == 0
    f = envelope(graphs[0])
    assert torch.equal(f[graphs[0].self_loop], torch.ones(graphs[0].nodes))
    assert float(f.min()) < 0.5 and float(f.max()) == 1


def test_it_fades_with_two_derivatives() -> None:
    g = graph()
    envelope = Envelope(2, 0.25)
    envelope.range.fill_(4.0)
    r = torch.linspace(0.1, 5, 50001)
    rows = torch.full((len(r),), int(torch.nonzero(~g.self_loop)[0]))
    edges = g._replace(
        edge_index=g.edge_index[:, rows],
        edge_key=g.edge_key[rows],
        edge_vector=torch.stack([r, 0 * r, 0 * r], dim=1),
    )
    f = envelope(edges)
    assert torch.equal(f[r <= 3.0], torch.ones(int((r <= 3.0).sum()))) and (f[r >= 4.0] == 0).all()
    assert abs(float(f[int(torch.argmin((r - 3.5).abs()))]) - 0.5) < 1e-3
    second = (f[2:] - 2 * f[1:-1] + f[:-2]) / (r[1] - r[0]) ** 2
    assert float(second.diff().abs().max()) < 0.01 * float(second.abs().max())
    assert torch.equal(Envelope(2, 0.0)(g), torch.ones(g.edges))


def without(g: Graph, f: Stage1Features, keep: torch.Tensor) -> tuple[Graph, Stage1Features]:
    """Some edges only."""
    less = g._replace(
        edge_index=g.edge_index[:, keep], edge_vector=g.edge_vector[keep], edge_key=g.edge_key[keep]
    )
    return less, Stage1Features(f.node, tuple(e[keep] for e in f.edge), f.direct_sum[keep])


@torch.no_grad()
def test_an_edge_at_its_range_changes_no_other_edge() -> None:
    """In attention, plain mean, messages and Eq. 3; without the envelope it does."""
    g = graph()
    f = features(g)
    longest = int(g.edge_length.argmax())
    key = g.edge_key[longest]
    back = torch.cat([-key[:3], key[[4, 3]]])
    ends = (g.edge_key == key).all(1) | (g.edge_key == back).all(1)
    assert int(ends.sum()) == 2
    for attention in ("softmax", "mean"):
        for width, wanted in ((0.25, True), (0.0, False)):
            made = model("equivariant", attention=attention, envelope=width)
            shake(made)
            made.envelope.range.fill_(float(g.edge_length[longest]) * (1 + 1e-6))
            change = made(g, f)[~ends] - made(*without(g, f, ~ends))
            assert (float(change.abs().max()) < 1e-9) is wanted
