"""``deeph-gformer refine``: structure folders in, ``hamiltonians_pred.h5`` and ``info.json`` out.

:func:`refine` is the command; :mod:`.structures` does some structures of it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
from collections.abc import Iterator
from typing import Any

from .. import fields as names
from ..analysis.metrics import (
    StructureErrors,
    headline_errors,
    means,
    summarise,
)
from ..data.edges import EdgeMode
from ..errors import ConfigError, DataError, GFormerError
from ..io.files import read_json
from ..io.folder import folder_format, matrix_path
from ..io.formats import formats
from ..io.gauge import OURS
from ..pipeline import HamiltonianModel
from ..prediction.guard import Guard
from ..prediction.identity import identify
from ..prediction.reading import OverlapSource, open_overlap
from ..results import Refinement
from ..results.worse import ERROR_WORDS
from ..runtime.communicator import Communicator
from ..runtime.plan import check_spill, fair_share
from ..runtime.processes import agree, agreed, same_input, start_processes
from ..runtime.timer import Timer
from ..terminal import Progress
from .output import output_folder
from .requirements import Size, plan_structure
from .source import find_sources, read_source, source_name
from .structures import RefineOptions, refine_folders

__all__ = ["RefineOptions", "refine", "output_folder"]


def refine(
    preprocessed: str | os.PathLike[str],
    model: HamiltonianModel | None = None,
    output: str | os.PathLike[str] | None = None,
    *,
    edges: EdgeMode = "auto",
    hermitian: bool = True,
    frames: int = 1,
    form: str = "same",
    existing: str = "error",
    progress: bool = False,
    guard: bool = False,
    overlap: OverlapSource | None = None,
    memory: int | None = None,
    spill: str | os.PathLike[str] | None = None,
    any_basis: bool = False,
    batch_edges: int = 0,
    count: bool = True,
) -> Refinement:
    """Refine every structure at or below a folder: the drop-in replacement for DeepH-E3's inference
    step.

    Under ``torchrun`` the processes share each structure, or, where there are at least as many
    structures as processes, take them in turns.

    Args:
        preprocessed: walked for structure folders, as DeepH-E3 does; or a structure file (POSCAR,
            CIF, ...), which needs ``output``.
        model: see :func:`deeph_gformer.load`.
        output: ``<output>/<structure name>/hamiltonians_pred.h5``; None writes beside the input.
        edges: see :func:`deeph_gformer.data.edges.select_edges`.
        hermitian: write ½(H + H†).
        frames: rotated frames to average.
        form: ``legacy``, ``dock`` or ``same``.
        existing: ``error``, ``overwrite`` or ``skip`` where a prediction is there already.
        progress: a progress bar on standard error.
        guard: keep stage 1 for structures whose correction is out of range.
        overlap: edges and S of structures without overlaps.h5, which is then written (see
            :func:`deeph_gformer.overlap.load`); default: the bundle's table.
        any_basis: only warn of an S that is not in the basis of the training set.
        memory: bytes that a process may take (on a GPU: of its memory); None: nine tenths of what
            is free.
        spill: folder for edge features that do not fit.
        batch_edges: small structures run together, about so many edges at once; 0: one by one.
        count: count electrons on the bands of small structures, for a Fermi level in info.json.

    Returns:
        Plain values, units in key names: ``structures`` (a record each), ``total``, ``skipped``
        (names), ``without_edges`` (folders). Under ``torchrun`` complete on the first process only.
        ``warnings`` of a record are sentences for people.

    Raises:
        DataError: no structure is found, a prediction exists already (``existing="error"``), an
            output folder holds another structure, or a structure is damaged (those before it are
            written).
        ModelError: a structure does not fit the model.
        ConfigError: memory is too small (the message names the minimum), or ``spill`` cannot be
            used.
    """
    _check_arguments(preprocessed, existing, form, batch_edges)
    if not isinstance(model, HamiltonianModel):
        raise ConfigError(
            f"refine takes a model, not {type(model).__name__}: deeph_gformer.load(BUNDLE, "
            "stage1=MODEL_DIR) opens one"
        )
    comm = start_processes()
    with agreed(comm):
        if guard:
            Guard(model)  # says what is missing
        provider = open_overlap(overlap, model)
        folders, without = find_sources(preprocessed, model, provider, edges, output)
        options = RefineOptions(
            edges=edges,
            hermitian=hermitian,
            frames=frames,
            form=form,
            guard=guard,
            overlap=provider,
            memory=memory,
            spill=spill,
            progress=progress,
            overwrite=existing == "overwrite",
            any_basis=any_basis,
            batch_edges=batch_edges,
            count=count,
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
    records = [record for record, _ in results]
    total = _total(model, records, [error for _, error in results if error is not None])
    return Refinement(records, total, [source_name(f) for f in done], [str(f) for f in without])


def _check_arguments(preprocessed: object, existing: str, form: str, batch_edges: int) -> None:
    """Refuse what is of another kind, or none of the choices; see :func:`refine`.

    Raises:
        ConfigError: says what is wanted.
    """
    if not isinstance(preprocessed, (str, os.PathLike)):
        raise ConfigError(
            f"refine takes a folder or a structure file and writes files, not "
            f"{type(preprocessed).__name__}; for structures in memory use model.predict(atoms), or "
            "model.predict([atoms, ...])"
        )
    if existing not in ("error", "overwrite", "skip"):
        raise ConfigError(f"existing = {existing!r}: choose error, overwrite or skip")
    if form not in (*formats(), "same"):
        raise ConfigError(f"--format {form}: there are {', '.join(formats())} and same")
    if batch_edges < 0:
        raise ConfigError(f"--batch-edges {batch_edges}: give the edges of a batch, or 0")


def _total(
    model: HamiltonianModel, records: list[dict[str, Any]], errors: list[dict[str, StructureErrors]]
) -> dict[str, Any]:
    """Sums over structures, and errors where DFT's H is known.

    Args:
        model: of the targets.
        records: of all structures.
        errors: of those with DFT's H.
    """
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
    return total


def _share_out(
    folders: list[pathlib.Path],
    output: str | os.PathLike[str] | None,
    options: RefineOptions,
    existing: str,
) -> tuple[list[pathlib.Path], list[pathlib.Path]]:
    """Structures that have a prediction already (and may keep it), and those to do."""
    done: list[pathlib.Path] = []
    todo: list[pathlib.Path] = []
    for folder in folders:
        path = matrix_path(output_folder(folder, output), "prediction", options.format(folder))
        if path.exists() and existing == "error":
            raise DataError(
                f"{path}: is there already; choose --overwrite or --skip-existing (in Python "
                'existing="overwrite" or "skip")'
            )
        whole = path.exists() and (output is None or _is_whole(path.parent))
        (done if whole and existing == "skip" else todo).append(folder)
    return done, todo


def _is_whole(target: pathlib.Path) -> bool:
    """Whether an output folder has, beside its prediction, the structure and its origin."""
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
    """Whether the largest structure fits into one process (by the size of its files where there are
    edges, else it is tried).
    """
    fits = True
    size: Size | None = None
    largest = max(
        todo,
        key=lambda f: (
            sum(p.stat().st_size for p in f.iterdir() if p.is_file())
            if f.is_dir()
            else f.stat().st_size
        ),
    )
    with contextlib.suppress(GFormerError):  # told when its turn comes
        if comm.rank == 0:
            item = read_source(largest, model, options.edges, options.overlap, None, Timer())
            size = Size.of(item.graph)
    size = comm.objects(size)[0]
    try:
        if size is not None:
            limit = fair_share(model.device, options.memory)
            plan_structure(model, size, limit=limit, spill=options.spill)
    except ConfigError:
        fits = False
    return all(comm.objects(fits))


def _each_its_own(
    model: HamiltonianModel,
    todo: list[pathlib.Path],
    output: str | os.PathLike[str] | None,
    options: RefineOptions,
    comm: Communicator,
) -> list[tuple[dict[str, Any], dict[str, StructureErrors] | None]]:
    """Structures in turns; every process gets all results.

    Args:
        model: both stages.
        todo: sources of the structures.
        output: see :func:`refine`.
        options: how; memory is shared out.
        comm: the processes.

    Returns:
        Record and errors of each, in the order of ``todo``.
    """
    mine: list[tuple[dict[str, Any], dict[str, StructureErrors] | None]] = []
    failed: GFormerError | None = None
    own = dataclasses.replace(
        options, memory=fair_share(model.device, options.memory), progress=False
    )
    try:
        each = _bar(todo[comm.rank :: comm.size], options.progress and comm.rank == 0)
        for result in refine_folders(model, each, output, own):
            mine.append(result)
    except GFormerError as error:
        failed = error
    agree(comm, failed)
    by_name = {
        record["name"]: (record, errors) for part in comm.objects(mine) for record, errors in part
    }
    return [by_name[source_name(folder)] for folder in todo]


def _bar(folders: list[pathlib.Path], progress: bool) -> Iterator[pathlib.Path]:
    """The folders, one after the other, with a progress bar where there are several."""
    bar = Progress("refine", len(folders), progress and len(folders) > 1, "structure")
    try:
        for folder in folders:
            yield folder
            bar.tick(folder.name, 1)
    finally:
        bar.close()
