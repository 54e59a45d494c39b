"""The guard: is a correction, and are the features it was made of, of the kind that training and
validation saw?

Training records three distributions in the bundle (``training["guard"]``, see
:mod:`deeph_gformer.training.guard`):

* *correction*: per structure x = mean |ΔH|;
* *features*: per atom the norms of stage 1's last node irreps, standardised per element and channel
  over the training atoms; x = the largest distance of an atom, sqrt(mean over channels of z²);
* *composition*: the fraction of each element, and the number of edges per atom. DeepH-E3 normalises
  by means over the whole structure, so its predictions in one place depend on what is elsewhere:
  half a cell of vacuum-separated another material, or another density, changes them everywhere.

The distance of a new structure is z = (x - mean) / spread, in standard deviations. Beyond
:data:`LIMIT` a correction is out of range.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from e3nn.o3 import Irreps
from numpy.typing import NDArray
from torch import Tensor

from ..data.graph import Graph
from ..errors import ModelError
from ..gformer.bundle import Bundle
from ..gformer.scale import FeatureScale
from ..overlap.neighbours import symbol

if TYPE_CHECKING:
    from ..pipeline import HamiltonianModel

__all__ = [
    "LIMIT",
    "VERSION",
    "Guard",
    "Judgement",
    "composition",
    "feature_distance",
    "feature_norms",
    "guard_record",
]

#: Of the record; the first one averaged |ΔH| over whole vectors, with places that blocks lack.
VERSION = 2
#: Standard deviations beyond which a correction is out of range.
LIMIT = 6.0
#: How far an element's fraction may be outside the range of training, and the number of edges per
#: atom as a factor.
FRACTION, DENSITY = 0.1, 1.3


def feature_norms(nodes: Tensor, irreps: Irreps) -> NDArray[np.float64]:
    """Norms of stage 1's last node irreps: rms over m per channel, 0e as it is.

    They do not change under rotation.

    Args:
        nodes: (N, d), e3nn's flat layout.
        irreps: of dimension d.

    Returns:
        (N, channels).
    """
    scale = FeatureScale(irreps)
    value = nodes.detach().double().cpu()
    size = torch.zeros(len(value), len(scale.mean), dtype=torch.float64).index_add(
        1, scale.index, value.square()
    )
    size = (size / torch.bincount(scale.index, minlength=len(scale.mean))).sqrt()
    first = torch.cat(
        [
            torch.zeros(1, dtype=torch.int64),
            torch.nonzero(scale.index[1:] != scale.index[:-1]).reshape(-1) + 1,
        ]
    )
    return torch.where(scale.scalar, value[:, first], size).numpy()


def composition(graph: Graph, elements: int, edges: int) -> NDArray[np.float64]:
    """(n + 1,): the fraction of each element, and edges per atom.

    Args:
        graph: gives the atoms.
        elements: n, those that the model knows.
        edges: of all processes.
    """
    kinds = np.bincount(graph.node_type.cpu().numpy(), minlength=elements)
    return np.concatenate([kinds / graph.nodes, [edges / graph.nodes]])


def _unlike(own: NDArray[np.float64], table: dict[str, Any], names: Sequence[str]) -> str | None:
    """A sentence where a structure's composition is out of the range of training."""
    low, high = np.array(table["low"]), np.array(table["high"])
    away = np.maximum(low - own, own - high)[:-1]
    worst = int(away.argmax())
    if away[worst] > FRACTION:
        known = f"{low[worst]:.2f} to {high[worst]:.2f} in training"
        found = f"{names[worst]} is {own[worst]:.2f} of the atoms, {known}"
    elif not low[-1] / DENSITY <= own[-1] <= high[-1] * DENSITY:
        found = f"{own[-1]:.0f} edges an atom, {low[-1]:.0f} to {high[-1]:.0f} in training"
    else:
        return None
    return (
        f"{found}: DeepH-E3 normalises by means over the whole structure, so both stages may "
        "be off everywhere; predict parts of one kind apart"
    )


def feature_distance(
    norms: NDArray[np.float64],
    kinds: NDArray[np.int64],
    mean: NDArray[np.float64],
    spread: NDArray[np.float64],
) -> float:
    """Largest distance of an atom from the training atoms of its element, in standard deviations
    per channel.

    Args:
        norms: (N, channels), see :func:`feature_norms`.
        kinds: (N,), element index of each atom.
        mean: (elements, channels), over the training atoms.
        spread: (elements, channels), likewise.
    """
    return float(np.sqrt((((norms - mean[kinds]) / spread[kinds]) ** 2).mean(axis=1)).max())


