"""Integer matrices M with A = M a: how a lattice can be a supercell of another one."""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray

from ..bravais import strain_between

__all__ = ["lattice_multiples", "nearest_multiple"]

#: Largest strain between a primitive cell and the one that a supercell repeats.
MOST_STRAIN = 0.06
#: Strain up to which an error message looks for what was meant.
_SEARCHED_STRAIN = 0.3
Index = NDArray[np.int64]
Array = NDArray[np.float64]


def lattice_multiples(
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


def nearest_multiple(large: Array, small: Array, count: int) -> str:
    """By how much the nearest integer multiple of a lattice misses another, in words."""
    rows = lattice_multiples(large, small, count, _SEARCHED_STRAIN)
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
