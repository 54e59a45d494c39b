"""Processes that share one structure: each owns the edges of a range of atoms.

Without ``torchrun`` there is one, and nothing is sent.
"""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import ConfigError, DataError

__all__ = ["Communicator", "split_atoms"]


def split_atoms(degree: NDArray[np.int64], parts: int) -> tuple[int, ...]:
    """Cut the atoms into ranges of about equally many edges.

    Args:
        degree: (N,), edges of each atom.
        parts: number of ranges.

    Returns:
        parts + 1 atom numbers, rising, from 0 to N.

    Raises:
        ConfigError: fewer atoms than parts.
    """
    if len(degree) < parts:
        raise ConfigError(f"{parts} processes for {len(degree)} atoms; start at most one per atom")
    total = np.concatenate([[0], np.cumsum(degree)])
    marks = np.rint(
        np.interp(total[-1] * np.arange(parts + 1) / parts, total, np.arange(len(total)))
    ).astype(np.int64)
    for part in range(1, parts):
        marks[part] = min(max(marks[part], marks[part - 1] + 1), len(degree) - (parts - part))
    return tuple(marks.tolist())


@dataclasses.dataclass(frozen=True)
class Communicator:
    """Who works on a structure.

    Attributes:
        rank, size: this process and how many there are.
        bounds: size + 1 atom numbers; atoms bounds[r] to bounds[r + 1] are those of rank r.
    """

    rank: int = 0
    size: int = 1
    bounds: tuple[int, ...] = ()

    def over(self, degree: NDArray[np.int64]) -> Communicator:
        """The same processes with the atoms of a structure shared out.

        ``degree`` as in :func:`split_atoms`.
        """
        return dataclasses.replace(self, bounds=split_atoms(degree, self.size))

    @property
    def atoms(self) -> tuple[int, int]:
        """First atom of this process, and the one after its last."""
        return self.bounds[self.rank], self.bounds[self.rank + 1]

    def rows(self, keys: NDArray[np.int64], rank: int | None = None) -> tuple[int, int]:
        """First edge of a rank, and the one after its last.

        Args:
            keys: (E, 5), in canonical order, so sorted by i.
            rank: None: this one.
        """
        rank = self.rank if rank is None else rank
        first, last = np.searchsorted(keys[:, 3], self.bounds[rank : rank + 2])
        return int(first), int(last)

    def edge_bounds(self, keys: NDArray[np.int64]) -> list[int]:
        """size + 1 edge numbers that part the ranks; ``keys``: (E, 5), in canonical order."""
        if self.size == 1:
            return [0, len(keys)]
        return [0, *(self.rows(keys, rank)[1] for rank in range(self.size))]

    def own_rows(self, keys: NDArray[np.int64]) -> slice:
        """This rank's edges; ``keys``: (E, 5), in canonical order."""
        bounds = self.edge_bounds(keys)
        return slice(bounds[self.rank], bounds[self.rank + 1])

    def gather_rows(self, value: Tensor) -> Tensor:
        """Fill the rows of other ranks' atoms; in place.

        Args:
            value: (N, ...), the rows of this rank's atoms set.

        Returns:
            ``value``, complete.
        """
        if self.size == 1:
            return value
        counts = [b - a for a, b in itertools.pairwise(self.bounds)]
        start, stop = self.atoms
        mine = value.new_zeros(max(counts), *value.shape[1:])
        mine[: stop - start] = value[start:stop]
        parts = [torch.empty_like(mine) for _ in counts]
        self._call(torch.distributed.all_gather, parts, mine)
        for rank, (part, count) in enumerate(zip(parts, counts, strict=True)):
            value[self.bounds[rank] : self.bounds[rank] + count] = part[:count]
        return value

    def sum(self, value: Tensor) -> Tensor:
        """Sum over the ranks, in place; every rank gets it."""
        if self.size > 1:
            self._call(torch.distributed.all_reduce, value)
        return value

    def objects(self, value: Any) -> list[Any]:
        """What every rank passed (small, picklable), in their order."""
        if self.size == 1:
            return [value]
        out: list[Any] = [None] * self.size
        self._call(torch.distributed.all_gather_object, out, value)
        return out

    def exchange(self, parts: list[Tensor]) -> list[Tensor]:
        """Every rank sends one tensor to each other one.

        Args:
            parts: (n_r, ...) for rank r, in host memory; rank r sends as many rows back.

        Returns:
            What each rank sent, shapes as in ``parts``.
        """
        sizes = [len(part) for part in parts]
        sent = torch.cat(parts)
        real = torch.view_as_real(sent) if sent.is_complex() else sent
        got = torch.empty_like(real)
        self._call(torch.distributed.all_to_all_single, got, real, sizes, sizes)
        return list((torch.view_as_complex(got) if sent.is_complex() else got).split(sizes))

    def to_first(self, value: Tensor, rows: int) -> Tensor | None:
        """Join the rows of all ranks (edges, in their order) on rank 0.

        Args:
            value: (E of this rank, ...).
            rows: E of all.

        Returns:
            (rows, ...) on rank 0, None elsewhere.
        """
        if self.size == 1:
            return value
        counts = self.objects(len(value))
        if self.rank:
            self._call(torch.distributed.send, value.contiguous(), 0)
            return None
        out = value.new_empty(rows, *value.shape[1:])
        out[: len(value)] = value
        start = len(value)
        for rank in range(1, self.size):
            self._call(torch.distributed.recv, out[start : start + counts[rank]], rank)
            start += counts[rank]
        return out

    def _call(self, function: Any, *arguments: Any) -> None:
        try:
            function(*arguments)
        except RuntimeError as error:
            raise DataError(
                f"rank {self.rank}: another process ended "
                f"({str(error).splitlines()[0][:120]}); nothing half-written is left, run "
                "again with "
                "--skip-existing to go on"
            ) from error
