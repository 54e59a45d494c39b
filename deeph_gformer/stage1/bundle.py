"""Safe reading and writing of a DeepH-E3 model folder: its Python is parsed, never run, and its
pickle may hold tensors only."""

from __future__ import annotations

import configparser
import dataclasses
import io
import os
import pathlib
import pickle
from collections.abc import Mapping
from typing import Any, get_args

import torch
from e3nn.o3 import Irreps

from .. import fields
from ..algebra.orbitals import Basis, TargetBlocks
from ..algebra.wigner import Generation, detect_generation
from ..data.edges import LearnedEdges
from ..errors import ModelError, printable
from ..io.files import atomic_path, read_text, write_json, write_text
from ..io.folder import warn_unreadable
from ..io.gauge import GAUGES, Gauge
from ..io.parsing import parse_json
from .net_config import OPTIONAL, NetConfig, build_model_text, parse_build_model
from .strict import check_numbers, check_tensors, require_checkpoint

__all__ = [
    "ModelFolder",
    "find_models",
    "read_model_folder",
    "read_notes",
    "write_model_folder",
]


@dataclasses.dataclass(frozen=True)
class ModelFolder:
    """One trained DeepH-E3 model as read from disk.

    Attributes:
        path: the folder.
        config: network.
        targets: elements, shells, channels.
        state_dict: parameters and buffers as stored.
        generation: detected e3nn generation, None where the checkpoint cannot tell.
        dtype: of the parameters.
        epoch, val_loss: as stored (loss in eV²).
        checkpoint: everything else that the .pkl holds (optimizer, scheduler).
        train_ini: text of ``src/train.ini``, empty where there is none.
        notes: content of ``deeph_gformer.json``, which our training adds; empty for a folder of
            DeepH-E3 itself.
    """

    path: pathlib.Path
    config: NetConfig
    targets: TargetBlocks
    state_dict: dict[str, torch.Tensor]
    generation: Generation | None
    dtype: torch.dtype
    epoch: int
    val_loss: float
    checkpoint: dict[str, Any]
    train_ini: str = ""
    notes: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def gauge(self) -> Gauge:
        """The gauge that the network was trained in; ``unknown`` for folders of DeepH-E3 itself."""
        return self.notes.get("gauge", "unknown")

    @property
    def learned_edges(self) -> LearnedEdges:
        """The edges that it was trained on; DeepH-E3 itself takes those of H."""
        return self.notes.get("edges", "hamiltonians")

    def require_generation(self, override: Generation | None = None) -> Generation:
        """The generation to use.

        Raises:
            ModelError: the checkpoint cannot tell and no override is given, or the override
                contradicts the checkpoint.
        """
        if override is not None:
            if self.generation is not None and override != self.generation:
                raise ModelError(
                    f"{self.path}: the checkpoint's buffers are of e3nn generation "
                    f"{self.generation}, --e3nn-generation says {override}; "
                    "leave the option out"
                )
            return override
        if self.generation is None:
            raise ModelError(
                f"{self.path}: the e3nn generation cannot be told from the checkpoint's buffers; "
                "say it with --e3nn-generation "
                "0.3 (trained with e3nn 0.3.x), 0.4 (0.4.x) or '>=0.5'"
            )
        return self.generation


def find_models(root: str | os.PathLike[str]) -> list[pathlib.Path]:
    """Model folders at or below ``root``: those with ``best_model.pkl`` and ``src/``, as DeepH-E3
    looks for them, sorted.

    Raises:
        ModelError: there is none.
    """
    root = pathlib.Path(root)
    if not root.is_dir():
        raise ModelError(
            f"{root}: {'is a file' if root.exists() else 'no such folder'} (a DeepH-E3 model "
            f"folder holds {fields.MODEL_CHECKPOINT} and {fields.MODEL_SOURCE}/)"
        )
    found = []
    for path, below, files in os.walk(root, onerror=warn_unreadable):
        below.sort()
        if fields.MODEL_CHECKPOINT in files and fields.MODEL_SOURCE in below:
            found.append(pathlib.Path(path))
    if not found:
        raise ModelError(
            f"{root}: no DeepH-E3 model here or below; one holds {fields.MODEL_CHECKPOINT} and a "
            f"folder {fields.MODEL_SOURCE}/"
        )
    return found


