"""What a report tells, gathered from a training run, from a result of ``evaluate``, and from a
model."""

from __future__ import annotations

import csv
import datetime
import importlib
import os
import pathlib
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ase.data import chemical_symbols

from .. import bands as physics
from ..analysis.card import read_card
from ..data.edges import EdgeMode
from ..data.fingerprint import fingerprint
from ..errors import DataError, GFormerError
from ..gformer.bundle import BUNDLE_FILE, Bundle
from ..io.folder import has_matrix, read_matrix
from ..pipeline import HamiltonianModel

__all__ = ["block_tables", "describe_model", "provenance", "read_run", "worst_structure"]

#: Larger structures are drawn without bands: dense eigenproblems along a path would take too long.
MAX_ORBITALS = 1500


def describe_model(bundle: Bundle | None) -> dict[str, str]:
    """The lines of a model card; none for stage 1 alone.

    Args:
        bundle: the second stage.
    """
    if bundle is None:
        return {}
    training = bundle.training
    basis = bundle.targets.basis
    config = training.get("config", {}).get("training", {})
    card = {
        "architecture": bundle.model.config.arch,
        "parameters": f"{sum(p.numel() for p in bundle.model.parameters()):,}",
        "elements": ", ".join(chemical_symbols[z] for z in basis.elements),
        "shells (l)": "; ".join(
            f"{chemical_symbols[z]} {', '.join(map(str, shells))}"
            for z, shells in zip(basis.elements, basis.orbital_types, strict=True)
        ),
        "spin-orbit coupling": "yes" if basis.spinful else "no",
        "predicts": "the correction to stage 1" if bundle.cascade else "all of H",
        "energy zero (gauge)": bundle.gauge,
        "floating point": str(bundle.dtype).removeprefix("torch."),
        "e3nn generation": bundle.generation,
        "stage 1": f"{bundle.stage1.name}, fingerprint {bundle.stage1.fingerprint}"
        if bundle.stage1
        else "none",
        "training data": str(training.get("data", "unknown")),
        "training structures": ", ".join(
            f"{k} {v}" for k, v in training.get("structures", {}).items()
        ),
        "epochs": str(training.get("epochs", "unknown")),
        "learning rate": str(config.get("learning_rate", "unknown")),
    }
    if "best_val_mae_meV" in training:
        card["validation MAE"] = (
            f"{training['best_val_mae_meV']:.4f} meV"
            f" (stage 1: {training.get('stage1_val_mae_meV', float('nan')):.4f})"
        )
    shipped = read_card(bundle.path) if bundle.path else None
    return {k: v for k, v in {**card, **(shipped.lines() if shipped else {})}.items() if v}


def provenance(
    model: HamiltonianModel, preprocessed: pathlib.Path, words: Sequence[str]
) -> dict[str, str]:
    """Where the numbers of an evaluation come from.

    Args:
        model: both stages.
        preprocessed: the folder of structures.
        words: the command.
    """
    found = {"command": shlex.join(words), "structures": str(preprocessed)}
    if model.stage1 is not None:
        found["stage 1"] = f"{model.stage1.name}, fingerprint {model.stage1.fingerprint()}"
    if model.bundle is not None:
        weights = fingerprint(model.bundle.model.state_dict())
        found["second stage"] = f"{model.bundle.path}, fingerprint {weights}"
    found["versions"] = ", ".join(
        f"{name} {importlib.import_module(name).__version__}"
        for name in ("torch", "e3nn", "numpy", "scipy")
    )
    now = datetime.datetime.now(datetime.timezone.utc)
    return {**found, "evaluated": now.strftime("%Y-%m-%d %H:%M UTC")}


