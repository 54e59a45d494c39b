"""Scale and shift of the output: DeepH-E3's later version (``Net(index_to_Z=...)``)."""

from __future__ import annotations

import dataclasses
import os
import pathlib

import numpy as np
import pytest
import torch
from e3nn.o3 import Irreps

from deeph_gformer.algebra.orbitals import TargetBlocks
from deeph_gformer.data.graph import Graph, batch_graphs
from deeph_gformer.errors import ModelError
from deeph_gformer.stage1 import load_stage1
from deeph_gformer.stage1.bundle import read_model_folder
from deeph_gformer.stage1.conformance import check_provider
from deeph_gformer.stage1.embedded.checkpoint import official_parameters, official_state
from deeph_gformer.stage1.embedded.inference import InferenceEngine
from deeph_gformer.stage1.net_config import NetConfig
from deeph_gformer.stage1.official import OfficialStage1, _Batch, translate_state
from deeph_gformer.stage1.official_import import default_dtype, official_net

from .helpers import VARIANTS, needs_official, random_graph, random_net, relative
from .test_providers import save


def _later_clone() -> str:
    """A clone of the later version: of DEEPHE3_LATER_ROOT or DEEPHE3_ROOT, else empty."""
    for variable in ("DEEPHE3_LATER_ROOT", "DEEPHE3_ROOT"):
        root = pathlib.Path(os.environ.get(variable, "/nowhere"))
        for model in (root / "deephe3" / "model.py", root / "model.py"):
            if model.is_file() and "index_to_Z" in model.read_text():
                return str(root)
    return ""


LATER = _later_clone()
needs_later = pytest.mark.skipif(
    not LATER, reason="needs DeepH-E3's later version: set DEEPHE3_LATER_ROOT to a clone"
)
NAMES = ["plain", "two_elements", "spin_orbit_two_elements", "no_parity", "diag", "bessel"]


def scaled(name: str) -> tuple[NetConfig, TargetBlocks]:
    """A variant as the later version would write it."""
    config, targets = VARIANTS[name]
    return dataclasses.replace(config, index_to_Z=targets.basis.elements), targets


def by_hand(
    x: torch.Tensor, graph: Graph, irreps: Irreps, sigma: torch.Tensor, mu: torch.Tensor, kinds: int
) -> np.ndarray:
    """sigma x + mu, edge by edge and irrep by irrep."""
    y = x.numpy().copy()
    for e, (i, j) in enumerate(graph.edge_index.T.tolist()):
        a, b = int(graph.node_type[i]), int(graph.node_type[j])
        row = a if graph.edge_length[e] < 1e-7 else kinds * (1 + a) + b
        start = scalar = number = 0
        for mul, ir in irreps:
            for _ in range(mul):
                y[e, start : start + ir.dim] *= float(sigma[row, number])
                if (ir.l, ir.p) == (0, 1):
                    y[e, start] += float(mu[row, scalar])
                    scalar += 1
                start, number = start + ir.dim, number + 1
    return y


@pytest.mark.parametrize("name", NAMES)
def test_output_is_scaled_and_shifted(name: str, tmp_path: pathlib.Path) -> None:
    """Engine and training network: the plain network's output, scaled and shifted by hand."""
    config, targets = scaled(name)
    net = save(tmp_path, config, targets)
    graph = batch_graphs([random_graph(targets.basis, 5, 1), random_graph(targets.basis, 4, 2)])
    plain = random_net(dataclasses.replace(config, index_to_Z=None), "0.3")
    plain.load_state_dict({n: v for n, v in net.state_dict().items() if not n.startswith("scale.")})
    assert net.scale is not None
    with torch.no_grad():
        x = plain(graph)[0]
        expected = by_hand(
            x,
            graph,
            Irreps(config.irreps_out_edge),
            net.scale.sigma,
            net.scale.mu,
            config.num_species,
        )
        assert relative(net(graph)[0], torch.as_tensor(expected)) < 1e-13
        assert relative(InferenceEngine(net)(graph, chunk=7)[0], torch.as_tensor(expected)) < 1e-11
    provider = load_stage1(tmp_path, fill_missing=0.0)
    assert relative(provider(graph).direct_sum, torch.as_tensor(expected)) < 1e-11
    assert relative(x, torch.as_tensor(expected)) > 0.1


@pytest.mark.parametrize("name", ["two_elements", "spin_orbit_two_elements"])
def test_conformance(name: str, tmp_path: pathlib.Path) -> None:
    """The sum stays equivariant, in blocks and chunks, too."""
    config, targets = scaled(name)
    save(tmp_path, config, targets)
    assert all(f.passed for f in check_provider(load_stage1(tmp_path), rotations=2))


def test_folder(tmp_path: pathlib.Path) -> None:
    """The later version's arguments and parameters, which are the first of its network."""
    config, targets = scaled("two_elements")
    net = save(tmp_path, config, targets)
    text = (tmp_path / "src" / "build_model.py").read_text()
    assert "    index_to_Z=[42, 52],\n" in text and "num_species" not in text
    folder = read_model_folder(tmp_path)
    assert folder.config == config
    assert [name for name, *_ in official_parameters(net)][:2] == ["sigma", "mu"]
    irreps = targets.irreps()
    assert folder.state_dict["sigma"].shape == (2 + 4, irreps.num_irreps)
    assert folder.state_dict["mu"].shape == (2 + 4, irreps.count("0e"))


