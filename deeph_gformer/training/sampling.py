"""Which training structures take part in an epoch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from .batches import EpochSampler

__all__ = ["ShareSampler"]


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
