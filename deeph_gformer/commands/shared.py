"""Options that several verbs have, each in one place: classes to inherit from, and fields."""

from __future__ import annotations

import argparse
import dataclasses
import pathlib
from typing import Any, Literal

from ..errors import ConfigError
from ..results import Result
from .options import Number, Options, Verb, argument, filled, option
from .single import DEVICES, dtype_option, frames_option

__all__ = [
    "EdgeOptions",
    "ElectronOptions",
    "EngineOptions",
    "HamiltonianOptions",
    "JsonOption",
    "LevelOptions",
    "ModelOptions",
    "OneHamiltonian",
    "PredictionOptions",
    "Stage1Options",
    "require_window",
    "projections_option",
    "window_option",
    "write_result",
]


@dataclasses.dataclass(frozen=True, kw_only=True)
class JsonOption(Options):
    """``--json``."""

    json: pathlib.Path | None = option(
        type=pathlib.Path, metavar="FILE", writes="file", help="also write the result as JSON"
    )


def write_result(options: Options, verb: Verb, found: Result) -> None:
    """Write ``--json``, where it was asked for.

    Args:
        options: of the verb.
        verb: which one.
        found: what it found.

    Raises:
        TypeError: the verb does not say that it finds such things.
    """
    if not isinstance(found, verb.results):
        raise TypeError(f"{verb.name} finds a {type(found).__name__}, which it does not declare")
    if isinstance(options, JsonOption) and options.json is not None:
        from ..io.files import write_json

        write_json(options.json, found.to_json())


# -- models ---


