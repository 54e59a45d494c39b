"""``_tb.dat``: read by WannierBerri itself where it is installed, and against H c = E S c."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest
import scipy.linalg

from deeph_gformer import bands
from deeph_gformer.bands.topology.curvature import (
    E2_OVER_H_SIEMENS,
    anomalous_hall,
    kubo_curvature,
)
from deeph_gformer.bands.topology.links import position_rest
from deeph_gformer.interop.convert import convert_folder
from deeph_gformer.interop.wannierberri import write_wannierberri
from deeph_gformer.io import BlockMatrix, Structure

from ..conftest import random_matrices
from .exported import MESH, POINTS, folder_of

CONVERGED = "15x15x1"
"""Gradients of H' have converged on it, for the sheet."""
PLACES = ((2 / 15, 4 / 15, 0.0), (1 / 3, 2 / 3, 0.0))
"""On this mesh."""


def _sheet() -> bands.BlochProblem:
    """A made-up magnetic sheet with an atom of s and one of s and p orbitals, with spin."""
    rng = np.random.default_rng(4)
    lattice = np.array([[2.5, 0.0, 0.0], [-1.2, 2.2, 0.0], [0.0, 0.0, 15.0]])
    positions = np.array([[0.1, 0.2, 5.0], [1.1, 1.5, 5.4]])
    shells = ((0,), (0, 1))
    structure = Structure(
        lattice, positions, np.array([1, 6]), shells, True, {"isspinful": True}, "sheet"
    )
    reach = {(1, 1): 2.8, (1, 6): 2.8, (6, 6): 2.8}
    return bands.BlochProblem(structure, *random_matrices(structure, reach, rng, 3.0, 0.5))


@pytest.mark.parametrize("spinful", [False, True])
def test_eigenvalues_of_wannierberri_are_those_of_h_and_s(
    tmp_path: pathlib.Path, spinful: bool
) -> None:
    pytest.importorskip("wannierberri", reason="WannierBerri is not installed")
    source = folder_of(tmp_path, spinful)
    done = convert_folder(source, tmp_path / "out", "wannierberri", mesh=MESH)
    assert done["files"] == ["wannierberri_tb.dat"]
    problem = bands.load(source)
    from wannierberri.system.system_tb import get_system_tb

    system = get_system_tb(tb_file=str(tmp_path / "out" / done["files"][0]))
    assert np.abs(np.asarray(system.real_lattice) - problem.structure.lattice).max() < 1e-9
    ham = {tuple(r): h for r, h in zip(system.rvec.iRvec.tolist(), system.Ham_R, strict=True)}
    assert abs(sum(np.linalg.norm(h) for h in ham.values())) > 1.0
    from wannierberri.evaluate_k import evaluate_k

    for k in POINTS:
        mine = scipy.linalg.eigh(*problem.at(k), eigvals_only=True)
        theirs = evaluate_k(system, k=list(k), quantities=["energy"], return_single_as_dict=True)
        assert np.abs(np.sort(theirs["energy"]) - mine).max() < 1e-9


def _dipoles(problem: bands.BlochProblem) -> list[BlockMatrix]:
    """A made-up position matrix of the pattern of S: Hermitian dipoles on each site and hop, beside
    the middle of each pair."""
    crystal, s = problem.structure, problem.s
    found = []
    for axis in range(3):
        rng = np.random.default_rng(axis)
        extra = {}
        for key in s.keys.tolist():
            shape = s.shapes[len(extra)]
            extra[tuple(key)] = rng.normal(scale=0.1, size=tuple(shape))
        blocks = []
        for key, block in s:
            x, y, z, i, j = key
            back = extra[(-x, -y, -z, j, i)].T
            end = crystal.positions[j, axis] + np.dot((x, y, z), crystal.lattice[:, axis])
            middle = (crystal.positions[i, axis] + end) / 2
            blocks.append(middle * block + (extra[tuple(key)] + back) / 2)
        found.append(BlockMatrix.from_blocks(s.keys, blocks))
    return found


def _filled(problem: bands.BlochProblem, k: tuple[float, ...]) -> tuple[int, float]:
    """Bands below the widest gap of one k-point, and its middle, eV."""
    energies = scipy.linalg.eigh(*problem.at(k), eigvals_only=True)
    count = int(np.diff(energies).argmax()) + 1
    return count, float(energies[count - 1] + energies[count]) / 2


@pytest.mark.parametrize("with_r", [False, True])
def test_berry_curvatures_of_wannierberri_are_those_of_h_s_and_r(
    tmp_path: pathlib.Path, with_r: bool
) -> None:
    pytest.importorskip("wannierberri", reason="WannierBerri is not installed")
    from wannierberri.evaluate_k import evaluate_k
    from wannierberri.system.system_tb import get_system_tb

    problem = _sheet()
    positions = _dipoles(problem) if with_r else None
    files, _ = write_wannierberri(tmp_path / "out", problem, CONVERGED, positions=positions)
    system = get_system_tb(tb_file=str(tmp_path / "out" / files[0]), berry=True)
    rest = position_rest(problem, positions) if positions else None
    for k in PLACES:
        count, middle = _filled(problem, k)
        mine = kubo_curvature(problem, k, middle, 1e-4, rest)
        theirs = evaluate_k(
            system, k=list(k), quantities=["berry_curvature"], return_single_as_dict=True
        )["berry_curvature"]
        assert np.abs(mine).max() > 1e-3
        assert (
            np.abs(np.asarray(theirs)[:count].sum(axis=0) - mine).max() < 1e-5 * np.abs(mine).max()
        )


