"""Wannier90's ``_hr.dat`` from H and S: Löwdin-orthogonalised on a k mesh, for programs that know
orthogonal bases only (PythTB, WannierTools, ...).

H'(k) = S(k)^-1/2 H(k) S(k)^-1/2 has the eigenvalues of H c = E S c, exactly, on the points of the
mesh; between them H'(R) is cut at the mesh's Wigner-Seitz cell, like any Wannier interpolation, and
converges exponentially with the mesh. The orbitals are atom after atom in the legacy order; with
spin-orbit coupling each atom has its spin-up orbitals, then its spin-down ones.
"""

from __future__ import annotations

import itertools
import os
import pathlib
from collections.abc import Callable, Sequence

import numpy as np
import scipy.linalg
from numpy.typing import ArrayLike, NDArray

from ..bands import BlochProblem
from ..bands.bravais import reduced_metric
from ..errors import DataError
from ..io.blocks import MAX_VALUE
from ..io.files import read_text, write_text
from ..io.parsing import parse_number
from ..terminal import figures
from .exports import Export, ExportSource

__all__ = [
    "EXPORT",
    "OrthogonalModel",
    "lowdin",
    "lowdin_mesh",
    "lowdin_notes",
    "wigner_seitz",
    "read_hr",
    "write_wannier90",
]

_SMALLEST_S = 1e-6


class OrthogonalModel:
    """An orthogonal tight-binding model as ``_hr.dat`` stores it.

    Attributes:
        cells: (C, 3) lattice vectors.
        degeneracy: (C,).
        matrices: (C, n, n) complex, eV, not yet divided by the degeneracy.
        positions: (C, 3, n, n) complex, <0|r|R> in Å, not yet divided either; None where it was
            not asked.
    """

    def __init__(
        self,
        cells: NDArray[np.int64],
        degeneracy: NDArray[np.int64],
        matrices: NDArray[np.complex128],
        positions: NDArray[np.complex128] | None = None,
    ) -> None:
        self.cells, self.degeneracy, self.matrices = cells, degeneracy, matrices
        self.positions = positions

    def at(self, k: ArrayLike) -> NDArray[np.complex128]:
        """(n, n) H(k), eV; k (3,) fractional."""
        weights = np.exp(2j * np.pi * self.cells @ np.asarray(k, dtype=float)) / self.degeneracy
        return np.asarray(np.tensordot(weights, self.matrices, axes=1))

    def eigenvalues(self, k: ArrayLike) -> NDArray[np.float64]:
        """(n,), ascending, eV."""
        return np.asarray(np.linalg.eigvalsh(self.at(k)))


