"""Pages that the kernel has to clear again, counted by itself."""

from __future__ import annotations

import os
import resource

import pytest
import torch

from deeph_gformer.runtime.heap import keep_freed_memory


def pages_touched_again() -> int:
    """Of 40 MB, 10,000 pages, that are written for the fourth time, and freed each time."""
    faults = 0
    for _ in range(4):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        blocks = [torch.ones(500_000, dtype=torch.float64) for _ in range(10)]
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
        del blocks
    return faults


@pytest.mark.parametrize(("size", "least", "most"), [(1 << 30, 0, 500), (1 << 16, 5000, 20000)])
def test_freed_memory_is_kept_up_to_a_size(size: int, least: int, most: int) -> None:
    child = os.fork()
    if not child:  # the setting stays with its process
        code = 3
        try:
            known = keep_freed_memory(size)
            code = int(not least <= pages_touched_again() <= most) if known else 2
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code == 2:
        pytest.skip("the C library is not glibc")
    assert code == 0
