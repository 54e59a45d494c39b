"""``deeph-gformer evaluate``: the metrics of Tables 2-4 on labelled structures."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..bands.bloch import BlochProblem
from ..data.dataset import read_splits
from ..data.edges import EdgeMode
from ..data.gauge import aligned
from ..errors import ConfigError
from ..io.blocks import BlockMatrix
from ..io.folder import find_structures, has_matrix, matrix_path, read_matrix
from ..logs import LOGGER
from ..pipeline import HamiltonianModel, Prediction
from .equivariance import equivariance_error
from .invariance import invariance as invariance_of
from .invariance import largest
from .metric import Case, averages, measure, metrics
from .metrics import StructureErrors, block_errors, pair_errors, structure_errors, summarise
from .places import PlaceErrors
from .plots import distance_data, write_plots
from .states import States

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
    invariance: bool = True,
    states: bool = True,
    gauge: str | None = None,
    plots: str | os.PathLike[str] | None = None,
) -> dict[str, Any]:
    """Compare stage 1 and both stages with DFT.

    Args:
        model: see :func:`deeph_gformer.load`.
        preprocessed: folder with structures that have ``hamiltonians.h5``.
        splits: split file; only ``split`` is evaluated.
        split: ``train``, ``val`` or ``test``.
        edges: as for refine.
        frames: as for refine.
        rotations: for the equivariance error; 0: none.
        invariance: predict each structure in other descriptions too, see :mod:`.invariance`.
        states: judge DFT's states near the Fermi level, see :mod:`.states`. Metrics of other
            packages always count, see :mod:`.metric`.
        gauge: ``raw``: errors as they are; else without μS, μ = <ΔH,S>/<S,S> of each structure,
            where every structure has ``overlaps.h5``: the zero of energy is no physics.
        plots: folder for figures and their data.

    Returns:
        Plain values, units in key names: ``structures`` (a record each), ``total``, ``blocks``,
        ``places``, ``equivariance``. ``errors`` says which errors these are, raw or without μS;
        ``raw_*`` and ``gauge_free_*`` are mean errors of both kinds. ``places``: see
        :mod:`.places`. With ``states``, structures and total hold ``states_error_meV`` and
        ``ghost_meV`` (both stages), and the same of stage 1 with ``stage1_`` before it; None where
        there are no overlaps or no Fermi level. With ``invariance``, structures and total hold the
        keys of :meth:`.invariance.Invariance.to_json`.

    Raises:
        ConfigError: the split is empty, or an option is out of range or needs another one.
        DataError: see the readers.
        ModelError: see the readers.
    """
    if rotations < 0:
        raise ConfigError(f"--rotations {rotations}: 0 (none) or more are needed")
    if split != "test" and splits is None:
        raise ConfigError(
            f"--split {split}: needs a split file, --splits FILE; without one every structure "
            "is evaluated"
        )
    if frames > 1 and (model.bundle is None or model.bundle.model.equivariant):
        what = "stage 1 alone" if model.bundle is None else "arch: equivariant"
        LOGGER.info("--frames %d changes nothing: %s is the same in every frame", frames, what)
    folders = (
        read_splits(splits, preprocessed)[split]
        if splits
        else find_structures(preprocessed, ("hamiltonian",))
    )
    if not folders:
        raise ConfigError(f"{splits}: the {split} split is empty, there is nothing to evaluate")
    have_s = [has_matrix(folder, "overlap") for folder in folders]
    without = gauge != "raw" and all(have_s)
    chosen = [m for m in metrics().values() if states or not isinstance(m, States)]
    records, errors, predictions, places = [], [], [], PlaceErrors()
    spinful = model.targets.basis.spinful
    for folder, has_s in zip(folders, have_s, strict=True):
        prediction = model.predict(folder, edges, frames=frames)
        truth = read_matrix(folder, "hamiltonian", prediction.structure, spinful)
        name, types = folder.resolve().name, prediction.graph.node_type.numpy()
        overlap = read_matrix(folder, "overlap", prediction.structure) if has_s else None
        kinds = {"raw": prediction}
        if overlap is not None:
            kinds["gauge_free"] = prediction._replace(
                stage1=aligned(prediction.stage1, truth, overlap, spinful),
                hamiltonian=aligned(prediction.hamiltonian, truth, overlap, spinful),
            )
        both = {
            k: structure_errors(name, truth, p.stage1, p.hamiltonian, model.targets, types)
            for k, p in kinds.items()
        }
        counts = "gauge_free" if without else "raw"
        error = both[counts]
        record = _record(prediction, error, both)
        record.update(measure(_case(folder, kinds, truth, overlap), chosen))
        if invariance:
            found = invariance_of(model, prediction, truth, overlap, frames=frames)
            record.update(found.to_json())
        records.append(record)
        errors.append(error)
        predictions.append((kinds[counts], truth))
        places.add(prediction.structure, truth, (kinds[counts].stage1, kinds[counts].hamiltonian))
    blocks, pairs = block_errors(errors), pair_errors(errors)
    elements = model.targets.basis.elements
    names = model.targets.to_json()
    result: dict[str, Any] = {
        "structures": records,
        "total": summarise(errors, model.targets),
        "edges": edges,
        "frames": frames,
        "gauge": model.gauge,
        "errors": "without μS" if without else "raw",
        "places": places.table(),
        "distance": distance_data(predictions, "without μS" if without else "raw"),
        "basis": {
            "elements": list(elements),
            "orbital_types": [list(shells) for shells in model.targets.basis.orbital_types],
        },
        "blocks": [
            {
                "target": names[c],
                "stage1_mae_meV": _number(blocks[0, c]),
                "refined_mae_meV": _number(blocks[1, c]),
                "pairs": {
                    f"{elements[i]} {elements[j]}": {
                        "stage1_mae_meV": _number(pairs[0, i, j, c]),
                        "refined_mae_meV": _number(pairs[1, i, j, c]),
                    }
                    for i, j in model.targets.blocks[c]
                },
            }
            for c in range(len(names))
        ],
    }
    for key in (
        f"{kind}_{stage}_mae_meV"
        for kind in ("raw", "gauge_free")
        for stage in ("stage1", "refined")
    ):
        if all(key in r for r in records):
            result["total"][key] = float(np.mean([r[key] for r in records]))
    result["total"].update(averages(records, chosen))
    if invariance:
        result["total"].update(largest(records))
    if rotations:
        turned = [
            equivariance_error(model, p.graph, rotations, seed=n, frames=frames)
            for n, (p, _) in enumerate(predictions)
        ]
        first, both = np.mean(turned, axis=0)
        result["equivariance"] = {
            "rotations_per_structure": rotations,
            "stage1_error_meV": float(first),
            "refined_error_meV": float(both),
        }
    if plots is not None:
        result["plots"] = [
            str(p)
            for p in write_plots(pathlib.Path(plots), model, errors, predictions, result["errors"])
        ]
    return result


def _case(
    folder: pathlib.Path,
    kinds: Mapping[str, Prediction],
    truth: BlockMatrix,
    overlap: BlockMatrix | None,
) -> Case:
    """What metrics see; ``kinds``: the prediction as it is and, where there is S, with DFT's μ."""
    prediction = kinds.get("gauge_free", kinds["raw"])
    problem = None
    if overlap is not None:
        source = str(matrix_path(folder, "hamiltonian"))
        problem = BlochProblem(prediction.structure, truth, overlap, source=source)
    pair = (prediction.stage1, prediction.hamiltonian)
    return Case(prediction.structure, truth, problem, pair)


def _number(value: float) -> float | None:
    """None where no structure has such a block."""
    return float(value) if np.isfinite(value) else None


def _record(
    prediction: Prediction, error: StructureErrors, kinds: dict[str, StructureErrors]
) -> dict[str, Any]:
    """What the result says of one structure; ``error`` is the one of ``kinds`` that counts."""
    record: dict[str, Any] = {
        "name": error.name,
        "atoms": len(prediction.structure),
        "edges": len(prediction.edges.keys),
        "stage1_mae_meV": error.stage1_meV,
        "refined_mae_meV": error.refined_meV,
        "ratio": error.refined_meV / error.stage1_meV if error.stage1_meV else float("nan"),
    }
    for kind, value in kinds.items():
        record.update(
            {
                f"{kind}_stage1_mae_meV": value.stage1_meV,
                f"{kind}_refined_mae_meV": value.refined_meV,
            }
        )
    return record
