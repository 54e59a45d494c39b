"""Screening sets: structures per second of ``refine``, of Python and of the ASE calculator, and
where the time goes.

    python benchmarks/throughput.py [--count 1000] [--ways alone,batched,many,calculator]

Makes MoS2 cells of 12 atoms (2 x 2 x 1, rattled by 0.03 Å) as files of POSCAR format; edges and
overlaps come from the table in the bundle. Each way runs in a process of its own with one thread;
seconds are processor time, without the start of Python and the loading of the model, which are
told beside it. ``--profile`` writes functions by their own time to a file.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import os
import pathlib
import pstats
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np

MODELS = pathlib.Path(__file__).parents[1] / "examples/systems/models/mos2"
#: Edges of a batch where nothing else is asked for.
BATCH = 20_000


def cells(count: int, seed: int = 42) -> list[Any]:
    """Rattled cells of MoS2, as ASE's atoms."""
    from ase.build import mx2

    generator = np.random.default_rng(seed)
    result = []
    for _ in range(count):
        atoms = mx2("MoS2", a=3.18, thickness=3.19, size=(2, 2, 1), vacuum=10.0)
        atoms.pbc = True
        atoms.positions += generator.normal(scale=0.03, size=atoms.positions.shape)
        result.append(atoms)
    return result


def write(folder: pathlib.Path, count: int) -> None:
    """One file a cell."""
    folder.mkdir()
    for number, atoms in enumerate(cells(count)):
        atoms.write(folder / f"{number:05d}.vasp", format="vasp", sort=True)


def refine(
    args: argparse.Namespace, batch: int, count: bool = True
) -> Callable[[], dict[str, Any]]:
    """Files in, files out; ``batch`` edges at once; ``count``: with a Fermi level."""
    from deeph_gformer.inference.refine import refine as run
    from deeph_gformer.pipeline import load

    model = load(args.model / "gformer", args.model / "stage1")

    def once() -> dict[str, Any]:
        with tempfile.TemporaryDirectory(dir=args.work) as output:
            found = run(args.folder, model, output, batch_edges=batch, count=count)
        records = found["structures"]
        steps: dict[str, float] = {}
        for record in records:
            for name, value in record["step_processor_seconds"].items():
                steps[name] = steps.get(name, 0.0) + value
        return {"steps": steps}

    return once


def many(args: argparse.Namespace) -> Callable[[], dict[str, Any]]:
    """Folders with overlaps in, Hamiltonians in memory."""
    from deeph_gformer.overlap import load as load_overlap
    from deeph_gformer.overlap.predict import predict_overlap
    from deeph_gformer.pipeline import load

    folders = args.folder.parent / "with_overlaps"
    provider = load_overlap(args.model / "gformer" / "overlap.npz")
    for path in sorted(args.folder.iterdir()):
        predict_overlap(path, provider, folders / path.stem)
    model = load(args.model / "gformer", args.model / "stage1")
    paths = sorted(path for path in folders.iterdir() if path.is_dir())

    def once() -> dict[str, Any]:
        model.predict_many(paths)
        return {}

    return once


def calculator(args: argparse.Namespace) -> Callable[[], dict[str, Any]]:
    """Atoms in, Hamiltonians in memory, one after the other."""
    from deeph_gformer.interop.ase import HamiltonianCalculator

    result = HamiltonianCalculator(args.model / "gformer", args.model / "stage1")
    atoms = cells(args.count)

    def once() -> dict[str, Any]:
        for each in atoms:
            result.calculate(each)
        return {}

    return once


def worker(args: argparse.Namespace) -> None:
    """One way, as JSON on the last line."""
    import torch

    torch.set_num_threads(1)
    ways: dict[str, Callable[[], Callable[[], dict[str, Any]]]] = {
        "alone": lambda: refine(args, 0),
        "batched": lambda: refine(args, args.batch_edges),
        "unlevelled": lambda: refine(args, args.batch_edges, False),
        "many": lambda: many(args),
        "calculator": lambda: calculator(args),
    }
    once = ways[args.worker]()
    loaded = time.process_time()
    profile = cProfile.Profile(time.process_time) if args.profile else None
    if profile is not None:
        profile.enable()
    found = once()
    if profile is not None:
        profile.disable()
        with open(args.profile, "w", encoding="utf-8") as handle:
            pstats.Stats(profile, stream=handle).sort_stats("tottime").print_stats(60)
            pstats.Stats(profile, stream=handle).sort_stats("cumtime").print_stats(90)
    found.update(seconds=time.process_time() - loaded, loading=loaded)
    print(json.dumps(found))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=pathlib.Path, default=MODELS, help="stage1/ and gformer/")
    parser.add_argument("--count", type=int, default=1000, help="structures (default 1000)")
    parser.add_argument("--ways", default="alone,batched,unlevelled,many,calculator")
    parser.add_argument("--batch-edges", type=int, default=BATCH)
    parser.add_argument("--work", type=pathlib.Path, help="folder for temporary files")
    parser.add_argument("--profile", type=pathlib.Path, help="file of the last way's functions")
    parser.add_argument("--json", type=pathlib.Path)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=pathlib.Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        worker(args)
        return
    root = pathlib.Path(tempfile.mkdtemp(dir=args.work))
    rows: dict[str, Any] = {}
    try:
        write(root / "cells", args.count)
        for way in args.ways.split(","):
            command = [sys.executable, __file__, *sys.argv[1:], "--worker", way]
            done = subprocess.run(
                [*command, "--folder", str(root / "cells")],
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                stdout=subprocess.PIPE,
                text=True,
                check=True,
            )
            rows[way] = found = json.loads(done.stdout.strip().splitlines()[-1])
            steps = ", ".join(
                f"{k} {1e3 * v / args.count:.2f}" for k, v in found.get("steps", {}).items()
            )
            each = found["seconds"] / args.count
            print(
                f"{way:>12}: {1e3 * each:7.2f} ms, {1 / each:6.1f} a second; start "
                f"{found['loading']:.1f} s{'; ms of ' if steps else ''}{steps}",
                flush=True,
            )
    finally:
        shutil.rmtree(root, ignore_errors=True)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
