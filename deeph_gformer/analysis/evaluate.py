"""``deeph-gformer evaluate``: the metrics of Tables 2-4 on labelled structures."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..bands.bloch import BlochProblem
from ..data.edges import EdgeMode
from ..data.energies import odd_energy, odd_error, onsite_energies
from ..data.gauge import aligned
from ..data.splits import read_splits
from ..errors import ConfigError
from ..gformer.bundle import BUNDLE_FILE
from ..io.blocks import BlockMatrix
from ..io.folder import find_structures, has_matrix, matrix_path, read_matrix
from ..logs import LOGGER
from ..pipeline import HamiltonianModel, Prediction
from ..results import Evaluation
from ..stage1.trained_on import among, listed, read_descriptors, seen_by
from .equivariance import equivariance_error
from .invariance import invariance as invariance_of
from .invariance import largest
from .metric import Case, Metric, averages, measure, metrics
from .metrics import StructureErrors, block_errors, pair_errors, structure_errors, summarise
from .places import PlaceErrors
from .plots import distance_data, write_plots
from .states import States

__all__ = ["evaluate"]

#: Errors as they are, or without μS.
Counted = Literal["raw", "gauge_free"]


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
) -> Evaluation:
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
        ``structures`` (a record each), ``total``, ``blocks``, ``places``, ``equivariance``;
        units in key names. ``errors`` says which errors these are, raw or without μS;
        ``raw_*`` and ``gauge_free_*`` are mean errors of both kinds. ``places``: see
        :mod:`.places`. With ``states``, structures and total hold ``states_error_meV`` and
        ``ghost_meV`` (both stages), and the same of stage 1 with ``stage1_`` before it; None where
        there are no overlaps or no Fermi level. Structures hold ``correction_z``, ``features_z``,
        ``levels_distance`` and ``guard_warning`` where the bundle has statistics, see
        :mod:`deeph_gformer.prediction.guard`. With
        ``invariance``, structures and total hold the keys of
        :meth:`.invariance.Invariance.to_json`.

    Raises:
        ConfigError: the split is empty, or an option is out of range or needs another one.
        DataError: see the readers.
        ModelError: stage 1's list of its training structures is damaged; see the readers.
    """
    folders = _folders(model, preprocessed, splits, split, frames, rotations)
    _warn_of_seen(model, folders)
    have_s = [has_matrix(folder, "overlap") for folder in folders]
    counts: Counted = "gauge_free" if gauge != "raw" and all(have_s) else "raw"
    chosen = [m for m in metrics().values() if states or not isinstance(m, States)]
    judged: list[_Judged] = []
    scans = frames if invariance else None
    for folder, has_s in zip(folders, have_s, strict=True):
        prediction = model.predict(folder, edges, frames=frames, any_basis=True)
        judged.append(_judge(model, folder, prediction, has_s, counts, chosen, scans))
    errors, records = [one.errors for one in judged], [one.record for one in judged]
    predictions = [(one.counted, one.truth) for one in judged]
    if odd := _odd_energy(predictions):
        LOGGER.warning("%s", odd)
    places = PlaceErrors()
    for p, truth in predictions:
        places.add(p.structure, truth, (p.stage1, p.hamiltonian))
    which = "without μS" if counts == "gauge_free" else "raw"
    basis = model.targets.basis
    result: dict[str, Any] = {
        "structures": records,
        "total": _total(model, errors, records, chosen, invariance),
        "edges": edges,
        "frames": frames,
        "gauge": model.gauge,
        "errors": which,
        "places": places.table(),
        "distance": distance_data(predictions, which),
        "basis": {
            "elements": list(basis.elements),
            "orbital_types": [list(shells) for shells in basis.orbital_types],
        },
        "blocks": _block_table(model, errors),
    }
    if rotations:
        result["equivariance"] = _equivariance(model, predictions, rotations, frames)
    if plots is not None:
        written = write_plots(pathlib.Path(plots), model, errors, predictions, which)
        result["plots"] = [str(path) for path in written]
    return Evaluation.of(result)


def _odd_energy(predictions: Sequence[tuple[Prediction, BlockMatrix]]) -> str:
    """A sentence on an on-site energy of DFT that is unlike all others, empty without one.

    Args:
        predictions: of each structure, and DFT's H.
    """
    made, truth = (
        [onsite_energies(p.structure.name, p.structure.numbers, m) for p, m in both]
        for both in ([(p, p.hamiltonian) for p, _ in predictions], predictions)
    )
    errors = [
        one._replace(
            values=tuple(
                a - b if len(a) == len(b) else np.zeros(0)
                for a, b in zip(one.values, other.values, strict=True)
            )
        )
        for one, other in zip(made, truth, strict=True)
    ]
    return odd_error(errors, truth) or odd_energy(truth)


class _Judged(NamedTuple):
    """One structure.

    Attributes:
        counted: the prediction whose errors count: as it is, or with DFT's μ.
        truth: DFT's H.
        errors: of ``counted``.
        record: what the result says of it.
    """

    counted: Prediction
    truth: BlockMatrix
    errors: StructureErrors
    record: dict[str, Any]


