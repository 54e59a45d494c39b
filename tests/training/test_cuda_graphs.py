"""Steps that are captured and replayed, against the same steps one by one.

Captures are played by the CPU.
"""

from __future__ import annotations

import pathlib
from collections.abc import Callable
from typing import Any

import pytest
import torch

from deeph_gformer.algebra.blocks import DirectSumToProduct
from deeph_gformer.config import GFormerConfig, TrainingConfig, TrainStage1Config, from_mapping
from deeph_gformer.data.dataset import load_samples
from deeph_gformer.errors import ConfigError
from deeph_gformer.gformer.model import GFormer
from deeph_gformer.stage1 import load_stage1
from deeph_gformer.stage1.bundle import read_model_folder
from deeph_gformer.stage1.embedded.checkpoint import load_network
from deeph_gformer.training import cuda_graphs
from deeph_gformer.training.batches import FeatureCache, collate
from deeph_gformer.training.cuda_graphs import StepGraphs
from deeph_gformer.training.module import HamiltonianTask, Stage1Task, Stage2Task
from deeph_gformer.training.stage1 import train_stage1
from deeph_gformer.training.state_bank import StateBank

from ..conftest import write_tiny_stage1
from ..simulated_capture import recorded
from ..simulated_gpu import no_waiting, simulated_gpu
from .test_training import dataset, settings, stage2

