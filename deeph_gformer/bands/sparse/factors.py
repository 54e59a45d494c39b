"""Factorisations of H - sigma S: our multifrontal one, and MUMPS over MPI ranks; their inertia."""

from __future__ import annotations

from typing import Literal, Protocol, get_args

import numpy as np
import scipy.sparse as sp
from numpy.typing import ArrayLike, NDArray

from ...errors import ConfigError
from ..arguments import require_energy
from ..bloch import BlochProblem
from ..memory import memory_of
from .condensed import CondensedFactor, condensed
from .dissection import Plan, dissect, make_plan
from .frontal import FrontalFactor

__all__ = [
    "Engine",
    "Factor",
    "Precision",
    "contraction",
    "count_below",
    "elimination_plan",
    "factorize",
    "prefers_single",
    "refines",
    "shifted",
]

Engine = Literal["auto", "frontal", "slepc"]
Precision = Literal["auto", "double", "single"]
SINGLE_FROM = 4000
"""Rows from which single precision is tried first; below, nothing is gained."""
CONTRACTION = 0.1
"""Largest accepted factor by which one step of refinement must shrink a residual."""


class Factor(Protocol):
    """A factorised H - sigma S."""

    @property
    def negative(self) -> int | None:
        """Number of negative eigenvalues; None where the engine cannot tell."""

    def solve(self, b: NDArray[np.number]) -> NDArray[np.number]:
        """(H - sigma S)^-1 b."""


def elimination_plan(problem: BlochProblem) -> Plan:
    """What a factorisation of H(k) - sigma S(k) does; kept, since it serves every k and shift."""
    plan: Plan | None = problem.__dict__.get("_elimination_plan")
    if plan is None:
        count = len(problem.structure)
        keys = np.concatenate([problem.h.keys, problem.s.keys])
        graph = sp.coo_matrix(
            (np.ones(len(keys), dtype=np.int8), (keys[:, 3], keys[:, 4])), shape=(count, count)
        ).tocsr()
        tree = dissect(
            graph, problem.structure.positions, problem.structure.lattice, problem.coupled
        )
        plan = make_plan(
            tree,
            graph,
            np.concatenate([[0], np.cumsum(problem.structure.orbital_counts * problem.spin)]),
        )
        problem.__dict__["_elimination_plan"] = plan
    return plan


def shifted(h: sp.csr_matrix, s: sp.csr_matrix, sigma: float) -> sp.csr_matrix:
    """H - sigma S, (n, n) CSR, in eV; the pattern is shared where H and S have the same."""
    if (
        h.nnz == s.nnz
        and np.array_equal(h.indptr, s.indptr)
        and np.array_equal(h.indices, s.indices)
    ):
        data = np.multiply(s.data, -sigma, dtype=np.result_type(h.data, s.data))
        data += h.data
        return sp.csr_matrix((data, h.indices, h.indptr), shape=h.shape)
    return (h - sigma * s).tocsr()


def factorize(
    h: sp.csr_matrix,
    s: sp.csr_matrix,
    sigma: float,
    problem: BlochProblem,
    engine: str = "auto",
    single: bool = False,
    k: ArrayLike | None = None,
) -> tuple[Factor, str]:
    """Factorise H - sigma S.

    Args:
        h: (n, n) Hermitian CSR, eV.
        s: (n, n) Hermitian CSR.
        sigma: shift, eV.
        problem: gives the atoms for the elimination order.
        engine: 'frontal' (our multifrontal LDL†, knows the inertia) or 'slepc' (MUMPS through
            PETSc, over MPI ranks); 'auto' is 'frontal'.
        single: in single precision (frontal only).
        k: (3,), fractional, of h and s: what other k-points share is then eliminated once for all
            of them (:mod:`~.condensed`), while :func:`~..memory.kept_memory` is in force.

    Returns:
        The factor and a name for it.

    Raises:
        MissingDependencyError: slepc4py is asked for and not installed.
        ConfigError: unknown engine, or a shift that is no number.
        DataError: MUMPS gives up.
    """
    if engine not in get_args(Engine):
        raise ConfigError(
            f"sparse engine '{engine}' is unknown; there are {', '.join(get_args(Engine))}"
        )
    sigma = require_energy(sigma, "energy")
    matrix = shifted(h, s, sigma)
    if engine == "slepc":
        from .slepc import PetscFactor

        return PetscFactor.of(matrix), "MUMPS through PETSc"
    dtype = {"f": np.float32, "c": np.complex64}[matrix.dtype.kind] if single else matrix.dtype
    name = f"multifrontal LDL†{' in single precision' if single else ''}"
    plan = elimination_plan(problem)
    if k is not None:
        common = condensed(problem, sigma, plan.multiply_adds, np.dtype(dtype))
        if common is not None:
            return (
                CondensedFactor(matrix, problem, *common, k, dtype, memory_of(problem)),
                f"condensed {name}",
            )
    return FrontalFactor(matrix, plan, dtype, memory_of(problem)), name


def prefers_single(h: sp.csr_matrix, engine: str, precision: Precision) -> bool:
    """Whether single precision is tried first."""
    return engine in ("auto", "frontal") and (
        precision == "single" or (precision == "auto" and h.shape[0] >= SINGLE_FROM)
    )


def contraction(factor: Factor, matrix: sp.csr_matrix) -> float:
    """By how much a step of iterative refinement with an approximate factor shrinks a residual.

    Args:
        factor: of nearly ``matrix``.
        matrix: (n, n) Hermitian CSR.

    Returns:
        The largest ratio of two residuals that follow each other; inf where one is NaN.
    """
    residual = np.random.default_rng(1).standard_normal((matrix.shape[0], 4)).astype(matrix.dtype)
    for _ in range(3):
        new = residual - matrix @ factor.solve(residual)
        ratio = np.linalg.norm(new, axis=0) / np.linalg.norm(residual, axis=0)
        residual = new / np.linalg.norm(new, axis=0)
    return float(ratio.max()) if np.isfinite(ratio).all() else np.inf


def refines(factor: Factor, matrix: sp.csr_matrix) -> bool:
    """Whether iterative refinement with an approximate factor converges (:func:`contraction`).

    Then the factor's inertia is that of the matrix A: the factor is exact for some A + E, and
    refinement multiplies residuals by E (A + E)^-1. Where all eigenvalues of that are smaller than
    1, A + t E is singular for no t from 0 to 1, so no eigenvalue changes sign on the way.
    """
    return contraction(factor, matrix) < CONTRACTION


def count_below(
    h: sp.csr_matrix,
    s: sp.csr_matrix,
    energy: float,
    problem: BlochProblem,
    engine: str = "auto",
    precision: Precision = "auto",
) -> tuple[int | None, str]:
    """Number of eigenvalues of H c = E S c below an energy.

    A count in single precision is taken only where refinement proves it (:func:`refines`), else the
    matrix is factorised again in double.

    Args:
        h: (n, n) Hermitian CSR, eV.
        s: (n, n) Hermitian CSR, positive definite.
        energy: eV.
        problem: gives the atoms for the elimination order.
        engine: see :func:`factorize`.
        precision: of the factorisation.

    Returns:
        The number, None where the engine cannot count, and the engine's name.
    """
    if prefers_single(h, engine, precision):
        factor, name = factorize(h, s, energy, problem, engine, single=True)
        if refines(factor, shifted(h, s, energy)):
            return factor.negative, name
        del factor
    factor, name = factorize(h, s, energy, problem, engine)
    return factor.negative, name
