"""A process that dies before or after its n-th file operation, as a power cut or ``kill -9`` would have it."""

from __future__ import annotations

import builtins
import os
import pathlib
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

__all__ = ["deaths", "killed_at", "tree"]

#: What changes files, or begins to.
_OPERATIONS = (
    (os, ("rename", "replace", "unlink", "mkdir", "rmdir", "chmod", "fsync", "link", "symlink")),
    (shutil, ("rmtree", "copymode", "move")),
    (tempfile, ("mkstemp", "mkdtemp")),
)
CODE = 86


def killed_at(step: int, work: Callable[[], Any]) -> tuple[bool, int]:
    """Do the work in a child process that dies at one step.

    Args:
        step: twice the number of the file operation, plus one for its end; -1: it lives.
        work: what to do; nothing of it reaches this process.

    Returns:
        Whether it died there, and how many steps it did where it lived.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            os.dup2(1, 2)
            steps = _arm(step)
            work()
            os.write(write, str(steps()).encode())
            os._exit(0)
        except BaseException:  # noqa: BLE001 - a child must not go on as a second pytest
            os._exit(1)
    os.close(write)
    with os.fdopen(read) as told:
        count = told.read()
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code in (0, CODE), f"the work itself failed ({code}) at step {step}"
    return code == CODE, int(count or 0)


def _arm(step: int) -> Callable[[], int]:
    count = 0

    def tick() -> None:
        nonlocal count
        if count == step:
            os._exit(CODE)
        count += 1

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
    plain = builtins.open

    def opened(file: Any, mode: str = "r", *args: Any, **options: Any) -> Any:
        if not set(mode) & set("wax+"):
            return plain(file, mode, *args, **options)
        tick()
        handle = plain(file, mode, *args, **options)
        tick()
        return handle

    builtins.open = opened  # type: ignore[assignment]
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
