"""Structures of ``refine``: each is read, predicted, written, and compared with DFT."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from .. import fields as names
from ..analysis.metrics import (
    StructureErrors,
    gauge_errors,
    headline_errors,
    means,
)
from ..data.edges import EdgeMode
from ..data.graph import batch_graphs
from ..errors import DataError, GFormerError
from ..io.blocks import BlockMatrix
from ..io.folder import (
    Format,
    folder_format,
    has_matrix,
    read_matrix,
    remove_leftovers,
)
from ..overlap import OverlapProvider
from ..pipeline import HamiltonianModel, Prediction
from ..prediction.checks import check_item
from ..prediction.reading import Item
from ..results.worse import ERROR_WORDS
from ..runtime.communicator import Communicator
from ..runtime.plan import fair_share
from ..runtime.processes import agreed
from ..runtime.timer import Timer, reset_peak
from ..terminal import Progress
from .comparison import LARGE, joined, mean_correction, stored_overlap, warn_asymmetric
from .output import make_overlap, output_folder, write_prediction
from .requirements import plan_structure
from .source import read_source, source_name

__all__ = ["RefineOptions", "refine_folders"]


class LoadedStructure(NamedTuple):
    """A structure that was read.

    Attributes:
        folder: its source.
        item: what the networks see.
        overlap: S of a small one, where it was read or made; None: it is read where it is needed.
        remarks: what is said of it, see :func:`.prediction.checks.check_item`.
    """

    folder: pathlib.Path
    item: Item
    overlap: BlockMatrix | None
    remarks: tuple[str, ...]


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
    count: bool = True

    def format(self, source: pathlib.Path) -> Format:
        """The format that is written."""
        own = folder_format(source) if source.is_dir() else None
        return own or "legacy" if self.form == "same" else self.form


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
) -> LoadedStructure:
    """Structure, graph, edges and S; overlaps that are made for it are written."""
    target_here = target if comm.rank == 0 else None
    item = read_source(folder, model, options.edges, options.overlap, target_here, timer, comm)
    matrix, remarks = check_item(model, item, options.any_basis)
    if item.overlap is not None:
        matrix = make_overlap(
            item.overlap,
            item.structure,
            item.edges.keys,
            target,
            options.format(folder),
            timer,
            item.comm,
            options.overwrite,
        )
    small = comm.size == 1 and len(item.edges.keys) <= LARGE
    return LoadedStructure(folder, item, matrix if small else None, remarks)


def _predict(
    model: HamiltonianModel,
    items: Sequence[Item],
    options: RefineOptions,
    comm: Communicator,
    timer: Timer,
) -> Iterator[Prediction]:
    """Plan and run, one structure or several in one pass."""
    bar, execution = None, None
    if len(items) == 1:
        comm = items[0].comm
    with agreed(comm):
        graph = batch_graphs([item.graph for item in items])
        bar = Progress(
            items[0].structure.name,
            graph.edges * _passes(model),
            options.progress
            and comm.rank == 0
            and len(items) == 1
            and items[0].total_edges >= LARGE,
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
        yield from model.predict_graphs(items, execution, options.hermitian, options.frames)
    finally:
        timer.spilled = execution.storage.spilled
        bar.close()


def refine_folders(
    model: HamiltonianModel,
    folders: Iterable[pathlib.Path],
    output: str | os.PathLike[str] | None = None,
    options: RefineOptions | None = None,
    comm: Communicator | None = None,
) -> Iterator[tuple[dict[str, Any], dict[str, StructureErrors] | None]]:
    """Predict each structure, write it, and compare with ``hamiltonians.h5`` where that is there.

    With ``options.batch_edges`` small ones run together, as one graph of about so many edges.

    Args:
        model: both stages.
        folders: structure folders, or structure files; their order is kept. One that cannot be read
            ends the run after those before it are written.
        output: see :func:`output_folder`.
        options: how.
        comm: processes that share each structure.

    Yields:
        On the first process: a record of plain values (units in the key names), and the errors
        against DFT.
    """
    options, comm = options or RefineOptions(), comm or Communicator()
    waiting: list[LoadedStructure] = []
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
            waiting.append(_read(model, folder, target, options, comm, timer))
        except GFormerError:
            yield from run()
            raise
        edges += waiting[-1].item.graph.edges
        if edges >= options.batch_edges or comm.size > 1:
            yield from run()
            waiting, edges, timer, start = [], 0, Timer(model.device), time.perf_counter()
            reset_peak(model.device)
    yield from run()


def _refine_batch(
    model: HamiltonianModel,
    batch: Sequence[LoadedStructure],
    output: str | os.PathLike[str] | None,
    options: RefineOptions,
    comm: Communicator,
    timer: Timer,
    start: float,
) -> Iterator[tuple[dict[str, Any], dict[str, StructureErrors] | None]]:
    """Run structures that were read; times of a batch are shared out by edges."""
    outcome = []
    predictions = _predict(model, [each.item for each in batch], options, comm, timer)
    for prediction, each in zip(predictions, batch, strict=True):
        result = _write(model, each, output, options, timer, prediction)
        if result is not None:
            outcome.append(result)
    seconds, table = time.perf_counter() - start, timer.table()
    edges = sum(each.item.total_edges for each in batch)
    for record, errors in outcome:
        share = record["edges"] / edges if len(batch) > 1 else 1.0
        record.update(table, seconds=seconds * share, structures_at_once=len(batch))
        for steps in ("step_seconds", "step_processor_seconds"):
            record[steps] = {name: value * share for name, value in table[steps].items()}
        yield record, errors


def _write(
    model: HamiltonianModel,
    each: LoadedStructure,
    output: str | os.PathLike[str] | None,
    options: RefineOptions,
    timer: Timer,
    prediction: Prediction,
) -> tuple[dict[str, Any], dict[str, StructureErrors] | None] | None:
    """Write a prediction and compare it; the record without times."""
    folder, comm = each.folder, each.item.comm
    target, form = output_folder(folder, output), options.format(folder)
    verdict = prediction.judgement
    guarded = comm.objects(bool(options.guard and verdict is not None and verdict.out_of_range))[0]
    if guarded:
        prediction = prediction._replace(hamiltonian=prediction.stage1)
    has_truth = comm.objects(folder.is_dir() and has_matrix(folder, "hamiltonian"))[0]
    overlap = each.overlap
    with agreed(comm):  # a damaged S is told before anything is written
        if overlap is None:
            wanted = has_truth or each.item.total_edges <= LARGE
            overlap = stored_overlap(folder, target, prediction) if wanted else None
    timer.start("file")
    complete = output is not None
    write_prediction(
        target,
        prediction,
        model,
        form,
        complete,
        guarded,
        comm,
        folder,
        each.overlap,
        options.count,
    )
    timer.start("")
    whole = joined(prediction, comm) if has_truth else None
    warn_asymmetric(overlap, folder)
    size = mean_correction(prediction, overlap, comm)
    if comm.rank:
        return None
    record: dict[str, Any] = {
        "name": source_name(folder),
        "folder": str(folder),
        "output": str(target),
        "atoms": len(prediction.structure),
        "edges": each.item.total_edges,
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
            verdict.to_json(),
            guard_correction_meV=prediction.correction * 1e3,
            guarded=guarded,
        )
    record["warnings"] = list(each.remarks)
    kinds = None
    if whole is not None:
        kinds = _errors(model, folder, prediction, whole, overlap, record)
    return record, kinds


def _errors(
    model: HamiltonianModel,
    folder: pathlib.Path,
    prediction: Prediction,
    whole: tuple[BlockMatrix, BlockMatrix],
    overlap: BlockMatrix | None,
    record: dict[str, Any],
) -> dict[str, StructureErrors] | None:
    """Compare a prediction with DFT and put it into the record; None, and a warning there, where
    DFT's H cannot be read.

    Args:
        model: gives the target blocks.
        folder: of DFT.
        prediction: gives the structure.
        whole: H of stage 1 and of both stages, from all processes.
        overlap: S; None: errors with the zero of energy only.
        record: of the structure.
    """
    structure, types = prediction.structure, prediction.graph.node_type.numpy()
    try:
        truth = read_matrix(folder, "hamiltonian", structure, model.targets.basis.spinful)
    except DataError as error:
        record["warnings"].append(f"no errors against DFT: {error}")
        return None
    kinds = gauge_errors(record["name"], truth, *whole, overlap, model.targets, types)
    headline = kinds[headline_errors([kinds])]
    record.update(
        means([kinds]),
        errors=ERROR_WORDS[headline_errors([kinds])],
        stage1_mae_meV=headline.stage1_meV,
        refined_mae_meV=headline.refined_meV,
        stage1_max_meV=headline.stage1_max_meV,
        refined_max_meV=headline.refined_max_meV,
    )
    return kinds
