"""``topology`` on folders: the models of tests/bands/test_topology.py, written and read again."""

from __future__ import annotations

import dataclasses
import json
import pathlib

import numpy as np
import pytest

from deeph_gformer.analysis.redescribe import relattice
from deeph_gformer.bands import BlochProblem
from deeph_gformer.cli import main
from deeph_gformer.io.folder import write_matrix
from deeph_gformer.io.legacy import write_structure
from deeph_gformer.io.positions import write_positions

from ..bands.conftest import graphene, ssh
from ..bands.test_topology import haldane, kane_mele, mixed, wilson_dirac


def write(folder: pathlib.Path, problem: BlochProblem, electrons: float, positions=None) -> str:
    """A legacy folder."""
    info = {"occupation": electrons, "isspinful": problem.spinful}
    crystal = dataclasses.replace(problem.structure, spinful=problem.spinful, info=info)
    write_structure(folder, crystal)
    write_matrix(folder, "hamiltonian", problem.h, crystal)
    write_matrix(folder, "overlap", problem.s, crystal)
    if positions is not None:
        write_positions(folder, positions, crystal)
    return str(folder)


@pytest.fixture(autouse=True)
def _here(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(("mass", "z2"), [(0.1, 1), (0.5, 0)])
def test_z2_with_a_position_matrix(mass: float, z2: int, capsys) -> None:
    problem, positions = mixed(kane_mele(mass))
    folder = write(pathlib.Path("km"), problem, 2, positions)
    assert main(["topology", folder, "--json", "t.json", "-o", "t.png"]) == 0
    data = json.loads(pathlib.Path("t.json").read_text())
    assert data["z2"] == z2 and data["method"] == "position matrix" and data["filled_bands"] == 2
    (plane,) = data["wilson_centres"]
    assert np.shape(plane["centres_fractional"]) == (len(plane["k_fractional"]), 2)
    assert pathlib.Path("t.png").stat().st_size > 5000
    assert f"Z2 = {z2}" in capsys.readouterr().out
    assert main(["topology", folder, "--atom-positions", "--json", "t.json"]) == 0
    data = json.loads(pathlib.Path("t.json").read_text())
    assert data["z2"] == z2 and data["method"] == "atom-position approximation"
    assert "atom-position approximation" in capsys.readouterr().err


def test_strong_and_weak_numbers(capsys) -> None:
    folder = write(pathlib.Path("wd"), wilson_dirac(3.0), 2)
    assert main(["topology", folder, "--json", "t.json"]) == 0
    data = json.loads(pathlib.Path("t.json").read_text())
    assert data["z2"] == 0 and data["z2_weak"] == [1, 1, 1] and len(data["wilson_centres"]) == 4
    assert "Z2 = 0; (1 1 1)" in capsys.readouterr().out


def test_chern_number_curvature_and_hall_conductivity() -> None:
    """2 electrons fill the lower band of the spinless model; both spins conduct."""
    folder = write(pathlib.Path("haldane"), haldane(0.2), 2)
    assert main(["topology", folder, "--mesh", "12x12x1", "--json", "c.json"]) == 0
    assert json.loads(pathlib.Path("c.json").read_text())["chern"] == 1
    words = ["topology", folder, "--kind", "berry", "--mesh", "10x8x1", "--json", "b.json"]
    assert main(words) == 0
    data = json.loads(pathlib.Path("b.json").read_text())
    (curvature,) = np.array(data["curvature_A2"])
    reciprocal = haldane(0.2).structure.reciprocal
    area = np.linalg.norm(np.cross(reciprocal[0], reciprocal[1])) / 80
    assert curvature.shape == (10, 8)
    assert curvature.sum() * area == pytest.approx(2 * np.pi, rel=1e-9)
    words = ["topology", folder, "--kind", "ahc", "--mesh", "16x16x1", "--json", "a.json"]
    assert main(words) == 0
    data = json.loads(pathlib.Path("a.json").read_text())
    assert data["sigma_e2_per_h"]["xy"] == pytest.approx(-2.0, abs=1e-2)  # two spins


@pytest.mark.parametrize(
    ("vectors", "normal"),
    [
        ([[0, 1, 0], [1, 0, 0], [0, 0, 1]], [0, 0, 1]),
        ([[-1, 0, 0], [0, 1, 0], [0, 0, 1]], [0, 0, 1]),
        ([[0, 1, 0], [0, 0, 1], [1, 0, 0]], [0, 0, 1]),
        ([[-1, 0, 0], [0, 0, 1], [0, 1, 0]], [0, 0, 1]),
    ],
    ids=["left-handed", "one turned round", "permuted", "both"],
)
def test_sign_of_a_chern_number_is_that_of_the_hall_conductivity(vectors, normal) -> None:
    """In any description: sigma_xy = -C e²/h, for each spin."""
    problem, other = haldane(0.2), relattice(2, vectors)
    there = BlochProblem(other.structure(problem.structure), other.blocks(problem.h))
    folder = write(pathlib.Path("haldane"), there, 2)
    assert main(["topology", folder, "--kind", "chern", "--json", "c.json"]) == 0
    data = json.loads(pathlib.Path("c.json").read_text())
    assert data["chern"] == 1 and data["chern_normal"] == pytest.approx(normal)


@pytest.mark.parametrize(
    ("problem", "electrons", "words", "message"),
    [
        (graphene(mass=0.3), 2, ["--kind", "z2"], "Z2 needs spin-orbit coupling"),
        (graphene(), 2, ["--mesh", "6x6x1"], "a metal, or a wrong number of electrons"),
        (graphene(mass=0.3), 3, [], "leave a band half filled"),
        (graphene(mass=0.3), 4, [], "a filled and an empty one are needed"),
        (ssh(), 2, [], "need two or three periodic directions"),
    ],
)
def test_what_has_no_invariant_is_one_line(problem, electrons, words, message, capsys) -> None:
    folder = write(pathlib.Path("x"), problem, electrons)
    assert main(["topology", folder, *words]) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("deeph-gformer topology: error: ") and message in line
