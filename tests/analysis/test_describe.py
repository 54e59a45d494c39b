"""``info`` of folders of structures."""

import json
import pathlib
from collections.abc import Callable

import pytest

from deeph_gformer.analysis.describe import describe
from deeph_gformer.cli import main
from deeph_gformer.errors import DataError
from deeph_gformer.gformer.bundle import load_bundle, save_bundle

from ..conftest import write_tiny_stage1
from ..test_pipeline import make_bundle


@pytest.fixture
def folder(make_folder: Callable[..., pathlib.Path], tmp_path: pathlib.Path) -> pathlib.Path:
    """Three structures."""
    for seed in range(3):
        make_folder(f"s{seed}", seed=seed)
    return tmp_path / "data"


def _say(folder: pathlib.Path, spinful: bool) -> None:
    path = folder / "info.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "isspinful": spinful}))


def test_one_kind_of_spin(folder: pathlib.Path) -> None:
    assert describe(folder).to_json()["spinful"] is False


def test_structures_that_differ_in_spin(
    folder: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not that of the first alone."""
    names = sorted(path.name for path in folder.iterdir())
    _say(folder / names[-1], True)
    assert main(["info", str(folder)]) == 0
    said = capsys.readouterr().out
    assert f"spinful differs: False in 2 (first {names[0]}), True in 1 (first {names[-1]})" in said
    assert "spinful: " not in said


def test_a_damaged_structure_is_named(folder: pathlib.Path) -> None:
    """It made the folder "neither a structure folder nor ..." before."""
    first = min(folder.iterdir())
    (first / "info.json").write_text("{")
    with pytest.raises(DataError, match=f"{first.name}/info.json"):
        describe(folder)


def test_a_bundle_says_which_edges_it_learned_from(tmp_path: pathlib.Path) -> None:
    write_tiny_stage1(tmp_path / "stage1")
    make_bundle(tmp_path / "stage1", tmp_path / "bundle")
    assert "edge_variants" not in describe(tmp_path / "bundle").to_json()
    bundle = load_bundle(tmp_path / "bundle")
    bundle.training.update(edges="overlaps", config={"data": {"edge_variants": 2}})
    save_bundle(tmp_path / "other", bundle)
    found = describe(tmp_path / "other").to_json()
    assert (found["training_edges"], found["edge_variants"]) == ("overlaps", 2)
