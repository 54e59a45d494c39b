"""Counting eigenvalues, and the Fermi level of a large cell by counting.

Sylvester's law of inertia: H - sigma S = L D L† has as many negative pivots as there are
eigenvalues of H c = E S c below sigma (S positive definite).
"""

from __future__ import annotations

import time

import numpy as np
from numpy.typing import ArrayLike

from ...errors import ConfigError
from ..bloch import BlochProblem
from ..fermi import FermiLevel
from ..solve import solve_dense
from .factors import count_below
from .solver import SPARE, solve_sparse

__all__ = ["fermi_level_by_inertia", "states_below"]

_WIDTH_EV = 1e-7
"""Bisection ends where the interval is so narrow."""


def states_below(problem: BlochProblem, k: ArrayLike, energy: float, engine: str = "auto") -> int:
    """Number of eigenvalues below an energy at one k-point.

    Args:
        problem: the Hamiltonian.
        k: (3,), fractional.
        energy: eV.
        engine: sparse factorisation, see :func:`~.factors.factorize`.

    Raises:
        ConfigError: the engine cannot count (MUMPS on complex matrices), or the energy is no
            number.
    """
    negative, name = count_below(*problem.sparse_at(k), energy, problem, engine)
    if negative is None:
        raise ConfigError(f"{name} cannot count eigenvalues here; use --engine frontal")
    return negative


def _bisect(problem: BlochProblem, target: int, start: float, engine: str) -> float:
    """An energy with ``target`` eigenvalues below it, at Γ; between two that touch, theirs."""
    gamma = np.zeros(3)
    low, high, here, step = -np.inf, np.inf, start, 1.0
    while (below := states_below(problem, gamma, here, engine)) != target:
        low, high = (here, high) if below < target else (low, here)
        if high - low <= _WIDTH_EV:
            break
        if np.isfinite(low) and np.isfinite(high):
            here = (low + high) / 2
        else:
            here, step = (low + step if np.isfinite(low) else high - step), 2 * step
    return here


def _frontier(
    problem: BlochProblem, target: int, here: float, engine: str
) -> tuple[float, float] | None:
    """The highest filled and the lowest empty state at Γ, eV; None where they are too far away.

    Args:
        problem: the Hamiltonian.
        target: number of filled states.
        here: between both, but for the width of the bisection.
        engine: sparse factorisation.
    """
    gamma = np.zeros(3)
    h, s = problem.sparse_at(gamma)
    for number in (8, 40, 200):
        if number + 2 * SPARE >= problem.size - 1:
            energies = solve_dense(*problem.at(gamma), where=problem.source).energies
        else:
            energies = solve_sparse(
                h, s, here, number, problem=problem, engine=engine, check="none"
            ).energies
        first, edge = int(np.searchsorted(energies, here)), here - 2 * _WIDTH_EV
        if (np.abs(energies - here) < 2 * _WIDTH_EV).any():  # on which side rounding must not say
            first = int(np.searchsorted(energies, edge))
            first += target - states_below(problem, gamma, edge, engine)
        if 0 < first < len(energies):
            return float(energies[first - 1]), float(energies[first])
        if len(energies) == problem.size:
            break
    return None


def fermi_level_by_inertia(
    problem: BlochProblem,
    electrons: float,
    start_eV: float | None = None,
    *,
    electrons_source: str = "given",
    engine: str = "auto",
) -> FermiLevel:
    """The Fermi level of a large cell, at Γ: the middle between its frontier states.

    Args:
        problem: the Hamiltonian; large, so that Γ represents the Brillouin zone.
        electrons: per cell.
        start_eV: first guess; default info.json's level, else 0.
        electrons_source: where their number comes from, for the result.
        engine: sparse factorisation, see :func:`~.factors.factorize`.

    Raises:
        ConfigError: the electrons do not fill whole bands, or are more than the bands hold.
    """
    filled = electrons / problem.electrons_per_band
    if not abs(filled - round(filled) if np.isfinite(filled) else np.inf) <= 1e-6 or not (
        0 < filled < problem.size
    ):
        raise ConfigError(
            f"{electrons:g} electrons do not fill whole bands of {problem.source} "
            f"({problem.electrons_per_band} a band, {problem.size} bands); give --fermi VALUE"
        )
    began = time.perf_counter()
    guess = (problem.stated_fermi_eV or 0.0) if start_eV is None else start_eV
    here = _bisect(problem, round(filled), guess, engine)
    states = _frontier(problem, round(filled), here, engine)
    level = sum(states) / 2 if states else here
    return FermiLevel(
        level,
        f"counting {electrons:g} electrons ({electrons_source}) at Γ by the inertia of H - E S, "
        f"{'middle between' if states else 'between'} the frontier states "
        f"({time.perf_counter() - began:.0f} s)",
        electrons,
        electrons_source,
        (1, 1, 1),
        "inertia",
        None,
        None,
    )
