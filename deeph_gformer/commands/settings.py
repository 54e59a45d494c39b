"""Settings of the training commands: a YAML file, ``--set KEY=VALUE``, and the options that are
short for a key.
"""

from __future__ import annotations

import argparse
import dataclasses
import pathlib
import textwrap
from collections.abc import Mapping
from typing import Any, Protocol, TypeVar

from ..config import DataConfig, apply_overrides, field_docs, from_mapping, load_yaml, upgrade_model
from ..errors import ConfigError
from ..io.files import read_json

__all__ = ["pair", "read_settings", "list_settings"]


class RunSettings(Protocol):
    """What the configurations of all training commands have."""

    @property
    def data(self) -> DataConfig:
        """The structures."""

    @property
    def output(self) -> str:
        """Folder of the run."""


T = TypeVar("T", bound=RunSettings)


def pair(option: str, text: str, form: str) -> tuple[str, str]:
    """Split ``KEY=VALUE``.

    Raises:
        ConfigError: no equals sign; ``form`` says how it is written.
    """
    key, sign, value = text.partition("=")
    if not sign:
        raise ConfigError(f"{option} {text}: write {form}")
    return key.strip(), value


def read_settings(
    args: argparse.Namespace,
    kind: type[T],
    options: Mapping[str, str],
    more: Mapping[str, Any] | None = None,
) -> T:
    """The configuration that the command line asks for.

    Args:
        args: has ``config`` (YAML file or None) and ``set``.
        kind: the dataclass.
        options: ``{option: dotted key}``; those that are None are left out.
        more: further dotted keys.

    Raises:
        ConfigError: see :func:`deeph_gformer.config.load_yaml`; or no data are named.
    """
    from ..io.parsing import parse_yaml

    overrides: dict[str, Any] = {}
    for text in args.set:
        key, value = pair("--set", text, "KEY=VALUE")
        overrides[key] = parse_yaml(value, f"--set {key}")
    overrides.update(
        {
            key: getattr(args, name)
            for name, key in options.items()
            if getattr(args, name, None) is not None
        }
    )
    overrides.update(more or {})
    known = {} if args.config else _resumed(args, overrides.get("output", kind().output))
    config = (
        load_yaml(kind, args.config, overrides)
        if args.config
        else from_mapping(kind, apply_overrides(known, overrides), "command line")
    )
    if not config.data.preprocessed:
        raise ConfigError(
            "data.preprocessed is empty: say where the structures are, with --preprocessed DIR"
        )
    return config


def _resumed(args: argparse.Namespace, output: Any) -> dict[str, Any]:
    """The configuration that a run folder holds, where that run is resumed; otherwise nothing."""
    path = pathlib.Path(str(output)) / "config.json"
    if getattr(args, "resume", None) not in (True, "") or not path.is_file():
        return {}
    known = read_json(path)
    if "arch" in known.get("model", {}):
        known["model"] = upgrade_model(known["model"])
    return {**known, "output": str(output)}


def list_settings(kind: type, prefix: str = "") -> None:
    """Print every key with its default and meaning."""
    default, docs = kind(), field_docs(kind)
    for field in dataclasses.fields(kind):
        value = getattr(default, field.name)
        if dataclasses.is_dataclass(value):
            list_settings(type(value), f"{prefix}{field.name}.")
        else:
            text = " ".join(docs.get(field.name, "").split())
            print(f"{prefix}{field.name}: {value!r}")
            print(textwrap.fill(text, 100, initial_indent=" " * 6, subsequent_indent=" " * 6))
