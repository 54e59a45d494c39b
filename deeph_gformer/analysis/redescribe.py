"""The same crystal described otherwise.

Supercells, other lattice vectors, renumbered atoms, atoms moved by lattice vectors.

Every such description is one integer matrix (new lattice vectors in the old ones) and, for each new
atom, the old atom that it is and the cell it sits in. The map of blocks follows from it alone and
is exact: no number of H or S changes, only the keys do.
"""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import DataError
from ..io.blocks import BlockMatrix, sort_keys
from ..io.structure import Structure

__all__ = ["Description", "supercell", "relattice", "renumber", "move_by_lattice"]


@dataclasses.dataclass(frozen=True)
class Description:
    """How a crystal is written down anew.

    Attributes:
        matrix: (3, 3) integers M; rows are the new lattice vectors in the old ones, A' = M A.
        atom: (N',), the old atom that each new one is.
        cell: (N', 3), the old cell that each new atom is written in: r' = r[atom] + cell A.
    """

    matrix: NDArray[np.int64]
    atom: NDArray[np.int64]
    cell: NDArray[np.int64]

    def __post_init__(self) -> None:
        atoms = int(self.atom.max(initial=-1)) + 1
        if (
            self.copies == 0
            or len(self.atom) != atoms * self.copies
            or len(self._cosets) != self.copies
            or (self._place < 0).any()
        ):
            raise DataError(
                f"no description of the crystal: {len(self.atom)} atoms in {self.copies} cells "
                f"of {atoms}; each atom of each cell is needed once"
            )

    @functools.cached_property
    def copies(self) -> int:
        """How many old cells make a new one, |det M|."""
        return abs(round(float(np.linalg.det(self.matrix))))

    @functools.cached_property
    def _adjugate(self) -> NDArray[np.int64]:
        """det(M) M⁻¹, integers."""
        a, b, c = self.matrix
        return np.stack([np.cross(b, c), np.cross(c, a), np.cross(a, b)], axis=1)

    def _coset(self, cells: NDArray[np.int64]) -> NDArray[np.int64]:
        """A number for each old cell (..., 3): equal where cells differ by new lattice vectors."""
        n = self.copies
        code = (cells @ self._adjugate) % n
        return (code[..., 0] * n + code[..., 1]) * n + code[..., 2]

    @functools.cached_property
    def _cosets(self) -> NDArray[np.int64]:
        """(n,), sorted numbers of the cosets that the new atoms are written in."""
        return np.unique(self._coset(self.cell))

    @functools.cached_property
    def _place(self) -> NDArray[np.int64]:
        """(N, n), new atom of each old atom and coset; -1 where there is none."""
        found = np.full((int(self.atom.max()) + 1, len(self._cosets)), -1)
        found[self.atom, np.searchsorted(self._cosets, self._coset(self.cell))] = np.arange(
            len(self.atom)
        )
        return found

    def structure(self, old: Structure) -> Structure:
        """The structure in the new description."""
        return dataclasses.replace(
            old,
            lattice=self.matrix @ old.lattice,
            positions=old.positions[self.atom] + self.cell @ old.lattice,
            numbers=old.numbers[self.atom],
            orbital_types=tuple(old.orbital_types[a] for a in self.atom.tolist()),
        )

    def keys(self, old: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Keys of the same edges or blocks.

        Args:
            old: (E, 5), Rx Ry Rz i j, 0-based.

        Returns:
            (n E, 5) in canonical order, and (n E,) which old key each of them is.
        """
        images = self._place[old[:, 3]]  # (E, n), every new atom that is atom i
        source = np.repeat(np.arange(len(old)), images.shape[1])
        first = images.reshape(-1)
        there = self.cell[first] + old[source, :3]  # the old cell that atom j is in
        coset = np.searchsorted(self._cosets, self._coset(there))
        second = self._place[old[source, 4], coset]
        determinant = round(float(np.linalg.det(self.matrix)))
        shift = (there - self.cell[second]) @ self._adjugate // determinant
        keys = np.concatenate([shift, first[:, None], second[:, None]], axis=1)
        order = sort_keys(keys)
        return keys[order], source[order]

    def blocks(self, old: BlockMatrix) -> BlockMatrix:
        """H or S in the new description, the same numbers under new keys."""
        keys, source = self.keys(old.keys)
        length = old.offsets[source + 1] - old.offsets[source]
        start = np.concatenate([[0], np.cumsum(length)])
        place = np.arange(start[-1]) + np.repeat(old.offsets[source] - start[:-1], length)
        return BlockMatrix(keys, old.shapes[source], old.values[place])

    def kpoint(self, k: ArrayLike) -> NDArray[np.float64]:
        """The point of reciprocal space that was (3,) fractional, in the new reciprocal vectors."""
        return self.matrix.astype(np.float64) @ np.asarray(k, dtype=np.float64)

    def unfolded(self, k: ArrayLike) -> NDArray[np.float64]:
        """(n, 3), old k-points whose spectra together are the new one at ``k`` (3,), fractional."""
        inverse = np.linalg.inv(self.matrix.astype(float))
        points = (np.asarray(k, dtype=np.float64) + _representatives(self.matrix.T)) @ inverse.T
        return points - np.floor(points + 1e-9)


def _representatives(matrix: NDArray[np.int64]) -> NDArray[np.int64]:
    """(|det M|, 3), one integer vector of each coset of the lattice that the rows of M span."""
    corners = np.array([[a, b, c] for a in (0, 1) for b in (0, 1) for c in (0, 1)]) @ matrix
    low, high = corners.min(axis=0), corners.max(axis=0)
    box = np.indices(tuple(high - low + 1)).reshape(3, -1).T + low
    fraction = box @ np.linalg.inv(matrix.astype(float))
    return box[((fraction > -1e-9) & (fraction < 1 - 1e-9)).all(axis=1)]


def supercell(atoms: int, matrix: ArrayLike) -> Description:
    """A larger cell, copy after copy.

    Args:
        atoms: N of the old cell.
        matrix: (3, 3) integers, or three repetitions.
    """
    m = np.asarray(matrix, dtype=np.int64)
    m = np.diag(m) if m.ndim == 1 else m
    cells = _representatives(m) if round(float(np.linalg.det(m))) else np.zeros((0, 3), np.int64)
    return Description(m, np.tile(np.arange(atoms), len(cells)), np.repeat(cells, atoms, axis=0))


def relattice(atoms: int, matrix: ArrayLike) -> Description:
    """Other lattice vectors of the same lattice; atoms stay where they are.

    Args:
        atoms: N.
        matrix: (3, 3) integers of determinant 1 or -1.
    """
    m = np.asarray(matrix, dtype=np.int64)
    return Description(m, np.arange(atoms), np.zeros((atoms, 3), dtype=np.int64))


def renumber(order: ArrayLike) -> Description:
    """The atoms in another order; ``order`` (N,): the old number of each new atom."""
    index = np.asarray(order, dtype=np.int64)
    return Description(np.eye(3, dtype=np.int64), index, np.zeros((len(index), 3), dtype=np.int64))


def move_by_lattice(cells: ArrayLike) -> Description:
    """Each atom moved by a lattice vector; ``cells`` (N, 3) integers."""
    moved = np.asarray(cells, dtype=np.int64)
    return Description(np.eye(3, dtype=np.int64), np.arange(len(moved)), moved)
