"""One matrix file that several processes write, each the blocks that it has."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["FirstWrites", "Reserve", "SharedFile", "Writers"]

#: (file, keys, shapes, dtype) -> first byte of the values, see :class:`.formats.FolderFormat`.
Reserve = Callable[[Any, NDArray[np.int64], NDArray[np.int64], np.dtype], int]


class Writers(Protocol):
    """The processes, which have consecutive blocks in the order of their ranks."""

    @property
    def rank(self) -> int:
        """This process."""

    @property
    def size(self) -> int:
        """How many there are."""

    def objects(self, value: Any) -> list[Any]:
        """What every rank passed, in their order."""

    def deal(self, rows: NDArray[np.int64], counts: Sequence[int]) -> NDArray[np.int64]:
        """Every rank sends rows to each: the first ``counts[0]`` to rank 0, and so on."""


class SharedFile(Protocol):
    """A matrix file but for its values. Making one may send, using one does not."""

    def begin(self, path: str | os.PathLike[str]) -> int:
        """By the first process: give an existing file its full size.

        Returns:
            First byte of the values of all processes.

        Raises:
            OSError: the disk is full.
        """

    def fill(self, path: str | os.PathLike[str]) -> None:
        """By each process, once the file has begun: write its part.

        Raises:
            OSError: the disk is full.
        """


class FirstWrites:
    """For formats without large tables: the first process gets all keys and writes them.

    Args:
        keys: (E, 5), of this process.
        shapes: (E, 2).
        dtype: of the values.
        writers: the processes.
        reserve: of the format.
    """

    def __init__(
        self,
        keys: NDArray[np.int64],
        shapes: NDArray[np.int64],
        dtype: np.dtype,
        writers: Writers,
        reserve: Reserve,
    ) -> None:
        rows = np.concatenate([keys, shapes], axis=1)
        self._rows = writers.deal(rows, [len(rows), *[0] * (writers.size - 1)])
        self._dtype, self._reserve = dtype, reserve

    def begin(self, path: str | os.PathLike[str]) -> int:
        """See :class:`SharedFile`."""
        return self._reserve(path, self._rows[:, :5], self._rows[:, 5:], self._dtype)

    def fill(self, path: str | os.PathLike[str]) -> None:
        """Nothing is left."""
