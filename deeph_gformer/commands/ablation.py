"""``ablate``: the settings of Tables 2-4 with one command."""

from __future__ import annotations

import argparse
import pathlib
from typing import Any

from ..errors import ConfigError

__all__ = ["register"]


def register(sub: Any) -> None:
    """Add the parsers of this area."""
    parser = sub.add_parser(
        "ablate",
        help="train and evaluate the settings of Tables 2-4",
        description="Trains and evaluates any of the paper's eight settings (and e3-big) with the same data, splits, seed and budget, and writes the table as "
        "text, Markdown, LaTeX, CSV and JSON. The same command goes on where it stopped; finished settings are not run again.",
    )
    parser.add_argument(
        "config", nargs="?", type=pathlib.Path, metavar="CONFIG.yaml", help="settings, see --list and examples/deeph_benchmarks"
    )
    parser.add_argument("--preprocessed", metavar="DIR", help="folder with structure folders (data.preprocessed)")
    parser.add_argument("--splits", metavar="FILE", help="split file (data.splits)")
    parser.add_argument("--stage1", metavar="MODEL_DIR", help="trained DeepH-E3 model folder (stage1.folder)")
    parser.add_argument("--test", action="append", default=[], metavar="NAME=DIR", help="a further test set (tests.NAME); repeatable")
    parser.add_argument("--settings", metavar="A,B,...", help="which rows, e.g. e3,e3+gformer")
    parser.add_argument("--output", metavar="DIR", help="where runs and tables go (output)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="any setting, e.g. --set stage1.training.epochs=100; repeatable"
    )
    parser.add_argument("--every", type=int, default=10, metavar="N", help="print every N-th epoch (default: 10)")
    parser.add_argument("--list", action="store_true", help="print every setting with its default and meaning")
    parser.set_defaults(run=_run)


def nest(values: dict[str, Any], dotted: str, value: Any) -> None:
    """Set ``a.b.c`` in nested plain values.

    Raises:
        ConfigError: a key on the way is a value and no section.
    """
    *sections, name = dotted.split(".")
    for section in sections:
        inner = values.get(section)
        if inner is None:
            inner = values[section] = {}
        if not isinstance(inner, dict):
            raise ConfigError(f"'{section}' is a value, not a section: '{dotted}' cannot be set")
        values = inner
    values[name] = value


def _values(args: argparse.Namespace) -> dict[str, Any]:
    import yaml

    values: Any = {}
    if args.config is not None:
        try:
            values = yaml.safe_load(args.config.read_text(encoding="utf-8")) or {}
        except FileNotFoundError:
            raise ConfigError(f"{args.config}: file not found") from None
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise ConfigError(f"{args.config}: not valid YAML ({' '.join(str(error).split())})") from None
        if not isinstance(values, dict):
            raise ConfigError(f"{args.config}: a mapping of keys to values is needed")
    for text in args.set:
        key, sign, value = text.partition("=")
        if not sign:
            raise ConfigError(f"--set {text}: write KEY=VALUE")
        nest(values, key.strip(), yaml.safe_load(value))
    for text in args.test:
        name, sign, folder = text.partition("=")
        if not sign:
            raise ConfigError(f"--test {text}: write NAME=DIR")
        nest(values, f"tests.{name.strip()}", folder)
    for option, key in (
        ("preprocessed", "data.preprocessed"),
        ("splits", "data.splits"),
        ("stage1", "stage1.folder"),
        ("output", "output"),
    ):
        if getattr(args, option) is not None:
            nest(values, key, getattr(args, option))
    if args.settings is not None:
        values["settings"] = [s.strip() for s in args.settings.split(",") if s.strip()]
    return values


def _run(args: argparse.Namespace) -> None:
    from ..config import from_mapping
    from ..evaluation.settings import AblationConfig

    if args.list:
        return _list(AblationConfig)
    config = from_mapping(AblationConfig, _values(args), str(args.config or "command line"))
    if not config.data.preprocessed:
        raise ConfigError("data.preprocessed is empty: say where the structures are, with --preprocessed DIR")
    from ..evaluation.ablation import ablate

    ablate(config, every=args.every)


def _list(kind: type, prefix: str = "") -> None:
    import dataclasses

    from ..config import field_docs

    default, docs = kind(), field_docs(kind)
    for field in dataclasses.fields(kind):
        value = getattr(default, field.name)
        if dataclasses.is_dataclass(value):
            _list(type(value), f"{prefix}{field.name}.")
        else:
            print(f"{prefix}{field.name}: {value!r}\n      {docs.get(field.name, '')}")
