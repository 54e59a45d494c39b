"""``ablate``: the settings of Tables 2-4 with one command."""

from __future__ import annotations

import dataclasses
from typing import Any

from ..errors import ConfigError
from .options import Verb, option
from .settings import RunOptions, list_settings, pair, read_settings
from .single import every_option

__all__ = ["VERBS"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class AblateOptions(RunOptions):
    """Of ``ablate``."""

    stage1: str | None = option(
        metavar="MODEL_DIR",
        key="stage1.folder",
        help="DeepH-E3 model folder; without it one is trained",
    )
    test: tuple[str, ...] = option(
        action="append",
        metavar="NAME=DIR",
        help="a further test set, with a table of its own; repeatable",
    )
    settings: str | None = option(
        metavar="A,B,...",
        shown="the eight of the paper",
        help="which settings: e3, e3+e3, gformer, gformer+gformer, e3+gformer-cas, "
        "e3+gformer-cov, e3+gformer-att, e3+gformer; e3-big is a larger DeepH-E3",
    )
    every: int = every_option(10)


def _run(options: AblateOptions) -> None:
    from ..ablation.settings import AblationConfig

    if options.list:
        return list_settings(AblationConfig)
    tests: dict[str, str] = {}
    for text in options.test:
        name, folder = pair("--test", text, "NAME=DIR")
        if tests.setdefault(name, folder) != folder:
            raise ConfigError(f"--test {text}: there is another test set of this name")
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
        "train and compare the eight settings of the paper's Tables 2-4",
        AblateOptions,
        _run,
        "Trains and evaluates any of the paper's eight settings with the same data, "
        "splits, seed and budget, and writes the table as text, Markdown, LaTeX, CSV and JSON. The "
        "same command goes on where it stopped; finished settings are not run again. "
        "'deeph-gformer ablate --list' prints every key with its meaning.",
        examples=("ablate --preprocessed DATA --settings e3,e3+gformer --output runs/table",),
    ),
)
