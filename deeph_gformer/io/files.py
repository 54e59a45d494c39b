"""The one place that opens files to read, and that writes them whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import pathlib
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import h5py

from ..errors import DataError, GFormerError
from .parsing import parse_json

__all__ = [
    "MAX_TEXT",
    "require_file",
    "real_path",
    "read_text",
    "read_json",
    "atomic_path",
    "atomic_hdf5",
    "claim_space",
    "hold_folder",
    "lock_folder",
    "take_lock",
    "write_errors",
    "write_text",
    "write_json",
    "json_text",
]


#: Text files beyond this are refused: 256 MiB.
MAX_TEXT = 2**28


def require_file(
    path: str | os.PathLike[str],
    limit: int | None = None,
    missing: str = "",
    error: type[GFormerError] = DataError,
) -> pathlib.Path:
    """The path of a regular file (or of a link to one): opening it can neither wait nor act.

    Args:
        path: the file.
        limit: largest size, bytes.
        missing: what to do where it is not there, for the message.
        error: class of the error.

    Raises:
        GFormerError: of the class ``error``; not there, a folder, device, pipe or socket, or
            larger.
    """
    path = pathlib.Path(path)
    hint = f"; {missing}" if missing else ""
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise error(f"{path}: file not found{hint}") from None
    except (OSError, ValueError) as wrong:
        reason = getattr(wrong, "strerror", None) or str(wrong)
        raise error(f"{path}: cannot be read ({reason})") from None
    if not stat.S_ISREG(found.st_mode):
        kind = "a folder" if stat.S_ISDIR(found.st_mode) else "a device, pipe or socket"
        raise error(f"{path}: is {kind}, and a file is needed{hint}")
    if limit is not None and found.st_size > limit:
        raise error(
            f"{path}: {found.st_size / 2**20:.0f} MiB, and at most {limit / 2**20:.0f} MiB are "
            "read of such a file; is it the right one?"
        )
    return path


def real_path(path: str | os.PathLike[str]) -> pathlib.Path:
    """The path without links; where they run in a circle, which ``Path.resolve`` does not survive,
    as far as they lead.
    """
    return pathlib.Path(os.path.realpath(path))


def read_text(
    path: str | os.PathLike[str],
    limit: int = MAX_TEXT,
    missing: str = "",
    error: type[GFormerError] = DataError,
    strict: bool = True,
) -> str:
    """The text of a file (UTF-8, with or without byte order mark).

    Args:
        path: the file.
        limit: largest size, bytes.
        missing: what to do where it is not there, for the message.
        error: class of the error.
        strict: refuse what is no UTF-8; False: replace it (comments of old programs' files).

    Raises:
        GFormerError: of the class ``error``; see :func:`require_file`, or it is no text.
    """
    path = require_file(path, limit, missing, error)
    try:
        text = path.read_bytes().decode("utf-8-sig", "strict" if strict else "replace")
    except OSError as wrong:
        raise error(f"{path}: cannot be read ({wrong.strerror})") from None
    except UnicodeDecodeError as wrong:
        raise error(f"{path}: no text (byte {wrong.start + 1} is not UTF-8)") from None
    if strict and "\0" in text:
        raise error(f"{path}: no text (it holds NUL bytes)")
    return text


@contextlib.contextmanager
def write_errors(target: str | os.PathLike[str]) -> Iterator[None]:
    """What the operating system says while ``target`` is written, as one sentence.

    Raises:
        DataError: in place of an OSError.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error).splitlines()[0]
        hint = (
            "free some space or choose another folder"
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
            else "choose another folder"
        )
        raise DataError(
            f"{target}: could not be written ({reason}), no part of this file was left behind; "
            f"{hint}"
        ) from error


@contextlib.contextmanager
def atomic_path(
    target: str | os.PathLike[str],
    expected_bytes: int = 0,
    before: Callable[[], None] | None = None,
) -> Iterator[pathlib.Path]:
    """Yield a temporary path, which takes the name ``target`` when the block ends well.

    A regular file is replaced by renaming (a link to one keeps being a link). What is there and is
    no regular file - a pipe, a device, the standard output - is written to.

    Args:
        target: the file to create or replace; its folder is created.
        expected_bytes: about how large it gets; checked against the free space.
        before: called once the new file is whole, before it takes its name: what must be there
            whenever the file is. The old file, if any, is gone then.

    Raises:
        DataError: ``target`` is a folder or a socket, cannot be written, or the disk is full (the
            old file, if any, is untouched).
    """
    target = pathlib.Path(target)
    stream = _is_stream(target)
    place = pathlib.Path(os.path.realpath(target)) if target.is_symlink() else target
    folder = pathlib.Path(tempfile.gettempdir()) if stream else place.parent
    existing = next(p for p in (folder, *folder.absolute().parents) if p.is_dir())
    free = shutil.disk_usage(existing).free if expected_bytes else 0
    if expected_bytes > free:
        raise DataError(
            f"{target}: needs about {expected_bytes / 2**20:.0f} MiB, {free / 2**20:.0f} MiB are "
            "free; free some space or choose another folder"
        )
    temporary: pathlib.Path | None = None
    descriptor: int | None = None
    with write_errors(target):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            descriptor, temporary = _begin(folder, target.name)
            yield temporary
            if stream:
                _write_through(temporary, target)
                return
            with open(temporary, "rb") as handle:
                os.fsync(handle.fileno())
            os.chmod(temporary, 0o666 & ~_umask())
            if before is not None:
                place.unlink(missing_ok=True)
                before()
            os.replace(temporary, place)
            temporary = None  # the name is free, and may be another process's by now
        finally:
            if temporary is not None:
                temporary.unlink(missing_ok=True)
            if descriptor is not None:
                os.close(descriptor)


