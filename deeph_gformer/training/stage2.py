"""``deeph-gformer train``: a GFormer on a frozen stage 1."""

from __future__ import annotations

import dataclasses
import math
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback

from .. import __version__
from ..algebra.blocks import DirectSumToProduct
from ..algebra.orbitals import TargetBlocks, make_target_blocks
from ..algebra.wigner import Generation
from ..analysis.basis import write_basis_table
from ..analysis.guard import guard_statistics
from ..analysis.metrics import gauge_errors, means
from ..config import DataConfig, GFormerConfig, TrainConfig, to_mapping
from ..data.dataset import (
    Sample,
    basis_of,
    hermitian_product,
    load_samples,
    make_splits,
    read_splits,
    transpose_index,
)
from ..errors import ConfigError, DataError, GFormerError
from ..fields import OVERLAP_TABLE
from ..gformer.bundle import Bundle, Stage1Identity, load_bundle, save_bundle
from ..gformer.model import GFormer
from ..io.folder import matrix_path, read_folder, read_matrix
from ..io.periodicity import coupling
from ..pipeline import HamiltonianModel
from ..prediction.identity import identify
from ..prediction.run import hermitian_products
from ..stage1.provider import Stage1Provider
from ..stopping import shielded
from .batches import FeatureCache, feature_bytes, joiner
from .electrons import count_electrons
from .folder import locked
from .gauge import choose_gauge
from .module import Stage2Task, masked_loss
from .run import (
    SPLIT_FILE,
    check_run,
    first_rank,
    fit,
    loaders,
    memory_hint,
    note,
    own_device,
    recorded,
    say,
)

__all__ = ["train_gformer", "run_splits", "split_folders", "Output"]


def split_folders(data: DataConfig, seed: int) -> dict[str, list[pathlib.Path]]:
    """Folders of train, val and test as the configuration says."""
    if data.splits:
        return read_splits(data.splits, data.preprocessed)
    return make_splits(data.preprocessed, data.train_ratio, data.val_ratio, seed)


