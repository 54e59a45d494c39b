"""Position matrices ``<i, 0 | r | j, R>``: ``positions.h5``, DeepH-dock's ``position_matrix.h5``.

In both r counts from the origin of the coordinates, in Å, and matrices are spinless like S. Legacy:
one dataset per block and coordinate, ``[Rx, Ry, Rz, i, j, a]`` with i and j 1-based and a = 1, 2, 3
for x, y, z. Dock: the datasets of ``overlap.h5``, with ``entries`` of shape (3, n). In memory:
three matrices x, y, z with the same blocks, orbitals in the legacy order.
"""

from __future__ import annotations

import os
import pathlib
import re
from collections.abc import Sequence

import h5py
import numpy as np
from numpy.typing import NDArray

from .. import fields
from ..errors import DataError
from .blocks import BlockMatrix, require_keys, sort_keys
from .dock import read_integers, read_pairs, reorder
from .files import atomic_path
from .folder import folder_format, require_unchanged
from .hdf5.names import dataset_names
from .hdf5.reading import open_dataset, open_hdf5, read_numbers, require_memory
from .hdf5.symbol_table import matrices_size, write_matrices, write_values
from .hdf5.writing import atomic_hdf5
from .structure import Structure

__all__ = ["PositionMatrix", "position_path", "read_positions", "write_positions"]

#: x, y and z.
PositionMatrix = tuple[BlockMatrix, BlockMatrix, BlockMatrix]
_FILES = {
    "legacy": fields.POSITION_MATRIX_FILE,
    "dock": fields.DOCK_POSITION_MATRIX_FILE,
}
_NAME = re.compile(
    r"\[ *(-?[0-9]{1,9}), *(-?[0-9]{1,9}), *(-?[0-9]{1,9}), *([0-9]{1,9}), *([0-9]{1,9}), "
    r"*([123]) *\]"
)


def position_path(folder: str | os.PathLike[str], form: str | None = None) -> pathlib.Path:
    """Where a folder keeps its position matrix.

    Args:
        folder: a structure folder.
        form: ``legacy`` or ``dock``; default: the folder's own.

    Raises:
        DataError: the folder has neither format.
    """
    form = form or folder_format(folder)
    if form not in _FILES:
        raise DataError(
            f"{folder}: format '{form}' has no file for position matrices; legacy and dock have"
        )
    return pathlib.Path(folder) / _FILES[form]


def write_positions(
    folder: str | os.PathLike[str],
    matrices: Sequence[BlockMatrix],
    structure: Structure,
    form: str | None = None,
) -> pathlib.Path:
    """Write x, y and z in one step.

    Args:
        folder: of the structure.
        matrices: x, y and z, Å, with the same blocks, legacy orbital order.
        structure: gives the shells.
        form: see :func:`position_path`.

    Returns:
        The file.

    Raises:
        DataError: the matrices differ in their blocks, or the file cannot be written.
    """
    path = position_path(folder, form)
    x, y, z = matrices
    if not all(np.array_equal(x.keys, other.keys) for other in (y, z)):
        raise DataError(f"{path}: x, y and z have different blocks; give all three the same keys")
    values = sum(m.values.nbytes for m in matrices)
    if path.name == fields.POSITION_MATRIX_FILE:
        axes = np.tile([1, 2, 3], len(x))
        names = dataset_names(
            np.column_stack([np.repeat(x.keys + (0, 0, 0, 1, 1), 3, axis=0), axes])
        )
        mixed = np.empty(3 * len(x.values), dtype=x.values.dtype)
        size = np.diff(x.offsets)
        for axis, matrix in enumerate(matrices):
            start = 3 * x.offsets[:-1] + axis * size
            place = np.repeat(start - x.offsets[:-1], size) + np.arange(len(matrix.values))
            mixed[place] = matrix.values
        with atomic_path(path, matrices_size(len(names), values)) as temporary:
            first = write_matrices(temporary, names, np.repeat(x.shapes, 3, axis=0), mixed.dtype)
            write_values(temporary, first, mixed)
        return path
    with atomic_hdf5(path, values + 64 * len(x) + 8192) as handle:
        handle[fields.DOCK_PAIRS] = x.keys
        handle[fields.DOCK_SHAPES] = x.shapes
        handle[fields.DOCK_BOUNDARIES] = x.offsets
        handle[fields.DOCK_ENTRIES] = np.stack(
            [reorder(m, structure, False).values for m in matrices]
        )
    return path


