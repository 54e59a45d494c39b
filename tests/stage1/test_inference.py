"""The chunked inference path against the path with gradients, chunk by chunk, and the pieces it is
made of."""

from __future__ import annotations

import json
import pathlib

import numpy as np
import pytest
import torch

from deeph_gformer.algebra.layout import rotate
from deeph_gformer.algebra.rotation import edge_frames
from deeph_gformer.data.graph import batch_graphs
from deeph_gformer.stage1.embedded.inference import InferenceEngine
from deeph_gformer.stage1.embedded.layout import Layout
from deeph_gformer.stage1.embedded.local import BlockDiagonal, LocalLayout
from deeph_gformer.stage1.embedded.radial import (
    bessel_factors,
    bessel_formulas,
    bessel_norms,
    bessel_zeros,
)

from .helpers import VARIANTS, irreps_of, random_graph, random_net, relative


@pytest.mark.parametrize("chunk", [5, 64, 100000])
@pytest.mark.parametrize(
    "variant", ["plain", "two_elements", "spin_orbit", "bessel", "odd_scalars_first", "high_l_late"]
)
def test_chunks_change_nothing(variant: str, chunk: int) -> None:
    """Any chunk size, one structure or two: the numbers of the path with gradients, to rounding.

    (Not on two atoms: their pseudoscalars vanish, and the norm would divide rounding errors by its
    1e-5.)
    """
    config, targets = VARIANTS[variant]
    net = random_net(config, "0.3")
    graph = (
        batch_graphs([random_graph(targets.basis, 4, 1), random_graph(targets.basis, 5, 2)])
        if chunk > 5
        else random_graph(targets.basis, 4)
    )
    wanted, nodes, edges = net(graph, features=True)
    assert wanted.requires_grad
    got, got_nodes, got_edges = InferenceEngine(net)(graph, features=True, chunk=chunk)
    assert not got.requires_grad
    for a, b in zip((got, *got_nodes, *got_edges), (wanted, *nodes, *edges)):
        assert relative(a, b.detach()) < 1e-13


def test_plan_follows_the_parameters() -> None:
    """A changed parameter, or type, changes the answer: nothing stale is used."""
    config, targets = VARIANTS["plain"]
    net = random_net(config, "0.3")
    engine = InferenceEngine(net)
    graph = random_graph(targets.basis)
    before = engine(graph)[0]
    assert torch.equal(engine(graph)[0], before)
    with torch.no_grad():
        net.edge_update_blocks[1].conv.tp.weight1.mul_(1.5)
    after = engine(graph)[0]
    assert relative(after, before) > 1e-3
    assert relative(after, net(graph)[0]) < 1e-13
    net.float()
    single = engine(graph.to(dtype=torch.float32))[0]
    assert single.dtype == torch.float32 and relative(single.double(), after) < 1e-4


def test_mixed_precision_of_a_trainer_stays_outside() -> None:
    """Validation and a frozen first stage run inside of the trainer's autocast: in full precision
    all the same."""
    config, targets = VARIANTS["plain"]
    net, graph = random_net(config, "0.3"), random_graph(targets.basis)
    net, graph = net.float(), graph.to(dtype=torch.float32)
    alone = InferenceEngine(net)(graph)[0]
    with torch.autocast("cpu", torch.bfloat16):
        inside = InferenceEngine(net)(graph)[0]
    assert inside.dtype == torch.float32 and torch.equal(inside, alone)


def test_local_layout_round_trip() -> None:
    """Features to m-order and back; a block-diagonal map equals the maps per irrep."""
    irreps = irreps_of("3x0e+2x1o+70x2e+2x1e+1x0o+2x3o+1x1o")
    layout = LocalLayout(irreps, True)
    generator = torch.Generator().manual_seed(0)
    features = {
        k: torch.randn(5, 2 * k[0] + 1, c, generator=generator)
        for k, c in layout.layout.channels.items()
    }
    local = layout.fill(layout.empty(5, torch.zeros(0)), features)
    assert all(torch.equal(v, features[k]) for k, v in layout.features(local).items())
    matrices = {
        k: torch.randn(c, c, generator=generator) for k, c in layout.layout.channels.items()
    }
    out = layout.empty(5, torch.zeros(0))
    BlockDiagonal(matrices, layout, layout).add_to(out, local, keep=False)
    for key, value in layout.features(out).items():
        torch.testing.assert_close(value, features[key] @ matrices[key])


def test_flat_layouts() -> None:
    """Split and flat are inverse.

    Turning on the way out equals turning first, for few and for many slots.
    """
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(4, 3, dtype=torch.float64, generator=generator)
    frames = edge_frames(vectors, 3)
    for text in ("2x0e+3x1o+1x3o", "1x0e+1x1o+1x0e+1x1o+1x0e+2x1o+1x3o+1x1o"):
        layout = Layout(text)
        flat = torch.randn(4, layout.irreps.dim, dtype=torch.float64, generator=generator)
        features = layout.split(flat)
        assert torch.equal(layout.flat(features), flat)
        assert (
            layout.flat_global(features, frames)
            - layout.flat(rotate(features, frames, to_local=False))
        ).abs().max() < 1e-14


def test_bessel_basis_of_the_documented_stack() -> None:
    """DeepH-E3's own simplified sympy formulas under numpy 1.23 and sympy 1.8, evaluated with 40
    digits (``bessel_numpy1.json``)."""
    import sympy

    stored = json.loads(pathlib.Path(__file__).with_name("bessel_numpy1.json").read_text())
    x = np.linspace(0.05, 0.99, 7)
    symbol = sympy.symbols("x")
    formulas = bessel_formulas(6, 4)
    for name, values in stored.items():
        l, n = (int(v) for v in name.split(","))
        assert bessel_zeros(l, 4)[n] == float(np.float32(bessel_zeros(l, 4)[n]))
        ours = bessel_factors(torch.as_tensor(x * 1e7), irreps_of(f"{n + 1}x{l}e"), 1e7, 7)[
            :, n
        ].numpy()
        envelope = bessel_factors(torch.as_tensor(x * 1e7), irreps_of("1x0e"), 1e7, 7)[:, 0].numpy()
        zero, norm = bessel_zeros(0, 1)[0], bessel_norms(0, 1)[0]
        u = envelope / (norm * np.sin(zero * x) / (zero * x))
        assert np.abs(ours - np.array(values) * u).max() < 1e-10
        made = np.array([float(formulas[l][n].subs(symbol, v)) for v in x[1:]])
        assert np.abs(made - np.array(values)[1:]).max() < 1e-10
