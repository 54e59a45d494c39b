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
import typing
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import fields
from ..bands import BlochProblem
from ..errors import DataError
from ..io import BlockMatrix, Structure, read_folder, read_matrix
from ..io.blocks import sort_keys
from ..io.folder import Format, Kind, has_matrix, write_matrix
from ..io.formats import get_format
from ..io.gauge import FERMI_KEYS, OURS

__all__ = [
    "ATOM_ORDER",
    "element_order",
    "permute_structure",
    "permute_matrix",
    "with_order",
    "rewrite_folder",
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


def _stored_order(
    info: dict[str, Any], count: int, where: pathlib.Path
) -> NDArray[np.int64] | None:
    ours = info.get(OURS)
    order = ours.get(ATOM_ORDER) if isinstance(ours, dict) else None
    if order is None:
        return None
    if sorted(order) != list(range(count)):
        raise DataError(
            f"{where / fields.INFO_FILE}: {ATOM_ORDER} is no permutation of the {count} atoms; "
            "was an atom added or removed? Delete the entry to "
            "keep the order of the POSCAR"
        )
    return np.array(order, dtype=np.int64)


def rewrite_folder(
    source: pathlib.Path, target: pathlib.Path, form: Format
) -> tuple[list[str], list[str]]:
    """Write a structure folder, in any format, as one of another.

    Args:
        source: folder.
        target: folder to fill.
        form: its format; an order of atoms that another format asked for is undone where it can be.

    Returns:
        (names of the matrix files, notes).

    Raises:
        DataError: the folder is damaged, or cannot be written.
    """
    structure, notes, files = read_folder(source), [], []
    if structure.spinful is None:  # no file says so: spin-doubled shapes tell
        candidates: tuple[Kind, ...] = ("hamiltonian", "prediction")
        kinds = [kind for kind in candidates if has_matrix(source, kind)]
        structure = dataclasses.replace(
            structure, spinful=_doubled(source, kinds[0], structure) if kinds else None
        )
    order, remembered = np.arange(len(structure)), None
    if get_format(form).grouped:
        order = element_order(structure)
        if (order != np.arange(len(order))).any():
            remembered = order
            notes.append(
                f"atoms grouped by element for the POSCAR: POSCAR atoms 1 to {len(order)} are "
                f"atoms {' '.join(str(n + 1) for n in order[:20].tolist())}"
                + (" ..." if len(order) > 20 else "")
                + f" of {source.name} (kept in {fields.INFO_FILE}, {OURS}.{ATOM_ORDER})"
            )
    else:
        stored = _stored_order(structure.info, len(structure), source)
        if stored is not None:
            order = np.argsort(stored)
            notes.append(
                f"atoms put back into the order that {fields.INFO_FILE} remembers "
                f"({OURS}.{ATOM_ORDER})"
            )
    moved = permute_structure(structure, order)
    moved = dataclasses.replace(moved, info=with_order(structure.info, remembered))
    get_format(form).write_structure(target, moved)
    for kind in typing.get_args(Kind):
        if not has_matrix(source, kind):
            continue
        doubled = kind != "overlap" and bool(structure.spinful)
        matrix = permute_matrix(read_matrix(source, kind, structure, doubled), order)
        files.append(write_matrix(target, kind, matrix, moved, form, doubled).name)
    return files, notes


def _doubled(source: pathlib.Path, kind: Kind, structure: Structure) -> bool:
    """Whether the blocks of a folder without a word on spin are spin-doubled."""
    try:
        read_matrix(source, kind, structure, False)
    except DataError:
        return True
    return False


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
