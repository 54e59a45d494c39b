"""Linear interpolation of bands on a periodic mesh, in d = 1, 2 or 3 directions."""

from __future__ import annotations

import itertools
import math

import numpy as np
from numpy.typing import NDArray

from .kmesh import MeshSpectrum

__all__ = ["corner_shares", "mesh_simplices", "simplex_fraction", "states_below"]

_AT_ONCE = 2**20
"""Pairs of a simplex and an energy."""


def mesh_simplices(spectrum: MeshSpectrum) -> NDArray[np.int64]:
    """Corners of the simplices that fill a periodic mesh (Kuhn's triangulation: d! simplices a cell
    about its shortest diagonal, as Blöchl et al.).

    Args:
        spectrum: bands on the mesh.

    Returns:
        (number, d + 1), which of its k-points; d = number of directions with more than one point.
    """
    full = spectrum.full
    axes = [a for a in range(3) if full.shape[a] > 1]
    if not axes:
        return full.reshape(-1, 1)
    steps = (
        np.linalg.pinv(spectrum.lattice[axes]).T / np.array([full.shape[a] for a in axes])[:, None]
    )
    signs = np.array([(1, *rest) for rest in itertools.product((1, -1), repeat=len(axes) - 1)])
    length = np.linalg.norm(signs @ steps, axis=1)
    ahead = dict(
        zip(axes, signs[np.argmin(np.round(length / length.min(), 6))].tolist(), strict=True)
    )
    simplices = []
    for order in itertools.permutations(axes):
        corners, point = [full], full
        for axis in order:
            point = np.roll(point, -ahead[axis], axis=axis)
            corners.append(point)
        simplices.append(np.stack([c.reshape(-1) for c in corners], axis=1))
    return np.concatenate(simplices)


def simplex_fraction(corners: NDArray[np.float64], mu: float) -> NDArray[np.float64]:
    """Fraction of each simplex where a linearly interpolated energy is below mu (Blöchl et al., PRB
    49, 16223 (1994), Eq. A in d = 1, 2, 3).

    Args:
        corners: (d + 1, ...), energies at the corners, ascending along axis 0.
        mu: eV.

    Returns:
        (...), 0 to 1.
    """
    d = len(corners) - 1
    if d == 0:
        return (corners[0] < mu).astype(float)
    e, tiny = corners, 1e-12
    gap = lambda i, j: np.maximum(e[i] - e[j], tiny)  # noqa: E731
    low, high = np.clip(mu - e[0], 0, None), np.clip(e[d] - mu, 0, None)
    first = low**d / math.prod(gap(i, 0) for i in range(1, d + 1))
    last = 1.0 - high**d / math.prod(gap(d, i) for i in range(d))
    if d == 3:
        x = mu - e[1]
        middle = (
            gap(1, 0) ** 2
            + 3 * gap(1, 0) * x
            + 3 * x**2
            - (gap(2, 0) + gap(3, 1)) / (gap(2, 1) * gap(3, 1)) * x**3
        ) / (gap(2, 0) * gap(3, 0))
        result = np.where(mu < e[1], first, np.where(mu < e[2], middle, last))
    else:
        result = np.where(mu < e[1], first, last)
    return np.where(mu <= e[0], 0.0, np.where(mu >= e[d], 1.0, result))


def corner_shares(corners: NDArray[np.float64], mu: NDArray[np.float64]) -> NDArray[np.float64]:
    """What the value at each corner of a simplex counts in the mean of a linear function over the
    part with an energy below mu (Blöchl et al., Appendix B); they add up to
    :func:`simplex_fraction`.

    Args:
        corners: (d + 1, P), energies at the corners, ascending along axis 0, d from 1 to 3.
        mu: (P,), eV, between the first and the last.

    Returns:
        (d + 1, P).
    """
    d = len(corners) - 1
    e, tiny = corners, 1e-12
    low = (mu - e[0]) / np.maximum(e[1:] - e[0], tiny)  # of each edge from the lowest corner
    high = (e[d] - mu) / np.maximum(e[d] - e[:-1], tiny)
    below, above = low.prod(axis=0), high.prod(axis=0)  # simplices at these corners
    first = np.concatenate([[below * (d + 1 - low.sum(axis=0))], below * low])
    last = 1 - np.concatenate([above * high, [above * (d + 1 - high.sum(axis=0))]])
    if d < 3:
        return np.where(mu < e[1], first, last) / (d + 1)
    up = lambda i, j: (mu - e[j]) / np.maximum(e[i] - e[j], tiny)  # noqa: E731
    down = lambda i, j: (e[i] - mu) / np.maximum(e[i] - e[j], tiny)  # noqa: E731
    a = up(3, 0) * up(2, 0)  # three simplices between the middle corners
    b = up(3, 0) * up(2, 1) * down(2, 0)
    c = up(3, 1) * up(2, 1) * down(3, 0)
    middle = np.stack(
        [
            a + (a + b) * down(2, 0) + (a + b + c) * down(3, 0),
            a + b + c + (b + c) * down(2, 1) + c * down(3, 1),
            (a + b) * up(2, 0) + (b + c) * up(2, 1),
            (a + b + c) * up(3, 0) + c * up(3, 1),
        ]
    )
    return np.where(mu < e[1], first, np.where(mu < e[2], middle, last)) / 4


def states_below(
    spectrum: MeshSpectrum, energies: NDArray[np.float64], weights: NDArray[np.float64] | None
) -> NDArray[np.float64]:
    """States per cell and spin below each energy, or their weights.

    Args:
        spectrum: bands on the mesh, of more than one k-point.
        energies: (G,), ascending, eV.
        weights: (K, B), of the states; None: 1.

    Returns:
        (G,).
    """
    simplices = mesh_simplices(spectrum)
    size, d = len(simplices), simplices.shape[1] - 1
    below = np.zeros(len(energies))
    for band, level in enumerate(spectrum.energies.T):
        corners = np.where(np.isfinite(level), level, 1e6)[simplices].T  # (d + 1, size)
        order = np.argsort(corners, axis=0, kind="stable")
        corners = np.take_along_axis(corners, order, axis=0)
        values = np.ones(corners.shape)
        if weights is not None:
            values = np.take_along_axis(weights[simplices, band].T, order, axis=0)
        start = np.searchsorted(energies, corners[0])
        stop = np.searchsorted(energies, corners[d])  # from there on all of it is below
        whole = np.bincount(stop, values.mean(axis=0), len(energies) + 1)[:-1]
        below += np.cumsum(whole) / size
        for part in np.split(np.arange(size), np.flatnonzero(_parts(stop - start))):
            count = (stop - start)[part]
            which = np.repeat(part, count)
            place = np.arange(len(which)) - np.repeat(np.cumsum(count) - count, count)
            place += start[which]
            share = corner_shares(corners[:, which], energies[place])
            part_of = (share * values[:, which]).sum(axis=0)
            below += np.bincount(place, part_of, len(energies)) / size
    return below


def _parts(counts: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Where to cut a list so that each part has at most about :data:`_AT_ONCE` in all."""
    number = np.cumsum(counts) // _AT_ONCE
    return np.diff(number, prepend=0) > 0
