"""POSCAR files by ASE, once their own numbers have been held against their size."""

from __future__ import annotations

import os
import pathlib
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..errors import DataError, printable, reason
from .files import MAX_TEXT, read_text, require_file

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["read_frames", "read_poscar"]


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


def _check_counts(lines: list[str], path: pathlib.Path) -> None:
    """Raise where a POSCAR announces more atoms than it has lines, or does not say which kind its
    positions are of.

    Raises:
        DataError: it does.
    """
    for number, line in enumerate(lines[5:7], start=5):
        words = line.split()
        counts = [int(word[:18]) for word in words if word.isascii() and word.isdigit()]
        if not words or len(counts) != len(words):
            continue
        if sum(counts) > len(lines):
            raise DataError(
                f"{path}: {sum(counts)} atoms are announced, in {len(lines)} lines; is it cut "
                "short?"
            )
        _check_kind(lines[number + 1 : number + 3], path)
        return


def read_frames(path: str | os.PathLike[str]) -> list[Atoms]:
    """The structures of a file that ASE reads; of a POSCAR what :func:`read_poscar` checks.

    Args:
        path: a regular file; ``NAME@INDEX`` as ASE has it.

    Raises:
        DataError: no regular file, too large, or announces more atoms than it has lines.
        Exception: whatever ASE's reader raises.
    """
    from ase import Atoms
    from ase.io import read
    from ase.io.formats import filetype

    place, index = pathlib.Path(path), ":"
    if not os.path.lexists(place) and "@" in place.name:
        name, _, index = place.name.rpartition("@")
        place = place.with_name(name or "@")
    require_file(place, MAX_TEXT)
    if filetype(str(place)) == "vasp":
        _check_counts(read_text(place, strict=False).splitlines(), place)
    found = read(str(place), index=index, do_not_split_by_at_sign=True)
    frames = found if isinstance(found, list) else [found]
    return [frame for frame in frames if isinstance(frame, Atoms)]


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
    _check_counts(lines, path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return read_vasp(path)
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - a parser of another package, on any text
        raise DataError(f"{path}: not a POSCAR ({reason(error)})") from None
