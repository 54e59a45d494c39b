"""H(R), S(R) -> H(k), S(k): the Bloch sums of DeepH's convention, dense or sparse, without a Python loop over blocks.

``H(k) = sum_R exp(+2 pi i k.R) H(R)``, k in fractional coordinates, no atomic positions in the phase (DeepH-pack, OpenMX).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from typing import Literal

import numpy as np
import scipy.sparse as sp
from numpy.typing import ArrayLike, NDArray

from ..errors import ConfigError, DataError
from ..io import BlockMatrix, Structure
from ..io.blocks import format_key, match_keys
from ..io.gauge import stated_level

__all__ = ["BlochProblem", "identity_overlap", "bloch_phases"]


def bloch_phases(cells: NDArray[np.int64], k: ArrayLike) -> NDArray[np.number]:
    """exp(2 pi i k.R) of each cell; real where k is a time-reversal invariant momentum, so that H(k) of a real H(R) stays real.

    Args:
        cells: (E, 3), R. k: (3,), fractional.

    Returns:
        (E,), float64 or complex128.

    Raises:
        ConfigError: k is something else.
    """
    try:
        point = np.asarray(k, dtype=float)
    except (TypeError, ValueError):
        point = np.empty(0)
    if point.shape != (3,) or not np.isfinite(point).all():
        raise ConfigError(f"k = {k}: write three finite fractional numbers, e.g. (0.5, 0, 0)")
    turns = np.asarray(cells, dtype=float) @ point
    if np.abs(2 * turns - np.round(2 * turns)).max(initial=0.0) < 1e-12:
        return np.where(np.round(2 * turns).astype(np.int64) % 2 == 0, 1.0, -1.0)
    return np.exp(2j * np.pi * turns)


def identity_overlap(structure: Structure) -> BlockMatrix:
    """S of an orthogonal basis: one identity block per atom."""
    atoms = np.arange(len(structure), dtype=np.int64)
    keys = np.zeros((len(structure), 5), dtype=np.int64)
    keys[:, 3] = keys[:, 4] = atoms
    return BlockMatrix.from_blocks(keys, [np.eye(n) for n in structure.orbital_counts])


def _unique_cells(cells: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Distinct rows of (E, 3), and the (E,) number of each row among them; by integer codes, faster than sorting rows."""
    low = cells.min(axis=0)
    span = cells.max(axis=0) - low + 1
    code = (
        ((cells[:, 0] - low[0]) * span[1] + cells[:, 1] - low[1]) * span[2] + cells[:, 2] - low[2]
    )
    _, index, inverse = np.unique(code, return_index=True, return_inverse=True)
    return cells[index], inverse.reshape(-1)


