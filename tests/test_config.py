"""The strict reader of settings."""

from __future__ import annotations

import dataclasses
import pathlib

import pytest

from deeph_gformer import config as c
from deeph_gformer.errors import ConfigError


def test_values_and_defaults(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(
        "model: {width: 64}\ntraining:\n  learning_rate: 1e-3\n  betas: [0.8, 0.9]\nstage1: here\n"
    )
    made = c.load_yaml(c.TrainConfig, path, {"training.epochs": 7})
    assert (
        made.model.width,
        made.training.learning_rate,
        made.training.betas,
        made.training.epochs,
        made.stage1,
    ) == (
        64,
        1e-3,
        (0.8, 0.9),
        7,
        "here",
    )
    assert made.model.heads == c.GFormerConfig().heads


def test_section_keeps_its_own_defaults() -> None:
    made = c.from_mapping(c.TrainStage1Config, {"training": {"epochs": 3}})
    assert (
        made.training.learning_rate
        == c.TrainStage1Config().training.learning_rate
        != c.TrainingConfig().learning_rate
    )


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"modle": {}}, "did you mean 'model'"),
        ({"model": {"widht": 3}}, "did you mean 'width'"),
        ({"model": {"arch": "papre"}}, "choose one of paper"),
        ({"model": {"width": "wide"}}, "int is needed"),
        ({"model": {"width": True}}, "int is needed"),
        ({"training": {"betas": [0.9]}}, "needs 2 values"),
        ({"model": 3}, "a mapping"),
        ({"training": {"learning_rate": "fast"}}, "float is needed"),
    ],
)
def test_mistakes_are_named(values: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        c.from_mapping(c.TrainConfig, values)


@pytest.mark.parametrize(
    ("key", "value", "interval"),
    [
        *(
            (f"model.{k}", v, "[1, 8192]")
            for k, v in (
                ("width", 0),
                ("width", -8),
                ("gated_channels", 0),
                ("embed", 0),
                ("embed", 10**9),  # would take all memory before anything fails
                ("width", 10**9),
            )
        ),
        ("model.groups", 0, "[1, 100]"),
        ("model.groups", 10**9, "[1, 100]"),
        ("model.gaussians", 1, "[2, 8192]"),
        ("model.messages", -1, "[0, 8192]"),
        ("model.messages", 10**9, "[0, 8192]"),
        ("model.lmax", -1, "[0, 11]"),
        ("model.alpha", float("nan"), "(-inf, inf)"),
        *(
            (f"training.{k}", v, "[1, inf)")
            for k, v in (("epochs", 0), ("epochs", -1), ("batch_size", 0))
        ),
        *(  # as many threads took 200 GB, and as many processes were started
            (f"training.{k}", v, interval)
            for k, interval, values in (
                ("threads", "[0, 1024]", (-1, 10**9)),
                ("devices", "[1, 1024]", (0, 10**9)),
            )
            for v in values
        ),
        *(
            (f"training.{k}", -1, "[0, inf)")
            for k in ("weight_decay", "gradient_clip", "warmup_steps", "early_stopping")
        ),
        *(("training.learning_rate", v, "(0, inf)") for v in (-1, float("nan"), float("inf"), 0.0)),
        *(
            (f"training.states_{k}weight", v, "0 or [1e-6, 1e6]")
            for k, v in (("", 1e300), ("block_", 1e-9), ("coupling_", -1), ("", float("nan")))
        ),
        ("training.min_learning_rate", 0.1, "[0, training.learning_rate = 0.002]"),
        ("training.betas", [2, 3], "[0, 1)"),
        ("training.betas", [0.9, 1.0], "[0, 1)"),
        ("training.ema", 1.5, "[0, 1)"),
        ("training.ema", -1, "[0, 1)"),
        ("training.seed", -1, "[0, 4294967295]"),
        *(
            (f"data.{k}", v, "(0, 1)")
            for k, v in (("train_ratio", float("nan")), ("train_ratio", 0), ("val_ratio", -0.5))
        ),
        ("data.val_ratio", 0.5, "(0, 1]"),
    ],
)
def test_numbers_out_of_their_interval(key: str, value: object, interval: str) -> None:
    with pytest.raises(ConfigError) as caught:
        c.from_mapping(c.TrainConfig, c.apply_overrides({}, {key: value}))
    section, name = key.split(".")
    assert (
        f"{section}." in str(caught.value)
        and name in str(caught.value)
        and str(caught.value).endswith(f"allowed is {interval}")
    )


@pytest.mark.parametrize(
    ("key", "value"),
    [("num_blocks", 0), ("num_blocks", -1), ("cutoff_radius", 0), ("cutoff_radius", -1)],
)
def test_stage_1_numbers_out_of_their_interval(key: str, value: int) -> None:
    with pytest.raises(ConfigError, match=rf"model\.{key} is {value}.*; allowed is"):
        c.from_mapping(c.TrainStage1Config, {"model": {key: value}})


def test_numbers_at_the_end_of_their_interval() -> None:
    values = {
        "model": {"width": 1, "heads": 1, "messages": 0},
        "training": {"epochs": 1, "ema": 0, "betas": [0, 0.5], "min_learning_rate": 2e-3}
        | {"states_weight": 1e-6, "states_block_weight": 0, "states_coupling_weight": 1e6},
    }
    made = c.from_mapping(c.TrainConfig, values)
    assert (made.model.messages, made.training.betas, made.training.min_learning_rate) == (
        0,
        (0.0, 0.5),
        made.training.learning_rate,
    )
    section = c.from_mapping(
        c.TrainStage1Config, {"training": {"min_learning_rate": 1.5e-3}}
    )  # below this section's own learning rate
    assert section.training.min_learning_rate == 1.5e-3


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("stage1: a\nstage1: b\n", "line 2: key 'stage1'"),
        ("model:\n  width: 8\n  width: 9\n", "line 3: key 'width'"),
    ],
)
def test_key_given_twice(tmp_path: pathlib.Path, text: str, words: str) -> None:
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(ConfigError, match=f"{words} is given twice"):
        c.load_yaml(c.TrainConfig, tmp_path / "a.yaml")


