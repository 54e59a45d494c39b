"""``deeph-gformer evaluate``: the metrics of Tables 2-4 on labelled structures."""

from __future__ import annotations

import os
import pathlib
from typing import Any

import numpy as np

from ..data.dataset import gauge_shift, read_splits, spin_double, subtract_overlap
from ..data.edges import EdgeMode
from ..errors import ConfigError
from ..io.blocks import BlockMatrix, match_keys
from ..io.folder import find_structures, matrix_path, read_matrix
from ..pipeline import HamiltonianModel, Prediction
from .equivariance import equivariance_error
from .metrics import block_errors, structure_errors, summarise
from .places import PlaceErrors

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
        ``{"structures": [...], "total": {...}, "blocks": [...], "places": [...], "equivariance": {...}}``, units in key names. ``gauge_free_*``
        are the errors after removing μS with μ = <ΔH,S>/<S,S> of each structure, where ``overlaps.h5`` is there; ``places`` (see :mod:`.places`)
        are such errors for a model in the gauge H - μS.

    Raises:
        ConfigError: the split is empty. DataError, ModelError: see the readers.
    """
    folders = read_splits(splits, preprocessed)[split] if splits else find_structures(preprocessed, ("hamiltonian",))
    if not folders:
        raise ConfigError(f"{splits}: the {split} split is empty, there is nothing to evaluate")
    records, errors, predictions, places = [], [], [], PlaceErrors()
    gauge = model.bundle.gauge if model.bundle else "raw"
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
        pair = [prediction.stage1, prediction.hamiltonian]
        free = _gauge_free(folder, prediction, truth, model) if matrix_path(folder, "overlap").is_file() else None
        if free is not None:
            without = structure_errors("", truth, *free, model.targets, types)
            record.update(gauge_free_stage1_mae_meV=without.stage1_meV, gauge_free_refined_mae_meV=without.refined_meV)
            pair = list(free) if gauge == "standard" else pair
        places.add(prediction.structure, truth, pair)
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
        "gauge": gauge,
        "places": places.table(),
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
    folder: pathlib.Path, prediction: Prediction, truth: BlockMatrix, model: HamiltonianModel
) -> tuple[BlockMatrix, BlockMatrix] | None:
    """Stage 1 and refined with the μ of DFT instead of their own; None where S does not cover the blocks."""
    structure, spinful = prediction.structure, model.targets.basis.spinful
    overlap = read_matrix(folder, "overlap", structure)
    doubled = spin_double(overlap) if spinful else overlap
    if any((match_keys(overlap.keys, other.keys) < 0).any() for other in (truth, prediction.hamiltonian)):
        return None
    shift = gauge_shift(truth, overlap, spinful)
    first, both = (
        subtract_overlap(h, doubled, gauge_shift(h, overlap, spinful) - shift) for h in (prediction.stage1, prediction.hamiltonian)
    )
    return first, both
