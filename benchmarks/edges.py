"""What a process pays for the edges of a structure and for the names of a legacy file, alone and as
one of several: processor time and peak of Python's memory.

    python benchmarks/edges.py --overlap TABLE [--mn 30,31] [--sizes 1,2,4]

The structure is a twisted bilayer, edges come from the table; no network runs. Figures are the most
of any process.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import pathlib
import socket
import tempfile
import time
import tracemalloc
from typing import Any

import numpy as np
from large import build


def measured(args: argparse.Namespace, rank: int, size: int, port: int, cell: str) -> Any:
    """Edges and bytes of a process, seconds of both steps, and their peaks, bytes."""
    if size > 1:
        os.environ.update(RANK=str(rank), WORLD_SIZE=str(size), LOCAL_WORLD_SIZE=str(size))
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    import torch

    from deeph_gformer.io.formats import get_format
    from deeph_gformer.overlap import load
    from deeph_gformer.overlap.predict import read_any
    from deeph_gformer.prediction.sharing import find_shared
    from deeph_gformer.runtime.processes import end_processes, start_processes

    torch.set_num_threads(1)
    table = load(args.overlap)
    structure, pbc, _ = read_any(cell, table)
    comm = start_processes()
    found = []
    for traced in (False, True):  # tracing slows Python down
        if traced:
            tracemalloc.start()
        start = time.process_time()
        shared, keys = find_shared(comm, structure, table, pbc)
        middle, peak = time.process_time(), tracemalloc.get_traced_memory()[1]
        shapes = structure.orbital_counts[keys[:, 3:]]
        if traced:
            tracemalloc.reset_peak()
        with tempfile.TemporaryDirectory(dir=args.work) as folder:
            path = pathlib.Path(folder) / "part.h5"
            path.touch()
            dtype = np.dtype(np.float32)
            file = get_format("legacy").share(keys, shapes, dtype, shared)
            file.begin(path)  # each a file of its own: what is written is what counts
            file.fill(path)
        found.append((len(keys), middle - start, time.process_time() - middle))
        second = tracemalloc.get_traced_memory()[1] if traced else 0
    end_processes()
    return (*found[0], peak, second)


def _child(results: Any, *arguments: Any) -> None:
    results.put(measured(*arguments))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--overlap", type=pathlib.Path, required=True, help="table of bilayers")
    parser.add_argument("--mn", default="30,31")
    parser.add_argument("--sizes", default="1,2,4")
    parser.add_argument("--work", type=pathlib.Path, help="folder for temporary files")
    args = parser.parse_args()
    print("processes   edges of one   find / s   MB   names and headers / s   MB")
    with tempfile.TemporaryDirectory(dir=args.work) as folder:
        cell = str(build([args.mn], pathlib.Path(folder))[0])
        for size in map(int, args.sizes.split(",")):
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                port = probe.getsockname()[1]
            context = multiprocessing.get_context("spawn")
            results = context.Queue()
            children = [
                context.Process(target=_child, args=(results, args, rank, size, port, cell))
                for rank in range(size)
            ]
            for child in children:
                child.start()
            each = [results.get(timeout=600) for _ in children]
            for child in children:
                child.join()
            edges, find, write, first, second = (max(column) for column in zip(*each, strict=True))
            print(
                f"{size:>9}{edges:>15,}{find:>11.2f}{first / 1e6:>5.0f}{write:>24.2f}"
                f"{second / 1e6:>5.0f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
