"""``info`` of folders of structures."""

import json
import pathlib
from collections.abc import Callable

import pytest

from deeph_gformer.analysis.describe import describe
from deeph_gformer.cli import main
from deeph_gformer.errors import DataError


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
