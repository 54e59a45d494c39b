"""The official provider: what it leaves behind, and training states exchanged with the official
code."""

from __future__ import annotations

import os
import pathlib
import sys

import e3nn.o3
import pytest
import torch

from deeph_gformer.data.graph import batch_graphs
from deeph_gformer.errors import ConfigError, ModelError
from deeph_gformer.stage1 import load_stage1
from deeph_gformer.stage1.conformance import check_provider
from deeph_gformer.stage1.embedded.checkpoint import (
    export_optimizer,
    import_optimizer,
    official_state,
)
from deeph_gformer.stage1.official import OfficialStage1, _Batch
from deeph_gformer.stage1.official_import import (
    default_dtype,
    find_deephe3,
    official_modules,
    official_net,
)

from .helpers import VARIANTS, needs_official, random_graph, random_net, relative
from .test_providers import save


def test_missing_clone_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    """No root, a wrong root."""
    monkeypatch.delenv("DEEPHE3_ROOT", raising=False)
    with pytest.raises(ConfigError, match="DEEPHE3_ROOT"):
        find_deephe3()
    with pytest.raises(ConfigError, match="model.py"):
        find_deephe3(tmp_path)


def test_default_dtype_is_restored_after_an_exception() -> None:
    """Whatever happens inside."""
    before = torch.get_default_dtype()
    with pytest.raises(RuntimeError), default_dtype(torch.float64):
        assert torch.get_default_dtype() == torch.float64
        raise RuntimeError
    assert torch.get_default_dtype() == before


@pytest.mark.official
@needs_official
def test_nothing_is_left_behind(tmp_path: pathlib.Path) -> None:
    """No stand-in module, no package, no patched e3nn, no hooks after close.

    The folder's Python is not run.
    """
    config, targets = VARIANTS["plain"]
    save(tmp_path, config, targets)
    script = tmp_path / "src" / "build_model.py"
    script.write_text("raise SystemExit('run')\n" + script.read_text())
    before = (
        set(sys.modules),
        e3nn.o3.TensorProduct,
        e3nn.o3.Linear,
        e3nn.o3.wigner_3j,
        e3nn.o3.TensorProduct.__init__,
    )
    provider = OfficialStage1(tmp_path, os.environ["DEEPHE3_ROOT"])
    graph = random_graph(targets.basis)
    out = provider(graph)
    assert before[1:] == (
        e3nn.o3.TensorProduct,
        e3nn.o3.Linear,
        e3nn.o3.wigner_3j,
        e3nn.o3.TensorProduct.__init__,
    )
    assert not {
        n
        for n in set(sys.modules) - before[0]
        if n.startswith(("torch_scatter", "deephe3", "_deeph_gformer_official"))
    }
    assert relative(load_stage1(tmp_path)(graph).direct_sum, out.direct_sum) < 1e-12
    with pytest.raises(Exception), torch.no_grad():  # noqa: B017
        provider(graph._replace(node_batch=graph.node_batch[:1]))
    assert torch.get_default_dtype() == torch.float32
    provider.close()
    assert all(not m._forward_hooks for m in provider.net.modules())
    with pytest.raises(ModelError, match="closed"):
        provider(graph)


@pytest.mark.official
@needs_official
def test_conformance_of_the_official_network(tmp_path: pathlib.Path) -> None:
    """The check passes on the real thing, spin-orbit included."""
    config, targets = VARIANTS["spin_orbit"]
    save(tmp_path, config, targets)
    assert all(f.passed for f in check_provider(OfficialStage1(tmp_path), rotations=1))


@pytest.mark.official
@needs_official
@pytest.mark.parametrize("generation", ["0.3", "0.4", ">=0.5"])
def test_blocks_equal_e3TensorDecomp(generation: str) -> None:  # noqa: N802
    """Our direct sum -> direct product is the official one, with the generation's signs, there and
    back."""
    from deeph_gformer.algebra.blocks import DirectSumToProduct

    modules = official_modules(find_deephe3(), generation)  # type: ignore[arg-type]
    for variant in ("two_elements", "spin_orbit", "spin_orbit_two_elements"):
        targets = VARIANTS[variant][1]
        ours = DirectSumToProduct(targets, generation, torch.float64)  # type: ignore[arg-type]
        with default_dtype(torch.float64):
            theirs = modules.e3modules.e3TensorDecomp(
                None,
                list(targets.degrees),
                default_dtype_torch=torch.float64,
                spinful=targets.basis.spinful,
            )
            h = torch.randn(
                7,
                targets.irreps().dim,
                dtype=torch.float64,
                generator=torch.Generator().manual_seed(1),
            )
            product = theirs.get_H(h)
            assert (ours(h) - product).abs().max() < 1e-13
            assert (ours.inverse(product) - theirs.get_net_out(product)).abs().max() < 1e-12


@pytest.mark.official
@needs_official
def test_training_can_change_sides() -> None:
    """Two Adam steps there, one here = three steps there."""
    config, targets = VARIANTS["two_elements"]
    net = random_net(config, ">=0.5")
    official = official_net(config, ">=0.5", torch.float64)
    official.load_state_dict(official_state(net), strict=True)
    graph = batch_graphs([random_graph(targets.basis, 4, 1), random_graph(targets.basis, 5, 2)])
    theirs = torch.optim.Adam(official.parameters(), lr=1e-3)

    def step_there() -> None:
        theirs.zero_grad()
        with default_dtype(torch.float64):
            official(_Batch(graph))[1].square().mean().backward()
        theirs.step()

    step_there()
    step_there()
    ours_before = official.state_dict()
    from deeph_gformer.stage1.embedded.checkpoint import load_official_state

    load_official_state(net, ours_before, "test")
    ours = torch.optim.Adam(net.parameters(), lr=1e-3)
    ours.load_state_dict(import_optimizer(net, theirs.state_dict()))
    ours.zero_grad()
    net(graph)[0].square().mean().backward()
    ours.step()
    exported = export_optimizer(net, ours.state_dict())
    step_there()
    for name, value in official.named_parameters():
        assert relative(official_state(net)[name], value.detach()) < 1e-8, name
    reference = theirs.state_dict()
    assert len(exported["param_groups"][0]["params"]) == len(reference["param_groups"][0]["params"])
    for n, entry in exported["state"].items():
        if n in reference["state"]:
            assert relative(entry["exp_avg"], reference["state"][n]["exp_avg"]) < 1e-7
