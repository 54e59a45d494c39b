"""Fault injection into whole commands: ``python -m tests.robustness.campaign NAME --most 100``.

A process of its own imports everything once and forks for every try: training cannot be forked from
a test runner whose threads have computed gradients. Each try starts a command, ends it at one of
its file operations (``--signal KILL``, ``TERM`` or ``INT``), looks at what is there, gives the
command again and compares with an undisturbed run.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import io
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import h5py
import numpy as np
import torch

import deeph_gformer.ablation.run
import deeph_gformer.analysis.evaluate
import deeph_gformer.report.page  # noqa: F401 - everything is imported once, before the forks
from deeph_gformer.cli import main
from deeph_gformer.gformer.bundle import load_bundle
from deeph_gformer.io import read_folder, read_matrix
from deeph_gformer.io.folder import folder_format
from deeph_gformer.stage1.bundle import read_model_folder

from .cases import CASES, Case
from .killing import Ended, run_until
from .values import timeless

__all__ = ["campaign"]

#: Signals, and what a file operation may fail with: a full disk, a quota, a read-only or another
#: file system, a broken one.
FAULTS: dict[str, int] = {
    **{name: signal.Signals[f"SIG{name}"] for name in ("KILL", "TERM", "INT")},
    "SMALL": 0,  # a disk of this size
    **{
        name: -getattr(errno, name)
        for name in ("ENOSPC", "EDQUOT", "EROFS", "EXDEV", "EIO", "EACCES")
    },
}
#: Of a training; they grow line by line, or are named after the time.
_LOGS = ("logs/tensorboard", "lock", "log.txt")


def _whole(path: pathlib.Path) -> None:
    """Raise unless a file that has its final name is whole."""
    kind = path.suffix
    if kind == ".json":
        json.loads(path.read_text())
    elif kind == ".h5":
        with h5py.File(path) as handle:
            for name in handle:
                handle[name][()]
    elif kind == ".npz":
        with np.load(path) as table:
            for name in table.files:
                table[name]
    elif kind in (".ckpt", ".pkl"):
        torch.load(path, weights_only=True)
    elif kind == ".png":
        assert path.read_bytes()[-12:-4] == b"\0\0\0\0IEND", "a PNG without end"
    elif kind == ".html":
        assert path.read_text().rstrip().endswith("</html>"), "HTML without end"


def _look(out: pathlib.Path, wanted: dict[str, Any], before: dict[str, Any]) -> None:
    """Raise unless everything with a final name is whole, and of one run."""
    for path in out.rglob("*"):
        name = str(path.relative_to(out))
        hidden = any(part.startswith(".") for part in path.relative_to(out).parts)
        if path.is_file() and not hidden and not name.startswith(_LOGS) and "logs/" not in name:
            _whole(path)
            if path.suffix in (".dat", ".h5", "") and path.name != "lock" and "ckpt" not in name:
                states = [s[name] for s in (wanted, before) if name in s]
                assert _value(path) in states, f"{name}: neither the old one nor the new one"
        if path.is_dir() and not hidden:
            if (path / "bundle.json").exists():
                load_bundle(path)
            if (path / "best_model.pkl").exists():
                read_model_folder(path)
            if folder_format(path):
                read_folder(path)
                for kind in ("hamiltonian", "overlap", "prediction"):
                    form = folder_format(path)
                    names = ("hamiltonians", "overlaps", "hamiltonians_pred")
                    if form == "dock":
                        names = ("hamiltonian", "overlap", "hamiltonian_pred")
                    at = ("hamiltonian", "overlap", "prediction").index(kind)
                    if (path / f"{names[at]}.h5").exists():
                        read_matrix(path, kind)  # type: ignore[arg-type]


def _value(path: pathlib.Path) -> Any:
    """What a file says, without the time that it took."""
    if path.suffix == ".json":
        return timeless(json.loads(path.read_text()))
    if path.suffix in (".ckpt", ".pkl"):
        table = torch.load(path, weights_only=True)
        state = {k: v.numpy().tobytes() for k, v in table["state_dict"].items()}
        return state, table["epoch"]
    if path.suffix == ".csv" and path.name == "metrics.csv":
        return sorted(path.read_text().splitlines())
    if path.name.startswith("table.") or path.suffix == ".html":
        return "times"
    return path.read_bytes()


def _close(a: Any, b: Any) -> bool:
    """Whether two HDF5 files, or two JSON values, are equal to rounding."""
    if isinstance(a, bytes) and isinstance(b, bytes) and a[1:4] == b[1:4] == b"HDF":
        with h5py.File(io.BytesIO(a)) as one, h5py.File(io.BytesIO(b)) as two:
            return set(one) == set(two) and all(
                np.allclose(one[n][()], two[n][()], rtol=1e-9, atol=1e-12) for n in one
            )
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_close(a[k], b[k]) for k in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(_close, a, b))
    if isinstance(a, float) and isinstance(b, float):
        return abs(a - b) <= 1e-9 * max(1.0, abs(a))
    return bool(a == b)


def _tree(out: pathlib.Path) -> dict[str, Any]:
    return {
        name: _value(path)
        for path in sorted(out.rglob("*"))
        if path.is_file()
        and not (name := str(path.relative_to(out))).startswith(_LOGS)
        and "tensorboard" not in name
        and path.name not in ("attempts.json", "lock", "log.txt")
        and not path.name.startswith(".")
    }


def _reset(root: pathlib.Path, old: pathlib.Path) -> None:
    shutil.rmtree(root / "out", ignore_errors=True)
    shutil.copytree(old, root / "out", symlinks=True)


def _judge(
    case: Case, root: pathlib.Path, ended: Ended, number: int, states: tuple[Any, Any]
) -> str:
    """What is wrong after a try; empty where nothing is."""
    wanted, before = states
    codes = {signal.SIGKILL: {-9}, signal.SIGTERM: {143, 0}, signal.SIGINT: {130, 0}}
    stopped = codes.get(number, {2, 0})
    if ended.code not in stopped:
        return f"exit code {ended.code}: {ended.said[-1500:]}"
    told = ("note:", "warning:", "deeph-")
    lines = [x for x in ended.said.splitlines() if x and not x.startswith(told)]
    if number != signal.SIGKILL and ("Traceback" in ended.said or (ended.code and lines)):
        return f"said {ended.said[-1500:]}"
    out = root / "out"
    try:
        _look(out, wanted, before)
    except BaseException as error:  # noqa: BLE001 - counted, not raised
        return f"not whole: {type(error).__name__}: {error}"
    if ended.code == 2 and sum(": error: " in x for x in ended.said.splitlines()) != 1:
        return f"not one line: {ended.said[-1500:]}"
    left = [p.name for p in out.rglob(".*") if p.suffix in (".tmp", ".old")]
    # what cannot be removed stays
    if number != signal.SIGKILL and left and ended.failed not in ("unlink", "remove", "rmdir"):
        return f"left {left}"
    again = run_until(-1, lambda: main(list((case.again or case.words)(root))))
    if again.code != 0:
        return f"again: exit code {again.code}: {again.said[-1500:]}"
    other = other_files(case, _tree(out), wanted)
    if other:
        return f"again: other {other[:5]}"
    places = [p for p in (out, root) if p.exists()]
    left = [p.name for q in places for p in q.rglob(".*") if p.suffix in (".tmp", ".old")]
    return f"again: {left} stay" if left else ""


def begin(case: Case, root: pathlib.Path) -> dict[str, Any]:
    """Inputs of a case, what is in ``out`` already, and a copy of that in ``old``; its files."""
    case.prepare(root)
    (root / "out").mkdir()
    if case.old:
        case.old(root)
    shutil.copytree(root / "out", root / "old", symlinks=True)
    return _tree(root / "old")


def other_files(case: Case, now: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    """Names of files that are missing, too many, or other ones than wanted."""
    if case.rounding:
        now = {k: wanted.get(k) if _close(v, wanted.get(k)) else v for k, v in now.items()}
    return sorted(set(now) ^ set(wanted)) or [n for n in now if now[n] != wanted[n]]


def run_all(names: Iterable[str], run: Callable[[str], dict[str, Any]]) -> int:
    """Run each case and print its record; exit code 1 where one failed."""
    counts = {"tries": 0, "failures": 0}
    for name in names:
        try:
            found = run(name)
        except AssertionError as error:  # the others are still worth their time
            found = {"case": name, "tries": 0, "failures": [f"{name}: cannot run: {error}"]}
        counts["tries"] += found["tries"]
        counts["failures"] += len(found["failures"]) + len(found.get("silent", ()))
        print(json.dumps(found), flush=True)
    print(json.dumps(counts), flush=True)
    return int(counts["failures"] > 0)


@contextlib.contextmanager
def _disk(folder: str, small: bool) -> Iterator[None]:
    """A file system of its own, whose size can be changed (Linux, root only)."""
    if not small:
        yield
        return
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1g", "tmpfs", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def _resize(folder: pathlib.Path, size: int) -> None:
    size = -(-size // 4096) * 4096
    subprocess.run(["mount", "-o", f"remount,size={size}", str(folder)], check=True)


def campaign(
    name: str,
    most: int,
    numbers: Sequence[int] = (signal.SIGKILL,),
    seed: int | None = None,
    lasting: bool = False,
) -> dict[str, Any]:
    """End one command many times.

    Args:
        name: of :data:`CASES`.
        most: tries with each number, evenly spread over the steps, or all steps.
        numbers: signals; an errno, negative; or 0: a disk that is too small, in place of steps.
        seed: shifts the steps; None: none.
        lasting: of an errno: what needs space fails from then on.

    Returns:
        ``steps``, ``tries`` and ``failures`` (texts).
    """
    torch.set_num_threads(1)
    case = CASES[name]
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="campaign-") as scratch, _disk(scratch, 0 in numbers):
        root = pathlib.Path(scratch).resolve()
        before = begin(case, root)
        full = shutil.disk_usage(root).used

        def work() -> int:
            return main(list(case.words(root)))

        first = run_until(-1, work)
        assert first.code == 0, first.said
        wanted = _tree(root / "out")
        written = sum(p.stat().st_size for p in (root / "out").rglob("*") if p.is_file())
        room = max(written, shutil.disk_usage(root).used - full)
        tries, failures = 0, []
        for number in numbers:
            steps = first.steps if number else room
            count = min(most, steps)
            shift = random.Random(seed + number).random() if seed is not None else 0.0
            for n in range(count):
                step = int((n + shift) * steps / count)
                _reset(root, root / "old")
                if number:
                    ended = run_until(step, work, number, lasting)
                else:
                    _resize(root, shutil.disk_usage(root).used + step)
                    ended = run_until(-1, work)
                    _resize(root, 2**30)
                wrong = _judge(case, root, ended, number, (wanted, before))
                if wrong:
                    at = f"{number} at step {step} of {steps} {ended.failed}".rstrip()
                    failures.append(f"{name}: {at}: {wrong}")
            tries += count
    return {
        "case": name,
        "steps": first.steps,
        "tries": tries,
        "failures": failures,
        "seconds": round(time.perf_counter() - start, 1),
    }


def _command() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.robustness.campaign")
    parser.add_argument("names", nargs="*", metavar="CASE", help=", ".join(CASES))
    parser.add_argument("--most", type=int, default=10**6, help="tries per case (default: all)")
    parser.add_argument("--signal", choices=list(FAULTS), nargs="+", default=["KILL"])
    parser.add_argument("--lasting", action="store_true", help="the disk stays full")
    parser.add_argument("--seed", type=int)
    args = parser.parse_args()
    numbers = [FAULTS[name] for name in args.signal]
    return run_all(
        args.names or CASES,
        lambda name: campaign(name, args.most, numbers, args.seed, args.lasting),
    )


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    raise SystemExit(_command())
