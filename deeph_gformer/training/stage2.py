"""``deeph-gformer train``: a GFormer on a frozen stage 1."""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from ..algebra.blocks import DirectSumToProduct
from ..analysis.metrics import headline
from ..config import GFormerConfig, TrainConfig
from ..data.dataset import has_time_reversal, left_out
from ..data.edges import learned_edges
from ..data.sketch import sketch_samples
from ..errors import ConfigError
from ..gformer.bundle import Bundle, Stage1Identity
from ..gformer.model import GFormer
from ..io.gauge import Gauge
from ..pipeline import HamiltonianModel
from ..prediction.identity import identify
from ..stage1.provider import Stage1Provider
from .batches import FeatureCache, feature_bytes, joiner
from .before import stage1_errors, warn_if_worse
from .folder import check_run, locked, recorded, this_run
from .folds import CrossFitCache, read_cross_fit
from .gauge import choose_gauge
from .module import Stage2Task
from .overlap_table import write_basis_table
from .process import echo, first_rank, memory_hint, note, own_device, warn
from .run import fit, loaders
from .samples import TrainingSamples, count_samples, learned_from, own_images, training_samples
from .seen import recognise, trained_on
from .splits import run_splits
from .stage2_bundle import SaveBundle, finish, record_of, structures_of, validation_errors
from .stage2_network import Output, new_model, start_from
from .state_bank import state_bank

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
    folder = pathlib.Path(config.output)
    with locked(folder, first_rank(), functools.partial(check_run, config, splits, resume)):
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
    settings, everything = config.training, [*splits["train"], *splits["val"]]
    role = _role(config, stage1, features, output, everything)
    out = role.output
    choice = choose_gauge(
        config.data.gauge,
        splits["train"],
        stage1,
        correction=role.cascade,
        device=own_device(settings),
    )
    echo(str(choice))
    samples, edges = training_samples(
        config.data, splits, out.targets, out.dtype, choice.gauge, settings.seed
    )
    echo(_sizes(samples, stage1, config.data.cache))
    if rest := left_out([*samples["train"], *samples["val"]]):
        echo(rest)
    if images := own_images(samples):
        echo(images)
    cache = _cache(config, role.used, role.features, splits["train"], folder / "cache")
    to_product = DirectSumToProduct(out.targets, out.generation, out.dtype)
    reads = role.used if role.features else None
    model, unit = new_model(
        config.model, out, reads, role.cascade, samples["train"], cache, to_product
    )
    identity = None if role.used is None else identify(role.used)
    start = (
        start_from(config.start, model, out, identity, role.cascade, choice.gauge)
        if config.start
        else None
    )
    errors, weights = _first_errors(config, cache, samples, to_product, role.cascade)
    train, val = loaders(learned_from(samples), samples["val"], joiner(cache), settings, weights)
    first = role.used if role.cascade and role.used and not role.used.equivariant else None
    steps = settings.epochs * len(train)
    task = Stage2Task(model, to_product, settings, steps, unit, cascade=role.cascade, first=first)
    model.again = settings.checkpoint_activations
    task.time_reversal = has_time_reversal(samples["train"])
    disk = folder / "cache" if config.data.cache == "disk" else None
    task.bank = state_bank(samples, out.targets, settings, unit, disk, echo)
    data = sketch_samples(samples, None if task.bank is None else task.bank.read)
    parameters = sum(p.numel() for p in model.parameters())
    echo(f"GFormer arch {config.model.arch}, {parameters:,} parameters{_before(errors)}")
    if start is not None and first_rank():
        finished = HamiltonianModel(role.used, start, own_device(settings))
        errors["start_validation"] = found = validation_errors(finished, samples["val"])
        echo(f"--from {config.start}: on validation {headline(found, role.used is None)}")
    known = record_of(config, splits, samples["train"], parameters)
    known |= {**errors, **choice.to_json(), "edges": learned_edges(edges), **(extra or {})}
    bundle = role.bundle(model, identity, choice.gauge, known, folder / "bundle")
    with recorded(folder, config, splits):
        if first_rank():
            earlier = None if start is None else start.training
            known.update(structures_of(samples["train"]), **trained_on(splits, earlier))
        save = SaveBundle(bundle, lambda path: write_basis_table(everything, path))
        reference = errors.get("stage1_val_mae_meV")
        result = fit(
            task,
            train,
            val,
            folder,
            settings,
            this_run(config, splits, cache.record(), data),
            resume=resume,
            reference=reference,
            every=every,
            callbacks=[save],
        )
    record = {**known, **result}
    bundle = dataclasses.replace(bundle, model=model.eval().requires_grad_(False), training=record)
    both = HamiltonianModel(role.used, bundle, own_device(settings))
    if first_rank():
        finish(folder / "bundle", bundle, both, splits, samples)
        if start is not None:
            warn_if_worse(record["start_validation"], record["validation"])
    return both, record


class _Role(NamedTuple):
    """What a GFormer learns, and what it takes from stage 1.

    Attributes:
        output: what it predicts.
        cascade: it learns the correction to stage 1's H; otherwise all of H.
        features: it reads stage 1's irreps.
        used: stage 1, where either is so.
    """

    output: Output
    cascade: bool
    features: bool
    used: Stage1Provider | None

    def bundle(
        self,
        model: GFormer,
        stage1: Stage1Identity | None,
        gauge: Gauge,
        training: dict[str, Any],
        path: pathlib.Path,
    ) -> Bundle:
        """What is written to ``path``.

        Args:
            model: the network in training.
            stage1: name and fingerprint of stage 1.
            gauge: energy zero of the labels.
            training: the record of the training.
            path: folder.
        """
        out = self.output
        return Bundle(
            model,
            out.targets,
            stage1,
            out.generation,
            self.cascade,
            out.parity,
            out.dtype,
            gauge,
            self.features,
            training,
            path,
        )


