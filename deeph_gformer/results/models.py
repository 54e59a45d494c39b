"""Results of predictions, evaluations and trainings."""

from __future__ import annotations

import dataclasses
from typing import Any

from .base import Result

__all__ = [
    "Evaluation",
    "FoldTraining",
    "IniEvaluation",
    "Refinement",
    "Stage1Training",
    "Training",
]


@dataclasses.dataclass(eq=False, repr=False)
class Refinement(Result):
    """Of ``refine``."""

    structures: list[dict[str, Any]]
    """A record of each: name, files, sizes, times, memory, correction, guard, errors."""
    total: dict[str, Any]
    """Sums, and mean errors where DFT's H is there."""
    skipped: list[str]
    """Structures that had a prediction already."""
    without_edges: list[str]
    """Folders that were left out because they have neither S nor H."""


@dataclasses.dataclass(eq=False, repr=False)
class IniEvaluation(Result):
    """Of ``eval``, DeepH-E3's evaluation."""

    structures: list[dict[str, Any]]
    """A record of each: name, files, sizes, seconds, and its errors where DFT's H is there."""
    skipped: list[str]
    """Folders without S (or, for a test, without H)."""
    notes: list[str]
    """What of the ini file has no effect."""
    output_dir: str
    """Where predictions were written."""
    test_result: str | None
    """DeepH-E3's file of errors; null for an inference."""


@dataclasses.dataclass(eq=False, repr=False)
class Evaluation(Result):
    """Of ``evaluate``: errors in meV, of stage 1 and of both stages."""

    structures: list[dict[str, Any]]
    """A record of each: MAE of H (``stage1_mae_meV``, ``refined_mae_meV``, their ``ratio``;
    ``raw_`` and ``gauge_free_``), ``states_error_meV``, ``ghost_meV``, invariance; ``edges`` and,
    of them, ``hamiltonian_only_edges`` (H has them and S has not)."""
    total: dict[str, Any]
    """MAE_all, MAE_cha.s, MAE_cha.b of both stages, and means of what the records hold."""
    edges: str
    """Which blocks were edges."""
    frames: int
    """Rotated frames that were averaged."""
    gauge: str
    """Energy zero of the model."""
    errors: str
    """Which errors count: ``raw`` or ``without μS``."""
    places: list[dict[str, Any]]
    """Errors by place: on-site, within and between layers."""
    distance: dict[str, Any]
    """Errors by distance."""
    basis: dict[str, Any]
    """``elements`` and ``orbital_types`` (l of each shell) of the model."""
    blocks: list[dict[str, Any]]
    """MAE_block of each target block, and of each pair of elements in it."""
    equivariance: dict[str, Any] | None = None
    """Errors of equivariance under random rotations."""
    plots: list[str] | None = None
    """Files of ``--plots``."""
    worst: dict[str, Any] | None = None
    """Geometry and bands of the structure with the largest error (``--report``)."""
    provenance: dict[str, str] | None = None
    """Command, files, fingerprints, versions and date (``--report``)."""
    model_card: dict[str, str] | None = None
    """What the model is (``--report``)."""


@dataclasses.dataclass(eq=False, repr=False, kw_only=True)
class _Trained(Result):
    """What both trainings tell."""

    structures: dict[str, int]
    """How many each split has."""
    parameters: int
    """Of the network."""
    epochs: int
    """That were run."""
    seconds: float
    """Of this command's epochs."""
    monitor: str
    """What the best epoch is best in."""
    best_val_mae_meV: float
    """Error of H on validation in the best epoch."""
    best_val_states_meV: float | None = None
    """Error of DFT's states there."""
    best_val_ghost_meV: float | None = None
    """Coupling of these states to others there."""
    best_epoch: int | None = None
    """Counted from 0."""
    edges: str | None = None
    """What it learned from where structures have both H and S: ``overlaps`` or ``hamiltonians``."""
    gauge: str
    """Energy zero of the labels."""
    gauge_reason: str
    """Why this one."""
    mu_mean_eV: float | None
    """Mean of μ over the training structures, where it was measured."""
    mu_spread_eV: float | None
    """Its standard deviation."""
    more: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Keys of records that another version began."""


@dataclasses.dataclass(eq=False, repr=False, kw_only=True)
class Training(_Trained):
    """Of ``train``; it also stands in the bundle."""

    data: str
    """Name of the data folder."""
    training_edges: int
    """Edges of all training structures."""
    config: dict[str, Any]
    """All settings."""
    deeph_gformer: str
    """Version of the package."""
    stage1_val_mae_meV: float | None
    """Error of stage 1 alone on validation; null where there is none."""
    stage1_train_mae_meV: float | None = None
    """Error of stage 1 alone on the training structures."""
    stage1_seen: dict[str, Any] | None = None
    """Training structures that stage 1 was trained on, and what they count."""
    cross_fit: int | None = None
    """Number of networks that did not see the structure."""
    setting: str | None = None
    """Of the paper's eight (``ablate``)."""
    time_reversal: bool | None = None
    """Whether the training data have it."""
    electrons: list[dict[str, Any]] | None = None
    """Electrons by composition."""
    periodicity: list[int] | None = None
    """In how many directions the training structures repeat."""
    nearest: dict[str, Any] | None = None
    """How near atoms of the training and validation structures are to each other."""
    trained_on: dict[str, Any] | None = None
    """What tells the structures from others, with those of the bundle that it started from."""
    validation: dict[str, float] | None = None
    """Errors of the finished bundle, raw and without μS."""
    start_validation: dict[str, float] | None = None
    """``--from``: those of the bundle that it started from, on the same structures."""
    guard: dict[str, Any] | None = None
    """Statistics of the training set, for the guard."""


@dataclasses.dataclass(eq=False, repr=False, kw_only=True)
class Stage1Training(_Trained):
    """Of ``train-stage1``; it also stands in the run folder (``record.json``)."""

    e3nn_generation: str
    """Conventions of the network."""


@dataclasses.dataclass(eq=False, repr=False, kw_only=True)
class FoldTraining(Stage1Training):
    """Of ``train-stage1 --folds``: the final network; with ``--final`` the first of the others."""

    folds: list[dict[str, Any]]
    """The same of each network that did not see a part of the structures."""


@dataclasses.dataclass(eq=False, repr=False, kw_only=True)
class LevelFit(Result):
    """Of ``onsite``: errors are means over the validation structures, before and after."""

    kept: bool
    """Whether errors fell by enough, so that the bundle was written."""
    bundle: str | None
    """The new bundle."""
    structures: dict[str, int]
    """How many each split has."""
    val_mae_meV: list[float]
    """Of H, without μS."""
    val_states_meV: list[float] | None
    """Of DFT's states; null where they are not known."""
    shells: list[dict[str, Any]]
    """Of each kind of shell: ``l`` and ``number`` (from 0, of this l), ``spread_meV`` of its
    levels, ``left_out_meV``, the rms error of the linear model in training structures that were
    left out of its fit, ``val_meV``, that of predictions on validation, before and after, and the
    ``share`` that it has in them."""
    between_atoms: list[float]
    """Shares in blocks between atoms: of the mean shift of an atom's shells, and of the rest."""
    radial_functions: int
    """Of the linear model."""
    cutoff_angstrom: float
    """Within which atoms are its neighbours."""
