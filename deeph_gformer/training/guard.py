"""What a bundle records of its training and validation structures, for
:mod:`deeph_gformer.prediction.guard`.

* *correction*: the reference is the mean over the validation structures, the spread the rms
  distance of training and validation structures from that mean, at least :data:`FLOOR` of the mean
  (so that one validation structure is enough);
* *features*: mean and spread over the structures of the largest distance of an atom;
* *composition*: smallest and largest values over training and validation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ..data.graph import Graph
from ..pipeline import HamiltonianModel
from ..prediction.blocks import sum_of_differences
from ..prediction.guard import VERSION, composition, feature_distance, feature_norms
from ..prediction.run import hermitian_products

__all__ = ["guard_statistics"]

#: Smallest spread, as a share of the mean.
FLOOR = 0.1
#: Structures of each split that are looked at, evenly spaced.
MOST = 64


def _pick(graphs: Sequence[Graph]) -> list[Graph]:
    """At most :data:`MOST` of them."""
    if not graphs:
        return []
    places = np.linspace(0, len(graphs) - 1, min(MOST, len(graphs)))
    return [graphs[n] for n in np.unique(places.round().astype(int))]


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
    graphs, val_graphs = _pick(train), _pick(val)
    count = len(graphs)
    graphs += val_graphs
    elements = len(model.targets.basis.elements)
    nodes: list[Tensor] = []
    corrections = [_correction(model, graph, nodes) for graph in graphs]
    seen = np.array([composition(graph, elements, graph.edges) for graph in graphs])
    table: dict[str, Any] = {
        "structures": {"train": count, "val": len(val_graphs)},
        "correction": _reference(corrections[count:], corrections, "_meV"),
        "version": VERSION,
        "composition": {"low": seen.min(axis=0).tolist(), "high": seen.max(axis=0).tolist()},
    }
    if nodes:
        irreps = model.stage1.node_irreps[-1]
        norms = [feature_norms(value, irreps) for value in nodes]
        kinds = [graph.node_type.cpu().numpy() for graph in graphs]
        table["features"] = _features(norms, kinds, count, elements)
    return table


def _correction(model: HamiltonianModel, graph: Graph, nodes: list[Tensor]) -> float:
    """Mean |ΔH| of a structure, meV; ``nodes`` gets stage 1's last node irreps."""
    types, keys = graph.node_type.cpu().numpy(), graph.edge_key.cpu().numpy()
    first, both = (
        model.blocks.to_matrix(product.numpy(), types, keys, missing=0.0)
        for product in hermitian_products(model, graph, nodes=nodes)
    )
    total, count = sum_of_differences(first, both)
    return total / count * 1e3


def _features(
    norms: Sequence[NDArray[np.float64]],
    kinds: Sequence[NDArray[np.int64]],
    count: int,
    elements: int,
) -> dict[str, Any]:
    """The record of stage 1's features.

    Args:
        norms: (N, channels) of each structure, see :func:`feature_norms`.
        kinds: (N,), element index of each atom.
        count: so many structures are of training, the others of validation.
        elements: that the model knows.
    """
    rows, owner = np.concatenate(norms[:count]), np.concatenate(kinds[:count])
    mean, spread = np.zeros((elements, rows.shape[1])), np.ones((elements, rows.shape[1]))
    for z in np.unique(owner):
        chosen = rows[owner == z]
        mean[z], own = chosen.mean(axis=0), chosen.std(axis=0)
        spread[z] = np.maximum(own, np.maximum(1e-3 * np.abs(mean[z]), 1e-6))
    distances = [feature_distance(n, k, mean, spread) for n, k in zip(norms, kinds, strict=True)]
    return {
        **_reference(distances[count:], distances, ""),
        "norm_mean": np.round(mean, 7).tolist(),
        "norm_spread": np.round(spread, 9).tolist(),
    }