def _role(
    config: TrainConfig,
    stage1: Stage1Provider | None,
    features: bool,
    output: Output | None,
    folders: Sequence[pathlib.Path],
) -> _Role:
    """What is asked, as far as stage 1 allows it.

    Args:
        config: everything.
        stage1: frozen, None: alone.
        features: read stage 1's irreps, where it has some.
        output: for a GFormer alone; None: every block of the data.
        folders: all structures.
    """
    cascade = config.cascade and stage1 is not None
    features = features and stage1 is not None and bool(stage1.node_irreps)
    if stage1 is not None:
        output = Output.of(stage1)
    elif output is None:
        output = Output.of_data(folders)
    if features and stage1 is not None:
        groups = len(stage1.node_irreps)
        if config.model.groups not in (GFormerConfig.groups, groups):
            note(
                f"model.groups = {config.model.groups} is not used: a GFormer with stage-1 "
                f"features has as many as stage 1, {groups}"
            )
    return _Role(output, cascade, features, stage1 if features or cascade else None)


def _before(errors: Mapping[str, Any]) -> str:
    """Stage 1's errors, as the line at the start says them; empty where there is none."""
    if errors.get("stage1_val_mae_meV") is None:
        return ""
    varied = errors.get("stage1_varied_mae_meV")
    return (
        f"; stage 1 on validation {errors['stage1_val_mae_meV']:.4f} meV, on the training "
        f"structures {errors['stage1_train_mae_meV']:.4f} meV"
        + (f", with other edges {varied:.4f} meV" if varied is not None else "")
    )


def _sizes(samples: TrainingSamples, stage1: Stage1Provider | None, kept: str) -> str:
    """One line on the data of a training."""
    everything = [*learned_from(samples), *samples["val"]]
    needs = "no stage 1"
    if stage1 is not None:
        size = feature_bytes(everything, stage1) / 2**20
        needs = f"stage-1 features need {size:.0f} MiB ({kept})"
    return f"{count_samples(samples)}, {sum(s.graph.edges for s in everything):,} edges; {needs}"


def _cache(
    config: TrainConfig,
    stage1: Stage1Provider | None,
    features: bool,
    train: Sequence[pathlib.Path],
    folder: pathlib.Path,
) -> FeatureCache:
    """What gives stage 1 of every structure: of networks that did not see it, where it is asked.

    Args:
        config: ``cross_fit`` and ``data.cache``.
        stage1: what the GFormer reads or corrects; None: nothing.
        features: whether it reads irreps.
        train: folders of the training structures.
        folder: for features on disk.

    Raises:
        ConfigError, ModelError: see :func:`.folds.read_cross_fit`.
    """
    device = own_device(config.training)
    if not config.cross_fit:
        return FeatureCache(stage1, config.data.cache, folder, features, device)
    if stage1 is None:
        raise ConfigError(
            "cross_fit needs a stage 1 that is read or corrected; name it with --stage1, or leave "
            "cross_fit away"
        )
    fold = read_cross_fit(pathlib.Path(config.cross_fit), stage1)
    networks = dict(zip(train, fold.choose(train), strict=True))
    return CrossFitCache(
        stage1,
        config.data.cache,
        folder,
        features,
        device,
        fold.networks,
        networks,
        config.cross_features,
    )


def _first_errors(
    config: TrainConfig,
    cache: FeatureCache,
    samples: TrainingSamples,
    to_product: DirectSumToProduct,
    cascade: bool,
) -> tuple[dict[str, Any], list[float] | None]:
    """Errors of stage 1, and what follows where it has seen training structures; says both.

    Args:
        config: of the training.
        cache: stage 1 of each structure.
        samples: the structures.
        to_product: DStoDP.
        cascade: the GFormer learns the correction to stage 1's H.

    Returns:
        Entries of the record, and the share of epochs of each training sample, those with other
        edges included (None: all).
    """
    if cache.stage1 is None:
        return {"stage1_val_mae_meV": None}, None
    hermitian = config.training.hermitian
    own, other = (
        stage1_errors(samples[name], cache, to_product, hermitian) for name in ("train", "val")
    )
    record: dict[str, Any] = {
        "stage1_val_mae_meV": float(np.mean(other)),
        "stage1_train_mae_meV": float(np.mean(own)),
    }
    if varied := samples["varied"]:
        error = float(np.mean(stage1_errors(varied, cache, to_product, hermitian)))
        record["stage1_varied_mae_meV"] = error
    if isinstance(cache, CrossFitCache):
        echo(cache.describe(own, other))
        return {**record, "cross_fit": len(cache.networks)}, None
    seen = recognise(
        cache.stage1,
        [s.folder for s in samples["train"]],
        [s.folder for s in samples["val"]],
        (own, other),
        config.data.memorised if cascade else "use",
        bool(varied),
    )
    if seen.warning:
        warn(seen.text)
    elif seen.text:
        echo(seen.text)
    share = dict(zip((s.folder for s in samples["train"]), seen.weights.tolist(), strict=True))
    return {**record, **seen.to_json()}, [share[s.folder] for s in learned_from(samples)]
