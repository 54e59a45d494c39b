"""The loss in DFT's states against eigenvalue slopes, ``evaluate``'s numbers, the gauge, and its
bad input."""

from __future__ import annotations

import csv
import json
import pathlib
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from deeph_gformer.algebra.blocks import BlockAssembly
from deeph_gformer.algebra.orbitals import TargetBlocks, make_target_blocks
from deeph_gformer.analysis.states import dft_states, state_errors
from deeph_gformer.cli import main
from deeph_gformer.config import TrainingConfig
from deeph_gformer.data.dataset import Sample, basis_of, load_samples
from deeph_gformer.data.gauge import spin_double
from deeph_gformer.data.symmetry import hermitian_product, transpose_index
from deeph_gformer.errors import ConfigError, DataError
from deeph_gformer.io import BlockMatrix, legacy, read_matrix
from deeph_gformer.io.blocks import onsite_keys
from deeph_gformer.io.folder import read_folder
from deeph_gformer.training.batches import Batch, collate
from deeph_gformer.training.monitor import Monitor
from deeph_gformer.training.state_bank import StateBank, read_problem, state_bank
from deeph_gformer.training.states import StructureStates, state_terms

from .test_training import dataset, stage2

Folder = Callable[..., pathlib.Path]
MESH = {"states_spacing": 0.9}


def prepared(
    folders: list[pathlib.Path], dtype: torch.dtype = torch.float64, **settings: Any
) -> tuple[list[Sample], TargetBlocks, StateBank, TrainingConfig]:
    """Samples of the folders and their states; the folders are training and validation set."""
    targets = make_target_blocks(basis_of(folders))
    samples = load_samples(folders, targets, "hamiltonians", dtype)
    values = {"states_weight": 1.0, "loss": "mae", **MESH, **settings}
    config = TrainingConfig(**values)
    return samples, targets, StateBank(samples, samples, targets, config, 1.0), config


def random_error(sample: Sample, targets: TargetBlocks, size: float, seed: int = 0) -> torch.Tensor:
    """Hermitian, like what inference writes."""
    generator = torch.Generator().manual_seed(seed)
    error = size * torch.randn(sample.label.shape, generator=generator, dtype=sample.label.dtype)
    error = torch.where(sample.mask, error, error.new_zeros(()))
    return hermitian_product(error, sample.partner, transpose_index(targets))


def predicted(sample: Sample, targets: TargetBlocks, error: torch.Tensor) -> BlockMatrix:
    """DFT's H and the error, as a block matrix."""
    return BlockAssembly(targets).to_matrix(
        (sample.label + error).numpy(),
        sample.graph.node_type.numpy(),
        sample.graph.edge_key.numpy(),
    )


def alone(sample: Sample) -> Batch:
    return collate([sample], [(None, None)])


def of(bank: StateBank, sample: Sample) -> StructureStates:
    assert bank.loss is not None
    return bank.loss.get(sample.folder.resolve().as_posix())


@pytest.mark.parametrize("spinful", [False, True])
def test_validation_has_the_numbers_of_evaluate(make_folder: Folder, spinful: bool) -> None:
    folder = make_folder("a", spinful=spinful, atoms=3)
    (sample,), targets, bank, _ = prepared([folder])
    error = random_error(sample, targets, 0.02)
    known = dft_states(read_problem(folder, spinful))
    expected = state_errors(known, predicted(sample, targets, error))
    found = bank.errors(error, alone(sample))
    assert found.states == expected.states > 10
    for name in ("error_meV", "ghost_meV", "mu_eV"):
        assert getattr(found, name) == pytest.approx(getattr(expected, name), rel=1e-8)


@pytest.mark.parametrize("spinful", [False, True])
@pytest.mark.parametrize("shift", [(0.0, 0.0, 0.0), (0.5, 0.25, 0.0)])
def test_terms_are_the_errors_of_evaluate_k_point_by_k_point(
    make_folder: Folder, spinful: bool, shift: tuple[float, float, float]
) -> None:
    folder = make_folder("a", spinful=spinful, atoms=3)
    (sample,), targets, bank, config = prepared(
        [folder], states_coupling_weight=1.0, states_shift=shift
    )
    error = random_error(sample, targets, 0.02)
    known = dft_states(read_problem(folder, spinful), spacing=config.states_spacing, shift=shift)
    assert len(known.points) > 2 and all((known.points[1].k != 0)[:2]) == any(shift)
    expected = state_errors(known, predicted(sample, targets, error))
    states, moved, pushed, count = of(bank, sample), 0.0, 0.0, 0.0
    for n, weight in enumerate(states.weights.tolist()):
        point = states.at(n)
        terms = state_terms(error, point, "mae", 1.0)
        inside = weight * int(point.valid.sum())
        moved += inside * float(terms.first)
        pushed += inside * float(terms.coupling)
        count += inside
    assert moved / count * 1e3 == pytest.approx(expected.error_meV, rel=1e-5)
    assert pushed / count * 1e3 == pytest.approx(expected.ghost_meV, rel=1e-3)


