"""ABACUS' sparse text matrices: the old layout (``data-HR-sparse_SPIN0.csr``) and that of
HContainers (``hrs1_nao.csr``).

Both hold, for every lattice vector with elements, ``Rx Ry Rz nnz`` and the values, column indices
and row pointers of a CSR matrix over all orbitals of the cell; complex values stand as ``(re,im)``.
The newer one has a header with the structure, and comments (``#``). Between them, versions wrote
the old layout under the new names, so the file's head decides.
"""

from __future__ import annotations

import dataclasses
import pathlib
import re
import warnings

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from ...errors import DataError
from ...io.files import require_file

__all__ = ["SparseFile", "read_csr"]

_PLAIN = bytes.maketrans(b"(),", b"   ")


@dataclasses.dataclass(frozen=True)
class SparseFile:
    """One matrix X(R).

    Attributes:
        size: number of orbitals of the cell, spin included.
        cells: (C, 3), the lattice vectors R.
        matrices: C matrices (size, size) of <home cell | X | cell R>, in the file's unit.
        spins: number of spin directions that the header names, 0 where it names none.
        counts: atoms of each species in the header's structure; empty where there is none.
        fractional: (N, 3), positions in the header's structure, or None.
        folded: whether the file holds one matrix summed over all R (a Γ-only run).
    """

    size: int
    cells: NDArray[np.int64]
    matrices: list[sp.csr_matrix]
    spins: int = 0
    counts: tuple[int, ...] = ()
    fractional: NDArray[np.float64] | None = None
    folded: bool = False


def read_csr(path: pathlib.Path) -> SparseFile:
    """Read a matrix in either layout.

    Args:
        path: the file.

    Raises:
        DataError: no such file, cut short, damaged, several ionic steps, or another layout.
    """
    try:
        data = require_file(path).read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    steps = len(re.findall(rb"^\s*(?:STEP:|--- Ionic Step)", data, re.MULTILINE))
    if steps > 1:
        raise DataError(
            f"{path}: holds {steps} ionic steps one after the other; convert a single-point run "
            "of the structure that is wanted"
        )
    head = data[:65536]
    if b"number of localized basis" in head:
        return _container(path, data)
    found = re.match(
        rb"\s*(?:STEP:[^\n]*\n)?\s*Matrix Dimension of [^\n]*?:\s*(\d+)\s*\n\s*Matrix number of "
        rb"[^\n]*?:\s*(\d+)\s*\n",
        head,
    )
    if not found:
        raise DataError(
            f"{path}: no sparse matrix of ABACUS in a layout known here (3.0 to 3.11, text): it "
            f"starts with {head[:40].decode('utf-8', 'replace')!r}; 'out_mat_hs2 1' writes one"
        )
    size = int(found.group(1))
    return SparseFile(size, *_body(path, data[found.end() :], size, False, int(found.group(2))))


def _container(path: pathlib.Path, data: bytes) -> SparseFile:
    """The newer layout."""
    split = re.search(rb"CSR Format.*?^\s*#-{10,}#?\s*$", data, re.MULTILINE | re.DOTALL)
    if not split:
        raise DataError(f"{path}: cut short in its header")
    head, body = data[: split.end()].decode("utf-8", "replace"), data[split.end() :]

    def number(what: str) -> int:
        found = re.search(rf"^\s*(\d+)\s*#\s*{what}", head, re.MULTILINE)
        if not found:
            raise DataError(f"{path}: its header does not tell the {what}")
        return int(found.group(1))

    size = number("number of localized basis")
    counts, fractional = _header_structure(head)
    parts = re.sub(rb"^[ \t]*#[^\n]*\n?", b"", body, flags=re.MULTILINE)
    cells, matrices = _body(path, parts, size, True, None)
    folded = "folded" in head.lower()
    return SparseFile(
        size, cells, matrices, number("number of spin directions"), counts, fractional, folded
    )


def _header_structure(head: str) -> tuple[tuple[int, ...], NDArray[np.float64] | None]:
    """(atoms of each species, fractional positions) of the newer layout's header."""
    lines = [line.strip() for line in head.splitlines()]
    place = next((n for n, line in enumerate(lines) if line.lower() == "direct"), 0)
    try:
        counts = tuple(int(word) for word in lines[place - 1].split()) if place > 1 else ()
        rows = [line.split()[:3] for line in lines[place + 1 : place + 1 + sum(counts)]]
        return counts, np.array(rows, float).reshape(sum(counts), 3) if counts else None
    except (ValueError, IndexError):
        return (), None


def _numbers(path: pathlib.Path, text: bytes) -> NDArray[np.float64]:
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)
        try:
            return np.fromstring(text.translate(_PLAIN), dtype=np.float64, sep=" ")
        except (DeprecationWarning, ValueError):
            bad = next((w for w in text.translate(_PLAIN).split() if not _is_number(w)), b"?")
            raise DataError(f"{path}: damaged: {bad[:40]!r} is no number") from None


def _is_number(word: bytes) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _body(
    path: pathlib.Path, body: bytes, size: int, labelled: bool, expected: int | None
) -> tuple[NDArray[np.int64], list[sp.csr_matrix]]:
    """The matrices of all lattice vectors.

    Args:
        path: for messages.
        body: the text after the header, without comments.
        size: orbitals of the cell.
        labelled: whether a matrix without elements has row pointers, too.
        expected: number of matrices that the header announces, where all are written.
    """
    numbers, width = _numbers(path, body), 2 if b"(" in body else 1
    cells: list[NDArray[np.int64]] = []
    matrices: list[sp.csr_matrix] = []
    place = 0
    while place < len(numbers):
        head = numbers[place : place + 4]
        if len(head) < 4 or (head != np.round(head)).any() or head[3] < 0:
            raise _damaged(
                path, len(cells), "does not start with Rx Ry Rz and a number of elements"
            )
        count, place = int(head[3]), place + 4
        ends = np.cumsum([place, count * width, count, size + 1])
        if count == 0 and not (labelled and not numbers[place : place + size + 1].any()):
            ends[3] = ends[2]
        if ends[3] > len(numbers):
            raise _damaged(path, len(cells), "is cut short; copy the file again")
        values = numbers[ends[0] : ends[1]].copy()
        columns, rows = numbers[ends[1] : ends[2]], numbers[ends[2] : ends[3]]
        place = int(ends[3])
        cells.append(head[:3].astype(np.int64))
        if not count:
            matrices.append(sp.csr_matrix((size, size)))
            continue
        if (
            rows[0] != 0
            or rows[-1] != count
            or (np.diff(rows) < 0).any()
            or columns.min() < 0
            or columns.max() >= size
            or (columns != np.round(columns)).any()
        ):
            raise _damaged(path, len(cells) - 1, "has impossible column indices or row pointers")
        matrices.append(
            sp.csr_matrix(
                (
                    values.view(np.complex128) if width == 2 else values,
                    columns.astype(np.int64),
                    rows.astype(np.int64),
                ),
                shape=(size, size),
            )
        )
    if not cells or (expected is not None and len(cells) < expected):
        raise DataError(
            f"{path}: cut short: {len(cells)} matrices instead of {expected or 'one at least'}"
        )
    return np.array(cells), matrices


def _damaged(path: pathlib.Path, number: int, what: str) -> DataError:
    return DataError(f"{path}: damaged: matrix number {number + 1} {what}")
