"""Writing files so that a reader never meets half of one."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator
from typing import Any

import h5py

from ..errors import DataError

__all__ = [
    "atomic_path",
    "atomic_hdf5",
    "claim_space",
    "write_errors",
    "write_text",
    "write_json",
    "read_json",
]


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
            f"{target}: could not be written ({reason}), no part of this file was left behind; {hint}"
        ) from error


@contextlib.contextmanager
def atomic_path(target: str | os.PathLike[str], expected_bytes: int = 0) -> Iterator[pathlib.Path]:
    """Yield a temporary path beside ``target`` that is renamed to it when the block ends well, and removed when not.

    Args:
        target: the file to create or replace; its folder is created. expected_bytes: about how large it gets; checked against the free space.

    Raises:
        DataError: the folder cannot be written, or the disk is full (the old file, if any, is untouched).
    """
    target = pathlib.Path(target)
    existing = next(p for p in (target.parent, *target.absolute().parents) if p.is_dir())
    free = shutil.disk_usage(existing).free if expected_bytes else 0
    if expected_bytes > free:
        raise DataError(
            f"{target}: needs about {expected_bytes / 2**20:.0f} MiB, {free / 2**20:.0f} MiB are free; free some space or choose another folder"
        )
    temporary: pathlib.Path | None = None
    with write_errors(target):
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            descriptor, name = tempfile.mkstemp(
                prefix=f".{target.name}.", suffix=".tmp", dir=target.parent
            )
            os.close(descriptor)
            temporary = pathlib.Path(name)
            yield temporary
            with open(temporary, "rb") as handle:
                os.fsync(handle.fileno())
            os.chmod(temporary, 0o666 & ~_umask())
            os.replace(temporary, target)
        finally:
            if temporary is not None:
                temporary.unlink(missing_ok=True)


def claim_space(path: str | os.PathLike[str], size: int) -> None:
    """Make an existing file so large, on the disk, too: a full disk is noticed before anything is written.

    Raises:
        OSError: the disk is full.
    """
    with open(path, "r+b") as handle:
        if hasattr(os, "posix_fallocate") and size:
            os.posix_fallocate(handle.fileno(), 0, size)
        handle.truncate(size)


@contextlib.contextmanager
def atomic_hdf5(target: str | os.PathLike[str], expected_bytes: int) -> Iterator[h5py.File]:
    """Yield a small HDF5 file to fill; it appears under ``target`` in one step when the block ends well.

    It is built in memory: HDF5 cannot close a file on a full disk cleanly (it may even crash the process).

    Args:
        target: the file to create or replace. expected_bytes: about how large it gets; checked against the free space.

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
        path.write_text(text, encoding="utf-8")


def write_json(target: str | os.PathLike[str], value: Any) -> None:
    """Write ``value`` as indented JSON to ``target`` in one step; NaN and infinities become null, as JSON has neither."""
    write_text(target, json.dumps(_finite(value), indent=1, allow_nan=False) + "\n")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_json(path: str | os.PathLike[str]) -> Any:
    """Read a JSON file.

    Raises:
        DataError: the file is missing or is not JSON; the message names it and the place of the mistake.
    """
    path = pathlib.Path(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path}: file not found") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not valid JSON ({error})") from None
