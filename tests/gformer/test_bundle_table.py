"""``bundle.json``: every key is checked, and what changes numbers is under its fingerprint."""

from __future__ import annotations

import json
import os
import pathlib
from typing import Any

import pytest

import deeph_gformer
from deeph_gformer.errors import ModelError
from deeph_gformer.gformer import bundle as b

from ..conftest import ROOT, write_tiny_stage1
from ..test_pipeline import make_bundle

SHIPPED = sorted(p.parent for p in (ROOT / "examples").glob("**/gformer/bundle.json"))
NONSENSE: dict[str, tuple[Any, ...]] = {
    "format": (0, -1, True, "3", 3.5, None, [3]),
    "model": (None, [], 3, {"width": "16"}, {"width": True}, {"arch": "other"}),
    "cutoff_angstrom": (True, -1, 0, "7.2", None, [7.2], 1e300, 61, float("nan"), float("inf")),
    "cascade": (1, 0, "true", None, []),
    "parity": (1, "false", None),
    "features": (1, "false", None),
    "gauge": ("none", 1, None, ["raw"]),
    "dtype": ("float16", "int64", 1, None),
    "e3nn_generation": ("0.5", 0.3, None),
    "basis": (None, {}, []),
    "basis.elements": ([16], [16, 16], [16.0, 42], [True, 42], ["16", "42"], [0, 42], 16),
    "basis.orbital_types": ([[0, 1]], [[0, 1], 2], [[0, -1], [0, 1, 2]], [[], []], None),
    "basis.spinful": (0, "no", None),
    "target_blocks": (None, [], {}, [[0, 0]], [{"16 16": [0, -1]}], [{"16 16": [0, 0, 0]}]),
    "stage1": (1, [], {}, "x"),
    "stage1.fingerprint": ("x", None, 5),
    "stage1.generation": ("1.0", None),
    "stage1.node_irreps": ("8x0e", [8], ["8y0e"], [["8x0e"]], ["1000x0e+1x99e", "1x0e"]),
    "weights": ("", None, 5),
    "training": (None, [], "x"),
    "training.guard": ([], {"mean": "x"}, {"mean": [True]}, {"mean": float("nan")}),
    "training.time_reversal": (None, 1, "true"),
    "training.periodicity": (2, ["2"], [4], [True]),
    "training.electrons": ({}, [{"electrons": -1, "composition": {"S": 1}}], [1]),
    "training.config": (None, "x", {"data": [2]}, {"training": 1}),
    "training.validation": (None, "x", 3, [1]),
    "edge_range_angstrom": ([], [[1.0]], [[1.0, 2.0], [3.0, "x"]], [[4.2, 4.2], [4.2, 9.9]]),
}
CHANGES: dict[str, Any] = {
    "cutoff_angstrom": 3.0,
    "cascade": False,
    "parity": False,
    "gauge": "standard",
    "e3nn_generation": "0.3",
    "dtype": "float32",
    "basis.elements": [8, 42],
    "training.guard": {"correction": {"mean_meV": 1e9}},
    "training.periodicity": [0, 1, 2, 3],
    "training.electrons": [{"composition": {"S": 1}, "electrons": 5.0}],
    "model.norm_floor": 0.5,
    "model.envelope": 0.0,
    "stage1.generation": "0.3",
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    root = tmp_path_factory.mktemp("bundle")
    write_tiny_stage1(root / "stage1")
    make_bundle(root / "stage1", root / "b", trained=True)
    return root


def change(folder: pathlib.Path, target: pathlib.Path, key: str, value: Any, form: int) -> None:
    """A copy of a bundle with another value of a (dotted) key, of format 3 or 4."""
    target.mkdir(exist_ok=True)
    table = json.loads((folder / b.BUNDLE_FILE).read_text())
    if form == 3:
        table["format"] = 3
        del table["fingerprint"], table["overlap_table"]
    *parts, last = key.split(".")
    place = table
    for part in parts:
        place = place[part]
    place[last] = value
    (target / b.BUNDLE_FILE).write_text(json.dumps(table))
    (target / b.WEIGHTS_FILE).write_bytes((folder / b.WEIGHTS_FILE).read_bytes())


@pytest.mark.parametrize("form", [3, 4])
@pytest.mark.parametrize("key", sorted(NONSENSE))
def test_every_key_is_checked(
    made: pathlib.Path, tmp_path: pathlib.Path, key: str, form: int
) -> None:
    change(made / "b", tmp_path / "x", "deeph_gformer", "0.0.1", form)
    b.load_bundle(tmp_path / "x")  # names and versions are free
    for value in NONSENSE[key]:
        if key == "format" and value == 3.5 and form == 3:
            continue
        change(made / "b", tmp_path / "x", key, value, form)
        with pytest.raises(ModelError) as caught:
            b.load_bundle(tmp_path / "x")
        said = str(caught.value)
        assert str(tmp_path / "x") in said and "\n" not in said and len(said) < 600
        named = key.split(".")[-1].removesuffix("_blocks")
        free = key in ("model", "stage1", "basis") or "was changed" in said
        assert named in said or free, (value, said)


@pytest.mark.parametrize("key", sorted(CHANGES))
def test_what_changes_numbers_cannot_be_changed(
    made: pathlib.Path, tmp_path: pathlib.Path, key: str
) -> None:
    change(made / "b", tmp_path / "x", key, CHANGES[key], 4)
    with pytest.raises(ModelError, match="was changed|instead of|do not belong|does not fit"):
        b.load_bundle(tmp_path / "x")


@pytest.mark.parametrize("key", ["guard", "periodicity", "electrons", "extra"])
def test_what_is_missing_or_new(made: pathlib.Path, tmp_path: pathlib.Path, key: str) -> None:
    folder = tmp_path / "b"
    bundle = b.load_bundle(made / "b")
    bundle.training.update(guard={"x": 1.0}, periodicity=[3], electrons=[])
    b.save_bundle(folder, bundle)
    assert b.load_bundle(folder).training["guard"] == {"x": 1.0}
    table = json.loads((folder / b.BUNDLE_FILE).read_text())
    table["training"].pop(key, None)
    (folder / b.BUNDLE_FILE).write_text(json.dumps(table | ({key: 1} if key == "extra" else {})))
    with pytest.raises(ModelError, match="was changed|extra is no key"):
        b.load_bundle(folder)


def test_the_overlap_table_belongs_to_its_bundle(
    made: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    folder = tmp_path / "b"
    folder.mkdir()
    (folder / "overlap.npz").write_bytes(b"table")
    b.save_bundle(folder, b.load_bundle(made / "b"))
    b.load_bundle(folder)
    (folder / "overlap.npz").write_bytes(b"tables")
    with pytest.raises(ModelError, match="overlap.npz: is not the table of this bundle"):
        b.load_bundle(folder)
    (folder / "overlap.npz").unlink()
    with pytest.raises(ModelError, match="overlap.npz: is not the table of this bundle"):
        b.load_bundle(folder)


@pytest.mark.parametrize(
    ("key", "value"), [("cutoff_angstrom", 3.0), ("stage1.generation", "0.3"), ("parity", False)]
)
def test_an_old_bundle_is_held_against_its_stage_1(
    made: pathlib.Path, tmp_path: pathlib.Path, key: str, value: Any
) -> None:
    change(made / "b", tmp_path / "x", key, value, 3)
    with pytest.raises(ModelError, match="changes every number|does not fit|differ"):
        deeph_gformer.load(tmp_path / "x", stage1=made / "stage1")
    change(made / "b", tmp_path / "x", "deeph_gformer", "0.0.1", 3)
    deeph_gformer.load(tmp_path / "x", stage1=made / "stage1")


@pytest.mark.parametrize("folder", SHIPPED, ids=lambda p: p.parent.name)
def test_shipped_bundles_verify(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """Saved again they are the same tables, and the same tensors."""
    bundle = b.load_bundle(folder)
    table = json.loads((folder / b.BUNDLE_FILE).read_text())
    assert table["format"] == (5 if bundle.levels else 4)
    assert b.fingerprint(bundle.model.state_dict()) == table["weights"]
    for path in folder.glob("overlap.npz"):
        (tmp_path / "overlap.npz").write_bytes(path.read_bytes())
    b.save_bundle(tmp_path, bundle)
    assert json.loads((tmp_path / b.BUNDLE_FILE).read_text())["fingerprint"] == table["fingerprint"]


def test_an_earlier_format_does_not_hide_a_change(
    made: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    table = json.loads((made / "b" / b.BUNDLE_FILE).read_text())
    table |= {"format": 3, "cutoff_angstrom": 0.9 * table["cutoff_angstrom"]}
    (tmp_path / b.BUNDLE_FILE).write_text(json.dumps(table))
    (tmp_path / b.WEIGHTS_FILE).write_bytes((made / "b" / b.WEIGHTS_FILE).read_bytes())
    with pytest.raises(ModelError, match="was changed after the training wrote it"):
        b.load_bundle(tmp_path)


@pytest.mark.parametrize("kind", ["pipe", "folder", "gone"])
def test_weights_that_are_no_file(made: pathlib.Path, tmp_path: pathlib.Path, kind: str) -> None:
    """Opening a pipe would wait for whoever writes into it."""
    (tmp_path / b.BUNDLE_FILE).write_bytes((made / "b" / b.BUNDLE_FILE).read_bytes())
    weights = tmp_path / b.WEIGHTS_FILE
    if kind == "pipe":
        os.mkfifo(weights)
        writer = os.open(weights, os.O_RDWR | os.O_NONBLOCK)  # or a defect would hang the tests
    elif kind == "folder":
        weights.mkdir()
    words = {"pipe": "is a device, pipe or socket", "folder": "is a folder"}.get(kind, "not found")
    with pytest.raises(ModelError, match=f"{b.WEIGHTS_FILE}: .*{words}"):
        b.load_bundle(tmp_path)
    if kind == "pipe":
        os.close(writer)
