"""refine: files in, files out."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Callable, Sequence

import ase.io
import h5py
import numpy as np
import pytest
import torch
from ase.build import mx2

import deeph_gformer
from deeph_gformer.cli import main
from deeph_gformer.errors import ConfigError, DataError
from deeph_gformer.io import BlockMatrix, Structure, dock, legacy, read_matrix
from deeph_gformer.io.blocks import match_keys, onsite_keys
from deeph_gformer.io.folder import folder_format, write_matrix
from deeph_gformer.overlap import OverlapProvider, edge_keys, structure_from_atoms

from ..conftest import ROOT, SHELLS, random_structure
from ..test_pipeline import make_bundle

Folder = Callable[..., pathlib.Path]


def test_files_and_records(
    make_folder: Folder, tiny_stage1: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    for n in range(2):
        make_folder(f"s{n}", seed=n, hamiltonian=n == 0)
    model = deeph_gformer.load(
        make_bundle(tiny_stage1, tmp_path / "b", trained=True), stage1=tiny_stage1
    )
    result = deeph_gformer.refine(tmp_path / "data", model, tmp_path / "out")
    assert [r["name"] for r in result["structures"]] == ["s0", "s1"]
    truth = read_matrix(tmp_path / "data" / "s0", "hamiltonian")
    with h5py.File(tmp_path / "out" / "s0" / "hamiltonians_pred.h5") as handle:
        assert len(handle) == len(truth)
        errors = [
            np.abs(handle[f"[{x}, {y}, {z}, {i + 1}, {j + 1}]"][()] - block).sum()
            for (x, y, z, i, j), block in truth
        ]
    record = result["structures"][0]
    assert record["raw_refined_mae_meV"] == pytest.approx(
        1e3 * sum(errors) / len(truth.values), rel=1e-12
    )
    assert "refined_mae_meV" not in result["structures"][1]
    assert result["total"]["errors"]["refined"]["mae_all_meV"] == pytest.approx(
        record["refined_mae_meV"]
    )
    assert (
        folder_format(tmp_path / "out" / "s0") == "legacy"
    )  # band tools can work on the output folder
    info = json.loads((tmp_path / "out" / "s0" / "info.json").read_text())
    assert info["isspinful"] is False and info["deeph_gformer"]["gformer"] == "b"


def test_edges_that_only_h_has_are_said_everywhere(
    make_folder: Folder,
    tiny_stage1: pathlib.Path,
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """S has lost a pair of blocks that H has: the same words from every way to a prediction, with
    the number that a count of the files' own keys gives."""
    folder = make_folder("s0")
    with h5py.File(folder / "overlaps.h5", "r+") as handle:
        far = next(k for k in handle if not k.startswith("[0, 0, 0"))
        x, y, z, i, j = json.loads(far)
        for key in (far, str([-x, -y, -z, j, i])):
            del handle[key]
        blocks = len(handle)
    words = f"s0: 2 of {blocks + 2} edges are in hamiltonians.h5 and not in overlaps.h5"
    bundle = make_bundle(tiny_stage1, tmp_path / "b", trained=True)
    model = deeph_gformer.load(bundle, stage1=tiny_stage1)
    common = ["--preprocessed", tmp_path / "data", "--stage1", tiny_stage1, "--model", bundle]
    ways: dict[str, Callable[..., object]] = {
        "predict": lambda *more: model.predict(folder, *more[1:]),
        "a list": lambda *more: model.predict([folder], *more[1:]),
        "evaluate": lambda *more: run("evaluate", *common, "--no-invariance", *more),
        "refine": lambda *more: run("refine", *common, "--output", tmp_path / "o", *more),
        "again": lambda *more: run(
            "refine", *common, "--output", tmp_path / "o", "--overwrite", *more
        ),
    }
    for name, way in ways.items():
        if name != "again":
            way()
            lines = capsys.readouterr().err.splitlines()
            assert [line for line in lines if words in line] == [
                line for line in lines if "not in overlaps.h5" in line
            ], name
            assert sum(words in line for line in lines) == 1, (name, lines)
        if name != "refine":
            way("--edges", "overlaps")
            assert "not in overlaps.h5" not in capsys.readouterr().err, name


