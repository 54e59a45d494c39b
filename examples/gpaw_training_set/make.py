"""A training set from nothing but ASE and GPAW.

Displaced and strained graphene cells, each with H, S and the Fermi level in a DeepH folder.

    python examples/gpaw_training_set/make.py --output set --structures 12
    deeph-gformer train-stage1 --preprocessed set --output runs/stage1
    deeph-gformer train --preprocessed set --stage1 runs/stage1/model --output runs/gformer

The energy zero is the vacuum level (the cell is not periodic across the sheet), so H depends on the
surroundings of its atoms only. Structures that are there already are left alone: the command goes
on where it was stopped.
"""

from __future__ import annotations

import argparse
import pathlib
import time
from typing import Any

import numpy as np
from ase.build import graphene

from deeph_gformer.interop.gpaw import write_gpaw


def make_atoms(supercell: int, displacement: float, strain: float, seed: int) -> Any:
    """One graphene cell: random in-plane strain (uniform up to ``strain``) and Gaussian
    displacements (standard deviation in Å)."""
    rng = np.random.default_rng(seed)
    atoms = graphene(a=2.46, size=(supercell, supercell, 1), vacuum=6.0)
    deform = np.eye(3)
    deform[:2, :2] += rng.uniform(-strain, strain, (2, 2))
    atoms.set_cell(atoms.cell[:] @ (deform + deform.T) / 2, scale_atoms=True)
    atoms.positions += rng.normal(0.0, displacement, atoms.positions.shape)
    atoms.pbc = (True, True, False)
    return atoms


def calculate(atoms: Any, basis: str, k_mesh: int, log: pathlib.Path) -> Any:
    """Converged GPAW LCAO calculation of ``atoms``."""
    from gpaw import GPAW, FermiDirac

    calc = GPAW(
        mode="lcao",
        basis=basis,
        xc="PBE",
        h=0.2,
        kpts={"size": (k_mesh, k_mesh, 1), "gamma": True},
        symmetry={"point_group": False},
        occupations=FermiDirac(0.1),
        convergence={"density": 1e-6},
        txt=str(log),
    )
    atoms.calc = calc
    atoms.get_potential_energy()
    return calc


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="A graphene training set from ASE and GPAW.")
    parser.add_argument(
        "--output",
        type=pathlib.Path,
        default=pathlib.Path("set"),
        help="folder of the set (default: set)",
    )
    parser.add_argument(
        "--structures", type=int, default=12, metavar="N", help="how many (default: 12)"
    )
    parser.add_argument(
        "--supercell",
        type=int,
        default=2,
        metavar="N",
        help="N x N primitive cells (default: 2, 8 atoms)",
    )
    parser.add_argument(
        "--displacement",
        type=float,
        default=0.05,
        metavar="ÅNGSTRÖM",
        help="standard deviation (default: 0.05)",
    )
    parser.add_argument(
        "--strain", type=float, default=0.01, help="largest element of the strain (default: 0.01)"
    )
    parser.add_argument(
        "--basis",
        default="szp(dzp)",
        help="GPAW's LCAO basis (default: szp(dzp), one zeta and polarisation)",
    )
    parser.add_argument(
        "--k-mesh", type=int, default=6, metavar="N", help="N x N k-points (default: 6)"
    )
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    for number in range(args.structures):
        folder = args.output / f"{number:04d}"
        if (folder / "overlaps.h5").is_file():
            continue
        start = time.perf_counter()
        calc = calculate(
            make_atoms(args.supercell, args.displacement, args.strain, number),
            args.basis,
            args.k_mesh,
            args.output / f"{number:04d}.txt",
        )
        problem = write_gpaw(folder, calc)
        print(
            f"{folder}: {len(problem.structure)} atoms, {len(problem.h.keys)} blocks, "
            f"{time.perf_counter() - start:.0f} s",
            flush=True,
        )
