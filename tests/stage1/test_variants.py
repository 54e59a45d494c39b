"""Every variant of DeepH-E3's network against the official code run beside it (random weights,
float64)."""

from __future__ import annotations

import pytest
import torch

from deeph_gformer.algebra.wigner import GENERATIONS
from deeph_gformer.data.graph import batch_graphs
from deeph_gformer.stage1.embedded.checkpoint import official_parameters, official_state
from deeph_gformer.stage1.official import _Batch, translate_state
from deeph_gformer.stage1.official_import import default_dtype, official_net

from .helpers import VARIANTS, needs_official, random_graph, random_net, relative

pytestmark = [pytest.mark.official, needs_official]


def _pair(variant: str, generation: str):  # type: ignore[no-untyped-def]
    config, targets = VARIANTS[variant]
    net = random_net(config, generation)  # type: ignore[arg-type]
    official = official_net(config, generation, torch.float64)  # type: ignore[arg-type]
    state = official_state(net)
    official.load_state_dict(translate_state(state, official.state_dict(), variant), strict=True)
    return net, official, state, targets


@pytest.mark.parametrize("variant", VARIANTS)
def test_forward_and_features(variant: str) -> None:
    """Output and every intermediate irrep agree to 1e-10 (in fact rounding) with the official
    network."""
    net, official, _, targets = _pair(variant, "0.3")
    graph = random_graph(targets.basis)
    taken: dict[str, torch.Tensor] = {}
    for kind in ("node", "edge"):
        for p, block in enumerate(getattr(official, f"{kind}_update_blocks")):
            block.register_forward_hook(lambda m, i, o, key=f"{kind}{p}": taken.__setitem__(key, o))
    with torch.no_grad(), default_dtype(torch.float64):
        reference = official(_Batch(graph))[1]
        ours, nodes, edges = net(graph, features=True)
    assert relative(ours, reference) < 1e-11
    for p, (node, edge) in enumerate(zip(nodes, edges)):
        assert relative(node, taken[f"node{p}"]) < 1e-11
        assert relative(edge, taken[f"edge{p}"]) < 1e-11


@pytest.mark.parametrize("generation", GENERATIONS)
@pytest.mark.parametrize("variant", ["two_elements", "spin_orbit", "duplicate_slots"])
def test_generations_and_batches(variant: str, generation: str) -> None:
    """All e3nn generations, two structures in one batch."""
    net, official, _, targets = _pair(variant, generation)
    graph = batch_graphs([random_graph(targets.basis, 5, 1), random_graph(targets.basis, 4, 2)])
    with torch.no_grad(), default_dtype(torch.float64):
        assert relative(net(graph)[0], official(_Batch(graph))[1]) < 1e-11


@pytest.mark.parametrize(
    "variant",
    ["plain", "bessel", "two_elements", "spin_orbit", "both_parities", "any_order", "lmax6"],
)
def test_gradients(variant: str) -> None:
    """Training parity: the gradient of every official parameter, 1e-9 relative."""
    net, official, _, targets = _pair(variant, ">=0.5")
    graph = batch_graphs([random_graph(targets.basis, 5, 1), random_graph(targets.basis, 4, 2)])
    with default_dtype(torch.float64):
        reference = official(_Batch(graph))[1]
    probe = torch.randn(
        reference.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3)
    )
    (reference * probe).sum().backward()
    (net(graph)[0] * probe).sum().backward()
    own = dict(net.named_parameters())
    scale = max(
        float(p.grad.abs().max()) for p in official.parameters() if p.grad is not None and p.numel()
    )
    names = dict(official.named_parameters())
    seen = 0
    for name, ours, piece, shape in official_parameters(net):
        theirs = names[name].grad
        mine = own[ours].grad
        if theirs is None:
            assert mine is None or float(mine.abs().max()) == 0
            continue
        assert mine is not None
        difference = (
            (mine.reshape(-1)[piece].reshape(shape) - theirs).abs().max()
            if theirs.numel()
            else torch.zeros(())
        )
        assert float(difference) < 1e-9 * max(float(theirs.abs().max()), 1e-3 * scale), name
        seen += 1
    assert seen > 20


@pytest.mark.parametrize("variant", VARIANTS)
def test_saved_state_loads_strictly(variant: str) -> None:
    """What we save is, name by name and in order of parameters, what the official Net of today's
    e3nn holds."""
    config, _ = VARIANTS[variant]
    net = random_net(config, ">=0.5")
    official = official_net(config, ">=0.5", torch.float64)
    state = official_state(net)
    template = official.state_dict()
    assert set(state) == set(template)
    official.load_state_dict(state, strict=True)
    for name, value in template.items():
        assert state[name].shape == value.shape, name
        if (
            "_w3j_" in name
            or "output_mask" in name
            or "offsets" in name
            or "width" in name
            or name.startswith("sh.")
        ):
            torch.testing.assert_close(state[name].double(), value.double(), atol=1e-12, rtol=0)
    assert [n for n, _ in official.named_parameters()] == [n for n, *_ in official_parameters(net)]
