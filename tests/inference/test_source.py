"""Which structures ``refine`` finds."""

from __future__ import annotations

import pathlib
from collections.abc import Callable
from typing import Any

import pytest

from deeph_gformer.errors import DataError
from deeph_gformer.inference import source


def test_two_files_of_one_name_are_refused_before_anything_is_written(
    tmp_path: pathlib.Path,
) -> None:
    """``a.cif`` and ``a.vasp`` would both be written to ``OUT/a``."""
    table: Any = object()  # only has to be there
    model: Any = None
    for name in ("a.cif", "b.vasp"):
        (tmp_path / name).touch()
    found, _ = source.find_sources(tmp_path, model, table)
    assert [path.name for path in found] == ["a.cif", "b.vasp"]
    (tmp_path / "a.vasp").touch()
    with pytest.raises(DataError, match=r"the name 'a': .*a\.cif and .*a\.vasp"):
        source.find_sources(tmp_path, model, table)


def test_two_folders_of_one_name_are_refused_though_one_has_no_s(
    make_folder: Callable[..., pathlib.Path],
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A table makes S of the second one, so that it is not among those that are left out."""
    first = make_folder("a")
    second = make_folder("a", root=tmp_path / "data" / "new", hamiltonian=False, overlap=False)
    table: Any = None
    model: Any = None
    monkeypatch.setattr(source, "bundle_overlap", lambda model: table)
    assert source.find_sources(tmp_path, model, None) == ([first], [second])
    table = object()
    assert source.find_sources(tmp_path, model, None, "hamiltonians") == ([first], [second])
    with pytest.raises(DataError, match="two structures have the name 'a'"):
        source.find_sources(tmp_path, model, None)


def test_two_folders_of_one_name_do_not_hide_behind_a_file(
    make_folder: Callable[..., pathlib.Path], tmp_path: pathlib.Path
) -> None:
    table: Any = object()
    model: Any = None
    make_folder("a")
    make_folder("a", root=tmp_path / "data" / "new")
    (tmp_path / "data" / "b.vasp").touch()
    with pytest.raises(DataError, match="two structures have the name 'a'"):
        source.find_sources(tmp_path / "data", model, table)
