"""PySCF with periodic boundaries (KRKS, KUKS in Gaussian orbitals) ->
:class:`~deeph_gformer.interop.dft.run.DFTRun`.

H and S at k-points become H_ij(R) and S_ij(R) of all pairs of atoms closer than the distance at
which the overlap of their most diffuse functions falls below ``tolerance``; the k mesh is made fine
enough to tell these pairs apart, and H(k) at a point off the mesh is compared with PySCF's own.
PySCF sums exp(+2 pi i k.R), counts R from the atoms as given, and orders p shells x, y, z, the
others m = -l..l, without signs. H is on PySCF's zero of energy.
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import DataError
from ...io import BlockMatrix, Structure
from ...io.hdf5.reading import open_hdf5
from ...io.parsing import parse_json
from .kmesh import half_mesh, inverse_fourier, mesh_for
from .pyscf_basis import Basis, basis_of, bohr, load_pyscf, pairs_of
from .pyscf_orbitals import check_filling, check_numbers, of_orbitals
from .run import UNCONVERGED, DFTRun, check_run, describe, double

__all__ = ["PySCF", "from_pyscf", "write_pyscf"]

#: Largest error of H(k) (eV) and S(k) off the mesh.
_ACCURACY = 1e-5
#: A point off every mesh.
_CHECK = np.array([0.1371, 0.2113, 0.3179])

#: k-points (K, 3), fractional -> (H of each spin (K, n, n), Hartree; S (K, n, n)).
Matrices = Callable[
    [NDArray[np.float64]], tuple[list[Sequence[NDArray[np.number]]], Sequence[NDArray[np.number]]]
]


class PySCF:
    """Reader of checkpoint files of PySCF's periodic calculations."""

    name = "pyscf"

    def find(self, path: pathlib.Path) -> list[pathlib.Path]:
        """Checkpoint files (``.chk``, ``.chkfile``) at ``path``."""
        if path.is_file():
            return [path] if path.suffix in (".chk", ".chkfile") else []
        return sorted([*path.glob("*.chk"), *path.glob("*.chkfile")])

    def read(self, run: pathlib.Path, unconverged: bool = False) -> DFTRun:
        """Read one checkpoint: H(k) = S C ε C† S of its orbitals, on its own k mesh.

        Args:
            run: the file.
            unconverged: no effect; a checkpoint does not tell.

        Raises:
            DataError: damaged, no k-points, a k mesh that is not Γ-centred or too coarse for the
                orbitals' range.
            MissingDependencyError: PySCF is not installed.
        """
        load_pyscf()
        if run.is_dir():
            files = self.find(run)
            if len(files) != 1:
                raise DataError(f"{run}: holds {len(files)} checkpoint files; name one")
            run = files[0]
        try:
            with open_hdf5(run) as file:
                text = file["mol"][()]
                table = {n: _stacked(file["scf"], n) for n in ("mo_coeff", "mo_energy", "mo_occ")}
                kpts = np.array(file["scf/kpts"])
                check_numbers(kpts, table)
            cell = _cell(parse_json(text.decode() if isinstance(text, bytes) else text, str(run)))
        except (OSError, KeyError, ValueError, TypeError, AttributeError) as error:
            raise DataError(
                f"{run}: no checkpoint of a periodic PySCF calculation with k-points, or damaged "
                f"({type(error).__name__}: {str(error)[:120]})"
            ) from None
        fractional = kpts @ cell.lattice_vectors().T / (2 * np.pi)
        lowest = _own_mesh(fractional, run)
        h, s = of_orbitals(cell, kpts, table, run)
        check_filling(cell, fractional, table, run)

        def matrices(points: NDArray[np.float64]) -> Any:
            """(H per spin, S) at fractional k-points (K, 3), a list of (n, n) each."""
            difference = points[:, None] - fractional[None]
            place = np.abs(difference - np.round(difference)).sum(axis=2).argmin(axis=1)
            return [[part[n] for n in place] for part in h], [s[n] for n in place]

        basis = basis_of(cell, str(run))
        keys = pairs_of(cell, basis)
        if (mesh_for(keys, lowest) != lowest).any():
            raise DataError(
                f"{run}: its {'x'.join(map(str, lowest))} k-points cannot tell pairs of atoms "
                f"within the orbitals' range apart ({'x'.join(map(str, mesh_for(keys, lowest)))} "
                "are needed); run on that mesh, or call interop.dft.pyscf.write_pyscf(folder, "
                "mf) where the calculation is in memory"
            )
        info = {
            "fermi_level": _level(table["mo_energy"], table["mo_occ"]),
            "electrons": _whole(float(cell.tot_electrons())),  # checked
            "spin": "collinear" if len(h) == 2 else "none",
        }
        read = _assemble(cell, basis, keys, lowest, matrices, info, run.stem)
        note = "a checkpoint does not tell whether the run converged, nor its functional"
        return DFTRun(read.structure, read.hamiltonian, read.overlap, (*read.notes, note), (run,))


