"""The legacy DeepH folder of DeepH-pack and DeepH-E3: an HDF5 dataset per block, 1-based keys."""

from __future__ import annotations

import io
import os
import pathlib
import re
import warnings
from typing import NoReturn

import h5py
import numpy as np
from numpy.typing import NDArray

from .. import fields
from ..errors import DataError, printable
from .blocks import BlockMatrix, require_keys, sort_keys
from .files import atomic_path, read_json, read_text, real_path, write_json, write_text
from .formats import FolderFormat, info_for
from .hdf5.contiguous import contiguous_datasets
from .hdf5.names import dataset_names
from .hdf5.reading import (
    number_type,
    open_dataset,
    open_hdf5,
    read_numbers,
    require_memory,
)
from .hdf5.symbol_table import SharedMatrices, matrices_size, write_matrices, write_values
from .shared import Writers
from .structure import Structure

__all__ = [
    "read_structure",
    "write_structure",
    "read_blocks",
    "write_blocks",
    "read_keys",
    "reserve",
    "FORMAT",
]

_KEY = re.compile(r"\[ *-?[0-9]{1,9} *(?:, *-?[0-9]{1,9} *){4}\]")


_MISSING = f"a legacy DeepH folder needs {', '.join(fields.LEGACY_FILES)}"


