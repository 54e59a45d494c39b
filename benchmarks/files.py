"""Legacy HDF5 files: time per block of a plain h5py loop and of this package, reading and writing.

python benchmarks/files.py FOLDER [--json FILE]

FOLDER: a legacy structure folder with hamiltonians.h5
"""

from __future__ import annotations

import argparse
import json
import pathlib
import tempfile
import time
from collections.abc import Callable

import h5py
import numpy as np

from deeph_gformer.io.blocks import format_key
from deeph_gformer.io.legacy import read_blocks, read_structure, write_blocks


def best(run: Callable[[], object], repeats: int = 5) -> float:
    """Processor seconds of the fastest of some runs."""
    seconds = []
    for _ in range(repeats):
        start = time.process_time()
        run()
        seconds.append(time.process_time() - start)
    return min(seconds)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--json", type=pathlib.Path)
    args = parser.parse_args()
    path = args.folder / "hamiltonians.h5"
    structure = read_structure(args.folder)
    matrix = read_blocks(path, structure, bool(structure.spinful))
    blocks = {format_key(key): block for key, block in matrix}

    def plain_read() -> None:
        with h5py.File(path) as handle:
            for name in handle:
                np.array(handle[name])

    with tempfile.TemporaryDirectory() as folder:
        target = pathlib.Path(folder) / "h.h5"

        def plain_write() -> None:
            with h5py.File(target, "w") as handle:
                for name, block in blocks.items():
                    handle[name] = block

        rows = {
            "read": (
                best(plain_read),
                best(lambda: read_blocks(path, structure, bool(structure.spinful))),
            ),
            "write": (best(plain_write), best(lambda: write_blocks(target, matrix))),
        }
    table = {
        name: {
            "h5py_us_per_block": a / len(matrix) * 1e6,
            "ours_us_per_block": b / len(matrix) * 1e6,
            "ratio": a / b,
        }
        for name, (a, b) in rows.items()
    }
    print(f"{len(matrix)} blocks, {matrix.values.nbytes / 1e6:.1f} MB")
    for name, row in table.items():
        print(
            f"{name:5s}  h5py loop {row['h5py_us_per_block']:7.1f} µs   ours "
            f"{row['ours_us_per_block']:6.1f} µs a block   {row['ratio']:.1f} x"
        )
    if args.json:
        args.json.write_text(
            json.dumps({"blocks": len(matrix), "bytes": matrix.values.nbytes, **table}, indent=1)
        )


if __name__ == "__main__":
    main()
