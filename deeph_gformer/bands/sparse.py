"""Eigenvalues around an energy by shift-invert Lanczos with a real sparse factorisation, and proofs that they are complete.

Sylvester's law of inertia: H - sigma S = L D L† has as many negative pivots as there are eigenvalues of H c = E S c below sigma (S positive definite).
Two counts at energies between found states say how many must lie between; a Lanczos run that missed one is caught. They cost two more factorisations. For
large matrices a second Lanczos run from random vectors, with the found states projected out, is much cheaper: what it does not meet is not there, but for a
probability that it knows (:func:`~.lanczos.chance_of_missing`).
"""

from __future__ import annotations

import dataclasses
import time
from typing import get_args

import numpy as np
import scipy.linalg
import scipy.sparse as sp
from numpy.typing import NDArray

from ..errors import ConfigError, DataError
from .bloch import BlochProblem
from .engines import (
    CONTRACTION,
    Factor,
    Precision,
    contraction,
    count_below,
    factorize,
    prefers_single,
    shifted,
)
from .fermi import FermiLevel
from .lanczos import NotDefiniteError, chance_of_missing, polish, shift_invert_lanczos
from .loading import info_fermi_eV
from .solve import Check, Solution, not_definite

__all__ = ["solve_sparse", "states_below", "fermi_level_by_inertia"]

COUNT_LIMIT = 20000
"""Rows up to which 'auto' counts eigenvalues; above, the two factorisations would take longer than all the rest."""
CHANCE = 1e-9
"""Accepted probability of having missed a state, where random vectors look for one."""

RESIDUAL_EV = 1e-6
"""Largest accepted |H c - E S c| of a converged state."""
_ACCURACY_EV = 3e-9
"""Estimated error of energies that were found in single precision and polished in double."""
_ROUGH = 1e-5
_SPARE = 6


def states_below(
    problem: BlochProblem, k: NDArray[np.float64], energy: float, engine: str = "auto"
) -> int:
    """Number of eigenvalues below ``energy`` (eV) at one k-point.

    Raises:
        ConfigError: the engine cannot count (MUMPS on complex matrices). What :func:`~.engines.factorize` raises.
    """
    negative, name = count_below(*problem.sparse_at(k), energy, problem, engine)
    if negative is None:
        raise ConfigError(f"{name} cannot count eigenvalues here; use --engine frontal")
    return negative


def _lanczos(
    h: sp.csr_matrix, s: sp.csr_matrix, count: int, factor: Factor
) -> tuple[NDArray[np.float64], NDArray[np.number], str]:
    """``count`` states nearest the factor's shift: block Lanczos, then Rayleigh-Ritz with H and the residuals; (energies, vectors, failure)."""
    _, vectors, good = shift_invert_lanczos(
        factor.solve, s, count, np.result_type(h.dtype, s.dtype)
    )
    failure = "" if good == count else f"Lanczos: only {good} of {count} states converged"
    reduced = vectors.conj().T @ (h @ vectors)
    energies, rotation = scipy.linalg.eigh((reduced + reduced.conj().T) / 2)
    vectors = vectors @ rotation
    residual = np.linalg.norm(h @ vectors - (s @ vectors) * energies, axis=0)
    if not failure and residual.max() > RESIDUAL_EV:
        failure = f"residual |H c - E S c| reaches {residual.max():.2g} eV, above {RESIDUAL_EV:g}"
    return energies, vectors, failure


def _cut(energies: NDArray[np.float64], sigma: float, nbands: int) -> tuple[int, int, float, float]:
    """The ``nbands`` states nearest sigma, moved so that both cuts fall into gaps wide enough to count in.

    Args:
        energies: (M,), those nearest sigma, ascending; so there is nothing else nearer than the farthest of them.

    Returns:
        low, high: the states kept. Two energies just outside them where nothing was found.
    """
    reach = float(np.abs(energies - sigma).max())
    padded = np.concatenate([[sigma - reach], energies, [sigma + reach]])
    chosen = np.sort(np.argsort(np.abs(energies - sigma))[:nbands])
    low, high = int(chosen[0]), int(chosen[-1]) + 1
    while low > 0 and padded[low + 1] - padded[low] < 1e-5:
        low -= 1
    while high < len(energies) and padded[high + 1] - padded[high] < 1e-5:
        high += 1
    return (
        low,
        high,
        float(padded[low + 1] + padded[low]) / 2,
        float(padded[high + 1] + padded[high]) / 2,
    )


@dataclasses.dataclass
class _Near:
    """States nearest sigma: ``below`` of all states are below sigma (None where unknown); ``accuracy``: relative error of the factor's solutions."""

    energies: NDArray[np.float64]
    vectors: NDArray[np.number]
    failure: str
    below: int | None
    engine: str
    factor: Factor | None
    accuracy: float = 0.0


