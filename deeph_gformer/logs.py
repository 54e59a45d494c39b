"""What is said beside results: notes, warnings and, where asked for, details.

Every module speaks through ``logging.getLogger(__name__)``: ``info`` is a note, ``debug`` a detail
(what was read and written). Notes and warnings go to standard error, also from a script;
``logging.getLogger("deeph_gformer").setLevel(logging.ERROR)`` silences them there.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Iterator

from .errors import ConfigError

__all__ = ["LOGGER", "PRINTED", "log_to", "logged_in", "shows_progress"]

#: ``extra`` of what standard output has already: it goes to files only.
PRINTED = {"printed": True}

LOGGER = logging.getLogger("deeph_gformer")
_WORDS = {logging.DEBUG: "detail", logging.INFO: "note", logging.WARNING: "warning"}


class _Terminal(logging.Handler):
    """One line on standard error, as that is at the moment."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print it."""
        if getattr(record, "printed", False):
            return
        word = _WORDS.get(record.levelno, record.levelname.lower())
        print(f"{word}: {record.getMessage()}", file=sys.stderr, flush=True)


_TERMINAL = _Terminal(logging.INFO)
LOGGER.addHandler(_TERMINAL)
LOGGER.setLevel(logging.INFO)


def shows_progress() -> bool:
    """Whether standard error is a terminal on which notes, and so progress, are wanted."""
    return sys.stderr.isatty() and max(_TERMINAL.level, LOGGER.level) <= logging.INFO


@contextlib.contextmanager
def logged_in(file: str | os.PathLike[str], level: int, what: str = "") -> Iterator[None]:
    """Also write what is said into a file, with times; what it holds already stays.

    Args:
        file: text.
        level: of what it gets.
        what: named before the file in a message, e.g. an option.

    Raises:
        ConfigError: it cannot be written.
    """
    try:
        handler = logging.FileHandler(file, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise ConfigError(f"{what}{file}: cannot be written ({error.strerror})") from None
    handler.setLevel(level)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s"))
    before = LOGGER.level
    LOGGER.addHandler(handler)
    LOGGER.setLevel(min(before, level))
    try:
        yield
    finally:
        LOGGER.setLevel(before)
        LOGGER.removeHandler(handler)
        handler.close()


@contextlib.contextmanager
def log_to(level: int, file: str | os.PathLike[str] | None = None) -> Iterator[None]:
    """What is said for a while.

    Args:
        level: of what goes to standard error.
        file: gets everything, with times; what it holds already stays.

    Raises:
        ConfigError: it cannot be written.
    """
    before = LOGGER.level, _TERMINAL.level
    _TERMINAL.setLevel(level)
    LOGGER.setLevel(level)
    try:
        if file is None:
            yield
        else:
            with logged_in(file, logging.DEBUG, "--log-file "):
                yield
    finally:
        LOGGER.setLevel(before[0])
        _TERMINAL.setLevel(before[1])
