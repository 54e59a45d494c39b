"""Mean of a function over the Brillouin zone, on a mesh that is refined where it is not sure.

A cell of the mesh is cut into three along each axis (its middle is kept) where the midpoint rule
errs most: by the second differences of its neighbours first, then by what cutting it changed. So a
spike of the Berry curvature at a small gap is followed down to its width. (WannierBerri refines
likewise: S. S. Tsirkin, npj Comput. Mater. 7, 33 (2021).)
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...errors import DataError
from ..kmesh import mesh_points

__all__ = ["ZoneMean", "zone_mean"]

_TOLERANCE = 0.01
"""Of the largest component: no more is refined where the error is below."""
_BATCH = 0.3
"""Cells are cut together whose error is at least this part of the largest."""


@dataclasses.dataclass(frozen=True)
class ZoneMean:
    """A mean over the zone; C components.

    Attributes:
        value: (C,).
        error: (C,), estimated and generous. It cannot know of a spike between the points of the
            mesh that none of them shows.
        on_mesh: (C,), the mean over the mesh alone.
        points: k-points solved, those of the mesh included.
        largest_share: of all (absolute values), what the cell with most of it has.
    """

    value: NDArray[np.float64]
    error: NDArray[np.float64]
    on_mesh: NDArray[np.float64]
    points: int
    largest_share: float


class _Cells(NamedTuple):
    """M cells, C components.

    Attributes:
        middle: (M, 3), fractional.
        width: (M, 3), fractional; 0 along axes that are not cut.
        share: (M,), of the zone.
        value: (M, C), at the middle.
        error: (M, C), of share times value.
    """

    middle: NDArray[np.float64]
    width: NDArray[np.float64]
    share: NDArray[np.float64]
    value: NDArray[np.float64]
    error: NDArray[np.float64]

    @property
    def total(self) -> NDArray[np.float64]:
        """(C,), the mean over the zone."""
        return np.asarray(self.share @ self.value)

    def part(self, chosen: NDArray[np.bool_]) -> _Cells:
        """Some of the cells."""
        return _Cells(*(numbers[chosen] for numbers in self))

    def largest_share(self) -> float:
        """See :class:`ZoneMean`."""
        sizes = self.share * np.abs(self.value).max(axis=1)
        return float(sizes.max() / max(sizes.sum(), 1e-300))


def _mesh_cells(whole: NDArray[np.float64], points: NDArray[np.float64]) -> _Cells:
    """The cells of a mesh: ``whole`` (mesh, C), ``points`` (K, 3)."""
    mesh = np.array(whole.shape[:-1])
    bend = np.zeros(whole.shape)
    for axis in np.flatnonzero(mesh > 1):
        bend += np.roll(whole, 1, axis) + np.roll(whole, -1, axis) - 2 * whole
    count = len(points)
    # the midpoint rule is off by a 24th of it where the mesh resolves the function
    error = np.abs(bend).reshape(count, -1) / 8 / count
    width = np.tile(np.where(mesh > 1, 1 / mesh, 0.0), (count, 1))
    return _Cells(points, width, np.full(count, 1 / count), whole.reshape(count, -1), error)


def _half_meshes(whole: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """(C,), how far the means over every other point are from that over all; None for odd meshes.

    A mesh twice as dense is much nearer to the truth than they are to it.
    """
    axes = [axis for axis, count in enumerate(whole.shape[:-1]) if count > 1]
    if not axes or any(whole.shape[axis] % 2 for axis in axes):
        return None
    means = []
    for starts in itertools.product((0, 1), repeat=len(axes)):
        part = [slice(None)] * (whole.ndim - 1)
        for axis, start in zip(axes, starts, strict=True):
            part[axis] = slice(start, None, 2)
        means.append(whole[tuple(part)].mean(axis=(0, 1, 2)))
    return np.abs(np.array(means) - whole.mean(axis=(0, 1, 2))).max(axis=0)


def _cut(
    cells: _Cells,
    chosen: NDArray[np.int64],
    function: Callable[[NDArray[np.float64]], NDArray[np.float64]],
) -> _Cells:
    """The cells with some of them cut into three along each axis."""
    keep = np.ones(len(cells.share), dtype=bool)
    keep[chosen] = False
    made = [cells.part(keep)]
    for i in chosen:
        axes = np.flatnonzero(cells.width[i])
        steps = np.zeros((3 ** len(axes), 3))
        steps[:, axes] = list(itertools.product((-1, 0, 1), repeat=len(axes)))
        places = cells.middle[i] + steps * cells.width[i] / 3
        parts = np.array(
            [
                function(k) if step.any() else cells.value[i]
                for k, step in zip(places, steps, strict=True)
            ]
        )
        mean = parts.mean(axis=0)
        apart = np.abs(parts - mean)
        # an eighth of the change is left where the cell is resolved now
        left = cells.share[i] * np.abs(mean - cells.value[i]) / 2
        count = len(places)
        made.append(
            _Cells(
                places,
                np.tile(cells.width[i] / 3, (count, 1)),
                np.full(count, cells.share[i] / count),
                parts,
                left * apart / np.maximum(apart.sum(axis=0), 1e-300),
            )
        )
    return _Cells(*map(np.concatenate, zip(*made, strict=True)))


def zone_mean(
    function: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    mesh: Sequence[int],
    floor: float,
    progress: Callable[[int, int], None] | None = None,
) -> ZoneMean:
    """Mean over a Γ-centred mesh, refined with at most as many k-points again.

    Args:
        function: k (3,), fractional, to (C,).
        mesh: k-points along each axis.
        floor: an error that is small enough, whatever the mean is.
        progress: called with (done, all); all grows where cells are cut.

    Raises:
        DataError: a value is not finite; the k-point is named.
    """
    points = mesh_points((mesh[0], mesh[1], mesh[2]), False)[0]
    solved = 0

    def counted(k: NDArray[np.float64]) -> NDArray[np.float64]:
        """``function(k)``, which must be finite."""
        nonlocal solved
        solved += 1
        if progress is not None:
            progress(solved, max(len(points), solved))
        value = function(k)
        if not np.isfinite(value).all():
            raise DataError(
                f"k = {np.round(k, 4).tolist()}: a curvature that is no number; are H, S and r of "
                "one calculation?"
            )
        return value

    whole = np.array([counted(k) for k in points]).reshape(*mesh, -1)
    cells = _mesh_cells(whole, points)
    on_mesh, half = cells.total, _half_meshes(whole)
    if half is not None and half.max() <= max(_TOLERANCE * np.abs(on_mesh).max(), floor):
        return ZoneMean(on_mesh, half, on_mesh, solved, cells.largest_share())
    each = 3 ** int((np.array(mesh) > 1).sum()) - 1  # new points of a cell
    while each:
        error = cells.error.sum(axis=0).max()
        if error <= max(_TOLERANCE * np.abs(cells.total).max(), floor):
            break
        worst = cells.error.max(axis=1)
        chosen = np.flatnonzero(worst >= _BATCH * worst.max())
        room = (2 * len(points) - solved) // each
        if not room:
            break
        chosen = chosen[np.argsort(-worst[chosen], kind="stable")[:room]]
        cells = _cut(cells, chosen, counted)
    error, share = cells.error.sum(axis=0), cells.largest_share()
    if half is not None and half.max() < error.max():  # smooth: meshes converge exponentially
        return ZoneMean(on_mesh, half, on_mesh, solved, share)
    return ZoneMean(cells.total, error, on_mesh, solved, share)