def run_splits(config: Any, resume: bool) -> dict[str, list[pathlib.Path]]:
    """Folders of train, val and test of a run; a resumed one keeps its own.

    Args:
        config: of a training.
        resume: go on with the run in ``config.output``.

    Raises:
        DataError: the data of a resumed run are no longer where they were.
    """
    data, folder = config.data, pathlib.Path(config.output)
    own = folder / SPLIT_FILE
    if not resume or not own.is_file():
        return split_folders(data, config.training.seed)
    try:
        if data.splits and pathlib.Path(data.splits).is_file():
            return split_folders(data, config.training.seed)
        return read_splits(own, data.preprocessed)
    except GFormerError as error:
        raise DataError(
            f"{folder}: the data of this run have moved or changed ({error}); say where they are "
            "with --preprocessed DIR"
        ) from None


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
    def of_data(
        cls,
        folders: Sequence[pathlib.Path],
        dtype: torch.dtype = torch.float32,
        cutoff: float = 7.2,
    ) -> Output:
        """Every block of the elements and shells in these structures.

        Raises:
            DataError: structures are of different basis.
        """
        return cls(make_target_blocks(basis_of(folders)), ">=0.5", True, dtype, cutoff)


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
    model, unit = _new_model(
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
        **_record(config, splits, samples["train"], reference, parameters),
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


class SaveBundle(Callback):
    """Writes the bundle whenever validation has a new best: a run that is stopped leaves one."""

    def __init__(self, bundle: Bundle, table: Callable[[pathlib.Path], None]) -> None:
        """
        Args:
            bundle: what is written; its model is the one in training.
            table: writes the overlap table to a path.
        """
        self.bundle, self.table, self.best = bundle, table, float("inf")

    def state_dict(self) -> dict[str, Any]:
        """Kept in checkpoints."""
        return {"best": self.best}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """From a checkpoint."""
        self.best = state["best"]

    def on_validation_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Save when better; runs while averaged weights are still in place."""
        value = float(trainer.callback_metrics["val_mae_meV"])
        if not math.isfinite(value) or value >= self.best:
            return
        self.best = value
        path = self.bundle.path
        if not trainer.is_global_zero or path is None:
            return
        training = {
            **self.bundle.training,
            "epochs": trainer.current_epoch + 1,
            "best_val_mae_meV": value,
            "finished": False,
        }
        with shielded():
            if not (path / OVERLAP_TABLE).is_file():
                self.table(path / OVERLAP_TABLE)
            save_bundle(path, dataclasses.replace(self.bundle, training=training))


def _new_model(
    config: GFormerConfig,
    out: Output,
    stage1: Stage1Provider | None,
    cascade: bool,
    samples: Sequence[Sample],
    cache: FeatureCache,
    to_product: DirectSumToProduct,
) -> tuple[GFormer, float]:
    """An untrained GFormer whose scales fit the training set, and the unit of its loss: the rms of what it has to learn, eV."""
    irreps = ((), ()) if stage1 is None else (stage1.node_irreps, stage1.edge_irreps)
    model = GFormer(
        config, len(out.targets.basis.elements), out.targets.irreps(out.parity), *irreps, out.cutoff
    )
    entries = [cache.get(s) for s in samples]
    residuals = [
        to_product.inverse(s.label) - (e[1] if cascade else 0)
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
) -> None:
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

    Raises:
        ConfigError: the bundle is of another basis, stage 1, gauge or purpose, or of another size.
        ModelError: it cannot be read.
    """
    bundle = load_bundle(folder)
    for what, theirs, mine in (
        ("elements, shells or blocks", bundle.targets, out.targets),
        (
            "stage 1",
            bundle.stage1.fingerprint if bundle.stage1 else None,
            stage1.fingerprint if stage1 else None,
        ),
        ("energy zero (data.gauge)", bundle.gauge, gauge),
        ("purpose (cascade)", bundle.cascade, cascade),
    ):
        if theirs != mine:
            shown = "" if what.startswith("elements") else f" ({theirs}, here {mine})"
            raise ConfigError(f"--from {folder}: another {what}{shown}; start from random weights")
    theirs, mine = bundle.model.state_dict(), model.state_dict()
    fresh = [name for name in mine if name not in theirs]
    other = [n for n in mine if n in theirs and theirs[n].shape != mine[n].shape]
    strange = [name for name in (*fresh, *other) if not name.startswith("invariant.")]
    if strange:
        raise ConfigError(
            f"--from {folder}: another network, {strange[0]} differs; use the same settings of "
            f"model"
        )
    known = {n: v for n, v in theirs.items() if n in mine and n not in other}
    for name in known:  # nothing is amplified more than a training from the start would do
        if name == "own_factor" or (name.endswith(".factor") and "_scale." in name):
            known[name] = torch.minimum(theirs[name], mine[name].to(theirs[name]))
    known["envelope.range"] = (
        torch.maximum(theirs["envelope.range"], mine["envelope.range"])
        if bundle.format >= 3
        else mine["envelope.range"]
    )
    model.load_state_dict({**mine, **known})
    if model.invariant is not None and (fresh or other):
        last = model.invariant.fc[-1]
        torch.nn.init.zeros_(last.weight)
        torch.nn.init.zeros_(last.bias)
        say(f"--from {folder}: Eq. 3 in its present form is new to this bundle and starts at zero")


def _record(
    config: TrainConfig,
    splits: dict[str, list[pathlib.Path]],
    train: Sequence[Sample],
    reference: float | None,
    parameters: int,
) -> dict[str, Any]:
    """What a bundle remembers of its training; names of folders, no paths."""
    settings = {
        k: v for k, v in to_mapping(config).items() if k not in ("output", "stage1", "start")
    }
    settings["data"].update(
        preprocessed=pathlib.Path(config.data.preprocessed).name,
        splits=pathlib.Path(config.data.splits).name,
    )
    return {
        "data": pathlib.Path(config.data.preprocessed).name,
        "structures": {n: len(f) for n, f in splits.items()},
        "training_edges": sum(s.graph.edges for s in train),
        "stage1_val_mae_meV": reference,
        "parameters": parameters,
        "config": settings,
        "deeph_gformer": __version__,
    }


def validation_errors(model: HamiltonianModel, samples: Sequence[Sample]) -> dict[str, float]:
    """Errors of the finished model, without μS and raw.

    Args:
        model: both stages.
        samples: validation structures.

    Returns:
        See :func:`deeph_gformer.analysis.metrics.means`.
    """
    kinds, spinful = [], model.targets.basis.spinful
    fill = getattr(model.stage1, "fill_missing", None)
    for sample in samples:
        structure = read_folder(sample.folder)
        types, keys = sample.graph.node_type.numpy(), sample.graph.edge_key.numpy()
        first, both = (
            model.blocks.to_matrix(h.cpu().numpy(), types, keys, np.nan if fill is None else fill)
            for h in hermitian_products(model, sample.graph)
        )
        there = matrix_path(sample.folder, "overlap").is_file()
        kinds.append(
            gauge_errors(
                sample.name,
                read_matrix(sample.folder, "hamiltonian", structure, spinful),
                first,
                both,
                read_matrix(sample.folder, "overlap", structure) if there else None,
                model.targets,
                types,
            )
        )
    return means(kinds)


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
