"""The parts of ``gpu.py``, each run in a process of its own: ``gpu_parts.py PART ROWS.jsonl SECONDS``; a row of results is a line of JSON."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent
MODELS = ROOT / "examples" / "systems" / "models"
sys.path[:0] = [str(ROOT), str(HERE)]


class Part:
    """What a part measures with.

    Attributes:
        device: the GPU; the CPU at a rehearsal. rehearse: tiny sizes. end: when the time is up, of ``time.monotonic``.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self.rehearse, self.overlap, self.text = args.rehearse, args.overlap, args.text
        self.device = torch.device("cpu" if args.rehearse else "cuda")
        self.end = time.monotonic() + args.seconds
        self._rows: pathlib.Path = args.rows
        self._rows.touch()

    def row(self, **values: Any) -> None:
        """Keep a row of results."""
        with self._rows.open("a", encoding="utf-8") as handle:
            handle.write(json.dumps(values) + "\n")

    def sizes(self, *sizes: int) -> list[int]:
        """Edges; at a rehearsal two tiny sizes."""
        return [100, 300][: len(sizes)] if self.rehearse else list(sizes)

    def left(self) -> float:
        """Seconds that are left."""
        return self.end - time.monotonic()

    def sync(self) -> None:
        """Wait for the GPU."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def seconds(self, action: Callable[[], Any], spend: float = 0.7) -> float:
        """Median time of some passes after one that does not count."""
        times: list[float] = []
        action()
        self.sync()
        while not times or (sum(times) < spend and len(times) < 30 and self.left() > 2):
            start = time.perf_counter()
            action()
            self.sync()
            times.append(time.perf_counter() - start)
        return statistics.median(times)

    def peak(self, action: Callable[[], Any]) -> int:
        """Bytes of GPU memory that ``action`` takes at its peak above what was taken before."""
        if self.device.type != "cuda":
            action()
            return 0
        torch.cuda.empty_cache()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        action()
        return int(torch.cuda.max_memory_allocated() - before)

    def attempt(self, label: dict[str, Any], measure: Callable[[], dict[str, Any]]) -> None:
        """A row, or its error: one that fails must not cost the others."""
        if self.left() < 3:
            return
        try:
            self.row(**label, **measure())
        except Exception as error:
            text = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            self.row(**label, error=text[:200])
            print(label, error, file=sys.stderr, flush=True)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


@contextlib.contextmanager
def precision(name: str, device: torch.device) -> Iterator[None]:
    """``float32``, ``tf32``, or ``bf16`` (autocast)."""
    torch.set_float32_matmul_precision("high" if name == "tf32" else "highest")
    try:
        with torch.autocast(device.type, torch.bfloat16, enabled=name == "bf16"):
            yield
    finally:
        torch.set_float32_matmul_precision("highest")


def gap(a: torch.Tensor, b: torch.Tensor) -> float:
    """Largest difference over largest value."""
    a, b = a.detach().double().cpu(), b.detach().double().cpu()
    return float((a - b).abs().max() / b.abs().max())


def machine(part: Part) -> None:
    """Versions, the card, what it can do at best, and that it gives the CPU's numbers."""
    import e3nn
    import numpy

    import deeph_gformer

    part.row(
        torch=torch.__version__,
        cuda=str(torch.version.cuda),
        e3nn=e3nn.__version__,
        numpy=numpy.__version__,
        package=str(pathlib.Path(deeph_gformer.__file__).resolve().parent),
        device=torch.cuda.get_device_name() if part.device.type == "cuda" else "CPU",
        cores=os.cpu_count(),
    )
    count = 256 if part.rehearse else 8192
    for name in ("float32", "tf32"):
        with precision(name, part.device):
            a, b = (torch.randn(count, count, device=part.device) for _ in range(2))
            seconds = part.seconds(lambda a=a, b=b: a @ b)
        part.row(matrix_product=name, TFLOP_per_s=2 * count**3 / seconds / 1e12)
    source = torch.empty(2**20 if part.rehearse else 2**31, dtype=torch.uint8, device=part.device)
    target = torch.empty_like(source)
    seconds = part.seconds(lambda: target.copy_(source))
    part.row(copy="device to device", GB_per_s=2 * source.nbytes / seconds / 1e9)
    del a, b
    net, engine, graph = _stage1(part, "default", 300)
    here = engine(graph)[0]
    there = engine.__class__(net.double().cpu())(graph.to("cpu", torch.float64))[0]
    part.row(stage1="300 edges, float32", difference_from_float64_on_the_CPU=gap(here, there))


