"""Fault injection: a death at each file operation leaves outputs whole or absent, and the same
command ends it.

``make fuzz BUDGET=...`` kills at every step; ``make test`` at some of them.
"""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Callable

import pytest

import deeph_gformer
from deeph_gformer.inference.refine import _is_whole
from deeph_gformer.interop.convert import convert
from deeph_gformer.io import read_folder, read_matrix
from deeph_gformer.io.folder import folder_format, matrix_path

from ..conftest import tree
from ..test_pipeline import make_bundle
from .killing import deaths

Folder = Callable[..., pathlib.Path]
MOST = int(os.environ.get("FUZZ_BUDGET", "3"))


def _reset(folder: pathlib.Path, source: pathlib.Path | None = None) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    if source is not None:
        shutil.copytree(source, folder)


def _no_leftovers(root: pathlib.Path) -> None:
    assert not [p for p in root.rglob(".*") if p.suffix in (".tmp", ".old")]


@pytest.mark.parametrize("form", ["legacy", "dock"])
@pytest.mark.parametrize("existing", ["skip", "overwrite"])
def test_refine(
    make_folder: Folder, tiny_stage1: pathlib.Path, tmp_path: pathlib.Path, form: str, existing: str
) -> None:
    for n in range(2):
        make_folder(f"s{n}", seed=n, grouped=form == "dock")
    bundle = make_bundle(tiny_stage1, tmp_path / "b", trained=True)
    model = deeph_gformer.load(bundle, stage1=tiny_stage1)
    data, out, old = tmp_path / "data", tmp_path / "out", tmp_path / "old"

    def work(how: str = existing) -> None:
        deeph_gformer.refine(data, model, out, form=form, existing=how)

    work()
    wanted = tree(out)
    shutil.copytree(out, old)
    if existing == "overwrite":  # what is replaced differs from what replaces it
        other = deeph_gformer.load(stage1=tiny_stage1)
        deeph_gformer.refine(data, other, old, form=form, existing="overwrite")
    before = tree(old)
    assert (before == wanted) == (existing == "skip")
    start = old if existing == "overwrite" else None
    count = 0
    for step in deaths(work, lambda _: _reset(out, start), MOST):
        count += 1
        for place in out.glob("s*"):
            path = matrix_path(place, "prediction", form)
            if not path.exists():
                continue
            assert folder_format(place) == form and _is_whole(place), (
                f"step {step}: half of {place}"
            )
            read_matrix(place, "prediction")
            name = path.relative_to(out)
            info = f"{name.parent}/info.json"
            mine = (path.read_bytes(), (out / info).read_bytes())
            states = [(t[str(name)], t[info]) for t in (wanted, before)]
            assert mine in states, f"step {step}: H of one run, info.json of another"
        work()
        assert tree(out) == wanted, f"step {step}: the same command again gives something else"
        _no_leftovers(tmp_path)
    assert count >= min(MOST, 3)


@pytest.mark.parametrize("how", ["new", "overwrite"])
def test_convert(make_folder: Folder, tmp_path: pathlib.Path, how: str) -> None:
    for n in range(2):
        make_folder(f"s{n}", seed=n)
    data, out, old = tmp_path / "data", tmp_path / "out", tmp_path / "old"

    def work() -> None:
        options = {"overwrite": True} if how == "overwrite" else {"skip_existing": True}
        convert(data, out, "dock", **options)  # type: ignore[arg-type]

    work()
    wanted = tree(out)
    shutil.copytree(out, old)
    for n in range(2):
        info = json.loads((old / f"s{n}" / "info.json").read_text())
        (old / f"s{n}" / "info.json").write_text(json.dumps(info | {"old": True}))
        (old / f"s{n}" / "overlap.h5").unlink()
        (old / f"s{n}" / "notes.txt").write_text("mine")
    start = old if how == "overwrite" else None
    states = [wanted] if start is None else [wanted, tree(old)]
    count = 0
    for step in deaths(work, lambda _: _reset(out, start), MOST):
        count += 1
        for place in (p for p in out.glob("s*") if folder_format(p)):
            read_folder(place)
            mine = {k: v for k, v in tree(out).items() if k.startswith(place.name)}
            mine.pop(f"{place.name}/notes.txt", None)
            known = [
                {k: v for k, v in s.items() if k.startswith(place.name) and "notes" not in k}
                for s in states
            ]
            assert mine in known, f"step {step}: half of {place.name}"
        work()
        left = tree(out)
        if how == "overwrite":
            for n in range(2):
                assert left.pop(f"s{n}/notes.txt") == b"mine", f"step {step}"
        assert left == wanted, f"step {step}"
        _no_leftovers(tmp_path)
    assert count >= min(MOST, 3)


FUZZ = "FUZZ_BUDGET" in os.environ
SIGNALS = ("KILL", "TERM", "INT")


@pytest.mark.parametrize("signals", [(name,) for name in SIGNALS] if FUZZ else [SIGNALS])
def test_commands(signals: tuple[str, ...]) -> None:
    """Every command, ended at its file operations; ``make test``: a training, once by each
    signal."""
    words = ["--most", str(MOST if FUZZ else 1), "--seed", str(os.getpid() if FUZZ else 4)]
    names = [] if FUZZ else ["train"]
    done = subprocess.run(
        [sys.executable, "-m", "tests.robustness.campaign", *names, *words, "--signal", *signals],
        cwd=pathlib.Path(__file__).parents[2],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert found[-1]["tries"] >= len(signals) and not found[-1]["failures"]
