"""The table of a training set's overlaps that is kept beside a model."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

from ..errors import GFormerError
from ..io.folder import has_matrix
from ..logs import LOGGER
from ..overlap import fit_table, save_table

__all__ = ["write_basis_table"]


def write_basis_table(folders: Sequence[pathlib.Path], path: pathlib.Path) -> None:
    """Fit a table to the overlaps of a training set and keep it beside a model.

    A note says where that cannot be. The table also makes S of new structures
    (:mod:`deeph_gformer.overlap`).

    Args:
        folders: the training structures; nothing is written unless all have overlaps.
        path: file of the table.
    """
    if not all(has_matrix(f, "overlap") for f in folders):
        return
    try:
        save_table(path, fit_table(folders))
    except GFormerError as error:
        LOGGER.info("no overlap table beside the model: %s", error)
