"""``deeph-gformer train``: a GFormer on a frozen stage 1."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

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
from ..data.edges import EdgeMode
from ..fields import OVERLAP_TABLE
from ..gformer.bundle import Bundle, save_bundle
from ..gformer.model import GFormer
from ..io.folder import matrix_path, read_matrix
from ..io.periodicity import coupling
from ..pipeline import HamiltonianModel, identify
from ..stage1.provider import Stage1Provider
from .batches import FeatureCache, feature_bytes, joiner
from .electrons import count_electrons
from .gauge import choose_gauge
from .module import Stage2Task, masked_loss
from .run import check_run, first_rank, fit, loaders, memory_hint, note, own_device, recorded, say

__all__ = ["train_gformer", "split_folders", "Output"]


def split_folders(data: DataConfig, seed: int) -> dict[str, list[pathlib.Path]]:
    """Folders of train, val and test as the configuration says."""
    if data.splits:
        return read_splits(data.splits, data.preprocessed)
    return make_splits(data.preprocessed, data.train_ratio, data.val_ratio, seed)


class Output(NamedTuple):
    """What a GFormer predicts: that of its stage 1, or said by whoever trains one alone.

    Attributes:
        targets: elements, shells, channels. generation: e3nn generation. parity: of the output irreps. dtype: real type. cutoff: last Gaussian, Å.
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
        config: everything. stage1: frozen; None trains a GFormer that stands alone and predicts all of H.
        resume: go on with the run in ``config.output``.
        features: let stage 2 read stage 1's irreps. every: epochs between printed lines. extra: recorded in the bundle.
        output: what a GFormer without stage 1 predicts; None: every block of the data.

    Returns:
        The trained model, and a record of plain values. In data-parallel training only the first rank writes the bundle.

    Raises:
        ConfigError, DataError, ModelError: see the readers; also where the run folder holds another run, and without memory (says what to lower).
    """
    settings = config.training
    torch.manual_seed(settings.seed)
    np.random.seed(settings.seed)
    splits = split_folders(config.data, settings.seed)
    folder = check_run(config, splits, resume)
    cascade = config.cascade and stage1 is not None
    if stage1 is None:
        features = False
        out = output or Output.of_data([*splits["train"], *splits["val"]])
    else:
        out, features = Output.of(stage1), features and bool(stage1.node_irreps)
        if features and config.model.groups not in (GFormerConfig.groups, len(stage1.node_irreps)):
            note(
                f"model.groups = {config.model.groups} is not used: a GFormer with stage-1 features has as many as stage 1, {len(stage1.node_irreps)}"
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
        f"stage-1 features need {feature_bytes(everything, stage1) / 2**20:.0f} MiB ({config.data.cache})"
        if stage1 is not None
        else "no stage 1"
    )
    say(
        f"{len(samples['train'])} training and {len(samples['val'])} validation structures, {sum(s.graph.edges for s in everything):,} edges; {needs}"
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
    with recorded(folder, config, splits):
        result = fit(
            task, train, val, folder, settings, resume=resume, reference=reference, every=every
        )
    record = {
        **_record(config, splits, samples["train"], reference, parameters),
        **result,
        **choice.to_json(),
        **(extra or {}),
    }
    used = stage1 if features or cascade else None
    bundle = Bundle(
        model.eval().requires_grad_(False),
        out.targets,
        identify(used) if used is not None else None,
        out.generation,
        cascade,
        out.parity,
        out.dtype,
        choice.gauge,
        features,
        record,
        folder / "bundle",
    )
    both = HamiltonianModel(used, bundle, own_device(settings))
    if not first_rank():
        return both, record
    record["validation"] = validation_errors(both, splits["val"], config.data.edges)
    record["guard"] = guard_statistics(
        both, *([s.graph for s in samples[name]] for name in ("train", "val"))
    )
    record["electrons"] = count_electrons(splits["train"])
    record["periodicity"] = sorted(
        {coupling(s.graph.edge_key.numpy(), s.graph.nodes).rank for s in samples["train"]}
    )
    write_basis_table(splits["train"], folder / "bundle" / OVERLAP_TABLE)
    save_bundle(folder / "bundle", bundle)
    return both, record


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
        to_product.inverse(s.label) - (e[1] if cascade else 0) for s, e in zip(samples, entries)
    ]
    model.fit_scales(
        [s.graph for s in samples],
        [e[0] for e in entries if e[0] is not None],
        residuals,
    )
    squares = [
        masked_loss(to_product(r), s.mask, "mse", 1.0).item() for r, s in zip(residuals, samples)
    ]
    return model.to(out.dtype), max(float(np.sqrt(np.mean(squares))), 1e-9)


def _record(
    config: TrainConfig,
    splits: dict[str, list[pathlib.Path]],
    train: Sequence[Sample],
    reference: float | None,
    parameters: int,
) -> dict[str, Any]:
    """What a bundle remembers of its training; names of folders, no paths."""
    settings = {k: v for k, v in to_mapping(config).items() if k not in ("output", "stage1")}
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


def validation_errors(
    model: HamiltonianModel, folders: Sequence[pathlib.Path], edges: EdgeMode
) -> dict[str, float]:
    """Errors of the finished model, without μS and raw.

    Args:
        model: both stages.
        folders: validation structures.
        edges: see :func:`deeph_gformer.data.edges.select_edges`.

    Returns:
        See :func:`deeph_gformer.analysis.metrics.means`.
    """
    kinds, spinful = [], model.targets.basis.spinful
    for folder in folders:
        prediction = model.predict(folder, edges)
        there = matrix_path(folder, "overlap").is_file()
        kinds.append(
            gauge_errors(
                folder.name,
                read_matrix(folder, "hamiltonian", prediction.structure, spinful),
                prediction.stage1,
                prediction.hamiltonian,
                read_matrix(folder, "overlap", prediction.structure) if there else None,
                model.targets,
                prediction.graph.node_type.numpy(),
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