def test_files(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ConfigError, match="not found"):
        c.load_yaml(c.TrainConfig, tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_text("a: [1,")
    with pytest.raises(ConfigError, match="not valid YAML"):
        c.load_yaml(c.TrainConfig, tmp_path / "bad.yaml")
    with pytest.raises(ConfigError, match="is a value"):
        c.apply_overrides({"model": 3}, {"model.width": 4})


@pytest.mark.parametrize("kind", [c.GFormerConfig, c.Stage1Config, c.TrainingConfig, c.DataConfig])
def test_every_field_is_documented(kind: type) -> None:
    docs = c.field_docs(kind)
    assert all(docs.get(f.name) for f in dataclasses.fields(kind))


def test_mapping_round_trip() -> None:
    made = c.from_mapping(c.TrainConfig, {"training": {"betas": [0.5, 0.6]}})
    assert c.from_mapping(c.TrainConfig, c.to_mapping(made)) == made


def test_overrides_reach_any_depth() -> None:
    given = {"a": None, "b": {"c": {"d": 1}}}
    assert c.apply_overrides(given, {"a.b.c": 1, "b.c.d": 2}) == {
        "a": {"b": {"c": 1}},
        "b": {"c": {"d": 2}},
    }
    assert given == {"a": None, "b": {"c": {"d": 1}}}
    with pytest.raises(ConfigError, match="'b.c.d' is a value, not a section"):
        c.apply_overrides(given, {"b.c.d.e": 1})


def test_attention_was_a_flag() -> None:
    for flag, name in ((True, "softmax"), (False, "mean")):
        old = c.upgrade_model({"attention": flag, "pairs": "all"})
        assert c.from_mapping(c.GFormerConfig, old).attention == name
