"""The guard: statistics by hand, structures inside and outside, and what refine does with them."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import deeph_gformer
from deeph_gformer.algebra.orbitals import Basis, make_target_blocks
from deeph_gformer.algebra.rotation import random_rotation
from deeph_gformer.analysis.evaluate import evaluate
from deeph_gformer.cli import main
from deeph_gformer.config import TrainConfig, from_mapping
from deeph_gformer.data.graph import rotate_graph
from deeph_gformer.errors import ModelError
from deeph_gformer.gformer.bundle import save_bundle
from deeph_gformer.io import Structure, legacy, read_folder, read_matrix
from deeph_gformer.pipeline import HamiltonianModel
from deeph_gformer.prediction.guard import LIMIT, Guard, feature_norms, guard_record
from deeph_gformer.stage1 import load_stage1
from deeph_gformer.training.guard import FLOOR, guard_statistics
from deeph_gformer.training.stage2 import train_gformer

from ..conftest import random_structure, write_tiny_stage1
from ..test_pipeline import make_bundle

Folder = Callable[..., pathlib.Path]


def guarded_model(
    stage1: pathlib.Path, folder: pathlib.Path, structures: list[pathlib.Path], split: int
) -> HamiltonianModel:
    """A GFormer with random weights whose statistics are those of these structures."""
    model = deeph_gformer.load(make_bundle(stage1, folder, trained=True), stage1=stage1)
    graphs = [model.read(f)[1] for f in structures]
    bundle = dataclasses.replace(
        model.bundle, training={"guard": guard_statistics(model, graphs[:split], graphs[split:])}
    )
    save_bundle(folder, bundle)
    return deeph_gformer.load(folder, stage1=stage1)


def _nearest_by_hand(structure: Structure) -> float:
    """Distance of the two atoms of a cell, over all cells nearby, Å."""
    cells = (np.indices((5, 5, 5)).reshape(3, -1).T - 2) @ structure.lattice
    first, second = structure.positions
    return float(np.linalg.norm(second + cells - first, axis=1).min())


def test_statistics_by_hand(
    make_folder: Folder, tiny_stage1: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    folders = [make_folder(f"s{n}", seed=n) for n in range(5)]
    model = guarded_model(tiny_stage1, tmp_path / "b", folders, 3)
    table = model.bundle.training["guard"]
    x = np.array([model.predict(f).correction * 1e3 for f in folders])
    mean = x[3:].mean()
    assert table["structures"] == {"train": 3, "val": 2} and table["correction"][
        "mean_meV"
    ] == pytest.approx(mean)
    assert table["correction"]["spread_meV"] == pytest.approx(
        max(np.sqrt(((x - mean) ** 2).mean()), FLOOR * mean)
    )
    assert table["correction"]["largest_meV"] == pytest.approx(x.max())
    # features: mean and spread per element and channel over the training atoms
    outs = [(model.stage1(g), g) for g in (model.read(f).graph for f in folders)]
    norms = np.concatenate(
        [
            feature_norms(o.node[-1], model.stage1.node_irreps[-1])[g.node_type.numpy() == 1]
            for o, g in outs[:3]
        ]
    )
    assert np.allclose(
        table["features"]["norm_mean"][1], norms.mean(axis=0), atol=1e-6
    ) and np.allclose(table["features"]["norm_spread"][1], norms.std(axis=0), atol=1e-4)


def test_norms_are_invariant_and_complete(make_folder: Folder, tiny_stage1: pathlib.Path) -> None:
    """Rotations change nothing; 0e keeps its sign; l > 0 is the rms over m."""
    model = deeph_gformer.load(stage1=tiny_stage1)
    graph = model.read(make_folder()).graph
    stage1 = model.stage1
    out = stage1(graph)
    irreps = stage1.node_irreps[-1]
    made = feature_norms(out.node[-1], irreps)
    rotation = random_rotation(torch.Generator().manual_seed(1))
    turned = feature_norms(stage1(rotate_graph(graph, rotation)).node[-1], irreps)
    assert np.abs(made - turned).max() < 1e-9 * np.abs(made).max()
    value = out.node[-1].numpy()
    assert made.shape == (len(value), irreps.num_irreps)
    column = 0
    for (mul, ir), part in zip(irreps, irreps.slices()):
        block = value[:, part].reshape(len(value), mul, ir.dim)
        expected = block[..., 0] if ir.l == 0 and ir.p == 1 else np.sqrt((block**2).mean(axis=2))
        assert np.allclose(made[:, column : column + mul], expected)
        column += mul
    assert (made[:, 0] < 0).any() or (made[:, 1] < 0).any() or (made[:, :4] < 0).any()


def squeeze(folder: pathlib.Path, factor: float) -> None:
    """The same crystal, smaller: far from everything the statistics saw."""
    structure, _, _ = random_structure(0, name=folder.name)
    legacy.write_structure(
        folder,
        dataclasses.replace(
            structure, lattice=structure.lattice * factor, positions=structure.positions * factor
        ),
    )


def test_strange_structure_is_told_and_guarded(
    make_folder: Folder,
    tiny_stage1: pathlib.Path,
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folders = [make_folder(f"s{n}") for n in range(7)]
    for n, folder in enumerate(folders):  # one crystal, up to 2 % larger or smaller
        squeeze(folder, (1.0, 0.98, 1.02, 0.99, 1.01, 0.995, 1.005)[n])
    model = guarded_model(tiny_stage1, tmp_path / "b", folders, 5)
    table = model.bundle.training["guard"]
    strange = make_folder("strange")
    squeeze(strange, 0.7)
    result = deeph_gformer.refine(tmp_path / "data", model, tmp_path / "o")
    records = {r["name"]: r for r in result["structures"]}
    for n in range(7):
        assert (
            abs(records[f"s{n}"]["correction_z"]) < LIMIT
            and records[f"s{n}"]["features_z"] < LIMIT
            and records[f"s{n}"]["guard_warning"] is None
        )
    odd = records["strange"]
    assert odd["features_z"] > LIMIT and odd["guarded"] is False and odd["guard_warning"]
    assert odd["correction_z"] == pytest.approx(
        (odd["guard_correction_meV"] - table["correction"]["mean_meV"])
        / table["correction"]["spread_meV"]
    )
    judged = evaluate(model, tmp_path / "data", invariance=False, rotations=0)
    for record in judged.structures:
        same = ("correction_z", "features_z", "guard_warning")
        assert [record[k] for k in same] == [records[record["name"]][k] for k in same]
    # the same with a bundle whose corrections used to be much smaller: now they are out of range
    small = {
        **table,
        "correction": {
            **table["correction"],
            "mean_meV": odd["guard_correction_meV"] / 100,
            "spread_meV": odd["guard_correction_meV"] / 700,
        },
    }
    save_bundle(tmp_path / "b", dataclasses.replace(model.bundle, training={"guard": small}))
    common = [
        "refine",
        "--preprocessed",
        str(strange.parent),
        "--stage1",
        str(tiny_stage1),
        "--model",
        str(tmp_path / "b"),
    ]
    assert (
        main([*common, "--output", str(tmp_path / "free"), "--json", str(tmp_path / "free.json")])
        == 0
    )
    assert "warning: the correction" in capsys.readouterr().out
    assert (
        main(
            [
                *common,
                "--output",
                str(tmp_path / "kept"),
                "--guard",
                "--json",
                str(tmp_path / "kept.json"),
            ]
        )
        == 0
    )
    assert "--guard kept stage 1 for" in capsys.readouterr().out
    free, kept = (
        {r["name"]: r for r in json.loads((tmp_path / f"{n}.json").read_text())["structures"]}[
            "strange"
        ]
        for n in ("free", "kept")
    )
    assert (
        free["correction_z"] == kept["correction_z"] > LIMIT
        and kept["guarded"] is True
        and free["guarded"] is False
    )
    first = deeph_gformer.load(stage1=tiny_stage1).predict(strange).hamiltonian
    assert np.array_equal(
        read_matrix(tmp_path / "kept" / "strange", "prediction").values, first.values
    )
    assert not np.array_equal(
        read_matrix(tmp_path / "free" / "strange", "prediction").values, first.values
    )
    assert kept["refined_mae_meV"] == kept["stage1_mae_meV"] != free["refined_mae_meV"]
    told = [
        json.loads((tmp_path / n / "strange" / "info.json").read_text())["deeph_gformer"].get(
            "guarded"
        )
        for n in ("free", "kept")
    ]
    assert told == [None, True]


def test_training_records_the_guard(
    make_folder: Folder, tiny_stage1: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    for n in range(4):
        make_folder(f"s{n}", seed=n, atoms=2)
    values: dict[str, Any] = {
        "data": {"preprocessed": str(tmp_path / "data"), "train_ratio": 0.5, "val_ratio": 0.5},
        "output": str(tmp_path / "run"),
        "model": {"width": 16, "heads": 4, "embed": 4, "gaussians": 8, "gated_channels": 4},
        "training": {
            "epochs": 3,
            "threads": 1,
            "device": "cpu",
            "warmup_steps": 1,
            "learning_rate": 1e-2,
        },
    }
    model, record = train_gformer(from_mapping(TrainConfig, values), load_stage1(tiny_stage1))
    again = deeph_gformer.load(tmp_path / "run" / "bundle", stage1=tiny_stage1)
    table = guard_record(again.bundle)
    assert table == record["guard"] and table["structures"] == {"train": 2, "val": 2}
    shortest = np.array(again.bundle.training["nearest"]["shortest"])
    by_hand = [_nearest_by_hand(read_folder(tmp_path / "data" / f"s{n}")) for n in range(4)]
    assert shortest[0, 1] == shortest[1, 0] == pytest.approx(min(by_hand), abs=1e-5)
    assert again.bundle.training["nearest"]["alone"][0] == pytest.approx(max(by_hand), abs=1e-5)
    val = json.loads((tmp_path / "run" / "splits.json").read_text())["val"]
    mean = (
        np.mean(
            [again.predict(tmp_path / "data" / n, edges="hamiltonians").correction for n in val]
        )
        * 1e3
    )
    assert (
        table["correction"]["mean_meV"] == pytest.approx(mean, rel=1e-9)
        and table["correction"]["spread_meV"] > 0
    )
    verdict = again.predict(tmp_path / "data" / val[0], edges="hamiltonians").judgement
    assert (
        verdict is not None
        and abs(verdict.correction_z) < 3
        and verdict.features_z is not None
        and not verdict.out_of_range
    )


def test_records_over_whole_vectors_are_none(
    make_folder: Folder, tiny_stage1: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """An earlier version averaged over places that the blocks of S, with few orbitals, lack."""
    folders = [make_folder(f"s{n}", seed=n) for n in range(2)]
    bundle = guarded_model(tiny_stage1, tmp_path / "b", folders, 1).bundle
    old = {k: v for k, v in bundle.training["guard"].items() if k != "version"}
    assert guard_record(bundle) is not None
    assert guard_record(dataclasses.replace(bundle, training={"guard": old})) is None
    alike = Basis((6,), ((0, 1),), False)
    targets = make_target_blocks(alike)
    carbon = dataclasses.replace(bundle, targets=targets, training={"guard": old})
    assert guard_record(carbon) == old


def test_untrained_correction_of_zero(
    make_folder: Folder, tiny_stage1: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """A GFormer that corrects nothing: its spread is zero, and zero is not unusual."""
    model = deeph_gformer.load(make_bundle(tiny_stage1, tmp_path / "b"), stage1=tiny_stage1)
    graph = model.read(make_folder())[1]
    table = guard_statistics(model, [graph], [graph])
    guard = Guard(
        HamiltonianModel(model.stage1, dataclasses.replace(model.bundle, training={"guard": table}))
    )
    assert guard.judge(graph, None, 0.0).correction_z == 0.0
    assert guard.judge(graph, None, 1e-6).out_of_range


def test_bundle_without_record(
    make_folder: Folder, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Older bundles still refine; --guard says what is missing."""
    stage1 = write_tiny_stage1(tmp_path / "s")
    make_folder("s0")
    bundle = make_bundle(stage1, tmp_path / "b", trained=True)
    model = deeph_gformer.load(bundle, stage1=stage1)
    assert (
        "correction_z"
        not in deeph_gformer.refine(tmp_path / "data", model, tmp_path / "o")["structures"][0]
    )
    with pytest.raises(ModelError, match="train the GFormer again"):
        deeph_gformer.refine(tmp_path / "data", model, tmp_path / "p", guard=True)
    assert (
        main(
            [
                "refine",
                "--preprocessed",
                str(tmp_path / "data"),
                "--stage1",
                str(stage1),
                "--stage1-only",
                "--guard",
                "--output",
                str(tmp_path / "q"),
            ]
        )
        == 2
    )
    assert "stage 1 alone" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("atoms", "factor", "words"),
    [
        (4, 1.0, None),
        (3, 1.0, r"(S is 0\.67|Mo is 0\.33) of the atoms, 0\.50 to 0\.50 in training"),
        (4, 1.5, r"edges an atom, \d+ to \d+ in training"),
    ],
)
def test_another_composition_or_density_is_told(
    make_folder: Folder,
    tiny_stage1: pathlib.Path,
    tmp_path: pathlib.Path,
    atoms: int,
    factor: float,
    words: str | None,
) -> None:
    """DeepH-E3's norm sees the whole structure, so fractions of elements and edges per atom matter
    everywhere."""
    folders = [make_folder(f"s{n}", seed=n) for n in range(4)]
    model = guarded_model(tiny_stage1, tmp_path / "b", folders, 2)
    structure, h, _ = random_structure(0, atoms=atoms)
    keys = h.keys
    if factor > 1:  # the same crystal with fewer neighbours
        length = np.linalg.norm(structure.edge_vectors(keys), axis=1)
        keys = keys[length <= np.quantile(length, 0.6)]
    graph = model.read(structure, keys=keys).graph
    usual = model.bundle.training["guard"]["correction"]["mean_meV"] * 1e-3
    # features of these few training atoms are another matter
    warning = Guard(model).judge(graph, None, usual).warning
    if words is None:
        assert warning is None
    else:
        assert warning is not None
        assert re.search(words, warning)
        assert "normalises by means over the whole structure" in warning
