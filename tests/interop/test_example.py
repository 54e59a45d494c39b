"""The molecular dynamics example on two frames."""

from __future__ import annotations

import argparse
import pathlib
import runpy

import numpy as np
from ase.build import graphene
from ase.io import write

from .conftest import golden, orbital_file

SCRIPT = pathlib.Path(__file__).resolve().parents[2] / "examples" / "md_gap" / "run.py"


def test_gap_along_a_trajectory(tmp_path: pathlib.Path) -> None:
    root = golden("graphene_small_f64")
    frames = [graphene(a=2.46, size=(3, 3, 1), vacuum=6.0) for _ in range(2)]
    for n, atoms in enumerate(frames):
        atoms.rattle(0.03 * n, seed=n)
        atoms.info["time_fs"] = 10.0 * n
    write(tmp_path / "frames.extxyz", frames)
    options = argparse.Namespace(
        output=tmp_path / "out",
        frames=2,
        temperature=300.0,
        seed=1,
        trajectory=str(tmp_path / "frames.extxyz"),
        stage1=root / "model",
        model=tmp_path / "none",
        structures=root / "structures",
        overlap=str(orbital_file("C")),
        s_threshold=1e-3,
    )
    assert runpy.run_path(str(SCRIPT))["run"](options) == 0
    table = np.loadtxt(tmp_path / "out" / "gap.csv", delimiter=",", skiprows=1)
    assert table.shape == (2, 2) and table[1, 0] == 10.0
    assert table[0, 1] < 1e-3 < table[1, 1]  # perfect graphene has no gap, a rattled sheet has
    assert (tmp_path / "out" / "gap.png").stat().st_size > 5000


def test_trajectory_is_thermal() -> None:
    frames = runpy.run_path(str(SCRIPT))["trajectory"](2, 300.0, 1, settle=30)
    assert [atoms.info["time_fs"] for atoms in frames] == [10.0, 20.0]
    shift = frames[-1].positions - graphene(a=2.46, size=(3, 3, 1), vacuum=6.0).positions
    shift -= shift.mean(axis=0)
    assert 0.01 < np.sqrt((shift**2).mean()) < 0.2
