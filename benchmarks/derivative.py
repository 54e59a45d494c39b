"""Cost of ∂H/∂τ in predictions of the same structure: ``python -m benchmarks.derivative``."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch

import deeph_gformer
from deeph_gformer.prediction.derivatives import hamiltonian_derivative


def seconds(run: Callable[[], object], repeats: int) -> float:
    """Least processor time of some calls."""
    found = []
    for _ in range(repeats):
        start = time.process_time()
        run()
        found.append(time.process_time() - start)
    return min(found)


def main() -> None:
    """Print one line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", help="structure with overlaps.h5")
    parser.add_argument("--stage1", required=True)
    parser.add_argument("--model")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    model = deeph_gformer.load(args.model, stage1=args.stage1, dtype="float64")
    item = model.read(args.folder)
    keys = item.edges.keys
    one = seconds(lambda: model.predict(item.structure, keys=keys), args.repeats)
    result = seconds(lambda: hamiltonian_derivative(model, item, 0), args.repeats)
    print(
        f"{item.graph.nodes} atoms, {item.graph.edges} edges: prediction {one:.2f} s, derivative "
        f"of an atom (3 directions) {result:.2f} s = {result / one:.1f} predictions"
    )


if __name__ == "__main__":
    main()
