"""ABACUS against its own eigenvalues, verified folders, and runs written from known matrices."""

from __future__ import annotations

import pathlib
import re
import shutil
from collections.abc import Callable

import numpy as np
import pytest

from deeph_gformer import bands
from deeph_gformer.errors import DataError
from deeph_gformer.interop.dft import find_runs, read_run
from deeph_gformer.interop.dft.abacus import orbital_order
from deeph_gformer.interop.dft.abacus_csr import read_csr
from deeph_gformer.io import BlockMatrix, Structure, read_folder, read_matrix

from ...conftest import random_structure
from .abacus_files import write_run
from .conftest import moved, real, without
from .test_openmx import made as ungrouped


def made(nspin: int = 1) -> tuple[Structure, BlockMatrix, BlockMatrix]:
    """A crystal with atoms grouped by element, some of them outside the cell."""
    if nspin == 2:
        structure, h, s = random_structure(3, 4, True, grouped=True)
        groups = []
        for index, array in h.groups():
            array = array.real + 0j
            r, c = array.shape[1] // 2, array.shape[2] // 2
            array[:, :r, c:] = array[:, r:, :c] = 0
            groups.append((index, array))
        return structure, h.with_groups(groups), s
    return random_structure(3, 4, nspin == 4, grouped=True)


@pytest.mark.parametrize(
    ("name", "spin"), [("mos2_1x1", "none"), ("bismuthene_1x1", "non-collinear")]
)
def test_real_runs(name: str, spin: str) -> None:
    folder = real("abacus", name)
    run, verified = read_run(folder / "run", "abacus"), read_folder(folder)
    assert run.structure.same_as(verified, 1e-9)
    for kind, matrix in (("hamiltonian", run.hamiltonian), ("overlap", run.overlap)):
        expected = read_matrix(folder, kind, verified)  # type: ignore[arg-type]
        assert np.array_equal(matrix.keys, expected.keys)
        np.testing.assert_allclose(matrix.values, expected.values, rtol=1e-6, atol=1e-7)
    info = run.structure.info
    assert info["fermi_level"] == verified.info["fermi_level"]
    electrons = 26 if spin == "none" else 60
    assert (info["version"], info["spin"], info["electrons"]) == ("3.8.1", spin, electrons)
    assert info["functional"] == "PBE" and not run.notes
    table = np.load(folder / "abacus_bands.npz")
    problem = bands.BlochProblem(run.structure, run.hamiltonian, run.overlap)
    for k, own in zip(table["k"], table["energy_eV"]):
        mine = bands.solve_dense(*problem.at(k)).energies[: len(own)]
        np.testing.assert_allclose(mine, own, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("layout", "names", "log"),
    [("old", "old", "old"), ("new", "new", "new"), ("old", "new", "old")],
)
@pytest.mark.parametrize("nspin", [1, 2, 4])
def test_layouts(nspin: int, layout: str, names: str, log: str, tmp_path: pathlib.Path) -> None:
    structure, h, s = made(nspin)
    write_run(tmp_path / "r", structure, h, s, nspin=nspin, layout=layout, names=names, log=log)
    run = read_run(tmp_path / "r")
    inside, h, s = moved(structure, h, s)
    assert (inside.positions != structure.positions).any()  # an atom was outside the cell
    assert run.structure.same_as(inside, 1e-9)
    for mine, expected in ((run.hamiltonian, h), (run.overlap, s)):
        assert np.array_equal(mine.keys, expected.keys)
        np.testing.assert_allclose(mine.values, expected.values, rtol=0, atol=1e-10)
    info = run.structure.info
    assert info["fermi_level"] == -1.25 and info["electrons"] == 24
    assert info["version"] == "3.9.0.25"
    assert info["spin"] == {1: "none", 2: "collinear", 4: "non-collinear"}[nspin]
    assert any("collinear spin" in note for note in run.notes) == (nspin == 2)


