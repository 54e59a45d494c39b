"""Factorisations of H(k) - sigma S(k) at many k: what k does not change is eliminated once.

In a cell that is large against the couplings, k enters only where couplings cross a boundary of the
cell, up to a phase per atom. Some atoms X (the fewest that every crossing coupling meets, D.
König's theorem) part the cell from its images. Without them all others, I, are a piece of a crystal
that does not repeat: A_II is the same at every k, and real without spin-orbit coupling. It is
factorised once, with each image (x, T) of the atoms X that it meets as a boundary of its own, which
leaves C = -A_BI A_II^-1 A_IB. At a k-point only the Schur complement of X is left:

    S(k) = A_XX(k) + P(k)† C P(k),   P(k)_(x,T),x = exp(2 pi i k.T).
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import ArrayLike, DTypeLike, NDArray

from ...io.blocks import match_keys
from ..bloch import BlochProblem, bloch_phases
from ..cell_sums import BlochSum
from ..memory import Memory, memory_of
from .dissection import Dissection, Plan, Separator, make_plan, minimum_cover
from .frontal import TILE, Done, Elimination, FrontalFactor, Matrix, backward, forward

__all__ = ["CondensedFactor", "condensed", "condensed_cell"]

_PLANES = 12
"""Planes that are tried along each axis."""
FEWEST_KPOINTS = 3
"""For fewer it is not worth it."""
_WORTH = 0.5
"""Of the arithmetic of a factorisation from scratch, that of one k-point up to which condensing
pays."""
Index = NDArray[np.int64]


@dataclasses.dataclass(frozen=True)
class _Cell:
    """A cell cut apart from its images.

    Attributes:
        shift: (N, 3), lattice vectors by which each atom is moved.
        outer: (N,), the atoms X.
        images: (B, 4), the boundary of the others: cell T and atom of X, in ascending order.
        plan: of the others and, as its last front, the boundary.
        offsets: (N + B + 1,), first extended row of each atom and image.
    """

    shift: Index
    outer: NDArray[np.bool_]
    images: Index
    plan: Plan
    offsets: Index


def _couplings(problem: BlochProblem) -> Index:
    """(E, 5), keys of H and S together."""
    return np.unique(np.concatenate([problem.h.keys, problem.s.keys]), axis=0)


def _cut_apart(problem: BlochProblem, keys: Index) -> tuple[Index, NDArray[np.bool_]]:
    """Shifts and X: along each periodic axis the plane whose cover has fewest orbitals."""
    structure, count = problem.structure, len(problem.structure)
    fraction = structure.positions @ np.linalg.inv(structure.lattice)
    sizes = structure.orbital_counts
    shift, outer = np.zeros((count, 3), dtype=np.int64), np.zeros(count, dtype=bool)
    for axis in np.flatnonzero(problem.coupled):
        best = None
        for plane in np.arange(_PLANES) / _PLANES:
            moved = -np.floor(fraction[:, axis] - plane).astype(np.int64)
            cells = keys[:, axis] + moved[keys[:, 4]] - moved[keys[:, 3]]
            crossing = (cells > 0) & ~outer[keys[:, 3]] & ~outer[keys[:, 4]]
            graph = sp.csr_matrix(
                (np.ones(crossing.sum(), dtype=np.int8), (keys[crossing, 3], keys[crossing, 4])),
                shape=(count, count),
            )
            rows, columns = minimum_cover(graph)
            cover = rows | columns
            if best is None or sizes[cover].sum() < best[0]:
                best = sizes[cover].sum(), moved, cover
        if best is not None:
            shift[:, axis] = best[1]
            outer |= best[2]
    return shift, outer


def condensed_cell(problem: BlochProblem, scratch: float) -> _Cell | None:
    """How a cell is cut apart from its images; None where a k-point would gain little.

    Args:
        problem: the Hamiltonian.
        scratch: multiply-adds of a factorisation from scratch.
    """
    keys = _couplings(problem)
    shift, outer = _cut_apart(problem, keys)
    sizes = problem.structure.orbital_counts * problem.spin
    if not outer.any() or outer.all() or float(sizes[outer].sum()) ** 3 / 3 > _WORTH * scratch:
        return None
    i, j = keys[:, 3], keys[:, 4]
    cells = keys[:, :3] + shift[j] - shift[i]
    inside, across = ~outer[i] & ~outer[j], ~outer[i] & outer[j]
    images, number = np.unique(
        np.concatenate([cells[across], j[across, None]], axis=1), axis=0, return_inverse=True
    )
    count = len(outer)
    pairs = np.concatenate(
        [
            np.stack([i[inside], j[inside]]),
            np.stack([i[across], count + number.reshape(-1)]),
            np.stack([count + number.reshape(-1), i[across]]),
        ],
        axis=1,
    )
    graph = sp.coo_matrix(
        (np.ones(pairs.shape[1], dtype=np.int8), (pairs[0], pairs[1])),
        shape=(count + len(images),) * 2,
    ).tocsr()
    lattice = problem.structure.lattice
    moved = problem.structure.positions + shift @ lattice
    positions = np.concatenate([moved, moved[images[:, 3]] + images[:, :3] @ lattice])
    tree = Dissection(graph, positions, lattice).run(np.flatnonzero(~outer), ())
    offsets = np.cumsum(np.concatenate([[0], sizes, sizes[images[:, 3]]]))
    root = Separator(count + np.arange(len(images)), (tree,))
    return _Cell(shift, outer, images, make_plan(root, graph, offsets), offsets)


class _Inside(FrontalFactor):
    """The factor of A_II. The last front of its plan is left as it stands.

    Attributes:
        complement: (l + b, l + b), C, with l variables that were handed on before the boundary.
        late: (l,), rows of those.
    """

    complement: Matrix
    late: Index

    def _eliminate(
        self,
        matrix: sp.csr_matrix,
        front: Any,
        position: NDArray[np.int32],
        buffer: Matrix,
        updates: list[tuple[Index, Matrix]],
    ) -> tuple[Index, Matrix]:
        if front is not self._plan.fronts[-1]:
            return super()._eliminate(matrix, front, position, buffer, updates)
        f, rows, p = self._assemble(matrix, front, position, updates)
        lower = np.tril(f[:p, :p])
        self.complement = lower + np.tril(lower, -1).conj().T
        self.late = rows[: p - len(front.rows)]
        return rows[:0], f[:0, :0]


def _inner_matrix(
    problem: BlochProblem, cell: _Cell, sigma: float, dtype: np.dtype
) -> sp.csr_matrix:
    """Rows of A_II and A_IB, extended."""
    h, s = problem._sums
    if np.array_equal(h.indices, s.indices) and np.array_equal(h.terms.indices, s.terms.indices):
        return _extended(problem, cell, h, (h.terms.data - sigma * s.terms.data).astype(dtype))
    parts = (_extended(problem, cell, m, m.terms.data) for m in (h, s))
    return (next(parts) - sigma * next(parts)).astype(dtype).tocsr()


def _extended(
    problem: BlochProblem, cell: _Cell, sums: BlochSum, data: NDArray[np.number]
) -> sp.csr_matrix:
    """Rows of the atoms I; columns of atoms X stand for their images.

    Args:
        problem: gives the atoms.
        cell: how it was cut.
        sums: where each number stands, and of which cell it is.
        data: (terms,), the numbers.
    """
    row = np.repeat(np.arange(sums.n, dtype=np.int32), np.diff(sums.indptr))
    of_term = np.repeat(np.arange(len(row), dtype=np.int32), np.diff(sums.terms.indptr))
    atom = problem.atom_of_orbital
    chosen = np.flatnonzero(~cell.outer[atom[row[of_term]]])
    of_term = of_term[chosen]
    row, column = row[of_term], sums.indices[of_term].astype(np.int64)
    first, second = atom[row], atom[column]
    across = np.flatnonzero(cell.outer[second])
    apart = sums.cells[sums.terms.indices[chosen[across]]]
    apart = apart + cell.shift[second[across]] - cell.shift[first[across]]
    number = match_keys(_keys(apart, second[across]), _keys(cell.images[:, :3], cell.images[:, 3]))
    orbital = column[across] - cell.offsets[second[across]]
    column[across] = cell.offsets[len(cell.outer) + number] + orbital
    size = int(cell.offsets[-1])
    indptr = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=size))])
    return sp.csr_matrix((data[chosen], column, indptr), shape=(size, size))


def _keys(cells: Index, atoms: Index) -> Index:
    """(B, 5), images (T, atom) as :func:`~deeph_gformer.io.blocks.match_keys` wants them."""
    return np.column_stack([cells, atoms, np.zeros_like(atoms)])


class CondensedFactor:
    """H(k) - sigma S(k), factorised from what was eliminated before.

    Attributes:
        negative: number of negative eigenvalues.
        dtype: in which it was factorised.
        delayed: how many pivots were handed on.
    """

    def __init__(
        self,
        matrix: sp.csr_matrix,
        problem: BlochProblem,
        cell: _Cell,
        inside: _Inside,
        k: ArrayLike,
        dtype: DTypeLike,
        memory: Memory,
    ) -> None:
        """Factorise the rest.

        Args:
            matrix: (n, n) CSR, H(k) - sigma S(k).
            problem: gives the atoms.
            cell: how it was cut.
            inside: factor of the atoms that k does not change.
            k: (3,), fractional.
            dtype: of the rest.
            memory: used as long as this factor lives, where nobody else uses it.
        """
        self.n, self.dtype, self._inside = matrix.shape[0], np.dtype(dtype), inside
        self._gauge = bloch_phases(cell.shift, k)[problem.atom_of_orbital].astype(self.dtype)
        self._outer = np.flatnonzero(cell.outer[problem.atom_of_orbital])
        late, x = len(inside.late), len(self._outer)
        place = np.full(self.n, -1, dtype=np.int64)
        place[self._outer] = late + np.arange(x)
        count = len(cell.outer)
        boundary = np.arange(cell.offsets[count], cell.offsets[-1])
        image = np.repeat(np.arange(len(cell.images)), np.diff(cell.offsets[count:]))
        own = place[cell.offsets[cell.images[image, 3]] + boundary - cell.offsets[count + image]]
        turn = bloch_phases(cell.images[:, :3], k)[image].astype(self.dtype)
        _, group = np.unique(cell.images[image, :3], axis=0, return_inverse=True)
        ends = np.searchsorted(group.reshape(-1), np.arange(group.max() + 2))
        self._groups = [
            (slice(boundary[a], boundary[b - 1] + 1), own[a:b], turn[a])
            for a, b in zip(ends[:-1], ends[1:], strict=True)
        ]
        self._late = inside.late
        total = late + x
        size = total + total // 8 + 8
        if not memory.lend_to(self):
            memory = Memory()
        f = memory.array("front", size * size, self.dtype).reshape(size, size)
        f[:total] = 0
        gauge = self._gauge[self._outer]
        part = matrix[self._outer][:, self._outer].tocoo()
        f[late + part.row, late + part.col] = gauge[part.row].conj() * part.data * gauge[part.col]
        start = int(cell.offsets[count]) - late  # place in C of a boundary row
        c = inside.complement
        f[:late, :late] += c[:late, :late]
        for rows, to, phase in self._groups:
            rows = slice(rows.start - start, rows.stop - start)
            f[to, :late] += phase.conj() * c[rows, :late]
            for others, at, other in self._groups:
                columns = slice(others.start - start, others.stop - start)
                f[to[:, None], at] += (phase.conj() * other) * c[rows, columns]
        work = Elimination(f, total, np.empty(TILE[0] * TILE[1], dtype=self.dtype))
        work.eliminate(0, total)
        p = total
        while p < work.total:
            begin, p = p, work.total
            work.subtract(slice(0, begin), slice(begin, p))
            work.eliminate(begin, p)
        self._root = Done(np.arange(p), f[:p, :p], tuple(work.chunks))
        self.negative = inside.negative + work.negative
        self.delayed = inside.delayed + p - total

    def solve(self, b: Matrix) -> Matrix:
        """A^-1 b for b (n,) or (n, m); computed in the factor's precision, returned in b's."""
        columns = b.reshape(self.n, -1)
        kind = np.result_type(self.dtype, np.complex64 if np.iscomplexobj(b) else self.dtype)
        inside, late = self._inside, len(self._late)
        y = np.zeros((inside.n + inside.delayed, columns.shape[1]), dtype=kind)
        y[: self.n] = self._gauge.conj()[:, None] * columns
        numbers = y.view(inside.dtype) if inside.dtype.kind == "f" else y
        for front in inside.fronts:
            forward(front, numbers)
        z = np.zeros((len(self._root.rows), columns.shape[1]), dtype=kind)
        z[:late] = y[self._late]
        z[late : late + len(self._outer)] = y[self._outer]
        for rows, to, phase in self._groups:
            z[to] += phase.conj() * y[rows]
        forward(self._root, z)
        backward(self._root, z)
        y[self._late] = z[:late]
        y[self._outer] = z[late : late + len(self._outer)]
        for rows, to, phase in self._groups:
            y[rows] = phase * z[to]
        for front in reversed(inside.fronts):
            backward(front, numbers)
        found = self._gauge[:, None] * y[: self.n]
        return found.reshape(b.shape).astype(np.result_type(self.dtype, b.dtype), copy=False)


def condensed(
    problem: BlochProblem, sigma: float, scratch: float, dtype: np.dtype
) -> tuple[_Cell, _Inside] | None:
    """What every k-point shares, kept as long as :func:`~..memory.kept_memory` is in force.

    Args:
        problem: the Hamiltonian.
        sigma: eV.
        scratch: multiply-adds of a factorisation from scratch.
        dtype: of the factorisation at a general k-point.

    Returns:
        None where it does not pay: few k-points, or a cell that is small against the couplings.
    """
    kept = memory_of(problem)
    if kept.kpoints < FEWEST_KPOINTS:
        return None
    if "cell" not in kept.shared:
        kept.shared["cell"] = condensed_cell(problem, scratch)
    cell: _Cell | None = kept.shared["cell"]
    if cell is None:
        return None
    if not np.iscomplexobj(problem.h.values):
        dtype = np.finfo(dtype).dtype
    if kept.shared.get("of") != (sigma, dtype):
        kept.shared.pop("inside", None)
        inside = _Inside(_inner_matrix(problem, cell, sigma, dtype), cell.plan, dtype)
        kept.shared.update(of=(sigma, dtype), inside=inside)
    return cell, kept.shared["inside"]
