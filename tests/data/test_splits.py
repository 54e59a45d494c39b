"""Training, validation and test structures, from files or drawn."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Callable

import pytest

from deeph_gformer.data.splits import make_splits, read_splits
from deeph_gformer.errors import ConfigError, DataError

Folder = Callable[..., pathlib.Path]


def test_splits(make_folder: Folder, tmp_path: pathlib.Path) -> None:
    for n in range(5):
        make_folder(f"s{n}", seed=n)
    root = tmp_path / "data"
    first = make_splits(root, 0.6, 0.2, 1)
    assert first == make_splits(root, 0.6, 0.2, 1) and sorted(
        f.name for v in first.values() for f in v
    ) == [f"s{n}" for n in range(5)]
    path = tmp_path / "splits.json"
    path.write_text(json.dumps({"train": {"range": [0, 2]}, "val": ["s3"], "test": ["s4"]}))
    assert [f.name for f in read_splits(path, root)["train"]] == ["s0", "s1", "s2"]
    path.write_text(json.dumps({"train": ["gone"], "val": ["s0"], "test": ["s3", "s4"]}))
    found = read_splits(path, root, only="test")
    assert [f.name for f in found["test"]] == ["s3", "s4"]
    with pytest.raises(ConfigError, match="'gone' of split 'train' is no structure"):
        read_splits(path, root, only="train")
    for table, words in (
        ({"train": ["s0"], "val": ["s0"]}, "'s0' is in 'train' and in 'val'"),
        ({"train": ["s9"], "val": ["s1"]}, "'s9'"),
        ({"train": [], "val": ["s1"]}, "train split is empty; train and val need .* 1 in all"),
        ({"trian": ["s0"]}, "lists under"),
        ({"train": ["s0"], "vali": []}, "lists under"),
        *(
            ({"train": train, "val": ["s1"]}, "split 'train' is .*; a list")
            for train in (3, None, "s0", {"range": [0, 1], "step": 2})
        ),
        *(
            (
                {"train": {"range": ends}, "val": ["s1"]},
                "'range' of split 'train' is .*0 <= first <= last <= 4",
            )
            for ends in ([0], ["a", 0], 2, [2, 1], [-1, 0], [0, 5], [0, True])
        ),
    ):
        path.write_text(json.dumps(table))
        with pytest.raises(ConfigError, match=words):
            read_splits(path, root)


def test_split_file_that_is_none(make_folder: Folder, tmp_path: pathlib.Path) -> None:
    make_folder("a")
    (tmp_path / "binary").write_bytes(b"\x89HDF\xff\xfe")
    for path, words in (
        (tmp_path, "is a folder"),
        (tmp_path / "binary", "no text"),
        (tmp_path / "none", "file not found"),
    ):
        with pytest.raises(DataError, match=f"{path.name}: {words}"):
            read_splits(path, tmp_path / "data")


def test_leak_is_found_by_content(make_folder: Folder, tmp_path: pathlib.Path) -> None:
    make_folder("a", seed=1)
    make_folder("b", seed=1)
    path = tmp_path / "splits.json"
    path.write_text(json.dumps({"train": ["a"], "val": ["b"]}))
    with pytest.raises(ConfigError, match="same structure is in two splits"):
        read_splits(path, tmp_path / "data")


def test_structure_twice_in_a_split_is_noted(
    make_folder: Folder, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, seed in (("a", 1), ("b", 2), ("c", 1)):
        make_folder(name, seed=seed)
    path = tmp_path / "splits.json"
    path.write_text(json.dumps({"train": ["a", "c"], "val": ["b"]}))
    read_splits(path, tmp_path / "data")
    said = capsys.readouterr().err
    assert "twice" in said and "/a and " in said and "/c (train)" in said
