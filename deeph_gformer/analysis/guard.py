"""The guard: is a correction, and are the features it was made of, of the kind that training and
validation saw?

Training records two distributions in the bundle (``training["guard"]``):

* *correction*: per structure x = mean |ΔH|; its reference is the mean over the validation
  structures, its spread the rms distance of training and validation structures from that mean, at
  least :data:`FLOOR` of the mean (so that one validation structure is enough);
* *features*: per atom the norms of stage 1's last node irreps, standardised per element and channel
  over the training atoms; x = the largest distance of an atom, sqrt(mean over channels of z²); mean
  and spread over the structures.

* *composition*: the fraction of each element, and the number of edges per atom, over training and
  validation. DeepH-E3 normalises by means over the whole structure, so its predictions in one place
  depend on what is elsewhere: half a cell of vacuum-separated another material, or another density,
  changes them everywhere.

The distance of a new structure is z = (x - mean) / spread, in standard deviations. Beyond
:data:`LIMIT` a correction is out of range.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..data.features import Stage1Features
from ..data.graph import Graph
from ..errors import ModelError
from ..gformer.bundle import Bundle
from ..gformer.scale import FeatureScale
from ..overlap.neighbours import symbol
from ..pipeline import HamiltonianModel
from ..prediction.blocks import sum_of_differences
from ..prediction.run import hermitian_products
from ..runtime.communicator import Communicator
from ..stage1.provider import Stage1Provider

__all__ = ["Guard", "Judgement", "guard_statistics", "guard_lines", "LIMIT"]

#: Of the record; the first one averaged |ΔH| over whole vectors, with places that blocks lack.
VERSION = 2
#: Standard deviations beyond which a correction is out of range.
LIMIT = 6.0
#: Smallest spread, as a share of the mean.
FLOOR = 0.1
#: How far an element's fraction may be outside the range of training, and the number of edges per
#: atom as a factor.
FRACTION, DENSITY = 0.1, 1.3
#: Structures of each split that are looked at, evenly spaced.
MOST = 64


def feature_norms(out: Stage1Features, stage1: Stage1Provider) -> NDArray[np.float64]:
    """Norms of the last group's node irreps: rms over m per channel, 0e as it is; (N, channels).

    They do not change under rotation.
    """
    irreps = stage1.node_irreps[-1]
    scale = FeatureScale(irreps)
    value = out.node[-1].detach().double().cpu()
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


def composition(graph: Graph, elements: int, edges: int | None = None) -> NDArray[np.float64]:
    """(n + 1,): the fraction of each element, and edges per atom."""
    kinds = np.bincount(graph.node_type.cpu().numpy(), minlength=elements)
    return np.concatenate([kinds / graph.nodes, [(edges or graph.edges) / graph.nodes]])


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
        "be off everywhere; "
        "predict parts of one kind apart"
    )


def _distance(
    norms: NDArray[np.float64],
    kinds: NDArray[np.int64],
    mean: NDArray[np.float64],
    spread: NDArray[np.float64],
) -> float:
    """Largest distance of an atom from the training atoms of its element, in standard deviations
    per channel."""
    return float(np.sqrt((((norms - mean[kinds]) / spread[kinds]) ** 2).mean(axis=1)).max())


def _pick(graphs: Sequence[Graph]) -> list[Graph]:
    return (
        [
            graphs[n]
            for n in np.unique(
                np.linspace(0, len(graphs) - 1, min(MOST, len(graphs))).round().astype(int)
            )
        ]
        if graphs
        else []
    )


def _reference(val: Sequence[float], both: Sequence[float], unit: str) -> dict[str, float]:
    mean = float(np.mean(val if len(val) else both))
    spread = math.sqrt(float(np.mean((np.asarray(both) - mean) ** 2)))
    return {
        f"mean{unit}": mean,
        f"spread{unit}": max(spread, FLOOR * mean),
        f"largest{unit}": float(np.max(both)),
    }


def guard_statistics(
    model: HamiltonianModel, train: Sequence[Graph], val: Sequence[Graph]
) -> dict[str, Any]:
    """What the bundle records, see the module's text.

    Args:
        model: both stages.
        train: graphs of training; at most :data:`MOST` are used.
        val: graphs of validation; likewise.

    Returns:
        Plain values; empty without a stage 1 (there is no correction then).
    """
    if model.stage1 is None:
        return {}
    stage1 = model.stage1
    norms: list[NDArray[np.float64]] = []
    kinds: list[NDArray[np.int64]] = []
    corrections: list[list[float]] = []

    def look(graph: Graph, out: Stage1Features) -> None:
        """Norms of a structure's node irreps, and its elements."""
        if out.node:
            norms.append(feature_norms(out, stage1))
            kinds.append(graph.node_type.cpu().numpy())

    before, model.observe = model.observe, look
    try:
        for part in (_pick(train), _pick(val)):
            values = []
            for graph in part:
                types, keys = graph.node_type.cpu().numpy(), graph.edge_key.cpu().numpy()
                first, both = (
                    model.blocks.to_matrix(product.numpy(), types, keys, missing=0.0)
                    for product in hermitian_products(model, graph)
                )
                total, count = sum_of_differences(first, both)
                values.append(total / count * 1e3)
            corrections.append(values)
    finally:
        model.observe = before
    table: dict[str, Any] = {
        "structures": {"train": len(corrections[0]), "val": len(corrections[1])},
        "correction": _reference(corrections[1], [*corrections[0], *corrections[1]], "_meV"),
        "version": VERSION,
    }
    kinds_of = len(model.targets.basis.elements)
    seen = np.array([composition(g, kinds_of) for g in (*_pick(train), *_pick(val))])
    table["composition"] = {"low": seen.min(axis=0).tolist(), "high": seen.max(axis=0).tolist()}
    if norms:
        count, elements = len(corrections[0]), len(model.targets.basis.elements)
        rows, owner = np.concatenate(norms[:count]), np.concatenate(kinds[:count])
        mean, spread = np.zeros((elements, rows.shape[1])), np.ones((elements, rows.shape[1]))
        for z in np.unique(owner):
            chosen = rows[owner == z]
            mean[z], own = chosen.mean(axis=0), chosen.std(axis=0)
            spread[z] = np.maximum(own, np.maximum(1e-3 * np.abs(mean[z]), 1e-6))
        distances = [_distance(n, k, mean, spread) for n, k in zip(norms, kinds, strict=True)]
        table["features"] = {
            **_reference(distances[count:], distances, ""),
            "norm_mean": np.round(mean, 7).tolist(),
            "norm_spread": np.round(spread, 9).tolist(),
        }
    return table


