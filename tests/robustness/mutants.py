"""Mutated inputs of whole commands: ``python -m tests.robustness.mutants NAME --tries 300``.

Each try changes one input file, runs the command in a fork, and asks: exit code 0 or 2, one line,
nothing left behind, 10 s of work and 2 GiB at most. Where the command accepts the input, its output
is that of the good one, or a note or warning says more than there.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import pathlib
import random
import re
import resource
import shutil
import signal
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from deeph_gformer.cli import main, verbs

from .campaign import run_all
from .killing import Ended, run_until
from .mutations import mutate

__all__ = ["Kind", "mutants"]

#: Seconds of work, and bytes beyond those of this process.
LONGEST, MOST = 10, 2**31
#: Seconds after which it waits for something that never comes.
HANG = 120


@dataclasses.dataclass(frozen=True)
class Kind:
    """One command and its inputs.

    Attributes:
        prepare: makes the inputs that are changed in ``ROOT/in``, others in ``ROOT``.
        words: the command, from ROOT; its outputs are in ``ROOT/out`` or, of a run that goes on,
            in ``ROOT/in``.
        files: patterns of the files that are changed, below ``in``.
        results: patterns of what is compared, below ROOT.
        options: other words for the last one instead of changed files.
        partial: what can be made is made, and kept, where a part of the inputs is refused.
        ready: called once, before the forks: imports what the command needs.
    """

    prepare: Callable[[pathlib.Path], None]
    words: Callable[[pathlib.Path], Sequence[str]]
    files: Sequence[str] = ("**/*",)
    results: Sequence[str] = ("out/**/*",)
    options: Sequence[str] = ()
    partial: bool = False
    ready: Callable[[], object] = lambda: None


def _numbers(path: pathlib.Path) -> Any:
    """What a file says in numbers, without times and where it came from."""
    if path.suffix in (".h5", ".json", ".npz", ".ckpt", ".pkl", ".safetensors"):
        from .values import value

        return value(path)
    if path.suffix == ".csv":
        return [list(map(_cell, line.split(","))) for line in path.read_text().splitlines()]
    return path.read_bytes()


def _cell(word: str) -> float | str:
    """A number, or another word of a table."""
    try:
        number = float(word)
    except ValueError:
        return word
    return number if np.isfinite(number) else word


def _results(root: pathlib.Path, kind: Kind) -> dict[str, Any]:
    found = {p for pattern in kind.results for p in root.glob(pattern) if p.is_file()}
    return {str(p.relative_to(root)): _numbers(p) for p in sorted(found)}


def _difference(a: Any, b: Any, scale: float = 0.0) -> float:
    """Largest relative difference of numbers; infinite where something else differs.

    Args:
        a: numbers.
        b: others.
        scale: of the arrays; 0: the largest number of all that are together, as blocks in a file.
    """
    if isinstance(a, dict) and isinstance(b, dict):
        if a.keys() != b.keys():
            return np.inf
        arrays = [v for v in a.values() if isinstance(v, np.ndarray) and v.dtype.kind in "fc"]
        scale = max((float(np.abs(v).max(initial=0.0)) for v in arrays), default=0.0)
        return max((_difference(a[k], b[k], scale) for k in a), default=0.0)
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        if len(a) != len(b):
            return np.inf
        return max((_difference(x, y) for x, y in zip(a, b, strict=True)), default=0.0)
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        if a.shape != b.shape or a.dtype.kind != b.dtype.kind:
            return np.inf
        if a.dtype.kind not in "fc":
            return 0.0 if np.array_equal(a, b) else np.inf
        scale = scale or float(np.abs(a).max(initial=0.0)) or 1.0
        return float(np.abs(a - b).max(initial=0.0)) / scale
    if isinstance(a, float) and isinstance(b, float) and a != b:
        return abs(a - b) / max(abs(a), abs(b), 1.0)
    return 0.0 if a == b or (a != a and b != b) else np.inf


def _told(ended: Ended) -> set[str]:
    """Notes and warnings, and what is left out, without the numbers in them."""
    lines = [*ended.said.splitlines(), *ended.told.splitlines()]
    told = [x for x in lines if x.startswith(("note:", "warn", "  ")) or "; left out: " in x]
    return {re.sub(r"[\d.e+-]+", "#", x) for x in told}


def _judge(ended: Ended, root: pathlib.Path, partial: bool) -> str:
    """What is wrong whatever the numbers are; empty where nothing is."""
    if ended.code not in (0, 2):
        return f"exit code {ended.code} after {ended.seconds:.1f} s: {ended.said[-1500:]}"
    if "Traceback" in ended.said:
        return f"said {ended.said[-1500:]}"
    if ended.seconds > LONGEST:
        return f"{ended.seconds:.1f} s of work"
    grown = ended.peak - resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if grown > MOST:
        return f"{grown / 2**30:.1f} GiB"
    if ended.code == 2:
        errors = [x for x in ended.said.splitlines() if ": error: " in x]
        if len(errors) != 1 or len(errors[0]) > 1500:
            return f"not one line: {ended.said[-1500:]}"
        if (root / "out").exists() and not partial:
            return "left out"
    left = [p.name for p in root.rglob(".*") if p.suffix in (".tmp", ".old", ".kept")]
    return f"left {left}" if left else ""


def _limited(words: Sequence[str]) -> int:
    resource.setrlimit(resource.RLIMIT_CPU, (2 * LONGEST, 2 * LONGEST))
    signal.alarm(HANG)
    return main(list(words))


def mutants(name: str, tries: int, seed: int = 0) -> dict[str, Any]:
    """Change the inputs of one command many times.

    Args:
        name: of :data:`.mutant_kinds.KINDS`.
        tries: how often.
        seed: of what is done.

    Returns:
        ``tries``; how many were ``refused``, gave the ``same`` numbers, or others with a word
        (``told``); ``silent``: those with other numbers and no word; ``failures``.
    """
    from .mutant_kinds import KINDS

    kind = KINDS[name]
    counts = {"refused": 0, "same": 0, "told": 0}
    silent: list[str] = []
    failures: list[str] = []
    with tempfile.TemporaryDirectory(prefix="mutants-") as scratch:
        good, root = pathlib.Path(scratch).resolve() / "good", pathlib.Path(scratch) / "x"
        root = root.resolve()
        root.mkdir()
        kind.prepare(root)
        os.rename(root, good)
        verbs()
        kind.ready()

        def reset() -> None:
            shutil.rmtree(root, ignore_errors=True)
            shutil.copytree(good, root, symlinks=True)

        reset()
        first = run_until(-1, lambda: _limited(kind.words(root)))
        assert first.code == 0, first.said
        wanted, said = _results(root, kind), _told(first)
        assert wanted, "nothing to compare"
        found = {p for pattern in kind.files for p in (good / "in").glob(pattern) if p.is_file()}
        files = sorted(p.relative_to(good) for p in found)
        assert files or kind.options, "nothing to change"
        for number in range(tries):
            rng = random.Random(f"{name} {seed} {number}")
            reset()
            words = list(kind.words(root))
            if kind.options:
                words[-1] = done = rng.choice(kind.options)
            else:
                file = rng.choice(files)
                done = f"{file.parent}/{mutate(root / file, rng)}"
            ended = run_until(-1, lambda w=tuple(words): _limited(w))
            wrong = _judge(ended, root, kind.partial)
            if wrong:
                failures.append(f"{name} {number}: {done}: {wrong}")
            elif ended.code == 2:
                counts["refused"] += 1
            else:
                off = _difference(wanted, _results(root, kind))
                if off < 1e-9:
                    counts["same"] += 1
                elif _told(ended) - said:
                    counts["told"] += 1
                else:
                    silent.append(f"{name} {number}: {done}: off by {off:.1e}")
    return {"kind": name, "tries": tries, **counts, "silent": silent, "failures": failures}


def _command() -> int:
    from .mutant_kinds import KINDS

    parser = argparse.ArgumentParser(prog="python -m tests.robustness.mutants")
    parser.add_argument("names", nargs="*", metavar="KIND", help=", ".join(KINDS))
    parser.add_argument("--tries", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    return run_all(args.names or KINDS, lambda name: mutants(name, args.tries, args.seed))


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    raise SystemExit(_command())
