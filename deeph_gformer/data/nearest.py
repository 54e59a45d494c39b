"""How near atoms are to each other in a training set, and structures where they are not so.

A position with a digit too many, or rows of positions that changed places, need not give overlaps
or edges that are impossible; but an atom is then further from all others, or nearer to one of
another element, than any in training.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..algebra.orbitals import Basis
from ..io.blocks import onsite_keys
from ..io.structure import Structure
from ..overlap.neighbours import symbol
from .graph import Graph, node_types

__all__ = ["nearest_table", "unlike_nearest"]

#: Shorter and longer distances than this part of those of training are unlike it.
_SHORTER, _LONGER = 0.9, 1.1


def _nearest(
    first: NDArray[np.int64], distance: NDArray[np.float64], atoms: int
) -> NDArray[np.float64]:
    """(N,), distance of the nearest other atom, Å; inf without edges.

    Args:
        first: (E,), the atom where an edge begins.
        distance: (E,), Å.
        atoms: N.
    """
    least = np.full(atoms, np.inf)
    np.minimum.at(least, first, distance)
    return least


def nearest_table(graphs: Sequence[Graph], elements: int) -> dict[str, Any]:
    """What a bundle remembers, Å, None where there is nothing.

    ``shortest`` (n, n) is the least distance of each pair of elements, ``alone`` (n,) the largest
    distance of an atom from its nearest neighbour.

    Args:
        graphs: of training and validation.
        elements: n, those that the model knows.
    """
    shortest, alone = np.full((elements, elements), np.inf), np.full(elements, -np.inf)
    for graph in graphs:
        kinds = graph.node_type.cpu().numpy()
        pairs = graph.edge_index.cpu().numpy()[:, ~graph.self_loop.cpu().numpy()]
        distance = graph.edge_length[~graph.self_loop].double().cpu().numpy()
        np.minimum.at(shortest, (kinds[pairs[0]], kinds[pairs[1]]), distance)
        np.maximum.at(alone, kinds, _nearest(pairs[0], distance, graph.nodes))
    return {
        "shortest": [[_plain(v) for v in row] for row in shortest],
        "alone": [_plain(v) for v in alone],
    }


def _plain(value: float) -> float | None:
    return round(float(value), 5) if math.isfinite(value) else None


def unlike_nearest(table: Any, basis: Basis, structure: Structure, keys: NDArray[np.int64]) -> str:
    """A sentence on the atom that is furthest from what training knows; empty where there is none.

    Args:
        table: of :func:`nearest_table`; anything else says nothing.
        basis: the model's elements.
        structure: the atoms.
        keys: (E, 5), 0-based, its edges, or those of some of its atoms with their on-site ones.
    """
    if not isinstance(table, dict):
        return ""
    try:
        shortest = np.array(table["shortest"], dtype=float)
        alone = np.array(table["alone"], dtype=float)
    except (KeyError, TypeError, ValueError):
        return ""
    count = len(basis.elements)
    if shortest.shape != (count, count) or alone.shape != (count,):
        return ""
    kinds = node_types(structure, basis)
    itself = onsite_keys(keys)
    there = np.unique(keys[itself, 3])
    pairs, edges = keys[~itself, 3:], keys[~itself]
    distance = np.linalg.norm(structure.edge_vectors(edges), axis=1)
    known = shortest[kinds[pairs[:, 0]], kinds[pairs[:, 1]]]
    part = distance / known  # NaN: never seen
    near = int(np.nanargmin(part)) if np.isfinite(part).any() else -1
    if near >= 0 and part[near] < _SHORTER:
        i, j = pairs[near].tolist()
        a, b = symbol(structure.numbers[i]), symbol(structure.numbers[j])
        return (
            f"atoms {i + 1} ({a}) and {j + 1} ({b}) are {distance[near]:.3f} Å apart, {a} and {b} "
            f"{known[near]:.3f} Å or more in training: are positions and elements right?"
        )
    far = _nearest(pairs[:, 0], distance, len(structure))[there]
    ratio = far / alone[kinds[there]]
    worst = int(np.nanargmax(ratio)) if np.isfinite(alone[kinds[there]]).any() else -1
    if worst >= 0 and ratio[worst] > _LONGER:
        atom = int(there[worst])
        where = f"{far[worst]:.3f} Å away" if np.isfinite(far[worst]) else "beyond all edges"
        return (
            f"the atom nearest to atom {atom + 1} ({symbol(structure.numbers[atom])}) is {where}, "
            f"{alone[kinds[atom]]:.3f} Å or less in training: are its position and the lattice "
            "right?"
        )
    return ""