def _stacked(group: Any, name: str) -> NDArray[np.number]:
    """An array of a checkpoint, or its list of arrays (one a k-point, or a spin of them)."""
    item = group.get(name, group.get(f"{name}__from_list__"))
    if item is None:
        raise KeyError(name)
    if hasattr(item, "shape"):
        return np.array(item)
    return np.array([_stacked(item, key) for key in sorted(item)])


def _cell(table: dict[str, Any]) -> Any:
    """A Cell from the plain numbers of its JSON; PySCF's own loader evaluates strings of the file
    as Python.
    """
    cell = load_pyscf().pbc.gto.Cell()
    names = ("precision", "dimension", "cart", "unit", "spin", "charge", "low_dim_ft_type")
    cell.__dict__.update({n: table[n] for n in names if n in table})
    cell.a = np.array(table["a"], float).reshape(3, 3)
    cell._atom = [(str(name), [float(x) for x in place]) for name, place in table["_atom"]]
    cell._atm, cell._bas = (np.array(table[n], dtype=np.int32) for n in ("_atm", "_bas"))
    cell._env = np.array(table["_env"], dtype=float)
    cell._ecpbas = np.zeros((0, 8), dtype=np.int32)
    cell._built = True
    cell.rcut = load_pyscf().pbc.gto.cell.estimate_rcut(cell, cell.precision)
    return cell


def _own_mesh(fractional: NDArray[np.float64], where: pathlib.Path) -> NDArray[np.int64]:
    """The Γ-centred mesh that the k-points are.

    Raises:
        DataError: they are another one, or a part of one.
    """
    inside = np.round(fractional, 6) % 1.0
    mesh = np.array([len(np.unique(inside[:, axis])) for axis in range(3)])
    whole = np.abs(inside * mesh - np.round(inside * mesh)).max(initial=0) < 1e-4
    every = len(np.unique(inside, axis=0)) == len(inside) == mesh.prod()
    if not whole or not every:
        raise DataError(
            f"{where}: its k-points are no whole Γ-centred mesh; use cell.make_kpts(mesh) "
            "without symmetry"
        )
    return mesh


def _blocks(
    keys: NDArray[np.int64],
    basis: Basis,
    matrices: Sequence[NDArray[np.number]],
    points: NDArray[np.float64],
    weights: NDArray[np.float64],
) -> BlockMatrix:
    """X(R) between pairs of atoms, legacy orbital order."""
    counts = np.array([sum(2 * l + 1 for l in own) for own in basis.shells])
    first = np.concatenate([[0], np.cumsum(counts)])
    blocks: list[NDArray[np.float64]] = [np.zeros(0)] * len(keys)
    cells, which = np.unique(keys[:, :3], axis=0, return_inverse=True)
    for number, cell in enumerate(cells):
        whole = inverse_fourier(matrices, points, weights, cell)[np.ix_(basis.order, basis.order)]
        for e in np.flatnonzero(which.reshape(-1) == number).tolist():
            i, j = keys[e, 3:].tolist()
            blocks[e] = whole[first[i] : first[i + 1], first[j] : first[j + 1]]
    return BlockMatrix.from_blocks(keys, blocks)