Folder = Callable[..., pathlib.Path]
STATES = {"states_weight": 0.3, "states_coupling_weight": 0.3, "states_spacing": 0.9}


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Captures on the CPU; what all of them did."""
    seen: dict[str, Any] = {"captured": 0, "steps": 0}

    def capture(step: Callable[[], Any], shared: dict[str, Any]) -> Any:
        seen["captured"] += 1
        seen["shared"] = shared
        replay, result = recorded(step, shared)

        def again() -> None:
            seen["steps"] += 1
            replay()

        return again, result

    monkeypatch.setattr(cuda_graphs, "capture", capture)
    monkeypatch.setattr(cuda_graphs, "unsupported", lambda *_: "")
    monkeypatch.setattr(cuda_graphs, "free_share", lambda _: 1.0)
    return seen


def weights(run: pathlib.Path) -> dict[str, torch.Tensor]:
    state = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    return {k: v for k, v in state.items() if v.is_floating_point() or v.is_complex()}


def same(one: pathlib.Path, two: pathlib.Path) -> None:
    a, b = weights(one), weights(two)
    assert a.keys() == b.keys()
    for key, value in a.items():
        assert torch.allclose(value, b[key], rtol=1e-5, atol=1e-7), key


@pytest.mark.parametrize("spinful", [False, True])
def test_a_gformer_learns_the_same_from_replayed_steps(
    make_folder: Folder,
    tmp_path: pathlib.Path,
    played: dict[str, Any],
    request: pytest.FixtureRequest,
    spinful: bool,
) -> None:
    if spinful:
        first = write_tiny_stage1(tmp_path / "first", spinful=True)
    else:
        first = request.getfixturevalue("tiny_stage1")
    for n in range(3):
        root = make_folder(f"s{n}", seed=n, atoms=2, spinful=spinful).parent
    how: dict[str, Any] = {"epochs": 3, "ema": 0.9, "weight_decay": 0.1, **STATES}
    stage2(root, first, tmp_path / "eager", cuda_graphs="false", **how)
    assert played["captured"] == 0
    stage2(root, first, tmp_path / "graphs", cuda_graphs="auto", **how)
    assert played["captured"] == 2 and played["steps"] == 6
    same(tmp_path / "eager", tmp_path / "graphs")


def test_stage_1_learns_the_same_from_replayed_steps(
    make_folder: Folder, tmp_path: pathlib.Path, played: dict[str, Any]
) -> None:
    root = dataset(make_folder)
    for name, kind in (("eager", "false"), ("graphs", "true")):
        values = settings(root, tmp_path / name, epochs=3, cuda_graphs=kind, **STATES)
        values["model"] = {"irreps_embed": "4x0e", "irreps_mid": "4x0e+4x1o+4x2e", "num_blocks": 2}
        train_stage1(from_mapping(TrainStage1Config, values))
    assert played["captured"] == 2 and played["steps"] == 6
    same(tmp_path / "eager", tmp_path / "graphs")


def test_without_memory_the_other_structures_run_as_usual(
    make_folder: Folder,
    tiny_stage1: pathlib.Path,
    tmp_path: pathlib.Path,
    played: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    root = dataset(make_folder)
    stage2(root, tiny_stage1, tmp_path / "eager", cuda_graphs="false", epochs=3)
    left = iter([0.9, 0.1])
    monkeypatch.setattr(cuda_graphs, "free_share", lambda _: next(left))
    stage2(root, tiny_stage1, tmp_path / "graphs", epochs=3)
    assert played["captured"] == 1 and played["steps"] == 3
    same(tmp_path / "eager", tmp_path / "graphs")
    said = capsys.readouterr().out
    assert said.count("CUDA graphs for 1 structures, the others run without") == 1


def test_a_capture_that_fails_is_said_once(
    make_folder: Folder,
    tiny_stage1: pathlib.Path,
    tmp_path: pathlib.Path,
    played: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def capture(step: Callable[[], Any], shared: dict[str, Any]) -> Any:
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    monkeypatch.setattr(cuda_graphs, "capture", capture)
    root = dataset(make_folder)
    stage2(root, tiny_stage1, tmp_path / "run", epochs=2)
    said = capsys.readouterr().out
    assert said.count("not permitted when stream is capturing") == 1 and "more" not in said
    with pytest.raises(ConfigError, match="cuda_graphs=true: a step could not be captured"):
        stage2(root, tiny_stage1, tmp_path / "strict", epochs=2, cuda_graphs="true")


def test_what_cannot_be_captured_is_said(
    make_folder: Folder, tiny_stage1: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    class Task:
        class network:
            chunk = 0

    gpu: Any = torch.device("cuda", 0)
    task: Any = Task()
    for values, word in (
        ({}, ""),
        ({"batch_size": 2}, "training.batch_size is 2"),
        ({"devices": 2}, "training.devices is 2"),
        ({"precision": "bf16-mixed"}, "bf16-mixed"),
        ({"rotate": True}, "rotate"),
    ):
        reason = cuda_graphs.unsupported(task, TrainingConfig(**values), gpu)
        assert word in reason and bool(word) == bool(reason)
    Task.network.chunk = 10
    assert "edge_chunk" in cuda_graphs.unsupported(task, TrainingConfig(), gpu)
    root = dataset(make_folder)
    with pytest.raises(ConfigError, match="cuda_graphs=true: the device is cpu; set it to auto"):
        stage2(root, tiny_stage1, tmp_path / "run", epochs=2, cuda_graphs="true")
    for given, kept in ((True, "true"), (False, "false"), ("auto", "auto")):
        config = from_mapping(TrainingConfig, {"cuda_graphs": given})
        assert config.cuda_graphs == kept


@pytest.mark.parametrize("spinful", [False, True])
@pytest.mark.parametrize("stage", [1, 2])
def test_no_step_waits_for_the_gpu(
    make_folder: Folder, tmp_path: pathlib.Path, stage: int, spinful: bool
) -> None:
    """Loss of both stages with DFT's states.

    Copies from the host and answers to it break a capture.
    """
    folder = make_folder("a", atoms=2, spinful=spinful)
    first = write_tiny_stage1(tmp_path / "first", spinful=spinful, dtype=torch.float32)
    provider = load_stage1(first)
    targets = provider.targets
    samples = load_samples([folder], targets, "hamiltonians", torch.float32)
    config = TrainingConfig(states_block_weight=1.0, loss="mae", **STATES)
    to_product = DirectSumToProduct(targets, provider.generation, torch.float32)
    task: HamiltonianTask
    entry: Any = (None, None)
    if stage == 1:
        old = read_model_folder(first)
        net = load_network(old, old.require_generation()).float()
        task = Stage1Task(net, to_product, config, 100, 0.03)
    else:
        entry = FeatureCache(provider, "ram").get(samples[0])
        out = targets.irreps(provider.parity)
        sizes = GFormerConfig(width=16, heads=4, embed=4, gaussians=8, gated_channels=4)
        model = GFormer(sizes, 2, out, provider.node_irreps, provider.edge_irreps, 5.0)
        task = Stage2Task(model, to_product, config, 100, 0.03)
    bank = task.bank = StateBank(samples, [], targets, config, 0.03)
    batch = collate(samples, [entry])
    assert bank.loss is not None
    drawn = bank.loss.draw(batch, 0)
    with simulated_gpu():
        task.to("cuda")
        batch, states = batch.to("cuda"), tuple(s.to("cuda") for s in drawn)
        task.graphs = StepGraphs(task, batch.label.device)
        task.graphs._batches[batch.keys] = batch
        task.losses(batch, states)  # tables are made
        with no_waiting():
            loss, _ = task.losses(batch, states)
        assert loss.item() > 0
        with pytest.raises(RuntimeError, match="waits for the GPU"), no_waiting():
            float(loss)
