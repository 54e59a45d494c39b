"""A GFormer ready to be trained: what it predicts, its scales, its first weights."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from ..algebra.blocks import DirectSumToProduct
from ..algebra.orbitals import TargetBlocks, make_target_blocks
from ..algebra.wigner import Generation
from ..config import GFormerConfig, Stage1Config
from ..data.dataset import Sample, basis_of
from ..errors import ConfigError
from ..gformer.bundle import Bundle, Stage1Identity, load_bundle
from ..gformer.model import GFormer
from ..stage1.provider import Stage1Provider
from .batches import FeatureCache
from .module import masked_loss
from .process import echo

__all__ = ["Output", "new_model", "start_from"]


class Output(NamedTuple):
    """What a GFormer predicts: that of its stage 1, or said by whoever trains one alone.

    Attributes:
        targets: elements, shells, channels.
        generation: e3nn generation.
        parity: of the output irreps.
        dtype: real type.
        cutoff: last Gaussian, Å.
    """

    targets: TargetBlocks
    generation: Generation
    parity: bool
    dtype: torch.dtype
    cutoff: float

    @classmethod
    def of(cls, stage1: Stage1Provider) -> Output:
        """That of a stage 1."""
        return cls(stage1.targets, stage1.generation, stage1.parity, stage1.dtype, stage1.cutoff)

    @classmethod
    def of_data(cls, folders: Sequence[pathlib.Path]) -> Output:
        """Every block of the elements and shells in these structures, with DeepH-E3's cutoff.

        Raises:
            DataError: structures are of different basis.
        """
        targets = make_target_blocks(basis_of(folders))
        return cls(targets, ">=0.5", True, torch.float32, Stage1Config.cutoff_radius)


def new_model(
    config: GFormerConfig,
    out: Output,
    stage1: Stage1Provider | None,
    cascade: bool,
    samples: Sequence[Sample],
    cache: FeatureCache,
    to_product: DirectSumToProduct,
) -> tuple[GFormer, float]:
    """An untrained GFormer whose scales fit the training set.

    Args:
        config: of the network.
        out: what it predicts.
        stage1: whose irreps it reads; None: none.
        cascade: whether it learns the residual of stage 1.
        samples: the training set.
        cache: stage 1 of each.
        to_product: DStoDP.

    Returns:
        The network, and the unit of its loss: the rms of what it has to learn, eV.
    """
    irreps = ((), ()) if stage1 is None else (stage1.node_irreps, stage1.edge_irreps)
    model = GFormer(
        config, len(out.targets.basis.elements), out.targets.irreps(out.parity), *irreps, out.cutoff
    )
    entries = [cache.get(s) for s in samples]
    residuals = [
        to_product.inverse(s.label) - (e[1] if cascade and e[1] is not None else 0)
        for s, e in zip(samples, entries, strict=True)
    ]
    model.fit_scales(
        [s.graph for s in samples],
        [e[0] for e in entries if e[0] is not None],
        residuals,
    )
    squares = [
        masked_loss(to_product(r), s.mask, "mse", 1.0).item()
        for r, s in zip(residuals, samples, strict=True)
    ]
    return model.to(out.dtype), max(float(np.sqrt(np.mean(squares))), 1e-9)


def start_from(
    folder: str,
    model: GFormer,
    out: Output,
    stage1: Stage1Identity | None,
    cascade: bool,
    gauge: str,
) -> Bundle:
    """Take over the weights and units of a finished model, where both have them.

    Units belong to the weights, so they are the bundle's, but for channels that a training from the
    start would amplify less. Ranges of edges are the longer ones of both.
    A form of Eq. 3 that the bundle does not have starts without effect.

    Args:
        folder: the bundle.
        model: the new network, changed in place.
        out: what it predicts.
        stage1: its stage 1, None where it reads none.
        cascade: whether it predicts the correction.
        gauge: of its labels.

    Returns:
        The finished model.

    Raises:
        ConfigError: the bundle is of another basis, stage 1, gauge or purpose, or of another size.
        ModelError: it cannot be read.
    """
    bundle = load_bundle(folder)
    _check_purpose(bundle, out, stage1, cascade, gauge)
    old, new = bundle.model.state_dict(), model.state_dict()
    fresh = [name for name in new if name not in old]
    other = [n for n in new if n in old and old[n].shape != new[n].shape]
    strange = [name for name in (*fresh, *other) if not name.startswith("invariant.")]
    if strange:
        there, here = (dataclasses.asdict(m.config) for m in (bundle.model, model))
        wrong = [f"model.{key} is {there[key]} there" for key in here if here[key] != there[key]]
        raise ConfigError(
            f"--from {folder}: another network, {', '.join(wrong) or f'{strange[0]} differs'}; use "
            "the same settings of model"
        )
    known = {n: v for n, v in old.items() if n in new and n not in other}
    for name in known:  # nothing is amplified more than a training from the start would do
        if name == "own_factor" or (name.endswith(".factor") and "_scale." in name):
            known[name] = torch.minimum(old[name], new[name].to(old[name]))
    known["envelope.range"] = (
        torch.maximum(old["envelope.range"], new["envelope.range"])
        if bundle.format >= 3
        else new["envelope.range"]
    )
    model.load_state_dict({**new, **known})
    if model.invariant is not None and (fresh or other):
        *_, last = model.invariant.get_submodule("fc").children()
        for value in last.parameters():
            torch.nn.init.zeros_(value)
        echo(f"--from {folder}: Eq. 3 in its present form is new to this bundle and starts at zero")
    return bundle


def _check_purpose(
    bundle: Bundle, out: Output, stage1: Stage1Identity | None, cascade: bool, gauge: str
) -> None:
    """Raise unless a finished model is of the basis, stage 1, gauge and purpose of a new one.

    Args:
        bundle: the finished one.
        out: what the new one predicts.
        stage1: its stage 1, None where it reads none.
        cascade: whether it predicts the correction.
        gauge: of its labels.

    Raises:
        ConfigError: says what differs.
    """
    compared: list[tuple[str, Any, Any]] = [
        ("other elements, shells or blocks", bundle.targets, out.targets),
        (
            "another stage 1",
            bundle.stage1.fingerprint if bundle.stage1 else None,
            stage1.fingerprint if stage1 else None,
        ),
        ("another energy zero (data.gauge)", bundle.gauge, gauge),
        ("another purpose (cascade)", bundle.cascade, cascade),
    ]
    for what, theirs, mine in compared:
        if theirs != mine:
            shown = "" if what.startswith("other") else f" ({theirs}, here {mine})"
            key = what.partition("(")[2].rstrip(")")
            other = f", or set {key}={str(theirs).lower()}" if key else ""
            raise ConfigError(
                f"--from {bundle.path}: has {what}{shown}; start from random weights{other}"
            )
