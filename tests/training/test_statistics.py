"""The shift of a new network's output starts at the training set's means."""

from __future__ import annotations

import dataclasses
import json
import pathlib

import numpy as np
import pytest
import torch

import deeph_gformer
from deeph_gformer.algebra.blocks import DirectSumToProduct
from deeph_gformer.algebra.orbitals import Basis, make_target_blocks
from deeph_gformer.config import TrainStage1Config, from_mapping
from deeph_gformer.data.dataset import Sample
from deeph_gformer.errors import ConfigError
from deeph_gformer.io.folder import read_matrix
from deeph_gformer.stage1.bundle import read_model_folder
from deeph_gformer.stage1.embedded.output import OutputScale
from deeph_gformer.training.stage1 import train_stage1
from deeph_gformer.training.statistics import start_scale

from ..stage1.helpers import random_graph
from .test_training import Folder, settings

BASIS = Basis((42, 52), ((0, 1), (0,)), False)


def samples(count: int = 3) -> list[Sample]:
    """Random labels; the second structure's last edges have none."""
    targets = make_target_blocks(BASIS, "all")
    generator = torch.Generator().manual_seed(0)
    out = []
    for seed in range(count):
        graph = random_graph(BASIS, 5, seed)
        label = torch.randn(graph.edges, targets.width, generator=generator, dtype=torch.float64)
        label = 3.0 + label * 0.5
        mask = torch.ones_like(label, dtype=torch.bool)
        if seed == 1:
            mask[-4:], label[-4:] = False, 1e6
        partner = torch.arange(graph.edges)
        out.append(Sample(str(seed), pathlib.Path(str(seed)), graph, label, mask, partner))
    return out


def test_start_scale() -> None:
    """s-s blocks are irreps themselves; the 0e of a p-p block is its trace over sqrt 3."""
    targets = make_target_blocks(BASIS, "all")
    to_product = DirectSumToProduct(targets, ">=0.5", torch.float64)
    data = samples()
    scale = OutputScale(targets.irreps(), 2).double()
    start_scale(scale, data, to_product)
    channel = {
        shells: number
        for number, entry in enumerate(targets.blocks)
        for pair, shells in entry.items()
        if pair == (0, 0)
    }
    # every channel has one 0e, of l1 = l2 only: in the order of the channels
    scalars = [c for c, (a, b) in enumerate(targets.degrees) if a == b]
    assert scale.mu.shape[1] == len(scalars)
    checked = 0
    for column, c in enumerate(scalars):
        shells = next((s for s, number in channel.items() if number == c), None)
        if shells is None:
            continue
        first, stop = targets.slices[c], targets.slices[c + 1]
        for loops in (True, False):
            values = []
            for sample in data:
                i, j = sample.graph.node_type[sample.graph.edge_index]
                rows = (i == 0) & (j == 0) & (sample.graph.self_loop == loops) & sample.mask[:, 0]
                block = sample.label[rows][:, first:stop].numpy()
                size = int(round(block.shape[1] ** 0.5))
                trace = np.trace(block.reshape(-1, size, size), axis1=1, axis2=2) / size**0.5
                values += trace.tolist()
            row = 0 if loops else 2
            assert scale.mu[row, column].item() == pytest.approx(np.mean(values), rel=1e-9)
            checked += 1
    assert checked >= 4


def test_what_does_not_occur() -> None:
    """Element pairs without an edge keep zero; the scale is one everywhere."""
    targets = make_target_blocks(BASIS, "all")
    (sample,) = samples(1)
    single = dataclasses.replace(
        sample, graph=sample.graph._replace(node_type=torch.zeros_like(sample.graph.node_type))
    )
    scale = OutputScale(targets.irreps(), 2).double()
    start_scale(scale, [single], DirectSumToProduct(targets, ">=0.5", torch.float64))
    assert torch.equal(scale.sigma, torch.ones_like(scale.sigma))
    assert not scale.mu[[1, 3, 4, 5]].any() and scale.mu[0].any() and scale.mu[2].any()


def test_train_stage1(make_folder: Folder, tmp_path: pathlib.Path) -> None:
    """The folder of ``model.scale_shift`` and ``model.norm`` predicts what validation said, and can
    be gone on with; other settings than its own are refused."""
    for n in range(3):
        make_folder(f"s{n}", seed=n, atoms=2)
    values = settings(tmp_path / "data", tmp_path / "run", hermitian=False, epochs=1)
    network = {"irreps_embed": "4x0e", "irreps_mid": "4x0e+3x1o+2x2e+1x3o", "num_blocks": 1}
    values["model"] = {**network, "scale_shift": True, "norm": "training"}
    values["dtype"] = "float64"
    record = train_stage1(from_mapping(TrainStage1Config, values))
    folder = read_model_folder(tmp_path / "run" / "model")
    assert folder.config.norm == "training"
    assert folder.config.index_to_Z == folder.targets.basis.elements
    name = json.loads((tmp_path / "run" / "splits.json").read_text())["val"][0]
    model = deeph_gformer.load(stage1=tmp_path / "run" / "model")
    place = tmp_path / "data" / name
    made = model.predict(place, edges="hamiltonians", hermitian=False).hamiltonian
    error = np.abs(made.values - read_matrix(place, "hamiltonian").values).mean() * 1e3
    assert error == pytest.approx(record["best_val_mae_meV"], rel=1e-9)
    again = from_mapping(TrainStage1Config, {**values, "output": str(tmp_path / "again")})
    assert train_stage1(again, continue_from=str(tmp_path / "run" / "model"))["epochs"] == 1
    plain = {**values, "model": network, "output": str(tmp_path / "plain")}
    train_stage1(from_mapping(TrainStage1Config, plain))
    other = from_mapping(TrainStage1Config, {**values, "output": str(tmp_path / "other")})
    with pytest.raises(ConfigError, match="model.scale_shift, model.norm"):
        train_stage1(other, continue_from=str(tmp_path / "plain" / "model"))