@dataclasses.dataclass(frozen=True, kw_only=True)
class EngineOptions(Options):
    """What runs stage 1."""

    backend: str = option(
        default="auto",
        metavar="NAME",
        group="stage 1",
        help="code that runs DeepH-E3: embedded (part of this package), official (your clone of "
        "DeepH-E3), the name of an installed plugin, or auto (official with --deephe3-root, else "
        "embedded)",
    )
    deephe3_root: pathlib.Path | None = option(
        type=pathlib.Path,
        metavar="DIR",
        group="stage 1",
        help="your clone of DeepH-E3, which is then what runs DeepH-E3",
    )
    e3nn_generation: str | None = option(
        metavar="GEN",
        group="stage 1",
        help="e3nn version that the DeepH-E3 model was trained with, 0.3, 0.4 or '>=0.5'; needed "
        "only where its checkpoint does not tell",
    )

    def generation(self) -> Any:
        """``--e3nn-generation``, or None.

        Raises:
            ConfigError: there is none of that name.
        """
        from ..algebra.wigner import parse_generation

        return parse_generation(self.e3nn_generation) if self.e3nn_generation else None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stage1Options(EngineOptions):
    """What runs stage 1, and what it does not predict."""

    fill_missing: float | None = option(
        type=Number(),
        metavar="EV",
        group="stage 1",
        help="value, in eV, of matrix elements that no DeepH-E3 model predicts (without it they "
        "are an error)",
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelOptions(Stage1Options):
    """Both stages."""

    stage1: pathlib.Path | None = option(
        type=pathlib.Path,
        metavar="MODEL_DIR",
        group="model",
        help="DeepH-E3 model folder (best_model.pkl and src), or a folder of several",
    )
    model: pathlib.Path | None = option(
        type=pathlib.Path,
        metavar="BUNDLE",
        group="model",
        help="GFormer bundle, as 'train' leaves it in RUN/bundle",
    )
    device: str = option(default="auto", metavar="NAME", group="model", help=DEVICES)
    dtype: Literal["float32", "float64"] | None = dtype_option(None, "that of stage 1")


@dataclasses.dataclass(frozen=True, kw_only=True)
class EdgeOptions(ModelOptions):
    """Models, and which blocks they predict."""

    edges: Literal["auto", "overlaps", "hamiltonians", "union"] = option(
        default="auto",
        help="which blocks are predicted: those that overlaps.h5 has, those that hamiltonians.h5 "
        "has, or both; auto: where there are both files, those of overlaps.h5 if the model learned "
        "these, else both",
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class PredictionOptions(EdgeOptions):
    """How structures are predicted."""

    frames: int = frames_option("only for models of arch: paper")


# -- Hamiltonians ---

_H, _E = "Hamiltonian", "electrons and Fermi level"


@dataclasses.dataclass(frozen=True, kw_only=True)
class HamiltonianOptions(JsonOption):
    """H, S and the eigenvalue problem."""

    overlap: pathlib.Path | None = option(
        type=pathlib.Path,
        metavar="SOURCE",
        group=_H,
        shown="beside H, else the first folder's",
        help="where S is: a structure folder or the overlaps.h5 in one, basis files (a file or "
        "a folder of them), or a table (.npz of 'overlap fit', or a GFormer bundle that holds one)",
    )
    s_threshold: float | None = option(
        type=Number(above=0),
        metavar="X",
        group=_H,
        help="project out eigenvectors of S(k) with eigenvalues below X, e.g. 1e-4, where the "
        "basis is nearly linearly dependent",
    )
    hermitize: bool = option(
        default=False, group=_H, help="accept a Hamiltonian far from Hermitian, as ½(H + H†)"
    )
    processes: int = option(
        type=Number(int, least=1),
        default=1,
        metavar="N",
        group=_H,
        help="k-points in N parallel processes",
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ElectronOptions(HamiltonianOptions):
    """The number of electrons, and how they are counted."""

    #: Without ``--fermi`` electrons are counted.
    fermi: str | float = "auto"
    electrons: float | None = option(
        type=Number(above=0),
        metavar="N",
        group=_E,
        shown="as in --bundle, else occupation in info.json, else counted below info.json's "
        "Fermi level",
        help="electrons per cell",
    )
    bundle: pathlib.Path | None = option(
        type=pathlib.Path,
        metavar="BUNDLE",
        group=_E,
        help="GFormer bundle whose training set tells how many electrons a cell has",
    )
    valence: str | None = option(
        type=filled,
        metavar="C=4,Mo=14",
        group=_E,
        help="electrons per element, as counted by DFT (without cores)",
    )
    mesh: str | None = option(
        metavar="12x12x1",
        group=_E,
        shown="points 0.12 1/Å apart",
        help="Γ-centred k mesh, for the counting and for all sums over k",
    )
    smearing: Literal["gaussian", "fermi", "tetrahedron"] = option(
        default="gaussian",
        group=_E,
        help="smearing of the occupations, where electrons are counted",
    )
    width: float = option(
        type=Number(above=0),
        default=0.02,
        unit="eV",
        metavar="EV",
        group=_E,
        help="width of the smearing: standard deviation of the Gaussian, kT of fermi",
    )

    def __post_init__(self) -> None:
        """One source of electrons.

        Raises:
            ConfigError: options contradict each other.
        """
        super().__post_init__()
        if self.electrons is not None and self.valence is not None:
            raise ConfigError(
                "--electrons and --valence both say how many electrons there are; give one of them"
            )
        if not self.counts and (self.electrons is not None or self.valence is not None):
            raise ConfigError(
                f"--fermi {self.fermi} needs no electrons; leave --electrons and --valence away, "
                "or --fermi to count them"
            )

    @property
    def counts(self) -> bool:
        """Whether the Fermi level is found by counting electrons."""
        return self.fermi == "auto"


def _level(text: str) -> str | float:
    """argparse type: ``auto``, ``info`` or a number.

    Raises:
        ArgumentTypeError: none of them.
    """
    try:
        return text if text in ("auto", "info") else Number()(text)
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(f"'{text}': auto, info, or an energy in eV") from None


@dataclasses.dataclass(frozen=True, kw_only=True)
class LevelOptions(ElectronOptions):
    """The Fermi level."""

    fermi: str | float = option(
        type=_level,
        default="auto",
        metavar="auto|info|EV",
        group=_E,
        help="Fermi level: auto counts electrons, info takes the value that info.json has for "
        "this very Hamiltonian, or a number in eV",
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class OneHamiltonian(HamiltonianOptions):
    """One folder, and which of its Hamiltonians."""

    folder: pathlib.Path = argument(metavar="DIR", help="structure folder, legacy or DeepH-dock")
    prediction: bool = option(
        default=False,
        help="use hamiltonians_pred.h5 (without it hamiltonians.h5, where that is there)",
    )


def projections_option(group: str = "") -> Any:
    """``--fat``.

    Args:
        group: heading in the help.
    """
    return option(
        type=filled,
        metavar="Mo-d,S-p",
        group=group,
        help="Mulliken projections: element, atom number or shell, or two of them with a dash; "
        "layers of a slab: layers2, layer1of2, layer1of2-Mo-d",
    )


def window_option(what: str, default: str, group: str = "") -> Any:
    """``--window LOW HIGH``; without it a verb takes its own, which grows with a wide gap.

    Args:
        what: is in it.
        default: that of the verb.
        group: heading in the help.
    """
    return option(
        nargs=2,
        type=Number(),
        metavar=("LOW", "HIGH"),
        shown=f"{default}, more where the gap is wide",
        group=group,
        help=f"{what}, eV from the Fermi level",
    )


def require_window(window: tuple[float, float] | None) -> None:
    """Check ``--window LOW HIGH``.

    Raises:
        ConfigError: the first energy is not below the second, or they are beyond all energies.
    """
    if window is not None and not window[0] < window[1]:
        raise ConfigError(
            f"--window {window[0]:g} {window[1]:g}: the first energy must be below the second"
        )
    if window is not None and max(map(abs, window)) > 1e6:
        raise ConfigError(f"--window {window[0]:g} {window[1]:g}: energies are within 10^6 eV")
