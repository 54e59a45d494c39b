"""Commands, Python and the ASE calculator refuse and warn alike."""

from __future__ import annotations

import pathlib
import shutil
from collections.abc import Callable
from typing import Any

import ase.build
import numpy as np
import pytest

import deeph_gformer
from deeph_gformer.analysis.evaluate import evaluate
from deeph_gformer.errors import ConfigError, DataError, ModelError
from deeph_gformer.interop.ase import HamiltonianCalculator
from deeph_gformer.io import Structure, read_folder
from deeph_gformer.overlap.neighbours import edge_keys
from deeph_gformer.pipeline import HamiltonianModel
from deeph_gformer.prediction.seen import out_of_place

from ..conftest import EXAMPLES, ROOT
from .test_guard import guarded_model, squeeze

Dft = Callable[[str, str], tuple[pathlib.Path, Any]]
Folder = Callable[..., pathlib.Path]
SYSTEMS = ROOT / "examples" / "systems" / "models"
ANOTHER = "this is not the basis that the model was trained on"


@pytest.fixture(scope="module")
def mos2() -> HamiltonianModel:
    return deeph_gformer.load(SYSTEMS / "mos2/gformer", stage1=SYSTEMS / "mos2/stage1")


def test_every_way_judges_alike(
    make_folder: Folder,
    tiny_stage1: pathlib.Path,
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """``predict`` of one and of several, ``refine`` and ``evaluate``: the same distances, and the
    same sentence of the one structure that is far away."""
    usual = [make_folder(f"s{n}") for n in range(4)]
    for folder, factor in zip(usual, (1.0, 0.98, 1.02, 1.01), strict=True):
        squeeze(folder, factor)
    model = guarded_model(tiny_stage1, tmp_path / "b", usual, 2)
    strange = make_folder("strange")
    squeeze(strange, 0.7)
    folders = [*usual, strange]
    capsys.readouterr()
    several = model.predict_many(folders)
    said = capsys.readouterr().err
    assert said.count("warning: strange: stage 1's features are") == said.count("warning") == 1
    alone = model.predict(strange)
    assert capsys.readouterr().err == said
    keys = model.read(strange).edges.keys
    assert model.predict(read_folder(strange), keys=keys).judgement == alone.judgement
    assert capsys.readouterr().err == said
    refined = deeph_gformer.refine(tmp_path / "data", model, tmp_path / "o").structures
    capsys.readouterr()
    judged = evaluate(model, tmp_path / "data", invariance=False, rotations=0).structures
    assert capsys.readouterr().err == said
    for records in (refined, judged):
        for record, prediction in zip(records, several, strict=True):
            verdict = prediction.judgement
            assert verdict is not None and prediction.structure.name == record["name"]
            assert verdict.features_z == pytest.approx(record["features_z"], rel=1e-9)
            assert verdict.correction_z == pytest.approx(record["correction_z"], rel=1e-9)
            assert (verdict.warning is None) == (record["guard_warning"] is None)


def test_stage_1_alone_is_not_judged(make_folder: Folder, tiny_stage1: pathlib.Path) -> None:
    assert deeph_gformer.load(stage1=tiny_stage1).predict(make_folder()).judgement is None


def test_another_basis_is_refused_or_told(
    dft: Dft, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """GPAW's model and ABACUS's graphene: equal shells, other orbitals."""
    folder = dft("graphene", "0000")[0]
    model = deeph_gformer.load(EXAMPLES / "gformer", stage1=EXAMPLES / "stage1")
    for wrong in (folder, [folder]):
        with pytest.raises(ModelError, match=rf"overlaps.h5: {ANOTHER}.*any_basis=True"):
            model.predict(wrong)
    bare = tmp_path / "bare"
    shutil.copytree(folder, bare, ignore=shutil.ignore_patterns("*.h5"))
    with pytest.raises(ModelError, match=ANOTHER):
        model.predict(bare, overlap=SYSTEMS / "bilayer_graphene/gformer")
    capsys.readouterr()
    made = model.predict(folder, any_basis=True)
    assert f"overlaps.h5: {ANOTHER}" in capsys.readouterr().err and len(made.hamiltonian)


def test_the_calculator_refuses_another_basis(capsys: pytest.CaptureFixture[str]) -> None:
    models = SYSTEMS / "bilayer_graphene"
    model = deeph_gformer.load(models / "gformer", stage1=models / "stage1")
    atoms = ase.build.graphene(a=2.46, vacuum=8.0)
    atoms.pbc = True
    table = EXAMPLES / "gformer"
    with pytest.raises(ModelError, match=ANOTHER):
        HamiltonianCalculator(model, overlap=table, atoms=atoms).get_hamiltonian()
    capsys.readouterr()
    calc = HamiltonianCalculator(model, overlap=table, any_basis=True, atoms=atoms)
    assert len(calc.get_hamiltonian()) and f"C2: 'C2': {ANOTHER}" in capsys.readouterr().err


def test_the_calculator_is_told_what_predict_says(
    mos2: HamiltonianModel, capsys: pytest.CaptureFixture[str]
) -> None:
    """A layer, and one that is thinner than any in training."""
    for thickness, unlike in ((3.19, False), (2.80, True)):
        atoms = ase.build.mx2(a=3.18, thickness=thickness, vacuum=8.0)
        atoms.pbc = True
        capsys.readouterr()
        verdict = mos2.predict(atoms).judgement
        said = capsys.readouterr().err
        assert verdict is not None
        HamiltonianCalculator(mos2, atoms=atoms, extrapolate=True).get_hamiltonian()
        assert capsys.readouterr().err == said
        assert ("closer than the known range" in said) == unlike


def test_what_repeats_otherwise_is_told_what_to_change(mos2: HamiltonianModel) -> None:
    """A molecule is no sheet whatever its pbc, nor is a bulk."""
    sheet = ase.build.mx2(a=3.18, vacuum=8.0)
    molecule, bulk = sheet.copy(), sheet.copy()
    molecule.set_cell(np.eye(3) * 25.0)
    bulk.cell[2] = [0.0, 0.0, 6.2]
    for atoms, words in (
        (molecule, "repeats in 0 directions .* make the lattice vector shorter"),
        (bulk, "repeats in 3 directions .* make the lattice vector longer"),
    ):
        atoms.pbc = True
        with pytest.raises(DataError, match=words):
            mos2.predict(atoms)


def test_atoms_have_no_edges_of_h(mos2: HamiltonianModel) -> None:
    sheet = ase.build.mx2(a=3.18, vacuum=8.0)
    with pytest.raises(ConfigError, match="has no hamiltonians.h5, .*--edges union"):
        mos2.predict(sheet, edges="union")


def test_an_atom_away_from_all_others_is_told(mos2: HamiltonianModel) -> None:
    """S 0.6 Å further from Mo than in any structure of the training set."""
    for thickness, unlike in ((3.19, False), (4.9, True)):
        atoms = ase.build.mx2(a=3.18, thickness=thickness, vacuum=8.0)
        shells = dict(zip(mos2.targets.basis.elements, mos2.targets.basis.orbital_types))
        own = tuple(shells[z] for z in atoms.numbers.tolist())
        structure = Structure(np.array(atoms.cell), atoms.positions, atoms.numbers, own, name="x")
        reach = {(16, 16): 6.0, (16, 42): 6.0, (42, 42): 6.0}
        said = out_of_place(mos2, structure, edge_keys(structure, reach))
        away = (3.18**2 / 3 + thickness**2 / 4) ** 0.5
        assert (f"nearest to atom 1 (Mo) is {away:.3f} Å away" in said) == unlike
        assert bool(said) == unlike


def test_a_lost_digit_is_told_in_python(
    mos2: HamiltonianModel, dft: Dft, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "0008"
    shutil.copytree(dft("mos2", "0008")[0], folder)
    capsys.readouterr()
    mos2.predict(folder)
    assert "is not that of" not in capsys.readouterr().err
    positions = np.loadtxt(folder / "site_positions.dat")
    positions[2, 3] += 0.02
    np.savetxt(folder / "site_positions.dat", positions)
    mos2.predict_many([folder])
    assert "0008/overlaps.h5: S of atoms" in capsys.readouterr().err
