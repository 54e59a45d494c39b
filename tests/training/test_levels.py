"""``onsite``: a bundle gets levels, predictions have them wherever they are asked for."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Callable

import ase.build
import numpy as np
import pytest

import deeph_gformer
from deeph_gformer.bands import compare
from deeph_gformer.cli import main
from deeph_gformer.errors import ConfigError, DataError, ModelError
from deeph_gformer.gformer.bundle import load_bundle, save_bundle
from deeph_gformer.inference.derivatives import derivatives
from deeph_gformer.interop.deephe3 import _labelled
from deeph_gformer.io import find_structures, read_folder, read_matrix
from deeph_gformer.io.blocks import onsite_keys
from deeph_gformer.io.folder import write_matrix
from deeph_gformer.io.legacy import write_structure
from deeph_gformer.onsite import onsite_features, shell_levels
from deeph_gformer.onsite.levels import kinds_of
from deeph_gformer.onsite.reach import Reach
from deeph_gformer.overlap import load as load_overlap
from deeph_gformer.training import levels as module
from deeph_gformer.training.levels import add_levels

from ..conftest import ROOT, tree, write_json, write_tiny_stage1
from ..inference.test_shard import in_ranks
from ..onsite.test_levels import KINDS, some_levels
from ..overlap.test_gradient import crystal
from ..test_pipeline import make_bundle

Folder = Callable[..., pathlib.Path]
MOS2 = ROOT / "examples" / "systems" / "models" / "mos2"


@pytest.fixture
def trained(tmp_path: pathlib.Path, make_folder: Folder) -> list[str]:
    """Options of a model, six structures, and their splits."""
    names = [f"s{n}" for n in range(6)]
    for seed, name in enumerate(names):
        make_folder(name, seed=seed)
    write_json(tmp_path / "splits.json", {"train": names[:4], "val": names[4:5], "test": names[5:]})
    stage1 = write_tiny_stage1(tmp_path / "stage1")
    bundle = make_bundle(stage1, tmp_path / "bundle", trained=True)
    words = ["--preprocessed", str(tmp_path / "data"), "--splits", str(tmp_path / "splits.json")]
    return [*words, "--stage1", str(stage1), "--model", str(bundle), "--device", "cpu"]


def with_some(bundle: pathlib.Path, output: pathlib.Path) -> pathlib.Path:
    """The bundle with made-up levels."""
    found = load_bundle(bundle)
    levels = dataclasses.replace(some_levels(scale=0.01), reach=Reach(np.eye(24), 3.0, 0.1))
    training = found.training | {"levels": levels.to_json()}
    save_bundle(output, dataclasses.replace(found, training=training))
    return output


def test_a_bundle_gets_levels(
    trained: list[str],
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Levels of predictions are the linear model's to the share that it has; the networks stay."""
    monkeypatch.setattr(module, "GAIN", -1.0)
    out, table = tmp_path / "new", tmp_path / "fit.json"
    before = tree(tmp_path / "bundle")
    words = ["onsite", *trained, "--output", str(out)]
    assert main([*words, "--json", str(table)]) == 0
    said = capsys.readouterr().out
    assert "4 training structures, 1 for validation" in said and f"kept; bundle: {out}" in said
    record = json.loads(table.read_text())
    assert record["kept"] and [s["l"] for s in record["shells"]] == [0, 1, 2]
    assert tree(tmp_path / "bundle") == before
    stage1, folder = tmp_path / "stage1", tmp_path / "data" / "s4"
    old = deeph_gformer.load(tmp_path / "bundle", stage1=stage1)
    new = deeph_gformer.load(out, stage1=stage1)
    assert new.bundle is not None and old.bundle is not None and new.bundle.levels is not None
    for name, value in old.bundle.model.state_dict().items():
        assert np.array_equal(value, new.bundle.model.state_dict()[name])
    plain, made = old.predict(folder), new.predict(folder)
    assert made.correction == plain.correction
    assert np.array_equal(made.stage1.values, plain.stage1.values)
    model, structure = new.bundle.levels, made.structure
    features = onsite_features(structure, made.edges.keys, model.elements, model.radial)
    first, second = (shell_levels(structure, p.hamiltonian, KINDS) for p in (plain, made))
    wanted = first + model.share * model.differences(structure, features, first)
    there = np.isfinite(first)
    assert np.abs(second - wanted)[there].max() < 1e-12
    assert np.abs(second - first)[there].max() > 1e-3
    truth, s = (read_matrix(folder, kind) for kind in ("hamiltonian", "overlap"))
    errors = [compare(truth, p.hamiltonian, s).mae_meV for p in (plain, made)]
    assert record["val_mae_meV"] == pytest.approx(errors)
    assert new.bundle.training["levels_validation"]["mae_meV"] == pytest.approx(errors)
    same = new.without_levels().predict(folder).hamiltonian
    assert np.array_equal(same.values, plain.hamiltonian.values)
    # once more, from the bundle that has them: the same ones
    words[words.index("--model") + 1] = str(out)
    assert main(words) == 2 and "is there already; add --overwrite" in capsys.readouterr().err
    assert main([*words, "--overwrite"]) == 0
    again = load_bundle(out)
    assert again.levels is not None and again.levels.to_json() == model.to_json()
    capsys.readouterr()
    assert main(["info", str(out)]) == 0
    assert "linear electrostatic model" in capsys.readouterr().out