def test_block_term_is_the_mean_of_all_pairs_of_states(make_folder: Folder) -> None:
    folder = make_folder("a", atoms=3)
    (sample,), targets, bank, _ = prepared([folder], states_block_weight=1.0)
    error = random_error(sample, targets, 0.02)
    known = dft_states(read_problem(folder, False), spacing=0.9)
    point = known.points[1]
    problem = read_problem(folder, False)
    moved = type(problem)(problem.structure, predicted(sample, targets, error), problem.s)
    change = moved.at(point.k)[0] - problem.at(point.k)[0]
    c = point.vectors[:, point.inside[0] : point.inside[1]]
    d = np.abs(c.conj().T @ change @ c)
    expected = d[~np.eye(len(d), dtype=bool)].mean()
    terms = state_terms(error, of(bank, sample).at(1), "mae", 1.0)
    assert float(terms.block) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("spinful", [False, True])
def test_a_shift_of_the_energy_zero_costs_nothing(make_folder: Folder, spinful: bool) -> None:
    folder = make_folder("a", spinful=spinful, atoms=3)
    (sample,), targets, bank, _ = prepared(
        [folder], states_block_weight=1.0, states_coupling_weight=1.0
    )
    s = read_matrix(folder, "overlap", read_folder(folder))
    types = sample.graph.node_type.numpy()
    values, _ = BlockAssembly(targets).from_matrix(spin_double(s) if spinful else s, types)
    zero = torch.from_numpy(values).to(sample.label.dtype)
    error, point = random_error(sample, targets, 0.02), of(bank, sample).at(1)
    for kind in ("mse", "mae", "huber"):
        one, two = (state_terms(e, point, kind, 0.1) for e in (error, error + 0.3 * zero))
        for a, b in zip(one, two, strict=True):
            assert float(a) == pytest.approx(float(b), rel=1e-8)
    assert float(state_terms(0.3 * zero, point, "mse", 0.1).first) < 1e-6


def test_elements_without_a_label_count_nothing(make_folder: Folder) -> None:
    folder = make_folder("a", atoms=3)
    (sample,), targets, bank, _ = prepared([folder])
    batch, error = alone(sample), random_error(sample, targets, 0.02)
    half = sample.mask & (torch.arange(len(sample.mask)) % 2 == 0)[:, None]
    assert bank.loss is not None
    drawn = bank.loss.draw(batch, 0)
    kept = torch.where(half, error, error.new_zeros(()))
    one = bank.loss(torch.where(half, error, error + 9.0), batch._replace(mask=half), drawn)
    two = bank.loss(kept, batch, drawn)
    assert float(one[0]) == pytest.approx(float(two[0]), rel=1e-12)
    found = bank.errors(torch.where(half, error, error + 9.0), batch._replace(mask=half))
    assert found.error_meV == pytest.approx(bank.errors(kept, batch).error_meV, rel=1e-12)


def test_degenerate_states_count_with_the_norm_of_their_block(make_folder: Folder) -> None:
    """Any basis of a degenerate subspace gives the same loss, and it is that of the eigenvalues."""
    folder = make_folder("a", atoms=3)
    (sample,), targets, bank, _ = prepared([folder])
    error, point = random_error(sample, targets, 0.02), of(bank, sample).at(1)
    group = torch.where(torch.arange(len(point.group)) < 3, 0, point.group + 7)
    point = point._replace(group=group)
    turn = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))[0].to(point.vectors.dtype)
    vectors = point.vectors.clone()
    vectors[:, :3] = vectors[:, :3] @ turn
    for kind in ("mse", "mae"):
        one, two = (
            float(state_terms(error, p, kind, 1.0).first)
            for p in (point, point._replace(vectors=vectors))
        )
        assert one == pytest.approx(two, rel=1e-9)
    three = point._replace(valid=torch.arange(len(group)) < 3)
    other = read_problem(folder, False)
    moved = type(other)(other.structure, predicted(sample, targets, error), other.s)
    k, c = point.k.numpy(), point.vectors[:, :3].numpy()
    d = c.conj().T @ (moved.at(k)[0] - other.at(k)[0]) @ c
    mu = float((torch.real(three.density * error)).sum())
    shifts = np.linalg.eigvalsh(d) - mu
    assert float(state_terms(error, three, "mse", 1.0).first) == pytest.approx(
        (shifts**2).mean(), rel=1e-5
    )


