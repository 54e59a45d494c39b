"""Results of verbs that read, convert and make data."""

from __future__ import annotations

import dataclasses
from typing import Any

from .base import Result

__all__ = [
    "BundleInfo",
    "CollectionInfo",
    "Conversion",
    "ModelInfo",
    "OverlapSource",
    "OverlapPredictions",
    "RunInfo",
    "StructureInfo",
    "Twists",
]


@dataclasses.dataclass(eq=False, repr=False)
class Conversion(Result):
    """Of ``convert``."""

    structures: list[dict[str, Any]]
    """A record of each: ``source``, ``target``, ``files``, ``notes``; ``skipped`` where it was
    there already, ``error`` where it could not be read."""

    @property
    def failure(self) -> str:
        """What could not be read, in one sentence; the first of them. Empty: everything could."""
        failed = [record["error"] for record in self.structures if "error" in record]
        if not failed:
            return ""
        return f"{len(failed)} of {len(self.structures)} could not be converted; first {failed[0]}"


@dataclasses.dataclass(eq=False, repr=False)
class OverlapSource(Result):
    """Of ``overlap fit`` and ``overlap info``."""

    elements: dict[str, list[int]]
    """l of each shell."""
    pairs: list[dict[str, Any]]
    """By pair of elements: ``cutoff_A``, for tables also ``valid_A`` and how well they fit."""
    kind: str
    """``fitted``, ``basis`` (computed from basis files) or ``folder``."""
    two_centre: bool | None = None
    """Whether distance alone gives S."""
    worst_off_site: float | None = None
    """Largest error of an element of S between atoms."""
    worst_on_site: float | None = None
    """The same on one atom."""
    least_eigenvalue: float | None = None
    """Of S of the training structures."""
    least_eigenvalue_predicted: float | None = None
    """Of the S that the table makes of them."""
    more: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Further keys of the table's report."""


@dataclasses.dataclass(eq=False, repr=False)
class OverlapPredictions(Result):
    """Of ``overlap predict``."""

    structures: list[dict[str, Any]]
    """A record of each: ``structure``, ``file``, ``atoms``, ``edges``, seconds of each step."""


@dataclasses.dataclass(eq=False, repr=False)
class Twists(Result):
    """Of ``build twist``."""

    twists: list[dict[str, Any]]
    """Each cell: ``mn``, ``pq``, ``angle_deg``, ``strain``, ``atoms``."""


@dataclasses.dataclass(eq=False, repr=False)
class StructureInfo(Result):
    """Of ``info`` on a structure folder."""

    kind: str
    """``structure folder``."""
    format: str
    """``legacy``, ``dock``, or another registered one."""
    name: str
    """Of the folder."""
    formula: str
    """Elements and counts."""
    atoms: int
    """In the cell."""
    orbitals: int
    """In the cell, without spin."""
    shells_l: dict[str, str]
    """l of each shell, by element."""
    spinful: bool | None
    """Whether H is spin-doubled; null where no file says so."""
    files: dict[str, str]
    """``there`` or ``missing``, by kind of matrix."""
    edges: dict[str, Any] | None = None
    """How many, and where they come from."""
    longest_edge_angstrom: float | None = None
    """Of all edges."""
    gauge: str | None = None
    """Energy zero of H."""
    fermi_level_eV: float | None = None
    """That info.json states for H."""
    predicted_gauge: str | None = None
    """Energy zero of the prediction."""
    predicted_fermi_level_eV: float | None = None
    """That info.json states for the prediction."""
    predicted_fermi_level: str | None = None
    """Why there is none."""


