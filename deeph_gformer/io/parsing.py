"""JSON, YAML and numbers from files and options, with limits: nothing is run, nothing grows.

Refused are what other readers take in silence or die of: a key given twice, nesting beyond
``MAX_DEPTH``, numbers of more than ``MAX_DIGITS`` digits or beyond the range of a float, YAML's
tags, anchors and dates.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Hashable
from typing import Any

from ..errors import ConfigError, DataError, GFormerError, printable

__all__ = ["MAX_DEPTH", "MAX_DIGITS", "parse_json", "parse_number", "parse_yaml", "require_shallow"]

#: Lists and mappings inside one another.
MAX_DEPTH = 100
#: Of a number, sign and exponent included.
MAX_DIGITS = 400


def _short(text: str) -> str:
    return printable(text if len(text) <= 40 else f"{text[:24]}... ({len(text)} characters)")


def _integer(text: str) -> int:
    if len(text) > 19:
        raise ValueError(f"{_short(text)}: an integer of more than 18 digits")
    return int(text)


def _float(text: str) -> float:
    if len(text) > MAX_DIGITS:
        raise ValueError(f"{_short(text)}: a number of more than {MAX_DIGITS} characters")
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"{_short(text)}: beyond the range of numbers")
    return value


def _mapping(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"key '{_short(twice)}' is given twice; leave one")
    return found


def require_shallow(value: Any) -> None:
    """Raise where lists and mappings are nested more than :data:`MAX_DEPTH` deep.

    Raises:
        ValueError: they are.
    """
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        level = [
            inner
            for outer in level
            if isinstance(outer, (dict, list, tuple))
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return
    raise ValueError(f"nested more than {MAX_DEPTH} deep")


def parse_json(text: str, where: str, error: type[GFormerError] = DataError) -> Any:
    """A JSON document.

    Args:
        text: the document; a byte order mark is ignored, NaN and Infinity are numbers (Python's and
            JavaScript's writers make them).
        where: file, for the message.
        error: class of the error.

    Raises:
        GFormerError: of the class ``error``; not JSON, or beyond a limit; names the place.
    """
    try:
        value = json.loads(
            text.removeprefix("\ufeff"),
            parse_int=_integer,
            parse_float=_float,
            object_pairs_hook=_mapping,
        )
        require_shallow(value)
        return value
    except RecursionError:
        reason = f"nested more than {MAX_DEPTH} deep"
    except ValueError as wrong:
        reason = str(wrong)
    raise error(f"{where}: not valid JSON ({printable(reason)})")


#: What YAML takes for integers as well: 1:30 is 90, 010 is 8, 0x10 is 16. Nobody means that here.
_DECIMAL = re.compile(r"[-+]?(0|[1-9][0-9_]*)")
#: YAML's own tags of plain values.
_PLAIN = ("str", "int", "float", "bool", "null", "seq", "map")


def _check_scalar(text: str, kind: str) -> None:
    """Raise ValueError where a plain value is too long, or a number that nobody means.

    Args:
        text: as it is written.
        kind: what YAML takes it for.
    """
    if len(text) > MAX_DIGITS and kind != "str":
        raise ValueError(f"'{_short(text)}' is too long")
    if kind == "int" and not _DECIMAL.fullmatch(text):
        raise ValueError(f"'{_short(text)}': write an integer as 12 or -3")
    if kind == "float" and ":" in text:
        raise ValueError(f"'{_short(text)}' is no number")
    if kind == "int":
        _integer(text.replace("_", ""))


def _yaml_loader() -> Any:
    """The class that :func:`parse_yaml` loads with; yaml is imported when it is wanted."""
    import yaml

    class Loader(yaml.SafeLoader):
        """Plain values only: no tags of its own, no anchors, no dates, no key twice."""

        depth = 0

        def compose_node(self, parent: Any, index: Any) -> Any:
            """Next node; no alias, and none too deep."""
            if self.check_event(yaml.AliasEvent):
                raise self.wrong("anchors and aliases are not supported; write the value out")
            self.depth += 1
            if self.depth > MAX_DEPTH:
                raise self.wrong(f"nested more than {MAX_DEPTH} deep")
            node = super().compose_node(parent, index)
            self.depth -= 1
            return node

        def wrong(self, text: str, mark: Any = None) -> yaml.YAMLError:
            """An error at a place; default: here."""
            return yaml.constructor.ConstructorError(None, None, text, mark or self.get_mark())

        def construct_object(self, node: Any, deep: bool = False) -> Any:
            """The value of a node; of plain kinds only, and of a sane length."""
            if node.tag.rpartition(":")[2] not in _PLAIN:
                raise self.wrong(f"tag {_short(node.tag)} is not supported", node.start_mark)
            try:
                if isinstance(node, yaml.ScalarNode):
                    _check_scalar(node.value, node.tag.rpartition(":")[2])
                return super().construct_object(node, deep)
            except (ValueError, OverflowError) as error:
                raise self.wrong(str(error), node.start_mark) from None

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            """The value of a mapping; its keys are words, each once."""
            seen = set()
            for name, _ in getattr(node, "value", ()):
                key = self.construct_object(name, deep=True)
                if not isinstance(key, Hashable) or not isinstance(key, str):
                    raise self.wrong(
                        f"key '{_short(str(key))}' is no word; put it into quotes", name.start_mark
                    )
                if key in seen:
                    raise self.wrong(f"key '{_short(key)}' is given twice", name.start_mark)
                seen.add(key)
            return super().construct_mapping(node, deep)

    # 2024-01-01 stays text
    Loader.yaml_implicit_resolvers = {
        first: [
            (tag, pattern) for tag, pattern in rules if not tag.endswith((":timestamp", ":merge"))
        ]
        for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    return Loader


def parse_yaml(text: str, where: str) -> Any:
    """A YAML document of plain values: mappings with words as keys, lists, numbers, words, null.

    Args:
        text: the document.
        where: file or option, for the message.

    Raises:
        ConfigError: not YAML, beyond a limit, or more than plain values.
    """
    import yaml

    try:
        return yaml.load(text, _yaml_loader())
    except RecursionError:
        reason = f"nested more than {MAX_DEPTH} deep"
    except yaml.MarkedYAMLError as wrong:
        mark = wrong.problem_mark or wrong.context_mark
        reason = f"line {mark.line + 1 if mark else 1}: {wrong.problem or wrong.context}"
    except yaml.YAMLError as wrong:
        reason = " ".join(str(wrong).split())
    raise ConfigError(f"{where}: not valid YAML ({printable(reason)})")


def parse_number(text: str, where: str, kind: type = float) -> float:
    """A finite number.

    Args:
        text: what stands there.
        where: file and place, for the message.
        kind: ``float`` or ``int``.

    Raises:
        DataError: it is none, or has too many digits.
    """
    try:
        value = _integer(text.strip()) if kind is int else _float(text.strip())
        if math.isfinite(value):
            return value
        reason = "not finite"
    except ValueError as error:
        reason = str(error)
    raise DataError(
        f"{where}: {'an integer' if kind is int else 'a number'} is needed, not '{_short(text)}' "
        f"({printable(reason)})"
    )