def test_gradient_is_that_of_finite_differences(make_folder: Folder) -> None:
    folder = make_folder("a", atoms=2)
    (sample,), targets, bank, _ = prepared(
        [folder], states_block_weight=0.5, states_coupling_weight=2.0
    )
    batch = alone(sample)
    assert bank.loss is not None
    drawn = bank.loss.draw(batch, 1)
    error = random_error(sample, targets, 0.02).requires_grad_(True)
    bank.loss(error, batch, drawn)[0].backward()
    assert error.grad is not None
    way = torch.where(sample.mask, torch.randn_like(error), error.new_zeros(()))
    step = 1e-6
    ends = [float(bank.loss(error.detach() + e * way, batch, drawn)[0]) for e in (-step, step)]
    slope = (ends[1] - ends[0]) / (2 * step)
    assert float((error.grad * way).sum()) == pytest.approx(slope, rel=1e-5)


def test_a_batch_is_the_mean_of_its_structures(make_folder: Folder) -> None:
    folders = [make_folder("a", atoms=2), make_folder("b", seed=3, atoms=3)]
    samples, targets, bank, _ = prepared(folders, states_block_weight=1.0)
    errors = [random_error(s, targets, 0.02, n) for n, s in enumerate(samples)]
    both = collate(samples, [(None, None)] * 2)
    assert bank.loss is not None
    drawn = bank.loss.draw(both, 5)
    value, moved = bank.loss(torch.cat(errors), both, drawn)
    bank.loss.count = 2
    pairs = bank.loss.draw(both, 5)
    again, _ = bank.loss(torch.cat(errors), both, pairs)
    bank.loss.count = 1
    four = [
        float(bank.loss(errors[n // 2], alone(samples[n // 2]), [s])[0])
        for n, s in enumerate(pairs)
    ]
    assert len(pairs) == 4 and float(again) == pytest.approx(np.mean(four), rel=1e-12)
    single = [bank.loss(e, alone(s), [d]) for e, s, d in zip(errors, samples, drawn, strict=True)]
    assert float(value) == pytest.approx(np.mean([float(v) for v, _ in single]), rel=1e-12)
    assert float(moved) == pytest.approx(np.mean([float(m) for _, m in single]), rel=1e-12)


def test_k_points_are_drawn_by_their_weight_and_depend_on_seed_and_step(
    make_folder: Folder,
) -> None:
    (sample,), _, bank, _ = prepared([make_folder("a", atoms=2)])
    batch, states = alone(sample), of(bank, sample)
    assert bank.loss is not None
    drawn = [bank.loss.draw(batch, n)[0].k.tolist() for n in range(600)]
    assert drawn == [bank.loss.draw(batch, n)[0].k.tolist() for n in range(600)]
    points = states.points[0].tolist()
    share = np.array([drawn.count(k) / 600 for k in points])
    assert share == pytest.approx(states.weights.numpy(), abs=0.08) and len(points) > 3
    bank.loss.count = 3
    three = [[s.k.tolist() for s in bank.loss.draw(batch, n)] for n in range(300)]
    share = np.array([sum(some.count(k) for some in three) / 900 for k in points])
    assert share == pytest.approx(states.weights.numpy(), abs=0.05)
    bank.loss.count, bank.loss.seed = 1, 1
    assert drawn != [bank.loss.draw(batch, n)[0].k.tolist() for n in range(600)]


def test_the_unit_is_how_far_independent_errors_move_a_state(make_folder: Folder) -> None:
    (sample,), _, bank, _ = prepared([make_folder("a", atoms=4)], states_shift=(0.3, 0.2, 0.1))
    assert bank.loss is not None
    rng, squares = torch.Generator().manual_seed(1), []
    states = of(bank, sample)
    blank = states._replace(density=torch.zeros_like(states.density))
    for _ in range(20):
        error = torch.randn(sample.label.shape, generator=rng, dtype=sample.label.dtype)
        error = torch.where(sample.mask, error, error.new_zeros(()))
        for n in range(len(states.weights)):
            squares.append(float(state_terms(error, blank.at(n), "mse", 1.0).first))
    # without H = H†, half of the variance of ½(H + H†)
    assert np.sqrt(2 * np.mean(squares)) == pytest.approx(bank.loss.unit, rel=0.3)


def test_states_in_files_are_those_in_memory(
    make_folder: Folder, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    samples, targets, bank, config = prepared([make_folder("a", atoms=2)])
    files = state_bank({"train": samples, "val": samples}, targets, config, 1.0, tmp_path / "c")
    assert files is not None and "(files)" in capsys.readouterr().out
    batch, error = alone(samples[0]), random_error(samples[0], targets, 0.1)
    assert bank.loss is not None and files.loss is not None
    one, two = (loss(error, batch, loss.draw(batch, 3))[0] for loss in (bank.loss, files.loss))
    assert float(one) == float(two)
    assert bank.errors(error, batch) == files.errors(error, batch)


def test_without_need_nothing_is_made(make_folder: Folder) -> None:
    folder = make_folder("a", atoms=2, overlap=False)
    targets = make_target_blocks(basis_of([folder]))
    samples = load_samples([folder], targets, "hamiltonians", torch.float32)
    both = {"train": samples, "val": samples}
    assert state_bank(both, targets, TrainingConfig(), 1.0, None) is None
    with pytest.raises(DataError, match=r"a: no overlaps.*training.states_weight=0"):
        state_bank(both, targets, TrainingConfig(monitor="states"), 1.0, None)
    with pytest.raises(ConfigError, match="training.rotate"):
        state_bank(both, targets, TrainingConfig(states_weight=1.0, rotate=True), 1.0, None)


def test_bad_input_is_named(make_folder: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_folder("a", atoms=2)
    with pytest.raises(DataError, match=r"hamiltonians.h5: no state lies within 1e-07 eV"):
        prepared([folder], states_window=1e-7)
    with pytest.raises(ConfigError, match="training.states_memory = 1e-06"):
        prepared([folder], states_memory=1e-6)
    with pytest.raises(ConfigError, match=r"h5: DFT's states at .* k-points .*states_spacing"):
        prepared([folder], states_spacing=0.002, states_memory=0.1)  # said before any is solved
    with pytest.raises(ConfigError, match="k mesh .*; at most 2000000 are computed"):
        prepared([folder], states_spacing=1e-320)
    info = json.loads((folder / "info.json").read_text())
    (folder / "info.json").write_text(json.dumps({**info, "fermi_level": None}))
    with pytest.raises(ConfigError, match=r"hamiltonians.h5: info.json states no Fermi level"):
        prepared([folder])
    (folder / "info.json").write_text(json.dumps(info))
    structure = read_folder(folder)
    overlap = read_matrix(folder, "overlap", structure)
    onsite = onsite_keys(overlap.keys)
    for e in np.flatnonzero(onsite).tolist():
        overlap.block(e)[...] = np.eye(len(overlap.block(e)))
    legacy.write_blocks(folder / "overlaps.h5", overlap)
    smallest = [
        np.linalg.eigvalsh(read_problem(folder, False).at(k)[1])[0] - 1.0
        for k in ([0, 0, 0], [0.5, 0.5, 0.5])
    ]
    for e in np.flatnonzero(~onsite).tolist():  # S(k) is positive definite at one of these k-points
        overlap.block(e)[...] /= -np.mean(smallest)
    legacy.write_blocks(folder / "overlaps.h5", overlap)
    capsys.readouterr()
    prepared([folder], states_spacing=0.7, states_window=200.0)
    said = capsys.readouterr().out
    assert "k-points left out, first: " in said and "hamiltonians.h5, k = [" in said


def rows(folder: pathlib.Path) -> list[dict[str, str]]:
    with open(folder / "logs" / "csv" / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_a_resumed_run_with_states_equals_an_unbroken_one(
    make_folder: Folder, tiny_stage1: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    root = dataset(make_folder)
    how: dict[str, Any] = {"schedule": "constant", "ema": 0.9, "monitor": "both", **MESH}
    how |= {"states_weight": 0.5, "states_coupling_weight": 0.5, "states_every": 3}
    _, whole = stage2(root, tiny_stage1, tmp_path / "whole", epochs=5, **how)
    stage2(root, tiny_stage1, tmp_path / "parts", epochs=2, **how)
    _, parts = stage2(root, tiny_stage1, tmp_path / "parts", epochs=5, resume=True, **how)
    weights = [
        torch.load(tmp_path / run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for run in ("whole", "parts")
    ]
    assert all(torch.equal(weights[0][k], weights[1][k]) for k in weights[0])
    judged = [r for r in rows(tmp_path / "whole") if r.get("val_states_meV")]
    assert [int(r["epoch"]) for r in judged] == [0, 3, 4]
    score = [np.sqrt(float(r["val_states_meV"]) * float(r["val_mae_meV"])) for r in judged]
    assert [float(r["val_score"]) for r in judged] == pytest.approx(score, rel=1e-5)
    assert all(
        float(r["train_states_meV"]) > 0 for r in rows(tmp_path / "whole") if r["train_loss"]
    )
    best = judged[int(np.argmin(score))]
    for record in (whole, parts):
        assert record["monitor"] == "both" and record["best_epoch"] == int(best["epoch"])
        for name in ("val_mae_meV", "val_states_meV", "val_ghost_meV"):
            assert record[f"best_{name}"] == pytest.approx(float(best[name]), rel=1e-5)
    names = json.loads((tmp_path / "parts" / "splits.json").read_text())
    for name in (names["train"][0], names["val"][0]):
        path = root / name / "info.json"
        kept = path.read_text()
        level = json.loads(kept)["fermi_level"] + 0.01
        path.write_text(json.dumps({**json.loads(kept), "fermi_level": level}))
        with pytest.raises(ConfigError, match=f"other data: the Fermi level of {name} changed"):
            stage2(root, tiny_stage1, tmp_path / "parts", epochs=6, resume=True, **how)
        path.write_text(kept)


def test_steps_along_the_gradient_lower_the_errors_that_validation_sees(
    make_folder: Folder,
) -> None:
    """Of a free error, first order and ghosts, each by its own terms."""
    (sample,), targets, bank, _ = prepared(
        [make_folder("a", atoms=2)], loss="mse", states_coupling_weight=1.0, states_spacing=0.6
    )
    batch, start = alone(sample), random_error(sample, targets, 0.05)
    assert bank.loss is not None
    before, after = bank.errors(start, batch), []
    for weights in ((1.0, 0.0, 0.0), (0.0, 0.0, 1.0)):
        bank.loss.weights = weights
        error = start.clone().requires_grad_(True)
        optimizer = torch.optim.Adam([error], lr=2e-3)
        for step in range(80):
            optimizer.zero_grad()
            bank.loss(error, batch, bank.loss.draw(batch, step))[0].backward()
            optimizer.step()
        after.append(bank.errors(error.detach(), batch))
    assert after[0].error_meV < 0.2 * before.error_meV
    assert after[1].ghost_meV < 0.2 * before.ghost_meV
    assert after[1].error_meV > 0.5 * before.error_meV


def test_stage_1_trains_with_states_from_the_command_line(
    make_folder: Folder, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = dataset(make_folder)
    words = ["train-stage1", "--preprocessed", str(root), "--output", str(tmp_path / "run")]
    words += ["--device", "cpu", "--json", str(tmp_path / "r.json")]
    values = ["data.gauge=raw", "model.irreps_mid=4x0e+4x1o+4x2e", "model.irreps_embed=4x0e"]
    values += ["model.num_blocks=1", "training.epochs=2", "training.states_weight=0.3"]
    values += ["training.monitor=states", "training.states_spacing=0.9"]
    values += ["data.train_ratio=0.67", "data.val_ratio=0.33"]
    for value in values:
        words += ["--set", value]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "DFT's states within 3 eV of the Fermi level" in said and "| states " in said
    record = json.loads((tmp_path / "r.json").read_text())
    assert record["monitor"] == "states" and record["best_val_states_meV"] > 0
    shown = re.findall(r"\| best states +([0-9.]+) meV", said)
    assert float(shown[-1]) == pytest.approx(record["best_val_states_meV"], abs=1e-4)


def test_a_run_that_an_earlier_version_began_keeps_its_best_error() -> None:
    """Its checkpoints know the score of the best epoch, and no errors beside it."""
    monitor = Monitor(TrainingConfig())
    assert monitor.record(1.5) == {"best_val_mae_meV": 1.5, "monitor": "mae"}
    worse = {"best_val_mae_meV": 2.0, "best_epoch": 7}
    monitor.load_state_dict({"score": 2.0, "best_score": 2.0, "best": worse})
    assert monitor.record(1.5)["best_val_mae_meV"] == 1.5
    assert monitor.record(2.0) == {**worse, "monitor": "mae"}
