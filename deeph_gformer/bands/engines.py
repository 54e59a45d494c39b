"""Factorisations of H - sigma S: our multifrontal one, MUMPS, SuperLU."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, Protocol

import numpy as np
import scipy.sparse as sp
import scipy.sparse.linalg as spla
from numpy.typing import NDArray

from ..errors import ConfigError, DataError, MissingDependencyError
from .bloch import BlochProblem
from .dissection import Plan, dissect, make_plan
from .frontal import FrontalFactor

__all__ = ["Factor", "Precision", "contraction", "factorize", "elimination_plan", "count_below"]

Precision = Literal["auto", "double", "single"]
SINGLE_FROM = 4000
"""Rows from which single precision is tried first; below, nothing is gained."""
CONTRACTION = 0.1
"""Largest accepted factor by which one step of refinement must shrink a residual."""


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


def elimination_plan(problem: BlochProblem) -> Plan:
    """What a factorisation of H(k) - sigma S(k) does; kept on the problem, since it serves every k and every shift."""
    plan: Plan | None = problem.__dict__.get("_elimination_plan")
    if plan is None:
        count = len(problem.structure)
        keys = np.concatenate([problem.h.keys, problem.s.keys])
        graph = sp.coo_matrix(
            (np.ones(len(keys), dtype=np.int8), (keys[:, 3], keys[:, 4])), shape=(count, count)
        ).tocsr()
        tree = dissect(
            graph, problem.structure.positions, problem.structure.lattice, problem.periodic
        )
        plan = make_plan(
            tree,
            graph,
            np.concatenate([[0], np.cumsum(problem.structure.orbital_counts * problem.spin)]),
        )
        problem.__dict__["_elimination_plan"] = plan
    return plan


def shifted(h: sp.csr_matrix, s: sp.csr_matrix, sigma: float) -> sp.csr_matrix:
    """H - sigma S in CSR form; h, s: (n, n). sigma: eV."""
    if (
        h.nnz == s.nnz
        and np.array_equal(h.indptr, s.indptr)
        and np.array_equal(h.indices, s.indices)
    ):
        return sp.csr_matrix((h.data - sigma * s.data, h.indices, h.indptr), shape=h.shape)
    return (h - sigma * s).tocsr()


def factorize(
    h: sp.csr_matrix,
    s: sp.csr_matrix,
    sigma: float,
    problem: BlochProblem,
    engine: str = "auto",
    single: bool = False,
) -> tuple[Factor, str]:
    """Factorise H - sigma S.

    Args:
        h, s: (n, n) Hermitian CSR. sigma: shift, eV. problem: gives the atoms for the elimination order.
        engine: 'frontal' (our multifrontal LDL†, knows the inertia), 'mumps' (python-mumps), 'slepc' (MUMPS through PETSc, over MPI ranks),
            'superlu' (SciPy); 'auto' is 'frontal'.
        single: in single precision (frontal only).

    Returns:
        The factor and a sentence naming the engine.

    Raises:
        MissingDependencyError: python-mumps is asked for and not installed. ConfigError: unknown engine. DataError: the matrix is singular.
    """
    matrix = shifted(h, s, sigma)
    if engine in ("auto", "frontal"):
        dtype = {"f": np.float32, "c": np.complex64}[matrix.dtype.kind] if single else matrix.dtype
        return FrontalFactor(
            matrix, elimination_plan(problem), dtype
        ), f"multifrontal LDL†{' in single precision' if single else ''}"
    if engine == "mumps":
        return _factorize_mumps(matrix), "MUMPS"
    if engine == "slepc":
        from .slepc import PetscFactor

        return PetscFactor.of(matrix), "MUMPS through PETSc"
    if engine != "superlu":
        raise ConfigError(
            f"sparse engine '{engine}' is unknown; there are auto, frontal, mumps, slepc and superlu"
        )
    order = elimination_plan(problem).order
    permuted = matrix[order][:, order].tocsc()
    try:
        lu = spla.splu(
            permuted, permc_spec="NATURAL", diag_pivot_thresh=0.0, options={"SymmetricMode": True}
        )
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


def prefers_single(h: sp.csr_matrix, engine: str, precision: Precision) -> bool:
    """Whether single precision is tried first."""
    return engine in ("auto", "frontal") and (
        precision == "single" or (precision == "auto" and h.shape[0] >= SINGLE_FROM)
    )


def contraction(factor: Factor, matrix: sp.csr_matrix, steps: int = 3, columns: int = 4) -> float:
    """By how much a step of iterative refinement with an approximate factor shrinks a residual, tried on random right-hand sides; inf for NaN."""
    residual = (
        np.random.default_rng(1).standard_normal((matrix.shape[0], columns)).astype(matrix.dtype)
    )
    for _ in range(steps):
        new = residual - matrix @ factor.solve(residual)
        ratio = np.linalg.norm(new, axis=0) / np.linalg.norm(residual, axis=0)
        residual = new / np.linalg.norm(new, axis=0)
    return float(ratio.max()) if np.isfinite(ratio).all() else np.inf


def refines(factor: Factor, matrix: sp.csr_matrix) -> bool:
    """Whether iterative refinement with an approximate factor converges (:func:`contraction`).

    Then the factor's inertia is that of the matrix A: the factor is exact for some A + E, refinement multiplies residuals by E (A + E)^-1, and where all
    eigenvalues of that are smaller than 1, A + t E is singular for no t from 0 to 1, so no eigenvalue changes sign on the way.
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
    """Number of eigenvalues of H c = E S c below ``energy`` (eV), None where the engine cannot count, and the engine.

    A count in single precision is taken only where refinement proves it (:func:`refines`), else the matrix is factorised again in double.
    """
    if prefers_single(h, engine, precision):
        factor, name = factorize(h, s, energy, problem, engine, single=True)
        if refines(factor, shifted(h, s, energy)):
            return factor.negative, name
        del factor
    factor, name = factorize(h, s, energy, problem, engine)
    return factor.negative, name
