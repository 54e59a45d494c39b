"""Opening HDF5 files of others: only what the file itself holds, and only as much as it can hold.

HDF5 can point out of a file (external links, external storage, virtual datasets) and can announce
datasets that take no room (unallocated, or compressed a thousandfold). Both are refused.
"""

from __future__ import annotations

import os
import pathlib

import h5py
import numpy as np
from numpy.typing import NDArray

from ...errors import DataError, printable, reason
from ..files import require_file

__all__ = ["open_hdf5", "open_dataset", "number_type", "read_numbers", "require_memory"]

#: Values may take so many times the bytes of their file (compression), or _ALWAYS bytes.
_RATIO, _ALWAYS = 100, 2**26
#: Integers up to here are exact as float64.
_EXACT = 2**53


def open_hdf5(path: str | os.PathLike[str]) -> h5py.File:
    """Open a file for reading.

    Args:
        path: the file.

    Raises:
        DataError: it is missing, no regular file, or no HDF5 file.
    """
    path = require_file(path)
    try:
        return h5py.File(path, "r")
    except (OSError, RuntimeError, ValueError) as error:
        require_file(path)  # or another process removed it meanwhile
        raise DataError(
            f"{path}: not a readable HDF5 file, damaged or cut short ({reason(error)})"
        ) from None


def require_memory(path: pathlib.Path, descriptor: int, size: int, what: str) -> None:
    """Raise where a file announces far more than it can hold, before memory is taken for it.

    Args:
        path: the file, for messages.
        descriptor: of the open file; another one may have its name by now.
        size: bytes of the values that it announces.
        what: name of them, for the message.

    Raises:
        DataError: it does.
    """
    there = os.fstat(descriptor).st_size
    if size > max(_ALWAYS, _RATIO * there):
        raise DataError(
            f"{path}: {what} announces {size / 2**20:.0f} MiB, the file has {there / 2**20:.2f} "
            f"MiB: not allocated, or compressed more than {_RATIO} times; write it again without "
            "compression if it is right"
        )


def open_dataset(handle: h5py.File, path: pathlib.Path, name: str) -> h5py.h5d.DatasetID:
    """A dataset that lies in this very file, with all of its values.

    Args:
        handle: the open file.
        path: the same file, for messages.
        name: of the dataset; soft links inside the file are followed.

    Raises:
        DataError: it points out of the file, is no dataset, is empty, or is damaged.
    """
    try:
        _require_inside(handle.id, path, name)
        dataset = h5py.h5d.open(handle.id, name.encode())
        properties = dataset.get_create_plist()
        virtual = properties.get_layout() == h5py.h5d.VIRTUAL
        if virtual or (
            properties.get_layout() == h5py.h5d.CONTIGUOUS and properties.get_external_count()
        ):
            kind = "a virtual dataset" if virtual else "stored in another file"
            raise DataError(f"{path}: {printable(name)} is {kind}; copy its values into the file")
        if dataset.shape is None:
            raise DataError(f"{path}: {printable(name)} is empty, it has no shape")
        return dataset
    except (KeyError, ValueError, OSError, TypeError, RuntimeError) as error:
        raise DataError(f"{path}: {printable(name)} cannot be read ({reason(error)})") from None


def _require_inside(
    group: h5py.h5g.GroupID, path: pathlib.Path, name: str, followed: int = 0
) -> None:
    """Raise where a path of names leads through a link to another file.

    Raises:
        DataError: it does.
        KeyError: a name is not there.
    """
    parts = [part for part in name.split("/") if part not in ("", ".")]
    for depth, part in enumerate(parts):
        link = group.links.get_info(part.encode())
        if link.type == h5py.h5l.TYPE_SOFT and followed < 16:
            target = group.links.get_val(part.encode()).decode("utf-8", "replace")
            start = h5py.h5i.get_file_id(group) if target.startswith("/") else group
            start = h5py.h5g.open(start, b"/") if target.startswith("/") else start
            _require_inside(start, path, target, followed + 1)
        elif link.type != h5py.h5l.TYPE_HARD:
            raise DataError(
                f"{path}: {printable(name)} is a link to another file; copy the data into this one"
            )
        if depth + 1 < len(parts):
            group = h5py.h5g.open(group, part.encode())


def number_type(dataset: h5py.h5d.DatasetID, where: str) -> np.dtype:
    """float32, float64, complex64 or complex128: the smallest that holds the values of a dataset.

    Half precision becomes float32, integers and extended precision float64.

    Args:
        dataset: opened.
        where: file and name, for the message.

    Raises:
        DataError: it holds no numbers.
    """
    try:
        found = dataset.dtype
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"{where} holds no numbers ({reason(error)})") from None
    if found.kind not in "fciu":
        raise DataError(f"{where} holds no numbers ({printable(str(found))})")
    if found.kind == "c":
        return np.dtype(np.complex64 if found.itemsize <= 8 else np.complex128)
    single = found.kind == "f" and found.itemsize <= 4
    return np.dtype(np.float32 if single else np.float64)


def read_numbers(dataset: h5py.h5d.DatasetID, where: str) -> NDArray[np.number]:
    """All values of a dataset in the type of :func:`number_type`.

    Args:
        dataset: opened.
        where: file and name, for the message.

    Raises:
        DataError: damaged, no numbers, or integers that float64 cannot hold.
    """
    kind = number_type(dataset, where)
    try:
        values = np.empty(dataset.shape, dtype=dataset.dtype)
        dataset.read(h5py.h5s.ALL, h5py.h5s.ALL, values)
    except (ValueError, OSError, TypeError, RuntimeError) as error:
        raise DataError(f"{where} cannot be read ({reason(error)})") from None
    if values.dtype.kind in "iu" and values.size:
        if max(abs(int(values.max())), abs(int(values.min()))) > _EXACT:
            raise DataError(
                f"{where} holds integers beyond 2^53, which are no energies or overlaps"
            )
    with np.errstate(over="ignore"):
        return values.astype(kind)
