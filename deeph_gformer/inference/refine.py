"""``deeph-gformer refine``: structure folders in, ``hamiltonians_pred.h5`` and ``info.json`` out."""

from __future__ import annotations

import contextlib
import os
import pathlib
import time
from typing import Any

from .. import __version__
from .. import fields as names
from ..bands.fermi import electrons_by_composition
from ..data.edges import EdgeMode
from ..errors import ConfigError, DataError
from ..evaluation.guard import Guard
from ..evaluation.metrics import StructureErrors, structure_errors, summarise
from ..io import dock, legacy
from ..io.files import read_json, write_json
from ..io.folder import Format, find_structures, folder_format, matrix_path, read_matrix, write_matrix
from ..pipeline import HamiltonianModel, Prediction

__all__ = ["refine", "refine_folder", "output_folder"]


def output_folder(folder: pathlib.Path, output: str | os.PathLike[str] | None) -> pathlib.Path:
    """Where the prediction of ``folder`` goes: ``<output>/<structure name>``, or the folder itself."""
    return folder if output is None else pathlib.Path(output) / folder.resolve().name


def write_prediction(
    target: pathlib.Path, prediction: Prediction, model: HamiltonianModel, form: Format, complete: bool, guarded: bool = False
) -> None:
    """Write one prediction; the Hamiltonian first, then ``info.json``, which is updated and not replaced.

    Args:
        target: the output folder. form: format to write. complete: also write the structure's own files (for an output folder of its own).
        guarded: stage 1 was kept; recorded in ``info.json``.
    """
    structure, spinful = prediction.structure, model.targets.basis.spinful
    if complete and folder_format(target) is None:
        writer = legacy if form == "legacy" else dock
        writer.write_structure(target, structure)
    write_matrix(target, "prediction", prediction.hamiltonian, structure, form, spinful)
    path = target / names.INFO_FILE
    info = read_json(path) if path.is_file() else {}
    info.update({"isspinful": spinful} if form == "legacy" else {"spinful": spinful})
    bundle = model.bundle
    electrons = electrons_by_composition(structure, bundle.training.get("electrons", ())) if bundle else None
    if electrons is not None:
        info.setdefault("occupation", electrons)
    info["deeph_gformer"] = {
        "version": __version__,
        "stage1": pathlib.Path(model.stage1.name).name if model.stage1 else None,
        "e3nn_generation": model.stage1.generation if model.stage1 else None,
        "gformer": bundle.path.resolve().name if bundle and bundle.path else None,
        "gauge": bundle.gauge if bundle else "raw",
        "edges": prediction.edges.source,
        **({"guarded": True} if guarded else {}),
    }
    write_json(path, info)


