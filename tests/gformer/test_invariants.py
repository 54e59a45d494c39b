"""Eq. 3 in both forms against plain loops over pairs."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from deeph_gformer.algebra.rotation import random_rotation
from deeph_gformer.data.graph import Graph, rotate_graph
from deeph_gformer.gformer.invariants import AdjacentPairs, DensityPairs, find_triplets

from .test_gformer import _double, graph, whole  # noqa: F401


def neighbours(g: Graph, i: int) -> list[int]:
    return [e for e in range(g.edges) if g.edge_index[0, e] == i and not g.self_loop[e]]


def cosine(g: Graph, j: int, k: int) -> torch.Tensor:
    u, v = g.edge_vector[j], g.edge_vector[k]
    return u @ v / (u.norm() * v.norm())


def shells(lengths: list[float]) -> Graph:
    """One atom with neighbours at these distances, in random directions."""
    n = len(lengths)
    unit = torch.nn.functional.normalize(torch.randn(n, 3), dim=1)
    vectors = torch.cat([torch.zeros(1, 3), unit * torch.tensor(lengths)[:, None]])
    key = torch.zeros(n + 1, 5, dtype=torch.int64)
    key[1:, 4] = torch.arange(1, n + 1)
    index = torch.stack([torch.zeros(n + 1, dtype=torch.int64), torch.arange(n + 1)])
    kinds = torch.arange(n + 1) % 2
    return Graph(kinds, index, vectors, key, torch.zeros(n + 1, dtype=torch.int64))


def adjacent(layer: AdjacentPairs, g: Graph, table: torch.Tensor, d: torch.Tensor) -> torch.Tensor:
    sums = layer.span(g, whole(g), table, d, torch.ones(g.edges))
    return layer.finish(sums, table[g.node_type])


def test_equation_3_by_hand_without_equal_distances() -> None:
    g = shells([1.0, 1.3, 1.1, 2.0, 1.7])
    table, d = torch.randn(2, 5), torch.randn(g.edges, 8)
    layer = AdjacentPairs(16, 5, 8, repeat=16)
    expected = torch.zeros(16)
    omega = sorted(neighbours(g, 0), key=lambda e: float(g.edge_length[e]))
    for j, k in zip(omega, omega[1:]):
        z = [table[g.node_type[a]] for a in (0, g.edge_index[1, j], g.edge_index[1, k])]
        expected += layer.fc(torch.cat([*z, d[j], d[k], cosine(g, j, k).expand(16)]))
    assert len(find_triplets(g).cosine) == 4
    made = adjacent(layer, g, table, d)
    assert torch.allclose(made[0], expected, atol=1e-12)
    assert torch.count_nonzero(made[1:]) == 0  # no neighbours, no pairs


def test_equal_distances_are_averaged_over_all_orders() -> None:
    g = shells([1.0, 1.0 + 2e-6, 1.0, 1.5, 2.0, 2.0])
    table, d = torch.randn(2, 5), torch.randn(g.edges, 8)
    layer = AdjacentPairs(16, 5, 8, repeat=3)
    orders = [
        [*a, 4, *c]
        for a in itertools.permutations([1, 2, 3])
        for c in itertools.permutations([5, 6])
    ]
    expected = torch.zeros(16)
    for omega in orders:
        for j, k in zip(omega, omega[1:]):
            z = [table[g.node_type[a]] for a in (0, g.edge_index[1, j], g.edge_index[1, k])]
            expected += layer.fc(torch.cat([*z, d[j], d[k], cosine(g, j, k).expand(3)]))
    made = adjacent(layer, g, table, d)[0]
    assert torch.allclose(made, expected / len(orders), atol=1e-12)
    assert float(find_triplets(g).weight.sum()) == pytest.approx(len(orders[0]) - 1)


def test_the_density_is_the_sum_over_all_pairs() -> None:
    """Addition theorem: the power spectrum is Σ_jk f f φ_n φ_n' P_l(cos θ_jk)."""
    g = graph()
    table, d, f = torch.randn(2, 5), torch.rand(g.edges, 8), torch.rand(g.edges)
    layer = DensityPairs(16, 5, 8, channels=3, lmax=4)
    phi = (d @ layer.radial.weight.T) * (1 + table @ layer.element.weight.T)[
        g.node_type[g.edge_index[1]]
    ]
    spectrum = layer._spectrum(layer.span(g, whole(g), table, d, f))
    legendre = [
        lambda x: 1.0 + 0 * x,
        lambda x: x,
        lambda x: (3 * x**2 - 1) / 2,
        lambda x: (5 * x**3 - 3 * x) / 2,
        lambda x: (35 * x**4 - 30 * x**2 + 3) / 8,
    ]
    for i in range(g.nodes):
        omega = neighbours(g, i)
        for l, (n, m) in itertools.product(range(5), ((0, 0), (0, 2), (1, 2))):
            total = sum(
                f[j] * f[k] * phi[j, n] * phi[k, m] * legendre[l](cosine(g, j, k))
                for j in omega
                for k in omega
            )
            entry = l * 6 + {(0, 0): 0, (0, 2): 2, (1, 2): 4}[n, m]
            made = float(spectrum[i, entry].detach())
            assert math.isclose(made, float(total.detach()), abs_tol=1e-9)


def test_neither_form_feels_rotations() -> None:
    g = graph()
    turned = rotate_graph(g, random_rotation(torch.Generator().manual_seed(1), inversion=True))
    table, d, f = torch.randn(2, 5), torch.randn(g.edges, 8), torch.rand(g.edges)
    for layer in (AdjacentPairs(16, 5, 8), DensityPairs(16, 5, 8, 4, 4)):
        still, moved = (
            layer.finish(layer.span(x, whole(x), table, d, f), table[x.node_type])
            for x in (g, turned)
        )
        assert still.abs().max() > 0.1 and torch.allclose(still, moved, atol=1e-11)


@torch.no_grad()
def test_only_the_printed_form_jumps_where_distances_cross() -> None:
    """The second difference of a smooth function falls with the square of the step, that of a jump
    does not."""
    still = shells([1.0, 1.3, 1.6])
    table = torch.randn(2, 5)
    length = still.edge_length.clamp(min=1e-9)[:, None]

    def ratio(layer: AdjacentPairs | DensityPairs) -> float:
        found = []
        for step in (1e-3, 5e-4):
            values = []
            for n in range(4):
                scale = torch.ones(still.edges, 1)
                scale[1] = 1.3 + (n - 1.5) * step  # passes the second neighbour
                g = still._replace(edge_vector=still.edge_vector * scale)
                d = torch.exp(-((length * scale - torch.linspace(0, 2, 8)) ** 2))
                sums = layer.span(g, whole(g), table, d, torch.ones(g.edges))
                values.append(layer.finish(sums, table[g.node_type])[0])
            v = torch.stack(values)
            found.append(float((v[2:] - 2 * v[1:-1] + v[:-2]).abs().max()))
        return found[0] / found[1]

    assert ratio(DensityPairs(16, 5, 8, 4, 4)) == pytest.approx(4, rel=0.05)
    assert ratio(AdjacentPairs(16, 5, 8)) == pytest.approx(1, rel=0.05)
