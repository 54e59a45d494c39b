"""``ablate``: the settings of Tables 2-4 with one command."""

from __future__ import annotations

import argparse
import pathlib
from typing import Any

from .settings import list_settings, pair, read_settings

__all__ = ["register"]


def register(sub: Any) -> None:
    """Add the parsers of this area."""
    parser = sub.add_parser(
        "ablate",
        help="train and evaluate the settings of Tables 2-4",
        description="Trains and evaluates any of the paper's eight settings (and e3-big) with the "
        "same data, splits, seed and budget, and writes the table as text, Markdown, LaTeX, CSV "
        "and JSON. The same command goes on where it stopped; finished settings are not run again.",
    )
    parser.add_argument(
        "config",
        nargs="?",
        type=pathlib.Path,
        metavar="CONFIG.yaml",
        help="settings, see --list and examples/deeph_benchmarks",
    )
    parser.add_argument(
        "--preprocessed", metavar="DIR", help="folder with structure folders (data.preprocessed)"
    )
    parser.add_argument("--splits", metavar="FILE", help="split file (data.splits)")
    parser.add_argument(
        "--stage1", metavar="MODEL_DIR", help="trained DeepH-E3 model folder (stage1.folder)"
    )
    parser.add_argument(
        "--test",
        action="append",
        default=[],
        metavar="NAME=DIR",
        help="a further test set (tests.NAME); repeatable",
    )
    parser.add_argument("--settings", metavar="A,B,...", help="which rows, e.g. e3,e3+gformer")
    parser.add_argument("--output", metavar="DIR", help="where runs and tables go (output)")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="any setting, e.g. --set stage1.training.epochs=100; repeatable",
    )
    parser.add_argument(
        "--every", type=int, default=10, metavar="N", help="print every N-th epoch (default: 10)"
    )
    parser.add_argument(
        "--list", action="store_true", help="print every setting with its default and meaning"
    )
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> None:
    from ..ablation.settings import AblationConfig

    if args.list:
        return list_settings(AblationConfig)
    tests = dict(pair("--test", text, "NAME=DIR") for text in args.test)
    more: dict[str, Any] = {f"tests.{name}": folder for name, folder in tests.items()}
    if args.settings is not None:
        more["settings"] = [s.strip() for s in args.settings.split(",") if s.strip()]
    options = {
        "preprocessed": "data.preprocessed",
        "splits": "data.splits",
        "stage1": "stage1.folder",
        "output": "output",
    }
    config = read_settings(args, AblationConfig, options, more)
    from ..ablation.run import ablate

    ablate(config, every=args.every)
