"""e3nn generations: symbols, path normalisation, detection."""

from __future__ import annotations

import math

import pytest
import torch
from e3nn import o3

from deeph_gformer.algebra.wigner import (
    FLIPPED,
    GENERATIONS,
    Generation,
    detect_generation,
    parse_generation,
    path_weights,
    wigner_3j,
)
from deeph_gformer.errors import ConfigError, ModelError

PREFIX = {
    "0.3": "conv.tp.tp._compiled_main_out._w3j_",
    "0.4": "conv.tp.tp._compiled_main_left_right._w3j_",
    ">=0.5": "conv.tp.tp._compiled_main_left_right._w3j_",
}


def stored(
    generation: Generation, *triples: tuple[int, int, int], dtype: torch.dtype = torch.float64
) -> dict[str, torch.Tensor]:
    """Buffers as a checkpoint of a generation holds them."""
    out = {}
    for l1, l2, l3 in triples:
        value = wigner_3j(l1, l2, l3, generation, dtype) * (
            (2 * l3 + 1) ** 0.5 if generation == "0.3" else 1
        )
        out[f"{PREFIX[generation]}{l1}_{l2}_{l3}"] = value
        if generation == "0.3":
            out[f"conv.tp.tp._compiled_main_right._w3j_{l1}_{l2}_{l3}"] = value
    return out


@pytest.mark.parametrize("generation", GENERATIONS)
def test_symbols_are_orthogonal_and_equivariant(generation: Generation) -> None:
    """Norm 1, orthogonality, and invariance under a rotation of all three indices."""
    rotation = o3.rand_matrix().double()
    for l1, l2, l3 in [(1, 1, 1), (1, 2, 2), (2, 2, 3), (2, 2, 4), (3, 3, 5), (4, 4, 5), (1, 4, 4)]:
        symbol = wigner_3j(l1, l2, l3, generation)
        product = torch.einsum("ijk,ijl->kl", symbol, symbol) * (2 * l3 + 1)
        assert (product - torch.eye(2 * l3 + 1, dtype=torch.float64)).abs().max() < 1e-12
        a, b, c = (o3.Irrep(l, 1).D_from_matrix(rotation) for l in (l1, l2, l3))
        assert (torch.einsum("ijk,ai,bj,ck->abc", symbol, a, b, c) - symbol).abs().max() < 1e-6


def test_known_values_and_known_signs() -> None:
    """The cross product; the signs that DESIGN lists as changed, in every order, and one that did
    not change."""
    cross = wigner_3j(1, 1, 1, "0.3")
    assert abs(abs(float(cross[0, 1, 2])) - 1 / math.sqrt(6)) < 1e-12 and float(cross[0, 0, 1]) == 0
    for triple in [
        (1, 2, 2),
        (1, 3, 3),
        (1, 4, 4),
        (2, 1, 2),
        (2, 2, 1),
        (3, 1, 3),
        (3, 3, 1),
        (3, 4, 6),
        (4, 1, 4),
        (4, 3, 6),
        (4, 4, 1),
        (4, 4, 5),
    ]:
        assert torch.equal(wigner_3j(*triple, "0.3"), -wigner_3j(*triple, ">=0.5")), triple
        assert torch.equal(wigner_3j(*triple, "0.3"), wigner_3j(*triple, "0.4"))
    for triple in [(1, 1, 1), (2, 2, 3), (1, 1, 2), (2, 3, 4)]:
        assert torch.equal(wigner_3j(*triple, "0.3"), wigner_3j(*triple, ">=0.5")), triple
    changed = [
        (a, b, c)
        for a in range(6)
        for b in range(6)
        for c in range(abs(a - b), min(a + b, 6) + 1)
        if tuple(sorted((a, b, c))) in FLIPPED
    ]
    assert len(changed) == 20
    assert torch.equal(wigner_3j(2, 2, 2, ">=0.5"), o3.wigner_3j(2, 2, 2, dtype=torch.float64))
    with pytest.raises(ModelError, match="up to l = 11"):
        wigner_3j(12, 1, 12, "0.3")


def test_path_weights_are_those_of_e3nn() -> None:
    """Against e3nn's own tensor product under both of its path normalisations."""
    instructions = [(0, 0, 0, "uvw", True), (1, 1, 0, "uvw", True), (1, 0, 1, "uvw", True)]
    for generation, name in (("0.3", "path"), (">=0.5", "element")):
        tp = o3.TensorProduct(
            "3x0e+5x1o", "1x0e+2x1o", "4x0e+2x1o", instructions, path_normalization=name
        )
        factors = [ins.path_weight for ins in tp.instructions]
        ours = path_weights([3 * 1, 5 * 2], generation)  # type: ignore[arg-type]
        assert factors[:2] == pytest.approx(ours)
        assert factors[2] / 3**0.5 == pytest.approx(path_weights([5 * 1], generation)[0])  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("generation", GENERATIONS)
def test_generation_is_detected(generation: Generation, dtype: torch.dtype) -> None:
    """From prefix, norm and sign."""
    state = {
        "weight": torch.ones(3),
        **stored(generation, (1, 1, 2), (1, 2, 2), (2, 2, 4), dtype=dtype),
    }
    assert detect_generation(state) == generation


def test_generation_that_cannot_be_told() -> None:
    """No buffers, or none whose sign changed."""
    assert detect_generation({"weight": torch.ones(2)}) is None
    assert detect_generation(stored("0.4", (1, 1, 1), (1, 1, 2))) is None
    assert detect_generation(stored("0.3", (1, 1, 1), (1, 1, 2))) == "0.3"


def test_buffers_that_fit_nothing() -> None:
    """Wrong norm, shape, name; old norm under the new name; mixtures."""
    good = stored("0.4", (1, 2, 2))
    name = next(iter(good))
    for broken in (
        {name: good[name] * 1.1},
        {name: good[name][:2]},
        {name.replace("1_2_2", "x_2_2"): good[name]},
        {name.replace("1_2_2", "-1_2_2"): good[name]},
        {name.replace("1_2_2", "1_2_9"): good[name]},
        {name.replace("1_2_2", "3000_3000_3000"): good[name]},  # 216 GiB
        {name: good[name] * 5**0.5},
        {name: torch.randn_like(good[name])},
        {name.replace("left_right", "out"): good[name]},
    ):
        with pytest.raises(ModelError):
            detect_generation(broken)
    for one, other in (("0.3", "0.4"), ("0.4", ">=0.5"), ("0.3", ">=0.5")):
        mixed = {
            **stored(one, (1, 2, 2)),
            **{f"other.{k}": v for k, v in stored(other, (1, 2, 2), (1, 1, 2)).items()},
        }  # type: ignore[arg-type]
        with pytest.raises(ModelError, match="mixed"):
            detect_generation(mixed)


def test_what_a_user_writes() -> None:
    """Names of generations."""
    assert [parse_generation(t) for t in ("0.3", "0.4", ">=0.5", "0.5", "0.6")] == [
        "0.3",
        "0.4",
        ">=0.5",
        ">=0.5",
        ">=0.5",
    ]
    with pytest.raises(ConfigError, match="unknown"):
        parse_generation("1.0")
