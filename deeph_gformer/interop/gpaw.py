"""A converged GPAW LCAO calculation -> a DeepH folder: H_ij(R) and S_ij(R) by Fourier sum over the
k-points.

Units and conventions: eV on GPAW's energy zero (the vacuum level where a direction is not
periodic), blocks wherever the orbitals' cutoff spheres touch, shells sorted by l, legacy orbital
order. GPAW orders a shell m = -l..l with positive signs and sums exp(-2 pi i k.R).
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..bands import BlochProblem
from ..errors import DataError, MissingDependencyError
from ..io import BlockMatrix, Structure
from ..io.dock import LEGACY_TO_E3NN
from ..overlap.neighbours import find_edges
from .dft.kmesh import inverse_fourier, mesh_for
from .dft.run import describe

__all__ = ["from_gpaw", "write_gpaw"]


def _check(calc: Any, require_converged: bool) -> None:
    try:
        import gpaw  # noqa: F401
    except ImportError:
        raise MissingDependencyError("gpaw", "gpaw", "from_gpaw") from None
    wfs = getattr(calc, "wfs", None)
    if wfs is None or getattr(wfs, "mode", "") != "lcao":
        raise DataError(
            f"GPAW calculation: mode is '{getattr(wfs, 'mode', 'not set')}', but only "
            "mode='lcao' has a Hamiltonian between atomic orbitals; "
            "calculate with GPAW(mode='lcao', basis='dzp')"
        )
    if require_converged and not (calc.scf is not None and calc.scf.converged):
        raise DataError(
            "GPAW calculation: the density is not converged; run atoms.get_potential_energy() to "
            "the end (more maxiter, another mixer)"
        )
    if wfs.nspins != 1 or getattr(wfs, "collinear", True) is False:
        raise DataError(
            "GPAW calculation: spin-polarised; a DeepH folder holds spinless or spin-orbit "
            "Hamiltonians. Calculate with spinpol=False"
        )
    if wfs.world.size != 1:
        raise DataError(
            f"GPAW calculation: runs on {wfs.world.size} processes, the matrices are spread over "
            "them; restart the .gpw file on one process"
        )
    if wfs.kpt_u[0].S_MM is None:
        raise DataError(
            "GPAW calculation: holds no matrices (read from a .gpw file?); run "
            "calc.get_potential_energy() again, which takes one step from a "
            "converged density"
        )


def _shells(setup: Any) -> tuple[list[Any], list[int]]:
    """Radial functions of a setup and their l, in GPAW's order (the attribute was renamed between
    versions).
    """
    functions = list(getattr(setup, "phit_j", None) or setup.basis_functions_J)
    return functions, [int(f.get_angular_momentum_number()) for f in functions]


def _orbitals(setup: Any) -> tuple[tuple[int, ...], NDArray[np.int64], float]:
    """(l of the shells sorted, GPAW's orbital for each legacy orbital, cutoff in Bohr)."""
    functions, degrees = _shells(setup)
    start = np.cumsum([0] + [2 * l + 1 for l in degrees])
    order = sorted(range(len(degrees)), key=lambda n: degrees[n])
    index = [start[n] + m for n in order for m in np.argsort(LEGACY_TO_E3NN[degrees[n]])]
    return (
        tuple(degrees[n] for n in order),
        np.array(index, dtype=np.int64),
        max(float(f.get_cutoff()) for f in functions),
    )


def _matrices(calc: Any) -> tuple[list[NDArray[np.number]], list[NDArray[np.number]]]:
    """H(k) (eV) and S(k) at the irreducible k-points, whole (GPAW fills the lower triangles)."""
    from ase.units import Ha

    def whole(matrix: NDArray[np.number]) -> NDArray[np.number]:
        return np.tril(matrix) + np.tril(matrix, -1).T.conj()

    wfs = calc.wfs
    h = [
        whole(wfs.eigensolver.calculate_hamiltonian_matrix(calc.hamiltonian, wfs, kpt)) * Ha
        for kpt in wfs.kpt_u
    ]
    return h, [whole(np.array(kpt.S_MM)) for kpt in wfs.kpt_u]


def _on_mesh(calc: Any, translations: NDArray[np.int64]) -> tuple[Any, NDArray[np.int64]]:
    """The calculation on a k mesh that tells all blocks apart, and the mesh.

    Args:
        calc: the converged calculation.
        translations: (E, 3), cells that its matrices reach.
    """
    own_mesh = np.array(calc.wfs.kd.N_c, dtype=np.int64)
    mesh = mesh_for(translations, own_mesh)
    reduced = len(calc.wfs.kd.symmetry.op_scc) > 1
    shifted = np.abs(np.asarray(calc.wfs.kd.bzk_kc)).sum(axis=1).min() > 1e-9
    if (mesh != own_mesh).any() or reduced or shifted:
        calc = calc.fixed_density(
            kpts={"size": tuple(int(n) for n in mesh), "gamma": True},
            symmetry={"point_group": False},
            txt=None,
        )
    return calc, mesh


def _blocks(
    calc: Any, keys: NDArray[np.int64], order: list[NDArray[np.int64]]
) -> tuple[list[NDArray[np.float64]], list[NDArray[np.float64]]]:
    """Blocks of H (eV) and S by Fourier sums over the k-points.

    Args:
        calc: the calculation.
        keys: (E, 5), cells counted from the positions in GPAW's cell.
        order: of each atom, GPAW's row for each legacy orbital.
    """
    kd = calc.wfs.kd
    h_k, s_k = _matrices(calc)
    h_blocks: list[NDArray[np.float64]] = [np.zeros(0)] * len(keys)
    s_blocks = list(h_blocks)
    for r in np.unique(keys[:, :3], axis=0):
        h_r, s_r = (
            inverse_fourier(m, np.asarray(kd.ibzk_kc), np.asarray(kd.weight_k), -r)
            for m in (h_k, s_k)
        )
        for e in np.flatnonzero((keys[:, :3] == r).all(axis=1)):
            place = np.ix_(order[keys[e, 3]], order[keys[e, 4]])
            h_blocks[e], s_blocks[e] = h_r[place], s_r[place]
    return h_blocks, s_blocks


def from_gpaw(calc: Any, name: str = "gpaw", require_converged: bool = True) -> BlochProblem:
    """H(R) and S(R) of a converged calculation.

    Every pair of atoms whose orbitals touch becomes a block. When the k mesh is too coarse to tell
    such pairs (and the tails of the PAW projectors) apart, does not hold Γ, or was reduced by
    point-group symmetry, H(k) is evaluated once more on a fine enough mesh at fixed density.

    Args:
        calc: GPAW in LCAO mode, spin-paired, on one process.
        name: of the structure.
        require_converged: refuse a density that is not.

    Returns:
        the problem; ``structure.info`` has what every DFT folder has
        (:func:`deeph_gformer.interop.dft.run.describe`), k mesh of the sum and orbital cutoffs.

    Raises:
        DataError: not converged, not LCAO, spin-polarised, parallel.
        MissingDependencyError: gpaw is not installed.
    """
    from ase.units import Bohr

    _check(calc, require_converged)
    atoms = calc.get_atoms()
    setups = calc.wfs.setups
    kinds = [_orbitals(setup) for setup in setups]
    cell, positions, numbers = (
        np.asarray(atoms.cell[:], float),
        atoms.get_positions(),
        np.asarray(atoms.numbers, np.int64),
    )
    radius = {int(z): kinds[n][2] * Bohr for n, z in enumerate(numbers)}
    tail = 2 * max(float(f.get_cutoff()) for setup in setups for f in setup.pt_j) * Bohr
    pairs = [(a, b) for a in radius for b in radius if a <= b]
    pbc = tuple(bool(v) for v in atoms.pbc)
    keys = find_edges(
        cell, positions, numbers, {(a, b): radius[a] + radius[b] for a, b in pairs}, pbc
    )
    reach = find_edges(
        cell, positions, numbers, {(a, b): radius[a] + radius[b] + tail for a, b in pairs}, pbc
    )
    wrap = np.round(positions @ np.linalg.inv(cell) - calc.spos_ac).astype(np.int64)

    def inside(
        k: NDArray[np.int64],
    ) -> NDArray[np.int64]:  # cells counted from the positions that GPAW wrapped into the cell
        return np.concatenate([k[:, :3] + wrap[k[:, 4]] - wrap[k[:, 3]], k[:, 3:]], axis=1)

    fermi = float(calc.get_fermi_level())
    calc, mesh = _on_mesh(calc, inside(reach))
    first = np.array([calc.wfs.basis_functions.M_a[a] for a in range(len(numbers))])
    order = [kind[1] + first[a] for a, kind in enumerate(kinds)]
    h_blocks, s_blocks = _blocks(calc, inside(keys), order)
    import gpaw

    info = describe(
        "GPAW",
        gpaw.__version__,
        fermi_level=fermi,
        electrons=round(float(calc.get_number_of_electrons()), 6),
        functional=str(calc.hamiltonian.xc.name),
        spin="none",
        converged=None if calc.scf.converged else False,
        k_mesh=[int(n) for n in mesh],
        orbital_cutoff_A={str(z): r for z, r in radius.items()},
    )
    structure = Structure(
        cell, positions, numbers, tuple(kind[0] for kind in kinds), False, info, name
    )
    return BlochProblem(
        structure,
        BlockMatrix.from_blocks(keys, h_blocks),
        BlockMatrix.from_blocks(keys, s_blocks),
        label="GPAW",
        source=name,
    )


def write_gpaw(
    folder: str | os.PathLike[str], calc: Any, form: str = "legacy", require_converged: bool = True
) -> BlochProblem:
    """Write a converged calculation as a structure folder (see :func:`from_gpaw`); returns the
    problem.

    Raises:
        DataError: the folder holds a structure already, or see :func:`from_gpaw`.
    """
    import pathlib

    from ..io.folder import folder_format
    from .folders import write_problem

    folder = pathlib.Path(folder)
    if folder_format(folder) is not None:
        raise DataError(f"{folder}: holds a structure already; choose another folder")
    problem = from_gpaw(calc, folder.name, require_converged)
    write_problem(folder, problem, form)
    return problem