@pytest.mark.parametrize("with_r", [False, True])
def test_curvatures_from_the_file_are_those_of_h_s_and_r(
    tmp_path: pathlib.Path, with_r: bool
) -> None:
    """In the orthogonal basis of the file: X = (U† grad H U)/(E_m - E_n) - i U† r U in Kubo's sum,
    and the curvature rot r - i [r, r] of the basis itself."""
    problem = _sheet()
    positions = _dipoles(problem) if with_r else None
    files, notes = write_wannierberri(tmp_path / "out", problem, CONVERGED, positions=positions)
    assert ("approximation" in notes[-1]) is not with_r
    cells, degeneracy, h, r = _read(tmp_path / "out" / files[0])
    rest = position_rest(problem, positions) if positions else None
    for k in PLACES:
        phases = np.exp(2j * np.pi * cells @ np.array(k)) / degeneracy
        energies, u = np.linalg.eigh(np.tensordot(phases, h, 1))
        count, middle = _filled(problem, k)
        shift = cells @ problem.structure.lattice
        apart = energies[None, :] - energies[:, None] + np.eye(len(energies))
        x, dipoles = [], []
        for axis in range(3):
            slope = np.tensordot(1j * shift[:, axis] * phases, h, 1)
            dipoles.append(u.conj().T @ np.tensordot(phases, r[:, axis], 1) @ u)
            x.append(u.conj().T @ slope @ u / apart - 1j * dipoles[-1])
        mine = []
        for a, b in ((1, 2), (2, 0), (0, 1)):
            pairs = x[a][count:, :count].conj() * x[b][count:, :count]
            turns = 1j * shift[:, [a, b]] * phases[:, None]
            curl = np.tensordot(turns[:, 0], r[:, b], 1) - np.tensordot(turns[:, 1], r[:, a], 1)
            both = dipoles[a] @ dipoles[b]
            curl = u.conj().T @ curl @ u - 1j * (both - both.conj().T)
            mine.append(float(np.trace(curl[:count, :count]).real - 2 * pairs.imag.sum()))
        expected = kubo_curvature(problem, k, middle, 1e-4, rest)
        assert np.abs(expected).max() > 1e-3
        assert np.abs(np.array(mine) - expected).max() < 1e-5 * np.abs(expected).max()


def _read(path: pathlib.Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Cells, degeneracies, H(R) and r(R) of a ``_tb.dat``."""
    lines = path.read_text().splitlines()
    size, count = int(lines[4]), int(lines[5])
    start = 6 + -(-count // 15)
    degeneracy = np.array(" ".join(lines[6:start]).split(), dtype=int)
    step = size * size + 2
    h = np.zeros((count, size, size), dtype=complex)
    r = np.zeros((count, 3, size, size), dtype=complex)
    cells = np.zeros((count, 3), dtype=int)
    for c in range(2 * count):
        own = lines[start + c * step : start + (c + 1) * step]
        assert own[0] == ""
        cell = [int(word) for word in own[1].split()]
        if c < count:
            cells[c] = cell
        assert cells[c % count].tolist() == cell
        for line in own[2:]:
            words = line.split()
            m, n = int(words[0]) - 1, int(words[1]) - 1
            values = np.array(words[2:], dtype=float).view(complex)
            if c < count:
                h[c, m, n] = values[0]
            else:
                r[c - count, :, m, n] = values
    assert len(lines) == start + 2 * count * step
    return cells, degeneracy, h, r


def test_the_file_is_read_back_by_hand(tmp_path: pathlib.Path) -> None:
    """Wannier90's layout: lattice, degeneracies, H(R), r(R); notes say what was cut."""
    problem = bands.load(folder_of(tmp_path, False))
    files, notes = write_wannierberri(tmp_path / "out", problem, MESH)
    cells, degeneracy, h, _ = _read(tmp_path / "out" / files[0])
    for k in POINTS:
        at = np.tensordot(np.exp(2j * np.pi * cells @ np.array(k)) / degeneracy, h, 1)
        assert (
            np.abs(
                np.linalg.eigvalsh(at) - scipy.linalg.eigh(*problem.at(k), eigvals_only=True)
            ).max()
            < 1e-10
        )
    assert "off by up to" in notes[0] and "meV" in notes[0] and "Berry" in notes[1]


def test_hall_conductivity_of_wannierberri_is_ours(tmp_path: pathlib.Path) -> None:
    """Its AHC at T = 0, which is S/m for a cell with vacuum, smeared like ours."""
    wannierberri = pytest.importorskip("wannierberri", reason="WannierBerri is not installed")
    from wannierberri.calculators.static import AHC
    from wannierberri.system.system_tb import get_system_tb

    problem, width = _sheet(), 0.05
    positions = _dipoles(problem)
    files, _ = write_wannierberri(tmp_path / "out", problem, CONVERGED, positions=positions)
    system = get_system_tb(tb_file=str(tmp_path / "out" / files[0]), berry=True)
    mesh, energies = (15, 15, 1), np.linspace(-2.0, 2.0, 1601)
    found = wannierberri.run(
        system,
        wannierberri.Grid(system, NK=mesh, NKFFT=mesh),
        {"ahc": AHC(Efermi=energies, tetra=False)},
        parallel=False,
        use_irred_kpt=False,
        symmetrize=False,
        fout_name=str(tmp_path / "ahc"),
    )
    thickness = np.linalg.norm(problem.structure.lattice[2]) * 1e-10
    cold = found.results["ahc"].data * thickness / E2_OVER_H_SIEMENS
    for fermi in (-0.5, 0.0):
        weight = 1 / np.cosh((energies - fermi) / (2 * width)) ** 2
        mine = anomalous_hall(problem, fermi, mesh, width_eV=width, positions=positions).on_mesh
        assert np.abs(mine).max() > 0.05
        assert weight @ cold / weight.sum() == pytest.approx(mine, abs=5e-5)
