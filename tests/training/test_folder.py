"""Which folders a training takes, and what it leaves of what was there."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import pytest

from deeph_gformer.config import TrainConfig, TrainStage1Config
from deeph_gformer.errors import ConfigError
from deeph_gformer.training.folder import check_run, recorded

from ..conftest import tree, write_tree

SPLITS: dict[str, list[pathlib.Path]] = {"train": [], "val": [], "test": []}


def _killed(config: Any, more: dict[str, bytes]) -> None:
    """What a run leaves that dies before its first checkpoint, and further files."""
    folder = pathlib.Path(config.output)
    with pytest.raises(RuntimeError), recorded(folder, config, SPLITS):
        left = tree(folder)
        raise RuntimeError
    write_tree(folder, left | more)


@pytest.mark.parametrize("end", [RuntimeError, KeyboardInterrupt])
def test_a_run_that_fails_takes_back_its_files_only(
    tmp_path: pathlib.Path, end: type[BaseException]
) -> None:
    """``--splits FOLDER/splits.json --output FOLDER``: the file is the user's."""
    before = {"splits.json": b'{"train": ["a"], "of": "mine"}', "notes": b"x", "model/a": b"y"}
    write_tree(tmp_path, before)
    config = TrainConfig(output=str(tmp_path))
    with pytest.raises(end), recorded(check_run(config, SPLITS, False), config, SPLITS):
        assert json.loads((tmp_path / "splits.json").read_text()) == SPLITS
        write_tree(tmp_path, {"bundle/bundle.json": b"{}"})
        raise end
    assert tree(tmp_path) == before


def test_what_a_killed_run_left_is_replaced(tmp_path: pathlib.Path) -> None:
    """All but what it has not made, as the stage 1 that it is trained on."""
    config, mine = TrainConfig(output=str(tmp_path)), {"model/best_model.pkl": b"mine"}
    _killed(config, {"bundle/bundle.json": b'{"training": {"finished": false}}', **mine})
    with recorded(check_run(config, SPLITS, False), config, SPLITS):
        assert sorted(tree(tmp_path)) == ["config.json", "model/best_model.pkl", "splits.json"]


@pytest.mark.parametrize(
    ("config", "files", "said"),
    [
        (TrainConfig, {"bundle/bundle.json": b'{"training": {}}'}, "holds a finished run"),
        (TrainStage1Config, {"record.json": b"{}"}, "holds a finished run"),
    ],
)
def test_a_finished_run_stays_without_its_checkpoints(
    tmp_path: pathlib.Path, config: Any, files: dict[str, bytes], said: str
) -> None:
    _killed(config(output=str(tmp_path)), files)
    with pytest.raises(ConfigError, match=said):
        check_run(config(output=str(tmp_path)), SPLITS, False)


@pytest.mark.parametrize(
    ("config", "files", "said"),
    [
        (TrainConfig, {"config.json": b'{"model_type": "x"}', "model/a": b""}, "is of no training"),
        (TrainConfig, {"bundle/bundle.json": b"{}"}, "holds a finished run"),
        (TrainStage1Config, {"model/best_model.pkl": b""}, "model: is a model that no training"),
        (TrainStage1Config, {"model/code.py": b"mine"}, "model: is there, and of no training"),
        (TrainConfig, {"bundle/notes": b"mine"}, "bundle: is there, and of no training"),
    ],
)
def test_folders_of_others_are_not_taken(
    tmp_path: pathlib.Path, config: Any, files: dict[str, bytes], said: str
) -> None:
    write_tree(tmp_path, files)
    with pytest.raises(ConfigError, match=said):
        check_run(config(output=str(tmp_path)), SPLITS, False)
    assert tree(tmp_path) == files