@pytest.mark.parametrize("coordinates", ["Cartesian", "Cartesian_au"])
def test_coordinates(coordinates: str, tmp_path: pathlib.Path) -> None:
    structure, h, s = made()
    write_run(tmp_path / "r", structure, h, s, coordinates=coordinates)
    assert read_run(tmp_path / "r").structure.same_as(moved(structure, h)[0], 1e-9)


def test_output_folder_alone(tmp_path: pathlib.Path) -> None:
    """Without STRU the running log has the structure, with fewer digits.

    Without a log nothing has.
    """
    structure, h, s = made()
    write_run(tmp_path / "r", structure, h, s)
    assert find_runs(tmp_path / "r" / "OUT.made")[0].path == tmp_path / "r" / "OUT.made"
    assert read_run(tmp_path / "r" / "OUT.made").structure.same_as(moved(structure, h)[0], 1e-9)
    (tmp_path / "r" / "STRU").unlink()
    run = read_run(tmp_path / "r" / "OUT.made")
    assert run.structure.same_as(moved(structure, h)[0], 1e-4)
    assert any("no STRU" in note for note in run.notes)
    (tmp_path / "r" / "OUT.made" / "running_scf.log").unlink()
    with pytest.raises(DataError, match="neither STRU nor a running log"):
        read_run(tmp_path / "r" / "OUT.made")


@pytest.mark.parametrize("nspin", [1, 4])
def test_overlaps_alone(nspin: int, tmp_path: pathlib.Path) -> None:
    structure, _, s = made()
    for layout in ("old", "new"):
        write_run(tmp_path / layout, structure, None, s, nspin=nspin, layout=layout)
        run = read_run(tmp_path / layout)
        expected = moved(structure, s)[1]
        assert run.hamiltonian is None and np.array_equal(run.overlap.keys, expected.keys)
        np.testing.assert_allclose(run.overlap.values, expected.values, rtol=0, atol=1e-10)
        assert "fermi_level" not in run.structure.info


def test_pairs_of_h_alone_are_kept_and_told(tmp_path: pathlib.Path) -> None:
    structure, h, s = made()
    length = np.linalg.norm(structure.edge_vectors(s.keys), axis=1)
    far = np.flatnonzero(length > np.sort(length)[-3])
    pair = np.union1d(far, s.partner[far])
    write_run(tmp_path / "r", structure, h, without(s, pair))
    run = read_run(tmp_path / "r")
    assert len(run.hamiltonian) == len(h) and len(run.overlap) == len(h) - len(pair)
    assert any(f"{len(pair)} of {len(h)} pairs have H but no S" in note for note in run.notes)


def test_atoms_on_the_edge_follow_abacus(tmp_path: pathlib.Path) -> None:
    """-1e-14 is 0 in ABACUS' arithmetic (it adds 10000 and cuts), not 1 - 1e-14."""
    structure, h, s = made()
    fractional = structure.positions @ np.linalg.inv(structure.lattice)
    write_run(tmp_path / "r", structure, h, s)
    (tmp_path / "r" / "OUT.made" / "running_scf.log").write_text("")
    stru = (tmp_path / "r" / "STRU").read_text()
    row = " ".join(f"{v:.15f}" for v in fractional[0])
    assert row in stru
    for text, wrapped in (("-0.00000000000001 0.5 0.5", 0.0), ("-0.000001 0.5 0.5", 0.999999)):
        named = (
            stru.replace(row, text)
            .replace("S1_gga_8au_100Ry_9s", "S_1s1p")
            .replace("Mo_gga_8au_100Ry_9s", "Mo_1s1p1d")
        )
        (tmp_path / "r" / "STRU").write_text(named)
        run = read_run(tmp_path / "r")
        x = (run.structure.positions @ np.linalg.inv(structure.lattice))[0, 0]
        assert x == pytest.approx(wrapped, abs=1e-10)