def _table(path: pathlib.Path) -> NDArray[np.float64]:
    """The numbers of a text file, (rows, columns)."""
    text = read_text(path, missing=_MISSING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # an empty file: its shape is refused
            return np.loadtxt(io.StringIO(text), ndmin=2)
    except ValueError as error:
        raise DataError(f"{path}: not a table of numbers ({printable(str(error))[:200]})") from None


def _read_shells(path: pathlib.Path) -> tuple[tuple[int, ...], ...]:
    """l of each atom's shells, a line per atom."""
    rows = []
    lines = (line for line in read_text(path, missing=_MISSING).splitlines() if line.strip())
    for atom, line in enumerate(lines, 1):
        words = line.split()
        if any(not re.fullmatch("[+-]?[0-9]{1,9}", word) for word in words):
            raise DataError(
                f"{path}: each line holds the l of one atom's shells, as integers, not "
                f"'{printable(line[:60])}'"
            )
        shells = tuple(map(int, words))
        if any(l < 0 or l > 3 for l in shells):
            raise DataError(
                f"{path}: atom {atom} has l = {list(shells)[:20]}; the legacy format defines an "
                "orbital order for l = 0 to 3 only"
            )
        rows.append(shells)
    return tuple(rows)


def read_structure(folder: str | os.PathLike[str]) -> Structure:
    """Read the text files of :data:`~deeph_gformer.fields.LEGACY_FILES` and ``info.json``, if any.

    Args:
        folder: a legacy DeepH folder.

    Raises:
        DataError: a file is missing or damaged, or they do not belong together.
    """
    folder = pathlib.Path(folder)
    orbital_types = _read_shells(folder / fields.ORBITAL_TYPES_FILE)
    # a link to nothing is no missing file
    there = os.path.lexists(folder / fields.INFO_FILE)
    info = read_json(folder / fields.INFO_FILE) if there else {}
    if not isinstance(info, dict):
        raise DataError(
            f"{folder / fields.INFO_FILE}: holds no JSON object; names and values in braces are "
            'needed, e.g. {"isspinful": false}'
        )
    spinful = info.get("isspinful")
    if spinful is not None and not isinstance(spinful, bool):
        raise DataError(
            f"{folder / fields.INFO_FILE}: isspinful is {spinful!r}; it must be true or false"
        )
    lattice = _table(folder / fields.LATTICE_FILE)
    positions = _table(folder / fields.POSITIONS_FILE)
    numbers = _table(folder / fields.ELEMENTS_FILE).reshape(-1)
    if positions.shape[0] != 3:
        raise DataError(
            f"{folder / fields.POSITIONS_FILE}: shape {positions.shape}; three rows (x, y, z) "
            "with one column per atom are needed"
        )
    if (numbers != np.round(numbers)).any() or (numbers < 1).any() or (numbers > 118).any():
        raise DataError(
            f"{folder / fields.ELEMENTS_FILE}: atomic numbers must be integers from 1 to 118"
        )
    if lattice.shape != (3, 3):
        raise DataError(
            f"{folder / fields.LATTICE_FILE}: shape {lattice.shape} instead of (3, 3); its columns "
            "are the lattice vectors, Å"
        )
    try:
        return Structure(
            lattice.T.copy(),
            positions.T.copy(),
            numbers.astype(np.int64),
            orbital_types,
            spinful,
            info,
            real_path(folder).name,
        )
    except DataError as error:
        raise DataError(f"{folder}: {error}") from None


def write_structure(folder: str | os.PathLike[str], structure: Structure) -> None:
    """Write the text files of a legacy folder and, before them, ``info.json``.

    A folder is one of this format once its last file is there, so one that a killed process left
    is not taken for whole.

    Args:
        folder: created where it does not exist.
        structure: what to write; ``structure.info`` is kept, under the names of this format.
    """
    folder = pathlib.Path(folder)
    info = info_for(structure, FORMAT)
    if info.get("fermi_level", 0.0) is None:
        del info["fermi_level"]
    write_json(folder / fields.INFO_FILE, info)
    for name, table, pattern in (
        (fields.RECIPROCAL_FILE, structure.reciprocal.T, "%.17g"),
        (fields.ELEMENTS_FILE, structure.numbers[:, None], "%d"),
        (fields.LATTICE_FILE, structure.lattice.T, "%.17g"),
    ):
        with atomic_path(folder / name) as path:
            np.savetxt(path, table, fmt=pattern)
    write_text(
        folder / fields.ORBITAL_TYPES_FILE,
        "".join(" ".join(map(str, shells)) + "\n" for shells in structure.orbital_types),
    )
    with atomic_path(folder / fields.POSITIONS_FILE) as path:
        np.savetxt(path, structure.positions.T, fmt="%.17g")


def _names(handle: h5py.File, path: pathlib.Path) -> list[str]:
    """The names of all datasets.

    Raises:
        DataError: the file is damaged.
    """
    try:
        return [
            name if isinstance(name, str) else name.decode("utf-8", "replace") for name in handle
        ]
    except (KeyError, ValueError, OSError, RuntimeError) as error:
        raise DataError(
            f"{path}: damaged, its datasets cannot be listed ({str(error).splitlines()[0]})"
        ) from None


def _parse_keys(names: list[str], path: pathlib.Path, atoms: int) -> NDArray[np.int64]:
    """(E, 5), the block keys, 0-based, in the order of the names of datasets.

    Args:
        names: ``[Rx, Ry, Rz, i, j]``, 1-based.
        path: the file, for messages.
        atoms: how many the structure has.

    Raises:
        DataError: a name is no block key of this structure, or is there twice.
    """
    for name in names:
        if not _KEY.fullmatch(name):
            raise DataError(
                f"{path}: dataset '{printable(name)}' is no block key; block keys look like '[0, "
                "0, -1, 1, 2]' (Rx, Ry, Rz, i, j)"
            )
    keys = np.array(
        " ".join(names).translate(str.maketrans("[],", "   ")).split(), dtype=np.int64
    ).reshape(-1, 5)
    keys[:, 3:] -= 1
    require_keys(keys, atoms, str(path), 1)
    return keys


def read_keys(path: str | os.PathLike[str], structure: Structure) -> NDArray[np.int64]:
    """The block keys of an HDF5 file, without its values.

    Returns:
        (E, 5) int64, Rx Ry Rz i j, 0-based, canonical order.

    Raises:
        DataError: the file is missing or damaged, or a name is no block key of this structure.
    """
    path = pathlib.Path(path)
    with open_hdf5(path) as handle:
        keys = _parse_keys(_names(handle, path), path, len(structure))
    return keys[sort_keys(keys)]


def read_blocks(
    path: str | os.PathLike[str], structure: Structure, spinful: bool = False
) -> BlockMatrix:
    """Read H or S.

    Args:
        path: ``hamiltonians.h5``, ``overlaps.h5`` or ``hamiltonians_pred.h5``.
        structure: gives the shape that each block must have.
        spinful: whether blocks are spin-doubled (rows and columns twice the orbital count).

    Returns:
        The blocks in canonical order; float32/float64/complex64/complex128 as stored (one type for
        all).

    Raises:
        DataError: damaged file, wrong key, wrong shape, NaN or infinite values; the message names
            file and block.
    """
    path = pathlib.Path(path)
    factor = 2 if spinful else 1
    with open_hdf5(path) as handle:
        table = contiguous_datasets(handle)
        names = _names(handle, path) if table is None else table.names
        keys = _parse_keys(names, path, len(structure))
        order = sort_keys(keys)
        keys = keys[order]
        shapes = structure.orbital_counts[keys[:, 3:]] * factor
        offsets = np.concatenate([[0], np.cumsum(shapes.prod(axis=1))])
        require_memory(path, handle.id.get_vfd_handle(), 4 * int(offsets[-1]), "the matrix")
        if table is None:
            values = _read_each(handle, path, [names[n] for n in order], shapes, offsets, spinful)
        else:
            wrong = np.flatnonzero((table.shapes[order] != shapes).any(axis=1))
            if len(wrong):
                place, wanted = order[wrong[0]], shapes[wrong[0]]
                _wrong_shape(
                    path,
                    names[place],
                    tuple(table.shapes[place].tolist()),
                    tuple(wanted.tolist()),
                    spinful,
                )
            values = np.empty(offsets[-1], dtype=table.dtype)
            for start, stop, place in zip(
                offsets[:-1].tolist(), offsets[1:].tolist(), order.tolist(), strict=True
            ):
                values[start:stop] = table.block(place)
    matrix = BlockMatrix(keys, shapes, values)
    matrix.require_numbers(str(path))
    return matrix


def _wrong_shape(
    path: pathlib.Path, name: str, found: tuple[int, ...], wanted: tuple[int, int], spinful: bool
) -> NoReturn:
    """Say that a block has another shape than the orbitals of its atoms ask for.

    Raises:
        DataError: always.
    """
    hint = (
        ". It fits a spin-doubled matrix: is isspinful wrong in info.json?"
        if found == (2 * wanted[0], 2 * wanted[1]) and not spinful
        else ""
    )
    raise DataError(
        f"{path}: block {name} has shape {found}; the orbitals of its atoms ask for {wanted}"
        + (" (spin-doubled)" if spinful else "")
        + hint
    )


def _read_each(
    handle: h5py.File,
    path: pathlib.Path,
    names: list[str],
    shapes: NDArray[np.int64],
    offsets: NDArray[np.int64],
    spinful: bool,
) -> NDArray[np.number]:
    """Values of datasets that are stored in any way, flat, in one type that holds them all.

    Args:
        handle: the open file.
        path: the same file, for messages.
        names: of the datasets, E.
        shapes: (E, 2), what each must have.
        offsets: (E + 1,), where each begins in the result.
        spinful: whether blocks are spin-doubled, for messages.

    Raises:
        DataError: a block cannot be read, or has another shape; it is named.
    """
    every, usual = h5py.h5s.ALL, None
    values = np.empty(offsets[-1], dtype=np.float32)
    for e, (name, shape) in enumerate(zip(names, map(tuple, shapes.tolist()), strict=True)):
        dataset = open_dataset(handle, path, name)
        if dataset.shape != shape:
            _wrong_shape(path, name, dataset.shape, shape, spinful)
        part = values[offsets[e] : offsets[e + 1]].reshape(shape)
        try:
            kind = dataset.get_type()
            if usual is not None and kind.equal(usual):
                dataset.read(every, every, part)
                continue
            widest = np.result_type(values, number_type(dataset, f"{path}: block {name}"))
            if widest != values.dtype:  # e.g. complex after real blocks
                read, values = values[: offsets[e]], np.empty(offsets[-1], dtype=widest)
                values[: offsets[e]] = read
            part = values[offsets[e] : offsets[e + 1]].reshape(shape)
            part[...] = read_numbers(dataset, f"{path}: block {name}")
            usual = kind if dataset.dtype == values.dtype else None
        except (KeyError, ValueError, OSError, TypeError, RuntimeError) as error:
            raise DataError(
                f"{path}: block {name} cannot be read ({printable(str(error).splitlines()[0])})"
            ) from None
    return values


def reserve(
    path: str | os.PathLike[str],
    keys: NDArray[np.int64],
    shapes: NDArray[np.int64],
    dtype: np.dtype,
) -> int:
    """Write all of a file but the values.

    Args:
        path: an existing file, which is replaced.
        keys: (E, 5), 0-based.
        shapes: (E, 2).
        dtype: of all blocks.

    Returns:
        First byte of the values; they stand in the order of ``keys``, without gaps.

    Raises:
        OSError: the disk is full.
    """
    return write_matrices(path, _datasets(keys), shapes, dtype)


def _datasets(keys: NDArray[np.int64]) -> NDArray[np.bytes_]:
    """The names of datasets; ``keys``: (E, 5), 0-based."""
    return dataset_names(keys + (0, 0, 0, 1, 1))


def shared(
    keys: NDArray[np.int64], shapes: NDArray[np.int64], dtype: np.dtype, writers: Writers
) -> SharedMatrices:
    """:func:`reserve` by several processes, see :class:`FolderFormat`."""
    return SharedMatrices(_datasets(keys), shapes, dtype, writers)


def write_blocks(path: str | os.PathLike[str], matrix: BlockMatrix) -> None:
    """:meth:`FolderFormat.write_blocks` of this format, which needs no structure.

    Args:
        path: the file to create or replace.
        matrix: the blocks, legacy orbital order.

    Raises:
        DataError: not enough space, or the file cannot be written.
    """
    with atomic_path(path, matrices_size(len(matrix), matrix.values.nbytes)) as temporary:
        start = reserve(temporary, matrix.keys, matrix.shapes, matrix.values.dtype)
        write_values(temporary, start, matrix.values)


FORMAT = FolderFormat(
    name="legacy",
    title="DeepH (legacy)",
    required=fields.LEGACY_FILES,
    optional=(fields.RECIPROCAL_FILE, fields.INFO_FILE, fields.POSITION_MATRIX_FILE),
    files={
        "hamiltonian": fields.HAMILTONIAN_FILE,
        "overlap": fields.OVERLAP_FILE,
        "prediction": fields.PREDICTION_FILE,
    },
    read_structure=read_structure,
    write_structure=write_structure,
    read_keys=read_keys,
    read_blocks=read_blocks,
    reserve=reserve,
    shared=shared,
    size=matrices_size,
    info_names={
        "atoms": "nsites",
        "orbitals": "norbits",
        "orthogonal": "isorthogonal",
        "spinful": "isspinful",
        "fermi_level": "fermi_level",
    },
)
