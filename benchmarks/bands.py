"""Cost of one k-point against size.

50 states around an energy in bilayer graphene cells, sparse solver, dense LAPACK and sisl side by
side.

    # n x n supercells of a DFT bilayer, H and S of DFT
    python benchmarks/bands.py --cell DIR [--json FILE] [--figure FILE]
    # twisted cells, S from an overlap table fitted to DIR, stand-in H
    python benchmarks/bands.py --twisted DIR [DIR ...]
    # any structures with H and S, e.g. made by build and refine
    python benchmarks/bands.py --folder DIR [DIR ...]

Every size runs in a process of its own; memory is that process's resident peak, reading and
building included. Times are wall and processor seconds.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import pathlib
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.linalg

from deeph_gformer import bands
from deeph_gformer.bands import BlochProblem
from deeph_gformer.bands.loading import info_fermi_eV
from deeph_gformer.bands.sparse import factors, solver
from deeph_gformer.io import BlockMatrix, Structure
from deeph_gformer.io.files import atomic_path

SIZES = (148, 508, 1324, 2884, 6738)
DENSE_ORBITALS = 3400
DISORDER_EV = 0.02
STAND_IN = {0: 1.0, 1: 1.5, 2: 2.0}  # by angular momentum


def timed(times: dict[str, list[float]], name: str, work: Callable[[], Any]) -> Any:
    """Run ``work`` and note [wall, processor] seconds, summed over calls of one name."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    before = times.get(name, [0.0, 0.0, 0])
    times[name] = [
        before[0] + time.perf_counter() - wall,
        before[1] + time.process_time() - cpu,
        before[2] + 1,
    ]
    return result


def supercell(folder: str, atoms: int) -> tuple[BlochProblem, float]:
    """The smallest n x n supercell with at least so many atoms.

    On-site energies vary by 20 meV, so that folded levels are not degenerate.
    """
    small = bands.load(folder)
    count = len(small.structure)
    n = math.ceil(math.sqrt(atoms / count))
    cells = np.array([(i, j, 0) for i in range(n) for j in range(n)])
    sizes = np.array([n, n, 1])
    shift = DISORDER_EV * np.random.default_rng(0).standard_normal(count * len(cells))

    def repeated(matrix: BlockMatrix) -> tuple[np.ndarray, list[np.ndarray]]:
        ends = cells[:, None] + matrix.keys[None, :, :3]
        image = np.floor_divide(ends, sizes)
        inner = ends - image * sizes
        first = np.arange(len(cells))[:, None] * count + matrix.keys[:, 3]
        second = (inner[..., 0] * n + inner[..., 1]) * count + matrix.keys[:, 4]
        keys = np.concatenate([image, first[..., None], second[..., None]], axis=2).reshape(-1, 5)
        return keys, [matrix.block(e) for e in range(len(matrix))]

    h_keys, h_blocks = repeated(small.h)
    s_keys, s_blocks = repeated(small.s)
    place = {tuple(key): e % len(s_blocks) for e, key in enumerate(s_keys.tolist())}
    disordered = []
    for e, key in enumerate(h_keys.tolist()):
        block, partner = h_blocks[e % len(h_blocks)], place.get(tuple(key))
        disordered.append(
            block
            if partner is None
            else block + (shift[key[3]] + shift[key[4]]) / 2 * s_blocks[partner]
        )
    lattice = small.structure.lattice * sizes[:, None]
    positions = (
        small.structure.positions[None] + (cells @ small.structure.lattice)[:, None]
    ).reshape(-1, 3)
    numbers, shells = (
        np.tile(small.structure.numbers, len(cells)),
        small.structure.orbital_types * len(cells),
    )
    structure = Structure(lattice, positions, numbers, shells, name=f"{n} x {n}")
    h = BlockMatrix.from_blocks(h_keys, disordered)
    s = BlockMatrix.from_blocks(s_keys, [s_blocks[e % len(s_blocks)] for e in range(len(s_keys))])
    return BlochProblem(structure, h, s, source=f"{folder}, {n} x {n}"), info_fermi_eV(
        small.structure
    ) or 0.0


