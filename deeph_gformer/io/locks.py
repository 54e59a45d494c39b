"""Processes that write into one folder: each shows that it lives, and leftovers of dead ones go.

A lock of a folder is kept as long as its descriptor is open; the system drops it with the process.
"""

from __future__ import annotations

import contextlib
import errno
import os
import pathlib
import time
from collections.abc import Iterator

from ..logs import LOGGER

__all__ = ["alone", "await_writers", "begin_file", "hold_folder", "lock_folder", "take_lock"]

#: Seconds to wait for other processes. Each takes milliseconds, on a slow disk seconds; after that
#: it goes on without the lock, which one that was halted may hold for ever.
PATIENCE = 60.0
#: Seconds after which waiting is told of.
_SILENT = 3.0


@contextlib.contextmanager
def alone(parent: pathlib.Path) -> Iterator[None]:
    """Of all processes, only this one gives folders in ``parent``, and what belongs together in
    them, their names, where the system has locks.

    Args:
        parent: its path.
    """
    descriptor = lock_folder(parent, PATIENCE)
    try:
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


def await_writers(folder: pathlib.Path, patience: float = 2.0) -> None:
    """Wait for processes that write files in a folder: of two that belong together, the one that
    tells of the other is not there for a moment.

    Args:
        folder: its path.
        patience: seconds at most.
    """
    descriptor = lock_folder(folder, patience)
    if descriptor is not None:
        os.close(descriptor)


def hold_folder(folder: pathlib.Path) -> int | None:
    """Show that a living process writes in a folder, as long as the descriptor is open.

    A process that removes leftovers at this moment is waited for: what is made before could be
    taken for one.

    Args:
        folder: its path.

    Returns:
        None where it cannot be opened.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return None
    take_lock(descriptor, folder, False, PATIENCE)
    return descriptor


def lock_folder(folder: pathlib.Path, patience: float = 0.0) -> int | None:
    """Take a folder for this process alone, as long as the descriptor is open.

    Args:
        folder: its path.
        patience: seconds to wait for others.

    Returns:
        None where a living process writes in it, it cannot be opened, or the system has no locks.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return None
    if take_lock(descriptor, folder, True, patience):
        return descriptor
    os.close(descriptor)
    return None


def take_lock(descriptor: int, folder: pathlib.Path, exclusive: bool, patience: float) -> bool:
    """Lock an open folder, and wait a little for others.

    Args:
        descriptor: of the folder; a lock that it has already is given up for this one.
        folder: its path, for the message where this takes long.
        exclusive: against everybody; otherwise against exclusive locks only.
        patience: seconds at most; a lock may be held for long on some file systems.

    Returns:
        False where it could not be had, or the system has no locks.
    """
    try:
        import fcntl
    except ImportError:
        return False
    kind = fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH
    begin, told = time.monotonic(), False
    while True:
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            waited = time.monotonic() - begin
            if waited >= patience:
                return False
            if waited >= _SILENT and not told:
                told = True
                LOGGER.warning(
                    "%s: another process has it locked; waiting, %g s at most", folder, patience
                )
        except OSError:
            return False
        time.sleep(1e-3)


def begin_file(folder: pathlib.Path, name: str) -> tuple[int | None, pathlib.Path]:
    """An empty file in the making; those that killed processes left for the same name go.

    Args:
        folder: where.
        name: what it will be called.

    Returns:
        Descriptor that shows, as long as it is open, that a living process writes in the folder
        (None where the system knows no locks), and the file.

    Raises:
        OSError: it cannot be made.
    """
    short = os.fsdecode(os.fsencode(name)[:200])
    descriptor = lock_folder(folder)
    if descriptor is not None:
        for number in range(8):
            with contextlib.suppress(OSError):
                os.unlink(folder / f".{short}.{number}.tmp")
        # not in one step: another one may come between
        take_lock(descriptor, folder, False, PATIENCE)
    else:
        descriptor = hold_folder(folder)
    try:
        for number in range(1000):
            path = folder / f".{short}.{number}.tmp"
            with contextlib.suppress(FileExistsError):
                made = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
                try:
                    os.close(made)
                except OSError:
                    os.unlink(path)
                    raise
                return descriptor, path
        raise OSError(errno.EEXIST, f"a thousand files .{short}.*.tmp are there")
    except BaseException:
        if descriptor is not None:
            os.close(descriptor)
        raise
