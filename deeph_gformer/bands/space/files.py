"""Volumes as Gaussian ``.cube``, written by ASE, or XCrySDen ``.xsf``."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from ...errors import ConfigError
from ...io import Structure
from ...io.files import atomic_path

__all__ = ["write_volume"]

_BOHR = 0.529177210903


def write_volume(
    path: str | os.PathLike[str],
    structure: Structure,
    values: NDArray[np.float64],
    comment: str,
) -> None:
    """Write a density on a grid over the cell.

    ``.cube`` holds it in 1/bohr³, as its readers expect, ``.xsf`` in 1/Å³.

    Args:
        path: ends in .cube or .xsf.
        structure: atoms and lattice.
        values: (n1, n2, n3), 1/Å³, points i / n of the lattice vectors.
        comment: first line of a cube.

    Raises:
        ConfigError: another ending.
    """
    import ase

    path = pathlib.Path(path)
    atoms = ase.Atoms(structure.numbers, structure.positions, cell=structure.lattice, pbc=True)
    if path.suffix == ".cube":
        from ase.io.cube import write_cube

        with atomic_path(path, 14 * values.size) as temporary:
            with open(temporary, "w", encoding="utf-8") as handle:
                write_cube(handle, atoms, values * _BOHR**3, comment=comment)
    elif path.suffix == ".xsf":
        with atomic_path(path, 18 * values.size) as temporary:
            with open(temporary, "w", encoding="utf-8") as handle:
                handle.writelines(_xsf(structure, values, comment))
    else:
        raise ConfigError(f"{path}: a volume's name ends in .cube or .xsf")


def _xsf(structure: Structure, values: NDArray[np.float64], comment: str) -> Iterator[str]:
    """A periodic XSF file; the first points stand at the end again, as its grids want it.

    (ASE's writer leaves them away and stretches the grid.)
    """
    numbers = "{:18.12f} {:18.12f} {:18.12f}\n"
    lattice = [numbers.format(*row) for row in structure.lattice]
    yield f"# {comment}\nCRYSTAL\nPRIMVEC\n"
    yield from lattice
    yield f"PRIMCOORD\n {len(structure)} 1\n"
    for number, position in zip(structure.numbers, structure.positions, strict=True):
        yield f"{number:4d} {numbers.format(*position)}"
    full = np.pad(values, [(0, 1)] * 3, mode="wrap")
    yield "BEGIN_BLOCK_DATAGRID_3D\n density\n BEGIN_DATAGRID_3D_density\n"
    yield " ".join(map(str, full.shape)) + "\n" + numbers.format(0.0, 0.0, 0.0)
    yield from lattice
    for plane in np.moveaxis(full, 2, 0):  # x runs fastest
        for row in plane.T:
            yield " ".join(f"{value:.9e}" for value in row) + "\n"
    yield " END_DATAGRID_3D\nEND_BLOCK_DATAGRID_3D\n"
