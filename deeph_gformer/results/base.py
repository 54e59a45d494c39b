"""What all results have: their fields are the keys of ``--json``, in this order."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from ..errors import DataError

__all__ = ["Result", "plain"]

R = TypeVar("R", bound="Result")
#: Longest entry of a repr.
_SHOWN = 40


def plain(value: Any) -> Any:
    """Lists, dictionaries, numbers and texts instead of arrays, tuples, paths and results."""
    if isinstance(value, Result):
        return value.to_json()
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):  # NumPy, without which commands begin faster
        return plain(value.tolist())
    return str(value) if isinstance(value, pathlib.PurePath) else value


class Result(Mapping[str, Any]):
    """What a verb finds.

    Subclasses are dataclasses. A field that is None by default is a key only where it was given;
    ``more`` holds keys that other packages add. Units stand in the names. An entry is had as an
    attribute or, as from the JSON file, by its key.
    """

    #: Optional fields that were given, also where they are None.
    _given: frozenset[str] = frozenset()

    def to_json(self) -> dict[str, Any]:
        """What ``--json`` writes: plain values."""
        return {key: plain(self[key]) for key in self}

    @classmethod
    def of(cls: type[R], *tables: Mapping[str, Any]) -> R:
        """A result from its keys.

        Args:
            tables: e.g. what a JSON file holds; later ones win.

        Raises:
            DataError: a key is unknown or missing.
        """
        every: dict[str, Any] = {}
        for table in tables:
            every |= dict(table)
        fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
        if "more" in fields:
            every["more"] = {key: every.pop(key) for key in list(every) if key not in fields}
        unknown = [key for key in every if key not in fields]
        missing = [key for key, field in fields.items() if key not in every and _needed(field)]
        if unknown:
            raise DataError(
                f"a {cls.__name__} has no key {', '.join(map(repr, unknown))}; its keys are "
                f"{', '.join(key for key in fields if key != 'more')}. Is this the JSON file of "
                "another command or version?"
            )
        if missing:
            raise DataError(f"a {cls.__name__} needs the key {', '.join(map(repr, missing))}")
        result = cls(**every)
        object.__setattr__(result, "_given", frozenset(every))
        return result

    def _fields(self) -> Iterator[str]:
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            known = getattr(self, field.name) is not None or field.default is not None
            if field.name != "more" and (known or field.name in self._given):
                yield field.name

    def __iter__(self) -> Iterator[str]:
        yield from self._fields()
        yield from getattr(self, "more", ())

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __getitem__(self, key: str) -> Any:
        if key in self._fields():
            return getattr(self, key)
        return getattr(self, "more", {})[key]

    def __repr__(self) -> str:
        parts, length = [], 0
        for key in self:
            text = f"{key}={_short(self[key])}"
            length += len(text) + 2
            if length > 200:
                parts.append("...")
                break
            parts.append(text)
        return f"{type(self).__name__}({', '.join(parts)})"


def _needed(field: dataclasses.Field[Any]) -> bool:
    nothing = dataclasses.MISSING
    return field.default is nothing and field.default_factory is nothing


def _short(value: Any) -> str:
    if not isinstance(value, str) and hasattr(value, "__len__") and len(value) > 3:
        return f"<{len(value)} entries>"
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
