"""Processes that share one structure: each owns the edges of a range of atoms.

Without ``torchrun`` there is one, and nothing is sent.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
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
        edges: size + 1 edge numbers; the edges of its atoms are edges[r] to edges[r + 1], in
            canonical order, and no rank has others.
    """

    rank: int = 0
    size: int = 1
    bounds: tuple[int, ...] = ()
    edges: tuple[int, ...] = ()

    def over(self, degree: NDArray[np.int64]) -> Communicator:
        """The same processes with the atoms of a structure shared out.

        ``degree`` as in :func:`split_atoms`.
        """
        bounds = split_atoms(degree, self.size)
        total = np.concatenate([[0], np.cumsum(degree)])
        return dataclasses.replace(self, bounds=bounds, edges=tuple(total[list(bounds)].tolist()))

    @property
    def atoms(self) -> tuple[int, int]:
        """First atom of this process, and the one after its last."""
        return self.bounds[self.rank], self.bounds[self.rank + 1]

    @property
    def own_atoms(self) -> tuple[int, int] | None:
        """:attr:`atoms`; None where no structure is shared."""
        return self.atoms if self.bounds else None

    @property
    def own_edges(self) -> slice:
        """This rank's edges among all."""
        return slice(self.edges[self.rank], self.edges[self.rank + 1])

    def owner(self, atoms: NDArray[np.int64]) -> NDArray[np.int64]:
        """(n,) rank of each atom; ``atoms``: (n,)."""
        return np.searchsorted(np.array(self.bounds[1:]), atoms, side="right")

    def gather_rows(self, value: Tensor) -> Tensor:
        """Fill the rows of other ranks' atoms; in place.

        Args:
            value: (N, ...), the rows of this rank's atoms set.

        Returns:
            ``value``, complete.
        """
        if self.size == 1:
            return value
        start, stop = self.atoms
        for first, part in self._parts(value[start:stop], self.bounds):
            value[first : first + len(part)] = part
        return value

    def gather_edges(self, value: Tensor) -> Tensor:
        """The edges of all ranks.

        Args:
            value: (E of this rank, ...).

        Returns:
            (E, ...) on every rank.
        """
        if self.size == 1:
            return value
        return torch.cat([part for _, part in self._parts(value, self.edges)])

    def _parts(self, mine: Tensor, bounds: Sequence[int]) -> Iterator[tuple[int, Tensor]]:
        """First row and rows of each rank."""
        counts = [b - a for a, b in itertools.pairwise(bounds)]
        padded = mine.new_zeros(max(counts), *mine.shape[1:])
        padded[: len(mine)] = mine
        parts = [torch.empty_like(padded) for _ in counts]
        self._call(torch.distributed.all_gather, parts, padded)
        for first, part, count in zip(bounds, parts, counts, strict=False):
            yield first, part[:count]

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

    def exchange(self, parts: Sequence[Tensor]) -> list[Tensor]:
        """Every rank sends one tensor to each.

        Args:
            parts: (n_r, ...) for rank r, in host memory.

        Returns:
            What each rank sent.
        """
        sizes = [len(part) for part in parts]
        theirs = torch.empty(self.size, dtype=torch.int64)
        self._call(torch.distributed.all_to_all_single, theirs, torch.tensor(sizes))
        sent = torch.cat(list(parts))
        real = torch.view_as_real(sent) if sent.is_complex() else sent
        wanted: list[int] = theirs.tolist()
        got = real.new_empty(sum(wanted), *real.shape[1:])
        self._call(torch.distributed.all_to_all_single, got, real, wanted, sizes)
        return list((torch.view_as_complex(got) if sent.is_complex() else got).split(wanted))

    def deal(self, rows: NDArray[np.int64], counts: Sequence[int]) -> NDArray[np.int64]:
        """Every rank sends rows to each: the first ``counts[0]`` to rank 0, the next to rank 1, ...

        Args:
            rows: (n, k).
            counts: per rank; their sum is n.

        Returns:
            (m, k), what the ranks sent, in their order.
        """
        if self.size == 1:
            return rows
        parts = torch.from_numpy(np.ascontiguousarray(rows)).split(list(counts))
        return torch.cat(self.exchange(parts)).numpy()

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
