"""``ablate``: the settings of Tables 2-4 with one command."""

from __future__ import annotations

import dataclasses
from typing import Any

from .options import Verb, option
from .settings import RunOptions, list_settings, pair, read_settings
from .single import every_option

__all__ = ["VERBS"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class AblateOptions(RunOptions):
    """Of ``ablate``."""

    stage1: str | None = option(
        metavar="MODEL_DIR", key="stage1.folder", help="trained DeepH-E3 model folder"
    )
    test: tuple[str, ...] = option(
        action="append",
        metavar="NAME=DIR",
        help="a further test set (tests.NAME); repeatable",
    )
    settings: str | None = option(metavar="A,B,...", help="which rows, e.g. e3,e3+gformer")
    every: int = every_option(10)


def _run(options: AblateOptions) -> None:
    from ..ablation.settings import AblationConfig

    if options.list:
        return list_settings(AblationConfig)
    tests = dict(pair("--test", text, "NAME=DIR") for text in options.test)
    more: dict[str, Any] = {f"tests.{name}": folder for name, folder in tests.items()}
    if options.settings is not None:
        more["settings"] = [s.strip() for s in options.settings.split(",") if s.strip()]
    config = read_settings(options, AblationConfig, more)
    from ..ablation.run import ablate

    ablate(config, every=options.every)
    return None


VERBS = (
    Verb(
        "ablate",
        "train",
        "train and evaluate the settings of Tables 2-4",
        AblateOptions,
        _run,
        "Trains and evaluates any of the paper's eight settings (and e3-big) with the same data, "
        "splits, seed and budget, and writes the table as text, Markdown, LaTeX, CSV and JSON. The "
        "same command goes on where it stopped; finished settings are not run again. "
        "'deeph-gformer ablate --list' prints every key with its meaning.",
    ),
)
