"""sisl: H and S as ``sisl.Hamiltonian`` and back, and SIESTA output -> DeepH folders through it.

sisl and SIESTA order a shell m = -l..l and put a factor (-1)^m before the real harmonics (p: -y, z,
-x), so elements change order and sign on the way. Both sum exp(+2 pi i k.R) in sisl's default gauge
("lattice"), so eigenvalues are the same.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pathlib
import tempfile
import warnings
from types import ModuleType
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from ..bands import BlochProblem
from ..errors import ConfigError, DataError, MissingDependencyError, printable
from ..io import BlockMatrix, Structure
from ..io.blocks import match_keys, sort_keys
from ..io.files import atomic_path, require_file
from .exports import Export, ExportSource
from .fortran import normalised
from .sisl_orbitals import require_counted, shell_signs, shells_of, sisl_order, spin_parts
from .sparse import block_entries, from_real_space

__all__ = ["EXPORT", "to_sisl", "from_sisl", "from_siesta", "write_sisl", "shell_signs"]


#: Imaginary parts, eV, that sums over k-points leave of a real H.
_ROUNDING = 1e-10


def _sisl(purpose: str) -> ModuleType:
    try:
        import sisl
    except ImportError:
        raise MissingDependencyError("sisl", "sisl", purpose) from None
    return sisl


def _geometry(sisl: ModuleType, problem: BlochProblem) -> Any:
    structure = problem.structure
    length = np.linalg.norm(structure.edge_vectors(problem.h.keys), axis=1)
    radius = {
        z: 0.5 * float(length[structure.numbers[problem.h.keys[:, 3]] == z].max(initial=1.0)) + 1e-3
        for z in set(structure.numbers.tolist())
    }
    kinds: dict[tuple[int, tuple[int, ...]], Any] = {}
    atoms = []
    for z, shells in zip(structure.numbers.tolist(), structure.orbital_types, strict=True):
        if (z, shells) not in kinds:
            orbitals = [
                sisl.AtomicOrbital(
                    n=l + 1, l=l, m=m, zeta=shells[: place + 1].count(l), R=radius[z]
                )
                for place, l in enumerate(shells)
                for m in range(-l, l + 1)
            ]
            kinds[z, shells] = sisl.Atom(int(z), orbitals)
        atoms.append(kinds[z, shells])
    cells = np.concatenate([problem.h.keys[:, :3], problem.s.keys[:, :3]])
    lattice = sisl.Lattice(structure.lattice, nsc=2 * np.abs(cells).max(axis=0) + 1)
    return sisl.Geometry(structure.positions, atoms=atoms, lattice=lattice)


def _on_keys(
    matrix: BlockMatrix, keys: NDArray[np.int64], counts: NDArray[np.int64]
) -> BlockMatrix:
    """The matrix on more keys, zero where it has no block."""
    shapes = counts[keys[:, 3:]]
    where = match_keys(keys, matrix.keys)
    out = BlockMatrix(
        keys, shapes, np.zeros(int(shapes.prod(axis=1).sum()), dtype=matrix.values.dtype)
    )
    have = np.flatnonzero(where >= 0)
    size = shapes[have].prod(axis=1)
    inside = np.arange(int(size.sum())) - np.repeat(np.cumsum(size) - size, size)
    out.values[np.repeat(out.offsets[have], size) + inside] = matrix.values[
        np.repeat(matrix.offsets[where[have]], size) + inside
    ]
    return out


def to_sisl(problem: BlochProblem) -> Any:
    """``sisl.Hamiltonian`` (eV, with overlap) of a problem; spin-orbit coupling becomes sisl's
    complex spin-orbit kind.

    Orbitals carry l, m and zeta; their principal number is l + 1 and their range half the longest
    edge, because a folder knows neither.

    Raises:
        MissingDependencyError: sisl is not installed.
        ConfigError: it is no problem.
    """
    sisl = _sisl("to_sisl")
    if not isinstance(problem, BlochProblem):
        raise ConfigError(
            f"to_sisl: a BlochProblem is needed, not {type(problem).__name__}; make one with "
            "deeph_gformer.bands.load(folder)"
        )
    structure, spin = problem.structure, problem.spin
    geometry = _geometry(sisl, problem)
    counts = structure.orbital_counts
    keys = np.unique(np.concatenate([problem.h.keys, problem.s.keys]), axis=0)
    keys = keys[sort_keys(keys)]
    h = sisl_order(_on_keys(problem.h, keys, counts * spin), structure, spin)
    s = sisl_order(_on_keys(problem.s, keys, counts), structure, 1)
    parts = {0: h.values} if spin == 1 else dict(enumerate(spin_parts(h)))
    block, row, column = block_entries(s, counts)
    cells = np.array([geometry.lattice.sc_index(c) for c in keys[:, :3]])
    column = column + cells[block] * int(counts.sum())
    shape = (int(counts.sum()), int(counts.sum()) * geometry.n_s)
    csr = [
        sp.coo_matrix((values, (row, column)), shape=shape).tocsr()
        for values in (*parts.values(), s.values)
    ]
    dtype = np.complex128 if spin == 2 or np.iscomplexobj(h.values) else np.float64
    kind: dict[str, Any] = {"spin": sisl.Spin("spin-orbit")} if spin == 2 else {}
    return sisl.Hamiltonian.fromsp(
        geometry, [m.astype(dtype) for m in csr[:-1]], S=csr[-1].astype(dtype), **kind
    )


def from_sisl(hamiltonian: Any, name: str = "sisl", shift_eV: float = 0.0) -> BlochProblem:
    """H, S and structure of a ``sisl.Hamiltonian``.

    Args:
        hamiltonian: in a basis of atomic orbitals with full shells. Collinear and non-collinear
            spin become spin-doubled blocks.
        name: of the structure.
        shift_eV: energy added as shift·S, to undo a shift to the Fermi level.

    Returns:
        the problem, blocks in the legacy orbital order; shells sorted by l.

    Raises:
        DataError: another kind of basis, or incomplete shells.
        ConfigError: it is no Hamiltonian.
        MissingDependencyError: sisl is not installed.
    """
    if not isinstance(hamiltonian, _sisl("from_sisl").Hamiltonian):
        raise ConfigError(
            f"from_sisl: a sisl.Hamiltonian is needed, not {type(hamiltonian).__name__}"
        )
    geometry = hamiltonian.geometry
    if shift_eV:
        hamiltonian = hamiltonian.copy()
        hamiltonian.shift(shift_eV)
    spinful = not hamiltonian.spin.is_unpolarized
    if spinful:
        hamiltonian = hamiltonian.transform(spin="spin-orbit").astype(np.complex128)
    shells, order, signs, first = [], [], [], 0
    for number, atom in enumerate(geometry.atoms):
        own, index, sign = shells_of(atom, number)
        shells.append(own)
        order.append(index + first)
        signs.append(sign)
        first += len(index)
    permutation, sign = np.concatenate(order), sp.diags(np.concatenate(signs))
    numbers = np.asarray(geometry.atoms.Z, dtype=np.int64)
    structure = Structure(
        np.array(geometry.cell, dtype=float),
        np.array(geometry.xyz, dtype=float),
        numbers,
        tuple(shells),
        spinful,
        {},
        name,
    )
    size, cells = geometry.no, np.asarray(geometry.lattice.sc_off, dtype=np.int64)

    def split(component: int) -> list[sp.csr_matrix]:
        """One component as (n, n) per cell, in the legacy order and signs of orbitals."""
        csr = hamiltonian.tocsr(component)
        return [
            sign @ csr[:, n * size : (n + 1) * size][permutation][:, permutation] @ sign
            for n in range(len(cells))
        ]

    parts = [split(n) for n in range(4 if spinful else 1)]
    s = (
        None
        if hamiltonian.orthogonal
        else from_real_space(cells, split(hamiltonian.S_idx), structure)
    )
    keep = [n for n in range(len(cells)) if any(part[n].nnz for part in parts)]
    if spinful:
        matrices = [_double([part[n] for part in parts], structure) for n in keep]
    else:
        matrices = [parts[0][n] for n in keep]
    return BlochProblem(
        structure,
        from_real_space(cells[keep], matrices, structure, 2 if spinful else 1),
        s,
        source=name,
    )


def _double(parts: list[sp.csr_matrix], structure: Structure) -> sp.csr_matrix:
    """[[uu, ud], [du, dd]] atom by atom from whole uu, dd, ud, du."""
    counts = structure.orbital_counts
    up = np.concatenate(
        [
            2 * start + np.arange(n)
            for start, n in zip(np.cumsum(counts) - counts, counts, strict=True)
        ]
    )
    down = up + np.repeat(counts, counts)
    size = 2 * len(up)
    total = sp.csr_matrix((size, size), dtype=np.complex128)
    for part, rows, columns in zip(parts, (up, down, up, down), (up, down, down, up), strict=True):
        coo = part.tocoo()
        total = total + sp.csr_matrix(
            (coo.data, (rows[coo.row], columns[coo.col])), shape=(size, size)
        )
    return total


def write_sisl(path: str | os.PathLike[str], problem: BlochProblem) -> tuple[list[str], list[str]]:
    """Write a file that sisl and TBtrans read: ``.TSHS`` or ``.nc`` (which needs netCDF4).

    Returns:
        (files, notes).

    Raises:
        DataError: the name ends otherwise, or netCDF4 is not installed.
        ConfigError: H is complex without spin-orbit coupling; these files hold real numbers then.
    """
    path = pathlib.Path(path)
    if path.suffix not in (".TSHS", ".nc"):
        raise DataError(
            f"{path}: sisl's Hamiltonian files end in .TSHS or .nc (the latter needs netCDF4)"
        )
    if path.suffix == ".nc" and importlib.util.find_spec("netCDF4") is None:
        raise DataError(
            f"{path}: .nc files need the library netCDF4, which is not installed: pip install "
            "netCDF4, or write a .TSHS file"
        )
    imaginary = 0.0 if problem.spinful else np.abs(problem.h.values.imag).max(initial=0.0)
    if imaginary > _ROUNDING:
        raise ConfigError(
            f"{problem.source}: H(R) is complex without spin-orbit coupling; {path.suffix} files "
            "are real then. In Python, to_sisl keeps it"
        )
    hamiltonian = to_sisl(problem)
    with atomic_path(path) as temporary:
        inside = temporary.with_name(temporary.name + path.suffix)
        try:
            hamiltonian.write(str(inside))
            os.replace(inside, temporary)
        finally:
            inside.unlink(missing_ok=True)
    note = (
        f"a {path.suffix} file keeps no l and m of the orbitals: to come back, read it with the "
        "geometry of to_sisl (from_siesta(path, geometry))"
    )
    return [path.name], [note]


#: Of each ending, the records (from 0) of a Fortran file that hold logicals and sizes; None: no
#: Fortran file.
_RECORDS: dict[str, tuple[int, int] | None] = {".HSX": (1, 2), ".TSHS": (4, 1), ".nc": None}


def from_siesta(path: str | os.PathLike[str], fdf: Any = None) -> BlochProblem:
    """H and S that SIESTA wrote (``.HSX``, ``.TSHS``, ``.nc``), on SIESTA's own energy zero, with
    its Fermi level in ``structure.info``.

    sisl subtracts the Fermi level from what it reads of each of these but the oldest .HSX, which
    hold none; here it is added again. A run that never found its Fermi level stores a huge number:
    then there is no level.

    Args:
        path: the matrix file, of any compiler (little-endian).
        fdf: input file of the run, from which sisl reads geometry and basis (default: the only
            ``.fdf`` beside it), or a ``sisl.Geometry``.

    Raises:
        DataError: the file is missing, damaged, or its basis is unknown.
        MissingDependencyError: sisl is not installed.
    """
    sisl, path = _sisl("reading SIESTA output"), pathlib.Path(path)
    if path.suffix not in _RECORDS:
        raise DataError(f"{path}: no SIESTA matrix file; give the .HSX, .TSHS or .nc of a run")
    require_file(path)
    if isinstance(fdf, (str, os.PathLike)):
        require_file(fdf, missing=f"it is to be the input (.fdf) of the run that wrote {path.name}")
    inputs = sorted(path.parent.glob("*.fdf"))
    if fdf is None and len(inputs) == 1:
        fdf = inputs[0]
    if not isinstance(fdf, sisl.Geometry):
        require_counted(path.parent)
    records = _RECORDS[path.suffix]
    other = None if records is None else normalised(path, *records)
    with tempfile.TemporaryDirectory() if other else contextlib.nullcontext() as scratch:
        source = path
        if scratch is not None and other is not None:
            source = pathlib.Path(scratch) / path.name
            source.write_bytes(other)
        hamiltonian, fermi = _read_siesta(sisl, path, source, fdf)
    problem = from_sisl(hamiltonian, path.stem, fermi or 0.0)
    if fermi is not None:
        problem.structure.info["fermi_level"] = fermi
    return problem


#: eV; SIESTA stores the largest number there is for a Fermi level that was not calculated.
_NO_LEVEL = 1e6


def _read_siesta(
    sisl: ModuleType, path: pathlib.Path, source: pathlib.Path, fdf: Any
) -> tuple[Any, float | None]:
    """sisl's Hamiltonian, as sisl shifts it, and the Fermi level by which it did, eV.

    Args:
        sisl: the module.
        path: the user's file, for messages.
        source: what is read.
        fdf: path or ``sisl.Geometry`` or None.

    Raises:
        DataError: sisl cannot read it, or H is not to be had without a Fermi level.
    """
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            sile = sisl.get_sile(str(source))
            given = fdf is None or isinstance(fdf, sisl.Geometry)
            known = fdf if given else sisl.get_sile(str(fdf)).read_geometry(output=True)
            geometry = {} if known is None else {"geometry": known}
            hamiltonian = sile.read_hamiltonian(**geometry)
            said.clear()
            stated = sile.read_fermi_level()
            fermi = None if stated is None else float(np.asarray(stated).reshape(-1)[0])
    except Exception as error:  # noqa: BLE001 - sisl's readers raise anything on damaged files
        text = printable((str(error).splitlines() or ["no message"])[0])
        hint = "" if fdf is not None else "; give the run's input with --fdf (in Python: fdf=...)"
        raise DataError(
            f"{path}: sisl cannot read it ({type(error).__name__}: {text}){hint}"
        ) from error
    if fermi == 0.0:  # what sisl writes where it knows none; none that is calculated is exactly 0
        return hamiltonian, None
    if any("does not contain" in str(warning.message) for warning in said):
        return hamiltonian, None  # an .HSX file without a level: sisl says 0 and shifts by nothing
    if fermi is not None and not abs(fermi) < _NO_LEVEL:
        raise DataError(
            f"{path}: holds no Fermi level (H.Setup.Only?), and sisl cannot read H without one; "
            "read the .HSX file of the run"
        )
    return hamiltonian, fermi


def _export(target: pathlib.Path, source: ExportSource) -> tuple[list[str], list[str]]:
    return write_sisl(target, source.problem)


EXPORT = Export("sisl", _export, suffix=".TSHS")
