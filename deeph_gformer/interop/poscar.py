"""A structure as a POSCAR file, atoms grouped by element."""

from __future__ import annotations

import dataclasses
import pathlib
import tempfile

import numpy as np

from .. import fields
from ..io import dock, read_folder
from ..io.files import atomic_path
from .exports import Export, ExportSource
from .folders import element_order, permute_structure

__all__ = ["EXPORT", "write_poscar"]


def write_poscar(target: pathlib.Path, source: pathlib.Path) -> tuple[list[str], list[str]]:
    """Write the structure of a folder.

    Args:
        target: file.
        source: structure folder.

    Returns:
        (files, notes).

    Raises:
        DataError: the folder is damaged, or the file cannot be written.
    """
    structure = read_folder(source)
    order = element_order(structure)
    notes = []
    if (order != np.arange(len(order))).any():
        notes.append(
            "atoms grouped by element; the order differs from that of the folder: "
            + " ".join(str(n + 1) for n in order.tolist())
        )
    moved = dataclasses.replace(permute_structure(structure, order), info={})
    with tempfile.TemporaryDirectory() as scratch, atomic_path(target) as temporary:
        dock.write_structure(scratch, moved)
        poscar = pathlib.Path(scratch) / fields.DOCK_STRUCTURE_FILE
        temporary.write_bytes(poscar.read_bytes())
    return [target.name], notes


def _export(target: pathlib.Path, source: ExportSource) -> tuple[list[str], list[str]]:
    return write_poscar(target, source.folder)


EXPORT = Export("poscar", _export, suffix=".vasp", options=())
