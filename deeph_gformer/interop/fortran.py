"""Fortran's unformatted files as other compilers write them: record markers and logicals.

A sequential unformatted file is a row of records, each between two markers of its length. gfortran
and most others write markers of 4 bytes and ``.true.`` as 1; Intel's compilers write ``.true.`` as
-1, old gfortran and some options write markers of 8 bytes, and some machines are big-endian.
"""

from __future__ import annotations

import pathlib
import struct
from typing import NamedTuple

from ..errors import DataError

__all__ = ["Records", "normalised", "read_records"]


class Records(NamedTuple):
    """Where the records of a file stand.

    Attributes:
        starts: first byte of each record's content.
        lengths: bytes of each.
        marker: bytes of a marker, 4 or 8.
    """

    starts: list[int]
    lengths: list[int]
    marker: int


def read_records(data: bytes, path: pathlib.Path) -> Records:
    """The records of a file.

    Args:
        data: its content.
        path: for messages.

    Raises:
        DataError: it is big-endian, cut short, or has no such records.
    """
    for marker, code in ((4, "<i"), (8, "<q"), (4, ">i"), (8, ">q")):
        if len(data) < 2 * marker:
            break
        (length,) = struct.unpack(code, data[:marker])
        end = marker + length
        if length < 0 or data[end : end + marker] != data[:marker]:
            continue
        if code.startswith(">"):
            raise DataError(
                f"{path}: written by a big-endian machine; convert it where it was written, or "
                "write a .nc file there"
            )
        return _walk(data, path, marker, code)
    raise DataError(f"{path}: no unformatted Fortran file, or cut short in its first record")


def _walk(data: bytes, path: pathlib.Path, marker: int, code: str) -> Records:
    starts: list[int] = []
    lengths: list[int] = []
    place = 0
    while place < len(data):
        head = data[place : place + marker]
        length = struct.unpack(code, head)[0] if len(head) == marker else -1
        # a negative marker: the record goes on in a next one (beyond 2 GiB)
        end = place + marker + abs(length)
        if len(head) < marker or len(data) < end + marker:
            raise DataError(
                f"{path}: cut short, record {len(starts) + 1} ends after the file's {len(data)} "
                "bytes"
            )
        if abs(struct.unpack(code, data[end : end + marker])[0]) != abs(length):
            raise DataError(f"{path}: damaged, record {len(starts) + 1} has two different lengths")
        starts.append(place + marker)
        lengths.append(abs(length))
        place = end + marker
    return Records(starts, lengths, marker)


def normalised(path: pathlib.Path, logical_record: int, size_record: int) -> bytes | None:
    """The file with markers of 4 bytes and logicals that are 0 or 1; None where it is like that.

    Args:
        path: the file.
        logical_record: number, from 0, of the record that holds nothing but logicals.
        size_record: number of the one that holds numbers of atoms, orbitals, elements: what a
            reader takes memory for.

    Raises:
        DataError: see :func:`read_records`; or sizes that such a file cannot hold.
    """
    data = path.read_bytes()
    records = read_records(data, path)
    content = [data[s : s + n] for s, n in zip(records.starts, records.lengths, strict=True)]
    sizes = content[size_record] if size_record < len(content) else b""
    for size in struct.unpack(f"<{len(sizes) // 4}i", sizes[: len(sizes) // 4 * 4]):
        if not 0 <= size <= len(data):
            raise DataError(f"{path}: damaged, it announces {size} atoms, orbitals or elements")
    changed = records.marker != 4
    if logical_record < len(content) and len(content[logical_record]) % 4 == 0:
        count = len(content[logical_record]) // 4
        flags = struct.unpack(f"<{count}i", content[logical_record])
        plain = struct.pack(f"<{count}i", *(int(flag != 0) for flag in flags))
        changed = changed or plain != content[logical_record]
        content[logical_record] = plain
    if not changed:
        return None
    marks = [struct.pack("<i", len(part)) for part in content]
    return b"".join(
        piece for mark, part in zip(marks, content, strict=True) for piece in (mark, part, mark)
    )
