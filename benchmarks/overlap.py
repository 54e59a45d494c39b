"""Edges and overlaps: how long neighbour lists take, against vesin alone and against ASE.

python benchmarks/overlap.py [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import pathlib
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from deeph_gformer.overlap.neighbours import find_edges

Array = NDArray[np.float64]


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


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=pathlib.Path)
    args = parser.parse_args()
    rows = []
    for side, radius in ((1, 6.35), (5, 6.35), (20, 6.35), (76, 6.35), (76, 9.6)):
        rows.append(measure(side, radius))
        print(" ".join(f"{k} {v:.4g}" for k, v in rows[-1].items()), flush=True)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
