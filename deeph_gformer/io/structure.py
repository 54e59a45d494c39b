"""A crystal structure with its orbital shells."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError

__all__ = ["MAX_LENGTH", "MIN_HEIGHT", "Structure"]

#: Bounds of a cell, Å: its vectors and positions, and its least height over a face. A needle or a
#: leaf would have neighbours in millions of cells.
MAX_LENGTH, MIN_HEIGHT = 1e5, 0.1


@dataclasses.dataclass(frozen=True)
class Structure:
    """One structure, in the order of its files.

    Attributes:
        lattice: (3, 3), ROWS are the lattice vectors (the files hold columns), Å.
        positions: (N, 3), Cartesian, Å; may lie outside the cell, and must stay there, because the
            block keys count cells from it.
        numbers: (N,), atomic numbers.
        orbital_types: per atom, l of each shell, as in ``orbital_types.dat``.
        spinful: whether H is spin-doubled and complex; None where no file says so.
        info: the whole ``info.json`` (empty where there is none).
        name: the folder's name.
        origin: what :func:`~deeph_gformer.io.folder.read_matrix` compares a folder with.
    """

    lattice: NDArray[np.float64]
    positions: NDArray[np.float64]
    numbers: NDArray[np.int64]
    orbital_types: tuple[tuple[int, ...], ...]
    spinful: bool | None = None
    info: dict[str, Any] = dataclasses.field(default_factory=dict)
    name: str = ""
    origin: Any = dataclasses.field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        count = len(self.numbers)
        if (
            self.positions.shape != (count, 3)
            or self.lattice.shape != (3, 3)
            or len(self.orbital_types) != count
        ):
            raise DataError(
                f"structure '{self.name}': {count} elements, positions {self.positions.shape}, "
                f"{len(self.orbital_types)} lines of orbital types, "
                f"lattice {self.lattice.shape}: the files do not belong together"
            )
        if not (np.isfinite(self.lattice).all() and np.isfinite(self.positions).all()):
            raise DataError(
                f"structure '{self.name}': lattice or positions contain NaN or infinite values"
            )
        for what, vectors in (
            ("lattice vector", self.lattice),
            ("position of atom", self.positions),
        ):
            far = np.flatnonzero(np.abs(vectors).max(axis=1, initial=0.0) > MAX_LENGTH)
            if len(far):
                raise DataError(
                    f"structure '{self.name}': {what} {far[0] + 1} is "
                    f"{vectors[far[0]].tolist()} Å, beyond {MAX_LENGTH:g} Å; are the units right?"
                )
        if abs(np.linalg.det(self.lattice)) < 1e-6:
            raise DataError(
                f"structure '{self.name}': the lattice vectors span no volume; is one of them "
                "zero, or in the plane of the others?"
            )
        height = 1 / np.linalg.norm(np.linalg.inv(self.lattice), axis=0)
        if height.min() < MIN_HEIGHT:
            raise DataError(
                f"structure '{self.name}': along lattice vector {height.argmin() + 1} the cell is "
                f"only {height.min():.2g} Å high, and no two atoms are nearer than {MIN_HEIGHT} Å; "
                "are the units right, or are the vectors nearly parallel?"
            )

    def __len__(self) -> int:
        return len(self.numbers)

    def __repr__(self) -> str:
        return (
            f"Structure({self.name!r}, {self.formula}, {len(self)} atoms, "
            f"{self.orbital_counts.sum()} orbitals, spinful={self.spinful})"
        )

    @functools.cached_property
    def orbital_counts(self) -> NDArray[np.int64]:
        """(N,), number of spinless orbitals of each atom."""
        return np.array(
            [sum(2 * l + 1 for l in shells) for shells in self.orbital_types], dtype=np.int64
        )

    def same_as(self, other: Structure, tolerance: float = 1e-3) -> bool:
        """Whether both have the same atoms in the same order, in the same places.

        Args:
            other: the other structure.
            tolerance: of lattice and positions, Å; numbers and shells are to be equal.
        """
        return (
            self.orbital_types == other.orbital_types
            and np.array_equal(self.numbers, other.numbers)
            and bool(np.abs(self.lattice - other.lattice).max() <= tolerance)
            and bool(np.abs(self.positions - other.positions).max() <= tolerance)
        )

    @property
    def formula(self) -> str:
        """Elements and counts, in the order of their atomic numbers, e.g. ``C18``."""
        from ase.data import chemical_symbols

        kinds, counts = np.unique(self.numbers, return_counts=True)
        pairs = zip(kinds, counts, strict=True)
        return "".join(f"{chemical_symbols[z]}{n if n > 1 else ''}" for z, n in pairs)

    @property
    def reciprocal(self) -> NDArray[np.float64]:
        """(3, 3), rows are the reciprocal vectors with 2π, 1/Å."""
        return 2 * np.pi * np.linalg.inv(self.lattice).T.astype(np.float64)

    def edge_vectors(self, keys: NDArray[np.int64]) -> NDArray[np.float64]:
        """r_j + R - r_i of each edge.

        Args:
            keys: (E, 5), Rx Ry Rz i j, 0-based.

        Returns:
            (E, 3), Å.
        """
        cells = keys[:, :3].astype(np.float64) @ self.lattice
        return self.positions[keys[:, 4]] + cells - self.positions[keys[:, 3]]
