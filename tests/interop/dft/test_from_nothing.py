"""Run files in, a model and bands out: PySCF's example, and real runs of OpenMX and ABACUS."""

from __future__ import annotations

import json
import pathlib
import runpy
import shutil

import numpy as np
import pytest
from ase import Atoms
from ase.neighborlist import neighbor_list

from deeph_gformer.cli import main
from deeph_gformer.interop.dft.stru import read_stru

from ...conftest import ROOT
from .conftest import real


def train_and_plot(folders: list[pathlib.Path], out: pathlib.Path) -> None:
    """Two epochs of each stage, the refined Hamiltonian of the last structure, and its bands beside
    DFT's."""
    names = [folder.name for folder in folders]
    splits = {"train": names[:-1], "val": names[-1:]}
    (out / "splits.json").write_text(json.dumps(splits))
    common = ["--preprocessed", str(folders[0].parent), "--splits", str(out / "splits.json")]
    small = {
        "training.epochs": 2,
        "training.threads": 1,
        "training.device": "cpu",
        "training.warmup_steps": 1,
    }
    one = {
        "model.irreps_embed": "4x0e",
        "model.irreps_mid": "4x0e+3x1o+2x2e",
        "model.num_blocks": 2,
        "model.cutoff_radius": 6.0,
    }
    two = {
        "model.width": 16,
        "model.heads": 4,
        "model.embed": 4,
        "model.gaussians": 8,
        "model.gated_channels": 4,
    }

    def words(table: dict[str, object]) -> list[str]:
        return [word for key, value in table.items() for word in ("--set", f"{key}={value}")]

    assert main(["train-stage1", *common, "--output", str(out / "one"), *words(small | one)]) == 0
    stage1 = ["--stage1", str(out / "one" / "model")]
    assert main(["train", *common, *stage1, "--output", str(out / "two"), *words(small | two)]) == 0
    model = ["--model", str(out / "two" / "bundle")]
    last = ["--preprocessed", str(folders[-1])]
    assert main(["refine", *last, *stage1, *model, "--output", str(out / "refined")]) == 0
    refined = next((out / "refined").rglob("hamiltonians_pred.h5")).parent
    words_ = [
        "bands",
        str(folders[-1]),
        "--refined",
        str(refined),
        "--npoints",
        "12",
    ]
    assert main([*words_, "--fermi", "info", "-o", str(out / "bands.png")]) == 0
    assert (out / "bands.png").stat().st_size > 1000


def test_pyscf(tmp_path: pathlib.Path) -> None:
    pytest.importorskip("pyscf", reason="pyscf is not installed")
    make = runpy.run_path(str(ROOT / "examples" / "pyscf_training_set" / "make.py"))["main"]
    make(tmp_path / "set", 2, 0.05, 2, 11)
    train_and_plot(sorted((tmp_path / "set").iterdir()), tmp_path)


@pytest.mark.parametrize(
    "cell, atoms", [((1, 0), 4), ((2, 0), 16), ((2, 1), 12), ((3, 1), 28), ((3, 0), 36)]
)
def test_bilayers_for_abacus(cell: tuple[int, int], atoms: int, tmp_path: pathlib.Path) -> None:
    """What is written is read back as two whole sheets of graphene."""
    make = runpy.run_path(str(ROOT / "examples" / "abacus_training_set" / "make.py"))
    for name in ("C.upf", "C.orb"):
        (tmp_path / name).write_text("")
    made = make["make_atoms"](cell, 0.0, 3)
    make["write_input"](tmp_path / "run", made, tmp_path / "C.upf", tmp_path / "C.orb", 7)
    stru = read_stru(tmp_path / "run" / "STRU")
    places = stru.fractional @ stru.lattice
    read = Atoms(stru.labels, positions=places, cell=stru.lattice, pbc=(True, True, False))
    lengths = neighbor_list("d", read, 1.6)
    assert len(read) == atoms and np.allclose(lengths, 2.46 / np.sqrt(3), atol=1e-6)
    assert (neighbor_list("i", read, 1.6).reshape(atoms, 3) == np.arange(atoms)[:, None]).all()
    height = np.sort(places[:, 2]).reshape(2, -1)
    assert np.ptp(height, axis=1).max() < 1e-9 and 3.3 < height[1, 0] - height[0, 0] < 3.5


@pytest.mark.parametrize("code", ["openmx", "abacus"])
def test_real_runs(code: str, tmp_path: pathlib.Path) -> None:
    """One run and a copy with an atom moved stand for a set: what counts is that every command
    takes what convert wrote."""
    name = {"openmx": "o2_spin", "abacus": "mos2_1x1"}[code]
    source = real(code, name)
    for n in ("0", "1"):
        if code == "openmx":
            (tmp_path / "runs" / n).mkdir(parents=True)
            for file in (f"{name}.scfout", f"{name}.out"):
                shutil.copy(source / file, tmp_path / "runs" / n)
        else:
            shutil.copytree(source / "run", tmp_path / "runs" / n)
    assert main(["convert", str(tmp_path / "runs"), str(tmp_path / "set"), "--processes", "1"]) == 0
    table = np.loadtxt(tmp_path / "set" / "0" / "site_positions.dat")
    table[0, 0] += 0.05
    np.savetxt(tmp_path / "set" / "0" / "site_positions.dat", table)
    train_and_plot(sorted((tmp_path / "set").iterdir()), tmp_path)
