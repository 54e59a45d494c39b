"""Whole commands on mutated inputs, in forks of a process of their own (:mod:`.mutants`).

``make fuzz BUDGET=...`` runs every kind; ``make test`` two tries of some.
"""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys

FUZZ = os.environ.get("FUZZ_BUDGET", "")


def test_kinds() -> None:
    """Refused with a line, the same numbers, or others with a word."""
    words = ["--tries", FUZZ or "2", "--seed", str(os.getpid() if FUZZ else 1)]
    names = [] if FUZZ else ["overlap table", "resume"]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.robustness.mutants", *names, *words],
        cwd=pathlib.Path(__file__).parents[2],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"kind')]
    assert len(found) >= 2, done.stderr[-3000:]
    assert not [text for kind in found for text in kind["failures"]]
    if not FUZZ:  # of many, some change a number to another one that may as well be
        assert not [text for kind in found for text in kind["silent"]]
