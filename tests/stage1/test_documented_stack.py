"""Numbers of the official code on its documented stack, for every variant.

``documented_stack.npz`` holds rows of DeepH-E3 (f011d5f) under torch 1.9.0, e3nn 0.3.5, numpy
1.21.2, sympy 1.8 (keys ``0.3/...``), and with e3nn 0.4.4 (``0.4/...``), for the random networks of
``helpers.py``, whose parameters it loaded strictly from :func:`official_state`: direct sums, and
blocks made by its own ``e3TensorDecomp``.
"""

from __future__ import annotations

import pathlib

import numpy as np
import pytest
import torch

from deeph_gformer.algebra.blocks import DirectSumToProduct
from deeph_gformer.stage1.embedded.inference import InferenceEngine

from .helpers import VARIANTS, random_graph, random_net, relative

STORED = np.load(pathlib.Path(__file__).with_name("documented_stack.npz"))
CASES = sorted({tuple(name.split("/")[:2]) for name in STORED.files})


def test_every_variant_is_stored() -> None:
    """None of the variants was forgotten."""
    assert {name for generation, name in CASES if generation == "0.3"} == set(VARIANTS)


@pytest.mark.parametrize(("generation", "variant"), CASES)
def test_equals_documented_stack(generation: str, variant: str) -> None:
    """Direct sums and blocks, 1e-12 relative (the Bessel basis: 1e-11, its official formulas
    cancel)."""
    config, targets = VARIANTS[variant]
    net = random_net(config, generation)  # type: ignore[arg-type]
    rows, direct_sum, product = (
        STORED[f"{generation}/{variant}/{part}"] for part in ("rows", "direct_sum", "H")
    )
    with torch.no_grad():
        ours = InferenceEngine(net)(random_graph(targets.basis))[0][rows]
    limit = 1e-11 if "bessel" in variant else 1e-12
    assert relative(ours, torch.as_tensor(direct_sum)) < limit
    blocks = DirectSumToProduct(targets, generation, torch.float64)(ours)  # type: ignore[arg-type]
    assert relative(blocks, torch.as_tensor(product)) < limit
