"""Eigenvalues around an energy by shift-invert Lanczos with a real sparse factorisation, and a count that proves them complete.

Sylvester's law of inertia: H - sigma S = L D L† has as many negative pivots as there are eigenvalues of H c = E S c below sigma (S positive definite).
Two counts at energies between found states say how many must lie between; a Lanczos run that missed one is caught.
"""

from __future__ import annotations

import dataclasses
import time
from typing import Any, Protocol

import numpy as np
import scipy.linalg
import scipy.sparse as sp
import scipy.sparse.linalg as spla
from numpy.typing import NDArray

from ..errors import ConfigError, DataError, MissingDependencyError
from .bloch import BlochProblem
from .fermi import FermiLevel
from .frontal import FrontalFactor, Separator, dissect, periodic_points
from .lanczos import shift_invert_lanczos
from .loading import info_fermi_eV
from .solve import Solution

__all__ = ["solve_sparse", "factorize", "states_below", "fermi_level_by_inertia"]

RESIDUAL_EV = 1e-6
"""Largest accepted |H c - E S c| of a converged state."""
_SPARE = 6


class Factor(Protocol):
    """A factorised H - sigma S."""

    negative: int | None

    def solve(self, b: NDArray[np.number]) -> NDArray[np.number]:
        """(H - sigma S)^-1 b."""


@dataclasses.dataclass
class _SuperLU:
    lu: Any
    order: NDArray[np.int64]
    negative: int | None

    def solve(self, b: NDArray[np.number]) -> NDArray[np.number]:
        y = self.lu.solve(np.ascontiguousarray(b[self.order]))
        x = np.empty_like(y)
        x[self.order] = y
        return x


@dataclasses.dataclass
class _Mumps:
    context: Any
    negative: int | None

    def solve(self, b: NDArray[np.number]) -> NDArray[np.number]:
        return np.asarray(self.context.solve(b)).reshape(b.shape)


def _tree(problem: BlochProblem) -> tuple[Separator, NDArray[np.int64]]:
    """Elimination tree of the atoms and the first row of each; kept on the problem, since it serves every k and every shift."""
    kept: tuple[Separator, NDArray[np.int64]] | None = problem.__dict__.get("_elimination_tree")
    if kept is None:
        count = len(problem.structure)
        keys = np.concatenate([problem.h.keys, problem.s.keys])
        graph = sp.coo_matrix((np.ones(len(keys), dtype=np.int8), (keys[:, 3], keys[:, 4])), shape=(count, count)).tocsr()
        points = periodic_points(problem.structure.positions, problem.structure.lattice, problem.periodic)
        kept = dissect(graph, points), np.concatenate([[0], np.cumsum(problem.structure.orbital_counts * problem.spin)])
        problem.__dict__["_elimination_tree"] = kept
    return kept


def _elimination_order(problem: BlochProblem) -> NDArray[np.int64]:
    """(n,), rows of H(k) in the order of the elimination tree, for solvers that take an order."""
    tree, offsets = _tree(problem)
    atoms: list[NDArray[np.int64]] = []

    def visit(node: Separator) -> None:
        for child in node.children:
            visit(child)
        atoms.append(node.atoms)

    visit(tree)
    return np.concatenate([np.arange(offsets[a], offsets[a + 1]) for a in np.concatenate(atoms)])


def factorize(h: sp.csr_matrix, s: sp.csr_matrix, sigma: float, problem: BlochProblem, engine: str = "auto") -> tuple[Factor, str]:
    """Factorise H - sigma S.

    Args:
        h, s: (n, n) Hermitian CSR. sigma: shift, eV. problem: gives the atoms for the elimination order.
        engine: 'frontal' (our multifrontal LDL†, knows the inertia), 'mumps' (python-mumps), 'superlu' (SciPy); 'auto' is 'frontal'.

    Returns:
        The factor and a sentence naming the engine.

    Raises:
        MissingDependencyError: python-mumps is asked for and not installed. ConfigError: unknown engine. DataError: the matrix is singular.
    """
    matrix = (h - sigma * s).tocsr()
    if engine in ("auto", "frontal"):
        return FrontalFactor(matrix, *_tree(problem)), "multifrontal LDL†"
    if engine == "mumps":
        return _factorize_mumps(matrix), "MUMPS"
    if engine != "superlu":
        raise ConfigError(f"sparse engine '{engine}' is unknown; there are auto, frontal, mumps and superlu")
    order = _elimination_order(problem)
    permuted = matrix[order][:, order].tocsc()
    try:
        lu = spla.splu(permuted, permc_spec="NATURAL", diag_pivot_thresh=0.0, options={"SymmetricMode": True})
    except RuntimeError as error:
        raise DataError(
            f"{problem.source}: H - sigma S is singular at {sigma:.6f} eV ({error}); choose another Fermi level or the dense solver"
        ) from None
    same = np.arange(len(order))
    diagonal_pivots = bool((lu.perm_r == same).all() and (lu.perm_c == same).all())
    return _SuperLU(
        lu, order, int((lu.U.diagonal().real < 0).sum()) if diagonal_pivots else None
    ), "SuperLU (slow and large for big cells; --engine frontal is the default)"


