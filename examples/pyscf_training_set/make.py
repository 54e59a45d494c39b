"""From nothing to a model with what pip brings.

Displaced LiH crystals by PySCF, each with H, S and the Fermi level in a folder.

    pip install '.[train,pyscf]'    # in a clone
    python examples/pyscf_training_set/make.py --output set --structures 12
    deeph-gformer train-stage1 --preprocessed set --output runs/stage1
    deeph-gformer train --preprocessed set --stage1 runs/stage1/model --output runs/gformer
    deeph-gformer refine --preprocessed set --stage1 runs/stage1/model \\
        --model runs/gformer/bundle --output refined
    deeph-gformer bands set/0011 --refined refined/0011 --path GXMG -o bands.png

A small Gaussian basis (Li: s, s, p; H: s, p) keeps one structure at seconds; it shows the way and
is no basis for physics. Structures that are there already are left alone: the command goes on where
it was stopped.
"""

from __future__ import annotations

import argparse
import pathlib
import time
from typing import Any

import numpy as np

from deeph_gformer.interop.dft.pyscf import write_pyscf
from deeph_gformer.io.folder import is_free

#: (l, (exponent, coefficient), ...): uncontracted, without diffuse functions, so that H(R) ends
#: early.
BASIS = {
    "Li": [[0, [1.2, 1.0]], [0, [0.45, 1.0]], [1, [0.6, 1.0]]],
    "H": [[0, [0.9, 1.0]], [1, [0.8, 1.0]]],
}


def calculate(displacement: float, seed: int, mesh: int, grid: int) -> Any:
    """A converged KRKS calculation of one displaced cell.

    Args:
        displacement: standard deviation of each coordinate, Å.
        seed: of the displacement.
        mesh: k-points along each direction.
        grid: points of the real-space grid along each direction.
    """
    from pyscf.pbc import dft, gto

    rng = np.random.default_rng(seed)
    places = np.array([[0.0, 0.0, 0.0], [1.35, 1.3, 1.4]]) + rng.normal(0, displacement, (2, 3))
    cell = gto.Cell()
    cell.atom = [[name, place] for name, place in zip(("Li", "H"), places, strict=True)]
    cell.a = np.diag([2.7, 2.7, 2.7])
    cell.basis, cell.pseudo = BASIS, {"Li": "gth-pade", "H": "gth-pade"}
    cell.mesh, cell.verbose = [grid] * 3, 0
    cell.build()
    mf = dft.KRKS(cell, cell.make_kpts([mesh] * 3))
    mf.xc, mf.conv_tol = "lda,vwn", 1e-10
    mf.kernel()
    return mf


def main(output: pathlib.Path, structures: int, displacement: float, mesh: int, grid: int) -> None:
    """Make the set.

    Args:
        output: folder of the set.
        structures: how many.
        displacement: see :func:`calculate`.
        mesh: see :func:`calculate`.
        grid: see :func:`calculate`.
    """
    for seed in range(structures):
        folder = output / f"{seed:04d}"
        if not is_free(folder):
            continue
        start = time.perf_counter()
        run = write_pyscf(folder, calculate(displacement, seed, mesh, grid))
        level = run.structure.info["fermi_level"]
        print(f"{folder}: E_F {level:.3f} eV, {time.perf_counter() - start:.1f} s", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="A LiH training set by PySCF.")
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("set"), metavar="DIR")
    parser.add_argument("--structures", type=int, default=12, metavar="N", help="default: 12")
    parser.add_argument(
        "--displacement", type=float, default=0.05, metavar="ÅNGSTRÖM", help="default: 0.05"
    )
    parser.add_argument("--mesh", type=int, default=3, metavar="N", help="k-points (default: 3)")
    parser.add_argument("--grid", type=int, default=21, metavar="N", help="default: 21")
    options = parser.parse_args()
    main(options.output, options.structures, options.displacement, options.mesh, options.grid)
