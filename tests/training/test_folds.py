"""Fold networks, and a GFormer that learns from networks that did not see the structure."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import shutil
from typing import Any

import numpy as np
import pytest
import torch

import deeph_gformer
from deeph_gformer.algebra.blocks import DirectSumToProduct
from deeph_gformer.cli import main
from deeph_gformer.config import Stage1Config, TrainConfig, TrainStage1Config, from_mapping
from deeph_gformer.data.dataset import load_samples
from deeph_gformer.errors import ConfigError, GFormerError, ModelError
from deeph_gformer.io import legacy, read_folder, read_matrix
from deeph_gformer.stage1 import load_stage1
from deeph_gformer.stage1.bundle import read_notes
from deeph_gformer.training.batches import FeatureCache
from deeph_gformer.training.before import stage1_errors
from deeph_gformer.training.folds import (
    FOLDS_FILE,
    CrossFitCache,
    fold_parts,
    read_cross_fit,
    train_folds,
)
from deeph_gformer.training.stage1 import train_stage1
from deeph_gformer.training.stage2 import train_gformer

from ..conftest import random_structure, write_tiny_stage1
from .test_training import Folder, dataset, settings

TRAIN, NETWORK = (
    ["s0", "s1", "s2", "s3"],
    {
        "irreps_embed": "4x0e",
        "irreps_mid": "4x0e+3x1o+2x2e+1x3o",
        "num_blocks": 1,
        "cutoff_radius": 5.0,
    },
)
GFORMER = {"width": 16, "heads": 4, "embed": 4, "gaussians": 8, "gated_channels": 4}


def stage1_config(
    root: pathlib.Path, output: pathlib.Path, folds: int = 2, **training: Any
) -> TrainStage1Config:
    splits = root.parent / "splits.json"
    splits.write_text(json.dumps({"train": TRAIN, "val": ["s4"], "test": []}))
    values = settings(root, output, **{"epochs": 2, **training})
    values |= {"model": NETWORK, "folds": folds, "dtype": "float64"}
    values["data"] |= {"splits": str(splits)}
    return from_mapping(TrainStage1Config, values)


def gformer_config(root: pathlib.Path, output: pathlib.Path, fit: pathlib.Path) -> TrainConfig:
    values = settings(root, output, epochs=2)
    values |= {"model": GFORMER, "cross_fit": str(fit)}
    values["data"] |= {"splits": str(root.parent / "splits.json")}
    return from_mapping(TrainConfig, values)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[pathlib.Path, pathlib.Path]:
    """Data of five structures, and a run of a final and two fold networks."""
    folder = tmp_path_factory.mktemp("folds")
    for n in range(5):
        structure, h, overlap = random_structure(n, 2, False, f"s{n}")
        place = folder / "data" / f"s{n}"
        legacy.write_structure(place, structure)
        legacy.write_blocks(place / "hamiltonians.h5", h)
        legacy.write_blocks(place / "overlaps.h5", overlap)
    train_folds(stage1_config(folder / "data", folder / "run"))
    return folder / "data", folder / "run"


@pytest.fixture()
def trained(
    finished: tuple[pathlib.Path, pathlib.Path], tmp_path: pathlib.Path
) -> tuple[pathlib.Path, pathlib.Path]:
    """A copy of that run, which a test may damage."""
    root, run = finished
    return root, pathlib.Path(shutil.copytree(run, tmp_path / "run"))


def left_out(run: pathlib.Path) -> list[list[str]]:
    table = json.loads((run / FOLDS_FILE).read_text())
    return [[m["name"] for m in network["left_out"]] for network in table["networks"]]


@pytest.mark.parametrize(("count", "folds"), [(4, 2), (7, 3), (5, 5)])
def test_every_structure_is_left_out_once(count: int, folds: int) -> None:
    parts = fold_parts(count, folds, 42)
    assert sorted(n for part in parts for n in part) == list(range(count))
    assert {len(p) for p in parts} <= {count // folds, -(-count // folds)}


@pytest.mark.parametrize("folds", [1, 5])
def test_impossible_numbers_of_folds(
    make_folder: Folder, tmp_path: pathlib.Path, folds: int
) -> None:
    with pytest.raises(ConfigError, match="between 2 and 4 are possible"):
        train_folds(stage1_config(dataset(make_folder, 5), tmp_path / "run", folds))
    assert not (tmp_path / "run").exists()


def test_each_network_remembers_what_it_saw(trained: tuple[pathlib.Path, pathlib.Path]) -> None:
    _, run = trained
    parts = left_out(run)
    assert sorted(parts[0] + parts[1]) == TRAIN
    for k, part in enumerate(parts):
        splits = json.loads((run / "folds" / str(k) / "splits.json").read_text())
        assert splits["train"] == sorted({*TRAIN} - {*part}) and splits["val"] == ["s4"]
        seen = read_notes(run / "folds" / str(k) / "model")["structures"]["train"]
        assert [m["name"] for m in seen] == splits["train"]
    assert [m["name"] for m in read_notes(run / "model")["structures"]["train"]] == TRAIN


def test_finished_networks_are_recognised(
    trained: tuple[pathlib.Path, pathlib.Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """The second one was stopped before its end: it alone is trained."""
    root, run = trained
    before = {p: p.stat().st_mtime_ns for p in run.rglob("best_model.pkl")}
    (run / "folds" / "1" / "record.json").unlink()
    (run / FOLDS_FILE).unlink()
    for checkpoint in (run / "folds" / "1" / "checkpoints").iterdir():
        checkpoint.unlink()
    (run / "folds" / "1" / "config.json").unlink()
    capsys.readouterr()
    train_folds(stage1_config(root, run), resume=True)
    said = capsys.readouterr().out
    assert said.count("is finished") == 2 and f"{run}/folds/0: is finished" in said
    changed = {p for p in before if p.stat().st_mtime_ns != before[p]}
    assert changed == {run / "folds" / "1" / "model" / "best_model.pkl"}
    assert len(left_out(run)) == 2


def test_finished_networks_of_other_parts_are_no_fold_networks(
    trained: tuple[pathlib.Path, pathlib.Path],
) -> None:
    """Another seed leaves out other structures: folds.json would say so of networks that saw
    them."""
    root, run = trained
    config = stage1_config(root, run)
    parts = fold_parts(4, 2, config.training.seed)
    seed = next(n for n in range(99) if fold_parts(4, 2, n) != parts)
    other = dataclasses.replace(config, training=dataclasses.replace(config.training, seed=seed))
    before = (run / FOLDS_FILE).read_bytes()
    with pytest.raises(ConfigError, match="another configuration .training.seed differ"):
        train_folds(other, resume=True)
    assert (run / FOLDS_FILE).read_bytes() == before


def test_finished_networks_of_other_data_are_no_fold_networks(
    trained: tuple[pathlib.Path, pathlib.Path], tmp_path: pathlib.Path
) -> None:
    """Else folds.json would tell of structures as they are now, networks know what they were."""
    root, run = trained
    place = tmp_path / "new" / "data"
    shutil.copytree(root, place)
    structure = read_folder(place / "s1")
    h = read_matrix(place / "s1", "hamiltonian", structure)
    legacy.write_blocks(
        place / "s1" / "hamiltonians.h5", dataclasses.replace(h, values=h.values * 1.001)
    )
    before = (run / FOLDS_FILE).read_bytes()
    with pytest.raises(ConfigError, match="last.ckpt: was made on other data: H of s1 changed"):
        train_folds(stage1_config(place, run), resume=True)
    assert (run / FOLDS_FILE).read_bytes() == before


def test_a_training_that_goes_on_has_its_fold_networks(
    trained: tuple[pathlib.Path, pathlib.Path], tmp_path: pathlib.Path
) -> None:
    root, run = trained
    config, final = gformer_config(root, tmp_path / "out", run), load_stage1(run / "model")
    train_gformer(config, final)
    train_gformer(config, final, resume=True)
    table = json.loads((run / FOLDS_FILE).read_text())
    one, two = table["networks"]
    one["left_out"], two["left_out"] = two["left_out"], one["left_out"]
    (run / FOLDS_FILE).write_text(json.dumps(table))
    with pytest.raises(ConfigError, match="another stage 1 .* or fold networks differ"):
        train_gformer(config, final, resume=True)


def test_folds_for_a_network_that_is_trained_already(
    make_folder: Folder, tmp_path: pathlib.Path
) -> None:
    root = dataset(make_folder, 5)
    train_stage1(stage1_config(root, tmp_path / "run", folds=0))
    weights = (tmp_path / "run" / "model" / "best_model.pkl").read_bytes()
    train_folds(stage1_config(root, tmp_path / "run"), resume=True)
    assert (tmp_path / "run" / "model" / "best_model.pkl").read_bytes() == weights
    assert len(left_out(tmp_path / "run")) == 2


def test_cross_fit_learns_from_the_network_that_did_not_see_a_structure(
    trained: tuple[pathlib.Path, pathlib.Path], tmp_path: pathlib.Path
) -> None:
    """The error of stage 1 on the training set is that of the right fold network on each part."""
    root, run = trained
    final = load_stage1(run / "model")
    model, record = train_gformer(gformer_config(root, tmp_path / "out", run), final)
    expected: dict[str, float] = {}
    for k, part in enumerate(left_out(run)):
        network = load_stage1(run / "folds" / str(k) / "model")
        product = DirectSumToProduct(network.targets, network.generation, network.dtype)
        samples = load_samples(
            [root / n for n in part], network.targets, "hamiltonians", network.dtype
        )
        cache = FeatureCache(network, "off", features=False)
        expected |= dict(zip(part, stage1_errors(samples, cache, product, True), strict=True))
    assert record["stage1_train_mae_meV"] == pytest.approx(np.mean([*expected.values()]))
    assert record["cross_fit"] == 2
    assert model.bundle is not None and model.bundle.stage1 is not None
    assert model.bundle.stage1.fingerprint == final.fingerprint()
    again = deeph_gformer.load(tmp_path / "out" / "bundle", stage1=run / "model")
    assert torch.isfinite(torch.tensor(again.predict(root / "s0").hamiltonian.values)).all()


def test_new_structures_go_through_the_final_network(
    trained: tuple[pathlib.Path, pathlib.Path], make_folder: Folder
) -> None:
    root, run = trained
    new = make_folder("new", seed=77, atoms=2)
    fit = read_cross_fit(run, load_stage1(run / "model"))
    chosen = fit.choose([*(root / n for n in TRAIN), new])
    assert chosen[-1] is None and sorted(n for n in chosen if n is not None) == [0, 0, 1, 1]
    for name, number in zip(TRAIN, chosen, strict=False):
        assert number is not None and name in left_out(run)[number]


def test_structure_that_no_network_left_out_is_named(
    trained: tuple[pathlib.Path, pathlib.Path], tmp_path: pathlib.Path
) -> None:
    root, run = trained
    table = json.loads((run / FOLDS_FILE).read_text())
    gone = table["networks"][1]["left_out"].pop()["name"]
    (run / FOLDS_FILE).write_text(json.dumps(table))
    with pytest.raises(ConfigError, match=f"{gone}: stage 1 was trained on this structure"):
        train_gformer(gformer_config(root, tmp_path / "out", run), load_stage1(run / "model"))
    assert not (tmp_path / "out").exists()


def test_folds_of_another_network_or_basis_are_refused(
    trained: tuple[pathlib.Path, pathlib.Path], tmp_path: pathlib.Path
) -> None:
    _, run = trained
    other = load_stage1(write_tiny_stage1(tmp_path / "other"))
    with pytest.raises(ConfigError, match="belong to another stage 1"):
        read_cross_fit(run, other)
    write_tiny_stage1(run / "folds" / "1" / "model", elements=(16,))
    with pytest.raises(ModelError, match="another basis or blocks"):
        read_cross_fit(run, load_stage1(run / "model"))


@pytest.mark.parametrize("damage", ["{", "{}", '{"final": {"fingerprint": "x"}, "networks": [1]}'])
def test_damaged_description_is_named(
    trained: tuple[pathlib.Path, pathlib.Path], damage: str
) -> None:
    _, run = trained
    (run / FOLDS_FILE).write_text(damage)
    with pytest.raises(GFormerError, match=FOLDS_FILE):
        read_cross_fit(run, load_stage1(run / "model"))


def test_cross_fit_without_folds_says_how_to_make_them(
    make_folder: Folder,
    tiny_stage1: pathlib.Path,
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    root = dataset(make_folder, 3)
    words = ["train", "--preprocessed", str(root), "--stage1", str(tiny_stage1), "--cross-fit"]
    assert main([*words, "--output", str(tmp_path / "run"), "--set", "data.gauge=raw"]) == 2
    said = capsys.readouterr().err
    assert "folds.json: not there" in said and "train-stage1 --folds K" in said
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("start", ["final", "random"])
def test_folds_for_a_model_that_is_given(
    make_folder: Folder, tiny_stage1: pathlib.Path, tmp_path: pathlib.Path, start: str
) -> None:
    """It stays as it is; with next to no steps a fold network is it, or is not."""
    root = dataset(make_folder, 5)
    before = (tiny_stage1 / "best_model.pkl").read_bytes()
    still = {"epochs": 1, "learning_rate": 1e-12, "min_learning_rate": 0.0}
    config = dataclasses.replace(
        stage1_config(root, tmp_path / "run", **still),
        final=str(tiny_stage1),
        folds_start=start,
        model=Stage1Config(),
    )
    train_folds(config)
    assert (tiny_stage1 / "best_model.pkl").read_bytes() == before
    assert not (tmp_path / "run" / "model").exists()
    final = load_stage1(tiny_stage1)
    fit = read_cross_fit(tmp_path / "run", final)
    assert len(fit.networks) == 2 and fit.networks[0].node_irreps == final.node_irreps
    graph = load_samples([root / "s0"], final.targets, "hamiltonians", final.dtype)[0].graph
    same = torch.allclose(fit.networks[0](graph).direct_sum, final(graph).direct_sum, atol=1e-6)
    assert same == (start == "final")


def test_irreps_of_the_final_network(
    trained: tuple[pathlib.Path, pathlib.Path],
) -> None:
    """``cross_features: final``: irreps of the final network, Hamiltonian of the fold network."""
    root, run = trained
    final = load_stage1(run / "model")
    fit = read_cross_fit(run, final)
    folder = root / left_out(run)[1][0]
    sample = load_samples([folder], final.targets, "hamiltonians", final.dtype)[0]
    cpu = torch.device("cpu")
    for features_of, irreps in (("final", final), ("fold", fit.networks[1])):
        cache = CrossFitCache(final, "off", None, True, cpu, fit.networks, {folder: 1}, features_of)
        features, direct_sum = cache.get(sample)
        assert features is not None and direct_sum is not None
        expected = irreps(sample.graph)
        assert torch.equal(features.edge[0], expected.edge[0])
        assert torch.equal(direct_sum, fit.networks[1](sample.graph).direct_sum)
