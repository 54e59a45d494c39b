"""How a part of ``gpu.py`` measures and keeps its rows.

``gpu_parts.py PART ROWS.jsonl SECONDS`` runs one.

The parts are the public functions of ``gpu_networks`` and ``gpu_commands``; a row of results is a
line of JSON.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import pathlib
import statistics
import sys
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
        device: the GPU; the CPU at a rehearsal.
        rehearse: tiny sizes.
        end: when the time is up, of ``time.monotonic``.
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
        except Exception as error:  # noqa: BLE001  whatever it is, the others go on
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
    import gpu_commands
    import gpu_networks

    module = gpu_networks if hasattr(gpu_networks, args.part) else gpu_commands
    getattr(module, args.part)(Part(args))


if __name__ == "__main__":
    main()
