"""Training keeps recipes instead of tensors: the same gradients, of every order, from less."""

from __future__ import annotations

import pytest
import torch
from e3nn.o3 import Irreps
from torch import Tensor
from torch.autograd import forward_ad

from deeph_gformer.stage1.embedded.convolution import EquivariantConvolution, Inputs
from deeph_gformer.stage1.embedded.recompute import Recompute


@pytest.fixture
def made() -> tuple[EquivariantConvolution, dict, Tensor, Tensor]:
    """A convolution in float64, features of five edges between three atoms (two keys of the pair,
    two of the atoms, three of the edge), distances, radial."""
    torch.manual_seed(0)
    irreps, harmonics = Irreps("2x0e+2x1o+1x2e"), Irreps("2x0e+2x1o+2x2e")
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    conv = EquivariantConvolution(5, irreps, irreps, harmonics, irreps, ">=0.5", True, True)
    torch.set_default_dtype(before)
    pair = {(l, p): (5, 2 * l + 1, 2 * n) for (l, p), n in conv.layout.channels.items() if l}
    node = {key: (3, 1, n) for key, n in conv.layout.channels.items() if key[0] == 0}
    edge = {(l, p): (5, 2 * l + 1, n) for (l, p), n in conv.layout.channels.items()}
    features = {
        (name, key): torch.randn(shape, dtype=torch.float64, requires_grad=True)
        for name, shapes in (("pair", pair), ("node", node), ("edge", edge))
        for key, shape in shapes.items()
    }
    distance = torch.randn(5, 5, dtype=torch.float64, requires_grad=True)
    return conv, features, distance, torch.randn(5, conv.tp.copies, dtype=torch.float64)


def outcome(made: tuple, again: bool, *inputs: Tensor) -> Tensor:
    """All messages in one vector; the inputs are features, then distances."""
    conv, features, _, radial = made
    own: dict[str, dict] = {"pair": {}, "node": {}, "edge": {}}
    for (name, key), value in zip(features, inputs[:-1], strict=True):
        own[name][key] = value
    plain = [{k: v.detach() for k, v in own[name].items()} for name in ("pair", "edge")]
    ends = torch.tensor([0, 0, 1, 2, 2]), torch.tensor([1, 2, 0, 0, 2])
    given = Inputs(own["pair"], own["node"], own["edge"], *ends, inputs[-1], radial)
    out = conv(given, conv.tp.matrices()[0], (lambda: (plain[0], plain[1])) if again else None)
    return torch.cat([value.flatten() for value in out.values()])


def test_gradients_are_those_of_differences_to_second_order(made: tuple) -> None:
    inputs = (*made[1].values(), made[2])
    torch.autograd.gradcheck(lambda *x: outcome(made, True, *x), inputs)
    torch.autograd.gradgradcheck(
        lambda *x: outcome(made, True, *x).square().sum(), inputs, atol=1e-4, rtol=1e-3
    )


def test_gradients_of_parameters_are_those_of_kept_tensors_bit_for_bit(made: tuple) -> None:
    inputs, found = (*made[1].values(), made[2]), []
    for again in (False, True):
        loss = outcome(made, again, *inputs).square().sum()
        wanted = (*made[0].parameters(), *inputs)
        first = torch.autograd.grad(loss, wanted, retain_graph=True)
        found += [first, torch.autograd.grad(loss, wanted)]  # twice: recipes are not used up
    assert max(g.abs().max() for g in found[0]) > 1
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


def test_forward_mode_is_that_of_reverse_mode(made: tuple) -> None:
    inputs = tuple(x.detach().requires_grad_() for x in (*made[1].values(), made[2]))
    tangents = tuple(torch.randn_like(x) for x in inputs)
    with forward_ad.dual_level():
        duals = [forward_ad.make_dual(x, t) for x, t in zip(inputs, tangents, strict=True)]
        tangent = forward_ad.unpack_dual(outcome(made, True, *duals)).tangent
    out = outcome(made, True, *inputs)
    weight = torch.randn_like(out)
    gradients = torch.autograd.grad(out, inputs, weight)
    expected = sum((g * t).sum() for g, t in zip(gradients, tangents, strict=True))
    assert torch.isclose((tangent * weight).sum(), expected, rtol=1e-12)


def test_less_is_kept(made: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes that autograd holds, those that go through the recipes' own hooks included."""
    sizes: dict[int, int] = {}
    pack = Recompute._pack

    def count(tensor: Tensor) -> Tensor:
        sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    def inner(self: Recompute, tensor: Tensor) -> object:
        found = pack(self, tensor)
        return count(found) if isinstance(found, Tensor) else found

    def kept(again: bool) -> int:
        sizes.clear()
        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            out = outcome(made, again, *made[1].values(), made[2])
        held = sum(sizes.values())
        assert out.requires_grad
        return held

    monkeypatch.setattr(Recompute, "_pack", inner)
    inputs = (*made[1].values(), made[2], *made[0].parameters())
    always = sum(x.untyped_storage().nbytes() for x in inputs)
    assert kept(True) - always < 0.75 * (kept(False) - always)


@pytest.mark.parametrize("name", ["fc.0.weight", "fc.2.bias", "tp.weight1", "tp.weight2"])
def test_weights_that_change_before_the_backward_pass_are_told(made: tuple, name: str) -> None:
    """As autograd does where it keeps tensors."""
    out = outcome(made, True, *made[1].values(), made[2])
    with torch.no_grad():
        made[0].get_parameter(name).mul_(1.01)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.square().sum().backward()


def test_a_recipe_is_made_once_for_all_its_uses() -> None:
    calls = []
    x = torch.randn(4, 3, requires_grad=True)

    def make() -> dict:
        calls.append(1)
        return {"y": x.detach() * 2}

    again = Recompute(make)
    with again.saving():
        y = x * 2
        again.name("y", y)
        z = (y * y[:, :1]).sum() + y[1:].square().sum()
    again.done()
    expected = torch.autograd.grad((x * 2 * x[:, :1] * 2).sum() + (4 * x[1:].square()).sum(), x)[0]
    assert torch.allclose(torch.autograd.grad(z, x)[0], expected) and len(calls) == 1
