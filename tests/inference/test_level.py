"""The Fermi level that refine writes is that of the Hamiltonian that it writes."""

from __future__ import annotations

import itertools
import json
import pathlib
from collections.abc import Callable

import numpy as np
import pytest
import scipy.linalg
from ase.data import chemical_symbols

import deeph_gformer
from deeph_gformer.bands.kmesh import parse_mesh
from deeph_gformer.cli import main
from deeph_gformer.inference import level as levels
from deeph_gformer.interop.convert import convert_folder
from deeph_gformer.interop.folders import write_problem
from deeph_gformer.io import BlockMatrix, read_folder, read_matrix
from deeph_gformer.io.gauge import stated_level

from ..bands.conftest import ssh
from .test_refine import make_bundle

Folder = Callable[..., pathlib.Path]
#: As long as no session of tests has begun.
FULL = levels.MOST_WORK


@pytest.fixture(autouse=True)
def _full_mesh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the coarse one of all other tests."""
    monkeypatch.setattr(levels, "MOST_WORK", FULL)


def occupy(folder: pathlib.Path, electrons: float | None) -> pathlib.Path:
    """Let info.json say how many electrons there are."""
    info = json.loads((folder / "info.json").read_text())
    info["occupation"] = electrons
    (folder / "info.json").write_text(json.dumps(info))
    return folder


def states_below(
    h: BlockMatrix, s: BlockMatrix, counts: np.ndarray, mesh: int, level: float
) -> np.ndarray:
    """States below a level at each k-point of a mesh, by SciPy, H(k) put together here."""
    ends = np.cumsum([0, *counts])
    number = []
    for k in itertools.product(np.arange(mesh) / mesh, repeat=3):
        square = []
        for matrix in (h, s):
            full = np.zeros((ends[-1], ends[-1]), dtype=complex)
            for (x, y, z, i, j), block in matrix:
                phase = np.exp(2j * np.pi * np.dot(k, (x, y, z)))
                full[ends[i] : ends[i + 1], ends[j] : ends[j + 1]] += phase * block
            square.append(full)
        number.append((scipy.linalg.eigh(*square, eigvals_only=True) < level).sum())
    return np.array(number)


@pytest.mark.parametrize("form", ["legacy", "dock"])
@pytest.mark.parametrize("trained", [True, False])
def test_level_is_counted_on_the_written_hamiltonian(
    make_folder: Folder,
    tiny_stage1: pathlib.Path,
    tmp_path: pathlib.Path,
    form: str,
    trained: bool,
) -> None:
    folder = occupy(make_folder("s0", atoms=2), 8)
    model = deeph_gformer.load(
        make_bundle(tiny_stage1, tmp_path / "b", trained=trained), stage1=tiny_stage1
    )
    assert model.bundle is not None
    model.gauge = "standard"
    deeph_gformer.refine(tmp_path / "data", model, tmp_path / "out", form=form)
    out = tmp_path / "out" / "s0"
    info = json.loads((out / "info.json").read_text())
    own = info["fermi_level" if form == "legacy" else "fermi_energy_eV"]
    assert info["gauge"] == "standard" and own == info["deeph_gformer"]["fermi_level"] != 0.5
    structure = read_folder(folder)
    h = read_matrix(out, "prediction", read_folder(out))
    mesh = int(info["deeph_gformer"]["fermi_level_note"].split(" on a ")[1].split("x")[0])
    lower, upper = (
        2
        * states_below(
            h, read_matrix(folder, "overlap", structure), structure.orbital_counts, mesh, own + d
        ).mean()
        for d in (-0.2, 0.2)
    )
    assert lower - 1e-9 <= 8 <= upper + 1e-9 and upper < 16


def test_unknown_level_is_absent_and_says_why(
    make_folder: Folder, tiny_stage1: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    occupy(make_folder("bare", hamiltonian=False), None)
    model = deeph_gformer.load(stage1=tiny_stage1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(levels, "MOST_ORBITALS", 20)
        deeph_gformer.refine(tmp_path / "data", model, tmp_path / "out")
    info = json.loads((tmp_path / "out" / "bare" / "info.json").read_text())
    assert "fermi_level" not in info
    assert "26 orbitals, more than 20" in info["deeph_gformer"]["fermi_level_note"]
    deeph_gformer.refine(tmp_path / "data" / "bare", model, tmp_path / "again")
    info = json.loads((tmp_path / "again" / "bare" / "info.json").read_text())
    assert "fermi_level" not in info and info["gauge"] == "unknown"
    assert "number of electrons is unknown" in info["deeph_gformer"]["fermi_level_note"]


def test_beside_dft_each_hamiltonian_has_its_level(
    make_folder: Folder, tiny_stage1: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    folder = occupy(make_folder("s0", atoms=2), 8)
    deeph_gformer.refine(tmp_path / "data", deeph_gformer.load(stage1=tiny_stage1))
    info = json.loads((folder / "info.json").read_text())
    assert stated_level(info, "hamiltonian").energy_eV == 0.5
    assert stated_level(info, "prediction").energy_eV not in (None, 0.5)


def test_eval_and_convert_keep_levels_apart(
    make_folder: Folder, tiny_stage1: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    occupy(make_folder("s0", atoms=2, grouped=True), 8)
    ini = tmp_path / "eval.ini"
    ini.write_text(
        f"[basic]\ntrained_model_dir = {tiny_stage1}\noutput_dir = {tmp_path / 'out'}\n"
        f"[data]\nprocessed_data_dir = {tmp_path / 'data'}\n"
    )
    assert main(["eval", str(ini)]) == 0
    info = json.loads((tmp_path / "out" / "s0" / "info.json").read_text())
    assert info["fermi_level"] == info["deeph_gformer"]["fermi_level"] != 0.5
    model = deeph_gformer.load(stage1=tiny_stage1)
    deeph_gformer.refine(tmp_path / "data", model, tmp_path / "refined")
    convert_folder(tmp_path / "refined" / "s0", tmp_path / "dock", "dock")
    convert_folder(tmp_path / "dock", tmp_path / "back", "legacy")
    first, there, back = (
        json.loads((tmp_path / p / "info.json").read_text()) for p in ("refined/s0", "dock", "back")
    )
    assert there["fermi_energy_eV"] == first["fermi_level"] == back["fermi_level"]
    for kind in ("hamiltonian", "prediction"):
        stated = [stated_level(i, kind) for i in (first, there, back)]  # type: ignore[arg-type]
        assert stated[0] == stated[1] == stated[2]


def test_written_problem_of_a_prediction_has_no_dft_level(
    make_folder: Folder, tmp_path: pathlib.Path
) -> None:
    problem = deeph_gformer.bands.load(make_folder("s0", atoms=2))
    write_problem(tmp_path / "dft", problem)
    problem.predicted = True
    write_problem(tmp_path / "predicted", problem)
    assert read_folder(tmp_path / "dft").info["fermi_level"] == 0.5
    assert "fermi_level" not in read_folder(tmp_path / "predicted").info


@pytest.mark.parametrize("second", [0.1, 0.8, 1.0])
def test_the_level_is_counted_on_the_mesh_of_the_bands_command(second: float) -> None:
    """SSH chain: wide gap, narrow gap, metal. One file has one level, whatever computes it."""
    problem = ssh(1.0, second)
    assert levels._spectrum(problem).mesh == parse_mesh(None, problem)


def test_level_is_left_out_on_demand(
    make_folder: Folder, tiny_stage1: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    occupy(make_folder("s0", atoms=2), 8)
    data, out = str(tmp_path / "data"), str(tmp_path / "out")
    words = ["refine", "--preprocessed", data, "--stage1", str(tiny_stage1), "--stage1-only"]
    assert main([*words, "--output", out, "--no-fermi-level"]) == 0
    info = json.loads((tmp_path / "out" / "s0" / "info.json").read_text())
    assert "fermi_level" not in info and "left out" in info["deeph_gformer"]["fermi_level_note"]


def test_electrons_that_training_knows_are_written_without_a_level(
    make_folder: Folder, tiny_stage1: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """So that ``bands`` can count them, also where several processes shared the structure."""
    folder = occupy(make_folder("s0", atoms=2), None)
    model = deeph_gformer.load(make_bundle(tiny_stage1, tmp_path / "b"), stage1=tiny_stage1)
    assert model.bundle is not None
    symbols = [chemical_symbols[z] for z in read_folder(folder).numbers]
    row = {"composition": {s: 3 * symbols.count(s) for s in symbols}, "electrons": 24.0}
    model.bundle.training["electrons"] = [row]
    deeph_gformer.refine(tmp_path / "data", model, tmp_path / "out", count=False)
    info = json.loads((tmp_path / "out" / "s0" / "info.json").read_text())
    assert info["occupation"] == pytest.approx(8.0) and "fermi_level" not in info
