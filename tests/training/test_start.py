"""``train --from BUNDLE``: the weights and units of a finished model are where training starts."""

from __future__ import annotations

import dataclasses
import pathlib

import pytest
import torch

from deeph_gformer.cli import main
from deeph_gformer.config import TrainConfig, from_mapping
from deeph_gformer.errors import ConfigError
from deeph_gformer.gformer.bundle import load_bundle, save_bundle
from deeph_gformer.stage1 import load_stage1
from deeph_gformer.training.stage2 import train_gformer

from ..conftest import write_tiny_stage1
from .test_training import Folder, dataset, settings

SIZES = {"width": 16, "heads": 4, "embed": 4, "gaussians": 8, "gated_channels": 4}


def run(
    root: pathlib.Path,
    stage1: pathlib.Path,
    output: pathlib.Path,
    start: str = "",
    rate: float = 5e-3,
    **model: object,
) -> dict:
    values = settings(
        root, output, epochs=2, learning_rate=rate, min_learning_rate=0.0, warmup_steps=0
    )
    values |= {"model": SIZES | model, "start": start}
    return train_gformer(from_mapping(TrainConfig, values), load_stage1(stage1))[1]


@pytest.fixture()
def finished(make_folder: Folder, tmp_path: pathlib.Path) -> tuple[pathlib.Path, ...]:
    root, stage1 = dataset(make_folder), write_tiny_stage1(tmp_path / "stage1")
    run(root, stage1, tmp_path / "first")
    return root, stage1, tmp_path / "first" / "bundle"


def test_training_starts_where_the_bundle_ended(
    finished: tuple[pathlib.Path, ...], tmp_path: pathlib.Path
) -> None:
    """With a learning rate of next to nothing the weights stay.

    From random ones they are others.
    """
    root, stage1, bundle = finished
    run(root, stage1, tmp_path / "second", str(bundle), rate=1e-12)
    run(root, stage1, tmp_path / "fresh", rate=1e-12)
    before, after, fresh = (
        load_bundle(f).model.state_dict()
        for f in (bundle, tmp_path / "second" / "bundle", tmp_path / "fresh" / "bundle")
    )
    assert all(torch.allclose(after[n], before[n], atol=1e-6) for n in before)
    assert not torch.allclose(fresh["head.gates.2.weight"], before["head.gates.2.weight"])


def test_a_training_that_makes_it_worse_says_so(
    finished: tuple[pathlib.Path, ...],
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The bundle is judged on the validation structures of the new training; they are those of its
    own here, whose error it has in its record."""
    root, stage1, bundle = finished
    own = load_bundle(bundle).training["validation"]
    spoilt = run(root, stage1, tmp_path / "spoilt", str(bundle), rate=1.0)
    assert spoilt["start_validation"] == pytest.approx(own, rel=1e-6)
    key = (
        "gauge_free_refined_mae_meV"
        if "gauge_free_refined_mae_meV" in own
        else ("raw_refined_mae_meV")
    )
    before, now = own[key], spoilt["validation"][key]
    assert f"--from {bundle}: on validation" in capsys.readouterr().out and now > before
    assert f"started from ({before:.4f} meV, now {now:.4f} meV)" in caplog.text
    caplog.clear()
    run(root, stage1, tmp_path / "same", str(bundle), rate=1e-12)
    assert "started from" not in caplog.text


def test_another_form_of_equation_3_starts_without_effect(
    finished: tuple[pathlib.Path, ...], tmp_path: pathlib.Path
) -> None:
    root, stage1, bundle = finished
    run(root, stage1, tmp_path / "second", str(bundle), rate=1e-12, pairs="adjacent")
    state = load_bundle(tmp_path / "second" / "bundle").model.state_dict()
    assert state["invariant.fc.2.weight"].abs().max() < 1e-6
    assert torch.allclose(
        state["head.gates.0.weight"],
        load_bundle(bundle).model.state_dict()["head.gates.0.weight"],
        atol=1e-6,
    )


def test_other_sizes_are_named(finished: tuple[pathlib.Path, ...], tmp_path: pathlib.Path) -> None:
    root, stage1, bundle = finished
    with pytest.raises(ConfigError, match="--from .*another network, model.width is 16 there;"):
        run(root, stage1, tmp_path / "second", str(bundle), width=32)


def test_the_command_takes_the_model_of_the_bundle(
    finished: tuple[pathlib.Path, ...], tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, stage1, bundle = finished
    words = ["--preprocessed", str(root), "--stage1", str(stage1), "--from", str(bundle)]
    words += ["--epochs", "1", "--output", str(tmp_path / "second"), "--set", "data.gauge=raw"]
    assert main(["train", *words]) == 0
    made = load_bundle(tmp_path / "second" / "bundle").model.config
    assert made == load_bundle(bundle).model.config and made.width == SIZES["width"]
    (tmp_path / "a.yaml").write_text("model: {width: 32}\noutput: third\n")
    words[words.index("--output") + 1] = str(tmp_path / "third")
    assert main(["train", str(tmp_path / "a.yaml"), *words]) == 2  # what is given stays
    assert "model.width is 16 there; use the same" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("gauge", "standard", "energy zero .*, or set data.gauge=standard$"),
        ("cascade", False, "purpose .*, or set cascade=false$"),
    ],
)
def test_bundles_of_another_purpose_are_named(
    finished: tuple[pathlib.Path, ...],
    tmp_path: pathlib.Path,
    key: str,
    value: object,
    words: str,
) -> None:
    root, stage1, bundle = finished
    save_bundle(bundle, dataclasses.replace(load_bundle(bundle), **{key: value}))  # type: ignore
    with pytest.raises(ConfigError, match=words):
        run(root, stage1, tmp_path / "second", str(bundle))


def test_another_stage_1_is_named(
    finished: tuple[pathlib.Path, ...], tmp_path: pathlib.Path
) -> None:
    root, _, bundle = finished
    other = write_tiny_stage1(tmp_path / "other", seed=7)
    with pytest.raises(ConfigError, match="another stage 1"):
        run(root, other, tmp_path / "second", str(bundle))
