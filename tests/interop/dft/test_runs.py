"""Folders of DFT runs: found, named, converted in parallel, gone on with; and a reader of another
package."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

import deeph_gformer
from deeph_gformer.cli import main
from deeph_gformer.errors import ConfigError, DataError
from deeph_gformer.interop.dft import find_runs, read_run, readers
from deeph_gformer.io import read_folder, read_matrix

from ...conftest import ROOT, random_structure
from .abacus_files import write_run
from .conftest import HERE, write_scfout


@pytest.fixture
def runs(tmp_path: pathlib.Path) -> pathlib.Path:
    """An OpenMX run, an ABACUS run and an unconverged one."""
    root = tmp_path / "runs"
    structure, h, s = random_structure(1, 4)
    write_scfout(root / "a" / "one.scfout", structure, h, s)
    structure, h, s = random_structure(2, 4, grouped=True)
    write_run(root / "b", structure, h, s)
    write_run(root / "c", structure, h, s, converged=False)
    (root / "nothing").mkdir()
    return root


@pytest.mark.parametrize("form", ["legacy", "dock"])
def test_folder_of_runs(form: str, runs: pathlib.Path, tmp_path: pathlib.Path, capsys) -> None:
    out = tmp_path / "out"
    words = ["convert", str(runs), str(out), "--from", "auto", "--format", form]
    assert main([*words, "--processes", "1", "--json", str(tmp_path / "r.json")]) == 2
    said, told = capsys.readouterr()
    assert "2 converted, 0 there already, 1 failed:" in said
    assert told.count("error: ") == 1 and "1 of 3 could not be converted; first " in told
    assert "did not converge" in said and "whether the run converged is unknown [a]" in said
    records = json.loads((tmp_path / "r.json").read_text())["structures"]
    assert [record["from"] for record in records] == ["openmx", "abacus", "abacus"]
    assert "error" in records[2] and not (out / "c").exists()
    structure, h, s = random_structure(1, 4)
    if form == "dock":  # grouped by element; the way back restores the order
        deeph_gformer.convert(out / "a", tmp_path / "back", "legacy")
    back = (tmp_path / "back") if form == "dock" else out / "a"
    assert read_folder(back).same_as(structure, 1e-9)
    np.testing.assert_allclose(read_matrix(back, "hamiltonian").values, h.values, atol=1e-12)
    np.testing.assert_allclose(read_matrix(back, "overlap").values, s.values, atol=1e-12)
    info = json.loads((out / "a" / "info.json").read_text())
    assert info["fermi_level" if form == "legacy" else "fermi_energy_eV"] < 0
    assert (info["code"], info["gauge"], info["occupation"]) == ("OpenMX", "raw", 24)
    assert not [path for path in out.rglob("*") if path.name.startswith(".")]


def test_goes_on_where_it_stopped(runs: pathlib.Path, tmp_path: pathlib.Path) -> None:
    out = tmp_path / "out"
    deeph_gformer.convert(runs / "a", out / "a", code="auto")
    before = (out / "a" / "hamiltonians.h5").stat().st_mtime_ns
    records = deeph_gformer.convert(runs, out, code="auto", unconverged=True, processes=1)
    assert [record.get("skipped", False) for record in records] == [True, False, False]
    assert (out / "a" / "hamiltonians.h5").stat().st_mtime_ns == before
    assert json.loads((out / "c" / "info.json").read_text())["converged"] is False
    (out / "b" / "overlaps.h5").unlink()  # a conversion that was killed while files were moved
    with pytest.raises(
        DataError, match="not made from these files as they are now; add --overwrite"
    ):
        deeph_gformer.convert(runs / "b", out / "b", code="auto")
    os.utime(runs / "a" / "one.scfout")
    with pytest.raises(DataError, match="--overwrite"):
        deeph_gformer.convert(runs / "a", out / "a", code="openmx")
    deeph_gformer.convert(runs / "a", out / "a", code="openmx", overwrite=True)
    assert (out / "a" / "hamiltonians.h5").stat().st_mtime_ns > before


def test_several_processes(runs: pathlib.Path, tmp_path: pathlib.Path) -> None:
    lines: list[str] = []
    records = deeph_gformer.convert(
        runs, tmp_path / "out", code="auto", processes=2, echo=lines.append
    )
    assert ["error" in record for record in records] == [False, False, True]
    assert lines[-2].startswith("2 converted") and "did not converge" in lines[-1]


def test_several_processes_of_a_script_that_starts_itself(
    runs: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """Python ends such processes; the records name what the script lacks."""
    script = tmp_path / "script.py"
    script.write_text(
        f"import deeph_gformer\nfor record in deeph_gformer.convert({str(runs)!r}, "
        f"{str(tmp_path / 'out')!r}, code='auto', processes=2):\n    print(record['error'])\n"
    )
    run = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    assert run.stdout.count("without 'if __name__ == \"__main__\":' processes=1") == 3


def test_names(tmp_path: pathlib.Path) -> None:
    structure, h, s = random_structure(1, 4)
    for name in ("x/0/a.scfout", "y/0/a.scfout", "y/1/a.scfout", "y/1/b.scfout"):
        write_scfout(tmp_path / name, structure, h, s)
    found = find_runs(tmp_path)
    assert [run.name for run in found] == ["x_0", "y_0", "y_1_a", "y_1_b"]
    assert [run.name for run in find_runs(tmp_path / "y")] == ["0", "1_a", "1_b"]
    with pytest.raises(DataError, match="holds 4 runs, first"):
        read_run(tmp_path)


def test_structure_folders_win_unless_a_code_is_named(
    runs: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    deeph_gformer.convert(runs / "a", runs / "a" / "made", code="openmx")
    assert deeph_gformer.convert(runs / "a", tmp_path / "dock")[0]["to"] == "dock"
    assert deeph_gformer.convert(runs / "a", tmp_path / "again", code="openmx")[0]["to"] == "legacy"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["{runs}", "{out}", "--from", "vasp"], "--from vasp: there are auto, openmx, abacus"),
        (["{runs}/nothing", "{out}"], "neither structure folders nor DFT runs"),
        (["{runs}/nowhere", "{out}"], "no such file or folder"),
        (
            ["{runs}/a", "{out}", "--from", "abacus"],
            "neither structure folders nor DFT runs \\(abacus\\)",
        ),
        (["{runs}", "{out}", "--kind", "prediction"], "--kind: has no effect on .*, a DFT run"),
        (
            ["{runs}", "{out}", "--from", "openmx", "--fdf", "x"],
            "--fdf: has no effect on runs of openmx",
        ),
        (["{runs}", "{out}", "--to", "wannier90"], "DFT runs become legacy or dock"),
        (["{runs}", "{out}", "--to", "dock", "--format", "legacy"], "give one of them"),
        (
            ["{runs}", "{out}", "--processes", "0"],
            "argument --processes: '0': an integer of at least 1",
        ),
        (["{runs}/a", "{runs}/a"], "is the folder that is read"),
        (["{runs}/a/one.scfout", "{runs}/a/one.scfout"], "is the folder that is read|is a file"),
        (["{runs}/c", "{out}"], "did not converge"),
    ],
)
def test_bad_options(
    words: list[str], message: str, runs: pathlib.Path, tmp_path: pathlib.Path, capsys
) -> None:
    import re

    command = [word.format(runs=runs, out=tmp_path / "out") for word in words]
    try:
        code = main(["convert", *command])
    except SystemExit as stop:  # the parser's own
        code = stop.code
    assert code == 2
    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


def test_files_of_two_codes(runs: pathlib.Path) -> None:
    structure, h, s = random_structure(1, 4)
    write_scfout(runs / "b" / "one.scfout", structure, h, s)
    with pytest.raises(DataError, match="could be a run of abacus or openmx; say which"):
        find_runs(runs / "b")
    assert find_runs(runs / "b", "openmx")[0].code == "openmx"


MODULE = '''
"""A DFT code whose output is one NumPy file."""
import pathlib
import numpy as np
from deeph_gformer.interop.dft import DFTRun
from deeph_gformer.io import BlockMatrix, Structure

class Toy:
    name = "toy"

    def find(self, path):
        files = [path] if path.is_file() else sorted(path.glob("*.toy"))
        return [f for f in files if f.suffix == ".toy"]

    def read(self, run, unconverged=False):
        t = np.loadtxt(run)
        keys = np.array([[0, 0, 0, 0, 0], [1, 0, 0, 0, 0], [-1, 0, 0, 0, 0]])
        h = BlockMatrix.from_blocks(keys, [np.array([[x]]) for x in (t[0], t[1], t[1])])
        s = BlockMatrix.from_blocks(keys, [np.array([[x]]) for x in (1.0, 0.1, 0.1)])
        info = {"code": "Toy", "fermi_level": float(t[2])}
        cell, place, z = np.eye(3) * 3, np.zeros((1, 3)), np.array([1])
        structure = Structure(cell, place, z, ((0,),), False, info, run.stem)
        return DFTRun(structure, h, s, ("a toy",), (run,))
'''


def test_a_reader_of_another_package(tmp_path: pathlib.Path) -> None:
    """One module and one entry point; the command finds, reads and names it like the others."""
    site, run = tmp_path / "site", tmp_path / "set" / "h"
    (site / "toy-1.dist-info").mkdir(parents=True)
    (site / "toy_reader.py").write_text(MODULE)
    (site / "toy-1.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: toy\nVersion: 1\n"
    )
    (site / "toy-1.dist-info" / "entry_points.txt").write_text(
        "[deeph_gformer.dft_readers]\ntoy = toy_reader:Toy\n"
    )
    run.mkdir(parents=True)
    (run / "x.toy").write_text("-13.6 -1.5 -7.0\n")
    env = dict(os.environ, PYTHONPATH=f"{ROOT}{os.pathsep}{site}")

    def convert(*words: str | pathlib.Path) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "deeph_gformer", "convert", *map(str, words)]
        return subprocess.run(command, env=env, capture_output=True, text=True)

    done = convert(tmp_path / "set", tmp_path / "out")
    assert done.returncode == 0 and "a toy" in done.stdout, done.stderr
    structure = read_folder(tmp_path / "out" / "h")
    assert structure.info["fermi_level"] == -7 and structure.info["code"] == "Toy"
    h = read_matrix(tmp_path / "out" / "h", "hamiltonian", structure)
    assert h.values.tolist() == [-1.5, -13.6, -1.5]
    done = convert(tmp_path / "set", tmp_path / "other", "--from", "nope")
    assert done.returncode == 2 and "toy" in done.stderr
    assert "toy" not in readers()  # here it is not installed


def test_one_file(tmp_path: pathlib.Path) -> None:
    record = deeph_gformer.convert(HERE / "h2o_cluster.scfout", tmp_path / "water", code="openmx")[
        0
    ]
    assert record["files"] == ["hamiltonians.h5", "overlaps.h5"]
    assert read_folder(tmp_path / "water").info["functional"] == "GGA-PBE"
    with pytest.raises(ConfigError, match="--format siesta|unknown|become legacy or dock"):
        deeph_gformer.convert(
            HERE / "h2o_cluster.scfout", tmp_path / "w", code="openmx", form="siesta"
        )
