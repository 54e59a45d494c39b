"""Where the time of a prediction goes, how much memory it took, and how long it will still take."""

from __future__ import annotations

import pathlib
import resource
import sys
import time
from typing import Any

import torch

__all__ = ["Timer", "resident_bytes", "peak_bytes", "reset_peak"]


def _status(field: str) -> int | None:
    try:
        for line in pathlib.Path("/proc/self/status").read_text().splitlines():
            if line.startswith(field):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None


def resident_bytes() -> int:
    """Memory of this process now, without files that are mapped.

    0 where the system does not tell.
    """
    return _status("RssAnon") or _status("VmRSS") or 0


def peak_bytes() -> int:
    """Largest resident memory of this process so far."""
    found = _status("VmHWM")
    if found is not None:
        return found
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
        1 if sys.platform == "darwin" else 1024
    )


def reset_peak(device: torch.device) -> None:
    """Start the measurement of the peak anew, where the system can; that of a GPU too."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    try:
        pathlib.Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pass


class Timer:
    """A clock with one hand per step.

    a step's time is that between its :meth:`start` and the next one. Work that a GPU has in its
    queue is waited for.

    Attributes:
        seconds: per step, in order of appearance.
        processor: the same in processor time, which other work on the machine does not lengthen.
        private: largest memory seen by :meth:`sample`, mapped files not counted.
        spilled: bytes of edge features that were in files.
    """

    def __init__(self, device: torch.device | None = None) -> None:
        """Args: device: where the networks run; None: on the CPU."""
        self._gpu = device if device is not None and device.type == "cuda" else None
        self.seconds: dict[str, float] = {}
        self.processor: dict[str, float] = {}
        self.private = self.spilled = 0
        self._step, self._since = "", (time.perf_counter(), time.process_time())

    def start(self, step: str) -> None:
        """What follows belongs to ``step`` (empty: to none)."""
        if self._gpu is not None and step != self._step:
            torch.cuda.synchronize(self._gpu)
        now = (time.perf_counter(), time.process_time())
        if self._step:
            for table, a, b in zip((self.seconds, self.processor), self._since, now, strict=True):
                table[self._step] = table.get(self._step, 0.0) + b - a
        self._step, self._since = step, now

    def sample(self) -> None:
        """Look at the memory now."""
        self.private = max(self.private, resident_bytes())

    def table(self) -> dict[str, Any]:
        """Seconds per step, the peak memory so far (of a GPU too, as far as tensors go) and what
        was in files, in bytes; plain values.

        Pages of spilled files count as resident although the system can take them back at any time,
        so without them the peak is what was sampled.
        """
        self.start(self._step)
        if self.private:
            self.sample()
        times = {"step_seconds": dict(self.seconds), "step_processor_seconds": dict(self.processor)}
        table = {
            **times,
            "peak_memory_bytes": self.private or peak_bytes(),
            "spilled_bytes": self.spilled,
        }
        if self._gpu is not None:
            table["peak_gpu_memory_bytes"] = int(torch.cuda.max_memory_allocated(self._gpu))
        return table
