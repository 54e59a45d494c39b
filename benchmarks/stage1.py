"""Official DeepH-E3 and the embedded engine side by side: speed, memory, parity.

Needs DEEPHE3_ROOT (a clone of DeepH-E3).

Every measurement runs in a process of its own. Time: the best of several passes after warm-up,
structure-dependent preparation included. Memory: the resident peak during the first pass over the
graph minus what was resident before it (after warm-up on a small graph). Times are processor time.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import pathlib
import platform
import subprocess
import sys
import tempfile
import time
from typing import Any

import numpy as np
import torch
from ase.data import chemical_symbols
from ase.neighborlist import primitive_neighbor_list

from deeph_gformer.algebra.orbitals import Basis, TargetBlocks, make_target_blocks
from deeph_gformer.data.graph import Graph, build_graph
from deeph_gformer.io.structure import Structure
from deeph_gformer.runtime.heap import keep_freed_memory
from deeph_gformer.stage1.embedded.checkpoint import official_state
from deeph_gformer.stage1.embedded.inference import InferenceEngine
from deeph_gformer.stage1.embedded.network import DeepHE3Net
from deeph_gformer.stage1.net_config import NetConfig

MID = "64x0e+32x1o+16x2e+8x3o+8x4e"
CARBON = Basis((6,), ((0, 0, 1, 1, 2),), False)
BI2TE3 = Basis((83, 52), ((0, 0, 0, 1, 1, 2, 2), (0, 0, 0, 1, 1, 2, 2)), True)
NETS: dict[
    str, tuple[Basis, str, str, int]
] = {  # basis, middle irreps, irreps added to the last node features, lmax of the harmonics
    "default": (CARBON, MID, "", 4),
    "lmax5": (CARBON, MID + "+4x5o", "", 5),
    "lmax6": (CARBON, MID + "+4x5o+4x6e", "", 6),
    "bi2te3_soc": (BI2TE3, MID, "+16x1e+8x0o+8x2o+4x3e", 4),
}

FIGURES = (
    "official_edges_per_s",
    "embedded_edges_per_s",
    "ratio",
    "official_peak_bytes_per_edge",
    "embedded_peak_bytes_per_edge",
    "relative_difference",
)


def network(name: str) -> tuple[NetConfig, TargetBlocks]:
    """Arguments and output channels of a net."""
    basis, mid, added, lmax = NETS[name]
    targets = make_target_blocks(basis, "all")
    out = targets.irreps()
    harmonics = "+".join(f"1x{l}{'eo'[l % 2]}" for l in range(lmax + 1))
    post = str(out.sort().irreps.simplify())
    return NetConfig(
        len(basis.elements),
        "64x0e",
        "64x0e",
        harmonics,
        mid,
        mid + added,
        "1x0e",
        mid,
        post,
        str(out),
        3,
        7.4,
    ), targets


def structure(basis: Basis, edges: int) -> tuple[Structure, np.ndarray]:
    """A rattled graphene sheet, or Bi2Te3 quintuple layer, of about ``edges`` edges (7 Å), and its
    block keys."""
    if basis is CARBON:
        a, height, sites = 2.46, 20.0, [(6, 1 / 3, 2 / 3, 10.0), (6, 2 / 3, 1 / 3, 10.0)]
    else:
        a, height = 4.38, 30.0
        sites = [
            (52, 0.0, 0.0, 10.0),
            (83, 1 / 3, 2 / 3, 11.74),
            (52, 2 / 3, 1 / 3, 13.76),
            (83, 0.0, 0.0, 15.78),
            (52, 1 / 3, 2 / 3, 17.52),
        ]
    cell = np.array([[a, 0, 0], [-a / 2, a * 3**0.5 / 2, 0], [0, 0, height]])

    def repeated(n: int) -> tuple[Structure, np.ndarray]:
        lattice = cell * np.array([[n], [n], [1]])
        fractional = [
            (z, (x + i) / n, (y + j) / n, h / height)
            for i in range(n)
            for j in range(n)
            for z, x, y, h in sites
        ]
        numbers = np.array([f[0] for f in fractional])
        positions = (
            np.array([f[1:] for f in fractional]) @ lattice
            + np.random.RandomState(0).randn(len(fractional), 3) * 0.03
        )
        i, j, cells = primitive_neighbor_list(
            "ijS", [True] * 3, lattice, positions, 7.0, self_interaction=False
        )
        own = np.arange(len(numbers))
        keys = np.concatenate(
            [np.c_[cells, i, j], np.c_[np.zeros((len(own), 3), dtype=int), own, own]]
        ).astype(np.int64)
        types = tuple(basis.orbital_types[basis.elements.index(z)] for z in numbers.tolist())
        name = f"{chemical_symbols[numbers[0]]}{len(numbers)}"
        return Structure(lattice, positions, numbers, types, name=name), keys

    one = len(repeated(1)[1])
    return repeated(max(1, round((edges / one) ** 0.5)))


def graph_of(name: str, edges: int) -> Graph:
    """The graph of a net's benchmark structure."""
    basis = NETS[name][0]
    result, keys = structure(basis, edges)
    return build_graph(result, keys, basis, torch.float32)


def _resident(field: str) -> int:
    for line in pathlib.Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    return 0


def _peak(action: Any) -> int:
    """Bytes resident at the peak of ``action()`` above what was resident before.

    Freed memory that malloc keeps is given back first.
    """
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    pathlib.Path("/proc/self/clear_refs").write_text("5")
    before = _resident("VmRSS")
    action()
    return max(_resident("VmHWM") - before, 0)


