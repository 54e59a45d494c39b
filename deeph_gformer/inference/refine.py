"""``deeph-gformer refine``: structure folders in, ``hamiltonians_pred.h5`` and ``info.json`` out."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from .. import fields as names
from ..analysis.guard import Guard
from ..analysis.metrics import (
    ERROR_WORDS,
    StructureErrors,
    gauge_errors,
    headline_errors,
    means,
    summarise,
)
from ..data.edges import EdgeMode
from ..data.gauge import common_blocks, gauge_products, spin_double, subtract_overlap
from ..data.graph import batch_graphs
from ..errors import ConfigError, DataError, GFormerError
from ..io import BlockMatrix
from ..io.files import read_json
from ..io.folder import Format, folder_format, matrix_path, read_matrix, remove_leftovers
from ..io.formats import formats
from ..io.gauge import OURS
from ..overlap import OverlapProvider
from ..pipeline import HamiltonianModel, Prediction
from ..prediction.identity import identify
from ..prediction.reading import Item
from ..runtime.communicator import Communicator
from ..runtime.plan import check_spill, fair_share
from ..runtime.processes import agree, agreed, same_input, same_structure, start_processes
from ..runtime.timer import Progress, Timer, reset_peak
from .output import make_overlap, output_folder, write_prediction
from .requirements import plan_structure
from .source import check_basis, find_sources, open_overlap, read_source, source_name, too_close

__all__ = ["RefineOptions", "refine", "refine_folder", "output_folder"]


#: Edges from which on a structure gets a progress bar of its own.
LARGE = 20_000


@dataclasses.dataclass(frozen=True)
class RefineOptions:
    """How to refine a structure; see :func:`refine` for what they mean."""

    edges: EdgeMode = "auto"
    hermitian: bool = True
    frames: int = 1
    form: str = "same"
    guard: bool = False
    overlap: OverlapProvider | None = None
    memory: int | None = None
    spill: str | os.PathLike[str] | None = None
    progress: bool = False
    overwrite: bool = False
    any_basis: bool = False
    batch_edges: int = 0

    def format(self, source: pathlib.Path) -> Format:
        """The format that is written."""
        own = folder_format(source) if source.is_dir() else None
        return own or "legacy" if self.form == "same" else self.form  # type: ignore[return-value]


def _passes(model: HamiltonianModel) -> int:
    """How often every edge is met, for the progress bar."""
    stage1 = (
        0
        if model.stage1 is None
        else 3 * len(model.stage1.edge_irreps)
        if model.stage1.stream_bytes(True)
        else 1
    )
    gformer = (
        0
        if model.bundle is None
        else len(model.bundle.model.groups) + (model.bundle.model.invariant is not None)
    )
    return stage1 + gformer + 1


def _read(
    model: HamiltonianModel,
    folder: pathlib.Path,
    target: pathlib.Path,
    options: RefineOptions,
    comm: Communicator,
    timer: Timer,
) -> Item:
    """Structure, graph and edges; overlaps that are made for it are written."""
    with agreed(comm):
        structure, graph, choice, overlap = read_source(
            folder,
            model,
            options.edges,
            options.overlap,
            target if comm.rank == 0 else None,
            timer,
        )
    with agreed(comm):
        same_structure(comm, structure, graph)
        if comm.rank == 0 and not options.any_basis:
            check_basis(model, folder, structure, choice.keys, overlap)
    if overlap is not None:
        make_overlap(
            overlap,
            structure,
            choice.keys,
            target,
            options.format(folder),
            timer,
            comm,
            options.overwrite,
        )
    return Item(structure, graph, choice)


def _predict(
    model: HamiltonianModel,
    items: Sequence[Item],
    options: RefineOptions,
    comm: Communicator,
    timer: Timer,
) -> Iterator[Prediction]:
    """Plan and run, one structure or several in one pass."""
    bar, execution = None, None
    with agreed(comm):
        graph = batch_graphs([item.graph for item in items])
        bar = Progress(
            items[0].structure.name,
            graph.edges // comm.size * _passes(model),
            options.progress and comm.rank == 0 and len(items) == 1 and graph.edges >= LARGE,
        )

        def tick(step: str, edges: int) -> None:
            bar.tick(step, edges)
            if options.spill is not None:
                timer.sample()

        execution = plan_structure(
            model,
            graph,
            limit=fair_share(model.device, options.memory),
            spill=options.spill,
            comm=comm,
            tick=tick,
        )
        execution.timer = timer
    try:
        yield from model.predict_graphs(items, execution, options.hermitian, options.frames)  # type: ignore[arg-type]
    finally:
        timer.spilled = execution.storage.spilled  # type: ignore[union-attr]
        bar.close()  # type: ignore[union-attr]


def refine_folder(
    model: HamiltonianModel,
    folder: pathlib.Path,
    output: str | os.PathLike[str] | None = None,
    options: RefineOptions | None = None,
    comm: Communicator | None = None,
) -> tuple[dict[str, Any], dict[str, StructureErrors] | None] | None:
    """Predict one structure, write it, and compare with ``hamiltonians.h5`` where that is there.

    Args:
        model: both stages.
        folder: a structure folder; or a structure file, with ``options.overlap``.
        output: see :func:`output_folder`.
        options: how.
        comm: processes that share the structure.

    Returns:
        A record of plain values (units in the key names), and the errors against DFT; None on all ranks but the first.
    """
    made = list(refine_folders(model, [folder], output, options, comm))
    return made[0] if made else None


def refine_folders(
    model: HamiltonianModel,
    folders: Iterable[pathlib.Path],
    output: str | os.PathLike[str] | None = None,
    options: RefineOptions | None = None,
    comm: Communicator | None = None,
) -> Iterator[tuple[dict[str, Any], dict[str, StructureErrors] | None]]:
    """:func:`refine_folder` of each; with ``options.batch_edges`` small ones run together, as one graph of about so many edges.

    Args:
        model, output, options, comm: see :func:`refine_folder`.
        folders: their order is kept. One that cannot be read ends the run after those before it are written.
    """
    options, comm = options or RefineOptions(), comm or Communicator()
    waiting: list[tuple[pathlib.Path, Item]] = []
    edges, timer, start = 0, Timer(model.device), time.perf_counter()

    def run() -> Iterator[tuple[dict[str, Any], dict[str, StructureErrors] | None]]:
        if waiting:
            yield from _refine_batch(model, waiting, output, options, comm, timer, start)

    reset_peak(model.device)
    for folder in folders:
        target = output_folder(folder, output)
        if comm.rank == 0:
            remove_leftovers(target)
        try:
            item = _read(model, folder, target, options, comm, timer)
        except GFormerError:
            yield from run()
            raise
        waiting.append((folder, item))
        edges += item.graph.edges
        if edges >= options.batch_edges or comm.size > 1:
            yield from run()
            waiting, edges, timer, start = [], 0, Timer(model.device), time.perf_counter()
            reset_peak(model.device)
    yield from run()


def _refine_batch(
    model: HamiltonianModel,
    batch: Sequence[tuple[pathlib.Path, Item]],
    output: str | os.PathLike[str] | None,
    options: RefineOptions,
    comm: Communicator,
    timer: Timer,
    start: float,
) -> Iterator[tuple[dict[str, Any], dict[str, StructureErrors] | None]]:
    """Run structures that were read; times of a batch are shared out by edges."""
    watch = Guard(model) if options.guard or Guard.table(model.bundle) is not None else None
    made = []
    with watch.watching() if watch is not None else contextlib.nullcontext():
        predictions = _predict(model, [item for _, item in batch], options, comm, timer)
        for prediction, (folder, _) in zip(predictions, batch, strict=True):
            result = _write(model, folder, output, options, comm, timer, watch, prediction)
            if result is not None:
                made.append(result)
    seconds, table = time.perf_counter() - start, timer.table()
    edges = sum(item.graph.edges for _, item in batch)
    for record, errors in made:
        share = record["edges"] / edges if len(batch) > 1 else 1.0
        record.update(table, seconds=seconds * share, structures_at_once=len(batch))
        for steps in ("step_seconds", "step_processor_seconds"):
            record[steps] = {name: value * share for name, value in table[steps].items()}
        yield record, errors


def _write(
    model: HamiltonianModel,
    folder: pathlib.Path,
    output: str | os.PathLike[str] | None,
    options: RefineOptions,
    comm: Communicator,
    timer: Timer,
    watch: Guard | None,
    prediction: Prediction,
) -> tuple[dict[str, Any], dict[str, StructureErrors] | None] | None:
    """Write a prediction and compare it; the record without times."""
    target, form = output_folder(folder, output), options.format(folder)
    verdict = watch.judge(prediction.correction) if watch is not None else None
    guarded = comm.objects(bool(options.guard and verdict is not None and verdict.out_of_range))[0]
    if guarded:
        prediction = prediction._replace(hamiltonian=prediction.stage1)
    timer.start("file")
    write_prediction(target, prediction, model, form, output is not None, guarded, comm, folder)
    timer.start("")
    has_truth = comm.objects(folder.is_dir() and matrix_path(folder, "hamiltonian").is_file())[0]
    whole = _joined(prediction, comm) if has_truth else None
    with agreed(comm):
        overlap = _overlap(folder, target, prediction, has_truth)
    size = _correction(prediction, overlap, comm)
    if comm.rank:
        return None
    record: dict[str, Any] = {
        "name": source_name(folder),
        "folder": str(folder),
        "output": str(target),
        "atoms": len(prediction.structure),
        "edges": len(prediction.edges.keys),
        "edges_from": prediction.edges.source,
        "hamiltonian_only_edges": prediction.edges.hamiltonian_only,
        "mean_correction_meV": size * 1e3,
        "spin_from": "model"
        if folder.is_dir() and not (folder / names.INFO_FILE).is_file()
        else names.INFO_FILE,
        "processes": comm.size,
    }
    if verdict is not None:
        record.update(
            guard_correction_meV=prediction.correction * 1e3,
            correction_z=verdict.correction_z,
            features_z=verdict.features_z,
            guarded=guarded,
            guard_warning=verdict.warning,
        )
    close = too_close(model, prediction.structure, prediction.edges.keys)
    record["warnings"] = [text for text in (close, prediction.edges.note) if text]
    kinds, truth = None, None
    if has_truth:
        try:
            truth = read_matrix(
                folder, "hamiltonian", prediction.structure, model.targets.basis.spinful
            )
        except DataError as error:
            record["warnings"].append(f"no errors against DFT: {error}")
    if truth is not None and whole is not None:
        kinds = gauge_errors(
            record["name"],
            truth,
            *whole,
            overlap,
            model.targets,
            prediction.graph.node_type.numpy(),
        )
        error = kinds[headline_errors([kinds])]
        record.update(
            means([kinds]),
            errors=ERROR_WORDS[headline_errors([kinds])],
            stage1_mae_meV=error.stage1_meV,
            refined_mae_meV=error.refined_meV,
            stage1_max_meV=error.stage1_max_meV,
            refined_max_meV=error.refined_max_meV,
        )
    return record, kinds


def _overlap(
    folder: pathlib.Path,
    target: pathlib.Path,
    prediction: Prediction,
    has_truth: bool,
) -> BlockMatrix | None:
    """S of a structure, where it is there and of use: errors against DFT, or a small structure."""
    if not has_truth and len(prediction.edges.keys) > LARGE:
        return None
    for place in (folder, target):
        if place.is_dir() and folder_format(place) is not None:
            if matrix_path(place, "overlap").is_file():
                return read_matrix(place, "overlap", prediction.structure)
    return None


def _correction(prediction: Prediction, overlap: BlockMatrix | None, comm: Communicator) -> float:
    """Mean |ΔH| over the elements of all blocks, without the part that is a shift of energy, eV."""
    change = BlockMatrix(
        prediction.hamiltonian.keys,
        prediction.hamiltonian.shapes,
        prediction.hamiltonian.values - prediction.stage1.values,
    )
    spinful = bool(prediction.structure.spinful)
    if overlap is not None:
        overlap = common_blocks(overlap, change)
        parts = comm.objects(gauge_products(change, overlap, spinful))
        total, norm = np.sum(parts, axis=0)
        doubled = spin_double(overlap) if spinful else overlap
        change = subtract_overlap(change, doubled, total / norm if norm else 0.0)
    sums = comm.objects((float(np.abs(change.values).sum()), len(change.values)))
    total, count = np.sum(sums, axis=0)
    return float(total / max(count, 1))


def _joined(prediction: Prediction, comm: Communicator) -> tuple[BlockMatrix, BlockMatrix] | None:
    """Stage 1's and the refined Hamiltonian of all edges; None on all ranks but the first."""
    if comm.size == 1:
        return prediction.stage1, prediction.hamiltonian
    keys, counts = prediction.edges.keys, prediction.structure.orbital_counts
    shapes = counts[keys[:, 3:]] * (2 if prediction.structure.spinful else 1)
    parts = [
        comm.to_first(torch.from_numpy(m.values), int(shapes.prod(axis=1).sum()))
        for m in (prediction.stage1, prediction.hamiltonian)
    ]
    if parts[0] is None or parts[1] is None:
        return None
    return BlockMatrix(keys, shapes, parts[0].numpy()), BlockMatrix(keys, shapes, parts[1].numpy())


