"""The folder of a training run: who has it, where it stands, what it says to a later one."""

from __future__ import annotations

import contextlib
import os
import pathlib
import socket
from collections.abc import Iterator

from ..errors import ConfigError
from ..stopping import Stopped

__all__ = ["locked", "LOCK_FILE"]

LOCK_FILE = "lock"


def _take(path: pathlib.Path) -> int | None:
    """Descriptor of the locked file; None where the file system has no locks."""
    import fcntl

    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(descriptor, 200, 0).decode(errors="replace").strip() or "another"
            os.close(descriptor)
            raise ConfigError(
                f"{path.parent}: is in use by {owner}, a training that runs; wait for it, stop it, "
                "or choose another output"
            ) from None
        except OSError:
            os.close(descriptor)
            return None
        try:
            same = os.fstat(descriptor).st_ino == path.stat().st_ino
        except FileNotFoundError:
            same = False
        if same:  # else its owner removed it meanwhile
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
            return descriptor
        os.close(descriptor)


@contextlib.contextmanager
def locked(folder: pathlib.Path, first: bool) -> Iterator[None]:
    """Keep a run folder for this process; the operating system frees it when the process dies.

    A stop that is not told yet is told with how to go on.

    Args:
        folder: of the run; made where it is not there, and removed again if it stays empty.
        first: whether this is the first rank; the others take no lock.

    Raises:
        ConfigError: another training has the folder.
    """
    if not first:
        yield
        return
    made = [p for p in (folder, *folder.parents) if not p.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / LOCK_FILE
    descriptor = None
    try:
        descriptor = _take(path)
        yield
    except Stopped as stop:
        if not stop.note:
            stop.note = how_to_go_on(folder)
        raise
    finally:
        if descriptor is not None:
            path.unlink(missing_ok=True)
            os.close(descriptor)
        for empty in made:
            with contextlib.suppress(OSError):
                empty.rmdir()


def how_to_go_on(folder: pathlib.Path, where: str = "") -> str:
    """The end of a stop's message.

    Args:
        folder: of the run.
        where: e.g. ``in epoch 3 of 10``.
    """
    if (folder / "checkpoints" / "last.ckpt").is_file():
        where = where or "outside the epochs"
        return f"{where}; go on with --resume --output {folder}"
    return f"{where or 'before the first epoch'}; nothing is kept of it, start it again"
