"""DeepH-E3's evaluation step from its own ini file: the same files in the same places, with or
without a GFormer on top.

Without a bundle this is stage 1 alone and equals ``deephe3-eval.py``: the raw network output, not
made Hermitian. With a bundle it is the refined Hamiltonian, Hermitian like that of ``deeph-gformer
refine``.
"""

from __future__ import annotations

import os
import pathlib
import time
from collections.abc import Callable
from typing import Any

import h5py
import numpy as np
import torch
from torch import Tensor

from .. import fields
from ..analysis.metrics import gauge_errors
from ..data.dataset import Sample, load_sample
from ..data.edges import EdgeChoice
from ..errors import ConfigError, DataError
from ..inference.output import output_folder, write_prediction
from ..io.files import atomic_path, read_json, read_text, write_json, write_text
from ..io.folder import (
    Kind,
    folder_format,
    has_matrix,
    matrix_path,
    read_folder,
    read_matrix,
    remove_leftovers,
    split_structures,
)
from ..io.hdf5.writing import new_hdf5
from ..io.structure import Structure
from ..logs import LOGGER
from ..pipeline import HamiltonianModel, Prediction, load
from ..prediction.blocks import assemble, check_finite, sum_of_differences
from ..prediction.levels import corrected, prepare
from ..prediction.reading import Item
from ..prediction.run import hermitian_products
from ..results import IniEvaluation
from ..runtime.device import resolve_device
from ..stage1.bundle import find_models
from .deephe3_ini import EvalIni, read_eval_ini

__all__ = ["evaluate_ini", "write_test_result", "TEST_RESULT_FILE"]

TEST_RESULT_FILE = "test_result.h5"


def _labelled(
    model: HamiltonianModel, folder: pathlib.Path, hermitian: bool, frames: int
) -> tuple[Prediction, Sample, Tensor]:
    """Prediction on the edges of ``hamiltonians.h5``, the labels, and the direct-product output
    ((E, K) or (E, 4, K), eV).
    """
    sample = load_sample(folder, model.targets, "hamiltonians", model.dtype)
    structure = read_folder(folder)
    keys, types = sample.graph.edge_key.numpy(), sample.graph.node_type.numpy()
    choice = EdgeChoice(keys, fields.HAMILTONIAN_FILE)
    item = Item(structure, sample.graph, choice, None, folder)
    levels = None if model.bundle is None else model.bundle.levels
    prepared = None if levels is None else prepare(model, item, levels)
    first, both = hermitian_products(model, sample.graph, frames, hermitian)
    check_finite(both, sample.name)
    matrices = [assemble(model, h, types, keys) for h in (first, both)]
    change, count = sum_of_differences(*matrices)
    if levels is not None:
        matrices[1], _ = corrected(model, item, levels, prepared, matrices[1])
        both = torch.from_numpy(model.blocks.from_matrix(matrices[1], types)[0])
    return (
        Prediction(
            structure,
            sample.graph,
            matrices[1],
            matrices[0],
            choice,
            change / max(1, count),
        ),
        sample,
        both,
    )


def write_test_result(
    group: h5py.Group, structure: Structure, sample: Sample, prediction: Tensor
) -> None:
    """One structure of ``test_result.h5``, with DeepH-E3's dataset names, so that
    ``deephe3-analyze.py`` reads it.

    Args:
        group: to fill.
        structure: the atoms.
        sample: graph, labels and mask.
        prediction: (E, K) or (E, 4, K), eV.
    """
    graph = sample.graph
    dtype = sample.label.real.dtype if sample.label.is_complex() else sample.label.dtype
    real = {torch.float32: np.float32, torch.float64: np.float64}[dtype]
    keys = graph.edge_key.numpy().copy()
    keys[:, 3:] += 1
    vectors = graph.edge_vector.numpy().astype(np.float64)
    group["node_attr"], group["edge_index"], group["edge_key"] = (
        graph.node_type.numpy(),
        graph.edge_index.numpy(),
        keys,
    )
    group["edge_attr"] = np.concatenate(
        [np.linalg.norm(vectors, axis=1)[:, None], vectors], axis=1
    ).astype(real)
    group["label"], group["mask"], group["H_pred"] = (
        sample.label.numpy(),
        sample.mask.numpy(),
        prediction.numpy(),
    )
    inner = group.create_group("structure")
    inner["element"], inner["lat"], inner["sites"] = (
        structure.numbers,
        structure.lattice.astype(real),
        structure.positions.astype(real),
    )


def _write_source(target: pathlib.Path, model: HamiltonianModel, last: pathlib.Path) -> None:
    """``src/`` beside a test result: elements and shells, the channels of all models together, and
    the last model's ``train.ini``.
    """
    basis = model.targets.basis
    path = target / "dataset_info.json"
    info = {
        "spinful": basis.spinful,
        "index_to_Z": list(basis.elements),
        "orbital_types": [list(s) for s in basis.orbital_types],
    }
    if path.is_file() and read_json(path) != info:
        raise DataError(
            f"{path}: belongs to a test result of other elements, orbitals or spin; choose "
            "another output_dir"
        )
    write_json(path, info)
    write_json(target / "target_blocks.json", model.targets.to_json())
    ini = last / fields.MODEL_SOURCE / "train.ini"
    if ini.is_file():
        write_text(target / "train.ini", read_text(ini, strict=False))


