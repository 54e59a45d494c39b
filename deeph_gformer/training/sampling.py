"""Which structures an epoch takes, and in which order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler

__all__ = ["EpochSampler", "RankSampler", "ShareSampler"]


class EpochSampler(Sampler[int]):
    """A permutation of seed and epoch only: a resumed run sees what an unbroken one sees.

    Several ranks share it: each takes every ranks-th structure, and all take equally many (the
    first ones are repeated where they do not divide).
    """

    def __init__(self, count: int, seed: int, rank: int = 0, ranks: int = 1) -> None:
        self.count, self.seed, self.rank, self.ranks, self.epoch = count, seed, rank, ranks, 0

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before each epoch."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.count)
        return iter(np.resize(order, len(self) * self.ranks)[self.rank :: self.ranks].tolist())

    def __len__(self) -> int:
        return -(-self.count // self.ranks)


class RankSampler(Sampler[int]):
    """In order, every structure on one rank: their mean over all ranks is that of one process.

    Fewer structures than ranks: each rank takes all.
    """

    def __init__(self, count: int, rank: int = 0, ranks: int = 1) -> None:
        self.mine = range(count)[rank::ranks] if count >= ranks else range(count)

    def __iter__(self) -> Iterator[int]:
        return iter(self.mine)

    def __len__(self) -> int:
        return len(self.mine)


class ShareSampler(EpochSampler):
    """An :class:`EpochSampler` in which some samples take part in a share of the epochs only.

    Every epoch has equally many: all of weight 1, and of the others as many as their weights add up
    to, taken in turn.
    """

    def __init__(self, weights: Sequence[float], seed: int, rank: int = 0, ranks: int = 1) -> None:
        """
        Args:
            weights: of each sample, [0, 1]; at least one is 1.
            seed: of the order.
            rank: of this process.
            ranks: number of processes.
        """
        shares = np.asarray(weights, dtype=float)
        self.always = np.flatnonzero(shares >= 1)
        some = np.flatnonzero((shares > 0) & (shares < 1))
        self.sometimes = np.random.default_rng((seed, 1)).permutation(some)
        total = float(shares[some].sum())
        self.turns = min(len(some), max(1, round(total))) if total else 0
        super().__init__(len(self.always) + self.turns, seed, rank, ranks)

    def __iter__(self) -> Iterator[int]:
        start = self.epoch * self.turns
        turn = self.sometimes.take(range(start, start + self.turns), mode="wrap")
        chosen = np.concatenate([self.always, turn]).astype(int)
        return iter(chosen[list(super().__iter__())].tolist())
