"""ASE's atoms as a structure with shells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..errors import DataError
from ..io import Structure
from .neighbours import symbol
from .twocentre import Shells

if TYPE_CHECKING:
    import ase

__all__ = ["check_shells", "structure_from_atoms"]


def check_shells(shells: object, where: str) -> Shells:
    """l of one atom's shells, whatever sequence they come in.

    Raises:
        DataError: they are no list of integers from 0 to 3.
    """
    if isinstance(shells, (Sequence, np.ndarray)) and not isinstance(shells, (str, bytes)):
        if all(isinstance(l, (int, np.integer)) and 0 <= l <= 3 for l in shells):
            return tuple(int(l) for l in shells)
    raise DataError(
        f"{where}: shells {shells!r} are no list of l from 0 (s) to 3 (f); write e.g. "
        "[0, 0, 1, 1, 2]"
    )


def structure_from_atoms(
    atoms: ase.Atoms,
    orbital_types: Mapping[int, Shells],
    name: str = "",
    spinful: bool | None = None,
) -> Structure:
    """A structure with shells, atoms in their order.

    Args:
        atoms: positions and cell in Å; the cell must have three vectors, also along directions that
            do not repeat.
        orbital_types: l of each shell, by atomic number.
        name: of the structure.
        spinful: whether H is spin-doubled.

    Raises:
        DataError: no atoms, no full cell, or an element without shells (named with what is known).
    """
    if not len(atoms):
        raise DataError(f"'{name}': holds no atoms; a Hamiltonian needs one at least")
    cell = np.asarray(atoms.cell[:], dtype=float)
    if abs(np.linalg.det(cell)) < 1e-6:
        raise DataError(
            f"'{name}': the atoms have no full cell (vectors {cell.round(3).tolist()}); give one, "
            "with vacuum where nothing repeats, e.g. atoms.center(vacuum=10)"
        )
    numbers = np.asarray(atoms.numbers, dtype=np.int64)
    unknown = sorted({symbol(z) for z in numbers.tolist() if z not in orbital_types})
    if unknown:
        raise DataError(
            f"'{name}': no orbitals are known of element {', '.join(unknown)}; known: "
            f"{', '.join(symbol(z) for z in sorted(orbital_types))}"
        )
    return Structure(
        cell,
        np.array(atoms.positions, dtype=float),
        numbers,
        tuple(tuple(orbital_types[z]) for z in numbers.tolist()),
        spinful,
        {},
        name,
    )