def _test(
    ini: EvalIni,
    model: HamiltonianModel,
    folders: list[pathlib.Path],
    hermitian: bool,
    frames: int,
    echo: Callable[[str], None],
) -> list[dict[str, Any]]:
    """``inference = False``: predictions on the edges of H, ``test_result.h5`` and ``src/``."""
    records = []
    target = ini.output_dir / TEST_RESULT_FILE
    if target.is_file():
        echo(f"{target} is there already and will be replaced")
    if model.learned_edges == "overlaps":
        LOGGER.warning(
            "the model learned from the blocks of S, and inference = False asks for those of H, as "
            "DeepH-E3 does: where H has more of them every block is predicted otherwise, with "
            "larger errors ('deeph-gformer evaluate' takes those of S)"
        )
    with atomic_path(target) as temporary, new_hdf5(temporary) as handle:
        for folder in folders:
            start = time.perf_counter()
            prediction, sample, vector = _labelled(model, folder, hermitian, frames)
            write_test_result(
                handle.create_group(sample.name), prediction.structure, sample, vector
            )
            error = float((vector - sample.label).abs()[sample.mask].mean()) * 1e3
            record = _finish(ini, model, folder, prediction, start, not ini.test_only)
            record["mae_meV"] = error  # DeepH-E3's own figure
            free = _gauge_free_error(folder, prediction, model)
            text = f"MAE {error:.4f} meV (raw: there is no S)"
            if free is not None:
                record["gauge_free_mae_meV"] = free
                text = f"MAE {free:.4f} meV without μS (raw: {error:.4f} meV)"
            records.append(record)
            edges, seconds = len(prediction.edges.keys), record["seconds"]
            echo(f"{sample.name}: {edges} edges, {text}, {seconds:.2f} s")
    _write_source(
        ini.output_dir / fields.MODEL_SOURCE, model, find_models(ini.trained_model_dir)[-1]
    )
    return records


def _gauge_free_error(
    folder: pathlib.Path, prediction: Prediction, model: HamiltonianModel
) -> float | None:
    """MAE without μS, meV; None where there is no S."""
    if not has_matrix(folder, "overlap"):
        return None
    truth = read_matrix(folder, "hamiltonian", prediction.structure, model.targets.basis.spinful)
    kinds = gauge_errors(
        prediction.structure.name,
        truth,
        prediction.stage1,
        prediction.hamiltonian,
        read_matrix(folder, "overlap", prediction.structure),
        model.targets,
        prediction.graph.node_type.numpy(),
    )
    return kinds["gauge_free"].refined_meV


def _finish(
    ini: EvalIni,
    model: HamiltonianModel,
    folder: pathlib.Path,
    prediction: Prediction,
    start: float,
    write: bool,
) -> dict[str, Any]:
    target = output_folder(folder, ini.output_dir)
    if write:
        remove_leftovers(target)
        form = folder_format(folder) or "legacy"
        write_prediction(target, prediction, model, form, False, source=folder)
    return {
        "name": folder.resolve().name,
        "folder": str(folder),
        "output": str(target) if write else None,
        "atoms": len(prediction.structure),
        "edges": len(prediction.edges.keys),
        "edges_from": prediction.edges.source,
        "seconds": time.perf_counter() - start,
    }


def evaluate_ini(
    path: str | os.PathLike[str],
    bundle: str | os.PathLike[str] | None = None,
    *,
    hermitian: bool | None = None,
    fill_missing: float | None = None,
    frames: int = 1,
    echo: Callable[[str], None] = lambda text: None,
    **stage1_options: Any,
) -> IniEvaluation:
    """Do what ``deephe3-eval.py`` does with this ini.

    Args:
        path: DeepH-E3's evaluation ini.
        bundle: a GFormer on top of the models in ``trained_model_dir``; None is stage 1 alone.
        hermitian: write ½(H + H†); default: only with a bundle, because DeepH-E3 writes the raw
            output.
        fill_missing: value (eV) of blocks that no model predicts (``--debug`` of DeepH-E3 is 0);
            None makes them an error.
        frames: rotated frames to average (see :func:`deeph_gformer.pipeline.correction`).
        echo: called with a line per structure.
        stage1_options: ``backend``, ``deephe3_root``, ``generation``.

    Raises:
        ConfigError: the ini, see :func:`read_eval_ini`, or ``frames``.
        DataError, ModelError: folders or models that cannot be used (structures before are
            written).
    """
    ini = read_eval_ini(path)
    for note in ini.notes:
        echo(note)
    if frames < 1 or (frames > 1 and bundle is None):
        raise ConfigError(
            f"--frames {frames}: at least 1 is needed, and more than 1 only with a GFormer "
            "(--model BUNDLE)"
        )
    try:
        resolve_device(ini.device)
    except ConfigError as error:
        raise ConfigError(f"{ini.device_place}: {error}") from None
    kind: Kind = "overlap" if ini.inference else "hamiltonian"
    folders, without = split_structures(ini.processed_data_dir, (kind,))
    if without:
        missing = " or ".join(sorted({matrix_path(folder, kind).name for folder in without}))
        echo(
            f"{len(without)} skipped: {', '.join(folder.resolve().name for folder in without)} "
            f"(no {missing})"
        )
    model = load(
        bundle,
        ini.trained_model_dir,
        device=ini.device,
        dtype=ini.dtype,
        fill_missing=fill_missing,
        **stage1_options,
    )
    hermitian = bundle is not None if hermitian is None else hermitian
    if ini.inference:
        records = []
        for folder in folders:
            start = time.perf_counter()
            prediction = model.predict(folder, "overlaps", hermitian, frames)
            records.append(_finish(ini, model, folder, prediction, start, True))
            echo(
                f"{records[-1]['name']}: {records[-1]['edges']} edges, "
                f"{records[-1]['seconds']:.2f} s"
            )
    else:
        records = _test(ini, model, folders, hermitian, frames, echo)
    return IniEvaluation(
        records,
        [folder.resolve().name for folder in without],
        list(ini.notes),
        str(ini.output_dir),
        None if ini.inference else str(ini.output_dir / TEST_RESULT_FILE),
    )