def _stage1(part: Part, name: str, edges: int) -> tuple[Any, Any, Any]:
    """Network with random weights, its inference engine and a graph of about so many edges, on the device."""
    import stage1

    from deeph_gformer.stage1.embedded.inference import InferenceEngine
    from deeph_gformer.stage1.embedded.network import DeepHE3Net

    torch.manual_seed(0)
    net = DeepHE3Net(stage1.network(name)[0], ">=0.5").to(part.device)
    return net, InferenceEngine(net), stage1.graph_of(name, edges).to(part.device)


def stage1_inference(part: Part) -> None:
    """Edges per second of the embedded engine, structure-dependent preparation included."""
    for name, sizes in (
        ("default", part.sizes(1000, 20000, 200000)),
        ("lmax6", part.sizes(20000, 200000)),
        ("bi2te3_soc", part.sizes(1000, 20000, 100000)),
    ):
        for edges in sizes:
            if part.left() < 5:
                return
            _, engine, graph = _stage1(part, name, edges)
            reference = engine(graph)[0]
            for kind in ("float32", "tf32"):

                def measure(
                    kind: str = kind,
                    engine: Any = engine,
                    graph: Any = graph,
                    reference: torch.Tensor = reference,
                ) -> dict[str, Any]:
                    with precision(kind, part.device):
                        seconds = part.seconds(lambda: engine(graph))
                        memory = part.peak(lambda: engine(graph))
                        difference = gap(engine(graph)[0], reference)
                    return {
                        "edges_per_s": graph.edges / seconds,
                        "ms": 1e3 * seconds,
                        "kB_per_edge": memory / graph.edges / 1e3,
                        "difference": difference,
                    }

                part.attempt({"net": name, "edges": graph.edges, "type": kind}, measure)
            del engine, graph, reference


def stage1_training(part: Part) -> None:
    """Forward and backward pass; for small structures also as a CUDA graph."""
    for name, sizes in (
        ("default", part.sizes(1000, 20000, 200000)),
        ("lmax6", part.sizes(20000)),
        ("bi2te3_soc", part.sizes(1000, 20000)),
    ):
        for edges in sizes:
            if part.left() < 5:
                return
            net, _, graph = _stage1(part, name, edges)
            prepared = net.prepare(graph)

            def once(net: Any = net, graph: Any = graph, prepared: Any = None) -> None:
                net(graph, prepared)[0].square().mean().backward()

            for kind in ("float32", "tf32", "bf16"):

                def measure(
                    kind: str = kind, graph: Any = graph, once: Callable[..., None] = once
                ) -> dict[str, Any]:
                    with precision(kind, part.device):
                        seconds = part.seconds(once)
                        memory = part.peak(once)
                    return {
                        "edges_per_s": graph.edges / seconds,
                        "ms": 1e3 * seconds,
                        "kB_per_edge": memory / graph.edges / 1e3,
                    }

                label = {"net": name, "edges": graph.edges, "type": kind}
                part.attempt(label, measure)
            if edges <= 1000 and part.device.type == "cuda":
                part.attempt(
                    {"net": name, "edges": graph.edges, "type": "float32, CUDA graph"},
                    lambda once=once, p=prepared, g=graph: _captured(part, once, p, g.edges),
                )
            del net, graph, prepared


def _captured(part: Part, once: Callable[..., None], prepared: Any, edges: int) -> dict[str, Any]:
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            once(prepared=prepared)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        once(prepared=prepared)
    seconds = part.seconds(graph.replay)
    return {"edges_per_s": edges / seconds, "ms": 1e3 * seconds, "kB_per_edge": 0.0}


