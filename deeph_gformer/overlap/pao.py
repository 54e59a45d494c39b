"""OpenMX's basis files, ``.pao``, and its names of bases.

A ``.pao`` file holds more radial functions than a calculation takes: ``C6.0-s2p2d1`` takes the
first two of L=0, the first two of L=1 and the first of L=2, as they are; they are neither
normalised nor orthogonal.
"""

from __future__ import annotations

import math
import os
import pathlib
import re
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from .basis import AtomicBasis
from .basis_text import GRID_STEP, basis_lines, require_l
from .smooth import require_fitting, require_uniform
from .twocentre import Shells

__all__ = [
    "BASIS_NAME",
    "OPENMX_BOHR",
    "basis_names",
    "basis_of",
    "is_basis_name",
    "pao_number",
    "read_pao",
]

#: As OpenMX has it, Å; its files and structures are in this unit.
OPENMX_BOHR = 0.529177249
_LETTERS = "spdfghi"
#: How far one value may be off, of the largest r R(r). In 330 files of OpenMX (8,457 functions)
#: none is, by 1e-6.
_OFF = 1e-5
#: ``C6.0-s2p2d1``: file without its ending, letters of l and how many radial functions of each.
BASIS_NAME = re.compile(r"([A-Za-z][A-Za-z]?[\w.+]*)-((?:[spdfghi][1-9]\d?(?:>\d+)?)+)")


def is_basis_name(text: str) -> bool:
    """Whether a word is an OpenMX basis such as ``C6.0-s2p2d1``, with a folder before it or not."""
    return BASIS_NAME.fullmatch(pathlib.PurePath(text).name) is not None


def basis_names(path: pathlib.Path) -> list[tuple[str, str]]:
    """(stem, basis) of every basis string in a text file."""
    found = []
    for line in basis_lines(path):
        for word in re.split(r"[\s,;\"']+", line.split("#")[0]):
            if match := BASIS_NAME.fullmatch(word):
                found.append((match[1], match[2]))
    return found


def _taken(text: str, where: str) -> dict[int, int]:
    """Radial functions per l of a string such as ``s2p2d1``.

    Raises:
        DataError: contracted functions, an l that appears twice, or no such string.
    """
    if not re.fullmatch(r"(?:[spdfghi][1-9]\d?(?:>\d+)?)+", text):
        raise DataError(f"{where}: '{text}' is no basis; write e.g. s2p2d1")
    if ">" in text:
        raise DataError(
            f"{where}: '{text}' are contracted orbitals, whose coefficients are not in the .pao "
            "file; use S of the OpenMX run instead"
        )
    counts: dict[int, int] = {}
    for letter, count in re.findall(r"([spdfghi])(\d+)", text):
        if _LETTERS.index(letter) in counts:
            raise DataError(f"{where}: '{text}' names {letter} twice")
        counts[_LETTERS.index(letter)] = int(count)
    return dict(sorted(counts.items()))


def _hermite(
    mesh: NDArray[np.float64], values: NDArray[np.float64], x: NDArray[np.float64]
) -> NDArray[np.float64]:
    """(n, points): OpenMX's interpolation of (rows, n), cubic, slopes from parabolas through
    three points."""
    from scipy.interpolate import CubicHermiteSpline

    step = np.diff(mesh)[:, None]
    rise = np.diff(values, axis=0) / step
    slope = np.empty_like(values)
    slope[1:-1] = (rise[1:] * step[:-1] + rise[:-1] * step[1:]) / (step[1:] + step[:-1])
    slope[0], slope[-1] = rise[0], rise[-1]
    return CubicHermiteSpline(mesh, values, slope)(x).T


def _word(lines: Iterable[str], name: str) -> str:
    for line in lines:
        words = line.split("#")[0].split()
        if len(words) > 1 and words[0].lower() == name.lower():
            return words[1]
    raise KeyError(name)


