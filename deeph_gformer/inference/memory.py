"""How much memory a structure takes, and what to do so that it fits."""

from __future__ import annotations

import os
import pathlib
import re
import tempfile
from collections.abc import Callable

import torch

from ..data.graph import Graph
from ..data.ranks import Ranks
from ..data.room import EdgeRoom
from ..data.stream import Work
from ..errors import ConfigError
from ..pipeline import HamiltonianModel
from .shard import local_processes
from .steps import resident_bytes

__all__ = ["parse_size", "show_size", "free_memory", "fair_share", "plan_work", "check_spill"]

_UNITS = {
    "": 1,
    "B": 1,
    **{
        u + e: b**n
        for n, u in enumerate("KMGT", 1)
        for e, b in (("", 1000), ("B", 1000), ("IB", 1024))
    },
}
#: Edges per chunk: what fits into a processor's cache, and the most for several threads, which want twice as many each; on a GPU what keeps it busy.
CPU_CHUNK, MOST_CPU_CHUNK, GPU_CHUNK = 1024, 16384, 65536
#: Bytes that libraries take while they work.
RESERVE = 64 * 2**20
#: What a process takes before it starts differs from run to run by up to this part of it; a minimum that is named must do the next time.
SPREAD = 0.25


def parse_size(text: str) -> int:
    """Bytes of ``8GB``, ``500 MB``, ``7.5GiB`` or a plain number.

    Raises:
        ConfigError: it is none of these.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d*)?)\s*([A-Za-z]*)\s*", text)
    if not found or found[2].upper() not in _UNITS or float(found[1]) <= 0:
        raise ConfigError(f"--max-memory {text}: not a size; write e.g. 8GB, 500MB or 7.5GiB")
    return int(float(found[1]) * _UNITS[found[2].upper()])


def show_size(size: float) -> str:
    """E.g. ``7.25 GB``."""
    scale, unit = next(((s, u) for s, u in ((1e9, "GB"), (1e6, "MB")) if size >= s), (1e3, "kB"))
    return f"{size / scale:.3g} {unit}"


def check_spill(folder: str | os.PathLike[str]) -> None:
    """Refuse a folder that no file can be made in, before hours of work.

    Raises:
        ConfigError: names the reason.
    """
    EdgeRoom(folder)
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise ConfigError(
            f"--spill {folder}: no file can be made in it ({error.strerror}); name a folder on a disk with space"
        ) from None


def _number(path: str) -> int | None:
    try:
        return int(pathlib.Path(path).read_text())
    except (OSError, ValueError):
        return None


def free_memory(device: torch.device) -> int:
    """Bytes that could still be taken on a device; within a container no more than its limit."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    found = []
    try:
        for line in pathlib.Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable"):
                found.append(int(line.split()[1]) * 1024)
    except OSError:
        found.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    limit, used = _number("/sys/fs/cgroup/memory.max"), _number("/sys/fs/cgroup/memory.current")
    if limit is not None and used is not None:
        found.append(max(0, limit - used))
    return min(found)


def fair_share(device: torch.device, limit: int | None) -> int | None:
    """Bytes that this process may take: ``limit``, else its part of what is free where processes share the machine's memory.

    None: all there is, for one process, and for a GPU, which no other process of the run uses.
    """
    processes = local_processes()
    return (
        limit
        if limit is not None or processes == 1 or device.type == "cuda"
        else int(0.9 * free_memory(device) / processes)
    )


def usual_chunk(device: torch.device) -> int:
    """Edges per chunk where memory does not matter."""
    threads = torch.get_num_threads()
    return (
        GPU_CHUNK
        if device.type == "cuda"
        else CPU_CHUNK
        if threads == 1
        else min(MOST_CPU_CHUNK, 2 * CPU_CHUNK * threads)
    )


