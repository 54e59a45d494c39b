"""Large structures: refine end to end on twisted bilayer graphene, and both stages against official
DeepH-E3.

    python benchmarks/large.py scaling --stage1 DIR --model BUNDLE --overlap TABLE \\
        --json large.json --plot large.png
    DEEPHE3_ROOT=/path/to/DeepH-E3 python benchmarks/large.py official --stage1 DIR \\
        --model BUNDLE --overlap TABLE

``scaling``: `build twist` makes the cells, each is refined by the command line in a process of its
own (edges and overlaps from the table, both files written); time per step and peak memory come from
``refine --json``. Processor time is what counts on a machine that does other work, too. Exponents
are least-squares slopes of log(time) and log(memory above an idle process) over log(atoms), from
``--fit-from`` atoms on. ``official``: both stages of refine (blocks included, no files) against the
official network (stage 1 only, its direct sum) on the same graph, each in a process of its own:
best time of the passes, peak memory of the first pass above what was resident before.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from typing import Any

import numpy as np

CELLS = "1,2 2,3 5,6 10,11 16,17 22,23 30,31"  # 28, 76, 364, 1324, 3268, 6076 and 11164 atoms
LATTICE, DISTANCE = 2.46, 3.35  # Å, of graphene and between the layers


def build(pairs: list[str], folder: pathlib.Path) -> list[pathlib.Path]:
    """Twisted cells as POSCAR files, one for each m,n."""
    from ase.build import graphene

    from deeph_gformer.cli import main as command

    layer = graphene(a=LATTICE, vacuum=10.0)
    layer.pbc = True
    folder.mkdir(parents=True, exist_ok=True)
    layer.write(folder / "graphene.vasp", format="vasp")
    result = [folder / f"twist_{p.replace(',', '_')}.vasp" for p in pairs]
    for pair, path in zip(pairs, result, strict=True):
        with contextlib.redirect_stdout(io.StringIO()):
            code = command(
                [
                    "build",
                    "twist",
                    "--cell",
                    str(folder / "graphene.vasp"),
                    "--mn",
                    pair,
                    "--distance",
                    str(DISTANCE),
                    "--output",
                    str(path),
                    "--overwrite",
                ]
            )
        if code:
            raise SystemExit(code)
    return result


def refined(args: argparse.Namespace, cell: pathlib.Path, folder: pathlib.Path) -> dict[str, Any]:
    """The record of ``refine`` on one cell."""
    record = folder / f"{cell.stem}.json"
    command = [sys.executable, "-m"]
    if args.processes > 1:
        command += [
            "torch.distributed.run",
            "--standalone",
            "--nproc-per-node",
            str(args.processes),
            "-m",
        ]
    command += [
        "deeph_gformer",
        "refine",
        "--preprocessed",
        str(cell),
        "--overlap",
        str(args.overlap),
    ]
    command += [
        "--stage1",
        str(args.stage1),
        "--model",
        str(args.model),
        "--output",
        str(folder / "out"),
        "--overwrite",
        "--json",
        str(record),
    ]
    command += ["--device", "cpu"] + (["--max-memory", args.max_memory] if args.max_memory else [])
    command += ["--spill", str(args.spill)] if args.spill else []
    start = time.perf_counter()
    subprocess.run(
        command,
        env={**os.environ, "OMP_NUM_THREADS": str(args.threads)},
        check=True,
        stdout=subprocess.DEVNULL,
    )
    found: dict[str, Any] = json.loads(record.read_text())["structures"][0]
    found["process_seconds"] = time.perf_counter() - start
    if not args.keep:
        for path in (folder / "out" / cell.stem).iterdir():
            path.unlink()
    return {
        k: found[k]
        for k in (
            "name",
            "atoms",
            "edges",
            "seconds",
            "process_seconds",
            "step_seconds",
            "step_processor_seconds",
            "peak_memory_bytes",
        )
    }


def idle_bytes() -> int:
    """Resident memory of a process that has loaded the libraries and has nothing to do."""
    code = (
        "import torch, deeph_gformer.pipeline, deeph_gformer.inference.refine, ase.io; from "
        "deeph_gformer.runtime.timer import peak_bytes; "
        "print(peak_bytes())"
    )
    return int(
        subprocess.run(
            [sys.executable, "-c", code], check=True, capture_output=True, text=True
        ).stdout
    )


def slope(atoms: np.ndarray, values: np.ndarray) -> float:
    """Exponent of a power law."""
    return float(np.polyfit(np.log(atoms), np.log(values), 1)[0])


def scaling(args: argparse.Namespace) -> dict[str, Any]:
    """Table, exponents, figure."""
    rows: list[dict[str, Any]] = []
    idle = idle_bytes()
    with tempfile.TemporaryDirectory(dir=args.work) as output:
        folder = pathlib.Path(output)
        print(
            f"{'atoms':>7}{'edges':>10}{'seconds':>9}{'processor':>10}{'peak GB':>9}"
            f"{'kB/edge':>9}  processor time per step / s"
        )
        for cell in build(args.mn.split(), folder):
            row = refined(args, cell, folder)
            rows.append(row)
            processor = sum(row["step_processor_seconds"].values())
            above = (row["peak_memory_bytes"] - idle) / row["edges"] / 1e3
            steps = ", ".join(f"{k} {v:.1f}" for k, v in row["step_processor_seconds"].items())
            print(
                f"{row['atoms']:>7}{row['edges']:>10}{row['seconds']:>9.1f}{processor:>10.1f}"
                f"{row['peak_memory_bytes'] / 1e9:>9.2f}{above:>9.2f}  {steps}",
                flush=True,
            )
    result: dict[str, Any] = {
        "idle_bytes": idle,
        "threads": args.threads,
        "processes": args.processes,
        "rows": rows,
    }
    large = [r for r in rows if r["atoms"] >= args.fit_from]
    if len(large) > 1:
        atoms = np.array([r["atoms"] for r in large], dtype=float)
        result["time_exponent"] = slope(atoms, np.array([r["seconds"] for r in large]))
        result["processor_exponent"] = slope(
            atoms, np.array([sum(r["step_processor_seconds"].values()) for r in large])
        )
        result["memory_exponent"] = slope(
            atoms, np.array([r["peak_memory_bytes"] - idle for r in large], dtype=float)
        )
        found = ", ".join(
            f"{k} {result[f'{k}_exponent']:.3f}" for k in ("time", "processor", "memory")
        )
        print(f"exponents from {args.fit_from} atoms on: {found}")
    if args.plot:
        plot(result, args.plot)
    return result


def plot(result: dict[str, Any], path: pathlib.Path) -> None:
    """Time per step and peak memory over atoms, both logarithmic."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = result["rows"]
    atoms = [r["atoms"] for r in rows]
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4))
    left.loglog(
        atoms, [sum(r["step_processor_seconds"].values()) for r in rows], "ko-", label="all"
    )
    for step in rows[-1]["step_seconds"]:
        left.loglog(
            atoms, [r["step_processor_seconds"].get(step, np.nan) for r in rows], ".-", label=step
        )
    right.loglog(atoms, [r["peak_memory_bytes"] / 1e9 for r in rows], "ko-", label="peak")
    right.axhline(result["idle_bytes"] / 1e9, ls="--", c="grey", label="idle process")
    for axes, label in ((left, "processor time / s"), (right, "memory / GB")):
        axes.set(xlabel="atoms", ylabel=label)
        axes.legend(fontsize=8)
        axes.grid(alpha=0.3)
    if "time_exponent" in result:
        left.set_title(f"time ~ atoms^{result['processor_exponent']:.2f}")
        right.set_title(f"memory ~ atoms^{result['memory_exponent']:.2f}")
    figure.tight_layout()
    figure.savefig(path, dpi=150)


