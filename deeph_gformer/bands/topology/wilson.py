"""Wilson loops: hybrid Wannier charge centres and the Z2 invariant of time-reversal symmetric
crystals.

The eigenvalues of the product of the links around a closed line in k are e^(-2 pi i x), x the
centres of hybrid Wannier functions along the lattice vector of the line, in fractions of it. Over
half of the zone the centres exchange partners (Z2 = 1) or do not; the crossings of the middle of
their largest gap are counted (A. A. Soluyanov, D. Vanderbilt, Phys. Rev. B 83, 235401 (2011); D.
Gresch et al., Phys. Rev. B 95, 075146 (2017)).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ...errors import ConfigError
from ...terminal import figures
from ..kmesh import broken_reversal, has_time_reversal
from .links import Links

__all__ = ["WannierCentres", "gap_middle", "wannier_centres", "z2_invariant", "z2_of_crystal"]

_FIRST_STEPS = 12
_MOST_STEPS = 384
_MOVED = 0.01
"""Largest change of a centre, in lattice vectors, when the steps of its line are doubled."""
_FIRST_LINES = 11
_FINEST = 0.5 / 10 / 2**6
"""Smallest distance of two lines, in reciprocal vectors."""
_CLEAR = 0.3
"""Nearest that a centre may come to the middle of the next line's largest gap, in its width."""

Array = NDArray[np.float64]
Progress = Callable[[int, int], None] | None


@dataclasses.dataclass(frozen=True)
class WannierCentres:
    """Centres over half of a plane in the Brillouin zone, and the Z2 number that they give.

    Attributes:
        loop: lattice vector along which the centres are, 0 to 2.
        pump: reciprocal vector along which the lines follow each other.
        fixed: (3,), fractional k of the plane; 0 or 1/2 along the third vector.
        k: (T,), fractional, along ``pump``, from 0 to 1/2.
        centres: (T, filled), ascending, in [0, 1).
        z2: 0 or 1.
        steps: most steps that a line took.
    """

    loop: int
    pump: int
    fixed: tuple[float, float, float]
    k: Array
    centres: Array
    z2: int
    steps: int


def _distance(a: Array, b: Array) -> Array:
    """On a circle of circumference 1."""
    return np.abs((a - b + 0.5) % 1.0 - 0.5)


def _largest_change(one: Array, two: Array) -> float:
    """Of centres on the circle, matched in their cyclic order."""
    count = len(one)
    shifts = range(-2, 3) if count > 4 else range(count)
    return min(float(_distance(one, np.roll(two, shift)).max()) for shift in shifts)


def _loop(links: Links, start: Array, axis: int, steps: int) -> Array:
    """(filled,), centres of one line, ascending."""
    step = np.zeros(3)
    step[axis] = 1.0 / steps
    total = np.eye(links.filled, dtype=complex)
    for number in range(steps):
        link = links.between(start + number * step, start + (number + 1) * step)
        u, values, vh = np.linalg.svd(link)
        if values[-1] < 1e-3:
            raise ConfigError(
                f"{links.problem.source}: states at k = "
                f"{np.round(start + number * step, 4).tolist()} "
                f"and one step of 1/{steps} further have nothing in common (overlap "
                f"{values[-1]:.1g})"
            )
        total = total @ (u @ vh)
    return np.sort(-np.angle(np.linalg.eigvals(total)) / (2 * np.pi) % 1.0)


def wannier_centres(links: Links, start: Array, axis: int) -> tuple[Array, int]:
    """Hybrid Wannier charge centres of one line, its steps doubled until they are still.

    Args:
        links: overlaps of the filled states.
        start: (3,), fractional k where the line starts.
        axis: reciprocal vector along which it runs.

    Returns:
        (filled,) centres along the lattice vector ``axis``, ascending, in [0, 1); the steps taken.

    Raises:
        ConfigError: they are not still with the finest steps, or the bands touch.
    """
    steps, before, reason = _FIRST_STEPS, None, "links without overlap"
    while steps <= _MOST_STEPS:
        try:
            found = _loop(links, np.asarray(start, dtype=float), axis, steps)
        except ConfigError as error:
            if "nothing in common" not in str(error):
                raise
            found, reason = None, str(error)
        if found is not None and before is not None:
            change = _largest_change(before, found)
            if change < _MOVED:
                return found, steps
            reason = f"centres still move by {change:.2g}"
        before, steps = found, 2 * steps
    raise ConfigError(
        f"{links.problem.source}: the Wilson loop from k = {np.round(start, 4).tolist()} along "
        f"reciprocal vector {axis + 1} is too coarse with {steps // 2} steps ({reason})"
    )


def gap_middle(centres: Array) -> tuple[float, float]:
    """Middle and width of the largest gap between centres on the circle."""
    gaps = np.diff(np.append(centres, centres[0] + 1.0))
    widest = int(np.argmax(gaps))
    return float((centres[widest] + gaps[widest] / 2) % 1.0), float(gaps[widest])