def _read_json(path: pathlib.Path) -> Any:
    hint = "a DeepH-E3 model folder needs src/dataset_info.json and src/target_blocks.json"
    return parse_json(read_text(path, missing=hint, error=ModelError), str(path), ModelError)


def load_checkpoint(path: pathlib.Path) -> dict[str, Any]:
    """Tensors and plain Python values of a ``.pkl``; nothing else is ever unpickled.

    Raises:
        ModelError: the file is missing or damaged, asks for a foreign object, or holds no
            state_dict.
    """
    require_checkpoint(path)
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        text = str(error)
        if (
            "Unsupported" in text
            or "GLOBAL" in text
            or "not an allowed" in text
            or "was not an allowed" in text
        ):
            raise ModelError(
                f"{path}: needs objects that are no tensors to be unpickled, which can run any "
                "code; refused. Save it again with "
                "plain tensors (torch.save of a state_dict)"
            ) from None
        raise ModelError(f"{path}: damaged, not a checkpoint that torch.load can read") from None
    except Exception as error:  # noqa: BLE001  (damaged files trip the unpickler in every way)
        raise ModelError(
            f"{path}: damaged, not a checkpoint that torch.load can read "
            f"({(str(error) or type(error).__name__).splitlines()[0]})"
        ) from None
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("state_dict"), dict):
        raise ModelError(f"{path}: holds no 'state_dict'; this is no DeepH-E3 checkpoint")
    return checkpoint


def read_basis(info: Any, where: str) -> Basis:
    """Elements, shells and spin of ``dataset_info.json``.

    Args:
        info: its content.
        where: its path, for messages.

    Raises:
        ModelError: a key is missing or of another type, an element is there twice, or a shell has
            an l that the DeepH format does not define.
    """
    if not isinstance(info, dict) or not {"index_to_Z", "orbital_types", "spinful"} <= set(info):
        raise ModelError(f"{where}: needs spinful, index_to_Z and orbital_types")
    numbers, shells, spinful = info["index_to_Z"], info["orbital_types"], info["spinful"]

    def integers(value: Any, low: int) -> bool:
        return type(value) is list and all(type(v) is int and v >= low for v in value)

    if (
        not integers(numbers, 1)
        or max(numbers, default=119) > 118
        or len(set(numbers)) < len(numbers)
    ):
        raise ModelError(
            f"{where}: index_to_Z is {str(numbers)[:60]}; different atomic numbers are needed"
        )
    listed = type(shells) is list and all(integers(s, 0) and s for s in shells)
    if not listed or len(shells) != len(numbers):
        raise ModelError(
            f"{where}: orbital_types is {str(shells)[:60]}; the l of each shell is needed, a list "
            "for each element"
        )
    if type(spinful) is not bool:
        raise ModelError(f"{where}: spinful is {str(spinful)[:60]!r}; it must be true or false")
    high = max(l for s in shells for l in s)
    if high > 3:
        raise ModelError(
            f"{where}: a shell with l = {high}; the DeepH format defines an orbital order for "
            "l = 0 "
            "to 3 only"
        )
    return Basis(tuple(numbers), tuple(map(tuple, shells)), spinful)


