"""OpenMX's binary ``.scfout``: neighbours, H, S, chemical potential and the input, as arrays.

No record markers and no padding; byte order of the machine that wrote it. The header's second word
is ``spin + 4 version``: version 0 is OpenMX 3.8 and older, 3 is 3.9, and 1 and 2 were development
versions. Lengths in bohr, energies in Hartree. The layout is public in OpenMX's ``read_scfout``;
the fields stand in the order in which :func:`read_scfout` takes them.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import DataError
from ...io.files import require_file

__all__ = ["Scfout", "read_scfout", "input_lines"]

_LINE = 256
#: Words of the header that the layouts known here start with: spin 0, 1, 3 of versions 0 to 3.
_NEWEST = 3
RELEASES = {0: "3.8 or older", 1: "3.7 (development)", 2: "3.7 (development)", 3: "3.9"}


@dataclasses.dataclass(frozen=True)
class Scfout:
    """The fields of one file; E pairs of atoms in the file's order, V values of one matrix.

    Attributes:
        version: of the layout, a key of ``RELEASES``.
        spin: 0 none, 1 collinear, 3 non-collinear.
        lattice: (3, 3), rows, bohr.
        positions: (N, 3), bohr; the cell indices count from here.
        orbital_counts: (N,).
        keys: (E, 5), Rx Ry Rz i j, 0-based.
        hamiltonian: (spin + 1, V), Hartree.
        imaginary: (3, V), Hartree; only where spin is 3.
        overlap: (V,).
        chemical_potential: Hartree.
        electrons: per cell.
        input_text: the run's input file.
        extra_bytes: bytes after the last known field.
    """

    version: int
    spin: int
    lattice: NDArray[np.float64]
    positions: NDArray[np.float64]
    orbital_counts: NDArray[np.int64]
    keys: NDArray[np.int64]
    hamiltonian: NDArray[np.float64]
    imaginary: NDArray[np.float64] | None
    overlap: NDArray[np.float64]
    chemical_potential: float
    electrons: float
    input_text: str
    extra_bytes: int


class _Fields:
    """Consecutive fields of the file's bytes, each checked against the end of the file."""

    def __init__(self, path: pathlib.Path) -> None:
        self.path = require_file(path)
        try:
            size = require_file(path).stat().st_size
            self.data = np.memmap(path, np.uint8, "r") if size else np.zeros(0, np.uint8)
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror})") from None
        self.place, self.order = 0, "<"

    def take(self, kind: str, count: int, what: str) -> NDArray[Any]:
        """``count`` numbers of ``kind`` ('i4', 'f8'); a view of the file."""
        dtype = np.dtype(self.order + kind)
        self.skip(kind, count, what)
        return np.frombuffer(self.data, dtype, count, self.place - count * dtype.itemsize)

    def skip(self, kind: str, count: int, what: str) -> None:
        """Step over ``count`` numbers of ``kind``."""
        end = self.place + int(count) * np.dtype(kind).itemsize
        if count < 0 or end > len(self.data):
            raise DataError(
                f"{self.path}: cut short or damaged: {what} would end at byte {end}, the file has "
                f"{len(self.data)}; copy it again, or run OpenMX again with 'HS.fileout on'"
            )
        self.place = end

    def table(self, kind: str, rows: int, what: str) -> NDArray[Any]:
        """(rows, 3): OpenMX's tables have four columns, of which the first is unused memory."""
        return self.take(kind, 4 * rows, what).reshape(rows, 4)[:, 1:]


