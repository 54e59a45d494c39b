"""A trained GFormer on disk: ``gformer.safetensors`` (tensors) and ``bundle.json`` (everything
else). Nothing is pickled.

The bundle names the stage 1 it was trained on by a fingerprint of its parameters; another stage 1
is refused, because the correction of one model is noise on another.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import torch
from e3nn.o3 import Irreps

from .. import __version__
from ..algebra.orbitals import TargetBlocks
from ..algebra.wigner import Generation
from ..config import GFormerConfig, from_mapping, to_mapping, upgrade_model
from ..data.edges import LearnedEdges
from ..data.fingerprint import fingerprint
from ..errors import ConfigError, DataError, ModelError
from ..fields import OVERLAP_TABLE
from ..io.files import atomic_path, json_text, read_json, require_file
from ..io.gauge import Gauge
from ..io.locks import await_writers
from ..onsite.levels import LevelModel
from ..overlap.neighbours import symbol
from .model import GFormer
from .schema import FORMAT, PLAIN_FORMAT, check_table, require_unchanged, table_fingerprint

__all__ = [
    "Bundle",
    "Stage1Identity",
    "fingerprint",
    "save_bundle",
    "load_bundle",
    "BUNDLE_FILE",
    "WEIGHTS_FILE",
]

BUNDLE_FILE, WEIGHTS_FILE = "bundle.json", "gformer.safetensors"


@dataclasses.dataclass(frozen=True)
class Stage1Identity:
    """What a GFormer needs to know of its stage 1.

    Attributes:
        fingerprint: of the parameters (see :func:`fingerprint`).
        name: folder it was read from.
        generation: e3nn generation.
        node_irreps, edge_irreps: per encoder group.
    """

    fingerprint: str
    name: str
    generation: Generation
    node_irreps: tuple[str, ...]
    edge_irreps: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Bundle:
    """A GFormer with its surroundings.

    Attributes:
        model: the network, in evaluation mode.
        targets: elements, shells, channels.
        stage1: its stage 1; None for a GFormer alone.
        cascade: True: it predicts the correction; False: the whole Hamiltonian.
        parity: whether its output irreps have parity.
        dtype: real type.
        features: whether it reads stage 1's irreps.
        gauge: ``raw`` or ``standard``.
        training: free-form record (data, splits, errors in meV, settings).
        path: where it was read from.
        format: of the files it was read from.
    """

    model: GFormer
    targets: TargetBlocks
    stage1: Stage1Identity | None
    generation: Generation
    cascade: bool = True
    parity: bool = True
    dtype: torch.dtype = torch.float32
    gauge: Gauge = "raw"
    features: bool = True
    training: dict[str, Any] = dataclasses.field(default_factory=dict)
    path: pathlib.Path | None = None
    format: int = FORMAT

    @property
    def time_reversal(self) -> bool:
        """Whether the training data had time reversal, so that predictions have it."""
        return self.targets.basis.spinful and self.training.get("time_reversal") is True

    @property
    def learned_edges(self) -> LearnedEdges:
        """The edges that it was trained on; bundles that do not say so took those of H."""
        return self.training.get("edges", "hamiltonians")

    @functools.cached_property
    def levels(self) -> LevelModel | None:
        """The linear model of on-site levels, None in most bundles."""
        table = self.training.get("levels")
        return None if table is None else LevelModel.from_json(table)

    @property
    def lacks(self) -> str:
        """What a bundle of an earlier format does worse than one trained today.

        Empty where nothing.
        """
        if self.format >= 3:
            return ""
        jumps = (
            "its correction jumps where two neighbours change their order of distance or an edge "
            "enters or leaves, "
            if self.model.equivariant
            else ""
        )
        return (
            f"format {self.format}, from before the ranges of its edges were kept: {jumps}"
            "and single precision is less exact on symmetric crystals; train it again"
        )

    def __repr__(self) -> str:
        parameters = sum(p.numel() for p in self.model.parameters())
        basis = self.targets.basis
        return (
            f"Bundle({self.path or 'unsaved'}: GFormer arch {self.model.config.arch}, "
            f"{parameters:,} parameters, elements {', '.join(map(symbol, basis.elements))}, "
            f"spinful={basis.spinful}, stage 1 {self.stage1.name if self.stage1 else 'none'}"
            + (")" if self.levels is None else ", on-site levels)")
        )


def save_bundle(folder: str | os.PathLike[str], bundle: Bundle) -> None:
    """Write a bundle: each file in one step, and ``bundle.json`` is there only with its weights."""
    from safetensors.torch import save

    folder = pathlib.Path(folder)
    basis = bundle.targets.basis
    tensors = {
        name: value.detach().cpu().contiguous() for name, value in bundle.model.state_dict().items()
    }
    table = {
        "format": FORMAT if bundle.levels is not None else PLAIN_FORMAT,
        "deeph_gformer": __version__,
        "torch": torch.__version__.split("+")[0],
        "model": to_mapping(bundle.model.config),
        "cutoff_angstrom": bundle.model.cutoff,
        "edge_range_angstrom": bundle.model.envelope.range.double().tolist(),
        "cascade": bundle.cascade,
        "parity": bundle.parity,
        "features": bundle.features,
        "gauge": bundle.gauge,
        "dtype": str(bundle.dtype).removeprefix("torch."),
        "e3nn_generation": bundle.generation,
        "basis": {
            "elements": list(basis.elements),
            "orbital_types": [list(s) for s in basis.orbital_types],
            "spinful": basis.spinful,
        },
        "target_blocks": bundle.targets.to_json(),
        "stage1": dataclasses.asdict(bundle.stage1) if bundle.stage1 else None,
        "weights": fingerprint(bundle.model.state_dict()),
        "training": bundle.training,
        "overlap_table": _digest(folder / OVERLAP_TABLE),
    }
    table = json.loads(json_text(table))
    table["fingerprint"] = table_fingerprint(table)
    with atomic_path(folder / BUNDLE_FILE) as described:
        described.write_text(json_text(table))
        with atomic_path(folder / WEIGHTS_FILE) as path:
            path.write_bytes(save(tensors))
            # between the old pair and the new one there is no bundle.json: no reader mixes them
            (folder / BUNDLE_FILE).unlink(missing_ok=True)


def _digest(path: pathlib.Path) -> str | None:
    """SHA-256 of a file, None where there is none."""
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


def _require_types(
    found: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor], path: pathlib.Path
) -> None:
    """Raise where a tensor is stored in another type than the network's.

    Raises:
        ModelError: names it.
    """
    for name, value in found.items():
        if name in wanted and value.dtype != wanted[name].dtype:
            kinds = (str(t.dtype).removeprefix("torch.") for t in (value, wanted[name]))
            raise ModelError("{}: '{}' is of {} instead of {}".format(path, name, *kinds))


def load_bundle(folder: str | os.PathLike[str]) -> Bundle:
    """Read a bundle.

    Raises:
        ModelError: a file is missing or damaged, is of a newer format, or JSON and tensors do not
            belong together.
    """
    folder = pathlib.Path(folder)
    path = folder / BUNDLE_FILE
    table = _read_table(folder)
    try:
        bundle = _without_weights(table, folder)
    except ConfigError as error:
        raise ModelError(str(error)) from None
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{path}: damaged, entry {error} is missing or wrong") from None
    except RuntimeError as error:  # of torch: sizes that no network can have
        raise ModelError(f"{path}: no such network ({_last_line(error)})") from None
    weights = _load_weights(bundle.model, folder)
    if fingerprint(weights) != table["weights"]:
        raise ModelError(
            f"{folder}: {WEIGHTS_FILE} and {BUNDLE_FILE} are of different bundles (the weights' "
            "fingerprint differs)"
        )
    require_unchanged(table, str(path))
    own = bundle.model.envelope.range.double().cpu()
    ranges = torch.tensor(table.get("edge_range_angstrom", ()), dtype=torch.float64)
    if len(ranges) and not torch.allclose(ranges, own, rtol=1e-6):
        raise ModelError(
            f"{path}: edge_range_angstrom is not that of {WEIGHTS_FILE}; take the original files"
        )
    bundle.model.eval().requires_grad_(False)
    return bundle


def _read_table(folder: pathlib.Path) -> dict[str, Any]:
    """A bundle's JSON, of a format that this version reads.

    Raises:
        ModelError: it is not there, damaged or newer, or the overlap table is another bundle's.
    """
    path = folder / BUNDLE_FILE
    if not path.exists():
        await_writers(folder)  # a training that replaces its weights
    try:
        table = read_json(path)
    except DataError as error:
        inside = next(folder.glob(f"*/{BUNDLE_FILE}"), None) if not path.exists() else None
        hint = f"; {inside.parent} has them" if inside else ""
        raise ModelError(
            f"{error}; a GFormer bundle holds {BUNDLE_FILE} and {WEIGHTS_FILE}{hint}"
        ) from None
    if not isinstance(table, dict) or type(table.get("format")) is not int:
        raise ModelError(f"{path}: no GFormer bundle (it has no 'format')")
    if table["format"] > FORMAT:
        raise ModelError(
            f"{path}: bundle format {table['format']} is newer than this deeph-gformer "
            f"{__version__} reads ({FORMAT}); update it"
        )
    check_table(table, str(path))
    if table["format"] >= 4 and _digest(folder / OVERLAP_TABLE) != table["overlap_table"]:
        raise ModelError(
            f"{folder / OVERLAP_TABLE}: is not the table of this bundle (another one, or none, was "
            f"there when {BUNDLE_FILE} was written); take the original files"
        )
    return table


def _without_weights(table: Mapping[str, Any], folder: pathlib.Path) -> Bundle:
    """The bundle that a JSON describes, its network with random weights.

    Args:
        table: see :func:`_read_table`.
        folder: of the bundle.

    Raises:
        ConfigError, KeyError, TypeError, ValueError: an entry is missing or wrong.
    """
    from ..algebra.orbitals import Basis

    where = str(folder / BUNDLE_FILE)
    config = from_mapping(GFormerConfig, upgrade_model(table["model"]), where)
    basis = Basis(
        tuple(table["basis"]["elements"]),
        tuple(tuple(s) for s in table["basis"]["orbital_types"]),
        table["basis"]["spinful"],
    )
    targets = TargetBlocks.from_json(basis, table["target_blocks"], where)
    raw, stage1 = table["stage1"], None
    if raw:
        irreps = (tuple(raw["node_irreps"]), tuple(raw["edge_irreps"]))
        stage1 = Stage1Identity(raw["fingerprint"], raw["name"], raw["generation"], *irreps)
    features = table.get("features", True)
    model = GFormer(
        config,
        len(basis.elements),
        targets.irreps(table["parity"]),
        stage1.node_irreps if stage1 is not None and features else (),
        stage1.edge_irreps if stage1 is not None and features else (),
        table["cutoff_angstrom"],
    )
    dtype = {"float32": torch.float32, "float64": torch.float64}[table["dtype"]]
    return Bundle(
        model.to(dtype),
        targets,
        stage1,
        table["e3nn_generation"],
        table["cascade"],
        table["parity"],
        dtype,
        table["gauge"],
        features,
        table.get("training", {}),
        folder,
        table["format"],
    )


def _last_line(error: Exception) -> str:
    return str(error).splitlines()[-1].strip() if str(error) else type(error).__name__


def _load_weights(model: GFormer, folder: pathlib.Path) -> dict[str, torch.Tensor]:
    """Fill a network with the tensors of a bundle; returns them.

    Raises:
        ModelError: the file is not there, damaged, of another network or type, or not finite.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = require_file(folder / WEIGHTS_FILE, error=ModelError)
    try:
        weights = load_file(path)
        _require_types(weights, model.state_dict(), path)
        model.load_state_dict(weights)
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{path}: damaged ({error})") from None
    except RuntimeError as error:
        raise ModelError(
            f"{folder}: {WEIGHTS_FILE} does not fit {BUNDLE_FILE} ({_last_line(error)})"
        ) from None
    if any(v.is_floating_point() and not torch.isfinite(v).all() for v in weights.values()):
        raise ModelError(f"{path}: contains NaN or infinite values")
    return weights


def require_irreps(
    bundle: Bundle, node: tuple[Irreps, ...], edge: tuple[Irreps, ...], name: str
) -> None:
    """Refuse a stage 1 whose irreps are not those the bundle was trained with.

    Raises:
        ModelError: names both.
    """
    if bundle.stage1 is None:
        return
    for what, mine, theirs in (
        ("node", bundle.stage1.node_irreps, node),
        ("edge", bundle.stage1.edge_irreps, edge),
    ):
        if tuple(map(Irreps, mine)) != tuple(theirs):
            raise ModelError(
                f"{bundle.path}: was trained on a stage 1 with {what} irreps {list(mine)}, "
                f"{name} has {list(map(str, theirs))}"
            )
