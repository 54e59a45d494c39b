"""Products of large matrices and a few vectors: sparse ones by dense panels, adjoints without a
copy."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

__all__ = ["RowParts", "adjoint_product", "in_single", "single_of", "thread_count"]


_FEWEST_ROWS = 3
"""Mean rows of a panel from which panels are worth it."""


def thread_count() -> int:
    """Threads that numerical libraries may use: OMP_NUM_THREADS, else the cores this process may
    run on."""
    asked = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    if asked.isdigit() and int(asked) > 0:
        return int(asked)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def adjoint_product(x: NDArray[Any], y: NDArray[Any]) -> NDArray[Any]:
    """x† y for (n, m) and (n, b): the few columns of y are conjugated, not the large x."""
    return np.asarray((x.T @ y.conj()).conj())


def single_of(dtype: np.dtype) -> np.dtype:
    """The single precision type of real or complex numbers."""
    return np.dtype(np.complex64 if dtype.kind == "c" else np.float32)


def in_single(matrix: sp.csr_matrix) -> sp.csr_matrix:
    """The matrix in single precision; the pattern is shared."""
    data = matrix.data.astype(single_of(matrix.dtype))
    return sp.csr_matrix((data, matrix.indices, matrix.indptr), shape=matrix.shape)


class Panel(NamedTuple):
    """Rows ``first`` to ``last`` - 1, which have their numbers in the same columns (m,): a dense
    (last - first, m) block."""

    first: int
    last: int
    columns: NDArray[np.integer]
    block: NDArray[Any]


def _panels(matrix: sp.csr_matrix) -> list[Panel] | None:
    """A matrix as dense panels, without a copy; None where rows rarely share their columns.

    The orbitals of an atom do. SciPy's product reads a row of the vectors for each number of the
    matrix; that of a panel reads it once for all rows, and is BLAS'.
    """
    indptr, indices = matrix.indptr, matrix.indices
    lengths, found, first = np.diff(indptr), [], 0
    for row in range(1, matrix.shape[0] + 1):
        start, length = indptr[first], lengths[first]
        if row < matrix.shape[0] and lengths[row] == length:
            place = indptr[row]
            if np.array_equal(indices[place : place + length], indices[start : start + length]):
                continue
        block = matrix.data[start : indptr[row]].reshape(row - first, length)
        found.append(Panel(first, row, indices[start : start + length], block))
        first = row
        if row >= 64 and row < _FEWEST_ROWS * len(found):
            return None
    return found if matrix.shape[0] >= _FEWEST_ROWS * len(found) else None


class RowParts:
    """A CSR matrix prepared for products with a few vectors: ``parts @ x``. Nothing is copied.

    Where neighbouring rows share their columns, as those of an atom do, it is dense panels, each
    multiplied by BLAS. Otherwise it is ranges of rows with equally many numbers, one for each
    thread.

    Attributes:
        shape: (n, m).
    """

    def __init__(self, matrix: sp.csr_matrix, threads: int | None = None) -> None:
        """Args: ``matrix`` (n, m). threads: default :func:`thread_count`."""
        self.shape = matrix.shape
        self._dtype = matrix.dtype
        self._panels = _panels(matrix)
        self._parts: list[sp.csr_matrix] = []
        if self._panels is not None:
            return
        count = max(1, threads or thread_count())
        cuts = np.searchsorted(matrix.indptr, np.linspace(0, matrix.nnz, count + 1)[1:-1])
        ends = [0, *cuts.tolist(), matrix.shape[0]]
        for first, last in zip(ends[:-1], ends[1:], strict=True):
            start, stop = matrix.indptr[first], matrix.indptr[last]
            indptr = matrix.indptr[first : last + 1] - start
            self._parts.append(
                sp.csr_matrix(
                    (matrix.data[start:stop], matrix.indices[start:stop], indptr),
                    shape=(last - first, self.shape[1]),
                )
            )

    def __matmul__(self, x: NDArray[Any]) -> NDArray[Any]:
        x = np.ascontiguousarray(x)
        if self._panels is not None and x.ndim == 2:
            result = np.empty((self.shape[0], x.shape[1]), np.result_type(self._dtype, x.dtype))
            for first, last, columns, block in self._panels:
                np.matmul(block, x[columns], out=result[first:last])
            return result
        if self._panels is not None:
            return np.asarray((self @ x[:, None])[:, 0])
        if len(self._parts) == 1:
            return np.asarray(self._parts[0] @ x)
        with ThreadPoolExecutor(len(self._parts)) as pool:
            return np.concatenate(list(pool.map(lambda part: part @ x, self._parts)))
