"""Chern numbers of exchange-split bismuthene and their processor time, of docs/howto/topology.md.

python benchmarks/chern.py DIR FILLED EXCHANGE_EV MESH

    python benchmarks/chern.py dft/abacus/bismuthene_1x1 60 0.3 4x4
    python benchmarks/chern.py bismuthene/0000 240 0.1 3x3

The exchange field adds EXCHANGE_EV sigma_z S to H.
"""

from __future__ import annotations

import argparse
import pathlib
import time

import numpy as np

from deeph_gformer import bands
from deeph_gformer.bands import BlochProblem
from deeph_gformer.bands.topology import Links, berry_curvature
from deeph_gformer.io import BlockMatrix


def with_exchange(problem: BlochProblem, exchange_eV: float) -> BlochProblem:
    """H + exchange sigma_z S; up is the first half of each atom's orbitals, S is of one spin."""
    h, s = problem.h, problem.s
    values = h.values.astype(np.complex128)
    place = {tuple(key): number for number, key in enumerate(h.keys.tolist())}
    for number, key in enumerate(s.keys.tolist()):
        block = s.values[s.offsets[number] : s.offsets[number + 1]].reshape(s.shapes[number])
        at = place[tuple(key)]
        values[h.offsets[at] : h.offsets[at + 1]] += (
            exchange_eV * np.kron(np.diag([1.0, -1.0]), block).ravel()
        )
    return BlochProblem(
        problem.structure, BlockMatrix(h.keys, h.shapes, values), s, source=problem.source
    )


def main() -> None:
    """Print the Chern number and what it cost."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("filled", type=int)
    parser.add_argument("exchange", type=float, help="eV")
    parser.add_argument("mesh", help="e.g. 4x4")
    args = parser.parse_args()
    first, second = map(int, args.mesh.split("x"))
    links = Links(with_exchange(bands.load(args.folder), args.exchange), args.filled)
    begin = time.process_time()
    found = berry_curvature(links, (0, 1), (first, second))
    print(f"Chern number {found.chern}, {time.process_time() - begin:.1f} s of processor time")


if __name__ == "__main__":
    main()
