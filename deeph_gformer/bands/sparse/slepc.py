"""One k-point over MPI ranks: SLEPc's Krylov-Schur with MUMPS, both through PETSc, for factors that
outgrow one machine.

Every rank runs the same program and holds the rows of H(k) and S(k) that PETSc gives it; the
factor, which is what needs the memory, is distributed. Real matrices are factorised as L D L† and
their eigenvalues counted (Sylvester); MUMPS knows no such factorisation of complex Hermitian ones,
which are factorised as general matrices and cannot be counted.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from ...errors import ConfigError, DataError, MissingDependencyError

__all__ = ["PetscFactor", "mpi_rank", "nearest_states"]

_TOLERANCE = 1e-12
"""Relative error of 1 / (E - sigma)."""
_PREFIX = "deeph_gformer_"


def _libraries() -> tuple[Any, Any]:
    """petsc4py.PETSc and slepc4py.SLEPc.

    Raises:
        MissingDependencyError: they are not installed.
    """
    try:
        from petsc4py import PETSc
        from slepc4py import SLEPc
    except ImportError:
        raise MissingDependencyError("slepc4py", "slepc", "--engine slepc") from None
    return PETSc, SLEPc


def mpi_rank() -> int:
    """Number of this process among those that solve together."""
    return int(_libraries()[0].COMM_WORLD.getRank())


def _distributed(matrix: sp.csr_matrix, petsc: Any) -> Any:
    """This rank's rows of (n, n) CSR as a PETSc matrix.

    Raises:
        ConfigError: the matrix is complex, PETSc was built for real numbers.
    """
    if np.iscomplexobj(matrix.data) and not np.issubdtype(petsc.ScalarType, np.complexfloating):
        raise ConfigError(
            "--engine slepc: this k-point needs complex numbers and PETSc was built for real "
            "ones; use its complex build (PETSC_DIR, SLEPC_DIR)"
        )
    n, comm = matrix.shape[0], petsc.COMM_WORLD
    size, rank = comm.getSize(), comm.getRank()
    bounds = np.arange(size + 1) * n // size
    rows = matrix[bounds[rank] : bounds[rank + 1]]
    local = int(rows.shape[0])
    csr = (
        rows.indptr.astype(petsc.IntType),
        rows.indices.astype(petsc.IntType),
        rows.data.astype(petsc.ScalarType),
    )
    result = petsc.Mat().createAIJ(size=((local, n), (local, n)), csr=csr, comm=comm)
    result.setOption(petsc.Mat.Option.HERMITIAN, True)
    if not np.iscomplexobj(matrix.data):
        result.setOption(petsc.Mat.Option.SYMMETRIC, True)
    return result


def _set_direct(ksp: Any, petsc: Any) -> None:
    """MUMPS, as L D L† where that is possible.

    An inertia needs ScaLAPACK's root switched off (ICNTL 13) and null pivots looked for (ICNTL 24).
    """
    ksp.setType(petsc.KSP.Type.PREONLY)
    pc = ksp.getPC()
    real = not np.issubdtype(petsc.ScalarType, np.complexfloating)
    pc.setType(petsc.PC.Type.CHOLESKY if real else petsc.PC.Type.LU)
    pc.setFactorSolverType("mumps")
    for number in (13, 24):
        petsc.Options()[f"{ksp.getOptionsPrefix() or ''}mat_mumps_icntl_{number}"] = 1


class _Gather:
    """Distributed vectors, whole on every rank."""

    def __init__(self, vector: Any, petsc: Any) -> None:
        """Args: a vector of the kind that will be gathered."""
        self._scatter, self._whole = petsc.Scatter.toAll(vector)

    def __call__(self, vector: Any) -> NDArray[np.number]:
        """(n,), a copy."""
        self._scatter.scatter(vector, self._whole)
        return np.array(self._whole.getArray())


class PetscFactor:
    """A factorised matrix, distributed over ranks; vectors are whole on every rank.

    Attributes:
        negative: number of negative eigenvalues, None for complex builds.
    """

    def __init__(self, ksp: Any) -> None:
        """Args: a set-up ``KSP`` with a direct solver."""
        self._ksp, (petsc, _) = ksp, _libraries()
        self._x, self._b = ksp.getOperators()[0].createVecs()
        self._gather = _Gather(self._x, petsc)
        real = not np.issubdtype(petsc.ScalarType, np.complexfloating)
        self.negative: int | None = (
            int(ksp.getPC().getFactorMatrix().getInertia()[0]) if real else None
        )

    @classmethod
    def of(cls, matrix: sp.csr_matrix) -> PetscFactor:
        """Factorise (n, n) Hermitian CSR, the same on every rank.

        Raises:
            DataError: MUMPS gives up (singular matrix, no memory).
        """
        petsc, _ = _libraries()
        ksp = petsc.KSP().create(petsc.COMM_WORLD)
        ksp.setOptionsPrefix(_PREFIX)
        ksp.setOperators(_distributed(matrix, petsc))
        _set_direct(ksp, petsc)
        ksp.setFromOptions()
        try:
            ksp.setUp()
        except petsc.Error as error:
            raise DataError(
                f"MUMPS could not factorise H - sigma S ({error}); more ranks or machines give "
                f"it more memory"
            ) from None
        return cls(ksp)

    def solve(self, b: NDArray[np.number]) -> NDArray[np.number]:
        """A^-1 b for b (n,) or (n, m), the same on every rank."""
        columns = b.reshape(len(b), -1)
        result = np.empty(columns.shape, dtype=np.result_type(b.dtype, np.float64))
        start, stop = self._b.getOwnershipRange()
        for number in range(columns.shape[1]):
            self._b.getArray()[:] = columns[start:stop, number]
            self._ksp.solve(self._b, self._x)
            whole = self._gather(self._x)
            result[:, number] = whole if np.iscomplexobj(result) else whole.real
        return result.reshape(b.shape)


def nearest_states(
    h: sp.csr_matrix, s: sp.csr_matrix, sigma: float, count: int
) -> tuple[NDArray[np.float64], NDArray[np.number], str, PetscFactor]:
    """The ``count`` states nearest sigma, by SLEPc.

    Args:
        h: (n, n) Hermitian CSR, eV, the same on every rank.
        s: (n, n) Hermitian CSR, the same on every rank.
        sigma: eV.
        count: states.

    Returns:
        Energies (count,), ascending, eV; states (n, count), orthonormal in S; why it failed, or an
        empty text; the factor of H - sigma S.

    Raises:
        MissingDependencyError: slepc4py is not installed. ConfigError: complex matrices and a real
            PETSc. DataError: the factorisation failed.
    """
    petsc, slepc = _libraries()
    eps = slepc.EPS().create(petsc.COMM_WORLD)
    eps.setOptionsPrefix(_PREFIX)
    a, b = _distributed(h, petsc), _distributed(s, petsc)
    eps.setOperators(a, b)
    eps.setProblemType(slepc.EPS.ProblemType.GHEP)
    eps.setWhichEigenpairs(slepc.EPS.Which.TARGET_MAGNITUDE)
    eps.setTarget(sigma)
    eps.setDimensions(count)
    eps.setTolerances(_TOLERANCE)
    spectral = eps.getST()
    spectral.setType(slepc.ST.Type.SINVERT)
    spectral.setShift(sigma)
    _set_direct(spectral.getKSP(), petsc)
    eps.setFromOptions()
    try:
        eps.solve()
    except petsc.Error as error:
        raise DataError(
            f"SLEPc could not solve at {sigma:.6f} eV ({error}); more ranks or machines give "
            f"MUMPS more memory"
        ) from None
    good = eps.getConverged()
    factor = PetscFactor(spectral.getKSP())
    if good < count:
        return (
            np.zeros(0),
            np.zeros((h.shape[0], 0)),
            f"SLEPc: only {good} of {count} states converged",
            factor,
        )
    real = not np.iscomplexobj(h.data) and not np.iscomplexobj(s.data)
    energies, vectors = (
        np.zeros(good),
        np.zeros((h.shape[0], good), dtype=np.float64 if real else np.complex128),
    )
    state, imaginary = a.createVecs()
    gather = _Gather(state, petsc)
    for number in range(good):
        energies[number] = eps.getEigenpair(number, state, imaginary).real
        whole = gather(state)
        if real and np.iscomplexobj(whole):  # a complex build leaves a phase
            whole = (whole * np.exp(-1j * np.angle(whole[np.argmax(np.abs(whole))]))).real
        vectors[:, number] = whole
    nearest = np.argsort(np.abs(energies - sigma), kind="stable")[:count]
    nearest = nearest[np.argsort(energies[nearest])]
    return energies[nearest], vectors[:, nearest], "", factor