def _states_near(
    h: sp.csr_matrix,
    s: sp.csr_matrix,
    sigma: float,
    count: int,
    problem: BlochProblem,
    engine: str,
    precision: Precision,
) -> _Near:
    """``count`` states nearest sigma. Single precision first where it pays and works."""
    if engine == "slepc":
        from .slepc import nearest_states

        energies, vectors, failure, shared = nearest_states(h, s, sigma, count)
        return _Near(energies, vectors, failure, shared.negative, "SLEPc with MUMPS", shared)
    if prefers_single(h, engine, precision):
        factor, name = factorize(h, s, sigma, problem, engine, single=True)
        kind, good = np.result_type(h.dtype, s.dtype), 0
        shrinks = contraction(factor, shifted(h, s, sigma))
        if shrinks < CONTRACTION:
            _, vectors, good = shift_invert_lanczos(factor.solve, s, count, kind, tolerance=_ROUGH)
        if good == count:
            energies, vectors, converged = polish(
                factor.solve, h, s, vectors, sigma, 2 * _SPARE - 2, _ACCURACY_EV
            )
            if converged and len(energies) == count:
                return _Near(
                    energies,
                    vectors,
                    "",
                    factor.negative,
                    name + ", polished in double",
                    factor,
                    shrinks,
                )
        del factor
    factor, name = factorize(h, s, sigma, problem, engine)
    energies, vectors, failure = _lanczos(h, s, count, factor)
    return _Near(energies, vectors, failure, factor.negative, name, factor)


def solve_sparse(
    h: sp.csr_matrix,
    s: sp.csr_matrix,
    sigma: float,
    nbands: int,
    *,
    problem: BlochProblem,
    window: tuple[float, float] | None = None,
    engine: str = "auto",
    check: Check = "auto",
    precision: Precision = "auto",
    where: str = "",
) -> tuple[Solution, str]:
    """States around ``sigma``, or all in ``window``, of one k-point.

    Args:
        h, s: H(k), S(k), Hermitian CSR. sigma: eV. nbands: how many (without a window). window: (low, high) eV, absolute; its states are counted first.
        problem: gives atoms and positions for the elimination order. engine: see :func:`~.engines.factorize`.
        check: whether and how to show that no state was missed.
        precision: of the factorisation; 'auto' tries single for large matrices, and double where that does not converge.

    Returns:
        The solution (``complete`` None where not checked) and a sentence naming the engine and the check.

    Raises:
        ConfigError: too many states for a sparse solver, unknown check. DataError: S is not positive definite. What :func:`~.engines.factorize` raises.
    """
    try:
        return _solve(h, s, sigma, nbands, problem, window, engine, check, precision, where)
    except NotDefiniteError as error:
        raise DataError(not_definite(where, str(error))) from None


def _solve(
    h: sp.csr_matrix,
    s: sp.csr_matrix,
    sigma: float,
    nbands: int,
    problem: BlochProblem,
    window: tuple[float, float] | None,
    engine: str,
    check: Check,
    precision: Precision,
    where: str,
) -> tuple[Solution, str]:
    """:func:`solve_sparse` without the message for an S that is not positive definite."""
    n = h.shape[0]
    if check not in get_args(Check):
        raise ConfigError(f"check '{check}' is unknown; there are {', '.join(get_args(Check))}")
    if window is not None:
        return _solve_window(h, s, window, problem, engine, precision, where)
    if nbands + 2 * _SPARE >= n - 1:
        raise ConfigError(
            f"{where}: {nbands} of {n} bands asked from the sparse solver, which finds a few around the Fermi level; use --solver dense"
        )
    near = _states_near(h, s, sigma, nbands + 2 * _SPARE, problem, engine, precision)
    if near.failure or len(near.energies) < nbands:
        return Solution(
            np.zeros(0), None, None, False, failure=near.failure or "too few states found"
        ), near.engine
    low, high, bottom, top = _cut(near.energies, sigma, nbands)
    kept, kept_vectors = near.energies[low:high], near.vectors[:, low:high]
    first = None if near.below is None else near.below - int((kept < sigma).sum())
    if check == "none":
        return Solution(kept, kept_vectors, first, None), near.engine + ", completeness not checked"
    if near.factor is not None and (
        check == "random" or (check == "auto" and (n > COUNT_LIMIT or near.below is None))
    ):
        reach = max(abs(bottom - sigma), abs(top - sigma))
        chance, met = chance_of_missing(
            near.factor.solve, s, near.vectors, reach, accuracy=near.accuracy, target=CHANCE
        )
        if chance <= CHANCE:
            return Solution(
                kept, kept_vectors, first, True
            ), f"{near.engine}, complete but for a chance of {chance:.0e}"
        if met:
            return Solution(
                kept, kept_vectors, first, False
            ), near.engine + ", random vectors met a state that was missed"
        if check == "random":
            return Solution(
                kept, kept_vectors, first, None
            ), f"{near.engine}, completeness not shown (chance of a missed state: {chance:.0e})"
    near.factor = None  # gives its memory back
    counts = [count_below(h, s, energy, problem, engine, precision)[0] for energy in (bottom, top)]
    if counts[0] is None or counts[1] is None:
        return Solution(
            kept, kept_vectors, None, None
        ), near.engine + ", which cannot count eigenvalues here"
    return Solution(
        kept, kept_vectors, counts[0], counts[1] - counts[0] == high - low
    ), near.engine + ", eigenvalues counted"


