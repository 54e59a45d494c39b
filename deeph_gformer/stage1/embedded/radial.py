r"""Functions of the edge length: Gaussians, and the spherical Bessel basis of DeepH-E3
(``spherical_basis_irreps``), after Gasteiger et al. 2020 (DimeNet).

.. math:: f_{ln}(r) = N_{ln}\, j_l(z_{ln} x)\, u(r),\qquad x = (r + 10^{-7})/r_{max},\qquad
   N_{ln}^{-2} = j_{l+1}(z_{ln})^2 / 2

DeepH-E3 keeps the zeros z in float32 and, on its documented stack (numpy 1.x), computes N in
float64 from these rounded zeros. The rounding (up to 1e-7) is part of every trained model, so it is
kept here; numpy 2 would also round N.
"""

from __future__ import annotations

import functools
import itertools
from typing import Any

import numpy as np
import torch
from e3nn.o3 import Irreps
from scipy.optimize import brentq
from scipy.special import spherical_jn
from torch import Tensor

__all__ = [
    "INITIAL_RADIUS",
    "gaussians",
    "bessel_zeros",
    "bessel_norms",
    "bessel_factors",
    "bessel_formulas",
    "bessel_slopes",
    "polynomial_cutoff",
]

#: The initial edge features are Gaussians up to this length (Å), whatever the cutoff.
INITIAL_RADIUS = 6.0


def gaussians(length: Tensor, stop: float, count: int) -> Tensor:
    """Gaussians on ``count`` equidistant centres from 0 to ``stop`` (Å), width = spacing; (rows,
    count)."""
    centres = torch.linspace(0.0, stop, count, dtype=length.dtype, device=length.device)
    width = centres[1] - centres[0]
    return torch.exp(-0.5 / width**2 * (length[:, None] - centres) ** 2)


@functools.lru_cache(maxsize=64)
def bessel_zeros(l: int, count: int) -> tuple[float, ...]:
    """The first ``count`` positive zeros of j_l, rounded to float32; those of j_l lie between
    neighbouring zeros of j_(l-1)."""
    zeros = np.arange(1, count + l + 1) * np.pi
    for order in range(1, l + 1):
        zeros = np.array(
            [
                brentq(
                    lambda r, order=order: spherical_jn(order, r), a, b, xtol=1e-15, rtol=8.9e-16
                )
                for a, b in itertools.pairwise(zeros)
            ]
        )
    return tuple(float(z) for z in zeros[:count].astype(np.float32))


def bessel_norms(l: int, count: int) -> tuple[float, ...]:
    """N_ln of the (rounded) zeros, float64."""
    return tuple(float(2**0.5 / abs(spherical_jn(l + 1, z))) for z in bessel_zeros(l, count))


def polynomial_cutoff(length: Tensor, r_max: float, p: int = 6) -> Tensor:
    """DimeNet's envelope u: 1 at 0, 0 with two derivatives at r_max (Å)."""
    x = length / r_max
    value = (
        1
        - (p + 1) * (p + 2) / 2 * x**p
        + p * (p + 2) * x ** (p + 1)
        - p * (p + 1) / 2 * x ** (p + 2)
    )
    return value * (length < r_max)


def bessel_factors(length: Tensor, irreps: Irreps, r_max: float, regular: int) -> Tensor:
    """Factor of each harmonic: f_ln(r).

    Args:
        length: (E,), Å, self-loops last.
        irreps: ``mul x l`` gives n = 0..mul-1.
        r_max: Å.
        regular: number of edges that are no self-loops.

    Returns:
        (E, total multiplicity); zero for l > 0 on self-loops, whose harmonics vanish.
    """
    return _bessel(length, irreps, r_max, regular, 0) * polynomial_cutoff(length, r_max)[:, None]


def _bessel(length: Tensor, irreps: Irreps, r_max: float, regular: int, order: int) -> Tensor:
    """(E, total multiplicity), N j_l(z x), or (``order`` 1) its derivative by the length, 1/Å."""
    x = ((length + 1e-7) / r_max).double().cpu().numpy()
    columns = []
    for mul, ir in irreps:
        for zero, norm in zip(bessel_zeros(ir.l, mul), bessel_norms(ir.l, mul), strict=True):
            column = norm * spherical_jn(ir.l, zero * x, derivative=bool(order))
            column *= (zero / r_max) ** order
            if ir.l:
                column[regular:] = 0.0
            columns.append(column)
    return torch.as_tensor(np.stack(columns, axis=1)).to(length)


def bessel_slopes(length: Tensor, irreps: Irreps, r_max: float, regular: int) -> Tensor:
    """Derivative of :func:`bessel_factors` by the length, 1/Å; the same arguments and shape."""
    p = 6
    x = length / r_max
    slope = -p * (p + 1) * (p + 2) / 2 * x ** (p - 1) * (1 - x) ** 2 / r_max * (x < 1)
    return (
        _bessel(length, irreps, r_max, regular, 1) * polynomial_cutoff(length, r_max, p)[:, None]
        + _bessel(length, irreps, r_max, regular, 0) * slope[:, None]
    )


def bessel_formulas(orders: int, count: int) -> list[list[Any]]:
    r"""N_ln j_l(z_ln x) as sympy expressions in x, for DeepH-E3's own code.

    From :math:`y^{l+1} j_l(y) = A_l(y) \sin y + B_l(y) \cos y` with :math:`A_{l+1} = (2l+1) A_l -
    y^2 A_{l-1}`, B alike.

    Args:
        orders: l = 0 .. orders - 1.
        count: zeros of each.
    """
    import sympy

    x, y = sympy.symbols("x y")
    sine, cosine = [sympy.Integer(0), sympy.Integer(1)], [1 / y, sympy.Integer(0)]  # l = -1, 0
    out = []
    for l in range(orders):
        row = []
        for zero, norm in zip(bessel_zeros(l, count), bessel_norms(l, count), strict=True):
            a, b = (sympy.Poly(part[-1], y).all_coeffs()[::-1] for part in (sine, cosine))
            powers = [
                [
                    norm * float(c) * zero ** (k - l - 1) * x**k if c else 0
                    for k, c in enumerate(part)
                ]
                for part in (a, b)
            ]
            row.append(
                (sum(powers[0]) * sympy.sin(zero * x) + sum(powers[1]) * sympy.cos(zero * x))
                / x ** (l + 1)
            )
        out.append(row)
        for part in (sine, cosine):
            part.append(sympy.expand((2 * l + 1) * part[-1] - y**2 * part[-2]))
    return out
