"""PYATB's files: read again by our own reader of ABACUS, and by PYATB where it is installed."""

from __future__ import annotations

import dataclasses
import pathlib

import numpy as np
import pytest
import scipy.linalg

from deeph_gformer.bands import BlochProblem
from deeph_gformer.bands.optics import optical_conductivity
from deeph_gformer.bands.topology import Links, kubo_curvature, wannier_centres
from deeph_gformer.bands.topology.links import position_rest
from deeph_gformer.errors import ConfigError
from deeph_gformer.interop.dft.abacus import orbital_order
from deeph_gformer.interop.dft.abacus_csr import read_csr
from deeph_gformer.interop.pyatb import write_pyatb
from deeph_gformer.io import BlockMatrix

from ..bands.conftest import random_problem
from ..bands.test_topology import bhz, haldane, kane_mele, mixed, wilson_dirac


def two_elements(spin: int) -> BlochProblem:
    """C, Si, C: ABACUS wants atoms grouped."""
    problem = random_problem(spin=spin)
    crystal = dataclasses.replace(problem.structure, numbers=np.array([6, 14, 6]))
    return BlochProblem(crystal, problem.h, problem.s, source="three atoms")


@pytest.mark.parametrize("spin", [1, 2])
def test_files_read_again(spin: int, tmp_path: pathlib.Path) -> None:
    problem = two_elements(spin)
    files, notes = write_pyatb(tmp_path, problem, fermi_eV=0.25)
    assert (
        sorted(files) == ["HR.csr", "Input", "SR.csr", "STRU"] and "no position matrix" in notes[1]
    )
    assert "fermi_energy      0.2500000000" in (tmp_path / "Input").read_text()
    h, s = read_csr(tmp_path / "HR.csr"), read_csr(tmp_path / "SR.csr")
    assert h.size == problem.size and (h.cells == s.cells).all()
    k = np.array([0.13, -0.21, 0.34])
    phases = np.exp(2j * np.pi * h.cells @ k)
    sums = [sum(p * m.toarray() for p, m in zip(phases, one.matrices)) for one in (h, s)]
    # back into the legacy order: atoms 1 and 3 come first
    grouped = [0, 2, 1]
    shells = tuple(problem.structure.orbital_types[a] for a in grouped)
    order, sign = orbital_order(shells, spin)
    counts = problem.structure.orbital_counts * spin
    first = np.concatenate([[0], np.cumsum(counts)])
    legacy = np.concatenate([np.arange(first[a], first[a + 1]) for a in grouped])
    for found, right in zip(sums, problem.at(k)):
        moved = sign[:, None] * found[np.ix_(order, order)] * sign
        assert np.abs(moved - right[np.ix_(legacy, legacy)]).max() < 1e-12


def test_complex_without_spin_is_refused(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ConfigError, match="haldane: H.R. is complex without spin-orbit"):
        write_pyatb(tmp_path / "x", haldane(0.2))
    assert not (tmp_path / "x").exists()


def _pyatb(folder: pathlib.Path, problem: BlochProblem, positions: bool):
    pytest.importorskip("mpi4py")
    init = pytest.importorskip("pyatb.init_tb")
    spin = 4 if problem.spinful else 1
    return init.init_tb(
        nspin=spin,
        lattice_constant=1.0,
        lattice_vector=problem.structure.lattice,
        HR_route=str(folder / "HR.csr"),
        SR_route=str(folder / "SR.csr"),
        need_rR=positions,
        rR_route=str(folder / "rR.csr"),
    ).tb_solver


@pytest.mark.parametrize("spin", [1, 2])
def test_pyatb_has_our_eigenvalues(spin: int, tmp_path: pathlib.Path) -> None:
    problem = two_elements(spin)
    write_pyatb(tmp_path, problem)
    solver = _pyatb(tmp_path, problem, False)
    points = np.array([[0.0, 0, 0], [0.13, -0.21, 0.34], [0.5, 0.25, 0.1]])
    theirs = solver.diago_H_eigenvaluesOnly(points)
    for k, found in zip(points, theirs):
        right = scipy.linalg.eigh(*problem.at(k), eigvals_only=True)
        assert np.sort(found) == pytest.approx(right, abs=1e-9)


def without_degeneracy(problem: BlochProblem) -> BlochProblem:
    """A field on each atom breaks time reversal and inversion."""
    rng, values = np.random.default_rng(7), problem.h.values.copy()
    for e in np.flatnonzero(
        (problem.h.keys[:, 3] == problem.h.keys[:, 4]) & ~problem.h.keys[:, :3].any(axis=1)
    ):
        n = int(problem.h.shapes[e, 0])
        field = 0.3 * (rng.standard_normal((n, n)) + 1j * rng.standard_normal((n, n)))
        values[problem.h.offsets[e] : problem.h.offsets[e + 1]] += (field + field.conj().T).ravel()
    h = BlockMatrix(problem.h.keys, problem.h.shapes, values)
    return BlochProblem(problem.structure, h, problem.s, source="field")