def _begin(folder: pathlib.Path, name: str) -> tuple[int | None, pathlib.Path]:
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
        take_lock(descriptor, False, 0.1)  # not in one step: another process may come between
    else:
        descriptor = hold_folder(folder)
    try:
        for number in range(1000):
            path = folder / f".{short}.{number}.tmp"
            with contextlib.suppress(FileExistsError):
                os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
                return descriptor, path
        raise OSError(errno.EEXIST, f"a thousand files .{short}.*.tmp are there")
    except BaseException:
        if descriptor is not None:
            os.close(descriptor)
        raise


def take_lock(descriptor: int, exclusive: bool, patience: float) -> bool:
    """Lock an open folder, and wait a little for others.

    Args:
        descriptor: of the folder; a lock that it has already is given up for this one.
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
    end = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= end:
                return False
        except OSError:
            return False
        time.sleep(1e-3)


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
    take_lock(descriptor, False, 0.1)
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
    if take_lock(descriptor, True, patience):
        return descriptor
    os.close(descriptor)
    return None


def _is_stream(target: pathlib.Path) -> bool:
    """Whether ``target`` is written to, not replaced: a pipe, device, open file of this process.

    Raises:
        DataError: it is a folder or a socket.
    """
    if _descriptor(target) is not None:
        return True
    with write_errors(target):
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


def _write_through(source: pathlib.Path, target: pathlib.Path) -> None:
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


def claim_space(path: str | os.PathLike[str], size: int) -> None:
    """Give an existing file its size, on the disk, too: a full disk is noticed before writing.

    Args:
        path: the file.
        size: bytes.

    Raises:
        OSError: the disk is full.
    """
    with open(path, "r+b") as handle:
        if hasattr(os, "posix_fallocate") and size:
            os.posix_fallocate(handle.fileno(), 0, size)
        handle.truncate(size)


@contextlib.contextmanager
def atomic_hdf5(target: str | os.PathLike[str], expected_bytes: int) -> Iterator[h5py.File]:
    """Yield a small HDF5 file to fill; it takes the name ``target`` when the block ends well.

    It is built in memory: HDF5 cannot close a file on a full disk cleanly (it may even crash).

    Args:
        target: the file to create or replace.
        expected_bytes: about how large it gets; checked against the free space.

    Raises:
        DataError: not enough space, or the file cannot be written.
    """
    target = pathlib.Path(target)
    with atomic_path(target, expected_bytes) as path:
        # memory grows by block_size: at once, as growing copies all of it
        with h5py.File(
            target.name,
            "w",
            driver="core",
            backing_store=False,
            block_size=max(2**16, expected_bytes),
        ) as handle:
            yield handle
            handle.flush()
            image = handle.id.get_file_image()
        with open(path, "wb") as out:
            out.write(image)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_text(target: str | os.PathLike[str], text: str) -> None:
    """Write ``text`` to ``target`` in one step (UTF-8)."""
    with atomic_path(target) as path:
        path.write_bytes(text.encode("utf-8", "backslashreplace"))


def _plain(value: Any) -> Any:
    """JSON has no NaN and no infinity: unknown numbers are null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def write_json(target: str | os.PathLike[str], value: Any) -> None:
    """Write ``value`` as indented JSON to ``target`` in one step; NaN and infinity become null."""
    write_text(target, json_text(value))


def json_text(value: Any) -> str:
    """Indented JSON; NaN and infinity become null."""
    return json.dumps(_plain(value), indent=1, allow_nan=False) + "\n"


def read_json(path: str | os.PathLike[str], error: type[GFormerError] = DataError) -> Any:
    """Read a JSON file.

    Args:
        path: the file.
        error: class of the error.

    Raises:
        GFormerError: of the class ``error``; the file is missing or is not JSON; the message names
            it and the place of the mistake.
    """
    return parse_json(read_text(path, error=error), str(path), error)
