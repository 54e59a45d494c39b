"""An HDF5 file of many matrices in its root group, written as a few tables.

The root group is an old-style one (HDF5 File Format Specification, III.A-D and IV.A.2.r): a B-tree
of symbol table nodes with the names in a local heap, the form that HDF5 itself writes unless told
otherwise, and that every version reads. A dataset's object header is the one that the HDF5 library
makes for such a matrix; only its dimensions and the place of its values are filled in. Values stand
at the end of the file in the order given, without gaps, so that several processes can write theirs.
"""

from __future__ import annotations

import os
import pathlib
import struct
from collections.abc import Sequence

import h5py
import numpy as np
from numpy.typing import NDArray

from ...errors import DataError
from .contiguous import header_places
from .writing import claim_space

__all__ = ["matrices_size", "write_matrices", "write_values"]

_UNDEFINED = 2**64 - 1
#: Symbol table nodes hold up to 2 _LEAF names, nodes of the B-tree up to 2 _INTERNAL children; both
#: are named in the superblock.
_LEAF, _INTERNAL = 32, 64
_SUPERBLOCK, _ROOT, _HEAP = 96, 40, 32
_ENTRY = np.dtype(
    [("name", "<u8"), ("header", "<u8"), ("cache", "<u4"), ("reserved", "<u4"), ("scratch", "V16")]
)
_NODE_BYTES, _TREE_BYTES = 8 + 2 * _LEAF * _ENTRY.itemsize, 24 + (4 * _INTERNAL + 1) * 8
#: Object headers that are in memory at a time.
_CHUNK = 2**16


def _header(dtype: np.dtype) -> tuple[NDArray[np.uint8], int, int]:
    """The object header of a matrix as HDF5 writes it, without padding.

    Returns:
        Its bytes, and where in them its dimensions and its layout's address stand.
    """
    with h5py.File(
        "matrix", "w", driver="core", backing_store=False, libver=("earliest", "v108")
    ) as handle:
        handle["block"] = np.ones((1, 1), dtype=dtype)
        handle.flush()
        image = np.frombuffer(handle.id.get_file_image(), np.uint8)
        address = int(h5py.h5o.get_info(handle["block"].id).addr)
    messages, size, place = [], 0, address + 16
    for _ in range(struct.unpack("<H", image[address + 2 : address + 4].tobytes())[0]):
        kind, length = struct.unpack("<HH", image[place : place + 4].tobytes())
        if kind:  # zero: padding
            messages.append(image[place : place + 8 + length])
            size += 8 + length
        place += 8 + length
    head = struct.pack("<BBHIIxxxx", 1, 0, len(messages), 1, size)
    header = np.concatenate([np.frombuffer(head, np.uint8), *messages])
    places = header_places(header, 0)
    if image[address] != 1 or places is None:
        raise DataError(
            f"HDF5 {h5py.version.hdf5_version} does not write object headers of version 1 when "
            "asked to; use another h5py"
        )
    return header, places[0], places[1] + 2


