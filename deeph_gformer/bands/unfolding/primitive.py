"""The primitive cell of a supercell from an integer matrix, or from its own translations."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ...errors import ConfigError, MissingDependencyError
from ...io import Structure
from .frame import cell_height, repeating_axes, split_frame
from .supercell import Cell, PrimitiveMap, map_onto

__all__ = ["by_matrix", "by_translations"]

_TRANSLATION_TOLERANCES = (0.5, 0.4, 0.3, 0.2, 0.1, 0.05, 1e-2, 1e-3)
"""Å, for pure translations of a displaced crystal; the first that makes a supercell is taken."""
Index = NDArray[np.int64]
Array = NDArray[np.float64]


def by_matrix(
    structure: Structure,
    periodic: tuple[bool, bool, bool],
    matrix: Index,
    name: str,
    atoms: Index | None = None,
) -> PrimitiveMap:
    """Map a supercell onto the primitive cell a = M^-1 A, its sites the means of what falls on
    them.

    Args:
        structure: the supercell.
        periodic: along which of its vectors it repeats.
        matrix: (3, 3) integers M; the identity along vectors that do not repeat.
        name: of the matrix, for messages.
        atoms: (n,), which atoms; default all.

    Raises:
        ConfigError: M is singular, mixes aperiodic vectors, or does not divide the atoms.
    """
    axes, size = repeating_axes(periodic), round(abs(np.linalg.det(matrix)))
    fixed = [axis for axis in range(3) if axis not in axes]
    one = np.eye(3, dtype=np.int64)
    if not size or (matrix[fixed] != one[fixed]).any() or (matrix[:, fixed] != one[:, fixed]).any():
        raise ConfigError(
            f"{name}: an integer matrix with a determinant is needed, and 1 along vectors in which "
            f"'{structure.name}' does not repeat"
        )
    atoms = np.arange(len(structure)) if atoms is None else atoms
    numbers = structure.numbers[atoms]
    if len(atoms) % size:
        raise ConfigError(
            f"{name}: {size} primitive cells do not divide the {len(atoms)} atoms of "
            f"'{structure.name}'"
        )
    lattice = np.linalg.solve(matrix.astype(float), structure.lattice)
    frame = split_frame(
        lattice[axes], structure.positions[atoms], cell_height(structure.lattice, axes)
    )
    free, sites, kinds = np.ones(len(atoms), dtype=bool), [], []
    while free.any():
        first = int(np.flatnonzero(free)[0])
        alike = np.flatnonzero(free & (numbers == numbers[first]))
        off = frame.fractions[alike] - frame.fractions[first]
        off -= np.round(off)
        away = np.linalg.norm(off @ lattice[axes], axis=1)
        away = np.hypot(away, np.linalg.norm(frame.rest[alike] - frame.rest[first], axis=1))
        nearest = np.argsort(away, kind="stable")[:size]
        if len(nearest) < size:
            raise ConfigError(
                f"{name}: {size} primitive cells do not divide the atoms like atom "
                f"{atoms[first] + 1} of '{structure.name}': {len(nearest)} of them are left over"
            )
        free[alike[nearest]] = False
        mean = structure.positions[atoms[first]] + off[nearest].mean(axis=0) @ lattice[axes]
        sites.append(mean)
        kinds.append(numbers[first])
    cell = Cell(lattice, np.array(sites), np.array(kinds))
    return map_onto(structure, periodic, cell, name, atoms)


def by_translations(
    structure: Structure, periodic: tuple[bool, bool, bool], atoms: Index | None = None
) -> PrimitiveMap:
    """Map a supercell onto the primitive cell that spglib's pure translations span.

    Args:
        structure: the supercell; displacements up to 0.5 Å are looked through.
        periodic: along which of its vectors it repeats.
        atoms: (n,), which atoms; default all.

    Raises:
        MissingDependencyError: spglib is not installed.
        ConfigError: no translation is found.
    """
    try:
        import spglib
    except ImportError:
        raise MissingDependencyError("spglib", "seekpath", "--unfold spglib") from None
    axes = repeating_axes(periodic)
    chosen = np.arange(len(structure)) if atoms is None else atoms
    fractions = structure.positions[chosen] @ np.linalg.inv(structure.lattice)
    crystal = (
        structure.lattice.tolist(),
        fractions.tolist(),
        structure.numbers[chosen].tolist(),
    )
    for tolerance in _TRANSLATION_TOLERANCES:
        found = spglib.get_symmetry(crystal, symprec=tolerance)
        if found is None:
            continue
        pure = (found["rotations"] == np.eye(3, dtype=int)).all(axis=(1, 2))
        shifts = found["translations"][pure]
        fixed = [axis for axis in range(3) if axis not in axes]
        shifts = shifts[(np.abs(shifts[:, fixed] - np.round(shifts[:, fixed])) < 1e-3).all(axis=1)]
        if len(shifts) > 1 and len(chosen) % len(shifts) == 0:
            try:
                matrix = _from_translations(structure.lattice, shifts, axes)
                return by_matrix(structure, periodic, matrix, "--unfold spglib", atoms)
            except ConfigError:  # too loose: not a set of translations of this crystal
                continue
    raise ConfigError(
        f"spglib finds no translation of '{structure.name}' within "
        f"{_TRANSLATION_TOLERANCES[0]:g} Å that is shorter "
        "than its cell; give the primitive cell or a matrix with --unfold"
    )


def _from_translations(lattice: Array, shifts: Array, axes: list[int]) -> Index:
    """(3, 3) integers M of the lattice that vectors and their pure translations span.

    Args:
        lattice: (3, 3), of the supercell.
        shifts: (n, 3), fractions; all n translations, the zero one among them.
        axes: periodic directions.
    """
    from ase.geometry import minkowski_reduce

    size, d = len(shifts), len(axes)
    rows = np.concatenate([np.round(shifts[:, axes] * size), size * np.eye(d)]).astype(np.int64)
    basis = _row_basis(rows)  # of the primitive lattice, in 1 / size of the supercell's vectors
    padded = np.eye(3) * np.linalg.norm(lattice) * 1e3
    vectors = (basis / size) @ lattice[axes]
    padded[:d, :d] = np.linalg.cholesky(vectors @ vectors.T)
    change = np.round(minkowski_reduce(padded, pbc=[True] * d + [False] * (3 - d))[1])[:d, :d]
    matrix = np.eye(3, dtype=np.int64)
    inner = np.linalg.inv(change @ basis / size)
    matrix[np.ix_(axes, axes)] = np.round(inner).astype(np.int64)
    return matrix


def _row_basis(rows: Index) -> Index:
    """(d, d) basis of the lattice that integer rows (n, d) span, by Euclid's algorithm."""
    rows, basis = rows.copy(), []
    for column in range(rows.shape[1]):
        while (rows[:, column] != 0).sum() > 1:
            nonzero = np.flatnonzero(rows[:, column])
            pivot = nonzero[np.argmin(np.abs(rows[nonzero, column]))]
            others = nonzero[nonzero != pivot]
            rows[others] -= (rows[others, column] // rows[pivot, column])[:, None] * rows[pivot]
        pivot = int(np.flatnonzero(rows[:, column])[0])
        basis.append(rows[pivot].copy())
        rows[pivot] = 0
    return np.array(basis)
