"""What is asked of a structure before it is predicted, and what is said of it.

Commands, Python and the ASE calculator ask here, so that all of them refuse and warn alike.
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from ..io.blocks import BlockMatrix
from ..io.folder import matrix_path, read_matrix
from ..logs import LOGGER
from ..overlap import TableOverlap, TwoCentre
from ..runtime.processes import agreed
from .basis import another_basis, basis_table, displaced, near_blocks, require_basis
from .levels import require_levels
from .seen import out_of_place

if TYPE_CHECKING:
    from .predictor import Predictor
    from .reading import Item
    from .run import Prediction

__all__ = ["Checked", "check_item", "warn_of", "warn_of_unusual"]

#: Overlap files beyond this size are not read only to be checked, bytes.
LARGEST_OVERLAP = 2**30


class Checked(NamedTuple):
    """What :func:`check_item` found.

    Attributes:
        overlap: S, where it was read from the structure's folder.
        remarks: a sentence each on atoms that are out of place, on an S that does not belong to the
            positions or the basis, and on the edges.
    """

    overlap: BlockMatrix | None
    remarks: tuple[str, ...]


def check_item(
    model: Predictor, item: Item, any_basis: bool = False, overlap: BlockMatrix | None = None
) -> Checked:
    """Compare a structure and its S with the training set.

    Args:
        model: it, or its stage 1, may keep a table of the training set's overlaps; else nothing is
            compared.
        item: what :meth:`.Predictor.read` gave.
        any_basis: only remark on an S of another basis.
        overlap: S, where the caller has made it; default: it is read, or made of the shortest
            edges.

    Raises:
        ModelError: S is not in the basis of the training set.
        DataError: S cannot be read, or the model's on-site levels cannot be made.
    """
    own, remarks = None, list[str]()
    with agreed(item.comm):
        require_levels(model, item)
        close = out_of_place(model, item.structure, item.edges.keys)
        if item.overlap is None:
            own, remarks = _of_folder(model, item, any_basis)
        else:
            remarks = _of_provider(model, item, any_basis, overlap)
    close = next(filter(None, item.comm.objects(close)), "")
    return Checked(own, (*([close] if close else []), *remarks, *item.edges.notes))


def _of_folder(
    model: Predictor, item: Item, any_basis: bool
) -> tuple[BlockMatrix | None, list[str]]:
    """S of the structure's own folder, and remarks on it; the first process reads it."""
    found, folder = basis_table(model), item.folder
    if found is None or folder is None or not folder.is_dir() or item.comm.rank:
        return None, []
    path = matrix_path(folder, "overlap")
    if not path.is_file() or path.stat().st_size > LARGEST_OVERLAP:
        return None, []
    matrix = read_matrix(folder, "overlap", item.structure)
    other = _basis(found, item, matrix, path, any_basis)
    moved = displaced(found[0], item.structure, matrix)
    return matrix, [*other, *([f"{path}: {moved}"] if moved and not other else [])]


def _of_provider(
    model: Predictor, item: Item, any_basis: bool, overlap: BlockMatrix | None
) -> list[str]:
    """Remarks on S of a table, of basis files, or of another folder."""
    found, provider = basis_table(model), item.overlap
    if found is None or provider is None:
        return []
    if isinstance(provider, TableOverlap) and provider.table is found[0]:
        return []
    if overlap is None:
        near = near_blocks(found[0], item.structure, item.edges.keys)
        overlap = provider.overlap(item.structure, item.edges.keys[near])
    where = item.folder if item.folder is not None else f"'{item.structure.name}'"
    return _basis(found, item, overlap, where, any_basis)


def _basis(
    found: tuple[TwoCentre, pathlib.Path],
    item: Item,
    overlap: BlockMatrix,
    where: str | os.PathLike[str],
    any_basis: bool,
) -> list[str]:
    """Refuse an S of another basis, or remark on it.

    Raises:
        ModelError: see :func:`.basis.require_basis`.
    """
    if not any_basis:
        require_basis(*found, item.structure, overlap, os.fspath(where))
        return []
    other = another_basis(*found, item.structure, overlap)
    return [f"{os.fspath(where)}: {other}"] if other else []


def warn_of(name: str, remarks: Iterable[str]) -> None:
    """Say what :func:`check_item` remarked on a structure."""
    for remark in remarks:
        LOGGER.warning("%s: %s", name, remark)


def warn_of_unusual(prediction: Prediction) -> None:
    """Say what the guard says."""
    if prediction.judgement is not None and prediction.judgement.warning is not None:
        LOGGER.warning("%s: %s", prediction.structure.name, prediction.judgement.warning)
