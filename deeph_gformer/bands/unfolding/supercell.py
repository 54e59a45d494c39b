"""Which primitive cell and which of its sites each atom of a supercell belongs to.

The supercell may be displaced, strained and turned against the primitive cell. A = M a holds for
the lattice vectors (rows) with an integer M, once a is strained and turned along; M is searched in
the metric, and of several (the two senses of a twist, for instance) the one that fits the atoms is
taken.
"""

from __future__ import annotations

import dataclasses
import itertools
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...errors import ConfigError
from ...io import Structure
from ..bravais import strain_between

__all__ = [
    "Cell",
    "PrimitiveMap",
    "cell_height",
    "map_onto",
    "repeating_axes",
    "split_frame",
    "split_layers",
]

MOST_STRAIN = 0.06
"""Largest strain between a primitive cell and the one that a supercell repeats."""
_SEARCHED_STRAIN = 0.3
"""Strain up to which an error message looks for what was meant."""
MOST_DISPLACEMENT = 0.24
"""Largest displacement of an atom from its site, in shortest distances between atoms; beyond it is
another site."""
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


class Frame(NamedTuple):
    """Positions relative to some periodic vectors: fractions (n, d), and the rest (n, 3) in Å."""

    fractions: Array
    rest: Array


def split_frame(vectors: Array, positions: Array, period: float = 0.0) -> Frame:
    """Split positions; for two vectors the rest is the height along their normal, unwrapped.

    Args:
        vectors: (d, 3), rows, Å.
        positions: (n, 3), Å.
        period: of the height, Å, for a slab that lies across the cell boundary.
    """
    inverse = np.linalg.pinv(vectors)
    fractions = positions @ inverse
    rest = positions - fractions @ vectors
    if len(vectors) == 2:
        normal = np.cross(*vectors)
        height = rest @ normal / np.linalg.norm(normal)
        rest = np.zeros_like(rest)
        rest[:, 2] = _unwrapped(height, period)
    return Frame(fractions, rest)


def _unwrapped(height: Array, period: float) -> Array:
    """Heights moved by whole periods so that the widest gap lies outside of the slab."""
    if period <= 0:
        return height
    folded = height % period
    order = np.sort(folded)
    gaps = np.diff(np.append(order, order[0] + period))
    start = order[(int(np.argmax(gaps)) + 1) % len(order)]
    return (folded - start + 1e-9) % period


def repeating_axes(periodic: tuple[bool, bool, bool]) -> list[int]:
    """Numbers of the lattice vectors along which a structure repeats.

    Raises:
        ConfigError: there is none.
    """
    axes = [axis for axis in range(3) if periodic[axis]]
    if not axes:
        raise ConfigError("the structure is periodic in no direction: there is nothing to unfold")
    return axes


def cell_height(lattice: Array, axes: list[int]) -> float:
    """Height of the cell over two periodic vectors, Å."""
    if len(axes) != 2:
        return 0.0
    normal = np.cross(*lattice[axes])
    other = next(axis for axis in range(3) if axis not in axes)
    return float(abs(lattice[other] @ normal) / np.linalg.norm(normal))


def _matrices(
    large: Array, small: Array, count: int, most_strain: float = MOST_STRAIN
) -> list[Index]:
    """Integer M (d, d) with large = M small, up to a strain and a rotation; the unturned one first.

    Args:
        large: (d, 3), vectors of the supercell.
        small: (d, 3), of the primitive cell.
        count: |det M|.
        most_strain: largest strain accepted.
    """
    direct = np.round(large @ np.linalg.pinv(small)).astype(np.int64)
    metric, wanted = small @ small.T, large @ large.T

    def fits(matrix: Index) -> bool:
        if round(abs(np.linalg.det(matrix))) != count:
            return False
        return strain_between(wanted, matrix @ metric @ matrix.T) <= most_strain

    found = [direct] if fits(direct) else []
    lengths = np.sqrt(np.diag(wanted))
    # n.v is at most |n| times the longest dual vector
    reach = np.ceil(lengths.max() * (1 + most_strain) * np.sqrt(np.diag(np.linalg.inv(metric))))
    ranges = [np.arange(-r, r + 1, dtype=np.int64) for r in reach]
    every = np.stack(np.meshgrid(*ranges, indexing="ij"), axis=-1).reshape(-1, len(small))
    norms = np.sqrt(np.einsum("ni,ij,nj->n", every, metric, every))
    rows = [every[np.abs(norms - length) <= most_strain * length] for length in lengths]
    for choice in itertools.product(*rows):
        matrix = np.array(choice)
        if not np.array_equal(matrix, direct) and fits(matrix):
            found.append(matrix)
    return found


