"""Berry curvature from sums over states, for metals; anomalous and spin Hall conductivities.

With X_nm = <u_n | grad u_m> = hbar v_nm / (E_m - E_n) of :mod:`~..velocity`, Omega = -2 Im sum_n
f_n sum_(m != n) X_mn,a^* X_mn,b: pairs of which both states are filled cancel.

That sum knows the states of the basis alone. The filled states turn out of its space, too, when
the Bloch sums of the orbitals do: A_b = sum_R e^(ik.R) <0| r_b - R_b |R> = <u_i | i d_b u_j> gives

    <d_a u_i | d_b u_j> - <d_b u_i | d_a u_j> = -i (d_a A_b - d_b A_a)_ij,

of which A_a† S^-1 A_b - A_b† S^-1 A_a is within the space; the rest, as a mean over the filled
states, is added (X. Wang et al., Phys. Rev. B 74, 195118 (2006), for an orthogonal basis). With it
the Hall conductivity of an insulator is a whole number. The spin Hall conductivity is Kubo's sum.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...errors import ConfigError
from ...io import BlockMatrix
from ..bloch import BlochProblem, bloch_phases
from ..cell_sums import BlochSum
from ..fermi import occupations
from ..kmesh import parse_mesh
from ..projection import spin_matrices
from ..velocity import VelocityStates, velocity_states
from .links import ATOM_POSITIONS, POSITION_MATRIX, position_rest
from .refinement import zone_mean

__all__ = [
    "HallConductivity",
    "SpinHallConductivity",
    "anomalous_hall",
    "kubo_curvature",
    "spin_hall",
]

_PLANES = ((1, 2), (2, 0), (0, 1))
_SMALL_E2_PER_H = 2e-3
_SMALL_S_PER_CM = 0.5
"""Errors below are not refined further."""
E2_OVER_H_SIEMENS = 3.874045864905544e-05
"""e² / h (CODATA 2018, exact)."""


@dataclasses.dataclass(frozen=True)
class HallConductivity:
    """Intrinsic anomalous Hall conductivity.

    Attributes:
        sigma: (3,), sigma_yz, sigma_zx, sigma_xy: in e²/h for a slab (along its normal only), in
            S/cm for a crystal.
        unit: "e2/h" or "S/cm".
        mesh: k mesh.
        width_eV: of the Fermi function.
        method: with which positions.
        largest_share: of all curvature (absolute values), what the cell of the mesh with most of it
            has: far above one over their number, the mesh does not resolve it.
        error: like ``sigma``, estimated, see :class:`~.refinement.ZoneMean`.
        on_mesh: like ``sigma``, of the mesh alone, before it was refined.
        points: k-points solved, those of the mesh included.
    """

    sigma: NDArray[np.float64]
    unit: str
    mesh: tuple[int, int, int]
    width_eV: float
    method: str
    largest_share: float
    error: NDArray[np.float64]
    on_mesh: NDArray[np.float64]
    points: int


def kubo_curvature(
    problem: BlochProblem,
    k: ArrayLike,
    fermi_eV: float,
    width_eV: float = 0.01,
    rest: Sequence[BlochSum] | None = None,
) -> NDArray[np.float64]:
    """Berry curvature of the occupied states at one k-point.

    Args:
        problem: the Hamiltonian.
        k: (3,), fractional.
        fermi_eV: the Fermi level.
        width_eV: of the Fermi function.
        rest: of :func:`~.links.position_rest`, where a position matrix is known.

    Returns:
        (3,), Omega_yz, Omega_zx, Omega_xy, Å².
    """
    states = velocity_states(problem, k, rest)
    x = _over_distance(states, states.velocity)
    f = occupations(states.energies, fermi_eV, "fermi", width_eV)
    half = 0.5 * (f[None, :] - f[:, None])  # (m, n): (f_n - f_m) / 2, each pair once
    omega = _outside(problem, k, states, f, rest)
    for number, (a, b) in enumerate(_PLANES):
        omega[number] -= 2.0 * float((half * np.imag(x[a].conj() * x[b])).sum())
    return omega


def _outside(
    problem: BlochProblem,
    k: ArrayLike,
    states: VelocityStates,
    filling: NDArray[np.float64],
    rest: Sequence[BlochSum] | None,
) -> NDArray[np.float64]:
    """What the filled states turn out of the space of the basis, see above.

    Args:
        problem: the Hamiltonian.
        k: (3,), fractional.
        states: of this k-point.
        filling: (n,), occupations.
        rest: of :func:`~.links.position_rest`, where a position matrix is known.

    Returns:
        (3,), Omega_yz, Omega_zx, Omega_xy, Å².
    """
    some = filling > 1e-12
    c, f = states.vectors[:, some], filling[some]
    ds = states.overlap_gradient
    dipoles = states.positions + 1j * ds
    within = states.vectors.conj().T @ (dipoles @ c)  # (3, n, filled), C† A c
    orbital = problem.structure.positions[problem.atom_of_orbital]
    omega = np.zeros(3)
    for number, (a, b) in enumerate(_PLANES):
        curl = np.zeros_like(ds[0])
        for first, second, sign in ((a, b, 0.5), (b, a, -0.5)):
            tau = orbital[:, second]
            curl += sign * (tau[:, None] + tau[None, :]) * ds[first]
            if rest is not None:
                sums = rest[second]
                turns = 1j * (sums.cells @ problem.structure.lattice[:, first])
                curl += 2 * sign * sums.dense(turns * bloch_phases(sums.cells, k))
        whole = -1j * (c.conj() * (curl @ c)).sum(axis=0)
        inner = 2j * np.einsum("in,in->n", within[a].conj(), within[b]).imag
        omega[number] = float((f * (1j * (whole - inner)).real).sum())
    return omega


def _over_distance(
    states: VelocityStates, matrices: NDArray[np.complex128]
) -> NDArray[np.complex128]:
    """Matrices (3, n, n) over E_m - E_n, without pairs of one level."""
    near = states.one_level
    found: NDArray[np.complex128] = np.where(
        near, 0.0, matrices / np.where(near, 1.0, states.apart)
    )
    return found


def anomalous_hall(
    problem: BlochProblem,
    fermi_eV: float,
    mesh: str | Sequence[int] | None = None,
    *,
    width_eV: float = 0.01,
    positions: Sequence[BlockMatrix] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> HallConductivity:
    """Intrinsic anomalous Hall conductivity, -e²/hbar times the mean curvature of occupied states.

    Without spin-orbit coupling every band counts twice, for both spins.

    Args:
        problem: the Hamiltonian.
        fermi_eV: the Fermi level.
        mesh: Γ-centred k mesh; default 0.12 1/Å apart. It is refined where the curvature is large,
            with at most as many k-points again.
        width_eV: of the Fermi function.
        positions: x, y, z of the position matrix, Å.
        progress: called with (done, all).

    Raises:
        ConfigError: one periodic direction or none, or a width that is none.
    """
    mesh_of = _HallMesh.of(problem, mesh, width_eV)
    rest = None if positions is None else position_rest(problem, positions)
    factor = mesh_of.factor * problem.electrons_per_band  # both spins
    found = zone_mean(
        lambda k: kubo_curvature(problem, k, fermi_eV, width_eV, rest),
        mesh_of.numbers,
        mesh_of.small / abs(factor),
        progress,
    )
    return HallConductivity(
        factor * found.value,
        mesh_of.unit,
        mesh_of.numbers,
        width_eV,
        ATOM_POSITIONS if positions is None else POSITION_MATRIX,
        found.largest_share,
        abs(factor) * found.error,
        factor * found.on_mesh,
        found.points,
    )


@dataclasses.dataclass(frozen=True)
class _HallMesh:
    """Where a Hall conductivity is summed, and what a mean curvature (Å²) is multiplied with."""

    factor: float
    unit: str
    numbers: tuple[int, int, int]

    @property
    def small(self) -> float:
        """An error that is small enough, in ``unit``."""
        return {"S/cm": _SMALL_S_PER_CM}.get(self.unit, _SMALL_E2_PER_H)

    @classmethod
    def of(
        cls, problem: BlochProblem, mesh: str | Sequence[int] | None, width_eV: float
    ) -> _HallMesh:
        """A Γ-centred mesh: n x n x 1 is the same points for all vectors of a lattice.

        Raises:
            ConfigError: one periodic direction or none, or a width that is none.
        """
        dimensions = sum(problem.periodic)
        if dimensions < 2:
            raise ConfigError(
                f"{problem.source}: a Hall conductivity needs two or three periodic directions, "
                f"'{problem.structure.name}' has {dimensions}"
            )
        if not 0 < width_eV < np.inf:
            raise ConfigError(
                f"width {width_eV} eV of the Fermi function: it must be positive, finite"
            )
        numbers = parse_mesh(mesh, problem)
        lattice = problem.structure.lattice
        if dimensions == 3:
            # e²/hbar * mean / volume = 2 pi e²/h * mean / volume; 1/Å is 1e8 1/cm
            volume = abs(float(np.linalg.det(lattice)))
            factor, unit = -2 * np.pi * E2_OVER_H_SIEMENS / volume * 1e8, "S/cm"
        else:
            a, b = lattice[list(problem.periodic)]
            factor, unit = -2 * np.pi / float(np.linalg.norm(np.cross(a, b))), "e2/h"
        return cls(factor, unit, numbers)


@dataclasses.dataclass(frozen=True)
class SpinHallConductivity(HallConductivity):
    """Intrinsic spin Hall conductivity; what is not named here is as in the anomalous one.

    Attributes:
        sigma: (3, 3, 3), [s, a, b]: current of spin s along a in a field along b; in units of
            hbar/2e times ``unit``, so that a fully polarised system has its Hall conductivity.
        unit: "e2/h" for a slab, "S/cm" for a crystal.
    """


def _spin_curvature(
    problem: BlochProblem,
    k: NDArray[np.float64],
    fermi_eV: float,
    width_eV: float,
    rest: Sequence[BlochSum] | None,
) -> NDArray[np.float64]:
    """(3, 3, 3) of the spin current (v_a s + s v_a) / 2 with v_b, Å²."""
    states = velocity_states(problem, k, rest)
    x = _over_distance(states, states.velocity)
    f = occupations(states.energies, fermi_eV, "fermi", width_eV)
    half = 0.5 * (f[None, :] - f[:, None])
    result = np.zeros((3, 3, 3))
    for axis, spin in enumerate(spin_matrices(problem, states.vectors, states.overlap)):
        current = 0.5 * (states.velocity @ spin + spin @ states.velocity)
        over = _over_distance(states, current)
        for a in range(3):
            for b in range(3):
                result[axis, a, b] = -2.0 * (half * np.imag(over[a].conj() * x[b])).sum()
    return result


def spin_hall(
    problem: BlochProblem,
    fermi_eV: float,
    mesh: str | Sequence[int] | None = None,
    *,
    width_eV: float = 0.01,
    positions: Sequence[BlockMatrix] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> SpinHallConductivity:
    """Intrinsic spin Hall conductivity with the conventional spin current (v s + s v) / 2.

    Args:
        problem: a Hamiltonian with spin.
        fermi_eV: the Fermi level.
        mesh: Γ-centred k mesh; default 0.12 1/Å apart.
        width_eV: of the Fermi function.
        positions: x, y, z of the position matrix, Å.
        progress: called with (done, all).

    Raises:
        ConfigError: no spin, one periodic direction or none, or a width that is none.
    """
    if not problem.spinful:
        raise ConfigError(
            f"{problem.source}: no spin in this Hamiltonian (info.json: isspinful), so no spin "
            "Hall conductivity"
        )
    mesh_of = _HallMesh.of(problem, mesh, width_eV)
    rest = None if positions is None else position_rest(problem, positions)
    factor, shape = mesh_of.factor, (3, 3, 3)
    found = zone_mean(
        lambda k: _spin_curvature(problem, k, fermi_eV, width_eV, rest).ravel(),
        mesh_of.numbers,
        mesh_of.small / abs(factor),
        progress,
    )
    return SpinHallConductivity(
        factor * found.value.reshape(shape),
        mesh_of.unit,
        mesh_of.numbers,
        width_eV,
        ATOM_POSITIONS if positions is None else POSITION_MATRIX,
        found.largest_share,
        abs(factor) * found.error.reshape(shape),
        factor * found.on_mesh.reshape(shape),
        found.points,
    )
