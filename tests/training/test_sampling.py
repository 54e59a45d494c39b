"""Samples of a smaller weight take part in fewer epochs."""

from __future__ import annotations

import numpy as np
import pytest

from deeph_gformer.training.sampling import EpochSampler, ShareSampler


def counted(sampler: ShareSampler, epochs: int, count: int) -> np.ndarray:
    seen = np.zeros(count, dtype=int)
    for epoch in range(epochs):
        sampler.set_epoch(epoch)
        drawn = list(sampler)
        assert len(drawn) == len(sampler) == len(set(drawn))
        np.add.at(seen, drawn, 1)
    return seen


def test_shares_are_those_of_the_weights() -> None:
    """Two of full weight, four of a half, one that is left out: 2 + 2 samples an epoch."""
    sampler = ShareSampler([1, 0.5, 0.5, 0, 0.5, 0.5, 1], seed=3)
    assert counted(sampler, 10, 7).tolist() == [10, 5, 5, 0, 5, 5, 10]


def test_rare_samples_still_take_part() -> None:
    """Weights that add up to less than one: one of them an epoch."""
    seen = counted(ShareSampler([1, 0.01, 0.01, 0.01], seed=3), 6, 4)
    assert seen.tolist() == [6, 2, 2, 2]


@pytest.mark.parametrize("epoch", [0, 4])
def test_equal_weights_are_a_plain_permutation(epoch: int) -> None:
    plain, weighted = EpochSampler(9, 1), ShareSampler([1.0] * 9, 1)
    plain.set_epoch(epoch)
    weighted.set_epoch(epoch)
    assert list(plain) == list(weighted)


def test_ranks_share_an_epoch() -> None:
    mine = [list(ShareSampler([1, 1, 1, 0.5, 0.5], 7, rank, 2)) for rank in range(2)]
    whole = list(ShareSampler([1, 1, 1, 0.5, 0.5], 7))
    assert sorted(mine[0] + mine[1]) == sorted(whole) and len(whole) == 4
