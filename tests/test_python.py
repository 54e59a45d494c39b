"""The Python interface: several structures at once, and what objects show of themselves."""

from __future__ import annotations

import contextlib
import json
import pathlib
from collections.abc import Callable

import numpy as np
import pytest

import deeph_gformer
from deeph_gformer import bands
from deeph_gformer.errors import ConfigError, DataError, ModelError
from deeph_gformer.interop.ase import to_atoms
from deeph_gformer.io import legacy, read_folder, read_matrix
from deeph_gformer.prediction import predictor

from .conftest import EXAMPLES, ROOT
from .test_pipeline import make_bundle

Folder = Callable[..., pathlib.Path]


def test_several_structures_at_once(
    make_folder: Folder,
    tiny_stage1: pathlib.Path,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each gets, to rounding, what it gets alone, however many run together."""
    folders = [make_folder(f"s{n}", seed=n, atoms=2 + 2 * (n % 2)) for n in range(4)]
    bundle = make_bundle(tiny_stage1, tmp_path / "b", trained=True)
    model = deeph_gformer.load(bundle, stage1=tiny_stage1)
    alone = [model.predict(folder) for folder in folders]
    passes = []
    inner = type(model).predict_graphs

    def counted(self: object, items: list, *words: object) -> object:
        passes.append(len(items))
        return inner(self, items, *words)

    monkeypatch.setattr(type(model), "predict_graphs", counted)
    for most, expected in ((20_000, [4]), (alone[0].graph.edges + 1, [2, 2]), (1, [1] * 4)):
        monkeypatch.setattr(predictor, "BATCH_EDGES", most)
        passes.clear()
        made = model.predict_many(folders)
        assert passes == expected
        for one, other in zip(made, alone, strict=True):
            assert one.structure.name == other.structure.name
            assert np.array_equal(one.hamiltonian.keys, other.hamiltonian.keys)
            difference = np.abs(one.hamiltonian.values - other.hamiltonian.values).max()
            assert difference < 1e-10 * np.abs(other.hamiltonian.values).max()
            assert one.correction == pytest.approx(other.correction, rel=1e-9)
    assert model.predict_many([]) == []


def test_objects_show_themselves_on_a_line(make_folder: Folder, tiny_stage1: pathlib.Path) -> None:
    folder = make_folder()
    model = deeph_gformer.load(stage1=tiny_stage1)
    made = model.predict(folder)
    problem = bands.load(folder)
    spectrum = bands.mesh_spectrum(problem, "2x2x2")
    shown = {
        "structure": made.structure,
        "matrix": made.hamiltonian,
        "prediction": made,
        "graph": made.graph,
        "edges": made.edges,
        "problem": problem,
        "spectrum": spectrum,
        "path": bands.band_structure(problem, "GX", 5).path,
        "dos": bands.density_of_states(problem, spectrum=spectrum),
    }
    for name, thing in shown.items():
        text = repr(thing)
        assert "\n" not in text and len(text) < 250, name
    assert repr(made.graph) == f"Graph(4 atoms, {made.graph.edges} edges)"
    assert f"{read_folder(folder).formula}" in repr(made) and "mean correction 0 meV" in repr(made)


@pytest.fixture(scope="module")
def mos2() -> deeph_gformer.HamiltonianModel:
    folder = ROOT / "examples" / "systems" / "models" / "mos2"
    return deeph_gformer.load(folder / "gformer", stage1=folder / "stage1")


def test_predict_takes_what_a_structure_comes_as(
    mos2: deeph_gformer.HamiltonianModel, tmp_path: pathlib.Path
) -> None:
    """File, ASE's atoms, pymatgen's structure, ours, in a list: what ``refine`` writes.

    Edges and S come from the table in the bundle.
    """
    import ase.io
    from ase.build import mx2

    atoms = mx2(a=3.18, vacuum=8.0)
    atoms.rattle(0.02, seed=1)
    atoms.pbc = True
    ase.io.write(tmp_path / "cell.extxyz", atoms)
    deeph_gformer.refine(tmp_path / "cell.extxyz", mos2, tmp_path / "out")
    folder = tmp_path / "out" / "cell"
    structure = read_folder(folder)
    written = read_matrix(folder, "prediction", structure)
    sources = [folder, str(folder), atoms, tmp_path / "cell.extxyz", structure]
    with contextlib.suppress(ImportError):
        from pymatgen.io.ase import AseAtomsAdaptor

        sources.append(AseAtomsAdaptor.get_structure(atoms))
    s = read_matrix(folder, "overlap", structure)
    found = mos2.predict(sources)
    assert len(found) == len(sources) >= 5
    for one in found:
        assert np.array_equal(one.hamiltonian.keys, written.keys)
        assert np.abs(one.hamiltonian.values - written.values).max() < 1e-4  # float32
        problem = one.problem()
        assert np.array_equal(problem.s.keys, s.keys)
        assert np.abs(problem.s.values - s.values).max() < 1e-6
    assert [one.folder for one in found[:3]] == [folder, folder, None]
    single = mos2.predict(atoms)
    assert isinstance(single, deeph_gformer.Prediction)
    level = [
        bands.fermi_level(p.problem(), 26.0, mesh="3x3x1").energy_eV for p in (single, found[0])
    ]
    assert level[0] == pytest.approx(level[1], abs=1e-4)


def test_predict_says_what_is_missing(
    make_folder: Folder,
    tiny_stage1: pathlib.Path,
    tmp_path: pathlib.Path,
    mos2: deeph_gformer.HamiltonianModel,
) -> None:
    from ase.build import bulk, mx2

    alone = deeph_gformer.load(stage1=tiny_stage1)
    folder = make_folder()
    atoms = to_atoms(read_folder(folder))
    with pytest.raises(
        ConfigError, match="Atoms Mo2S2: comes without S.* no table .*overlap=SOURCE"
    ):
        alone.predict(atoms)
    with pytest.raises(DataError, match="nowhere: no such file or folder"):
        alone.predict(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="one by one"):
        alone.predict([read_folder(folder)], keys=np.zeros((1, 5), dtype=np.int64))
    made = alone.predict(read_folder(folder), keys=alone.predict(folder).edges.keys)
    with pytest.raises(DataError, match="its S is unknown"):
        made.problem()
    with pytest.raises(DataError, match="no orbitals are known of element Si; known: S, Mo"):
        mos2.predict(bulk("Si"))
    sheet = mx2(vacuum=8.0)
    sheet.pbc = False
    with pytest.raises(DataError, match="pbc"):
        mos2.predict(sheet)
    several = (atoms for _ in range(2))
    with pytest.raises(ConfigError, match="not generator; for several give a list"):
        alone.predict(several)  # type: ignore[call-overload]
    with pytest.raises(ConfigError, match=r"not generator; give list\(structures\)"):
        alone.predict_many(several)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="not Atoms; .* model.predict"):
        deeph_gformer.refine(atoms, alone, tmp_path / "out")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="a model, not str: deeph_gformer.load"):
        deeph_gformer.refine(folder, "bundle", tmp_path / "out")  # type: ignore[arg-type]
    for other in (3.0, None, {"a": 1}):
        with pytest.raises(ConfigError, match="a structure is wanted"):
            mos2.predict(other)  # type: ignore[call-overload]
    graphene = deeph_gformer.load(EXAMPLES / "gformer", stage1=EXAMPLES / "stage1")
    with pytest.raises(ConfigError, match="S of its training set is not two-centre"):
        graphene.predict(to_atoms(read_folder(EXAMPLES / "structures" / "0030")))


def test_predict_takes_overlaps_from_elsewhere(
    mos2: deeph_gformer.HamiltonianModel, tmp_path: pathlib.Path
) -> None:
    """A stage 1 alone, with the table that its GFormer's bundle holds: what the folder gives."""
    from ase.build import mx2

    models = ROOT / "examples" / "systems" / "models" / "mos2"
    alone = deeph_gformer.load(stage1=models / "stage1")
    sheet = mx2(a=3.18, vacuum=8.0)
    sheet.pbc = True
    expected = mos2.predict(sheet)
    for overlap in (models / "gformer", mos2.read(sheet).overlap):
        found = alone.predict(sheet, overlap=overlap)
        both = alone.predict([sheet, sheet], overlap=overlap)
        assert np.array_equal(found.hamiltonian.keys, expected.stage1.keys)
        assert np.abs(found.hamiltonian.values - expected.stage1.values).max() < 1e-5  # float32
        assert np.array_equal(found.problem().s.values, expected.problem().s.values)
        assert len(both) == 2 and np.array_equal(both[1].problem().s.keys, found.problem().s.keys)
    # a folder with H alone: edges are its own, S is nowhere
    legacy.write_structure(tmp_path / "h", expected.structure)
    legacy.write_blocks(tmp_path / "h" / "hamiltonians.h5", expected.hamiltonian)
    only = mos2.predict(tmp_path / "h")
    with pytest.raises(DataError, match="S is not there, only H; .*overlap=TABLE"):
        only.problem()
    again = mos2.predict(tmp_path / "h", overlap=models / "gformer").problem()
    assert np.array_equal(again.s.values, expected.problem().s.values)
    # where info.json says that the basis is orthogonal there is none
    info = json.loads((tmp_path / "h" / "info.json").read_text())
    (tmp_path / "h" / "info.json").write_text(json.dumps(info | {"isorthogonal": True}))
    unit = mos2.predict(tmp_path / "h").problem()
    assert np.array_equal(unit.at((0.1, 0.2, 0.0))[1], np.eye(unit.size))


def test_a_bundle_names_its_elements(mos2: deeph_gformer.HamiltonianModel) -> None:
    assert "elements S, Mo, spinful=False" in repr(mos2.bundle)


def test_a_stage_1_of_other_elements_is_named_by_them() -> None:
    bundle = ROOT / "examples" / "systems" / "models" / "mos2" / "gformer"
    with pytest.raises(ModelError, match="is a stage 1 for C, but .* was trained for S, Mo, on st"):
        deeph_gformer.load(bundle, stage1=EXAMPLES / "stage1")