def test_beside_the_input_keeps_info(
    make_folder: Folder, tiny_stage1: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    folder = make_folder("s0")
    model = deeph_gformer.load(stage1=tiny_stage1)
    deeph_gformer.refine(tmp_path / "data", model)
    info = json.loads((folder / "info.json").read_text())
    assert info["fermi_level"] == 0.5 and "deeph_gformer" in info
    with pytest.raises(DataError, match="--overwrite or --skip-existing .*existing="):
        deeph_gformer.refine(tmp_path / "data", model)
    before = (folder / "hamiltonians_pred.h5").stat().st_mtime_ns
    result = deeph_gformer.refine(tmp_path / "data", model, existing="skip")
    assert (
        result["skipped"] == ["s0"]
        and (folder / "hamiltonians_pred.h5").stat().st_mtime_ns == before
    )
    deeph_gformer.refine(tmp_path / "data", model, existing="overwrite")
    assert (folder / "hamiltonians_pred.h5").stat().st_mtime_ns > before


def test_dock_and_legacy_predict_the_same(
    tiny_stage1: pathlib.Path, make_folder: Folder, tmp_path: pathlib.Path
) -> None:
    """The same crystal in both formats, atoms grouped by element in both."""
    structure, h, s = random_structure(atoms=2)
    legacy_folder = make_folder("x", atoms=2)
    dock_folder = tmp_path / "dock" / "x"
    dock.write_structure(dock_folder, structure)
    write_matrix(dock_folder, "overlap", s, structure, "dock")
    model = deeph_gformer.load(stage1=tiny_stage1)
    deeph_gformer.refine(tmp_path / "dock", model, tmp_path / "out")
    assert folder_format(tmp_path / "out" / "x") == "dock"
    made = read_matrix(tmp_path / "out" / "x", "prediction")
    truth = model.predict(legacy_folder, edges="overlaps").hamiltonian
    assert np.array_equal(made.keys, truth.keys) and np.abs(made.values - truth.values).max() < 1e-9


def run(*arguments: object) -> int:
    return main([str(a) for a in arguments])


def test_command_line(
    make_folder: Folder,
    tiny_stage1: pathlib.Path,
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    make_folder("s0")
    bundle = make_bundle(tiny_stage1, tmp_path / "b", trained=True)
    code = run(
        "refine",
        "--preprocessed",
        tmp_path / "data",
        "--stage1",
        tiny_stage1,
        "--model",
        bundle,
        "--output",
        tmp_path / "o",
        "--json",
        tmp_path / "r.json",
        "--edges",
        "overlaps",
    )
    assert code == 0
    text = capsys.readouterr().out
    assert "MAE_all against DFT: stage 1" in text and "s0" in text
    table = json.loads((tmp_path / "r.json").read_text())
    assert table["structures"][0]["edges_from"] == "overlaps.h5"
    assert (
        run(
            "evaluate",
            "--preprocessed",
            tmp_path / "data",
            "--stage1",
            tiny_stage1,
            "--model",
            bundle,
            "--json",
            tmp_path / "e.json",
        )
        == 0
    )
    total = json.loads((tmp_path / "e.json").read_text())
    assert total["equivariance"]["refined_error_meV"] < 1e-6
    assert total["total"]["refined"]["mae_all_meV"] == pytest.approx(
        table["total"]["errors"]["refined"]["mae_all_meV"]
    )
    assert (
        run("info", tmp_path / "data" / "s0")
        == run("info", tiny_stage1)
        == run("info", bundle)
        == run("info", tmp_path / "data")
        == 0
    )


def no_overlap(folder: pathlib.Path, stage1: pathlib.Path) -> list[object]:
    (folder / "overlaps.h5").unlink()
    (folder / "hamiltonians.h5").unlink()
    return []


def cut_overlap(folder: pathlib.Path, stage1: pathlib.Path) -> list[object]:
    path = folder / "overlaps.h5"
    path.write_bytes(path.read_bytes()[:2000])
    return []


def bad_overlap(folder: pathlib.Path, stage1: pathlib.Path) -> list[object]:
    with h5py.File(folder / "overlaps.h5", "a") as handle:
        handle["[0, 0, 0, 1, 2]"][...] = np.nan
    return []


def no_json(folder: pathlib.Path, stage1: pathlib.Path) -> list[object]:
    (stage1 / "src" / "dataset_info.json").unlink()
    return []


def foreign_pickle(folder: pathlib.Path, stage1: pathlib.Path) -> list[object]:
    import pickle

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (open, (str(folder / "was_run"), "w"))

    (stage1 / "best_model.pkl").write_bytes(pickle.dumps({"state_dict": Evil()}))
    return []


def unknown_element(folder: pathlib.Path, stage1: pathlib.Path) -> list[object]:
    (folder / "element.dat").write_text("16\n42\n16\n6\n")
    return []


def no_model(folder: pathlib.Path, stage1: pathlib.Path) -> list[object]:
    (stage1 / "best_model.pkl").unlink()
    return []


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (no_overlap, "none has"),
        (cut_overlap, "overlaps.h5.*damaged"),
        (bad_overlap, "overlaps.h5: block .* NaN"),
        (no_json, "dataset_info.json: file not found"),
        (foreign_pickle, "refused"),
        (unknown_element, "has C, which the model does not know"),
        (no_model, "no DeepH-E3 model here"),
    ],
)
def test_bad_input(
    make_folder: Folder,
    tiny_stage1: pathlib.Path,
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
    damage: Callable[[pathlib.Path, pathlib.Path], list[object]],
    words: str,
) -> None:
    """One clear line, exit code 2, nothing written, nothing run."""
    folder = make_folder("s0")
    damage(folder, tiny_stage1)
    before = sorted(p.name for p in folder.iterdir())
    code = run(
        "refine",
        "--preprocessed",
        tmp_path / "data",
        "--stage1",
        tiny_stage1,
        "--stage1-only",
        "--output",
        tmp_path / "out",
    )
    said = capsys.readouterr().err.strip()
    assert (
        code == 2
        and len(said.splitlines()) == 1
        and said.startswith("deeph-gformer refine: error:")
    )
    import re

    assert re.search(words, said), said
    assert sorted(p.name for p in folder.iterdir()) == before and not (tmp_path / "out").exists()


