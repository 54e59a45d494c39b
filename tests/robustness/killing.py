"""A process that dies, or is told to stop, before or after its n-th file operation.

Every try is a fork of a process that has imported everything, so it costs what the work costs.
"""

from __future__ import annotations

import builtins
import io
import os
import pathlib
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

__all__ = ["Ended", "deaths", "killed_at", "run_until", "tree"]

#: What changes files, or begins to; ``open`` comes on top.
_OPERATIONS = (
    (os, ("rename", "replace", "unlink", "remove", "mkdir", "rmdir", "chmod", "fsync", "link")),
    (os, ("symlink", "truncate", "ftruncate", "posix_fallocate", "pwrite")),
    (shutil, ("rmtree", "copymode", "move", "copyfileobj")),
    (tempfile, ("mkstemp", "mkdtemp")),
)


class Ended(NamedTuple):
    """How a child process ended.

    Attributes:
        code: exit code; negative: the signal that ended it.
        steps: how many it did, where it came to its end.
        said: standard error.
    """

    code: int
    steps: int
    said: str


def run_until(step: int, work: Callable[[], Any], number: int = signal.SIGKILL) -> Ended:
    """Do the work in a child process that sends itself a signal at one step.

    Args:
        step: twice the number of the file operation, plus one for its end; -1: no signal.
        work: what to do; its integer is the exit code. Nothing of it reaches this process.
        number: the signal; or an errno, negative: the operation fails with it.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    read, write = os.pipe()
    with tempfile.TemporaryFile() as said:
        child = os.fork()
        if child == 0:
            _child(step, work, number, write, said.fileno())
        os.close(write)
        with os.fdopen(read) as told:
            count = told.read()
        _, status = os.waitpid(child, 0)
        said.seek(0)
        text = said.read().decode(errors="replace")
    return Ended(os.waitstatus_to_exitcode(status), int(count or 0), text)


def _child(step: int, work: Callable[[], Any], number: int, write: int, said: int) -> None:
    code = 1
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(said, 2)
        # the streams of a test runner do not reach the descriptors
        sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)
        sys.__stdout__, sys.__stderr__ = sys.stdout, sys.stderr  # type: ignore[misc]
        steps = _arm(step, number)
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


def _arm(step: int, number: int) -> Callable[[], int]:
    count = 0

    def tick() -> None:
        nonlocal count
        count += 1
        if count - 1 == step and number > 0:
            os.kill(os.getpid(), number)
        elif count - 1 == step:
            raise OSError(-number, os.strerror(-number))

    def watched(call: Callable[..., Any]) -> Callable[..., Any]:
        def inner(*args: Any, **options: Any) -> Any:
            tick()
            made = call(*args, **options)
            tick()
            return made

        return inner

    for module, names in _OPERATIONS:
        for name in names:
            setattr(module, name, watched(getattr(module, name)))
    plain, low = builtins.open, os.open

    def opened(file: Any, mode: str = "r", *args: Any, **options: Any) -> Any:
        if not set(mode) & set("wax+"):
            return plain(file, mode, *args, **options)
        tick()
        handle = plain(file, mode, *args, **options)
        tick()
        return handle

    def opened_low(file: Any, flags: int, *args: Any, **options: Any) -> int:
        if not flags & (os.O_WRONLY | os.O_RDWR):
            return low(file, flags, *args, **options)
        tick()
        descriptor = low(file, flags, *args, **options)
        tick()
        return descriptor

    builtins.open = io.open = opened  # type: ignore[assignment]
    os.open = opened_low
    return lambda: count


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


def tree(root: pathlib.Path) -> dict[str, bytes]:
    """Every file below a folder and its bytes."""
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}