def refine_folder(
    model: HamiltonianModel,
    folder: pathlib.Path,
    output: str | os.PathLike[str] | None = None,
    *,
    edges: EdgeMode = "auto",
    hermitian: bool = True,
    frames: int = 1,
    form: str = "same",
    guard: bool = False,
) -> tuple[dict[str, Any], StructureErrors | None]:
    """Predict one structure, write it, and compare with ``hamiltonians.h5`` where that is there.

    Args:
        guard: write stage 1's Hamiltonian where the correction is out of range (see :mod:`deeph_gformer.evaluation.guard`).

    Returns:
        A record of plain values (units in the key names), and the errors against DFT.
    """
    start = time.perf_counter()
    watch = Guard(model) if guard or Guard.table(model.bundle) is not None else None
    with watch.watching() if watch is not None else contextlib.nullcontext():
        prediction = model.predict(folder, edges, hermitian, frames)
    verdict = watch.judge(prediction.correction) if watch is not None else None
    guarded = bool(guard and verdict is not None and verdict.out_of_range)
    if guarded:
        prediction = prediction._replace(hamiltonian=prediction.stage1)
    own = folder_format(folder) or "legacy"
    target = output_folder(folder, output)
    write_prediction(target, prediction, model, own if form == "same" else form, output is not None, guarded)  # type: ignore[arg-type]
    record: dict[str, Any] = {
        "name": folder.resolve().name,
        "folder": str(folder),
        "output": str(target),
        "atoms": len(prediction.structure),
        "edges": len(prediction.edges.keys),
        "edges_from": prediction.edges.source,
        "hamiltonian_only_edges": prediction.edges.hamiltonian_only,
        "mean_correction_meV": prediction.correction * 1e3,
        "spin_from": "model" if not (folder / names.INFO_FILE).is_file() else names.INFO_FILE,
    }
    if verdict is not None:
        record.update(correction_z=verdict.correction_z, features_z=verdict.features_z, guarded=guarded, guard_warning=verdict.warning)
    errors = None
    if matrix_path(folder, "hamiltonian").is_file():
        truth = read_matrix(folder, "hamiltonian", prediction.structure, model.targets.basis.spinful)
        errors = structure_errors(
            record["name"], truth, prediction.stage1, prediction.hamiltonian, model.targets, prediction.graph.node_type.numpy()
        )
        record.update(
            stage1_mae_meV=errors.stage1_meV,
            refined_mae_meV=errors.refined_meV,
            stage1_max_meV=errors.stage1_max_meV,
            refined_max_meV=errors.refined_max_meV,
        )
    record["seconds"] = time.perf_counter() - start
    return record, errors


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
) -> dict[str, Any]:
    """Refine every structure at or below a folder: the drop-in replacement for DeepH-E3's inference step.

    Args:
        preprocessed: walked for structure folders, as DeepH-E3 does. model: see :func:`deeph_gformer.load`.
        output: ``<output>/<structure name>/hamiltonians_pred.h5``; None writes beside the input.
        edges: see :func:`deeph_gformer.data.edges.select_edges`. hermitian: write ½(H + H†). frames: rotated frames to average.
        form: ``legacy``, ``dock`` or ``same``. existing: ``error``, ``overwrite`` or ``skip`` where a prediction is there already.
        progress: a progress bar on standard error. guard: keep stage 1 for structures whose correction is out of range.

    Returns:
        ``{"structures": [record, ...], "total": {...}, "skipped": [names]}``; plain values, units in key names.

    Raises:
        DataError: no structure is found, a prediction exists already (``existing="error"``), or a structure is damaged (those before it are written).
        ModelError: a structure does not fit the model.
    """
    if existing not in ("error", "overwrite", "skip") or form not in ("legacy", "dock", "same"):
        raise ConfigError(f"existing = {existing!r}, form = {form!r}: choose error, overwrite or skip, and legacy, dock or same")
    folders = find_structures(preprocessed, ("overlap", "hamiltonian"))
    done: list[str] = []
    todo: list[pathlib.Path] = []
    for folder in folders:
        kind: Any = (folder_format(folder) or "legacy") if form == "same" else form
        path = matrix_path(output_folder(folder, output), "prediction", kind)
        if path.exists() and existing == "error":
            raise DataError(f"{path}: is there already; choose --overwrite or --skip-existing")
        (done if path.exists() and existing == "skip" else todo).append(folder)  # type: ignore[arg-type]
    records, errors = [], []
    for folder in _bar(todo, progress):
        record, error = refine_folder(model, folder, output, edges=edges, hermitian=hermitian, frames=frames, form=form, guard=guard)
        records.append(record)
        if error is not None:
            errors.append(error)
    total: dict[str, Any] = {
        "structures": len(records),
        "seconds": sum(r["seconds"] for r in records),
        "edges": sum(r["edges"] for r in records),
    }
    if errors:
        total["errors"] = summarise(errors, model.targets)
    return {"structures": records, "total": total, "skipped": [pathlib.Path(f).resolve().name for f in done]}


def _bar(folders: list[pathlib.Path], progress: bool) -> Any:
    if not progress:
        return folders
    from tqdm import tqdm

    return tqdm(folders, desc="refine", unit="structure", dynamic_ncols=True, leave=False)
