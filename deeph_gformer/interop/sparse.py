"""H(R) and S(R) as SciPy CSR matrices, one per lattice vector R, and a plain ``.npz`` file of them.

Orbitals stand atom after atom in the legacy order; with spin-orbit coupling each atom has its
spin-up orbitals, then its spin-down ones (the order of :class:`~deeph_gformer.bands.BlochProblem`).
"""

from __future__ import annotations

import itertools
import os
import pathlib
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from ..bands import BlochProblem
from ..bands.electrons import electron_number
from ..errors import DataError, printable
from ..io import BlockMatrix, Structure
from ..io.blocks import require_keys, sort_keys
from ..io.files import atomic_path
from ..io.gauge import GAUGES, stated_level
from ..io.npz import read_arrays
from .exports import Export, ExportSource

__all__ = ["EXPORT", "block_entries", "real_space", "from_real_space", "write_npz", "read_npz"]

_FORMAT = "deeph-gformer csr 1"


def block_entries(
    matrix: BlockMatrix, counts: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """(block, row, column) of each of the matrix's values, in their order.

    Args:
        matrix: blocks.
        counts: (N,), rows that each atom has in all (spin included).

    Returns:
        three int64 arrays as long as ``matrix.values``; rows and columns count over the whole cell.
    """
    first = np.concatenate([[0], np.cumsum(counts)])
    size = np.diff(matrix.offsets)
    block = np.repeat(np.arange(len(matrix), dtype=np.int64), size)
    inside = np.arange(len(matrix.values), dtype=np.int64) - np.repeat(matrix.offsets[:-1], size)
    width = matrix.shapes[block, 1]
    return (
        block,
        first[matrix.keys[block, 3]] + inside // width,
        first[matrix.keys[block, 4]] + inside % width,
    )


def real_space(
    matrix: BlockMatrix, structure: Structure, spin: int = 1
) -> tuple[NDArray[np.int64], list[sp.csr_matrix]]:
    """One CSR matrix per lattice vector.

    Args:
        matrix: H(R), or S(R).
        structure: its atoms.
        spin: 2 for a spin-doubled matrix.

    Returns:
        ``(cells, matrices)``: (C, 3) lattice vectors R in lexical order, and C matrices (n, n) of
        ``<home cell | . | cell R>``.
    """
    counts = structure.orbital_counts * spin
    size = int(counts.sum())
    block, row, column = block_entries(matrix, counts)
    cells, which = np.unique(matrix.keys[:, :3], axis=0, return_inverse=True)
    cell = which.reshape(-1)[block]
    order = np.argsort(cell, kind="stable")
    bounds = np.searchsorted(cell[order], np.arange(len(cells) + 1))
    matrices = []
    for start, stop in itertools.pairwise(bounds):
        take = order[start:stop]
        matrices.append(
            sp.csr_matrix((matrix.values[take], (row[take], column[take])), shape=(size, size))
        )
    return cells, matrices


def from_real_space(
    cells: NDArray[np.int64], matrices: list[sp.csr_matrix], structure: Structure, spin: int = 1
) -> BlockMatrix:
    """The inverse of :func:`real_space`; every atom pair with a stored element becomes a block, and
    all on-site pairs do.

    Args:
        cells: (C, 3).
        matrices: C matrices (n, n).
        structure: gives the orbitals.
        spin: 2 for a spin-doubled matrix.

    Raises:
        DataError: the matrices do not have as many rows as the structure has orbitals.
    """
    counts = structure.orbital_counts * spin
    first = np.concatenate([[0], np.cumsum(counts)])
    atom = np.repeat(np.arange(len(counts)), counts)
    if any(m.shape != (first[-1], first[-1]) for m in matrices):
        raise DataError(
            f"matrices {matrices[0].shape} do not fit the {first[-1]} orbitals of structure "
            f"'{structure.name}'"
        )
    parts = [sp.coo_matrix(matrix) for matrix in matrices]
    which = np.repeat(np.arange(len(parts)), [len(part.data) for part in parts])
    rows = np.concatenate([part.row for part in parts] or [np.zeros(0, int)]).astype(np.int64)
    columns = np.concatenate([part.col for part in parts] or [np.zeros(0, int)]).astype(np.int64)
    on_site = np.zeros((len(counts), 5), dtype=np.int64)
    on_site[:, 3:] = np.arange(len(counts))[:, None]
    stored = np.column_stack([np.asarray(cells)[which], atom[rows], atom[columns]])
    keys, block = np.unique(np.concatenate([stored, on_site]), axis=0, return_inverse=True)
    order = sort_keys(keys)
    keys, place = keys[order], np.argsort(order)
    block = place[block.reshape(-1)[: len(rows)]]
    shapes = counts[keys[:, 3:]]
    starts = np.concatenate([[0], np.cumsum(shapes.prod(axis=1))])
    values = np.zeros(starts[-1], dtype=np.result_type(*(p.dtype for p in parts), np.float32))
    inside = (rows - first[atom[rows]]) * shapes[block, 1] + columns - first[atom[columns]]
    np.add.at(values, starts[block] + inside, np.concatenate([p.data for p in parts] or [[]]))
    return BlockMatrix(keys, shapes, values)


def write_npz(path: str | os.PathLike[str], problem: BlochProblem) -> None:
    """H(R) and S(R) as plain arrays that ``numpy.load`` reads without pickle.

    Arrays: ``lattice`` (3, 3) rows, Å; ``positions`` (N, 3), Å; ``numbers`` (N,);
    ``orbital_counts`` (N,), spinless; ``orbital_l`` and ``orbital_types_length`` (shells of all
    atoms one after the other, and how many each atom has); ``spin`` 1 or 2; per matrix M = H (eV),
    S: ``M_cells`` (C, 3) and, for cell number c, ``M_c_data``, ``M_c_indices``, ``M_c_indptr``. S
    is spinless. ``gauge`` and, where they are known, ``fermi_level`` (eV, of this H) and
    ``electrons`` (per cell).
    """
    structure = problem.structure
    stated = stated_level(structure.info, "prediction" if problem.predicted else "hamiltonian")
    electrons = electron_number(structure)
    arrays: dict[str, NDArray[np.generic]] = {
        "format": np.array(_FORMAT),
        "lattice": structure.lattice,
        "positions": structure.positions,
        "numbers": structure.numbers,
        "orbital_counts": structure.orbital_counts,
        "orbital_l": np.array([l for s in structure.orbital_types for l in s], dtype=np.int64),
        "orbital_types_length": np.array([len(s) for s in structure.orbital_types], dtype=np.int64),
        "spin": np.array(problem.spin),
        "gauge": np.array(stated.gauge),
    }
    if stated.energy_eV is not None:
        arrays["fermi_level"] = np.array(stated.energy_eV)
    if electrons is not None:
        arrays["electrons"] = np.array(electrons[0])
    for name, matrix, spin in (("H", problem.h, problem.spin), ("S", problem.s, 1)):
        cells, matrices = real_space(matrix, structure, spin)
        arrays[f"{name}_cells"] = cells
        for number, csr in enumerate(matrices):
            arrays |= {
                f"{name}_{number}_data": csr.data,
                f"{name}_{number}_indices": csr.indices,
                f"{name}_{number}_indptr": csr.indptr,
            }
    with atomic_path(path) as temporary, open(temporary, "wb") as handle:
        np.savez_compressed(handle, **arrays)  # type: ignore[arg-type]


_WHAT = "sparse Hamiltonian of deeph-gformer"


def read_npz(path: str | os.PathLike[str]) -> BlochProblem:
    """Read what :func:`write_npz` wrote.

    Raises:
        DataError: no such file, another one, or a damaged one.
    """
    path = pathlib.Path(path)
    table = read_arrays(path, _WHAT)
    try:
        if str(table["format"]) != _FORMAT:
            raise DataError(
                f"{path}: format '{printable(str(table['format']))[:40]}' is unknown; written by a "
                "newer version?"
            )
        lengths, flat = _integers(table["orbital_types_length"]), _integers(table["orbital_l"])
        spin = int(_integers(table["spin"].reshape(1))[0])
        if spin not in (1, 2) or lengths.min(initial=0) < 0 or lengths.sum() != len(flat):
            raise ValueError("shells or spin")
        if flat.size and (flat.min() < 0 or flat.max() > 3):
            raise ValueError("shells beyond l = 0 to 3")
        shells = tuple(tuple(part.tolist()) for part in np.split(flat, np.cumsum(lengths)[:-1]))
        if table["numbers"].ndim != 1 or table["orbital_types_length"].ndim != 1:
            raise ValueError("numbers of another shape")
        structure = Structure(
            _reals(table["lattice"]),
            _reals(table["positions"]),
            _integers(table["numbers"]),
            shells,
            spin == 2,
            _facts(table),
            path.stem,
        )
        h, s = (_matrix(table, structure, path, *which) for which in (("H", spin), ("S", 1)))
    except (KeyError, ValueError, TypeError, IndexError, OverflowError) as error:
        raise DataError(f"{path}: no {_WHAT} ({printable(str(error))[:200]})") from None
    return BlochProblem(structure, h, s, source=str(path))


def _facts(table: dict[str, NDArray[np.generic]]) -> dict[str, Any]:
    """``info`` of a structure; raises ValueError where a number or the gauge is none."""
    info: dict[str, Any] = {}
    for name, key in (("fermi_level", "fermi_level"), ("electrons", "occupation")):
        if name in table:
            (info[key],) = _reals(table[name].reshape(1)).tolist()
            if not np.isfinite(info[key]):
                raise ValueError(f"{name} is {info[key]}")
    if "gauge" in table:
        info["gauge"] = str(table["gauge"])
        if info["gauge"] not in GAUGES:
            raise ValueError(f"gauge '{info['gauge']}'")
    return info


def _integers(array: NDArray[np.generic]) -> NDArray[np.int64]:
    """Raises ValueError where they are none."""
    if array.dtype.kind not in "iu":
        raise ValueError(f"{array.dtype} where integers are needed")
    return array.astype(np.int64)


def _reals(array: NDArray[np.generic]) -> NDArray[np.float64]:
    """Raises ValueError where they are none; a complex number would lose its imaginary part."""
    if array.dtype.kind not in "fiu":
        raise ValueError(f"{array.dtype} where real numbers are needed")
    return array.astype(np.float64)


def _matrix(
    table: dict[str, NDArray[np.generic]],
    structure: Structure,
    path: pathlib.Path,
    name: str,
    factor: int,
) -> BlockMatrix:
    """H or S from its CSR matrices.

    Args:
        table: arrays of the file.
        structure: gives the orbitals.
        path: for messages.
        name: ``H`` or ``S``.
        factor: 2 for a spin-doubled matrix.

    Raises:
        DataError: a cell is there twice, or values are none.
        ValueError: indices that fit no matrix.
    """
    size = int(structure.orbital_counts.sum()) * factor
    cells, matrices = _integers(table[f"{name}_cells"]).reshape(-1, 3), []
    if len(np.unique(cells, axis=0)) != len(cells):
        raise ValueError(f"{name}_cells has a cell twice")
    for n in range(len(cells)):
        data, indices, start = (table[f"{name}_{n}_{p}"] for p in ("data", "indices", "indptr"))
        if data.dtype.char not in "fdFD" or any(x.ndim != 1 for x in (data, indices, start)):
            raise ValueError(f"{name}_{n} holds no numbers")
        columns, ends = _integers(indices), _integers(start)
        # SciPy trusts these numbers, and writes beyond its memory where they are wrong
        whole = len(ends) == size + 1 and ends[0] == 0 and ends[-1] == len(data) == len(columns)
        if not whole or (np.diff(ends) < 0).any() or (columns < 0).any() or (columns >= size).any():
            raise ValueError(f"{name}_{n} is no CSR matrix of {size} rows")
        place = np.repeat(np.arange(size), np.diff(ends)) * size + columns
        if len(np.unique(place)) != len(place):
            raise ValueError(f"{name}_{n} has an element twice")
        csr = sp.csr_matrix((data, columns, ends), shape=(size, size))
        matrices.append(csr)
    matrix = from_real_space(cells, matrices, structure, factor)
    require_keys(matrix.keys, len(structure), f"{path}, {name}")
    matrix.require_numbers(f"{path}, {name}")
    return matrix


def _export(target: pathlib.Path, source: ExportSource) -> tuple[list[str], list[str]]:
    write_npz(target, source.problem)
    return [target.name], []


EXPORT = Export("npz", _export, suffix=".npz")
