"""Everything that runs on a GPU gives the CPU's numbers.

On a real one where there is one, else on one that the CPU plays (:mod:`.simulated_gpu`).
"""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

import deeph_gformer
from deeph_gformer.algebra.blocks import DirectSumToProduct
from deeph_gformer.bands.solve import solve_dense, solve_torch
from deeph_gformer.cli import main
from deeph_gformer.config import GFormerConfig, TrainConfig, TrainingConfig, from_mapping
from deeph_gformer.data.dataset import load_samples
from deeph_gformer.errors import ConfigError
from deeph_gformer.gformer.bundle import Bundle, load_bundle
from deeph_gformer.gformer.model import GFormer
from deeph_gformer.inference.requirements import plan_structure
from deeph_gformer.io import read_matrix
from deeph_gformer.pipeline import HamiltonianModel
from deeph_gformer.prediction.identity import GFormerStage1
from deeph_gformer.runtime.communicator import Communicator
from deeph_gformer.runtime.device import resolve_device
from deeph_gformer.runtime.plan import GPU_CHUNK, ExecutionPlan, fair_share, free_memory
from deeph_gformer.runtime.processes import process_device, same_device
from deeph_gformer.stage1 import load_stage1
from deeph_gformer.stage1.bundle import read_model_folder
from deeph_gformer.stage1.embedded.checkpoint import load_network
from deeph_gformer.training.batches import Batch, FeatureCache, collate
from deeph_gformer.training.guard import guard_statistics
from deeph_gformer.training.module import Stage1Task, Stage2Task, masked_loss
from deeph_gformer.training.process import own_device, require_devices
from deeph_gformer.training.stage2 import train_gformer

from .conftest import write_tiny_stage1
from .inference.test_shard import in_ranks, torchrun
from .simulated_gpu import simulated_gpu
from .test_pipeline import make_bundle

Folder = Callable[..., pathlib.Path]
REAL = torch.cuda.is_available()
only_simulated = pytest.mark.skipif(REAL, reason="this machine has a GPU")


def gpu() -> contextlib.AbstractContextManager[None]:
    return contextlib.nullcontext() if REAL else simulated_gpu()


@pytest.fixture
def on_gpu() -> Iterator[None]:
    with gpu():
        yield


def on_gpus(words: list[str]) -> int:
    """Exit code of a command."""
    with gpu():
        return main(words)


def close(a: Any, b: Any) -> bool:
    """Equal to rounding, in float64."""
    a, b = (x.detach().cpu().numpy() if isinstance(x, torch.Tensor) else x for x in (a, b))
    return bool(np.abs(a - b).max() <= 1e-11 * np.abs(b).max())


@only_simulated
def test_the_simulation_refuses_what_cuda_refuses(on_gpu: None) -> None:
    there, here = torch.arange(3.0, device="cuda"), torch.arange(3.0)
    index = torch.tensor([0, 2])
    assert (
        str(there.device) == "cuda:0"
        and str((there * 2 + 1).device) == "cuda:0"
        and there.cpu().device.type == "cpu"
    )
    for wrong in (
        lambda: there + here,
        lambda: here.add_(there),
        lambda: torch.cat([there, here]),
        lambda: here[index.to("cuda")],
        lambda: there.index_select(0, index),
        lambda: there.index_add_(0, index, here[:2]),
        lambda: torch.nn.Linear(3, 2)(there),
        lambda: torch.nn.Linear(3, 2).to("cuda")(here),
    ):
        with pytest.raises(RuntimeError, match="two devices"):
            wrong()
    for wrong in (there.numpy, lambda: np.asarray(there)):
        with pytest.raises((RuntimeError, TypeError)):
            wrong()
    with pytest.raises(NotImplementedError, match="no CUDA kernel"):
        torch.histogram(there, 3)
    # what CUDA does
    there[index] = 7.0
    here[:] = there
    assert here.tolist() == there.tolist() == [7.0, 1.0, 7.0] and (
        there[index] * torch.tensor(2.0)
    ).tolist() == [14.0, 14.0]


