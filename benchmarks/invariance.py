"""How far the shipped models depend on how a crystal is written down.

The table of docs/measured/invariance.md.

    python benchmarks/invariance.py --data DIR [--json FILE] [NAME ...]

DIR holds the unpacked DFT sets. Of each system one displaced structure (DFT's own) and the ideal
crystal (its symmetrised primitive cell, S from the bundle's table), each in float64 and float32.
Two to ten minutes a core.
"""

from __future__ import annotations

import argparse
import dataclasses
import pathlib
import sys

import numpy as np
import spglib

import deeph_gformer
import deeph_gformer.errors
from deeph_gformer import fields
from deeph_gformer.analysis.invariance import invariance
from deeph_gformer.analysis.tables import text_table
from deeph_gformer.bands import BlochProblem, electrons_at, fermi_level, load, mesh_spectrum
from deeph_gformer.io import Structure
from deeph_gformer.io.files import write_json
from deeph_gformer.overlap import TableOverlap, load_table
from deeph_gformer.pipeline import HamiltonianModel, Prediction

EXAMPLES = pathlib.Path(__file__).resolve().parents[1] / "examples"
SYSTEMS = {
    "graphene": ("graphene_gpaw/0030", EXAMPLES / "graphene"),
    **{
        name: (f"{name}/{number}", EXAMPLES / "systems" / "models" / name)
        for name, number in {
            "mos2": "0008",
            "bilayer_graphene": "0010",
            "bismuthene": "0007",
            "bi2te3": "0008",
            "bi2se3": "0005",
        }.items()
    },
}
KINDS = ("supercell", "lattice_vectors", "renumbered", "moved_by_lattice_vectors")


def ideal(structure: Structure) -> Structure:
    """The primitive cell of the crystal that the structure is a displaced supercell of."""
    fraction = structure.positions @ np.linalg.inv(structure.lattice)
    cell = (structure.lattice, fraction, structure.numbers)
    for tolerance in (0.6, 0.45, 0.3, 0.2, 0.12):
        found = spglib.standardize_cell(cell, to_primitive=True, symprec=tolerance)
        if found is not None and len(structure) % len(found[2]) == 0 and len(found[2]) > 1:
            lattice, places, numbers = found
            break
    else:
        raise SystemExit(f"{structure.name}: no symmetry was found")
    shells = dict(zip(structure.numbers.tolist(), structure.orbital_types, strict=True))
    return Structure(
        np.array(lattice),
        np.array(places) @ lattice,
        np.array(numbers, dtype=np.int64),
        tuple(shells[z] for z in numbers),
        structure.spinful,
        {},
        f"{structure.name} ideal",
    )


def cases(name: str, data: pathlib.Path, model: HamiltonianModel) -> dict[str, tuple]:
    """(prediction, H for the window, S) of the displaced and of the ideal crystal."""
    folder, bundle = data / SYSTEMS[name][0], SYSTEMS[name][1] / "gformer"
    dft = load(folder)
    electrons = electrons_at(mesh_spectrum(dft, (3, 3, 1)), float(dft.stated_fermi_eV or 0.0))
    prediction = model.predict(folder)
    crystal = ideal(dft.structure)
    table = TableOverlap(load_table(bundle / fields.OVERLAP_TABLE), extrapolate=True)
    keys = table.edges(crystal)
    s = table.overlap(crystal, keys)
    other = model.predict(crystal, keys=keys)
    h = other.hamiltonian
    try:
        problem = BlochProblem(crystal, h, s)
        level = fermi_level(problem, round(electrons * len(crystal) / len(dft.structure)), "5x5x1")
        other = with_level(other, level.energy_eV)
    except deeph_gformer.errors.GFormerError as error:
        print(f"{name}, ideal: no eigenvalues ({error})", file=sys.stderr)
        s = None
    return {"displaced": (prediction, dft.h, dft.s), "ideal": (other, h, s)}


def with_level(prediction: Prediction, level: float) -> Prediction:
    """The prediction with its own Fermi level."""
    structure = dataclasses.replace(prediction.structure, info={"fermi_level": level})
    return prediction._replace(structure=structure)


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=pathlib.Path, required=True, metavar="DIR")
    parser.add_argument(
        "--models",
        type=pathlib.Path,
        metavar="DIR",
        help="DIR/NAME/gformer, DIR/NAME/stage1 instead of the shipped ones",
    )
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE")
    parser.add_argument("names", nargs="*", default=list(SYSTEMS), metavar="NAME")
    args = parser.parse_args()
    rows, results = [], []
    for name in args.names:
        folder = args.models / name if args.models else SYSTEMS[name][1]
        for dtype in ("float64", "float32"):
            model = deeph_gformer.load(folder / "gformer", stage1=folder / "stage1", dtype=dtype)
            for kind, (prediction, truth, s) in cases(name, args.data, model).items():
                found = invariance(model, prediction, truth, s, seed=0)
                record = {"system": name, "crystal": kind, "dtype": dtype, **found.to_json()}
                results.append(record)
                energies = [found.eigenvalues[k] for k in KINDS]
                row = [name, kind, dtype]
                row += ["-" if v is None else f"{v:.1e}" for v in energies]
                row += [f"{max(found.blocks.values()):.1e}", f"{found.smoothness:.3f}"]
                rows.append([*row, f"{found.stage1_smoothness:.3f}"])
                print("  ".join(rows[-1]), flush=True)
    header = ["system", "crystal", "type", *(k.split("_")[0] for k in KINDS)]
    header += ["largest element", "second difference", "of stage 1"]
    print("\nlargest differences in meV\n" + text_table(header, rows))
    if args.json:
        write_json(args.json, results)


if __name__ == "__main__":
    main()
