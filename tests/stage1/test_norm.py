"""Norms: constants from the training set instead of the structure's means make the network
local."""

from __future__ import annotations

import dataclasses
import pathlib

import pytest
import torch

from deeph_gformer.algebra.orbitals import TargetBlocks
from deeph_gformer.data.graph import Graph
from deeph_gformer.errors import ModelError
from deeph_gformer.stage1 import load_stage1
from deeph_gformer.stage1.bundle import read_model_folder
from deeph_gformer.stage1.conformance import check_provider
from deeph_gformer.stage1.embedded.calibrate import calibrate
from deeph_gformer.stage1.embedded.inference import InferenceEngine
from deeph_gformer.stage1.embedded.norm import LayerNorm
from deeph_gformer.stage1.net_config import NetConfig
from deeph_gformer.stage1.official_import import official_arguments

from .helpers import VARIANTS, random_graph, random_net, relative
from .test_providers import save


def local(name: str) -> tuple[NetConfig, TargetBlocks]:
    """A variant with constant means."""
    config, targets = VARIANTS[name]
    return dataclasses.replace(config, norm="training"), targets


def together(a: Graph, b: Graph) -> Graph:
    """Two graphs without an edge between them, as one structure."""
    shift = torch.tensor([0, 0, 0, a.nodes, a.nodes])
    return Graph(
        torch.cat([a.node_type, b.node_type]),
        torch.cat([a.edge_index, b.edge_index + a.nodes], dim=1),
        torch.cat([a.edge_vector, b.edge_vector]),
        torch.cat([a.edge_key, b.edge_key + shift]),
        torch.zeros(a.nodes + b.nodes, dtype=torch.int64),
    )


@pytest.mark.parametrize("name", ["two_elements", "spin_orbit", "both_parities"])
def test_local(name: str) -> None:
    """What is far away does not matter, not even by rounding; DeepH-E3's own norm sees it."""
    a, b = (random_graph(VARIANTS[name][1].basis, 5, seed) for seed in (1, 2))
    both = together(a, b)
    for config, limit in ((local(name)[0], 1e-13), (VARIANTS[name][0], None)):
        net = random_net(config, ">=0.5")
        with torch.no_grad():
            alone = torch.cat([net(a)[0], net(b)[0]])
            for made in (net(both)[0], InferenceEngine(net)(both, chunk=11)[0]):
                error = relative(made, alone)
                assert error < 1e-11 if limit else error > 1e-3
                if limit:
                    assert relative(net(both)[0], alone) < limit


@pytest.mark.parametrize("name", ["two_elements", "spin_orbit", "odd_scalars_first"])
def test_conformance_and_folder(name: str, tmp_path: pathlib.Path) -> None:
    """Equivariant, the same in chunks; the folder says what it is."""
    config, targets = local(name)
    save(tmp_path, config, targets)
    assert all(f.passed for f in check_provider(load_stage1(tmp_path), rotations=2))
    assert "norm='training'" in (tmp_path / "src" / "build_model.py").read_text()
    assert read_model_folder(tmp_path).config == config


def test_deephe3_cannot_run_it(tmp_path: pathlib.Path) -> None:
    """Said before anything runs; an unknown word is refused."""
    with pytest.raises(ModelError, match="this package alone.*--backend embedded"):
        official_arguments(local("plain")[0], object)
    save(tmp_path, *local("plain"))
    script = tmp_path / "src" / "build_model.py"
    script.write_text(script.read_text().replace("norm='training'", "norm='batch'"))
    with pytest.raises(ModelError, match="norm = 'batch'; graph and training are possible"):
        load_stage1(tmp_path)


@pytest.mark.parametrize("name", ["two_elements", "odd_scalars_first"])
def test_calibrated_over_one_structure(name: str) -> None:
    """Of a training set of one, the constants are that structure's means: the scalars of every norm
    whose input is the same come out as with DeepH-E3's own norm."""
    config, targets = local(name)
    graph = random_graph(targets.basis)
    before, after = random_net(config, ">=0.5"), random_net(config, ">=0.5")
    calibrate(after, [graph])
    assert not any(m.graph for m in after.modules() if isinstance(m, LayerNorm))
    for net in (before, after):
        for module in net.modules():
            if isinstance(module, LayerNorm):
                module.graph = module.graph or net is before
    taken: dict[bool, dict] = {}
    for net in (before, after):
        norm = net.node_update_blocks[0].norm
        norm.register_forward_hook(lambda m, i, o, n=net: taken.__setitem__(n is after, o))
        net(graph)
    assert relative(taken[True][0, 1], taken[False][0, 1]) < 1e-4  # eps of the norm
    first = before.node_update_blocks[0].norm
    assert relative(first.weight, after.node_update_blocks[0].norm.weight) > 1e-2


def test_calibrated_scalars_have_unit_spread() -> None:
    """Over several structures together: mean 0 and rms 1 of each slot of the first norm's scalars,
    of a fresh network's weights."""
    config, targets = local("two_elements")
    graphs = [random_graph(targets.basis, 5, seed) for seed in range(3)]
    net = random_net(config, ">=0.5")
    for module in net.modules():
        if isinstance(module, LayerNorm):
            torch.nn.init.ones_(module.weight)
            torch.nn.init.zeros_(module.bias)
    calibrate(net, graphs)
    rows: list[torch.Tensor] = []
    norm = net.node_update_blocks[0].norm
    norm.register_forward_hook(lambda m, i, o: rows.append(o[0, 1][:, 0].detach()))
    for graph in graphs:
        net(graph)
    for key, start, mul in norm.layout.slots:
        if key == (0, 1):
            values = torch.cat(rows)[:, start : start + mul]
            assert abs(float(values.mean())) < 1e-10
            assert abs(float(values.square().mean().sqrt()) - 1) < 1e-3
