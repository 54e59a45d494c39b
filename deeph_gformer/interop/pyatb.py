"""PYATB's input from H, S and the position matrix: ABACUS' sparse files, ``Input`` and ``STRU``.

PYATB (G. Jin et al., Comput. Phys. Commun. 291, 108844 (2023)) works in the non-orthogonal basis,
so nothing is lost on the way. Orbitals stand in ABACUS' order (:mod:`~.dft.abacus`): atoms by
element, a shell m = 0, 1, -1, 2, ... with a factor (-1)^m, spin as the fastest index. H in eV, r in
Å.
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Iterable, Sequence

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from ..bands import BlochProblem, automatic_path
from ..errors import ConfigError, DataError
from ..io import BlockMatrix
from ..io.files import atomic_path, write_text
from .dft.abacus import orbital_order
from .exports import Export, ExportSource
from .folders import element_order

__all__ = ["EXPORT", "write_pyatb"]

H_FILE, S_FILE, R_FILE = "HR.csr", "SR.csr", "rR.csr"
_BOHR_PER_ANGSTROM = 1.8897261254578281
_POINTS = 40
"""k-points of each segment in ``Input``."""


def _rows(problem: BlochProblem) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """(n,) row in ABACUS' order of each row of H(k), and its sign."""
    crystal, spin = problem.structure, problem.spin
    order = element_order(crystal)
    shells = tuple(crystal.orbital_types[atom] for atom in order)
    grouped, signs = orbital_order(shells, spin)
    sizes = crystal.orbital_counts * spin
    first = np.concatenate([[0], np.cumsum(sizes)])  # in our order of atoms
    start = np.concatenate([[0], np.cumsum(sizes[order])])  # grouped by element
    rows, factors = np.empty(first[-1], dtype=np.int64), np.empty(first[-1])
    for place, atom in enumerate(order):
        mine = slice(first[atom], first[atom + 1])
        rows[mine] = grouped[start[place] : start[place + 1]]
        factors[mine] = signs[start[place] : start[place + 1]]
    return rows, factors


def _by_cell(
    matrix: BlockMatrix, problem: BlochProblem, doubled: bool
) -> dict[tuple[int, int, int], sp.csr_matrix]:
    """R -> (n, n), in ABACUS' order.

    Args:
        matrix: H(R), or a spinless S(R) or r(R).
        problem: gives the atoms.
        doubled: expand to kron(1_2, M).
    """
    counts, spin = problem.structure.orbital_counts, problem.spin
    first = np.concatenate([[0], np.cumsum(counts * spin)])
    rows, signs = _rows(problem)
    parts: dict[tuple[int, int, int], list[tuple[np.ndarray, np.ndarray, np.ndarray]]] = {}
    for (x, y, z, i, j), block in matrix:
        for copy in range(spin if doubled else 1):
            a = first[i] + copy * counts[i] + np.arange(len(block))
            b = first[j] + copy * counts[j] + np.arange(block.shape[1])
            value = block * signs[a][:, None] * signs[b]
            place = np.broadcast_arrays(rows[a][:, None], rows[b])
            parts.setdefault((x, y, z), []).append(
                (value.ravel(), place[0].ravel(), place[1].ravel())
            )
    size, result = int(first[-1]), {}
    for cell, pieces in parts.items():
        value, row, column = (np.concatenate(arrays) for arrays in zip(*pieces, strict=True))
        result[cell] = sp.csr_matrix((value, (row, column)), shape=(size, size))
        result[cell].sort_indices()
    return result


def _numbers(values: NDArray[np.number]) -> str:
    if np.iscomplexobj(values):
        return " ".join(f"({v.real:.14e},{v.imag:.14e})" for v in values)
    return " ".join(f"{v:.14e}" for v in values)


def _matrix_lines(matrix: sp.csr_matrix | None) -> tuple[int, list[str]]:
    """Number of entries, and ABACUS' three lines: values, columns, row pointers."""
    if matrix is None or not matrix.nnz:
        return 0, []
    indices, pointers = matrix.indices.tolist(), matrix.indptr.tolist()
    return matrix.nnz, [
        _numbers(matrix.data),
        " ".join(map(str, indices)),
        " ".join(map(str, pointers)),
    ]


def _write(path: pathlib.Path, head: list[str], lines: Iterable[str]) -> None:
    with atomic_path(path) as temporary, open(temporary, "w", encoding="ascii") as handle:
        handle.write("\n".join(head) + "\n")
        for line in lines:
            handle.write(line + "\n")


def _write_csr(
    path: pathlib.Path,
    name: str,
    size: int,
    cells: Sequence[tuple[int, int, int]],
    matrices: Sequence[dict[tuple[int, int, int], sp.csr_matrix]],
) -> None:
    """One matrix (H, S), or three with a line of their own for each number of entries (r)."""
    head = [
        "STEP: 0",
        f"Matrix Dimension of {name}(R): {size}",
        f"Matrix number of {name}(R): {len(cells)}",
    ]

    def lines() -> Iterable[str]:
        """Of all cells, one after the other."""
        for cell in cells:
            place = " ".join(map(str, cell))
            if len(matrices) == 3:
                yield place
            for matrix in matrices:
                count, body = _matrix_lines(matrix.get(cell))
                yield str(count) if len(matrices) == 3 else f"{place} {count}"
                yield from body

    _write(path, head, lines())


