"""Sums over cells, sum_R w(R) M(R), for any weights w, without a loop over blocks.

Every stored number of the result, H_ij[a, b], is a sum over the cells R in which the atom pair (i,
j) has a block. All of them together are one sparse matrix, numbers x cells, times the weights. Its
pattern is worked out once per structure; a k-point then costs one product.
"""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from ..io import BlockMatrix

__all__ = ["BlochSum", "bloch_sums"]

Index = NDArray[np.integer]
_TOGETHER = 1 << 16
"""Numbers of a result that are worked out together."""


@dataclasses.dataclass(frozen=True)
class BlochSum:
    """sum_R w(R) M(R) for any weights.

    Attributes:
        n: rows of the result.
        cells: (C, 3), the cells R that occur.
        indptr: (n + 1,), row pointers of the result.
        indices: (numbers,), columns of the result.
        terms: (numbers, C), what each number of the result has in each cell.
    """

    n: int
    cells: NDArray[np.int64]
    indptr: Index
    indices: Index
    terms: sp.csr_matrix

    def _numbers(self, weights: NDArray[np.number]) -> NDArray[np.number]:
        """(numbers,), the stored numbers of sum_R weights(R) M(R)."""
        terms = self.terms
        if terms.nnz == len(self.indices):  # one cell each, as in every large structure
            numbers = np.empty(terms.nnz, dtype=np.result_type(terms.data, weights))
            for start in range(0, terms.nnz, _TOGETHER):  # no array of all weights
                part = slice(start, start + _TOGETHER)
                np.multiply(terms.data[part], weights[terms.indices[part]], out=numbers[part])
            return numbers
        if np.iscomplexobj(weights) and not np.iscomplexobj(terms.data):
            parts = terms @ np.stack([weights.real, weights.imag], axis=1)  # (numbers, 2)
            return np.ascontiguousarray(parts).view(np.complex128)[:, 0]
        return np.asarray(terms @ weights)

    @functools.cached_property
    def _places(self) -> Index:
        """(numbers,), place of each stored number in a dense result, Fortran order."""
        rows = np.repeat(np.arange(self.n), np.diff(self.indptr))
        return self.indices.astype(np.int64) * self.n + rows

    def csr(self, weights: NDArray[np.number]) -> sp.csr_matrix:
        """(n, n) CSR of sum_R weights(R) M(R); weights (C,), of :attr:`cells`."""
        data = self._numbers(weights)
        result = sp.csr_matrix((data, self.indices, self.indptr), shape=(self.n, self.n))
        result.has_sorted_indices = True
        return result

    def dense(self, weights: NDArray[np.number]) -> NDArray[np.number]:
        """The same as an (n, n) array, Fortran order."""
        data = self._numbers(weights)
        flat = np.zeros(self.n * self.n, dtype=data.dtype)
        flat[self._places] = data
        return flat.reshape((self.n, self.n), order="F")