def worker(backend: str, name: str, edges: int, mode: str, seconds: float, output: str) -> None:
    """One measurement, as JSON on the last line."""
    config, _ = network(name)
    if backend == "embedded" and mode != "inference":
        keep_freed_memory()  # as training does
    torch.manual_seed(0)
    net = DeepHE3Net(config, ">=0.5")
    net.again = mode == "checkpointed"
    engine = InferenceEngine(net)
    official = None
    if backend == "official":
        from deeph_gformer.stage1.official import _Batch
        from deeph_gformer.stage1.official_import import official_net

        official = official_net(config, ">=0.5", torch.float32)
        official.load_state_dict(official_state(net), strict=True)
        del net, engine

    def passes(graph: Graph) -> torch.Tensor:
        if official is not None:
            return official(_Batch(graph))[1]  # type: ignore[no-any-return]
        return net(graph)[0] if torch.is_grad_enabled() else engine(graph)[0]  # type: ignore[no-any-return]

    def once(graph: Graph) -> torch.Tensor:
        if mode == "inference":
            with torch.no_grad():
                return passes(graph)
        out = passes(graph)
        (out.square().mean()).backward()
        return out.detach()

    small, graph = graph_of(name, 100), graph_of(name, edges)
    for _ in range(3):
        once(small)
    kept: list[torch.Tensor] = []
    peak = _peak(lambda: kept.append(once(graph)))
    torch.save(kept[0], output)
    times: list[float] = []
    while len(times) < 2 or (sum(times) < seconds and len(times) < 50):
        start = time.process_time()
        once(graph)
        times.append(time.process_time() - start)
    print(json.dumps({"edges": graph.edges, "seconds": min(times), "peak": peak}))


def measure(
    backend: str,
    name: str,
    edges: int,
    mode: str,
    seconds: float,
    threads: int,
    output: pathlib.Path,
) -> dict[str, Any] | None:
    """Run :func:`worker` in its own process; None where it dies (memory)."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    command = [
        sys.executable,
        __file__,
        "--worker",
        backend,
        name,
        str(edges),
        mode,
        str(seconds),
        str(output),
    ]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        print(
            f"{backend} {name} {edges} {mode}: failed ({done.returncode}) "
            f"{done.stderr.strip().splitlines()[-1:]}",
            file=sys.stderr,
        )
        return None
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def compare(name: str, edges: int, mode: str, seconds: float, threads: int) -> dict[str, Any]:
    """One row of the table."""
    with tempfile.TemporaryDirectory() as folder:
        paths = {
            backend: pathlib.Path(folder) / f"{backend}.pt" for backend in ("official", "embedded")
        }
        found = {
            backend: measure(backend, name, edges, mode, seconds, threads, path)
            for backend, path in paths.items()
        }
        row: dict[str, Any] = {
            "net": name,
            "edges": next((f["edges"] for f in found.values() if f), edges),
            "mode": mode,
        }
        for backend, result in found.items():
            row[f"{backend}_edges_per_s"] = result["edges"] / result["seconds"] if result else None
            row[f"{backend}_peak_bytes_per_edge"] = (
                result["peak"] / result["edges"] if result else None
            )
        row["ratio"] = (
            row["embedded_edges_per_s"] / row["official_edges_per_s"]
            if all(found.values())
            else None
        )
        row["relative_difference"] = None
        if all(found.values()):
            a, b = (torch.load(path) for path in paths.values())
            row["relative_difference"] = float((a - b).abs().max() / a.abs().max())
    return row


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--nets",
        default="default,lmax5,lmax6,bi2te3_soc",
        help="comma-separated: " + ", ".join(NETS),
    )
    parser.add_argument(
        "--edges",
        default="1000,20000",
        help="about how many edges, comma-separated (nets other than default: the first only)",
    )
    parser.add_argument(
        "--modes",
        default="inference,training",
        help="inference, training (forward and backward), checkpointed (the same with "
        "training.checkpoint_activations)",
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=5.0, help="time spent on each measurement")
    parser.add_argument("--json", help="write the rows to this file")
    parser.add_argument("--worker", nargs=6, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        backend, name, edges, mode, seconds, output = args.worker
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
        worker(backend, name, int(edges), mode, float(seconds), output)
        return
    if not os.environ.get("DEEPHE3_ROOT"):
        raise SystemExit("set DEEPHE3_ROOT to a clone of DeepH-E3")
    sizes = [int(e) for e in args.edges.split(",")]
    rows = []
    print(f"{'':<31}{'edges per second':>20}{'':<9}{'peak kB per edge':>20}")
    print(
        f"{'net':<12}{'edges':>7} "
        f"{'mode':<11}{'official':>10}{'embedded':>10}{'ratio':>8}{'official':>11}{'embedded':>10}{'difference':>12}"
    )
    for name in args.nets.split(","):
        for edges in sizes if name == "default" else sizes[:1]:
            for mode in args.modes.split(","):
                row = compare(name, edges, mode, args.seconds, args.threads)
                rows.append(row)
                a, b, ratio, c, d, gap = (
                    float("nan") if row[k] is None else row[k] for k in FIGURES
                )
                print(
                    f"{name:<12}{row['edges']:>7} "
                    f"{mode:<11}{a:>10.0f}{b:>10.0f}{ratio:>8.1f}"
                    f"{c / 1e3:>11.1f}{d / 1e3:>10.1f}{gap:>12.1e}",
                    flush=True,
                )
    if args.json:
        record = {
            "torch": torch.__version__,
            "threads": args.threads,
            "machine": platform.processor() or platform.machine(),
            "rows": rows,
        }
        pathlib.Path(args.json).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
