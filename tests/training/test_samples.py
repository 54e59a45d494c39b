"""Training structures with other edges: in what is learned, and in nothing that is told of it."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Callable
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from deeph_gformer.algebra.orbitals import make_target_blocks
from deeph_gformer.cli import main
from deeph_gformer.config import TrainConfig, TrainingConfig, from_mapping
from deeph_gformer.data.dataset import Sample, basis_of
from deeph_gformer.fields import OVERLAP_TABLE
from deeph_gformer.gformer.bundle import load_bundle
from deeph_gformer.stage1 import load_stage1
from deeph_gformer.stage1.bundle import read_model_folder
from deeph_gformer.training.batches import FeatureCache, collate, joiner
from deeph_gformer.training.folds import CrossFitCache
from deeph_gformer.training.run import loaders
from deeph_gformer.training.samples import (
    count_samples,
    learned_from,
    own_images,
    training_samples,
)
from deeph_gformer.training.state_bank import state_bank
from deeph_gformer.training.states import state_terms

from ..conftest import write_tiny_stage1
from ..data.test_edge_variants import cut
from .test_training import command

Folder = Callable[..., pathlib.Path]
MESH: dict[str, Any] = {"states_spacing": 0.9, "states_weight": 1.0, "loss": "mae"}


def dataset(make_folder: Folder, count: int = 3) -> pathlib.Path:
    """Structures with blocks that only H has; all but the last are for training."""
    folders = [make_folder(f"s{n}", seed=n, atoms=8) for n in range(count)]
    for folder in folders:
        cut(folder, 2)
    names = [folder.name for folder in folders]
    table = {"train": names[:-1], "val": names[-1:], "test": []}
    (folders[0].parent.parent / "splits.json").write_text(json.dumps(table))
    return folders[0].parent


def samples_of(root: pathlib.Path, names: list[str], number: int, seed: int = 1) -> Any:
    folders = [root / name for name in names]
    targets = make_target_blocks(basis_of(folders))
    data = from_mapping(TrainConfig, {"data": {"edge_variants": number}}).data
    splits = {"train": folders[:-1], "val": folders[-1:]}
    return training_samples(data, splits, targets, torch.float64, "raw", seed)[0], targets


def same(a: Sample, b: Sample) -> bool:
    parts = [(s.graph.edge_key, s.graph.edge_vector, s.label, s.mask, s.partner) for s in (a, b)]
    return a.key == b.key and all(torch.equal(x, y) for x, y in zip(*parts, strict=True))


def test_own_images_until_one_cell_is_wide(make_folder: Folder) -> None:
    folders = [make_folder(f"s{n}", seed=n, atoms=4) for n in range(3)]
    root = folders[0].parent
    samples, _ = samples_of(root, ["s0", "s1", "s2"], 0)
    vectors = np.loadtxt(folders[0] / "lat.dat").T, np.loadtxt(folders[1] / "lat.dat").T
    keys = [[json.loads(k) for k in h5py.File(f / "overlaps.h5")] for f in folders[:2]]
    nearest = min(
        float(np.linalg.norm(np.array(k[:3]) @ lattice))
        for lattice, own in zip(vectors, keys, strict=True)
        for k in own
        if k[3] == k[4] and any(k[:3])
    )
    assert f"(from {nearest:.3g} Å on)" in own_images(samples)
    wide = samples["train"][0]
    far = wide.graph.edge_index[0] != wide.graph.edge_index[1]
    graph = wide.graph._replace(
        edge_index=wide.graph.edge_index[:, far], edge_vector=wide.graph.edge_vector[far]
    )
    train = [dataclasses.replace(wide, graph=graph), *samples["train"][1:]]
    assert own_images({**samples, "train": train}) == ""


@pytest.mark.parametrize("value", ["-1", "true", "1.5", "1000"])
@pytest.mark.parametrize("verb", ["train", "train-stage1"])
def test_other_values_are_refused(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str], verb: str, value: str
) -> None:
    words = command(verb, tmp_path, tmp_path / "run", "--set", f"data.edge_variants={value}")
    assert main(words) == 2
    assert "edge_variants" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_plain_structures_come_first_and_validation_is_as_it_is(make_folder: Folder) -> None:
    root = dataset(make_folder)
    (without, _), (found, _) = (samples_of(root, ["s0", "s1", "s2"], n) for n in (0, 2))
    assert not without["varied"] and learned_from(without) == list(without["train"])
    for split in ("train", "val"):
        assert all(map(same, without[split], found[split]))
    learned = learned_from(found)
    assert [(s.name, s.variant) for s in learned] == [
        *(("s0", 0), ("s1", 0)),
        *(("s0", 1), ("s0", 2), ("s1", 1), ("s1", 2)),
    ]
    assert "2 training structures, 3 edge sets each (" in count_samples(found)
    assert " to +4 edges), and 1 validation" in count_samples(found)
    equal = found | {"varied": [s for s in found["varied"] if s.name == "s0" and s.variant == 1]}
    assert "edge sets each (+4 edges)" in count_samples(equal)
    assert count_samples(without) == "2 training and 1 validation structures"
    swapped, _ = samples_of(root, ["s1", "s0", "s2"], 3)
    by_key = {s.key: s for s in swapped["varied"]}
    assert all(same(by_key[s.key], s) for s in found["varied"])


def test_batches_are_the_same_in_every_epoch(make_folder: Folder) -> None:
    """Nothing is drawn anew: what a GPU has captured stays right."""
    root = dataset(make_folder)
    samples, _ = samples_of(root, ["s0", "s1", "s2"], 2)
    config = TrainingConfig()
    learned = learned_from(samples)
    train, val = loaders(learned, samples["val"], joiner(FeatureCache(None, "ram")), config)
    assert len(train) == 6 and len(val) == 1
    epochs = []
    for epoch in (0, 1):
        train.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        epochs.append({batch.keys[0]: batch for batch in train})
    assert set(epochs[0]) == set(epochs[1]) == {s.key for s in learned}
    for key, batch in epochs[0].items():
        assert batch.label is epochs[1][key].label


@pytest.mark.parametrize("mode", ["ram", "disk"])
def test_stage_1_is_kept_by_edges(
    make_folder: Folder, tiny_stage1: pathlib.Path, tmp_path: pathlib.Path, mode: str
) -> None:
    root = dataset(make_folder)
    samples, _ = samples_of(root, ["s0", "s1", "s2"], 2)
    stage1 = load_stage1(tiny_stage1)
    cache = FeatureCache(stage1, mode, tmp_path / "cache")
    for _ in range(2):
        for sample in learned_from(samples):
            out = stage1(sample.graph)
            features, direct = cache.get(sample)
            assert torch.equal(direct, out.direct_sum)  # type: ignore[arg-type]
            assert torch.equal(features.node[-1], out.node[-1])  # type: ignore[union-attr]


def test_who_did_not_see_a_structure_did_not_see_it_with_other_edges(
    make_folder: Folder, tmp_path: pathlib.Path
) -> None:
    root = dataset(make_folder)
    samples, _ = samples_of(root, ["s0", "s1", "s2"], 2)
    final, *folds = (
        load_stage1(write_tiny_stage1(tmp_path / str(n), seed=n, dtype=torch.float64))
        for n in range(3)
    )
    choice = {root / "s0": 1, root / "s1": None}
    cache = CrossFitCache(
        final, "ram", None, True, torch.device("cpu"), folds, choice, features_of="final"
    )
    for sample in learned_from(samples):
        features, direct = cache.get(sample)
        own = folds[1] if sample.name == "s0" else final
        assert torch.equal(direct, own(sample.graph).direct_sum)  # type: ignore[arg-type]
        assert torch.equal(features.node[-1], final(sample.graph).node[-1])  # type: ignore[union-attr]


@pytest.mark.parametrize("spinful", [False, True])
def test_states_feel_the_blocks_that_there_are(
    make_folder: Folder, tmp_path: pathlib.Path, spinful: bool
) -> None:
    """An error on common edges only moves DFT's states as it does with the structure's own."""
    folders = [make_folder(f"s{n}", seed=n, atoms=8, spinful=spinful) for n in range(2)]
    for folder in folders:
        cut(folder, 2)
    root = folders[0].parent
    samples, targets = samples_of(root, ["s0", "s1"], 2)
    config = TrainingConfig(states_block_weight=1.0, states_coupling_weight=1.0, **MESH)
    bank = state_bank(samples, targets, config, 1.0, None)
    files = state_bank(samples, targets, config, 1.0, tmp_path)
    alone, _ = samples_of(root, ["s0", "s1"], 0)
    before = state_bank(alone, targets, config, 1.0, None)
    assert bank is not None and files is not None and before is not None
    assert bank.loss.unit == before.loss.unit and bank.read == before.read  # type: ignore[union-attr]
    plain, *varied = learned_from(samples)
    own = {tuple(k): n for n, k in enumerate(plain.graph.edge_key.tolist())}
    generator = torch.Generator().manual_seed(0)
    for sample in varied:
        rows = torch.tensor([own.get(tuple(k), -1) for k in sample.graph.edge_key.tolist()])
        there = rows >= 0
        assert int(there.sum()) != plain.graph.edges or not there.all()
        error = torch.zeros_like(plain.label)
        kept = rows[there]
        error[kept] = 0.01 * torch.randn(error[kept].shape, generator=generator, dtype=error.dtype)
        error *= plain.mask
        mine = torch.zeros_like(sample.label)
        mine[there] = error[kept]
        one = bank.loss.get(plain.key)  # type: ignore[union-attr]
        for two in (bank.loss.get(sample.key), files.loss.get(sample.key)):  # type: ignore[union-attr]
            for n in range(len(one.weights)):
                expected = state_terms(error, one.at(n), "mae", 1.0)
                found = state_terms(mine, two.at(n), "mae", 1.0)
                for a, b in zip(expected, found, strict=True):
                    assert float(b) == pytest.approx(float(a), rel=1e-9, abs=1e-12)
        batch = collate([sample], [(None, None)])
        drawn = [b.loss.draw(batch, 5) for b in (bank, files)]  # type: ignore[union-attr]
        results = [b.loss(mine, batch, d)[0] for b, d in zip((bank, files), drawn, strict=True)]  # type: ignore[union-attr,misc]
        assert float(results[0]) == float(results[1]) > 0


def run(verb: str, root: pathlib.Path, output: pathlib.Path, number: int, *more: str) -> int:
    """One command of one epoch in which next to nothing changes."""
    words = ["data.gauge=raw", "training.learning_rate=1e-30", "training.min_learning_rate=0"]
    words += [f"data.edge_variants={number}", "training.monitor=both"]
    words += ["training.states_weight=0.1", "training.epochs=1"]
    pairs = [word for pair in words for word in ("--set", pair)]
    return main([*command(verb, root, output), *pairs, *more])


def test_a_bundle_tells_of_the_structures_as_they_are(
    make_folder: Folder,
    tiny_stage1: pathlib.Path,
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    root = dataset(make_folder)
    for number in (0, 2):
        words = ("--stage1", str(tiny_stage1))
        assert run("train", root, tmp_path / str(number), number, *words) == 0
    said = capsys.readouterr().out
    assert "2 training structures, 3 edge sets each" in said and "with other edges" in said
    assert "of 2 steps" in said and "of 6 steps" in said
    one, two = (tmp_path / n / "bundle" for n in ("0", "2"))
    assert (one / OVERLAP_TABLE).read_bytes() == (two / OVERLAP_TABLE).read_bytes()
    a, b = (load_bundle(path) for path in (one, two))
    for name, value in a.model.state_dict().items():
        assert torch.allclose(value, b.model.state_dict()[name], rtol=0, atol=1e-25), name
    first, second = a.training, b.training
    assert first["config"]["data"].pop("edge_variants") == 0
    assert second["config"]["data"].pop("edge_variants") == 2
    assert second.pop("stage1_varied_mae_meV") > 0
    for table in (first, second):
        table.pop("seconds")
    assert json.dumps(first, sort_keys=True) == json.dumps(second, sort_keys=True)


def test_a_stage_1_tells_of_the_structures_as_they_are(
    make_folder: Folder, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = dataset(make_folder)
    for number in (0, 2):
        words = ("--set", "model.scale_shift=true", "--set", "model.norm=training")
        assert run("train-stage1", root, tmp_path / str(number), number, *words) == 0
    said = capsys.readouterr().out
    assert "of 2 steps" in said and "of 6 steps" in said
    one, two = (tmp_path / n / "model" for n in ("0", "2"))
    names = {p.relative_to(one) for p in one.rglob("*") if p.is_file()}
    assert names == {p.relative_to(two) for p in two.rglob("*") if p.is_file()}
    for name in names:
        if name.suffix != ".pkl":
            assert (one / name).read_bytes() == (two / name).read_bytes(), name
    weights = [read_model_folder(path).state_dict for path in (one, two)]
    for name, value in weights[0].items():
        assert torch.allclose(value, weights[1][name], rtol=0, atol=1e-25), name


def test_a_resumed_run_has_the_same_edges(
    make_folder: Folder,
    tiny_stage1: pathlib.Path,
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    root = dataset(make_folder)
    words = ("--stage1", str(tiny_stage1))
    assert run("train", root, tmp_path / "run", 1, *words) == 0
    assert run("train", root, tmp_path / "run", 2, *words, "--resume") == 2
    assert "data.edge_variants differ" in capsys.readouterr().err
    more = ("--resume", "--epochs", "2")
    assert run("train", root, tmp_path / "run", 1, *words, *more) == 0
    path = tmp_path / "run" / "checkpoints" / "last.ckpt"
    table = torch.load(path, weights_only=False)
    sketch = table["deeph_gformer_run"]["data"]["s0"]
    assert sketch["edges of variant 1"][0] == sketch["edges"][0] + 3 * 4
    sketch["edges of variant 1"][1] += 1.0
    torch.save(table, path)
    assert run("train", root, tmp_path / "run", 1, *words, *more) == 2
    assert "edges of variant 1 of s0 changed since" in capsys.readouterr().err
