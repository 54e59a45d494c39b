"""Room for what every edge keeps: in memory, or in memory-mapped files where memory is short."""

from __future__ import annotations

import mmap
import os
import pathlib
import tempfile

import torch
from torch import Tensor

from ..errors import ConfigError, DataError

__all__ = ["Storage"]


class Storage:
    """Gives edge-wise arrays.

    A file is removed from its folder as soon as it is open, so nothing is left behind however the
    process ends; its space comes back when the array is forgotten. The space is reserved at once: a
    full disk is an error here and not a crash later.

    Attributes:
        folder: where files go; None: there are none.
        limit: bytes of memory that may be used before files are (None: no limit).
        spilled: bytes in files so far.
    """

    def __init__(
        self, folder: str | os.PathLike[str] | None = None, limit: int | None = None
    ) -> None:
        """
        Raises:
            ConfigError: the folder cannot be used.
        """
        self.folder, self.limit, self.spilled, self._used = (
            None if folder is None else pathlib.Path(folder),
            limit,
            0,
            0,
        )
        self._taken: dict[int, int] = {}
        if self.folder is not None:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise ConfigError(
                    f"--spill {self.folder}: cannot be used ({error.strerror}); name a folder "
                    "on a disk with space"
                ) from None

    def empty(self, rows: int, columns: int, like: Tensor) -> Tensor:
        """(rows, columns), not filled; type and device of ``like`` (files: CPU only).

        Raises:
            DataError: the disk is full.
        """
        size = rows * columns * like.element_size()
        if (
            self.folder is None
            or self.limit is None
            or self._used + size <= self.limit
            or like.device.type != "cpu"
            or not size
        ):
            out = like.new_empty(rows, columns)
            self._taken[out.data_ptr()] = size
            self._used += size
            return out
        return self._mapped(size).view(like.dtype).view(rows, columns)

    def release(self, *values: Tensor) -> None:
        """Say that arrays are no longer used, so that their memory counts as free."""
        for value in values if self._taken else ():  # tensors of torch.func have no address
            self._used -= self._taken.pop(value.data_ptr(), 0)

    def _mapped(self, size: int) -> Tensor:
        descriptor, name = -1, None
        try:
            descriptor, name = tempfile.mkstemp(prefix=".deeph-gformer-", dir=self.folder)
            os.unlink(name)
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(descriptor, 0, size)
            else:
                os.ftruncate(descriptor, size)
            mapped = mmap.mmap(descriptor, size)
        except OSError as error:
            raise DataError(
                f"--spill {self.folder}: {size / 2**30:.2f} GiB more could not be reserved "
                f"after {self.spilled / 2**30:.2f} GiB ({error.strerror}); "
                "nothing was left behind. Free some space, name another folder, or give more "
                "--max-memory"
            ) from None
        finally:
            if descriptor >= 0:
                os.close(descriptor)
        self.spilled += size
        return torch.frombuffer(mapped, dtype=torch.uint8)
