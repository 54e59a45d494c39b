"""The on-site scale against what was put in."""

from __future__ import annotations

import pathlib
from collections.abc import Callable

import numpy as np
import pytest
import torch

import deeph_gformer
from deeph_gformer.algebra.blocks import BlockAssembly, DirectSumToProduct
from deeph_gformer.algebra.orbitals import Basis, make_target_blocks
from deeph_gformer.data.dataset import Sample, load_sample
from deeph_gformer.data.graph import batch_graphs
from deeph_gformer.gformer.onsite import OnsiteScale, onsite_rows
from deeph_gformer.io import BlockMatrix, legacy

from ..conftest import SHELLS, random_structure, write_tiny_stage1
from ..test_pipeline import make_bundle


def crystals(tmp_path: pathlib.Path, spinful: bool, count: int = 4) -> tuple[DirectSumToProduct, list[Sample]]:
    """Made-up structures whose on-site blocks are levels of their elements and noise."""
    basis = Basis((16, 42), (SHELLS[16], SHELLS[42]), spinful)
    targets = make_target_blocks(basis)
    samples = []
    for seed in range(count):
        structure, h, _ = random_structure(seed, spinful=spinful, name=f"s{seed}")
        levels = {16: np.repeat([-15.0, -4.0], [1, 3]), 42: np.repeat([80.0, 7.0, -30.0], [1, 3, 5])}
        blocks = []
        for key, block in h:
            on_site = key[3] == key[4] and not any(key[:3])
            level = np.diag(np.tile(levels[int(structure.numbers[key[3]])], 2 if spinful else 1))
            blocks.append(block * 0.01 + level if on_site else block)
        legacy.write_structure(tmp_path / structure.name, structure)
        legacy.write_blocks(tmp_path / structure.name / "hamiltonians.h5", BlockMatrix.from_blocks(h.keys, blocks))
        samples.append(load_sample(tmp_path / structure.name, targets, "hamiltonians", torch.float64))
    return DirectSumToProduct(targets, ">=0.5", torch.float64), samples


@pytest.mark.parametrize("spinful", [False, True])
def test_a_factor_is_found_and_taken_out_and_a_shift_is_not(tmp_path: pathlib.Path, spinful: bool) -> None:
    to_product, (*train, unseen) = crystals(tmp_path, spinful)
    truth = to_product.inverse(unseen.label)
    rows, types = onsite_rows(unseen.graph)
    factor, shift = 1.03, 0.7
    wrong = unseen.label.clone()
    keys = unseen.graph.edge_key.numpy()[rows]
    matrix = BlockAssembly(to_product.targets).to_matrix(unseen.label[rows].numpy(), unseen.graph.node_type.numpy(), keys)
    moved = BlockMatrix.from_blocks(keys, [factor * b + shift * np.eye(len(b)) for _, b in matrix])
    wrong[rows] = torch.from_numpy(BlockAssembly(to_product.targets).from_matrix(moved, unseen.graph.node_type.numpy())[0])
    predicted = to_product.inverse(wrong)
    record = OnsiteScale.measure(to_product.targets, True, to_product, train, [(unseen.graph, predicted)])
    assert 0 < record["spread"] < 1e-3 and record["validation"] == pytest.approx(0.03, abs=1e-3)
    scale = OnsiteScale(record, to_product.targets, True, to_product)
    made = to_product(scale.corrected(predicted, unseen.graph))
    after = BlockAssembly(to_product.targets).to_matrix(made[rows].numpy(), unseen.graph.node_type.numpy(), keys)
    for (_, block), (_, original) in zip(after, matrix):  # the shift stays, the factor goes but for what the noise leaves
        assert np.abs(block - original - shift * np.eye(len(block))).max() < 2e-3 * np.abs(original).max()
    others = torch.ones(len(predicted), dtype=torch.bool)
    others[rows] = False
    assert torch.equal(scale.corrected(predicted, unseen.graph)[others], predicted[others])
    assert torch.equal(scale.corrected(truth, unseen.graph), truth)  # within what DFT's blocks show: nothing is done


def test_limits(tmp_path: pathlib.Path) -> None:
    to_product, samples = crystals(tmp_path, False)
    record = OnsiteScale.measure(to_product.targets, True, to_product, samples, [])
    scale = OnsiteScale({**record, "limit": 0.01}, to_product.targets, True, to_product)
    blocks, types = scale.reference[[0, 1, 1]], torch.tensor([0, 1, 1])
    assert scale.kappa(scale.sums(1.5 * blocks, types)) == pytest.approx(0.5) and scale.factor(scale.sums(1.5 * blocks, types)) == 0.01
    assert scale.factor(scale.sums(0.5 * blocks, types)) == -0.01
    assert scale.factor(scale.sums((1 + 1.9 * scale.spread) * blocks, types)) == 0.0
    assert OnsiteScale.measure(to_product.targets, True, to_product, samples[:1], []) == {}


def test_structures_have_factors_of_their_own(make_folder: Callable[..., pathlib.Path], tmp_path: pathlib.Path) -> None:
    """Two structures as one graph are predicted as one after the other."""
    stage1 = write_tiny_stage1(tmp_path / "s")
    model = deeph_gformer.load(make_bundle(stage1, tmp_path / "b", trained=True), stage1=stage1)
    graphs = [model.read(make_folder(f"x{n}", seed=n, atoms=3 + n))[1] for n in range(2)]
    assert model.onsite is not None
    sums = [torch.rand(g.edges, model.targets.irreps().dim, dtype=torch.float64) for g in graphs]
    one = torch.cat([model.onsite.corrected(h, g) for h, g in zip(sums, graphs)])
    assert torch.allclose(model.onsite.corrected(torch.cat(sums), batch_graphs(graphs)), one, atol=1e-14)
    assert not torch.equal(one, torch.cat(sums))