def _how_far(large: Array, small: Array, count: int) -> str:
    """By how much the nearest integer multiple of a lattice misses another, in words."""
    rows = _matrices(large, small, count, _SEARCHED_STRAIN)
    if not rows:
        return f"none comes within a strain of {_SEARCHED_STRAIN:.0%}"
    metric, wanted = small @ small.T, large @ large.T
    strains = [strain_between(wanted, m @ metric @ m.T) for m in rows]
    best = rows[int(np.argmin(strains))]
    lengths = np.linalg.norm(best @ small, axis=1)
    off = np.abs(lengths - np.linalg.norm(large, axis=1)).max()
    return (
        f"the nearest, {best.tolist()}, has vectors of {' and '.join(f'{v:.2f}' for v in lengths)} "
        f"Å, off by up to {off:.2f} Å (strain {min(strains):.0%}, at most {MOST_STRAIN:.0%} is "
        "looked through)"
    )


@dataclasses.dataclass(frozen=True)
class _Fit:
    """Sites and cells of atoms, the shift that fits best, and the largest distance that is left."""

    sites: Index
    cells: Index
    shift: Array
    rest_shift: Array
    distance: float
    one_to_one: bool


def _fit(
    vectors: Array, atoms: Frame, numbers: Index, sites: Frame, kinds: Index, matrix: Index
) -> _Fit | None:
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
    best: _Fit | None = None
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
) -> tuple[_Fit, Array, Array]:
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
    fit = _Fit(site, cell, shift, rest_shift, float(distance[rows, site].max()), complete)
    return fit, off[rows, site].mean(axis=0), rest[rows, site].mean(axis=0)


def _shortest_distance(structure: Structure, axes: list[int], atoms: Index) -> float:
    """Between some atoms and their images, Å."""
    from scipy.spatial import cKDTree

    lattice = structure.lattice[axes]
    fractions = structure.positions[atoms] @ np.linalg.pinv(lattice)
    home = structure.positions[atoms] - np.floor(fractions) @ lattice
    steps = np.array(list(itertools.product((-1, 0, 1), repeat=len(axes))))
    every = (home[:, None] + (steps @ lattice)[None]).reshape(-1, 3)
    return float(cKDTree(every).query(home, k=2)[0][:, 1].min())


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
    best: tuple[_Fit, Index, Array] | None = None
    for matrix in _matrices(large, small, count):
        vectors = np.linalg.solve(matrix.astype(float), large)
        placed = split_frame(
            vectors, structure.positions[atoms], cell_height(structure.lattice, axes)
        )
        fit = _fit(vectors, placed, numbers, sites, primitive.numbers, matrix)
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
            f"cells: {_how_far(large, small, count)}{layers}"
        )
    fit, matrix, vectors = best
    if not fit.one_to_one:
        raise ConfigError(
            f"{name}: '{structure.name}' is none of its supercells: atoms are up to "
            f"{fit.distance:.2f} Å from its sites, and some sites get two"
        )
    limit = MOST_DISPLACEMENT * _shortest_distance(structure, axes, atoms)
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
    fit: _Fit,
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


def split_layers(
    structure: Structure, periodic: tuple[bool, bool, bool], count: int
) -> list[Index]:
    """Atoms of each layer of a slab, the lowest first: cut at the widest gaps between heights.

    Raises:
        ConfigError: the structure is no slab, or has fewer atoms than layers.
    """
    axes = repeating_axes(periodic)
    if len(axes) != 2 or count > len(structure):
        raise ConfigError(
            f"{count} layers are asked (one for each primitive cell): they need a slab, and "
            f"'{structure.name}' repeats in {len(axes)} directions with {len(structure)} atoms"
        )
    frame = split_frame(
        structure.lattice[axes], structure.positions, cell_height(structure.lattice, axes)
    )
    height = frame.rest[:, 2] * np.sign(
        np.cross(*structure.lattice[axes]) @ structure.lattice[3 - sum(axes)]
    )
    order = np.argsort(height, kind="stable")
    gaps = np.diff(height[order])
    cuts = np.sort(np.argsort(-gaps, kind="stable")[: count - 1]) + 1
    return [np.sort(part) for part in np.split(order, cuts)]
