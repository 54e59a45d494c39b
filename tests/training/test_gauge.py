"""data.gauge: chosen by measurement, kept with the model, inherited, and never contradicted."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Callable

import numpy as np
import pytest
import torch

from deeph_gformer.analysis.evaluate import evaluate
from deeph_gformer.cli import main
from deeph_gformer.data.gauge import subtract_overlap
from deeph_gformer.errors import ConfigError, DataError
from deeph_gformer.io import legacy
from deeph_gformer.pipeline import load
from deeph_gformer.stage1 import load_stage1
from deeph_gformer.training.gauge import choose_gauge, energy_zeros

from ..conftest import random_structure
from .test_training import command

Folder = Callable[..., pathlib.Path]


def shifted(make_folder: Folder, shifts: list[float]) -> list[pathlib.Path]:
    """Structures whose μ are these numbers."""
    folders = []
    for n, mu in enumerate(shifts):
        folder = make_folder(f"s{n}", seed=n, atoms=2)
        _, h, s = random_structure(n, 2)
        legacy.write_blocks(
            folder / "hamiltonians.h5", subtract_overlap(h, s, energy_zeros([folder])[0] - mu)
        )
        folders.append(folder)
    return folders


class Pretender:
    """A stage 1 that predicts H with another zero of energy."""

    def __init__(self, folders: list[pathlib.Path], zero: float | None) -> None:
        self.gauge, self.name, self.folders, self.zero = "unknown", "pretender", folders, zero

    def model(self, stage1: object, bundle: object, device: object) -> Pretender:
        return self

    def predict(self, folder: pathlib.Path, edges: str, any_basis: bool = False) -> Pretender:
        _, h, s = random_structure(self.folders.index(folder), 2)
        h = subtract_overlap(h, s, energy_zeros_of(h, s) - (self.zero or 0.0))
        self.stage1 = h
        return self


def energy_zeros_of(h: object, s: object) -> float:
    return float(np.vdot(s.values, h.values) / np.vdot(s.values, s.values))  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("shifts", "gauge", "words"),
    [
        ([-5.6, -5.4, -5.8], "standard", "spread of 163.3 meV (-5.800 to -5.400 eV)"),
        ([2.0, 2.0, 2.0], "raw", "one zero of energy"),
    ],
)
def test_spread_of_the_zero_decides(
    make_folder: Folder, shifts: list[float], gauge: str, words: str
) -> None:
    choice = choose_gauge("auto", shifted(make_folder, shifts))
    assert choice.gauge == gauge and words in str(choice)
    assert choice.spread_eV == pytest.approx(np.std(shifts), abs=1e-9)


def test_set_whose_zero_is_unknown(make_folder: Folder) -> None:
    folders = shifted(make_folder, [1.0, 2.0, 3.0])
    (folders[1] / "overlaps.h5").unlink()
    choice = choose_gauge("auto", folders)
    assert choice.gauge == "raw" and "s1/overlaps.h5: file not found" in choice.reason
    with pytest.raises(DataError, match=r"s1/overlaps\.h5: file not found.*data\.gauge=raw"):
        choose_gauge("standard", folders)


@pytest.mark.parametrize(("zero", "gauge"), [(-5.6, "raw"), (0.02, "standard")])
def test_gauge_of_a_foreign_stage_1_is_measured(
    make_folder: Folder, monkeypatch: pytest.MonkeyPatch, zero: float, gauge: str
) -> None:
    folders = shifted(make_folder, [-5.6, -5.4, -5.8])
    foreign = Pretender(folders, zero)
    monkeypatch.setattr("deeph_gformer.training.gauge.HamiltonianModel", foreign.model)
    choice = choose_gauge("auto", folders, foreign)  # type: ignore[arg-type]
    assert choice.gauge == gauge and f"its own μ is {zero:.3f} eV" in choice.reason
    other = "raw" if gauge == "standard" else "standard"
    with pytest.raises(ConfigError, match=f"data.gauge is {other}, but stage 1 pretender"):
        choose_gauge(other, folders, foreign)  # type: ignore[arg-type]
    assert choose_gauge(other, folders, foreign, correction=False).gauge == other  # type: ignore[arg-type]


def test_from_stage_1_to_evaluate(
    make_folder: Folder, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nobody names a gauge; every step says it, keeps it, and shows errors without μS first."""
    root = shifted(make_folder, [-5.6, -5.4, -5.8])[0].parent
    (tmp_path / "splits.json").write_text(json.dumps({"train": ["s1", "s2"], "val": ["s0"]}))
    assert main(command("train-stage1", root, tmp_path / "one")) == 0
    assert "gauge standard (H - μS): μ of the training" in capsys.readouterr().out
    model = tmp_path / "one" / "model"
    assert load_stage1(model).gauge == "standard"
    assert main(["info", str(model)]) == 0
    assert "gauge: standard (H - μS)" in capsys.readouterr().out
    words = command("train", root, tmp_path / "two", "--stage1", str(model))
    assert main([*words, "--set", "data.gauge=raw"]) == 2
    error = capsys.readouterr().err
    assert "data.gauge is raw, but stage 1" in error and error.count("\n") == 1
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "that of stage 1 (its model folder says so)" in out
    assert "best validation MAE: stage 1" in out and "(without μS; raw: stage 1" in out
    both = load(tmp_path / "two" / "bundle", model)
    assert both.gauge == "standard"
    result = evaluate(both, root, rotations=0, invariance=False)
    assert result["errors"] == "without μS"
    total = result["total"]
    assert total["refined"]["mae_all_meV"] == total["gauge_free_refined_mae_meV"]
    assert total["raw_refined_mae_meV"] > 1.2 * total["gauge_free_refined_mae_meV"]


def test_bundle_and_stage_1_of_different_gauges(
    make_folder: Folder, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = shifted(make_folder, [-5.6, -5.4, -5.8])[0].parent
    (tmp_path / "splits.json").write_text(json.dumps({"train": ["s0", "s1"], "val": ["s2"]}))
    assert main(command("train-stage1", root, tmp_path / "one")) == 0
    model = tmp_path / "one" / "model"
    words = command("train", root, tmp_path / "two", "--stage1", str(model), "--epochs", "1")
    assert main(words) == 0
    notes = json.loads((model / "deeph_gformer.json").read_text())
    (model / "deeph_gformer.json").write_text(json.dumps({**notes, "gauge": "raw"}))
    words = ["refine", "--preprocessed", str(root), "--stage1", str(model)]
    words += ["--model", str(tmp_path / "two" / "bundle"), "--output", str(tmp_path / "out")]
    capsys.readouterr()
    assert main(words) == 2 and "is of the gauge 'raw'" in capsys.readouterr().err
    (model / "deeph_gformer.json").write_text('{"gauge": "Lorenz"}')
    assert main(words) == 2 and "'gauge' is 'Lorenz'" in capsys.readouterr().err


def test_float32_rounding_of_labels_without_shift(make_folder: Folder) -> None:
    """A large μ is taken out in double precision, before labels become float32."""
    from deeph_gformer.algebra.orbitals import Basis, make_target_blocks
    from deeph_gformer.data.dataset import load_sample

    targets = make_target_blocks(Basis((16, 42), ((0, 1), (0, 1, 2)), False))
    labels = []
    for mu in (0.0, 1e4):
        (folder,) = shifted(make_folder, [mu])
        sample = load_sample(folder, targets, "hamiltonians", torch.float32, "standard")
        assert sample.gauge == pytest.approx(mu, abs=1e-6)
        labels.append(sample.label)
    torch.testing.assert_close(labels[0], labels[1], rtol=0, atol=1e-6)