@pytest.mark.parametrize("arch", ["equivariant", "paper"])
@pytest.mark.parametrize("spinful", [False, True])
def test_refine(make_folder: Folder, tmp_path: pathlib.Path, arch: str, spinful: bool) -> None:
    """The command, its files and its errors against DFT."""
    stage1 = write_tiny_stage1(tmp_path / "s", spinful=spinful)
    bundle = make_bundle(stage1, tmp_path / "b", arch, trained=True)
    folder = make_folder(atoms=5, spinful=spinful)
    command = [
        "refine",
        "--preprocessed",
        str(tmp_path / "data"),
        "--stage1",
        str(stage1),
        "--model",
        str(bundle),
    ]
    assert main([*command, "--device", "cpu", "--output", str(tmp_path / "cpu")]) == 0
    with gpu():
        assert main([*command, "--device", "cuda", "--output", str(tmp_path / "gpu")]) == 0
    a, b = (read_matrix(tmp_path / name / folder.name, "prediction") for name in ("cpu", "gpu"))
    assert np.array_equal(a.keys, b.keys) and close(b.values, a.values)


def alone(stage1: pathlib.Path) -> Bundle:
    """A GFormer that reads nothing of a stage 1 and predicts all of H."""
    targets = load_stage1(stage1).targets
    torch.manual_seed(2)
    config = GFormerConfig(arch="paper", width=16, heads=4, embed=4, gaussians=8)
    return Bundle(
        GFormer(config, 2, targets.irreps()).double(),
        targets,
        None,
        ">=0.5",
        cascade=False,
        dtype=torch.float64,
        features=False,
    )


MODELS: dict[str, Callable[[pathlib.Path, pathlib.Path, str], HamiltonianModel]] = {
    "stage 1": lambda stage1, work, device: deeph_gformer.load(stage1=stage1, device=device),
    "both": lambda stage1, work, device: deeph_gformer.load(
        make_bundle(stage1, work, trained=True), stage1=stage1, device=device
    ),
    "both, paper": lambda stage1, work, device: deeph_gformer.load(
        make_bundle(stage1, work, "paper", trained=True), stage1=stage1, device=device
    ),
    "GFormer alone": lambda stage1, work, device: HamiltonianModel(
        None, alone(stage1), torch.device(device)
    ),
    "GFormer as stage 1": lambda stage1, work, device: HamiltonianModel(
        GFormerStage1(alone(stage1)), None, torch.device(device)
    ),
}


@pytest.mark.parametrize("kind", MODELS)
def test_predict(
    make_folder: Folder, tmp_path: pathlib.Path, tiny_stage1: pathlib.Path, kind: str
) -> None:
    """At once and in chunks; over rotated frames where the model is not equivariant."""
    folder, frames = make_folder(atoms=5), 2 if "paper" in kind else 1
    expected = (
        MODELS[kind](tiny_stage1, tmp_path / "b", "cpu")
        .predict(folder, frames=frames)
        .hamiltonian.values
    )
    with gpu():
        model = MODELS[kind](tiny_stage1, tmp_path / "b", "cuda")
        assert model.device.type == "cuda" and close(
            model.predict(folder, frames=frames).hamiltonian.values, expected
        )
        made = next(
            model.predict_graphs([model.read(folder)], ExecutionPlan(chunk=24), frames=frames)
        )
        assert close(made.hamiltonian.values, expected)


@pytest.mark.skipif(REAL and torch.cuda.device_count() < 2, reason="two GPUs are needed")
def test_processes_share_a_structure(make_folder: Folder, tmp_path: pathlib.Path) -> None:
    """Collectives carry GPU tensors that NCCL takes, and host tensors; with spin, both dtypes."""
    stage1 = write_tiny_stage1(tmp_path / "s", spinful=True)
    bundle = make_bundle(stage1, tmp_path / "b", trained=True)
    folder = make_folder(atoms=5, spinful=True)
    command = [
        "refine",
        "--preprocessed",
        str(tmp_path / "data"),
        "--stage1",
        str(stage1),
        "--model",
        str(bundle),
    ]
    assert main([*command, "--device", "cpu", "--output", str(tmp_path / "one")]) == 0

    words = [*command, "--device", "cuda", "--output", str(tmp_path / "two")]
    if REAL:  # not forked: CUDA that runs already cannot be shared
        script = tmp_path / "run.py"
        script.write_text(
            "import sys\nfrom deeph_gformer.cli import main\nsys.exit(main(sys.argv[1:]))\n"
        )
        done = torchrun(script, *words)
        assert done.returncode == 0, done.stderr
    else:
        assert in_ranks(2, lambda rank: on_gpus(words)) == [0, 0]
    a, b = (read_matrix(tmp_path / name / folder.name, "prediction") for name in ("one", "two"))
    assert np.array_equal(a.keys, b.keys) and close(b.values, a.values)


