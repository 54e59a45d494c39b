"""Structures and matrices in memory -> a folder of any format; the order of atoms that a format
asks for.

DeepH-dock's POSCAR has its atoms grouped by element. Atoms that are not are permuted together with
the block keys, and the permutation is kept in ``info.json`` (``deeph_gformer: {"atom_order":
[...]}``: for each atom of the POSCAR, its number, from 0, in the structure that was given).
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import fields
from ..bands import BlochProblem
from ..io import BlockMatrix, Structure
from ..io.blocks import sort_keys
from ..io.folder import Format, Kind, write_matrix
from ..io.formats import get_format
from ..io.gauge import FERMI_KEYS, OURS

__all__ = [
    "ATOM_ORDER",
    "element_order",
    "permute_structure",
    "permute_matrix",
    "with_order",
    "write_folder",
    "write_problem",
]

ATOM_ORDER = "atom_order"


def element_order(structure: Structure) -> NDArray[np.int64]:
    """(N,), old index of each atom once atoms are grouped by element.

    Elements by first appearance, atoms of one element in their order.

    Args:
        structure: the atoms.
    """
    _, first, which = np.unique(structure.numbers, return_index=True, return_inverse=True)
    return np.argsort(first[which.reshape(-1)], kind="stable")


def permute_structure(structure: Structure, order: NDArray[np.int64]) -> Structure:
    """Atoms in another order: new atom n is old atom ``order[n]``.

    Args:
        structure: the atoms.
        order: (N,).
    """
    return dataclasses.replace(
        structure,
        positions=structure.positions[order],
        numbers=structure.numbers[order],
        orbital_types=tuple(structure.orbital_types[n] for n in order.tolist()),
    )


def permute_matrix(matrix: BlockMatrix, order: NDArray[np.int64]) -> BlockMatrix:
    """Blocks of the same atoms under their new numbers; see :func:`permute_structure`.

    Args:
        matrix: H or S.
        order: (N,).
    """
    keys = matrix.keys.copy()
    keys[:, 3:] = np.argsort(order)[keys[:, 3:]]
    renamed = dataclasses.replace(matrix, keys=keys)
    return (
        renamed
        if (sort_keys(keys) == np.arange(len(keys))).all()
        else renamed.select(np.arange(len(keys)))
    )


def with_order(info: dict[str, Any], order: NDArray[np.int64] | None) -> dict[str, Any]:
    """The same ``info.json`` with another stored order of atoms, or none.

    Args:
        info: content of ``info.json``.
        order: (N,), see the module.
    """
    ours = {k: v for k, v in dict(info.get(OURS) or {}).items() if k != ATOM_ORDER}
    if order is not None:
        ours[ATOM_ORDER] = order.tolist()
    rest = {k: v for k, v in info.items() if k != OURS}
    return rest | ({OURS: ours} if ours else {})


def write_folder(
    target: str | os.PathLike[str],
    structure: Structure,
    matrices: Mapping[Kind, BlockMatrix],
    form: Format = "legacy",
) -> tuple[list[str], list[str]]:
    """Write a structure and its matrices.

    Args:
        target: folder.
        structure: atoms, shells and ``info``; H is spin-doubled where it says ``spinful``.
        matrices: by kind, legacy orbital order.
        form: a folder format; atoms are grouped by element where it asks for that.

    Returns:
        (names of the matrix files, notes).
    """
    target, notes = pathlib.Path(target), []
    order, identity = np.arange(len(structure)), np.arange(len(structure))
    if get_format(form).grouped:
        order = element_order(structure)
    if (order != identity).any():
        notes.append(
            f"atoms grouped by element for {form}; their old numbers are kept in "
            f"{fields.INFO_FILE}, {OURS}.{ATOM_ORDER}"
        )
    info = {
        "nsites": len(structure),
        "isorthogonal": False,
        "norbits": int(structure.orbital_counts.sum()),
        **with_order(structure.info, order if (order != identity).any() else None),
    }
    moved = dataclasses.replace(permute_structure(structure, order), info=info)
    get_format(form).write_structure(target, moved)
    files = []
    for kind, matrix in matrices.items():
        doubled = kind != "overlap" and bool(structure.spinful)
        path = write_matrix(target, kind, permute_matrix(matrix, order), moved, form, doubled)
        files.append(path.name)
    return files, notes


def write_problem(
    target: str | os.PathLike[str], problem: BlochProblem, form: Format = "legacy"
) -> list[str]:
    """Write structure, H and S of a problem as a folder; returns the names of the matrix files.

    Args:
        target: folder.
        problem: e.g. from sisl or GPAW.
        form: ``legacy`` or ``dock`` (atoms are grouped by element then).
    """
    info = dict(problem.structure.info)
    if problem.predicted:  # a level that the structure brings along is DFT's
        info = {k: v for k, v in info.items() if k not in FERMI_KEYS} | {"gauge": "unknown"}
    structure = dataclasses.replace(problem.structure, spinful=problem.spinful, info=info)
    return write_folder(target, structure, {"hamiltonian": problem.h, "overlap": problem.s}, form)[
        0
    ]
