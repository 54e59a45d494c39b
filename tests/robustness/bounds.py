"""How long and how large a try may be, and how many there are."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
from collections.abc import Iterator
from typing import Any

from hypothesis import HealthCheck, settings

__all__ = ["BUDGET", "LONGEST", "MOST", "RUN", "bounded"]

BUDGET = int(os.environ.get("FUZZ_BUDGET", "60"))
#: Seconds and bytes that reading an input of some kilobytes may take.
LONGEST, MOST = 10, 2**31
#: Seconds after which it waits for something that never comes.
HANG = 120
RUN = settings(
    max_examples=BUDGET,
    deadline=None,
    derandomize="FUZZ_BUDGET" not in os.environ,
    database=None,
    suppress_health_check=list(HealthCheck),
)


@contextlib.contextmanager
def bounded() -> Iterator[None]:
    """Fail where the block takes longer than LONGEST seconds or grows by more than MOST bytes."""

    def late(*_: Any) -> None:
        raise AssertionError(f"more than {LONGEST} s of work, or {HANG} s of waiting")

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    handlers = {n: signal.signal(n, late) for n in (signal.SIGALRM, signal.SIGPROF)}
    signal.setitimer(signal.ITIMER_PROF, LONGEST)  # its own time, on a busy machine, too
    signal.alarm(HANG)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.setitimer(signal.ITIMER_PROF, 0)
        for number, handler in handlers.items():
            signal.signal(number, handler)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert grown < MOST, f"{grown / 2**30:.1f} GiB"
