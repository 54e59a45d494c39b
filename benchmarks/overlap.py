"""Edges and overlaps: how long neighbour lists take, against vesin alone and against ASE; or how
exact predicted S is (docs/measured/overlap.md).

    python benchmarks/overlap.py [--json FILE]
    python benchmarks/overlap.py --data DIR --basis DIR   # unpacked DFT sets, .orb files
"""

from __future__ import annotations

import argparse
import json
import pathlib
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from deeph_gformer.bands import BlochProblem, load, solve_dense
from deeph_gformer.bands.loading import info_fermi_eV
from deeph_gformer.errors import DataError
from deeph_gformer.io import BlockMatrix
from deeph_gformer.overlap import TableOverlap
from deeph_gformer.overlap import load as open_overlap
from deeph_gformer.overlap.fit import fit_table
from deeph_gformer.overlap.neighbours import find_edges

Array = NDArray[np.float64]
SETS = ("graphene", "mos2", "bilayer_graphene", "bismuthene", "bi2te3", "bi2se3")
FITTED = dict(zip(SETS, (7, 7, 9, 6, 7, 4), strict=True))
"""Structures of each set that a table is fitted to; the one after them is for validation."""
KPOINTS = ((0.0, 0.0, 0.0), (1 / 3, 1 / 3, 0.0), (0.5, 0.0, 0.0), (0.2, 0.1, 0.0))


def sheet(side: int) -> tuple[Array, Array]:
    """Lattice and positions of ``side`` x ``side`` cells of graphene, Å."""
    cell = np.array([[2.46, 0, 0], [1.23, 2.1304, 0], [0, 0, 30.0]])
    steps = np.stack(np.meshgrid(np.arange(side), np.arange(side), indexing="ij")).reshape(2, -1)
    unit = steps.T @ cell[:2]
    return cell * [[side], [side], [1]], np.concatenate([unit, unit + [1.23, 0.7101, 0]])


def best(run: Callable[[], object], tries: int = 4) -> float:
    """Least time of several runs, s."""
    times = []
    for _ in range(tries):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


def measure(side: int, radius: float) -> dict[str, float]:
    """Times of one sheet, s."""
    import vesin
    from ase.neighborlist import primitive_neighbor_list

    lattice, positions = sheet(side)
    numbers = np.full(len(positions), 6)
    finder = vesin.NeighborList(cutoff=radius, full_list=True)
    return {
        "atoms": len(positions),
        "cutoff_A": radius,
        "edges": len(find_edges(lattice, positions, numbers, {(6, 6): radius})),
        "find_edges_s": best(lambda: find_edges(lattice, positions, numbers, {(6, 6): radius})),
        "vesin_s": best(lambda: finder.compute(positions, lattice, True, "ijS")),
        "ase_s": best(
            lambda: primitive_neighbor_list("ijS", [True] * 3, lattice, positions, radius), 1
        ),
    }


def wrong(dft: BlochProblem, found: list[BlockMatrix]) -> list[str]:
    """Largest error of each S, and of its bands within 3 eV of the Fermi level."""
    level = info_fermi_eV(dft.structure)
    if level is None:
        raise DataError(f"{dft.source}: info.json has no Fermi level")
    worst = np.zeros(len(found))
    for k in KPOINTS:
        true = solve_dense(*dft.at(k)).energies
        for n, s in enumerate(found):
            bands = solve_dense(*BlochProblem(dft.structure, dft.h, s).at(k)).energies
            near = np.abs(bands - true)[np.abs(true - level) < 3]
            worst[n] = max(worst[n], near.max(initial=0.0) * 1e3)
    errors = [float(np.abs(s.values - dft.s.values).max()) for s in found]
    return [f"S {e:.1e}, bands {w:.3f} meV" for e, w in zip(errors, worst, strict=True)]


def exactness(data: pathlib.Path, basis: pathlib.Path) -> None:
    """S of test and twisted structures by a table of the training split and by basis files."""
    exact = open_overlap(basis)
    for name, count in FITTED.items():
        table = fit_table([data / name / f"{number:04d}" for number in range(count)])
        tests = sorted((data / name).iterdir())[count + 1 :] + sorted(data.glob(f"{name}_*deg*/*"))
        for folder in tests:
            dft, words = load(folder), "table"
            try:
                TableOverlap(table).overlap(dft.structure, dft.s.keys)
            except DataError:
                words = "table with --extrapolate"
            sources = (TableOverlap(table, extrapolate=True), exact)
            by_table, by_files = wrong(
                dft, [source.overlap(dft.structure, dft.s.keys) for source in sources]
            )
            print(f"{folder.relative_to(data)}: {words}: {by_table}; files: {by_files}", flush=True)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=pathlib.Path)
    parser.add_argument("--data", type=pathlib.Path, help="unpacked DFT sets")
    parser.add_argument("--basis", type=pathlib.Path, help="folder of ABACUS .orb files")
    args = parser.parse_args()
    if args.data:
        return exactness(args.data, args.basis)
    rows = []
    for side, radius in ((1, 6.35), (5, 6.35), (20, 6.35), (76, 6.35), (76, 9.6)):
        rows.append(measure(side, radius))
        print(" ".join(f"{k} {v:.4g}" for k, v in rows[-1].items()), flush=True)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
