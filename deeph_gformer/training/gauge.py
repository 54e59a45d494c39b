"""Which zero of energy a training uses: H as the DFT code wrote it, or H - μS.

μ = <H,S>/<S,S> of each structure.
A code's zero of energy (an average potential, a pseudopotential convention) may wander from
structure to structure. No network can know it, and it is no physics; where μ wanders, labels
without it are learned far better.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch

from ..data.dataset import energy_zero
from ..data.gauge import gauge_shift
from ..errors import ConfigError, DataError, GFormerError
from ..io.blocks import BlockMatrix
from ..io.folder import has_matrix, matrix_path, read_folder, read_matrix
from ..io.gauge import Gauge
from ..pipeline import HamiltonianModel
from ..stage1.provider import Stage1Provider

__all__ = ["GaugeChoice", "choose_gauge", "energy_zeros"]

#: Spread of μ over a set, eV, up to which its zero of energy counts as one.
LEAST_SPREAD_EV = 1e-3
#: Structures of a large set that are looked at.
MOST_STRUCTURES = 64
#: A stage 1 of unknown gauge is run on so many structures.
PROBES = 3
#: Where μ itself is so small, both gauges are the same, eV.
LEAST_MU_EV = 0.02


@dataclasses.dataclass(frozen=True)
class GaugeChoice:
    """The gauge of a training.

    Attributes:
        gauge: ``raw`` or ``standard``.
        reason: one sentence.
        mean_eV: mean of μ over the training set; None where μ cannot be known.
        spread_eV: its standard deviation.
    """

    gauge: Literal["raw", "standard"]
    reason: str
    mean_eV: float | None = None
    spread_eV: float | None = None

    def __str__(self) -> str:
        name = {"raw": "raw", "standard": "standard (H - μS)"}[self.gauge]
        return f"gauge {name}: {self.reason}"

    def to_json(self) -> dict[str, Any]:
        """Plain values for records."""
        return {
            "gauge": self.gauge,
            "gauge_reason": self.reason,
            "mu_mean_eV": self.mean_eV,
            "mu_spread_eV": self.spread_eV,
        }


def _matrices(folder: pathlib.Path) -> tuple[BlockMatrix, BlockMatrix, bool]:
    """H and S of a structure folder, and whether H is spin-doubled.

    Raises:
        DataError: a file is missing or damaged.
    """
    structure = read_folder(folder)
    spinful = bool(structure.spinful)
    path = matrix_path(folder, "overlap")
    if not path.is_file():
        raise DataError(
            f"{path}: file not found, so the zero of energy of {folder} cannot be taken out; "
            "add the overlaps (deeph-gformer overlap), or set data.gauge=raw"
        )
    return (
        read_matrix(folder, "hamiltonian", structure, spinful),
        read_matrix(folder, "overlap", structure),
        spinful,
    )


def energy_zeros(folders: Sequence[pathlib.Path]) -> list[float]:
    """μ of each structure, eV.

    Args:
        folders: structure folders; of more than :data:`MOST_STRUCTURES` equally spaced ones are
            taken.

    Raises:
        DataError: overlaps are missing, or H lacks blocks of S; names the file.
    """
    for folder in folders:  # a missing file is noticed anywhere in the set
        if not has_matrix(folder, "overlap"):
            _matrices(folder)
    few = np.linspace(0, len(folders) - 1, min(len(folders), MOST_STRUCTURES)).round().astype(int)
    return [energy_zero(folders[n], *_matrices(folders[n])) for n in few]


def _follows(
    stage1: Stage1Provider, folders: Sequence[pathlib.Path], device: torch.device
) -> tuple[Gauge, str]:
    """Which gauge the predictions of a stage 1 are in, by their own μ.

    ``unknown`` where neither is near.
    """
    model = HamiltonianModel(stage1, None, device)
    own, labels = [], []
    for folder in folders[:PROBES]:
        hamiltonian, overlap, spinful = _matrices(folder)
        made = model.predict(folder, "hamiltonians", any_basis=True)
        own.append(gauge_shift(made.stage1, overlap, spinful))
        labels.append(gauge_shift(hamiltonian, overlap, spinful))
    away = {
        "raw": float(np.abs(np.array(own) - labels).mean()),
        "standard": float(np.abs(own).mean()),
    }
    text = f"its own μ is {np.mean(own):.3f} eV where DFT's is {np.mean(labels):.3f}"
    if np.abs(labels).mean() < LEAST_MU_EV:
        return "unknown", f"{text}, too small to tell"
    near, far = sorted(away, key=lambda name: away[name])
    return ("unknown" if away[near] > 0.3 * away[far] else near), text  # type: ignore[return-value]


def choose_gauge(
    asked: Literal["auto", "raw", "standard"],
    folders: Sequence[pathlib.Path],
    stage1: Stage1Provider | None = None,
    *,
    correction: bool = True,
    device: torch.device | None = None,
) -> GaugeChoice:
    """The gauge of a training.

    A correction is of the gauge of its stage 1: that which the model folder states, else that which
    its predictions follow. Without stage 1 (or for ``cascade=false``, which does not add to it) the
    spread of μ over the training set decides.

    Args:
        asked: ``data.gauge``.
        folders: training structures.
        stage1: the frozen network below, or that a training goes on from; None: there is none.
        correction: whether what is learned is added to stage 1.
        device: where stage 1 runs when its gauge has to be measured; default: the CPU.

    Raises:
        ConfigError: ``asked`` contradicts stage 1.
        DataError: the standard gauge is asked or needed, and μ of a structure cannot be known.
    """
    zeros, missing = None, ""
    try:
        zeros = energy_zeros(folders)
    except DataError as error:
        missing = str(error)
    mean = None if zeros is None else float(np.mean(zeros))
    spread = None if zeros is None else float(np.std(zeros))
    wander = (
        "μ is not known"
        if zeros is None
        else f"μ of the training structures has a spread of {1e3 * np.std(zeros):.1f} meV "
        f"({min(zeros):.3f} to {max(zeros):.3f} eV)"
    )
    below = stage1 if correction else None
    known: Gauge = below.gauge if below is not None else "unknown"
    source = "its model folder says so"
    if below is not None and known == "unknown" and zeros is not None:
        try:
            known, source = _follows(below, folders, device or torch.device("cpu"))
        except GFormerError as error:
            source = f"it cannot be measured ({error})"
    if known != "unknown" and asked not in ("auto", known):
        name = below.name if below is not None else ""
        raise ConfigError(
            f"data.gauge is {asked}, but stage 1 {name} is of the gauge {known} ({source}), and a "
            "correction to it cannot have another one; leave data.gauge away, train stage 1 again "
            "in that gauge, or predict all of H (cascade=false)"
        )
    if known == "unknown":
        if asked != "auto":
            known, reason = asked, f"as asked; {wander}"
            if asked == "raw" and spread is not None and spread > LEAST_SPREAD_EV:
                reason += ", which no model can know (data.gauge=standard takes it out)"
        elif spread is None:
            known, reason = "raw", f"the zero of energy cannot be measured ({missing})"
        elif spread > LEAST_SPREAD_EV:
            known, reason = "standard", f"{wander}, which no model can know"
        else:
            known, reason = "raw", f"{wander}, so the set has one zero of energy"
        if below is not None and asked == "auto" and zeros is not None:
            reason += f"; that of stage 1 is not clear ({source})"
    else:
        reason = f"that of stage 1 ({source}); {wander}"
        if known == "raw" and spread is not None and spread > LEAST_SPREAD_EV:
            reason += (
                ", which no model can know: train stage 1 again with data.gauge=standard, or "
                "predict all of H (cascade=false)"
            )
    if known == "standard" and zeros is None:
        raise DataError(missing)
    return GaugeChoice("standard" if known == "standard" else "raw", reason, mean, spread)
