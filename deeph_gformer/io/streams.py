"""What is written to and not replaced: pipes, devices, open files of this process."""

from __future__ import annotations

import errno
import os
import pathlib
import shutil
import stat
import sys
import time

from ..errors import DataError

__all__ = ["is_stream", "write_through"]


def is_stream(target: pathlib.Path) -> bool:
    """Whether ``target`` is written to, not replaced: a pipe, device, open file of this process.

    Raises:
        DataError: it is a folder or a socket.
        OSError: it cannot be looked at.
    """
    if _descriptor(target) is not None:
        return True
    try:
        mode = target.stat().st_mode
    except FileNotFoundError:
        return False
    except ValueError as error:  # a NUL in its name
        raise DataError(f"{target!r}: no name of a file ({error})") from None
    if stat.S_ISDIR(mode) or stat.S_ISSOCK(mode):
        kind = "folder" if stat.S_ISDIR(mode) else "socket"
        raise DataError(f"{target}: is a {kind}, and a file is to be written; name another one")
    return not stat.S_ISREG(mode)


def _descriptor(target: pathlib.Path) -> int | None:
    """The number of an open file of this process that ``target`` names, as /dev/stdout does."""
    names = {"/dev/stdout": 1, "/dev/stderr": 2}
    if str(target) in names:
        return names[str(target)]
    own = str(target.parent) in ("/dev/fd", "/proc/self/fd", f"/proc/{os.getpid()}/fd")
    return int(target.name) if own and target.name.isdigit() else None


def write_through(source: pathlib.Path, target: pathlib.Path) -> None:
    """Copy a finished file into a pipe or device.

    Raises:
        OSError: it cannot be opened (a pipe that nobody reads for 5 s), or is full.
    """
    number = _descriptor(target)
    if number is not None:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        descriptor = os.dup(number)
    else:
        for attempt in range(51):
            try:
                descriptor = os.open(target, os.O_WRONLY | os.O_NONBLOCK)
                break
            except OSError as error:
                if error.errno != errno.ENXIO or attempt == 50:
                    raise
                time.sleep(0.1)
        os.set_blocking(descriptor, True)
    with open(source, "rb") as read, open(descriptor, "wb") as write:
        shutil.copyfileobj(read, write)