def _solve_window(
    h: sp.csr_matrix,
    s: sp.csr_matrix,
    window: tuple[float, float],
    problem: BlochProblem,
    engine: str,
    precision: Precision,
    where: str,
) -> tuple[Solution, str]:
    """All states in a window: count first, then ask for exactly as many."""
    n = h.shape[0]
    ends, name = [], ""
    for energy in window:
        negative, name = count_below(h, s, energy, problem, engine, precision)
        ends.append(negative)
    if ends[0] is None or ends[1] is None:
        raise ConfigError(
            f"{where}: {name} cannot count the states of a window; use --engine frontal, or --nbands"
        )
    wanted = ends[1] - ends[0]
    if wanted == 0:
        return Solution(np.zeros(0), None, ends[0], True), name + ", eigenvalues counted"
    if wanted + 2 * _SPARE >= min(n - 1, 2000):
        raise ConfigError(
            f"{where}: {wanted} states lie in the window of {window[1] - window[0]:g} eV, too many for the sparse solver; narrow --window or use --solver dense"
        )
    sigma = (window[0] + window[1]) / 2
    near = _states_near(h, s, sigma, wanted + 2 * _SPARE, problem, engine, precision)
    if near.failure:
        return Solution(np.zeros(0), None, None, False, failure=near.failure), near.engine
    inside = (near.energies > window[0]) & (near.energies <= window[1])
    complete = int(inside.sum()) == wanted
    return Solution(
        near.energies[inside], near.vectors[:, inside], ends[0], complete
    ), near.engine + ", eigenvalues counted"


def fermi_level_by_inertia(
    problem: BlochProblem,
    electrons: float,
    start_eV: float | None = None,
    *,
    electrons_source: str = "given",
    engine: str = "auto",
) -> FermiLevel:
    """The Fermi level of a large cell, at Γ: bisection on the number of states below an energy, then the middle between the frontier states.

    Args:
        problem: the Hamiltonian; large, so that Γ represents the Brillouin zone. electrons: per cell. start_eV: first guess; default info.json's level, else 0.

    Raises:
        ConfigError: the electrons do not fill whole bands, or more than there are.
    """
    filled = electrons / problem.electrons_per_band
    if abs(filled - round(filled)) > 1e-6 or not 0 < filled < problem.size:
        raise ConfigError(
            f"{electrons:g} electrons do not fill whole bands of {problem.source} "
            f"({problem.electrons_per_band} a band, {problem.size} bands); give --fermi VALUE"
        )
    target, began = round(filled), time.perf_counter()
    k = np.zeros(3)
    h, s = problem.sparse_at(k)

    def count(energy: float) -> int:
        negative = count_below(h, s, energy, problem, engine)[0]
        if negative is None:
            raise ConfigError("this engine cannot count eigenvalues; use --engine frontal")
        return negative

    here = start_eV if start_eV is not None else (info_fermi_eV(problem.structure) or 0.0)
    low, high, step = -np.inf, np.inf, 1.0
    below = count(here)
    while below != target and high - low > 1e-7:
        if below < target:
            low = here
        else:
            high = here
        if np.isfinite(low) and np.isfinite(high):
            here = (low + high) / 2
        else:
            here, step = (low + step if np.isfinite(low) else high - step), 2 * step
        below = count(here)
    lower = upper = np.zeros(0)
    for number in (8, 40, 200):
        if number + 2 * _SPARE >= problem.size - 1 or (len(lower) and len(upper)):
            break
        found, _ = solve_sparse(h, s, here, number, problem=problem, engine=engine, check="none")
        lower, upper = found.energies[found.energies <= here], found.energies[found.energies > here]
    level = float(lower[-1] + upper[0]) / 2 if len(lower) and len(upper) else here
    return FermiLevel(
        level,
        f"counting {electrons:g} electrons ({electrons_source}) at Γ by the inertia of H - E S, middle between the frontier states "
        f"({time.perf_counter() - began:.0f} s)",
        electrons,
        electrons_source,
        (1, 1, 1),
        "inertia",
        None,
        None,
    )
