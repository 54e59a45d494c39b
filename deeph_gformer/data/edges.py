"""Which blocks of a structure folder become edges of the graph.

The edge set changes the graph and so the prediction: DeepH-E3 trains on the keys of ``hamiltonians.h5`` and infers on those of ``overlaps.h5``.
"""

from __future__ import annotations

import os
import pathlib
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from ..io.blocks import BlockMatrix, match_keys, reverse_keys, sort_keys
from ..io.folder import folder_format, matrix_path
from ..io.formats import FolderFormat, get_format
from ..io.structure import Structure

__all__ = ["EdgeMode", "EdgeChoice", "select_edges"]

EdgeMode = Literal["auto", "overlaps", "hamiltonians", "union"]


class EdgeChoice(NamedTuple):
    """The edges of a structure.

    Attributes:
        keys: (E, 5) int64, 0-based, canonical order, symmetric. source: where they come from, for people.
        hamiltonian_only: edges that ``hamiltonians.h5`` has and ``overlaps.h5`` has not; None where one of the files was not read.
    """

    keys: NDArray[np.int64]
    source: str
    hamiltonian_only: int | None = None


def _keys(path: pathlib.Path, structure: Structure, form: FolderFormat) -> NDArray[np.int64]:
    keys = form.read_keys(path, structure)
    lonely = match_keys(reverse_keys(keys), keys) < 0
    if lonely.any():
        BlockMatrix(keys, np.zeros((len(keys), 2), dtype=np.int64), np.zeros(0)).require_symmetric(
            str(path)
        )
    return keys


def select_edges(
    folder: str | os.PathLike[str], structure: Structure, mode: EdgeMode = "auto"
) -> EdgeChoice:
    """Choose the edges of one folder.

    Args:
        folder: legacy or DeepH-dock. structure: its structure.
        mode: ``overlaps``, ``hamiltonians``, ``union``, or ``auto``: their union when there are both files, else the one that is there.

    Raises:
        DataError: a file that the mode needs is missing or damaged, or its edge set is asymmetric.
    """
    folder = pathlib.Path(folder)
    form = get_format(folder_format(folder) or "legacy")
    paths = {
        "overlaps": matrix_path(folder, "overlap"),
        "hamiltonians": matrix_path(folder, "hamiltonian"),
    }
    there = [name for name, path in paths.items() if path.is_file()]
    wanted = {
        "auto": there,
        "union": list(paths),
        "overlaps": ["overlaps"],
        "hamiltonians": ["hamiltonians"],
    }[mode]
    for name in wanted:
        if name not in there:
            raise DataError(
                f"{paths[name]}: file not found, and edges were asked for from it (--edges {mode})"
            )
    if not wanted:
        raise DataError(
            f"{folder}: neither {paths['overlaps'].name} nor {paths['hamiltonians'].name} is there, so there are no edges; "
            "overlaps.h5 comes from the DFT code's overlap-only run or from 'deeph-gformer overlap predict'"
        )
    sets = {name: _keys(paths[name], structure, form) for name in wanted}
    if len(sets) == 1:
        name, keys = next(iter(sets.items()))
        return EdgeChoice(keys, paths[name].name)
    extra = match_keys(sets["hamiltonians"], sets["overlaps"]) < 0
    keys = np.concatenate([sets["overlaps"], sets["hamiltonians"][extra]])
    return EdgeChoice(
        keys[sort_keys(keys)],
        f"{paths['overlaps'].name} and {paths['hamiltonians'].name}",
        int(extra.sum()),
    )
