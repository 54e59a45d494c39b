"""A training that is told to stop (SIGTERM of a batch system, Ctrl-C) ends with one line, whole
files and its own exit code.

Both signals raise :class:`Stopped` in the main thread, which is no ``Exception``: only who has to
tidy up catches it. After the first one further signals are ignored, so that tidying up is not
interrupted.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from types import FrameType

__all__ = ["Stopped", "install", "shielded", "stoppable"]

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(BaseException):
    """A signal asked this process to end.

    Attributes:
        signum: the signal.
        note: where the work stood and how to go on; filled in by who knows.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum, self.note = signum, ""

    @property
    def code(self) -> int:
        """Exit code as of a shell: 130 for Ctrl-C, 143 for SIGTERM."""
        return 128 + self.signum

    def __str__(self) -> str:
        name = "Ctrl-C" if self.signum == signal.SIGINT else signal.Signals(self.signum).name
        note = self.note or "before training began; give the same command to start again"
        return f"stopped by {name}{'' if note.startswith(';') else ' '}{note}"


_state = {"shields": 0, "pending": 0, "stopped": 0, "process": 0}


def _stop(signum: int, frame: FrameType | None) -> None:
    if _state["process"] != os.getpid():  # a worker, forked since: it has nothing to tidy up
        signal.signal(signum, signal.SIG_DFL)
        os.kill(os.getpid(), signum)
    if _state["stopped"]:
        return
    if _state["shields"]:
        _state["pending"] = signum
        return
    _state["stopped"] = signum
    raise Stopped(signum)


def install(signals: Sequence[int] = SIGNALS) -> None:
    """Let signals raise :class:`Stopped`; nothing outside the main thread."""
    if threading.current_thread() is threading.main_thread():
        _state["process"] = os.getpid()
        for number in signals:
            signal.signal(number, _stop)


@contextlib.contextmanager
def stoppable(signals: Sequence[int] = SIGNALS, last: bool = False) -> Iterator[None]:
    """:func:`install` for a while; the handlers of before come back.

    Args:
        signals: that raise :class:`Stopped`.
        last: nothing follows in this process: both signals are ignored then. Its work is done, and
            Python, while it ends, would die of them without a word.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = [signal.getsignal(number) for number in signals]
    _state.update(shields=0, pending=0, stopped=0)
    install(signals)
    try:
        yield
    finally:
        for number, handler in zip(signals, before, strict=True):
            signal.signal(number, handler)
        for own in SIGNALS if last else ():
            signal.signal(own, signal.SIG_IGN)


def installed() -> bool:
    """Whether signals raise :class:`Stopped` now."""
    return signal.getsignal(signal.SIGTERM) is _stop


@contextlib.contextmanager
def shielded() -> Iterator[None]:
    """A signal that comes meanwhile is heard at the end: for files that belong together, and for
    the moment between a file's making and the note that it must go.

    Ctrl-C is held back where it raises KeyboardInterrupt, too. Only the main thread hears signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    python = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if python:
        signal.signal(signal.SIGINT, _hold)
    _state["shields"] += 1
    try:
        yield
    finally:
        _state["shields"] -= 1
        if python:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        if not _state["shields"] and _state["pending"]:
            signum, _state["pending"] = _state["pending"], 0
            if signal.getsignal(signum) is signal.default_int_handler:
                raise KeyboardInterrupt
            _stop(signum, None)


def _hold(signum: int, frame: FrameType | None) -> None:
    _state["pending"] = signum
