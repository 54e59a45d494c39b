"""SIESTA runs as folders: which file is read, convergence, facts of the output. The matrices are
tested in ``test_sisl.py``."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest

from deeph_gformer import bands
from deeph_gformer.errors import DataError
from deeph_gformer.interop.dft import find_runs, read_run
from deeph_gformer.interop.dft.siesta import spin_of
from deeph_gformer.interop.sisl import to_sisl

from ...conftest import random_structure

sisl = pytest.importorskip("sisl")

OUT = """Siesta Version  : 4.1.5
siesta: Total number of electrons:    24.000000
{last}
"""


@pytest.fixture
def run(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """A .TSHS written by sisl; the .fdf beside it gives the basis (here: sisl's geometry of the
    same crystal)."""
    from deeph_gformer.interop import sisl as reader

    structure, h, s = random_structure(2, 4)
    hamiltonian = to_sisl(bands.BlochProblem(structure, h, s))
    hamiltonian.write(str(tmp_path / "run.TSHS"))
    (tmp_path / "run.fdf").write_text("SystemLabel run\nXC.authors PBE\n")
    original = reader.from_siesta
    monkeypatch.setattr(
        reader, "from_siesta", lambda path, fdf=None: original(path, hamiltonian.geometry)
    )
    return tmp_path


def test_facts_and_convergence(run: pathlib.Path) -> None:
    structure, h, _ = random_structure(2, 4)
    read = read_run(run)
    assert any("whether the run converged is unknown" in note for note in read.notes)
    np.testing.assert_allclose(read.hamiltonian.values, h.values, atol=1e-10)
    (run / "RUN.out").write_text(OUT.format(last="SCF cycle converged after 7 iterations"))
    info = read_run(run).structure.info
    assert (info["code"], info["version"], info["electrons"]) == ("SIESTA", "4.1.5", 24)
    assert (info["functional"], info["spin"], info["gauge"]) == ("PBE", "none", "raw")
    (run / "RUN.out").write_text(OUT.format(last="SCF_NOT_CONV: SCF did not converge"))
    with pytest.raises(DataError, match="did not converge.*--unconverged"):
        read_run(run)
    assert read_run(run, unconverged=True).structure.info["converged"] is False
    (run / "RUN.out").write_text(OUT.format(last="").replace("24.0", "24000.0"))
    with pytest.raises(DataError, match="tells of 24000 electrons, and its orbitals hold"):
        read_run(run)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("", "", []),
        ("Version", "Vers", ["the code's version"]),
        ("Total number of electrons", "Total numb", ["the number of electrons"]),
        ("SCF cycle conv", "SCF cyc", ["does not tell whether the run converged"]),
    ],
)
def test_facts_that_a_damaged_output_lost_are_said(
    run: pathlib.Path, old: str, new: str, words: list[str]
) -> None:
    text = OUT.replace("{last}", "SCF cycle converged after 7 iterations")
    (run / "RUN.out").write_text(text.replace(old, new))
    said = " ".join(read_run(run).notes)
    assert all(word in said for word in words)
    every = ("the code's version", "the number of electrons", "does not tell whether")
    assert words or not any(word in said for word in every)


def test_a_damaged_number_of_electrons_is_refused(run: pathlib.Path) -> None:
    (run / "RUN.out").write_text(OUT.format(last="").replace("24.0", "2x4.0"))
    with pytest.raises(DataError, match="output of siesta that is damaged"):
        read_run(run)


def test_which_file(tmp_path: pathlib.Path) -> None:
    for name in ("a.HSX", "a.TSHS", "b.HSX", "C.ion.nc", "Rho.grid.nc", "a.TBT.nc"):
        (tmp_path / name).write_bytes(b"")
    assert [run.path.name for run in find_runs(tmp_path)] == ["a.TSHS", "b.HSX"]
    with pytest.raises(DataError, match="holds a.TSHS, b.HSX; name one"):
        read_run(tmp_path, "siesta")


def test_missing_matrices_say_what_to_set(tmp_path: pathlib.Path) -> None:
    (tmp_path / "run.fdf").write_text("SystemLabel run\n")
    with pytest.raises(DataError, match="without .TSHS, .HSX or .nc; set 'SaveHS true'"):
        read_run(tmp_path)


def test_spin_is_told_by_the_blocks() -> None:
    _, h, _ = random_structure(2, 4, spinful=True)
    assert spin_of(h, True) == "non-collinear" and spin_of(h, False) == "none"
    groups = []
    for index, array in h.groups():
        r, c = array.shape[1] // 2, array.shape[2] // 2
        array = array.copy()
        array[:, :r, c:] = array[:, r:, :c] = 0
        groups.append((index, array))
    assert spin_of(h.with_groups(groups), True) == "collinear"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("PB", "the functional is 'PB', a name that is not known here"),
        (
            "P\0\0",
            "not found in the files of the run, so not in info.json: the Fermi level, the "
            "functional",
        ),
    ],
)
def test_what_is_left_of_a_functional_is_said(run: pathlib.Path, name: str, words: str) -> None:
    (run / "RUN.out").write_text(OUT.format(last="SCF cycle converged after 7 iterations"))
    (run / "run.fdf").write_text(f"SystemLabel run\nXC.authors {name}\n")
    notes = read_run(run).notes
    assert any(words in note for note in notes), notes


def test_rows_of_orbitals_that_changed_places(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """sisl takes them as they come: H of other orbitals, in silence."""
    from deeph_gformer.cli import main

    from ...robustness.mutant_kinds import _siesta

    _siesta("TSHS")(tmp_path)
    path = tmp_path / "in" / "run.ORB_INDX"
    lines = path.read_text().splitlines()
    words = ["convert", str(tmp_path / "in"), "", "--from", "siesta", "--processes", "1"]
    for number, (a, b) in enumerate(((3, 4), (5, 8), (3, 10))):
        swapped = list(lines)
        swapped[a], swapped[b] = swapped[b], swapped[a]
        path.write_text("\n".join([*swapped, ""]))
        words[2] = str(tmp_path / f"out{number}")
        assert main(words) == 2
        assert f"row {a - 2} of its orbitals begins with" in capsys.readouterr().err
    path.write_text("\n".join([*lines, "", " 1 notes", ""]))
    words[2] = str(tmp_path / "good")
    assert main(words) == 0