def _edit(name: str, old: str, new: str) -> Callable[[pathlib.Path], None]:
    def change(run: pathlib.Path) -> None:
        text = (run / name).read_text()
        assert re.search(old, text, re.DOTALL), text[:300]
        (run / name).write_text(re.sub(old, new, text, count=1, flags=re.DOTALL))

    return change


def _remove(name: str) -> Callable[[pathlib.Path], None]:
    return lambda run: (run / name).unlink()


H, S = "OUT.made/data-HR-sparse_SPIN0.csr", "OUT.made/data-SR-sparse_SPIN0.csr"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_remove(S), "H\\(R\\) without S\\(R\\).*out_mat_hs2 1"),
        (
            lambda run: (_remove(H)(run), _remove(S)(run)),
            "no H\\(R\\) and no S\\(R\\); set 'out_mat_hs2 1'",
        ),
        (lambda run: shutil.rmtree(run / "OUT.made"), "without OUT.made; run ABACUS there"),
        (_edit(H, r"\n[^\n]*\n$", "\n"), "matrix number .* is cut short"),
        (
            _edit(H, "Matrix number of H\\(R\\): (\\d)", r"Matrix number of H(R): 9\1"),
            "cut short: .* instead of",
        ),
        (_edit(H, r"e-0", "e-x"), "is no number"),
        (_edit(H, "STEP: 0.*", "\x00\x01binary"), "no sparse matrix of ABACUS in a layout"),
        (_edit(H, r"\Z", "STEP: 1\n"), "holds 2 ionic steps"),
        (
            _edit(S, "Dimension of S\\(R\\): \\d+", "Dimension of S(R): 25"),
            "impossible|does not start|cut short|rows, but STRU",
        ),
        (
            _edit("INPUT", "nspin 1", "nspin 2"),
            "nspin 1, INPUT says nspin 2; one spin's H is missing",
        ),
        (_edit("INPUT", "nspin 1", "nspin 4"), "nspin 1, INPUT says nspin 4"),
        (_edit("INPUT", "calculation scf", "calculation relax"), "'calculation relax' moves atoms"),
        (_edit("STRU", "0\\.5\\d{10}", "0.62"), "away from where the running log has it"),
        (_edit("STRU", "Direct", "Polar"), "coordinates of kind 'Polar' are unknown"),
        (_edit("STRU", "\nMo //", "\nW //"), "species W is not in ATOMIC_SPECIES"),
        (
            _edit(
                "OUT.made/running_scf.log", "is achieved", "?\n convergence has not been achieved"
            ),
            "did not converge",
        ),
        (
            _edit("OUT.made/running_scf.log", "L=2, number of zeta", "L=4, number of zeta"),
            "shells of l = 4",
        ),
        (
            _edit("OUT.made/running_scf.log", "L=2, number of zeta = 1", "L=2, number of zeta = 2"),
            "rows, but STRU has 36 orbitals",
        ),
        (
            lambda run: shutil.copy(run / H, run / "OUT.made" / "hrs1_nao.csr"),
            "of two versions of ABACUS",
        ),
    ],
)
def test_bad_input(
    change: Callable[[pathlib.Path], object], message: str, tmp_path: pathlib.Path
) -> None:
    structure, h, s = made()
    write_run(tmp_path / "r", structure, h, s)
    change(tmp_path / "r")
    with pytest.raises(DataError, match=message):
        read_run(tmp_path / "r")


def test_lattice_by_name(tmp_path: pathlib.Path) -> None:
    """INPUT's latname makes the vectors: those of the log are taken; without a log it is said."""
    structure, h, s = made()
    write_run(tmp_path / "r", structure, h, s)
    _edit("STRU", "LATTICE_VECTORS.*?(?=ATOMIC_P)", "LATTICE_PARAMETERS\n1.6\n")(tmp_path / "r")
    run = read_run(tmp_path / "r")
    assert run.structure.same_as(moved(structure, h)[0], 2e-5)
    assert any("latname" in note for note in run.notes)
    (tmp_path / "r" / "OUT.made" / "running_scf.log").unlink()
    with pytest.raises(DataError, match="has no LATTICE_VECTORS; write the vectors"):
        read_run(tmp_path / "r")


