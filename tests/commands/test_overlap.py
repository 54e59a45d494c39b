"""``overlap fit|predict|info``."""

from __future__ import annotations

import dataclasses
import functools
import json
import pathlib

import numpy as np
import pytest
from ase.build import graphene

from deeph_gformer.errors import ConfigError, DataError
from deeph_gformer.io import BlockMatrix, Structure, legacy, read_folder, read_matrix
from deeph_gformer.io.positions import read_positions
from deeph_gformer.overlap import TableOverlap, load, save_table, two_centre
from deeph_gformer.overlap.basis import AtomicBasis

from ..overlap.test_basis_files import pao_text
from .helpers import run


@pytest.fixture(scope="module")
def orbitals() -> TableOverlap:
    radius = np.linspace(0, 5, 501)
    values = np.array(
        [np.exp(-0.5 * radius**2), np.exp(-1.1 * radius**2), radius * np.exp(-0.6 * radius**2)]
    )
    return TableOverlap(two_centre([AtomicBasis(6, (0, 0, 1), radius, values, 5.0).normalised()]))


@pytest.fixture
def training(tmp_path: pathlib.Path, orbitals: TableOverlap) -> pathlib.Path:
    """Eight shaken graphene cells with their overlaps."""
    sheet = graphene(a=2.46, vacuum=8, size=(2, 2, 1))
    for n in range(8):
        random = np.random.default_rng(n)
        lattice = sheet.cell[:] * random.uniform(0.97, 1.03)
        positions = sheet.get_scaled_positions() @ lattice + random.normal(
            0, 0.06, sheet.positions.shape
        )
        structure = Structure(
            lattice,
            positions,
            sheet.numbers.astype(np.int64),
            ((0, 0, 1),) * len(sheet),
            False,
            {},
            f"{n:04d}",
        )
        folder = tmp_path / "train" / structure.name
        legacy.write_structure(folder, structure)
        legacy.write_blocks(folder / "overlaps.h5", orbitals.overlap(structure))
    return tmp_path / "train"