def _cells(part: Part, pairs: list[str], folder: pathlib.Path) -> list[pathlib.Path]:
    import large

    return large.build(pairs, folder)


def _refine(part: Part, cells: list[pathlib.Path], device: str, **label: Any) -> None:
    from deeph_gformer.cli import main

    model = MODELS / "bilayer_graphene"
    for cell in cells:
        if part.left() < 5:
            return
        record = cell.with_suffix(".json")
        command = ["refine", "--preprocessed", str(cell), "--overlap", str(part.overlap)]
        command += ["--stage1", str(model / "stage1"), "--model", str(model / "gformer")]
        command += ["--output", str(cell.parent / "out"), "--overwrite", "--json", str(record)]
        code = main([*command, "--device", device])
        if code:
            part.row(**label, name=cell.stem, error=f"exit code {code}")
            return
        found = json.loads(record.read_text())["structures"][0]
        part.row(
            **label,
            atoms=found["atoms"],
            edges=found["edges"],
            seconds=found["seconds"],
            **{f"{name} s": value for name, value in found["step_seconds"].items()},
            peak_GB=found["peak_memory_bytes"] / 1e9,
            peak_gpu_GB=found.get("peak_gpu_memory_bytes", 0) / 1e9,
        )


def refine(part: Part) -> None:
    """The command, end to end: overlaps from a table, both stages, both files. The first cell is there to warm up."""
    with tempfile.TemporaryDirectory() as made:
        pairs = ["1,2"] * 2 if part.rehearse else ["2,3", "10,11", "30,31", "30,31"]
        cells = _cells(part, list(dict.fromkeys(pairs)), pathlib.Path(made))
        by_name = dict(zip(dict.fromkeys(pairs), cells))
        for number, pair in enumerate(pairs):
            kind = "tf32" if number == 3 else "float32"
            with precision(kind, part.device):
                _refine(part, [by_name[pair]], part.device.type, type=kind)


def gformer(part: Part) -> None:
    """Stage 2 alone, on irreps that are there: forward, and forward with backward; both architectures' shipped settings."""
    import stage1

    from deeph_gformer.data.features import Stage1Features
    from deeph_gformer.gformer.bundle import load_bundle

    for name, net in (("bilayer_graphene", "default"), ("bi2te3", "bi2te3_soc")):
        model = load_bundle(MODELS / name / "gformer").model.to(part.device).requires_grad_(True)
        irreps_out = model.irreps_out
        for edges in part.sizes(1000, 20000, 100000):
            if part.left() < 5:
                return
            graph = stage1.graph_of(net, edges).to(part.device)
            features = Stage1Features(
                tuple(
                    torch.randn(graph.nodes, i.dim, device=part.device) for i in model.node_irreps
                ),
                tuple(
                    torch.randn(graph.edges, i.dim, device=part.device) for i in model.edge_irreps
                ),
                torch.randn(graph.edges, irreps_out.dim, device=part.device),
            )

            def forward(model: Any = model, graph: Any = graph, features: Any = features) -> Any:
                return model(graph, features)

            def inference(forward: Callable[[], Any] = forward) -> None:
                with torch.no_grad():
                    forward()

            def training(forward: Callable[[], Any] = forward) -> None:
                forward().square().mean().backward()

            for mode, action in (("inference", inference), ("training", training)):
                for kind in ("float32", "tf32", "bf16"):

                    def measure(
                        kind: str = kind, graph: Any = graph, action: Callable[[], None] = action
                    ) -> dict[str, Any]:
                        with precision(kind, part.device):
                            seconds, memory = part.seconds(action, 0.3), part.peak(action)
                        return {
                            "edges_per_s": graph.edges / seconds,
                            "ms": 1e3 * seconds,
                            "kB_per_edge": memory / graph.edges / 1e3,
                        }

                    part.attempt(
                        {"model": name, "edges": graph.edges, "mode": mode, "type": kind}, measure
                    )
            del graph, features