@dataclasses.dataclass(eq=False, repr=False)
class ModelInfo(Result):
    """Of ``info`` on a DeepH-E3 model folder."""

    kind: str
    """``DeepH-E3 model folder (stage 1)``."""
    elements: list[str]
    """That it knows."""
    shells_l: dict[str, str]
    """l of each shell, by element."""
    spinful: bool
    """Whether H is spin-doubled."""
    gauge: str
    """Energy zero of its predictions."""
    target_blocks: int
    """Outputs."""
    blocks_not_predicted: int
    """Blocks of H that it leaves to other models."""
    encoder_groups: int
    """Message-passing layers."""
    irreps_mid: str
    """Features between them."""
    harmonics: str
    """Spherical harmonics of the edges."""
    distance_basis_angstrom: float
    """Where its basis of distances ends."""
    dtype: str
    """Of its parameters."""
    parameters: int
    """Their number."""
    e3nn_generation: str
    """Conventions, read from the checkpoint."""
    epoch: int | None
    """Of the checkpoint."""
    validation_loss_eV2: float | None
    """Of the checkpoint."""


@dataclasses.dataclass(eq=False, repr=False)
class BundleInfo(Result):
    """Of ``info`` on a GFormer bundle."""

    kind: str
    """``GFormer bundle (stage 2)``."""
    arch: str
    """Which equations."""
    parameters: int
    """Their number."""
    elements: list[str]
    """That it knows."""
    shells_l: dict[str, str]
    """l of each shell, by element."""
    spinful: bool
    """Whether H is spin-doubled."""
    predicts: str
    """The correction, or the whole Hamiltonian."""
    gauge: str
    """Energy zero of its predictions."""
    dtype: str
    """Of its parameters."""
    e3nn_generation: str
    """Conventions, those of stage 1."""
    stage1: str
    """The one it belongs to."""
    lacks: str | None = None
    """What a bundle of an earlier format does not say."""
    training_data: str | None = None
    """Name of the data folder."""
    training_structures: dict[str, int] | None = None
    """How many each split had."""
    training_edges: str | None = None
    """What it learned from: the blocks of ``overlaps`` or of ``hamiltonians``."""
    edge_variants: int | None = None
    """How often each training structure came with other edges."""
    onsite_levels: str | None = None
    """The linear model that the levels of its predictions follow."""
    onsite_levels_val_mae_meV: list[float] | None = None
    """Error of H on validation, without and with it."""
    onsite_levels_val_states_error_meV: list[float] | None = None
    """Error of DFT's states there, likewise."""
    training_epochs: int | None = None
    """That were run."""
    stage1_val_mae_meV: float | None = None
    """Error of stage 1 alone on validation."""
    best_val_mae_meV: float | None = None
    """Error of both stages there."""
    best_val_states_meV: float | None = None
    """Error of DFT's states there."""
    best_val_ghost_meV: float | None = None
    """Coupling of these states to others there."""
    monitor: str | None = None
    """What the best epoch is best in."""
    deeph_gformer: str | None = None
    """Version that trained it."""
    card: dict[str, Any] | None = None
    """Its model card, see :class:`deeph_gformer.analysis.card.Card`."""
    note: str | None = None
    """Why there is no card."""
    warning: str | None = None
    """That it is worse than its stage 1."""


@dataclasses.dataclass(eq=False, repr=False)
class CollectionInfo(Result):
    """Of ``info`` on a folder of structure folders or of models."""

    kind: str
    """Which of them."""
    structures: int | None = None
    """How many."""
    first: str | None = None
    """The first folder."""
    first_formula: str | None = None
    """Its elements and counts."""
    spinful: bool | None = None
    """Whether H is spin-doubled; absent where structures differ."""
    warning: str | None = None
    """In what structures differ that one model needs alike."""
    models: list[str] | None = None
    """Folders of the models."""


@dataclasses.dataclass(eq=False, repr=False)
class RunInfo(Result):
    """Of ``info`` on a training run."""

    kind: str
    """``run of train`` or ``run of train-stage1``."""
    state: str
    """``finished``, ``running``, ``stopped`` or ``not begun``."""
    epochs: dict[str, int]
    """``done`` and ``planned``."""
    structures: dict[str, int]
    """How many each split has."""
    data: str
    """The data folder."""
    next: str
    """What to do now."""
    stage1: str | None = None
    """Below a GFormer."""
    best: dict[str, float] | None = None
    """``epoch`` and ``validation_mae_meV`` of what is kept."""
    result: str | None = None
    """Folder of the bundle or model."""
    warning: str | None = None
    """That it is worse than its stage 1."""
