"""Folder formats: names of info.json, and one from another package, added by one file and one line."""

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

MODULE = '''
"""Structure as ASE's JSON-like dictionary, blocks as flat text: nothing of the built-in formats."""
import json
import numpy as np
from deeph_gformer.io import BlockMatrix, Structure
from deeph_gformer.io.blocks import sort_keys
from deeph_gformer.io.formats import FolderFormat, info_for

def read_structure(folder):
    d = json.loads((folder / "plain.json").read_text())
    shells = tuple(tuple(s) for s in d["shells"])
    z = np.array(d["z"])
    return Structure(np.array(d["cell"]), np.array(d["xyz"]), z, shells, d["soc"], d["info"], folder.name)

def write_structure(folder, s):
    folder.mkdir(exist_ok=True)
    (folder / "plain.json").write_text(json.dumps(dict(cell=s.lattice.tolist(), xyz=s.positions.tolist(),
        z=s.numbers.tolist(), shells=s.orbital_types, soc=s.spinful, info=info_for(s, FORMAT))))

def read_keys(path, structure):
    keys = np.frombuffer(path.read_bytes()[8:], "<i8", int(np.frombuffer(path.read_bytes()[:8], "<i8")[0]) * 5)
    keys = keys.reshape(-1, 5)
    return keys[sort_keys(keys)]

def read_blocks(path, structure, spinful):
    keys = read_keys(path, structure)
    values = np.frombuffer(path.read_bytes()[8 + 40 * len(keys):], "<f8").copy()
    return BlockMatrix(keys, structure.orbital_counts[keys[:, 3:]], values)

def reserve(path, keys, shapes, dtype):
    path.write_bytes(np.array([len(keys)], "<i8").tobytes() + keys.astype("<i8").tobytes())
    return 8 + 40 * len(keys)

FORMAT = FolderFormat("plain", "Plain", ("plain.json",),
    {"hamiltonian": "H.bin", "overlap": "S.bin", "prediction": "P.bin"}, read_structure, write_structure,
    read_keys, read_blocks, reserve, lambda blocks, size: 8 + 40 * blocks + size,
    info_names={"fermi_level": "EF"})
'''


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