def refine(
    preprocessed: str | os.PathLike[str],
    model: HamiltonianModel,
    output: str | os.PathLike[str] | None = None,
    *,
    edges: EdgeMode = "auto",
    hermitian: bool = True,
    frames: int = 1,
    form: str = "same",
    existing: str = "error",
    progress: bool = False,
    guard: bool = False,
    overlap: str
    | os.PathLike[str]
    | Sequence[str | os.PathLike[str]]
    | OverlapProvider
    | None = None,
    memory: int | None = None,
    spill: str | os.PathLike[str] | None = None,
    any_basis: bool = False,
    batch_edges: int = 0,
) -> dict[str, Any]:
    """Refine every structure at or below a folder: the drop-in replacement for DeepH-E3's inference step.

    Under ``torchrun`` the processes share each structure, or, where there are at least as many structures as processes, take them in turns.

    Args:
        preprocessed: walked for structure folders, as DeepH-E3 does; or a structure file (POSCAR, CIF, ...), which needs ``output``.
        model: see :func:`deeph_gformer.load`.
        output: ``<output>/<structure name>/hamiltonians_pred.h5``; None writes beside the input.
        edges: see :func:`deeph_gformer.data.edges.select_edges`. hermitian: write ½(H + H†). frames: rotated frames to average.
        form: ``legacy``, ``dock`` or ``same``. existing: ``error``, ``overwrite`` or ``skip`` where a prediction is there already.
        progress: a progress bar on standard error. guard: keep stage 1 for structures whose correction is out of range.
        overlap: edges and S of structures without overlaps.h5, which is then written (see :func:`deeph_gformer.overlap.load`); default: the bundle's table.
        any_basis: do not compare S with that of the training set.
        memory: bytes that a process may take (on a GPU: of its memory); None: nine tenths of what is free. spill: folder for edge features that do not fit.
        batch_edges: small structures run together, about so many edges at once; 0: one by one.

    Returns:
        ``{"structures": [record, ...], "total": {...}, "skipped": [names], "without_edges": [folders]}``; plain values, units in key names.
        Under ``torchrun`` complete on the first process only. ``warnings`` of a record are sentences for people.

    Raises:
        DataError: no structure is found, a prediction exists already (``existing="error"``), an output folder holds another structure, or a
            structure is damaged (those before it are written).
        ModelError: a structure does not fit the model. ConfigError: memory is too small (the message names the minimum), or ``spill`` cannot be used.
    """
    if existing not in ("error", "overwrite", "skip") or form not in (*formats(), "same"):
        raise ConfigError(
            f"existing = {existing!r}, form = {form!r}: choose error, overwrite or skip, and "
            f"{', '.join(formats())} or same"
        )
    if batch_edges < 0:
        raise ConfigError(f"--batch-edges {batch_edges}: give the edges of a batch, or 0")
    comm = start_processes()
    with agreed(comm):
        provider = open_overlap(overlap, model)
        folders, without = find_sources(preprocessed, model, provider, edges, output)
        options = RefineOptions(
            edges,
            hermitian,
            frames,
            form,
            guard,
            provider,
            memory,
            spill,
            progress,
            existing == "overwrite",
            any_basis,
            batch_edges,
        )
        done, todo = _share_out(folders, output, options, existing)
        if spill is not None:
            check_spill(spill)
    first = (
        "" if model.stage1 is None else identify(model.stage1).fingerprint if comm.size > 1 else ""
    )
    same_input(comm, "refine", {"structures": [source_name(f) for f in todo], "stage 1": first})
    if comm.size > 1 and len(todo) >= comm.size and _fits(model, todo, options, comm):
        results = _each_its_own(model, todo, output, options, comm)
    else:
        each = _bar(todo, progress and comm.rank == 0)
        results = list(refine_folders(model, each, output, options, comm))
    agree(comm, None)
    records, errors = (
        [record for record, _ in results],
        [error for _, error in results if error is not None],
    )
    total: dict[str, Any] = {
        "structures": len(records),
        "seconds": sum(r["seconds"] for r in records),
        "edges": sum(r["edges"] for r in records),
    }
    if errors:
        kind = headline_errors(errors)
        total["errors"] = {
            **summarise([e[kind] for e in errors], model.targets),
            **means(errors),
            "errors": ERROR_WORDS[kind],
        }
    return {
        "structures": records,
        "total": total,
        "skipped": [source_name(f) for f in done],
        "without_edges": [str(f) for f in without],
    }


