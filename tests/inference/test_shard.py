"""Several processes on one structure, or on several: the numbers of one process.

What fails ends everywhere.
"""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import pathlib
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import deeph_gformer
from deeph_gformer.cli import main
from deeph_gformer.errors import ConfigError, GFormerError, MissingDependencyError
from deeph_gformer.inference.output import write_shared
from deeph_gformer.io import BlockMatrix, read_matrix
from deeph_gformer.io.blocks import sort_keys
from deeph_gformer.io.folder import matrix_path, write_matrix
from deeph_gformer.overlap import TableOverlap, two_centre
from deeph_gformer.runtime.communicator import Communicator, split_atoms
from deeph_gformer.runtime.processes import agreed, process_device, same_input, start_processes

from ..conftest import ROOT, random_structure, write_tiny_stage1
from ..overlap.test_basis import gaussian_basis
from ..test_pipeline import make_bundle

Folder = Callable[..., pathlib.Path]


def _child(rank: int, size: int, port: int, work: Callable[[int], Any], results: Any) -> None:
    torch.set_num_threads(1)
    os.environ.update(
        RANK=str(rank),
        WORLD_SIZE=str(size),
        LOCAL_RANK=str(rank),
        LOCAL_WORLD_SIZE=str(size),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    try:
        results.put((rank, work(rank)))
    except GFormerError as error:
        results.put((rank, error))
    except SystemExit as error:
        results.put((rank, error.code))


def in_ranks(size: int, work: Callable[[int], Any]) -> list[Any]:
    """``work(rank)`` in forked processes that find each other as under torchrun.

    Results or errors in order of rank.
    """
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    children = [
        context.Process(target=_child, args=(rank, size, port, work, results))
        for rank in range(size)
    ]
    for child in children:
        child.start()
    found = dict(results.get(timeout=600) for _ in children)
    for child in children:
        child.join()
    return [found[rank] for rank in range(size)]


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("arch", ["equivariant", "paper"])
def test_ranks_change_nothing(
    make_folder: Folder, tmp_path: pathlib.Path, size: int, arch: str
) -> None:
    stage1 = write_tiny_stage1(tmp_path / "s", spinful=size == 4)
    model = deeph_gformer.load(
        make_bundle(stage1, tmp_path / "b", arch, trained=True), stage1=stage1
    )
    folder = make_folder(atoms=5, spinful=size == 4, grouped=True)
    form = "legacy" if arch == "paper" else "dock"
    one = deeph_gformer.refine(tmp_path / "data", model, tmp_path / "one", form=form)["structures"][
        0
    ]
    if arch == "paper" and size == 4:  # any other stage 1: each process runs all of it
        model.stage1.stream = lambda graph, work: None  # type: ignore[method-assign, union-attr]
    found = in_ranks(
        size,
        lambda rank: deeph_gformer.refine(tmp_path / "data", model, tmp_path / "many", form=form)[
            "structures"
        ],
    )
    assert [len(r) for r in found] == [1] + [0] * (size - 1) and found[0][0]["processes"] == size
    for name in ("mean_correction_meV", "stage1_mae_meV", "refined_mae_meV", "refined_max_meV"):
        assert found[0][0][name] == pytest.approx(one[name], rel=1e-12)
    a, b = (read_matrix(tmp_path / name / folder.name, "prediction") for name in ("one", "many"))
    assert (
        np.array_equal(a.keys, b.keys)
        and np.abs(a.values - b.values).max() < 1e-12 * np.abs(a.values).max()
    )
    assert np.array_equal(b.values, b.hermitian().values)


@pytest.mark.parametrize("form", ["legacy", "dock"])
def test_overlaps_are_made_by_all(
    make_folder: Folder, tmp_path: pathlib.Path, tiny_stage1: pathlib.Path, form: str
) -> None:
    """Each process computes the overlaps of its atoms.

    What is there already is kept where it is the same, and refused where it is not.
    """
    structure = random_structure(atoms=5, name="x", grouped=True)[0]
    shells = {
        16: ((0, 0.9), (1, 1.0)),
        42: ((0, 0.7), (1, 0.8), (2, 0.9)),
    }  # (l, exponent in 1/bohr²)
    table = TableOverlap(two_centre([gaussian_basis(z, s, 4.0) for z, s in shells.items()]))
    make_folder("x", atoms=5, hamiltonian=False, overlap=False, grouped=True)
    model = deeph_gformer.load(stage1=tiny_stage1)

    def run(rank: int, existing: str = "error") -> Any:
        return deeph_gformer.refine(
            tmp_path / "data", model, tmp_path / "many", overlap=table, form=form, existing=existing
        )

    in_ranks(3, run)
    out = tmp_path / "many" / "x"
    made = read_matrix(out, "overlap")
    assert (
        np.array_equal(made.keys, table.edges(structure))
        and np.abs(made.values - table.overlap(structure).values).max() < 1e-15
    )
    deeph_gformer.refine(tmp_path / "data", model, tmp_path / "one", overlap=table, form=form)
    a, b = (read_matrix(tmp_path / name / "x", "prediction") for name in ("one", "many"))
    assert np.abs(a.values - b.values).max() < 1e-12 * np.abs(a.values).max()
    matrix_path(out, "prediction").unlink()
    stamp = matrix_path(out, "overlap").stat().st_mtime_ns
    in_ranks(3, run)
    assert (
        matrix_path(out, "overlap").stat().st_mtime_ns == stamp
        and matrix_path(out, "prediction").is_file()
    )
    matrix_path(out, "prediction").unlink()
    write_matrix(
        out, "overlap", BlockMatrix(made.keys, made.shapes, made.values + 1e-3), structure, form
    )  # type: ignore[arg-type]
    first, *others = in_ranks(3, run)
    assert "is there already, with other overlaps" in str(first) and others == [2, 2]


@pytest.mark.parametrize("bare", [False, True])
def test_each_process_has_the_edges_of_its_atoms(
    make_folder: Folder, tiny_stage1: pathlib.Path, bare: bool
) -> None:
    """From files and from a table: together they are those of one process, in order."""
    folder = make_folder("x", atoms=7, grouped=True)
    shells = {16: ((0, 0.9), (1, 1.0)), 42: ((0, 0.7), (1, 0.8), (2, 0.9))}
    table = TableOverlap(two_centre([gaussian_basis(z, s, 4.0) for z, s in shells.items()]))
    model = deeph_gformer.load(stage1=tiny_stage1)
    structure = random_structure(atoms=7, name="x", grouped=True)[0]
    source, provider = (structure, table) if bare else (folder, None)
    whole = model.read(source, overlap=provider)

    def run(rank: int) -> Any:
        item = model.read(source, overlap=provider, comm=start_processes())
        own = item.comm.own_edges
        assert own.stop - own.start == item.graph.edges == len(item.edges.keys)
        assert item.total_edges == whole.graph.edges and item.edges.source
        vectors = item.graph.edge_vector.numpy()
        return item.comm.bounds, item.edges.keys, vectors

    bounds, keys, vectors = zip(*in_ranks(3, run))
    degree = np.bincount(whole.edges.keys[:, 3], minlength=7)
    assert set(bounds) == {split_atoms(degree, 3)}
    assert np.array_equal(np.concatenate(keys), whole.edges.keys)
    assert np.array_equal(np.concatenate(vectors), whole.graph.edge_vector.numpy())
    assert max(map(len, keys)) < 0.6 * whole.graph.edges


def test_different_tables_are_an_error(tiny_stage1: pathlib.Path) -> None:
    """An edge that one process finds and the process of its other end does not."""
    shells = {16: ((0, 0.9), (1, 1.0)), 42: ((0, 0.7), (1, 0.8), (2, 0.9))}
    model = deeph_gformer.load(stage1=tiny_stage1)
    structure = random_structure(atoms=5, name="x", grouped=True)[0]

    def run(rank: int) -> Any:
        cutoff = 4.0 - 0.7 * rank
        table = TableOverlap(two_centre([gaussian_basis(z, s, cutoff) for z, s in shells.items()]))
        return model.read(structure, overlap=table, comm=start_processes())

    first, second = in_ranks(2, run)
    assert "processes 0 and 1 find different edges" in str(first) and second == 2


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("form", ["legacy", "dock"])
def test_a_file_of_several_processes_is_that_of_one(
    tmp_path: pathlib.Path, form: str, size: int
) -> None:
    """To the last byte, though its names are sorted and its headers written by all."""
    random = np.random.default_rng(size)
    structure = dataclasses.replace(
        random_structure(atoms=5, name="x", grouped=True)[0], spinful=False
    )
    keys = random.integers((-9, -2, -1, 0, 0), (10, 3, 2, 5, 5), (3000, 5))
    keys = np.unique(keys, axis=0)
    keys = keys[sort_keys(keys)]
    shapes = structure.orbital_counts[keys[:, 3:]]
    values = random.normal(size=int(shapes.prod(axis=1).sum()))
    matrix = BlockMatrix(keys, shapes, values)
    one = write_matrix(tmp_path / "one", "overlap", matrix, structure, form)
    marks = {2: (0, 1, len(keys)), 3: (0, 700, 2000, len(keys))}[size]  # one may have next to none

    def run(rank: int) -> None:
        part = matrix.select(np.arange(marks[rank], marks[rank + 1]))
        write_shared(start_processes(), tmp_path / "many", "overlap", part, structure, form)

    assert in_ranks(size, run) == [None] * size
    made = tmp_path / "many" / one.name
    assert made.read_bytes() == one.read_bytes() and len(keys) > 2000


@pytest.mark.parametrize("form", ["legacy", "dock"])
def test_a_process_that_cannot_write(
    make_folder: Folder, tmp_path: pathlib.Path, tiny_stage1: pathlib.Path, form: str
) -> None:
    """The file-size limit of one process stands for its full disk: nothing is left, and it is told
    once."""
    make_folder("x", atoms=5, grouped=True)
    model = deeph_gformer.load(stage1=tiny_stage1)

    def run(rank: int) -> Any:
        if rank == 1:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
        return deeph_gformer.refine(tmp_path / "data", model, tmp_path / "o", form=form)

    first, second = in_ranks(2, run)
    assert (
        "could not be written (File too large), no part of this file was left behind" in str(first)
        and second == 2
    )
    assert not any(".tmp" in p.name or "pred" in p.name for p in (tmp_path / "o").rglob("*"))


def test_structures_in_turns_and_resume(
    make_folder: Folder, tmp_path: pathlib.Path, tiny_stage1: pathlib.Path
) -> None:
    """More structures than processes: one each; those that are done stay."""
    for n in range(3):
        make_folder(f"s{n}", seed=n)
    model = deeph_gformer.load(stage1=tiny_stage1)
    found = in_ranks(2, lambda rank: deeph_gformer.refine(tmp_path / "data", model, tmp_path / "o"))
    assert all([r["name"] for r in table["structures"]] == ["s0", "s1", "s2"] for table in found)
    assert {r["processes"] for r in found[0]["structures"]} == {1}
    path = tmp_path / "o" / "s1" / "hamiltonians_pred.h5"
    path.unlink()
    before = (tmp_path / "o" / "s0" / "hamiltonians_pred.h5").stat().st_mtime_ns
    again = in_ranks(
        2,
        lambda rank: deeph_gformer.refine(
            tmp_path / "data", model, tmp_path / "o", existing="skip"
        ),
    )
    assert (
        again[0]["skipped"] == ["s0", "s2"]
        and again[0]["structures"][0]["processes"] == 2
        and path.is_file()
    )
    assert (tmp_path / "o" / "s0" / "hamiltonians_pred.h5").stat().st_mtime_ns == before


def test_outputs_that_are_not_shared(
    make_folder: Folder,
    tmp_path: pathlib.Path,
    tiny_stage1: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A process that does not see temporary files stands for one on a machine with a disk of its
    own."""
    make_folder("x")
    model = deeph_gformer.load(stage1=tiny_stage1)
    sees = pathlib.Path.is_file

    def run(rank: int) -> Any:
        if rank == 1:
            monkeypatch.setattr(
                pathlib.Path, "is_file", lambda path: ".tmp" not in path.name and sees(path)
            )
        return deeph_gformer.refine(tmp_path / "data", model, tmp_path / "o")

    first, second = in_ranks(2, run)
    assert (
        "process 1 does not see the file" in str(first)
        and "shared by all machines" in str(first)
        and second == 2
    )
    assert not any("pred" in p.name for p in (tmp_path / "o").rglob("*"))


def test_different_files_are_an_error(
    make_folder: Folder, tmp_path: pathlib.Path, tiny_stage1: pathlib.Path
) -> None:
    """Each process has its own copy of the data, and in one an atom moved."""
    for rank in range(2):
        make_folder("s", root=tmp_path / str(rank))
    path = tmp_path / "1" / "s" / "site_positions.dat"
    table = np.loadtxt(path)
    table[0, 0] += 1e-4
    np.savetxt(path, table, fmt="%.17g")
    model = deeph_gformer.load(stage1=tiny_stage1)
    first, second = in_ranks(
        2, lambda rank: deeph_gformer.refine(tmp_path / str(rank), model, tmp_path / "o")
    )
    assert (
        "read different positions; all must see the same files" in str(first)
        and second == 2
        and not (tmp_path / "o").exists()
    )


def test_an_error_on_one_process_ends_all(
    make_folder: Folder, tmp_path: pathlib.Path, tiny_stage1: pathlib.Path
) -> None:
    for rank in range(2):
        make_folder("s", root=tmp_path / str(rank))
    (tmp_path / "1" / "s" / "element.dat").write_bytes(b"no")
    model = deeph_gformer.load(stage1=tiny_stage1)
    first, second = in_ranks(
        2, lambda rank: deeph_gformer.refine(tmp_path / str(rank), model, tmp_path / "o")
    )
    assert "not a table of numbers" in str(first) and second == 2
    assert not (tmp_path / "o").exists()


def torchrun(script: pathlib.Path, *words: object) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "2",
        "--master-port",
        "0",
        "--rdzv-backend",
        "c10d",
    ]
    command += ["--rdzv-endpoint", "127.0.0.1:0", str(script), *map(str, words)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


def test_bad_input_is_told_once(
    tmp_path: pathlib.Path, tiny_stage1: pathlib.Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = ["refine", "--preprocessed", str(tmp_path / "nothing"), "--stage1", str(tiny_stage1)]
    assert in_ranks(2, lambda rank: main([*words, "--stage1-only"])) == [2, 2]
    assert capfd.readouterr().err.count("nothing: no such folder") == 1


def test_errors_travel_between_processes() -> None:
    def work(rank: int) -> None:
        with agreed(start_processes()):
            if rank == 1:
                raise MissingDependencyError("seekpath", "bands", "a path")

    first, second = in_ranks(2, work)
    assert "a path needs the library 'seekpath'" in str(first) and second == 2


def test_a_process_that_dies_is_one_line(
    make_folder: Folder, tmp_path: pathlib.Path, tiny_stage1: pathlib.Path
) -> None:
    """torchrun stops the others; what is left says what happened, and no file is half-written."""
    make_folder("s")
    script = tmp_path / "run.py"
    script.write_text(
        "import os, sys, torch\n"
        "from deeph_gformer.stage1.embedded.forward_pass import ForwardPass\n"
        "from deeph_gformer.cli import main\n"
        "torch.set_num_threads(1)\nbefore = ForwardPass.update_edges\n"
        "def dies(self, *args):\n    if os.environ['RANK'] == '1':\n        os._exit(9)\n    "
        "before(self, *args)\n"
        "ForwardPass.update_edges = dies\nsys.exit(main(sys.argv[1:]))\n"
    )
    words = [
        "refine",
        "--preprocessed",
        tmp_path / "data",
        "--stage1",
        tiny_stage1,
        "--stage1-only",
        "--output",
        tmp_path / "o",
    ]
    done = torchrun(script, *words)
    assert done.returncode != 0
    assert "another process ended" in done.stderr and "--skip-existing" in done.stderr
    assert not (tmp_path / "o").exists() or not any(
        p.is_file() for p in (tmp_path / "o").rglob("*")
    )


@pytest.mark.parametrize("place", ["at work", "waiting"])
def test_a_launcher_s_sigterm_is_one_line(
    make_folder: Folder,
    tmp_path: pathlib.Path,
    tiny_stage1: pathlib.Path,
    capfd: pytest.CaptureFixture[str],
    place: str,
) -> None:
    """torchrun sends it to all of its processes, at work or while one waits for the other."""
    from deeph_gformer.stage1.embedded.forward_pass import ForwardPass

    make_folder("s")
    before, sender = ForwardPass.update_edges, int(place == "waiting")

    def work(rank: int) -> int:
        (tmp_path / f"{rank}.pid").write_text(str(os.getpid()))

        def told(self: Any, *args: Any) -> Any:
            if rank == sender:  # of the first process: the second one may be anywhere
                time.sleep(0.3)
                for other in (1 - rank, rank):
                    os.kill(int((tmp_path / f"{other}.pid").read_text()), signal.SIGTERM)
            return before(self, *args)

        ForwardPass.update_edges = told  # type: ignore[method-assign]
        words = ["refine", "--preprocessed", tmp_path / "data", "--stage1", tiny_stage1]
        return main([*map(str, words), "--stage1-only", "--output", str(tmp_path / "o")])

    assert in_ranks(2, work) == [143, 143]
    said = capfd.readouterr().err
    assert said.count("stopped") == 1 and "--skip-existing" in said and "Traceback" not in said
    assert not [p for p in (tmp_path / "o").rglob("*") if p.is_file()]


def test_split_atoms() -> None:
    assert split_atoms(np.array([10, 10, 10, 10]), 2) == (0, 2, 4)
    assert split_atoms(np.array([100, 1, 1]), 3) == (0, 1, 2, 3)
    assert split_atoms(np.array([1, 1, 100]), 3) == (0, 1, 2, 3)
    with pytest.raises(ConfigError, match="4 processes for 3 atoms"):
        split_atoms(np.array([1, 1, 1]), 4)


def test_one_process_sends_nothing() -> None:
    comm = Communicator()
    value = torch.ones(3)
    assert comm.gather_rows(value) is value and comm.sum(value) is value and comm.objects(1) == [1]
    same_input(comm, "x", {"y": 1})


def test_each_process_has_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which device a process of torchrun takes, on a machine that says it has two GPUs."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.distributed, "is_nccl_available", lambda: True)
    assert process_device("auto") == "auto"
    for name, value in (
        ("WORLD_SIZE", "4"),
        ("LOCAL_WORLD_SIZE", "2"),
        ("RANK", "3"),
        ("LOCAL_RANK", "1"),
    ):
        monkeypatch.setenv(name, value)
    assert [process_device(name) for name in ("auto", "cuda", "cuda:0", "cpu")] == [
        "cuda:1",
        "cuda:1",
        "cuda:0",
        "cpu",
    ]
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert process_device("cpu") == "cpu"
    with pytest.raises(ConfigError, match="4 processes share 2 GPU.*--nproc-per-node 2"):
        process_device("auto")
