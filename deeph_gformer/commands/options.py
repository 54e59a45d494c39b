"""Options as dataclasses: a verb has one, and each option is one field with its flag and its help.

Options that several verbs share are fields of a class that theirs inherit from (see
:mod:`.shared`). :func:`add_options` makes argparse's parser of such a class, :func:`collect` an
object of it from what argparse read. Defaults and units are added to the help by itself.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
import math
import os
import pathlib
import re
import typing
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from ..errors import ConfigError
from ..results import Result

__all__ = [
    "FIGURES",
    "Ending",
    "Integers",
    "Number",
    "Options",
    "Verb",
    "add_options",
    "argument",
    "collect",
    "filled",
    "option",
]

#: Endings of figures; other files hold data.
FIGURES = (".png", ".svg", ".pdf")
#: Key of argparse's words in a field's metadata.
_WORDS = "argparse"

O = TypeVar("O", bound="Options")


def option(
    *flags: str,
    help: str,
    default: Any = None,
    shown: str = "",
    unit: str = "",
    group: str = "",
    one_of: str = "",
    key: str = "",
    writes: str = "",
    **words: Any,
) -> Any:
    """A field that is an option.

    Args:
        flags: e.g. ``-o``, ``--output``; none: ``--`` and the name of the field.
        help: what it is, without its default. A default of False makes a switch.
        default: its value where it is not given.
        shown: how the default reads in the help, where that is not the value itself.
        unit: of the value, for the default in the help.
        group: heading in the help.
        one_of: options with the same word here exclude each other.
        key: the setting that it is short for, for the training commands.
        writes: ``file`` or ``folder``: it is written, so it must be possible to.
        words: further ones of argparse (``type``, ``metavar``, ``nargs``, ...). Choices are those
            of the field's type, a ``Literal``.
    """
    if default is False:
        words.setdefault("action", "store_true")
    elif shown or default not in (None, "", ()):
        text = str(default) if not shown else shown
        help = f"{help} (default: {text}{f' {unit}' if unit and not shown else ''})"
    if words.get("action") == "append" or words.get("nargs") in ("+", "*"):
        default = () if default is None else default
    metadata = {
        _WORDS: {"help": help, **words},
        "flags": flags,
        "group": group,
        "one_of": one_of,
        "key": key,
        "writes": writes,
    }
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """What a verb was asked to do. Classes check in ``__post_init__`` what options say together."""

    verbose: bool = option(
        "-v",
        "--verbose",
        default=False,
        group="messages",
        one_of="messages",
        help="also say what is read and written, and how long it takes",
    )
    quiet: bool = option(
        "-q",
        "--quiet",
        default=False,
        group="messages",
        one_of="messages",
        help="no notes and no progress, only results, warnings and errors",
    )
    log_file: pathlib.Path | None = option(
        type=pathlib.Path,
        metavar="FILE",
        group="messages",
        writes="file",
        help="append all messages to FILE, with times",
    )

    def __post_init__(self) -> None:
        """Check options against each other; each class calls that of the classes above."""

    def given(self) -> str:
        """What is not as by default, for messages."""
        values = ((f.name, getattr(self, f.name), f.default) for f in dataclasses.fields(self))
        return ", ".join(f"{name}={value}" for name, value, default in values if value != default)

    @property
    def level(self) -> int:
        """Of the messages on standard error."""
        return logging.DEBUG if self.verbose else logging.WARNING if self.quiet else logging.INFO


@dataclasses.dataclass(frozen=True)
class Verb:
    """A sub-command.

    Attributes:
        name: what is typed.
        section: heading in the list of verbs; empty for an action of a verb.
        help: one line of that list.
        options: its options.
        run: called with them; returns what it found, or the exit code (None is 0).
        results: classes of what it finds, which ``--json`` writes.
        examples: of its use, without ``deeph-gformer``; a backslash ends a line that goes on.
        description: more than ``help``, for its own help.
        actions: sub-commands instead of options.
    """

    name: str
    section: str
    help: str
    options: type[Options] = Options
    run: Callable[[Any], Result | int | None] | None = None
    description: str = ""
    actions: tuple[Verb, ...] = ()
    results: tuple[type[Result], ...] = ()
    examples: tuple[str, ...] = ()


def argument(*, help: str, metavar: str, default: Any = dataclasses.MISSING, **words: Any) -> Any:
    """A field that is a word of the command line by its place, a path unless ``type`` says else.

    Args:
        help: what it is.
        metavar: its name in the help.
        default: its value where it may be left away.
        words: further ones of argparse.
    """
    if default is not dataclasses.MISSING:
        words.setdefault("nargs", "?")
    words = {"type": pathlib.Path, "help": help, "metavar": metavar, **words}
    return dataclasses.field(default=default, metadata={_WORDS: words, "flags": None})


def _fields(kind: type[Options]) -> Iterator[dataclasses.Field[Any]]:
    """Options of a class, its own first, then those of the classes that it inherits from."""
    every = {field.name: field for field in dataclasses.fields(kind) if field.metadata}
    for owner in kind.__mro__:
        for name in owner.__dict__.get("__annotations__", {}):
            if name in every:
                yield every.pop(name)


def _literals(hint: Any) -> tuple[str, ...]:
    """The words of a ``Literal``, or of one of the types that a value may have."""
    if typing.get_origin(hint) is typing.Literal:
        return typing.get_args(hint)
    return next((found for part in typing.get_args(hint) if (found := _literals(part))), ())


def add_options(parser: argparse.ArgumentParser, kind: type[Options]) -> None:
    """Add every option of a class to a parser; negative numbers with an exponent are values there.

    Args:
        parser: of the verb.
        kind: its options.
    """
    parser._negative_number_matcher = re.compile(
        r"-(\d+\.?\d*|\.\d+)(e[-+]?\d+)?$|-(inf|nan)$", re.IGNORECASE
    )
    hints = typing.get_type_hints(kind)
    groups: dict[str, Any] = {"": parser}
    exclusive: dict[str, Any] = {}
    for field in _fields(kind):
        words, flags = dict(field.metadata[_WORDS]), field.metadata["flags"]
        if choices := _literals(hints[field.name]):
            words["choices"] = choices
        if flags is None:
            if field.default is not dataclasses.MISSING:
                words["default"] = field.default
            parser.add_argument(field.name, **words)
            continue
        title = field.metadata["group"]
        if title not in groups:
            groups[title] = parser.add_argument_group(title)
        place, one_of = groups[title], field.metadata["one_of"]
        if one_of:
            place = exclusive.setdefault(one_of, None) or place.add_mutually_exclusive_group()
            exclusive[one_of] = place
        if words.get("action") != "append":
            words["default"] = field.default
        flags = flags or ("--" + field.name.replace("_", "-"),)
        place.add_argument(*flags, dest=field.name, **words)


def collect(kind: type[O], args: argparse.Namespace) -> O:
    """The options of a verb from what argparse read.

    Args:
        kind: the class.
        args: has a value for each of its fields.

    Raises:
        ConfigError: options contradict each other, or a file or folder cannot be written.
    """
    values: dict[str, Any] = {}
    for field in _fields(kind):
        value = getattr(args, field.name)
        if field.metadata[_WORDS].get("action") == "append" and value is None:
            value = ()
        values[field.name] = tuple(value) if isinstance(value, list) else value
        if field.metadata.get("writes") and value:
            flag = next(f for f in (*field.metadata["flags"], f"--{field.name}") if "--" in f)
            for path in value if isinstance(value, (list, tuple)) else (value,):
                _require_writable(flag, pathlib.Path(path), field.metadata["writes"])
    return kind(**values)


def _require_writable(flag: str, path: pathlib.Path, what: str) -> None:
    """Say before the work, not after it, that its result could not be written."""
    from ..io.files import entry_kind  # io needs numpy, which --help does without

    found = entry_kind(path)
    if found is not None and what in ("file", "folder") and found != what:
        raise ConfigError(f"{flag} {path}: is a {found}; name a {what}")
    above = path if found else path.parent
    while not above.exists() and above != above.parent:
        above = above.parent
    if found or above.is_dir():
        if os.access(above, os.W_OK):
            return
        raise ConfigError(f"{flag} {path}: {above} may not be written; choose another place")
    raise ConfigError(f"{flag} {path}: {above} is a file, not a folder; choose another place")


class Number:
    """argparse type: a finite number, ``above`` one and of at ``least`` another."""

    def __init__(
        self, kind: type[float] = float, above: float = -math.inf, least: float = -math.inf
    ) -> None:
        self.kind, self.above, self.least = kind, above, least

    def __call__(self, text: str) -> float:
        """The number.

        Raises:
            ArgumentTypeError: it is none, or not allowed.
        """
        try:
            value = self.kind(text)
        except ValueError:
            value = math.nan
        if math.isfinite(value) and value > self.above and value >= self.least:
            return value
        bound = (
            f" above {self.above:g}"
            if self.above > -math.inf
            else f" of at least {self.least:g}"
            if self.least > -math.inf
            else ""
        )
        raise argparse.ArgumentTypeError(
            f"'{text}': {'an integer' if self.kind is int else 'a finite number'}{bound} is needed"
        )


class Integers:
    """argparse type: so many comma-separated integers."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __call__(self, text: str) -> tuple[int, ...]:
        """The integers.

        Raises:
            ArgumentTypeError: others, or another number of them.
        """
        try:
            values = tuple(int(v) for v in text.split(","))
        except ValueError:
            values = ()
        if len(values) != self.count:
            raise argparse.ArgumentTypeError(
                f"'{text}': {self.count} integers with commas are needed"
            )
        return values


class Ending:
    """argparse type: a file whose name has one of these endings, before any work is done."""

    def __init__(self, *endings: str) -> None:
        self.endings = endings

    def __call__(self, text: str) -> pathlib.Path:
        """The file.

        Raises:
            ArgumentTypeError: another ending.
        """
        if not text.lower().endswith(tuple(ending.lower() for ending in self.endings)):
            raise argparse.ArgumentTypeError(
                f"'{text}': the name must end in {', '.join(self.endings[:-1])} or "
                f"{self.endings[-1]}"
            )
        return pathlib.Path(text)


def filled(text: str) -> str:
    """argparse type: not empty, as an unset shell variable would be.

    Raises:
        ArgumentTypeError: it is.
    """
    if not text.strip():
        raise argparse.ArgumentTypeError("is empty; give a value or leave the option away")
    return text
