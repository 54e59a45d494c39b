"""Errors of what a training starts from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..algebra.blocks import DirectSumToProduct
from ..data.dataset import Sample
from ..data.symmetry import hermitian_product, transpose_index
from ..errors import DataError
from .batches import FeatureCache
from .module import masked_loss
from .process import warn

__all__ = ["stage1_errors", "warn_if_worse"]


def stage1_errors(
    samples: Sequence[Sample], cache: FeatureCache, to_product: DirectSumToProduct, hermitian: bool
) -> list[float]:
    """MAE of stage 1 alone on each structure, meV.

    Args:
        samples: labelled structures.
        cache: stage 1 of each.
        to_product: DStoDP.
        hermitian: of ½(H + H†), as it is written.
    """
    transpose = transpose_index(to_product.targets)
    values = []
    for sample in samples:
        direct_sum = cache.get(sample)[1]
        if direct_sum is None:
            raise DataError(f"{sample.folder}: stage 1 gave no Hamiltonian for it")
        error = to_product(direct_sum) - sample.label
        if hermitian:
            error = hermitian_product(error, sample.partner, transpose)
        values.append(masked_loss(error, sample.mask, "mae", 1e-3).item())
    return values


def warn_if_worse(before: Mapping[str, float], now: Mapping[str, float]) -> None:
    """Say where the model that a training started from had a smaller error of H.

    Args:
        before: its errors on the validation structures, by kind; the first kind that both have
            counts.
        now: those of the trained one.
    """
    key = next((k for k in before if k.endswith("mae_meV") and "stage1" not in k and k in now), "")
    if key and now[key] > before[key] * (1 + 1e-6):
        warn(
            "H on validation is worse than by the model that this training started from "
            f"({before[key]:.4f} meV, now {now[key]:.4f} meV): keep that one, or start again with "
            "a smaller training.learning_rate or more structures"
        )
