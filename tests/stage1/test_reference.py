"""The fast engine against the plain reference path, for every variant and every e3nn generation."""

from __future__ import annotations

import pytest
import torch

from deeph_gformer.algebra.wigner import GENERATIONS
from deeph_gformer.data.graph import batch_graphs
from deeph_gformer.stage1.embedded.checkpoint import official_state
from deeph_gformer.stage1.embedded.inference import InferenceEngine

from .helpers import VARIANTS, random_graph, random_net, relative
from .reference import reference_forward


@pytest.mark.parametrize("variant", VARIANTS)
def test_engine_equals_reference(variant: str) -> None:
    """Output and every intermediate irrep; the network that is trained folds its last maps into one
    where irreps are not asked for."""
    config, targets = VARIANTS[variant]
    net = random_net(config, "0.3")
    graph = random_graph(targets.basis)
    with torch.no_grad():
        reference, reference_nodes, reference_edges = reference_forward(
            config, "0.3", official_state(net), graph
        )
        for run in (InferenceEngine(net), net):
            ours, nodes, edges = run(graph, features=True)
            assert relative(ours, reference) < 1e-12
            for a, b in zip((*nodes, *edges), (*reference_nodes, *reference_edges)):
                assert relative(a, b) < 1e-12
        assert relative(net(graph)[0], reference) < 1e-12


@pytest.mark.parametrize("generation", GENERATIONS)
def test_generations_in_a_batch(generation: str) -> None:
    """Generations differ, and each agrees; two structures of unequal size."""
    config, targets = VARIANTS["spin_orbit"]
    net = random_net(config, generation)  # type: ignore[arg-type]
    graph = batch_graphs([random_graph(targets.basis, 4, 1), random_graph(targets.basis, 5, 2)])
    with torch.no_grad():
        reference = reference_forward(config, generation, official_state(net), graph)[0]  # type: ignore[arg-type]
        assert relative(InferenceEngine(net)(graph)[0], reference) < 1e-12
        other = reference_forward(
            config, "0.3" if generation != "0.3" else "0.4", official_state(net), graph
        )[0]
    assert relative(other, reference) > 1e-3


@pytest.mark.parametrize("variant", ["two_elements", "bessel", "spin_orbit"])
@pytest.mark.parametrize("chunk", [7, 40])
def test_chunks_of_training_change_nothing(variant: str, chunk: int) -> None:
    """Convolutions made chunk by chunk, and again in the backward pass: output and gradients stay,
    self-loops included."""
    config, targets = VARIANTS[variant]
    net = random_net(config, "0.3")
    graph = batch_graphs([random_graph(targets.basis, 4, 1), random_graph(targets.basis, 5, 2)])
    assert graph.edges > chunk

    def run(size: int) -> tuple[torch.Tensor, torch.Tensor]:
        net.chunk = size
        net.zero_grad()
        out = net(graph)[0]
        out.square().sum().backward()
        grads = [p.grad.reshape(-1) for p in net.parameters() if p.grad is not None]
        return out.detach(), torch.cat(grads)

    for whole, parts in zip(run(0), run(chunk)):
        assert relative(parts, whole) < 1e-12


def test_gradients_equal_reference() -> None:
    """Autograd through the engine and through the reference."""
    config, targets = VARIANTS["two_elements"]
    net = random_net(config, "0.3")
    graph = random_graph(targets.basis)
    probe = torch.as_tensor(1.0, dtype=torch.float64)
    state = {
        name: value.requires_grad_(value.is_floating_point())
        for name, value in official_state(net).items()
    }
    (reference_forward(config, "0.3", state, graph)[0].square().sum() * probe).backward()
    net(graph)[0].square().sum().backward()
    from deeph_gformer.stage1.embedded.checkpoint import official_parameters

    own = dict(net.named_parameters())
    for name, ours, piece, shape in official_parameters(net):
        if state[name].grad is None or not shape.numel():
            continue
        mine = own[ours].grad
        assert mine is not None
        assert (
            relative(mine.reshape(-1)[piece].reshape(shape), state[name].grad) < 1e-9
            or float(state[name].grad.abs().max()) < 1e-12
        ), name
