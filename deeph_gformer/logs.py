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

from .errors import ConfigError, printable

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


class _File(logging.FileHandler):
    """A log. Where its disk fails, a warning says so once, and the work goes on without it."""

    failed = False

    def emit(self, record: logging.LogRecord) -> None:
        """Write it."""
        if not self.failed:
            super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:  # logging's name
        """What is to be done with an error of :meth:`emit`."""
        error = sys.exc_info()[1]
        if isinstance(error, OSError):
            self._give_up(error)
        else:
            super().handleError(record)

    def close(self) -> None:
        """Write what waits, and close the file."""
        try:
            super().close()
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        if self.failed:
            return
        self.failed = True
        name = printable(str(self.baseFilename))
        LOGGER.warning("%s: lines are missing from this log (%s)", name, error.strerror or error)


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
        handler = _File(file, encoding="utf-8", errors="backslashreplace")
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
