"""A multifrontal block LDL† factorisation of Hermitian matrices in an atomic-orbital basis, with
the inertia for free.

Why our own: SuperLU knows neither Hermitian symmetry nor a good ordering for such matrices, and
MUMPS (where it is installed) factorises complex Hermitian matrices as general ones, without their
inertia. The order is that of :mod:`~.dissection`; the fronts (I. S. Duff, J. K. Reid, ACM TOMS 9,
302 (1983)) are dense and large, so that nearly all work is matrix products. Within a front the
pivot columns are halved recursively, which makes the products square; a front's upper triangle
holds X = A11^-1 A12 while its lower one holds A21, so nothing is copied.

Pivots are the eigenvalues of the diagonal block of a chunk of rows. An eigenvector whose eigenvalue
is small against its coupling to the other rows (a state of this piece of the crystal that happens
to lie at sigma) is not eliminated but handed on as a variable of its own, to the parent front:
delayed pivoting, which keeps the growth of numbers, and so the rounding errors, small. The negative
pivots are counted: by Sylvester's law of inertia their number is that of the eigenvalues of H c = E
S c below sigma, for A = H - sigma S.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import DTypeLike, NDArray

from ..memory import Memory
from .dissection import Front, Plan
from .product import adjoint_product

__all__ = ["TILE", "Done", "Elimination", "FrontalFactor", "Matrix", "backward", "forward"]

_CHUNK = 128
"""Pivot rows eliminated together."""
TILE = 1024, 512
"""Rows and columns of one matrix product; its result stays in cache until it is subtracted."""
_GROWTH = 10.0
"""An eigenvector is delayed where its coupling to other rows is larger than this many times its
eigenvalue."""
_RUN = 512
"""Longest run of rows that is added to a parent front at once.

Of a waiting triangle so much beyond its diagonal is kept.
"""
_DOUBTFUL = 32
"""Eigenvectors of a chunk, the smallest eigenvalues first, that are examined."""

Matrix = NDArray[Any]
"""Of any precision, real or complex, which NumPy's annotations cannot say of sums."""


@dataclasses.dataclass(frozen=True)
class _Chunk:
    """Rows start to stop of a front.

    Attributes:
        inverse: (c, c), of the diagonal block on the span of the accepted eigenvectors.
        delayed: (c, r), the other eigenvectors; they are rows ``first`` to first + r of the front.
    """

    start: int
    stop: int
    inverse: Matrix
    delayed: Matrix
    first: int


