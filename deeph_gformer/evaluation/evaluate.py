"""``deeph-gformer evaluate``: the metrics of Tables 2-4 on labelled structures."""

from __future__ import annotations

import os
import pathlib
from typing import Any

import numpy as np

from ..data.dataset import gauge_shift, read_splits, spin_double, subtract_overlap
from ..data.edges import EdgeMode
from ..errors import ConfigError
from ..io.blocks import BlockMatrix
from ..io.folder import find_structures, matrix_path, read_matrix
from ..pipeline import HamiltonianModel, Prediction
from .equivariance import equivariance_error
from .metrics import StructureErrors, block_errors, structure_errors, summarise

__all__ = ["evaluate"]


def evaluate(
    model: HamiltonianModel,
    preprocessed: str | os.PathLike[str],
    *,
    splits: str | os.PathLike[str] | None = None,
    split: str = "test",
    edges: EdgeMode = "auto",
    frames: int = 1,
    rotations: int = 1,
    plots: str | os.PathLike[str] | None = None,
) -> dict[str, Any]:
    """Compare stage 1 and both stages with DFT.

    Args:
        model: see :func:`deeph_gformer.load`. preprocessed: folder with structures that have ``hamiltonians.h5``.
        splits: split file; only ``split`` is evaluated. edges, frames: as for refine. rotations: for the equivariance error; 0: none.
        plots: folder for figures and their data.

    Returns:
        ``{"structures": [...], "total": {...}, "blocks": [...], "equivariance": {...}}``, units in key names. ``gauge_free_*`` are the errors
        after removing μS with μ = <ΔH,S>/<S,S> of each structure, where ``overlaps.h5`` is there.

    Raises:
        ConfigError: the split is empty. DataError, ModelError: see the readers.
    """
    folders = read_splits(splits, preprocessed)[split] if splits else find_structures(preprocessed, ("hamiltonian",))
    if not folders:
        raise ConfigError(f"{splits}: the {split} split is empty, there is nothing to evaluate")
    records, errors, predictions = [], [], []
    spinful = model.targets.basis.spinful
    for folder in folders:
        prediction = model.predict(folder, edges, frames=frames)
        truth = read_matrix(folder, "hamiltonian", prediction.structure, spinful)
        types = prediction.graph.node_type.numpy()
        error = structure_errors(folder.resolve().name, truth, prediction.stage1, prediction.hamiltonian, model.targets, types)
        record: dict[str, Any] = {
            "name": error.name,
            "atoms": len(prediction.structure),
            "edges": len(prediction.edges.keys),
            "stage1_mae_meV": error.stage1_meV,
            "refined_mae_meV": error.refined_meV,
            "ratio": error.refined_meV / error.stage1_meV if error.stage1_meV else float("nan"),
        }
        if matrix_path(folder, "overlap").is_file():
            record.update(_gauge_free(folder, prediction, truth, model, types))
        records.append(record)
        errors.append(error)
        predictions.append((prediction, truth))
    blocks = block_errors(errors)
    names = model.targets.to_json()
    result: dict[str, Any] = {
        "structures": records,
        "total": summarise(errors, model.targets),
        "edges": edges,
        "frames": frames,
        "gauge": model.bundle.gauge if model.bundle else "raw",
        "blocks": [
            {"target": names[c], "stage1_mae_meV": float(blocks[0, c]), "refined_mae_meV": float(blocks[1, c])} for c in range(len(names))
        ],
    }
    for key in ("gauge_free_stage1_mae_meV", "gauge_free_refined_mae_meV"):
        if all(key in r for r in records):
            result["total"][key] = float(np.mean([r[key] for r in records]))
    if rotations:
        pairs = [equivariance_error(model, p.graph, rotations, seed=n, frames=frames) for n, (p, _) in enumerate(predictions)]
        first, both = np.mean(pairs, axis=0)
        result["equivariance"] = {"rotations_per_structure": rotations, "stage1_error_meV": float(first), "refined_error_meV": float(both)}
    if plots is not None:
        from .plots import write_plots

        result["plots"] = [str(p) for p in write_plots(pathlib.Path(plots), model, errors, predictions)]
    return result


def _gauge_free(
    folder: pathlib.Path, prediction: Prediction, truth: BlockMatrix, model: HamiltonianModel, types: np.ndarray
) -> dict[str, float]:
    """Errors after removing μS of each difference, meV."""
    from ..io.blocks import match_keys

    structure, spinful = prediction.structure, model.targets.basis.spinful
    overlap = read_matrix(folder, "overlap", structure)
    doubled = spin_double(overlap) if spinful else overlap
    common = match_keys(overlap.keys, truth.keys)
    if (common < 0).any() or (match_keys(overlap.keys, prediction.hamiltonian.keys) < 0).any():
        return {}
    shift = gauge_shift(truth, overlap, spinful)
    moved = [subtract_overlap(h, doubled, gauge_shift(h, overlap, spinful) - shift) for h in (prediction.stage1, prediction.hamiltonian)]
    error: StructureErrors = structure_errors("", truth, moved[0], moved[1], model.targets, types)
    return {"gauge_free_stage1_mae_meV": error.stage1_meV, "gauge_free_refined_mae_meV": error.refined_meV}
