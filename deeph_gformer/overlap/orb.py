"""ABACUS numerical-orbital files, ``.orb``."""

from __future__ import annotations

import os
import pathlib

import numpy as np

from ..errors import DataError
from .basis import AtomicBasis
from .basis_text import basis_lines, require_l

__all__ = ["read_orb"]


def read_orb(path: str | os.PathLike[str]) -> AtomicBasis:
    """Read an ABACUS numerical-orbital file.

    Shells come in the order of the file (l ascending), as ABACUS and ``orbital_types.dat`` have
    them.

    Raises:
        DataError: the file is missing or is no ABACUS orbital file.
    """
    from ase.data import atomic_numbers

    path = pathlib.Path(path)
    lines = basis_lines(path)
    head: dict[str, str] = {}
    starts = [n for n, line in enumerate(lines) if line.split()[:3] == ["Type", "L", "N"]]
    for line in lines[: starts[0] if starts else None]:
        words = line.rsplit(maxsplit=1)
        if len(words) == 2:
            head[words[0].strip()] = words[1]
    try:
        number = atomic_numbers[head["Element"]]
        mesh, step = int(head["Mesh"]), float(head["dr"])
        cutoff = float(head["Radius Cutoff(a.u.)"])
        shells, orbitals = [], []
        for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):
            shells.append(int(lines[start + 1].split()[1]))
            orbitals.append(np.array(" ".join(lines[start + 2 : end]).split(), dtype=float))
    except (KeyError, ValueError, IndexError) as error:
        raise DataError(
            f"{path}: not an ABACUS orbital file (missing or damaged: {error})"
        ) from None
    if not starts or any(len(o) != mesh for o in orbitals):
        raise DataError(
            f"{path}: not an ABACUS orbital file, or cut short; {mesh} values per orbital were "
            f"announced, found {[len(o) for o in orbitals]}"
        )
    require_l(path, shells)
    radius = np.asarray(step * np.arange(mesh), np.float64)
    return AtomicBasis(
        number, tuple(shells), radius, np.array(orbitals), cutoff, str(path)
    ).normalised(near=True)
