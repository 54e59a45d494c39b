"""Orbitals in sisl's order and signs.

sisl and SIESTA order a shell m = -l..l and put a factor (-1)^m before the real harmonics (p: -y, z,
-x).
"""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError, printable
from ..io import BlockMatrix, Structure
from ..io.dock import LEGACY_TO_E3NN
from ..io.files import read_text

__all__ = ["require_counted", "shell_signs", "shells_of", "sisl_order", "spin_parts"]


def shell_signs(l: int) -> NDArray[np.float64]:
    """(2l + 1,), sisl's function over the positive real harmonic, for m = -l..l: (-1)^m."""
    return np.array([(-1.0) ** m for m in range(-l, l + 1)])


def _transform(shells: tuple[int, ...]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """(index, sign) of an atom: sisl orbital n is ``sign[n]`` times the legacy orbital
    ``index[n]``.
    """
    index: list[int] = []
    signs: list[float] = []
    for l in shells:
        index += [len(index) + m for m in LEGACY_TO_E3NN[l]]
        signs += shell_signs(l).tolist()
    return np.array(index, dtype=np.int64), np.array(signs)


def sisl_order(matrix: BlockMatrix, structure: Structure, spin: int) -> BlockMatrix:
    """The same blocks in sisl's orbital order and signs."""
    table = {shells: _transform(shells) for shells in set(structure.orbital_types)}
    kind = {shells: n for n, shells in enumerate(table)}
    of = np.array([kind[s] for s in structure.orbital_types])
    values = np.empty(len(matrix.values), dtype=matrix.values.dtype)
    pair = of[matrix.keys[:, 3]] * len(kind) + of[matrix.keys[:, 4]]
    names = list(table)
    for code in np.unique(pair):
        (rows, r_sign), (columns, c_sign) = (table[names[n]] for n in divmod(int(code), len(kind)))
        if spin == 2:
            rows, columns = (
                np.concatenate([rows, rows + len(rows)]),
                np.concatenate([columns, columns + len(columns)]),
            )
            r_sign, c_sign = np.tile(r_sign, 2), np.tile(c_sign, 2)
        start = matrix.offsets[np.flatnonzero(pair == code)][:, None]
        source = (rows[:, None] * len(columns) + columns).reshape(-1)
        values[start + np.arange(len(source))] = matrix.values[start + source] * np.outer(
            r_sign, c_sign
        ).reshape(-1)
    return BlockMatrix(matrix.keys, matrix.shapes, values)


def spin_parts(h: BlockMatrix) -> list[NDArray[np.number]]:
    """Flat values of the quarters of each block, in sisl's order: up-up, down-down, up-down,
    down-up.
    """
    quarter = BlockMatrix(h.keys, h.shapes // 2, np.zeros(len(h.values) // 4, dtype=h.values.dtype))
    parts = []
    for a, b in ((0, 0), (1, 1), (0, 1), (1, 0)):
        groups = []
        for index, array in h.groups():
            r, c = array.shape[1] // 2, array.shape[2] // 2
            groups.append((index, array[:, a * r : (a + 1) * r, b * c : (b + 1) * c]))
        parts.append(quarter.with_groups(groups).values)
    return parts


def shells_of(
    atom: Any, number: int
) -> tuple[tuple[int, ...], NDArray[np.int64], NDArray[np.float64]]:
    """(l of each shell, for each legacy orbital its place among sisl's, its sign) of one
    ``sisl.Atom``.
    """
    found: dict[tuple[Any, ...], dict[int, int]] = {}
    for place, orbital in enumerate(atom.orbitals):
        try:
            name = (int(orbital.l), int(orbital.n), int(orbital.zeta), bool(orbital.P))
            found.setdefault(name, {})[int(orbital.m)] = place
        except (AttributeError, TypeError):
            raise DataError(
                f"atom {number + 1} ({atom.symbol}), orbital {place + 1}: "
                f"{type(orbital).__name__} has no l and m; only bases of atomic orbitals with "
                "full shells (sisl.AtomicOrbital) fit a DeepH folder. Read the geometry "
                "together with its basis, e.g. from SIESTA's .fdf"
            ) from None
    shells, index, signs = [], [], []
    for name in sorted(found, key=lambda n: n[0]):
        l = name[0]
        if sorted(found[name]) != list(range(-l, l + 1)) or l > 3:
            raise DataError(
                f"atom {number + 1} ({atom.symbol}): shell n={name[1]} l={l} zeta={name[2]} has "
                f"m = {sorted(found[name])}; a DeepH folder "
                "needs full shells, l = 0 to 3"
            )
        ms = np.argsort(np.array(LEGACY_TO_E3NN[l])) - l  # m of each legacy orbital
        index += [found[name][int(m)] for m in ms]
        signs += [(-1.0) ** int(m) for m in ms]
        shells.append(l)
    return tuple(shells), np.array(index, dtype=np.int64), np.array(signs)


def require_counted(folder: pathlib.Path) -> None:
    """Raise where rows of an ``.ORB_INDX`` do not count orbitals 1, 2, ... of atoms in their order:
    sisl takes them as they come.

    Args:
        folder: of a SIESTA run.

    Raises:
        DataError: names the file and the row.
    """
    for path in sorted(folder.glob("*.ORB_INDX")):
        atom, row = 1, 0
        for line in read_text(path, strict=False).splitlines()[2:]:
            words = line.split()
            if not words or not words[0].isdecimal():
                if row:
                    break
                continue
            row, before = row + 1, atom
            atom = int(words[1]) if len(words) > 1 and words[1].isdecimal() else -1
            begin = printable(line.strip())[:40]
            if words[0] != str(row) or not before <= atom <= before + 1:
                raise DataError(
                    f"{path}: row {row} of its orbitals begins with '{begin}'; orbitals and atoms "
                    "count from 1 on in their order, so the file is damaged"
                )