def test_fit_then_predict_a_hidden_structure(
    tmp_path: pathlib.Path, training: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = tmp_path / "fit.json"
    assert (
        run(
            "overlap",
            "fit",
            "--preprocessed",
            training,
            "--structures",
            "0000:0006",
            "-o",
            tmp_path / "c.npz",
            "--json",
            report,
        )
        == 0
    )
    text = capsys.readouterr().out
    assert "fitted to 7 structures" in text and "S is two-centre" in text
    figures = json.loads(report.read_text())
    assert (
        figures["two_centre"] is True
        and figures["pairs"][0]["residual_max"] < 1e-6
        and figures["structures"][-1] == "0006"
    )
    hidden = training / "0007"
    exact = read_matrix(hidden, "overlap")
    with pytest.raises(DataError, match="is there already; add --overwrite"):
        run("overlap", "predict", "--overlap", tmp_path / "c.npz", "--input", hidden)
    assert (
        run(
            "overlap",
            "predict",
            "--overlap",
            tmp_path / "c.npz",
            "--input",
            hidden,
            "--overwrite",
            "--extrapolate",
        )
        == 0
    )
    found = read_matrix(hidden, "overlap")
    assert {tuple(k) for k in found.keys.tolist()} == {tuple(k) for k in exact.keys.tolist()}
    assert np.abs(found.values - exact.values).max() < 2e-5


def test_predict_from_files_in_both_formats(tmp_path: pathlib.Path, orbitals: TableOverlap) -> None:
    table = save_table(tmp_path / "c.npz", orbitals.table)
    predict = functools.partial(run, "overlap", "predict", "--overlap", table)
    names = []
    for n, a in enumerate((2.46, 2.5)):
        graphene(a=a, vacuum=8).write(tmp_path / f"g{n}.vasp")
        names.append(tmp_path / f"g{n}.vasp")
    assert predict("--input", *names, "-o", tmp_path / "out", "--json", tmp_path / "p.json") == 0
    rows = json.loads((tmp_path / "p.json").read_text())["structures"]
    for n, row in enumerate(rows):
        folder = tmp_path / "out" / f"g{n}"
        structure = read_folder(folder)
        assert (
            structure.orbital_types == ((0, 0, 1),) * 2
            and row["atoms"] == 2
            and {"edges_s", "overlap_s", "write_s"} <= set(row)
        )
        assert (
            np.abs(read_matrix(folder, "overlap").values - orbitals.overlap(structure).values).max()
            < 1e-12
        )
    assert predict("--input", names[0], "-o", tmp_path / "dock", "--format", "dock") == 0
    assert np.allclose(
        read_matrix(tmp_path / "dock", "overlap").values,
        read_matrix(tmp_path / "out" / "g0", "overlap").values,
        atol=1e-9,
    )
    assert predict("--input", names[0], "-o", tmp_path / "flat", "--pbc", "T,T,F") == 0
    with pytest.raises(ConfigError, match="three letters"):
        predict("--input", names[0], "-o", tmp_path / "flat2", "--pbc", "yes")
    with pytest.raises(ConfigError, match="name the folder"):
        predict("--input", names[0])
    with pytest.raises(DataError, match="no such file or folder"):
        predict("--input", tmp_path / "none.vasp", "-o", tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_info(
    tmp_path: pathlib.Path,
    training: pathlib.Path,
    orbitals: TableOverlap,
    capsys: pytest.CaptureFixture[str],
) -> None:
    table = save_table(tmp_path / "c.npz", orbitals.table)
    assert run("overlap", "info", table, "--json", tmp_path / "i.json") == 0
    assert "C shells 0 0 1" in capsys.readouterr().out
    assert json.loads((tmp_path / "i.json").read_text())["pairs"][0]["cutoff_A"] == pytest.approx(
        5.2918, abs=1e-4
    )
    assert run("overlap", "info", training / "0000" / "overlaps.h5") == 0
    assert "C-C: blocks up to" in capsys.readouterr().out


def test_wrong_words_to_fit(tmp_path: pathlib.Path, training: pathlib.Path) -> None:
    for words, match in (
        (["--cutoff", "C-X=1"], "C-C=6.35"),
        (["--cutoff", "C-C=-1"], "positive"),
        (["--cutoff", "C-C=inf"], "positive"),
        (["--cutoff", "C-C=6", "--cutoff", "C-C=7"], "C-C=7: gives these elements a second"),
    ):
        with pytest.raises(ConfigError, match=match):
            run("overlap", "fit", "--preprocessed", training, "-o", tmp_path / "c.npz", *words)
    with pytest.raises(SystemExit, match="2"):
        words = ["--tolerance", "0"]
        run("overlap", "fit", "--preprocessed", training, "-o", tmp_path / "c.npz", *words)
    with pytest.raises(DataError, match="no such structure; there are 0000"):
        run(
            "overlap",
            "fit",
            "--preprocessed",
            training,
            "-o",
            tmp_path / "c.npz",
            "--structures",
            "9",
        )
    assert not (tmp_path / "c.npz").exists()
    assert (
        run(
            "overlap",
            "fit",
            "--preprocessed",
            training,
            "-o",
            tmp_path / "c.npz",
            "--cutoff",
            "C-C=4.5",
        )
        == 0
    )
    assert load(tmp_path / "c.npz").cutoffs == {(6, 6): 4.5}


def test_commands_on_hamiltonians_take_the_table_of_a_bundle(
    tmp_path: pathlib.Path, training: pathlib.Path, orbitals: TableOverlap
) -> None:
    """All levels of H = -3 S are -3 eV."""
    folder, bundle = training / "0000", tmp_path / "bundle"
    s = read_matrix(folder, "overlap")
    legacy.write_blocks(folder / "hamiltonians.h5", dataclasses.replace(s, values=-3.0 * s.values))
    (folder / "overlaps.h5").unlink()
    bundle.mkdir()
    save_table(bundle / "overlap.npz", orbitals.table)
    words = ("--electrons", sum(read_folder(folder).orbital_counts), "--mesh", "1x1x1")
    run("fermi", folder, "--overlap", bundle, *words, "--json", tmp_path / "f.json")
    found = json.loads((tmp_path / "f.json").read_text())
    assert found["fermi_eV"] == pytest.approx(-3.0, abs=1e-5)


def test_another_structure_is_not_replaced_by_accident(
    tmp_path: pathlib.Path, training: pathlib.Path, orbitals: TableOverlap
) -> None:
    table, target = save_table(tmp_path / "c.npz", orbitals.table), training / "0000"
    graphene(a=2.46, vacuum=8).write(tmp_path / "g.vasp")
    (target / "overlaps.h5").rename(target / "hamiltonians.h5")
    before = {p.name: p.read_bytes() for p in target.iterdir()}
    words = ("overlap", "predict", "--overlap", table, "--input", tmp_path / "g.vasp", "-o", target)
    with pytest.raises(DataError, match="0000: holds another structure; add --overwrite"):
        run(*words)
    assert {p.name: p.read_bytes() for p in target.iterdir()} == before
    assert run(*words, "--overwrite") == 0
    assert (
        len(read_folder(target)) == 2
        and not (target / "hamiltonians.h5").exists()
        and (target / "overlaps.h5").exists()
    )
    (target / "overlaps.h5").unlink()
    assert run(*words) == 0  # the same structure: S is added


def test_pao_folders_and_position_matrices(tmp_path: pathlib.Path) -> None:
    """One folder of basis files; what is taken from them is on the line, or follows from the
    shells."""
    basis = tmp_path / "basis"
    basis.mkdir()
    (basis / "C6.5.pao").write_text(pao_text(6))
    graphene(a=2.46, vacuum=8).write(tmp_path / "g.vasp")
    first, second = tmp_path / "first", tmp_path / "second"
    words = ("overlap", "predict", "--basis", basis)
    with pytest.raises(DataError, match="name the basis as in the OpenMX input, e.g. C6.5-s2p2d1"):
        run(*words, "--input", tmp_path / "g.vasp", "-o", first)
    assert not first.exists()
    for options in ((first, "--format", "legacy"), (second, "--format", "dock")):
        run(*words, "C6.5-s2p1", "--input", tmp_path / "g.vasp", "--positions", "-o", *options)
    structure = read_folder(first)
    assert structure.orbital_types == ((0, 0, 1),) * 2
    s = read_matrix(first, "overlap", structure)
    assert (second / "position_matrix.h5").is_file()
    for a, b in zip(read_positions(first, structure), read_positions(second, read_folder(second))):
        assert np.array_equal(a.keys, s.keys) and np.abs(a.values - b.values).max() < 1e-9
    # beside an S that is there: shells come from the folder, S stays
    (first / "positions.h5").unlink()
    before = (first / "overlaps.h5").read_bytes()
    assert run(*words, "--input", first, "--positions") == 0
    assert (first / "overlaps.h5").read_bytes() == before and read_positions(first, structure)
    with pytest.raises(DataError, match="positions.h5: is there already"):
        run(*words, "--input", first, "--positions")
    (first / "positions.h5").unlink()
    (basis / "C6.5.pao").write_text(pao_text(6, scale=1.1))
    with pytest.raises(DataError, match="another basis"):
        run(*words, "--input", first, "--positions")
    table = save_table(tmp_path / "c.npz", load([basis, "C6.5-s2p1"]).table)  # type: ignore[attr-defined]
    with pytest.raises(
        ConfigError, match="does not know <i|r|j>; give basis files".replace("|", r"\|")
    ):
        run("overlap", "predict", "--overlap", table, "--input", first, "--positions")


def test_commands_on_hamiltonians_take_basis_files_for_s(tmp_path: pathlib.Path) -> None:
    """H = -5 S has the one eigenvalue -5 for the S of the basis files, and for no other."""
    from deeph_gformer.bands import solve_dense
    from deeph_gformer.commands.loading import load_problem
    from deeph_gformer.commands.shared import HamiltonianOptions

    basis = tmp_path / "basis"
    basis.mkdir()
    (basis / "C6.5.pao").write_text(pao_text(6))
    (basis / "Mo7.0.pao").write_text(pao_text(42))
    graphene(a=2.46, vacuum=8).write(tmp_path / "g.vasp")
    folder = tmp_path / "g"
    words = ("overlap", "predict", "--basis", basis, "C6.5-s2p1", "--input", tmp_path / "g.vasp")
    run(*words, "-o", folder)
    s = read_matrix(folder, "overlap")
    h = BlockMatrix(s.keys, s.shapes, -5 * s.values)
    legacy.write_blocks(folder / "hamiltonians.h5", h)
    (folder / "overlaps.h5").unlink()
    table = save_table(tmp_path / "c.npz", load([basis, "C6.5-s2p1"]).table)  # type: ignore[attr-defined]
    for source in (basis, table, basis / "C6.5-s2p1"):
        options = HamiltonianOptions(overlap=source)
        problem = load_problem(options, folder, "hamiltonian")
        energies = solve_dense(*problem.at([0.1, 0.3, 0.0]), where="test").energies
        assert np.abs(energies + 5).max() < 1e-6
    options = HamiltonianOptions(overlap=tmp_path / "nothing")
    with pytest.raises(DataError, match="nothing"):
        load_problem(options, folder, "hamiltonian")
