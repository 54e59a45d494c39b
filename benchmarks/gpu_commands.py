"""Parts of ``gpu.py`` that run commands and tests, and what does not belong to a network."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from typing import Any

import torch
from gpu_networks import prepare
from gpu_parts import MODELS, ROOT, Part, precision


def _cells(part: Part, pairs: list[str], folder: pathlib.Path) -> list[pathlib.Path]:
    import large

    return large.build(pairs, folder)


def _refine(part: Part, cells: list[pathlib.Path], device: str, **label: Any) -> None:
    from deeph_gformer.cli import main

    model = MODELS / "bilayer_graphene"
    for cell in cells:
        if part.left() < 5:
            return
        record = cell.with_suffix(".json")
        command = ["refine", "--preprocessed", str(cell), "--overlap", str(part.overlap)]
        command += ["--stage1", str(model / "stage1"), "--model", str(model / "gformer")]
        command += ["--output", str(cell.parent / "out"), "--overwrite", "--json", str(record)]
        code = main([*command, "--device", device])
        if code:
            part.row(**label, name=cell.stem, error=f"exit code {code}")
            return
        found = json.loads(record.read_text())["structures"][0]
        part.row(
            **label,
            atoms=found["atoms"],
            edges=found["edges"],
            seconds=found["seconds"],
            **{f"{name} s": value for name, value in found["step_seconds"].items()},
            peak_GB=found["peak_memory_bytes"] / 1e9,
            peak_gpu_GB=found.get("peak_gpu_memory_bytes", 0) / 1e9,
        )


def refine(part: Part) -> None:
    """The command, end to end: overlaps from a table, both stages, both files.

    The first cell is there to warm up.
    """
    with tempfile.TemporaryDirectory() as result:
        pairs = ["1,2"] * 2 if part.rehearse else ["2,3", "10,11", "30,31", "30,31"]
        cells = _cells(part, list(dict.fromkeys(pairs)), pathlib.Path(result))
        by_name = dict(zip(dict.fromkeys(pairs), cells, strict=True))
        for number, pair in enumerate(pairs):
            kind = "tf32" if number == 3 else "float32"
            with precision(kind, part.device):
                _refine(part, [by_name[pair]], part.device.type, type=kind)


def many(part: Part) -> None:
    """Small cells through the command, one by one and together."""
    from deeph_gformer.cli import main

    model = MODELS / "bilayer_graphene"
    with tempfile.TemporaryDirectory() as result:
        folder = pathlib.Path(result)
        text = _cells(part, ["1,2"], folder / "one")[0].read_text()
        (folder / "all").mkdir()
        count = 3 if part.rehearse else 32
        for number in range(count):
            (folder / "all" / f"t{number}.vasp").write_text(text)
        for batch in (0, 0, 3000 if part.rehearse else 100000):  # the first is there to warm up
            if part.left() < 5:
                return
            record = folder / "record.json"
            command = ["refine", "--preprocessed", str(folder / "all")]
            command += ["--overlap", str(part.overlap), "--device", part.device.type]
            command += ["--stage1", str(model / "stage1"), "--model", str(model / "gformer")]
            command += ["--output", str(folder / "out"), "--overwrite", "--json", str(record)]
            code = main([*command, "--batch-edges", str(batch)])
            if code:
                part.row(batch_edges=batch, error=f"exit code {code}")
                return
            total = json.loads(record.read_text())["total"]
            part.row(
                batch_edges=batch,
                structures=count,
                edges=total["edges"],
                structures_per_s=count / total["seconds"],
            )


def tests(part: Part) -> None:
    """``tests/test_gpu.py`` on the device."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-n"]
    command += ["2" if part.rehearse else "6", "tests/test_gpu.py"]
    command += ["-k", "dense or losses"] if part.rehearse else []
    done = subprocess.run(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=max(1.0, part.left() - 2),
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    pathlib.Path(part.text).write_text(done.stdout[-200000:], encoding="utf-8")
    part.row(code=done.returncode, summary=done.stdout.strip().splitlines()[-1])


def epochs(part: Part) -> None:
    """Some epochs of both trainings on the shipped structures, through the commands."""
    from deeph_gformer.cli import main

    graphene = ROOT / "examples" / "graphene"
    with tempfile.TemporaryDirectory() as result:
        for verb, extra in (
            ("train-stage1", []),
            ("train", ["--stage1", str(graphene / "stage1")]),
        ):
            for kind in ("model", "bf16-mixed"):
                settings = pathlib.Path(result) / f"{verb}-{kind}.yaml"
                count = 2 if part.rehearse else 20
                settings.write_text(
                    "data: {train_ratio: 0.34, val_ratio: 0.33}\n"
                    f"training: "
                    f"{{epochs: {count}, precision: {kind}, device: {part.device.type}}}\n"
                )
                start = time.perf_counter()
                output = pathlib.Path(result) / f"{verb}-{kind}"
                code = main(
                    [verb, str(settings), "--preprocessed", str(graphene / "structures")]
                    + [*extra, "--output", str(output)]
                )
                part.row(
                    verb=verb,
                    precision=kind,
                    code=code,
                    epochs=count,
                    seconds_with_start=time.perf_counter() - start,
                )


def bands(part: Part) -> None:
    """All eigenvalues of dense generalized problems, against LAPACK."""
    import numpy as np

    from deeph_gformer.bands.solve import solve_dense, solve_torch

    generator = np.random.default_rng(0)
    for size in (50, 100) if part.rehearse else (988, 2000, 4732):
        if part.left() < 8:
            return
        a = generator.normal(size=(size, size)) + 1j * generator.normal(size=(size, size))
        b = generator.normal(size=(size, size)) + 1j * generator.normal(size=(size, size))
        h, s = a + a.conj().T, b @ b.conj().T / size + np.eye(size)
        device = str(part.device)
        seconds = part.seconds(lambda h=h, s=s, d=device: solve_torch(h, s, d), 0.1)
        values: dict[str, Any] = {"orbitals": size, "seconds": seconds}
        if size < 2000:
            start = time.perf_counter()
            expected = solve_dense(h, s).energies
            values["LAPACK_seconds"] = time.perf_counter() - start
            values["difference_eV"] = float(
                np.abs(solve_torch(h, s, device).energies - expected).max()
            )
        part.row(**values)


def nccl(part: Part) -> None:
    """The collectives that ``refine`` uses, with one process (NCCL; gloo at a rehearsal)."""
    import torch.distributed as dist

    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="29513", RANK="0", WORLD_SIZE="1")
    backend = "nccl" if part.device.type == "cuda" else "gloo"
    dist.init_process_group(backend, rank=0, world_size=1)
    rows = 1000 if part.rehearse else 1_000_000
    value = torch.randn(rows, 64, device=part.device)
    gathered = [torch.empty_like(value)]
    received = torch.empty_like(value)
    for name, action in (
        ("all_reduce", lambda: dist.all_reduce(value)),
        ("all_gather", lambda: dist.all_gather(gathered, value)),
        ("all_to_all_single", lambda: dist.all_to_all_single(received, value)),
    ):
        part.attempt(
            {"backend": backend, "collective": name},
            lambda a=action: {"GB_per_s": value.nbytes / part.seconds(a, 0.2) / 1e9},
        )
    objects: list[Any] = [None]
    dist.all_gather_object(objects, {"a": 1})
    part.row(backend=backend, collective="all_gather_object", equal=objects == [{"a": 1}])
    dist.destroy_process_group()


def cpu(part: Part) -> None:
    """The same machine's processor beside it, with all its cores."""
    part.device = torch.device("cpu")
    torch.set_num_threads(min(16, os.cpu_count() or 1))
    for name, edges in (("default", 1000), ("default", 20000), ("bi2te3_soc", 1000)):
        net, engine, graph = prepare(part, name, 100 if part.rehearse else edges)
        for mode in ("inference", "training"):

            def once(
                mode: str = mode, net: Any = net, engine: Any = engine, g: Any = graph
            ) -> None:
                if mode == "inference":
                    engine(g)
                else:
                    net(g)[0].square().mean().backward()

            part.attempt(
                {"net": name, "edges": graph.edges, "mode": mode},
                lambda once=once, g=graph: {"edges_per_s": g.edges / part.seconds(once, 1.0)},
            )
    with tempfile.TemporaryDirectory() as result:
        pairs = ["1,2"] if part.rehearse else ["2,3", "10,11"]
        _refine(part, _cells(part, pairs, pathlib.Path(result)), "cpu", type="float32, CPU")
