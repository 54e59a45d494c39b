"""Band gap and band edges: on a mesh, then refined between its points."""

from __future__ import annotations

import dataclasses
import itertools
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
        uncertain_eV: by how much an edge or the vertical gap may be better in parts of the zone
            that were not searched, going by a second mesh; 0 where none may. None where not known:
            no refinement, or no more k-points along an axis than cells that H reaches.
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
    uncertain_eV: float | None = None

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


class _Edges:
    """(valence, conduction) at any k, eV; those of a k are solved once."""

    def __init__(self, problem: BlochProblem, bands: int, s_threshold: float | None) -> None:
        self._problem, self._bands, self._s_threshold = problem, bands, s_threshold
        self._known: dict[bytes, NDArray[np.float64]] = {}

    def __call__(self, k: NDArray[np.float64]) -> NDArray[np.float64]:
        """(2,), eV."""
        if k.tobytes() not in self._known:
            pair = self._bands - 1, self._bands
            whole = self._s_threshold is not None
            energies = solve_dense(
                *self._problem.at(k),
                index=None if whole else pair,
                s_threshold=self._s_threshold,
                where=f"{self._problem.source}, k = {np.round(k, 5).tolist()}",
            ).energies
            self._known[k.tobytes()] = np.array(energies[list(pair)] if whole else energies)
        return self._known[k.tobytes()]


def _starts(spectrum: MeshSpectrum, values: NDArray[np.float64]) -> list[int]:
    """Mesh points to search the minimum from, the lowest first; none is next to another.

    None is higher above the lowest than its neighbours are above or below it: the minimum is
    elsewhere then.

    Args:
        spectrum: on the mesh.
        values: (K,), at its k-points.
    """
    whole = values[spectrum.full].reshape(spectrum.mesh)
    axes = [axis for axis in range(3) if spectrum.mesh[axis] > 1]
    step = np.zeros(whole.shape)
    for moves in itertools.product((-1, 0, 1), repeat=len(axes)):
        step = np.maximum(step, np.abs(np.roll(whole, moves, axes) - whole))
    steps = np.zeros(len(values))
    steps[spectrum.full.ravel()] = step.ravel()
    chosen: list[int] = []
    places = np.rint(spectrum.kpoints * spectrum.mesh)  # whole numbers
    signs = (1,) if len(values) == whole.size else (1, -1)  # one of k and -k was solved
    for i in np.argsort(values, kind="stable")[:_LOWEST]:
        if values[i] - steps[i] > values.min():
            continue
        away = np.array([places[i] - sign * places[j] for j in chosen for sign in signs])
        away = away.reshape(-1, 3) - spectrum.mesh * np.rint(away.reshape(-1, 3) / spectrum.mesh)
        if (np.abs(away).max(axis=1) > 1).all():
            chosen.append(int(i))
    return chosen[:_VALLEYS]


def _lowest(
    edges: _Edges,
    starts: Sequence[NDArray[np.float64]],
    mesh: Sequence[int],
    sign: tuple[int, int],
) -> tuple[NDArray[np.float64], float]:
    """Minimise sign . (valence, conduction) around some mesh points, up to the points around them.

    The cells are looked over (``scipy.optimize.direct``), as several valleys may be in one; then
    the lowest point goes down to its bottom (Nelder-Mead).
    """
    from scipy.optimize import direct, minimize

    axes = [a for a in range(3) if mesh[a] > 1]

    def value(k: NDArray[np.float64]) -> float:
        return float(edges(k) @ sign)

    best = min(starts, key=value)
    if not axes:
        return best, value(best)
    steps = 1 / np.array([mesh[a] for a in axes])

    def moved(x: NDArray[np.float64], start: NDArray[np.float64]) -> NDArray[np.float64]:
        k = start.copy()
        k[axes] += x
        return k

    box = [(-step, step) for step in steps]
    for start in starts:
        found = direct(
            lambda x, start=start: value(moved(x, start)),
            box,
            maxfun=_LOOKS,
            locally_biased=False,
            len_tol=1e-3,
        )
        best = min(best, moved(found.x, start), key=value)
    simplex = np.concatenate([np.zeros((1, len(axes))), np.diag(steps / 8)])
    found = minimize(
        lambda x: value(moved(x, best)),
        np.zeros(len(axes)),
        method="Nelder-Mead",
        options={"initial_simplex": simplex, "xatol": 1e-5, "fatol": 1e-7, "maxfev": 80},
    )
    if found.fun < value(best) - 1e-7:
        best = moved(found.x, best)
    return best, value(best)


#: What is minimised for the valence maximum, the conduction minimum and the vertical gap: factors
#: of (valence, conduction).
_SIGNS = ((-1, 0), (0, 1), (-1, 1))
_VALLEYS = 3
"""Mesh points that a minimum is searched from at most."""
_LOWEST = 100
"""Among so many of the lowest."""
_MORE = 8
"""Searches for each edge from the second mesh, at most."""
_RESOLVED = 0.4
"""Of the range of energies around a valley, the depth between points up to which a search finds its
bottom; it is 0.25 in a parabola."""
_LOOKS = 50
"""Points around each, about, before the search goes down from the lowest."""


_Found = list[tuple[NDArray[np.float64], float]]
"""Place and value of each minimum of :data:`_SIGNS`."""