def _tree(last: NDArray[np.int64], nodes: NDArray[np.int64], start: int) -> tuple[bytes, int]:
    """The B-tree above the symbol table nodes.

    Args:
        last: heap offset of the last name in each node.
        nodes: their addresses.
        start: address of the tree.

    Returns:
        Its bytes and the address of its root.
    """
    out, children, level = [], nodes, 0
    while True:
        count = -(-len(children) // (2 * _INTERNAL))
        addresses = start + np.arange(count) * _TREE_BYTES
        for n in range(count):
            part = slice(2 * _INTERNAL * n, 2 * _INTERNAL * (n + 1))
            keys, below = last[part], children[part]
            left = int(addresses[n - 1]) if n else _UNDEFINED
            right = int(addresses[n + 1]) if n + 1 < count else _UNDEFINED
            node = np.zeros(_TREE_BYTES, np.uint8)
            node[:24] = np.frombuffer(
                b"TREE" + struct.pack("<BBHQQ", 0, level, len(below), left, right), np.uint8
            )
            table = np.empty(
                2 * len(below) + 1, "<u8"
            )  # names of a child come after the key before it, up to the key after it
            table[0], table[1::2], table[2::2] = last[part.start - 1] if n else 0, below, keys
            node[24 : 24 + table.nbytes] = table.view(np.uint8)
            out.append(node.tobytes())
        last = last[np.minimum(np.arange(1, count + 1) * 2 * _INTERNAL, len(last)) - 1]
        children, start, level = addresses, start + count * _TREE_BYTES, level + 1
        if count == 1:
            return b"".join(out), int(addresses[0])


def _tree_nodes(leaves: int) -> int:
    """How many nodes the B-tree above so many symbol table nodes has."""
    total = 0
    while True:
        leaves = -(-leaves // (2 * _INTERNAL))
        total += leaves
        if leaves == 1:
            return total


def matrices_size(count: int, values: int) -> int:
    """About how many bytes a file takes.

    Args:
        count: matrices.
        values: bytes of all values.
    """
    return values + 300 * count + 2**16


def write_matrices(
    path: str | os.PathLike[str], names: Sequence[bytes], shapes: NDArray[np.int64], dtype: np.dtype
) -> int:
    """Write everything but the values.

    Args:
        path: an existing file, which is replaced.
        names: of the datasets, all different, without "/".
        shapes: (n, 2), rows and columns.
        dtype: of all.

    Returns:
        First byte of the values: those of dataset 0, then of dataset 1, ... without gaps; the file
        has its full size already, on the disk, too.

    Raises:
        OSError: the disk is full.
    """
    count, dtype = len(names), np.dtype(dtype)
    if not count:
        h5py.File(path, "w").close()
        return os.path.getsize(path)
    order = np.argsort(np.array(names, dtype="S"), kind="stable")
    header, dimensions, layout = _header(dtype)
    slot = -(-(max(map(len, names)) + 1) // 8) * 8
    leaves = -(-count // (2 * _LEAF))
    heap = _SUPERBLOCK + _ROOT + _HEAP
    tree = heap + 8 + count * slot
    nodes = tree + _tree_nodes(leaves) * _TREE_BYTES
    headers = nodes + leaves * _NODE_BYTES
    start = headers + count * len(header)
    sizes = np.asarray(shapes, dtype=np.int64).prod(axis=1) * dtype.itemsize
    starts = start + np.concatenate([[0], np.cumsum(sizes)])

    entries = np.zeros(leaves * 2 * _LEAF, _ENTRY)
    entries["name"][:count] = 8 + np.arange(count) * slot
    entries["header"][:count] = headers + order * len(header)
    table = np.zeros((leaves, _NODE_BYTES), np.uint8)
    table[:, :8] = np.frombuffer(b"SNOD" + struct.pack("<BBH", 1, 0, 2 * _LEAF), np.uint8)
    table[-1, 6:8] = np.frombuffer(struct.pack("<H", count - (leaves - 1) * 2 * _LEAF), np.uint8)
    table[:, 8:] = entries.view(np.uint8).reshape(leaves, -1)
    last = entries["name"][np.minimum(np.arange(1, leaves + 1) * 2 * _LEAF, count) - 1].astype(
        np.int64
    )
    branches, root = _tree(last, nodes + np.arange(leaves) * _NODE_BYTES, tree)

    superblock = b"\x89HDF\r\n\x1a\n" + struct.pack(
        "<8BHHI", 0, 0, 0, 0, 0, 8, 8, 0, _LEAF, _INTERNAL, 0
    )
    superblock += struct.pack(
        "<4Q", 0, _UNDEFINED, int(starts[-1]), _UNDEFINED
    )  # base, free space, end of file, driver
    superblock += struct.pack(
        "<QQIIQQ", 0, _SUPERBLOCK, 1, 0, root, _SUPERBLOCK + _ROOT
    )  # the root group
    group = struct.pack("<BBHIIxxxx", 1, 0, 1, 1, 24) + struct.pack(
        "<HHBxxxQQ", 0x0011, 16, 0, root, _SUPERBLOCK + _ROOT
    )
    store = b"HEAP" + struct.pack("<BxxxQQQ", 0, 8 + count * slot, 1, heap)  # 1: nothing is free
    text = np.array(names, dtype=f"S{slot}")[order]
    claim_space(path, int(starts[-1]))
    with open(path, "r+b") as out:
        out.write(superblock + group + store + bytes(8))
        out.write(text.tobytes())
        out.write(branches)
        out.write(table.data)
        for first in range(0, count, _CHUNK):
            part = slice(first, min(first + _CHUNK, count))
            rows = np.tile(header, (part.stop - first, 1))
            rows[:, dimensions : dimensions + 32] = np.tile(
                np.asarray(shapes[part], "<i8"), 2
            ).view(np.uint8)  # and the maxima
            rows[:, layout : layout + 16] = (
                np.stack([starts[:-1][part], sizes[part]], axis=1).astype("<i8").view(np.uint8)
            )
            out.write(rows.data)
    return start


def write_values(path: str | os.PathLike[str], start: int, values: NDArray[np.number]) -> None:
    """Write values into a file that is there already.

    Args:
        path: the file.
        start: first byte.
        values: in the file's type.

    Raises:
        OSError: the disk is full.
    """
    with open(pathlib.Path(path), "r+b") as out:
        out.seek(start)
        out.write(np.ascontiguousarray(values).data)
