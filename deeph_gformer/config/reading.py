"""Plain values (YAML, the command line) to configurations and back, strictly.

An unknown key is named, and what was probably meant.
"""

from __future__ import annotations

import ast
import copy
import dataclasses
import difflib
import inspect
import itertools
import pathlib
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

from ..errors import ConfigError
from .schema import DataConfig, TrainingConfig

__all__ = [
    "upgrade_model",
    "field_docs",
    "from_mapping",
    "load_yaml",
    "read_yaml",
    "apply_overrides",
    "to_mapping",
]

T = TypeVar("T")


def upgrade_model(values: Mapping[str, Any]) -> dict[str, Any]:
    """The ``model`` section of a GFormer's configuration of an earlier version, in today's keys.

    What did not exist then is set to what the network did: no ``messages``; Eq. 3 over adjacent
    pairs, no envelope, and norms that are sharp where an irrep vanishes. ``attention`` was a bool.
    """
    if isinstance(values.get("attention"), bool):
        values = {**values, "attention": "softmax" if values["attention"] else "mean"}
    if "pairs" in values:
        return dict(values)
    old = {"messages": 0} if "messages" not in values else {}
    return {**values, **old, "pairs": "adjacent", "envelope": 0.0, "norm_floor": 1e-3}


def field_docs(kind: type) -> dict[str, str]:
    """The docstring under each field of a configuration class (they are also the documentation)."""
    tree = ast.parse(inspect.getsource(kind))
    body = next(node.body for node in tree.body if isinstance(node, ast.ClassDef))
    return {
        ast.unparse(field.target): str(doc.value.value)
        for field, doc in itertools.pairwise(body)
        if isinstance(field, ast.AnnAssign)
        and isinstance(doc, ast.Expr)
        and isinstance(doc.value, ast.Constant)
    }


def _convert(value: Any, kind: Any, where: str) -> Any:
    origin, inside = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        if isinstance(value, bool) and str(value).lower() in inside:  # YAML's true
            return str(value).lower()
        if value not in inside:
            raise ConfigError(f"{where} is {value!r}; choose one of {', '.join(map(str, inside))}")
        return value
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise ConfigError(f"{where} is {value!r}; a list is needed")
        items = inside[:1] * len(value) if inside[-1] is Ellipsis else inside
        if len(items) != len(value):
            raise ConfigError(f"{where} needs {len(items)} values, it has {len(value)}")
        pairs = zip(value, items, strict=True)
        return tuple(_convert(v, k, f"{where}[{n}]") for n, (v, k) in enumerate(pairs))
    if origin in (typing.Union, types.UnionType):
        return (
            None
            if value is None
            else _convert(value, next(k for k in inside if k is not type(None)), where)
        )
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return _from_mapping(kind, value, where)
    if kind is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    if kind is float and isinstance(value, str):  # YAML 1.1 reads 1e-3 as text
        try:
            return float(value)
        except ValueError:
            pass
    if kind in (int, bool, str) and type(value) is kind:
        return value
    if origin is dict and isinstance(value, dict):
        return value
    raise ConfigError(f"{where} is {value!r}; {getattr(kind, '__name__', kind)} is needed")


def from_mapping(
    kind: type[T], values: Mapping[str, Any] | None, where: str = "configuration"
) -> T:
    """A configuration from plain values, strictly.

    Args:
        kind: the dataclass.
        values: e.g. of a YAML file.
        where: named in errors.

    Raises:
        ConfigError: an unknown key (with what was probably meant), or a value of the wrong type,
            out of the choices or out of its interval.
    """
    result = _from_mapping(kind, values, where)
    _check_intervals(result, where)
    return result


def _check_intervals(config: Any, where: str, prefix: str = "") -> None:
    """Every number lies in its interval (see :func:`within`), and those that belong together agree.

    Args:
        config: any of the dataclasses; its sections are checked, too.
        where: named in errors.
        prefix: of the names of its fields, e.g. ``training.``.
    """
    for field in dataclasses.fields(config):
        value, key = getattr(config, field.name), f"{prefix}{field.name}"
        if dataclasses.is_dataclass(value):
            _check_intervals(value, where, f"{key}.")
        elif "within" in field.metadata:
            interval = field.metadata["within"]
            numbers = value if isinstance(value, tuple) else (value,)
            if not all(_is_inside(number, interval) for number in numbers):
                raise ConfigError(f"{where}: {key} is {_shown(value)}; allowed is {interval}")
    if isinstance(config, TrainingConfig) and config.min_learning_rate > config.learning_rate:
        raise ConfigError(
            f"{where}: {prefix}min_learning_rate is {config.min_learning_rate}; allowed is "
            f"[0, {prefix}learning_rate = {config.learning_rate}]"
        )
    if isinstance(config, DataConfig) and config.train_ratio + config.val_ratio > 1 + 1e-9:
        raise ConfigError(
            f"{where}: {prefix}train_ratio + val_ratio is "
            f"{config.train_ratio + config.val_ratio:g}; allowed is (0, 1]"
        )


