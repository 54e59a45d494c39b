"""Fewer validations, and activations that are made again: the same training."""

from __future__ import annotations

import csv
import pathlib
from collections.abc import Callable

import pytest
import torch

from deeph_gformer.cli import main
from deeph_gformer.config import TrainStage1Config, from_mapping
from deeph_gformer.training.stage1 import train_stage1

from .test_training import command, dataset, settings, stage2

Folder = Callable[..., pathlib.Path]


def validated(run: pathlib.Path) -> dict[int, float]:
    """Validation errors in the CSV log, by epoch."""
    with open(run / "logs" / "csv" / "metrics.csv", newline="") as file:
        rows = [r for r in csv.DictReader(file) if r["val_mae_meV"]]
    return {int(r["epoch"]): float(r["val_mae_meV"]) for r in rows}


def weights(run: pathlib.Path, name: str = "last") -> dict[str, torch.Tensor]:
    """Of a checkpoint."""
    path = run / "checkpoints" / f"{name}.ckpt"
    return dict(torch.load(path, weights_only=True)["state_dict"])


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_the_first_every_third_and_the_last_epoch_are_validated(
    make_folder: Folder,
    tiny_stage1: pathlib.Path,
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    root = dataset(make_folder)
    options = {"epochs": 6, "ema": 0.9, "schedule": "constant"}
    stage2(root, tiny_stage1, tmp_path / "all", **options)
    capsys.readouterr()
    _, record = stage2(root, tiny_stage1, tmp_path / "few", validate_every=3, **options)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch ")]
    every, few = validated(tmp_path / "all"), validated(tmp_path / "few")
    assert list(every) == list(range(6)) and list(few) == [0, 3, 5]
    assert all(few[epoch] == every[epoch] for epoch in few)  # training went as it always goes
    assert equal(weights(tmp_path / "all"), weights(tmp_path / "few"))
    assert record["best_val_mae_meV"] == pytest.approx(min(few.values()), rel=1e-6)
    assert record["best_epoch"] == min(few, key=few.__getitem__)
    assert ["meV | best" in line for line in lines] == [e in few for e in range(6)]
    kept = torch.load(tmp_path / "few" / "checkpoints" / "best.ckpt", weights_only=True)
    assert kept["epoch"] == record["best_epoch"]


def test_a_resumed_run_validates_first_and_ends_alike(
    make_folder: Folder, tiny_stage1: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    root = dataset(make_folder)
    options = {"validate_every": 4, "schedule": "constant", "ema": 0.9}
    stage2(root, tiny_stage1, tmp_path / "whole", epochs=8, **options)
    stage2(root, tiny_stage1, tmp_path / "parts", epochs=2, **options)
    stage2(root, tiny_stage1, tmp_path / "parts", epochs=8, resume=True, **options)
    assert list(validated(tmp_path / "whole")) == [0, 4, 7]
    assert list(validated(tmp_path / "parts")) == [0, 1, 2, 4, 7]
    assert equal(weights(tmp_path / "whole"), weights(tmp_path / "parts"))


@pytest.mark.parametrize("extra", [{"early_stopping": 3}, {"schedule": "plateau"}])
def test_patience_counts_validations(
    make_folder: Folder, tiny_stage1: pathlib.Path, tmp_path: pathlib.Path, extra: dict
) -> None:
    """A rate so small that nothing gets better after the first epoch.

    Patience of three epochs is one validation of five; an error that was not measured anew is no
    epoch without a better one.
    """
    options = {"learning_rate": 1e-30, "min_learning_rate": 1e-31, "validate_every": 5}
    options |= {"epochs": 16, "schedule": "constant", "plateau_patience": 3, **extra}
    _, record = stage2(dataset(make_folder), tiny_stage1, tmp_path / "run", **options)
    rates = [
        float(group["lr"])
        for state in torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)[
            "optimizer_states"
        ]
        for group in state["param_groups"]
    ]
    if "early_stopping" in extra:
        assert record["epochs"] == 6  # validated: 0, which stays the best, and 5
    else:  # validated: 0, the best, 5 and 10, of which the second is one too many
        assert rates == [pytest.approx(5e-31)]


def test_checkpointed_activations_change_no_number(
    make_folder: Folder, tiny_stage1: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    root = dataset(make_folder)
    for name, again in (("kept", False), ("again", True)):
        stage2(root, tiny_stage1, tmp_path / name, epochs=2, checkpoint_activations=again)
        values = settings(root, tmp_path / f"{name}1", epochs=2, checkpoint_activations=again)
        values["model"] = {"irreps_embed": "4x0e", "irreps_mid": "4x0e+2x1o+2x2e", "num_blocks": 2}
        train_stage1(from_mapping(TrainStage1Config, values))
    assert equal(weights(tmp_path / "kept"), weights(tmp_path / "again"))
    assert equal(weights(tmp_path / "kept1"), weights(tmp_path / "again1"))


def test_no_validation_at_all_is_refused(
    make_folder: Folder,
    tiny_stage1: pathlib.Path,
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    root = dataset(make_folder)
    words = ["--stage1", str(tiny_stage1), "--set", "training.validate_every=0"]
    assert main(command("train", root, tmp_path / "run", *words)) == 2
    assert "validate_every" in capsys.readouterr().err and not (tmp_path / "run").exists()
