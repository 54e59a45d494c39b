"""H(k) and S(k) from the orbitals that a PySCF calculation left."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import DataError

__all__ = ["check_filling", "check_numbers", "of_orbitals"]


#: Largest |C† S C - 1| of orbitals that a calculation left.
_ORTHONORMAL = 1e-5
#: Largest difference of energies at k and -k, Hartree, and of the number of electrons.
_UNEQUAL, _ELECTRONS = 1e-3, 1e-2


def check_numbers(kpts: NDArray[np.number], table: dict[str, NDArray[np.number]]) -> None:
    """Raise unless the arrays of a checkpoint are numbers in double precision.

    Args:
        kpts: (K, 3).
        table: ``mo_coeff``, ``mo_energy`` and ``mo_occ``.

    Raises:
        TypeError: names the one that is not.
    """
    for name, value in {"kpts": kpts, **table}.items():
        allowed = ("<f8", "<c16") if name == "mo_coeff" else ("<f8",)
        if value.dtype.str not in allowed or not np.isfinite(value).all():
            raise TypeError(f"{name} holds no finite numbers in double precision")
    if kpts.ndim != 2 or kpts.shape[1] != 3:
        raise ValueError("kpts is no list of points")


def check_filling(
    cell: Any,
    fractional: NDArray[np.float64],
    table: dict[str, NDArray[np.number]],
    where: pathlib.Path,
) -> None:
    """Raise unless energies at k and -k are equal, and occupations hold the cell's electrons.

    Args:
        cell: PySCF's.
        fractional: (K, 3), the k-points, a whole mesh.
        table: ``mo_energy`` and ``mo_occ`` of the checkpoint.
        where: for messages.

    Raises:
        DataError: they do not.
    """
    e, f = table["mo_energy"], table["mo_occ"]
    apart = fractional[:, None] + fractional[None]
    partner = np.abs(apart - np.round(apart)).sum(axis=2).argmin(axis=1)
    if np.abs(e - e[..., partner, :]).max() > _UNEQUAL:
        raise DataError(f"{where}: damaged, energies at k and -k differ")
    most, wanted = 2.0 if e.ndim == 2 else 1.0, float(cell.tot_electrons())
    there = float(f.sum()) / len(fractional)
    if f.shape != e.shape or f.min() < 0 or f.max() > most or abs(there - wanted) > _ELECTRONS:
        raise DataError(
            f"{where}: damaged, its occupations make {there:.6g} electrons, the cell has {wanted:g}"
        )


def of_orbitals(
    cell: Any, kpts: NDArray[np.float64], table: dict[str, NDArray[np.number]], where: pathlib.Path
) -> tuple[list[list[NDArray[np.number]]], list[NDArray[np.number]]]:
    """H(k) of each spin and S(k) from all orbitals at each k-point: C† S C = 1, H = S C ε C† S.

    Args:
        cell: PySCF's.
        kpts: (K, 3), 1/bohr.
        table: ``mo_coeff`` and ``mo_energy`` of the checkpoint.
        where: for messages.

    Raises:
        DataError: there are fewer orbitals than basis functions, or they are damaged.
    """
    s = [np.asarray(m) for m in cell.pbc_intor("int1e_ovlp", hermi=1, kpts=kpts)]
    c, e = table["mo_coeff"], table["mo_energy"]
    c, e = (c[None], e[None]) if e.ndim == 2 else (c, e)
    if c.shape[-2:] != s[0].shape:
        raise DataError(
            f"{where}: {c.shape[-1]} orbitals for {len(s[0])} basis functions (linear dependence "
            "was removed); H between basis functions is unknown: use a "
            "basis without diffuse functions"
        )
    _check_orbitals(c, e, s, where)
    return [
        [s[k] @ c[spin][k] * e[spin][k] @ c[spin][k].conj().T @ s[k] for k in range(len(kpts))]
        for spin in range(len(e))
    ], s


def _check_orbitals(
    c: NDArray[np.number],
    e: NDArray[np.number],
    s: Sequence[NDArray[np.number]],
    where: pathlib.Path,
) -> None:
    """Raise unless orbitals are orthonormal in this cell's S, and their energies real and sorted: a
    checkpoint of another cell, or a damaged one, would give another H in silence.

    Args:
        c: (spins, K, n, n).
        e: (spins, K, n), Hartree.
        s: S(k).
        where: for messages.

    Raises:
        DataError: they are not.
    """
    if c.shape[:-1] != e.shape or c.shape[1] != len(s) or np.iscomplexobj(e):
        raise DataError(
            f"{where}: damaged, its orbitals and their energies do not fit its k-points"
        )
    one = np.eye(len(s[0]))
    off = max(
        float(np.abs(part[k].conj().T @ s[k] @ part[k] - one).max())
        for part in c
        for k in range(len(s))
    )
    if not off < _ORTHONORMAL:
        raise DataError(
            f"{where}: its orbitals are not orthonormal in its own cell and basis (by {off:.1e}): "
            "damaged, or of another structure"
        )
    if not (np.diff(e, axis=-1) > -1e-6).all():
        raise DataError(f"{where}: damaged, the energies of its orbitals are not in order")