def _bloch_sums(
    matrices: tuple[BlockMatrix, ...], counts: NDArray[np.int64], spin: int, doubled: bool
) -> list[_BlochSum]:
    """The sums of matrices with the same keys and shapes, their pattern worked out once.

    Args:
        matrices: H(R), S(R). counts: (N,), orbitals of each atom, spinless. spin: factor of the result. doubled: expand spinless matrices to kron(I2, M).
    """
    matrix, sizes, copies = matrices[0], counts * spin, (spin if doubled else 1)
    first = np.concatenate([[0], np.cumsum(sizes)])
    keys = matrix.keys
    cells, cell = _unique_cells(keys[:, :3])
    new = np.ones(len(keys), dtype=bool)
    new[1:] = (keys[1:, 3:] != keys[:-1, 3:]).any(
        axis=1
    )  # canonical order: blocks of one atom pair follow each other
    start = np.flatnonzero(new)
    pair = np.cumsum(new) - 1  # (E,) atom pair of each block
    images = np.diff(np.concatenate([start, [len(keys)]]))  # (P,) blocks of each pair
    image = np.arange(len(keys)) - start[pair]  # (E,) number of a block among those of its pair
    i, j = keys[new, 3], keys[new, 4]  # (P,)
    columns = matrix.shapes[new, 1]
    length = np.bincount(i, weights=columns, minlength=len(counts)).astype(np.int64)
    before = (
        np.cumsum(columns) - columns
    )  # (P,) columns of earlier pairs, then of earlier pairs of the same atom i
    before -= np.concatenate([[0], np.cumsum(length)])[i]
    indptr = np.concatenate([[0], np.cumsum(np.repeat(length, sizes))]).astype(np.int64)
    kind = np.int32 if indptr[-1] < 2**31 and len(matrix.values) * copies < 2**31 else np.int64
    indices, terms = np.zeros(indptr[-1], dtype=kind), np.ones(indptr[-1] + 1, dtype=kind)
    terms[0] = 0  # terms: where the terms of each number start
    parts = []
    for groups in zip(*(m.groups() for m in matrices)):
        block, (rows, cols) = groups[0][0], groups[0][1].shape[1:]
        p = pair[block]
        for c in range(copies):
            line = first[i[p]][:, None] + c * counts[i[p]][:, None] + np.arange(rows)  # (E', rows)
            place = ((indptr[line] + before[p][:, None])[:, :, None] + np.arange(cols)).astype(kind)
            indices[place] = (first[j[p]] + c * counts[j[p]])[:, None, None].astype(
                kind
            ) + np.arange(cols, dtype=kind)
            if len(start) < len(keys):
                terms[1:][place] = images[p][:, None, None]
            parts.append((block, place, [array for _, array in groups]))
    np.cumsum(terms, out=terms)
    numbers = [
        np.empty(terms[-1], dtype=np.result_type(m.values.dtype, np.float64)) for m in matrices
    ]
    of_cell = np.empty(terms[-1], dtype=np.int32)
    for block, place, arrays in parts:
        if len(start) < len(keys):
            place = terms[place] + image[block][:, None, None].astype(kind)
        of_cell[place] = cell[block].astype(np.int32)[:, None, None]
        for target, array in zip(numbers, arrays):
            target[place] = array
    shape = (len(indices), len(cells))
    return [
        _BlochSum(
            int(first[-1]),
            cells,
            indptr.astype(kind),
            indices,
            sp.csr_matrix((n, of_cell, terms), shape=shape),
        )
        for n in numbers
    ]


@dataclasses.dataclass(frozen=True)
class _BlochSum:
    """sum_R w(R) M(R) for any weights.

    Every stored number of the result is a sum over cells R, so all of them together are one sparse matrix (numbers x cells) times the weights.

    Attributes:
        n: rows of the result. cells: (C, 3), the cells R that occur. indptr, indices: pattern of the result. terms: (numbers, C).
    """

    n: int
    cells: NDArray[np.int64]
    indptr: NDArray[np.integer]
    indices: NDArray[np.integer]
    terms: sp.csr_matrix

    def csr(self, weights: NDArray[np.number]) -> sp.csr_matrix:
        """(n, n) CSR of sum_R weights(R) M(R); weights (C,), of :attr:`cells`."""
        if self.terms.nnz == len(
            self.indices
        ):  # one cell for each number, as in every large structure
            data = self.terms.data * weights[self.terms.indices]
        elif np.iscomplexobj(weights) and not np.iscomplexobj(self.terms.data):
            data = np.ascontiguousarray(
                self.terms @ np.stack([weights.real, weights.imag], axis=1)
            ).view(np.complex128)[:, 0]
        else:
            data = self.terms @ weights
        result = sp.csr_matrix((data, self.indices, self.indptr), shape=(self.n, self.n))
        result.has_sorted_indices = True
        return result


