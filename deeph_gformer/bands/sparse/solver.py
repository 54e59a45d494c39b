"""Eigenvalues around an energy by shift-invert Lanczos, and proofs that they are complete.

Two counts (:mod:`~.inertia`) at energies between found states say how many must lie between; a
Lanczos run that missed one is caught. They cost two more factorisations. For large matrices a
second Lanczos run from random vectors, with the found states projected out, is much cheaper: what
it does not meet is not there, but for a probability that it knows
(:func:`~.lanczos.chance_of_missing`).
"""

from __future__ import annotations

import dataclasses
from typing import get_args

import numpy as np
import scipy.linalg
import scipy.sparse as sp
from numpy.typing import ArrayLike, NDArray

from ...errors import ConfigError, DataError
from ..arguments import require_count, require_energy, require_window
from ..bloch import BlochProblem
from ..solve import (
    EDGE_EV,
    Check,
    Solution,
    not_definite,
)
from .cuts import Cut, cut_in_gaps
from .factors import (
    CONTRACTION,
    Factor,
    Precision,
    contraction,
    count_below,
    factorize,
    prefers_single,
    shifted,
)
from .lanczos import NotDefiniteError, chance_of_missing, polish, shift_invert_lanczos
from .product import RowParts, adjoint_product, in_single, single_of

__all__ = ["SPARE", "solve_sparse"]

COUNT_LIMIT = 20000
"""Rows up to which 'auto' counts eigenvalues; above, two factorisations would outlast the rest."""
CHANCE = 1e-9
"""Accepted probability of having missed a state, where random vectors look for one."""
RESIDUAL_EV = 1e-6
"""Largest accepted |H c - E S c| of a converged state."""
MOST_STATES = 2000
"""States of a window that the sparse solver looks for."""
SPARE = 6
"""States computed beyond each end, so that the cuts fall into gaps."""
_ACCURACY_EV = 3e-9
"""Estimated error of energies that were found in single precision and polished in double."""
_ROUGH = 1e-5
"""Accepted relative residual of states that will be polished."""
_MOVES = (0.0, 7e-5, -1.9e-4)
"""eV, tried one after the other: with sigma on a level H - sigma S is singular."""
_SEARCHES = 5
"""How often states are searched, each time among those not found yet, while some are missing."""


@dataclasses.dataclass(frozen=True)
class _Pencil:
    """H - E S of one k-point and how to solve it.

    Attributes:
        h: (n, n) Hermitian CSR, eV.
        s: (n, n) Hermitian CSR, positive definite.
        problem: gives atoms and positions for the elimination order.
        engine: see :func:`~.factors.factorize`.
        precision: of the factorisation.
        where: file and k-point, for messages.
        k: (3,), fractional, where known.
    """

    h: sp.csr_matrix
    s: sp.csr_matrix
    problem: BlochProblem
    engine: str
    precision: Precision
    where: str
    k: ArrayLike | None = None

    @property
    def size(self) -> int:
        """Rows of H."""
        return int(self.h.shape[0])

    def count_below(self, energy: float) -> tuple[int | None, str]:
        """See :func:`~.factors.count_below`."""
        return count_below(self.h, self.s, energy, self.problem, self.engine, self.precision)


@dataclasses.dataclass
class _Near:
    """States nearest sigma.

    Attributes:
        sigma: eV.
        energies: (M,), ascending, eV.
        vectors: (n, M), orthonormal in S.
        failure: why it did not converge, or an empty text.
        below: how many of all eigenvalues are below sigma, None where the engine cannot count.
        engine: its name.
        factor: of H - sigma S; set to None to give its memory back.
        accuracy: relative error of the factor's solutions.
    """

    sigma: float
    energies: NDArray[np.float64]
    vectors: NDArray[np.number]
    failure: str
    below: int | None
    engine: str
    factor: Factor | None
    accuracy: float = 0.0


def _lanczos(
    pencil: _Pencil, count: int, factor: Factor, known: NDArray[np.number] | None = None
) -> tuple[NDArray[np.float64], NDArray[np.number], str]:
    """The ``count`` states nearest the factor's shift, and those known before.

    Block Lanczos, then Rayleigh-Ritz with H itself, and the residuals.

    Returns:
        Energies, vectors, why it failed.
    """
    h, s = pencil.h, pencil.s
    dtype = np.result_type(h.dtype, s.dtype)
    _, vectors, good = shift_invert_lanczos(factor.solve, s, count, dtype, without=known)
    failure = "" if good == count else f"Lanczos: only {good} of {count} states converged"
    if known is not None:
        vectors = np.concatenate([known, vectors], axis=1)
    hx, sx = RowParts(h) @ vectors, RowParts(s) @ vectors
    reduced, metric = adjoint_product(vectors, hx), adjoint_product(vectors, sx)
    energies, rotation = scipy.linalg.eigh(
        (reduced + reduced.conj().T) / 2, (metric + metric.conj().T) / 2
    )
    vectors = vectors @ rotation
    residual = np.linalg.norm(hx @ rotation - (sx @ rotation) * energies, axis=0)
    if not failure and residual.max() > RESIDUAL_EV:
        failure = f"residual |H c - E S c| reaches {residual.max():.2g} eV, above {RESIDUAL_EV:g}"
    return energies, vectors, failure


