"""Another basis with equal elements and shells is noticed.

Strain, displacements and other cells of the same basis are not refused.
"""

from __future__ import annotations

import dataclasses
import pathlib
import shutil
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import deeph_gformer
from deeph_gformer.cli import main
from deeph_gformer.errors import ModelError
from deeph_gformer.io import BlockMatrix, Structure, legacy, read_folder, read_matrix
from deeph_gformer.overlap import BasisOverlap, TwoCentre, load_table
from deeph_gformer.prediction.basis import (
    LIMIT,
    basis_difference,
    basis_table,
    displaced,
    require_basis,
)
from deeph_gformer.training.overlap_table import write_basis_table

from ..conftest import EXAMPLES, ROOT, SHARED, random_structure

Dft = Callable[[str, str], tuple[pathlib.Path, Any]]
MODELS = ROOT / "examples" / "systems" / "models"
SETS = ["mos2", "bilayer_graphene", "bismuthene", "bi2te3", "bi2se3"]


def table_of(name: str) -> TwoCentre:
    return load_table(MODELS / name / "gformer" / "overlap.npz")


def difference(table: TwoCentre, folder: pathlib.Path) -> float:
    structure = read_folder(folder)
    found = basis_difference(table, structure, read_matrix(folder, "overlap", structure))
    assert found is not None and found.blocks > 0
    return found.worst


@pytest.mark.parametrize("name", SETS)
def test_new_structures_of_the_same_basis_agree(name: str, dft: Dft) -> None:
    number = {"mos2": "0012", "bilayer_graphene": "0060", "bi2se3": "0060"}.get(name, "0100")
    assert difference(table_of(name), dft(f"{name}_more", number)[0]) < 1e-6


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("bilayer_graphene", "bilayer_graphene_21.8deg"),
        ("bilayer_graphene", "bilayer_graphene_13.2deg_0K"),
        ("bismuthene", "bismuthene_21.8deg_0K"),
        ("bilayer_graphene", "graphene"),
        ("bi2te3", "bismuthene"),
    ],
)
def test_twisted_cells_and_other_crystals_of_the_basis_agree(
    name: str, other: str, dft: Dft
) -> None:
    assert difference(table_of(name), dft(other, "0000")[0]) < 1e-6


def test_two_codes_with_equal_shells_are_told_apart(dft: Dft) -> None:
    gpaw = load_table(EXAMPLES / "gformer" / "overlap.npz")
    paw = difference(gpaw, dft("graphene_gpaw", "0030")[0])  # three-centre parts of PAW
    assert 1e-3 < paw < LIMIT / 2
    assert difference(gpaw, dft("graphene", "0000")[0]) > 10 * LIMIT
    assert difference(table_of("bilayer_graphene"), dft("graphene_gpaw", "0030")[0]) > 10 * LIMIT


@pytest.mark.parametrize("strain", [-0.05, -0.02, 0.02, 0.1])
def test_strain_and_displacement_are_no_other_basis(strain: float, dft: Dft) -> None:
    orbitals = SHARED / "data" / "basis"
    structure = read_folder(dft("mos2", "0000")[0])
    noise = np.random.default_rng(0).normal(0, 0.1, structure.positions.shape)
    strained = dataclasses.replace(
        structure,
        lattice=structure.lattice * (1 + strain),
        positions=structure.positions * (1 + strain) + noise,
    )
    provider = BasisOverlap([orbitals / "Mo.orb", orbitals / "S.orb"])
    found = basis_difference(table_of("mos2"), strained, provider.overlap(strained))
    assert found is not None and found.worst < 1e-3


def changed(s: BlockMatrix, structure: Structure, turn: np.ndarray) -> BlockMatrix:
    """T S T† for an orbital matrix T, the same for all atoms."""
    return BlockMatrix.from_blocks(s.keys, [turn @ block @ turn.T for _, block in s])


@pytest.mark.parametrize("wrong", ["order of p", "sign of d", "zetas swapped", "scaled"])
def test_other_conventions_are_noticed(wrong: str, dft: Dft) -> None:
    structure = read_folder(dft("graphene", "0000")[0])
    s = read_matrix(dft("graphene", "0000")[0], "overlap", structure)
    turn = np.eye(13)
    if wrong == "order of p":
        turn = turn[[0, 1, 3, 4, 2, *range(5, 13)]]
    elif wrong == "sign of d":
        turn[9, 9] = -1
    elif wrong == "zetas swapped":
        turn = turn[[1, 0, *range(2, 13)]]
    else:
        turn = turn * 1.05
    with pytest.raises(ModelError, match="not the basis that the model was trained on"):
        require_basis(
            table_of("bilayer_graphene"),
            pathlib.Path("x"),
            structure,
            changed(s, structure, turn),
            "s",
        )


