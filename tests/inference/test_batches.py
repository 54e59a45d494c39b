"""Small structures that run together get what each gets alone."""

from __future__ import annotations

import pathlib
from collections.abc import Callable

import numpy as np
import pytest

import deeph_gformer
from deeph_gformer.cli import main
from deeph_gformer.errors import DataError
from deeph_gformer.io import read_matrix

from ..conftest import write_tiny_stage1
from ..prediction.test_guard import guarded_model
from ..test_pipeline import make_bundle

Folder = Callable[..., pathlib.Path]


@pytest.mark.parametrize("arch", ["equivariant", "paper"])
def test_batches_equal_one_by_one(make_folder: Folder, tmp_path: pathlib.Path, arch: str) -> None:
    """H and stage 1's norm, which is per structure, with batches of two, of all, and frames
    averaged; spin-orbit for one."""
    spinful = arch == "paper"
    stage1 = write_tiny_stage1(tmp_path / "s", spinful=spinful)
    bundle = make_bundle(stage1, tmp_path / "b", arch, trained=True)
    folders = [
        make_folder(f"m{n}", seed=n, atoms=atoms, spinful=spinful)
        for n, atoms in enumerate((3, 5, 4, 2))
    ]
    model = deeph_gformer.load(bundle, stage1=stage1)
    frames = 2 if arch == "paper" else 1
    found = {}
    for size in (0, 40, 10**6):
        out = tmp_path / str(size)
        result = deeph_gformer.refine(
            tmp_path / "data", model, out, frames=frames, batch_edges=size
        )
        assert [r["name"] for r in result["structures"]] == ["m0", "m1", "m2", "m3"]
        found[size] = result["structures"]
    counts = {size: [r["structures_at_once"] for r in records] for size, records in found.items()}
    assert counts[0] == [1] * 4 and counts[10**6] == [4] * 4 and max(counts[40]) > 1
    for folder in folders:
        alone = read_matrix(tmp_path / "0" / folder.name, "prediction").values
        for size in (40, 10**6):
            together = read_matrix(tmp_path / str(size) / folder.name, "prediction").values
            assert np.abs(together - alone).max() < 1e-11 * np.abs(alone).max()
    for records in found.values():
        for record, one in zip(records, found[0]):
            assert record["refined_mae_meV"] == pytest.approx(one["refined_mae_meV"], rel=1e-9)
            assert record["mean_correction_meV"] == pytest.approx(
                one["mean_correction_meV"], rel=1e-9
            )


def test_features_are_judged_for_each_structure(
    make_folder: Folder, tmp_path: pathlib.Path, tiny_stage1: pathlib.Path
) -> None:
    """The guard sees the features of one structure at a time, in a batch too."""
    folders = [make_folder(f"m{n}", seed=n, atoms=3 + n) for n in range(3)]
    model = guarded_model(tiny_stage1, tmp_path / "b", folders, 2)

    def judged(size: int) -> list[tuple[int, float]]:
        result = deeph_gformer.refine(
            tmp_path / "data", model, tmp_path / str(size), batch_edges=size
        )
        return [(r["atoms"], r["features_z"]) for r in result["structures"]]

    alone, together = judged(0), judged(10**6)
    assert [n for n, _ in together] == [n for n, _ in alone] == [3, 4, 5]
    assert len({z for _, z in alone}) == 3
    assert [z for _, z in together] == pytest.approx([z for _, z in alone], rel=1e-9)


def test_a_damaged_structure_does_not_cost_those_before(
    make_folder: Folder, tmp_path: pathlib.Path, tiny_stage1: pathlib.Path
) -> None:
    model = deeph_gformer.load(stage1=tiny_stage1)
    for n in range(3):
        make_folder(f"m{n}", seed=n)
    (tmp_path / "data" / "m2" / "element.dat").write_text("16\nlead\n")
    with pytest.raises(DataError, match="element.dat"):
        deeph_gformer.refine(tmp_path / "data", model, tmp_path / "o", batch_edges=10**6)
    assert sorted(p.parent.name for p in (tmp_path / "o").glob("*/hamiltonians_pred.h5")) == [
        "m0",
        "m1",
    ]


def test_bad_input(
    tiny_stage1: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["refine", "--preprocessed", str(tmp_path), "--stage1", str(tiny_stage1)]
    with pytest.raises(SystemExit, match="2"):
        main([*command, "--stage1-only", "--batch-edges", "-1"])
    assert "--batch-edges: '-1'" in capsys.readouterr().err
