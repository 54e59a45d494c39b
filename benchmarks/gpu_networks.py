"""Parts of ``gpu.py`` that run networks: speed, memory, kernels, equality with the CPU."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable
from typing import Any

import torch
from gpu_parts import MODELS, Part, gap, precision


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
    net, engine, graph = prepare(part, "default", 300)
    here = engine(graph)[0]
    there = engine.__class__(net.double().cpu())(graph.to("cpu", torch.float64))[0]
    part.row(stage1="300 edges, float32", difference_from_float64_on_the_CPU=gap(here, there))


def prepare(part: Part, name: str, edges: int) -> tuple[Any, Any, Any]:
    """Network with random weights, its inference engine and a graph of about so many edges, on the
    device."""
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
            _, engine, graph = prepare(part, name, edges)
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
            net, _, graph = prepare(part, name, edges)
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


def gformer(part: Part) -> None:
    """Stage 2 alone, on irreps that are there: forward, and forward with backward.

    Both architectures' shipped settings.
    """
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

    net, engine, graph = prepare(part, "default", 300)
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


def profile(part: Part) -> None:
    """Kernels by time, their number, and how often the host waits for the device."""
    from torch.profiler import ProfilerActivity

    activities = [ProfilerActivity.CPU]
    activities += [ProfilerActivity.CUDA] if part.device.type == "cuda" else []
    texts = []
    for mode, edges in (("inference", 1000), ("inference", 20000), ("training", 1000)):
        net, engine, graph = prepare(part, "default", 100 if part.rehearse else edges)

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