def batch_of(root: pathlib.Path, stage1: pathlib.Path) -> Batch:
    """Two structures with stage 1's features."""
    provider = load_stage1(stage1)
    samples = load_samples(
        sorted(root.iterdir()), provider.targets, "overlaps", provider.dtype, "raw"
    )
    cache = FeatureCache(provider, "ram")
    return collate(samples, [cache.get(s) for s in samples])


@pytest.mark.parametrize("arch", ["equivariant", "paper"])
@pytest.mark.parametrize("spinful", [False, True])
def test_training_losses(
    make_folder: Folder, tmp_path: pathlib.Path, arch: str, spinful: bool
) -> None:
    """Both stages' losses of a batch, rotated for the paper's architecture."""
    stage1 = write_tiny_stage1(tmp_path / "s", spinful=spinful)
    for seed in range(2):
        make_folder(f"m{seed}", seed=seed, spinful=spinful)
    batch, provider = batch_of(tmp_path / "data", stage1), load_stage1(stage1)
    settings = TrainingConfig(rotate=arch == "paper")

    def losses(device: str) -> list[torch.Tensor]:
        to_product = DirectSumToProduct(provider.targets, provider.generation, provider.dtype)
        network = load_network(read_model_folder(stage1), provider.generation)
        bundle = load_bundle(make_bundle(stage1, tmp_path / "b", arch, trained=True))
        tasks = [
            Stage1Task(network, to_product, settings, 1, 1.0),
            Stage2Task(
                bundle.model,
                DirectSumToProduct(provider.targets, provider.generation, provider.dtype),
                settings,
                1,
                1.0,
            ),
        ]
        here = batch.to(device)
        out = []
        for task in tasks:
            task = task.to(device).train()
            error = task._error(here)
            out += [masked_loss(error, here.mask, kind, 1.0) for kind in ("mse", "mae", "huber")]
        return out

    expected = [x.item() for x in losses("cpu")]
    with gpu():
        found = losses("cuda")
        assert {x.device.type for x in found} == {"cuda"}
        assert np.allclose([x.item() for x in found], expected, rtol=1e-11, atol=0)


@only_simulated
@pytest.mark.parametrize("arch", ["equivariant", "paper"])
def test_train_around_the_optimizer(
    make_folder: Folder,
    tmp_path: pathlib.Path,
    tiny_stage1: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    arch: str,
) -> None:
    """All of ``train`` but the epochs, which a simulated GPU has no backward pass for: its bundle
    is the CPU's."""
    folders = [make_folder(f"m{seed}", seed=seed) for seed in range(4)]

    def epochs(
        task: Stage2Task, train: Any, val: Any, *others: Any, **options: Any
    ) -> dict[str, Any]:
        device = own_device(task.settings)
        task.to(device)
        for batch in (*train, *val):
            loss = masked_loss(task._error(batch.to(device)), batch.mask.to(device), "mae", 1.0)
            assert loss.device.type == device.type and torch.isfinite(loss.cpu())
        task.to("cpu")
        return {"epochs": 0, "best_val_mae_meV": 0.0, "seconds": 0.0}

    monkeypatch.setattr("deeph_gformer.training.stage2.fit", epochs)

    def run(device: str) -> HamiltonianModel:
        settings = {
            "data": {
                "preprocessed": str(tmp_path / "data"),
                "train_ratio": 0.5,
                "val_ratio": 0.25,
                "cache": "ram" if device == "cpu" else "disk",
            },
            "model": {
                "arch": arch,
                "width": 16,
                "heads": 4,
                "embed": 4,
                "gaussians": 8,
                "gated_channels": 4,
            },
            "training": {"device": device},
            "output": str(tmp_path / device),
            "stage1": str(tiny_stage1),
        }
        return train_gformer(from_mapping(TrainConfig, settings), load_stage1(tiny_stage1))[0]

    expected = run("cpu").predict(folders[0]).hamiltonian.values
    with gpu():
        made = run("cuda")
        assert made.device.type == "cuda" and close(
            made.predict(folders[0]).hamiltonian.values, expected
        )
    bundles = [load_bundle(tmp_path / name / "bundle") for name in ("cpu", "cuda")]
    assert bundles[0].stage1 == bundles[1].stage1
    assert bundles[0].training["guard"]["correction"] == pytest.approx(
        bundles[1].training["guard"]["correction"], rel=1e-9
    )
    states = [b.model.state_dict() for b in bundles]
    assert all(torch.allclose(states[0][k], states[1][k], rtol=1e-12) for k in states[0])


