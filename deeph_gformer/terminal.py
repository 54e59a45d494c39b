"""What goes to a terminal: text only.

Names of files and keys in files come from others and may hold control characters (which move the
cursor, or set a terminal's title) or bytes that are no text at all.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any, TextIO

from .errors import printable

__all__ = ["Plain", "plain_streams"]

#: What programs write on purpose: new lines, tabs, and going back on progress bars.
_MEANT = "\n\t\r"


class Plain:
    """A text stream that escapes control characters and what its encoding lacks."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write ``text``; returns its length."""
        if not text.isprintable():
            text = "".join(c if c in _MEANT else printable(c) for c in text)
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        self._stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        return len(text)

    def writelines(self, lines: Any) -> None:
        """Write each of them."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def plain_streams() -> Iterator[None]:
    """Standard output and error through :class:`Plain` for as long as a command runs."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = Plain(sys.stdout), Plain(sys.stderr)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
