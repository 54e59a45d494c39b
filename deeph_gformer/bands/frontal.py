"""A multifrontal block LDL† factorisation of Hermitian matrices in an atomic-orbital basis, with the inertia for free.

Why our own: SuperLU knows neither Hermitian symmetry nor a good ordering for such matrices, and MUMPS (where it is installed) factorises
complex Hermitian matrices as general ones, without their inertia. Atoms are ordered by nested dissection of the atom graph with their positions
(A. George, SIAM J. Numer. Anal. 10, 345 (1973)); the fronts (I. S. Duff, J. K. Reid, ACM TOMS 9, 302 (1983)) are dense and large, so that all work is
LAPACK's Bunch-Kaufman and BLAS-3. Pivoting stays inside a chunk of a front; the caller checks residuals. The negative eigenvalues of the pivots are counted:
by Sylvester's law of inertia their number is that of the eigenvalues of H c = E S c below sigma, for A = H - sigma S.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import scipy.linalg
import scipy.sparse as sp
from numpy.typing import NDArray

__all__ = ["dissect", "FrontalFactor", "Separator"]

_LEAF_ATOMS = 24
_PANEL = 512
_CHUNK = 512
"""Pivot rows eliminated together: Bunch-Kaufman within, BLAS-3 between. LAPACK's sytrf on whole fronts would be the slowest part."""


@dataclasses.dataclass(frozen=True)
class Separator:
    """A node of the elimination tree: its own atoms are eliminated after those of its children."""

    atoms: NDArray[np.int64]
    children: tuple[Separator, ...]