def _input(problem: BlochProblem, fermi_eV: float | None, has_r: bool) -> str:
    crystal = problem.structure
    level = "Auto" if fermi_eV is None else f"{fermi_eV:.10f}"
    path = automatic_path(crystal, problem.periodic)
    points = []
    for (start, stop), following in zip(path.segments, [*path.segments[1:], None], strict=True):
        k = " ".join(f"{v:.10f}" for v in path.kpoints[start])
        points.append(f"    {k} {_POINTS}")
        ends = (
            following is None or np.abs(path.kpoints[stop - 1] - path.kpoints[following[0]]).max()
        )
        if following is None or ends > 1e-9:
            k = " ".join(f"{v:.10f}" for v in path.kpoints[stop - 1])
            points.append(f"    {k} 1")
    lattice = ["    " + " ".join(f"{v:.12f}" for v in row) for row in crystal.lattice]
    return "\n".join(
        [
            "INPUT_PARAMETERS",
            "{",
            f"    nspin             {4 if problem.spinful else 1}",
            "    package           ABACUS",
            f"    fermi_energy      {level}",
            "    fermi_energy_unit eV",
            f"    HR_route          {H_FILE}",
            f"    SR_route          {S_FILE}",
            *([f"    rR_route          {R_FILE}"] if has_r else []),
            "    HR_unit           eV",
            "    rR_unit           Angstrom",
            "}",
            "",
            "LATTICE",
            "{",
            "    lattice_constant      1.0",
            "    lattice_constant_unit Angstrom",
            "    lattice_vector",
            *lattice,
            "}",
            "",
            "BAND_STRUCTURE",
            "{",
            "    wf_collect           0",
            "    kpoint_mode          line",
            f"    kpoint_num           {len(points)}",
            "    high_symmetry_kpoint",
            *points,
            "}",
            "",
        ]
    )


def _stru(problem: BlochProblem) -> str:
    """ABACUS' structure; orbital files are names that the user's own replace."""
    from ase.data import atomic_masses, chemical_symbols

    crystal = problem.structure
    order = element_order(crystal)
    kinds = list(dict.fromkeys(crystal.numbers[order].tolist()))
    fractions = crystal.positions @ np.linalg.inv(crystal.lattice)
    lines = ["ATOMIC_SPECIES"]
    lines += [
        f"{chemical_symbols[z]} {atomic_masses[z]:.4f} {chemical_symbols[z]}.upf" for z in kinds
    ]
    lines += ["", "NUMERICAL_ORBITAL", *[f"{chemical_symbols[z]}.orb" for z in kinds]]
    lines += ["", "LATTICE_CONSTANT", f"{_BOHR_PER_ANGSTROM:.16f}", "", "LATTICE_VECTORS"]
    lines += [" ".join(f"{v:.12f}" for v in row) for row in crystal.lattice]
    lines += ["", "ATOMIC_POSITIONS", "Direct"]
    for z in kinds:
        mine = [atom for atom in order if crystal.numbers[atom] == z]
        lines += ["", chemical_symbols[z], "0.0", str(len(mine))]
        lines += [" ".join(f"{v:.12f}" for v in fractions[atom]) + " 1 1 1" for atom in mine]
    return "\n".join(lines) + "\n"


def write_pyatb(
    folder: str | os.PathLike[str],
    problem: BlochProblem,
    positions: Sequence[BlockMatrix] | None = None,
    fermi_eV: float | None = None,
) -> tuple[list[str], list[str]]:
    """A folder in which ``pyatb`` runs.

    Args:
        folder: made where it is not there.
        problem: H and S.
        positions: x, y and z of <i, 0 | r | j, R>, Å, spinless.
        fermi_eV: for ``Input``; None: PYATB is asked to find it, which needs a FERMI_ENERGY block.

    Returns:
        Names of the files, and what the user should know.

    Raises:
        ConfigError: H is complex without spin-orbit coupling, which PYATB does not read.
        DataError: a file cannot be written.
    """
    if np.iscomplexobj(problem.h.values) and not problem.spinful:
        if np.abs(problem.h.values.imag).max(initial=0.0) > 1e-10:
            raise ConfigError(
                f"{problem.source}: H(R) is complex without spin-orbit coupling; PYATB reads "
                "complex matrices with spin only"
            )
    folder = pathlib.Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{folder}: cannot be made ({error})") from None
    h = _by_cell(problem.h, problem, False)
    s = _by_cell(problem.s, problem, problem.spinful)
    r = [_by_cell(matrix, problem, problem.spinful) for matrix in positions or ()]
    if not problem.spinful:
        h = {cell: matrix.real for cell, matrix in h.items()}
    else:  # its readers want complex numbers in both
        h, s = ({c: m.astype(complex) for c, m in one.items()} for one in (h, s))
    cells = sorted(set(h).union(s, *r))
    _write_csr(folder / H_FILE, "H", problem.size, cells, [h])
    _write_csr(folder / S_FILE, "S", problem.size, cells, [s])
    files = [H_FILE, S_FILE, "Input", "STRU"]
    notes = ["STRU names orbital files SYMBOL.orb; only fat bands and PDOS read them"]
    if r:
        _write_csr(folder / R_FILE, "r", problem.size, cells, r)
        files.append(R_FILE)
    else:
        notes.append("no position matrix: bands work, Berry phases and optics do not")
    write_text(folder / "Input", _input(problem, fermi_eV, bool(r)))
    write_text(folder / "STRU", _stru(problem))
    return files, notes


def _export(target: pathlib.Path, source: ExportSource) -> tuple[list[str], list[str]]:
    problem = source.problem
    return write_pyatb(target, problem, source.positions, problem.stated_fermi_eV)


EXPORT = Export("pyatb", _export, folder=True)