class MadeUp(OverlapProvider):
    """Edges by distance, and on them an S that could be one but is not Hermitian."""

    orbital_types = SHELLS
    cutoffs = {(16, 16): 4.2, (16, 42): 4.2, (42, 42): 4.2}
    largest = 0.1

    def edges(self, structure: Structure, pbc: Sequence[bool] = (True, True, True)) -> np.ndarray:
        return edge_keys(structure, self.cutoffs, pbc)

    def overlap(self, structure: Structure, keys: np.ndarray | None = None) -> BlockMatrix:
        shapes = structure.orbital_counts[keys[:, 3:]]
        values = np.linspace(0.0, self.largest, int(shapes.prod(axis=1).sum()))
        matrix = BlockMatrix(keys, shapes, values)
        for e in np.flatnonzero(onsite_keys(keys)).tolist():
            matrix.block(e)[...] = np.eye(len(matrix.block(e)))
        return matrix


def test_bare_structures(
    tiny_stage1: pathlib.Path, make_folder: Folder, tmp_path: pathlib.Path
) -> None:
    """Edges and S from elsewhere: the prediction is that on the folder's own edges, and S is
    written beside it."""
    own = make_folder("x", hamiltonian=False)
    model = deeph_gformer.load(stage1=tiny_stage1)
    truth = model.predict(own).hamiltonian
    bare = make_folder("x", hamiltonian=False, overlap=False, root=tmp_path / "bare")
    with pytest.raises(DataError, match="none has"):
        deeph_gformer.refine(tmp_path / "bare", model, tmp_path / "no")
    deeph_gformer.refine(tmp_path / "bare", model, tmp_path / "out", overlap=own)
    made, s = (read_matrix(tmp_path / "out" / "x", kind) for kind in ("prediction", "overlap"))
    assert (
        np.array_equal(made.keys, truth.keys) and np.abs(made.values - truth.values).max() < 1e-13
    )
    assert (
        np.array_equal(s.values, read_matrix(own, "overlap").values)
        and not (bare / "overlaps.h5").exists()
    )
    for _ in range(2):  # what is written below the input is not taken for input the next time
        deeph_gformer.refine(
            tmp_path / "bare", model, tmp_path / "bare" / "out", overlap=own, existing="overwrite"
        )


