"""Berry curvature of the filled bands and Chern numbers, plaquette by plaquette.

The links around a plaquette multiply to a unitary matrix whose eigenvalues are exp(-i flux), one
for each band; their sum needs no choice of phases, and the sum over all plaquettes is a whole
number times 2 pi (T. Fukui, Y. Hatsugai, H. Suzuki, J. Phys. Soc. Jpn. 74, 1674 (2005)). Plaquettes
are quartered where one of the bands has a large flux, or links keep little of a state. The flux of
the quarters, and the phases between the two halves of each side and the whole side, tell by how
many turns the plaquette's own flux was wrong. A = i <u | grad u>, Omega = rot A, C = 1 / 2 pi *
integral of Omega.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...errors import ConfigError
from .links import Links

__all__ = ["BerryCurvature", "berry_curvature"]

_LARGEST_FLUX = np.pi / 4
"""Of one band through a plaquette; where it is larger, the plaquette is quartered."""
_SMALLEST_LINK = 0.5
"""Smallest singular value of the links of a plaquette that is not quartered."""
_DEEPEST = 10
"""How often a plaquette is quartered at most."""


@dataclasses.dataclass(frozen=True)
class BerryCurvature:
    """Berry curvature of the filled bands on a plane of the Brillouin zone.

    Attributes:
        axes: the two reciprocal vectors of the plane, in the order of its orientation.
        fixed: (3,), fractional k of the plane's origin.
        k: (A, B, 3), fractional, middles of the plaquettes.
        curvature_A2: (A, B), Å², along b_a x b_b.
        chern: the flux through the plane over 2 pi.
    """

    axes: tuple[int, int]
    fixed: tuple[float, float, float]
    k: NDArray[np.float64]
    curvature_A2: NDArray[np.float64]
    chern: int


Matrix = NDArray[np.complex128]
Point = NDArray[np.float64]


class _Side(NamedTuple):
    """The link from one corner to the next: its unitary part (filled, filled), and its smallest
    singular value."""

    unitary: Matrix
    size: float


def _side(links: Links, start: Point, end: Point) -> _Side:
    """One side.

    Raises:
        ConfigError: states at both ends are orthogonal.
    """
    u, values, vh = np.linalg.svd(links.between(start, end))
    if values[-1] < 1e-12:
        raise ConfigError(
            f"{links.problem.source}: states at k = {np.round(start, 4).tolist()} and "
            f"{np.round(end, 4).tolist()} are orthogonal; take a denser --mesh"
        )
    return _Side(u @ vh, float(values[-1]))


def _turns(matrix: Matrix) -> NDArray[np.float64]:
    """(filled,), phases of the eigenvalues of a unitary matrix."""
    return np.angle(np.linalg.eigvals(matrix))


class _Flux(NamedTuple):
    """Through a plaquette.

    Attributes:
        own: of its own four sides, the right number of turns included.
        fine: of the smallest plaquettes in it.
    """

    own: float
    fine: float


def _flux(
    links: Links,
    corner: Point,
    steps: tuple[Point, Point],
    sides: tuple[_Side, _Side, _Side, _Side],
    depth: int = 0,
) -> _Flux:
    """Flux of a plaquette; where it is not sure, that of its quarters tells.

    Args:
        links: overlaps of the filled states.
        corner: (3,), fractional k.
        steps: a and b, its sides from there.
        sides: along a, along b from its end; along a from one step of b further, along b.
        depth: how often it was quartered.

    Raises:
        ConfigError: it is not sure at any size: filled and empty bands touch, nearly.
    """
    one, two, three, four = (side.unitary for side in sides)
    phases = _turns(one @ two @ (four @ three).conj().T)
    sure = np.abs(phases).max() <= _LARGEST_FLUX and min(s.size for s in sides) >= _SMALLEST_LINK
    if sure:
        return _Flux(-float(phases.sum()), -float(phases.sum()))
    if depth >= _DEEPEST:
        raise ConfigError(
            f"{links.problem.source}: the Berry curvature has a peak at k = "
            f"{np.round(corner, 5).tolist()} that no plaquette resolves: the gap closes there, "
            f"nearly (smallest met: {links.smallest_gap_eV * 1e3:.3g} meV)"
        )
    a, b = steps[0] / 2, steps[1] / 2
    along_a = [
        [_side(links, corner + i * a + j * b, corner + (i + 1) * a + j * b) for j in range(3)]
        for i in range(2)
    ]
    along_b = [
        [_side(links, corner + i * a + j * b, corner + i * a + (j + 1) * b) for j in range(2)]
        for i in range(3)
    ]
    own = fine = 0.0
    for i in range(2):
        for j in range(2):
            quarter = (along_a[i][j], along_b[i + 1][j], along_a[i][j + 1], along_b[i][j])
            found = _flux(links, corner + i * a + j * b, (a, b), quarter, depth + 1)
            own, fine = own + found.own, fine + found.fine
    halves = (
        (along_a[0][0], along_a[1][0], one, 1),
        (along_b[2][0], along_b[2][1], two, 1),
        (along_a[0][2], along_a[1][2], three, -1),
        (along_b[0][0], along_b[0][1], four, -1),
    )
    for first, second, whole, sign in halves:  # from the two halves of a side to the side
        bent = _turns(first.unitary @ second.unitary @ whole.conj().T)
        own += sign * float(bent.sum())
    return _Flux(own, fine)


def berry_curvature(
    links: Links,
    axes: tuple[int, int],
    mesh: tuple[int, int],
    fixed: tuple[float, float, float] = (0.0, 0.0, 0.0),
    progress: Callable[[int, int], None] | None = None,
) -> BerryCurvature:
    """Curvature and Chern number of the filled bands on one plane.

    Args:
        links: overlaps of the filled states.
        axes: reciprocal vectors that span the plane.
        mesh: plaquettes along each.
        fixed: fractional k of its origin.
        progress: called with (rows done, rows).

    Raises:
        ConfigError: the mesh is too coarse even when refined, or the bands touch.
    """
    a, b = axes
    count_a, count_b = mesh
    if min(mesh) < 2:
        raise ConfigError(f"Berry curvature on a {count_a}x{count_b} mesh: at least 2x2 is needed")
    origin, step_a, step_b = np.array(fixed, dtype=float), np.zeros(3), np.zeros(3)
    step_a[a], step_b[b] = 1.0 / count_a, 1.0 / count_b

    def point(i: int, j: int) -> NDArray[np.float64]:
        return origin + i * step_a + j * step_b

    def along_b(i: int) -> list[_Side]:
        return [_side(links, point(i, j), point(i, j + 1)) for j in range(count_b)]

    flux, total = np.zeros(mesh), 0.0
    first = below = along_b(0)
    for i in range(count_a):
        above = along_b(i + 1) if i + 1 < count_a else first  # periodic
        side = [_side(links, point(i, j), point(i + 1, j)) for j in range(count_b)]
        for j in range(count_b):
            sides = (side[j], above[j], side[(j + 1) % count_b], below[j])
            found = _flux(links, point(i, j), (step_a, step_b), sides)
            flux[i, j], total = found.fine, total + found.own
        below = above
        if progress is not None:
            progress(i + 1, count_a)
    reciprocal = links.problem.structure.reciprocal
    area = np.linalg.norm(np.cross(reciprocal[a], reciprocal[b])) / (count_a * count_b)
    grid = np.array([[point(i, j) for j in range(count_b)] for i in range(count_a)])
    middle = (step_a + step_b) / 2
    return BerryCurvature(
        axes, fixed, grid + middle, flux / area, int(np.round(total / (2 * np.pi)))
    )
