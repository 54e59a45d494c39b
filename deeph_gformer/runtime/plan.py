"""How a pass over a structure is executed.

Edges per chunk, what is kept and where, so that it fits into memory.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import re
import tempfile
from collections.abc import Callable, Mapping

import torch

from ..errors import ConfigError
from .communicator import Communicator
from .processes import local_processes
from .storage import Storage
from .timer import Timer, resident_bytes

__all__ = [
    "ExecutionPlan",
    "MemoryNeed",
    "parse_size",
    "show_size",
    "free_memory",
    "fair_share",
    "usual_chunk",
    "choose_plan",
    "check_spill",
]

_UNITS = {
    "": 1,
    "B": 1,
    **{
        u + e: b**n
        for n, u in enumerate("KMGT", 1)
        for e, b in (("", 1000), ("B", 1000), ("IB", 1024))
    },
}
#: Edges per chunk: what fits into a processor's cache, and the most for several threads, which want
#: twice as many each; on a GPU what keeps it busy.
CPU_CHUNK, MOST_CPU_CHUNK, GPU_CHUNK = 1024, 16384, 65536
#: Bytes that libraries take while they work.
RESERVE = 64 * 2**20
#: What a process takes before it starts differs from run to run by up to this part of it; a minimum
#: that is named must do the next time.
SPREAD = 0.25


@dataclasses.dataclass
class ExecutionPlan:
    """How a pass over a structure is executed.

    Attributes:
        chunk: edges per chunk.
        keep_pairs: whether distance bases and atoms turned into edge frames stay in memory between
            two uses.
        storage: where edge-wise arrays are kept.
        comm: processes that share the structure.
        tick: called with (name of the step, edges done) for the progress bar.
        timer: told which step is at work.
    """

    chunk: int = 1024
    keep_pairs: bool = True
    storage: Storage = dataclasses.field(default_factory=Storage)
    comm: Communicator = dataclasses.field(default_factory=Communicator)
    tick: Callable[[str, int], None] = lambda step, edges: None
    timer: Timer = dataclasses.field(default_factory=Timer)


@dataclasses.dataclass(frozen=True)
class MemoryNeed:
    """Bytes of one structure on this process.

    Attributes:
        edges: what is kept of its edges where the networks run.
        host: what main memory holds besides, the direct products.
        blocks: the matrices that are returned (0 where the networks run on a GPU).
        node: what is kept of its atoms.
        chunk: per edge of a chunk, while it is worked on.
        on_cpu: whether the networks run in main memory.
    """

    edges: float
    host: float
    blocks: float
    node: float
    chunk: float
    on_cpu: bool

    @property
    def kept(self) -> float:
        """Of all edges at the same time, where the networks run."""
        return max(self.edges, self.host) if self.on_cpu else self.edges


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
    Storage(folder)
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise ConfigError(
            f"--spill {folder}: no file can be made in it ({error.strerror}); name a folder "
            "on a disk with space"
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
    """Bytes that this process may take: ``limit``, else its part of what is free where processes
    share the machine's memory.

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


def choose_plan(
    needs: Mapping[bool, MemoryNeed],
    edges: int,
    most: int,
    device: torch.device,
    *,
    limit: int | None = None,
    spill: str | os.PathLike[str] | None = None,
    comm: Communicator | None = None,
    tick: Callable[[str, int], None] = lambda step, edges: None,
) -> ExecutionPlan:
    """Choose chunk size, what is kept and where, for one structure.

    Args:
        needs: of the structure, with ``keep_pairs`` True and False.
        edges: of the structure.
        most: edges of one atom at most.
        device: where the networks run.
        limit: bytes that this process may take altogether (on a GPU: of its memory); None: nine
            tenths of what is free now.
        spill: folder for features that do not fit; None: memory only.
        comm: processes that share the structure.
        tick: see :class:`ExecutionPlan`.

    Raises:
        ConfigError: it does not fit; the message names the minimum.
    """
    comm = comm or Communicator()
    used = (
        RESERVE + resident_bytes()
        if device.type == "cpu"
        else int(torch.cuda.memory_allocated(device))
    )
    left = free_memory(device) * 0.9 if limit is None else min(limit - used, free_memory(device))
    if device.type != "cpu":
        main = free_memory(torch.device("cpu")) / local_processes()
        if needs[True].host > main:
            raise ConfigError(
                f"{edges:,} edges need {show_size(needs[True].host)} of main memory for their "
                f"blocks, {show_size(main)} are free; share the work with torchrun on more machines"
            )
    usual = max(usual_chunk(device), most)
    for keep_pairs in (True, False):
        need = needs[keep_pairs]
        chunk = int(min(usual, (left - need.kept - need.node) // need.chunk))
        if chunk >= most:
            return ExecutionPlan(chunk, keep_pairs, Storage(), comm, tick)
    need = needs[False]
    least = need.node + need.blocks + most * need.chunk
    if spill is not None and device.type == "cpu":
        chunk = int(min(usual, (left - need.node - need.blocks) // need.chunk))
        if chunk >= most:
            memory = int(max(0, left - need.node - need.blocks - chunk * need.chunk))
            return ExecutionPlan(chunk, False, Storage(spill, memory), comm, tick)
    base = (1 + SPREAD) * used
    whole = show_size(base + need.kept + need.node + most * need.chunk)
    have = show_size(max(0, used + left)) + (" free" if limit is None else "")
    files = (
        f"at least {show_size(base + least)} with edge features in files (--spill DIR)"
        if device.type == "cpu"
        else "fewer on the CPU"
    )
    raise ConfigError(
        f"{edges:,} edges (at most {most} on one atom) do not fit into {have}: {whole} are needed, "
        f"{files}; raise --max-memory, or share the work with torchrun"
    )