def _is_inside(number: float, interval: str) -> bool:
    """Whether a number lies in what :func:`within` was given."""
    alone, _, bounds = interval.rpartition(" or ")
    low, high = map(float, bounds[1:-1].split(","))
    above = low < number or (low == number and bounds[0] == "[")
    below = number < high or (number == high and bounds[-1] == "]")
    return (above and below) or (bool(alone) and number == float(alone))


def _shown(value: Any) -> str:
    return str(list(value) if isinstance(value, tuple) else value)


def _from_mapping(kind: type[T], values: Mapping[str, Any] | None, where: str) -> T:
    """:func:`from_mapping` without the intervals."""
    if values is None:
        values = {}
    if not isinstance(values, Mapping):
        raise ConfigError(
            f"{where}: a mapping of keys to values is needed, not {type(values).__name__}"
        )
    hints = typing.get_type_hints(kind)
    names = [f.name for f in dataclasses.fields(kind)]  # type: ignore[arg-type]
    for key in values:
        if key not in names:
            close = difflib.get_close_matches(str(key), names, 1)
            raise ConfigError(
                f"{where}: unknown key '{key}'"
                + (
                    f", did you mean '{close[0]}'?"
                    if close
                    else f"; known keys: {', '.join(names)}"
                )
            )
    default = kind()
    converted = {}
    for key, value in values.items():
        if dataclasses.is_dataclass(hints[key]) and isinstance(value, Mapping):
            converted[key] = _merge(getattr(default, key), value, f"{where}: {key}")
        else:
            converted[key] = _convert(value, hints[key], f"{where}: {key}")
    return dataclasses.replace(default, **converted)  # type: ignore[type-var]


def _merge(default: Any, values: Mapping[str, Any], where: str) -> Any:
    kind = type(default)
    given = _from_mapping(kind, values, where)
    return dataclasses.replace(default, **{name: getattr(given, name) for name in values})


def load_yaml(
    kind: type[T], path: str | pathlib.Path, overrides: Mapping[str, Any] | None = None
) -> T:
    """Read a YAML file into a configuration.

    Args:
        kind: the dataclass.
        path: the file.
        overrides: ``{"training.epochs": 10}``, from the command line; they win.

    Raises:
        ConfigError: the file is missing, no YAML, or has a wrong key or value.
    """
    return from_mapping(kind, apply_overrides(read_yaml(path), overrides or {}), str(path))


def read_yaml(path: str | pathlib.Path) -> Mapping[str, Any]:
    """The keys and values of a YAML file.

    Raises:
        ConfigError: the file is missing, no YAML, or no mapping.
    """
    from ..io.files import read_text  # at a command's start nothing needs h5py
    from ..io.parsing import parse_yaml

    path = pathlib.Path(path)
    values = parse_yaml(read_text(path, 2**20, error=ConfigError), str(path)) or {}
    if not isinstance(values, Mapping):
        raise ConfigError(f"{path}: a mapping of keys to values is needed")
    return values


def apply_overrides(values: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Set dotted keys in nested plain values; returns a copy.

    Raises:
        ConfigError: a key goes through something that is no section.
    """
    out = copy.deepcopy(dict(values))
    for dotted, value in overrides.items():
        *sections, name = dotted.split(".")
        place = out
        for depth, section in enumerate(sections):
            if place.get(section) is None:
                place[section] = {}
            place = place[section]
            if not isinstance(place, dict):
                through = ".".join(sections[: depth + 1])
                raise ConfigError(
                    f"'{through}' is a value, not a section: '{dotted}' cannot be set"
                )
        place[name] = value
    return out


def to_mapping(config: Any) -> dict[str, Any]:
    """Plain values of a configuration, as JSON and YAML hold them."""

    def plain(value: Any) -> Any:
        """Tuples as lists, at any depth."""
        if isinstance(value, dict):
            return {k: plain(v) for k, v in value.items()}
        return [plain(v) for v in value] if isinstance(value, (tuple, list)) else value

    return plain(dataclasses.asdict(config))