def test_structure_files(
    tiny_stage1: pathlib.Path, make_folder: Folder, tmp_path: pathlib.Path
) -> None:
    """A POSCAR, or a folder of them, is refined like the structure folder it came from.

    Atoms in the file's order.
    """
    from ase import Atoms

    structure = random_structure(atoms=2)[0]
    truth = (
        deeph_gformer.load(stage1=tiny_stage1)
        .predict(make_folder("x", atoms=2, hamiltonian=False))
        .hamiltonian
    )
    files = tmp_path / "files"
    files.mkdir()
    atoms = Atoms(
        structure.numbers, positions=structure.positions, cell=structure.lattice, pbc=True
    )
    atoms.write(files / "x.vasp", format="vasp", direct=False)
    model = deeph_gformer.load(stage1=tiny_stage1)
    words = "x.vasp: a structure file has no overlaps S, and the model has no table.*--overlap"
    with pytest.raises(DataError, match=words):
        deeph_gformer.refine(files / "x.vasp", model, tmp_path / "no")
    with pytest.raises(ConfigError, match="--output"):
        deeph_gformer.refine(files / "x.vasp", model, overlap=MadeUp())
    for source, name in ((files, "a"), (files / "x.vasp", "b")):
        result = deeph_gformer.refine(source, model, tmp_path / name, overlap=MadeUp())
        assert (
            result["structures"][0]["edges_from"] == "overlap table"
            and result["structures"][0]["name"] == "x"
        )
        made = read_matrix(tmp_path / name / "x", "prediction")
        assert (
            np.array_equal(made.keys, truth.keys)
            and np.abs(made.values - truth.values).max() < 1e-7
        )  # digits of the file
        assert len(read_matrix(tmp_path / name / "x", "overlap")) == len(truth)


# --- the shipped MoS2 model and what it has never seen --------------------------------------------
@pytest.fixture(scope="module")
def mos2() -> deeph_gformer.pipeline.HamiltonianModel:
    folder = ROOT / "examples" / "systems" / "models" / "mos2"
    return deeph_gformer.load(folder / "gformer", folder / "stage1")


def sheet(path: pathlib.Path, pbc: object = True, lift: float = 0.0) -> pathlib.Path:
    """A MoS2 sheet as a file; ``lift`` moves the upper S down, Å."""
    atoms = mx2("MoS2", a=3.18, thickness=3.13, vacuum=10.0)
    atoms.pbc = pbc
    atoms.positions[1, 2] -= lift
    atoms.write(path, format="extxyz")
    return path


def test_a_folder_of_another_structure_is_left_alone(
    mos2, make_folder: Folder, tmp_path: pathlib.Path
) -> None:
    other = make_folder("sheet", root=tmp_path / "out")
    before = {p.name: p.read_bytes() for p in other.iterdir()}
    for existing in ("error", "overwrite"):
        with pytest.raises(DataError, match="out/sheet: holds another structure than 'sheet'"):
            deeph_gformer.refine(
                sheet(tmp_path / "sheet.xyz"), mos2, tmp_path / "out", existing=existing
            )
    assert {p.name: p.read_bytes() for p in other.iterdir()} == before
    made = tmp_path / "new" / "sheet"
    deeph_gformer.refine(tmp_path / "sheet.xyz", mos2, tmp_path / "new")
    (made / "hamiltonians_pred.h5").unlink()  # as after a run that was stopped
    (made / ".site_positions.dat.ab_12.tmp").touch()
    deeph_gformer.refine(tmp_path / "sheet.xyz", mos2, tmp_path / "new", existing="skip")
    assert not list(made.glob(".*"))
    (made / "hamiltonians_pred.h5").unlink()
    structure = deeph_gformer.io.read_folder(made)
    own = read_matrix(made, "overlap", structure)
    write_matrix(made, "overlap", BlockMatrix(own.keys, own.shapes, own.values * 1.01), structure)
    with pytest.raises(DataError, match="overlaps.h5: is there already, with other overlaps"):
        deeph_gformer.refine(tmp_path / "sheet.xyz", mos2, tmp_path / "new")
    deeph_gformer.refine(tmp_path / "sheet.xyz", mos2, tmp_path / "new", existing="overwrite")
    assert np.abs(read_matrix(made, "overlap", structure).values - own.values).max() == 0


