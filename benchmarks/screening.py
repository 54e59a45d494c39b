"""Many small structures: processor time of both stages per structure, one by one and in batches
(``refine --batch-edges``).

python benchmarks/screening.py --stage1 DIR --model BUNDLE [--device cuda]
"""

from __future__ import annotations

import argparse
import pathlib
import time

import numpy as np
import stage1
import torch

from deeph_gformer.data.graph import Graph, batch_graphs, build_graph
from deeph_gformer.gformer.bundle import load_bundle
from deeph_gformer.stage1 import load_stage1


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--stage1", type=pathlib.Path, required=True)
    parser.add_argument("--model", type=pathlib.Path, required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batches", default="1,4,16,64", help="structures at once")
    args = parser.parse_args()
    torch.set_num_threads(1)
    first, second = load_stage1(args.stage1, device=args.device), load_bundle(args.model)
    gformer = second.model.to(args.device)
    clock = time.process_time if args.device == "cpu" else time.perf_counter

    @torch.no_grad()
    def run(graph: Graph) -> float:
        gformer(graph, first(graph))
        times = []
        for _ in range(5):
            start = clock()
            gformer(graph, first(graph))
            if args.device != "cpu":
                torch.cuda.synchronize()
            times.append(clock() - start)
        return min(times)

    result, keys = stage1.structure(stage1.CARBON, 100)
    length = np.linalg.norm(result.edge_vectors(keys), axis=1)
    print(f"{'edges':>6}{'at once':>9}{'ms per structure':>18}{'gain':>6}")
    for cutoff in (2.6, 5.0, 7.0):
        graph = build_graph(result, keys[length < cutoff], first.targets.basis, first.dtype)
        graph, alone = graph.to(args.device), 0.0
        for count in map(int, args.batches.split(",")):
            each = run(batch_graphs([graph] * count)) / count
            alone = alone or each
            print(f"{graph.edges:>6}{count:>9}{1e3 * each:>18.2f}{alone / each:>6.1f}", flush=True)


if __name__ == "__main__":
    main()
