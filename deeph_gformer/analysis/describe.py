"""``deeph-gformer info``: what is this folder?"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Mapping
from typing import Any, Literal

from .. import fields
from ..errors import DataError, GFormerError
from ..gformer.bundle import BUNDLE_FILE, load_bundle
from ..io.folder import find_structures, folder_format, has_matrix, read_folder
from ..io.formats import Kind
from ..io.gauge import stated_level
from ..results import BundleInfo, CollectionInfo, ModelInfo, StructureInfo
from ..results.worse import worse_than_stage1
from ..stage1.bundle import find_models, read_model_folder
from .card import CARD_FILE, Card, read_card

__all__ = ["describe", "text_of"]


#: What ``info`` says of a gauge.
GAUGE_WORDS = {
    "raw": "raw (energy zero of the DFT code)",
    "standard": "standard (H - μS)",
    "unknown": "unknown (trained elsewhere; 'train' measures it against the labels)",
}


def describe(
    path: str | os.PathLike[str],
) -> BundleInfo | CollectionInfo | ModelInfo | StructureInfo:
    """Tell a structure folder, a DeepH-E3 model folder, a GFormer bundle, or a folder of one of
    these.

    Raises:
        DataError: it is none of them.
        ModelError: it is a damaged model.
    """
    path = pathlib.Path(path)
    if not path.exists():
        raise DataError(f"{path}: no such file or folder")
    if (path / BUNDLE_FILE).is_file():
        return BundleInfo.of(_bundle(path))
    if (path / fields.MODEL_CHECKPOINT).is_file():
        return ModelInfo.of(_model(path))
    if folder_format(path):
        return StructureInfo.of(_structure(path))
    return CollectionInfo.of(_collection(path))


def text_of(table: Mapping[str, Any]) -> str:
    """One line an entry, and of a model card one line each of its own.

    Args:
        table: plain values.
    """
    shown: dict[str, Any] = {}
    for key, value in table.items():
        shown |= Card.from_json(value).lines() if key == "card" else {key.replace("_", " "): value}
    return "\n".join(f"{key}: {_plain(value)}" for key, value in shown.items())


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k} {_plain(v)}" for k, v in value.items())
    if isinstance(value, list):
        return ", ".join(map(_plain, value))
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _symbols(numbers: Any) -> list[str]:
    from ase.data import chemical_symbols

    return [chemical_symbols[z] for z in numbers]


def _structure(path: pathlib.Path) -> dict[str, Any]:
    from ..data.edges import select_edges

    structure = read_folder(path)
    shells = {
        s: str(list(o))
        for s, o in zip(_symbols(structure.numbers), structure.orbital_types, strict=True)
    }
    kinds: tuple[Kind, ...] = ("hamiltonian", "overlap", "prediction")
    files: dict[str, bool] = {kind: has_matrix(path, kind) for kind in kinds}
    table: dict[str, Any] = {
        "kind": "structure folder",
        "format": folder_format(path),
        "name": structure.name,
        "formula": structure.formula,
        "atoms": len(structure),
        "orbitals": int(structure.orbital_counts.sum()),
        "shells_l": shells,
        "spinful": structure.spinful,
        "files": {k: ("there" if v else "missing") for k, v in files.items()},
    }
    if files["hamiltonian"] or files["overlap"]:
        choice = select_edges(path, structure, "auto")
        table["edges"] = {"count": len(choice.keys), "from": choice.source}
        if choice.hamiltonian_only is not None:
            table["edges"]["only_in_hamiltonian"] = choice.hamiltonian_only
        import numpy as np

        table["longest_edge_angstrom"] = float(
            np.linalg.norm(structure.edge_vectors(choice.keys), axis=1).max()
        )
    labels: dict[Literal["hamiltonian", "prediction"], str] = {
        "hamiltonian": "",
        "prediction": "predicted_",
    }
    for kind, label in labels.items():
        if not files[kind]:
            continue
        stated = stated_level(structure.info, kind)
        table[f"{label}gauge"] = stated.gauge
        if stated.energy_eV is not None:
            table[f"{label}fermi_level_eV"] = stated.energy_eV
        elif label:
            table[f"{label}fermi_level"] = f"none: {stated.why}"
    return table


def _model(path: pathlib.Path) -> dict[str, Any]:
    folder = read_model_folder(path)
    basis = folder.targets.basis
    return {
        "kind": "DeepH-E3 model folder (stage 1)",
        "elements": _symbols(basis.elements),
        "shells_l": dict(zip(_symbols(basis.elements), map(str, basis.orbital_types), strict=True)),
        "spinful": basis.spinful,
        "gauge": GAUGE_WORDS[folder.gauge],
        "target_blocks": len(folder.targets.blocks),
        "blocks_not_predicted": len(folder.targets.missing()),
        "encoder_groups": folder.config.num_block,
        "irreps_mid": folder.config.irreps_mid_node,
        "harmonics": folder.config.irreps_sh,
        "distance_basis_angstrom": folder.config.r_max,
        "dtype": str(folder.dtype).removeprefix("torch."),
        "parameters": sum(
            v.numel()
            for n, v in folder.state_dict.items()
            if n.split(".")[-1] in ("weight", "bias") or ".weights" in n
        ),
        "e3nn_generation": folder.generation
        or "cannot be told from the checkpoint (say it with --e3nn-generation)",
        "epoch": folder.epoch,
        "validation_loss_eV2": folder.val_loss,
    }


def _bundle(path: pathlib.Path) -> dict[str, Any]:
    bundle = load_bundle(path)
    basis, training = bundle.targets.basis, bundle.training
    table: dict[str, Any] = {
        "kind": "GFormer bundle (stage 2)",
        "arch": bundle.model.config.arch,
        "parameters": sum(p.numel() for p in bundle.model.parameters()),
        "elements": _symbols(basis.elements),
        "shells_l": dict(zip(_symbols(basis.elements), map(str, basis.orbital_types), strict=True)),
        "spinful": basis.spinful,
        "predicts": "the correction to stage 1" if bundle.cascade else "the whole Hamiltonian",
        **({"lacks": bundle.lacks} if bundle.lacks else {}),
        "gauge": GAUGE_WORDS[bundle.gauge],
        "dtype": str(bundle.dtype).removeprefix("torch."),
        "e3nn_generation": bundle.generation,
        "stage1": f"{bundle.stage1.name} (fingerprint {bundle.stage1.fingerprint})"
        if bundle.stage1
        else "none",
    }
    for key in (
        "data",
        "structures",
        "edges",
        "epochs",
        "stage1_val_mae_meV",
        "best_val_mae_meV",
        "best_val_states_meV",
        "best_val_ghost_meV",
        "monitor",
        "deeph_gformer",
    ):
        if key in training:
            own = key in ("data", "structures", "edges", "epochs")
            table[f"training_{key}" if own else key] = training[key]
    if varied := training.get("config", {}).get("data", {}).get("edge_variants"):
        table["edge_variants"] = varied
    if levels := bundle.levels:
        table["onsite_levels"] = (
            f"linear electrostatic model, {levels.radial.number} radial functions, share "
            f"{levels.share.min():.2f} to {levels.share.max():.2f}; predictions need S"
        )
        for key, errors in training.get("levels_validation", {}).items():
            if errors is not None:  # of the networks alone, and now
                table[f"onsite_levels_val_{key}"] = errors
    if text := worse_than_stage1(training.get("validation", {}), "the validation structures"):
        table["warning"] = text
    if card := read_card(path):
        table["card"] = card.to_json()
    elif (path / CARD_FILE).is_file():
        table["note"] = f"{CARD_FILE} is of other weights, so it is not shown"
    return table


def _structures(folders: list[pathlib.Path]) -> dict[str, Any]:
    """Of several structures: the first, and spin of all."""
    first = read_folder(folders[0])
    spins: dict[bool | None, list[pathlib.Path]] = {first.spinful: [folders[0]]}
    for folder in folders[1:]:
        spins.setdefault(read_folder(folder).spinful, []).append(folder)
    table = {
        "kind": "folder of structures",
        "structures": len(folders),
        "first": str(folders[0]),
        "first_formula": first.formula,
    }
    if len(spins) == 1:
        return {**table, "spinful": first.spinful}
    found = ", ".join(f"{spin} in {len(p)} (first {p[0].name})" for spin, p in spins.items())
    return {**table, "warning": f"spinful differs: {found}; one model needs structures of one kind"}


def _collection(path: pathlib.Path) -> dict[str, Any]:
    try:
        folders = find_structures(path)
    except DataError:
        folders = []
    if folders:
        return _structures(folders)
    try:
        models = find_models(path)
    except GFormerError:
        if path.is_file():
            raise DataError(
                f"{path}: is a file, and info tells of folders; give the one that it lies in"
            ) from None
        raise DataError(
            f"{path}: neither a structure folder (legacy or DeepH-dock), nor a DeepH-E3 model "
            "folder, nor a GFormer bundle, nor a folder of these"
        ) from None
    return {"kind": "folder of DeepH-E3 models", "models": [str(m) for m in models]}
