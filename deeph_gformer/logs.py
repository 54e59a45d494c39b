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

__all__ = ["LOGGER", "log_to"]

LOGGER = logging.getLogger("deeph_gformer")
_WORDS = {logging.DEBUG: "detail", logging.INFO: "note", logging.WARNING: "warning"}


class _Terminal(logging.Handler):
    """One line on standard error, as that is at the moment."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print it."""
        word = _WORDS.get(record.levelno, record.levelname.lower())
        print(f"{word}: {record.getMessage()}", file=sys.stderr, flush=True)


_TERMINAL = _Terminal(logging.INFO)
LOGGER.addHandler(_TERMINAL)
LOGGER.setLevel(logging.INFO)


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
    handler: logging.Handler | None = None
    if file is not None:
        try:
            handler = logging.FileHandler(file, encoding="utf-8", errors="backslashreplace")
        except OSError as error:
            raise ConfigError(f"--log-file {file}: cannot be written ({error.strerror})") from None
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s"))
        LOGGER.addHandler(handler)
    _TERMINAL.setLevel(level)
    LOGGER.setLevel(level if handler is None else logging.DEBUG)
    try:
        yield
    finally:
        LOGGER.setLevel(before[0])
        _TERMINAL.setLevel(before[1])
        if handler is not None:
            LOGGER.removeHandler(handler)
            handler.close()