@only_simulated
def test_memory_of_a_gpu(
    make_folder: Folder,
    tmp_path: pathlib.Path,
    tiny_stage1: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its own memory bounds features and chunks, main memory the blocks.

    Processes do not share it.
    """
    bundle, folder = make_bundle(tiny_stage1, tmp_path / "b"), make_folder(atoms=5)
    with simulated_gpu(free=8 * 10**10):
        model = deeph_gformer.load(bundle, stage1=tiny_stage1, device="cuda")
        graph = model.read(folder)[1]
        assert plan_structure(model, graph).chunk == GPU_CHUNK
        monkeypatch.setenv("WORLD_SIZE", "4")
        monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
        assert fair_share(model.device, None) is None and fair_share(model.device, 7) == 7
        assert fair_share(torch.device("cpu"), None) <= free_memory(torch.device("cpu")) / 4 * 1.1
        with pytest.raises(ConfigError, match="are needed, fewer on the CPU"):
            plan_structure(model, graph, limit=10**5)
        monkeypatch.setattr(
            "deeph_gformer.runtime.plan.free_memory",
            lambda device: 10**9 if device.type == "cuda" else 10**4,
        )
        with pytest.raises(ConfigError, match="of main memory for their blocks, 2.5 kB are free"):
            plan_structure(model, graph)


@only_simulated
def test_names_of_devices(on_gpu: None) -> None:
    assert [str(resolve_device(name)) for name in ("auto", "cuda", "cuda:7", "cpu")] == [
        "cuda:0",
        "cuda:0",
        "cuda:7",
        "cpu",
    ]
    with pytest.raises(ConfigError, match="'cuda:8': this machine has 8 GPU"):
        resolve_device("cuda:8")
    with pytest.raises(ConfigError, match="cpu and cuda are supported"):
        resolve_device("meta")


@only_simulated
def test_processes_and_gpus_that_do_not_fit(on_gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """More processes than GPUs, a torch without NCCL, a process without a GPU, two on one GPU: a
    line each."""
    for name, value in (("RANK", "1"), ("WORLD_SIZE", "9"), ("LOCAL_WORLD_SIZE", "9")):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.distributed, "is_nccl_available", lambda: True)
    with pytest.raises(ConfigError, match="9 processes share 8 GPU.s.: start one per GPU"):
        process_device("auto")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert process_device("auto") == "cuda:1" and process_device("cpu") == "cpu"
    monkeypatch.setattr(torch.distributed, "is_nccl_available", lambda: False)
    for name in ("auto", "cuda", "cuda:1"):
        with pytest.raises(ConfigError, match="has no NCCL.*--device cpu"):
            process_device(name)
    assert process_device("cpu") == "cpu"

    class Others(Communicator):
        def objects(self, value: Any) -> list[Any]:
            return [{"cuda": "cpu"}.get(value, value), value]

    pair = Others(1, 2)
    with pytest.raises(ConfigError, match="processes 0 have no GPU and the others do"):
        same_device(pair, torch.device("cuda:0"))
    same_device(pair, torch.device("cpu"))
    same_device(Communicator(), torch.device("cuda:0"))

    class Same(Communicator):
        def objects(self, value: Any) -> list[Any]:
            return [value, value]

    with pytest.raises(ConfigError, match="several processes would use cuda:0 of one machine"):
        same_device(Same(1, 2), torch.device("cuda:0"))


@only_simulated
def test_training_on_gpus_that_cannot(on_gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """More processes than GPUs, one GPU for several, no NCCL, no bfloat16: a line each, which says
    what to set."""
    monkeypatch.setattr(torch.distributed, "is_nccl_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla V100")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 0))

    def said(**settings: Any) -> str:
        with pytest.raises(ConfigError) as error:
            require_devices(TrainingConfig(**settings))
        return str(error.value)

    assert "9 processes would share 8 GPU(s)" in (text := said(device="cuda", devices=9))
    assert "training.devices=8" in text
    assert "cuda:1 is one GPU, and training.devices is 2" in said(device="cuda:1", devices=2)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **options: False)
    text = said(device="auto", precision="bf16-mixed")
    assert "Tesla V100 (compute capability 7.0) has no bfloat16" in text
    assert "training.precision=model" in text
    for fine in ({"devices": 8}, {"device": "cuda:1"}, {"device": "cpu", "devices": 9}):
        require_devices(TrainingConfig(**fine))
    require_devices(TrainingConfig(device="cpu", precision="bf16-mixed"))
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **options: True)
    require_devices(TrainingConfig(precision="bf16-mixed"))
    monkeypatch.setattr(torch.distributed, "is_nccl_available", lambda: False)
    assert "has no NCCL" in said(devices=2)
    require_devices(TrainingConfig())


@only_simulated
def test_bad_devices_on_the_command_line(
    make_folder: Folder,
    tmp_path: pathlib.Path,
    tiny_stage1: pathlib.Path,
    on_gpu: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Exit code 2, one line, no file."""
    for seed in range(4):
        make_folder(f"m{seed}", seed=seed)
    bundle, out = make_bundle(tiny_stage1, tmp_path / "b"), tmp_path / "out"
    words = ["--preprocessed", str(tmp_path / "data"), "--stage1", str(tiny_stage1)]
    words += ["--output", str(out)]
    refine = ["refine", *words, "--model", str(bundle), "--device"]
    train = ["train", *words, "--set", "training.device=cuda", "--set"]
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **options: False)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla V100")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 0))
    for command, wanted in (
        ([*refine, "cuda:8"], "this machine has 8 GPU(s), numbered from 0"),
        ([*refine, "cuda,cpu"], "device 'cuda,cpu' is unknown; choose cpu, cuda"),
        ([*refine, "cuda", "--max-memory", "1kB"], "are needed, fewer on the CPU"),
        ([*train, "training.devices=9"], "9 processes would share 8 GPU(s)"),
        ([*train, "training.precision=bf16-mixed"], "Tesla V100"),
    ):
        assert main(command) == 2
        lines = capsys.readouterr().err.strip().splitlines()
        assert wanted in lines[-1] and sum("error" in line for line in lines) == 1, lines
        assert not list(out.rglob("*.h5")) and not list(out.rglob("*.ckpt"))


