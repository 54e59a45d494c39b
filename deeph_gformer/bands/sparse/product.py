"""Products of large matrices and a few vectors: sparse ones on several threads (SciPy's own use
one), adjoints without a copy."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

__all__ = ["RowParts", "adjoint_product", "in_single", "single_of", "thread_count"]


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


class RowParts:
    """A CSR matrix as ranges of rows with equally many numbers, one for each thread.

    ``parts @ x`` is the product. Nothing is copied.

    Attributes:
        shape: (n, m).
    """

    def __init__(self, matrix: sp.csr_matrix, threads: int | None = None) -> None:
        """Args: ``matrix`` (n, m). threads: default :func:`thread_count`."""
        self.shape = matrix.shape
        count = max(1, threads or thread_count())
        cuts = np.searchsorted(matrix.indptr, np.linspace(0, matrix.nnz, count + 1)[1:-1])
        self._cuts = [0, *cuts.tolist(), matrix.shape[0]]
        self._parts = []
        for first, last in zip(self._cuts[:-1], self._cuts[1:], strict=True):
            start, stop = matrix.indptr[first], matrix.indptr[last]
            indptr = matrix.indptr[first : last + 1] - start
            self._parts.append(
                sp.csr_matrix(
                    (matrix.data[start:stop], matrix.indices[start:stop], indptr),
                    shape=(last - first, self.shape[1]),
                )
            )

    def __matmul__(self, x: NDArray[np.number]) -> NDArray[np.number]:
        x = np.ascontiguousarray(x)
        if len(self._parts) == 1:
            return np.asarray(self._parts[0] @ x)
        with ThreadPoolExecutor(len(self._parts)) as pool:
            return np.concatenate(list(pool.map(lambda part: part @ x, self._parts)))