@dataclasses.dataclass(frozen=True)
class Judgement:
    """How unusual one structure is.

    Attributes:
        correction_z: distance of mean |ΔH| from validation, standard deviations (negative: smaller
            than usual).
        features_z: that of stage 1's features;
            None where the bundle does not read them.
        out_of_range: the correction is larger than :data:`LIMIT` allows.
        warning: a sentence, or None.
    """

    correction_z: float
    features_z: float | None
    out_of_range: bool
    warning: str | None


class Guard:
    """Judges predictions of one model: ``with guard.watching(): p = model.predict(...)``, then
    ``guard.judge(p.correction)``."""

    def __init__(self, model: HamiltonianModel) -> None:
        """
        Raises:
            ModelError: the bundle has no such record (an older one, or a GFormer without a stage
                1).
        """
        table = self.table(model.bundle)
        if table is None:
            raise ModelError(
                f"{model.bundle.path if model.bundle else 'stage 1 alone'}: no statistics of "
                "the correction are recorded, so nothing can be "
                "guarded; train the GFormer again with this version"
            )
        self.model, self._table, self._seen = model, table, None
        self._unlike: str | None = None
        self._comm = Communicator()

    @staticmethod
    def table(bundle: Bundle | None) -> dict[str, Any] | None:
        """The record of a bundle, None where it has none.

        Earlier versions averaged over whole vectors; where all elements have equally many orbitals
        that is the same, elsewhere it is no record of a correction.
        """
        found = None if bundle is None else bundle.training.get("guard")
        if bundle is None or not isinstance(found, dict) or "correction" not in found:
            return None
        alike = len({tuple(shells) for shells in bundle.targets.basis.orbital_types}) == 1
        return found if found.get("version") == VERSION or alike else None

    @contextlib.contextmanager
    def watching(self, comm: Communicator | None = None) -> Iterator[None]:
        """Look at stage 1's features while the model predicts (nothing is run twice).

        Args:
            comm: processes that share the structure.
        """
        self._comm = comm or Communicator()
        before, self._seen, self._unlike = self.model.observe, None, None
        self.model.observe = self._look
        try:
            yield
        finally:
            self.model.observe = before

    def _look(self, graph: Graph, out: Stage1Features) -> None:
        basis = self.model.targets.basis
        if "composition" in self._table:
            edges = sum(self._comm.objects(graph.edges))
            own = composition(graph, len(basis.elements), edges)
            names = [symbol(z) for z in basis.elements]
            self._unlike = _unlike(own, self._table["composition"], names)
        table = self._table.get("features")
        if table is not None and out.node and self.model.stage1 is not None:
            x = _distance(
                feature_norms(out, self.model.stage1),
                graph.node_type.cpu().numpy(),
                np.array(table["norm_mean"]),
                np.array(table["norm_spread"]),
            )
            self._seen = (x - table["mean"]) / table["spread"]

    def judge(self, correction: float) -> Judgement:
        """Compare the last watched prediction with training and validation.

        Args:
            correction: its mean |ΔH|, eV.
        """
        table = self._table["correction"]
        excess = correction * 1e3 - table["mean_meV"]
        z = (
            excess / table["spread_meV"]
            if table["spread_meV"] > 0
            else (math.inf if excess > 0 else 0.0)
        )
        out = z > LIMIT
        warning = None
        if out:
            warning = (
                f"the correction ({correction * 1e3:.3g} meV) is {z:.1f} standard deviations "
                f"above that of validation ({table['mean_meV']:.3g} meV): "
                "the structure is unlike those of training; --guard keeps stage 1 for it"
            )
        elif self._seen is not None and self._seen > LIMIT:
            warning = (
                f"stage 1's features are {self._seen:.1f} standard deviations from those of "
                "training, so the correction may not hold; "
                "compare with --stage1-only"
            )
        elif self._unlike is not None:
            warning = self._unlike
        return Judgement(z, self._seen, out, warning)


def guard_lines(result: Mapping[str, Any]) -> list[str]:
    """What the terminal says about the records of :func:`deeph_gformer.refine`: one line a warning,
    and where stage 1 was kept."""
    lines = [
        f"{r['name']}: warning: {r['guard_warning']}"
        for r in result["structures"]
        if r.get("guard_warning")
    ]
    kept = [r["name"] for r in result["structures"] if r.get("guarded")]
    return lines + ([f"--guard kept stage 1 for {', '.join(kept)}"] if kept else [])