def wigner_seitz(
    lattice: NDArray[np.float64], mesh: Sequence[int]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Lattice vectors in or on the Wigner-Seitz cell of the supercell that belongs to a k mesh.

    Args:
        lattice: (3, 3), rows, Å; the lattice may be described by any of its vectors.
        mesh: three integers.

    Returns:
        (C, 3) cells in lexical order and (C,) how many of them are equivalent; Σ 1/degeneracy =
        number of mesh points.
    """
    size = np.array(mesh, dtype=np.int64)
    axes = np.flatnonzero(size > 1)
    cells = np.array(list(itertools.product(*[range(n) for n in mesh])), dtype=np.int64)
    vectors = np.diag(size)[axes]  # of the supercell, in those of the lattice
    if len(axes):  # the shortest: the nearest of them are next to where a point is
        vectors = reduced_metric((vectors @ lattice) @ (vectors @ lattice).T)[1] @ vectors
    place = np.round(cells @ lattice @ np.linalg.pinv(vectors @ lattice)).astype(np.int64)
    near = np.array(list(itertools.product((-2, -1, 0, 1, 2), repeat=len(axes))), dtype=np.int64)
    found = cells[:, None] - (place[:, None] + near) @ vectors  # (mesh points, tries, 3)
    distance = np.linalg.norm(found @ lattice, axis=2)
    inside = distance <= distance.min(axis=1, keepdims=True) + 1e-6
    equal = np.broadcast_to(inside.sum(axis=1, keepdims=True), inside.shape)[inside]
    order = np.lexsort(found[inside].T[::-1])
    return found[inside][order], equal[order]


Positions = Callable[
    [BlochProblem, ArrayLike, NDArray[np.number], NDArray[np.complex128]], NDArray[np.complex128]
]
"""(problem, k, S(k), grad S(k)) -> (3, n, n), sum_R e^(ik.R) r(R) in the given basis, Å."""


def _lowdin_positions(
    given: NDArray[np.complex128],
    ds: NDArray[np.complex128],
    value: NDArray[np.float64],
    basis: NDArray[np.number],
) -> NDArray[np.complex128]:
    """The Berry connection of Löwdin's orbitals, X (A + i grad S) X + i S^1/2 grad X for X =
    S^-1/2.

    A + i grad S = sum_R e^(ik.R) <0| r - R |R> are the dipoles between Bloch functions <u| i grad
    u>; grad X comes from the divided differences of s^-1/2 over the eigenvalues s of S.

    Args:
        given: (3, n, n), A, of :data:`Positions`, Å.
        ds: (3, n, n), grad S, Å.
        value: (n,), s.
        basis: (n, n), eigenvectors.

    Returns:
        (3, n, n), Hermitian, Å.
    """
    root = np.sqrt(value)
    divided = -1 / (np.outer(root, root) * (root[:, None] + root[None, :]))
    found = np.empty_like(given)
    for axis in range(3):
        dipole = basis.conj().T @ (given[axis] + 1j * ds[axis]) @ basis
        slope = (basis.conj().T @ ds[axis] @ basis) * divided
        inner = dipole / np.outer(root, root) + 1j * root[:, None] * slope
        found[axis] = basis @ inner @ basis.conj().T
    return found


def lowdin(
    problem: BlochProblem, mesh: Sequence[int], positions: Positions | None = None
) -> OrthogonalModel:
    """Orthogonalise on a Γ-centred mesh and transform back.

    Args:
        problem: H and S.
        mesh: three integers.
        positions: of the given basis, where r is wanted, too.

    Raises:
        DataError: S(k) has (nearly) no norm for a state: Löwdin's S^-1/2 does not exist.
    """
    lattice = problem.structure.lattice
    cells, degeneracy = wigner_seitz(lattice, mesh)
    points = np.array(list(itertools.product(*[np.arange(n) / n for n in mesh])))
    matrices = np.zeros((len(cells), problem.size, problem.size), dtype=np.complex128)
    size = problem.size
    dipoles = None if positions is None else np.zeros((len(cells), 3, size, size), np.complex128)
    for k in points:
        h, s = problem.at(k)
        value, basis = scipy.linalg.eigh(s)
        if value[0] < _SMALLEST_S:
            raise DataError(
                f"{problem.source}, k = {np.round(k, 5).tolist()}: the smallest eigenvalue of S "
                f"is {value[0]:.2g}; the basis is linearly dependent (or S damaged), and an "
                "orthogonalised _hr.dat cannot be made from it"
            )
        root = (basis / np.sqrt(value)) @ basis.conj().T
        phases = np.exp(-2j * np.pi * cells @ k) / len(points)
        matrices += phases[:, None, None] * (root @ h @ root)[None]
        if positions is not None and dipoles is not None:
            ds = problem.derivative_at(k)[1]
            own = _lowdin_positions(positions(problem, k, s, ds), ds, value, basis)
            dipoles += phases[:, None, None, None] * own[None]
    return OrthogonalModel(cells, degeneracy, matrices, dipoles)


def lowdin_mesh(
    problem: BlochProblem,
    mesh: str | Sequence[int] | None,
    positions: Positions | None = None,
) -> tuple[OrthogonalModel, tuple[int, int, int]]:
    """The orthogonal model, and its mesh.

    Args:
        problem: H and S.
        mesh: "9x9x1" or three integers; default: four times the range of H, plus one.
        positions: see :func:`lowdin`.

    Raises:
        ConfigError: not a mesh.
        DataError: see :func:`lowdin`.
    """
    from ..bands.kmesh import parse_mesh

    numbers = default_lowdin_mesh(problem) if mesh is None else parse_mesh(mesh, problem)
    return lowdin(problem, numbers, positions), numbers


def lowdin_notes(problem: BlochProblem, model: OrthogonalModel, mesh: Sequence[int]) -> list[str]:
    """How the model was made, how far it reaches, and what was cut."""
    size = np.abs(model.matrices / model.degeneracy[:, None, None]).max(axis=(1, 2))
    length = np.linalg.norm(model.cells @ problem.structure.lattice, axis=1)
    # one point along a direction that repeats loses the dispersion there, and has to show
    steps = np.array(
        [
            1 / n if n > 1 or repeats else 0.0
            for n, repeats in zip(mesh, problem.coupled, strict=True)
        ]
    )
    worst = 0.0
    for k in (0.5 * steps, 0.5 * steps + np.where(np.array(mesh) > 1, steps, 0.25 * steps)):
        exact = scipy.linalg.eigh(*problem.at(k), eigvals_only=True)
        worst = max(worst, float(np.abs(model.eigenvalues(k) - exact).max()))
    return [
        f"Löwdin-orthogonalised on a {'x'.join(map(str, mesh))} mesh: eigenvalues are exact on its "
        f"points, between them off by up to {figures(worst * 1e3, 2)} meV (two points tried); "
        f"cells up to {length.max():.1f} Å, "
        f"|H(R)| {size[length >= 0.8 * length.max()].max():.1e} eV in the outermost fifth; "
        "a finer mesh (--mesh) lowers both"
    ]


def default_lowdin_mesh(problem: BlochProblem) -> tuple[int, int, int]:
    """A mesh whose supercell holds every R of H and S with room for the longer range of S^-1/2."""
    reach = np.abs(np.concatenate([problem.h.keys[:, :3], problem.s.keys[:, :3]])).max(axis=0)
    x, y, z = (1 if r == 0 else int(4 * r + 1) for r in reach)
    return x, y, z


def _centres(problem: BlochProblem) -> str:
    from ase.data import chemical_symbols

    structure = problem.structure
    rows = [
        ("X", position)
        for position, n in zip(structure.positions, structure.orbital_counts, strict=True)
        for _ in range(n * problem.spin)
    ]
    rows += [
        (chemical_symbols[z], position)
        for z, position in zip(structure.numbers, structure.positions, strict=True)
    ]
    lines = "".join(f"{name:3s} " + " ".join(f"{x:17.10f}" for x in p) + "\n" for name, p in rows)
    return f"{len(rows)}\nWannier centres = atoms, written by deeph-gformer\n{lines}"


def write_wannier90(
    target: str | os.PathLike[str],
    problem: BlochProblem,
    mesh: str | Sequence[int] | None = None,
    prefix: str = "wannier90",
) -> tuple[list[str], list[str]]:
    """Write ``<prefix>_hr.dat``, ``<prefix>_centres.xyz`` and a ``<prefix>.win`` with the cell:
    what ``pythtb.w90(target, prefix)`` and sisl read.

    Args:
        target: folder.
        problem: H and S.
        mesh: of the Löwdin transform, "9x9x1"; default: four times the range of H, plus one.
        prefix: of the names.

    Returns:
        (files, notes).

    Raises:
        ConfigError: not a mesh.
        DataError: see :func:`lowdin`.
    """
    model, numbers = lowdin_mesh(problem, mesh)
    size, folder = problem.size, pathlib.Path(target)
    name = "x".join(map(str, numbers))
    head = (
        f" deeph-gformer: Loewdin-orthogonalised on a {name} mesh, "
        f"{problem.structure.name}\n{size:12d}\n{len(model.cells):12d}\n"
    )
    head += "".join(
        "".join(f"{d:5d}" for d in model.degeneracy[n : n + 15]) + "\n"
        for n in range(0, len(model.degeneracy), 15)
    )
    column, row = np.divmod(np.arange(size * size), size)
    lines = [head]
    for cell, matrix in zip(model.cells.tolist(), model.matrices, strict=True):
        values = matrix[row, column]
        place = "".join(f"{c:5d}" for c in cell)
        table = zip(
            (row + 1).tolist(),
            (column + 1).tolist(),
            values.real.tolist(),
            values.imag.tolist(),
            strict=True,
        )
        lines.append("".join(f"{place}{r:5d}{c:5d}{x:20.12f}{y:20.12f}\n" for r, c, x, y in table))
    write_text(folder / f"{prefix}_hr.dat", "".join(lines))
    write_text(folder / f"{prefix}_centres.xyz", _centres(problem))
    cell = "".join(
        " ".join(f"{x:.12f}" for x in vector) + "\n" for vector in problem.structure.lattice
    )
    spin = "spinors = true\n" if problem.spin == 2 else ""
    write_text(
        folder / f"{prefix}.win",
        f"num_wann = {size}\nnum_bands = {size}\n{spin}mp_grid = "
        f"{' '.join(map(str, numbers))}\n\nbegin "
        f"unit_cell_cart\nAng\n{cell}end unit_cell_cart\n",
    )
    files = [f"{prefix}_hr.dat", f"{prefix}_centres.xyz", f"{prefix}.win"]
    return files, lowdin_notes(problem, model, numbers)


def read_hr(path: str | os.PathLike[str]) -> OrthogonalModel:
    """Read a ``_hr.dat`` of any program; its lines may stand in any order.

    Raises:
        DataError: no such file, cut short, another format, or an element that is there twice.
    """
    path = pathlib.Path(path)
    words = read_text(path).partition("\n")[2].split()
    try:
        size, count = (int(parse_number(w, str(path), int)) for w in words[:2])
        if size < 1 or count < 1 or len(words) != 2 + count + count * size * size * 7:
            raise ValueError("length")
        degeneracy = np.array(words[2 : 2 + count], dtype=np.int64)
        table = np.array(words[2 + count :], dtype=float).reshape(-1, 7)
    except (ValueError, IndexError, OverflowError):
        raise DataError(f"{path}: no _hr.dat of Wannier90, or cut short") from None
    if (table[:, :5] != np.round(table[:, :5])).any() or not (np.abs(table) <= MAX_VALUE).all():
        raise DataError(f"{path}: a line is not R (three integers), two orbitals and two numbers")
    row, column = (table[:, n].astype(np.int64) - 1 for n in (3, 4))
    if row.min() < 0 or row.max() >= size or column.min() < 0 or column.max() >= size:
        raise DataError(f"{path}: an orbital number is outside 1..{size}")
    if degeneracy.min() < 1:
        raise DataError(f"{path}: a degeneracy is below 1")
    # cells in the order of the file: the degeneracies stand in it
    _, first, which = np.unique(
        table[:, :3].astype(np.int64), axis=0, return_index=True, return_inverse=True
    )
    which = np.argsort(np.argsort(first))[which.reshape(-1)]
    place = (which * size + row) * size + column
    if len(first) != count or len(np.unique(place)) != len(table):
        raise DataError(f"{path}: an element H(R)_mn is there twice, so another one is missing")
    matrices = np.zeros(count * size * size, dtype=np.complex128)
    matrices[place] = table[:, 5] + 1j * table[:, 6]
    cells = table[np.sort(first), :3].astype(np.int64)
    return OrthogonalModel(cells, degeneracy, matrices.reshape(count, size, size))


def _export(target: pathlib.Path, source: ExportSource) -> tuple[list[str], list[str]]:
    return write_wannier90(target, source.problem, source.mesh)


EXPORT = Export("wannier90", _export, folder=True, options=("kind", "overlap", "mesh"))
