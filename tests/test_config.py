"""The strict reader of settings."""

from __future__ import annotations

import dataclasses
import pathlib

import pytest

from deeph_gformer import config as c
from deeph_gformer.errors import ConfigError


def test_values_and_defaults(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("model: {width: 64}\ntraining:\n  learning_rate: 1e-3\n  betas: [0.8, 0.9]\nstage1: here\n")
    made = c.load_yaml(c.TrainConfig, path, {"training.epochs": 7})
    assert (made.model.width, made.training.learning_rate, made.training.betas, made.training.epochs, made.stage1) == (
        64,
        1e-3,
        (0.8, 0.9),
        7,
        "here",
    )
    assert made.model.heads == c.GFormerConfig().heads


def test_section_keeps_its_own_defaults() -> None:
    made = c.from_mapping(c.TrainStage1Config, {"training": {"epochs": 3}})
    assert made.training.learning_rate == c.TrainStage1Config().training.learning_rate != c.TrainingConfig().learning_rate


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
    assert c.apply_overrides(given, {"a.b.c": 1, "b.c.d": 2}) == {"a": {"b": {"c": 1}}, "b": {"c": {"d": 2}}}
    assert given == {"a": None, "b": {"c": {"d": 1}}}
    with pytest.raises(ConfigError, match="'b.c.d' is a value, not a section"):
        c.apply_overrides(given, {"b.c.d.e": 1})
