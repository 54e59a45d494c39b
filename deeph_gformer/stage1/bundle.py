"""Safe reading and writing of a DeepH-E3 model folder: its Python is parsed, never run, and its
pickle may hold tensors only."""

from __future__ import annotations

import ast
import configparser
import dataclasses
import os
import pathlib
import pickle
from collections.abc import Mapping
from typing import Any

import torch
from e3nn.o3 import Irreps

from .. import fields
from ..algebra.orbitals import Basis, TargetBlocks
from ..algebra.wigner import Generation, detect_generation
from ..errors import ModelError, printable
from ..io.files import atomic_path, read_text, write_json, write_text
from ..io.gauge import GAUGES, Gauge
from ..io.parsing import parse_json

__all__ = [
    "NetConfig",
    "ModelFolder",
    "find_models",
    "read_model_folder",
    "read_notes",
    "write_model_folder",
]


@dataclasses.dataclass(frozen=True)
class NetConfig:
    """Arguments of DeepH-E3's ``Net``, as ``src/build_model.py`` writes them."""

    num_species: int
    """Number of elements."""
    irreps_embed_node: str
    """Node embedding, 0e only."""
    irreps_edge_init: str
    """Initial edge features (Gaussians of the distance up to 6 Å), 0e only."""
    irreps_sh: str
    """Spherical harmonics, or spherical Bessel basis with ``use_sbf``."""
    irreps_mid_node: str
    """Node features between blocks."""
    irreps_post_node: str
    """Node features after the last block."""
    irreps_out_node: str
    """Unused node output of the official network."""
    irreps_mid_edge: str
    """Edge features between blocks."""
    irreps_post_edge: str
    """Edge features after the last block."""
    irreps_out_edge: str
    """Direct-sum output."""
    num_block: int
    """P, the number of encoder groups."""
    r_max: float
    """Radius of the Gaussian distance basis, Å."""
    use_sc: bool = True
    """Self-connections."""
    no_parity: bool = False
    """DeepH-E3's ``ignore_parity``: every irrep is even."""
    use_sbf: bool = False
    """Spherical Bessel basis instead of plain spherical harmonics."""
    selftp: bool = False
    """Self tensor product (off in every model DeepH-E3 writes)."""
    edge_upd: bool = True
    """Edge updates in every block."""
    only_ij: bool = False
    """Undirected graph (DeepH-E3: under development)."""
    num_basis: int = 128
    """Gaussians of the distance basis."""
    if_sort_irreps: bool = False
    """Sorted concatenation (off in every model DeepH-E3 writes)."""

    def check(self, where: str) -> None:
        """Refuse options that no released DeepH-E3 could train with, and irreps that do not parse.

        Raises:
            ModelError: names the option.
        """
        for name in ("selftp", "only_ij", "if_sort_irreps"):
            if getattr(self, name):
                raise ModelError(
                    f"{where}: {name} = True is not supported (DeepH-E3 marks it as under "
                    "development)"
                )
        for name in ("use_sc", "edge_upd"):
            if not getattr(self, name):
                raise ModelError(f"{where}: {name} = False is not supported")
        for field in dataclasses.fields(self):
            if field.name.startswith("irreps_"):
                try:
                    irreps = Irreps(getattr(self, field.name))
                except (ValueError, AssertionError):
                    raise ModelError(
                        f"{where}: {field.name} = {getattr(self, field.name)!r} are no irreps"
                    ) from None
                if self.no_parity and any(ir.p != 1 for _, ir in irreps):
                    raise ModelError(
                        f"{where}: {field.name} = {irreps} has odd irreps, but the network ignores "
                        "parity (no_parity = True)"
                    )
                if field.name in ("irreps_embed_node", "irreps_edge_init") and any(
                    (ir.l, ir.p) != (0, 1) for _, ir in irreps
                ):
                    raise ModelError(f"{where}: {field.name} = {irreps} must be of 0e only")


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
    for path, below, files in os.walk(root):
        below.sort()
        if fields.MODEL_CHECKPOINT in files and fields.MODEL_SOURCE in below:
            found.append(pathlib.Path(path))
    if not found:
        raise ModelError(
            f"{root}: no DeepH-E3 model here or below; one holds {fields.MODEL_CHECKPOINT} and a "
            f"folder {fields.MODEL_SOURCE}/"
        )
    return found


