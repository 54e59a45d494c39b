"""The commands of the physics area, end to end, on a small model crystal."""

from __future__ import annotations

import json
import pathlib
import shutil

import numpy as np
import pytest
from scipy.integrate import trapezoid

from deeph_gformer.cli import main
from deeph_gformer.io import BlockMatrix, Structure
from deeph_gformer.io.folder import write_matrix
from deeph_gformer.io.gauge import OURS
from deeph_gformer.io.legacy import read_structure, write_structure


@pytest.fixture
def folder(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """Gapped honeycomb lattice (E = +-sqrt(0.09 + |t f|^2)) with a prediction whose hopping is 1 %
    off and whose zero is shifted by 50 meV."""
    monkeypatch.chdir(tmp_path)
    a = 2.46
    lattice = np.array([[a, 0, 0], [-a / 2, a * 3**0.5 / 2, 0], [0, 0, 15.0]])
    crystal = Structure(
        lattice,
        np.array([[0, 0, 7.5], [0, a / 3**0.5, 7.5]]),
        np.array([6, 6]),
        ((0,), (0,)),
        False,
        {"isspinful": False, "isorthogonal": True, "fermi_level": 0.05},
        "honeycomb",
    )
    hops = [(0, 0, 0, 0, 1), (0, -1, 0, 0, 1), (-1, -1, 0, 0, 1)]

    def matrix(t: float, shift: float) -> BlockMatrix:
        keys = [
            (0, 0, 0, 0, 0),
            (0, 0, 0, 1, 1),
            *hops,
            *[(-x, -y, -z, j, i) for x, y, z, i, j in hops],
        ]
        return BlockMatrix.from_blocks(
            np.array(keys), [np.array([[v]]) for v in (0.3 + shift, -0.3 + shift, *[t] * 6)]
        )

    target = tmp_path / "honeycomb"
    write_structure(target, crystal)
    write_matrix(target, "hamiltonian", matrix(-2.7, 0.0), crystal)
    write_matrix(target, "prediction", matrix(-2.727, 0.05), crystal)
    return target


def write_unity(folder: pathlib.Path) -> None:
    """The overlap of the orthogonal basis, as a file."""
    unity = BlockMatrix.from_blocks(np.array([(0, 0, 0, 0, 0), (0, 0, 0, 1, 1)]), [np.eye(1)] * 2)
    write_matrix(folder, "overlap", unity, read_structure(folder))


def test_bands_shows_both_and_writes_everything(
    folder: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outputs = [
        word for name in ("b.png", "b.svg", "b.Band", "b.h5", "b.ase.json") for word in ("-o", name)
    ]
    assert (
        main(
            [
                "bands",
                str(folder),
                "--mesh",
                "6x6x1",
                "--npoints",
                "30",
                "--json",
                "all.json",
                *outputs,
            ]
        )
        == 0
    )
    out = capsys.readouterr().out
    assert (
        "path Γ M K Γ (ASE, HEX2D" in out and "dense LAPACK, 2 orbitals" in out and "stage 1" in out
    )
    data = json.loads(pathlib.Path("all.json").read_text())
    assert [b["label"] for b in data["bands"]] == ["DFT", "stage 1"]
    assert data["bands"][0]["fermi_eV"] == pytest.approx(0.0, abs=1e-9) and data["bands"][1][
        "fermi_eV"
    ] == pytest.approx(0.05, abs=1e-9)
    assert "counted below info.json's Fermi level" in data["bands"][1]["fermi_source"]
    error = data["errors"]["stage 1"]
    assert (
        error["shift_meV"] == pytest.approx(0.0, abs=1e-6) and 10 < error["max_meV"] < 30
    )  # the 50 meV shift is gauge, the 1 % is not
    for name in ("b.png", "b.svg", "b.Band", "b.h5", "b.ase.json"):
        assert pathlib.Path(name).stat().st_size > 200


def test_bands_with_roles_and_path_file(
    folder: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refined = tmp_path / "refined"
    refined.mkdir()
    for name in folder.iterdir():
        if name.name != "hamiltonians.h5":
            (refined / name.name).write_bytes(name.read_bytes())
    pathlib.Path("K_PATH").write_text("6 0 0 0 0.3333333333 0.3333333333 0 GAMMA K\n")
    assert (
        main(
            [
                "bands",
                str(folder),
                "--refined",
                str(refined),
                "--stage1",
                str(folder),
                "--path-file",
                "K_PATH",
                "--electrons",
                "2",
                "--mesh",
                "3x3x1",
                "-o",
                "x.pdf",
            ]
        )
        == 0
    )
    out = capsys.readouterr().out
    assert out.count("Fermi level") == 3 and "refined" in out and "path Γ K (K_PATH)" in out


def test_bands_of_another_structure_get_no_error(
    folder: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(folder, "wider")
    np.savetxt("wider/lat.dat", 1.01 * np.loadtxt("wider/lat.dat"))
    write_unity(pathlib.Path("wider"))
    words = [
        "bands",
        str(folder),
        "wider",
        "--mesh",
        "3x3x1",
        "--npoints",
        "10",
        "--window",
        "-9",
        "2",
        "--json",
        "all.json",
    ]
    assert main(words) == 0
    data, streams = json.loads(pathlib.Path("all.json").read_text()), capsys.readouterr()
    assert (
        len(data["bands"]) == 4
        and list(data["errors"]) == ["honeycomb stage 1"]
        and data["window_eV"] == [-9, 2]
    )
    assert (
        "of another structure than" in streams.err and "band error (meV), -9 to 2 eV" in streams.out
    )


def test_fermi_says_where_it_comes_from(
    folder: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        main(["fermi", str(folder), "--valence", "C=1", "--mesh", "6x6x1", "--json", "f.json"]) == 0
    )
    data = json.loads(pathlib.Path("f.json").read_text())
    assert (
        data["fermi_eV"] == pytest.approx(0.0, abs=1e-9)
        and data["electrons"] == 2
        and "valence electrons per element (C 1)" in data["source"]
    )
    assert main(["fermi", str(folder), "--fermi", "info"]) == 0
    assert "0.050000 eV: info.json" in capsys.readouterr().out


def test_dos_and_gap(folder: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main(
            [
                "dos",
                str(folder),
                "--mesh",
                "9x9x1",
                "--fat",
                "1,2",
                "--json",
                "d.json",
                "-o",
                "d.png",
            ]
        )
        == 0
    )
    data = json.loads(pathlib.Path("d.json").read_text())
    assert (
        np.abs(
            np.array(data["projected_per_eV"]["1"])
            + data["projected_per_eV"]["2"]
            - np.array(data["dos_per_eV"])
        ).max()
        < 1e-9
    )
    assert main(["gap", str(folder), "--mesh", "5x5x1", "--json", "g.json"]) == 0
    assert "direct gap 0.6000 eV" in capsys.readouterr().out
    data = json.loads(pathlib.Path("g.json").read_text())
    assert (
        sorted(np.round(np.abs(data["k_valence"]), 3))[1:] == [0.333, 0.333]
        and data["electrons"] == 2
    )


def test_compare_takes_out_the_gauge(
    folder: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        main(
            [
                "compare",
                str(folder),
                "--eigenvalues",
                "--mesh",
                "6x6x1",
                "--modes",
                "1",
                "--json",
                "c.json",
            ]
        )
        == 0
    )
    data = json.loads(pathlib.Path("c.json").read_text())
    assert data["hamiltonian"]["mu_eV"] == pytest.approx(0.05) and data["hamiltonian"][
        "max_meV"
    ] == pytest.approx(27.0)
    assert data["hamiltonian"]["raw_max_meV"] == pytest.approx(50.0) and data["ghosts"] == []
    assert data["error_modes"][0]["energy_eV"] == pytest.approx(0.081, abs=1e-9) or data[
        "error_modes"
    ][0]["energy_eV"] == pytest.approx(-0.081, abs=1e-9)
    assert "mu = <dH,S>/<S,S> = 50.0000 meV" in capsys.readouterr().out


@pytest.mark.parametrize("level", [2.0, None], ids=["no whole number", "unknown"])
@pytest.mark.parametrize(
    "words",
    [
        ["compare", "honeycomb", "--eigenvalues", "--modes", "1"],
        ["fermi", "honeycomb"],
        ["gap", "honeycomb"],
        ["dos", "honeycomb", "--electrons", "9"],
        ["optics", "honeycomb"],
        ["surface", "honeycomb", "--along", "1", "--path", "GXZ"],
        ["topology", "honeycomb", "--kind", "chern"],
        ["bands", "honeycomb", "--window", "500", "501"],
    ],
    ids=lambda words: words[0],
)
def test_what_ends_with_an_error_says_and_writes_nothing_before(
    folder: pathlib.Path,
    words: list[str],
    level: float | None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Of a Hamiltonian that its DFT's Fermi level cuts through a band, or of which none is known:
    no error of H, no Fermi level, no figure and no JSON of a command that exits 2."""
    info = json.loads((folder / "info.json").read_text())
    del info["fermi_level"]
    (folder / "info.json").write_text(json.dumps(info | ({"fermi_level": level} if level else {})))
    before = sorted(pathlib.Path.cwd().rglob("*"))
    assert main([*words, "--mesh", "5x5x1", "--json", "x.json"]) == 2
    said = capsys.readouterr()
    known = ("DFT: honeycomb/hamiltonians.h5",)  # which Hamiltonian
    assert [line for line in said.out.splitlines() if line not in known] == []
    assert "error: " in said.err.splitlines()[-1]
    assert sorted(pathlib.Path.cwd().rglob("*")) == before


@pytest.mark.parametrize("other", [[], ["honeycomb"], ["moved"]])
def test_compare_needs_a_prediction_of_the_same_structure(
    folder: pathlib.Path, other: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(folder, "moved")
    write_unity(pathlib.Path("moved"))
    (folder / "hamiltonians_pred.h5").unlink()
    assert main(["compare", str(folder), *other]) == (0 if "moved" in other else 2)
    positions = np.loadtxt("moved/site_positions.dat")
    np.savetxt("moved/site_positions.dat", positions + np.array([0.0, 0.01]))
    assert main(["compare", str(folder), *other]) == 2
    words = (
        "moved: holds another structure"
        if "moved" in other
        else "hamiltonians_pred.h5: file not found"
    )
    assert words in capsys.readouterr().err.splitlines()[-1]


def test_compare_says_that_the_folder_of_dft_comes_first(
    folder: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(folder, "dft")
    (folder / "hamiltonians.h5").unlink()
    assert main(["compare", str(folder)]) == 2
    said = capsys.readouterr().err
    assert f"no DFT Hamiltonian; name the folder with DFT's first: compare DIR {folder}" in said
    assert main(["compare", "dft", str(folder)]) == 0


@pytest.mark.parametrize(
    "words, message",
    [
        (["bands", "nowhere"], "nowhere: no such folder"),
        (["bands", "honeycomb", "--path", "GXZ"], "X, Z is no special point"),
        (["bands", "honeycomb", "--path", "GM", "--path-file", "x"], "give one of them"),
        (["bands", "honeycomb", "--nbands", "9"], "9 bands asked"),
        (
            ["bands", "honeycomb", "--window", "3", "-3"],
            "--window 3 -3: the first energy must be below",
        ),
        (
            ["bands", "honeycomb", "--window", "1", "1"],
            "--window 1 1: the first energy must be below",
        ),
        (
            ["bands", "honeycomb", "--window", "500", "501", "--mesh", "3x3x1"],
            "no band of .*honeycomb.* lies in --window 500 501",
        ),
        (["bands", "honeycomb", "--spin", "z"], "no spin in this Hamiltonian"),
        (["bands", "honeycomb", "--solver", "sparse"], "2 bands|of 2 bands|--solver dense"),
        (["dos", "honeycomb", "--fat", "Mo-d"], "selects no orbital"),
        (["bands", "honeycomb", "--mesh", "1000000x1000000x1"], "1000000000000 k-points; at most"),
        (["dos", "honeycomb", "--mesh", "4x4"], "three positive integers"),
        (["gap", "honeycomb", "--electrons", "3"], "half filled"),
        (["fermi", "honeycomb", "--electrons", "9"], "2 bands hold"),
        (["dos", "honeycomb", "--window", "1", "1"], "the first energy must be below"),
        (["fermi", "honeycomb", "--s-threshold", "1e9"], "above all eigenvalues of S"),
        (["fermi", "honeycomb", "--valence", "C=-3"], "valence 'C=-3': write element=electrons"),
        (["fermi", "honeycomb", "--valence", "Cc=3"], "valence 'Cc=3': write element=electrons"),
        (["fermi", "honeycomb", "--valence", "C=1", "--electrons", "2"], "give one of them"),
        (
            ["dos", "honeycomb", "--fermi", "info", "--electrons", "2"],
            "--fermi info needs no electrons",
        ),
        (
            ["bands", "honeycomb", "--fermi", "0.1", "--valence", "C=1"],
            "--fermi 0.1 needs no electrons",
        ),
    ],
)
def test_bad_input_is_one_clear_line(
    folder: pathlib.Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    import re

    assert main(words) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith(f"deeph-gformer {words[0]}: error: ") and re.search(message, line)


@pytest.mark.parametrize(
    "words",
    [
        "bands --window nan 1",
        "bands --window -1 inf",
        "bands --window -inf 1",
        "bands --npoints 0",
        "bands --npoints 1.5",
        "bands --fat=",
        "bands --path=",
        "bands --s-threshold -1",
        "bands --s-threshold nan",
        "dos --window 0 nan",
        "dos --dos-width inf",
        "fermi --electrons nan",
        "fermi --fermi nan",
        "fermi --fermi high",
        "fermi --fermi -inf",
        "fermi --electrons -1e0",
        "fermi --valence=",
        "fermi --width 0",
        "gap --electrons nan",
        "gap --fermi info",
        "compare --window inf",
        "compare --ghost-margin nan",
        "compare --ghost-margin -1",
        "compare --modes -1",
    ],
)
def test_options_that_are_no_such_number_are_refused(
    folder: pathlib.Path, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    verb, option, *values = words.split()
    with pytest.raises(SystemExit, match="2"):
        main([verb, str(folder), option, *values])
    assert option.split("=")[0] in capsys.readouterr().err.splitlines()[-1]


def test_negative_numbers_with_an_exponent_are_values(
    folder: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        "bands",
        str(folder),
        "--fermi",
        "-1e-1",
        "--window",
        "-1e1",
        "3",
        "--npoints",
        "5",
        "-o",
        "x.json",
    ]
    assert main(words) == 0
    assert "Fermi level -0.1000 eV" in capsys.readouterr().out


def test_electrons_of_an_element_that_is_not_there_are_said(
    folder: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fermi", str(folder), "--valence", "C=1,Mo=14", "--mesh", "3x3x1"]) == 0
    assert (
        "--valence gives electrons of Mo, which 'honeycomb' does not have"
        in capsys.readouterr().err
    )


def test_unknown_electrons_give_absolute_energies_with_a_note(
    folder: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    info = json.loads((folder / "info.json").read_text())
    (folder / "info.json").write_text(
        json.dumps({k: v for k, v in info.items() if k != "fermi_level"})
    )
    assert main(["bands", str(folder), "--npoints", "10", "-o", "x.png"]) == 0
    assert "no Fermi level, energies are absolute" in capsys.readouterr().err
    assert main(["fermi", str(folder)]) == 2


def test_a_prediction_that_knows_its_electrons_lends_them(
    folder: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """``refine`` writes ``occupation``.

    DFT, which has no Fermi level here, and stage 1 are counted with it and all zeros agree.
    """
    refined = tmp_path / "refined"
    refined.mkdir()
    for file in folder.iterdir():
        if file.name != "hamiltonians.h5":
            (refined / file.name).write_bytes(file.read_bytes())
    info = json.loads((folder / "info.json").read_text())
    del info["fermi_level"]
    (folder / "info.json").write_text(json.dumps(info))
    (refined / "info.json").write_text(json.dumps({**info, "occupation": 2}))
    words = [
        "bands",
        str(folder),
        "--stage1",
        str(folder),
        "--refined",
        str(refined),
        "--mesh",
        "6x6x1",
        "--npoints",
        "20",
        "--json",
        "all.json",
        "-o",
        "x.png",
    ]
    assert main(words) == 0
    assert "occupation in info.json of refined" in capsys.readouterr().out
    data = json.loads(pathlib.Path("all.json").read_text())
    assert [b["fermi_eV"] for b in data["bands"]] == pytest.approx([0.0, 0.05, 0.05], abs=1e-9)
    assert all(e["shift_meV"] == pytest.approx(0.0, abs=1e-6) for e in data["errors"].values())


def test_no_hamiltonian(folder: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "hamiltonians.h5").unlink()
    (folder / "hamiltonians_pred.h5").unlink()
    assert main(["bands", str(folder)]) == 2
    assert "neither hamiltonians.h5 nor hamiltonians_pred.h5 is there" in capsys.readouterr().err


def molecule(target: pathlib.Path, gap: float = 10.0) -> pathlib.Path:
    """Two s orbitals in a box, DFT and a prediction 1 meV off, two electrons."""
    info = {"isspinful": False, "occupation": 2}
    positions = np.array([[0.0, 0, 0], [1.0, 0, 0]])
    crystal = Structure(
        15 * np.eye(3), positions, np.array([1, 1]), ((0,), (0,)), False, info, "H2"
    )
    keys = np.array([[0, 0, 0, i, j] for i in (0, 1) for j in (0, 1)])
    write_structure(target, crystal)
    for kind, hop in (("hamiltonian", gap / 2), ("prediction", gap / 2 + 0.001), ("overlap", 0.0)):
        onsite = 1.0 if kind == "overlap" else -5.0
        values = [np.array([[onsite if i == j else -hop]]) for i in (0, 1) for j in (0, 1)]
        write_matrix(target, kind, BlockMatrix.from_blocks(keys, values), crystal)
    return target


@pytest.mark.parametrize("gap", [4.0, 6.0, 10.0, 30.0])
def test_a_wide_gap_needs_no_options(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, gap: float
) -> None:
    monkeypatch.chdir(tmp_path)
    target = str(molecule(tmp_path / "h2", gap))
    assert main(["bands", target, "--json", "b.json", "-o", "b.png"]) == 0
    data = json.loads(pathlib.Path("b.json").read_text())
    reach = max(3.0, gap / 2 + 1)
    assert data["window_eV"] == pytest.approx([-reach, reach])
    assert data["errors"]["stage 1"]["states"] == 2
    assert data["errors"]["stage 1"]["max_meV"] == pytest.approx(1.0)
    assert main(["compare", target, "--eigenvalues", "--json", "c.json"]) == 0
    compared = json.loads(pathlib.Path("c.json").read_text())
    assert compared["eigenvalues"]["states"] == compared["states"] == 2
    assert compared["states_error_meV"] == pytest.approx(1.0)
    assert len(compared["states_notes"]) == (gap > 6)
    assert main(["gap", target, "--json", "g.json"]) == 0
    assert json.loads(pathlib.Path("g.json").read_text())["gap_eV"] == pytest.approx(gap)
    assert main(["dos", target, "--json", "d.json"]) == 0
    dos = json.loads(pathlib.Path("d.json").read_text())
    assert trapezoid(dos["dos_per_eV"], dos["energies_eV"]) == pytest.approx(4.0, rel=1e-3)


def test_an_empty_window_names_the_nearest_levels(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    target = str(molecule(tmp_path / "h2"))
    for words in (
        ["bands", target, "--window", "-3", "3"],
        ["compare", target, "--eigenvalues", "--window", "3"],
    ):
        assert main(words) == 2
        assert "nearest levels are at -5.000 and 5.000 eV" in capsys.readouterr().err


def test_fermi_info_refuses_a_level_of_another_hamiltonian(
    folder: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """info.json's level is the DFT's; the prediction has another zero (here 50 meV)."""
    assert main(["fermi", str(folder), "--fermi", "info"]) == 0
    assert main(["fermi", str(folder), "--fermi", "info", "--prediction"]) == 2
    assert "no Fermi level of this Hamiltonian" in capsys.readouterr().err
    info = json.loads((folder / "info.json").read_text())
    own = {"gauge": "raw", "fermi_level": 0.05}
    (folder / "info.json").write_text(json.dumps({**info, "deeph_gformer": own}))
    words = ["fermi", str(folder), "--fermi", "info", "--prediction", "--json", "f.json"]
    assert main(words) == 0
    assert json.loads(pathlib.Path("f.json").read_text())["fermi_eV"] == pytest.approx(0.05)
    assert main(["fermi", str(folder), "--prediction", "--mesh", "6x6x1", "--json", "f.json"]) == 0
    data = json.loads(pathlib.Path("f.json").read_text())
    assert data["electrons"] == 2 and "counted below" in data["electrons_source"]


def test_unfold_of_both_hamiltonians(
    folder: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The honeycomb cell is its own primitive cell: all weights are 1; 2,1,1 is none of it."""
    words = ["bands", str(folder), "--mesh", "3x3x1", "--npoints", "12", "--json", "u.json"]
    assert main([*words, "--unfold", str(folder), "-o", "u.png", "-o", "u.Band"]) == 0
    data = json.loads(pathlib.Path("u.json").read_text())
    assert [one["label"] for one in data["bands"]] == ["DFT", "stage 1"]
    info = json.loads((folder / "info.json").read_text())
    info["deeph_gformer"] = {**info.get("deeph_gformer", {}), "gformer": "bundle"}  # of refine
    (folder / "info.json").write_text(json.dumps(info))
    assert main([*words[:-1], "r.json"]) == 0
    labels = [one["label"] for one in json.loads(pathlib.Path("r.json").read_text())["bands"]]
    assert labels == ["DFT", "refined"]
    for one in data["bands"]:
        assert np.abs(np.array(one["projections"]["unfolded"]) - 1).max() < 1e-10
        assert one["unfolding"][0]["cells"] == 1
    streams = capsys.readouterr()
    assert "path Γ M K Γ" in streams.out and "1 primitive cells" in streams.err
    assert pathlib.Path("u.png").stat().st_size > 5000
    assert main([*words, "--unfold", "2,1,1"]) == 2
    assert "0.36 Å from its sites, more than 0.34" in capsys.readouterr().err
    assert main([*words, "--unfold", "1,1,1", "--fat", "C"]) == 2
    assert "--unfold and --fat exclude each other" in capsys.readouterr().err


@pytest.mark.parametrize(
    "ours, label",
    [({"gformer": "b"}, "refined"), ({"gformer": None}, "stage 1"), (None, "prediction")],
)
def test_compare_says_what_a_prediction_is(
    folder: pathlib.Path,
    ours: dict[str, str] | None,
    label: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """By info.json of the folder that it is in."""
    info = json.loads((folder / "info.json").read_text())
    (folder / "info.json").write_text(json.dumps(info | ({OURS: ours} if ours else {})))
    assert main(["compare", str(folder), "--json", "x.json"]) == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert first == f"{label}: {folder}/hamiltonians_pred.h5"
    assert json.loads(pathlib.Path("x.json").read_text())["label"] == label
