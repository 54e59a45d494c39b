"""GPAW's own eigenvalues from the folder we write. Needs gpaw here, or GPAW_PYTHON.

An interpreter that has gpaw, h5py and scipy.
"""

from __future__ import annotations

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from deeph_gformer import bands
from deeph_gformer.interop.dft.kmesh import aliased, mesh_for

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    python = sys.executable if importlib.util.find_spec("gpaw") else os.environ.get("GPAW_PYTHON")
    if not python:
        pytest.skip("gpaw is not installed (GPAW_PYTHON names an interpreter that has it)")
    out, more = tmp_path_factory.mktemp("gpaw"), os.environ.get("PYTHONPATH", "")
    done = subprocess.run(
        [python, str(pathlib.Path(__file__).with_name("gpaw_run.py")), str(out)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{more}", "OMP_NUM_THREADS": "1"},
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return out


def test_eigenvalues_equal_gpaws(run: pathlib.Path) -> None:
    expected = json.loads((run / "gpaw.json").read_text())
    problem = bands.load(run / "chain")
    assert problem.structure.orbital_types == ((0, 0, 1),) * 2
    assert problem.structure.info["fermi_level"] == pytest.approx(expected["fermi_eV"])
    for k, levels in zip(expected["kpoints"], expected["eigenvalues_eV"]):
        mine = bands.solve_dense(*problem.at((k, 0, 0))).energies
        np.testing.assert_allclose(mine[: len(levels)], levels, atol=1e-5)


def test_a_restart_file_gives_the_same(run: pathlib.Path) -> None:
    """H of ``convert chain.gpw`` against H of the calculation in memory, at fixed density."""
    one, two = bands.load(run / "chain"), bands.load(run / "from_file")
    assert np.array_equal(one.h.keys, two.h.keys)
    np.testing.assert_allclose(one.s.values, two.s.values, atol=1e-12)
    np.testing.assert_allclose(one.h.values, two.h.values, atol=1e-6)
    info = two.structure.info
    assert (info["code"], info["functional"], info["electrons"]) == ("GPAW", "LDA", 2)
    assert info["gauge"] == "raw" and info["spin"] == "none"


def test_refusals(run: pathlib.Path) -> None:
    first, damaged, second, *other = json.loads((run / "gpaw.json").read_text())["refused"]
    assert "not converged" in first and "holds a structure already" in second
    assert "damaged.gpw: GPAW cannot read it" in damaged
    assert len(other) == 5 and all("has other eigenvalues" in text for text in other[:2])
    assert all("another potential" in text for text in other[2:])


def test_aliasing_is_seen() -> None:
    keys = np.array([[r, 0, 0, 0, 0] for r in (-2, -1, 0, 1, 2)])
    assert aliased(keys, np.array([4, 1, 1])) and not aliased(keys, np.array([5, 1, 1]))
    assert mesh_for(keys, np.array([2, 1, 1])).tolist() == [5, 1, 1]