def worker(kind: str, cell: str, args: argparse.Namespace) -> None:
    """One measurement, as JSON on the last line."""
    import torch
    from stage1 import _peak

    from deeph_gformer.data.edges import EdgeChoice
    from deeph_gformer.data.graph import build_graph
    from deeph_gformer.inference.requirements import plan_structure
    from deeph_gformer.overlap import load as load_overlap
    from deeph_gformer.overlap.predict import read_any
    from deeph_gformer.pipeline import load
    from deeph_gformer.prediction.reading import Item

    torch.set_num_threads(args.threads)
    official = kind == "official"
    options = (
        {"backend": "official", "deephe3_root": os.environ["DEEPHE3_ROOT"]} if official else {}
    )
    model = load(None if official else args.model, args.stage1, **options)
    table = load_overlap(args.overlap)

    def read(path: str | pathlib.Path) -> tuple[Any, Any, Any]:
        structure, pbc, _ = read_any(path, table)
        graph = build_graph(
            structure, table.edges(structure, pbc), model.targets.basis, torch.float64
        )
        return structure, graph, EdgeChoice(graph.edge_key.numpy(), "table")

    def once(source: tuple[Any, Any, Any]) -> Any:
        if official:
            return model.stage1(source[1].to(dtype=model.dtype), features=False)  # type: ignore[misc]
        return next(model.predict_graphs([Item(*source)], plan_structure(model, source[1])))

    small, source = read(pathlib.Path(cell).with_name("twist_1_2.vasp")), read(cell)
    once(small)
    kept: list[Any] = []
    peak = _peak(lambda: kept.append(once(source)))
    kept.clear()
    times = []
    while len(times) < 2 or sum(times) < args.seconds:
        start = time.perf_counter()
        once(source)
        times.append(time.perf_counter() - start)
    print(json.dumps({"edges": source[1].edges, "seconds": min(times), "peak": peak}))