def _clear(one: Array, two: Array) -> bool:
    """Whether two neighbouring lines are near enough to count: gap middles stay free of centres."""
    for mine, other in ((one, two), (two, one)):
        middle, width = gap_middle(mine)
        if _distance(other, np.array(middle)).min() < _CLEAR * min(width, 0.5):
            return False
    return True


def _crossings(one: Array, two: Array) -> int:
    """Centres of the second line between the gap middles of both."""
    low, high = sorted((gap_middle(one)[0], gap_middle(two)[0]))
    return int(((two > low) & (two < high)).sum())


def z2_invariant(
    links: Links,
    loop: int,
    pump: int,
    fixed: tuple[float, float, float] = (0.0, 0.0, 0.0),
    progress: Progress = None,
) -> WannierCentres:
    """Z2 of one time-reversal invariant plane.

    Args:
        links: overlaps of the filled states of a time-reversal symmetric Hamiltonian with spin.
        loop: reciprocal vector of the Wilson loops.
        pump: reciprocal vector from line to line, from 0 to 1/2.
        fixed: fractional k of the plane, 0 or 1/2 along the third vector.
        progress: called with (lines done, lines).

    Raises:
        ConfigError: the Hamiltonian has no spin or no time reversal, an odd number of filled bands,
            a band touching, or centres that jump between lines however near.
    """
    _require_time_reversal(links)
    found: dict[float, Array] = {}
    most = 0

    def line(t: float) -> Array:
        """Wannier centres (bands,) at one value of the pump; solved once."""
        nonlocal most
        if t not in found:
            start = np.array(fixed, dtype=float)
            start[pump] = t
            found[t], steps = wannier_centres(links, start, loop)
            most = max(most, steps)
            if progress is not None:
                progress(len(found), len(found) + len(waiting))
        return found[t]

    points = np.linspace(0.0, 0.5, _FIRST_LINES).tolist()
    waiting = list(zip(points[:-1], points[1:], strict=True))
    total = 0
    while waiting:
        a, b = waiting.pop(0)
        if _clear(line(a), line(b)):
            total += _crossings(line(a), line(b))
        elif b - a > _FINEST:
            middle = (a + b) / 2
            waiting[:0] = [(a, middle), (middle, b)]
        else:
            raise ConfigError(
                f"{links.problem.source}: Wannier centres jump between k = {a:.5f} and {b:.5f} "
                f"along "
                f"reciprocal vector {pump + 1}; the gap is too small for a Z2 number "
                f"(smallest met: {figures(links.smallest_gap_eV * 1e3)} meV)"
            )
    order = np.array(sorted(found))
    centres = np.array([found[t] for t in order.tolist()])
    return WannierCentres(loop, pump, fixed, order, centres, total % 2, most)


def _require_time_reversal(links: Links) -> None:
    problem = links.problem
    if not problem.spinful:
        raise ConfigError(
            f"{problem.source}: Z2 needs spin-orbit coupling (isspinful in info.json); without "
            f"spin "
            "every band is filled twice and Z2 is 0"
        )
    if not has_time_reversal(problem):
        raise ConfigError(
            f"{problem.source}: time reversal is broken, by up to "
            f"{figures(broken_reversal(problem) * 1e3)} meV, so there is no Z2 number; --kind "
            "chern has a "
            "meaning. If this is an error of a prediction: --time-reversal takes the symmetric part"
        )
    if links.filled % 2:
        raise ConfigError(
            f"{problem.source}: {links.filled} filled bands; with time reversal they come in pairs"
        )


def z2_of_crystal(
    links: Links, progress: Progress = None
) -> tuple[list[int], list[WannierCentres]]:
    """Z2 numbers of a slab, [nu], or of a crystal, [nu0, nu1, nu2, nu3].

    Args:
        links: overlaps of the filled states.
        progress: called with (lines done, lines), plane by plane.

    Returns:
        The numbers, and the planes that gave them; in three dimensions k1 = 0, 1/2, then k2 = 1/2
        and k3 = 1/2.

    Raises:
        ConfigError: the structure repeats in one direction or none; what :func:`z2_invariant`
            raises.
    """
    axes = [axis for axis in range(3) if links.problem.periodic[axis]]
    if len(axes) < 2:
        raise ConfigError(
            f"{links.problem.source}: Z2 needs two or three periodic directions, "
            f"'{links.problem.structure.name}' has {len(axes)}"
        )
    if len(axes) == 2:
        plane = z2_invariant(links, axes[0], axes[1], progress=progress)
        return [plane.z2], [plane]
    planes = []
    for axis, value in ((0, 0.0), (0, 0.5), (1, 0.5), (2, 0.5)):
        others = [other for other in range(3) if other != axis]
        x, y, z = (value if other == axis else 0.0 for other in range(3))
        planes.append(z2_invariant(links, others[0], others[1], (x, y, z), progress))
    strong = (planes[0].z2 + planes[1].z2) % 2
    return [strong, planes[1].z2, planes[2].z2, planes[3].z2], planes