def _factorize_mumps(matrix: sp.csr_matrix) -> Factor:
    try:
        import mumps
    except ImportError:
        raise MissingDependencyError("python-mumps", "mumps", "--engine mumps") from None
    context = mumps.Context()
    real = not np.iscomplexobj(matrix.data)
    context.set_matrix(matrix.tocoo(), symmetric=real)
    context.factor()
    return _Mumps(context, int(context.mumps_instance.infog[12]) if real else None)


def states_below(problem: BlochProblem, k: NDArray[np.float64], energy: float, engine: str = "auto") -> int:
    """Number of eigenvalues below ``energy`` (eV) at one k-point.

    Raises:
        ConfigError: the engine cannot count (MUMPS on complex matrices). What :func:`factorize` raises.
    """
    h, s = problem.sparse_at(k)
    factor, name = factorize(h, s, energy, problem, engine)
    if factor.negative is None:
        raise ConfigError(f"{name} cannot count eigenvalues here; use --engine frontal")
    return factor.negative


def _lanczos(h: sp.csr_matrix, s: sp.csr_matrix, count: int, factor: Factor) -> tuple[NDArray[np.float64], NDArray[np.number], str]:
    """``count`` states nearest the factor's shift: block Lanczos, then Rayleigh-Ritz with H and the residuals; (energies, vectors, failure)."""
    _, vectors, good = shift_invert_lanczos(factor.solve, s, count, np.result_type(h.dtype, s.dtype))
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
    return low, high, float(padded[low + 1] + padded[low]) / 2, float(padded[high + 1] + padded[high]) / 2


def solve_sparse(
    h: sp.csr_matrix,
    s: sp.csr_matrix,
    sigma: float,
    nbands: int,
    *,
    problem: BlochProblem,
    window: tuple[float, float] | None = None,
    engine: str = "auto",
    check: bool = True,
    where: str = "",
) -> tuple[Solution, str]:
    """States around ``sigma``, or all in ``window``, of one k-point.

    Args:
        h, s: H(k), S(k), Hermitian CSR. sigma: eV. nbands: how many (without a window). window: (low, high) eV, absolute.
        problem: gives atoms and positions for the elimination order. engine: see :func:`factorize`. check: count eigenvalues (two more factorisations).

    Returns:
        The solution (``complete`` None where not counted) and a sentence naming the engine.

    Raises:
        ConfigError: too many states for a sparse solver. What :func:`factorize` raises.
    """
    n = h.shape[0]
    if window is not None:
        return _solve_window(h, s, window, problem, engine, where)
    if nbands + 2 * _SPARE >= n - 1:
        raise ConfigError(
            f"{where}: {nbands} of {n} bands asked from the sparse solver, which finds a few around the Fermi level; use --solver dense"
        )
    factor, name = factorize(h, s, sigma, problem, engine)
    energies, vectors, failure = _lanczos(h, s, nbands + 2 * _SPARE, factor)
    below = factor.negative
    del factor
    if failure or len(energies) < nbands:
        return Solution(np.zeros(0), None, None, False, failure=failure or "too few states found"), name
    low, high, bottom, top = _cut(energies, sigma, nbands)
    kept, kept_vectors = energies[low:high], vectors[:, low:high]
    if not check:
        first = None if below is None else below - int((kept < sigma).sum())
        return Solution(kept, kept_vectors, first, None), name + ", completeness not checked"
    counts = [factorize(h, s, energy, problem, engine)[0].negative for energy in (bottom, top)]
    if counts[0] is None or counts[1] is None:
        return Solution(kept, kept_vectors, None, None), name + ", which cannot count eigenvalues here"
    return Solution(kept, kept_vectors, counts[0], counts[1] - counts[0] == high - low), name + ", eigenvalues counted"


def _solve_window(
    h: sp.csr_matrix, s: sp.csr_matrix, window: tuple[float, float], problem: BlochProblem, engine: str, where: str
) -> tuple[Solution, str]:
    """All states in a window: count first, then ask for exactly as many."""
    n = h.shape[0]
    ends, name = [], ""
    for energy in window:
        factor, name = factorize(h, s, energy, problem, engine)
        ends.append(factor.negative)
        del factor
    if ends[0] is None or ends[1] is None:
        raise ConfigError(f"{where}: {name} cannot count the states of a window; use --engine frontal, or --nbands")
    wanted = ends[1] - ends[0]
    if wanted == 0:
        return Solution(np.zeros(0), None, ends[0], True), name + ", eigenvalues counted"
    if wanted + 2 * _SPARE >= min(n - 1, 2000):
        raise ConfigError(
            f"{where}: {wanted} states lie in the window of {window[1] - window[0]:g} eV, too many for the sparse solver; narrow --window or use --solver dense"
        )
    sigma = (window[0] + window[1]) / 2
    factor, _ = factorize(h, s, sigma, problem, engine)
    energies, vectors, failure = _lanczos(h, s, wanted + _SPARE, factor)
    if failure:
        return Solution(np.zeros(0), None, None, False, failure=failure), name
    inside = (energies > window[0]) & (energies <= window[1])
    return Solution(energies[inside], vectors[:, inside], ends[0], int(inside.sum()) == wanted), name + ", eigenvalues counted"


def fermi_level_by_inertia(
    problem: BlochProblem, electrons: float, start_eV: float | None = None, *, electrons_source: str = "given", engine: str = "auto"
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
        negative = factorize(h, s, energy, problem, engine)[0].negative
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
        found, _ = solve_sparse(h, s, here, number, problem=problem, engine=engine, check=False)
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
