"""Density of states, total and projected: Gaussian or Fermi broadening, or linear tetrahedra."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError, MissingDependencyError
from ..io import Structure
from ..io.files import write_json
from .bloch import BlochProblem
from .fermi import FermiLevel, Smearing
from .kmesh import MeshSpectrum, mesh_spectrum
from .tetrahedra import states_below

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Dos", "density_of_states"]


@dataclasses.dataclass(frozen=True)
class Dos:
    """States per eV and cell, both spins.

    Attributes:
        energies_eV: (G,), on the scale of H.
        total: (G,), 1/eV.
        projected: name -> (G,), Mulliken, 1/eV.
        fermi: the Fermi level, or None.
        method, width_eV, mesh: how it was made.
        label: name in legends.
        structure: the crystal.
    """

    energies_eV: NDArray[np.float64]
    total: NDArray[np.float64]
    projected: dict[str, NDArray[np.float64]]
    fermi: FermiLevel | None
    method: str
    width_eV: float | None
    mesh: tuple[int, int, int]
    label: str
    structure: Structure

    def __repr__(self) -> str:
        low, high = float(self.energies_eV[0]), float(self.energies_eV[-1])
        grid = f"{len(self.total)} energies from {low:g} to {high:g} eV"
        return f"Dos({self.label!r}, {grid}, {self.method})"

    def to_json(self) -> dict[str, Any]:
        """For JSON; units in the key names."""
        return {
            "kind": "deeph-gformer dos",
            "label": self.label,
            "energies_eV": self.energies_eV.tolist(),
            "dos_per_eV": self.total.tolist(),
            "projected_per_eV": {k: v.tolist() for k, v in self.projected.items()},
            "fermi": self.fermi.to_json() if self.fermi else None,
            "method": self.method,
            "width_eV": self.width_eV,
            "mesh": list(self.mesh),
        }

    def write_json(self, path: str | os.PathLike[str]) -> None:
        """Write :meth:`to_json`."""
        write_json(path, self.to_json())

    def to_ase(self) -> Any:
        """``ase.spectrum.dosdata.GridDOSData``, energies relative to the Fermi level where there is
        one."""
        from ase.spectrum.dosdata import GridDOSData

        return GridDOSData(
            self.energies_eV - (self.fermi.energy_eV if self.fermi else 0.0),
            self.total,
            info={"label": self.label},
        )

    def to_pymatgen(self) -> Any:
        """``pymatgen.electronic_structure.dos.Dos``.

        Raises:
            MissingDependencyError: pymatgen is not installed. ConfigError: there is no Fermi level.
        """
        try:
            from pymatgen.electronic_structure.core import Spin
            from pymatgen.electronic_structure.dos import Dos as PymatgenDos
        except ImportError:
            raise MissingDependencyError("pymatgen", "pymatgen", "Dos.to_pymatgen") from None
        if self.fermi is None:
            raise ConfigError(
                "pymatgen's Dos needs a Fermi level; give the number of electrons or fermi="
            )
        return PymatgenDos(self.fermi.energy_eV, self.energies_eV, {Spin.up: self.total})

    def plot(self, path: str | os.PathLike[str] | None = None, ax: Axes | None = None) -> Axes:
        """Draw it against E - E_F; written to ``path`` (.png, .svg, .pdf) when given."""
        from .plot_states import plot_dos

        return plot_dos([self], path, ax)


def _broadened(
    spectrum: MeshSpectrum,
    grid: NDArray[np.float64],
    weights: NDArray[np.float64] | None,
    method: Smearing,
    width: float,
) -> NDArray[np.float64]:
    result = np.zeros(len(grid))
    for number, (level, share) in enumerate(zip(spectrum.energies, spectrum.weights, strict=True)):
        near = (level > grid[0] - 30 * width) & (level < grid[-1] + 30 * width)
        x = (grid[:, None] - level[near]) / width
        kernel = (
            np.exp(-0.5 * np.minimum(x**2, 1400.0)) / np.sqrt(2 * np.pi)
            if method == "gaussian"
            else 0.25 / np.cosh(np.clip(x / 2, -300, 300)) ** 2
        )
        result += (
            share
            * kernel
            @ (np.ones(near.sum()) if weights is None else weights[number, near])
            / width
        )
    return result


def _tetrahedra(
    spectrum: MeshSpectrum, grid: NDArray[np.float64], weights: NDArray[np.float64] | None
) -> NDArray[np.float64]:
    """Of each point the mean over its step, which no narrow or flat band slips through."""
    step = (grid[-1] - grid[0]) / (len(grid) - 1)
    edges = np.append(grid - step / 2, grid[-1] + step / 2)
    return np.diff(states_below(spectrum, edges, weights)) / step


def _check_request(
    method: Smearing, width_eV: float, window: tuple[float, float] | None, points: int | None
) -> None:
    """Refuse options of :func:`density_of_states` that make no sense.

    Args:
        method: 'gaussian', 'fermi' or 'tetrahedron'.
        width_eV: of the first two.
        window: (low, high) eV.
        points: of the energy grid.

    Raises:
        ConfigError: says which one.
    """
    if method not in ("gaussian", "fermi", "tetrahedron"):
        raise ConfigError(
            f"DOS method '{method}' is unknown; there are gaussian, fermi and tetrahedron"
        )
    if method != "tetrahedron" and not 0 < width_eV < np.inf:
        raise ConfigError(f"DOS width {width_eV} eV: it must be positive and finite")
    if window is not None and not -np.inf < window[0] < window[1] < np.inf:
        raise ConfigError(
            f"DOS window {window}: two finite energies are needed, the first below the second"
        )
    if points is not None and points < 2:
        raise ConfigError(f"DOS with {points} points: at least 2 are needed")


def density_of_states(
    problem: BlochProblem,
    mesh: str | Sequence[int] | None = None,
    *,
    method: Smearing = "gaussian",
    width_eV: float = 0.05,
    window: tuple[float, float] | None = None,
    points: int | None = None,
    projections: str | Sequence[str] | None = None,
    fermi: FermiLevel | None = None,
    spectrum: MeshSpectrum | None = None,
    s_threshold: float | None = None,
    processes: int = 1,
) -> Dos:
    """Density of states per cell (both spins), and its Mulliken projections.

    Args:
        problem: the Hamiltonian.
        mesh: Γ-centred, default 0.12 1/Å apart.
        method: 'gaussian' (standard deviation ``width_eV``), 'fermi' (minus the derivative of
            Fermi-Dirac at that width) or 'tetrahedron' (means over the steps of the grid).
        width_eV: of 'gaussian' and 'fermi'.
        window: (low, high) eV, relative to the Fermi level where one is given; default: the whole
            spectrum.
        points: of the energy grid; default: a spacing of a quarter of the width (tetrahedra: 10
            meV), between 201 and 20001.
        projections: e.g. "Mo-d,S-p".
        fermi: for the zero of plots.
        spectrum: the solved mesh (with the same projections), where there is one.
        s_threshold: see :func:`~.solve.solve_dense`.
        processes: see :func:`~.solve.map_kpoints`.

    Raises:
        ConfigError: unknown method, a width or window that is none, a spectrum that lacks the
            projections.
    """
    _check_request(method, width_eV, window, points)
    spectrum = spectrum or mesh_spectrum(
        problem, mesh, projections=projections, s_threshold=s_threshold, processes=processes
    )
    if method == "tetrahedron" and max(spectrum.mesh) == 1:
        raise ConfigError(
            "the tetrahedron method needs more than one k-point; use a denser --mesh or --method "
            "gaussian"
        )
    if projections and not spectrum.projections:
        raise ConfigError(
            "the given mesh spectrum was solved without projections; solve it with the same "
            "projections="
        )
    finite = spectrum.energies[np.isfinite(spectrum.energies)]
    zero = fermi.energy_eV if fermi else 0.0
    low, high = (
        (finite.min() - 6 * width_eV, finite.max() + 6 * width_eV)
        if window is None
        else (window[0] + zero, window[1] + zero)
    )
    if points is None:
        spacing = 0.01 if method == "tetrahedron" else width_eV / 4
        points = int(np.clip((high - low) / spacing + 1, 201, 20001))
    grid = np.linspace(low, high, points)
    make = (
        (lambda w: _tetrahedra(spectrum, grid, w))
        if method == "tetrahedron"
        else (lambda w: _broadened(spectrum, grid, w, method, width_eV))
    )
    per_band = spectrum.electrons_per_band
    return Dos(
        grid,
        per_band * make(None),
        {name: per_band * make(w) for name, w in spectrum.projections.items()},
        fermi,
        method,
        None if method == "tetrahedron" else width_eV,
        spectrum.mesh,
        problem.label,
        problem.structure,
    )
