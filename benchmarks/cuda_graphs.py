"""Training steps as usual against CUDA graphs, on a GPU: the same losses, and how long each takes.

    python -m benchmarks.cuda_graphs          # in the repository, about two minutes

Made-up structures, networks of the shipped size, losses of H and of DFT's states; no data needed.
Prints a line of JSON per stage and spin; ``equal`` says whether the losses of 20 steps agree with
those of usual steps as two usual runs do with each other.
"""

from __future__ import annotations

import json
import pathlib
import tempfile
import time
from typing import Any

import torch

from deeph_gformer.algebra.blocks import DirectSumToProduct
from deeph_gformer.config import GFormerConfig, TrainingConfig
from deeph_gformer.data.dataset import Sample, load_samples
from deeph_gformer.gformer.model import GFormer
from deeph_gformer.io import legacy
from deeph_gformer.stage1 import load_stage1
from deeph_gformer.stage1.bundle import read_model_folder
from deeph_gformer.stage1.embedded.checkpoint import load_network
from deeph_gformer.stage1.provider import Stage1Provider
from deeph_gformer.training.batches import Batch, FeatureCache, collate
from deeph_gformer.training.cuda_graphs import StepGraphs
from deeph_gformer.training.module import HamiltonianTask, Stage1Task, Stage2Task
from deeph_gformer.training.state_bank import StateBank
from tests.conftest import random_structure, write_tiny_stage1

IRREPS = "32x0e+16x1o+8x2e+8x3o+4x4e"
STEPS = 20


def folders(root: pathlib.Path, spinful: bool) -> list[pathlib.Path]:
    """Three structures of eight atoms."""
    result = []
    for number in range(3):
        structure, h, s = random_structure(number, 8, spinful, f"s{number}")
        folder = root / f"data{int(spinful)}" / f"s{number}"
        legacy.write_structure(folder, structure)
        legacy.write_blocks(folder / "hamiltonians.h5", h)
        legacy.write_blocks(folder / "overlaps.h5", s)
        result.append(folder)
    return result


def task_of(
    stage: int,
    folder: pathlib.Path,
    provider: Stage1Provider,
    samples: list[Sample],
    config: TrainingConfig,
) -> HamiltonianTask:
    """What is trained, with the same random weights each time."""
    torch.manual_seed(0)
    to_product = DirectSumToProduct(provider.targets, provider.generation, torch.float32)
    task: HamiltonianTask
    if stage == 1:
        known = read_model_folder(folder)
        network = load_network(known, known.require_generation()).float()
        task = Stage1Task(network, to_product, config, 100, 0.3)
    else:
        irreps = provider.targets.irreps(provider.parity)
        shape = (2, irreps, provider.node_irreps, provider.edge_irreps, 5.0)
        task = Stage2Task(GFormer(GFormerConfig(width=96), *shape), to_product, config, 100, 0.3)
    task.requires_grad_(True)
    task.bank = StateBank(samples, [], provider.targets, config, 0.3, echo=lambda _: None)
    return task.to("cuda").train()


def run(task: HamiltonianTask, batches: list[Batch], graphs: bool) -> tuple[torch.Tensor, float]:
    """Losses of the first steps, and milliseconds of a later one."""
    device = torch.device("cuda", 0)
    optimizer = torch.optim.Adam(task.network.parameters(), lr=1e-3)
    kept = [batch.to(device) for batch in batches]
    task.graphs = StepGraphs(task, device) if graphs else None
    assert task.bank is not None and task.bank.loss is not None
    losses, start = [], 0.0
    for number in range(2 * STEPS):
        if number == STEPS:
            torch.cuda.synchronize()
            start = time.perf_counter()
        raw = batches[number % len(batches)]
        states = task.bank.loss.draw(raw, number)
        result: Any = None
        if task.graphs is not None:
            result = task.graphs.step(kept[number % len(batches)], states)
        optimizer.zero_grad()
        if result is None:
            result = task.losses(raw.to(device), tuple(s.to(device) for s in states))
            result[0].backward()
        elif task.graphs is not None:
            task.graphs.hand_over()
        torch.nn.utils.clip_grad_norm_(task.network.parameters(), 10.0)
        optimizer.step()
        losses.append(float(result[0]))
    torch.cuda.synchronize()
    return torch.tensor(losses[:STEPS]), (time.perf_counter() - start) / STEPS * 1e3


def main() -> None:
    """Every stage, without and with spin-orbit coupling."""
    root = pathlib.Path(tempfile.mkdtemp())
    print(torch.cuda.get_device_name(0), torch.__version__)
    for spinful in (False, True):
        first = write_tiny_stage1(
            root / f"first{int(spinful)}",
            spinful=spinful,
            dtype=torch.float32,
            irreps=IRREPS,
            blocks=3,
        )
        provider = load_stage1(first)
        samples = load_samples(
            folders(root, spinful), provider.targets, "hamiltonians", torch.float32
        )
        cache = FeatureCache(provider, "ram")
        for stage in (1, 2):
            config = TrainingConfig(
                states_weight=0.3, states_block_weight=0.3, states_coupling_weight=0.3, loss="mae"
            )
            batches = [
                collate([s], [(None, None) if stage == 1 else cache.get(s)]) for s in samples
            ]
            usual, again, graph = (
                run(task_of(stage, first, provider, samples, config), batches, g)
                for g in (False, False, True)
            )
            noise = float(((again[0] - usual[0]).abs() / usual[0].abs()).max())
            apart = float(((graph[0] - usual[0]).abs() / usual[0].abs()).max())
            row = {
                "stage": stage,
                "spin-orbit": spinful,
                "edges": samples[0].graph.edges,
                "usual_ms": round(again[1], 2),
                "graph_ms": round(graph[1], 2),
                "two_usual_runs": noise,
                "graph_and_usual": apart,
                "equal": apart <= max(1e-4, 5 * noise),
            }
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
