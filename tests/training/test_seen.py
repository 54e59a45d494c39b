"""Structures that a model was trained on are known by its folder, or by stage 1's error on them."""

from __future__ import annotations

import json
import pathlib
import shutil
from typing import Any

import numpy as np
import pytest

import deeph_gformer
from deeph_gformer.analysis.evaluate import evaluate
from deeph_gformer.config import TrainConfig, from_mapping
from deeph_gformer.errors import ModelError
from deeph_gformer.stage1 import load_stage1
from deeph_gformer.stage1.bundle import read_notes
from deeph_gformer.training.seen import LEAST_RATIO, recognise, share, structures_note
from deeph_gformer.training.stage2 import train_gformer

from .test_training import Folder, dataset, settings

LISTED = ["s0", "s2"]


def listing(stage1: pathlib.Path, root: pathlib.Path, names: list[str] = LISTED) -> pathlib.Path:
    """Give a model folder the list that our training writes."""
    note = structures_note({"train": [root / n for n in names], "val": []})
    (stage1 / "deeph_gformer.json").write_text(json.dumps(note))
    return stage1


def folders(root: pathlib.Path) -> list[pathlib.Path]:
    return sorted(root.iterdir())


def test_listed_structures_are_known_under_any_name(
    make_folder: Folder, tiny_stage1: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    root = dataset(make_folder, 4)
    listing(tiny_stage1, root)
    shutil.move(root / "s2", root / "a_new_name")
    errors = ([2.0, 1.0, 2.2, 2.4], [2.0])
    seen = recognise(load_stage1(tiny_stage1), folders(root), [root / "s1"], errors, "weight")
    assert seen.names == ("a_new_name", "s0")
    assert seen.flags.tolist() == [True, True, False, False]


def test_ratio_and_weight(
    make_folder: Folder, tiny_stage1: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """Median of 2 and 4 on others, validation included, 1.5 on seen ones: twice."""
    root = dataset(make_folder, 5)
    stage1 = load_stage1(listing(tiny_stage1, root))
    train, val = folders(root)[:4], folders(root)[4:]
    errors = ([1.0, 2.0, 2.0, 4.0], [3.0])
    seen = recognise(stage1, train, val, errors, "weight")
    assert seen.ratio == 2 and seen.names == ("s0", "s2")
    assert seen.weights.tolist() == [2**-4, 1, 2**-4, 1]
    assert "2.00 times: memorised" in seen.text and not seen.warning
    assert recognise(stage1, train, val, errors, "leave-out").weights.tolist() == [0, 1, 0, 1]
    assert recognise(stage1, train, val, errors, "use").weights.tolist() == [1, 1, 1, 1]


def test_what_is_not_memorised_is_used() -> None:
    assert share(LEAST_RATIO, "weight") == share(0.9, "weight") == share(np.nan, "weight") == 1


def test_never_everything_is_left_out(
    make_folder: Folder, tiny_stage1: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    root = dataset(make_folder, 3)
    stage1 = load_stage1(listing(tiny_stage1, root))
    train, val = [root / "s0", root / "s2"], [root / "s1"]
    seen = recognise(stage1, train, val, ([1.0, 1.0], [2.0]), "leave-out")
    assert seen.weights.tolist() == [1, 1] and seen.warning
    assert "--folds" in seen.text and "--cross-fit" in seen.text
    assert "data.edge_variants=2" in seen.text
    told = recognise(stage1, train, val, ([1.0, 1.0], [2.0]), "weight", varied=True)
    assert told.text.endswith("2.00 times: memorised") and not told.warning
    assert not recognise(stage1, train, val, ([1.0, 1.0], [1.1]), "leave-out").warning


def test_without_a_list_a_clear_gap_of_errors_tells(
    make_folder: Folder, tiny_stage1: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    root = dataset(make_folder, 6)
    stage1 = load_stage1(tiny_stage1)
    train, val = folders(root)[:5], folders(root)[5:]
    seen = recognise(stage1, train, val, ([1.0, 2.6, 1.1, 3.0, 2.5], [2.8]), "weight")
    assert seen.names == ("s0", "s2") and "by its error" in seen.text
    for unclear in ([1.0, 1.3, 1.7, 2.0, 2.4], [1.0, 2.6, 2.7, 3.0, 2.5]):  # no gap; a lone one
        assert not recognise(stage1, train, val, (unclear, [2.8]), "weight").names


def test_names_that_deephe3_kept_from_training_are_not_seen(
    make_folder: Folder, tiny_stage1: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    root = dataset(make_folder, 6)
    ini = tiny_stage1 / "src" / "train.ini"
    text = ini.read_text()
    assert "extra_validation = []" in text
    ini.write_text(text.replace("extra_validation = []", "extra_validation = ['s2', 's5']"))
    errors = ([1.0, 2.6, 1.1, 3.0, 2.5], [2.8])
    seen = recognise(
        load_stage1(tiny_stage1), folders(root)[:5], folders(root)[5:], errors, "weight"
    )
    assert seen.names == ("s0",)


@pytest.mark.parametrize("content", [None, "no ini at all", "[train]\nextra_validation = 5%"])
def test_folders_with_an_odd_train_ini_are_read(
    make_folder: Folder, tiny_stage1: pathlib.Path, content: str | None
) -> None:
    root = dataset(make_folder, 2)
    stage1, ini = load_stage1(tiny_stage1), tiny_stage1 / "src" / "train.ini"
    ini.unlink()
    if content is not None:
        ini.write_text(content)
    assert not recognise(stage1, folders(root), [], ([1.0, 1.0], []), "weight").names


def test_damaged_list_is_named(
    make_folder: Folder, tiny_stage1: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    root = dataset(make_folder, 3)
    listing(tiny_stage1, root)
    path = tiny_stage1 / "deeph_gformer.json"
    table = json.loads(path.read_text())
    table["structures"]["train"][0]["lengths"] = "none"
    path.write_text(json.dumps(table))
    with pytest.raises(ModelError, match="deeph_gformer.json: its list of structures is damaged"):
        recognise(load_stage1(tiny_stage1), folders(root), [], ([1.0] * 3, []), "weight")


def test_list_grows_with_a_further_training(make_folder: Folder) -> None:
    root = dataset(make_folder, 3)
    first = structures_note({"train": [root / "s0"], "val": []})
    second = structures_note({"train": [root / "s1"], "val": []}, first)
    assert [m["name"] for m in second["structures"]["train"]] == ["s0", "s1"]
    assert second["structures"]["complete"]
    foreign = structures_note({"train": [root / "s1"], "val": []}, {"gauge": "raw"})
    assert not foreign["structures"]["complete"]


def train(
    root: pathlib.Path, stage1: pathlib.Path, output: pathlib.Path, start: str = "", **data: Any
) -> dict[str, Any]:
    values = settings(root, output, epochs=3) | {"start": start}
    values["model"] = {"width": 16, "heads": 4, "embed": 4, "gaussians": 8, "gated_channels": 4}
    values["data"] |= data
    return train_gformer(from_mapping(TrainConfig, values), load_stage1(stage1))[1]


def test_training_says_what_it_does(
    make_folder: Folder,
    tiny_stage1: pathlib.Path,
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    root = dataset(make_folder, 4)
    splits = tmp_path / "splits.json"
    splits.write_text(json.dumps({"train": ["s0", "s1", "s2"], "val": ["s3"], "test": []}))
    listing(tiny_stage1, root)
    record = train(root, tiny_stage1, tmp_path / "run", splits=str(splits), memorised="leave-out")
    said = capsys.readouterr().out
    assert "stage 1 was trained on 2 of the 3 training structures" in said
    assert "they are left out (data.memorised=leave-out)" in said
    assert record["stage1_seen"]["structures"] == LISTED
    assert record["stage1_seen"]["weight"] == 0
    assert record["stage1_seen"]["source"] == "its model folder lists them"
    assert read_notes(tiny_stage1)["structures"]["complete"]


def test_bundles_list_their_structures_and_evaluate_names_them(
    make_folder: Folder,
    tiny_stage1: pathlib.Path,
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A fine-tune keeps those of the training that it started from."""
    root = dataset(make_folder, 4)
    splits, first = tmp_path / "splits.json", tmp_path / "first"
    for names, output, start in (
        (["s0", "s1"], first, ""),
        (["s1", "s2"], tmp_path / "second", str(first / "bundle")),
    ):
        splits.write_text(json.dumps({"train": names, "val": ["s3"], "test": []}))
        train(root, tiny_stage1, output, start=start, splits=str(splits))
    model = deeph_gformer.load(tmp_path / "second" / "bundle", stage1=tiny_stage1)
    assert model.bundle is not None
    record = model.bundle.training["trained_on"]
    assert [m["name"] for m in record["train"]] == ["s0", "s1", "s2"] and record["complete"]
    assert [m["name"] for m in record["val"]] == ["s3"]
    capsys.readouterr()
    evaluate(model, root, rotations=0, invariance=False, states=False)
    said = capsys.readouterr().err
    assert "the GFormer was trained on 3 of these 4 structures (s0, s1, s2)" in said
