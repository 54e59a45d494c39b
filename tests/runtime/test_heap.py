"""Pages that the kernel has to clear again, counted by itself."""

from __future__ import annotations

import subprocess
import sys

import pytest

#: A process of its own: what is free in the heap of one that has worked is used first. It prints
#: faults of 40 MB, 10,000 pages, that are written for the fourth time, and freed each time.
COUNT = """
import resource, torch
from deeph_gformer.runtime.heap import keep_freed_memory
for size in (1 << 16, 1 << 30):
    known = keep_freed_memory(size)
    for _ in range(4):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        blocks = [torch.ones(500_000, dtype=torch.float64) for _ in range(10)]
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
        del blocks
    print(known, faults)
"""


def test_freed_memory_is_kept_up_to_a_size() -> None:
    done = subprocess.run([sys.executable, "-c", COUNT], capture_output=True, text=True, check=True)
    (known, given_back), (_, kept) = (line.split() for line in done.stdout.splitlines())
    if known == "False":
        pytest.skip("the C library is not glibc")
    assert int(given_back) > 5000 and int(kept) < 500
