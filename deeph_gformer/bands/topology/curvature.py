"""Berry curvature from sums over states, for metals, and the intrinsic anomalous Hall conductivity.

With X_nm = <u_n | grad u_m> = hbar v_nm / (E_m - E_n) of :mod:`~..velocity`, Omega = -2 Im sum_n f_n
sum_(m != n) X_mn,a^* X_mn,b: pairs of which both states are filled cancel. States outside the basis
are left out.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...errors import ConfigError
from ...io import BlockMatrix
from ..bloch import BlochProblem
from ..cell_sums import BlochSum
from ..fermi import occupations
from ..kmesh import parse_mesh
from ..velocity import velocity_states
from .links import ATOM_POSITIONS, POSITION_MATRIX, position_rest

__all__ = ["HallConductivity", "anomalous_hall", "kubo_curvature"]

_DEGENERATE_EV = 1e-6
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
    """

    sigma: NDArray[np.float64]
    unit: str
    mesh: tuple[int, int, int]
    width_eV: float
    method: str


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
    apart = states.apart
    near = np.abs(apart) < _DEGENERATE_EV
    x = np.where(near, 0.0, states.velocity / np.where(near, 1.0, apart))
    f = occupations(states.energies, fermi_eV, "fermi", width_eV)
    half = 0.5 * (f[None, :] - f[:, None])  # (m, n): (f_n - f_m) / 2, each pair once
    omega = []
    for a, b in ((1, 2), (2, 0), (0, 1)):
        omega.append(-2.0 * float((half * np.imag(x[a].conj() * x[b])).sum()))
    return np.array(omega)


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
        mesh: k mesh, moved off Γ by half a step; default 0.12 1/Å apart, far too coarse for a
            metal.
        width_eV: of the Fermi function.
        positions: x, y, z of the position matrix, Å.
        progress: called with (done, all).

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
        raise ConfigError(f"width {width_eV} eV of the Fermi function: it must be positive, finite")
    numbers = parse_mesh(mesh, problem)
    rest = None if positions is None else position_rest(problem, positions)
    grid = np.stack(np.meshgrid(*[np.arange(n) for n in numbers], indexing="ij"), -1).reshape(-1, 3)
    shift = np.array([0.5 if n > 1 else 0.0 for n in numbers])
    total = np.zeros(3)
    for done, point in enumerate(grid, 1):
        k = (point + shift) / np.array(numbers)
        total += kubo_curvature(problem, k, fermi_eV, width_eV, rest)
        if progress is not None:
            progress(done, len(grid))
    mean = problem.electrons_per_band * total / len(grid)  # Å², both spins
    lattice = problem.structure.lattice
    if dimensions == 3:
        # e²/hbar * mean / volume = 2 pi e²/h * mean / volume; 1/Å is 1e8 1/cm
        volume = abs(np.linalg.det(lattice))
        sigma, unit = -2 * np.pi * E2_OVER_H_SIEMENS * mean / volume * 1e8, "S/cm"
    else:
        a, b = lattice[list(problem.periodic)]
        sigma, unit = -2 * np.pi * mean / np.linalg.norm(np.cross(a, b)), "e2/h"
    method = ATOM_POSITIONS if positions is None else POSITION_MATRIX
    return HallConductivity(sigma, unit, numbers, width_eV, method)
