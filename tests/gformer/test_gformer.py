"""Each equation against a plain loop; the equivariant arch under rotations."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import re

import pytest
import torch
from e3nn.o3 import Irreps

from deeph_gformer.algebra.layout import Layout, rotate_flat
from deeph_gformer.algebra.orbitals import Basis, make_target_blocks
from deeph_gformer.algebra.rotation import random_rotation, wigner_blocks
from deeph_gformer.config import GFormerConfig
from deeph_gformer.data.features import Stage1Features
from deeph_gformer.data.graph import Graph, build_graph, rotate_graph
from deeph_gformer.errors import ConfigError, ModelError
from deeph_gformer.gformer import bundle as b
from deeph_gformer.gformer.attention import MeanAttention, SoftmaxAttention
from deeph_gformer.gformer.block import EncoderGroup
from deeph_gformer.gformer.layers import PairLinear
from deeph_gformer.gformer.model import GFormer
from deeph_gformer.gformer.scale import FeatureScale
from deeph_gformer.gformer.spans import Span

from ..conftest import random_structure

BASIS = Basis((16, 42), ((0, 1), (0, 1, 2)), False)
TARGETS = make_target_blocks(BASIS)
NODE = [Irreps("4x0e+2x1o+1x2e"), Irreps("4x0e+2x1o+1x2e+1x1e")]
EDGE = [Irreps("3x0e+2x1o+1x2e"), Irreps("5x0e+4x1o+3x2e+2x3o+1x4e+2x1e+1x2o+1x3e")]


@pytest.fixture(autouse=True)
def _double() -> object:
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(torch.float32)


def graph(seed: int = 0) -> Graph:
    structure, h, _ = random_structure(seed)
    return build_graph(structure, h.keys, BASIS)


def features(g: Graph) -> Stage1Features:
    return Stage1Features(
        tuple(torch.randn(g.nodes, i.dim) for i in NODE),
        tuple(torch.randn(g.edges, i.dim) for i in EDGE),
        torch.randn(g.edges, TARGETS.irreps().dim),
    )


def model(arch: str, **changes: object) -> GFormer:
    config = GFormerConfig(
        arch=arch, width=16, heads=4, embed=5, gaussians=8, gated_channels=6, **changes
    )
    made = GFormer(config, 2, TARGETS.irreps(), NODE, EDGE, 5.0)
    return made


def shake(made: torch.nn.Module) -> None:
    """Random values everywhere, also where the initial ones are zero."""
    with torch.no_grad():
        for p in made.parameters():
            p.copy_(torch.randn_like(p) * 0.3)


def whole(g: Graph) -> Span:
    return Span(0, g.edges, 0, g.nodes)


def apply(linear: PairLinear, n: torch.Tensor, e: torch.Tensor) -> torch.Tensor:
    """W cat(n, e) + b."""
    matrix = torch.cat([linear.node.weight, linear.edge.weight], dim=1)
    return matrix @ torch.cat([n, e]) + linear.edge.bias


@pytest.mark.parametrize("attention", [True, False])
def test_equations_4_and_5_by_hand(attention: bool) -> None:
    """Softmax over Ω(i), every term times its envelope; without attention the envelopes alone."""
    g = graph()
    layer = SoftmaxAttention(8, 2) if attention else MeanAttention(8, 2)
    node, edge, old = torch.randn(g.nodes, 8), torch.randn(g.edges, 8), torch.randn(g.nodes, 8)
    f = torch.rand(g.edges) * (torch.rand(g.edges) > 0.3)
    f[g.self_loop] = 1.0
    parts = layer.atoms(node)
    made = layer.finish(layer.mix(edge, parts, f, g.edge_index, whole(g)), old)
    for i in range(g.nodes):
        omega = [e for e in range(g.edges) if g.edge_index[0, e] == i]
        mixed = []
        for h in range(2):
            part = slice(4 * h, 4 * h + 4)
            weights = f[omega]
            if attention:
                logits = torch.stack(
                    [
                        apply(layer.query, node[i], edge[e])[part]
                        @ apply(layer.key, node[g.edge_index[1, e]], edge[e])[part]
                        / 4**0.5
                        for e in omega
                    ]
                )
                weights = weights * logits.exp()
            values = [apply(layer.value, node[g.edge_index[1, e]], edge[e])[part] for e in omega]
            mixed.append(weights / weights.sum() @ torch.stack(values))
        expected = layer.fc(layer.norm(layer.output(torch.cat(mixed))) + old[i])
        assert torch.allclose(made[i], expected, atol=1e-12)
    assert hasattr(layer, "query") is attention


@pytest.mark.parametrize("residual", [False, True])
def test_equations_2_and_6_by_hand(residual: bool) -> None:
    g = graph()
    group = EncoderGroup(
        8, 2, 3, 5, alpha=0.7, beta=0.3, lam=1.9, attention="softmax", residual=residual
    )
    node, edge, inv = torch.randn(g.nodes, 8), torch.randn(g.edges, 8), torch.randn(g.nodes, 8)
    n1, e1 = torch.randn(g.nodes, 3), torch.randn(g.edges, 5)
    tilde_n = node + 0.7 * group.from_node(n1) + 0.3 * inv
    assert torch.allclose(group.node_input(node, n1, inv), tilde_n)
    columns = [(slice(0, 2), True), (slice(2, 5), False)]
    part = sum(group.edge_part(e1[:, c], c, bias) for c, bias in columns)
    assert torch.allclose(part, 1.9 * group.from_edge(e1))
    weight = torch.cat(
        [group.edge_node_i.weight, group.edge_node_j.weight, group.edge_old.weight], dim=1
    )
    i, j = g.edge_index
    cat = torch.cat([node[i], node[j], group.edge_norm(edge)], dim=1)
    expected = group.edge_out(cat @ weight.T + group.edge_old.bias)
    update = group.edge_update(edge, group.edge_node_i(node)[i], group.edge_node_j(node)[j])
    assert torch.allclose(update, edge + expected if residual else expected)


@pytest.mark.parametrize("arch", ["paper", "equivariant"])
def test_untrained_is_exactly_zero(arch: str) -> None:
    g = graph()
    assert torch.count_nonzero(model(arch)(g, features(g))) == 0


@pytest.mark.parametrize("inversion", [False, True])
def test_equivariant_arch(inversion: bool) -> None:
    g = graph()
    f = features(g)
    made = model("equivariant")
    shake(made)
    proper = random_rotation(torch.Generator().manual_seed(4))
    blocks = wigner_blocks(proper, 4)

    def turn(value: torch.Tensor, irreps: Irreps) -> torch.Tensor:
        out = rotate_flat(value, irreps, blocks)
        sign = torch.cat(
            [torch.full((mul * ir.dim,), float(ir.p if inversion else 1)) for mul, ir in irreps]
        )
        return out * sign

    moved = Stage1Features(
        tuple(turn(v, i) for v, i in zip(f.node, NODE)),
        tuple(turn(v, i) for v, i in zip(f.edge, EDGE)),
        turn(f.direct_sum, TARGETS.irreps()),
    )
    still = made(g, f)
    assert still.abs().max() > 0.1
    again = made(rotate_graph(g, -proper if inversion else proper), moved)
    assert (again - turn(still, TARGETS.irreps())).abs().max() < 1e-11 * still.abs().max()


def test_paper_arch_is_not_equivariant() -> None:
    """The check above can fail: Eq. 2-7 on global components do not pass it."""
    g = graph()
    f = features(g)
    made = model("paper")
    shake(made)
    rotation = random_rotation(torch.Generator().manual_seed(4))
    blocks = wigner_blocks(rotation, 4)
    moved = Stage1Features(
        tuple(rotate_flat(v, i, blocks) for v, i in zip(f.node, NODE)),
        tuple(rotate_flat(v, i, blocks) for v, i in zip(f.edge, EDGE)),
        rotate_flat(f.direct_sum, TARGETS.irreps(), blocks),
    )
    still, again = made(g, f), made(rotate_graph(g, rotation), moved)
    assert (
        again - rotate_flat(still, TARGETS.irreps(), blocks)
    ).abs().max() > 1e-3 * still.abs().max()


@pytest.mark.parametrize("arch", ["paper", "equivariant"])
def test_atom_order_does_not_matter(arch: str) -> None:
    structure, h, _ = random_structure()
    order = [2, 0, 3, 1]
    moved = dataclasses.replace(
        structure,
        positions=structure.positions[order],
        numbers=structure.numbers[order],
        orbital_types=tuple(structure.orbital_types[n] for n in order),
    )
    place = torch.argsort(torch.tensor(order))
    keys = h.keys.copy()
    keys[:, 3:] = place.numpy()[keys[:, 3:]]
    g1, g2 = build_graph(structure, h.keys, BASIS), build_graph(moved, keys, BASIS)
    where = {tuple(k): n for n, k in enumerate(g2.edge_key.tolist())}
    index = torch.tensor([where[tuple(k)] for k in keys.tolist()])
    f = features(g1)
    back = torch.empty_like(index)
    back[index] = torch.arange(len(index))
    f2 = Stage1Features(
        tuple(v[order] for v in f.node), tuple(v[back] for v in f.edge), f.direct_sum[back]
    )
    made = model(arch)
    shake(made)
    assert torch.allclose(made(g2, f2)[index], made(g1, f), atol=1e-10)


def test_scales_have_unit_variance_and_are_equivariant() -> None:
    torch.manual_seed(3)
    irreps = Irreps("3x0e+2x1o")
    samples = [
        torch.randn(500, irreps.dim) * torch.tensor([1, 5, 0.1] + [3] * 3 + [0.2] * 3)
        + torch.tensor([1.0, -2, 0] + [0] * 6)
    ]
    scale = FeatureScale(irreps)
    scale.fit(samples)
    out = scale(samples[0])
    assert torch.allclose(out[:, :3].std(0), torch.ones(3), atol=0.01) and torch.allclose(
        out[:, :3].mean(0), torch.zeros(3), atol=1e-9
    )
    assert torch.allclose(
        out[:, 3:].unflatten(1, (2, 3)).square().mean((0, 2)), torch.ones(2), atol=0.01
    )
    assert scale.factor.shape == (5,) and torch.count_nonzero(scale.mean[3:]) == 0


def test_channels_without_spread_are_switched_off() -> None:
    """Rounding is not amplified: nothing in, nothing out.

    Little spread is not scaled up without bound.
    """
    g = graph()
    f = features(g)
    made = model("equivariant")
    shake(made)
    channel = FeatureScale(TARGETS.irreps()).index
    noise = torch.where(channel == 5, 1e-12, 1.0)
    targets = torch.randn(g.edges, len(channel)) * noise * 1e-3
    f = f._replace(edge=(f.edge[0] * torch.where(torch.arange(14) < 3, 1.0, 1e-9), f.edge[1]))
    made.fit_scales([g], [f], [targets])
    assert set(made.edge_scale[0].factor[3:].tolist()) == {0.0}
    assert not made.out_scale[channel == 5].any() and not made.onsite_scale[channel == 5].any()
    assert (made.out_scale[channel != 5] > 1e-4).all() and not made.own_factor[
        :, channel == 5
    ].any()
    assert float(made.own_factor.max()) < 1 / (0.25 * float(f.direct_sum.square().mean().sqrt()))
    out = made(g, f)
    assert not out[:, channel == 5].any() and out[:, channel != 5].any()
    again = f._replace(direct_sum=f.direct_sum + torch.where(channel == 5, 1e-3, 0.0))
    assert torch.equal(made(g, again), out)


def make_bundle(path: pathlib.Path) -> b.Bundle:
    made = model("equivariant")
    shake(made)
    return b.Bundle(
        made.eval(),
        TARGETS,
        b.Stage1Identity("f" * 32, "stage1", "0.3", tuple(map(str, NODE)), tuple(map(str, EDGE))),
        "0.3",
        dtype=torch.float64,
        path=path,
    )


def test_bundle_round_trip(tmp_path: pathlib.Path) -> None:
    made = make_bundle(tmp_path)
    b.save_bundle(tmp_path, made)
    again = b.load_bundle(tmp_path)
    g = graph()
    f = features(g)
    assert torch.equal(again.model(g, f), made.model(g, f))
    assert (
        again.targets == made.targets and again.stage1 == made.stage1 and again.generation == "0.3"
    )
    assert not any(p.requires_grad for p in again.model.parameters())


def test_format_1_has_no_messages(tmp_path: pathlib.Path) -> None:
    """Bundles from before ``messages`` say nothing of them, and have no weights for them."""
    options = {"messages": 0, "pairs": "adjacent", "envelope": 0.0, "norm_floor": 1e-3}
    made = model("equivariant", **options)
    shake(made)
    old = dataclasses.replace(make_bundle(tmp_path), model=made.eval())
    b.save_bundle(tmp_path, old)
    table = json.loads((tmp_path / b.BUNDLE_FILE).read_text())
    for name in options:
        del table["model"][name]
    del table["fingerprint"]  # which no format before 4 has
    table["format"] = 1
    (tmp_path / b.BUNDLE_FILE).write_text(json.dumps(table))
    g = graph()
    f = features(g)
    loaded = b.load_bundle(tmp_path)
    again = loaded.model
    assert again.head.messages is None and torch.equal(again(g, f), made(g, f))
    assert "train it again" in loaded.lacks and not made_today(tmp_path).lacks


def made_today(path: pathlib.Path) -> b.Bundle:
    b.save_bundle(path, make_bundle(path))
    return b.load_bundle(path)


def test_weights_of_an_earlier_format_lose_spreadless_channels(tmp_path: pathlib.Path) -> None:
    """What was clamped to 1e-9 eV becomes zero, in and out; everything else stays."""
    made = model("equivariant", pairs="adjacent", envelope=0.0, norm_floor=1e-3)
    shake(made)
    channel = FeatureScale(TARGETS.irreps()).index
    made.onsite_scale.copy_(torch.where(channel == 5, 1e-9, 0.02))
    made.own_factor.copy_(1 / torch.stack([made.out_scale, made.onsite_scale]))
    g = graph()
    f = features(g)
    before = made(g, f._replace(direct_sum=torch.where(channel == 5, 0.0, f.direct_sum)))
    state = {
        k: v for k, v in made.state_dict().items() if k not in ("own_factor", "envelope.range")
    }
    again = model("equivariant", pairs="adjacent", envelope=0.0, norm_floor=1e-3)
    again.load_state_dict(state)
    out = again(g, f)
    assert not out[g.self_loop][:, channel == 5].any()
    kept = g.self_loop[:, None] & (channel != 5)
    f2 = f._replace(direct_sum=torch.where(channel == 5, 0.0, f.direct_sum))
    assert torch.allclose(again(g, f2)[kept], before[kept], atol=1e-12)
    assert torch.equal(again.onsite_scale == 0, channel == 5) and again.out_scale.all()


def test_an_atoms_own_block_learns_from_its_neighbours() -> None:
    """With features that are zero on self-loops, only messages can give l > 0 there."""
    g = graph()
    f = features(g)
    blind = Stage1Features(
        tuple(v * 0 for v in f.node),
        tuple(v * ~g.self_loop[:, None] for v in f.edge),
        f.direct_sum * ~g.self_loop[:, None],
    )
    for messages, wanted in ((0, False), (4, True)):
        made = model("equivariant", messages=messages)
        shake(made)
        turned = Layout(TARGETS.irreps()).split(made(g, blind)[g.self_loop])
        assert all(bool(v.abs().max() > 1e-6) is wanted for (l, _), v in turned.items() if l > 0)


def test_bad_bundles(tmp_path: pathlib.Path) -> None:
    b.save_bundle(tmp_path, make_bundle(tmp_path))
    table, weights = (
        (tmp_path / b.BUNDLE_FILE).read_text(),
        (tmp_path / b.WEIGHTS_FILE).read_bytes(),
    )
    with pytest.raises(ModelError, match="a GFormer bundle holds"):
        b.load_bundle(tmp_path / "none")
    for text, words in (
        (table.replace('"format": 4', '"format": 9'), "newer than"),
        (table.replace('"width"', '"widht"'), "did you mean 'width'"),
        (table.replace('"width": 16', '"width": 8'), "does not fit"),
        (table.replace('"weights": "', '"weights": "0'), "weights is .* 32 hexadecimal digits"),
        (re.sub('"weights": "[0-9a-f]{4}', '"weights": "0000', table), "fingerprint differs"),
        ("{", "valid JSON"),
    ):
        (tmp_path / b.BUNDLE_FILE).write_text(text)
        with pytest.raises(ModelError, match=words):
            b.load_bundle(tmp_path)
    (tmp_path / b.BUNDLE_FILE).write_text(table)
    (tmp_path / b.WEIGHTS_FILE).write_bytes(weights[:100])
    with pytest.raises(ModelError, match="damaged"):
        b.load_bundle(tmp_path)


def test_bad_hyper_parameters() -> None:
    with pytest.raises(ConfigError, match="no multiple of heads"):
        GFormer(GFormerConfig(arch="paper", width=10, heads=4), 2, TARGETS.irreps(), NODE, EDGE)
    with pytest.raises(ModelError, match="needs them"):
        GFormer(GFormerConfig(arch="equivariant"), 2, TARGETS.irreps())