class _Need:
    """Bytes of one structure on this process; on a GPU ``host`` counts what main memory holds, the products, and everything else what the GPU does."""

    def __init__(
        self, model: HamiltonianModel, graph: Graph, ranks: Ranks, keep_pairs: bool
    ) -> None:
        item = 4 if model.dtype == torch.float32 else 8
        gformer = None if model.bundle is None else model.bundle.model
        width = 0 if gformer is None else gformer.config.width
        groups = 0 if gformer is None else max(1, len(gformer.node_irreps))
        spins = 4 * 2 if model.targets.basis.spinful else 1
        vector = model.targets.width * spins * item
        stage1, irreps = 0, 0
        if model.stage1 is not None:
            irreps = (
                sum(i.dim for i in model.stage1.edge_irreps)
                if gformer is not None and gformer.node_irreps
                else 0
            )
            widest = max(
                (i.dim for i in (*model.stage1.edge_irreps, *model.stage1.node_irreps)), default=100
            )
            stage1 = model.stage1.stream_bytes(keep_pairs) or (irreps + 40 * widest) * item
        else:
            widest = width
        features = stage1 + groups * width * item + 3 * item
        edges, on_cpu = -(-graph.edges // ranks.size), model.device.type == "cpu"
        end = stage1 + width * item + (2 * vector if on_cpu else 0)
        self.edges = graph.edges / ranks.size * max(features, end)
        self.host = (
            (1.5 if ranks.size == 1 else 2.0) * 2 * vector * edges
        )  # partner edges of other processes, sent and received
        self.blocks = 2 * vector * edges if on_cpu else 0  # the matrices that are returned
        self.all = max(self.edges, self.host) if on_cpu else self.edges
        messages = getattr(gformer.head, "messages", None) if gformer is not None else None
        sent = (
            0
            if messages is None
            else sum((2 * l + 1) * channels for (l, _), channels in messages.channels.items())
        )
        self.node = graph.nodes * (10 * widest + 12 * width + 3 * sent) * item
        self.chunk = (20 * widest + 16 * width + 8 * sent) * item + 6 * vector


def plan_work(
    model: HamiltonianModel,
    graph: Graph,
    *,
    limit: int | None = None,
    spill: str | os.PathLike[str] | None = None,
    ranks: Ranks | None = None,
    tick: Callable[[str, int], None] = lambda step, edges: None,
) -> Work:
    """Choose chunk size, what is kept and where, for one structure.

    Args:
        model, graph: what is to run. limit: bytes that this process may take altogether (on a GPU: of its memory); None: nine tenths of what is free now.
        spill: folder for features that do not fit; None: memory only. ranks: processes that share the structure. tick: see :class:`Work`.

    Raises:
        ConfigError: it does not fit; the message names the minimum.
    """
    ranks = ranks or Ranks()
    device = model.device
    needs = [
        _Need(model, graph, ranks, keep_pairs) for keep_pairs in (True, False)
    ]  # folds the parameters, so before memory is looked at
    used = (
        RESERVE + resident_bytes()
        if device.type == "cpu"
        else int(torch.cuda.memory_allocated(device))
    )
    left = free_memory(device) * 0.9 if limit is None else min(limit - used, free_memory(device))
    if device.type != "cpu":
        main = free_memory(torch.device("cpu")) / local_processes()
        if needs[0].host > main:
            raise ConfigError(
                f"{graph.edges:,} edges need {show_size(needs[0].host)} of main memory for their blocks, {show_size(main)} are free; share the "
                "work with torchrun on more machines"
            )
    most = int(torch.bincount(graph.edge_index[0]).max())
    usual = max(usual_chunk(device), most)
    for keep_pairs, need in zip((True, False), needs):
        chunk = int(min(usual, (left - need.all - need.node) // need.chunk))
        if chunk >= most:
            return Work(chunk, keep_pairs, EdgeRoom(), ranks, tick)
    least = need.node + need.blocks + most * need.chunk
    if spill is not None and device.type == "cpu":
        chunk = int(min(usual, (left - need.node - need.blocks) // need.chunk))
        if chunk >= most:
            return Work(
                chunk,
                False,
                EdgeRoom(spill, int(max(0, left - need.node - need.blocks - chunk * need.chunk))),
                ranks,
                tick,
            )
    base = (1 + SPREAD) * used
    whole = show_size(base + need.all + need.node + most * need.chunk)
    have = show_size(max(0, used + left)) + (" free" if limit is None else "")
    files = (
        f"at least {show_size(base + least)} with edge features in files (--spill DIR)"
        if device.type == "cpu"
        else "fewer on the CPU"
    )
    raise ConfigError(
        f"{graph.edges:,} edges (at most {most} on one atom) do not fit into {have}: {whole} are needed, {files}; "
        "raise --max-memory, or share the work with torchrun"
    )
