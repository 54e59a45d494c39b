"""``_hr.dat`` against the generalised eigenproblem, a closed form, and sisl's reader."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest

from deeph_gformer import bands
from deeph_gformer.analysis.redescribe import relattice
from deeph_gformer.bands import BlochProblem
from deeph_gformer.errors import DataError
from deeph_gformer.interop.wannier90 import lowdin, read_hr, wigner_seitz, write_wannier90
from deeph_gformer.io import BlockMatrix, Structure

from ..bands.conftest import graphene


def chain(overlap: float) -> BlochProblem:
    """One s orbital: E(k) = (e + 2 t cos) / (1 + 2 s cos)."""
    structure = Structure(
        np.diag([2.0, 9.0, 9.0]), np.zeros((1, 3)), np.array([1]), ((0,),), False, {}, "chain"
    )
    keys = np.array([[0, 0, 0, 0, 0], [1, 0, 0, 0, 0], [-1, 0, 0, 0, 0]])
    h = BlockMatrix.from_blocks(keys, [np.array([[v]]) for v in (0.3, -1.0, -1.0)])
    s = BlockMatrix.from_blocks(keys, [np.array([[v]]) for v in (1.0, overlap, overlap)])
    return BlochProblem(structure, h, s, source="chain")


def test_exact_on_the_mesh_and_converging_between(tmp_path: pathlib.Path) -> None:
    problem = chain(0.2)
    exact = lambda k: (0.3 - 2 * np.cos(2 * np.pi * k)) / (1 + 0.4 * np.cos(2 * np.pi * k))  # noqa: E731
    errors = []
    for n in (5, 11, 23):
        files, notes = write_wannier90(tmp_path / str(n), problem, f"{n}x1x1")
        assert (
            "Löwdin" in notes[0]
            and "Loewdin" in (tmp_path / str(n) / files[0]).read_text().splitlines()[0]
        )
        model = read_hr(tmp_path / str(n) / files[0])
        for m in range(n):
            assert model.eigenvalues((m / n, 0, 0))[0] == pytest.approx(exact(m / n), abs=1e-10)
        errors.append(abs(model.eigenvalues((0.123, 0, 0))[0] - exact(0.123)))
    assert errors[2] < 1e-6 < errors[0] and errors[1] < errors[0]


def test_one_point_along_a_direction_that_repeats_shows(tmp_path: pathlib.Path) -> None:
    """1x1x1 keeps E(0) = (e + 2 t) / (1 + 2 s) at every k: at k = 1/2 off by the band's width."""
    _, notes = write_wannier90(tmp_path, chain(0.2), "1x1x1")
    width = (0.3 + 2.0) / (1 - 0.4) - (0.3 - 2.0) / (1 + 0.4)
    assert f"off by up to {width * 1e3:.0f} meV" in notes[0]


def test_a_molecule(tmp_path: pathlib.Path) -> None:
    problem = chain(0.2)
    alone = BlockMatrix.from_blocks(np.zeros((1, 5), dtype=np.int64), [np.array([[0.3]])])
    one = BlockMatrix.from_blocks(np.zeros((1, 5), dtype=np.int64), [np.array([[1.0]])])
    _, notes = write_wannier90(tmp_path, BlochProblem(problem.structure, alone, one))
    assert read_hr(tmp_path / "wannier90_hr.dat").eigenvalues((0, 0, 0)).tolist() == [0.3]
    assert "off by up to 0 meV" in notes[0]


def test_wigner_seitz_counts_every_mesh_point() -> None:
    lattice = np.array([[2.46, 0, 0], [-1.23, 2.1304, 0], [0, 0, 20.0]])
    for mesh in ((4, 4, 1), (3, 3, 1), (2, 5, 1), (6, 4, 2)):
        cells, degeneracy = wigner_seitz(lattice, mesh)
        assert (1.0 / degeneracy).sum() == pytest.approx(np.prod(mesh))
        assert {tuple(c) for c in cells} == {tuple(-c) for c in cells}


