"""The zero of energy: μ = <H,S>/<S,S>, and H without μS.

H and H + μS are the same physics; <A,B> is the sum over all elements of conj(A) B.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from ..io.blocks import BlockMatrix, match_keys

__all__ = [
    "aligned",
    "common_blocks",
    "gauge_products",
    "gauge_shift",
    "spin_double",
    "subtract_overlap",
]


def gauge_products(
    hamiltonian: BlockMatrix, overlap: BlockMatrix, spinful: bool
) -> tuple[float, float]:
    """<S,H> (its real part) and <S,S> over all blocks of S.

    Args:
        hamiltonian: H; blocks are spin-doubled where ``spinful``.
        overlap: S, spinless; it is spin-doubled on the fly.
        spinful: whether H has spin.

    Raises:
        DataError: H lacks blocks of S.
    """
    index = match_keys(overlap.keys, hamiltonian.keys)
    if (index < 0).any():
        raise DataError("the gauge needs H on every block of S; hamiltonians.h5 lacks some")
    total = 0.0
    h = hamiltonian.select(index)
    if not spinful:
        total = float(np.vdot(overlap.values, h.values).real)
    else:
        for (_, s_block), (_, h_block) in zip(overlap, h, strict=True):
            n, m = s_block.shape
            total += float(np.sum(s_block * (h_block[:n, :m].real + h_block[n:, m:].real)))
    return total, float(np.vdot(overlap.values, overlap.values)) * (2 if spinful else 1)


def gauge_shift(hamiltonian: BlockMatrix, overlap: BlockMatrix, spinful: bool) -> float:
    """μ = <H,S>/<S,S>, eV, over all blocks of S; 0 where S has none.

    Args:
        hamiltonian: H.
        overlap: S, spinless.
        spinful: whether H has spin.

    Raises:
        DataError: H lacks blocks of S.
    """
    total, norm = gauge_products(hamiltonian, overlap, spinful)
    return total / norm if norm else 0.0


def spin_double(overlap: BlockMatrix) -> BlockMatrix:
    """S as kron(1, S): each block [[s, 0], [0, s]].

    Args:
        overlap: spinless S.
    """

    def double(array: NDArray[np.number]) -> NDArray[np.number]:
        """(E, r, c) on both spins: (E, 2r, 2c)."""
        zero = np.zeros_like(array)
        return np.concatenate(
            [np.concatenate([array, zero], axis=2), np.concatenate([zero, array], axis=2)], axis=1
        )

    shapes = overlap.shapes * 2
    blank = BlockMatrix(
        overlap.keys, shapes, np.zeros(int(shapes.prod(axis=1).sum()), dtype=overlap.values.dtype)
    )
    return blank.with_groups((index, double(array)) for index, array in overlap.groups())


def subtract_overlap(hamiltonian: BlockMatrix, overlap: BlockMatrix, shift: float) -> BlockMatrix:
    """H - μS, in double precision; blocks that S lacks keep their value.

    Args:
        hamiltonian: H.
        overlap: S, spin-doubled where H is.
        shift: μ, eV.
    """
    values = hamiltonian.values.astype(np.result_type(hamiltonian.values.dtype, np.float64))
    index = match_keys(overlap.keys, hamiltonian.keys)
    have = np.flatnonzero(index >= 0)
    sizes = np.diff(overlap.offsets)[have]
    inside = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    ours = np.repeat(hamiltonian.offsets[index[have]], sizes) + inside
    values[ours] -= shift * overlap.values[np.repeat(overlap.offsets[have], sizes) + inside]
    return BlockMatrix(hamiltonian.keys, hamiltonian.shapes, values)


def common_blocks(overlap: BlockMatrix, *matrices: BlockMatrix) -> BlockMatrix:
    """The blocks of S that all these have.

    Args:
        overlap: S.
        matrices: Hamiltonians.
    """
    there = np.logical_and.reduce([match_keys(overlap.keys, m.keys) >= 0 for m in matrices])
    return overlap.select(np.flatnonzero(there))


def aligned(
    matrix: BlockMatrix, truth: BlockMatrix, overlap: BlockMatrix, spinful: bool
) -> BlockMatrix:
    """A prediction with the μ of DFT instead of its own, so that only physics differs.

    Args:
        matrix: predicted H.
        truth: DFT's H.
        overlap: S, spinless; blocks that one of the two lacks are left out of μ.
        spinful: whether H has spin.
    """
    common = common_blocks(overlap, matrix, truth)
    shift = gauge_shift(matrix, common, spinful) - gauge_shift(truth, common, spinful)
    return subtract_overlap(matrix, spin_double(common) if spinful else common, shift)
