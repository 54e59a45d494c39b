"""SIESTA's basis files, ``.ion`` and ``.ion.xml``."""

from __future__ import annotations

import math
import os
import pathlib
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError, MissingDependencyError, reason
from ..io.files import read_text
from .basis import BOHR, LARGEST_CUTOFF, AtomicBasis, require_grid
from .basis_text import GRID_STEP, WHERE, basis_lines, require_l
from .smooth import require_fitting, require_uniform

__all__ = ["read_ion", "read_ion_xml"]

#: How far one value may be off, of the largest r R(r). In 54 files of SIESTA (204 functions) it is
#: 2e-6 at most.
_OFF = 1e-5


def read_ion(path: str | os.PathLike[str]) -> AtomicBasis:
    """Read a SIESTA ``.ion`` file (text): one shell per radial function, in the order of the file.

    The file tabulates R(r) / r^l on a uniform grid of its own per function.

    Raises:
        DataError: the file is missing or damaged.
    """
    from scipy.interpolate import CubicSpline

    path = pathlib.Path(path)
    lines = basis_lines(path)
    number, shells, tables = 0, [], []
    try:
        for n, line in enumerate(lines):
            if "# Atomic number" in line:
                number = int(line.split()[0])
            if "#orbital l, n, z" not in line:
                continue
            points, _, end = lines[n + 1].split()[:3]
            body = " ".join(lines[n + 2 : n + 2 + int(points)]).split()
            table = np.array(body, dtype=float).reshape(int(points), 2)
            shells.append(int(line.split()[0]))
            tables.append((table, float(end)))
    except (ValueError, IndexError) as error:
        raise DataError(f"{path}: not a SIESTA .ion file, or cut short ({error})") from None
    if not tables or any(len(table) < 5 for table, _ in tables):
        raise DataError(f"{path}: not a SIESTA .ion file, it has no '#orbital l, n, z' table")
    if number < 1:
        raise DataError(
            f"{path}: atomic number {number}, a floating basis without an atom; only bases of "
            "atoms are read"
        )
    require_l(path, shells)
    for table, cutoff in tables:
        require_grid(table[:, 0], cutoff, str(path))
        if not np.isfinite(table).all():
            raise DataError(f"{path}: NaN or infinite values, the file is damaged")
    for n, (l, (table, _)) in enumerate(zip(shells, tables, strict=True)):
        _require_good(table, l, n, path)
    reach = max(cutoff for _, cutoff in tables)
    radius = np.linspace(0, reach, 2 * math.ceil(reach / GRID_STEP / 2) + 1)
    orbitals = np.zeros((len(shells), len(radius)))
    for n, (l, (table, cutoff)) in enumerate(zip(shells, tables, strict=True)):
        inside = radius <= min(cutoff, table[-1, 0]) + 1e-9
        # R / r^l is even in r, so its slope at 0 is zero
        spline = CubicSpline(table[:, 0], table[:, 1], bc_type=((1, 0.0), (2, 0.0)))
        orbitals[n, inside] = spline(radius[inside]) * radius[inside] ** l
    return AtomicBasis(number, tuple(shells), radius, orbitals, reach, str(path)).normalised()


def read_ion_xml(path: str | os.PathLike[str]) -> AtomicBasis:
    """Read a SIESTA ``.ion.xml`` file through sisl.

    One shell per (n, l, zeta, polarisation), in the order of the file.

    Raises:
        DataError: the file is missing or unreadable.
        MissingDependencyError: sisl is not installed.
    """
    try:
        import sisl
    except ImportError:
        raise MissingDependencyError("sisl", "sisl", "reading SIESTA .ion.xml files") from None
    path = pathlib.Path(path)
    text = read_text(path, 2**26, WHERE)
    if "<!ENTITY" in text:
        raise DataError(f"{path}: defines XML entities, which no SIESTA basis does")
    _require_grids(text, path)
    try:
        atom = sisl.get_sile(path).read_basis()
        found: dict[tuple[int, ...], sisl.AtomicOrbital] = {}
        for orbital in atom.orbitals:
            found.setdefault(
                (int(orbital.n), int(orbital.l), int(orbital.zeta), int(orbital.P)), orbital
            )
        reach = max(float(o.R) for o in found.values())
        if not 0 < reach / BOHR <= LARGEST_CUTOFF:
            raise ValueError(f"a cutoff of {reach:g} Å")
        count = 2 * math.ceil(reach / BOHR / GRID_STEP / 2) + 1
        radius = np.linspace(0, reach, count)
        orbitals = np.array([np.nan_to_num(o.radial(radius)) for o in found.values()])
        number = int(atom.Z)
    except Exception as error:  # noqa: BLE001 - sisl fails in many ways
        raise DataError(
            f"{path}: not a SIESTA basis that sisl can read ({reason(error)})"
        ) from None
    shells = tuple(key[1] for key in found)
    if number < 1:
        raise DataError(
            f"{path}: atomic number {number}, a floating basis without an atom; only bases of "
            "atoms are read"
        )
    require_l(path, shells)
    return AtomicBasis(
        number, shells, radius / BOHR, orbitals, reach / BOHR, str(path)
    ).normalised()


def _require_good(table: NDArray[np.float64], l: int, orbital: int, path: pathlib.Path) -> None:
    """Raise unless a table (n, 2) of r and R(r) / r^l has equal steps and one function's values.

    Raises:
        DataError: it has not.
    """
    radius, values = table.T
    require_uniform(radius, radius, str(path))
    require_fitting(radius, values, radius ** (l + 1), _OFF, orbital, path)


def _require_grids(text: str, path: pathlib.Path) -> None:
    """Raise unless the radii of every orbital ascend to its cutoff in equal steps, and no value is
    unlike its neighbours; sisl does not look.

    Args:
        text: of the file.
        path: the file, for messages.

    Raises:
        DataError: they do not, or the file is no XML.
    """
    try:
        orbitals = ElementTree.fromstring(text).find("paos")
        found = () if orbitals is None else orbitals.iter("orbital")
        for n, orbital in enumerate(found):
            for part in orbital.iter("radfunc"):
                table = np.array((part.findtext("data") or "").split(), dtype=float).reshape(-1, 2)
                require_grid(table[:, 0], float(part.findtext("cutoff") or "nan"), str(path))
                _require_good(table, int(orbital.get("l", "0")), n, path)
    except (ElementTree.ParseError, ValueError) as error:
        raise DataError(f"{path}: not a SIESTA basis, or damaged ({error})") from None