@pytest.mark.parametrize("shear", [1, 3, 7])
def test_wigner_seitz_cell_in_an_askew_description(shear: int) -> None:
    """The same vectors, and exact eigenvalues on the mesh; near cells alone would miss some."""
    problem = graphene(mass=0.4)
    lattice, change = problem.structure.lattice, np.eye(3, dtype=np.int64)
    change[0, 1] = shear
    cells, degeneracy = wigner_seitz(lattice, (4, 4, 1))
    askew, copies = wigner_seitz(change @ lattice, (4, 4, 1))
    assert sorted(zip((askew @ change).tolist(), copies.tolist(), strict=True)) == sorted(
        zip(cells.tolist(), degeneracy.tolist(), strict=True)
    )
    other = relattice(2, change)
    there = BlochProblem(other.structure(problem.structure), other.blocks(problem.h))
    model = lowdin(there, (4, 4, 1))
    for k in ((0.25, 0.5, 0), (0.75, 0.25, 0)):
        exact = bands.solve_dense(*problem.at(np.linalg.solve(change, k))).energies
        np.testing.assert_allclose(model.eigenvalues(k), exact, atol=1e-12)


def test_sisl_reads_it(tmp_path: pathlib.Path) -> None:
    sisl = pytest.importorskip("sisl")
    structure = Structure(
        np.diag([2.0, 2.5, 9.0]),
        np.array([[0.0, 0, 0], [0.9, 1.1, 0]]),
        np.array([6, 1]),
        ((0, 1), (0,)),
        False,
        {},
        "toy",
    )
    rng = np.random.default_rng(3)
    keys = [(x, y, 0, i, j) for x in (-1, 0, 1) for y in (-1, 0, 1) for i in (0, 1) for j in (0, 1)]
    n = [4, 1]
    h = BlockMatrix.from_blocks(
        np.array(keys), [rng.normal(size=(n[k[3]], n[k[4]])) for k in keys]
    ).hermitian()
    s = BlockMatrix.from_blocks(
        np.array(keys), [0.02 * rng.normal(size=(n[k[3]], n[k[4]])) for k in keys]
    ).hermitian()
    for e, key in enumerate(s.keys.tolist()):
        if key[:3] == [0, 0, 0] and key[3] == key[4]:
            s.block(e)[:] += np.eye(n[key[3]])
    problem = BlochProblem(structure, h, s)
    write_wannier90(tmp_path, problem, "5x5x1")
    theirs = sisl.get_sile(str(tmp_path / "wannier90.win")).read_hamiltonian(
        cutoff=0.0, dtype=np.complex128
    )
    np.testing.assert_allclose(theirs.geometry.cell, structure.lattice, atol=1e-9)
    mine = read_hr(tmp_path / "wannier90_hr.dat")
    for k in ((0, 0, 0), (0.2, 0.4, 0), (-0.4, 0.2, 0)):
        exact = bands.solve_dense(*problem.at(k)).energies
        np.testing.assert_allclose(mine.eigenvalues(k), exact, atol=1e-9)
        np.testing.assert_allclose(np.sort(theirs.eigh(k=k)), exact, atol=1e-8)


def test_bad_input(tmp_path: pathlib.Path) -> None:
    with pytest.raises(DataError, match="smallest eigenvalue of S"):
        lowdin(chain(0.5), (2, 1, 1))
    (tmp_path / "a_hr.dat").write_text("x\n 2\n 1\n 1\n 0 0 0 1 1 0.0")
    with pytest.raises(DataError, match="cut short"):
        read_hr(tmp_path / "a_hr.dat")


def test_pythtb_reads_it(tmp_path: pathlib.Path) -> None:
    pythtb = pytest.importorskip("pythtb")
    problem = chain(0.2)
    write_wannier90(tmp_path, problem, "9x1x1")
    model = pythtb.w90(str(tmp_path), "wannier90").model()
    for m in range(9):
        exact = (0.3 - 2 * np.cos(2 * np.pi * m / 9)) / (1 + 0.4 * np.cos(2 * np.pi * m / 9))
        assert model.solve_one([m / 9, 0, 0])[0] == pytest.approx(exact, abs=1e-9)
