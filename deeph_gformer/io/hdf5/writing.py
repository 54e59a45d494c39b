"""HDF5 files that a full disk leaves whole or away."""

from __future__ import annotations

import contextlib
import os
import pathlib
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

import h5py

from ..files import atomic_path

__all__ = ["atomic_hdf5", "claim_space", "new_hdf5"]


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


class _Careful:
    """A file for HDF5, which may crash where its disk fails: the first error is kept instead."""

    def __init__(self, raw: BinaryIO) -> None:
        self.raw = raw
        self.error: OSError | None = None

    def _try(self, call: Callable[..., Any], *args: Any) -> Any:
        try:
            return call(*args)
        except OSError as error:
            self.error = self.error or error
            return 0

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> Any:
        """As of a file."""
        return self._try(self.raw.seek, offset, whence)

    def tell(self) -> Any:
        """As of a file."""
        return self._try(self.raw.tell)

    def read(self, size: int = -1) -> bytes:
        """As of a file; h5py knows files by it, and calls ``readinto``."""
        return self._try(self.raw.read, size) or b""

    def readinto(self, buffer: Any) -> Any:
        """As of a file."""
        return self._try(self.raw.readinto, buffer)  # type: ignore[attr-defined]

    def write(self, data: Any) -> Any:
        """As of a file; always all of it."""
        self._try(self.raw.write, data)
        return len(data)

    def truncate(self, size: int | None = None) -> Any:
        """As of a file."""
        return self._try(self.raw.truncate, size)

    def flush(self) -> None:
        """As of a file."""
        self._try(self.raw.flush)


@contextlib.contextmanager
def new_hdf5(path: str | os.PathLike[str]) -> Iterator[h5py.File]:
    """An HDF5 file of any size to fill, in place of what ``path`` is.

    Raises:
        OSError: at the end, where the disk failed at any time.
    """
    with open(path, "w+b") as raw:
        careful = _Careful(raw)
        with h5py.File(careful, "w") as handle:
            yield handle
        careful.flush()
        if careful.error is not None:
            raise careful.error


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