@only_simulated
@pytest.mark.parametrize("case", ["a process without a GPU", "no NCCL", "one GPU for two"])
def test_processes_say_once_what_is_missing(
    make_folder: Folder,
    tmp_path: pathlib.Path,
    tiny_stage1: pathlib.Path,
    capfd: pytest.CaptureFixture[str],
    case: str,
) -> None:
    """``refine`` by two processes: exit code 2 of both, one line."""
    make_folder()
    words = ["refine", "--preprocessed", str(tmp_path / "data"), "--stage1", str(tiny_stage1)]
    words += ["--stage1-only", "--output", str(tmp_path / "out"), "--device"]
    device = "cuda:0" if case == "one GPU for two" else "auto"

    def run(rank: int) -> int:
        if case == "a process without a GPU" and rank == 1:
            return main([*words, device])
        with simulated_gpu():
            if case == "no NCCL":
                torch.distributed.is_nccl_available = lambda: False
                torch.distributed.init_process_group = real_join
            return main([*words, device])

    real_join = torch.distributed.init_process_group
    assert in_ranks(2, run) == [2, 2]
    said = capfd.readouterr().err
    wanted = {
        "a process without a GPU": "processes 1 have no GPU and the others do",
        "no NCCL": "has no NCCL, through which processes on GPUs talk",
        "one GPU for two": "several processes would use cuda:0 of one machine",
    }[case]
    assert said.count("error:") == said.count(wanted) == 1, said
    assert not (tmp_path / "out").exists()


def test_guard_statistics(
    make_folder: Folder, tmp_path: pathlib.Path, tiny_stage1: pathlib.Path
) -> None:
    bundle = make_bundle(tiny_stage1, tmp_path / "b", trained=True)
    folders = [make_folder(f"m{seed}", seed=seed) for seed in range(2)]

    def statistics(device: str) -> dict[str, Any]:
        model = deeph_gformer.load(bundle, stage1=tiny_stage1, device=device)
        graphs = [model.read(f)[1] for f in folders]
        return guard_statistics(model, graphs, graphs)

    expected = statistics("cpu")
    with gpu():
        found = statistics("cuda")
    assert found["correction"] == pytest.approx(expected["correction"], rel=1e-11)
    assert np.allclose(found["features"]["norm_mean"], expected["features"]["norm_mean"], atol=2e-7)


def test_dense_bands() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 6, 6)) + 1j * rng.normal(size=(2, 6, 6))
    h, s = a + a.conj().T, b @ b.conj().T + np.eye(6)
    with gpu():
        assert np.allclose(
            solve_torch(h, s, "cuda").energies, solve_dense(h, s).energies, atol=1e-12
        )
