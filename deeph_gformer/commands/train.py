"""``train`` and ``train-stage1``."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

from ..errors import ConfigError
from .options import Number, Verb, option
from .settings import RunOptions, list_settings, read_settings
from .shared import JsonOption, Stage1Options, write_json_option

__all__ = ["VERBS"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _TrainingOptions(RunOptions, JsonOption):
    """What both training commands have."""

    epochs: int | None = option(
        type=int, metavar="N", key="training.epochs", help="passes over the training set"
    )
    device: str | None = option(
        metavar="NAME", key="training.device", help="auto, cpu, cuda, cuda:1, ..."
    )
    every: int = option(
        type=Number(int, least=1), default=1, metavar="N", help="print every N-th epoch"
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainOptions(_TrainingOptions, Stage1Options):
    """Of ``train``."""

    stage1: str | None = option(metavar="MODEL_DIR", key="stage1", help="DeepH-E3 model folder")
    start: str | None = option(
        "--from",
        metavar="BUNDLE",
        key="start",
        help="start from a finished GFormer instead of random weights",
    )
    resume: bool = option(default=False, help="go on with the run in the output folder")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainStage1Options(_TrainingOptions):
    """Of ``train-stage1``."""

    resume: str | None = option(
        nargs="?",
        const="",
        metavar="MODEL_DIR",
        help="go on with the run in the output folder; or start from a DeepH-E3 model folder, its "
        "optimizer state included",
    )


def _run_train(options: TrainOptions) -> None:
    from ..config import TrainConfig

    if options.list:
        return list_settings(TrainConfig)
    from ..analysis.metrics import headline
    from ..stage1 import load_stage1
    from ..training.process import say
    from ..training.stage2 import train_gformer

    config = read_settings(options, TrainConfig, resume=options.resume)
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
        say(f"best validation MAE: {headline(record['validation'], not stage1)}; bundle: {bundle}")
    return _trained(options, record)


def _trained(options: JsonOption, record: dict[str, Any]) -> None:
    """What both training commands do at their end."""
    from ..training.process import first_rank, note

    if not record["structures"]["test"]:
        note(
            "the test split is empty: keep structures that no training saw for "
            "'deeph-gformer evaluate'"
        )
    if first_rank():
        write_json_option(options, record)


def _run_train_stage1(options: TrainStage1Options) -> None:
    from ..config import TrainStage1Config

    if options.list:
        return list_settings(TrainStage1Config)
    from ..training.process import say
    from ..training.stage1 import train_stage1

    resume = options.resume == ""
    config = read_settings(options, TrainStage1Config, resume=resume)
    record = train_stage1(
        config, resume=resume, continue_from=options.resume or None, every=options.every
    )
    kind = "of H - μS" if record["gauge"] == "standard" else "of raw H"
    say(
        f"best validation MAE {record['best_val_mae_meV']:.4f} meV {kind}; DeepH-E3 model "
        f"folder: {pathlib.Path(config.output) / 'model'}"
    )
    return _trained(options, record)


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
        f"Train a GFormer (stage 2) on a frozen DeepH-E3 model (stage 1). {_settings('train')}",
    ),
    Verb(
        "train-stage1",
        "train",
        "train a DeepH-E3 network on the embedded engine",
        TrainStage1Options,
        _run_train_stage1,
        "Train a DeepH-E3 network on the embedded engine; the official code can load it, too. "
        + _settings("train-stage1"),
    ),
)