@dataclasses.dataclass(frozen=True)
class Judgement:
    """How unusual one structure is.

    Attributes:
        correction_z: distance of mean |ΔH| from validation, standard deviations (negative: smaller
            than usual); None where the bundle does not know it.
        features_z: that of stage 1's features; None where the bundle does not know them.
        out_of_range: the correction is larger than :data:`LIMIT` allows.
        warning: a sentence, or None.
        levels_distance: of on-site levels, see :class:`.levels.Unusual`; None in bundles without.
    """

    correction_z: float | None = None
    features_z: float | None = None
    out_of_range: bool = False
    warning: str | None = None
    levels_distance: float | None = None

    def with_levels(self, distance: float, warning: str | None) -> Judgement:
        """The same with that of on-site levels, whose warning stands where there is no other."""
        return dataclasses.replace(self, levels_distance=distance, warning=self.warning or warning)

    def to_json(self) -> dict[str, Any]:
        """What ``refine`` and ``evaluate`` say of a structure."""
        return {
            "correction_z": self.correction_z,
            "features_z": self.features_z,
            "levels_distance": self.levels_distance,
            "guard_warning": self.warning,
        }


def guard_record(bundle: Bundle | None) -> dict[str, Any] | None:
    """The record of a bundle, None where it has none.

    Earlier versions averaged over whole vectors; where all elements have equally many orbitals that
    is the same, elsewhere it is no record of a correction.
    """
    found = None if bundle is None else bundle.training.get("guard")
    if bundle is None or not isinstance(found, dict) or "correction" not in found:
        return None
    alike = len({tuple(shells) for shells in bundle.targets.basis.orbital_types}) == 1
    return found if found.get("version") == VERSION or alike else None


class Guard:
    """Judges the predictions of one model; :attr:`.prediction.run.Prediction.judgement` is its
    word."""

    def __init__(self, model: HamiltonianModel) -> None:
        """
        Args:
            model: its bundle has a record.

        Raises:
            ModelError: it has none (an older one, or a GFormer without a stage 1).
        """
        record = guard_record(model.bundle)
        if record is None:
            raise ModelError(
                f"{model.bundle.path if model.bundle else 'stage 1 alone'}: no statistics of "
                "the correction are recorded, so nothing can be guarded; train the GFormer again "
                "with this version"
            )
        self._elements = model.targets.basis.elements
        self._stage1 = model.stage1
        self._record = record

    @classmethod
    def of(cls, model: HamiltonianModel) -> Guard | None:
        """The guard of a model, None where its bundle has no record."""
        return None if guard_record(model.bundle) is None else cls(model)

    def judge(
        self, graph: Graph, nodes: Tensor | None, correction: float, edges: int | None = None
    ) -> Judgement:
        """Compare a structure and its prediction with training and validation.

        Args:
            graph: the structure.
            nodes: (N, d), stage 1's last node irreps; None where there is no stage 1.
            correction: mean |ΔH|, eV.
            edges: of all processes that share the structure; default: those of the graph.
        """
        table = self._record["correction"]
        excess = correction * 1e3 - table["mean_meV"]
        z = (
            excess / table["spread_meV"]
            if table["spread_meV"] > 0
            else (math.inf if excess > 0 else 0.0)
        )
        features = self._features(graph, nodes)
        warning = None
        if z > LIMIT:
            warning = (
                f"the correction ({correction * 1e3:.3g} meV) is {z:.1f} standard deviations "
                f"above that of validation ({table['mean_meV']:.3g} meV): the structure is unlike "
                "those of training; --guard keeps stage 1 for it (in Python: prediction.stage1)"
            )
        elif features is not None and features > LIMIT:
            warning = (
                f"stage 1's features are {features:.1f} standard deviations from those of "
                "training, so the correction may not hold; compare with stage 1 alone "
                "(--stage1-only, in Python prediction.stage1)"
            )
        else:
            warning = self._unlike(graph, graph.edges if edges is None else edges)
        return Judgement(z, features, z > LIMIT, warning)

    def _features(self, graph: Graph, nodes: Tensor | None) -> float | None:
        """Distance of stage 1's features, None where they are not known."""
        table = self._record.get("features")
        if table is None or nodes is None or self._stage1 is None:
            return None
        x = feature_distance(
            feature_norms(nodes, self._stage1.node_irreps[-1]),
            graph.node_type.cpu().numpy(),
            np.array(table["norm_mean"]),
            np.array(table["norm_spread"]),
        )
        return float((x - table["mean"]) / table["spread"])

    def _unlike(self, graph: Graph, edges: int) -> str | None:
        """A sentence where elements and edges are not in the proportions of training."""
        if "composition" not in self._record:
            return None
        own = composition(graph, len(self._elements), edges)
        names = [symbol(z) for z in self._elements]
        return _unlike(own, self._record["composition"], names)
