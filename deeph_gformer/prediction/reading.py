"""The graph that a model sees of a structure folder, or of a structure with given edges."""

from __future__ import annotations

import dataclasses
import os
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ..algebra.orbitals import Basis
from ..data.edges import EdgeChoice, EdgeMode, select_edges
from ..data.graph import Graph, build_graph
from ..data.ranges import Ranges, require_within
from ..errors import ConfigError, DataError
from ..io.folder import read_folder
from ..io.structure import Structure

__all__ = ["Item", "Source", "read_graph"]

#: A structure folder, or a structure whose edges are given beside it.
Source = str | os.PathLike[str] | Structure


class Item(NamedTuple):
    """A structure to predict.

    Attributes:
        structure: with the model's spin.
        graph: what the network sees.
        edges: which blocks are edges, and where they come from.
    """

    structure: Structure
    graph: Graph
    edges: EdgeChoice


def read_graph(
    source: Source,
    basis: Basis,
    ranges: Ranges | None = None,
    edges: EdgeMode = "auto",
    keys: NDArray[np.int64] | None = None,
) -> Item:
    """A structure with the model's spin, its graph, and where its edges come from.

    Args:
        source: a structure folder; or a structure, with ``keys`` for its edges.
        basis: the model's elements, shells and spin.
        ranges: of its training set.
        edges: which blocks are edges (folders only).
        keys: (E, 5), 0-based, any order.

    Raises:
        DataError: missing or damaged files, edges beyond the ranges, or another spin in info.json.
        ModelError: unknown elements or other shells.
        ConfigError: a structure without keys.
    """
    if isinstance(source, Structure):
        if keys is None:
            raise ConfigError(
                "a Structure alone has no edges; pass keys, or a folder with overlaps.h5"
            )
        structure = dataclasses.replace(source, spinful=basis.spinful)
        graph = build_graph(structure, keys, basis, torch.float64)
        choice = EdgeChoice(graph.edge_key.numpy(), "given keys")
        require_within(structure, choice.keys, ranges)
        return Item(structure, graph, choice)
    structure = read_folder(source)
    if structure.spinful is not None and structure.spinful != basis.spinful:
        kind = "spinful" if basis.spinful else "spinless"
        raise DataError(
            f"{source}: info.json says isspinful = {structure.spinful}, the model predicts {kind} "
            "Hamiltonians"
        )
    choice = select_edges(source, structure, edges, ranges)
    structure = dataclasses.replace(structure, spinful=basis.spinful)
    return Item(structure, build_graph(structure, choice.keys, basis, torch.float64), choice)
