"""A structure with slightly other edges: the same atoms, H and S.

A stage 1 knows its training structures by heart, on their own graphs: with some edges more or less
its error there is nearer to that on new structures, and so is what a GFormer learns from it.

The first variant has the blocks of H that are no edges as edges, too, where there are any. All
others lack some edges whose S is near zero, drawn anew for each: they lie at the end of the range,
and whether such a block is there depends on the last digits of the positions or on how a code
prunes. One kind of change a variant, since both at once would change the graph by more than one of
these does. Nothing is drawn from the order or number of structures or processes.
"""

from __future__ import annotations

import os
import pathlib

import numpy as np
import torch
from numpy.typing import NDArray

from ..algebra.orbitals import TargetBlocks
from ..io.blocks import BlockMatrix, match_keys, reverse_keys
from ..io.folder import has_matrix, read_matrix
from .dataset import Sample, label_edges, read_labels
from .edges import EdgeMode, select_edges
from .ranges import beyond

__all__ = ["load_variants", "small_pairs", "varied_keys"]

#: Share of the pairs of edges that may go: those with the smallest S ...
SMALLEST = 0.04
#: ... whose H is in the lowest quarter, too, which nearly all are.
LOWEST_H = 0.25
#: Share of these that go. The gains in :doc:`/measured/accuracy` are of sets that were made with it
#: (each of two directions of a pair took it away with 1/4).
GONE = 1 - (1 - 0.25) ** 2


def _sizes(keys: NDArray[np.int64], matrix: BlockMatrix) -> NDArray[np.float64]:
    """(E,), largest |element| of the block of each key; 0 where there is none."""
    # the last one is that of no block
    return np.append(matrix.largest(), 0.0)[match_keys(keys, matrix.keys)]


def small_pairs(
    keys: NDArray[np.int64], hamiltonian: BlockMatrix, overlap: BlockMatrix | None
) -> NDArray[np.int64]:
    """The edges that a variant may lack: one of each pair (R, i, j), (-R, j, i).

    They are :data:`SMALLEST` of all pairs in the order of their largest |S|, and of |H| where S is
    the same (or is not there). An atom's own block is none of them, nor a pair whose H is larger
    than that of :data:`LOWEST_H` of the pairs.

    Args:
        keys: (E, 5) of all edges, symmetric.
        hamiltonian: H.
        overlap: S, None where it is not there.

    Returns:
        Indices into ``keys``, ascending; the partner of none of them is among them.
    """
    partner = match_keys(reverse_keys(keys), keys)
    pairs = np.flatnonzero(np.arange(len(keys)) < partner)

    def size(matrix: BlockMatrix) -> NDArray[np.float64]:
        """Of each pair."""
        each = _sizes(keys, matrix)
        return np.maximum(each[pairs], each[partner[pairs]])

    h = size(hamiltonian)
    s = np.zeros(len(pairs)) if overlap is None else size(overlap)
    first = np.lexsort((h, s))[: int(SMALLEST * len(pairs))]
    if not len(first):
        return pairs[:0]
    return np.sort(pairs[first[h[first] <= np.quantile(h, LOWEST_H)]])


def varied_keys(
    keys: NDArray[np.int64],
    hamiltonian: BlockMatrix,
    overlap: BlockMatrix | None,
    count: int,
    seed: int,
    name: str,
) -> list[NDArray[np.int64]]:
    """Other edges of a structure, see the module's text; as they are where none may go.

    Args:
        keys: (E, 5), its edges, symmetric.
        hamiltonian: H.
        overlap: S, None where it is not there.
        count: how many sets.
        seed: of the training.
        name: of the structure.
    """
    more = hamiltonian.keys[match_keys(hamiltonian.keys, keys) < 0]
    may_go = small_pairs(keys, hamiltonian, overlap)
    partner = match_keys(reverse_keys(keys), keys)
    result = []
    for number in range(1, count + 1):
        if number == 1 and len(more):
            result.append(np.concatenate([keys, more]))
            continue
        rng = np.random.default_rng([seed, number, *os.fsencode(name)])
        gone = rng.permutation(may_go)[: max(1, round(GONE * len(may_go)))]
        result.append(np.delete(keys, np.concatenate([gone, partner[gone]]), axis=0))
    return result


def load_variants(
    folder: str | os.PathLike[str],
    targets: TargetBlocks,
    edges: EdgeMode,
    dtype: torch.dtype,
    gauge: str,
    count: int,
    seed: int,
) -> list[Sample]:
    """A structure with other edges, its H as :func:`.dataset.load_sample` reads it.

    Args:
        folder: legacy or DeepH-dock.
        targets: the model's channels.
        edges: those that are varied, see :func:`.edges.select_edges`.
        dtype: real type of vectors and labels.
        gauge: ``standard`` takes μS out of H.
        count: how many variants; they are numbered from 1 on.
        seed: of the training.

    Raises:
        DataError, ModelError: see :func:`.dataset.load_sample`.
    """
    folder = pathlib.Path(folder)
    labels = read_labels(folder, targets, gauge)
    keys = select_edges(folder, labels.structure, edges).keys
    there = has_matrix(folder, "overlap")
    overlap = read_matrix(folder, "overlap", labels.structure) if there else None
    # zeros that reach too far are no edges of the structure either
    near = np.flatnonzero(~beyond(labels.structure, labels.hamiltonian.keys, None))
    hamiltonian = labels.hamiltonian.select(near)
    sets = varied_keys(keys, hamiltonian, overlap, count, seed, folder.resolve().name)
    return [label_edges(labels, own, targets, dtype, n) for n, own in enumerate(sets, start=1)]
