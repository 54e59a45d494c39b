"""Band gap and band edges: on a mesh, then refined between its points."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError
from .bloch import BlochProblem
from .kmesh import MeshSpectrum, mesh_spectrum
from .solve import solve_dense

__all__ = ["BandGap", "band_gap"]


@dataclasses.dataclass(frozen=True)
class BandGap:
    """Band edges of a crystal with ``bands`` filled bands.

    Attributes:
        gap_eV: conduction minimum - valence maximum; negative where the bands overlap.
        direct_gap_eV: smallest vertical gap.
        valence_maximum_eV, conduction_minimum_eV: the edges.
        k_valence, k_conduction, k_direct: where, fractional.
        direct: whether both edges are at the same k.
        bands: number of filled bands.
        mesh, refined: how it was searched.
    """

    gap_eV: float
    direct_gap_eV: float
    valence_maximum_eV: float
    conduction_minimum_eV: float
    k_valence: tuple[float, float, float]
    k_conduction: tuple[float, float, float]
    k_direct: tuple[float, float, float]
    direct: bool
    bands: int
    mesh: tuple[int, int, int]
    refined: bool

    @property
    def metallic(self) -> bool:
        """No gap."""
        return self.gap_eV <= 0.0

    def to_json(self) -> dict[str, Any]:
        """For JSON; units in the key names."""
        return {
            **{
                k: list(v) if isinstance(v, tuple) else v
                for k, v in dataclasses.asdict(self).items()
            },
            "metallic": self.metallic,
        }

    def __str__(self) -> str:
        place = lambda k: f"({', '.join(f'{round(v, 4) + 0.0:.4f}' for v in k)})"  # noqa: E731
        if self.metallic:
            return (
                f"no gap: valence maximum {self.valence_maximum_eV:.4f} eV at "
                f"{place(self.k_valence)} above conduction minimum "
                f"{self.conduction_minimum_eV:.4f} eV at {place(self.k_conduction)}; "
                f"smallest vertical gap {self.direct_gap_eV * 1e3:.2f} meV at "
                f"{place(self.k_direct)}"
            )
        kind = "direct" if self.direct else "indirect"
        return (
            f"{kind} gap {self.gap_eV:.4f} eV: valence maximum {self.valence_maximum_eV:.4f} eV "
            f"at {place(self.k_valence)}, conduction minimum "
            f"{self.conduction_minimum_eV:.4f} eV at {place(self.k_conduction)}; smallest "
            f"vertical gap {self.direct_gap_eV:.4f} eV at {place(self.k_direct)}"
        )


def _edges(
    problem: BlochProblem, k: NDArray[np.float64], bands: int, s_threshold: float | None
) -> tuple[float, float]:
    h, s = problem.at(k)
    index = None if s_threshold is not None else (bands - 1, bands)
    energies = solve_dense(
        h,
        s,
        index=index,
        s_threshold=s_threshold,
        where=f"{problem.source}, k = {np.round(k, 5).tolist()}",
    ).energies
    return (
        (float(energies[0]), float(energies[1]))
        if index
        else (float(energies[bands - 1]), float(energies[bands]))
    )


def _refine(
    problem: BlochProblem,
    start: NDArray[np.float64],
    mesh: Sequence[int],
    sign: tuple[int, int],
    bands: int,
    s_threshold: float | None,
) -> tuple[NDArray[np.float64], float]:
    """Minimise sign . (valence, conduction) around a mesh point.

    Nelder-Mead, within one mesh cell.
    """
    from scipy.optimize import minimize

    axes = [a for a in range(3) if mesh[a] > 1]

    def value(x: NDArray[np.float64]) -> float:
        k = start.copy()
        k[axes] += x
        valence, conduction = _edges(problem, k, bands, s_threshold)
        return sign[0] * valence + sign[1] * conduction

    if not axes:
        return start, value(np.zeros(0))
    steps = 0.5 / np.array([mesh[a] for a in axes])
    simplex = np.concatenate([np.zeros((1, len(axes))), np.diag(steps)])
    found = minimize(
        value,
        np.zeros(len(axes)),
        method="Nelder-Mead",
        bounds=[(-2 * s, 2 * s) for s in steps],
        options={"initial_simplex": simplex, "xatol": 1e-5, "fatol": 1e-7, "maxfev": 80},
    )
    here = value(np.zeros(len(axes)))
    k = start.copy()
    if found.fun < here - 1e-7:
        k[axes] += found.x
        here = float(found.fun)
    return k, here


#: What is minimised for the valence maximum, the conduction minimum and the vertical gap: factors
#: of (valence, conduction).
_SIGNS = ((-1, 0), (0, 1), (-1, 1))


def _refined(
    problem: BlochProblem,
    places: Sequence[NDArray[np.float64]],
    mesh: Sequence[int],
    bands: int,
    s_threshold: float | None,
) -> tuple[list[NDArray[np.float64]], list[float]]:
    """Valence maximum, conduction minimum and smallest vertical gap between the mesh points.

    A narrow extremum that the search of one of them misses may be met by another's: then it is
    searched again from there. So no edge is worse than at the places of the others, and the gap is
    never above the vertical one.

    Args:
        problem: the Hamiltonian.
        places: (3,) of each on the mesh, fractional.
        mesh: whose cell bounds each search.
        bands: filled ones.
        s_threshold: see :func:`~.solve.solve_dense`.

    Returns:
        places and values in eV.
    """
    found = [
        _refine(problem, k, mesh, s, bands, s_threshold)
        for k, s in zip(places, _SIGNS, strict=True)
    ]
    better = True
    while better:
        better = False
        for k in [place for place, _ in found]:
            edges = np.array(_edges(problem, k, bands, s_threshold))
            for number, sign in enumerate(_SIGNS):
                if float(edges @ sign) < found[number][1] - 1e-6:
                    found[number] = _refine(problem, k, mesh, sign, bands, s_threshold)
                    better = True
    (_, top), (_, bottom), (_, vertical) = found
    return [place for place, _ in found], [-top, bottom, vertical]


def _fractional(k: NDArray[np.float64]) -> tuple[float, float, float]:
    """Rounded for reports."""
    x, y, z = (np.round(k, 6) + 0.0).tolist()
    return x, y, z


def band_gap(
    problem: BlochProblem,
    electrons: float,
    mesh: str | Sequence[int] | None = None,
    *,
    spectrum: MeshSpectrum | None = None,
    refine: bool = True,
    s_threshold: float | None = None,
    processes: int = 1,
) -> BandGap:
    """Gap, edges and the smallest vertical gap for a given number of electrons per cell.

    Each search starts from one mesh point, the best: of several valleys near one mesh point it may
    find another than the deepest; a mesh as fine as the valleys is needed to tell them apart.

    Args:
        problem: the Hamiltonian.
        electrons: per cell.
        mesh: Γ-centred, default 0.12 1/Å apart.
        spectrum: the solved mesh, where there is one.
        refine: improve each edge between the mesh points (Nelder-Mead on the exact bands).
        s_threshold: see :func:`~.solve.solve_dense`.
        processes: see :func:`~.solve.map_kpoints`.

    Raises:
        ConfigError: an odd number of electrons in spin-degenerate bands, or more than the bands
            hold.
    """
    filled = electrons / problem.electrons_per_band
    if abs(filled - round(filled)) > 1e-6:
        raise ConfigError(
            f"{electrons:g} electrons leave a band half filled ({problem.electrons_per_band} "
            f"electrons a band): a metal, its gap is not defined"
        )
    bands = int(round(filled))
    if not 0 < bands < problem.size:
        raise ConfigError(
            f"{electrons:g} electrons fill {bands} bands; the Hamiltonian has {problem.size}, "
            f"and a gap needs a filled and an empty one"
        )
    spectrum = spectrum or mesh_spectrum(
        problem, mesh, s_threshold=s_threshold, processes=processes
    )
    valence, conduction = spectrum.energies[:, bands - 1], spectrum.energies[:, bands]
    places = [
        spectrum.kpoints[int(i)].copy()
        for i in (np.argmax(valence), np.argmin(conduction), np.argmin(conduction - valence))
    ]
    values = [float(valence.max()), float(conduction.min()), float((conduction - valence).min())]
    if refine:
        places, values = _refined(problem, places, spectrum.mesh, bands, s_threshold)
    top, bottom, vertical = values
    same = bool(vertical - (bottom - top) < 1e-5)
    if same:
        places[0] = places[1] = places[2]
    point = [_fractional(place) for place in places]
    return BandGap(
        bottom - top,
        vertical,
        top,
        bottom,
        point[0],
        point[1],
        point[2],
        same,
        bands,
        spectrum.mesh,
        refine,
    )