def test_nothing_is_written_without_a_gain(
    trained: list[str],
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "GAIN", 0.999)
    assert main(["onsite", *trained, "--output", str(tmp_path / "new")]) == 0
    assert "this gains less than 10 %, so no bundle was written" in capsys.readouterr().out
    assert not (tmp_path / "new").exists()


def test_what_is_missing_is_said(
    trained: list[str], tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    splits = tmp_path / "splits.json"
    words = ["onsite", *trained, "--output", str(tmp_path / "new")]
    table = json.loads(splits.read_text())
    write_json(splits, {**table, "val": []})
    assert main(words) == 2 and "the val split is empty" in capsys.readouterr().err
    write_json(splits, {**table, "train": table["train"][:3]})
    assert main(words) == 2 and "needs 4 at least" in capsys.readouterr().err
    write_json(splits, table)
    (tmp_path / "data" / "s4" / "overlaps.h5").unlink()
    assert main(words) == 2
    error = capsys.readouterr().err
    assert "s4" in error and "overlaps.h5" in error and "Traceback" not in error
    words[-1] = str(tmp_path / "bundle" / "inside")
    assert main(words) == 2 and "lies inside" in capsys.readouterr().err
    words[-1] = str(tmp_path / "data")
    assert main([*words, "--overwrite"]) == 2
    assert "holds something else than a bundle" in capsys.readouterr().err
    model = deeph_gformer.load(stage1=tmp_path / "stage1")
    with pytest.raises(ConfigError, match="give its bundle"):
        add_levels(model, tmp_path / "data", splits, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_atoms_without_a_block_of_their_own_are_named(
    trained: list[str], tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In H or S of validation, and in H of training: not left out in silence."""
    cases = (("s4", "overlap", "S"), ("s4", "hamiltonian", "H"), ("s1", "hamiltonian", "H"))
    for name, kind, said in cases:
        folder = tmp_path / "data" / name
        structure, whole = read_folder(folder), read_matrix(folder, kind)
        kept = np.flatnonzero(~(onsite_keys(whole.keys) & (whole.keys[:, 3] == 1)))
        write_matrix(folder, kind, whole.select(kept), structure)
        assert main(["onsite", *trained, "--output", str(tmp_path / "new")]) == 2
        error = capsys.readouterr().err
        assert f"{name}, {said}" in error and error.count("\n") == 1
        assert "atom 2 has no on-site block [0, 0, 0, 2, 2]" in error
        write_matrix(folder, kind, whole, structure)
    assert not (tmp_path / "new").exists()


def test_changed_numbers_are_refused(trained: list[str], tmp_path: pathlib.Path) -> None:
    bundle = with_some(tmp_path / "bundle", tmp_path / "new")
    file = bundle / "bundle.json"
    table = json.loads(file.read_text())
    table["training"]["levels"]["weights"][0][0] += 0.5
    write_json(file, table)
    with pytest.raises(ModelError, match="was changed after the training wrote it"):
        load_bundle(bundle)
    table["training"]["levels"]["share"] = [2.0, 0.0, 0.0]
    write_json(file, table)
    with pytest.raises(ModelError, match="training.levels.*a linear model of on-site levels"):
        load_bundle(bundle)


def test_alone_or_together_and_in_files(trained: list[str], tmp_path: pathlib.Path) -> None:
    """One by one, in a batch, refined, and as DeepH-E3's evaluation has it: the same numbers."""
    bundle = with_some(tmp_path / "bundle", tmp_path / "new")
    model = deeph_gformer.load(bundle, stage1=tmp_path / "stage1")
    folders = find_structures(tmp_path / "data")
    alone = [model.predict(f).hamiltonian.values for f in folders]
    many = [p.hamiltonian.values for p in model.predict_many(folders)]
    deeph_gformer.refine(tmp_path / "data", model, tmp_path / "out")
    for one, other, folder in zip(alone, many, folders, strict=True):
        assert np.abs(one - other).max() < 1e-10
        written = read_matrix(tmp_path / "out" / folder.name, "prediction").values
        assert np.abs(one - written).max() < 1e-10
        prediction, _, product = _labelled(model, folder, True, 1)
        assert np.abs(prediction.hamiltonian.values - one).max() < 1e-10
        types = prediction.graph.node_type.numpy()
        wanted = model.blocks.from_matrix(prediction.hamiltonian, types)[0]
        assert np.abs(product.numpy() - wanted).max() < 1e-12


def test_several_processes_are_one(trained: list[str], tmp_path: pathlib.Path) -> None:
    bundle = with_some(tmp_path / "bundle", tmp_path / "new")
    model = deeph_gformer.load(bundle, stage1=tmp_path / "stage1")
    source = tmp_path / "data" / "s1"
    deeph_gformer.refine(source, model, tmp_path / "one")
    found = in_ranks(2, lambda _: deeph_gformer.refine(source, model, tmp_path / "two").structures)
    a, b = (read_matrix(tmp_path / name / "s1", "prediction") for name in ("one", "two"))
    assert np.array_equal(a.keys, b.keys) and np.abs(a.values - b.values).max() < 1e-10
    one, two = found[0][0], model.predict(source).judgement
    assert two is not None and one["guard_warning"] == two.warning
    assert one["levels_distance"] == pytest.approx(two.levels_distance)


def test_a_structure_without_overlaps_is_refused(
    trained: list[str], tmp_path: pathlib.Path, make_folder: Folder
) -> None:
    """The bundle has no table: H alone does not tell S."""
    bundle = with_some(tmp_path / "bundle", tmp_path / "new")
    model = deeph_gformer.load(bundle, stage1=tmp_path / "stage1")
    folder = make_folder("bare", overlap=False)
    with pytest.raises(DataError, match="bare.*shifts on-site levels, which needs S"):
        model.predict(folder)
    structure = read_folder(folder)
    keys = read_matrix(folder, "hamiltonian").keys
    with pytest.raises(DataError, match="overlap="):
        model.predict(structure, keys=keys)
    assert model.bundle is not None
    few = dataclasses.replace(some_levels(), elements=(16, 15))
    model.bundle.training["levels"] = few.to_json()
    del model.bundle.__dict__["levels"]
    with pytest.raises(DataError, match="made: has Mo, which no structure has"):
        model.predict(make_folder())


def test_other_directions_keep_their_levels(
    trained: list[str], tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Levels of chains say nothing about a slab (bonds within the cutoff make one here): a warning,
    and H of the networks."""
    bundle = with_some(tmp_path / "bundle", tmp_path / "new")
    model = deeph_gformer.load(bundle, stage1=tmp_path / "stage1")
    assert model.bundle is not None
    chains = dataclasses.replace(some_levels(scale=0.01), ranks=(1,))
    model.bundle.training["levels"] = chains.to_json()
    folder = tmp_path / "data" / "s1"
    found = model.predict(folder).hamiltonian
    assert "repeats in 2 directions, structures of the fit in 1" in caplog.text
    assert np.array_equal(found.values, model.without_levels().predict(folder).hamiltonian.values)


def test_a_structure_file_has_levels(tmp_path: pathlib.Path) -> None:
    """Bi2Te3 of examples/systems, from a POSCAR: S of the bundle's table."""
    system = ROOT / "examples" / "systems" / "models" / "bi2te3"
    model = deeph_gformer.load(system / "gformer", stage1=system / "stage1")
    film = ase.build.bulk("Bi", "hcp", 4.386, 8.0)[:1] * (1, 1, 5)
    film.numbers[:] = [52, 83, 52, 83, 52]
    film.positions[:, 2] = [7.5, 9.24, 11.25, 13.26, 15.0]
    film.positions[:, :2] = (
        np.array([[0, 0], [1, 2], [2, 1], [0, 0], [1, 2]]) @ film.cell[:2, :2] / 3
    )
    film.cell[2] = [0.0, 0.0, 24.0]
    film.pbc = True
    film.write(tmp_path / "film.vasp")
    deeph_gformer.refine(tmp_path / "film.vasp", model, tmp_path / "out")
    found = read_matrix(tmp_path / "out" / "film", "prediction").values
    assert np.abs(found - model.predict(film).hamiltonian.values).max() < 1e-5
    plain = model.without_levels().predict(tmp_path / "film.vasp").hamiltonian.values
    assert np.abs(found - plain).max() > 1e-4


def test_derivatives_against_finite_differences(tmp_path: pathlib.Path) -> None:
    """With S of a table, both in H's own blocks and in those between atoms."""
    _, structure, keys = crystal("mos2")
    found = load_bundle(MOS2 / "gformer")
    kinds = tuple(sorted({k for shells in structure.orbital_types for k in kinds_of(shells)}))
    rng, size = np.random.default_rng(1), len(kinds)
    model = dataclasses.replace(
        some_levels(),
        kinds=kinds,
        levels=rng.normal(size=(2, size)),
        weights=0.01 * rng.normal(size=(size, 24)),
        share=rng.random(size),
    )
    training = found.training | {"levels": model.to_json()}
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    (bundle / "overlap.npz").write_bytes((MOS2 / "gformer" / "overlap.npz").read_bytes())
    save_bundle(bundle, dataclasses.replace(found, training=training))
    both = deeph_gformer.load(bundle, stage1=MOS2 / "stage1", dtype="float64")
    folder = tmp_path / "cell"
    write_structure(folder, structure)
    provider = load_overlap(bundle, extrapolate=True)
    write_matrix(folder, "overlap", provider.overlap(structure, keys), structure)
    (made,) = derivatives(folder, both, [1])
    (bare,) = derivatives(folder, both.without_levels(), [1])
    step = 2e-4

    def h(axis: int, count: int) -> np.ndarray:
        positions = structure.positions.copy()
        positions[1, axis] += count * step
        moved = dataclasses.replace(structure, positions=positions)
        item = both.read(moved, keys=keys)._replace(overlap=provider)
        return next(iter(both.predict_graphs([item]))).hamiltonian.values

    for axis in range(3):
        values = made.hamiltonian[axis].values
        expected = (8 * (h(axis, 1) - h(axis, -1)) - (h(axis, 2) - h(axis, -2))) / (12 * step)
        assert np.abs(values - expected).max() < 1e-6 * np.abs(expected).max()
        assert np.abs(values - bare.hamiltonian[axis].values).max() > 1e-3
