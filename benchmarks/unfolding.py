"""Wall and processor time of an unfolding, with the load of the machine beside it.

python benchmarks/unfolding.py DIR --unfold layer.vasp --unfold layer.vasp --fermi -1.6078
    --npoints 60 --nbands 50 --processes 2 --figure unfolded.png

DIR is a structure folder with a Hamiltonian (``--kind hamiltonian`` or ``prediction``).
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import resource
import time

from deeph_gformer import bands


def main() -> None:
    """Unfold, and print what it cost as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--unfold", action="append", required=True)
    parser.add_argument("--fermi", type=float, required=True, help="eV")
    parser.add_argument("--kind", default="prediction")
    parser.add_argument("--path", default=None)
    parser.add_argument("--npoints", type=int, default=60)
    parser.add_argument("--nbands", type=int, default=50)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--figure", type=pathlib.Path)
    options = parser.parse_args()

    load, began = os.getloadavg()[0], time.perf_counter()
    problem = bands.load(options.folder, options.kind)
    found = bands.unfold(
        problem,
        options.unfold,
        options.path,
        options.npoints,
        fermi=options.fermi,
        nbands=options.nbands,
        processes=options.processes,
        check="random",
    )
    wall = time.perf_counter() - began
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    cpu = sum(one.ru_utime + one.ru_stime for one in used)
    count = len(found.bands.path)
    if options.figure:
        bands.plot_unfolded([found], options.figure)
    print(
        json.dumps(
            {
                "orbitals": problem.size,
                "kpoints": count,
                "solver": found.bands.solver,
                "wall_s": round(wall, 1),
                "cpu_s": round(cpu, 1),
                "cpu_s_per_kpoint": round(cpu / count, 2),
                "peak_memory_GB": round(max(one.ru_maxrss for one in used) / 1e6, 2),
                "load_before": load,
                "load_after": os.getloadavg()[0],
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
