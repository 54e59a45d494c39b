"""What goes to a terminal: text only, and how far long work is.

Names of files and keys in files come from others and may hold control characters (which move the
cursor, or set a terminal's title) or bytes that are no text at all.
"""

from __future__ import annotations

import contextlib
import os
import sys
import weakref
from collections.abc import Callable, Iterator
from typing import Any, TextIO

from .errors import printable

__all__ = ["Plain", "Progress", "close_bars", "figures", "keep_numbers", "plain_streams"]

#: What programs write on purpose: new lines, tabs, and going back on progress bars.
_MEANT = "\n\t\r"
_OPEN: weakref.WeakSet[Progress] = weakref.WeakSet()


class Plain:
    """A text stream that escapes control characters and what its encoding lacks.

    Where its reader has gone (``| head -1``) the rest is not said, and the work goes on. Of what a
    notebook or a script put in place of a stream, ``write`` is enough.
    """

    def __init__(self, stream: TextIO, name: str = "") -> None:
        """
        Args:
            stream: where text goes.
            name: named by the error of a full disk; empty: of what nobody needs, which is lost
                there without one.
        """
        self._stream, self._name = stream, name

    def write(self, text: str) -> int:
        """Write ``text``; returns its length.

        Raises:
            OSError: a full disk.
        """
        if not text.isprintable():
            text = "".join(c if c in _MEANT else printable(c) for c in text)
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        plain = text.encode(encoding, "backslashreplace").decode(encoding)
        self._do(lambda: self._stream.write(plain))
        return len(text)

    def writelines(self, lines: Any) -> None:
        """Write each of them."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Write what waits.

        Raises:
            OSError: a full disk.
        """
        self._do(getattr(self._stream, "flush", lambda: None))

    def _do(self, call: Callable[[], Any]) -> None:
        try:
            call()
        except OSError as error:
            with contextlib.suppress(AttributeError, OSError), open(os.devnull, "w") as nowhere:
                os.dup2(nowhere.fileno(), self._stream.fileno())  # also what waits already
            if self._name and not isinstance(error, BrokenPipeError):
                raise OSError(error.errno, error.strerror, self._name) from error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def figures(value: float, count: int = 3) -> str:
    """``value`` with ``count`` significant figures; large ones as whole numbers: 1767, 52.4."""
    text = f"{value:.{count}g}"
    return f"{value:.0f}" if "e+" in text else text


def keep_numbers() -> None:
    """Let descriptors 0 to 2 that are closed lead nowhere.

    A file would get their numbers, and what libraries write to standard error.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


@contextlib.contextmanager
def plain_streams() -> Iterator[None]:
    """Standard output and error through :class:`Plain` for as long as a command runs; a closed one
    leads nowhere.
    """
    before = sys.stdout, sys.stderr
    with open(os.devnull, "w") as nowhere:
        out, err = (nowhere if s is None or getattr(s, "closed", False) else s for s in before)
        sys.stdout, sys.stderr = Plain(out, "standard output"), Plain(err)
        try:
            yield
        finally:
            for stream in (sys.stdout, sys.stderr):
                with contextlib.suppress(OSError):  # its end is no place for an error any more
                    stream.flush()
            sys.stdout, sys.stderr = before


class Progress:
    """A bar with the time left, on standard error: edges times passes of one large structure, steps
    of a training, structures, runs or k-points."""

    def __init__(
        self, name: str, total: int, show: bool, unit: str = "edge", done: int = 0
    ) -> None:
        """
        Args:
            name: of what is done.
            total: units of all of it.
            show: False: there is no bar.
            unit: what is counted.
            done: units that were done earlier.
        """
        self._bar = None
        if show:
            from tqdm import tqdm

            self._bar = tqdm(
                total=total,
                initial=done,
                desc=name,
                unit=unit,
                unit_scale=unit == "edge",
                dynamic_ncols=True,
                leave=False,
            )
            _OPEN.add(self)

    def tick(self, step: str, count: int) -> None:
        """So many more are done, in this step."""
        if self._bar is not None:
            self._bar.set_postfix_str(step, refresh=False)
            self._bar.update(count)

    def at(self, done: int, total: int) -> None:
        """So many of so many are done."""
        if self._bar is not None:
            self._bar.total = total
            self._bar.update(done - self._bar.n)

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """Take the bar away while lines are printed."""
        if self._bar is not None:
            self._bar.clear()
        yield
        if self._bar is not None:
            self._bar.refresh()

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.close()


def close_bars() -> None:
    """Take away the bars of work that has ended before its time."""
    for bar in list(_OPEN):
        bar.close()
        _OPEN.discard(bar)