def read_model_folder(folder: str | os.PathLike[str]) -> ModelFolder:
    """Read one model folder.

    Args:
        folder: holds ``best_model.pkl`` and ``src/`` with ``build_model.py`` (parsed, not run),
            ``dataset_info.json``, ``target_blocks.json``.

    Raises:
        ModelError: a file is missing, damaged or unsafe, parameters are NaN, or the parts do not
            fit together.
    """
    folder = pathlib.Path(folder)
    source = folder / fields.MODEL_SOURCE
    config = parse_build_model(source / "build_model.py")
    info = _read_json(source / "dataset_info.json")
    basis = read_basis(info, str(source / "dataset_info.json"))
    targets = TargetBlocks.from_json(
        basis, _read_json(source / "target_blocks.json"), str(source / "target_blocks.json")
    )
    if (
        len(basis.elements) != config.num_species
        or config.index_to_Z not in (None, basis.elements)
        or Irreps(config.irreps_out_edge) != targets.irreps(not config.no_parity)
    ):
        raise ModelError(
            f"{source}: build_model.py, dataset_info.json and target_blocks.json do not belong "
            "together (elements or output irreps differ)"
        )
    checkpoint = load_checkpoint(folder / fields.MODEL_CHECKPOINT)
    state = checkpoint.pop("state_dict")
    check_tensors(state, folder / fields.MODEL_CHECKPOINT)
    scales = [name for name in OPTIONAL if name in state]
    if len(scales) == 1:
        raise ModelError(
            f"{folder / fields.MODEL_CHECKPOINT}: '{scales[0]}' alone of {', '.join(OPTIONAL)}: "
            "output that is only half scaled and shifted is wrong, take the original file"
        )
    epoch, loss = check_numbers(checkpoint, folder / fields.MODEL_CHECKPOINT)
    floating = [
        v.dtype
        for n, v in state.items()
        if v.is_floating_point() and n.endswith("weight") and v.numel()
    ]
    ini = source / "train.ini"
    return ModelFolder(
        folder,
        config,
        targets,
        state,
        detect_generation(state, str(folder / fields.MODEL_CHECKPOINT)),
        floating[0] if floating else torch.float32,
        epoch,
        loss,
        checkpoint,
        read_text(ini, strict=False) if ini.is_file() else "",
        read_notes(folder),
    )


def read_notes(folder: pathlib.Path) -> dict[str, Any]:
    """What our training keeps of a model beside DeepH-E3's files.

    Args:
        folder: a model folder.

    Returns:
        E.g. ``{"gauge": "standard"}``; empty where there is no such file.

    Raises:
        ModelError: the file is damaged, or names an unknown gauge or unknown edges.
    """
    path = folder / fields.MODEL_NOTES
    if not path.is_file():
        return {}
    table = _read_json(path)
    gauge = table.get("gauge", "unknown") if isinstance(table, dict) else None
    if gauge not in GAUGES:
        raise ModelError(
            f"{path}: 'gauge' is {gauge!r}; {', '.join(GAUGES)} are possible. Correct the entry, "
            "or delete the file: the gauge is then measured where it matters"
        )
    if table.get("edges", "overlaps") not in get_args(LearnedEdges):
        raise ModelError(
            f"{path}: 'edges' is {printable(repr(table['edges']))}; "
            f"{' and '.join(get_args(LearnedEdges))} are possible"
        )
    return table


def write_model_folder(
    folder: str | os.PathLike[str],
    config: NetConfig,
    targets: TargetBlocks,
    checkpoint: dict[str, Any],
    train_ini: str,
    notes: Mapping[str, Any] | None = None,
) -> None:
    """Write what DeepH-E3's training leaves: ``best_model.pkl`` and ``src/`` with the four files
    that evaluation reads.

    Args:
        folder: created where needed.
        config: arguments of the network.
        targets: elements, shells, spin and output channels.
        checkpoint: with ``state_dict`` under the official parameter names.
        train_ini: text of ``src/train.ini``.
        notes: what :func:`read_notes` will find; ``gauge`` and more.
    """
    folder = pathlib.Path(folder)
    source = folder / fields.MODEL_SOURCE
    basis = targets.basis
    write_text(source / "build_model.py", build_model_text(config))
    shells = [list(s) for s in basis.orbital_types]
    write_json(
        source / "dataset_info.json",
        {"spinful": basis.spinful, "index_to_Z": list(basis.elements), "orbital_types": shells},
    )
    write_json(source / "target_blocks.json", targets.to_json())
    parser = configparser.ConfigParser()
    parser.read_string(train_ini)
    write_text(source / "train.ini", train_ini)
    if notes:
        write_json(folder / fields.MODEL_NOTES, dict(notes))
    buffer = io.BytesIO()  # a full disk is an OSError only where Python writes
    torch.save(checkpoint, buffer)
    with atomic_path(folder / fields.MODEL_CHECKPOINT) as path:
        path.write_bytes(buffer.getbuffer())