def _parse_build_model(path: pathlib.Path) -> NetConfig:
    try:
        tree = ast.parse(
            read_text(path, 2**20, "DeepH-E3 writes it when training starts", ModelError)
        )
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        reason = printable(str(error) or "nested too deep")[:200]
        raise ModelError(f"{path}: cannot be parsed ({reason})") from None
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Net":
            values: dict[str, Any] = {}
            for keyword in node.keywords:
                try:
                    values[str(keyword.arg)] = ast.literal_eval(keyword.value)
                except ValueError:
                    raise ModelError(
                        f"{path}: {keyword.arg} is no literal; the file is parsed, never run"
                    ) from None
            known = {f.name for f in dataclasses.fields(NetConfig)}
            required = {
                f.name for f in dataclasses.fields(NetConfig) if f.default is dataclasses.MISSING
            }
            extra, missing = sorted(set(values) - known), sorted(required - set(values))
            if extra or missing or node.args:
                raise ModelError(
                    f"{path}: Net(...) has "
                    + (
                        "unnamed arguments"
                        if node.args
                        else f"unknown arguments {extra} and lacks {missing}"
                    )
                )
            config = NetConfig(**values)
            config.check(str(path))
            return config
    raise ModelError(f"{path}: holds no Net(...)")


def _read_json(path: pathlib.Path) -> Any:
    hint = "a DeepH-E3 model folder needs src/dataset_info.json and src/target_blocks.json"
    return parse_json(read_text(path, missing=hint, error=ModelError), str(path), ModelError)


def load_checkpoint(path: pathlib.Path) -> dict[str, Any]:
    """Tensors and plain Python values of a ``.pkl``; nothing else is ever unpickled.

    Raises:
        ModelError: the file is missing or damaged, asks for a foreign object, or holds no
            state_dict.
    """
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ModelError(f"{path}: file not found") from None
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
    config = _parse_build_model(source / "build_model.py")
    info = _read_json(source / "dataset_info.json")
    try:
        basis = Basis(
            tuple(int(z) for z in info["index_to_Z"]),
            tuple(tuple(int(l) for l in s) for s in info["orbital_types"]),
            bool(info["spinful"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(
            f"{source / 'dataset_info.json'}: needs spinful, index_to_Z and orbital_types ({error})"
        ) from None
    high = max((l for shells in basis.orbital_types for l in shells), default=0)
    if high > 3:
        raise ModelError(
            f"{source / 'dataset_info.json'}: a shell with l = {high}; the DeepH format defines an "
            "orbital order for l = 0 to 3 only"
        )
    targets = TargetBlocks.from_json(
        basis, _read_json(source / "target_blocks.json"), str(source / "target_blocks.json")
    )
    if len(basis.elements) != config.num_species or Irreps(
        config.irreps_out_edge
    ) != targets.irreps(not config.no_parity):
        raise ModelError(
            f"{source}: build_model.py, dataset_info.json and target_blocks.json do not belong "
            "together (elements or output irreps differ)"
        )
    checkpoint = load_checkpoint(folder / fields.MODEL_CHECKPOINT)
    state = checkpoint.pop("state_dict")
    bad = [name for name, value in state.items() if not isinstance(value, torch.Tensor)]
    if bad:
        raise ModelError(f"{folder / fields.MODEL_CHECKPOINT}: '{bad[0]}' is no tensor")
    for name, value in state.items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise ModelError(
                f"{folder / fields.MODEL_CHECKPOINT}: parameter '{name}' contains NaN or infinite "
                "values; the training diverged, "
                "use an earlier checkpoint"
            )
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
        int(checkpoint.get("epoch", -1)),
        float(checkpoint.get("val_loss", "nan")),
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
        ModelError: the file is damaged, or names an unknown gauge.
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
    order: tuple[str, ...] = (
        "num_species",
        "irreps_embed_node",
        "irreps_edge_init",
        "irreps_sh",
        "irreps_mid_node",
        "irreps_post_node",
        "irreps_out_node",
        "irreps_mid_edge",
        "irreps_post_edge",
        "irreps_out_edge",
        "num_block",
        "r_max",
        "use_sc",
        "no_parity",
        "use_sbf",
        "only_ij",
        "if_sort_irreps",
    )
    order += tuple(
        f.name
        for f in dataclasses.fields(NetConfig)
        if f.name not in order and getattr(config, f.name) != f.default
    )
    lines = ",\n".join(f"    {name}={getattr(config, name)!r}" for name in order)
    write_text(source / "build_model.py", f"from deephe3_1 import Net\nnet = Net(\n{lines}\n)\n")
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
    with atomic_path(folder / fields.MODEL_CHECKPOINT) as path:
        torch.save(checkpoint, path)
