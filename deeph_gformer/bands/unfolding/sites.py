"""Which site of a primitive cell each atom of a supercell is nearest to."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
from numpy.typing import NDArray

from ...io import Structure
from .frame import Frame

__all__ = ["SiteFit", "fit_sites", "shortest_distance"]

Index = NDArray[np.int64]
Array = NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class SiteFit:
    """Sites and cells of atoms, the shift that fits best, and the largest distance that is left."""

    sites: Index
    cells: Index
    shift: Array
    rest_shift: Array
    distance: float
    one_to_one: bool


def fit_sites(
    vectors: Array, atoms: Frame, numbers: Index, sites: Frame, kinds: Index, matrix: Index
) -> SiteFit | None:
    """Best assignment of atoms to repeated sites over all shifts that put one atom on a site.

    Args:
        vectors: (d, 3), of the primitive cell as it lies in the supercell.
        atoms: of the supercell, in these vectors.
        numbers: (n,), their elements.
        sites: of the primitive cell.
        kinds: (N,), their elements.
        matrix: (d, d), M.
    """
    rare = min(set(numbers.tolist()), key=lambda z: int((numbers == z).sum()))
    first = int(np.flatnonzero(numbers == rare)[0])
    best: SiteFit | None = None
    for site in np.flatnonzero(kinds == rare):
        shift = atoms.fractions[first] - sites.fractions[site]
        rest = atoms.rest[first] - sites.rest[site]
        for _ in range(3):
            fit, off, rest_off = _assign(vectors, atoms, numbers, sites, kinds, matrix, shift, rest)
            shift, rest = shift + off, rest + rest_off
        better = best is None or (fit.one_to_one, -fit.distance) > (
            best.one_to_one,
            -best.distance + 1e-6,
        )
        if better:
            best = fit
    return best


def _assign(
    vectors: Array,
    atoms: Frame,
    numbers: Index,
    sites: Frame,
    kinds: Index,
    matrix: Index,
    shift: Array,
    rest_shift: Array,
) -> tuple[SiteFit, Array, Array]:
    """The nearest site of each atom, and by how much the shift misses on average."""
    apart = atoms.fractions[:, None] - shift - sites.fractions[None]  # (n, N, d)
    cells = np.round(apart)
    off = apart - cells
    rest = atoms.rest[:, None] - rest_shift - sites.rest[None]
    distance = np.linalg.norm(off @ vectors, axis=-1) ** 2 + (rest**2).sum(axis=-1)
    distance = np.where(numbers[:, None] == kinds[None], np.sqrt(distance), np.inf)
    site = distance.argmin(axis=1)
    rows = np.arange(len(site))
    cell = cells[rows, site].astype(np.int64)
    # a cell is known up to supercell vectors: its fraction of them tells it from others
    place = np.round(
        (cell @ np.linalg.inv(matrix)) % 1.0 * round(abs(np.linalg.det(matrix)))
    ).astype(int)
    count = round(abs(np.linalg.det(matrix)))
    distinct = np.unique(np.column_stack([site, place % count]), axis=0)
    complete = len(distinct) == len(site) == count * len(kinds)
    fit = SiteFit(site, cell, shift, rest_shift, float(distance[rows, site].max()), complete)
    return fit, off[rows, site].mean(axis=0), rest[rows, site].mean(axis=0)


def shortest_distance(structure: Structure, axes: list[int], atoms: Index) -> float:
    """Between some atoms and their images, Å."""
    from scipy.spatial import cKDTree

    lattice = structure.lattice[axes]
    fractions = structure.positions[atoms] @ np.linalg.pinv(lattice)
    home = structure.positions[atoms] - np.floor(fractions) @ lattice
    steps = np.array(list(itertools.product((-1, 0, 1), repeat=len(axes))))
    every = (home[:, None] + (steps @ lattice)[None]).reshape(-1, 3)
    return float(cKDTree(every).query(home, k=2)[0][:, 1].min())