def block_tables(result: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """MAE_block of each pair of elements as tables over their shells.

    Args:
        result: of ``evaluate``.

    Returns:
        Per pair, e.g. ``"Mo-S"``: ``rows``, ``columns`` and, in meV, ``stage 1``, ``refined``.
    """
    basis = result["basis"]
    shells = dict(zip(basis["elements"], basis["orbital_types"], strict=True))
    tables: dict[str, dict[str, Any]] = {}
    for block in result["blocks"]:
        for pair, values in block["pairs"].items():
            zi, zj = map(int, pair.split())
            name = f"{chemical_symbols[zi]}-{chemical_symbols[zj]}"
            if name not in tables:
                empty = [[None] * len(shells[zj]) for _ in shells[zi]]
                tables[name] = {
                    "rows": _shell_labels(shells[zi]),
                    "columns": _shell_labels(shells[zj]),
                    "stage 1": empty,
                    "refined": [list(row) for row in empty],
                }
            a, b = block["target"][pair]
            tables[name]["stage 1"][a][b] = values["stage1_mae_meV"]
            tables[name]["refined"][a][b] = values["refined_mae_meV"]
    return tables


def _shell_labels(shells: list[int]) -> list[str]:
    return [f"{shells[: n + 1].count(l)}{'spdf'[l]}" for n, l in enumerate(shells)]


def read_run(folder: str | os.PathLike[str]) -> dict[str, list[float | None]]:
    """The learning curve of a training run.

    Args:
        folder: the ``--output`` of ``train`` or ``train-stage1``.

    Returns:
        The columns of its CSV file, one row per epoch; None where an epoch lacks a number.

    Raises:
        DataError: the folder holds no history, or a damaged one.
    """
    path = pathlib.Path(folder) / "logs" / "csv" / "metrics.csv"
    if not path.is_file():
        raise DataError(f"{folder}: no training run, {path} is missing")
    rows: dict[int, dict[str, float]] = {}
    try:
        with path.open(newline="") as stream:
            for line in csv.DictReader(stream):
                row = rows.setdefault(int(line["epoch"]), {})
                row.update({k: float(v) for k, v in line.items() if k and v})
    except (KeyError, TypeError, ValueError):
        raise DataError(f"{path}: damaged, no table of epochs") from None
    names = sorted({name for row in rows.values() for name in row} - {"epoch", "step"})
    return {
        "epoch": [float(e) for e in sorted(rows)],
        **{name: [rows[e].get(name) for e in sorted(rows)] for name in names},
    }


def run_bundle(folder: str | os.PathLike[str]) -> pathlib.Path | None:
    """The bundle of a training run, None where there is none."""
    path = pathlib.Path(folder) / "bundle"
    return path if (path / BUNDLE_FILE).is_file() else None


def worst_structure(
    model: HamiltonianModel,
    folder: pathlib.Path,
    edges: EdgeMode = "auto",
    frames: int = 1,
    reach_eV: float = 3.0,
    npoints: int = 60,
) -> dict[str, Any]:
    """Geometry and bands of one structure: DFT, stage 1 and refined, each about its own level.

    Args:
        model: what predicts.
        folder: the structure, with DFT's H.
        edges: as in the evaluation.
        frames: as in the evaluation.
        reach_eV: bands are shown this far from the Fermi level.
        npoints: along the path.

    Returns:
        ``name``, ``geometry``, and ``bands`` or, where there are none, ``no_bands`` (why).

    Raises:
        DataError, ModelError: see :meth:`HamiltonianModel.predict`.
    """
    item = model.read(folder, edges)  # the evaluation has said what there is to say of its edges
    prediction = next(model.predict_graphs([item], None, frames=frames))
    structure = prediction.structure
    found: dict[str, Any] = {
        "name": folder.resolve().name,
        "geometry": {
            "symbols": [chemical_symbols[z] for z in structure.numbers],
            "positions": np.asarray(structure.positions).tolist(),
            "lattice": np.asarray(structure.lattice).tolist(),
        },
    }
    if not has_matrix(folder, "overlap"):
        return found | {"no_bands": "the structure has no overlaps.h5"}
    try:
        truth = physics.load(folder, "hamiltonian")
        if truth.size > MAX_ORBITALS:
            return found | {"no_bands": f"{truth.size} orbitals are more than {MAX_ORBITALS}"}
        overlap = read_matrix(folder, "overlap", structure)
        level = physics.fermi_level(truth, count_at_info=True)
        path = physics.automatic_path(structure, truth.periodic, npoints=npoints)
        series, electrons = {}, level.electrons
        for label, matrix in (
            ("DFT", None),
            ("stage 1", prediction.stage1),
            ("refined", prediction.hamiltonian),
        ):
            problem = (
                truth
                if matrix is None
                else physics.BlochProblem(structure, matrix, overlap, label=label, predicted=True)
            )
            own = level if matrix is None else physics.fermi_level(problem, electrons=electrons)
            series[label] = physics.band_structure(problem, path, fermi=own)
    except GFormerError as error:
        return found | {"no_bands": str(error)}
    first = series["DFT"]
    return found | {
        "bands": {
            "distance": first.distances.tolist(),
            "ticks": [[float(d), str(name)] for d, name in first.path.ticks],
            "window": list(first.default_window(reach_eV)),
            "energies": {label: b.aligned_eV.tolist() for label, b in series.items()},
        }
    }