def test_refine_refuses_and_goes_on_when_told(
    dft: Dft, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(dft("graphene", "0000")[0], tmp_path / "data" / "0000")
    command = ["refine", "--preprocessed", str(tmp_path / "data"), "--output", str(tmp_path / "o")]
    for models in (["--stage1-only"], ["--model", str(EXAMPLES / "gformer")]):
        stage1 = tmp_path / "stage1"
        if not stage1.exists():
            shutil.copytree(EXAMPLES / "stage1", stage1)
            shutil.copy(EXAMPLES / "gformer" / "overlap.npz", stage1 / "overlap.npz")
        run = [*command, "--stage1", str(stage1), *models]
        assert main(run) == 2
        error = capsys.readouterr().err
        assert "overlaps.h5: this is not the basis that the model was trained on" in error
        assert "--any-basis" in error and len(error.strip().splitlines()) == 1
        assert not (tmp_path / "o").exists()
    assert main([*run, "--any-basis"]) == 0
    assert (tmp_path / "o" / "0000" / "hamiltonians_pred.h5").is_file()


def test_overlaps_from_the_bundle_s_own_table_are_taken(dft: Dft, tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "data" / "0008"
    shutil.copytree(dft("mos2", "0008")[0], folder)
    for name in ("overlaps.h5", "hamiltonians.h5"):
        (folder / name).unlink()
    models = [
        "--stage1",
        str(MODELS / "mos2" / "stage1"),
        "--model",
        str(MODELS / "mos2" / "gformer"),
    ]
    run = ["refine", "--preprocessed", str(tmp_path / "data"), "--output", str(tmp_path / "o")]
    assert main([*run, *models]) == 0


def test_a_set_that_is_no_function_of_distance_says_nothing(
    make_folder: Callable[..., pathlib.Path], tiny_stage1: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    folders = []
    for n in range(4):
        folders.append(make_folder(f"s{n}", seed=n))
        _, _, s = random_structure(n)
        legacy.write_blocks(
            folders[-1] / "overlaps.h5", dataclasses.replace(s, values=9 * s.values)
        )
    write_basis_table(folders, tiny_stage1 / "overlap.npz")
    found = basis_table(deeph_gformer.load(stage1=tiny_stage1))
    assert found is not None
    structure = read_folder(folders[0])
    s = read_matrix(folders[0], "overlap", structure)
    assert basis_difference(found[0], structure, s) is None
    data = ["--preprocessed", str(tmp_path / "data"), "--stage1", str(tiny_stage1)]
    assert main(["refine", *data, "--stage1-only"]) == 0


@pytest.mark.parametrize(
    ("name", "other"),
    [(name, f"{name}_more") for name in SETS] + [("bilayer_graphene", "bilayer_graphene_21.8deg")],
)
def test_a_lost_digit_of_a_position_is_noticed(name: str, other: str, dft: Dft) -> None:
    """S of DFT is that of the true positions, and of no others."""
    number = "0000" if "deg" in other else "0060"
    folder = dft(other, number)[0]
    structure = read_folder(folder)
    s = read_matrix(folder, "overlap", structure)
    table = table_of(name)
    assert not displaced(table, structure, s)
    for atom in (0, len(structure) // 2):
        positions = structure.positions.copy()
        positions[atom, 0] += 0.03  # another digit
        said = displaced(table, dataclasses.replace(structure, positions=positions), s)
        assert "is not that of their positions" in said
    lattice = structure.lattice.copy()
    lattice[0, 0] *= 1.01
    assert displaced(table, dataclasses.replace(structure, lattice=lattice), s)
    values = s.values.copy()
    shortest = np.linalg.norm(structure.edge_vectors(s.keys), axis=1)
    shortest[shortest < 1e-6] = np.inf
    values[s.offsets[int(np.argmin(shortest))]] += 0.02
    assert displaced(table, structure, dataclasses.replace(s, values=values))


def test_refine_and_evaluate_warn_of_a_lost_digit(
    dft: Dft, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "data" / "0008"
    shutil.copytree(dft("mos2", "0008")[0], folder)
    models = ["--stage1", str(MODELS / "mos2" / "stage1"), "--stage1-only"]
    shutil.copytree(MODELS / "mos2" / "stage1", tmp_path / "stage1")
    shutil.copy(MODELS / "mos2" / "gformer" / "overlap.npz", tmp_path / "stage1" / "overlap.npz")
    models[1] = str(tmp_path / "stage1")
    run = ["refine", "--preprocessed", str(tmp_path / "data"), "--output", str(tmp_path / "o")]
    judge = ["evaluate", *run[1:3], *models[:2], "--no-invariance", "--rotations", "0"]
    assert main([*run, *models]) == 0 and main(judge) == 0
    assert "is not that of" not in capsys.readouterr().err
    positions = np.loadtxt(folder / "site_positions.dat")
    positions[2, 3] += 0.02
    np.savetxt(folder / "site_positions.dat", positions)
    assert main([*run[:-1], str(tmp_path / "again"), *models]) == 0
    assert "overlaps.h5: S of atoms" in capsys.readouterr().err
    assert main(judge) == 0
    assert "overlaps.h5: S of atoms" in capsys.readouterr().err