def pao_number(path: pathlib.Path) -> int:
    """Atomic number of a ``.pao`` file.

    Raises:
        DataError: it is none.
    """
    try:
        return int(_word(basis_lines(path), "AtomSpecies"))
    except (KeyError, ValueError):
        raise DataError(f"{path}: not an OpenMX .pao file, it has no AtomSpecies") from None


def read_pao(path: str | os.PathLike[str], basis: str) -> AtomicBasis:
    """Read the radial functions that an OpenMX calculation takes from a ``.pao`` file.

    Args:
        path: the file, e.g. ``C6.0.pao``.
        basis: how many of each l, e.g. ``s2p2d1``.

    Returns:
        R(r) as in the file, not normalised, shells with l ascending.

    Raises:
        DataError: the file is missing, damaged or cut short, or has no such functions.
    """
    path = pathlib.Path(path)
    counts = _taken(basis, str(path))
    lines = basis_lines(path)
    start = {line.strip(): n for n, line in enumerate(lines) if line.startswith("<pseudo.atomic")}
    try:
        number = int(_word(lines, "AtomSpecies"))
        rows = int(_word(lines, "grid.num.output"))
        cutoff = float(_word(lines, "radial.cutoff.pao"))
        columns, most = int(_word(lines, "PAO.Mul")), int(_word(lines, "PAO.Lmax"))
    except (KeyError, ValueError) as error:
        raise DataError(f"{path}: not an OpenMX .pao file, or damaged (missing: {error})") from None
    if not (0 < number < 119 and 4 < rows < 10**6 and 0 < columns < 1000 and 0 < cutoff < 100):
        raise DataError(f"{path}: its header has impossible values, the file is damaged")
    shells: list[int] = []
    parts, radius, end = [], np.zeros(0), cutoff
    for l, count in counts.items():
        if l > most or count > columns:
            raise DataError(
                f"{path}: '{basis}' takes {count} {_LETTERS[l]} functions, the file has {columns} "
                "for "
                f"each l up to {_LETTERS[most] if most < len(_LETTERS) else most}"
            )
        require_l(path, [l])
        first = start.get(f"<pseudo.atomic.orbitals.L={l}")
        body = lines[first + 1 : first + 1 + rows] if first is not None else []
        try:
            table = np.array(" ".join(body).split(), dtype=float).reshape(rows, columns + 2)
        except ValueError:
            raise DataError(
                f"{path}: the table of l = {l} is damaged or cut short; {rows} rows of "
                f"{columns + 2} "
                "numbers were announced"
            ) from None
        mesh = table[:, 1]
        if not (np.isfinite(table).all() and (np.diff(mesh) > 0).all() and mesh[-1] >= cutoff):
            raise DataError(
                f"{path}: the table of l = {l} has no ascending radii up to {cutoff} bohr"
            )
        if not mesh[0] > 0:
            raise DataError(f"{path}: the table of l = {l} begins at {mesh[0]:g} bohr")
        require_uniform(np.log(mesh), mesh, f"{path}: the table of l = {l}")
        for n in range(count):
            require_fitting(mesh, table[:, 2 + n], mesh, _OFF, len(shells) + n, path)
        # the interpolation overshoots to the mesh points behind the cutoff, in OpenMX as well
        if not len(radius):
            end = mesh[min(int(np.searchsorted(mesh, cutoff)) + 2, rows - 1)]
            radius = np.arange(2 * math.ceil(end / GRID_STEP / 2) + 1) * GRID_STEP
        inside = np.clip(radius, mesh[0], end)
        parts.append(_hermite(mesh, table[:, 2 : 2 + count], inside))
        shells += [l] * count
    return AtomicBasis(
        number, tuple(shells), radius, np.concatenate(parts), cutoff, str(path), OPENMX_BOHR
    )


def basis_of(shells: Shells) -> str:
    """How OpenMX names shells with l ascending, e.g. ``s2p2d1`` for (0, 0, 1, 1, 2)."""
    return "".join(f"{_LETTERS[l]}{shells.count(l)}" for l in sorted(set(shells)))
