"""Two runs of a command at once, and clocks that jump: ``python -m tests.robustness.worlds``.

Of two runs into one place each ends well or says in a line what is in its way, one at least ends
well, and what is there is whole and that of an undisturbed run. Clocks do not matter.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import random
import tempfile
import time
from collections.abc import Callable
from typing import Any

import torch

from deeph_gformer.cli import main

from . import campaign
from .cases import CASES, Case
from .killing import Ended, run_until

__all__ = ["WORLDS", "worlds"]

#: What a clock may say, seconds since 1970.
CLOCKS = (0.0, -1.0, 2.0**33)


def _two(work: Callable[[], int], root: pathlib.Path, rng: random.Random) -> list[Ended]:
    """How two runs end that begin within a tenth of a second of each other."""
    told = root / "second.json"
    child = os.fork()
    if child == 0:
        try:
            time.sleep(rng.random() * 0.1)
            told.write_text(json.dumps(run_until(-1, work)))
        finally:
            os._exit(0)
    first = run_until(-1, work)
    os.waitpid(child, 0)
    second = Ended(*json.loads(told.read_text()))
    told.unlink()
    return [first, second]


def _jumping(work: Callable[[], int], root: pathlib.Path, rng: random.Random) -> list[Ended]:
    """How a run ends whose clock jumps at every look, and whose files are from everywhere."""
    for path in root.rglob("*"):
        if not path.is_symlink():
            os.utime(path, (rng.choice(CLOCKS[:2]) + 1, rng.choice((0, 2**31))))

    def moved() -> int:
        time.time = lambda: rng.choice(CLOCKS)
        time.time_ns = lambda: int(rng.choice(CLOCKS) * 1e9)
        return work()

    return [run_until(-1, moved)]


WORLDS: dict[str, Callable[[Callable[[], int], pathlib.Path, random.Random], list[Ended]]] = {
    "together": _two,
    "clock": _jumping,
}


def worlds(name: str, world: str, tries: int, seed: int = 0) -> dict[str, Any]:
    """Run one command in another world.

    Args:
        name: of :data:`.cases.CASES`.
        world: of :data:`WORLDS`.
        tries: how often.
        seed: of the delays.

    Returns:
        ``tries`` and ``failures`` (texts).
    """
    torch.set_num_threads(1)
    case, failures = CASES[name], list[str]()
    with tempfile.TemporaryDirectory(prefix="worlds-") as scratch:
        root = pathlib.Path(scratch).resolve()
        before = campaign.begin(case, root)

        def work() -> int:
            return main(list(case.words(root)))

        first = run_until(-1, work)
        assert first.code == 0, first.said
        wanted = campaign._tree(root / "out")
        for number in range(tries):
            campaign._reset(root, root / "old")
            ended = WORLDS[world](work, root, random.Random(f"{name} {seed} {number}"))
            wrong = _wrong(case, root, ended, wanted, before)
            if wrong:
                failures.append(f"{name} {number}: {wrong}")
    return {"case": name, "world": world, "tries": tries, "failures": failures}


def _wrong(case: Case, root: pathlib.Path, ended: list[Ended], wanted: Any, before: Any) -> str:
    for one in ended:
        errors = [x for x in one.said.splitlines() if ": error: " in x]
        if one.code not in (0, 2) or "Traceback" in one.said or (one.code and len(errors) != 1):
            return f"exit code {one.code}: {one.said[-1200:]}"
    if all(one.code for one in ended):
        return f"none ended well: {[one.said[-300:] for one in ended]}"
    try:
        campaign._look(root / "out", wanted, before)
    except BaseException as error:  # noqa: BLE001 - counted, not raised
        return f"not whole: {type(error).__name__}: {error}"
    other = campaign.other_files(case, campaign._tree(root / "out"), wanted)
    if other:
        return f"other {other[:5]}"
    left = [p.name for p in root.rglob(".*") if p.suffix in (".tmp", ".old")]
    return f"left {left}" if left else ""


def _command() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.robustness.worlds")
    parser.add_argument("world", choices=list(WORLDS))
    parser.add_argument("names", nargs="*", metavar="CASE", help=", ".join(CASES))
    parser.add_argument("--tries", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    return campaign.run_all(
        args.names or CASES, lambda name: worlds(name, args.world, args.tries, args.seed)
    )


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    raise SystemExit(_command())
