"""Training of both stages on tiny data."""

from __future__ import annotations

import errno
import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Callable

import h5py
import numpy as np
import pytest
import torch

import deeph_gformer
from deeph_gformer.algebra.orbitals import Basis, make_target_blocks
from deeph_gformer.analysis.evaluate import evaluate
from deeph_gformer.cli import main
from deeph_gformer.config import TrainConfig, TrainStage1Config, from_mapping
from deeph_gformer.data.dataset import load_sample
from deeph_gformer.data.graph import rotate_graph
from deeph_gformer.errors import ConfigError, DataError
from deeph_gformer.io import read_matrix
from deeph_gformer.stage1 import load_stage1
from deeph_gformer.stage1.bundle import read_model_folder
from deeph_gformer.training import folder as folder_module
from deeph_gformer.training.batches import FeatureCache, collate, rotate_batch
from deeph_gformer.training.callbacks import running_average
from deeph_gformer.training.module import masked_loss
from deeph_gformer.training.process import memory_hint
from deeph_gformer.training.sampling import EpochSampler, RankSampler
from deeph_gformer.training.stage1 import train_stage1
from deeph_gformer.training.stage1_network import net_config
from deeph_gformer.training.stage2 import train_gformer

from ..conftest import ROOT, golden, tree, write_tiny_stage1

Folder = Callable[..., pathlib.Path]


def dataset(make_folder: Folder, count: int = 3) -> pathlib.Path:
    folders = [make_folder(f"s{n}", seed=n, atoms=2) for n in range(count)]
    return folders[0].parent


def settings(root: pathlib.Path, output: pathlib.Path, **training: object) -> dict:
    return {
        "data": {
            "preprocessed": str(root),
            "train_ratio": 0.67,
            "val_ratio": 0.33,
            "gauge": "raw",
        },
        "output": str(output),
        "training": {
            "epochs": 4,
            "threads": 1,
            "device": "cpu",
            "warmup_steps": 2,
            "learning_rate": 5e-3,
            **training,
        },
    }


def stage2(
    root: pathlib.Path,
    stage1: pathlib.Path,
    output: pathlib.Path,
    resume: bool = False,
    **training: object,
) -> tuple[object, dict]:
    values = settings(root, output, **training)
    values["model"] = {"width": 16, "heads": 4, "embed": 4, "gaussians": 8, "gated_channels": 4}
    return train_gformer(from_mapping(TrainConfig, values), load_stage1(stage1), resume=resume)


def test_stage_2_learns_and_its_bundle_predicts_the_same(
    make_folder: Folder, tiny_stage1: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    root = dataset(make_folder)
    model, record = stage2(root, tiny_stage1, tmp_path / "run", epochs=25)
    assert record["best_val_mae_meV"] < record["stage1_val_mae_meV"]
    again = deeph_gformer.load(tmp_path / "run" / "bundle", stage1=tiny_stage1)
    assert np.array_equal(
        again.predict(root / "s0").hamiltonian.values, model.predict(root / "s0").hamiltonian.values
    )
    lines = (tmp_path / "run" / "logs" / "csv" / "metrics.csv").read_text()
    assert "val_mae_meV" in lines and any((tmp_path / "run" / "logs" / "tensorboard").iterdir())


@pytest.mark.parametrize("cascade", [True, False])
def test_the_bundle_has_the_error_that_training_saw(
    make_folder: Folder, tiny_stage1: pathlib.Path, tmp_path: pathlib.Path, cascade: bool
) -> None:
    """The correction added to stage 1, or all of H."""
    root = dataset(make_folder)
    splits = tmp_path / "splits.json"
    splits.write_text(json.dumps({"train": ["s1", "s2"], "val": ["s0"], "test": []}))
    words = ["--stage1", str(tiny_stage1), "--set", f"cascade={str(cascade).lower()}"]
    words += ["--set", "data.gauge=raw"]
    assert (
        main(
            [*command("train", root, tmp_path / "run", *words), "--json", str(tmp_path / "r.json")]
        )
        == 0
    )
    model = deeph_gformer.load(tmp_path / "run" / "bundle", stage1=tiny_stage1)
    assert model.bundle is not None and model.bundle.cascade == cascade
    result = evaluate(
        model,
        root,
        splits=splits,
        split="val",
        edges="hamiltonians",
        rotations=0,
        invariance=False,
        gauge="raw",
    )
    seen = json.loads((tmp_path / "r.json").read_text())["best_val_mae_meV"]
    assert result["total"]["refined"]["mae_elements_meV"] == pytest.approx(seen, rel=1e-6)


def test_resumed_run_equals_an_unbroken_one(
    make_folder: Folder, tiny_stage1: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    root = dataset(make_folder)
    stage2(root, tiny_stage1, tmp_path / "whole", epochs=4, schedule="constant", ema=0.9)
    stage2(root, tiny_stage1, tmp_path / "parts", epochs=2, schedule="constant", ema=0.9)
    stage2(
        root, tiny_stage1, tmp_path / "parts", epochs=4, schedule="constant", ema=0.9, resume=True
    )
    weights = [
        torch.load(tmp_path / run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for run in ("whole", "parts")
    ]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][k], weights[1][k]) for k in weights[0])