@pytest.mark.parametrize("pbc", [False, (True, False, False)])
def test_pbc_that_the_model_never_saw(mos2, tmp_path: pathlib.Path, pbc: object) -> None:
    crossed = int(np.sum(pbc))
    with pytest.raises(
        DataError,
        match=f"pbc = .*cross {crossed} of the 3 lattice vectors, but its atoms couple "
        "to their own "
        "images",
    ):
        deeph_gformer.refine(sheet(tmp_path / "x.xyz", pbc), mos2, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("pbc", [True, (True, True, False)])
def test_a_slab_across_the_boundary_is_the_same_slab(mos2, tmp_path: pathlib.Path, pbc) -> None:
    """Same blocks, and the same H in each, whether the file says that z repeats or not."""
    whole, cut = sheet(tmp_path / "whole.xyz"), sheet(tmp_path / "cut.xyz", pbc)
    atoms = ase.io.read(cut)
    atoms.positions[:, 2] -= atoms.positions[0, 2]  # Mo in the boundary
    shift = np.zeros((3, 3), dtype=int)
    shift[:, 2] = np.floor(atoms.get_scaled_positions(wrap=False)[:, 2] + 1e-9)
    atoms.positions -= shift @ atoms.cell[:]
    atoms.write(cut, format="extxyz")
    for path in (whole, cut):
        deeph_gformer.refine(path, mos2, tmp_path / "out")
    first, second = (
        read_matrix(tmp_path / "out" / name, "prediction") for name in ("whole", "cut")
    )
    moved = first.keys.copy()
    moved[:, :3] += shift[moved[:, 4]] - shift[moved[:, 3]]
    place = match_keys(moved, second.keys)
    assert len(first) == len(second) and (place >= 0).all() and shift.any()
    for e, there in enumerate(place):
        assert np.abs(first.block(e) - second.block(there)).max() < 1e-5


def known(a: int, b: int) -> float:
    """Where the range of a pair begins, as the file of the table has it, Å."""
    with np.load(ROOT / "examples/systems/models/mos2/gformer/overlap.npz") as table:
        return float(table[f"valid_{a}_{b}"].min())


def test_atoms_that_are_too_close(mos2, tmp_path: pathlib.Path) -> None:
    """Refused, whatever S comes from; where the user has S of the structure it is a warning."""

    class Zero(MadeUp):
        orbital_types = dict(zip(mos2.targets.basis.elements, mos2.targets.basis.orbital_types))
        largest = 0.0

    near = sheet(tmp_path / "x.xyz", lift=0.9)
    for overlap in (None, Zero()):
        with pytest.raises(
            DataError,
            match=r"\(Mo\) and 2 \(S\) of 'x', .*are 1.9527 Å apart, closer than the known "
            r"range of Mo-S pairs",
        ):
            deeph_gformer.refine(near, mos2, tmp_path / "out", overlap=overlap)
    nearly = sheet(
        tmp_path / "y.xyz", lift=0.355
    )  # 2.775 Å between S, 0.97 of the shortest distance of training
    record = deeph_gformer.refine(nearly, mos2, tmp_path / "out", overlap=Zero(), any_basis=True)[
        "structures"
    ][0]
    close, basis = record["warnings"]
    assert f"closer than the known range of S-S pairs (from {known(16, 16):.3f} Å)" in close
    assert "this is not the basis that the model was trained on" in basis
    structure = structure_from_atoms(ase.io.read(near), Zero.orbital_types, "x", False)
    legacy.write_structure(tmp_path / "in" / "x", structure)
    write_matrix(
        tmp_path / "in" / "x",
        "overlap",
        Zero().overlap(structure, Zero().edges(structure)),
        structure,
    )
    record = deeph_gformer.refine(tmp_path / "in", mos2, tmp_path / "out", any_basis=True)[
        "structures"
    ][0]
    close, basis = record["warnings"]
    assert f"closer than the known range of Mo-S pairs (from {known(16, 42):.3f} Å)" in close
    assert "overlaps.h5: this is not the basis that the model was trained on" in basis


def test_a_trajectory_and_an_empty_file_are_refused(mos2, tmp_path: pathlib.Path) -> None:
    frame = ase.io.read(sheet(tmp_path / "one.xyz"))
    ase.io.write(tmp_path / "two.xyz", [frame, frame], format="extxyz")
    ase.io.write(tmp_path / "none.xyz", frame[:0], format="extxyz")
    for name, words in (
        ("two", "two.xyz: holds 2 structures; make a folder of each"),
        ("none", "'none': holds no atoms"),
    ):
        with pytest.raises(DataError, match=words):
            deeph_gformer.refine(tmp_path / f"{name}.xyz", mos2, tmp_path / "out")


def test_folders_without_edges_take_the_table_or_are_listed(mos2, tmp_path: pathlib.Path) -> None:
    table = deeph_gformer.overlap.load(mos2.bundle.path)
    for name in ("a", "b", "c"):
        structure = structure_from_atoms(
            ase.io.read(sheet(tmp_path / f"{name}.xyz")), table.orbital_types, name, False
        )
        legacy.write_structure(tmp_path / "in" / name, structure)
    write_matrix(
        tmp_path / "in" / "a",
        "overlap",
        table.overlap(structure, table.edges(structure)),
        structure,
    )
    write_matrix(
        tmp_path / "in" / "c",
        "prediction",
        table.overlap(structure, table.edges(structure)),
        structure,
    )  # an earlier output
    result = deeph_gformer.refine(tmp_path / "in", mos2, tmp_path / "out")
    assert [(r["name"], r["edges_from"]) for r in result["structures"]] == [
        ("a", "overlaps.h5"),
        ("b", "overlap table"),
    ]
    one, two = (read_matrix(tmp_path / "out" / name, "prediction").values for name in ("a", "b"))
    assert np.array_equal(one, two) and result["without_edges"] == []
    alone = deeph_gformer.load(stage1=ROOT / "examples" / "systems" / "models" / "mos2" / "stage1")
    result = deeph_gformer.refine(tmp_path / "in", alone, tmp_path / "alone")
    assert [r["name"] for r in result["structures"]] == ["a"] and result["without_edges"] == [
        str(tmp_path / "in" / "b")
    ]


def test_a_damaged_reference_is_a_warning(
    make_folder: Folder, tiny_stage1: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    for name in ("s0", "s1"):
        make_folder(name)
    with h5py.File(tmp_path / "data" / "s0" / "hamiltonians.h5", "r+") as handle:
        handle[next(iter(handle))][0, 0] = np.nan
    result = deeph_gformer.refine(
        tmp_path / "data", deeph_gformer.load(stage1=tiny_stage1), tmp_path / "out"
    )
    first, second = result["structures"]
    assert "hamiltonians.h5: block" in first["warnings"][0] and "refined_mae_meV" not in first
    assert second["warnings"] == [] and second["refined_mae_meV"] > 0


@pytest.mark.parametrize(
    "error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")]
)
def test_lack_of_memory_is_one_line(
    make_folder: Folder,
    tiny_stage1: pathlib.Path,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: Exception,
) -> None:
    def none_left(*args: object, **kwargs: object) -> None:
        raise error

    monkeypatch.setattr("deeph_gformer.pipeline.HamiltonianModel.predict_graphs", none_left)
    folder = make_folder()
    assert (
        main(
            [
                "refine",
                "--preprocessed",
                str(folder.parent),
                "--stage1",
                str(tiny_stage1),
                "--stage1-only",
                "--output",
                str(tmp_path / "o"),
            ]
        )
        == 2
    )
    said = capsys.readouterr().err
    assert (
        said.count("\n") == 1
        and "refine: error: out of memory (" in said
        and "--max-memory" in said
    )
    assert not any(p.is_file() for p in (tmp_path / "o").rglob("*"))


def test_an_overlap_that_is_not_hermitian_is_named(
    make_folder: Folder,
    tiny_stage1: pathlib.Path,
    tmp_path: pathlib.Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Errors without μS, and the Fermi level, would be wrong in silence."""
    folder = make_folder("a", atoms=2)
    model = deeph_gformer.load(stage1=tiny_stage1)
    deeph_gformer.refine(folder.parent, model, tmp_path / "one")
    assert "not Hermitian" not in caplog.text
    with h5py.File(folder / "overlaps.h5", "a") as file:
        file["[0, 0, 0, 2, 1]"][0, 0] -= 0.3
    deeph_gformer.refine(folder.parent, model, tmp_path / "two")
    assert "a: S is not Hermitian, |S - S†| reaches 0.3 in block" in caplog.text
