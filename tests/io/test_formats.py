"""Folder formats: names of info.json, and one from another package, added by one file and one
line."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest

from deeph_gformer.errors import ConfigError
from deeph_gformer.io import read_folder, read_matrix
from deeph_gformer.io.formats import formats, get_format, info_for

from ..conftest import ROOT, random_structure
from ..test_extending import BLOCKS

MODULE = next(text for _, text in BLOCKS if text.startswith("# my_format.py"))


def test_a_format_of_another_package(
    tmp_path: pathlib.Path, make_folder: Callable[..., pathlib.Path]
) -> None:
    source, site = make_folder("x"), tmp_path / "site"
    info = json.loads((source / "info.json").read_text())
    (source / "info.json").write_text(json.dumps(info | {"fermi_level": -1.5, "note": "kept"}))
    (site / "plain-1.dist-info").mkdir(parents=True)
    (site / "plain_format.py").write_text(MODULE)
    (site / "plain-1.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: plain\nVersion: 1\n"
    )
    (site / "plain-1.dist-info" / "entry_points.txt").write_text(
        "[deeph_gformer.formats]\nplain = plain_format:FORMAT\n"
    )
    env = dict(os.environ, PYTHONPATH=f"{ROOT}{os.pathsep}{site}")

    def run(*words: str | pathlib.Path) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "deeph_gformer", *map(str, words)]
        return subprocess.run(command, env=env, capture_output=True, text=True)

    out, back = tmp_path / "plain", tmp_path / "back"
    done = run("convert", source, out, "--to", "plain")
    assert done.returncode == 0, done.stderr
    assert json.loads((out / "plain.json").read_text())["info"] == {"EF": -1.5, "note": "kept"}
    done = run("convert", out, back, "--to", "legacy")
    assert done.returncode == 0, done.stderr
    for kind in ("hamiltonian", "overlap"):
        one, two = read_matrix(source, kind), read_matrix(back, kind)  # type: ignore[arg-type]
        assert np.array_equal(one.keys, two.keys) and np.array_equal(one.values, two.values)
    assert read_folder(back).info["fermi_level"] == -1.5
    assert "plain" not in formats()  # here it is not installed


def test_names_of_info_are_translated() -> None:
    structure, *_ = random_structure(spinful=True)
    dock = {"fermi_energy_eV": 0.5, "orthogonal_basis": False, "spinful": True, "extra": [1]}
    structure.info.clear()
    structure.info.update(dock | {"elements_orbital_map": {"Mo": [0]}})
    assert info_for(structure, get_format("legacy")) == {
        "fermi_level": 0.5,
        "isorthogonal": False,
        "isspinful": True,
        "extra": [1],
    }
    assert info_for(structure, get_format("dock")) == dock


def test_unknown_format() -> None:
    with pytest.raises(ConfigError, match="'siesta' is unknown; there are legacy, dock"):
        get_format("siesta")
