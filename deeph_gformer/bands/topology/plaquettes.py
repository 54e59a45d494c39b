"""Berry curvature of the filled bands and Chern numbers, plaquette by plaquette.

The links around a plaquette multiply to a unitary matrix whose eigenvalues are exp(-i flux), one
for each band; their sum needs no choice of phases, and the sum over all plaquettes is a whole
number times 2 pi (T. Fukui, Y. Hatsugai, H. Suzuki, J. Phys. Soc. Jpn. 74, 1674 (2005)), whatever
their shape, as long as neighbours share their sides. So a plaquette whose flux is not sure is
quartered, and its neighbours go around the corners that this puts on their sides. A = i <u | grad
u>, Omega = rot A, C = 1 / 2 pi * integral of Omega.
"""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...errors import ConfigError
from ...terminal import figures
from ..bloch import BlochProblem
from .links import SMALLEST_GAP_EV, Links

__all__ = ["BerryCurvature", "berry_curvature", "upward_plane"]

_LARGEST_FLUX = 0.35 * np.pi
"""Of one band through a plaquette; where it is larger, the plaquette is quartered."""
_SMALLEST_LINK = 0.4
"""Smallest singular value of the links around a plaquette that is not quartered."""
_LARGEST_LINK = 1.1
"""Largest one: overlaps of states are below 1, but for what a long step with a position matrix
makes of them."""
_LARGEST_FIRST_ORDER = 0.3
"""Largest part of a position matrix in them; half of its square is left out."""
_DEEPEST = 10
"""How often a plaquette is quartered at most."""
_FAINT = SMALLEST_GAP_EV
"""Numbers of H, eV, and of S that are smaller do not set the mesh: they open no gap."""
_LOOKED_INTO = 64
"""Plaquettes of a mesh that are looked into, to see whether its points tell what is between."""
_INSIDE = (0.382, 0.276), (0.287, 0.713), (0.634, 0.553)
"""Where: on no regular mesh, of which H(n k) may be the same at all points."""
_FINEST = 256
"""Times the plaquettes that H asks for: a mesh so fine is not made finer everywhere."""
_KEPT_BYTES = 5e8
"""Of links that are remembered."""

Matrix = NDArray[np.complex128]
Vertex = tuple[int, int]


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


class _Link(NamedTuple):
    """From one corner to the next.

    Attributes:
        unitary: (filled, filled), its unitary part.
        smallest: singular value.
        largest: singular value.
        first_order: norm of the position matrix' part.
    """

    unitary: Matrix
    smallest: float
    largest: float
    first_order: float

    @property
    def sure(self) -> bool:
        """Whether it tells what happens on the way."""
        return (
            self.smallest >= _SMALLEST_LINK
            and self.largest <= _LARGEST_LINK
            and self.first_order <= _LARGEST_FIRST_ORDER
        )


class _Plaquette(NamedTuple):
    """Lower left corner and side, in the units of :class:`_Plane`."""

    x: int
    y: int
    side: int


def _fluxes(loop: Matrix) -> NDArray[np.float64] | None:
    """(filled,), of each band, from the product of the links around a plaquette; None where one is
    larger than :data:`_LARGEST_FLUX`."""
    even, odd = (loop + loop.conj().T) / 2, (loop - loop.conj().T) / 2j
    if np.linalg.eigvalsh(even)[0] < np.cos(_LARGEST_FLUX):
        return None
    return -np.arcsin(np.linalg.eigvalsh(odd))


def _fewest(problem: BlochProblem, axis: int) -> float:
    """Plaquettes along an axis that resolve the phases of H(k): two for each lattice vector that H
    reaches, and one. Fewer may meet the same states at all corners, whatever is between."""
    structure, far = problem.structure, 0.0
    place = np.linalg.solve(structure.lattice.T, structure.positions.T)[axis]
    for matrix in (problem.h, problem.s):
        keys = matrix.keys
        size = np.maximum.reduceat(np.abs(matrix.values), matrix.offsets[:-1])
        reach = np.abs(keys[:, axis] + place[keys[:, 4]] - place[keys[:, 3]])
        far = max(far, float(reach[size >= _FAINT].max(initial=0.0)))
    return 2 * far + 1


