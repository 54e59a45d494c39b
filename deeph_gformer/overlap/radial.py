"""Smooth radial functions from scattered distances, with an honest error at every distance.

Bayesian spline regression: the functions are B-splines whose fourth derivative, times exp(αd), is
white noise of unknown size (a smoothing spline whose stiffness grows with the decay of the
orbitals); α, the size and the label noise maximise the evidence (Rasmussen and Williams, Gaussian
Processes for Machine Learning, chapters 2 and 5). Where no data constrain a function the posterior
deviation grows: that is how gaps are found.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

__all__ = ["DEGREE", "RadialFit", "fit_radial"]

DEGREE = 7
_SPACING = 0.08  # Å between knots
_PENALTY = 4  # order of the derivative that is kept small
_DECAYS = (0.0, 0.5, 1.0, 1.5, 2.0)  # α, 1/Å
_RATIOS = 10.0 ** np.arange(0, 26, 0.25)
_NOISE_FLOOR = 1e-8
_RIDGE = 0.02  # size of the flat part of the prior: values of up to 1/0.02


@dataclasses.dataclass(frozen=True)
class RadialFit:
    """Fitted functions.

    Attributes:
        knots: (K,), Å.
        coefficients: (C, F).
        noise: (F,), standard deviation of the data around the functions.
        grid: (G,), Å.
        deviation: (G,), largest posterior standard deviation of any function there.
    """

    knots: NDArray[np.float64]
    coefficients: NDArray[np.float64]
    noise: NDArray[np.float64]
    grid: NDArray[np.float64]
    deviation: NDArray[np.float64]


def _design(knots: NDArray[np.float64], x: NDArray[np.float64], free: int) -> NDArray[np.float64]:
    from scipy.interpolate import BSpline

    return BSpline.design_matrix(x, knots, DEGREE).toarray()[:, :free]


def _prior(knots: NDArray[np.float64], free: int, decay: float) -> NDArray[np.float64]:
    """(C, C) upper triangular L with prior precision LᵀL of the coefficients."""
    from scipy.interpolate import BSpline

    low, high = knots[0], knots[-1]
    x = np.linspace(low, high, 6 * len(knots) + 1)
    x = (x[1:] + x[:-1]) / 2
    bends = BSpline(knots, np.eye(len(knots) - DEGREE - 1)[:, :free], DEGREE)(x, nu=_PENALTY)
    bends *= np.exp(decay * (x - low))[:, None] * np.sqrt(x[1] - x[0])
    ridge = _RIDGE * np.exp(decay * (np.linspace(low, high, free) - low))
    return np.asarray(np.linalg.qr(np.vstack([bends, np.diag(ridge)]), mode="r"), np.float64)


def fit_radial(
    distance: NDArray[np.float64], values: NDArray[np.float64], low: float, high: float
) -> RadialFit:
    """Fit functions of the distance that, with their first two derivatives, are zero at ``high``.

    Args:
        distance: (N,), Å.
        values: (N, F).
        low: where the functions begin, Å; at most the least distance.
        high: where they end, Å; at least the largest distance.
    """
    from scipy.linalg import solve_triangular

    count = int(np.ceil((high - low) / _SPACING)) + 1
    knots = np.concatenate([[low] * DEGREE, np.linspace(low, high, count), [high] * DEGREE])
    size = len(knots) - DEGREE - 1
    free = size - 3  # the last three carry value, slope and curvature at the end
    basis, triangle = np.linalg.qr(_design(knots, distance, free))
    projected = basis.T @ values  # (C', F)
    rest = ((values - basis @ projected) ** 2).sum(axis=0)
    # the grid holds the data themselves: a distance that occurs again and again (a lattice vector)
    # is known, however lonely
    grid = np.unique(
        np.concatenate(
            [
                np.arange(low, high, 0.01),
                np.clip([distance - 1e-4, distance + 1e-4], low, high - 1e-9).ravel().round(5),
            ]
        )
    )
    highest = -np.inf
    for decay in _DECAYS:
        prior = _prior(knots, free, decay)
        left, singular, right = np.linalg.svd(
            solve_triangular(prior.T, triangle.T, lower=True).T, full_matrices=True
        )
        singular = np.concatenate([singular, np.zeros(free - len(singular))])
        turned = np.zeros((free, values.shape[1]))
        turned[: left.shape[1]] = left.T @ projected
        gain = 1 + _RATIOS[:, None] * singular**2  # (ratios, C)
        misfit = (1 / gain) @ turned**2 + rest  # (ratios, F)
        variance = np.maximum(misfit / len(distance), _NOISE_FLOOR**2)
        evidence = -0.5 * (
            len(distance) * np.log(variance) + np.log(gain).sum(axis=1)[:, None] + misfit / variance
        )
        chosen = evidence.argmax(axis=0)
        total = float(evidence.max(axis=0).sum())
        if total > highest:
            highest = total
            best = (
                prior,
                singular,
                right,
                turned,
                _RATIOS[chosen],
                variance[chosen, np.arange(values.shape[1])],
            )
    prior, singular, right, turned, ratio, variance = best
    shrink = ratio * singular[:, None] / (1 + ratio * singular[:, None] ** 2)
    coefficients = np.zeros((size, values.shape[1]))
    coefficients[:free] = solve_triangular(prior, right.T @ (shrink * turned))
    grid = grid[(grid >= low) & (grid < high)]
    spread = (solve_triangular(prior.T, _design(knots, grid, free).T, lower=True).T @ right.T) ** 2
    posterior = spread @ (ratio * variance / (1 + ratio * singular[:, None] ** 2))
    return RadialFit(knots, coefficients, np.sqrt(variance), grid, np.sqrt(posterior.max(axis=1)))
