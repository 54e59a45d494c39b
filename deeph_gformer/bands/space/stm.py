"""STM images after Tersoff and Hamann: the local density of states above a surface.

J. Tersoff, D. R. Hamann, Phys. Rev. B 31, 805 (1985). Constant height: the LDOS on a plane.
Constant current: the height at which the LDOS, coming from the vacuum, first reaches a value.
Numerical orbitals end at their cutoff, and decay too fast before it; images far above a surface
are not to be trusted, and there is nothing beyond the reach of the topmost atoms.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import ConfigError
from ...io import Structure
from ..bloch import BlochProblem
from .density import Orbitals, SelectedStates, density_at

__all__ = ["StmImage", "require_image", "stm_image"]

_LOWEST = 0.4
"""Å above the topmost atom where the search of the constant current ends."""
_STEP = 0.1
"""Å between planes."""
_TILT = 1e-3
_COLUMNS = 8
"""Points of a block of columns along each lattice vector."""


@dataclasses.dataclass(frozen=True)
class StmImage:
    """Maps over one surface cell.

    Attributes:
        vectors: (2, 2), rows, the surface cell in the plane, Å.
        height_A: of the constant-height map above the topmost atom.
        ldos: (A, B), there, 1/Å³ (states in the window).
        current: 1/Å³, the value that the constant-current map keeps.
        topography_A: (A, B), height above the topmost atom; NaN where the value is met nowhere
            above 0.4 Å.
        top_A: height of the topmost atom along the surface normal.
    """

    vectors: NDArray[np.float64]
    height_A: float
    ldos: NDArray[np.float64]
    current: float
    topography_A: NDArray[np.float64]
    top_A: float

    def to_json(self) -> dict[str, Any]:
        """For JSON; units in the names; null where the topography is not known."""
        heights = [[None if np.isnan(v) else float(v) for v in row] for row in self.topography_A]
        return {
            "surface_vectors_A": self.vectors.tolist(),
            "height_A": self.height_A,
            "ldos_per_A3": self.ldos.tolist(),
            "current_per_A3": self.current,
            "topography_A": heights,
        }


def _normal_axis(problem: BlochProblem) -> int:
    """The lattice vector that does not repeat.

    Raises:
        ConfigError: no slab, or a vacuum vector that is not perpendicular to the surface.
    """
    crystal = problem.structure
    axes = [axis for axis in range(3) if not problem.periodic[axis]]
    if len(axes) != 1:
        raise ConfigError(
            f"{problem.source}: an STM image needs a surface; '{crystal.name}' repeats in "
            f"{3 - len(axes)} directions, a slab in two"
        )
    normal = crystal.lattice[axes[0]] / np.linalg.norm(crystal.lattice[axes[0]])
    others = np.delete(crystal.lattice, axes[0], axis=0)
    tilt = np.abs(others @ normal / np.linalg.norm(others, axis=1)).max()
    if tilt > _TILT:
        raise ConfigError(
            f"{problem.source}: the vacuum vector a{axes[0] + 1} is not perpendicular to the "
            "surface; make it so (the slab does not change)"
        )
    return axes[0]


def _top(structure: Structure, axis: int) -> float:
    """Height of the atom below the widest gap along ``axis``, Å, with the slab across the cell
    boundary too."""
    length = float(np.linalg.norm(structure.lattice[axis]))
    heights = np.sort((structure.positions @ np.linalg.inv(structure.lattice))[:, axis] % 1.0)
    gaps = np.diff(np.append(heights, heights[0] + 1.0))
    return float(heights[int(np.argmax(gaps))]) * length


def require_image(
    problem: BlochProblem, orbitals: Orbitals, height_A: float, current: float | None = None
) -> tuple[int, float]:
    """Refuse what :func:`stm_image` would refuse, before anything is computed.

    Args:
        problem: a slab.
        orbitals: of every element.
        height_A: of the constant-height map above the topmost atom.
        current: see :func:`stm_image`.

    Returns:
        The lattice vector out of the slab, and how far orbitals reach, Å.

    Raises:
        ConfigError: no slab, a height beyond the orbitals, or a current that is none.
    """
    axis = _normal_axis(problem)
    reach = max(orbitals.reach[z] for z in problem.structure.numbers.tolist())
    if not _LOWEST <= height_A < reach:
        raise ConfigError(
            f"height {height_A:g} Å: the orbitals of this basis end {reach:.2f} Å from their "
            f"atoms; take {_LOWEST:g} Å to well below that"
        )
    if current is not None and not 0 < current < np.inf:
        raise ConfigError(f"current {current} 1/Å³: it must be positive and finite")
    return axis, reach


def stm_image(
    problem: BlochProblem,
    orbitals: Orbitals,
    chosen: Sequence[SelectedStates],
    *,
    height_A: float = 2.0,
    current: float | None = None,
    spacing: float = 0.2,
    progress: Callable[[int, int], None] | None = None,
) -> StmImage:
    """Both maps of one window of energies.

    Args:
        problem: a slab.
        orbitals: of every element.
        chosen: of :func:`~.density.states_in_window`.
        height_A: of the constant-height map above the topmost atom.
        current: LDOS that the constant-current map keeps, 1/Å³; default: the mean of the
            constant-height map.
        spacing: of the points in the plane, Å.
        progress: called with (blocks done, blocks).

    Raises:
        ConfigError: no slab, a height beyond the orbitals, or a current that is none.
    """
    axis, reach = require_image(problem, orbitals, height_A, current)
    crystal = problem.structure
    lattice = crystal.lattice
    normal = lattice[axis] / np.linalg.norm(lattice[axis])
    top = _top(crystal, axis)
    first, second = (lattice[other] for other in range(3) if other != axis)
    below = int((height_A - _LOWEST) / _STEP + 1e-9)
    steps = np.arange(-below, int((reach - height_A) / _STEP) + 1, dtype=np.float64)
    heights: NDArray[np.float64] = height_A + _STEP * steps
    counts = [max(2, int(np.ceil(np.linalg.norm(v) / spacing))) for v in (first, second)]
    volume = np.zeros((counts[0], counts[1], len(heights)))
    corners = [(a, b) for a in range(0, counts[0], _COLUMNS) for b in range(0, counts[1], _COLUMNS)]
    for done, (a, b) in enumerate(corners, 1):
        part = volume[a : a + _COLUMNS, b : b + _COLUMNS]
        i, j = np.arange(a, a + part.shape[0]), np.arange(b, b + part.shape[1])
        points = (
            (i / counts[0])[:, None, None, None] * first
            + (j / counts[1])[:, None, None] * second
            + (top + heights)[:, None] * normal
        )
        part[...] = density_at(problem, orbitals, chosen, points.reshape(-1, 3)).reshape(part.shape)
        if progress is not None:
            progress(done, len(corners))
    ldos = volume[:, :, below]
    kept = float(ldos.mean()) if current is None else current
    if kept <= 0:
        raise ConfigError(
            f"no state of the window reaches {height_A:g} Å above the surface; go nearer"
        )
    across = first / np.linalg.norm(first)
    up = np.cross(normal, across)  # seen from the vacuum, whatever the order of the vectors
    vectors = np.array([[v @ across, v @ up] for v in (first, second)])
    return StmImage(vectors, height_A, ldos, kept, _crossing(volume, heights, kept), top)


def _crossing(
    volume: NDArray[np.float64], heights: NDArray[np.float64], level: float
) -> NDArray[np.float64]:
    """(A, B), the greatest height at which the value is ``level``; exponentials between planes."""
    above = volume >= level
    met = above.any(axis=2)
    last = volume.shape[2] - 1 - np.argmax(above[:, :, ::-1], axis=2)
    following = np.minimum(last + 1, volume.shape[2] - 1)
    here = np.take_along_axis(volume, last[:, :, None], axis=2)[:, :, 0]
    there = np.take_along_axis(volume, following[:, :, None], axis=2)[:, :, 0]
    tiny = 1e-300
    fall = np.log(np.maximum(here, tiny)) - np.log(np.maximum(there, tiny))
    ahead = np.log(np.maximum(here, tiny)) - np.log(level)
    share = np.where(fall > 0, np.clip(ahead / np.where(fall > 0, fall, 1.0), 0, 1), 0.0)
    found = heights[last] + share * (heights[following] - heights[last])
    return np.where(met, found, np.nan)