def _assemble(
    cell: Any,
    basis: Basis,
    keys: NDArray[np.int64],
    mesh: NDArray[np.int64],
    matrices: Matrices,
    info: dict[str, Any],
    name: str,
) -> DFTRun:
    """Structure, H(R) and S(R) from H(k) and S(k) on a mesh that tells the pairs apart."""
    hartree = float(load_pyscf().data.nist.HARTREE2EV)
    points, weights = half_mesh(mesh)
    h_k, s_k = matrices(points)
    spins = [_blocks(keys, basis, [m * hartree for m in part], points, weights) for part in h_k]
    s = _blocks(keys, basis, s_k, points, weights)
    notes = []
    if len(spins) == 2:
        empty = BlockMatrix(s.keys, s.shapes, np.zeros(len(s.values)))
        h = double((spins[0], empty, empty, spins[1]))
        notes.append("collinear spin: H is [[up, 0], [0, down]]")
    else:
        h = spins[0]
    info = describe("PySCF", load_pyscf().__version__, **info, k_mesh=[int(n) for n in mesh])
    structure = Structure(
        cell.lattice_vectors() * bohr(),
        cell.atom_coords() * bohr(),
        basis.numbers,
        basis.shells,
        len(spins) == 2,
        info,
        name,
    )
    return DFTRun(structure, h, s, tuple(notes))


def _level(energies: NDArray[np.number], occupations: NDArray[np.number]) -> float | None:
    """Fermi level in eV: the middle between the highest occupied and the lowest empty state; where
    they cross, PySCF's (the highest occupied).
    """
    e, f = np.ravel(energies), np.ravel(occupations)
    if not len(e) or f.max() <= 0 or f.min() > 0:
        return None
    half = f.max() / 2
    top, bottom = float(e[f > half].max()), float(e[f <= half].min())
    return (top + bottom) / 2 * float(load_pyscf().data.nist.HARTREE2EV)


def _whole(number: float) -> float | int:
    return round(number) if abs(number - round(number)) < 1e-6 else float(number)


def from_pyscf(mf: Any, name: str = "pyscf", unconverged: bool = False) -> DFTRun:
    """H(R) and S(R) of a calculation in memory.

    H(k) is evaluated at fixed density on a mesh that is fine enough for the orbitals' range, and at
    one point off it for comparison.

    Args:
        mf: a KRKS, KUKS, KRHF or KUHF object after ``kernel()``.
        name: of the structure.
        unconverged: read it although the density is not converged.

    Raises:
        DataError: another kind of calculation, not converged, a basis that folders do not hold,
            k-points reduced by symmetry, or an H that reaches further than overlaps (exact
            exchange).
        MissingDependencyError: PySCF is not installed.
    """
    load_pyscf()
    from pyscf.pbc.scf import khf, kuhf

    where = f"PySCF calculation '{name}'"
    kind, cell = type(mf).__name__, getattr(mf, "cell", None)
    polarised = isinstance(mf, kuhf.KUHF)
    if cell is None or not isinstance(mf, (khf.KRHF, kuhf.KUHF)) or "RO" in kind:
        raise DataError(
            f"{where}: is a {kind}; KRKS and KUKS have an H(R) of the kind that folders hold"
        )
    if hasattr(mf.kpts, "kpts_ibz"):
        raise DataError(
            f"{where}: k-points are reduced by symmetry; make them without space_group_symmetry"
        )
    if mf.mo_coeff is None or not (mf.converged or unconverged):
        raise DataError(f"{where}: the density is not converged; {UNCONVERGED.replace('--', '')}")
    basis = basis_of(cell, where)
    keys, density = pairs_of(cell, basis), mf.make_rdm1()
    shared = cell.reciprocal_vectors() if int(cell.dimension) else np.zeros((3, 3))

    def matrices(points: NDArray[np.float64]) -> Any:
        """(H per spin, S) at fractional k-points (K, 3), a list of (n, n) each."""
        k = points @ shared
        potential = mf.get_veff(cell, density, kpts=mf.kpts, kpts_band=k)
        h = mf.get_hcore(cell, k) + np.asarray(potential)
        return list(h) if polarised else [h], mf.get_ovlp(cell, k)

    mesh = mesh_for(keys, np.ones(3, dtype=np.int64))
    info = {
        "fermi_level": _level(_flat(mf.mo_energy), _flat(mf.mo_occ)),
        "electrons": int(cell.nelectron),
        "functional": getattr(mf, "xc", None) or "HF",
        "spin": "collinear" if polarised else "none",
        "converged": None if mf.converged else False,
    }
    run = _assemble(cell, basis, keys, mesh, matrices, info, name)
    _check_off_mesh(run, basis, matrices, int(cell.dimension), where)
    return check_run(run, pathlib.Path(name))