def twisted(folders: list[str], atoms: int) -> tuple[BlochProblem, float]:
    """The smallest commensurate twisted bilayer of equal layers with at least so many atoms: S from
    a table, H a stand-in with the same blocks.

    The stand-in is D (S * S) D, * by elements, D by angular momentum: positive definite, spectrum
    0.2 to 1000 eV like kinetic energy, no physics. Around its shift at half filling levels are some
    ten times denser than graphene's around its Fermi level.
    """
    import ase

    from deeph_gformer.overlap import fit, provider, twist

    table = provider.TableOverlap(fit.fit_table(folders))
    a = 2.46
    layer = ase.Atoms(
        "C2",
        scaled_positions=[[0, 0, 0.5], [2 / 3, 1 / 3, 0.5]],
        cell=[[a, 0, 0], [-a / 2, a * 3**0.5 / 2, 0], [0, 0, 15]],
        pbc=True,
    )
    bottom, top, _ = twist.read_layers(layer, layer.copy())
    reach = range(1, 2 + math.isqrt(atoms))
    number, _, m, n = min(
        (c, m - n, m, n)
        for m in reach
        for n in range(1, m)
        if (c := 4 * (m * m + m * n + n * n)) >= atoms
    )
    cell = twist.twist_bilayer(bottom, top, twist.twist_of(bottom, top, (m, n)), 3.4)
    structure = provider.structure_from_atoms(
        cell, table.orbital_types, f"twisted bilayer ({m}, {n})"
    )
    s = table.overlap(structure, table.edges(structure, (True, True, False)))
    weights = np.concatenate([[STAND_IN[l]] * (2 * l + 1) for l in structure.orbital_types[0]])
    h = s.with_groups(
        (index, np.outer(weights, weights) * blocks**2) for index, blocks in s.groups()
    )
    return BlochProblem(
        structure, h, s, source=f"twisted bilayer ({m}, {n}), {number} atoms, stand-in H"
    ), 1.548