def screening(part: Part) -> None:
    """Small cells one by one and in batches: stage 1, structures per second."""
    from deeph_gformer.data.graph import batch_graphs

    net, engine, graph = _stage1(part, "default", 300)
    del net
    for count in (1, 2, 4) if part.rehearse else (1, 8, 64, 256):
        graphs = batch_graphs([graph] * count) if count > 1 else graph

        def measure(count: int = count, graphs: Any = graphs) -> dict[str, Any]:
            seconds = part.seconds(lambda: engine(graphs))
            alone = engine(graph)[0]
            return {
                "structures_per_s": count / seconds,
                "edges_per_s": graphs.edges / seconds,
                "difference_from_alone": gap(engine(graphs)[0][-graph.edges :], alone),
            }

        part.attempt({"structures": count, "edges": graphs.edges}, measure)


def tests(part: Part) -> None:
    """``tests/test_gpu.py`` on the device."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-n"]
    command += ["2" if part.rehearse else "6", "tests/test_gpu.py"]
    command += ["-k", "dense or losses"] if part.rehearse else []
    done = subprocess.run(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=max(1.0, part.left() - 2),
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    pathlib.Path(part.text).write_text(done.stdout[-200000:], encoding="utf-8")
    part.row(code=done.returncode, summary=done.stdout.strip().splitlines()[-1])


def epochs(part: Part) -> None:
    """Some epochs of both trainings on the shipped structures, through the commands."""
    from deeph_gformer.cli import main

    graphene = ROOT / "examples" / "graphene"
    with tempfile.TemporaryDirectory() as made:
        for verb, extra in (
            ("train-stage1", []),
            ("train", ["--stage1", str(graphene / "stage1")]),
        ):
            for kind in ("model", "bf16-mixed"):
                settings = pathlib.Path(made) / f"{verb}-{kind}.yaml"
                count = 2 if part.rehearse else 20
                settings.write_text(
                    "data: {train_ratio: 0.34, val_ratio: 0.33}\n"
                    f"training: {{epochs: {count}, precision: {kind}, device: {part.device.type}}}\n"
                )
                start = time.perf_counter()
                output = pathlib.Path(made) / f"{verb}-{kind}"
                code = main(
                    [verb, str(settings), "--preprocessed", str(graphene / "structures")]
                    + [*extra, "--output", str(output)]
                )
                part.row(
                    verb=verb,
                    precision=kind,
                    code=code,
                    epochs=count,
                    seconds_with_start=time.perf_counter() - start,
                )


def profile(part: Part) -> None:
    """Kernels by time, their number, and how often the host waits for the device."""
    from torch.profiler import ProfilerActivity

    activities = [ProfilerActivity.CPU]
    activities += [ProfilerActivity.CUDA] if part.device.type == "cuda" else []
    texts = []
    for mode, edges in (("inference", 1000), ("inference", 20000), ("training", 1000)):
        net, engine, graph = _stage1(part, "default", 100 if part.rehearse else edges)

        def once(
            mode: str = mode, net: Any = net, engine: Any = engine, graph: Any = graph
        ) -> None:
            if mode == "inference":
                engine(graph)
            else:
                net(graph)[0].square().mean().backward()

        once()
        seconds = part.seconds(once, 0.2)
        with torch.profiler.profile(activities=activities) as recorded:
            once()
            part.sync()
        table = recorded.key_averages()
        events = {event.key: event.count for event in table}
        kernels = [e for e in recorded.events() if str(e.device_type).endswith("CUDA")]
        busy = sum(e.time_range.elapsed_us() for e in kernels)
        waits = sum(
            events.get(n, 0)
            for n in ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize")
        )
        part.row(
            mode=mode,
            edges=graph.edges,
            ms=1e3 * seconds,
            kernels=len(kernels),
            kernel_ms=busy / 1e3,
            launches=events.get("cudaLaunchKernel", 0) + events.get("cudaLaunchKernelExC", 0),
            host_waits=waits,
            items=events.get("aten::item", 0) + events.get("aten::nonzero", 0),
        )
        order = "self_cuda_time_total" if part.device.type == "cuda" else "self_cpu_time_total"
        texts.append(f"{mode}, {graph.edges} edges\n{table.table(sort_by=order, row_limit=30)}\n")
        pathlib.Path(part.text).write_text("\n".join(texts), encoding="utf-8")


def bands(part: Part) -> None:
    """All eigenvalues of dense generalized problems, against LAPACK."""
    import numpy as np

    from deeph_gformer.bands.solve import solve_dense, solve_torch

    generator = np.random.default_rng(0)
    for size in (50, 100) if part.rehearse else (988, 2000, 4732):
        if part.left() < 8:
            return
        a = generator.normal(size=(size, size)) + 1j * generator.normal(size=(size, size))
        b = generator.normal(size=(size, size)) + 1j * generator.normal(size=(size, size))
        h, s = a + a.conj().T, b @ b.conj().T / size + np.eye(size)
        device = str(part.device)
        seconds = part.seconds(lambda h=h, s=s, d=device: solve_torch(h, s, d), 0.1)
        values: dict[str, Any] = {"orbitals": size, "seconds": seconds}
        if size < 2000:
            start = time.perf_counter()
            expected = solve_dense(h, s).energies
            values["LAPACK_seconds"] = time.perf_counter() - start
            values["difference_eV"] = float(
                np.abs(solve_torch(h, s, device).energies - expected).max()
            )
        part.row(**values)


def nccl(part: Part) -> None:
    """The collectives that ``refine`` uses, with one process (NCCL; gloo at a rehearsal)."""
    import torch.distributed as dist

    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="29513", RANK="0", WORLD_SIZE="1")
    backend = "nccl" if part.device.type == "cuda" else "gloo"
    dist.init_process_group(backend, rank=0, world_size=1)
    rows = 1000 if part.rehearse else 1_000_000
    value = torch.randn(rows, 64, device=part.device)
    gathered = [torch.empty_like(value)]
    received = torch.empty_like(value)
    for name, action in (
        ("all_reduce", lambda: dist.all_reduce(value)),
        ("all_gather", lambda: dist.all_gather(gathered, value)),
        ("all_to_all_single", lambda: dist.all_to_all_single(received, value)),
    ):
        part.attempt(
            {"backend": backend, "collective": name},
            lambda a=action: {"GB_per_s": value.nbytes / part.seconds(a, 0.2) / 1e9},
        )
    objects: list[Any] = [None]
    dist.all_gather_object(objects, {"a": 1})
    part.row(backend=backend, collective="all_gather_object", equal=objects == [{"a": 1}])
    dist.destroy_process_group()


def cpu(part: Part) -> None:
    """The same machine's processor beside it, with all its cores."""
    part.device = torch.device("cpu")
    torch.set_num_threads(min(16, os.cpu_count() or 1))
    for name, edges in (("default", 1000), ("default", 20000), ("bi2te3_soc", 1000)):
        net, engine, graph = _stage1(part, name, 100 if part.rehearse else edges)
        for mode in ("inference", "training"):

            def once(
                mode: str = mode, net: Any = net, engine: Any = engine, g: Any = graph
            ) -> None:
                if mode == "inference":
                    engine(g)
                else:
                    net(g)[0].square().mean().backward()

            part.attempt(
                {"net": name, "edges": graph.edges, "mode": mode},
                lambda once=once, g=graph: {"edges_per_s": g.edges / part.seconds(once, 1.0)},
            )
    with tempfile.TemporaryDirectory() as made:
        pairs = ["1,2"] if part.rehearse else ["2,3", "10,11"]
        _refine(part, _cells(part, pairs, pathlib.Path(made)), "cpu", type="float32, CPU")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part")
    parser.add_argument("rows", type=pathlib.Path)
    parser.add_argument("seconds", type=float)
    parser.add_argument("--overlap", type=pathlib.Path)
    parser.add_argument("--text", type=pathlib.Path)
    parser.add_argument("--rehearse", action="store_true")
    args = parser.parse_args()
    globals()[args.part](Part(args))


if __name__ == "__main__":
    main()
