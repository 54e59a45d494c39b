"""Many small contiguous HDF5 datasets, whose object headers are read as one table.

Files of DeepH hold one dataset per block, written alike, so all object headers (version 1, HDF5
File Format Specification, IV.A) are the same bytes but for the shape and for where the values
stand. Where a file is not like that - filters, chunks, attributes, headers of another version -
nothing is read here, and the caller opens dataset after dataset.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray

__all__ = ["Contiguous", "contiguous_datasets", "header_places"]

_DATASPACE, _LAYOUT, _CONTINUATION = 0x0001, 0x0008, 0x0010
_PREFIX, _MESSAGE = 16, 8  # bytes of an object header and of a message header


class Contiguous(NamedTuple):
    """Every dataset of a file's root group.

    Attributes:
        names: in the file's order.
        shapes: (n, 2).
        starts: (n,), first byte of the values in the file.
        dtype: of all.
        data: the file's bytes.
    """

    names: list[str]
    shapes: NDArray[np.int64]
    starts: NDArray[np.int64]
    dtype: np.dtype
    data: NDArray[np.uint8]

    def block(self, number: int) -> NDArray[np.number]:
        """The values of one dataset, flat; a view of the file."""
        start = int(self.starts[number])
        rows, columns = self.shapes[number].tolist()
        return np.frombuffer(self.data, self.dtype, rows * columns, start)


def contiguous_datasets(handle: h5py.File) -> Contiguous | None:
    """Where all matrices of a file stand.

    Args:
        handle: the open file; another one may have its name by now.

    Returns:
        None where one of them is stored in another way than the first, or in a way that this
        function does not know.
    """
    links: list[tuple[bytes, int, int]] = []
    try:
        handle.id.links.iterate(
            lambda name, info: links.append((name, info.type, info.u)), info=True
        )
        if (
            not links
            or handle.userblock_size
            or any(kind != h5py.h5l.TYPE_HARD for _, kind, _ in links)
        ):
            return None
        first = h5py.h5d.open(handle.id, links[0][0])
        dtype = first.dtype
        usual = first.get_type().equal(h5py.h5t.py_create(dtype, logical=True))
        names = [name.decode() for name, _, _ in links]
    except (KeyError, ValueError, OSError, TypeError, RuntimeError):  # no dataset, or a damaged one
        return None
    if (
        not usual
        or dtype not in (np.float32, np.float64, np.complex64, np.complex128)
        or not dtype.isnative
        or struct.pack("=H", 1) != struct.pack("<H", 1)
    ):
        return None
    with open(handle.id.get_vfd_handle(), "rb", closefd=False) as file:
        data = np.memmap(file, np.uint8, "r")
    if any(address >= len(data) for _, _, address in links):
        return None
    addresses = np.array([address for _, _, address in links], dtype=np.int64)
    places = header_places(data, int(addresses[0]))
    if places is None:
        return None
    dimensions, layout, length = places
    if (addresses + length > len(data)).any():
        return None
    headers = data[addresses[:, None] + np.arange(length)]
    fixed = np.ones(length, dtype=bool)
    for place, size in (
        (dimensions, 32),
        (layout + 2, 16),
    ):  # two dimensions and their maxima; address and size
        fixed[place : place + size] = False
    if (headers[:, fixed] != headers[0, fixed]).any():
        return None

    def numbers(place: int, count: int) -> NDArray[np.int64]:
        return np.ascontiguousarray(headers[:, place : place + 8 * count]).view("<i8")

    shapes, (starts, sizes) = numbers(dimensions, 2), numbers(layout + 2, 2).T
    if (
        (shapes.prod(axis=1) * dtype.itemsize != sizes).any()
        or (starts <= 0).any()
        or (starts + sizes > len(data)).any()
    ):
        return None
    return Contiguous(names, shapes, starts, dtype, data)


def header_places(data: NDArray[np.uint8], address: int) -> tuple[int, int, int] | None:
    """In an object header: where dimensions and layout stand, and its length to there."""
    head = data[address : address + _PREFIX].tobytes()
    if len(head) < _PREFIX or head[0] != 1:
        return None
    count, _, size = struct.unpack("<HII", head[2:12])
    body = data[address : address + _PREFIX + size].tobytes()
    place, dimensions, layout = _PREFIX, None, None
    for _ in range(count):
        if place + _MESSAGE > len(body):
            return None
        kind, length = struct.unpack("<HH", body[place : place + 4])
        value = body[place + _MESSAGE : place + _MESSAGE + length]
        if kind == _CONTINUATION:
            return None
        if kind == _DATASPACE:
            if (
                value[:3] != b"\x01\x02\x01" or length < 40
            ):  # version 1, two dimensions, with their maxima
                return None
            dimensions = place + _MESSAGE + 8
        if kind == _LAYOUT:
            if value[:2] != b"\x03\x01" or length < 18:  # version 3, contiguous
                return None
            layout = place + _MESSAGE
        place += _MESSAGE + length
    return (
        None
        if dimensions is None or layout is None
        else (dimensions, layout, max(dimensions + 32, layout + 18))
    )