def watch(times: dict[str, list[float]], counts: dict[str, int]) -> None:
    """Time the parts of the sparse solver."""
    for module, name, label in (
        (solver, "factorize", "factorise"),
        (solver, "shift_invert_lanczos", "lanczos"),
        (solver, "polish", "polish"),
        (solver, "count_below", "count"),
        (solver, "chance_of_missing", "random check"),
        (solver, "contraction", "refinement test"),
    ):
        real = getattr(module, name)

        def wrapped(*args: Any, _real: Any = real, _label: str = label, **options: Any) -> Any:
            result = timed(times, _label, lambda: _real(*args, **options))
            if _label == "factorise":
                factor = result[0]
                counts["factor_GB"] = factor.entries * factor.dtype.itemsize / 1e9
                counts["delayed_pivots"] = factor.delayed
            return result

        setattr(module, name, wrapped)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """One size, in this process."""
    times: dict[str, list[float]] = {}
    facts: dict[str, Any] = {}
    if options.cell:
        problem, sigma = timed(times, "build", lambda: supercell(options.cell, options.one))
    elif options.twisted:
        problem, sigma = timed(times, "build", lambda: twisted(options.twisted, options.one))
    else:
        problem = timed(
            times, "build", lambda: bands.load(options.folder[options.one], options.kind)
        )
        sigma = info_fermi_eV(problem.structure) or 0.0
    sigma = sigma if options.sigma is None else options.sigma
    h, s = timed(times, "pattern and first H(k)", lambda: problem.sparse_at(options.k))
    h, s = timed(times, "H(k), S(k)", lambda: problem.sparse_at(options.k))
    plan = timed(times, "plan", lambda: factors.elimination_plan(problem))
    watch(times, facts)
    real = not np.iscomplexobj(h.data)
    facts |= {
        "Tflop": plan.multiply_adds / 1e12 * (1 if real else 4),
        "largest_front": plan.largest,
        "real": real,
    }
    solution = timed(
        times,
        "sparse",
        lambda: solver.solve_sparse(
            h,
            s,
            sigma,
            options.states,
            problem=problem,
            check=options.check,
            precision=options.precision,
            engine=options.engine,
        ),
    )
    facts |= {
        "solver": f"{solution.engine}, {solution.check}",
        "complete": solution.complete,
        "failure": solution.failure,
        "first_band": solution.first,
    }
    if len(solution.energies):
        facts |= {"states": len(solution.energies), "span_eV": float(np.ptp(solution.energies))}
        residual = h @ solution.vectors - (s @ solution.vectors) * solution.energies
        facts["largest_residual_eV"] = float(np.linalg.norm(residual, axis=0).max())
    facts["peak_GB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    if problem.size <= options.dense and len(solution.energies) and solution.first is not None:
        compare(problem, options.k, solution.energies, solution.first, times, facts)
    shape = {
        "atoms": len(problem.structure),
        "orbitals": problem.size,
        "nonzeros": h.nnz,
        "source": problem.source,
        "sigma_eV": sigma,
    }
    return shape | facts | {"seconds_wall_cpu_calls": times}


def compare(
    problem: BlochProblem,
    k: list[float],
    energies: np.ndarray,
    first: int,
    times: dict[str, list[float]],
    facts: dict[str, Any],
) -> None:
    """Dense LAPACK and sisl for the same matrices."""
    every = timed(times, "dense", lambda: scipy.linalg.eigh(*problem.at(k), eigvals_only=True))
    facts["largest_difference_to_dense_eV"] = float(
        np.abs(every[first : first + len(energies)] - energies).max()
    )
    try:
        from deeph_gformer.interop.sisl import to_sisl

        other = timed(times, "to sisl", lambda: to_sisl(problem))
    except ImportError:
        return
    theirs = timed(times, "sisl", lambda: other.eigh(k=k))
    facts["largest_difference_to_sisl_eV"] = float(np.abs(np.sort(theirs) - every).max())


def draw(rows: list[dict[str, Any]], path: str) -> dict[str, float]:
    """Log-log plot of wall time and memory with fitted exponents, from the rows above 400 atoms."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    large = [row for row in rows if row["atoms"] > 400 and not row["failure"]]
    atoms = np.array([row["atoms"] for row in large], dtype=float)
    series = {
        "all, shown complete": [row["seconds_wall_cpu_calls"]["sparse"][0] for row in large],
        "one factorisation": [
            row["seconds_wall_cpu_calls"]["factorise"][0]
            / row["seconds_wall_cpu_calls"]["factorise"][2]
            for row in large
        ],
        "peak memory (GB)": [row["peak_GB"] for row in large],
    }
    figure, axes = plt.subplots(figsize=(6, 4.2), layout="constrained")
    exponents = {}
    for (name, values), marker in zip(series.items(), "os^", strict=False):
        exponents[name] = (
            float(np.polyfit(np.log(atoms), np.log(values), 1)[0])
            if len(large) > 1
            else float("nan")
        )
        axes.loglog(atoms, values, marker + "-", label=f"{name}: N^{exponents[name]:.2f}")
    dense = [
        (row["atoms"], row["seconds_wall_cpu_calls"]["dense"][0])
        for row in rows
        if "dense" in row["seconds_wall_cpu_calls"]
    ]
    if dense:
        axes.loglog(*zip(*dense, strict=True), "x", color="grey", label="dense LAPACK")
    axes.set(
        xlabel="atoms", ylabel="seconds, or GB", title="One k-point, 50 states, bilayer graphene"
    )
    marks = sorted({row["atoms"] for row in rows if not row["failure"]})
    axes.set_xticks(marks, [f"{mark:,}" for mark in marks])
    axes.set_xticks([], minor=True)
    axes.grid(which="both", alpha=0.3)
    axes.legend()
    pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    return exponents


def show(row: dict[str, Any]) -> str:
    times = ", ".join(
        f"{name} {wall:.1f}/{cpu:.1f}"
        for name, (wall, cpu, _) in row["seconds_wall_cpu_calls"].items()
    )
    rest = {key: value for key, value in row.items() if key != "seconds_wall_cpu_calls"}
    return json.dumps(rest) + f"\n  wall/processor seconds: {times}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--cell", metavar="DIR", help="bilayer with DFT's H and S, to be repeated")
    source.add_argument(
        "--twisted", nargs="+", metavar="DIR", help="structures to fit the overlap table to"
    )
    source.add_argument("--folder", nargs="+", metavar="DIR", help="structures with H and S")
    parser.add_argument(
        "--kind",
        default="hamiltonian",
        choices=("hamiltonian", "prediction"),
        help="with --folder: which H",
    )
    parser.add_argument(
        "--sizes",
        type=int,
        nargs="+",
        default=SIZES,
        metavar="ATOMS",
        help="at least so many atoms each",
    )
    parser.add_argument("--k", type=float, nargs=3, default=[0.0, 0.0, 0.0])
    parser.add_argument(
        "--sigma", type=float, metavar="EV", help="default: the Fermi level that info.json states"
    )
    parser.add_argument("--states", type=int, default=50)
    parser.add_argument("--precision", default="auto", choices=("auto", "single", "double"))
    parser.add_argument("--engine", default="auto")
    parser.add_argument(
        "--check",
        default="auto",
        choices=("auto", "count", "random", "none"),
        help="how to show that no state was missed",
    )
    parser.add_argument(
        "--dense",
        type=int,
        default=DENSE_ORBITALS,
        metavar="N",
        help="compare with dense LAPACK and sisl up to N orbitals",
    )
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--figure", metavar="FILE")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one is not None:
        print(json.dumps(measure(options)))
        return
    rows = []
    for one in range(len(options.folder)) if options.folder else options.sizes:
        command = [sys.executable, __file__, *sys.argv[1:], "--one", str(one)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
        if done.returncode:
            sys.exit(f"size {one}: failed with exit code {done.returncode}")
        rows.append(json.loads(done.stdout.splitlines()[-1]))
        print(show(rows[-1]), flush=True)
    result: dict[str, Any] = {
        "cores": os.cpu_count(),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS"),
        "machine": platform.processor(),
    }
    result["rows"] = rows
    if options.figure:
        result["exponents"] = draw(rows, options.figure)
        print("exponents", result["exponents"])
    if options.json:
        with atomic_path(pathlib.Path(options.json)) as path:
            path.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
