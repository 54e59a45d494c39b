"""Settings of the training commands: a YAML file, ``--set KEY=VALUE``, and the options that are
short for a key.
"""

from __future__ import annotations

import dataclasses
import pathlib
import textwrap
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar

from ..config import DataConfig, apply_overrides, field_docs, from_mapping, read_yaml, upgrade_model
from ..errors import ConfigError
from .options import Options, argument, option

__all__ = ["RunOptions", "list_settings", "pair", "read_settings", "run_folder"]


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


def run_folder(shown: str) -> Any:
    """``--output`` of the training commands.

    Args:
        shown: the setting's default.
    """
    return option(
        metavar="DIR",
        key="output",
        shown=shown,
        help="folder of the run: models, logs, checkpoints",
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunOptions(Options):
    """What all training commands have."""

    config: pathlib.Path | None = argument(
        metavar="CONFIG.yaml",
        default=None,
        help="file of settings (default: the defaults, and what the options say)",
    )
    preprocessed: str | None = option(
        metavar="DIR", key="data.preprocessed", help="folder with structure folders, with DFT's H"
    )
    splits: str | None = option(
        metavar="FILE",
        key="data.splits",
        shown="random ones, kept in the run folder",
        help='which structures are for what: JSON, {"train": [names], "val": [...], "test": [...]}',
    )
    output: str | None = run_folder("runs/ablation")
    set: tuple[str, ...] = option(
        action="append",
        metavar="KEY=VALUE",
        help="any setting, e.g. --set training.learning_rate=1e-3; repeatable",
    )
    list: bool = option(default=False, help="print every setting with its default and meaning")


def read_settings(
    options: RunOptions,
    kind: type[T],
    more: Mapping[str, Any] | None = None,
    resume: bool = False,
    complete: Callable[[dict[str, Any]], Mapping[str, Any]] = dict,
) -> T:
    """The configuration that the command line asks for.

    Args:
        options: of the verb; those that are short for a setting, and are given, win.
        kind: the dataclass.
        more: further dotted keys.
        resume: without a file, start from what the run folder holds.
        complete: adds what follows from the values that are given.

    Raises:
        ConfigError: see :func:`deeph_gformer.config.load_yaml`; or no data are named.
    """
    from ..io.parsing import parse_yaml

    overrides: dict[str, Any] = {}
    for text in options.set:
        key, value = pair("--set", text, "KEY=VALUE")
        overrides[key] = parse_yaml(value, f"--set {key}")
    for field in dataclasses.fields(options):
        given, setting = getattr(options, field.name), field.metadata.get("key")
        if setting and given is not None:
            overrides[setting] = given
    overrides.update(more or {})
    known: Mapping[str, Any] = {}
    if options.config:
        known = read_yaml(options.config)
    elif resume:
        known = _resumed(overrides.get("output", kind().output))
    values = complete(apply_overrides(known, overrides))
    config = from_mapping(kind, values, str(options.config or "command line"))
    if not config.data.preprocessed:
        if resume:
            raise ConfigError(
                f"{config.output}: no run to resume here (config.json is missing); name the folder "
                "of the run with --output"
            )
        raise ConfigError(
            "data.preprocessed is empty: say where the structures are, with --preprocessed DIR"
        )
    return config


def _resumed(output: Any) -> dict[str, Any]:
    """The configuration that a run folder holds; nothing where there is none."""
    path = pathlib.Path(str(output)) / "config.json"
    if not path.is_file():
        return {}
    from ..io.files import read_json  # at the start of a command nothing needs numpy

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