class Elimination:
    """Elimination within one front: (t, t) with spare rows at the end, lower triangle given.

    The buffer serves one front after the other.
    """

    def __init__(self, f: Matrix, total: int, buffer: Matrix) -> None:
        self.f, self.total, self._buffer = f, total, buffer
        self.chunks: list[_Chunk] = []
        self.negative = 0

    def subtract(self, pivots: slice, columns: slice) -> None:
        """f[j:, j] -= A21 X for the columns j, lower triangle only: A21 = f[:, pivots], X =
        f[pivots, columns]."""
        f, total = self.f, self.total
        for start in range(columns.start, columns.stop, TILE[1]):
            stop = min(start + TILE[1], columns.stop)
            right = f[pivots, start:stop]
            for row in range(start, total, TILE[0]):
                end = min(row + TILE[0], total)
                product = self._buffer[: (end - row) * (stop - start)].reshape(
                    end - row, stop - start
                )
                np.matmul(f[row:end, pivots], right, out=product)
                f[row:end, start:stop] -= product

    def eliminate(self, start: int, stop: int) -> None:
        """Eliminate rows start to stop, halving them until they are a chunk."""
        count = -(-(stop - start) // _CHUNK)
        if count > 1:
            middle = start + count // 2 * _CHUNK
            self.eliminate(start, middle)
            self.subtract(slice(start, middle), slice(middle, stop))
            self.eliminate(middle, stop)
        elif count == 1:
            self._eliminate_chunk(start, stop)

    def _eliminate_chunk(self, start: int, stop: int) -> None:
        f, old = self.f, self.total
        block = np.tril(f[start:stop, start:stop]).astype(np.result_type(f.dtype, np.float64))
        block += np.tril(block, -1).conj().T
        values, vectors = np.linalg.eigh(block)
        below = f[stop:old, start:stop]
        delay = np.zeros(len(values), dtype=bool)
        if stop < old:
            doubtful = np.argsort(np.abs(values))[:_DOUBTFUL]
            coupling = np.linalg.norm(below @ vectors[:, doubtful].astype(f.dtype), axis=0)
            doubtful = doubtful[coupling > _GROWTH * np.abs(values[doubtful])]
            delay[doubtful[: len(f) - old]] = True
        floor = np.finfo(f.dtype).eps * max(float(np.abs(values).max()), 1e-10)
        kept = np.where(np.abs(values) < floor, floor, values)[~delay]
        good, bad = vectors[:, ~delay], vectors[:, delay].astype(f.dtype)
        inverse = ((good / kept) @ good.conj().T).astype(f.dtype)
        self.negative += int((kept < 0).sum())
        self.chunks.append(_Chunk(start, stop, inverse, bad, old))
        if stop < old:
            np.matmul(inverse, below.conj().T, out=f[start:stop, stop:old])
        if bad.shape[1]:
            self.total = old + bad.shape[1]
            f[: self.total, old : self.total] = 0
            f[old : self.total] = 0
            f[old : self.total, stop:old] = (below @ bad).conj().T
            f[np.arange(old, self.total), np.arange(old, self.total)] = values[delay]


def _runs(places: NDArray[np.integer], longest: int) -> list[tuple[int, int, int]]:
    """Consecutive numbers in a rising list: (first index, last index + 1, first number)."""
    breaks = np.flatnonzero(np.diff(places) != 1) + 1
    result = []
    ends = [0, *breaks.tolist(), len(places)]
    for first, last in zip(ends[:-1], ends[1:], strict=True):
        result += [(i, min(i + longest, last), int(places[i])) for i in range(first, last, longest)]
    return result


def _extend_add(f: Matrix, places: NDArray[np.integer], schur: Matrix) -> None:
    """f[places, places] += schur, lower triangles; places rise, mostly in long runs."""
    runs = _runs(places, _RUN)
    for i, (first, last, row) in enumerate(runs):
        for start, stop, column in runs[: i + 1]:
            f[row : row + last - first, column : column + stop - start] += schur[
                first:last, start:stop
            ]


class _Space:
    """Finished fronts from the bottom and waiting triangles from the top of one piece of memory.

    It is used again and again: fresh memory is slower than the copies.
    """

    def __init__(self, memory: Matrix) -> None:
        self._memory, self._bottom, self._top = memory, 0, len(memory)

    def keep(self, matrix: Matrix) -> Matrix:
        """A copy of ``matrix`` that stays, beside the memory when that is full."""
        if self._bottom + matrix.size > self._top:
            return matrix.copy()
        kept = self._memory[self._bottom : self._bottom + matrix.size].reshape(matrix.shape)
        self._bottom += matrix.size
        kept[:] = matrix
        return kept

    def wait(self, triangle: Matrix) -> Matrix:
        """A copy of a lower triangle, and of what is near its diagonal, until :meth:`take`."""
        if self._bottom + triangle.size > self._top:
            return triangle.copy()
        kept = self._memory[self._top - triangle.size : self._top].reshape(triangle.shape)
        self._top -= triangle.size
        for start in range(0, len(triangle), _RUN):
            stop = start + _RUN
            kept[start:stop, : stop + _RUN] = triangle[start:stop, : stop + _RUN]
        return kept

    def take(self, triangles: Iterable[Matrix]) -> None:
        """Give the memory of the latest triangles back."""
        self._top += sum(m.size for m in triangles if np.may_share_memory(m, self._memory))


@dataclasses.dataclass(frozen=True)
class Done:
    """An eliminated front: its rows (t,), first those eliminated, then the boundary, then delayed
    ones; upper (p, t) with X; chunks."""

    rows: NDArray[np.int64]
    upper: Matrix
    chunks: tuple[_Chunk, ...]


def forward(front: Done, y: Matrix) -> None:
    """The rows of a front in the forward substitution, in place: L^-1 y."""
    z, x, p = y[front.rows], front.upper, len(front.upper)
    for chunk in front.chunks:
        head = z[chunk.start : chunk.stop]
        if chunk.delayed.shape[1]:
            z[chunk.first : chunk.first + chunk.delayed.shape[1]] = chunk.delayed.conj().T @ head
        if chunk.stop < p:
            z[chunk.stop : p] -= adjoint_product(x[chunk.start : chunk.stop, chunk.stop : p], head)
    if p < len(z):
        z[p:] -= adjoint_product(x[:, p:], z[:p])
    y[front.rows] = z


def backward(front: Done, y: Matrix) -> None:
    """The rows of a front in the backward substitution, in place: L^-† D^-1 y."""
    z, x, p = y[front.rows], front.upper, len(front.upper)
    above = x[:, p:] @ z[p:]
    for chunk in reversed(front.chunks):
        span = slice(chunk.start, chunk.stop)
        head = chunk.inverse @ z[span] - above[span] - x[span, chunk.stop : p] @ z[chunk.stop : p]
        if chunk.delayed.shape[1]:
            head += chunk.delayed @ z[chunk.first : chunk.first + chunk.delayed.shape[1]]
        z[span] = head
    y[front.rows[:p]] = z[:p]


class FrontalFactor:
    """A = L D L† of a Hermitian (real symmetric) CSR matrix along a plan of fronts.

    Attributes:
        negative: number of negative eigenvalues of A (Sylvester).
        entries: stored numbers.
        delayed: how many pivots were handed on.
        fronts: what was eliminated, in this order.
        dtype: in which it was factorised.
    """

    def __init__(
        self,
        matrix: sp.csr_matrix,
        plan: Plan,
        dtype: DTypeLike | None = None,
        memory: Memory | None = None,
    ) -> None:
        """Factorise.

        Args:
            matrix: (n, n) Hermitian, its pattern within the plan's.
            plan: of :func:`~.dissection.make_plan`.
            dtype: default the matrix's; float32 or complex64 halves time and memory.
            memory: used as long as this factor lives, where nobody else uses it.
        """
        self.n, self._plan = matrix.shape[0], plan
        self.dtype = np.dtype(matrix.dtype if dtype is None else dtype)
        self.negative = self.entries = self.delayed = 0
        self.fronts: list[Done] = []
        position = np.full(self.n, -1, dtype=np.int32)  # scratch: row -> place in the front at work
        if memory is None or not memory.lend_to(self):
            memory = Memory()
        self._memory: Matrix = memory.array("front", (plan.largest + 512) ** 2, self.dtype)
        self._space = _Space(memory.array("space", int(1.05 * plan.space), self.dtype))
        buffer: Matrix = np.empty(TILE[0] * TILE[1], dtype=self.dtype)
        waiting: dict[int, tuple[NDArray[np.int64], Matrix]] = {}
        for number, front in enumerate(plan.fronts):
            waiting[number] = self._eliminate(
                matrix, front, position, buffer, [waiting.pop(child) for child in front.children]
            )
        del self._memory, self._space

    def _assemble(
        self,
        matrix: sp.csr_matrix,
        front: Front,
        position: NDArray[np.int32],
        updates: list[tuple[NDArray[np.int64], Matrix]],
    ) -> tuple[Matrix, NDArray[np.int64], int]:
        """The front's matrix with room for delayed rows, its rows, and how many of them are to be
        eliminated: delayed ones of the children first."""
        late = [rows[rows >= self.n] for rows, _ in updates]
        ahead = sum(len(part) for part in late)
        rows = np.concatenate([*late, front.rows, front.boundary])
        p, total = ahead + len(front.rows), len(rows)
        position[rows[ahead:]] = np.arange(ahead, total)
        size = total + p // 4 + 8
        if size * size > len(self._memory):
            self._memory = np.empty(size * size, dtype=self.dtype)
        f = self._memory[: size * size].reshape(size, size)
        f[:total] = 0
        part = matrix[front.rows]
        place = position[part.indices]
        line = np.repeat(np.arange(ahead, p, dtype=np.int32), np.diff(part.indptr))
        lower = place >= line
        spot = place[lower].astype(np.int64)
        spot *= size
        spot += line[lower]
        f.reshape(-1)[spot] = part.data[lower].conj()
        del part, place, line, lower, spot
        first = 0
        for child_rows, schur in updates:
            usual = int((child_rows < self.n).sum())
            places, last = position[child_rows[:usual]], first + len(child_rows) - usual
            _extend_add(f, places, schur[:usual, :usual])
            f[first:last, first:last] += schur[usual:, usual:]
            f[places, first:last] = schur[usual:, :usual].conj().T
            first = last
        self._space.take(schur for _, schur in updates)
        position[rows[ahead:]] = -1
        return f, rows, p

    def _eliminate(
        self,
        matrix: sp.csr_matrix,
        front: Front,
        position: NDArray[np.int32],
        buffer: Matrix,
        updates: list[tuple[NDArray[np.int64], Matrix]],
    ) -> tuple[NDArray[np.int64], Matrix]:
        """Assemble and eliminate one front.

        Returns the rows that it leaves to its parent and their matrix, lower triangle.
        """
        f, rows, p = self._assemble(matrix, front, position, updates)
        work = Elimination(f, len(rows), buffer)
        work.eliminate(0, p)
        while not len(front.boundary) and p < work.total:  # a root has nobody to hand pivots on to
            start, p = p, work.total
            work.subtract(slice(0, start), slice(start, p))
            work.eliminate(start, p)
        work.subtract(slice(0, p), slice(p, work.total))
        new = work.total - len(rows)
        rows = np.concatenate([rows, self.n + self.delayed + np.arange(new)])
        self.delayed += new
        self.negative += work.negative
        self.fronts.append(Done(rows, self._space.keep(f[:p, : work.total]), tuple(work.chunks)))
        self.entries += p * work.total
        return rows[p:], self._space.wait(f[p : work.total, p : work.total])

    def solve(self, b: Matrix) -> Matrix:
        """A^-1 b for b (n,) or (n, m); computed in the factor's precision, returned in b's."""
        if np.iscomplexobj(b) and self.dtype.kind != "c":
            return np.asarray(self.solve(b.real) + 1j * self.solve(b.imag))
        y = np.zeros((self.n + self.delayed, 1 if b.ndim == 1 else b.shape[1]), dtype=self.dtype)
        y[: self.n] = b.reshape(self.n, -1)
        for front in self.fronts:
            forward(front, y)
        for front in reversed(self.fronts):
            backward(front, y)
        return y[: self.n].reshape(b.shape).astype(np.result_type(self.dtype, b.dtype), copy=False)
