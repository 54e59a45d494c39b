"""Berry curvature of the filled bands and Chern numbers, plaquette by plaquette.

The determinants of the links around a plaquette give its flux without any choice of phases, and the
sum of all is a whole number; plaquettes of large flux are quartered (T. Fukui, Y. Hatsugai, H.
Suzuki, J. Phys. Soc. Jpn. 74, 1674 (2005)). A = i <u | grad u>, Omega = rot A, C = 1 / 2 pi *
integral of Omega.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ...errors import ConfigError
from .links import Links

__all__ = ["BerryCurvature", "berry_curvature"]

_LARGEST_FLUX = np.pi / 4
"""Of a plaquette; larger ones are quartered, since flux is known up to 2 pi only."""
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


def _phase(links: Links, start: NDArray[np.float64], end: NDArray[np.float64]) -> complex:
    """Phase of the determinant of a link.

    Raises:
        ConfigError: the states at both ends are orthogonal.
    """
    sign, size = np.linalg.slogdet(links.between(start, end))
    if not np.isfinite(size):
        raise ConfigError(
            f"{links.problem.source}: states at k = {np.round(start, 4).tolist()} and "
            f"{np.round(end, 4).tolist()} are orthogonal; take a denser --mesh"
        )
    return complex(sign)


def _refined(
    links: Links,
    corner: NDArray[np.float64],
    step_a: NDArray[np.float64],
    step_b: NDArray[np.float64],
    depth: int,
) -> float:
    """Flux of a plaquette as that of its quarters, each again where it is large.

    Raises:
        ConfigError: it is large at any size: filled and empty bands touch, nearly.
    """
    if depth > _DEEPEST:
        raise ConfigError(
            f"{links.problem.source}: the Berry curvature has a peak at k = "
            f"{np.round(corner, 5).tolist()} that no plaquette resolves: the gap closes there, "
            f"nearly "
            f"(smallest met: {links.smallest_gap_eV * 1e3:.3g} meV)"
        )
    step_a, step_b, total = step_a / 2, step_b / 2, 0.0
    for i in (0, 1):
        for j in (0, 1):
            here = corner + i * step_a + j * step_b
            ends = (here, here + step_a, here + step_a + step_b, here + step_b, here)
            around = 1.0 + 0.0j
            for start, end in zip(ends[:2], ends[1:3], strict=True):
                around *= _phase(links, start, end)
            for end, start in zip(ends[2:4], ends[3:], strict=True):
                around /= _phase(links, start, end)
            flux = -float(np.angle(around))
            large = abs(flux) > _LARGEST_FLUX
            total += _refined(links, here, step_a, step_b, depth + 1) if large else flux
    return total


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

    def along_b(i: int) -> list[complex]:
        return [_phase(links, point(i, j), point(i, j + 1)) for j in range(count_b)]

    flux, turns, rest = np.zeros(mesh), 0, 0.0
    first = below = along_b(0)
    for i in range(count_a):
        above = along_b(i + 1) if i + 1 < count_a else first  # periodic
        side = [_phase(links, point(i, j), point(i + 1, j)) for j in range(count_b)]
        for j in range(count_b):
            around = side[j] * above[j] / (side[(j + 1) % count_b] * below[j])
            flux[i, j] = -np.angle(around)
            if np.abs(flux[i, j]) > _LARGEST_FLUX:
                coarse = flux[i, j]
                flux[i, j] = _refined(links, point(i, j), step_a, step_b, 1)
                # the plaquette's own flux is known up to 2 pi; the sum of all such is exact
                whole = int(np.round((flux[i, j] - coarse) / (2 * np.pi)))
                turns, rest = turns + whole, rest + coarse
            else:
                rest += flux[i, j]
        below = above
        if progress is not None:
            progress(i + 1, count_a)
    total = turns + rest / (2 * np.pi)  # a whole number
    reciprocal = links.problem.structure.reciprocal
    area = np.linalg.norm(np.cross(reciprocal[a], reciprocal[b])) / (count_a * count_b)
    grid = np.array([[point(i, j) for j in range(count_b)] for i in range(count_a)])
    middle = (step_a + step_b) / 2
    return BerryCurvature(axes, fixed, grid + middle, flux / area, int(np.round(total)))
