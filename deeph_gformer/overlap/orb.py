"""ABACUS numerical-orbital files, ``.orb``."""

from __future__ import annotations

import os
import pathlib

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from .basis import AtomicBasis
from .basis_text import basis_lines, require_l

__all__ = ["read_orb"]

#: Orbitals are sums of spherical waves up to the energy cutoff, q ≤ √(2E): on a grid that is far
#: finer than 1/q their eighth differences vanish like (q dr)⁸. Of the largest value, real files
#: of 100 Ry have 2e-7 at most; one value that is off by δ adds 70 δ.
_SMOOTH, _FINE_BOHR = 2e-5, 0.0101


def _require_smooth(
    orbitals: NDArray[np.float64], step: float, energy_Ry: float, path: pathlib.Path
) -> None:
    """Raise where one value does not fit those beside it.

    Args:
        orbitals: (shells, mesh), R(r).
        step: of the grid, bohr.
        energy_Ry: cutoff of the waves.
        path: for the message.

    Raises:
        DataError: names the orbital and the radius.
    """
    if orbitals.shape[1] < 9 or step > _FINE_BOHR or not energy_Ry <= 250:
        return
    with np.errstate(invalid="ignore", over="ignore"):
        change = np.abs(np.diff(orbitals, 8, axis=1))
        rough = change.max(axis=1) > _SMOOTH * np.abs(orbitals).max(axis=1)
    if rough.any():
        worst = int(rough.argmax())
        radius = (int(change[worst].argmax()) + 4) * step
        raise DataError(
            f"{path}: a value of orbital {worst} at about {radius:.3g} bohr does not fit those "
            "beside it; the file is damaged"
        )


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
        energy = float(head.get("Energy Cutoff(Ry)", "0"))
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
    radius, functions = np.asarray(step * np.arange(mesh), np.float64), np.array(orbitals)
    basis = AtomicBasis(number, tuple(shells), radius, functions, cutoff, str(path))
    found = basis.normalised(near=True)
    _require_smooth(functions, step, energy, path)
    return found
