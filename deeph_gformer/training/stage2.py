"""``deeph-gformer train``: a GFormer on a frozen stage 1."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ..algebra.blocks import DirectSumToProduct
from ..analysis.basis import write_basis_table
from ..analysis.guard import guard_statistics
from ..config import GFormerConfig, TrainConfig
from ..data.dataset import Sample, hermitian_product, load_samples, transpose_index
from ..fields import OVERLAP_TABLE
from ..gformer.bundle import Bundle, save_bundle
from ..io.periodicity import coupling
from ..pipeline import HamiltonianModel
from ..prediction.identity import identify
from ..stage1.provider import Stage1Provider
from ..stopping import shielded
from .batches import FeatureCache, feature_bytes, joiner
from .electrons import count_electrons
from .folder import check_run, locked, recorded
from .gauge import choose_gauge
from .module import Stage2Task, masked_loss
from .process import first_rank, memory_hint, note, own_device, say
from .run import fit, loaders
from .splits import run_splits
from .stage2_bundle import SaveBundle, record_of, validation_errors
from .stage2_network import Output, new_model, start_from
from .states import state_bank

__all__ = ["train_gformer"]


@memory_hint()
def train_gformer(
    config: TrainConfig,
    stage1: Stage1Provider | None,
    *,
    resume: bool = False,
    features: bool = True,
    every: int = 1,
    extra: dict[str, Any] | None = None,
    output: Output | None = None,
) -> tuple[HamiltonianModel, dict[str, Any]]:
    """Train stage 2 and write its bundle to ``<output>/bundle``.

    Args:
        config: everything.
        stage1: frozen; None trains a GFormer that stands alone and predicts all of H.
        resume: go on with the run in ``config.output``.
        features: let stage 2 read stage 1's irreps.
        every: epochs between printed lines.
        extra: recorded in the bundle.
        output: what a GFormer without stage 1 predicts; None: every block of the data.

    Returns:
        The trained model, and a record of plain values. In data-parallel training only the first
        rank writes the bundle.

    Raises:
        ConfigError, DataError, ModelError: see the readers; also where the run folder holds another
        run, and without memory (says what to lower).
    """
    settings = config.training
    torch.manual_seed(settings.seed)
    np.random.seed(settings.seed)
    splits = run_splits(config, resume)
    folder = check_run(config, splits, resume)
    with locked(folder, first_rank()):
        return _train(config, stage1, splits, folder, resume, features, every, extra, output)


def _train(
    config: TrainConfig,
    stage1: Stage1Provider | None,
    splits: dict[str, list[pathlib.Path]],
    folder: pathlib.Path,
    resume: bool,
    features: bool,
    every: int,
    extra: dict[str, Any] | None,
    output: Output | None,
) -> tuple[HamiltonianModel, dict[str, Any]]:
    """:func:`train_gformer` in a folder that is its own."""
    settings = config.training
    cascade = config.cascade and stage1 is not None
    if stage1 is None:
        features = False
        out = output or Output.of_data([*splits["train"], *splits["val"]])
    else:
        out, features = Output.of(stage1), features and bool(stage1.node_irreps)
        if features and config.model.groups not in (GFormerConfig.groups, len(stage1.node_irreps)):
            note(
                f"model.groups = {config.model.groups} is not used: a GFormer with stage-1 "
                f"features has as many as stage 1, {len(stage1.node_irreps)}"
            )
    choice = choose_gauge(
        config.data.gauge,
        splits["train"],
        stage1,
        correction=cascade,
        device=own_device(settings),
    )
    say(str(choice))
    samples = {
        name: load_samples(splits[name], out.targets, config.data.edges, out.dtype, choice.gauge)
        for name in ("train", "val")
    }
    everything = [*samples["train"], *samples["val"]]
    needs = (
        f"stage-1 features need {feature_bytes(everything, stage1) / 2**20:.0f} MiB "
        f"({config.data.cache})"
        if stage1 is not None
        else "no stage 1"
    )
    say(
        f"{len(samples['train'])} training and {len(samples['val'])} validation structures, "
        f"{sum(s.graph.edges for s in everything):,} edges; {needs}"
    )
    cache = FeatureCache(
        stage1 if cascade or features else None,
        config.data.cache,
        folder / "cache",
        features,
        own_device(settings),
    )
    to_product = DirectSumToProduct(out.targets, out.generation, out.dtype)
    model, unit = new_model(
        config.model,
        out,
        stage1 if features else None,
        cascade,
        samples["train"],
        cache,
        to_product,
    )
    if config.start:
        used_identity = identify(stage1) if stage1 is not None and (features or cascade) else None
        start_from(config.start, model, out, used_identity, cascade, choice.gauge)
    train, val = loaders(samples["train"], samples["val"], joiner(cache), settings)
    task = Stage2Task(
        model,
        to_product,
        settings,
        settings.epochs * len(train),
        unit,
        cascade=cascade,
        first=stage1 if cascade and stage1 is not None and not stage1.equivariant else None,
    )
    disk = folder / "cache" if config.data.cache == "disk" else None
    task.bank = state_bank(samples, out.targets, settings, unit, disk, say)
    reference, before = None, ""
    if cache.stage1 is not None:
        fitted, reference = (
            stage1_error(samples[name], cache, to_product, settings.hermitian)
            for name in ("train", "val")
        )
        before = f"; stage 1 on validation {reference:.4f} meV, on the training structures {fitted:.4f} meV"
    parameters = sum(p.numel() for p in model.parameters())
    say(f"GFormer arch {config.model.arch}, {parameters:,} parameters{before}")
    used = stage1 if features or cascade else None
    known = {
        **record_of(config, splits, samples["train"], reference, parameters),
        **choice.to_json(),
        **(extra or {}),
    }
    bundle = Bundle(
        model,
        out.targets,
        identify(used) if used is not None else None,
        out.generation,
        cascade,
        out.parity,
        out.dtype,
        choice.gauge,
        features,
        known,
        folder / "bundle",
    )
    with recorded(folder, config, splits):
        if first_rank():
            known["electrons"] = count_electrons(splits["train"])
            known["periodicity"] = sorted(
                {coupling(s.graph.edge_key.numpy(), s.graph.nodes).rank for s in samples["train"]}
            )
        save = SaveBundle(
            bundle, lambda path: write_basis_table([*splits["train"], *splits["val"]], path)
        )
        result = fit(
            task,
            train,
            val,
            folder,
            settings,
            resume=resume,
            reference=reference,
            every=every,
            callbacks=[save],
        )
    record = {**known, **result}
    bundle = dataclasses.replace(bundle, model=model.eval().requires_grad_(False), training=record)
    both = HamiltonianModel(used, bundle, own_device(settings))
    if not first_rank():
        return both, record
    record["validation"] = validation_errors(both, samples["val"])
    record["guard"] = guard_statistics(
        both, *([s.graph for s in samples[name]] for name in ("train", "val"))
    )
    with shielded():
        write_basis_table([*splits["train"], *splits["val"]], folder / "bundle" / OVERLAP_TABLE)
        save_bundle(folder / "bundle", bundle)
    return both, record


def stage1_error(
    samples: Sequence[Sample], cache: FeatureCache, to_product: DirectSumToProduct, hermitian: bool
) -> float:
    """MAE of stage 1 alone, mean over structures, meV."""
    transpose = transpose_index(to_product.targets)
    values = []
    for sample in samples:
        error = to_product(cache.get(sample)[1]) - sample.label
        if hermitian:
            error = hermitian_product(error, sample.partner, transpose)
        values.append(masked_loss(error, sample.mask, "mae", 1e-3).item())
    return float(np.mean(values))