def test_header_of_another_structure(tmp_path: pathlib.Path) -> None:
    structure, h, s = made()
    write_run(tmp_path / "r", structure, h, s, layout="new")
    _edit("OUT.made/hrs1_nao.csr", "Direct\n \\S+", "Direct\n 0.3")(tmp_path / "r")
    with pytest.raises(DataError, match="not those in the head of the matrix files"):
        read_run(tmp_path / "r")


def test_sum_over_all_cells_is_refused(tmp_path: pathlib.Path) -> None:
    structure, h, s = made()
    write_run(tmp_path / "r", structure, h, s, layout="new")
    note = " # representation: folded at Gamma\n\n user_defined"
    _edit("OUT.made/hrs1_nao.csr", "\n user_defined", note)(tmp_path / "r")
    with pytest.raises(DataError, match="summed over all lattice vectors.*gamma_only 0"):
        read_run(tmp_path / "r")


def test_two_fermi_levels_are_none(tmp_path: pathlib.Path) -> None:
    structure, h, s = made(2)
    write_run(tmp_path / "r", structure, h, s, nspin=2)
    _edit("OUT.made/running_scf.log", r"\Z", " E_Fermi_up 0.1 1.4\n E_Fermi_dw 0.2 2.7\n")(
        tmp_path / "r"
    )
    run = read_run(tmp_path / "r")
    assert "fermi_level" not in run.structure.info
    assert any("two Fermi levels" in note for note in run.notes)


def test_empty_matrices(tmp_path: pathlib.Path) -> None:
    """A lattice vector without elements: nothing follows it in the old layout, zeros in the new
    one."""
    head = "Matrix Dimension of H(R): 2\nMatrix number of H(R): 2\n"
    (tmp_path / "old").write_text(head + "0 0 1 0\n0 0 0 1\n 2.5\n 1\n 0 1 1\n")
    old = read_csr(tmp_path / "old")
    assert old.cells.tolist() == [[0, 0, 1], [0, 0, 0]] and old.matrices[1][0, 1] == 2.5
    text = " 2 # number of localized basis\n 1 # number of spin directions\n"
    text += " # CSR Format\n #-----------#\n"
    text += "0 0 1 0\n # CSR values\n\n # CSR column indices\n\n # CSR row pointers\n 0 0 0\n"
    text += "0 0 0 1\n # CSR values\n 2.5\n # CSR column indices\n 1\n # CSR row pointers\n 0 1 1\n"
    (tmp_path / "new").write_text(text)
    new = read_csr(tmp_path / "new")
    assert new.cells.tolist() == old.cells.tolist() and new.matrices[1][0, 1] == 2.5


def test_orbital_order_is_a_rotation_free_rule() -> None:
    """m = 0, 1, -1, ... with (-1)^m: real harmonics of SciPy give the sign and place of every f
    orbital."""
    order, sign = orbital_order(((3,),), 1)
    legacy_m = [0, 1, -1, 2, -2, 3, -3]  # z³ xz² yz² z(x²-y²) xyz x(x²-3y²) y(3x²-y²)
    assert order.tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert sign.tolist() == [(-1.0) ** m for m in legacy_m]
    assert orbital_order(((1,),), 2)[0].tolist() == [2, 4, 0, 3, 5, 1]


def test_an_order_that_is_not_grouped_is_no_abacus_run(tmp_path: pathlib.Path) -> None:
    structure, h, s = ungrouped(0)
    write_run(tmp_path / "r", structure, h, s)
    with pytest.raises(DataError, match="away from where|differs|of different runs"):
        read_run(tmp_path / "r")
