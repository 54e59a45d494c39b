"""Options of evaluate."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Callable

import h5py
import pytest

import deeph_gformer
from deeph_gformer.analysis.evaluate import evaluate
from deeph_gformer.analysis.tables import evaluation_table
from deeph_gformer.errors import ConfigError
from deeph_gformer.stage1.trained_on import descriptors_of

from ..test_pipeline import make_bundle

Folder = Callable[..., pathlib.Path]


@pytest.mark.parametrize(
    ("options", "words"),
    [({"rotations": -1}, "--rotations -1"), ({"split": "val"}, "--split val: needs a split file")],
)
def test_options_that_make_no_sense(
    make_folder: Folder, tiny_stage1: pathlib.Path, options: dict, words: str
) -> None:
    model = deeph_gformer.load(stage1=tiny_stage1)
    with pytest.raises(ConfigError, match=words):
        evaluate(model, make_folder(atoms=2).parent, **options)


def test_split_is_evaluated(
    make_folder: Folder, tiny_stage1: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    for n in range(3):
        make_folder(f"s{n}", seed=n, atoms=2)
    (tmp_path / "s.json").write_text(json.dumps({"train": ["s0"], "val": ["s2"], "test": ["s1"]}))
    result = evaluate(
        deeph_gformer.load(stage1=tiny_stage1),
        tmp_path / "data",
        splits=tmp_path / "s.json",
        split="val",
        rotations=0,
    )
    assert [r["name"] for r in result["structures"]] == ["s2"] and "equivariance" not in result


def test_structures_of_stage_1s_training_are_named(
    make_folder: Folder,
    tiny_stage1: pathlib.Path,
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Known by what they are: s1 has another name in the list."""
    for n in range(3):
        make_folder(f"s{n}", seed=n, atoms=2)
    model = deeph_gformer.load(stage1=tiny_stage1)
    evaluate(model, tmp_path / "data", rotations=0, invariance=False)
    assert "was trained on" not in capsys.readouterr().err
    (known,) = descriptors_of([tmp_path / "data" / "s1"])
    note = {"structures": {"train": [known.to_json() | {"name": "old"}], "val": []}}
    (tiny_stage1 / "deeph_gformer.json").write_text(json.dumps(note))
    evaluate(model, tmp_path / "data", rotations=0, invariance=False)
    said = capsys.readouterr().err
    assert "warning: stage 1 was trained on 1 of these 3 structures (s1)" in said


def test_structures_without_state_errors_are_named(
    make_folder: Folder, tiny_stage1: pathlib.Path
) -> None:
    for n in range(2):
        folder = make_folder(f"s{n}", seed=n, atoms=2)
        info = json.loads((folder / "info.json").read_text())
        (folder / "info.json").write_text(json.dumps({**info, "fermi_level": 0.0}))
    with h5py.File(folder / "overlaps.h5", "r+") as file:
        for name in file:
            if name not in ("[0, 0, 0, 1, 1]", "[0, 0, 0, 2, 2]"):
                file[name][...] = 0.9 if name.startswith("[0, 0, 0, ") else 0.0
    result = evaluate(deeph_gformer.load(stage1=tiny_stage1), folder.parent, rotations=0)
    good, bad = result["structures"]
    assert good["states_error_meV"] > 0 and bad["states_error_meV"] is None
    assert result["total"]["states_error_meV"] == good["states_error_meV"]
    line = next(x for x in evaluation_table(result).splitlines() if x.startswith("states:"))
    assert "none of 1 of 2 structures" in line and "s1: " in line and "positive definite" in line


@pytest.mark.parametrize(
    ("arch", "frames", "noted"),
    [("equivariant", 3, True), ("equivariant", 1, False), ("paper", 3, False), (None, 3, True)],
)
def test_frames_that_change_nothing_are_noted(
    make_folder: Folder,
    tiny_stage1: pathlib.Path,
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
    arch: str | None,
    frames: int,
    noted: bool,
) -> None:
    bundle = make_bundle(tiny_stage1, tmp_path / "b", arch) if arch else None
    evaluate(
        deeph_gformer.load(bundle, stage1=tiny_stage1),
        make_folder(atoms=2).parent,
        frames=frames,
        rotations=0,
    )
    assert (f"--frames {frames} changes nothing" in capsys.readouterr().err) == noted
