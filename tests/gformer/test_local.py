"""Mixing across l in edge frames.

Equivariance, families, and e3nn's tensor product as a special case.
"""

from __future__ import annotations

import pytest
import torch
from e3nn import o3

from deeph_gformer.algebra.layout import Features, Layout
from deeph_gformer.algebra.rotation import rotate_irreps, to_e3nn_axes
from deeph_gformer.gformer.local import LocalMixing

INPUT, OUTPUT = (
    o3.Irreps("2x0e+3x1o+2x1e+1x2e+1x2o+1x0o"),
    o3.Irreps("1x0e+1x0o+2x1o+1x1e+1x2e+1x2o+1x3o"),
)


@pytest.fixture(autouse=True)
def _double() -> object:
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(torch.float32)


def made(inputs: o3.Irreps, outputs: o3.Irreps, hidden: int = 5) -> LocalMixing:
    layer = LocalMixing(Layout(inputs).channels, Layout(outputs).channels, 4, hidden)
    for p in layer.parameters():
        torch.nn.init.normal_(p)
    return layer


@pytest.mark.parametrize("inversion", [False, True])
def test_equivariance(inversion: bool) -> None:
    layer = made(INPUT, OUTPUT)
    edge, x, direction = (
        torch.randn(6, 4),
        torch.randn(6, INPUT.dim),
        torch.nn.functional.normalize(torch.randn(6, 3), dim=1),
    )
    rotation = o3.rand_matrix() * (-1 if inversion else 1)
    turn = to_e3nn_axes(rotation)

    def run(x: torch.Tensor, direction: torch.Tensor) -> torch.Tensor:
        return Layout(OUTPUT).flat(layer(edge, Layout(INPUT).split(x), direction))

    before = run(x, direction)
    after = run(rotate_irreps(x, INPUT, rotation), direction @ turn.T)
    assert torch.allclose(after, rotate_irreps(before, OUTPUT, rotation), atol=1e-10)
    assert all(part.abs().max() > 1e-3 for part in Layout(OUTPUT).split(before).values())


def test_a_single_l_reaches_others() -> None:
    layer = made(o3.Irreps("2x1o"), o3.Irreps("1x0e+1x2e+1x1e"))
    direction = torch.nn.functional.normalize(torch.randn(4, 3), dim=1)
    out = layer(torch.randn(4, 4), Layout(o3.Irreps("2x1o")).split(torch.randn(4, 6)), direction)
    assert all(out[key].abs().max() > 1e-3 for key in ((0, 1), (2, 1), (1, 1)))


@pytest.mark.parametrize(
    "path", [((1, -1), 2, (1, -1)), ((2, 1), 1, (2, -1)), ((1, 1), 1, (2, -1)), ((2, 1), 2, (3, 1))]
)
def test_tensor_product_with_the_edge_harmonics_is_one_such_map(
    path: tuple[tuple[int, int], int, tuple[int, int]],
) -> None:
    """Σ C x Y_l(r), e3nn's own Wigner symbols, is linear per |m| in the edge frame: least squares
    over the layer's matrices reproduces it."""
    (l1, p1), l2, (l3, p3) = path
    direction = torch.nn.functional.normalize(torch.randn(5, 3), dim=1)
    x = torch.randn(5, 2 * l1 + 1)
    wanted = torch.einsum(
        "ijk,ei,ej->ek", o3.wigner_3j(l1, l2, l3), x, o3.spherical_harmonics(l2, direction, True)
    )
    layer = LocalMixing({(l1, p1): 1}, {(l3, p3): 1}, 4, 1)
    edge = torch.zeros(5, 4)
    torch.nn.init.ones_(layer.gates[-1].bias)
    basis = []
    for number in range(len(layer.maps)):
        for n, (a, b) in enumerate(zip(layer.first, layer.second)):
            torch.nn.init.constant_(a, 1.0)
            torch.nn.init.constant_(b, float(n == number))
        features: Features = {(l1, p1): x[:, :, None]}
        basis.append(layer(edge, features, direction)[l3, p3][:, :, 0].reshape(-1))
    table = torch.stack(basis, dim=1).detach()
    coefficients = torch.linalg.lstsq(table, wanted.reshape(-1, 1)).solution
    assert wanted.abs().max() > 0.1 and torch.allclose(
        table @ coefficients, wanted.reshape(-1, 1), atol=1e-10
    )
