"""A training set from ABACUS: bilayers of graphene, slid and displaced at random.

Each structure is one run of ABACUS (its input, its output) and one folder with H, S and the Fermi
level. ABACUS, a pseudopotential and an orbital file are yours to bring:

    python examples/abacus_training_set/make.py --pseudopotential C.upf --orbital C.orb \\
        --structures 12 --output set
    deeph-gformer train-stage1 --preprocessed set/folders --output runs/stage1
    deeph-gformer train --preprocessed set/folders --stage1 runs/stage1/model \\
        --output runs/gformer

Layers are 3.3 to 3.5 Å apart and slid by any vector. Cells of several shapes belong in one set
(docs/howto/one_model.md says why): ``--supercell 2``, ``--supercell 3 1`` (√7 x √7, 28 atoms),
``--supercell 3``, and ``--supercell 1 --displacement 0``, ideal bilayers in runs of seconds.
Structures that are there already are left alone: the command goes on where it was stopped.
Another crystal needs another :func:`make_atoms`.
"""

from __future__ import annotations

import argparse
import math
import pathlib
import shlex
import shutil
import subprocess
import time
from typing import Any

import numpy as np
from ase.build import graphene, make_supercell
from ase.units import Bohr

from deeph_gformer import convert
from deeph_gformer.errors import GFormerError
from deeph_gformer.io.folder import is_free

INPUT = """INPUT_PARAMETERS
calculation scf
basis_type lcao
ecutwfc 80
scf_thr 1e-7
scf_nmax 80
smearing_method gauss
smearing_sigma 0.005
mixing_type broyden
mixing_beta 0.4
mixing_gg0 1.0
symmetry 0
out_mat_hs2 1
pseudo_dir .
orbital_dir .
"""


def make_atoms(supercell: tuple[int, int], displacement: float, seed: int) -> Any:
    """A bilayer with a random shift and distance of its layers.

    Args:
        supercell: n, m: lattice vectors n a1 + m a2 and the same turned by 120°.
        displacement: standard deviation in the plane, Å; twice as much across it.
        seed: of shift, distance and displacements.
    """
    rng = np.random.default_rng(seed)
    shift, distance = rng.uniform(size=2), rng.uniform(3.3, 3.5)
    cell = graphene(a=2.46).cell.array.copy()
    cell[2] = 0.0, 0.0, 18.0
    atoms = graphene(a=2.46)
    atoms.set_cell(cell)
    atoms.positions[:, 2] = 9.0 - distance / 2
    upper = atoms.copy()
    upper.positions += shift @ cell[:2] + [0.0, 0.0, distance]
    n, m = supercell
    atoms = make_supercell(atoms + upper, [[n, m, 0], [-m, n - m, 0], [0, 0, 1]])
    atoms.positions += rng.normal(0.0, displacement, (len(atoms), 3)) * [1, 1, 2]
    return atoms


def write_input(
    run: pathlib.Path, atoms: Any, pseudopotential: pathlib.Path, orbital: pathlib.Path, mesh: int
) -> None:
    """INPUT, STRU, KPT and the two files of carbon, in the folder ``run``."""
    run.mkdir(parents=True, exist_ok=True)
    for path in (pseudopotential, orbital):
        shutil.copyfile(path, run / path.name)
    rows = [" ".join(f"{x:.12f}" for x in row) for row in atoms.cell.array]
    places = [" ".join(f"{x:.12f}" for x in row) + " 0 0 0" for row in atoms.positions]
    lines = [
        "ATOMIC_SPECIES",
        f"C 12.011 {pseudopotential.name}",
        "\nNUMERICAL_ORBITAL",
        orbital.name,
        "\nLATTICE_CONSTANT",
        f"{1 / Bohr:.12f}",
        "\nLATTICE_VECTORS",
        *rows,
        "\nATOMIC_POSITIONS\nCartesian\n\nC\n0.0",
        str(len(places)),
        *places,
    ]
    (run / "STRU").write_text("\n".join(lines) + "\n")
    (run / "INPUT").write_text(INPUT)
    (run / "KPT").write_text(f"K_POINTS\n0\nGamma\n{mesh} {mesh} 1 0 0 0\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Bilayers of graphene with ABACUS.")
    parser.add_argument("--pseudopotential", type=pathlib.Path, required=True, metavar="UPF")
    parser.add_argument("--orbital", type=pathlib.Path, required=True, metavar="ORB")
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("set"), metavar="DIR")
    parser.add_argument("--abacus", default="abacus", help="command that runs it (default: abacus)")
    parser.add_argument("--structures", type=int, default=12, metavar="N", help="default: 12")
    parser.add_argument("--first", type=int, default=0, metavar="N", help="first seed (default: 0)")
    parser.add_argument(
        "--supercell",
        type=int,
        nargs="+",
        default=[2],
        metavar="N",
        help="n [m]: lattice vectors n a1 + m a2 and the same turned by 120° (default: 2)",
    )
    parser.add_argument(
        "--displacement",
        type=float,
        default=0.03,
        metavar="ÅNGSTRÖM",
        help="standard deviation in the plane, twice as much across it (default: 0.03)",
    )
    parser.add_argument(
        "--k-mesh", type=int, default=14, metavar="N", help="of one primitive cell (default: 14)"
    )
    args = parser.parse_args()
    n, m = args.supercell if len(args.supercell) == 2 else (args.supercell[0], 0)
    cells = n * n - n * m + m * m
    if len(args.supercell) > 2 or not cells:
        parser.error("--supercell: one or two whole numbers, not both 0")
    for path in (args.pseudopotential, args.orbital):
        if not path.is_file():
            parser.error(f"{path}: file not found")
    program, *words = shlex.split(args.abacus) or [""]
    if (found := shutil.which(program)) is None:
        parser.error(f"--abacus {args.abacus}: no such command")
    command = [str(pathlib.Path(found).absolute()), *words]
    mesh = max(1, round(args.k_mesh / math.sqrt(cells)))
    for seed in range(args.first, args.first + args.structures):
        folder, run = args.output / "folders" / f"{seed:04d}", args.output / "runs" / f"{seed:04d}"
        if not is_free(folder):
            continue
        start = time.perf_counter()
        atoms = make_atoms((n, m), args.displacement, seed)
        write_input(run, atoms, args.pseudopotential, args.orbital, mesh)
        with open(run / "abacus.txt", "w") as text:
            done = subprocess.run(command, cwd=run, stdout=text, stderr=subprocess.STDOUT)
        if done.returncode:
            parser.exit(1, f"{run / 'abacus.txt'}: ABACUS ended with {done.returncode}\n")
        try:
            convert(run, folder, code="abacus", processes=1)
        except GFormerError as error:
            parser.exit(1, f"{error}\n")
        print(f"{folder}: {len(atoms)} atoms, {time.perf_counter() - start:.0f} s", flush=True)
