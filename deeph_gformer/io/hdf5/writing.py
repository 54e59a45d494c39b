"""HDF5 files that a full disk leaves whole or away."""

from __future__ import annotations

import contextlib
import os
import pathlib
from collections.abc import Iterator

import h5py

from ..files import atomic_path

__all__ = ["atomic_hdf5", "claim_space"]


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
