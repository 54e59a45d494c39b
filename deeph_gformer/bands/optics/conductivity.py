"""Linear optical conductivity (Kubo-Greenwood) and what follows from it.

With z = hbar omega + i eta, eta the broadening, and D = E_m - E_n

    sigma_ab = i e² / hbar / V  sum_nm (f_n - f_m) / D  (hbar v)_nm,a (hbar v)_mn,b / (z - D),

all pairs of states. Every term is analytic in the upper half plane, so real and imaginary part
obey the Kramers-Kronig relations at any broadening. Pairs of one level (n = m among them) have
(f_n - f_m) / D -> -df/dE: they are the intraband (Drude) part, e² / hbar / V * i W / z. States
that rounding alone may part are one level.

    epsilon_ab = delta_ab + i sigma_ab / (epsilon_0 z / hbar)

Local fields, excitons and phonons are not in it.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import ConfigError
from ...io import BlockMatrix
from ..bloch import BlochProblem
from ..cell_sums import BlochSum
from ..fermi import occupations
from ..kmesh import has_time_reversal, mesh_points, parse_mesh
from ..solve import map_kpoints
from ..topology.curvature import E2_OVER_H_SIEMENS
from ..topology.links import ATOM_POSITIONS, POSITION_MATRIX, position_rest
from ..velocity import velocity_states

__all__ = ["Optics", "optical_conductivity", "optical_sums"]

FINE_STRUCTURE = 7.2973525693e-3
HBAR_C_EV_ANGSTROM = 1973.269804
E2_OVER_EPSILON0 = 4 * np.pi * FINE_STRUCTURE * HBAR_C_EV_ANGSTROM
"""e² / epsilon_0, eV Å."""
_NO_OCCUPATION = 1e-10
"""Pairs whose occupations differ by less are left out."""
_NARROWEST_EV = 1e-9
_PAIRS = 4096
"""Pairs at a time."""
_KPOINTS = 128
"""k-points whose tensors are held at a time, for each process."""


@dataclasses.dataclass(frozen=True)
class Optics:
    """Linear response, tensors in Cartesian axes.

    Attributes:
        photon_eV: (W,), hbar omega.
        sigma: (W, 3, 3), complex; S/cm for a crystal, e²/h Å^(2-d) for one that repeats in d < 3
            directions (a slab: e²/h).
        intraband: (W, 3, 3), the part of ``sigma`` from pairs of one energy.
        susceptibility: (W, 3, 3), complex, epsilon - 1 of a crystal; for d < 3 times Å^(3-d), the
            extent that the vacuum has no say in (a slab: the 2D polarizability over epsilon_0).
        joint_dos: (W,), pairs of a filled and an empty state at one k, 1/eV per cell, both spins
            (as PYATB's). A supercell has more of them: states of different k fold onto one.
        drude_weight: (3, 3), e²/epsilon_0 times W per volume: (hbar omega_p)², eV², of a crystal;
            eV² Å^(3-d) otherwise.
        unit: of ``sigma``.
        dimensions: d.
        fermi_eV: the Fermi level.
        broadening_eV: eta.
        width_eV: of the Fermi function.
        scissor_eV: by which the empty states are moved up.
        mesh: k mesh.
        method: with which positions.
        smallest_gap_eV: between states below and above the Fermi level, on the mesh; direct.
        metal: whether the Fermi level cuts a band on the mesh.
    """

    photon_eV: NDArray[np.float64]
    sigma: NDArray[np.complex128]
    intraband: NDArray[np.complex128]
    susceptibility: NDArray[np.complex128]
    joint_dos: NDArray[np.float64]
    drude_weight: NDArray[np.float64]
    unit: str
    dimensions: int
    fermi_eV: float
    broadening_eV: float
    width_eV: float
    scissor_eV: float
    mesh: tuple[int, int, int]
    method: str
    smallest_gap_eV: float
    metal: bool

    @property
    def dielectric(self) -> NDArray[np.complex128]:
        """(W, 3, 3), epsilon of a crystal.

        Raises:
            ConfigError: the structure repeats in fewer than three directions.
        """
        if self.dimensions < 3:
            raise ConfigError(
                "a dielectric function needs three periodic directions; with vacuum in the cell "
                "the susceptibility (polarizability) is what does not depend on the cell"
            )
        return np.eye(3) + self.susceptibility

    @property
    def plasma_eV(self) -> NDArray[np.float64]:
        """(3,), hbar omega_p along x, y, z of a crystal, of the intraband part.

        0 of an insulator.
        """
        return np.sqrt(np.maximum(np.diag(self.drude_weight), 0.0))

    def to_json(self) -> dict[str, Any]:
        """For JSON; tensors as {"xx": {"real": [...], "imag": [...]}, ...}; units in the names."""
        key = "sigma_S_per_cm" if self.dimensions == 3 else "sigma_e2_per_h"
        power = 3 - self.dimensions
        chi = "susceptibility" + (f"_A{power}" if power > 1 else "_A" if power else "")
        result: dict[str, Any] = {
            "photon_eV": self.photon_eV.tolist(),
            "joint_dos_per_eV": self.joint_dos.tolist(),
            key: _tensor(self.sigma),
            f"intraband_{key}": _tensor(self.intraband),
            chi: _tensor(self.susceptibility),
        }
        if self.dimensions == 3:
            result["dielectric"] = _tensor(self.dielectric)
            result["plasma_frequency_eV"] = self.plasma_eV.tolist()
        return result | {
            "drude_weight": self.drude_weight.tolist(),
            "unit": self.unit,
            "periodic_directions": self.dimensions,
            "fermi_eV": self.fermi_eV,
            "broadening_eV": self.broadening_eV,
            "width_eV": self.width_eV,
            "scissor_eV": self.scissor_eV,
            "mesh": list(self.mesh),
            "method": self.method,
            "smallest_gap_eV": self.smallest_gap_eV,
            "metal": self.metal,
        }


def _tensor(values: NDArray[np.complex128]) -> dict[str, dict[str, list[float]]]:
    return {
        "xyz"[a] + "xyz"[b]: {
            "real": values[:, a, b].real.tolist(),
            "imag": values[:, a, b].imag.tolist(),
        }
        for a in range(3)
        for b in range(3)
    }


@dataclasses.dataclass(frozen=True)
class _Sums:
    """What one k-point gives, or the mean over many; no prefactors, one spin.

    Attributes:
        interband: (W, 9), Å² (times e²/hbar i).
        drude: (9,), eV Å².
        joint: (W,), 1/eV.
        gap: smallest E_m - E_n of a filled and an empty state, eV.
        filled: fewest and most states below the Fermi level at a k-point.
    """

    interband: NDArray[np.complex128]
    drude: NDArray[np.float64]
    joint: NDArray[np.float64]
    gap: float
    filled: tuple[int, int]


def optical_sums(
    problem: BlochProblem,
    k: NDArray[np.float64],
    photon_eV: NDArray[np.float64],
    fermi_eV: float,
    broadening_eV: float,
    width_eV: float,
    scissor_eV: float = 0.0,
    rest: Sequence[BlochSum] | None = None,
) -> _Sums:
    """The sums over pairs of states at one k-point.

    Args:
        problem: the Hamiltonian.
        k: (3,), fractional.
        photon_eV: (W,), hbar omega.
        fermi_eV: the Fermi level.
        broadening_eV: eta.
        width_eV: of the Fermi function.
        scissor_eV: moves states above the Fermi level up; position matrix elements stay.
        rest: of :func:`~..topology.links.position_rest`.

    Raises:
        DataError: S is not positive definite.
    """
    states = velocity_states(problem, k, rest)
    energies, f = states.energies, occupations(states.energies, fermi_eV, "fermi", width_eV)
    z = photon_eV + 1j * broadening_eV
    lower, upper = np.nonzero(np.triu(f[:, None] - f[None, :] > _NO_OCCUPATION, 1))
    same = states.one_level
    apart = ~same[lower, upper]
    lower, upper = lower[apart], upper[apart]
    plain = energies[upper] - energies[lower]
    weight = f[lower] - f[upper]
    distance = plain + scissor_eV * ((energies[lower] <= fermi_eV) & (energies[upper] > fermi_eV))
    total = np.zeros((len(z), 9), dtype=np.complex128)
    joint = np.zeros(len(z))
    for start in range(0, len(lower), _PAIRS):
        part = slice(start, start + _PAIRS)
        n, m, d = lower[part], upper[part], distance[part]
        v = states.velocity[:, n, m] * (d / plain[part])  # (3, P)
        pairs = (v[:, None] * v[None].conj()).reshape(9, -1) * (weight[part] / d)
        total += (1 / (z[:, None] - d)) @ pairs.T  # absorption
        total += (1 / (z[:, None] + d)) @ pairs.conj().T
        near = np.exp(-0.5 * ((photon_eV[:, None] - d) / broadening_eV) ** 2)
        chance = f[n] * (1 - f[m])
        joint += near @ chance / (broadening_eV * math.sqrt(2 * np.pi))
    slope = f * (1 - f) / width_eV  # -df/dE
    drude = np.array(
        [
            (slope[:, None] * same * (states.velocity[a] * states.velocity[b].T).real).sum()
            for a in range(3)
            for b in range(3)
        ]
    )
    below, above = energies[energies <= fermi_eV], energies[energies > fermi_eV]
    gap = float(above[0] - below[-1]) if len(below) and len(above) else math.inf
    return _Sums(total, drude, joint, gap, (len(below), len(below)))


def _one(problem: BlochProblem, k: NDArray[np.float64], **options: Any) -> _Sums:
    return optical_sums(problem, k, **options)


def _mean(
    problem: BlochProblem,
    points: NDArray[np.float64],
    weights: NDArray[np.float64],
    options: dict[str, Any],
    processes: int,
    progress: Callable[[int, int], None] | None,
) -> _Sums:
    """Weighted mean over k-points, and the smallest of their gaps."""
    count = len(options["photon_eV"])
    interband, drude = np.zeros((count, 9), dtype=np.complex128), np.zeros(9)
    joint, gap, done = np.zeros(count), math.inf, 0
    fewest, most = problem.size, 0
    batch = _KPOINTS * processes
    for start in range(0, len(points), batch):
        part = slice(start, start + batch)
        found = map_kpoints(functools.partial(_one, **options), problem, points[part], processes)
        for one, weight in zip(found, weights[part], strict=True):
            interband += weight * one.interband
            drude += weight * one.drude
            joint += weight * one.joint
            gap = min(gap, one.gap)
            fewest, most = min(fewest, one.filled[0]), max(most, one.filled[1])
        done += len(found)
        if progress is not None:
            progress(done, len(points))
    return _Sums(interband, drude, joint, gap, (fewest, most))


def optical_conductivity(
    problem: BlochProblem,
    fermi_eV: float,
    photon_eV: NDArray[np.float64] | Sequence[float],
    mesh: str | Sequence[int] | None = None,
    *,
    broadening_eV: float = 0.1,
    width_eV: float = 0.01,
    scissor_eV: float = 0.0,
    positions: Sequence[BlockMatrix] | None = None,
    processes: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> Optics:
    """Conductivity, susceptibility and joint density of states on a Γ-centred mesh.

    Args:
        problem: the Hamiltonian.
        fermi_eV: the Fermi level.
        photon_eV: (W,), hbar omega, not negative.
        mesh: e.g. "24x24x1"; default 0.12 1/Å apart, coarse for spectra.
        broadening_eV: eta of the conductivity, standard deviation of the joint density of states.
        width_eV: of the Fermi function.
        scissor_eV: moves the empty states of an insulator up.
        positions: x, y, z of the position matrix, Å; None is the atom-position approximation.
        processes: k-points in parallel.
        progress: called with (done, all).

    Raises:
        ConfigError: a width that is none or too small, negative photon energies, a scissor on a
            metal, a Fermi level outside all bands.
        DataError: S is not positive definite, or the position matrix does not fit.
    """
    energies = _check_widths(photon_eV, broadening_eV, width_eV, scissor_eV)
    numbers = parse_mesh(mesh, problem)
    reversal = has_time_reversal(problem)
    points, weights, _ = mesh_points(numbers, reversal)
    options = {
        "photon_eV": energies,
        "fermi_eV": fermi_eV,
        "broadening_eV": broadening_eV,
        "width_eV": width_eV,
        "scissor_eV": scissor_eV,
        "rest": None if positions is None else position_rest(problem, positions),
    }
    sums = _mean(problem, points, weights, options, processes, progress)
    metal = _is_metal(problem, sums, fermi_eV, width_eV, scissor_eV)
    spins = problem.electrons_per_band
    tensor = spins * 1j * sums.interband.reshape(-1, 3, 3)  # sigma / (e²/hbar) * V, Å²
    drude = spins * sums.drude.reshape(3, 3)  # eV Å²
    z = energies + 1j * broadening_eV
    if reversal:  # k and -k: the sum of a tensor in v and of its transpose
        tensor = (tensor + np.swapaxes(tensor, 1, 2)) / 2
    intra: NDArray[np.complex128] = 1j * drude / z[:, None, None]
    extent, dimensions = _extent(problem)
    total = tensor + intra
    # e²/hbar = 2 pi e²/h; 1/Å is 1e8 1/cm
    factor = 2 * np.pi / extent * (E2_OVER_H_SIEMENS * 1e8 if dimensions == 3 else 1.0)
    unit = {3: "S/cm", 2: "e2/h"}.get(dimensions, f"e2/h A^{2 - dimensions}")
    return Optics(
        energies,
        factor * total,
        factor * intra,
        E2_OVER_EPSILON0 / extent * 1j * total / z[:, None, None],
        spins * sums.joint,
        E2_OVER_EPSILON0 / extent * drude,
        unit,
        dimensions,
        fermi_eV,
        broadening_eV,
        width_eV,
        scissor_eV,
        numbers,
        ATOM_POSITIONS if positions is None else POSITION_MATRIX,
        sums.gap,
        metal,
    )


def _is_metal(
    problem: BlochProblem, sums: _Sums, fermi_eV: float, width_eV: float, scissor_eV: float
) -> bool:
    """Whether the Fermi level cuts a band, where the other numbers make sense for that.

    Args:
        problem: the Hamiltonian.
        sums: over all k-points.
        fermi_eV: see :func:`optical_conductivity`.
        width_eV: see there.
        scissor_eV: see there.

    Raises:
        ConfigError: the level is below or above all bands, or a scissor on a metal.
    """
    if sums.filled[1] == 0 or sums.filled[0] == problem.size:
        raise ConfigError(
            f"{problem.source}: the Fermi level, {fermi_eV:.6g} eV, is below or above all bands at "
            "every k-point, so there is no transition; see --fermi and --electrons"
        )
    metal = sums.filled[0] != sums.filled[1] or bool(np.abs(sums.drude).max() > 1e-6)
    if scissor_eV and metal:
        raise ConfigError(
            f"{problem.source}: a scissor of {scissor_eV:g} eV on a metal, or on a gap near the "
            f"width of the Fermi function ({width_eV:g} eV); it moves the empty states of an "
            "insulator"
        )
    return metal


def _check_widths(
    photon_eV: NDArray[np.float64] | Sequence[float],
    broadening_eV: float,
    width_eV: float,
    scissor_eV: float,
) -> NDArray[np.float64]:
    """(W,), the photon energies, where these numbers make sense; see :func:`optical_conductivity`.

    Raises:
        ConfigError: one does not.
    """
    energies = np.asarray(photon_eV, dtype=float)
    if (
        energies.ndim != 1
        or not len(energies)
        or not (np.isfinite(energies) & (energies >= 0)).all()
    ):
        raise ConfigError("photon energies: finite numbers, zero or above, are needed, in eV")
    for name, value in (("broadening", broadening_eV), ("width of the Fermi function", width_eV)):
        if not _NARROWEST_EV <= value < np.inf:
            raise ConfigError(
                f"{name} {value} eV: it must be finite, and {_NARROWEST_EV:g} eV or more"
            )
    if not 0 <= scissor_eV < np.inf:
        raise ConfigError(f"scissor {scissor_eV} eV: it must be zero or positive, and finite")
    return energies


def _extent(problem: BlochProblem) -> tuple[float, int]:
    """Volume, area or length of the cell along its periodic directions, Å^d, and d."""
    rows = problem.structure.lattice[list(problem.periodic)]
    return float(np.sqrt(np.linalg.det(rows @ rows.T))) if len(rows) else 1.0, len(rows)
