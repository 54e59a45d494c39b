"""The Fermi level by counting electrons on a k mesh."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import erf, expit

from ..errors import ConfigError
from .bloch import BlochProblem
from .electrons import electron_number
from .kmesh import MeshSpectrum, has_time_reversal, mesh_spectrum
from .tetrahedra import mesh_simplices, simplex_fraction

__all__ = [
    "FermiLevel",
    "Smearing",
    "fermi_level",
    "electrons_at",
    "occupations",
    "whole_electrons",
]

Smearing = Literal["gaussian", "fermi", "tetrahedron"]
DEFAULT_WIDTH_EV = 0.02
_WHOLE, _NEARLY_WHOLE = 0.05, 0.3
"""How far a count at the DFT's Fermi level may be from a whole number: of any spectrum, and of one
whose filled bands are separate."""
_APART_EV = 1e-3


@dataclasses.dataclass(frozen=True)
class FermiLevel:
    """A Fermi level and its story.

    Attributes:
        energy_eV: on the scale of H.
        source: one line, how it was found.
        electrons: per cell, or None where none were counted.
        electrons_source: where that number comes from.
        mesh, method, width_eV: of the counting.
        insulating: whether it lies in a gap of the mesh's spectrum (then it is the middle of the
            gap).
    """

    energy_eV: float
    source: str
    electrons: float | None = None
    electrons_source: str = ""
    mesh: tuple[int, int, int] | None = None
    method: str = ""
    width_eV: float | None = None
    insulating: bool | None = None

    def to_json(self) -> dict[str, Any]:
        """For JSON; units in the key names."""
        return {
            "fermi_eV": self.energy_eV,
            "source": self.source,
            "electrons": self.electrons,
            "electrons_source": self.electrons_source,
            "mesh": list(self.mesh) if self.mesh else None,
            "method": self.method,
            "width_eV": self.width_eV,
            "insulating": self.insulating,
        }


def occupations(
    energies: NDArray[np.float64], mu: float, method: Smearing, width_eV: float
) -> NDArray[np.float64]:
    """Occupation between 0 and 1 of each level: a Gaussian of standard deviation ``width_eV``,
    integrated, or Fermi-Dirac ('fermi')."""
    x = (mu - energies) / width_eV
    return 0.5 * (1.0 + erf(x / np.sqrt(2.0))) if method == "gaussian" else expit(x)


def electrons_at(
    spectrum: MeshSpectrum,
    mu: float,
    method: Smearing = "gaussian",
    width_eV: float = DEFAULT_WIDTH_EV,
) -> float:
    """Electrons per cell with the Fermi level at ``mu`` (eV)."""
    if method == "tetrahedron":
        corners = np.sort(spectrum.energies[mesh_simplices(spectrum)], axis=1)  # (number, d + 1, B)
        fraction = simplex_fraction(
            np.moveaxis(np.where(np.isfinite(corners), corners, 1e6), 1, 0), mu
        )
        return float(spectrum.electrons_per_band * fraction.sum(axis=1).mean())
    return float(
        spectrum.electrons_per_band
        * (spectrum.weights @ occupations(spectrum.energies, mu, method, width_eV)).sum()
    )


def find_level(
    spectrum: MeshSpectrum,
    electrons: float,
    method: Smearing = "gaussian",
    width_eV: float = DEFAULT_WIDTH_EV,
) -> tuple[float, bool]:
    """The chemical potential that holds ``electrons``, and whether it lies in a gap (then it is set
    to the middle of it).

    Raises:
        ConfigError: the bands cannot hold that many electrons, the method is unknown or the width
            is not positive.
    """
    if method not in ("gaussian", "fermi", "tetrahedron"):
        raise ConfigError(
            f"smearing '{method}' is unknown; there are gaussian, fermi and tetrahedron"
        )
    if method != "tetrahedron" and not 0 < width_eV < math.inf:
        raise ConfigError(f"smearing width {width_eV} eV: it must be positive and finite")
    energies = spectrum.energies
    capacity = spectrum.electrons_per_band * int(np.isfinite(energies).sum(axis=1).min())
    if not 0 < electrons < capacity:
        raise ConfigError(
            f"{electrons:g} electrons asked; the {capacity // spectrum.electrons_per_band} bands "
            f"hold more than 0 and fewer than {capacity}"
        )
    bands = electrons / spectrum.electrons_per_band
    if abs(bands - round(bands)) < 1e-6:
        top, bottom = energies[:, round(bands) - 1].max(), energies[:, round(bands)].min()
        if bottom > top + (1e-6 if method == "tetrahedron" else 6 * width_eV):
            return float(top + bottom) / 2, True
    finite = energies[np.isfinite(energies)]
    level = brentq(
        lambda mu: electrons_at(spectrum, mu, method, width_eV) - electrons,
        finite.min() - 10 * width_eV - 1,
        finite.max() + 10 * width_eV + 1,
        xtol=1e-9,
    )
    return float(level), False


def whole_electrons(
    problem: BlochProblem, spectrum: MeshSpectrum, counted: float
) -> tuple[float, str]:
    """The whole number of electrons behind a count at the DFT's Fermi level, and how it was found.

    The Fermi level of a semimetal, found by the DFT on its own coarser mesh, cuts band edges on
    this one, and the count is off by tenths of an electron. With time reversal the next even number
    is still unambiguous; where it fills bands that are apart at every k-point of the mesh, it is
    taken.

    Raises:
        ConfigError: no whole number is near enough.
    """
    number, source = round(counted), "counted below info.json's Fermi level"
    if abs(counted - number) <= _WHOLE:
        return float(number), f"{source} ({counted:.3f})"
    bands, rest = divmod(number, spectrum.electrons_per_band)
    if (
        abs(counted - number) <= _NEARLY_WHOLE
        and number % 2 == 0
        and not rest
        and 0 < bands < problem.size
        and has_time_reversal(problem)
    ):
        if (spectrum.energies[:, bands] - spectrum.energies[:, bands - 1]).min() > _APART_EV:
            return (
                float(number),
                f"{source}: {counted:.3f} on this mesh; the next even number, which fills "
                f"{bands} separate bands",
            )
    raise ConfigError(
        f"{problem.source}: counting states below info.json's Fermi level gives {counted:.3f} "
        f"electrons, no whole number (a metal on another mesh than the "
        f"DFT's, or another zero of energy); the nearest is {number}: give --electrons {number} "
        f"if that is right, else --valence C=4,..., --bundle DIR, "
        "or count on a denser --mesh"
    )


def fermi_level(
    problem: BlochProblem,
    electrons: float | None = None,
    mesh: str | Sequence[int] | None = None,
    smearing: Smearing = "gaussian",
    width_eV: float = DEFAULT_WIDTH_EV,
    *,
    valence: Mapping[str, float] | None = None,
    count_at_info: bool = False,
    spectrum: MeshSpectrum | None = None,
    electrons_source: str | None = None,
    s_threshold: float | None = None,
    processes: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> FermiLevel:
    """The Fermi level by electron counting.

    Args:
        problem: the Hamiltonian.
        electrons: per cell; default: ``valence`` or info.json's ``occupation``, see
            :func:`electron_number`.
        mesh: e.g. "12x12x1"; default 0.12 1/Å apart.
        smearing: 'gaussian', 'fermi' or 'tetrahedron'.
        width_eV: standard deviation of the Gaussian, kT of 'fermi'.
        valence: electrons per element.
        count_at_info: where no electron number is known, count the electrons below info.json's
            Fermi level (of the DFT that made this very H) and, when they are a whole number, or
            nearly one that fills separate bands, use that number.
        spectrum: the solved mesh, where there is one.
        electrons_source: where ``electrons`` comes from, for reports.
        s_threshold: see :func:`~.solve.solve_dense`.
        processes: see :func:`~.solve.map_kpoints`.
        progress: called with (done, all).

    Raises:
        ConfigError: the number of electrons is unknown, or does not fit the bands.
    """
    known = electron_number(problem.structure, electrons, valence)
    stated = problem.stated_fermi_eV
    if known is None and not (count_at_info and stated is not None):
        raise ConfigError(
            f"{problem.source}: the number of electrons is unknown (no 'occupation' in "
            "info.json); give --electrons N, --valence C=4,... or --bundle BUNDLE (its training "
            "set had this composition), or take info.json's Fermi level with --fermi info"
        )
    spectrum = spectrum or mesh_spectrum(
        problem, mesh, s_threshold=s_threshold, processes=processes, progress=progress
    )
    if known is None:
        known = whole_electrons(
            problem, spectrum, electrons_at(spectrum, float(stated or 0.0), smearing, width_eV)
        )
    number, source = known[0], electrons_source or known[1]
    level, insulating = find_level(spectrum, number, smearing, width_eV)
    how = "tetrahedra" if smearing == "tetrahedron" else f"{smearing} smearing {width_eV:g} eV"
    text = (
        f"counting {number:g} electrons ({source}) on a {'x'.join(map(str, spectrum.mesh))} mesh, "
        + ("middle of the gap on this mesh" if insulating else how)
    )
    return FermiLevel(
        level,
        text,
        number,
        source,
        spectrum.mesh,
        smearing,
        None if smearing == "tetrahedron" else width_eV,
        insulating,
    )