def test_folder_without_scale(tmp_path: pathlib.Path) -> None:
    """A checkpoint that lacks them: ones and zeros, as the later version's evaluation has it."""
    config, targets = scaled("two_elements")
    net = save(tmp_path, config, targets, sigma=None, mu=None)
    plain = random_net(dataclasses.replace(config, index_to_Z=None), "0.3")
    plain.load_state_dict({n: v for n, v in net.state_dict().items() if not n.startswith("scale.")})
    graph = random_graph(targets.basis)
    with torch.no_grad():
        assert relative(load_stage1(tmp_path)(graph).direct_sum, plain(graph)[0]) < 1e-11


@pytest.mark.parametrize(("gone", "left"), [("sigma", "mu"), ("mu", "sigma")])
def test_half_a_scale_is_refused(gone: str, left: str, tmp_path: pathlib.Path) -> None:
    save(tmp_path, *scaled("two_elements"), **{gone: None})
    with pytest.raises(ModelError, match=f"'{left}' alone of sigma, mu"):
        load_stage1(tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("[42, 52]", "[52, 42]", "do not belong together"),
        ("[42, 52]", "[42, 42]", "no different atomic numbers"),
        ("[42, 52]", "[42, 'Te']", "no different atomic numbers"),
        ("[42, 52]", "[]", "no different atomic numbers"),
        ("[42, 52]", "42", "no different atomic numbers"),
        ("[42, 52]", "sorted([42, 52])", "no literal"),
        ("index_to_Z=[42, 52]", "index_to_Z=[42, 52], num_species=2", "both"),
        ("index_to_Z=[42, 52]", "num_species=2", "'sigma' .* is not part of this network"),
    ],
)
def test_bad_arguments(old: str, new: str, words: str, tmp_path: pathlib.Path) -> None:
    """One line that names the file or the parameter."""
    save(tmp_path, *scaled("two_elements"))
    script = tmp_path / "src" / "build_model.py"
    script.write_text(script.read_text().replace(old, new))
    with pytest.raises(ModelError, match=words):
        load_stage1(tmp_path)


def test_wrong_shape(tmp_path: pathlib.Path) -> None:
    """Of another number of elements."""
    config, targets = scaled("two_elements")
    save(tmp_path, config, targets, mu=torch.zeros(2, 3))
    with pytest.raises(ModelError, match=r"'mu' has shape \(2, 3\) instead of \(6, "):
        load_stage1(tmp_path)


@pytest.mark.official
@needs_official
@pytest.mark.parametrize("name", ["two_elements", "spin_orbit_two_elements"])
def test_official_provider(name: str, tmp_path: pathlib.Path) -> None:
    """Whichever version DEEPHE3_ROOT is of; folders of the earlier one run on both, too."""
    config, targets = scaled(name)
    graph = random_graph(targets.basis)
    for number, arguments in enumerate((config, VARIANTS[name][0])):
        save(tmp_path / str(number), arguments, targets)
        official = OfficialStage1(tmp_path / str(number))
        ours = load_stage1(tmp_path / str(number))(graph)
        assert relative(ours.direct_sum, official(graph).direct_sum) < 1e-11
        assert relative(ours.edge[-1], official(graph).edge[-1]) < 1e-11
        official.close()


@pytest.mark.official
@needs_later
@pytest.mark.parametrize("name", NAMES)
def test_later_version(name: str, tmp_path: pathlib.Path) -> None:
    """Weights made by that code itself: same output, and all gradients."""
    config, targets = scaled(name)
    graph = random_graph(targets.basis)
    torch.manual_seed(1)
    official = official_net(config, ">=0.5", torch.float64, LATER)
    with torch.no_grad():
        official.sigma.normal_()
        official.mu.normal_()
    state = official.state_dict()
    save(tmp_path, config, targets, ">=0.5", **{n.replace(".", "__"): v for n, v in state.items()})
    elements = torch.tensor(config.index_to_Z)
    with default_dtype(torch.float64):
        theirs = official(_Batch(graph, elements[graph.node_type]))[1]
    ours = load_stage1(tmp_path, fill_missing=0.0)
    assert relative(ours(graph).direct_sum, theirs) < 1e-11
    provider = OfficialStage1(tmp_path, LATER, fill_missing=0.0)
    assert relative(provider(graph).direct_sum, theirs) < 1e-12
    net = random_net(config, ">=0.5")
    official.load_state_dict(
        translate_state(official_state(net), official.state_dict(), name), strict=True
    )
    with default_dtype(torch.float64):
        official(_Batch(graph, elements[graph.node_type]))[1].square().sum().backward()
    net(graph)[0].square().sum().backward()
    grads = {n: p.grad for n, p in official.named_parameters()}
    own = dict(net.named_parameters())
    for theirs_name, ours_name, piece, shape in official_parameters(net):
        wanted, got = grads[theirs_name], own[ours_name].grad
        if wanted is not None and got is not None and shape.numel():
            assert relative(got.reshape(-1)[piece].reshape(shape), wanted) < 1e-8, theirs_name
    assert [n for n, *_ in official_parameters(net)] == list(grads)