def _polished(pencil: _Pencil, sigma: float, count: int) -> _Near | None:
    """States from a factor in single precision, polished in double; None where that fails."""
    h, s = pencil.h, pencil.s
    factor, name = factorize(h, s, sigma, pencil.problem, pencil.engine, single=True, k=pencil.k)
    shrinks = contraction(factor, shifted(h, s, sigma))
    if shrinks >= CONTRACTION:
        return None
    dtype = np.result_type(h.dtype, s.dtype)
    _, vectors, good = shift_invert_lanczos(
        factor.solve, in_single(s), count, single_of(dtype), tolerance=_ROUGH
    )
    if good < count:
        return None
    energies, vectors, converged = polish(
        factor.solve, h, s, vectors.astype(dtype), sigma, 2 * SPARE - 2, _ACCURACY_EV
    )
    if not converged or len(energies) < count:
        return None
    name += ", polished in double"
    return _Near(sigma, energies, vectors, "", factor.negative, name, factor, shrinks)


def _states_near(pencil: _Pencil, sigma: float, count: int) -> _Near:
    """``count`` states nearest sigma, which is moved where it lies on a level."""
    for move in _MOVES:
        near = _search(pencil, sigma + move, count)
        if not near.failure:
            break
    return near


def _search(pencil: _Pencil, sigma: float, count: int) -> _Near:
    """``count`` states nearest sigma; single precision first, where it pays and works."""
    if pencil.engine == "slepc":
        from .slepc import nearest_states

        energies, vectors, failure, shared = nearest_states(pencil.h, pencil.s, sigma, count)
        name = "SLEPc with MUMPS"
        return _Near(sigma, energies, vectors, failure, shared.negative, name, shared)
    if prefers_single(pencil.h, pencil.engine, pencil.precision):
        near = _polished(pencil, sigma, count)
        if near is not None:
            return near
    factor, name = factorize(pencil.h, pencil.s, sigma, pencil.problem, pencil.engine)
    energies, vectors, failure = _lanczos(pencil, count, factor)
    return _Near(sigma, energies, vectors, failure, factor.negative, name, factor)


def _more_states(pencil: _Pencil, near: _Near, count: int) -> _Near:
    """Up to ``count`` further states nearest sigma, searched where the known ones are not.

    What a first search missed, copies of a degenerate level above all, is found here. That nothing
    is missed now is for the caller to show.
    """
    sigma, known, name = near.sigma, near.vectors, near.engine
    factor = near.factor if near.accuracy == 0.0 else None
    near.factor = None
    if factor is None:
        factor, name = factorize(pencil.h, pencil.s, sigma, pencil.problem, pencil.engine)
    if near.accuracy > 0.0:  # vectors from single precision are not good enough to leave out
        _, known, failure = _lanczos(pencil, known.shape[1], factor)
        if failure:
            return dataclasses.replace(near, failure=failure)
    count = min(count, pencil.size - known.shape[1] - 1)
    if count < 1:
        return near
    energies, vectors, failure = _lanczos(pencil, count, factor, known)
    return _Near(sigma, energies, vectors, failure, factor.negative, name, factor)


def _failed(near: _Near, reason: str) -> Solution:
    return Solution(np.zeros(0), None, None, False, failure=reason, engine=near.engine)


def _solve_around(pencil: _Pencil, sigma: float, nbands: int, check: Check) -> Solution:
    """``nbands`` states around sigma, or a few more; see :func:`solve_sparse`."""
    if nbands + 2 * SPARE >= pencil.size - 1:
        raise ConfigError(
            f"{pencil.where}: {nbands} of {pencil.size} bands asked from the sparse solver, "
            "which finds a few around the Fermi level; use --solver dense"
        )
    count = nbands + 2 * SPARE
    near = _states_near(pencil, sigma, count)
    for attempt in range(_SEARCHES):
        if near.failure or len(near.energies) < nbands:
            return _failed(near, near.failure or "too few states found")
        cut = cut_in_gaps(near.energies, near.sigma, nbands)
        found = _checked(pencil, near, cut, check)
        if found.complete is not False or attempt + 1 == _SEARCHES:
            break
        near = _more_states(pencil, near, count)
    return found