def _flat(values: Any) -> NDArray[np.number]:
    """All numbers of a list of arrays, or of two spins' lists of them."""
    if isinstance(values, np.ndarray) and values.dtype != object:
        return values.ravel()
    return np.concatenate([_flat(part) for part in values])


def _check_off_mesh(
    run: DFTRun, basis: Basis, matrices: Matrices, dimension: int, where: str
) -> None:
    """H(k) and S(k) of the blocks at a point off the mesh are PySCF's own.

    Raises:
        DataError: they are not: H or S reaches further than the pairs.
    """
    from ...bands import BlochProblem

    point = np.where(np.arange(3) < dimension, _CHECK, 0.0)
    parts, s = matrices(point[None])
    hartree = float(load_pyscf().data.nist.HARTREE2EV)
    if run.hamiltonian is None:
        return
    problem = BlochProblem(run.structure, run.hamiltonian, run.overlap)
    mine_h, mine_s = problem.at(point)
    place, spin = np.ix_(basis.order, basis.order), len(parts)
    atoms = np.repeat(np.arange(len(run.structure)), run.structure.orbital_counts)
    error_h = 0.0
    for number, part in enumerate(parts):
        before = np.concatenate([[0], np.cumsum(run.structure.orbital_counts)])[atoms]
        inside = np.arange(len(atoms)) - before
        row = spin * before + number * run.structure.orbital_counts[atoms] + inside
        error_h = max(
            error_h, float(np.abs(mine_h[np.ix_(row, row)] - part[0][place] * hartree).max())
        )
        if number == 0:
            error_s = float(np.abs(mine_s[np.ix_(row, row)] - s[0][place]).max())
    if max(error_h, error_s) > _ACCURACY:
        raise DataError(
            f"{where}: H off the k mesh differs from PySCF's own by {error_h:.1e} eV (S: "
            f"{error_s:.1e}): it reaches further than overlaps do. Exact exchange (hybrid "
            "functionals, HF) does that; use a local functional, or cell.precision below 1e-8"
        )


def write_pyscf(
    folder: str | os.PathLike[str], mf: Any, form: str = "legacy", unconverged: bool = False
) -> DFTRun:
    """Write a calculation as a structure folder.

    Args:
        folder: where to.
        mf: see :func:`from_pyscf`.
        form: folder format.
        unconverged: write it although the density is not converged.

    Raises:
        DataError: the folder holds a structure already, or see :func:`from_pyscf`.
    """
    from ...io.folder import is_free, replaced_folder
    from ..folders import write_folder

    folder = pathlib.Path(folder)

    def check() -> None:
        if not is_free(folder):
            raise DataError(f"{folder}: holds a structure already; choose another folder")

    check()
    run = from_pyscf(mf, folder.name, unconverged)
    with replaced_folder(folder, check) as scratch:
        write_folder(scratch, run.structure, run.matrices, form)
    return run