def _unique_cells(cells: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Distinct rows of (E, 3), and the (E,) number of each row among them.

    By integer codes, which is faster than sorting rows.
    """
    low = cells.min(axis=0)
    x, y, z = (cells - low).T
    _, span_y, span_z = cells.max(axis=0) - low + 1
    code = (x * span_y + y) * span_z + z
    _, index, inverse = np.unique(code, return_index=True, return_inverse=True)
    return cells[index], inverse.reshape(-1)


@dataclasses.dataclass(frozen=True)
class _Pairs:
    """The blocks of a matrix sorted into atom pairs; E blocks, P pairs, N atoms.

    Attributes:
        of_block: (E,), pair of each block.
        image: (E,), number of a block among those of its pair.
        images: (P,), blocks of each pair.
        i: (P,), first atom.
        j: (P,), second atom.
        before: (P,), columns that earlier pairs of the same atom i take in its rows.
        width: (N,), stored columns in each row of an atom.
    """

    of_block: NDArray[np.int64]
    image: NDArray[np.int64]
    images: NDArray[np.int64]
    i: NDArray[np.int64]
    j: NDArray[np.int64]
    before: NDArray[np.int64]
    width: NDArray[np.int64]

    @classmethod
    def of(cls, matrix: BlockMatrix, atoms: int) -> _Pairs:
        """Pairs of a matrix whose keys are in canonical order: blocks of a pair are neighbours."""
        keys = matrix.keys
        new = np.ones(len(keys), dtype=bool)
        new[1:] = (keys[1:, 3:] != keys[:-1, 3:]).any(axis=1)
        start = np.flatnonzero(new)
        of_block = np.cumsum(new) - 1
        i, columns = keys[new, 3], matrix.shapes[new, 1]
        width = np.bincount(i, weights=columns, minlength=atoms).astype(np.int64)
        ahead = np.cumsum(columns) - columns  # columns of all earlier pairs
        return cls(
            of_block,
            np.arange(len(keys)) - start[of_block],
            np.diff(np.append(start, len(keys))),
            i,
            keys[new, 4],
            ahead - (np.cumsum(width) - width)[i],
            width,
        )


def bloch_sums(
    matrices: tuple[BlockMatrix, ...], counts: NDArray[np.int64], spin: int, doubled: bool
) -> list[BlochSum]:
    """The sums of matrices with the same keys and shapes, their pattern worked out once.

    Args:
        matrices: H(R), S(R).
        counts: (N,), orbitals of each atom, spinless.
        spin: factor of the result.
        doubled: expand spinless matrices to kron(1_2, M).

    Returns:
        One for each matrix.
    """
    sizes = counts * spin
    first = np.concatenate([[0], np.cumsum(sizes)])  # (N + 1,), first row of each atom
    pairs = _Pairs.of(matrices[0], len(counts))
    cells, cell = _unique_cells(matrices[0].keys[:, :3])
    single = len(pairs.images) == len(matrices[0])  # one block for each pair

    indptr = np.concatenate([[0], np.cumsum(np.repeat(pairs.width, sizes))]).astype(np.int64)
    copies = spin if doubled else 1
    small = max(indptr[-1], len(matrices[0].values) * copies) < 2**31
    kind = np.int32 if small else np.int64

    # 1. columns of the result, and how many cells each of its numbers is summed over
    indices = np.zeros(indptr[-1], dtype=kind)
    terms = np.ones(indptr[-1] + 1, dtype=kind)  # becomes where the terms of each number start
    terms[0] = 0
    placed = []
    by_shape = zip(*(matrix.groups() for matrix in matrices), strict=True)
    for groups in by_shape:
        block, (rows, columns) = groups[0][0], groups[0][1].shape[1:]
        pair = pairs.of_block[block]
        i, j = pairs.i[pair], pairs.j[pair]
        for copy in range(copies):  # spin up, spin down
            row = (first[i] + copy * counts[i])[:, None] + np.arange(rows)  # (B, rows)
            start = indptr[row] + pairs.before[pair][:, None]
            place = (start[:, :, None] + np.arange(columns)).astype(kind)  # (B, rows, columns)
            column = (first[j] + copy * counts[j]).astype(kind)[:, None, None]
            indices[place] = column + np.arange(columns, dtype=kind)
            if not single:
                terms[1:][place] = pairs.images[pair][:, None, None]
            placed.append((block, place, [array for _, array in groups]))
    np.cumsum(terms, out=terms)

    # 2. the terms themselves: value and cell of each number, image after image
    values = [
        np.empty(terms[-1], dtype=np.result_type(matrix.values.dtype, np.float64))
        for matrix in matrices
    ]
    of_cell = np.empty(terms[-1], dtype=np.int32)
    for block, place, arrays in placed:
        if not single:
            place = terms[place] + pairs.image[block][:, None, None].astype(kind)
        of_cell[place] = cell[block].astype(np.int32)[:, None, None]
        for target, array in zip(values, arrays, strict=True):
            target[place] = array
    n, shape = int(first[-1]), (len(indices), len(cells))
    return [
        BlochSum(
            n,
            cells,
            indptr.astype(kind),
            indices,
            sp.csr_matrix((value, of_cell, terms), shape=shape),
        )
        for value in values
    ]
