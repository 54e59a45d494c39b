"""Memory limits: what is chosen, what is refused, and that a limited run gives the same file."""

from __future__ import annotations

import json
import pathlib
import re
from collections.abc import Callable

import numpy as np
import pytest
import torch

import deeph_gformer
from deeph_gformer.cli import main
from deeph_gformer.errors import ConfigError
from deeph_gformer.inference.requirements import plan_structure
from deeph_gformer.io import read_matrix
from deeph_gformer.runtime import plan as runtime_plan
from deeph_gformer.runtime.plan import (
    free_memory,
    parse_size,
    show_size,
    usual_chunk,
)
from deeph_gformer.runtime.timer import Timer

from ..test_pipeline import make_bundle

Folder = Callable[..., pathlib.Path]


def test_sizes() -> None:
    assert [parse_size(t) for t in ("8GB", "500 mb", "1.5GiB", "2048")] == [
        8 * 10**9,
        5 * 10**8,
        3 * 2**29,
        2048,
    ]
    assert (
        show_size(7.25e9) == "7.25 GB" and show_size(5e6) == "5 MB" and show_size(300) == "0.3 kB"
    )
    for text in ("eight", "8 bananas", "-1GB", "0GB"):
        with pytest.raises(ConfigError, match="not a size"):
            parse_size(text)
    assert free_memory(torch.device("cpu")) > 10**6


def test_plan(
    make_folder: Folder,
    tmp_path: pathlib.Path,
    tiny_stage1: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Less and less memory: first rotated atoms are made anew, then features go to files, then it
    is refused."""
    model = deeph_gformer.load(make_bundle(tiny_stage1, tmp_path / "b"), stage1=tiny_stage1)
    graph = model.read(make_folder())[1]
    monkeypatch.setattr(runtime_plan, "resident_bytes", lambda: -runtime_plan.RESERVE)
    free = plan_structure(model, graph)
    assert free.keep_pairs and free.storage.folder is None and free.chunk == 1024
    limits = np.geomspace(1e8, 1e5, 200).astype(int).tolist()
    kinds: list[str] = []
    for limit in limits:
        try:
            plan = plan_structure(model, graph, limit=limit, spill=tmp_path / "spill")
            kinds.append("files" if plan.storage.folder else "all" if plan.keep_pairs else "less")
            assert plan.chunk >= 11
        except ConfigError as refused:
            kinds.append("refused")
            assert re.search(
                r"\(at most 11 on one atom\).* are needed, at least .* with edge features in "
                r"files \(--spill DIR\)",
                str(refused),
            )
    assert list(dict.fromkeys(kinds)) == ["all", "less", "files", "refused"]
    assert kinds == sorted(kinds, key=["all", "less", "files", "refused"].index)


def test_threads_want_larger_chunks() -> None:
    found = []
    for threads in (1, 2, 16):
        torch.set_num_threads(threads)
        found.append(usual_chunk(torch.device("cpu")))
    assert found == [1024, 4096, 16384]


def test_the_minimum_that_is_named_is_enough(
    make_folder: Folder,
    tmp_path: pathlib.Path,
    tiny_stage1: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also in a process that takes a fifth more before it starts."""
    model = deeph_gformer.load(make_bundle(tiny_stage1, tmp_path / "b"), stage1=tiny_stage1)
    graph = model.read(make_folder())[1]
    for resident, spill, pattern in (
        (400e6, None, "([0-9.]+ [GM]B) are needed"),
        (300e6, tmp_path / "s", "at least ([0-9.]+ [GM]B) with"),
    ):
        monkeypatch.setattr(runtime_plan, "resident_bytes", lambda size=resident: int(size))
        with pytest.raises(ConfigError) as refused:
            plan_structure(model, graph, limit=int(resident), spill=spill)
        named = re.search(pattern, str(refused.value))
        monkeypatch.setattr(runtime_plan, "resident_bytes", lambda size=resident: int(1.2 * size))
        assert (
            named
            and plan_structure(model, graph, limit=parse_size(named[1]), spill=spill).chunk >= 11
        )


def test_a_spill_folder_that_cannot_be_used(
    make_folder: Folder,
    tmp_path: pathlib.Path,
    tiny_stage1: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Told at the start, although nothing had to go into files."""
    make_folder("s0")
    (tmp_path / "file").touch()
    model = deeph_gformer.load(stage1=tiny_stage1)
    for spill in (tmp_path / "file", pathlib.Path("/proc")):
        with pytest.raises(ConfigError, match=f"--spill {spill}: "):
            deeph_gformer.refine(tmp_path / "data", model, tmp_path / "o", spill=spill)
    assert not (tmp_path / "o").exists()


def test_command_line_with_little_memory(
    make_folder: Folder,
    tmp_path: pathlib.Path,
    tiny_stage1: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make_folder("s0")
    monkeypatch.setattr(runtime_plan, "resident_bytes", lambda: -runtime_plan.RESERVE)
    start = [
        "refine",
        "--preprocessed",
        str(tmp_path / "data"),
        "--stage1",
        str(tiny_stage1),
        "--stage1-only",
    ]
    assert main([*start, "--output", str(tmp_path / "no"), "--max-memory", "10kB"]) == 2
    said = capsys.readouterr().err.strip()
    assert (
        len(said.splitlines()) == 1
        and "--max-memory" in said
        and "--spill DIR" in said
        and not (tmp_path / "no").exists()
    )
    limited = [
        *start,
        "--output",
        str(tmp_path / "a"),
        "--max-memory",
        "300kB",
        "--spill",
        str(tmp_path / "files"),
        "--json",
        str(tmp_path / "r.json"),
    ]
    assert main(limited) == 0 and main([*start, "--output", str(tmp_path / "b")]) == 0
    out = capsys.readouterr().out
    assert "peak GB" in out and re.search(r"time: edges .* stage 1 .* blocks .* file", out)
    record = json.loads((tmp_path / "r.json").read_text())["structures"][0]
    assert (
        set(record["step_seconds"]) == {"edges", "stage 1", "blocks", "file"}
        and record["peak_memory_bytes"] > 10**7
    )
    assert record["spilled_bytes"] > 0 and "of edge features were in files (--spill)" in out
    assert not list((tmp_path / "files").iterdir())
    a, b = (read_matrix(tmp_path / name / "s0", "prediction").values for name in "ab")
    assert np.abs(a - b).max() < 1e-13


def test_steps_add_up() -> None:
    timer = Timer()
    for name in ("a", "b", "a", ""):
        timer.start(name)
    assert list(timer.seconds) == ["a", "b"] and all(v >= 0 for v in timer.seconds.values())