def _share_out(
    folders: list[pathlib.Path],
    output: str | os.PathLike[str] | None,
    options: RefineOptions,
    existing: str,
) -> tuple[list[pathlib.Path], list[pathlib.Path]]:
    """Structures that have a prediction already (and may keep it), and those to do."""
    done, todo = [], []
    for folder in folders:
        path = matrix_path(output_folder(folder, output), "prediction", options.format(folder))
        if path.exists() and existing == "error":
            raise DataError(f"{path}: is there already; choose --overwrite or --skip-existing")
        whole = path.exists() and (output is None or _is_whole(path.parent))
        (done if whole and existing == "skip" else todo).append(folder)
    return done, todo


def _is_whole(target: pathlib.Path) -> bool:
    """Whether an output folder has, besides its prediction, the structure and where it comes from."""
    if folder_format(target) is None:
        return False
    try:
        info = read_json(target / names.INFO_FILE)
    except DataError:
        return False
    return isinstance(info, dict) and isinstance(info.get(OURS), dict)


def _fits(
    model: HamiltonianModel, todo: list[pathlib.Path], options: RefineOptions, comm: Communicator
) -> bool:
    """Whether the largest structure fits into one process (by the size of its files where there are edges, else it is tried)."""
    fits = True
    largest = max(
        todo,
        key=lambda f: (
            sum(p.stat().st_size for p in f.iterdir() if p.is_file())
            if f.is_dir()
            else f.stat().st_size
        ),
    )
    try:
        graph = read_source(largest, model, options.edges, options.overlap, None, Timer())[1]
        plan_structure(
            model, graph, limit=fair_share(model.device, options.memory), spill=options.spill
        )
    except ConfigError:
        fits = False
    except GFormerError:
        fits = True  # told when its turn comes
    return all(comm.objects(fits))


def _each_its_own(
    model: HamiltonianModel,
    todo: list[pathlib.Path],
    output: str | os.PathLike[str] | None,
    options: RefineOptions,
    comm: Communicator,
) -> list[tuple[dict[str, Any], dict[str, StructureErrors] | None]]:
    """Structures in turns; every process gets all results."""
    mine, error = [], None
    own = dataclasses.replace(
        options, memory=fair_share(model.device, options.memory), progress=False
    )
    try:
        each = _bar(todo[comm.rank :: comm.size], options.progress and comm.rank == 0)
        for made in refine_folders(model, each, output, own):
            mine.append(made)
    except GFormerError as raised:
        error = raised
    agree(comm, error)
    by_name = {
        record["name"]: (record, errors) for part in comm.objects(mine) for record, errors in part
    }
    return [by_name[source_name(folder)] for folder in todo]


def _bar(folders: list[pathlib.Path], progress: bool) -> Iterator[pathlib.Path]:
    if not progress or len(folders) < 2:
        yield from folders
        return
    from tqdm import tqdm

    yield from tqdm(folders, desc="refine", unit="structure", dynamic_ncols=True, leave=False)
