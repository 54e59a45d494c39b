"""Where an error sits: in an atom's own block, between atoms of one layer, or between layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from ase.data import covalent_radii
from numpy.typing import NDArray

from ..io.blocks import BlockMatrix, match_keys, onsite_keys
from ..io.structure import Structure

__all__ = ["PLACES", "BOND_FACTOR", "layers", "edge_places", "PlaceErrors"]

PLACES = ("on-site", "within a layer", "between layers")

#: Two atoms are bonded below this many times the sum of their covalent radii (ASE's table); layers
#: 3 Å apart stay separate.
BOND_FACTOR = 1.2


def layers(
    structure: Structure, keys: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], list[NDArray[np.float64]]]:
    """Layers, chains or molecules: what bonds hold together.

    Args:
        structure: atoms and cell.
        keys: (E, 5), edges that contain every bond.

    Returns:
        ``(layer, cell, periods)``: (N,) number of each atom's layer; (N, 3) the cell that a walk
        along bonds from the layer's first atom finds it in; per layer an orthonormal basis (n, 3)
        of the directions, in fractional coordinates, that the layer itself is periodic in.
    """
    radii = covalent_radii[structure.numbers]
    bonds = keys[
        np.linalg.norm(structure.edge_vectors(keys), axis=1)
        < BOND_FACTOR * (radii[keys[:, 3]] + radii[keys[:, 4]])
    ]
    bonds = bonds[np.argsort(bonds[:, 3], kind="stable")]
    starts = np.searchsorted(bonds[:, 3], np.arange(len(structure) + 1))
    layer, cell = np.full(len(structure), -1), np.zeros((len(structure), 3), dtype=np.int64)
    periods: list[NDArray[np.float64]] = []
    for first in range(len(structure)):
        if layer[first] >= 0:
            continue
        layer[first], walk, cycles = len(periods), [first], [np.zeros(3)]
        while walk:
            i = walk.pop()
            for *shift, _, j in bonds[starts[i] : starts[i + 1]]:
                there = cell[i] + shift
                if layer[j] < 0:
                    layer[j], cell[j] = layer[i], there
                    walk.append(j)
                elif (there != cell[j]).any():
                    cycles.append(there - cell[j])
        _, size, basis = np.linalg.svd(np.unique(cycles, axis=0), full_matrices=False)
        periods.append(basis[size > 1e-9])
    return layer, cell, periods


def edge_places(structure: Structure, keys: NDArray[np.int64]) -> NDArray[np.int64]:
    """(E,), index into :data:`PLACES` of each edge.

    A material that is bonded in three directions is one layer.
    """
    layer, cell, periods = layers(structure, keys)
    i, j = keys[:, 3], keys[:, 4]
    shift = (
        keys[:, :3] + cell[i] - cell[j]
    )  # between the images of a layer that its atoms belong to
    within = layer[i] == layer[j]
    for number, basis in enumerate(periods):
        mine = np.flatnonzero(within & (layer[i] == number))
        left = shift[mine] - shift[mine] @ basis.T @ basis
        within[mine] = np.abs(left).max(axis=1, initial=0) < 1e-6
    return np.where(onsite_keys(keys), 0, np.where(within, 1, 2))


class PlaceErrors:
    """Mean |ΔH| per place, summed over structures."""

    def __init__(self) -> None:
        self.sums, self.counts = np.zeros((3, len(PLACES))), np.zeros(len(PLACES))

    def add(
        self, structure: Structure, truth: BlockMatrix, predictions: Sequence[BlockMatrix]
    ) -> None:
        """Count one structure; ``predictions`` are stage 1 and refined, over the blocks that
        ``truth`` has too, in its shapes."""
        where = match_keys(predictions[0].keys, truth.keys)
        have = np.flatnonzero(where >= 0)
        place = edge_places(structure, predictions[0].keys)[have]
        label = truth.select(where[have])
        size = np.diff(label.offsets)
        self.counts += np.bincount(place, size, minlength=len(PLACES))
        for row, values in enumerate(
            [label.values, *(p.select(have).values - label.values for p in predictions)]
        ):
            self.sums[row] += np.bincount(
                np.repeat(place, size), np.abs(values), minlength=len(PLACES)
            )

    def table(self) -> list[dict[str, Any]]:
        """Per place that occurs: share of the elements, mean |H| of DFT and MAE of stage 1 and
        refined, meV."""
        rows = []
        for n in np.flatnonzero(self.counts):
            mean, first, both = (self.sums[:, n] / self.counts[n] * 1e3).tolist()
            rows.append(
                {
                    "place": PLACES[n],
                    "share_of_elements": float(self.counts[n] / self.counts.sum()),
                    "mean_abs_hamiltonian_meV": mean,
                    "stage1_mae_meV": first,
                    "refined_mae_meV": both,
                }
            )
        return rows