class _Plane:
    """Plaquettes on a plane of the zone.

    Lengths are whole numbers, :attr:`unit` for the side of a plaquette of the mesh; where the mesh
    is coarser than H, or than what is seen inside some, each begins as several of side 2**_DEEPEST.
    """

    def __init__(
        self,
        links: Links,
        axes: tuple[int, int],
        mesh: tuple[int, int],
        fixed: tuple[float, float, float],
    ) -> None:
        self._links, self._axes = links, axes
        self._origin = np.array(fixed, dtype=float)
        side = 2**_DEEPEST
        self.unit = side
        least = [_fewest(links.problem, axis) - 1e-6 for axis in axes]
        while any(n * self.unit < few * side for n, few in zip(mesh, least, strict=True)):
            self.unit *= 2
        self._most = max(16, int(_KEPT_BYTES / (16 * links.filled**2)))
        self._begin(mesh)
        while len(self._sides) < _FINEST * least[0] * least[1] and self._misleads():
            self.unit *= 4
            self._begin(mesh)

    def _begin(self, mesh: tuple[int, int]) -> None:
        """Plaquettes of one size."""
        side = 2**_DEEPEST
        self._period = mesh[0] * self.unit, mesh[1] * self.unit
        starts = [
            (i, j) for i in range(0, self._period[0], side) for j in range(0, self._period[1], side)
        ]
        self._sides = dict.fromkeys(starts, side)  # of the plaquettes that there are
        self._vertices = set(starts)
        self._kept: OrderedDict[tuple[Vertex, Vertex], _Link] = OrderedDict()

    def _misleads(self) -> bool:
        """Whether a plaquette seems sure from its corners alone, and a point inside tells that it
        is not: states may come back from corner to corner, by way of others."""
        every = self.plaquettes()
        some = np.random.default_rng(0).permutation(len(every))[:_LOOKED_INTO]  # in no pattern
        for one in (every[number] for number in some):
            flux = self.flux(one)
            if flux is not None and self._contradicted(one, flux):
                return True
        return False

    def sure_flux(self, one: _Plaquette) -> float | None:
        """:meth:`flux`; a plaquette that is sure only by corners of its neighbours is looked into
        before that is believed."""
        flux = self.flux(one)
        if flux is None or len(self._around(one)) == 4:
            return flux
        return None if self._contradicted(one, flux) else flux

    def _contradicted(self, one: _Plaquette, flux: float) -> bool:
        """Whether points inside a plaquette tell another flux than its corners, or that it is not
        sure."""
        around = (self._flux_around(one, *place) for place in _INSIDE)
        return any(found is None or abs(found - flux) > 1.0 for found in around)

    def _around(self, one: _Plaquette) -> list[tuple[Vertex, Vertex]]:
        """Steps around a plaquette."""
        x, y, side = one
        a, b, c, d = (x, y), (x + side, y), (x + side, y + side), (x, y + side)
        back = [*self._steps(a, d), *self._steps(d, c)][::-1]
        return [*self._steps(a, b), *self._steps(b, c), *((end, start) for start, end in back)]

    def _flux_around(self, one: _Plaquette, a: float, b: float) -> float | None:
        """Flux of the triangles that a point inside makes with each step around; None if not sure.

        It is that of the plaquette, or whole times 2 pi away.
        """
        inside = one.x + int(a * one.side), one.y + int(b * one.side)
        total = 0.0
        for start, end in self._around(one):
            rising = start <= end
            edge = self._link(start, end) if rising else self._link(end, start)
            spokes = self._link(start, inside), self._link(end, inside)
            if not all(link.sure for link in (edge, *spokes)):
                return None
            along = edge.unitary if rising else edge.unitary.conj().T
            fluxes = _fluxes(along @ spokes[1].unitary @ spokes[0].unitary.conj().T)
            if fluxes is None:
                return None
            total += float(fluxes.sum())
        return total

    def k(self, vertex: Vertex) -> NDArray[np.float64]:
        """(3,), fractional."""
        point = self._origin.copy()
        for axis, place, period in zip(self._axes, vertex, self._period, strict=True):
            point[axis] += place / period
        return point

    def plaquettes(self) -> list[_Plaquette]:
        """All that there are now."""
        return [_Plaquette(x, y, side) for (x, y), side in self._sides.items()]

    def _inside(self, x: int, y: int) -> Vertex:
        return x % self._period[0], y % self._period[1]

    def _steps(self, start: Vertex, end: Vertex) -> Iterator[tuple[Vertex, Vertex]]:
        """Between two corners of a plaquette, over those that neighbours have in between."""
        middle = (start[0] + end[0]) // 2, (start[1] + end[1]) // 2
        length = abs(end[0] - start[0]) + abs(end[1] - start[1])
        if length > 1 and self._inside(*middle) in self._vertices:
            yield from self._steps(start, middle)
            yield from self._steps(middle, end)
        else:
            yield start, end

    def _link(self, start: Vertex, end: Vertex) -> _Link:
        """One link, in rising direction."""
        away = end[0] - start[0], end[1] - start[1]
        start = self._inside(*start)
        end = start[0] + away[0], start[1] + away[1]
        if (start, end) in self._kept:
            self._kept.move_to_end((start, end))
            return self._kept[start, end]
        overlap, first = self._links.between_and_first_order(self.k(start), self.k(end))
        u, values, vh = np.linalg.svd(overlap)
        if len(self._kept) >= self._most:
            self._kept.popitem(last=False)
        link = _Link(u @ vh, float(values[-1]), float(values[0]), first)
        self._kept[start, end] = link
        return link

    def flux(self, one: _Plaquette) -> float | None:
        """Through a plaquette; None where that is not sure."""
        x, y, side = one
        a, b, c, d = (x, y), (x + side, y), (x + side, y + side), (x, y + side)
        halves: list[Matrix] = []
        for middle in (b, d):  # from a to c, first along a, then along b
            product = np.eye(self._links.filled, dtype=complex)
            for start, end in (*self._steps(a, middle), *self._steps(middle, c)):
                link = self._link(start, end)
                if not link.sure:
                    return None
                product = product @ link.unitary
            halves.append(product)
        fluxes = _fluxes(halves[0] @ halves[1].conj().T)
        return None if fluxes is None else float(fluxes.sum())

    def quarter(self, one: _Plaquette) -> tuple[list[_Plaquette], list[_Plaquette]]:
        """Replace a plaquette by four.

        Returns:
            The four, and the neighbours whose sides have got a new corner.

        Raises:
            ConfigError: it is too small: filled and empty bands touch, nearly.
        """
        x, y, side = one
        half = side // 2
        if half == 0:
            raise ConfigError(
                f"{self._links.problem.source}: the Berry curvature has a peak at k = "
                f"{np.round(self.k((x, y)), 5).tolist()} that no plaquette resolves: the gap "
                f"closes there, nearly (smallest met: "
                f"{figures(self._links.smallest_gap_eV * 1e3)} meV); a denser --mesh looks closer"
            )
        del self._sides[x, y]
        four = [_Plaquette(x + i * half, y + j * half, half) for i in (0, 1) for j in (0, 1)]
        self._sides.update({(q.x, q.y): half for q in four})
        self._vertices.add((x + half, y + half))
        near: list[_Plaquette] = []
        for i, j in ((half, 0), (0, half), (side, half), (half, side)):
            vertex = self._inside(x + i, y + j)
            if vertex not in self._vertices:
                self._vertices.add(vertex)
                outside = x + i + (i > half) - (i < half), y + j + (j > half) - (j < half)
                near.append(self._holding(*outside, side))
        return four, near

    def _holding(self, x: int, y: int, least: int) -> _Plaquette:
        """The plaquette around a point, which is no smaller than ``least``."""
        side = least
        while True:
            start = self._inside(x // side * side, y // side * side)
            if self._sides.get(start) == side:
                return _Plaquette(*start, side)
            side *= 2


def upward_plane(problem: BlochProblem) -> tuple[tuple[int, int], NDArray[np.float64]]:
    """The plane of a slab's Chern number, or of k3 = const of a crystal.

    Its sign is that of a normal, which is to be the same in every description: the one towards +z,
    towards +y where it has no z, else +x.

    Args:
        problem: repeats in two or three directions.

    Returns:
        Two reciprocal vectors in the order in which b_a x b_b is along the normal; the normal (3,).
    """
    a, b = [axis for axis in range(3) if problem.periodic[axis]][:2]
    normal = np.cross(problem.reciprocal[a], problem.reciprocal[b])
    normal /= np.linalg.norm(normal)
    decides = next(v for v in normal[::-1] if abs(v) > 1e-6)
    return ((a, b), normal) if decides > 0 else ((b, a), -normal)


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
        progress: called with (plaquettes done, plaquettes known); the second grows.

    Raises:
        ConfigError: the mesh is too coarse even when refined, or the bands touch.
    """
    a, b = axes
    count_a, count_b = mesh
    if min(mesh) < 2:
        raise ConfigError(f"Berry curvature on a {count_a}x{count_b} mesh: at least 2x2 is needed")
    plane = _Plane(links, axes, mesh, fixed)
    waiting = plane.plaquettes()[::-1]
    fluxes: dict[_Plaquette, float] = {}
    while waiting:
        one = waiting.pop()
        found = plane.sure_flux(one)
        if found is not None:
            fluxes[one] = found
        else:
            four, near = plane.quarter(one)
            again = [other for other in near if fluxes.pop(other, None) is not None]
            waiting += [*again, *four]
        if progress is not None:
            progress(len(fluxes), len(fluxes) + len(waiting))
    flux = np.zeros(mesh)
    for one, value in fluxes.items():
        flux[one.x // plane.unit, one.y // plane.unit] += value
    reciprocal = links.problem.reciprocal
    area = np.linalg.norm(np.cross(reciprocal[a], reciprocal[b])) / (count_a * count_b)
    half = plane.unit // 2
    middles = np.array(
        [
            [plane.k((i * plane.unit + half, j * plane.unit + half)) for j in range(count_b)]
            for i in range(count_a)
        ]
    )
    chern = flux.sum() / (2 * np.pi)
    return BerryCurvature(axes, fixed, middles, flux / area, int(np.round(chern)))
