"""The eight settings of Tables 2-4, and one more: what each of them trains, and the model it
becomes.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import torch
from e3nn.o3 import Irreps

from ..algebra.orbitals import TargetBlocks
from ..algebra.wigner import Generation
from ..config import DataConfig, GFormerConfig, Stage1Config, TrainingConfig, within
from ..errors import ConfigError
from ..gformer.model import GFormer
from ..stage1.embedded.network import DeepHE3Net
from ..stage1.embedded.provider import EmbeddedStage1
from ..stage1.provider import Stage1Provider
from ..training.stage1_network import net_config, stage1_config

__all__ = [
    "AblationConfig",
    "AblationStage1",
    "Setting",
    "Kind",
    "SETTINGS",
    "model_config",
    "network_config",
    "scaled_network",
    "stage1_parameters",
]

Kind = Literal[
    "e3",
    "e3+e3",
    "gformer",
    "gformer+gformer",
    "e3+gformer-cas",
    "e3+gformer-cov",
    "e3+gformer-att",
    "e3+gformer",
    "e3-big",
]


class Setting(NamedTuple):
    """One row of the tables.

    Attributes:
        label, latex: its name in the paper.
        second: what is trained: ``e3``, ``gformer`` or nothing new.
        stage1: whether DeepH-E3 is below.
        cascade, features: as in :func:`train_gformer`.
        rotate: rotation augmentation.
        paper: only ``arch: paper`` can do it.
        changes: to the GFormer's configuration.
    """

    label: str
    latex: str
    second: Literal["", "e3", "gformer"]
    stage1: bool = True
    cascade: bool = True
    features: bool = True
    rotate: bool = False
    paper: bool = False
    changes: Mapping[str, Any] = {}


_S1, _G = r"$S1_{\mathrm{DeepHE3}}$", r"S2_{\mathrm{GFormer}}"
SETTINGS: dict[str, Setting] = {
    "e3": Setting("DeepHE3", r"\textit{DeepHE3}", ""),
    "e3+e3": Setting("S1_DeepHE3 + S2_DeepHE3", _S1 + r" + $S2_{\mathrm{DeepHE3}}$", "e3"),
    "gformer": Setting(
        "GFormer",
        r"\textit{GFormer}",
        "gformer",
        stage1=False,
        cascade=False,
        features=False,
        rotate=True,
        paper=True,
    ),
    "gformer+gformer": Setting(
        "S1_GFormer + S2_GFormer",
        r"$S1_{\mathrm{GFormer}}$ + $" + _G + "$",
        "gformer",
        stage1=False,
        features=False,
        rotate=True,
        paper=True,
    ),
    "e3+gformer-cas": Setting(
        "S1_DeepHE3 + S2_GFormer -cas", _S1 + " + $" + _G + r"^{-cas}$", "gformer", cascade=False
    ),
    "e3+gformer-cov": Setting(
        "S1_DeepHE3 + S2_GFormer -cov",
        _S1 + " + $" + _G + r"^{-cov}$",
        "gformer",
        features=False,
        paper=True,
        changes={"alpha": 0.0, "beta": 0.0, "lam": 0.0},
    ),
    "e3+gformer-att": Setting(
        "S1_DeepHE3 + S2_GFormer -att",
        _S1 + " + $" + _G + r"^{-att}$",
        "gformer",
        changes={"attention": "mean"},
    ),
    "e3+gformer": Setting(
        "S1_DeepHE3 + S2_GFormer (ours)", _S1 + " + $" + _G + "$ (ours)", "gformer"
    ),
    "e3-big": Setting(
        "DeepHE3, as many parameters", r"\textit{DeepHE3}, as many parameters", "e3", cascade=False
    ),
}


@dataclasses.dataclass(frozen=True)
class AblationStage1:
    """DeepH-E3: a trained model folder, or how to train one. Every other DeepH-E3 network
    (``e3+e3``, ``e3-big``) is trained in the same way.
    """

    folder: str = ""
    """A trained DeepH-E3 model folder; empty: one is trained."""
    model: Stage1Config = dataclasses.field(default_factory=Stage1Config)
    """The network to train; with ``folder`` that folder's network counts."""
    training: TrainingConfig = dataclasses.field(
        default_factory=lambda: TrainingConfig(learning_rate=2e-3, ema=0.99, hermitian=False)
    )
    """Training of every DeepH-E3 network."""
    dtype: Literal["float32", "float64"] = "float32"
    """Of the parameters; with ``folder`` that folder's."""


