"""From an ``Atoms`` object alone to bands, against DFT.

Edges and S from the overlap table in the bundle (or --overlap), H from the model.

    python benchmarks/atoms_to_bands.py DFT_FOLDER ... --stage1 MODEL_DIR --model BUNDLE [--overlap
    SOURCE] [--json FILE]

Of each folder only the geometry is given to the calculator; H, S and the Fermi level in it are the
reference.
"""

from __future__ import annotations

import argparse
import pathlib
import sys
from typing import Any

import numpy as np
from ase import Atoms

from deeph_gformer import bands
from deeph_gformer.analysis.tables import text_table
from deeph_gformer.bands.electrons import parse_valence
from deeph_gformer.errors import GFormerError
from deeph_gformer.interop.ase import HamiltonianCalculator, to_atoms
from deeph_gformer.io import read_folder, read_matrix
from deeph_gformer.io.blocks import match_keys
from deeph_gformer.io.files import write_json


def measure(
    folder: pathlib.Path, calc: HamiltonianCalculator, window: float, npoints: int
) -> dict[str, Any]:
    """One structure: differences of edges, S, H and bands from DFT, and the time of every step."""
    structure = read_folder(folder)
    known = to_atoms(structure)
    atoms = Atoms(known.numbers, positions=known.positions, cell=known.cell, pbc=True)
    atoms.calc = calc
    problem = calc.get_problem(atoms)
    dft = bands.load(folder)
    place = match_keys(dft.s.keys, problem.s.keys)
    spinful = problem.spin == 2
    truth = read_matrix(folder, "hamiltonian", structure, spinful)
    where = match_keys(truth.keys, problem.h.keys)
    both = np.flatnonzero(where >= 0)
    dh = problem.h.select(where[both]).values - truth.select(both).values
    level = calc.get_fermi()
    reference_level = bands.fermi_level(dft, level.electrons, count_at_info=False)
    reference = bands.band_structure(dft, None, npoints, fermi=reference_level)
    error = bands.compare_bands(
        reference, bands.band_structure(problem, reference.path, fermi=level), window
    )
    return {
        "structure": folder.name,
        "atoms": len(atoms),
        "edges": len(problem.s.keys),
        "dft_edges_missing": int((place < 0).sum()),
        "s_max_error": float(
            np.abs(
                problem.s.select(place[place >= 0]).values
                - dft.s.select(np.flatnonzero(place >= 0)).values
            ).max()
        ),
        "h_mae_meV": float(np.abs(dh).mean() * 1e3),
        "electrons": level.electrons,
        "band_mae_meV": error.mae_meV,
        "band_max_meV": error.max_meV,
        "states": error.states,
        **{f"{step}_s": seconds for step, seconds in calc.seconds.items()},
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description="From an Atoms object alone to bands, against DFT."
    )
    parser.add_argument(
        "folders",
        nargs="+",
        type=pathlib.Path,
        metavar="DFT_FOLDER",
        help="structure folders with H and S of DFT",
    )
    parser.add_argument(
        "--stage1", required=True, metavar="MODEL_DIR", help="DeepH-E3 model folder"
    )
    parser.add_argument("--model", metavar="BUNDLE", help="GFormer bundle (default: stage 1 alone)")
    parser.add_argument(
        "--overlap",
        metavar="SOURCE",
        help="table, basis files or folder (default: the table in the bundle)",
    )
    parser.add_argument(
        "--extrapolate", action="store_true", help="allow distances that the table does not know"
    )
    parser.add_argument(
        "--valence",
        metavar="C=4",
        help="electrons per element (default: as counted in the bundle's training set)",
    )
    parser.add_argument(
        "--window",
        type=float,
        default=3.0,
        metavar="EV",
        help="states within this of the Fermi level (default: 3)",
    )
    parser.add_argument(
        "--npoints", type=int, default=40, metavar="N", help="k-points of the path (default: 40)"
    )
    parser.add_argument("--json", metavar="FILE", help="write the figures to FILE")
    args = parser.parse_args()
    try:
        valence = parse_valence(args.valence) if args.valence else None
        calc = HamiltonianCalculator(
            args.model, args.stage1, args.overlap, extrapolate=args.extrapolate, valence=valence
        )
        rows = [measure(folder, calc, args.window, args.npoints) for folder in args.folders]
    except GFormerError as error:
        sys.exit(f"error: {error}")
    shown = [[f"{v:.4g}" if isinstance(v, float) else str(v) for v in row.values()] for row in rows]
    print(text_table(list(rows[0]), shown))
    if args.json:
        write_json(args.json, {"rows": rows})