def read_positions(folder: str | os.PathLike[str], structure: Structure) -> PositionMatrix:
    """Read x, y and z.

    Args:
        folder: of the structure.
        structure: gives atoms and shells.

    Returns:
        x, y and z, Å, with the same blocks in canonical order, legacy orbital order.

    Raises:
        DataError: the file is missing or damaged, or does not fit the structure.
    """
    path = position_path(folder)
    if not path.is_file():
        raise DataError(
            f"{path}: file not found; 'overlap predict --positions' makes it from basis files"
        )
    try:
        with open_hdf5(path) as handle:
            if path.name == fields.POSITION_MATRIX_FILE:
                keys, values = _legacy(handle, path, structure)
            else:
                keys, values = _dock(handle, path, structure)
    except (KeyError, OSError, RuntimeError, TypeError, ValueError) as error:
        raise DataError(
            f"{path}: damaged, or no position matrix ({str(error).splitlines()[0]})"
        ) from None
    shapes = structure.orbital_counts[keys[:, 3:]]
    matrices = [BlockMatrix(keys, shapes, component) for component in values]
    for matrix in matrices:
        matrix.require_numbers(str(path))
    if path.name == fields.DOCK_POSITION_MATRIX_FILE:
        matrices = [reorder(m, structure, False, inverse=True) for m in matrices]
    require_unchanged(pathlib.Path(folder), "overlap", structure)
    x, y, z = (m.select(np.arange(len(m))) for m in matrices)
    return x, y, z


def _legacy(
    handle: h5py.File, path: pathlib.Path, structure: Structure
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Keys (E, 5), sorted, and values (3, n)."""
    names = list(handle)
    numbers = np.empty((len(names), 6), dtype=np.int64)
    for row, name in enumerate(names):
        match = _NAME.fullmatch(name)
        if match is None:
            raise DataError(
                f"{path}: dataset '{name}' is no block of a position matrix; they look like "
                "'[0, 0, -1, 1, 2, 3]' (Rx, Ry, Rz, i, j, 1 to 3 for x to z)"
            )
        numbers[row] = [int(v) for v in match.groups()]
    numbers[:, 3:5] -= 1
    for axis in (1, 2, 3):
        require_keys(numbers[numbers[:, 5] == axis, :5], len(structure), str(path), 1)
    order = np.lexsort((numbers[:, 5], *(numbers[:, c] for c in (2, 1, 0, 4, 3))))
    numbers = numbers[order]
    whole = len(numbers) % 3 == 0 and (numbers[:, 5].reshape(-1, 3) == [1, 2, 3]).all()
    keys = numbers[::3, :5]
    if not whole or not np.array_equal(np.repeat(keys, 3, axis=0), numbers[:, :5]):
        raise DataError(f"{path}: not every block has one x, y and z")
    shapes = structure.orbital_counts[keys[:, 3:]]
    offsets = np.concatenate([[0], np.cumsum(shapes.prod(axis=1))])
    require_memory(path, handle.id.get_vfd_handle(), 12 * int(offsets[-1]), "the matrix")
    values = np.empty((3, offsets[-1]))
    for row, place in enumerate(order.tolist()):
        e, axis = divmod(row, 3)
        block = open_dataset(handle, path, names[place])
        if block.shape != tuple(shapes[e]):
            raise DataError(
                f"{path}: block {names[place]} has shape {block.shape}; the orbitals of its "
                f"atoms ask for {tuple(shapes[e].tolist())}"
            )
        values[axis, offsets[e] : offsets[e + 1]] = _reals(
            block, f"{path}: block {names[place]}"
        ).reshape(-1)
    return keys, values


def _dock(
    handle: h5py.File, path: pathlib.Path, structure: Structure
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Keys (E, 5), sorted, and values (3, n), orbitals in the order of the file."""
    keys = read_pairs(handle, path, structure)
    shapes = read_integers(handle, path, fields.DOCK_SHAPES, 2)
    bounds = read_integers(handle, path, fields.DOCK_BOUNDARIES, 1)
    entries = open_dataset(handle, path, fields.DOCK_ENTRIES)
    expected = structure.orbital_counts[keys[:, 3:]]
    if not (
        np.array_equal(shapes, expected)
        and np.array_equal(bounds, np.concatenate([[0], np.cumsum(expected.prod(axis=1))]))
        and entries.shape == (3, bounds[-1])
    ):
        raise DataError(
            f"{path}: its blocks are not those of this structure's orbitals, with 3 x {bounds[-1]} "
            f"entries (they are {entries.shape})"
        )
    size = 12 * int(bounds[-1])
    require_memory(path, handle.id.get_vfd_handle(), size, fields.DOCK_ENTRIES)
    order = sort_keys(keys)
    index = np.concatenate(
        [np.arange(bounds[e], bounds[e + 1]) for e in order] or [np.zeros(0, dtype=np.int64)]
    )
    return keys[order], _reals(entries, f"{path}: {fields.DOCK_ENTRIES}")[:, index]


def _reals(dataset: h5py.h5d.DatasetID, where: str) -> NDArray[np.float64]:
    """Values of a dataset; orbitals are real, so r between them is.

    Raises:
        DataError: they are complex.
    """
    values = read_numbers(dataset, where)
    if np.iscomplexobj(values):
        raise DataError(f"{where} is complex; positions between real orbitals are real")
    return values.astype(np.float64)
