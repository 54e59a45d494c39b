"""An HDF5 file of many matrices in its root group, written as a few tables.

The root group is an old-style one (HDF5 File Format Specification, III.A-D and IV.A.2.r): a B-tree
of symbol table nodes with the names in a local heap, the form that HDF5 itself writes unless told
otherwise, and that every version reads. A dataset's object header is the one that the HDF5 library
makes for such a matrix; only its dimensions and the place of its values are filled in. Values stand
at the end of the file in the order given, without gaps, so that several processes can write theirs.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import pathlib
import struct
from collections.abc import Sequence

import h5py
import numpy as np
from numpy.typing import NDArray

from ...errors import DataError
from ..shared import Writers
from .contiguous import header_places
from .writing import claim_space, new_hdf5

__all__ = ["SharedMatrices", "matrices_size", "write_matrices", "write_values"]

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


@dataclasses.dataclass(frozen=True)
class _Places:
    """Where everything stands in a file.

    Attributes:
        count: matrices.
        slot: bytes of a name.
        values: bytes of all values.
        dtype: of all.
    """

    count: int
    slot: int
    values: int
    dtype: np.dtype

    @functools.cached_property
    def header(self) -> tuple[NDArray[np.uint8], int, int]:
        """See :func:`_header`."""
        return _header(self.dtype)

    @property
    def leaves(self) -> int:
        """Symbol table nodes."""
        return -(-self.count // (2 * _LEAF))

    @property
    def heap(self) -> int:
        """First byte of the names, after eight empty ones."""
        return _SUPERBLOCK + _ROOT + _HEAP

    @property
    def tree(self) -> int:
        """Of the B-tree."""
        return self.heap + 8 + self.count * self.slot

    @property
    def nodes(self) -> int:
        """Of the symbol table nodes."""
        return self.tree + _tree_nodes(self.leaves) * _TREE_BYTES

    @property
    def headers(self) -> int:
        """Of the object headers."""
        return self.nodes + self.leaves * _NODE_BYTES

    @property
    def start(self) -> int:
        """Of the values."""
        return self.headers + self.count * len(self.header[0])

    def begin(self, path: str | os.PathLike[str]) -> None:
        """Give the file its size; write what does not depend on the matrices."""
        leaves, end = self.leaves, self.start + self.values
        last = np.minimum(np.arange(1, leaves + 1) * 2 * _LEAF, self.count) - 1
        nodes = self.nodes + np.arange(leaves) * _NODE_BYTES
        branches, root = _tree(8 + last * self.slot, nodes, self.tree)
        superblock = b"\x89HDF\r\n\x1a\n" + struct.pack(
            "<8BHHI", 0, 0, 0, 0, 0, 8, 8, 0, _LEAF, _INTERNAL, 0
        )
        # base, free space, end of file, driver; the root group
        superblock += struct.pack("<4Q", 0, _UNDEFINED, end, _UNDEFINED)
        superblock += struct.pack("<QQIIQQ", 0, _SUPERBLOCK, 1, 0, root, _SUPERBLOCK + _ROOT)
        group = struct.pack("<BBHIIxxxx", 1, 0, 1, 1, 24) + struct.pack(
            "<HHBxxxQQ", 0x0011, 16, 0, root, _SUPERBLOCK + _ROOT
        )
        names = 8 + self.count * self.slot  # 1: nothing is free
        store = b"HEAP" + struct.pack("<BxxxQQQ", 0, names, 1, self.heap)
        claim_space(path, end)
        with open(path, "r+b") as out:
            out.write(superblock + group + store + bytes(8))
            out.seek(self.tree)
            out.write(branches)

    def write_names(
        self,
        path: str | os.PathLike[str],
        first: int,
        names: NDArray[np.bytes_],
        number: NDArray[np.int64],
    ) -> None:
        """Some names, in order, and their symbol table nodes.

        Args:
            path: the file.
            first: how many names stand before, a multiple of 2 _LEAF.
            names: (n,); unless they are the last, n is a multiple of 2 _LEAF.
            number: (n,), which matrix each one is.
        """
        count = len(names)
        if not count:
            return
        leaves = -(-count // (2 * _LEAF))
        entries = np.zeros(leaves * 2 * _LEAF, _ENTRY)
        entries["name"][:count] = 8 + (first + np.arange(count)) * self.slot
        entries["header"][:count] = self.headers + number * len(self.header[0])
        table = np.zeros((leaves, _NODE_BYTES), np.uint8)
        table[:, :8] = np.frombuffer(b"SNOD" + struct.pack("<BBH", 1, 0, 2 * _LEAF), np.uint8)
        rest = struct.pack("<H", count - (leaves - 1) * 2 * _LEAF)
        table[-1, 6:8] = np.frombuffer(rest, np.uint8)
        table[:, 8:] = entries.view(np.uint8).reshape(leaves, -1)
        with open(path, "r+b") as out:
            out.seek(self.heap + 8 + first * self.slot)
            out.write(names.astype(f"S{self.slot}").tobytes())
            out.seek(self.nodes + first // (2 * _LEAF) * _NODE_BYTES)
            out.write(table.data)

    def write_headers(
        self,
        path: str | os.PathLike[str],
        first: int,
        before: int,
        shapes: NDArray[np.int64],
    ) -> None:
        """Object headers of some matrices.

        Args:
            path: the file.
            first: number of the first one.
            before: bytes of the values before its own.
            shapes: (n, 2).
        """
        header, dimensions, layout = self.header
        sizes = np.asarray(shapes, dtype=np.int64).prod(axis=1) * self.dtype.itemsize
        starts = self.start + before + np.concatenate([[0], np.cumsum(sizes)])
        with open(path, "r+b") as out:
            out.seek(self.headers + first * len(header))
            for start in range(0, len(shapes), _CHUNK):
                part = slice(start, min(start + _CHUNK, len(shapes)))
                rows = np.tile(header, (part.stop - start, 1))
                rows[:, dimensions : dimensions + 32] = np.tile(
                    np.asarray(shapes[part], "<i8"), 2
                ).view(np.uint8)  # and the maxima
                rows[:, layout : layout + 16] = (
                    np.stack([starts[:-1][part], sizes[part]], axis=1).astype("<i8").view(np.uint8)
                )
                out.write(rows.data)


def write_matrices(
    path: str | os.PathLike[str],
    names: NDArray[np.bytes_],
    shapes: NDArray[np.int64],
    dtype: np.dtype,
) -> int:
    """Write everything but the values.

    Args:
        path: an existing file, which is replaced.
        names: (n,), of the datasets, all different, without "/".
        shapes: (n, 2), rows and columns.
        dtype: of all.

    Returns:
        First byte of the values: those of dataset 0, then of dataset 1, ... without gaps; the file
        has its full size already, on the disk, too.

    Raises:
        OSError: the disk is full.
    """
    file = SharedMatrices(names, shapes, dtype)
    start = file.begin(path)
    file.fill(path)
    return start


class SharedMatrices:
    """A file of many matrices, see :class:`..shared.SharedFile`: every process sorts a part of the
    names and writes it, and the object headers of its own matrices. The file is, byte for byte,
    the same as that of one process.

    Args:
        names: (n,), of this process's datasets, all different, without "/".
        shapes: (n, 2), rows and columns.
        dtype: of all.
        writers: the processes; None: one.
    """

    def __init__(
        self,
        names: NDArray[np.bytes_],
        shapes: NDArray[np.int64],
        dtype: np.dtype,
        writers: Writers | None = None,
    ) -> None:
        dtype = np.dtype(dtype)
        rank = 0 if writers is None else writers.rank
        size = int(np.asarray(shapes, dtype=np.int64).prod(axis=1).sum()) * dtype.itemsize
        mine = (len(names), int(np.char.str_len(names).max(initial=0)), size)
        every = [mine] if writers is None else writers.objects(mine)
        counts, longest, sizes = zip(*every, strict=True)
        slot = -(-(max(longest) + 1) // 8) * 8
        self._places = _Places(sum(counts), slot, sum(sizes), dtype)
        self._first, self._before = sum(counts[:rank]), sum(sizes[:rank])
        self._shapes = shapes
        text = names.astype(f"S{slot}")
        order = np.argsort(text, kind="stable")
        self._names, self._number = text[order], self._first + order
        self._position = 0
        if writers is not None and writers.size > 1 and self._places.count:
            self._sort(writers)

    def begin(self, path: str | os.PathLike[str]) -> int:
        """See :class:`..shared.SharedFile`."""
        if not self._places.count:
            with new_hdf5(path):
                pass
            return os.path.getsize(path)
        self._places.begin(path)
        return self._places.start

    def fill(self, path: str | os.PathLike[str]) -> None:
        """See :class:`..shared.SharedFile`."""
        if self._places.count:
            self._places.write_names(path, self._position, self._names, self._number)
            self._places.write_headers(path, self._first, self._before, self._shapes)

    def _sort(self, writers: Writers) -> None:
        """Sorted names of all processes, in consecutive parts that end with a full node."""
        sample = self._names[
            np.linspace(0, len(self._names) - 1, min(256, len(self._names))).astype(int)
        ]
        known = np.sort(np.concatenate(writers.objects(sample)))
        marks = known[np.arange(1, writers.size) * len(known) // writers.size]
        places = [0, *np.searchsorted(self._names, marks), len(self._names)]
        self._deal(writers, np.diff(places).tolist())
        order = np.argsort(self._names, kind="stable")
        self._names, self._number = self._names[order], self._number[order]
        bounds = np.cumsum([0, *writers.objects(len(self._names))])
        full = 2 * _LEAF
        node = (bounds[writers.rank] + np.arange(len(self._names))) // full
        owner = np.searchsorted(bounds, node * full, side="right") - 1
        self._deal(writers, np.bincount(owner, minlength=writers.size).tolist())
        self._position = -(-int(bounds[writers.rank]) // full) * full

    def _deal(self, writers: Writers, counts: Sequence[int]) -> None:
        """Send names and numbers on."""
        slot = self._places.slot
        words = np.ascontiguousarray(self._names).view(np.int64).reshape(-1, slot // 8)
        rows = writers.deal(np.column_stack([words, self._number]), counts)
        self._names = np.ascontiguousarray(rows[:, :-1]).view(f"S{slot}").reshape(-1)
        self._number = rows[:, -1]


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
