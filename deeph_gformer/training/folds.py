"""Fold networks: copies of stage 1 that each did not see a part of the training structures.

``train-stage1 --folds K`` makes them beside the final network, ``train --cross-fit`` takes from
them what stage 1 leaves on structures that it does not know (out-of-fold predictions, as in
stacked generalisation: Wolpert, Neural Networks 5, 241 (1992)).
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch

from ..config import TrainStage1Config
from ..data.dataset import Sample
from ..data.equality import StructureDescriptor, match_descriptors
from ..data.features import Stage1Features
from ..data.sketch import sketch_samples
from ..errors import ConfigError, ModelError
from ..fields import MODEL_NOTES
from ..io.files import read_json, write_json
from ..stage1 import load_stage1
from ..stage1.bundle import read_model_folder, read_notes
from ..stage1.provider import Stage1Provider
from ..stage1.trained_on import descriptors_of, read_descriptors
from ..stopping import Stopped
from .batches import FeatureCache
from .checkpoint import LAST, RUN, read_checkpoint, require_same_data
from .folder import CHECKPOINTS, FREE, RECORD_FILE, check_run, locked
from .process import echo, first_rank
from .samples import training_samples
from .splits import run_splits
from .stage1 import train_stage1
from .stage1_network import stage1_config

__all__ = ["CrossFit", "CrossFitCache", "FOLDS_FILE", "fold_parts", "read_cross_fit", "train_folds"]

#: Beside the run folder's ``model``: which structure was left out of which network.
FOLDS_FILE = "folds.json"
FOLDS = "folds"


def fold_parts(count: int, folds: int, seed: int) -> list[list[int]]:
    """Which structures each network leaves out; every one is left out once.

    Args:
        count: number of training structures.
        folds: number of networks.
        seed: of the random order.

    Raises:
        ConfigError: not every network could leave out one and keep one.
    """
    if not 2 <= folds <= count:
        raise ConfigError(
            f"folds is {folds}, but there are {count} training structures: each network leaves "
            f"out a part of them, so between 2 and {count} are possible"
        )
    order = np.random.default_rng((seed, 2)).permutation(count)
    return [sorted(order[k::folds].tolist()) for k in range(folds)]


def train_folds(
    config: TrainStage1Config,
    *,
    resume: bool = False,
    continue_from: str | None = None,
    every: int = 1,
) -> dict[str, Any]:
    """Train the final network on all training structures, then ``config.folds`` fold networks.

    Each is a run of its own: ``<output>``, ``<output>/folds/0`` ... A finished one is recognised by
    its record, one that was stopped goes on.

    Args:
        config: of all networks; with ``config.final`` the final one is there already.
        resume: go on in ``config.output``; a finished final network gets (further) folds.
        continue_from: model folder that the final network starts from.
        every: epochs between printed lines.

    Returns:
        The record of the final network (without one that of the first fold network), and
        ``folds``: records of the fold networks.

    Raises:
        ConfigError, DataError, ModelError: see :func:`.stage1.train_stage1`; too many folds.
    """
    out = pathlib.Path(config.output)
    splits = run_splits(config, resume)
    parts = fold_parts(len(splits["train"]), config.folds, config.training.seed)
    final = pathlib.Path(config.final) if config.final else out / "model"
    records = []
    with locked(out / FOLDS, first_rank()):
        try:
            first = {}
            if not config.final:
                first = _run(config, resume, splits, every, continue_from)
            for k, part in enumerate(parts):
                kept = [f for n, f in enumerate(splits["train"]) if n not in part]
                echo(f"network {k + 1} of {len(parts)}, without {len(part)} structures")
                own, start = _fold_config(config, k, final)
                records.append(_run(own, resume, {**splits, "train": kept}, every, start))
        except Stopped as stop:
            stop.note = f"; what is finished is kept, go on with --resume --output {out}"
            raise
    if first_rank():
        write_json(out / FOLDS_FILE, _description(out, final, parts, splits["train"]))
    return {**(first or records[0]), "folds": records}


def _fold_config(
    config: TrainStage1Config, number: int, final: pathlib.Path
) -> tuple[TrainStage1Config, str | None]:
    """Settings of a fold network, and the model folder that it starts from.

    Args:
        config: of all networks.
        number: of the fold network.
        final: model folder of the final network, whose kind the fold networks are.
    """
    old = read_model_folder(final)
    dtype: Literal["float32", "float64"] = "float64" if old.dtype == torch.float64 else "float32"
    gauge = config.data.gauge if old.gauge == "unknown" else old.gauge
    own = dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, gauge=gauge),
        output=str(pathlib.Path(config.output) / FOLDS / str(number)),
        folds=0,
        final="",
        dtype=dtype,
    )
    if config.folds_start == "final":
        return own, str(final)
    model = stage1_config(old.config)
    blocks = {
        name: getattr(config.model, name)
        for name in ("target_blocks_type", "selected_element_pairs", "target_blocks")
    }
    return dataclasses.replace(own, model=dataclasses.replace(model, **blocks)), None


def _run(
    config: TrainStage1Config,
    resume: bool,
    splits: dict[str, list[pathlib.Path]],
    every: int,
    continue_from: str | None,
) -> dict[str, Any]:
    """One network: finished, gone on with, or trained.

    Args:
        config: of this network; ``output`` is its run folder.
        resume: take what is there.
        splits: its structures.
        every: epochs between printed lines.
        continue_from: model folder that it starts from.

    Returns:
        The record of its training.
    """
    folder = pathlib.Path(config.output)
    finished = folder / RECORD_FILE
    if resume and finished.is_file():
        # else folds.json would tell of other parts; how folds start is not of the final network
        check_run(config, splits, True, FREE | ({"folds_start"} if config.folds else set()))
        _require_same_data(folder, config, splits)
        echo(f"{folder}: is finished")
        record: dict[str, Any] = read_json(finished)
        return record
    begun = resume and (folder / CHECKPOINTS / f"{LAST}.ckpt").is_file()
    return train_stage1(
        config, resume=begun, continue_from=continue_from, every=every, splits=splits
    )


def _require_same_data(
    folder: pathlib.Path, config: TrainStage1Config, splits: Mapping[str, list[pathlib.Path]]
) -> None:
    """Raise unless a finished network was trained on the structures as they are now.

    Args:
        folder: of its run.
        config: of its run.
        splits: of its run.

    Raises:
        ConfigError: names what has changed.
    """
    model, last = read_model_folder(folder / "model"), folder / CHECKPOINTS / f"{LAST}.ckpt"
    record = read_checkpoint(last).get(RUN)
    if model.gauge == "unknown" or not first_rank():
        return
    samples, _ = training_samples(
        config.data, splits, model.targets, model.dtype, model.gauge, config.training.seed
    )
    require_same_data(record, sketch_samples(samples), last)


def _description(
    out: pathlib.Path,
    final: pathlib.Path,
    parts: Sequence[Sequence[int]],
    train: Sequence[pathlib.Path],
) -> dict[str, Any]:
    """Content of :data:`FOLDS_FILE`."""
    descriptors = descriptors_of(train)
    return {
        "final": {"name": final.name, "fingerprint": load_stage1(final).fingerprint()},
        "networks": [
            {
                "model": f"{FOLDS}/{k}/model",
                "fingerprint": load_stage1(out / FOLDS / str(k) / "model").fingerprint(),
                "left_out": [descriptors[n].to_json() for n in part],
            }
            for k, part in enumerate(parts)
        ],
    }


@dataclasses.dataclass(frozen=True)
class CrossFit:
    """Networks for structures that the final one has seen.

    Attributes:
        file: the description.
        networks: fold networks.
        left_out: structures that each did not see.
        final_seen: structures that the final network was trained on.
    """

    file: pathlib.Path
    networks: tuple[Stage1Provider, ...]
    left_out: tuple[tuple[StructureDescriptor, ...], ...]
    final_seen: tuple[StructureDescriptor, ...]

    def choose(self, folders: Sequence[pathlib.Path]) -> list[int | None]:
        """Number of the network that did not see each structure; None: the final one did not.

        Args:
            folders: of structures.

        Raises:
            ConfigError: every network has seen a structure; it is named.
        """
        descriptors = descriptors_of(folders)
        choice: list[int | None] = [None] * len(descriptors)
        for k, left in enumerate(self.left_out):
            for n, found in enumerate(match_descriptors(descriptors, left)):
                if found is not None:
                    choice[n] = k
        known = match_descriptors(descriptors, self.final_seen)
        for folder, number, seen in zip(folders, choice, known, strict=True):
            if number is None and seen is not None:
                raise ConfigError(
                    f"{folder}: stage 1 was trained on this structure, and no network of "
                    f"{self.file} left it out; train the networks again with 'train-stage1 "
                    "--folds', or take the structure out of the training split"
                )
        return choice


def read_cross_fit(file: pathlib.Path, stage1: Stage1Provider) -> CrossFit:
    """The fold networks that belong to a stage 1.

    Args:
        file: a :data:`FOLDS_FILE`, or the folder of the run that wrote it.
        stage1: the final network.

    Raises:
        ConfigError: there are none, or they are those of another network.
        ModelError: a damaged description, or a network of another basis.
    """
    file = file / FOLDS_FILE if file.is_dir() else file
    if not file.is_file():
        raise ConfigError(
            f"{file}: not there, so there are no networks to cross-fit with; make them with "
            "'deeph-gformer train-stage1 --folds K' (with --resume: for a network that is "
            "trained already), or say where they are with --cross-fit DIR"
        )
    table = read_json(file)
    try:
        final = str(table["final"]["fingerprint"])
        entries = [
            (str(e["model"]), str(e["fingerprint"]), e["left_out"]) for e in table["networks"]
        ]
    except (KeyError, TypeError):
        raise ModelError(f"{file}: damaged; train the networks again") from None
    if final != stage1.fingerprint():
        raise ConfigError(
            f"{file}: its networks belong to another stage 1 than {stage1.name}; name the one "
            f"beside it with --stage1 {file.parent / 'model'}, or make networks for this one"
        )
    networks = []
    for name, fingerprint, _ in entries:
        network = load_stage1(
            file.parent / name, generation=stage1.generation, fill_missing=stage1.fill_missing
        )
        _check_network(network, stage1)
        if network.fingerprint() != fingerprint:
            raise ModelError(
                f"{network.name}: is another network than {file} says; train the networks again"
            )
        networks.append(network)
    left = tuple(tuple(read_descriptors(descriptors, file)) for _, _, descriptors in entries)
    note = read_notes(pathlib.Path(stage1.name)).get("structures", {})
    seen = read_descriptors(note.get("train", []), pathlib.Path(stage1.name) / MODEL_NOTES)
    return CrossFit(file, tuple(networks), left, tuple(seen))


def _check_network(network: Stage1Provider, stage1: Stage1Provider) -> None:
    """A fold network gives what the final one gives.

    Raises:
        ModelError: says what differs.
    """
    for what, theirs, mine in (
        ("another basis or blocks", network.targets, stage1.targets),
        ("another e3nn generation", network.generation, stage1.generation),
        ("another parity", network.parity, stage1.parity),
        ("another floating type", network.dtype, stage1.dtype),
        ("another energy zero", network.gauge, stage1.gauge),
        (
            "other irreps",
            (network.node_irreps, network.edge_irreps),
            (stage1.node_irreps, stage1.edge_irreps),
        ),
    ):
        if theirs != mine and "unknown" not in (theirs, mine):
            raise ModelError(
                f"{network.name}: has {what} than {stage1.name}; both have to come "
                "from one 'train-stage1 --folds'"
            )


class CrossFitCache(FeatureCache):
    """Stage 1 of every sample, by a network that did not see it."""

    def __init__(
        self,
        stage1: Stage1Provider,
        mode: str,
        folder: pathlib.Path | None,
        features: bool,
        device: torch.device,
        networks: Sequence[Stage1Provider],
        choice: Mapping[pathlib.Path, int | None],
        features_of: Literal["fold", "final"],
    ) -> None:
        """
        Args:
            stage1: the final network, for structures that it did not see.
            mode: see :class:`.batches.FeatureCache`.
            folder: for features on disk.
            features: whether irreps are kept.
            device: where networks run.
            networks: fold networks.
            choice: number of the network of each folder; None, or no entry: the final one.
            features_of: whose irreps are given: the fold network's, as its Hamiltonian, or the
                final one's.
        """
        super().__init__(stage1, mode, folder, features, device)
        self.networks = tuple(network.to(device) for network in networks)
        self.choice = {folder.resolve(): number for folder, number in choice.items()}
        self.features_of = features_of

    def networks_of(self, sample: Sample) -> tuple[Stage1Provider, ...]:
        """See :class:`.batches.FeatureCache`."""
        number = self.choice.get(sample.folder.resolve())
        final = super().networks_of(sample)
        if number is None:
            return final
        own = self.networks[number]
        return (own, *final) if self.features and self.features_of == "final" else (own,)

    def record(self) -> dict[str, Any] | None:
        """See :class:`.batches.FeatureCache`; with the network of each training structure."""
        marks = [network.fingerprint() for network in self.networks]
        chosen = {f.name: None if n is None else marks[n] for f, n in self.choice.items()}
        return {**(super().record() or {}), "cross_fit": chosen}

    def run(self, sample: Sample) -> Stage1Features:
        """See :class:`.batches.FeatureCache`."""
        number = self.choice.get(sample.folder.resolve())
        if number is None:
            return super().run(sample)
        graph, network = sample.graph.to(self.device), self.networks[number]
        if self.features and self.features_of == "final":
            own = network(graph, features=False)
            return super().run(sample)._replace(direct_sum=own.direct_sum)
        return network(graph, features=self.features)

    def describe(self, own: Sequence[float], other: Sequence[float]) -> str:
        """One line on what the training learns from.

        Args:
            own: error of stage 1 as it is trained on, per training structure, meV.
            other: error on validation structures, meV.
        """
        count = sum(number is not None for number in self.choice.values())
        return (
            f"cross-fit: {count} of {len(own)} training structures by {len(self.networks)} "
            f"networks that did not see them; their error is {np.mean(own):.4f} meV, that of "
            f"stage 1 on validation {np.mean(other):.4f} meV"
        )