@dataclasses.dataclass(frozen=True)
class AblationConfig:
    """``deeph-gformer ablate``: the settings of Tables 2-4 on the same data, splits, seed and
    budget.
    """

    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    """Structures and splits; the test split is the first test set, called ``test``."""
    tests: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Further test sets, ``{name: folder}``, e.g. ``{twisted: DIR}``."""
    stage1: AblationStage1 = dataclasses.field(default_factory=AblationStage1)
    """DeepH-E3."""
    model: GFormerConfig = dataclasses.field(default_factory=GFormerConfig)
    """The GFormer of every setting."""
    training: TrainingConfig = dataclasses.field(
        default_factory=lambda: TrainingConfig(learning_rate=2e-3, loss="mae", ema=0.99)
    )
    """Training of every GFormer."""
    settings: tuple[Kind, ...] = (
        "e3",
        "e3+e3",
        "gformer",
        "gformer+gformer",
        "e3+gformer-cas",
        "e3+gformer-cov",
        "e3+gformer-att",
        "e3+gformer",
    )
    """Which rows: these eight, or ``e3-big``, a DeepH-E3 with as many parameters as both stages
    together.
    """
    seeds: tuple[int, ...] = within((42,), "[0, 4294967295]")
    """The first is the seed of the splits, of stage 1 and of every network (instead of
    ``training.seed``); each further one repeats all but ``e3``.
    """
    paper_where_needed: bool = True
    """``gformer``, ``gformer+gformer`` and ``-cov`` need ``arch: paper``; true switches them to it,
    false makes that an error.
    """
    rotations: int = within(1, "[0, inf)")
    """Random rotations per test structure for the equivariance error; 0: none."""
    output: str = "runs/ablation"
    """Where runs and tables go."""


def model_config(kind: str, config: AblationConfig, groups: int) -> GFormerConfig:
    """The GFormer of one setting.

    Args:
        kind: the setting.
        config: everything.
        groups: P of stage 1, for settings without its features.

    Raises:
        ConfigError: it needs ``arch: paper`` and may not have it.
    """
    setting = SETTINGS[kind]
    changes: dict[str, Any] = dict(setting.changes)
    if setting.paper and config.model.arch != "paper":
        if not config.paper_where_needed:
            raise ConfigError(
                f"setting '{kind}' has no stage-1 irreps to gate and needs model.arch: paper; "
                "set paper_where_needed: true or leave it out"
            )
        changes["arch"] = "paper"
    if not setting.features:
        changes["groups"] = groups
    return dataclasses.replace(config.model, **changes)


def network_config(config: AblationConfig, stage1: Stage1Provider | None) -> Stage1Config:
    """The DeepH-E3 network of ``e3+e3``: that of the model folder where one is given, otherwise the
    configured one.
    """
    if not config.stage1.folder or not isinstance(stage1, EmbeddedStage1):
        return config.stage1.model
    return stage1_config(stage1.folder.config)


def stage1_parameters(stage1: Stage1Provider) -> int:
    """Trainable numbers of a stage 1, as its checkpoint holds them."""
    total = 0
    for model in getattr(stage1, "models", (stage1,)):
        folder = getattr(model, "folder", None)
        if folder is not None:
            total += sum(
                v.numel()
                for n, v in folder.state_dict.items()
                if n.split(".")[-1] in ("weight", "bias") or ".weights" in n
            )
        elif hasattr(model, "bundle"):
            total += sum(p.numel() for p in model.bundle.model.parameters())
        elif getattr(model, "models", None):
            total += stage1_parameters(model)
    return total


def _count(config: Stage1Config, targets: TargetBlocks, generation: Generation) -> int:
    return sum(p.numel() for p in DeepHE3Net(net_config(config, targets), generation).parameters())


def scaled_network(
    config: Stage1Config, targets: TargetBlocks, generation: Generation, goal: int
) -> tuple[Stage1Config, int]:
    """The network with every multiplicity of ``irreps_mid`` multiplied by one factor so that it has
    about ``goal`` parameters.

    Returns:
        The configuration and its number of parameters.
    """

    def scaled(factor: float) -> Stage1Config:
        """The network with that many times the channels."""
        irreps = Irreps(
            [(max(1, round(mul * factor)), ir) for mul, ir in Irreps(config.irreps_mid)]
        )
        return dataclasses.replace(config, irreps_mid=str(irreps))

    low, high, found = 1.0, 2.0, []
    while _count(scaled(high), targets, generation) < goal and high < 64:
        low, high = high, 2 * high
    for _ in range(8):
        factor = (low + high) / 2
        candidate = scaled(factor)
        count = _count(candidate, targets, generation)
        found.append((abs(count - goal), count, candidate))
        if abs(count - goal) < 0.02 * goal:
            break
        low, high = (factor, high) if count < goal else (low, factor)
    _, count, best = min(found, key=lambda f: f[0])
    return best, count


def both_parameters(config: AblationConfig, stage1: Stage1Provider) -> int:
    """Parameters of stage 1 and the GFormer of ``e3+gformer`` together."""
    with torch.random.fork_rng(devices=[]):
        model = GFormer(
            config.model,
            len(stage1.targets.basis.elements),
            stage1.targets.irreps(stage1.parity),
            stage1.node_irreps,
            stage1.edge_irreps,
            stage1.cutoff,
        )
    return stage1_parameters(stage1) + sum(p.numel() for p in model.parameters())


def run_name(kind: str, seed: int, config: AblationConfig) -> str:
    """Folder of one run under the output: the setting, with its seed for repetitions."""
    return kind if seed == config.seeds[0] else f"{kind}-seed{seed}"


def bundle_folder(run: pathlib.Path) -> pathlib.Path:
    """Where a GFormer's run keeps its bundle."""
    return run / "bundle"
