"""Group velocities and effective masses from dH/dk - E dS/dk, degenerate bands included.

First order: V_ab = <a| dH - E dS |b> within a group of degenerate states; its eigenvalues are dE/dk
(Hellmann-Feynman with an overlap). Second order, along a direction, in the eigenbasis of V:
``d2E = <n| d2H - E d2S |n> - (V dS + dS V)_nn + 2 sum_m |<m| dH - E dS |n>|^2 / (E_n - E_m)``, m
outside the group.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import scipy.linalg
from numpy.typing import ArrayLike, NDArray

from ..errors import ConfigError
from .bloch import BlochProblem, bloch_phases

__all__ = [
    "velocities",
    "effective_masses",
    "band_curvature",
    "EffectiveMass",
    "HBAR2_OVER_ME",
    "EV_ANGSTROM_TO_M_PER_S",
]

HBAR2_OVER_ME = 7.619964231070681
"""hbar^2 / m_e in eV Å^2 (CODATA 2018)."""
EV_ANGSTROM_TO_M_PER_S = 1.602176634e-19 * 1e-10 / 1.054571817e-34
"""dE/dk in eV Å times this is a group velocity in m/s."""


def _groups(energies: NDArray[np.float64], tolerance: float) -> list[NDArray[np.int64]]:
    return np.split(np.arange(len(energies)), np.flatnonzero(np.diff(energies) > tolerance) + 1)


def _states(problem: BlochProblem, k: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.number]]:
    h, s = problem.at(k)
    return scipy.linalg.eigh(h, s)


def velocities(
    problem: BlochProblem,
    k: ArrayLike,
    bands: Sequence[int] | None = None,
    degeneracy_eV: float = 1e-4,
) -> NDArray[np.float64]:
    """dE/dk of each band along Cartesian x, y, z.

    Within a degenerate group the derivatives along each axis are the eigenvalues of V for that
    axis, ascending; so their assignment to bands is by slope, axis by axis.

    Args:
        problem: the Hamiltonian.
        k: (3,), fractional.
        bands: from 0; default all.
        degeneracy_eV: closer levels are one group.

    Returns:
        (B, 3), eV Å; times :data:`EV_ANGSTROM_TO_M_PER_S` for m/s.

    Raises:
        ConfigError: a band that is not there.
    """
    chosen = _checked(problem, bands)
    energies, c = _states(problem, k)
    dh, ds = problem.derivative_at(k)
    result = np.zeros((problem.size, 3))
    for group in _groups(energies, degeneracy_eV):
        if not np.isin(group, chosen).any():
            continue
        a, e = c[:, group], energies[group].mean()
        for axis in range(3):
            result[group, axis] = np.linalg.eigvalsh(a.conj().T @ (dh[axis] - e * ds[axis]) @ a)
    return result[chosen]


def _checked(problem: BlochProblem, bands: Sequence[int] | None) -> NDArray[np.int64]:
    chosen = np.arange(problem.size) if bands is None else np.asarray(bands, dtype=np.int64)
    if len(chosen) and (chosen.min() < 0 or chosen.max() >= problem.size):
        raise ConfigError(
            f"bands {chosen.min()} to {chosen.max()} asked; {problem.source} has bands 0 to "
            f"{problem.size - 1}"
        )
    return chosen


def band_curvature(
    problem: BlochProblem,
    k: ArrayLike,
    direction: ArrayLike,
    bands: Sequence[int] | None = None,
    degeneracy_eV: float = 1e-4,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """First and second derivative of E along a Cartesian direction.

    Args:
        problem: the Hamiltonian.
        k: (3,), fractional.
        direction: (3,), normalised here.
        bands: from 0; default all.
        degeneracy_eV: levels nearer than this are one group.

    Returns:
        dE/dk (B,), eV Å, and d2E/dk2 (B,), eV Å^2; within a degenerate group in the order of the
        slopes, then of the curvatures.

    Raises:
        ConfigError: a direction without length, or a band that is not there.
    """
    u = np.asarray(direction, dtype=float)
    if u.shape != (3,) or not np.linalg.norm(u) > 0:
        raise ConfigError(f"direction {direction!r}: three numbers, not all zero, are needed")
    u = u / np.linalg.norm(u)
    chosen = _checked(problem, bands)
    energies, c = _states(problem, k)
    parts = []
    for sums in problem._sums:
        along = sums.cells @ problem.structure.lattice @ u
        phases = bloch_phases(sums.cells, k)
        parts.append([sums.csr(1j * along * phases), sums.csr(-(along**2) * phases)])
    (dh, d2h), (ds, d2s) = parts
    slope, curvature = np.zeros(problem.size), np.zeros(problem.size)
    for group in _groups(energies, degeneracy_eV):
        if not np.isin(group, chosen).any():
            continue
        a, e = c[:, group], float(energies[group].mean())
        one = dh @ a - e * (ds @ a)
        v = a.conj().T @ one
        slopes, rotation = np.linalg.eigh((v + v.conj().T) / 2)
        a, one = a @ rotation, one @ rotation
        others = np.setdiff1d(np.arange(problem.size), group)
        coupling = c[:, others].conj().T @ one  # (m, g)
        w = a.conj().T @ (d2h @ a - e * (d2s @ a)) + 2 * coupling.conj().T @ (
            coupling / (e - energies[others])[:, None]
        )
        s_one = a.conj().T @ (ds @ a)
        w = w - slopes[:, None] * s_one - s_one * slopes[None, :]
        slope[group] = slopes
        for same in _groups(slopes, 1e-3):
            block = w[np.ix_(same, same)]
            curvature[group[same]] = np.linalg.eigvalsh((block + block.conj().T) / 2)
    return slope[chosen], curvature[chosen]


@dataclasses.dataclass(frozen=True)
class EffectiveMass:
    """Effective masses of one band at one k-point.

    Attributes:
        band: from 0.
        energy_eV: of the band.
        inverse_mass: (3, 3), 1/m_e, d2E/dk2 / (hbar^2/m_e); nan for degenerate bands (no tensor
            exists).
        principal: masses in m_e along ``axes`` (rows of a (3, 3) array), only directions in which
            the crystal is periodic; negative for holes.
    """

    band: int
    energy_eV: float
    inverse_mass: NDArray[np.float64]
    principal: NDArray[np.float64]
    axes: NDArray[np.float64]


def effective_masses(
    problem: BlochProblem, k: ArrayLike, bands: Sequence[int], degeneracy_eV: float = 1e-4
) -> list[EffectiveMass]:
    """Effective-mass tensors at an extremum.

    The tensor is put together from curvatures along the axes and their diagonals; in a
    spin-degenerate pair both bands have the same one. Where degenerate bands have different
    curvatures (heavy and light holes) there is no tensor: use :func:`band_curvature` per direction.

    Args:
        problem: the Hamiltonian.
        k: (3,), fractional.
        bands: from 0.
        degeneracy_eV: levels nearer than this are one group.

    Raises:
        ConfigError: a band that is not there.
    """
    chosen = _checked(problem, bands)
    energies, _ = _states(problem, k)
    axes = np.eye(3)
    along = {
        (i, j): band_curvature(
            problem, k, axes[i] + (axes[j] if j != i else 0.0), None, degeneracy_eV
        )[1]
        for i in range(3)
        for j in range(i, 3)
    }
    tensor = np.zeros((problem.size, 3, 3))
    for (i, j), value in along.items():
        tensor[:, i, j] = tensor[:, j, i] = (
            value if i == j else value - 0.5 * (along[i, i] + along[j, j])
        )
    tensor /= HBAR2_OVER_ME
    for group in _groups(energies, degeneracy_eV):
        if len(group) > 1 and np.abs(tensor[group] - tensor[group[:1]]).max() > 1e-3 * max(
            1.0, float(np.abs(tensor[group]).max())
        ):
            tensor[group] = np.nan
    in_plane = (
        np.linalg.svd(problem.structure.lattice[list(problem.periodic)])[2][: sum(problem.periodic)]
        if any(problem.periodic)
        else np.zeros((0, 3))
    )
    result = []
    for band in chosen:
        if np.isnan(tensor[band]).any() or not len(in_plane):
            result.append(
                EffectiveMass(
                    int(band),
                    float(energies[band]),
                    tensor[band],
                    np.full(len(in_plane), np.nan),
                    in_plane,
                )
            )
            continue
        inverse, rotation = np.linalg.eigh(in_plane @ tensor[band] @ in_plane.T)
        with np.errstate(divide="ignore"):
            result.append(
                EffectiveMass(
                    int(band),
                    float(energies[band]),
                    tensor[band],
                    1.0 / inverse,
                    rotation.T @ in_plane,
                )
            )
    return result
