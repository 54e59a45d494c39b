"""ABACUS' structure file (``STRU``) and key-value input (``INPUT``)."""

from __future__ import annotations

import dataclasses
import pathlib
import re

import numpy as np
from numpy.typing import NDArray

from ...errors import DataError
from ...io.files import read_text

__all__ = ["BOHR_A", "Stru", "read_stru", "read_input"]

#: CODATA 2018: the lattice constant 1.889726124625770 that means Å gives 1 Å.
BOHR_A = 0.529177210903
_SECTIONS = (
    "ATOMIC_SPECIES",
    "NUMERICAL_ORBITAL",
    "NUMERICAL_DESCRIPTOR",
    "PAW_FILES",
    "ABFS_ORBITAL",
    "LATTICE_CONSTANT",
    "LATTICE_VECTORS",
    "LATTICE_PARAMETERS",
    "ATOMIC_POSITIONS",
)


@dataclasses.dataclass(frozen=True)
class Stru:
    """A structure, in the file's order; N atoms.

    Attributes:
        lattice: (3, 3), rows, Å.
        fractional: (N, 3), as written (may lie outside the cell).
        labels: (N,) species of each atom.
        potentials: {label: pseudopotential file}.
        masses: {label: mass}.
        orbitals: {label: orbital file}, where the file names them.
    """

    lattice: NDArray[np.float64]
    fractional: NDArray[np.float64]
    labels: tuple[str, ...]
    potentials: dict[str, str]
    masses: dict[str, float]
    orbitals: dict[str, str]


def _lines(path: pathlib.Path) -> list[str]:
    text = read_text(path, missing="it is the structure of the ABACUS run", strict=False)
    plain = (re.sub(r"(//|#).*", "", line).strip() for line in text.splitlines())
    return [line for line in plain if line]


def read_input(path: pathlib.Path) -> dict[str, str]:
    """Keywords of an ``INPUT`` (lower case) and their values; empty where there is no such file.

    Args:
        path: the file.
    """
    if not path.is_file():
        return {}
    pairs = (line.split(None, 1) for line in _lines(path))
    return {pair[0].lower(): pair[1].strip() for pair in pairs if len(pair) == 2}


def read_stru(path: pathlib.Path, lattice: NDArray[np.float64] | None = None) -> Stru:
    """Read a ``STRU``.

    Args:
        path: the file.
        lattice: (3, 3), Å; for a file without vectors (INPUT's ``latname`` makes them).

    Raises:
        DataError: it is missing or damaged, or has no lattice vectors.
    """
    sections: dict[str, list[str]] = {}
    name = ""
    for line in _lines(path):
        if line.split()[0] in _SECTIONS:
            name = line.split()[0]
            sections[name] = []
        elif name:
            sections[name].append(line)
    for need in ("ATOMIC_SPECIES", "LATTICE_CONSTANT", "LATTICE_VECTORS", "ATOMIC_POSITIONS"):
        if need not in sections and not (need == "LATTICE_VECTORS" and lattice is not None):
            more = (
                "; write the vectors instead of INPUT's latname"
                if need == "LATTICE_VECTORS"
                else ""
            )
            raise DataError(f"{path}: has no {need}{more}")
    try:
        return _parse(sections, lattice)
    except (ValueError, IndexError) as error:
        raise DataError(f"{path}: damaged ({error})") from None


def _parse(sections: dict[str, list[str]], lattice: NDArray[np.float64] | None) -> Stru:
    species = [line.split() for line in sections["ATOMIC_SPECIES"]]
    files = [line.split()[0] for line in sections.get("NUMERICAL_ORBITAL", [])]
    constant = float(sections["LATTICE_CONSTANT"][0].split()[0]) * BOHR_A
    if "LATTICE_VECTORS" in sections:
        rows = [line.split()[:3] for line in sections["LATTICE_VECTORS"][:3]]
        lattice = np.array(rows, float).reshape(3, 3) * constant
    if lattice is None:
        raise ValueError("no lattice vectors")
    kind, *lines = sections["ATOMIC_POSITIONS"]
    labels: list[str] = []
    positions: list[list[float]] = []
    place = 0
    while place < len(lines):
        label, count = lines[place].split()[0], int(lines[place + 2].split()[0])
        block = lines[place + 3 : place + 3 + count]
        if len(block) < count:
            raise ValueError(f"{len(block)} of {count} atoms of species {label}")
        labels += [label] * count
        positions += [[float(word) for word in line.split()[:3]] for line in block]
        place += 3 + count
    unknown = sorted(set(labels) - {line[0] for line in species})
    if unknown:
        raise ValueError(f"species {', '.join(unknown)} is not in ATOMIC_SPECIES")
    return Stru(
        lattice,
        _fractional(kind.split()[0], np.array(positions, float).reshape(-1, 3), lattice, constant),
        tuple(labels),
        {line[0]: line[2] if len(line) > 2 else "" for line in species},
        {line[0]: float(line[1]) for line in species if len(line) > 1},
        {line[0]: file for line, file in zip(species, files, strict=False)},
    )


def _fractional(
    kind: str, table: NDArray[np.float64], lattice: NDArray[np.float64], constant: float
) -> NDArray[np.float64]:
    """Positions of any of STRU's coordinate kinds as fractions of the lattice vectors."""
    if kind == "Direct":
        return table
    inverse = np.linalg.inv(lattice)
    center = re.fullmatch(r"Cartesian_angstrom_center_(x?y?z?)", kind)
    if kind == "Cartesian":
        return table * constant @ inverse
    if kind == "Cartesian_au":
        return table * BOHR_A @ inverse
    angstrom = table * (BOHR_A / 0.529177)  # ABACUS' own constant for these two kinds
    if kind == "Cartesian_angstrom":
        return angstrom @ inverse
    if center:
        axes = np.array([axis in center.group(1) for axis in "xyz"], float)
        return (angstrom + axes * lattice.sum(axis=0) / 2) @ inverse
    raise ValueError(f"coordinates of kind '{kind}' are unknown")