def _folders(
    model: HamiltonianModel,
    preprocessed: str | os.PathLike[str],
    splits: str | os.PathLike[str] | None,
    split: str,
    frames: int,
    rotations: int,
) -> Sequence[pathlib.Path]:
    """The structures that are evaluated; options that do not go together are refused.

    Args:
        model: see :func:`evaluate`, as for the others.
        preprocessed: folder with structures.
        splits: split file.
        split: its entry.
        frames: rotated frames.
        rotations: of the equivariance error.

    Raises:
        ConfigError: an option is out of range or needs another one, or there is no structure.
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
        read_splits(splits, preprocessed, only=split)[split]
        if splits
        else find_structures(preprocessed, ("hamiltonian",))
    )
    if not folders:
        raise ConfigError(f"{splits}: the {split} split is empty, there is nothing to evaluate")
    return folders


def _warn_of_seen(model: HamiltonianModel, folders: Sequence[pathlib.Path]) -> None:
    """Say which structures each stage was trained on, if its folder lists them.

    Args:
        model: see :func:`evaluate`.
        folders: of the structures.

    Raises:
        ModelError: a list is damaged.
    """
    found: dict[str, NDArray[np.bool_] | None] = {
        "stage 1": None if model.stage1 is None else seen_by(model.stage1, folders)[0]
    }
    if model.bundle is not None and "trained_on" in model.bundle.training:
        file = (model.bundle.path or pathlib.Path()) / BUNDLE_FILE
        known = read_descriptors(model.bundle.training["trained_on"].get("train", ()), file)
        found["the GFormer"] = among(folders, known)
    for stage, flags in found.items():
        if flags is None or not flags.any():
            continue
        names = [folder.resolve().name for folder, seen in zip(folders, flags, strict=True) if seen]
        LOGGER.warning(
            "%s was trained on %d of these %d structures (%s); errors on them say little about "
            "new ones",
            stage,
            len(names),
            len(folders),
            listed(names),
        )


def _judge(
    model: HamiltonianModel,
    folder: pathlib.Path,
    prediction: Prediction,
    has_s: bool,
    counts: Counted,
    chosen: Sequence[Metric],
    scans: int | None,
) -> _Judged:
    """Compare a prediction with DFT, as it is and, where there is S, with DFT's μ.

    Args:
        model: gives the target blocks.
        folder: of DFT.
        prediction: of this structure.
        has_s: whether the folder has S.
        counts: which of the two errors counts.
        chosen: further metrics.
        scans: frames of the predictions in other descriptions, see :mod:`.invariance`; None: none.
    """
    spinful = model.targets.basis.spinful
    truth = read_matrix(folder, "hamiltonian", prediction.structure, spinful)
    overlap = read_matrix(folder, "overlap", prediction.structure) if has_s else None
    kinds: dict[Counted, Prediction] = {"raw": prediction}
    if overlap is not None:  # DFT's zero of energy is arbitrary: the nearest H - μS is compared
        kinds["gauge_free"] = prediction._replace(
            stage1=aligned(prediction.stage1, truth, overlap, spinful),
            hamiltonian=aligned(prediction.hamiltonian, truth, overlap, spinful),
        )
    name, types = folder.resolve().name, prediction.graph.node_type.numpy()
    both = {
        kind: structure_errors(name, truth, p.stage1, p.hamiltonian, model.targets, types)
        for kind, p in kinds.items()
    }
    record = _record(prediction, both[counts], both)
    record.update(measure(_case(folder, kinds, truth, overlap), chosen))
    if scans is not None:
        record.update(invariance_of(model, prediction, truth, overlap, frames=scans).to_json())
    if prediction.judgement is not None:
        record.update(prediction.judgement.to_json())
    return _Judged(kinds[counts], truth, both[counts], record)


def _total(
    model: HamiltonianModel,
    errors: Sequence[StructureErrors],
    records: Sequence[dict[str, Any]],
    chosen: Sequence[Metric],
    invariance: bool,
) -> dict[str, Any]:
    """Means over the structures, in the names of a structure's record.

    Args:
        model: gives the target blocks.
        errors: those that count.
        records: of the structures.
        chosen: metrics that were measured.
        invariance: whether it was measured, too.
    """
    total = summarise(errors, model.targets)
    for kind in ("raw", "gauge_free"):
        for stage in ("stage1", "refined"):
            key = f"{kind}_{stage}_mae_meV"
            if all(key in r for r in records):
                total[key] = float(np.mean([r[key] for r in records]))
    total.update(averages(records, chosen))
    if invariance:
        total.update(largest(records))
    return total


def _block_table(
    model: HamiltonianModel, errors: Sequence[StructureErrors]
) -> list[dict[str, Any]]:
    """Mean errors of every target block, over all atom pairs and by pair of elements."""
    blocks, pairs = block_errors(errors), pair_errors(errors)
    elements = model.targets.basis.elements
    return [
        {
            "target": name,
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
        for c, name in enumerate(model.targets.to_json())
    ]


def _equivariance(
    model: HamiltonianModel,
    predictions: Sequence[tuple[Prediction, BlockMatrix]],
    rotations: int,
    frames: int,
) -> dict[str, Any]:
    """Mean difference between H of the turned structure and the turned H, of both stages."""
    turned = [
        equivariance_error(model, p.graph, rotations, seed=n, frames=frames)
        for n, (p, _) in enumerate(predictions)
    ]
    first, both = np.mean(turned, axis=0)
    return {
        "rotations_per_structure": rotations,
        "stage1_error_meV": float(first),
        "refined_error_meV": float(both),
    }


def _case(
    folder: pathlib.Path,
    kinds: Mapping[Counted, Prediction],
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
    prediction: Prediction, error: StructureErrors, kinds: Mapping[Counted, StructureErrors]
) -> dict[str, Any]:
    """What the result says of one structure; ``error`` is the one of ``kinds`` that counts."""
    record: dict[str, Any] = {
        "name": error.name,
        "atoms": len(prediction.structure),
        "edges": len(prediction.edges.keys),
        "hamiltonian_only_edges": prediction.edges.hamiltonian_only,
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