def _refined(edges: _Edges, spectrum: MeshSpectrum, bands: int) -> tuple[_Found, float]:
    """Valence maximum, conduction minimum and smallest vertical gap between the mesh points.

    A narrow extremum that the search of one of them misses may be met by another's: then it is
    searched again from there. So no edge is worse than at the places of the others, and the gap is
    never above the vertical one.

    Args:
        edges: at any k.
        spectrum: on the mesh.
        bands: filled ones.

    Returns:
        What was found, and by how much it may be lower elsewhere.
    """
    found: _Found = []
    for sign in _SIGNS:
        starts = _starts(spectrum, spectrum.energies[:, bands - 1 : bands + 1] @ sign)
        found.append(_lowest(edges, [spectrum.kpoints[i] for i in starts], spectrum.mesh, sign))
    _exchanged(edges, spectrum.mesh, found)
    floors = _second_look(edges, spectrum, bands, found)
    _exchanged(edges, spectrum.mesh, found)
    left = max(value - floor for floor, (_, value) in zip(floors, found, strict=True))
    return found, max(left, 0.0)


def _exchanged(edges: _Edges, mesh: Sequence[int], found: _Found) -> None:
    """Search each minimum again where the place of another is better, until none is."""
    better = True
    while better:
        better = False
        for k in [place for place, _ in found]:
            for number, sign in enumerate(_SIGNS):
                if float(edges(k) @ sign) < found[number][1] - 1e-6:
                    found[number] = _lowest(edges, [k], mesh, sign)
                    better = True


def _second_look(edges: _Edges, spectrum: MeshSpectrum, bands: int, found: _Found) -> list[float]:
    """Search once more from a mesh half a step beside the first, and keep what is lower.

    How far a new point lies from the mean of the mesh points around it tells how deep valleys
    between points may be. So all places are searched where the bands may be lower by as much than
    what was found, the lowest first. Where the bands go up and down from point to point, a search
    means little.

    Returns:
        For each minimum, how low the bands may be in places that were not searched.
    """
    mesh = np.array(spectrum.mesh)
    axes = mesh > 1
    grid = np.stack(np.meshgrid(*[np.arange(n) for n in mesh], indexing="ij"), -1).reshape(-1, 3)
    signs: tuple[int, ...] = (1,)
    if len(spectrum.kpoints) < len(grid):  # E(k) = E(-k): one of both
        signs = (1, -1)
        partner = np.where(axes, -1 - grid, 0) % mesh
        grid = grid[np.ravel_multi_index(grid.T, mesh) <= np.ravel_multi_index(partner.T, mesh)]
    places = (grid + 0.5 * axes) / mesh
    new = np.array([edges(k) for k in places])  # (K, 2)
    old = spectrum.energies[:, bands - 1 : bands + 1]
    corners = [(grid + step) % mesh for step in itertools.product(*[range(1 + a) for a in axes])]
    around = np.stack([old[spectrum.full[tuple(c.T)]] for c in corners])  # (corners, K, 2)
    floors = []
    for number, sign in enumerate(_SIGNS):
        values, ends = new @ sign, around @ sign
        depth = np.abs(ends.mean(axis=0) - values)
        lowest, highest = np.minimum(values, ends.min(axis=0)), np.maximum(values, ends.max(axis=0))
        floor, searched, start = values - depth, np.zeros(len(values), dtype=bool), found[number][0]
        for attempt in range(_MORE + 1):
            box = _next_to(places, start, mesh, signs)
            if box.any():
                range_ = highest[box].max() - lowest[box].min()
                resolved = depth[box].max() <= _RESOLVED * range_
                floor[box & resolved] = np.inf
                searched |= box
            left = np.flatnonzero(~searched & (floor < found[number][1]))
            if attempt == _MORE or not len(left):
                break
            start = places[left[np.argmin(floor[left])]]
            again = _lowest(edges, [start], spectrum.mesh, sign)
            if again[1] < found[number][1]:
                found[number] = again
        floors.append(float(floor.min()))
    return floors


def _next_to(
    places: NDArray[np.float64],
    k: NDArray[np.float64],
    mesh: NDArray[np.int64],
    signs: Sequence[int],
) -> NDArray[np.bool_]:
    """(K,), which places are at most a step of the mesh from a sign times k everywhere."""
    near = np.zeros(len(places), dtype=bool)
    for sign in signs:
        away = places - sign * k
        near |= (np.abs(away - np.rint(away)) * mesh <= 1.0 + 1e-9).all(axis=1)
    return near


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

    Minima are searched around the three lowest places of the mesh, over the whole of the cells
    around them, and where a second mesh, half a step beside the first, has room for lower ones.
    Where valleys are many or narrow against the cells of a mesh, one may be missed: no edge that is
    told is better than the true one, and ``uncertain_eV`` says how much better that may be.

    Args:
        problem: the Hamiltonian.
        electrons: per cell.
        mesh: Γ-centred, default 0.12 1/Å apart.
        spectrum: the solved mesh, where there is one.
        refine: search each edge between the mesh points, too, on the exact bands.
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
    values = [float(-valence.max()), float(conduction.min()), float((conduction - valence).min())]
    uncertain: float | None = None
    if refine:
        found, uncertain = _refined(_Edges(problem, bands, s_threshold), spectrum, bands)
        places, values = [place for place, _ in found], [value for _, value in found]
        reach = np.abs(problem.h.keys[:, :3]).max(axis=0) * problem.coupled
        if (reach >= spectrum.mesh).any():  # valleys may be narrower than any mesh point sees
            uncertain = None
    top, bottom, vertical = -values[0], values[1], values[2]
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
        uncertain,
    )