@pytest.mark.parametrize("filled", [1, 2, 3])
@pytest.mark.parametrize(
    "make", [lambda: kane_mele(0.1, 0.1), lambda: bhz(1.0), lambda: wilson_dirac(1.0)]
)
def test_pyatb_has_our_berry_curvature(make, filled: int, tmp_path: pathlib.Path) -> None:
    """The same H, S and r: total curvature of the filled states, from sums over states."""
    problem, positions = mixed(without_degeneracy(make()))
    rest = position_rest(problem, positions)
    write_pyatb(tmp_path, problem, positions)
    solver = _pyatb(tmp_path, problem, True)
    points = np.array([[0.13, 0.27, 0.06], [0.31, 0.35, 0.2], [0.71, 0.12, 0.4]])
    theirs = solver.get_total_berry_curvature_occupiedNumber(points, filled, 0)
    for k, found in zip(points, theirs):
        energies = scipy.linalg.eigh(*problem.at(k), eigvals_only=True)
        top, bottom = energies[filled - 1], energies[filled]
        ours = kubo_curvature(problem, k, (top + bottom) / 2, (bottom - top) / 200, rest)
        assert np.abs(ours).max() > 1e-4
        assert np.asarray(found) == pytest.approx(ours, rel=1e-6, abs=1e-6)


def test_pyatb_has_our_wannier_centres(tmp_path: pathlib.Path) -> None:
    """Hybrid Wannier charge centres along a1, in fractions, sign and origin included."""
    problem, positions = mixed(kane_mele(0.1, 0.1))
    write_pyatb(tmp_path, problem, positions)
    solver = _pyatb(tmp_path, problem, True)
    for k2 in (0.1, 0.3, 0.45):
        loop = np.array([[n / 200, k2, 0.0] for n in range(201)])
        theirs = np.sort(np.asarray(solver.get_wilson_loop(loop, 2)) % 1.0)
        ours, _ = wannier_centres(Links(problem, 2, positions), np.array([0, k2, 0]), 0)
        assert ours == pytest.approx(theirs, abs=3e-3)


def test_convert_to_pyatb(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a folder with a position matrix; the Fermi level of info.json goes along."""
    from deeph_gformer.cli import main
    from deeph_gformer.io.folder import write_matrix
    from deeph_gformer.io.legacy import write_structure
    from deeph_gformer.io.positions import write_positions

    monkeypatch.chdir(tmp_path)
    problem, positions = mixed(kane_mele(0.1))
    info = {"fermi_level": 0.125, "isspinful": True}
    crystal = dataclasses.replace(problem.structure, spinful=True, info=info)
    write_structure(tmp_path / "km", crystal)
    write_matrix(tmp_path / "km", "hamiltonian", problem.h, crystal)
    write_matrix(tmp_path / "km", "overlap", problem.s, crystal)
    write_positions(tmp_path / "km", positions, crystal)
    assert main(["convert", "km", "out", "--to", "pyatb"]) == 0
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "HR.csr",
        "Input",
        "SR.csr",
        "STRU",
        "rR.csr",
    ]
    text = (tmp_path / "out" / "Input").read_text()
    assert "fermi_energy      0.1250000000" in text and "nspin             4" in text
    assert main(["convert", "km", "out", "--to", "pyatb"]) == 2  # is there already


@pytest.mark.parametrize("make", [lambda: wilson_dirac(1.0), lambda: two_elements(1)])
def test_pyatb_has_our_optical_conductivity(make, tmp_path: pathlib.Path) -> None:
    """All nine components, and xx, yy, zz of the dielectric function; with time reversal or not."""
    problem, positions = make(), None
    if problem.spinful:
        problem, positions = mixed(without_degeneracy(problem))
    else:  # orbitals on their atoms, as our approximation has them
        positions = atom_positions(problem)
    write_pyatb(tmp_path, problem, positions)
    solver = _pyatb(tmp_path, problem, True)
    points = np.array([[i / 3, j / 3, k / 3] for i in range(3) for j in range(3) for k in range(3)])
    energies = np.array([scipy.linalg.eigh(*problem.at(k), eigvals_only=True) for k in points])
    steps, eta = 121, 0.3  # PYATB leaves out pairs farther apart than the last photon energy
    gaps = energies[:, 1:].min(axis=0) - energies[:, :-1].max(axis=0)
    filled = int(np.argmax(gaps)) + 1
    fermi = energies[:, filled].min() - gaps[filled - 1] / 2
    assert gaps[filled - 1] > 0.05
    sigma, chi = solver.get_optical_conductivity(
        4 if problem.spinful else 1, steps, 0.5, 0.0, eta, filled, points, 27, 1, False, 0.0
    )
    photon = 0.5 * np.arange(steps)
    ours = optical_conductivity(
        problem, fermi, photon, (3, 3, 3), broadening_eV=eta, width_eV=1e-3, positions=positions
    )
    mine = 100 * ours.sigma.reshape(steps, 9).T  # S/m
    assert np.abs(sigma).max() > 1e3
    assert sigma == pytest.approx(mine, abs=1e-6 * np.abs(sigma).max())
    mine = ours.susceptibility.reshape(steps, 9).T[::4]  # xx, yy, zz
    assert chi[::4] == pytest.approx(mine, abs=1e-6 * np.abs(chi).max())


def atom_positions(problem: BlochProblem) -> tuple[BlockMatrix, ...]:
    """(tau_i + tau_j + R) / 2 S_ij(R)."""
    crystal, parts = problem.structure, ([], [], [])
    for key, block in problem.s:
        end = crystal.positions[key[4]] + np.array(key[:3]) @ crystal.lattice
        for axis, part in enumerate(parts):
            part.append((crystal.positions[key[3], axis] + end[axis]) / 2 * block)
    return tuple(BlockMatrix.from_blocks(problem.s.keys, part) for part in parts)
