"""A process that dies, or is told to stop, before or after its n-th file operation.

Every try is a fork of a process that has imported everything, so it costs what the work costs.
"""

from __future__ import annotations

import builtins
import errno
import io
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from deeph_gformer.io import replace

__all__ = ["Ended", "deaths", "killed_at", "run_until"]

#: What changes files, or begins to; ``open`` comes on top.
_OPERATIONS = (
    (os, ("rename", "replace", "unlink", "remove", "mkdir", "rmdir", "chmod", "fsync", "link")),
    (os, ("symlink", "truncate", "ftruncate", "posix_fallocate", "pwrite")),
    (shutil, ("rmtree", "copymode", "move", "copyfileobj")),
    (tempfile, ("mkstemp", "mkdtemp")),
    (replace, ("_exchange",)),
)
#: Those that a full disk does not hinder.
_FREES = ("rename", "replace", "unlink", "remove", "rmdir", "chmod", "rmtree", "copymode")


class Ended(NamedTuple):
    """How a child process ended.

    Attributes:
        code: exit code; negative: the signal that ended it.
        steps: how many it did, where it came to its end.
        said: standard error.
        failed: the operation that failed.
        told: standard output.
        seconds: processor time.
        peak: most memory, bytes; what the parent has counts.
    """

    code: int
    steps: int
    said: str
    failed: str = ""
    told: str = ""
    seconds: float = 0.0
    peak: int = 0


def run_until(
    step: int, work: Callable[[], Any], number: int = signal.SIGKILL, lasting: bool = False
) -> Ended:
    """Do the work in a child process that sends itself a signal at one step.

    Args:
        step: twice the number of the file operation, plus one for its end; -1: no signal.
        work: what to do; its integer is the exit code. Nothing of it reaches this process.
        number: the signal; or an errno, negative: the operation fails with it.
        lasting: later operations that need space fail, too.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    read, write = os.pipe()
    with tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as told:
        child = os.fork()
        if child == 0:
            _child(step, work, number, lasting, write, (told.fileno(), said.fileno()))
        os.close(write)
        with os.fdopen(read) as counted:
            words = counted.read().split()
        _, status, used = os.wait4(child, 0)
        texts = []
        for stream in (said, told):
            stream.seek(0)
            texts.append(stream.read().decode(errors="replace"))
    count = next((int(word) for word in words if word.isdigit()), 0)
    failed = next((word for word in words if not word.isdigit()), "")
    seconds = used.ru_utime + used.ru_stime
    code = os.waitstatus_to_exitcode(status)
    return Ended(code, count, texts[0], failed, texts[1], seconds, used.ru_maxrss * 1024)


def _child(
    step: int,
    work: Callable[[], Any],
    number: int,
    lasting: bool,
    write: int,
    streams: tuple[int, int],
) -> None:
    code = 1
    try:
        os.dup2(streams[0], 1)
        os.dup2(streams[1], 2)
        # the streams of a test runner do not reach the descriptors
        sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)
        sys.__stdout__, sys.__stderr__ = sys.stdout, sys.stderr  # type: ignore[misc]
        steps = _arm(step, number, lasting, write)
        code = int(work() or 0)
        os.write(write, str(steps()).encode())
    except BaseException:  # noqa: BLE001 - a child must not go on as a second parent
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def killed_at(step: int, work: Callable[[], Any]) -> tuple[bool, int]:
    """Do the work in a child process that is killed at one step; see :func:`run_until`.

    Returns:
        Whether it died there, and how many steps it did where it lived.
    """
    ended = run_until(step, work)
    assert ended.code in (0, -signal.SIGKILL), f"the work failed at step {step}: {ended.said}"
    return ended.code != 0, ended.steps


class _Fault:
    """Counts the file operations of this process, and lets one of them be its last, or fail."""

    def __init__(self, step: int, number: int, lasting: bool, tell: int) -> None:
        self.step, self.number, self.lasting, self.tell = step, number, lasting, tell
        self.count, self.fired = 0, False

    def tick(self, name: str, before: bool) -> None:
        """One end of an operation.

        Raises:
            OSError: it fails.
        """
        self.count += 1
        if self.number > 0 and self.count - 1 == self.step:
            os.kill(os.getpid(), self.number)
        if self.number > 0 or not before or not 0 <= self.step < self.count:
            return
        if (self.lasting or not self.fired) and _can_fail(name, -self.number):
            if not self.fired:
                os.write(self.tell, f"{name} ".encode())
            self.fired = True
            raise OSError(-self.number, os.strerror(-self.number))

    def watched(self, call: Callable[..., Any], name: str) -> Callable[..., Any]:
        """The operation, with both its ends."""

        def inner(*args: Any, **options: Any) -> Any:
            self.tick(name, True)
            try:
                return call(*args, **options)
            finally:
                self.tick(name, False)

        return inner


def _can_fail(name: str, code: int) -> bool:
    """Whether an operation itself, none that it is made of, fails like this."""
    if name in ("rmtree", "copymode", "move", "mkstemp", "mkdtemp", "_exchange"):
        return False
    if code == errno.EXDEV:
        return name in ("rename", "replace", "link")
    return name not in _FREES or code in (errno.EROFS, errno.EACCES, errno.EIO)


def _arm(step: int, number: int, lasting: bool, tell: int) -> Callable[[], int]:
    fault = _Fault(step, number, lasting, tell)
    for module, names in _OPERATIONS:
        for name in names:
            setattr(module, name, fault.watched(getattr(module, name), name))
    plain, low = builtins.open, os.open
    plain_watched, low_watched = fault.watched(plain, "open"), fault.watched(low, "open")

    def opened(file: Any, mode: str = "r", *args: Any, **options: Any) -> Any:
        call = plain_watched if set(mode) & set("wax+") else plain
        return call(file, mode, *args, **options)

    def opened_low(file: Any, flags: int, *args: Any, **options: Any) -> int:
        call = low_watched if flags & (os.O_WRONLY | os.O_RDWR) else low
        return int(call(file, flags, *args, **options))

    builtins.open = io.open = opened  # type: ignore[assignment]
    os.open = opened_low
    return lambda: fault.count


def deaths(work: Callable[[], Any], prepare: Callable[[int], None], most: int) -> Iterator[int]:
    """Kill the work at each of its steps in turn, or at ``most`` of them, evenly spread.

    Args:
        work: see :func:`killed_at`.
        prepare: called with the step before each try; makes the state that the work starts from.
        most: how many.

    Yields:
        The step at which it just died.
    """
    prepare(-1)
    died, total = killed_at(-1, work)
    assert not died and total > 8, f"{total} file operations: is anything written?"
    for number in range(min(most, total)):
        step = number * total // min(most, total)
        prepare(step)
        assert killed_at(step, work)[0], f"step {step} of {total} was not reached"
        yield step