def _checked(pencil: _Pencil, near: _Near, cut: Cut, check: Check) -> Solution:
    """The states of a cut, with what is known about their completeness."""
    sigma = near.sigma
    energies, vectors = near.energies[cut.low : cut.high], near.vectors[:, cut.low : cut.high]
    first = None if near.below is None else near.below - int((energies < sigma).sum())
    found = Solution(energies, vectors, first, None, engine=near.engine)
    if check == "none":
        return dataclasses.replace(found, check="completeness not checked")
    if not cut.apart:
        words = "a degenerate level is cut, so completeness cannot be shown"
        return dataclasses.replace(found, complete=False, check=words)
    by_size = check == "auto" and (pencil.size > COUNT_LIMIT or near.below is None)
    if near.factor is not None and (check == "random" or by_size):
        chance, met = chance_of_missing(
            near.factor.solve,
            pencil.s,
            near.vectors,
            max(abs(cut.bottom - sigma), abs(cut.top - sigma)),
            accuracy=near.accuracy,
            target=CHANCE,
        )
        if chance <= CHANCE:
            words = f"complete but for a chance of {chance:.0e}"
            return dataclasses.replace(found, complete=True, check=words)
        if met:
            words = "random vectors met a state that was missed"
            return dataclasses.replace(found, complete=False, check=words)
        if check == "random":
            words = f"completeness not shown (chance of a missed state: {chance:.0e})"
            return dataclasses.replace(found, check=words)
    near.factor = None  # gives its memory back
    below = pencil.count_below(cut.bottom)[0]
    above = pencil.count_below(cut.top)[0]
    if below is None or above is None:
        words = "which cannot count eigenvalues here"
        return dataclasses.replace(found, first=None, check=words)
    complete = above - below == len(energies)
    return dataclasses.replace(found, first=below, complete=complete, check="eigenvalues counted")


def _solve_window(pencil: _Pencil, window: tuple[float, float]) -> Solution:
    """All states with low < E <= high: count first, then ask for exactly as many.

    Levels within :data:`EDGE_EV` of an end lie on it. So both ends are moved up by that much, where
    neither rounding nor a degenerate level on the end makes count and selection disagree.
    """
    low, high = (energy + EDGE_EV for energy in window)
    (below, name), (until, _) = pencil.count_below(low), pencil.count_below(high)
    if below is None or until is None:
        raise ConfigError(
            f"{pencil.where}: {name} cannot count the states of a window; "
            "use --engine frontal, or --nbands"
        )
    wanted, counted = until - below, "eigenvalues counted"
    if wanted == 0:
        return Solution(np.zeros(0), None, below, True, engine=name, check=counted)
    if wanted + 2 * SPARE >= min(pencil.size - 1, MOST_STATES):
        raise ConfigError(
            f"{pencil.where}: {wanted} states lie in the window of {high - low:g} eV, too many for "
            "the sparse solver; narrow --window or use --solver dense"
        )
    count = wanted + 2 * SPARE
    near = _states_near(pencil, (low + high) / 2, count)
    for attempt in range(_SEARCHES):
        if near.failure:
            return _failed(near, near.failure)
        inside = (near.energies > low) & (near.energies <= high)
        complete = int(inside.sum()) == wanted
        if complete or attempt + 1 == _SEARCHES:
            break
        near = _more_states(pencil, near, count)
    vectors = near.vectors[:, inside]
    return Solution(
        near.energies[inside], vectors, below, complete, engine=near.engine, check=counted
    )


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
    k: ArrayLike | None = None,
) -> Solution:
    """States around ``sigma``, or all in ``window``, of one k-point.

    Args:
        h: H(k), (n, n) Hermitian CSR, eV.
        s: S(k), (n, n) Hermitian CSR.
        sigma: eV; not used with a window.
        nbands: how many; not used with a window.
        problem: gives atoms and positions for the elimination order.
        window: (low, high], eV, absolute; its states are counted first. A level within 1e-7 eV of
            an end lies on it.
        engine: see :func:`~.factors.factorize`.
        check: whether and how to show that no state was missed.
        precision: of the factorisation; 'auto' tries single for large matrices, and double where
            that does not converge.
        where: file and k-point, for messages.
        k: (3,), fractional, where h and s are taken: many k-points then share work.

    Returns:
        The solution; ``complete`` is None where not checked, ``engine`` and ``check`` say how.

    Raises:
        ConfigError: too many states for a sparse solver, no states asked, an unknown check, an
            energy or a window that is none. What :func:`~.factors.factorize` raises.
        DataError: S is not positive definite, or a value is not finite.
    """
    if check not in get_args(Check):
        raise ConfigError(f"check '{check}' is unknown; there are {', '.join(get_args(Check))}")
    if precision not in get_args(Precision):
        raise ConfigError(
            f"precision '{precision}' is unknown; there are {', '.join(get_args(Precision))}"
        )
    where = where or problem.source
    for name, matrix in (("H", h), ("S", s)):
        if matrix.shape != (problem.size, problem.size):
            raise DataError(
                f"{where}: {name}(k) is {matrix.shape}, the problem has {problem.size} orbitals"
            )
        if not np.isfinite(matrix.data).all():
            raise DataError(f"{where}: {name}(k) contains NaN or infinite values")
    pencil = _Pencil(h, s, problem, engine, precision, where, k)
    try:
        if window is not None:
            return _solve_window(pencil, require_window(window))
        sigma = require_energy(sigma, f"{where}: states around")
        nbands = require_count(nbands, f"{where}: bands")
        return _solve_around(pencil, sigma, nbands, check)
    except NotDefiniteError as error:
        raise DataError(not_definite(where, str(error))) from None