def _split(atoms: NDArray[np.int64], points: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Halves along the longest axis of the points."""
    spread = points[atoms] - points[atoms].mean(axis=0)
    axis = np.linalg.svd(spread, full_matrices=False)[2][0]
    order = np.argsort(spread @ axis, kind="stable")
    half = len(atoms) // 2
    return atoms[order[:half]], atoms[order[half:]]


def dissect(graph: sp.csr_matrix, points: NDArray[np.float64], atoms: NDArray[np.int64] | None = None) -> Separator:
    """Nested dissection: halves of the atoms along their longest extent, with the smaller of the two boundary layers as separator.

    Args:
        graph: (N, N), non-zero where two atoms couple (any cell). points: (N, d), positions on which distance means coupling; for a periodic cell
            points on circles (see :func:`periodic_points`). atoms: which to order; default all.

    Returns:
        The root of the elimination tree.
    """
    atoms = np.arange(len(points)) if atoms is None else atoms
    if len(atoms) <= _LEAF_ATOMS:
        return Separator(atoms, ())
    left, right = _split(atoms, points)
    side = np.zeros(graph.shape[0], dtype=np.int8)
    side[left], side[right] = 1, 2

    def boundary(part: NDArray[np.int64], other: int) -> NDArray[np.bool_]:
        rows = graph[part]
        touches = np.zeros(len(part), dtype=bool)
        hit = side[rows.indices] == other
        touches[np.repeat(np.arange(len(part)), np.diff(rows.indptr))[hit]] = True
        return touches

    on_left, on_right = boundary(left, 2), boundary(right, 1)
    if on_left.sum() <= on_right.sum():
        separator, left = left[on_left], left[~on_left]
    else:
        separator, right = right[on_right], right[~on_right]
    children = tuple(dissect(graph, points, part) for part in (left, right) if len(part))
    if not len(children) or len(separator) > 0.8 * len(atoms):
        return Separator(atoms, ())
    return Separator(separator, children)


def periodic_points(positions: NDArray[np.float64], lattice: NDArray[np.float64], periodic: tuple[bool, bool, bool]) -> NDArray[np.float64]:
    """Positions with each periodic direction wound on a circle of the cell's length, so that a plane cuts the torus into two real halves.

    Args:
        positions: (N, 3), Å. lattice: (3, 3), rows.

    Returns:
        (N, 3 to 6), Å.
    """
    fractional = positions @ np.linalg.inv(lattice)
    columns = []
    for axis in range(3):
        length = float(np.linalg.norm(lattice[axis]))
        if periodic[axis]:
            angle = 2 * np.pi * fractional[:, axis]
            columns += [length / (2 * np.pi) * np.cos(angle), length / (2 * np.pi) * np.sin(angle)]
        else:
            columns.append(length * fractional[:, axis])
    return np.stack(columns, axis=1)


def _negative_pivots(factor: NDArray[np.number], pivots: NDArray[np.int32]) -> int:
    """Negative eigenvalues of D of LAPACK's lower Bunch-Kaufman factor (1x1 and 2x2 blocks; a 2x2 block has one of each sign)."""
    single = pivots > 0
    return int((factor.diagonal().real[single] < 0).sum()) + int((~single).sum()) // 2


class _Pivot:
    """Bunch-Kaufman factor of one pivot block, solved with BLAS-3."""

    def __init__(self, block: NDArray[np.number]) -> None:
        n = len(block)
        complex_ = np.iscomplexobj(block)
        trf, lwork, conv = scipy.linalg.get_lapack_funcs(
            ("hetrf" if complex_ else "sytrf", ("hetrf" if complex_ else "sytrf") + "_lwork", "syconv"), (block,)
        )
        work = int(np.real(lwork(n, lower=1)[0]))
        factor, pivots, info = trf(block, lower=1, lwork=max(work, 1), overwrite_a=1)
        if info > 0:
            factor[info - 1, info - 1] = np.finfo(float).eps * max(1.0, float(np.abs(factor).max()))
        self.negative = _negative_pivots(factor, pivots)
        factor, off, info = conv(factor, pivots, lower=1, way=0, overwrite_a=1)
        self.factor, self.off = factor, off
        self.diagonal = factor.diagonal().real.copy()
        order = np.arange(n)
        i = 0
        while i < n:  # the row interchanges of sytrs2, as one permutation
            if pivots[i] > 0:
                j = pivots[i] - 1
                order[[i, j]] = order[[j, i]]
                i += 1
            else:
                j = -pivots[i] - 1
                order[[i + 1, j]] = order[[j, i + 1]]
                i += 2
        self.order = order
        self.double = np.flatnonzero(pivots < 0)[::2]

    def solve(self, b: NDArray[np.number]) -> NDArray[np.number]:
        """A^-1 b for b (n, m)."""
        trsm = scipy.linalg.get_blas_funcs("trsm", (self.factor, b))
        x = np.asfortranarray(b[self.order])
        x = trsm(1.0, self.factor, x, side=0, lower=1, trans_a=0, diag=1, overwrite_b=1)
        first = self.double
        single = np.ones(len(x), dtype=bool)
        single[first] = single[first + 1] = False
        top, bottom = x[first].copy(), x[first + 1].copy()
        x[single] /= self.diagonal[single, None]
        if len(first):
            c = self.off[first][:, None]  # element (i + 1, i) of D
            a, d = self.diagonal[first][:, None], self.diagonal[first + 1][:, None]
            det = a * d - (c * np.conj(c)).real
            x[first] = (d * top - np.conj(c) * bottom) / det
            x[first + 1] = (a * bottom - c * top) / det
        x = trsm(1.0, self.factor, x, side=0, lower=1, trans_a=2 if np.iscomplexobj(self.factor) else 1, diag=1, overwrite_b=1)
        result = np.empty_like(x)
        result[self.order] = x
        return result


def _subtract_hermitian(c: NDArray[np.number], a: NDArray[np.number], x: NDArray[np.number]) -> None:
    """c -= a x in place, where the product (m, m) is Hermitian: panel by panel below the diagonal, then mirrored; half the work of a full product."""
    m = len(c)
    for start in range(0, m, _PANEL):
        stop = min(start + _PANEL, m)
        c[start:, start:stop] -= a[start:] @ x[:, start:stop]
        corner = np.tril(c[start:stop, start:stop], -1)
        c[start:stop, start:stop] = corner + corner.conj().T + np.diag(c[start:stop, start:stop].diagonal().real)
        c[start:stop, stop:] = c[stop:, start:stop].conj().T


class _Front:
    """One factorised chunk: pivot rows, the rows left after it, A11's factor and X = A11^-1 A12."""

    def __init__(self, rows: NDArray[np.int64], boundary: NDArray[np.int64], pivot: _Pivot, x: NDArray[np.number]) -> None:
        self.rows, self.boundary, self.pivot, self.x = rows, boundary, pivot, x


class FrontalFactor:
    """A = L D L† of a Hermitian (real symmetric) CSR matrix along an elimination tree of atoms.

    Attributes:
        negative: number of negative eigenvalues of A (Sylvester). entries: stored numbers.
    """

    def __init__(self, matrix: sp.csr_matrix, tree: Separator, offsets: NDArray[np.int64]) -> None:
        """Factorise.

        Args:
            matrix: (n, n) Hermitian. tree: of :func:`dissect`. offsets: (N + 1,), first row of each atom.
        """
        self.n = matrix.shape[0]
        self.negative, self.entries = 0, 0
        self._fronts: list[_Front] = []
        self._offsets = offsets
        self._matrix = matrix
        self._position = np.full(self.n, -1, dtype=np.int64)  # scratch: row -> place in the front at work
        self._done = np.zeros(self.n, dtype=bool)
        self.dtype = matrix.dtype
        self._eliminate(tree)
        del self._matrix, self._position, self._done

    def _rows(self, atoms: NDArray[np.int64]) -> NDArray[np.int64]:
        atoms = np.sort(atoms)
        lengths = self._offsets[atoms + 1] - self._offsets[atoms]
        return np.repeat(self._offsets[atoms] - np.cumsum(lengths) + lengths, lengths) + np.arange(int(lengths.sum()))

    def _eliminate(self, node: Separator) -> tuple[NDArray[np.int64], NDArray[np.number]]:
        """Eliminate a subtree; returns its boundary rows and their Schur complement."""
        updates = [self._eliminate(child) for child in node.children]
        rows = self._rows(node.atoms)
        part = self._matrix[rows]
        columns = [part.indices[~self._done[part.indices]]] + [boundary for boundary, _ in updates]
        self._done[rows] = True
        boundary = np.unique(np.concatenate(columns))
        boundary = boundary[~self._done[boundary]]
        p, total = len(rows), len(rows) + len(boundary)
        front = np.concatenate([rows, boundary])
        self._position[front] = np.arange(total)
        f = np.zeros((total, total), dtype=self.dtype, order="F")
        place = self._position[part.indices]
        line = np.repeat(np.arange(p), np.diff(part.indptr))
        inside = place >= 0
        f[line[inside], place[inside]] = part.data[inside]
        outside = place >= p
        f[place[outside], line[outside]] = part.data[outside].conj()
        while updates:
            child_rows, schur = updates.pop()
            where = self._position[child_rows]
            for start in range(0, len(where), _PANEL):  # by columns, as Fortran order likes it
                f[where[:, None], where[None, start : start + _PANEL]] += schur[:, start : start + _PANEL]
            del schur
        self._position[front] = -1
        for start in range(0, p, _CHUNK):
            stop = min(start + _CHUNK, p)
            pivot = _Pivot(np.array(f[start:stop, start:stop], order="F"))
            x = pivot.solve(f[stop:, start:stop].conj().T)
            if stop < total:
                _subtract_hermitian(f[stop:, stop:], f[stop:, start:stop], x)
            self.negative += pivot.negative
            self.entries += (stop - start) * (total - start)
            self._fronts.append(_Front(front[start:stop], front[stop:], pivot, x))
        return boundary, np.array(f[p:, p:], order="F")

    def solve(self, b: NDArray[np.number]) -> NDArray[np.number]:
        """A^-1 b for b (n,) or (n, m)."""
        flat = b.ndim == 1
        y = np.array(b.reshape(self.n, -1), dtype=np.result_type(self.dtype, b.dtype), order="C")
        gemm = scipy.linalg.get_blas_funcs("gemm", (y,))
        adjoint = 2 if np.iscomplexobj(y) else 1
        for front in self._fronts:
            if len(front.boundary):
                y[front.boundary] -= gemm(1.0, front.x, y[front.rows], trans_a=adjoint)
        for front in reversed(self._fronts):
            z = front.pivot.solve(y[front.rows])
            if len(front.boundary):
                z -= front.x @ y[front.boundary]
            y[front.rows] = z
        return y[:, 0] if flat else y
