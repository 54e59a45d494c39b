"""Which primitive cell and which of its sites each atom of a supercell belongs to.

The supercell may be displaced, strained and turned against the primitive cell. A = M a holds for
the lattice vectors (rows) with an integer M, once a is strained and turned along; M is searched in
the metric, and of several (the two senses of a twist, for instance) the one that fits the atoms is
taken.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...errors import ConfigError
from ...io import Structure
from ..bravais import strain_between
from .frame import Frame, cell_height, repeating_axes, split_frame
from .multiples import lattice_multiples, nearest_multiple
from .sites import SiteFit, fit_sites, shortest_distance

__all__ = ["Cell", "PrimitiveMap", "map_onto"]

#: Largest displacement of an atom from its site, in shortest distances between atoms; beyond it is
#: another site.
MOST_DISPLACEMENT = 0.24
Index = NDArray[np.int64]
Array = NDArray[np.float64]


class Cell(NamedTuple):
    """A primitive cell: lattice (3, 3) rows and positions (N, 3), Å; numbers (N,)."""

    lattice: Array
    positions: Array
    numbers: Index


@dataclasses.dataclass(frozen=True)
class PrimitiveMap:
    """Supercell atoms as repeated sites of a primitive cell.

    Attributes:
        cell: the primitive cell, strained and turned into the supercell; aperiodic vectors are the
            supercell's.
        matrix: (3, 3) integers M, rows of the supercell = M rows of ``cell.lattice``.
        atoms: (n,), which atoms of the supercell.
        sites: (n,), site of each.
        cells: (n, 3), primitive cell of each, integers.
        displacement_A: largest distance of an atom from its site.
        strain: largest relative change of a length of the given primitive cell.
    """

    cell: Cell
    matrix: Index
    atoms: Index
    sites: Index
    cells: Index
    displacement_A: float
    strain: float

    @property
    def count(self) -> int:
        """Primitive cells in the supercell."""
        return int(round(abs(np.linalg.det(self.matrix))))


def map_onto(
    structure: Structure,
    periodic: tuple[bool, bool, bool],
    primitive: Cell,
    name: str,
    atoms: Index | None = None,
) -> PrimitiveMap:
    """Map a supercell, or some of its atoms, onto a primitive cell.

    Args:
        structure: the supercell.
        periodic: along which of its vectors it repeats.
        primitive: repeats along the same numbers of vectors; may be turned and strained by 6 %.
        name: of the primitive cell, for messages.
        atoms: (n,), which atoms; default all.

    Raises:
        ConfigError: it is no supercell; the message says by how much.
    """
    axes = repeating_axes(periodic)
    atoms = np.arange(len(structure)) if atoms is None else atoms
    numbers = structure.numbers[atoms]
    count, left = divmod(len(atoms), len(primitive.numbers))
    here = dict(zip(*np.unique(numbers, return_counts=True), strict=True))
    there = dict(zip(*np.unique(primitive.numbers, return_counts=True), strict=True))
    if left or not count or here != {z: n * count for z, n in there.items()}:
        raise ConfigError(
            f"{name}: {len(atoms)} atoms of '{structure.name}' are no multiple of its "
            f"{len(primitive.numbers)}, element by element"
        )
    large, small = structure.lattice[axes], primitive.lattice[axes]
    sites = split_frame(small, primitive.positions, cell_height(primitive.lattice, axes))
    best: tuple[SiteFit, Index, Array] | None = None
    for matrix in lattice_multiples(large, small, count):
        vectors = np.linalg.solve(matrix.astype(float), large)
        placed = split_frame(
            vectors, structure.positions[atoms], cell_height(structure.lattice, axes)
        )
        fit = fit_sites(vectors, placed, numbers, sites, primitive.numbers, matrix)
        if fit is not None and (
            best is None
            or (fit.one_to_one, -fit.distance) > (best[0].one_to_one, -best[0].distance + 1e-6)
        ):
            best = fit, matrix, vectors
        if best is not None and best[0].one_to_one and best[0].distance < 1e-3:
            break
    if best is None:
        layers = (
            "; of a slab whose layers are turned against each other, unfold each: --unfold once "
            "for each layer, from below"
            if len(axes) == 2 and len(atoms) == len(structure)
            else ""
        )
        raise ConfigError(
            f"{name}: the lattice of '{structure.name}' is none of its supercells with {count} "
            f"cells: {nearest_multiple(large, small, count)}{layers}"
        )
    fit, matrix, vectors = best
    if not fit.one_to_one:
        raise ConfigError(
            f"{name}: '{structure.name}' is none of its supercells: atoms are up to "
            f"{fit.distance:.2f} Å from its sites, and some sites get two"
        )
    limit = MOST_DISPLACEMENT * shortest_distance(structure, axes, atoms)
    if fit.distance > limit:
        raise ConfigError(
            f"{name}: '{structure.name}' is none of its supercells: atoms are up to "
            f"{fit.distance:.2f} Å from its sites, more than {limit:.2f} Å "
            f"({MOST_DISPLACEMENT:g} of the shortest distance between atoms)"
        )
    return _as_map(structure, axes, atoms, primitive, sites, fit, matrix, vectors)


def _as_map(
    structure: Structure,
    axes: list[int],
    atoms: Index,
    primitive: Cell,
    sites: Frame,
    fit: SiteFit,
    matrix: Index,
    vectors: Array,
) -> PrimitiveMap:
    """The fit in three dimensions."""
    lattice, whole = structure.lattice.copy(), np.eye(3, dtype=np.int64)
    lattice[axes] = vectors
    whole[np.ix_(axes, axes)] = matrix
    cells = np.zeros((len(atoms), 3), dtype=np.int64)
    cells[:, axes] = fit.cells
    positions = np.zeros((len(primitive.numbers), 3))
    for site in range(len(positions)):  # where the supercell has it: the mean of its atoms
        mine = fit.sites == site
        positions[site] = (structure.positions[atoms[mine]] - cells[mine] @ lattice).mean(axis=0)
    metric, own = vectors @ vectors.T, primitive.lattice[axes] @ primitive.lattice[axes].T
    return PrimitiveMap(
        Cell(lattice, positions, primitive.numbers),
        whole,
        atoms,
        fit.sites,
        cells,
        fit.distance,
        strain_between(own, metric),
    )