class BlochProblem:
    """The generalised eigenproblem H(k) c = E S(k) c of one structure.

    Orbitals stand atom after atom in the legacy order; with spin-orbit coupling each atom has its spin-up orbitals, then its
    spin-down orbitals (:attr:`spin_order` sorts them into all up, all down).

    Attributes:
        structure: the crystal.
        h: H(R), eV; blocks (spin n_i, spin n_j). s: S(R), spinless blocks (n_i, n_j).
        spin: 2 with spin-orbit coupling (spinor orbitals, one electron a band), else 1 (two electrons a band).
        label: what the Hamiltonian is ("DFT", "prediction", ...). source: the file it was read from, for messages.
        predicted: whether H comes from a network (then info.json's Fermi level, the DFT's, does not belong to it).
        notes: what was found and done while reading (H-only blocks, projections), one sentence each.
    """

    def __init__(
        self,
        structure: Structure,
        h: BlockMatrix,
        s: BlockMatrix | None = None,
        *,
        label: str = "",
        source: str = "Hamiltonian",
        predicted: bool = False,
        notes: tuple[str, ...] = (),
    ) -> None:
        """Check shapes and keys, and work out the sparsity patterns.

        Args:
            structure: gives the orbitals. h: H(R), eV. s: S(R); None means an orthogonal basis.

        Raises:
            DataError: block shapes do not fit the structure, S is spin-doubled, or no block of H has a counterpart in S.
        """
        self.structure, self.h, self.label, self.source = structure, h, label, source
        self.s = identity_overlap(structure) if s is None else s
        self.predicted, self.notes = predicted, list(notes)
        self.spin = self._spin_factor(h, "H")
        if self._spin_factor(self.s, "S") != 1:
            raise DataError(
                f"{source}: its overlap is spin-doubled (blocks of 2n x 2n); DeepH's overlaps are spinless: keep the upper left n x n of each block"
            )
        self.missing_in_s = np.flatnonzero(match_keys(h.keys, self.s.keys) < 0)
        self.missing_in_h = np.flatnonzero(match_keys(self.s.keys, h.keys) < 0)
        self._report_keys()

    def _spin_factor(self, matrix: BlockMatrix, name: str) -> int:
        if not len(matrix):
            raise DataError(f"{self.source}: {name} holds no block")
        count = len(self.structure)
        if matrix.keys[:, 3:].min() < 0 or matrix.keys[:, 3:].max() >= count:
            raise DataError(
                f"{self.source}: {name} has blocks of atom {matrix.keys[:, 3:].max() + 1}, the structure '{self.structure.name}' has {count} atoms; "
                "they belong to different structures"
            )
        expected = self.structure.orbital_counts[matrix.keys[:, 3:]]
        for factor in (1, 2):
            if (matrix.shapes == factor * expected).all():
                return factor
        factor = 2 if (matrix.shapes[0] == 2 * expected[0]).all() else 1
        wrong = int(np.flatnonzero((matrix.shapes != factor * expected).any(axis=1))[0])
        raise DataError(
            f"{self.source}: block {format_key(matrix.keys[wrong])} of {name} has shape {tuple(matrix.shapes[wrong].tolist())}; the orbitals of its "
            f"atoms ask for {tuple(expected[wrong].tolist())}, or twice that with spin-orbit coupling, the same for all blocks"
        )

    def _report_keys(self) -> None:
        if len(self.missing_in_s) == len(self.h):
            raise DataError(
                f"{self.source}: none of its {len(self.h)} blocks has a counterpart in the overlap; the two files belong to different structures"
            )
        orthogonal = not self.s.keys[:, :3].any() and len(self.s) == len(self.structure)
        if len(self.missing_in_s) and not orthogonal:
            largest = max(
                float(np.abs(self.h.block(int(e))).max(initial=0.0)) for e in self.missing_in_s
            )
            self.notes.append(
                f"{len(self.missing_in_s)} of {len(self.h)} blocks are in H and not in S (first {format_key(self.h.keys[self.missing_in_s[0]])}, "
                f"max |H| {largest * 1e3:.3g} meV): their overlap is taken as zero"
            )
        if len(self.missing_in_h):
            largest = max(
                float(np.abs(self.s.block(int(e))).max(initial=0.0)) for e in self.missing_in_h
            )
            self.notes.append(
                f"{len(self.missing_in_h)} of {len(self.s)} blocks are in S and not in H (first {format_key(self.s.keys[self.missing_in_h[0]])}, "
                f"max |S| {largest:.3g}): their H is taken as zero; is the Hamiltonian's cutoff shorter than the overlap's?"
            )

    def __repr__(self) -> str:
        return f"BlochProblem({self.label or self.structure.name!r}, {self.structure.formula}, {self.size} orbitals{', spin-orbit' if self.spin == 2 else ''})"

    @property
    def size(self) -> int:
        """Number of orbitals, spin included: the dimension of H(k)."""
        return int(self.structure.orbital_counts.sum()) * self.spin

    @property
    def spinful(self) -> bool:
        """Whether H is spin-doubled."""
        return self.spin == 2

    @property
    def electrons_per_band(self) -> int:
        """1 with spin-orbit coupling, else 2."""
        return 2 // self.spin

    @property
    def stated_fermi_eV(self) -> float | None:
        """The Fermi level of this very Hamiltonian that info.json states, eV; None where none."""
        kind: Literal["hamiltonian", "prediction"] = (
            "prediction" if self.predicted else "hamiltonian"
        )
        return stated_level(self.structure.info, kind).energy_eV

    @functools.cached_property
    def periodic(self) -> tuple[bool, bool, bool]:
        """Along which lattice vectors the crystal is periodic, i.e. H or S couples different cells."""
        cells = np.concatenate([self.h.keys[:, :3], self.s.keys[:, :3]])
        return tuple(bool(v) for v in (cells != 0).any(axis=0))

    @functools.cached_property
    def atom_of_orbital(self) -> NDArray[np.int64]:
        """(n,), atom of each row of H(k)."""
        return np.repeat(np.arange(len(self.structure)), self.structure.orbital_counts * self.spin)

    @functools.cached_property
    def spin_order(self) -> NDArray[np.int64]:
        """(n,), index that puts the rows of H(k) into the global order, all spin-up orbitals first."""
        down = np.concatenate(
            [np.repeat(np.arange(self.spin), n) for n in self.structure.orbital_counts]
        )
        return np.argsort(down, kind="stable")

    @functools.cached_property
    def _sums(self) -> tuple[_BlochSum, _BlochSum]:
        h, s, counts = self.h, self.s, self.structure.orbital_counts
        if self.spin == 1 and np.array_equal(h.keys, s.keys):
            both = _bloch_sums((h, s), counts, 1, False)
            return both[0], both[1]
        return _bloch_sums((h,), counts, self.spin, False)[0], _bloch_sums(
            (s,), counts, self.spin, self.spin == 2
        )[0]

    def __getstate__(self) -> dict[str, object]:
        return {
            name: value
            for name, value in self.__dict__.items()
            if name not in ("_sums", "_elimination_plan")
        }

    def sparse_at(self, k: ArrayLike) -> tuple[sp.csr_matrix, sp.csr_matrix]:
        """H(k) and S(k) in CSR form.

        Args:
            k: (3,), fractional.

        Returns:
            Two (n, n) matrices, eV and 1; real where k is time-reversal invariant and H(R) is real.
        """
        h, s = self._sums
        return h.csr(bloch_phases(h.cells, k)), s.csr(bloch_phases(s.cells, k))

    def at(self, k: ArrayLike) -> tuple[NDArray[np.number], NDArray[np.number]]:
        """H(k) and S(k) as dense (n, n) arrays, Fortran order; k (3,) fractional; eV and 1."""
        h, s = self.sparse_at(k)
        return h.toarray(order="F"), s.toarray(order="F")

    def _derivative(self, which: int, k: ArrayLike) -> Iterator[NDArray[np.complex128]]:
        sums = self._sums[which]
        phases = bloch_phases(sums.cells, k)
        shift = sums.cells @ self.structure.lattice  # (C, 3), R in Å
        for axis in range(3):
            yield sums.csr(1j * shift[:, axis] * phases).toarray()

    def derivative_at(self, k: ArrayLike) -> tuple[NDArray[np.complex128], NDArray[np.complex128]]:
        """dH/dk and dS/dk along Cartesian x, y, z at fixed basis: sum_R i R exp(2 pi i k.R) M(R).

        Args:
            k: (3,), fractional.

        Returns:
            Two (3, n, n) arrays, eV Å and Å.
        """
        return np.stack(list(self._derivative(0, k))), np.stack(list(self._derivative(1, k)))
