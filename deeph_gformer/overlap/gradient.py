"""∂S/∂r of two-centre overlaps, analytically.

With r the vector of an edge, d its length and u = r / d: along u the radial functions change,
across u the whole block turns, so with J the generators of rotations

    ∂S/∂r = u Dᵀ B'(d) D + (1/d) Σ_a (J_a^i S - S J_a^j) (u × e)_a
"""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray

from ..io.blocks import BlockMatrix, match_keys, onsite_keys, reverse_keys, sort_keys
from ..io.structure import Structure
from .rotation import block_rotation, bond_rotation, harmonics, sample_points
from .twocentre import PairTable, Shells, TwoCentre, bond_functions, leading

__all__ = ["block_generators", "overlap_gradient", "shell_generators"]

_CHUNK = 1_000  # blocks at a time
#: Weights of f(t), t = -2 .. 2, in f'(0): exact for polynomials up to degree 4.
_STENCIL = ((-2, 1 / 12), (-1, -8 / 12), (1, 8 / 12), (2, -1 / 12))


@functools.cache
def shell_generators(l: int) -> NDArray[np.float64]:
    """J_a with D(1 + ω×) = 1 + Σ_a ω_a J_a, a = x, y, z; (3, 2l+1, 2l+1), legacy order."""
    points, inverse = sample_points(l)
    result = []
    for axis in np.eye(3):
        speed = np.cross(axis, points)
        slope = sum(weight * harmonics(l, points + t * speed) for t, weight in _STENCIL)
        result.append(np.asarray(slope).T @ inverse)
    return np.stack(result)


def block_generators(shells: Shells) -> NDArray[np.float64]:
    """:func:`shell_generators` of all orbitals of an atom, block-diagonal, (3, n, n)."""
    size = sum(2 * l + 1 for l in shells)
    result = np.zeros((3, size, size))
    start = 0
    for l in shells:
        stop = start + 2 * l + 1
        result[:, start:stop, start:stop] = shell_generators(l)
        start = stop
    return result


def overlap_gradient(
    table: TwoCentre, structure: Structure, keys: NDArray[np.int64]
) -> tuple[BlockMatrix, BlockMatrix, BlockMatrix]:
    """How S changes with the vector r_j + R - r_i of each edge.

    Args:
        table: the radial functions.
        structure: gives positions, elements and shells.
        keys: (E, 5), any order.

    Returns:
        Derivatives by x, y and z, 1/Å, orbitals in the legacy order; zero for an atom with itself.

    Raises:
        DataError: unknown element or shells.
    """
    table.check(structure)
    keys = np.asarray(keys, dtype=np.int64).reshape(-1, 5)
    keys = keys[sort_keys(keys)]
    itself = onsite_keys(keys)
    forward = leading(structure, keys)
    computed = np.unique(
        np.where(forward[:, None], keys, reverse_keys(keys))[~itself], axis=0
    ).reshape(-1, 5)
    place = match_keys(np.where(forward[:, None], keys, reverse_keys(keys)), computed)
    shapes = structure.orbital_counts[keys[:, 3:]]
    offsets = np.concatenate([[0], np.cumsum(shapes.prod(axis=1))])
    values = np.zeros((3, offsets[-1]))
    numbers, vectors = structure.numbers[computed[:, 3:]], structure.edge_vectors(computed)
    for (a, b), pair in table.pairs.items():
        mine = np.flatnonzero((numbers == (a, b)).all(axis=1))
        shells = tuple(table.orbital_types[a]), tuple(table.orbital_types[b])
        for start in range(0, len(mine), _CHUNK):
            part = mine[start : start + _CHUNK]
            slope = _pair_gradient(pair, shells, vectors[part])  # (n, 3, rows, columns)
            where = np.full(len(computed), -1)
            where[part] = np.arange(len(part))
            here = np.where(place >= 0, where[place], -1)
            for edges, transposed in ((forward, False), (~forward, True)):
                rows = np.flatnonzero(edges & (here >= 0) & ~itself)
                if not len(rows):
                    continue
                block = slope[here[rows]]
                if transposed:
                    block = -np.swapaxes(block, 2, 3)
                index = offsets[rows][:, None] + np.arange(block[0, 0].size)
                values[:, index] = np.swapaxes(block.reshape(len(rows), 3, -1), 0, 1)
    x, y, z = (BlockMatrix(keys, shapes, component) for component in values)
    return x, y, z


def _pair_gradient(
    table: PairTable, shells: tuple[Shells, Shells], vectors: NDArray[np.float64]
) -> NDArray[np.float64]:
    """(n, 3, rows, columns), ∂S/∂r of one pair of elements, edges (n, 3) in Å."""
    _, rows, columns, which = bond_functions(*shells)
    sizes = [sum(2 * l + 1 for l in s) for s in shells]
    distance = np.linalg.norm(vectors, axis=1)
    unit = vectors / distance[:, None]
    turn = bond_rotation(vectors)
    left, right = (block_rotation(s, turn) for s in shells)
    blocks = []
    for functions in (table(distance), table.slope(distance)):
        bond = np.zeros((len(vectors), *sizes))
        bond[:, rows, columns] = functions[:, which]
        blocks.append(np.swapaxes(left, 1, 2) @ bond @ right)
    value, radial = blocks
    if table.report.get("cut_hard"):
        value[distance >= table.cutoff] = radial[distance >= table.cutoff] = 0.0
    turned = np.stack(
        [
            j_left @ value - value @ j_right
            for j_left, j_right in zip(*map(block_generators, shells), strict=True)
        ],
        axis=1,
    )  # by a rotation about each axis
    # a displacement e_b turns the edge by ω = u × e_b / d
    omega = np.cross(unit[:, None], np.eye(3)[None]) / distance[:, None, None]  # (n, b, a)
    across = np.einsum("nba,naij->nbij", omega, turned, optimize=True)
    return unit[:, :, None, None] * radial[:, None] + across
