"""What ``refine`` writes: ``hamiltonians_pred.h5``, ``info.json`` and, where it made them,
overlaps.

Several processes write one file together, each the values of its own edges.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from .. import __version__
from .. import fields as names
from ..errors import ConfigError, DataError
from ..io import BlockMatrix, Structure
from ..io.files import atomic_path, read_json, real_path, write_errors, write_json
from ..io.folder import (
    Format,
    Kind,
    folder_format,
    has_matrix,
    matrix_path,
    read_matrix,
    write_matrix,
    write_part,
)
from ..io.formats import get_format
from ..io.gauge import FERMI_KEYS, OURS, predicted_info
from ..io.locks import alone
from ..overlap import OverlapProvider
from ..pipeline import HamiltonianModel, Prediction
from ..runtime.communicator import Communicator
from ..runtime.processes import agreed
from ..runtime.timer import Timer
from .level import PredictedLevel, known_electrons, predicted_level
from .source import require_own, source_name

__all__ = ["make_overlap", "output_folder", "write_prediction", "write_shared"]


def output_folder(folder: pathlib.Path, output: str | os.PathLike[str] | None) -> pathlib.Path:
    """Where the prediction of ``folder`` (or a structure file) goes: ``<output>/<structure name>``,
    or the folder itself.

    Raises:
        ConfigError: a file without ``output``.
    """
    if output is None and folder.is_file():
        raise ConfigError(f"{folder}: is a file; say where predictions go with --output DIR")
    return folder if output is None else pathlib.Path(output) / source_name(folder)


def write_shared(
    comm: Communicator,
    folder: pathlib.Path,
    kind: Kind,
    part: BlockMatrix,
    structure: Structure,
    form: Format = "legacy",
    spinful: bool = False,
    before: Callable[[], None] | None = None,
) -> None:
    """:func:`deeph_gformer.io.folder.write_matrix` by all processes: the first one makes the file,
    each writes its blocks and their names, then the file gets its name.

    Args:
        comm: the processes, which must see the same file system.
        folder: as for ``write_matrix``.
        kind: as for ``write_matrix``.
        part: consecutive blocks; those of rank 0, 1, ... are all blocks in order.
        structure: as for ``write_matrix``.
        form: as for ``write_matrix``.
        spinful: as for ``write_matrix``.
        before: as for ``write_matrix``.

    Raises:
        DataError: on rank 0, where any process cannot write; no part of the file is left.
    """
    path, doubled = matrix_path(folder, kind, form), spinful and kind != "overlap"
    if comm.size == 1:
        write_matrix(folder, kind, part, structure, form, spinful, before)
        return
    size = part.values.nbytes
    counts, sizes = zip(*comm.objects((len(part), size)), strict=True)
    shared = get_format(form).share(part.keys, part.shapes, part.values.dtype, comm)
    with contextlib.ExitStack() as stack:
        place = None
        with agreed(comm), write_errors(path):
            if comm.rank == 0:
                expected = get_format(form).size(sum(counts), sum(sizes))
                temporary = stack.enter_context(atomic_path(path, expected, before))
                place = temporary, shared.begin(temporary)
        temporary, start = comm.objects(place)[0]
        with agreed(comm), write_errors(path):
            if not temporary.is_file():
                raise DataError(
                    f"{path}: process {comm.rank} does not see the file that the first process "
                    "began; --output must be one folder, shared by all machines"
                )
            shared.fill(temporary)
            write_part(temporary, form, start + sum(sizes[: comm.rank]), part, structure, doubled)
        with agreed(comm):
            stack.close()


def make_overlap(
    overlap: OverlapProvider,
    structure: Structure,
    keys: NDArray[np.int64],
    target: pathlib.Path,
    form: Format,
    timer: Timer,
    comm: Communicator,
    overwrite: bool = False,
) -> BlockMatrix:
    """Make S of a structure, each process the blocks of its own atoms, and write it beside the
    prediction to come.

    Args:
        overlap: makes S.
        structure: the atoms.
        keys: (E, 5), of this process's blocks, in canonical order.
        target: where it is written.
        form: folder format.
        timer: clock.
        comm: processes that share the structure.
        overwrite: replace other overlaps.

    Returns:
        S, of this process's atoms.

    Raises:
        DataError: ``target`` has other overlaps; see also :meth:`OverlapProvider.overlap`.
    """
    timer.start("overlap")
    with agreed(comm):
        matrix = overlap.overlap(structure, keys)
        path = matrix_path(target, "overlap", form)
        there = not overwrite and folder_format(target) is not None and path.exists()
    if not comm.objects(there)[0]:
        write_shared(
            comm,
            target,
            "overlap",
            matrix,
            structure,
            form,
            before=lambda: require_own(target, structure),
        )
        return matrix
    with agreed(comm):
        found = read_matrix(target, "overlap", structure)
        if comm.size > 1 and len(found) == comm.edges[-1]:
            found = found.select(np.arange(len(found))[comm.own_edges])
        same = np.array_equal(found.keys, keys)
        if not same or np.abs(found.values - matrix.values).max() > 1e-6:
            raise DataError(
                f"{path}: is there already, with other overlaps; choose --overwrite, or another "
                "--output"
            )
    return matrix


def write_prediction(
    target: pathlib.Path,
    prediction: Prediction,
    model: HamiltonianModel,
    form: Format,
    complete: bool,
    guarded: bool = False,
    comm: Communicator | None = None,
    source: pathlib.Path | None = None,
    overlap: BlockMatrix | None = None,
    count: bool = True,
) -> None:
    """Write one prediction: ``info.json`` (updated, not replaced) once the Hamiltonian is whole,
    just before that takes its name.

    So where there is a prediction there is all that belongs to it, whenever the process dies.

    A Fermi level is written where the states of this very Hamiltonian can be counted (see
    :func:`~.level.predicted_level`); that of DFT stays with DFT's Hamiltonian.

    Args:
        target: the output folder.
        prediction: what is written.
        model: which made it.
        form: format to write.
        complete: also write the structure's own files (for an output folder of its own).
        guarded: stage 1 was kept; recorded in ``info.json``.
        comm: processes that have a part of the prediction each.
        source: folder (or file) of the structure, with its overlaps; default: ``target``.
        overlap: S, where it is at hand.
        count: count electrons for a Fermi level.
    """
    comm = comm or Communicator()
    structure, spinful = prediction.structure, model.targets.basis.spinful
    electrons, _ = known_electrons(structure, model)
    level = PredictedLevel(None, electrons, "not counted: left out when this was predicted")
    with agreed(comm):
        if comm.rank == 0 and complete:
            _write_structure(target, structure, form)
        if comm.rank == 0 and comm.size > 1:
            level = level._replace(note="not counted: several processes share the structure")
        elif count and comm.rank == 0:
            level = predicted_level(prediction, model, source or target, target, overlap)
    write_shared(
        comm,
        target,
        "prediction",
        prediction.hamiltonian,
        structure,
        form,
        spinful,
        lambda: _write_info(target, prediction, model, form, guarded, level, source or target),
    )


def _write_structure(target: pathlib.Path, structure: Structure, form: Format) -> None:
    """Write a structure's own files where they are not there.

    Raises:
        DataError: those of another structure are, perhaps since a moment.
    """
    with alone(real_path(target).parent):
        if folder_format(target) is None:
            info = {k: v for k, v in structure.info.items() if k not in (*FERMI_KEYS, "gauge")}
            get_format(form).write_structure(target, dataclasses.replace(structure, info=info))
        require_own(target, structure)


def _write_info(
    target: pathlib.Path,
    prediction: Prediction,
    model: HamiltonianModel,
    form: Format,
    guarded: bool,
    level: PredictedLevel,
    source: pathlib.Path,
) -> None:
    """Add to ``info.json`` what belongs to a prediction.

    Args:
        target: its folder.
        prediction: see :func:`write_prediction`.
        model: see there.
        form: see there.
        guarded: see there.
        level: the Fermi level of the predicted H.
        source: folder (or file) of the structure.

    Raises:
        DataError: the folder holds another structure by now.
    """
    require_own(target, prediction.structure)
    path = target / names.INFO_FILE
    info = read_json(path) if path.is_file() else {}
    spinful, bundle = model.targets.basis.spinful, model.bundle
    info[get_format(form).info_names["spinful"]] = spinful
    if level.electrons is not None and info.get("occupation") is None:
        info["occupation"] = level.electrons
    old = info.get(OURS)
    kept = old if isinstance(old, dict) else {}
    info[OURS] = {
        **{k: v for k, v in kept.items() if k == "dft_fermi_level"},
        "version": __version__,
        "stage1": pathlib.Path(model.stage1.name).name if model.stage1 else None,
        "e3nn_generation": model.stage1.generation if model.stage1 else None,
        "gformer": real_path(bundle.path).name if bundle and bundle.path else None,
        "edges": prediction.edges.source,
        **({"guarded": True} if guarded else {}),
    }
    info = predicted_info(
        info,
        get_format(form).info_names.get("fermi_level", "fermi_level"),
        model.stage1.gauge if guarded and model.stage1 is not None else model.gauge,
        level.energy_eV,
        level.note,
        has_matrix(target, "hamiltonian", form),
        real_path(source) == real_path(target),
    )
    write_json(path, info)
