"""``train`` and ``train-stage1``."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

from ..errors import ConfigError
from ..results import FoldTraining, Stage1Training, Training
from .options import Verb, option
from .settings import RunOptions, list_settings, read_settings, run_folder
from .shared import JsonOption, Stage1Options
from .single import DEVICES, every_option

__all__ = ["VERBS"]

#: What helps a GFormer that is worse than its stage 1.
MORE = (
    "Train for more epochs (--resume --epochs N), on more structures, or, where stage 1 has seen "
    "them all, with other edges of these (data.edge_variants=2)"
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _TrainingOptions(RunOptions, JsonOption):
    """What both training commands have."""

    epochs: int | None = option(
        type=int, metavar="N", key="training.epochs", help="passes over the training set, at most"
    )
    device: str | None = option(metavar="NAME", key="training.device", help=DEVICES)
    every: int = every_option(1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainOptions(_TrainingOptions, Stage1Options):
    """Of ``train``."""

    stage1: str | None = option(
        metavar="MODEL_DIR", key="stage1", help="DeepH-E3 model folder (best_model.pkl and src)"
    )
    output: str | None = run_folder("runs/gformer")
    start: str | None = option(
        "--from",
        metavar="BUNDLE",
        key="start",
        help="start from a finished GFormer instead of random weights, with its settings of model",
    )
    cross_fit: str | None = option(
        nargs="?",
        const="",
        metavar="DIR",
        key="cross_fit",
        help="learn what networks leave that were trained without the structure in question: those "
        "of 'train-stage1 --folds', beside the model folder or in DIR",
    )
    resume: bool = option(default=False, help="go on with the run in --output")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainStage1Options(_TrainingOptions):
    """Of ``train-stage1``."""

    output: str | None = run_folder("runs/stage1")
    resume: str | None = option(
        nargs="?",
        const="",
        metavar="MODEL_DIR",
        help="go on with the run in --output; or, with a DeepH-E3 model folder, start from its "
        "weights and optimizer state",
    )
    folds: int | None = option(
        type=int,
        metavar="K",
        key="folds",
        help="also train K networks, each without one K-th of the training structures; see "
        "'train --cross-fit'",
    )
    final: str | None = option(
        metavar="MODEL_DIR",
        key="final",
        help="with --folds: only those K networks, for this finished model",
    )


def _run_train(options: TrainOptions) -> Training | None:
    from ..config import TrainConfig

    if options.list:
        list_settings(TrainConfig)
        return None
    from ..analysis.metrics import headline
    from ..results.worse import worse_than_stage1
    from ..stage1 import load_stage1
    from ..training.process import echo, warn
    from ..training.stage2 import train_gformer

    config = read_settings(
        options, TrainConfig, resume=options.resume, complete=_with_model_of_start
    )
    if options.cross_fit == "":
        beside = str(pathlib.Path(config.stage1).resolve().parent)
        config = dataclasses.replace(config, cross_fit=beside)
    if not config.stage1:
        raise ConfigError(
            "stage1 is empty: say which DeepH-E3 model folder, with --stage1 MODEL_DIR"
        )
    stage1 = load_stage1(
        config.stage1,
        options.backend,
        options.deephe3_root,
        options.generation(),
        fill_missing=options.fill_missing,
    )
    _, record = train_gformer(config, stage1, resume=options.resume, every=options.every)
    bundle = pathlib.Path(config.output) / "bundle"
    if "validation" in record:  # on the first rank
        echo(f"best validation MAE: {headline(record['validation'], not stage1)}; bundle: {bundle}")
        if text := worse_than_stage1(record["validation"], "the validation structures"):
            warn(f"{text}. {MORE}")
    return Training.of(record) if _ends(record) else None


def _with_model_of_start(values: dict[str, Any]) -> dict[str, Any]:
    """With ``--from``, settings of ``model`` that are not given are those of the bundle."""
    from ..config import to_mapping
    from ..gformer.bundle import load_bundle

    start, given = values.get("start"), values.get("model") or {}
    if not isinstance(start, str) or not start or not isinstance(given, dict):
        return values  # what is wrong is said where settings are read
    return values | {"model": to_mapping(load_bundle(start).model.config) | given}


def _ends(record: dict[str, Any]) -> bool:
    """What both training commands do at their end; whether this is the process that speaks."""
    from ..training.process import first_rank, note

    if not record["structures"]["test"]:
        note(
            "the test split is empty: keep structures that no training saw for "
            "'deeph-gformer evaluate'"
        )
    return first_rank()


def _run_train_stage1(options: TrainStage1Options) -> Stage1Training | None:
    from ..config import TrainStage1Config

    if options.list:
        list_settings(TrainStage1Config)
        return None
    from ..training.folds import FOLDS_FILE, train_folds
    from ..training.process import echo
    from ..training.stage1 import train_stage1

    resume = options.resume == ""
    config = read_settings(options, TrainStage1Config, resume=resume)
    if config.final and not config.folds:
        raise ConfigError("--final: says which model fold networks are for; add --folds K")
    train = train_folds if config.folds else train_stage1
    record = train(config, resume=resume, continue_from=options.resume or None, every=options.every)
    if config.folds:
        errors = ", ".join(f"{r['best_val_mae_meV']:.4f}" for r in record["folds"])
        echo(
            f"best validation MAE of the fold networks {errors} meV; "
            f"{pathlib.Path(config.output) / FOLDS_FILE} says what each did not see"
        )
    if config.final:
        return FoldTraining.of(record) if _ends(record) else None
    kind = "of H - μS" if record["gauge"] == "standard" else "of raw H"
    echo(
        f"best validation MAE {record['best_val_mae_meV']:.4f} meV {kind}; DeepH-E3 model "
        f"folder: {pathlib.Path(config.output) / 'model'}"
    )
    kind_of = FoldTraining if config.folds else Stage1Training
    return kind_of.of(record) if _ends(record) else None


def _settings(verb: str) -> str:
    return (
        "Settings come from a YAML file, from --set and the options, or both; 'deeph-gformer "
        f"{verb} --list' prints every key with its meaning."
    )


VERBS = (
    Verb(
        "train",
        "train",
        "train a GFormer (stage 2) on a frozen stage 1",
        TrainOptions,
        _run_train,
        f"Train a GFormer (stage 2) on a frozen DeepH-E3 model (stage 1). {_settings('train')} "
        "One model and one data set: give all structures. Those that stage 1 was trained on are "
        "recognised and count less (data.memorised). If it has seen them all, go on with other "
        "edges of them (--from BUNDLE --set data.edge_variants=2), or make networks that have not "
        "with 'train-stage1 --folds 3 --final MODEL_DIR --output FOLDS', and train with "
        "--cross-fit FOLDS.",
        results=(Training,),
        examples=(
            "train --preprocessed DATA --stage1 MODEL_DIR --output runs/mine",
            "train --resume --output runs/mine --epochs 600",
        ),
    ),
    Verb(
        "train-stage1",
        "train",
        "train a DeepH-E3 network (stage 1)",
        TrainStage1Options,
        _run_train_stage1,
        "Train a DeepH-E3 network with this package alone. DeepH-E3 itself can load the model "
        "folder that is left in the run's 'model'. " + _settings("train-stage1"),
        results=(Stage1Training, FoldTraining),
        examples=(
            "train-stage1 --preprocessed DATA --output runs/stage1",
            "train-stage1 --resume --output runs/stage1 --epochs 2000",
        ),
    ),
)