def official(args: argparse.Namespace) -> dict[str, Any]:
    """Both stages of ours against stage 1 alone of the official code."""
    if not os.environ.get("DEEPHE3_ROOT"):
        raise SystemExit("set DEEPHE3_ROOT to a clone of DeepH-E3")
    result: dict[str, Any] = {"threads": args.threads, "rows": []}
    with tempfile.TemporaryDirectory(dir=args.work) as output:
        cells = build(["1,2", *args.mn.split()], pathlib.Path(output))[1:]
        for cell in cells:
            row: dict[str, Any] = {"cell": cell.stem}
            for kind in ("official", "refine"):
                command = [
                    sys.executable,
                    __file__,
                    "official",
                    "--worker",
                    kind,
                    str(cell),
                    "--stage1",
                    str(args.stage1),
                    "--model",
                    str(args.model),
                ]
                command += [
                    "--overlap",
                    str(args.overlap),
                    "--threads",
                    str(args.threads),
                    "--seconds",
                    str(args.seconds),
                ]
                done = subprocess.run(
                    command,
                    env={**os.environ, "OMP_NUM_THREADS": str(args.threads)},
                    capture_output=True,
                    text=True,
                )
                if done.returncode:
                    raise SystemExit(
                        f"{kind} {cell.stem}: failed, {done.stderr.strip().splitlines()[-1:]}"
                    )
                found = json.loads(done.stdout.strip().splitlines()[-1])
                row["edges"] = found["edges"]
                row[kind] = {
                    "edges_per_s": found["edges"] / found["seconds"],
                    "peak_bytes_per_edge": found["peak"] / found["edges"],
                }
            a, b = row["official"], row["refine"]
            row["speedup"] = b["edges_per_s"] / a["edges_per_s"]
            row["memory_ratio"] = b["peak_bytes_per_edge"] / a["peak_bytes_per_edge"]
            result["rows"].append(row)
            print(
                f"{cell.stem}, {row['edges']} edges: official stage 1 {a['edges_per_s']:.0f} "
                f"edges/s, {a['peak_bytes_per_edge'] / 1e3:.1f} kB/edge; "
                f"refine, both stages {b['edges_per_s']:.0f} edges/s, "
                f"{b['peak_bytes_per_edge'] / 1e3:.1f} kB/edge: "
                f"{row['speedup']:.1f} times as fast, {row['memory_ratio']:.2f} of the memory",
                flush=True,
            )
    return result


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("scaling", "official"))
    parser.add_argument("--stage1", required=True, type=pathlib.Path)
    parser.add_argument("--model", required=True, type=pathlib.Path)
    parser.add_argument(
        "--overlap", required=True, type=pathlib.Path, help="table, see 'deeph-gformer overlap fit'"
    )
    parser.add_argument("--mn", help=f"cells (scaling: '{CELLS}'; official: '5,6')")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--processes",
        type=int,
        default=1,
        help="scaling: processes that share each cell, by torchrun; the steps are those of the "
        "first",
    )
    parser.add_argument(
        "--fit-from",
        type=int,
        default=300,
        help="smallest cell of the fit, atoms (default 300: smaller ones are start-up time)",
    )
    parser.add_argument("--max-memory", help="of refine")
    parser.add_argument("--spill", type=pathlib.Path, help="of refine")
    parser.add_argument("--work", type=pathlib.Path, help="folder for temporary files")
    parser.add_argument(
        "--keep", action="store_true", help="leave predictions until the end of the run"
    )
    parser.add_argument(
        "--seconds", type=float, default=5.0, help="official: time spent on each measurement"
    )
    parser.add_argument("--json", type=pathlib.Path)
    parser.add_argument("--plot", type=pathlib.Path)
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.mn = args.mn or (CELLS if args.what == "scaling" else "5,6")
    if args.worker:
        worker(*args.worker, args)
        return
    result = (scaling if args.what == "scaling" else official)(args)
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