def _header(data: _Fields) -> tuple[NDArray[np.int64], int, int]:
    """(the six words, spin, version); sets the byte order."""
    orders = {}
    for order in "<>":
        data.place, data.order = 0, order
        words = data.take("i4", 6, "the header").astype(np.int64)
        if words[0] > 0 and 0 <= words[1] < 64 and (words[2:] >= 0).all():
            orders[order] = words
    if not orders:
        raise DataError(
            f"{data.path}: no .scfout of OpenMX: its first words are no number of atoms and spin "
            "in either byte order"
        )
    # spin word 0 (3.8, no spin) looks alike in both orders: the smaller number of atoms and cells
    # is meant
    data.order = min(orders, key=lambda order: int(orders[order][0] + orders[order][5]))
    words = orders[data.order]
    spin, version = int(words[1]) % 4, int(words[1]) // 4
    if version > _NEWEST:
        raise DataError(
            f"{data.path}: layout version {version} of .scfout is unknown (known: 0 to {_NEWEST}, "
            "OpenMX 3.7 to 3.9); a newer OpenMX wrote it"
        )
    if spin == 2:
        raise DataError(
            f"{data.path}: spin {spin} in the header; OpenMX knows 0, 1 and 3: the file is damaged"
        )
    if words[2:5].any():
        raise DataError(
            f"{data.path}: written by a transport calculation with leads; a folder holds a "
            "periodic structure without: run it with 'scf.EigenvalueSolver Band'"
        )
    return words, spin, version


def read_scfout(path: str | os.PathLike[str]) -> Scfout:
    """Read one file; either byte order.

    Args:
        path: the ``.scfout``.

    Raises:
        DataError: no such file, cut short, damaged, or of an unknown version.
    """
    path = pathlib.Path(path)
    data = _Fields(path)
    words, spin, version = _header(data)
    count, cells = int(words[0]), int(words[5]) + 1
    order = int(data.take("i4", 1, "the header")[0]) if version >= 1 else 1
    if not 1 <= order <= 16:
        raise DataError(f"{path}: order {order} of the position matrices; the file is damaged")
    shifts = data.table("f8", cells, "the lattice translations")
    indices = data.table("i4", cells, "the cell indices").astype(np.int64)
    orbitals = data.take("i4", count, "the orbitals of each atom").astype(np.int64)
    pairs = data.take("i4", count, "the neighbours of each atom").astype(np.int64) + 1
    if (orbitals < 1).any() or (pairs < 1).any():
        raise DataError(f"{path}: damaged: an atom without orbitals, or fewer than no neighbours")
    total = int(pairs.sum())
    second = data.take("i4", total, "the list of neighbours").astype(np.int64) - 1
    cell = data.take("i4", total, "the cells of neighbours").astype(np.int64)
    first = np.repeat(np.arange(count), pairs)
    if min(second.min(), cell.min()) < 0 or second.max() >= count or cell.max() >= cells:
        raise DataError(f"{path}: damaged: a neighbour outside the {count} atoms and {cells} cells")
    lattice = data.table("f8", 3, "the lattice").astype(np.float64)
    data.skip("f8", 12, "the reciprocal lattice")
    positions = data.table("f8", count, "the positions").astype(np.float64)
    used = np.unique(cell)
    if not np.allclose(shifts[used], indices[used] @ lattice, rtol=0, atol=1e-6):
        raise DataError(f"{path}: damaged: lattice translations and cell indices disagree")
    values = int((orbitals[first] * orbitals[second]).sum())
    h = data.take("f8", (spin + 1) * values, "H").reshape(spin + 1, values)
    ih = data.take("f8", 3 * values, "Im H").reshape(3, values) if spin == 3 else None
    s = data.take("f8", values, "S")
    data.skip("f8", 3 * order * values, "the position matrices")
    if version == 3:
        data.skip("f8", 3 * values, "the momentum matrices")
    data.skip("f8", (spin + 1) * values, "the density matrix")
    if version == 3:
        data.skip("f8", 2 * values, "the imaginary density matrix")
    data.skip("i4", 1, "the solver")
    scalars = data.take("f8", 10, "chemical potential and electrons")
    lines = int(data.take("i4", 1, "the length of the input")[0])
    text = input_lines(data.take("u1", lines * _LINE, "the input"))
    return Scfout(
        version,
        spin,
        lattice,
        positions,
        orbitals,
        np.column_stack([indices[cell], first, second]),
        h,
        ih,
        s,
        float(scalars[0]),
        float(scalars[8]),
        text,
        len(data.data) - data.place,
    )


def input_lines(data: NDArray[np.uint8]) -> str:
    """The input's text from records of 256 bytes: each is cut at its first NUL, because stale text
    follows it.

    Args:
        data: whole records.
    """
    records = data.tobytes()
    parts = (records[n : n + _LINE].split(b"\0", 1)[0] for n in range(0, len(records), _LINE))
    return b"".join(parts).decode("utf-8", "replace")
