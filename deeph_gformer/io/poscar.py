"""POSCAR files by ASE, once their own numbers have been held against their size."""

from __future__ import annotations

import os
import pathlib
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..errors import DataError, printable
from .files import read_text

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["read_poscar"]


def _check_kind(lines: Sequence[str], path: pathlib.Path) -> None:
    """Raise unless the word before the positions says what they are; other readers take every word
    but Cartesian for fractional.

    Raises:
        DataError: it says nothing.
    """
    if lines and lines[0].strip()[:1].lower() == "s":  # Selective dynamics
        lines = lines[1:]
    word = lines[0].strip() if lines else ""
    if word[:1].lower() not in ("d", "f", "c", "k"):
        raise DataError(
            f"{path}: '{printable(word)[:40]}' stands before the positions; Direct or Cartesian is "
            "needed there"
        )


def read_poscar(path: str | os.PathLike[str]) -> Atoms:
    """The structure of a POSCAR, atoms in its order.

    Args:
        path: the file.

    Raises:
        DataError: it is missing, no POSCAR, or announces more atoms than it has lines.
    """
    from ase.io.vasp import read_vasp

    path = pathlib.Path(path)
    lines = read_text(path).splitlines()
    for number, line in enumerate(lines[5:7], start=5):
        words = line.split()
        counts = [int(word[:18]) for word in words if word.isascii() and word.isdigit()]
        if not words or len(counts) != len(words):
            continue
        if sum(counts) > len(lines):
            raise DataError(f"{path}: {sum(counts)} atoms are announced, in {len(lines)} lines")
        _check_kind(lines[number + 1 : number + 3], path)
        break
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return read_vasp(path)
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - a parser of another package, on any text
        reason = printable(str(error).strip() or type(error).__name__)[:200]
        raise DataError(f"{path}: not a POSCAR ({reason})") from None
