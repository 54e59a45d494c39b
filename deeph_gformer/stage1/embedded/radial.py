"""The spherical Bessel basis of DeepH-E3 (``spherical_basis_irreps``), after Gasteiger et al. 2020 (DimeNet)."""
from __future__ import annotations

import functools

import numpy as np
import torch
from e3nn.o3 import Irreps
from scipy.optimize import brentq
from scipy.special import spherical_jn
from torch import Tensor

__all__ = ["bessel_zeros", "bessel_factors", "polynomial_cutoff"]


@functools.lru_cache(maxsize=64)
def bessel_zeros(l: int, count: int) -> tuple[float, ...]:
    """The first ``count`` positive zeros of j_l; those of j_l lie between neighbouring zeros of j_(l-1)."""
    zeros = np.arange(1, count + l + 1) * np.pi
    for order in range(1, l + 1):
        zeros = np.array([brentq(lambda r: spherical_jn(order, r), a, b, xtol=1e-15, rtol=8.9e-16) for a, b in zip(zeros[:-1], zeros[1:])])
    return tuple(zeros[:count])


def polynomial_cutoff(length: Tensor, r_max: float, p: int = 6) -> Tensor:
    """DimeNet's envelope: 1 at 0, 0 with two derivatives at r_max (Å)."""
    x = length / r_max
    value = 1 - (p + 1) * (p + 2) / 2 * x**p + p * (p + 2) * x ** (p + 1) - p * (p + 1) / 2 * x ** (p + 2)
    return value * (length < r_max)


def bessel_factors(length: Tensor, irreps: Irreps, r_max: float, regular: int) -> Tensor:
    """Factor of each harmonic: norm_ln j_l(z_ln (r + 1e-7) / r_max) times the envelope.

    Args:
        length: (E,), Å, self-loops last. irreps: ``mul x l`` gives n = 0..mul-1. r_max: Å. regular: number of edges that are no self-loops.

    Returns:
        (E, total multiplicity); zero for l > 0 on self-loops, whose harmonics vanish.
    """
    x = ((length + 1e-7) / r_max).double().cpu().numpy()
    columns = []
    for mul, ir in irreps:
        for zero in bessel_zeros(ir.l, mul):
            norm = 1 / np.sqrt(0.5 * spherical_jn(ir.l + 1, zero) ** 2)
            column = norm * spherical_jn(ir.l, zero * x)
            if ir.l:
                column[regular:] = 0.0
            columns.append(column)
    return torch.as_tensor(np.stack(columns, axis=1)).to(length) * polynomial_cutoff(length, r_max)[:, None]