def test_last_checkpoint_is_of_the_last_epoch_even_where_nothing_gets_better(
    make_folder: Folder, tiny_stage1: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    root = dataset(make_folder)
    stage2(
        root,
        tiny_stage1,
        tmp_path / "run",
        epochs=3,
        schedule="constant",
        learning_rate=1.0,
        warmup_steps=0,
    )
    best, last = (
        torch.load(tmp_path / "run" / "checkpoints" / f"{name}.ckpt", weights_only=True)["epoch"]
        for name in ("best", "last")
    )
    assert last == 2 and best < 2


def test_a_run_that_another_process_finished_meanwhile_is_kept(
    make_folder: Folder, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Just before the second one has the folder for itself."""
    root, run, real = dataset(make_folder), tmp_path / "run", folder_module._claim
    first = {
        "config.json": '{"data": {}, "model": {}, "training": {}}',
        "checkpoints/last.ckpt": "of the first one",
    }

    def later(path: pathlib.Path) -> object:
        for name, text in first.items():
            (run / name).parent.mkdir(parents=True, exist_ok=True)
            (run / name).write_text(text)
        return real(path)

    monkeypatch.setattr(folder_module, "_claim", later)
    with pytest.raises(ConfigError, match="holds a run already"):
        train_stage1(from_mapping(TrainStage1Config, settings(root, run), "test"))
    assert {k: v.decode() for k, v in tree(run).items()} == first


def test_a_folder_that_another_process_removes_is_made_again(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, real = tmp_path / "a" / "run", folder_module._take

    def once(path: pathlib.Path) -> int | None:
        monkeypatch.setattr(folder_module, "_take", real)
        run.rmdir()
        run.parent.rmdir()
        return real(path)

    monkeypatch.setattr(folder_module, "_take", once)
    with folder_module.held(run):
        assert (run / "lock").is_file()
    assert not list(tmp_path.iterdir())


def test_run_folders_are_not_mixed(
    make_folder: Folder, tiny_stage1: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    root = dataset(make_folder)
    stage2(root, tiny_stage1, tmp_path / "run", epochs=1)
    with pytest.raises(ConfigError, match="holds a run already"):
        stage2(root, tiny_stage1, tmp_path / "run", epochs=1)
    with pytest.raises(ConfigError, match="training.learning_rate"):
        stage2(root, tiny_stage1, tmp_path / "run", epochs=2, learning_rate=1e-2, resume=True)
    with pytest.raises(ConfigError, match="no run to resume"):
        stage2(root, tiny_stage1, tmp_path / "empty", resume=True)


@pytest.mark.parametrize("swap", [("train", "val"), ("val", "test")])
def test_resumed_run_has_its_splits(
    make_folder: Folder,
    tiny_stage1: pathlib.Path,
    tmp_path: pathlib.Path,
    swap: tuple[str, str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    root = dataset(make_folder)
    splits = {"train": ["s0"], "val": ["s1"], "test": ["s2"]}
    path = tmp_path / "splits.json"
    path.write_text(json.dumps(splits))
    words = command("train", root, tmp_path / "run", "--stage1", str(tiny_stage1), "--epochs", "1")
    assert main(words) == 0
    path.write_text(json.dumps({**splits, swap[0]: splits[swap[1]], swap[1]: splits[swap[0]]}))
    words = command(
        "train", root, tmp_path / "run", "--stage1", str(tiny_stage1), "--epochs", "2", "--resume"
    )
    assert main(words) == 2 and f"other splits ({swap[0]}: " in capsys.readouterr().err
    path.write_text(json.dumps(splits))
    assert main(words) == 0


def test_refused_run_leaves_its_folder_free(
    make_folder: Folder, tiny_stage1: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    root = dataset(make_folder)
    for change in ({"device": "abacus"}, {"learning_rate": 1e30, "warmup_steps": 0}):
        with pytest.raises(ConfigError):
            stage2(root, tiny_stage1, tmp_path / "run", epochs=1, **change)
        assert not (tmp_path / "run" / "config.json").exists()
    stage2(root, tiny_stage1, tmp_path / "run", epochs=1)


@pytest.mark.parametrize("stage", [1, 2])
def test_diverged_training_stops_and_keeps_nothing(
    make_folder: Folder, tiny_stage1: pathlib.Path, tmp_path: pathlib.Path, stage: int
) -> None:
    root = dataset(make_folder)
    (tmp_path / "splits.json").write_text(json.dumps({"train": ["s0", "s1"], "val": ["s2"]}))
    more = ["--stage1", str(tiny_stage1)] if stage == 2 else []
    words = command("train" if stage == 2 else "train-stage1", root, tmp_path / "run", *more)
    assert main([*words, "--set", "training.learning_rate=1e30"]) == 2
    assert not any(
        (tmp_path / "run" / name).exists() for name in ("bundle", "model", "checkpoints")
    )


def test_output_that_cannot_be_written(
    make_folder: Folder,
    tiny_stage1: pathlib.Path,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    root = dataset(make_folder)
    (tmp_path / "file").write_text("")
    for output in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(ConfigError, match="file is a file; choose another folder"):
            stage2(root, tiny_stage1, output)
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write everywhere
    with pytest.raises(ConfigError, match="cannot be written; choose another folder"):
        stage2(root, tiny_stage1, tmp_path / "new" / "run")


@pytest.mark.parametrize("name", ["last", "best"])
@pytest.mark.parametrize("keep", [0, 100, -100])
def test_truncated_checkpoint_is_named(
    make_folder: Folder, tiny_stage1: pathlib.Path, tmp_path: pathlib.Path, name: str, keep: int
) -> None:
    root = dataset(make_folder)
    stage2(root, tiny_stage1, tmp_path / "run", epochs=1)
    path = tmp_path / "run" / "checkpoints" / f"{name}.ckpt"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match=f"{name}.ckpt: damaged"):
        stage2(root, tiny_stage1, tmp_path / "run", epochs=2, resume=True)


def test_full_disk_is_named(
    make_folder: Folder,
    tiny_stage1: pathlib.Path,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The disk is full when the checkpoint is written: the run can start again in the same
    folder."""
    root, write = dataset(make_folder), pathlib.Path.write_bytes

    def full(self: pathlib.Path, data: bytes) -> int:
        if ".ckpt" not in self.name:
            return write(self, data)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(pathlib.Path, "write_bytes", full)
    with pytest.raises(
        DataError, match=r"\.ckpt: could not be written \(No space left on device\)"
    ):
        stage2(root, tiny_stage1, tmp_path / "run", epochs=1)
    assert not any((tmp_path / "run").rglob("*.ckpt*"))
    monkeypatch.setattr(pathlib.Path, "write_bytes", write)
    stage2(root, tiny_stage1, tmp_path / "run", epochs=1)


@pytest.mark.parametrize(
    "part", ["stage2_network.GFormer", "stage2.FeatureCache", "stage2.training_samples"]
)
def test_lack_of_memory_before_the_first_epoch(
    make_folder: Folder,
    tiny_stage1: pathlib.Path,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    part: str,
) -> None:
    def none_left(*args: object, **kwargs: object) -> None:
        raise MemoryError

    monkeypatch.setattr(f"deeph_gformer.training.{part}", none_left)
    with pytest.raises(ConfigError, match="out of memory: .*lower"):
        stage2(dataset(make_folder), tiny_stage1, tmp_path / "run")


def command(verb: str, root: pathlib.Path, output: pathlib.Path, *more: str) -> list[str]:
    """Arguments of a training of two epochs on the made-up structures."""
    values = {"epochs": 2, "threads": 1, "device": "cpu", "warmup_steps": 1, "learning_rate": 5e-3}
    network = (
        {"width": 16, "heads": 4, "embed": 4, "gaussians": 8, "gated_channels": 4}
        if verb == "train"
        else {
            "irreps_embed": "4x0e",
            "irreps_mid": "4x0e+3x1o+2x2e+1x3o",
            "num_blocks": 2,
            "cutoff_radius": 5.0,
        }
    )
    pairs = [f"training.{k}={v}" for k, v in values.items()] + [
        f"model.{k}={v}" for k, v in network.items()
    ]
    chosen = [
        "--preprocessed",
        str(root),
        "--splits",
        str(root.parent / "splits.json"),
        "--output",
        str(output),
    ]
    return [verb, *chosen, *(word for pair in pairs for word in ("--set", pair)), *more]


@pytest.mark.parametrize(
    ("verb", "launcher"),
    [
        ("train", []),
        ("train", ["torch.distributed.run", "--nproc-per-node", "2", "-m"]),
        ("train-stage1", []),
    ],
)
def test_two_ranks_equal_one_process_with_their_batch(
    make_folder: Folder,
    tiny_stage1: pathlib.Path,
    tmp_path: pathlib.Path,
    verb: str,
    launcher: list[str],
) -> None:
    """Two structures of equally many edges, one on each rank: the mean gradient is that of a batch
    of both."""
    root = dataset(make_folder)
    edges = {n: read_matrix(root / n, "hamiltonian").keys.shape[0] for n in ("s0", "s1", "s2")}
    assert len(set(edges.values())) == 1
    (tmp_path / "splits.json").write_text(json.dumps({"train": ["s0", "s1"], "val": ["s2"]}))
    more = ["--stage1", str(tiny_stage1)] if verb == "train" else ["--set", "dtype=float64"]
    assert main(command(verb, root, tmp_path / "one", *more, "--set", "training.batch_size=2")) == 0
    words = command(verb, root, tmp_path / "two", *more, "--set", "training.devices=2")
    environment = {
        k: v for k, v in os.environ.items() if k not in ("RANK", "LOCAL_RANK", "WORLD_SIZE")
    }
    environment.update(PYTHONPATH=str(ROOT), OMP_NUM_THREADS="1")
    done = subprocess.run(
        [sys.executable, "-m", *launcher, "deeph_gformer", *words],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("epoch     1") == done.stdout.count("best validation MAE") == 1
    states = [
        torch.load(tmp_path / run / "checkpoints" / "last.ckpt", weights_only=True)
        for run in ("one", "two")
    ]
    assert states[0]["global_step"] == states[1]["global_step"] == 2
    weights = [s["state_dict"] for s in states]
    assert all(
        torch.allclose(weights[0][k], weights[1][k], rtol=1e-6, atol=1e-8) for k in weights[0]
    )


def test_torchrun_with_another_number_of_processes(
    make_folder: Folder,
    tiny_stage1: pathlib.Path,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="set training.devices=2"):
        stage2(dataset(make_folder), tiny_stage1, tmp_path / "run")


@pytest.mark.parametrize("spinful", [False, True])
def test_rotated_batch_equals_recomputing(
    make_folder: Folder, tmp_path: pathlib.Path, spinful: bool
) -> None:
    """Turning cached irreps and labels by Wigner-D is running stage 1 on the turned crystal."""
    stage1 = load_stage1(write_tiny_stage1(tmp_path / "s1", spinful=spinful))
    sample = load_sample(
        make_folder(spinful=spinful, atoms=2), stage1.targets, "hamiltonians", torch.float64
    )
    batch = collate([sample], [FeatureCache(stage1, "off").get(sample)])
    irreps = stage1.targets.irreps()
    turned = rotate_batch(
        batch, stage1.assembly(), stage1.node_irreps, stage1.edge_irreps, irreps, (1, 2)
    )
    u, _, v = np.linalg.svd(batch.graph.edge_vector.numpy().T @ turned.graph.edge_vector.numpy())
    rotation = torch.from_numpy((u @ v).T)
    assert not torch.allclose(rotation, torch.eye(3, dtype=torch.float64))
    again = stage1(rotate_graph(sample.graph, rotation))
    for mine, theirs in (
        (turned.features.node, again.node),
        (turned.features.edge, again.edge),
        ((turned.direct_sum,), (again.direct_sum,)),
    ):
        for a, b in zip(mine, theirs):
            assert (a - b).abs().max() < 1e-10 * max(1.0, float(b.abs().max()))
    before, after = (stage1.assembly()(b.direct_sum) - b.label for b in (batch, turned))
    assert float(before.abs().square().sum()) == pytest.approx(
        float(after.abs().square().sum()), rel=1e-9
    )


@pytest.mark.parametrize("mode", ["ram", "disk", "off"])
def test_feature_cache(
    make_folder: Folder, tiny_stage1: pathlib.Path, tmp_path: pathlib.Path, mode: str
) -> None:
    stage1 = load_stage1(tiny_stage1)
    sample = load_sample(make_folder(), stage1.targets, "hamiltonians", torch.float64)
    cache = FeatureCache(stage1, mode, tmp_path / "cache")
    truth = stage1(sample.graph)
    for _ in range(2):
        irreps, direct_sum = cache.get(sample)
        assert torch.equal(direct_sum, truth.direct_sum) and all(
            torch.equal(a, b) for a, b in zip(irreps.edge, truth.edge)
        )
    assert (tmp_path / "cache").exists() == (mode == "disk")


def test_sampler_depends_on_seed_and_epoch_only() -> None:
    a, b = EpochSampler(9, 1), EpochSampler(9, 1)
    a.set_epoch(3)
    first = list(a)
    b.set_epoch(0)
    assert list(b) != first
    b.set_epoch(3)
    assert list(b) == first and sorted(first) == list(range(9))


@pytest.mark.parametrize(("count", "ranks"), [(5, 2), (4, 4), (1, 3), (6, 1)])
def test_ranks_share_the_structures(count: int, ranks: int) -> None:
    """Training: equally many each, all are there.

    Validation: each once, or all on every rank where they are too few.
    """
    mine = [list(EpochSampler(count, 7, rank, ranks)) for rank in range(ranks)]
    assert {len(m) for m in mine} == {-(-count // ranks)} and {n for m in mine for n in m} == set(
        range(count)
    )
    validated = [n for rank in range(ranks) for n in RankSampler(count, rank, ranks)]
    assert sorted(validated) == sorted([*range(count)] * (1 if count >= ranks else ranks))


def test_running_average_of_a_short_run_is_near_its_end() -> None:
    """Weights that grow by one a step: the average is behind by about 9 steps in a hundred, then by
    1 / (1 - decay)."""
    average = running_average(0.99)
    value, lags = torch.tensor(0.0), {}
    for step in range(1, 3001):
        average([value], [torch.tensor(float(step))], step)
        lags[step] = step - value.item()
    assert lags[100] < 12 and lags[3000] == pytest.approx(99, abs=0.5)


def test_losses_by_hand() -> None:
    error = torch.tensor([[3.0, -4.0, 100.0]]) * 1e-3
    mask = torch.tensor([[True, True, False]])
    assert masked_loss(error, mask, "mse", 1e-3).item() == pytest.approx(12.5)
    assert masked_loss(error, mask, "mae", 1e-3).item() == pytest.approx(3.5)
    assert masked_loss(error, mask, "huber", 1e-3).item() == pytest.approx((2.5 + 3.5) / 2)
    assert masked_loss(
        torch.tensor([3e-3 + 4e-3j]), torch.tensor([True]), "mae", 1e-3
    ).item() == pytest.approx(5.0)


@pytest.mark.parametrize("spinful", [False, True])
def test_stage_1_trains_and_its_folder_predicts_the_same(
    make_folder: Folder, tmp_path: pathlib.Path, spinful: bool
) -> None:
    for n in range(3):
        make_folder(f"s{n}", seed=n, atoms=2, spinful=spinful)
    values = settings(tmp_path / "data", tmp_path / "run", hermitian=False)
    values["model"] = {"irreps_embed": "4x0e", "irreps_mid": "4x0e+3x1o+2x2e+1x3o", "num_blocks": 2}
    values["dtype"] = "float64"
    record = train_stage1(from_mapping(TrainStage1Config, values))
    model = deeph_gformer.load(stage1=tmp_path / "run" / "model")
    names = json.loads((tmp_path / "run" / "splits.json").read_text())["val"]
    made = model.predict(
        tmp_path / "data" / names[0], edges="hamiltonians", hermitian=False
    ).hamiltonian
    error = (
        np.abs(made.values - read_matrix(tmp_path / "data" / names[0], "hamiltonian").values).mean()
        * 1e3
    )
    assert error == pytest.approx(record["best_val_mae_meV"], rel=1e-9)
    folder = read_model_folder(tmp_path / "run" / "model")
    assert folder.generation == ">=0.5" and folder.checkpoint["optimizer_state_dict"]["state"]


def test_irreps_are_those_deeph_e3_derives() -> None:
    """post_node and post_edge of the golden folders, spin-orbit included, from their train.ini."""
    for name in ("graphene_small_f64", "bismuthene_soc_f64"):
        folder = read_model_folder(golden(name) / "model")
        made = net_config(
            from_mapping(
                TrainStage1Config,
                {"model": {"irreps_embed": "16x0e", "irreps_mid": "16x0e+8x1o+4x2e+4x3o+2x4e"}},
            ).model,
            folder.targets,
        )
        assert made == folder.config


@pytest.mark.parametrize(
    ("stated", "wrong"),
    [
        (
            {
                "num_blocks": 2,
                "irreps_mid": "4x0e + 3x1o+2x2e+1x3o",
                "cutoff_radius": 5.0,
                "target_blocks_type": "all",
            },
            [],
        ),
        ({"num_blocks": 4}, ["num_blocks"]),
        (
            {"irreps_mid": "8x0e+3x1o+2x2e+1x3o", "cutoff_radius": 6.0},
            ["irreps_mid", "cutoff_radius"],
        ),
        ({"ignore_parity": True}, ["ignore_parity"]),
        ({"target_blocks_type": "diag"}, ["target_blocks_type"]),
    ],
)
def test_settings_that_contradict_the_network_to_go_on_with(
    make_folder: Folder,
    tiny_stage1: pathlib.Path,
    tmp_path: pathlib.Path,
    stated: dict,
    wrong: list[str],
) -> None:
    config = from_mapping(
        TrainStage1Config,
        {
            **settings(dataset(make_folder), tmp_path / "run", epochs=1),
            "model": stated,
            "dtype": "float64",
        },
    )
    if not wrong:
        assert train_stage1(config, continue_from=str(tiny_stage1))["epochs"] == 1
        return
    with pytest.raises(
        ConfigError, match=f"another network than model.{', model.'.join(wrong)} say"
    ):
        train_stage1(config, continue_from=str(tiny_stage1))


def test_notes_on_what_is_not_used(
    make_folder: Folder,
    tiny_stage1: pathlib.Path,
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    root = dataset(make_folder)
    path = tmp_path / "splits.json"
    for test, groups in ((["s2"], 2), ([], 5)):
        path.write_text(json.dumps({"train": ["s0"], "val": ["s1"], "test": test}))
        output = tmp_path / f"run{groups}"
        assert (
            main(
                command(
                    "train",
                    root,
                    output,
                    "--stage1",
                    str(tiny_stage1),
                    "--epochs",
                    "1",
                    "--set",
                    f"model.groups={groups}",
                )
            )
            == 0
        )
        said = capsys.readouterr().err
        assert ("test split is empty" in said) == (not test) and (
            "model.groups = 5 is not used" in said
        ) == (groups == 5)


def test_impossible_irreps_are_named() -> None:
    targets = make_target_blocks(Basis((42,), ((0, 1, 2),), False))
    for irreps, words in (("4x0e+2x9", "do not parse"), ("4x0e", None)):
        config = from_mapping(
            TrainStage1Config,
            {
                "model": {
                    "irreps_embed": "4x0e",
                    "irreps_mid": irreps,
                    "spherical_harmonics_lmax": 1,
                }
            },
        ).model
        with pytest.raises(ConfigError, match=words or "cannot produce"):
            net_config(config, targets)


def test_lack_of_memory_says_what_to_lower() -> None:
    for error in (
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried ..."),
    ):
        with pytest.raises(ConfigError, match="lower training.batch_size"), memory_hint():
            raise error
    with pytest.raises(RuntimeError, match="something else"), memory_hint():
        raise RuntimeError("something else")


def lose_overlap(folder: pathlib.Path) -> int:
    """Remove a pair of blocks of S that H keeps; the number of blocks of S that are left."""
    with h5py.File(folder / "overlaps.h5", "a") as handle:
        far = next(k for k in handle if not k.startswith("[0, 0, 0"))
        x, y, z, i, j = json.loads(far)
        for key in {far, str([-x, -y, -z, j, i])}:
            del handle[key]
        return len(handle)


def test_edges_of_a_training_are_those_of_its_predictions(
    make_folder: Folder,
    tiny_stage1: pathlib.Path,
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A new structure has S only. So edges are the blocks of S in training, and where a structure
    has H, too."""
    root = dataset(make_folder)
    counts = {folder.name: lose_overlap(folder) for folder in sorted(root.iterdir())}
    stage2(root, tiny_stage1, tmp_path / "run")
    assert "blocks of H without one are not learned (|H| up to" in capsys.readouterr().out
    model = deeph_gformer.load(tmp_path / "run" / "bundle", stage1=tiny_stage1)
    assert model.bundle is not None and model.bundle.training["edges"] == "overlaps"
    with_h = model.predict(root / "s0")
    assert len(with_h.edges.keys) == counts["s0"] and with_h.edges.hamiltonian_only == 2
    (root / "s0" / "hamiltonians.h5").rename(tmp_path / "h.h5")
    assert np.array_equal(model.predict(root / "s0").hamiltonian.values, with_h.hamiltonian.values)
    (tmp_path / "h.h5").rename(root / "s0" / "hamiltonians.h5")

    first = deeph_gformer.load(None, stage1=tiny_stage1)  # says nothing: trained as DeepH-E3 does
    assert first.predict(root / "s0").edges.hamiltonian_only == 2
    config = from_mapping(TrainStage1Config, settings(root, tmp_path / "one", epochs=1))
    train_stage1(config, continue_from=str(tiny_stage1))
    own = deeph_gformer.load(None, stage1=tmp_path / "one" / "model")
    assert len(own.predict(root / "s0").edges.keys) == counts["s0"]


@pytest.mark.parametrize("rate", [1e-12, 1.0])
def test_stage_1_that_gets_worse_is_told(
    make_folder: Folder,
    tiny_stage1: pathlib.Path,
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    rate: float,
) -> None:
    """A network that goes on at a rate of nothing keeps the error that was told at the start."""
    values = settings(
        dataset(make_folder),
        tmp_path / "run",
        epochs=1,
        learning_rate=rate,
        min_learning_rate=0.0,
        warmup_steps=0,
    )
    found = train_stage1(from_mapping(TrainStage1Config, values), continue_from=str(tiny_stage1))
    said = capsys.readouterr().out.partition(f"{tiny_stage1}: on validation ")[2]
    before = float(said.split()[0])
    worse = f"started from ({before:.4f} meV, now {found['best_val_mae_meV']:.4f} meV)"
    if rate < 1:
        assert found["best_val_mae_meV"] == pytest.approx(before, rel=1e-6)
        assert "started from" not in caplog.text
    else:
        assert found["best_val_mae_meV"] > before and worse in caplog.text


def test_one_kind_of_edges_for_all_structures(
    make_folder: Folder, tiny_stage1: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """Where one structure has no S, all are learned, and predicted, with the blocks of H."""
    root = dataset(make_folder)
    counts = {folder.name: lose_overlap(folder) for folder in sorted(root.iterdir())}
    (root / "s1" / "overlaps.h5").unlink()
    model, record = stage2(root, tiny_stage1, tmp_path / "run", epochs=1)
    assert record["edges"] == model.learned_edges == "hamiltonians"
    with h5py.File(root / "s0" / "hamiltonians.h5") as handle:
        assert len(model.predict(root / "s0").edges.keys) == len(handle) == counts["s0"] + 2
