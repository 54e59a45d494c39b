"""H(R), S(R) -> H(k), S(k): the Bloch sums of DeepH's convention, dense or sparse.

``H(k) = sum_R exp(+2 pi i k.R) H(R)``, k in fractional coordinates, no atomic positions in the
phase (DeepH-pack, OpenMX).
"""

from __future__ import annotations

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
from ..io.periodicity import coupling, upright
from ..terminal import figures
from .cell_sums import BlochSum, bloch_sums

__all__ = ["BlochProblem", "identity_overlap", "bloch_phases"]


def bloch_phases(cells: NDArray[np.int64], k: ArrayLike) -> NDArray[np.number]:
    """exp(2 pi i k.R) of each cell; real where k is a time-reversal invariant momentum, so that
    H(k) of a real H(R) stays real.

    Args:
        cells: (E, 3), R.
        k: (3,), fractional.

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
        raise ConfigError(f"k = {k!r}: write three finite fractional numbers, e.g. (0.5, 0, 0)")
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


class BlochProblem:
    """The generalised eigenproblem H(k) c = E S(k) c of one structure.

    Orbitals stand atom after atom in the legacy order; with spin-orbit coupling each atom has its
    spin-up orbitals, then its spin-down orbitals (:attr:`spin_order` sorts them into all up, all
    down).

    Attributes:
        structure: the crystal.
        h: H(R), eV; blocks (spin n_i, spin n_j).
        s: S(R), spinless blocks (n_i, n_j).
        spin: 2 with spin-orbit coupling (spinor orbitals, one electron a band), else 1 (two
            electrons a band).
        label: what the Hamiltonian is ("DFT", "prediction", ...).
        source: the file it was read from, for messages.
        predicted: whether H comes from a network (then info.json's Fermi level, the DFT's, does not
            belong to it).
        notes: what was found and done while reading (H-only blocks, projections), one sentence
            each.
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
            structure: gives the orbitals.
            h: H(R), eV.
            s: S(R); None means an orthogonal basis.
            label: name in figures.
            source: file of H, for messages.
            predicted: whether H comes from a network.
            notes: what was found while reading.

        Raises:
            DataError: block shapes do not fit the structure, S is spin-doubled, or no block of H
                has a counterpart in S.
        """
        self.structure, self.h, self.label, self.source = structure, h, label, source
        self.s = identity_overlap(structure) if s is None else s
        self.predicted, self.notes = predicted, list(notes)
        self.spin = self._spin_factor(h, "H")
        if self._spin_factor(self.s, "S") != 1:
            raise DataError(
                f"{source}: its overlap is spin-doubled (blocks of 2n x 2n); DeepH's overlaps "
                f"are spinless: keep the upper left n x n of each block"
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
                f"{self.source}: {name} has blocks of atom {matrix.keys[:, 3:].max() + 1}, the "
                f"structure '{self.structure.name}' has {count} atoms; "
                "they belong to different structures"
            )
        expected = self.structure.orbital_counts[matrix.keys[:, 3:]]
        for factor in (1, 2):
            if (matrix.shapes == factor * expected).all():
                return factor
        factor = 2 if (matrix.shapes[0] == 2 * expected[0]).all() else 1
        wrong = int(np.flatnonzero((matrix.shapes != factor * expected).any(axis=1))[0])
        raise DataError(
            f"{self.source}: block {format_key(matrix.keys[wrong])} of {name} has shape "
            f"{tuple(matrix.shapes[wrong].tolist())}; the orbitals of its "
            f"atoms ask for {tuple(expected[wrong].tolist())}, or twice that with spin-orbit "
            f"coupling, the same for all blocks"
        )

    def _report_keys(self) -> None:
        if len(self.missing_in_s) == len(self.h):
            raise DataError(
                f"{self.source}: none of its {len(self.h)} blocks has a counterpart in the "
                f"overlap; the two files belong to different structures"
            )
        orthogonal = not self.s.keys[:, :3].any() and len(self.s) == len(self.structure)
        if len(self.missing_in_s) and not orthogonal:
            largest = max(
                float(np.abs(self.h.block(int(e))).max(initial=0.0)) for e in self.missing_in_s
            )
            self.notes.append(
                f"{len(self.missing_in_s)} of {len(self.h)} blocks are in H and not in S (first "
                f"{format_key(self.h.keys[self.missing_in_s[0]])}, "
                f"max |H| {figures(largest * 1e3)} meV): their overlap is taken as zero"
            )
        if len(self.missing_in_h):
            largest = max(
                float(np.abs(self.s.block(int(e))).max(initial=0.0)) for e in self.missing_in_h
            )
            self.notes.append(
                f"{len(self.missing_in_h)} of {len(self.s)} blocks are in S and not in H (first "
                f"{format_key(self.s.keys[self.missing_in_h[0]])}, "
                f"max |S| {largest:.3g}): their H is taken as zero; is the Hamiltonian's cutoff "
                f"shorter than the overlap's?"
            )

    def __repr__(self) -> str:
        name = self.label or self.structure.name
        spin = ", spin-orbit" if self.spin == 2 else ""
        return f"BlochProblem({name!r}, {self.structure.formula}, {self.size} orbitals{spin})"

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
    def coupled(self) -> tuple[bool, bool, bool]:
        """Which components of k the blocks of H and S depend on."""
        keys = np.concatenate([self.h.keys, self.s.keys])
        return coupling(keys, len(self.structure)).directions

    @functools.cached_property
    def periodic(self) -> tuple[bool, bool, bool]:
        """Along which lattice vectors atoms couple to their own images: the crystal repeats there.

        Blocks of zeros couple nothing, but where there are no others they tell where it repeats.

        Raises:
            DataError: it repeats in fewer directions than along vectors, e.g. a slab of which all
                three vectors leave the plane: areas and dimensions would be those of a crystal.
        """
        both = self.h, self.s
        keys = np.concatenate([m.keys[m.largest() > 0] for m in both])
        rank, directions, _, _ = coupling(keys, len(self.structure))
        if not rank:
            keys = np.concatenate([m.keys for m in both])
            rank, directions, _, _ = coupling(keys, len(self.structure))
        if rank < sum(directions):
            names = [f"a{n + 1}" for n in range(3) if directions[n]]
            raise DataError(
                f"{self.source}: '{self.structure.name}' repeats in {rank} "
                f"direction{'s' * (rank > 1)} only, to which {', '.join(names[:-1])} and "
                f"{names[-1]} lie askew; describe it with {rank} lattice "
                f"vector{'s' * (rank > 1)} along {'them' if rank > 1 else 'it'}"
            )
        return directions

    @functools.cached_property
    def reciprocal(self) -> NDArray[np.float64]:
        """(3, 3), rows, 1/Å with 2π; of a slab or chain see :func:`~..io.periodicity.upright`."""
        lattice = upright(self.structure.lattice, self.periodic)
        return np.asarray(2 * np.pi * np.linalg.inv(lattice).T)

    @functools.cached_property
    def rounding_eV(self) -> float:
        """By how much rounding in the files may split a degenerate level, eV; generous.

        Numbers that single precision holds are taken to have been rounded to it.
        """
        single = any(
            (v == v.astype({"c": np.complex64}.get(v.dtype.kind, np.float32))).all()
            for v in (self.h.values, self.s.values)
        )
        unit = float(np.finfo(np.float32 if single else np.float64).eps)
        return float(max(1e-6, 8 * unit * np.abs(self.h.values).max(initial=0.0)))

    @functools.cached_property
    def atom_of_orbital(self) -> NDArray[np.int64]:
        """(n,), atom of each row of H(k)."""
        return np.repeat(np.arange(len(self.structure)), self.structure.orbital_counts * self.spin)

    @functools.cached_property
    def spin_order(self) -> NDArray[np.int64]:
        """(n,), index that puts the rows of H(k) into the global order, spin-up orbitals first."""
        down = np.concatenate(
            [np.repeat(np.arange(self.spin), n) for n in self.structure.orbital_counts]
        )
        return np.argsort(down, kind="stable")

    @functools.cached_property
    def _sums(self) -> tuple[BlochSum, BlochSum]:
        h, s, counts = self.h, self.s, self.structure.orbital_counts
        if self.spin == 1 and np.array_equal(h.keys, s.keys):
            both = bloch_sums((h, s), counts, 1, False)
            return both[0], both[1]
        return bloch_sums((h,), counts, self.spin, False)[0], bloch_sums(
            (s,), counts, self.spin, self.spin == 2
        )[0]

    def __getstate__(self) -> dict[str, object]:
        return {
            name: value
            for name, value in self.__dict__.items()
            if name not in ("_sums", "_elimination_plan", "_memory")
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
        h, s = self._sums
        return h.dense(bloch_phases(h.cells, k)), s.dense(bloch_phases(s.cells, k))

    def _derivative(self, which: int, k: ArrayLike) -> Iterator[NDArray[np.complex128]]:
        sums = self._sums[which]
        phases = bloch_phases(sums.cells, k)
        shift = sums.cells @ self.structure.lattice  # (C, 3), R in Å
        for axis in range(3):
            yield np.asarray(sums.dense(1j * shift[:, axis] * phases), dtype=np.complex128)

    def derivative_at(self, k: ArrayLike) -> tuple[NDArray[np.complex128], NDArray[np.complex128]]:
        """dH/dk and dS/dk along Cartesian x, y, z at fixed basis: sum_R i R exp(2 pi i k.R) M(R).

        Args:
            k: (3,), fractional.

        Returns:
            Two (3, n, n) arrays, eV Å and Å.
        """
        return np.stack(list(self._derivative(0, k))), np.stack(list(self._derivative(1, k)))
