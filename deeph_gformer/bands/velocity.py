"""Velocity matrices between Bloch states in a non-orthogonal basis.

    hbar v_nm = c_n† (grad H - E_m grad S) c_m + (E_m - E_n) c_n† (grad S - i A^R) c_m,

A^R = sum_R e^(ik.R) r(R) (G. Jin, D. Zheng, L. He, J. Phys.: Condens. Matter 33, 325503 (2021)).
<u_n | grad u_m> is hbar v_nm / (E_m - E_n). Without a position matrix r(R), orbitals sit in the
middle of each pair of atoms (the atom-position approximation): A^R = (tau_i + tau_j) / 2 S - i
grad S / 2.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import scipy.linalg
from numpy.typing import ArrayLike, NDArray

from ..errors import DataError
from .bloch import BlochProblem, bloch_phases
from .cell_sums import BlochSum
from .solve import not_definite

__all__ = ["VelocityStates", "bloch_positions", "velocity_states"]


@dataclasses.dataclass(frozen=True)
class VelocityStates:
    """All states of one k-point.

    Attributes:
        energies: (n,), ascending, eV.
        vectors: (n, n), columns, orthonormal in S.
        overlap: (n, n), S(k).
        overlap_gradient: (3, n, n), grad S, Å.
        positions: (3, n, n), A^R, Å.
        velocity: (3, n, n), hbar v along x, y, z, Hermitian, eV Å.
        rounding_eV: states no farther apart are one level.
    """

    energies: NDArray[np.float64]
    vectors: NDArray[np.number]
    overlap: NDArray[np.number]
    overlap_gradient: NDArray[np.complex128]
    positions: NDArray[np.complex128]
    velocity: NDArray[np.complex128]
    rounding_eV: float

    @property
    def apart(self) -> NDArray[np.float64]:
        """(n, n), E_m - E_n, eV."""
        return self.energies[None, :] - self.energies[:, None]

    @property
    def one_level(self) -> NDArray[np.bool_]:
        """(n, n), whether two states belong to one degenerate level.

        Any rotation among them gives states as good, so only sums over the whole level mean
        anything.
        """
        level = np.cumsum(np.diff(self.energies, prepend=self.energies[:1]) > self.rounding_eV)
        return np.asarray(level[:, None] == level)


def bloch_positions(
    problem: BlochProblem,
    k: ArrayLike,
    s: NDArray[np.number],
    ds: NDArray[np.complex128],
    rest: Sequence[BlochSum] | None = None,
) -> NDArray[np.complex128]:
    """A^R = sum_R e^(ik.R) r(R) of the module's formula.

    Args:
        problem: gives the atoms.
        k: (3,), fractional.
        s: (n, n), S(k).
        ds: (3, n, n), its gradient, Å.
        rest: of :func:`~.topology.links.position_rest`, where a position matrix is known.

    Returns:
        (3, n, n), Å.
    """
    orbital = problem.structure.positions[problem.atom_of_orbital]
    found = np.empty(ds.shape, dtype=np.complex128)
    for axis in range(3):
        tau = orbital[:, axis]
        found[axis] = 0.5 * (tau[:, None] + tau[None, :]) * s - 0.5j * ds[axis]
        if rest is not None:
            sums = rest[axis]
            found[axis] += sums.dense(bloch_phases(sums.cells, k))
    return found


def velocity_states(
    problem: BlochProblem, k: ArrayLike, rest: Sequence[BlochSum] | None = None
) -> VelocityStates:
    """Energies and velocities at one k-point.

    Args:
        problem: the Hamiltonian.
        k: (3,), fractional.
        rest: of :func:`~.topology.links.position_rest`, where a position matrix is known.

    Raises:
        DataError: S is not positive definite.
    """
    h, s = problem.at(k)
    try:
        energies, c = scipy.linalg.eigh(h, s)
    except scipy.linalg.LinAlgError as error:
        where = f"{problem.source}, k = {np.round(np.asarray(k, dtype=float), 5).tolist()}"
        raise DataError(not_definite(where, str(error))) from None
    dh, ds = problem.derivative_at(k)
    positions = bloch_positions(problem, k, s, ds, rest)
    apart = energies[None, :] - energies[:, None]
    velocity = np.empty((3, len(energies), len(energies)), dtype=np.complex128)
    for axis in range(3):
        of_s = c.conj().T @ ds[axis] @ c
        velocity[axis] = c.conj().T @ dh[axis] @ c - of_s * energies[None, :]
        velocity[axis] += apart * (of_s - 1j * (c.conj().T @ positions[axis] @ c))
    return VelocityStates(energies, c, s, ds, positions, velocity, problem.rounding_eV)
