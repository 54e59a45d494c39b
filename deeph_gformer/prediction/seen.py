"""What a model remembers of its training set: overlaps, and which structures are like it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .. import fields as names
from ..data.nearest import unlike_nearest
from ..errors import DataError
from ..io.periodicity import coupling, skeleton
from ..io.structure import Structure
from ..overlap import OverlapProvider, TableOverlap, TwoCentre, load_table
from ..runtime.communicator import Communicator
from .basis import basis_table

if TYPE_CHECKING:
    from .predictor import Predictor

__all__ = ["bundle_overlap", "out_of_place", "require_seen", "too_close", "why_no_overlap"]

#: Atoms closer than this part of the shortest distance of the training set are refused; others
#: below that distance are warned of.
CLOSEST = 0.95


def _training_table(model: Predictor) -> TwoCentre | None:
    """The overlap table of the training set, None where the bundle has none."""
    path = model.bundle.path / names.OVERLAP_TABLE if model.bundle and model.bundle.path else None
    return load_table(path) if path is not None and path.is_file() else None


def bundle_overlap(model: Predictor) -> OverlapProvider | None:
    """The table in the model's bundle, None where there is none or S is not two-centre there."""
    table = _training_table(model)
    return (
        TableOverlap(table) if table is not None and table.report.get("two_centre", True) else None
    )


def why_no_overlap(model: Predictor) -> str:
    """Half a sentence on a model for which :func:`bundle_overlap` is None."""
    if _training_table(model) is None:
        return "the model has no table of overlaps"
    return "the model's table does not know it: S of its training set is not two-centre (PAW?)"


def too_close(
    model: Predictor, structure: Structure, keys: NDArray[np.int64], part: float = 1.0
) -> str:
    """A sentence on two atoms that are closer than what training knows of their elements; empty
    where there are none.

    Args:
        model: it, or its stage 1, may keep a table of the training set's overlaps.
        structure: the atoms.
        keys: (E, 5), 0-based, its edges.
        part: of the shortest distance of the training set, below which atoms are too close.
    """
    found = basis_table(model)
    return "" if found is None else found[0].too_close(structure, keys, part)


def out_of_place(model: Predictor, structure: Structure, keys: NDArray[np.int64]) -> str:
    """A sentence on an atom that is closer to another, or further from all others, than in
    training; empty where there is none, and where the model does not remember.

    Args:
        model: its overlap table or its record of the nearest atoms tells.
        structure: the atoms.
        keys: (E, 5), its edges, of this process.
    """
    table = model.bundle.training.get("nearest") if model.bundle else None
    close = too_close(model, structure, keys)
    return close or unlike_nearest(table, model.targets.basis, structure, keys)


def require_seen(
    model: Predictor,
    structure: Structure,
    keys: NDArray[np.int64],
    pbc: Sequence[bool],
    comm: Communicator | None = None,
) -> None:
    """Refuse a structure without DFT files that is unlike every training structure.

    Args:
        model: its bundle remembers the training set (a stage 1 alone does not).
        structure: the atoms.
        keys: (E, 5), its edges, of this process.
        pbc: for the message.
        comm: processes that share it; None: there is one.

    Raises:
        DataError: it repeats in another number of directions than in training, or two atoms are
            much too close.
    """
    seen: list[int] = (model.bundle.training.get("periodicity") if model.bundle else None) or []
    found = None
    if seen:
        shared = comm is not None and comm.size > 1
        few = comm.objects(skeleton(keys, len(structure))) if comm and shared else [keys]
        found = coupling(np.concatenate(few), len(structure))
    if found is not None and found.rank not in seen:
        flags = ", ".join(str(bool(p)) for p in pbc)
        if found.rank > min(seen):
            what = (
                "Where nothing should repeat make the lattice vector longer: images must be "
                "further apart than atoms couple"
            )
        elif all(pbc):
            what = (
                "Where it should repeat make the lattice vector shorter: images are further apart "
                "than atoms couple"
            )
        else:
            what = "Set pbc to True along each vector that repeats (in the file; atoms.pbc = ...)"
        raise DataError(
            f"'{structure.name}': with pbc = ({flags}) it repeats in {found.rank} directions (an "
            "atom couples to its own images there), the model's training structures in "
            f"{' or '.join(map(str, seen))}. {what}"
        )
    close = too_close(model, structure, keys, CLOSEST)
    if close:
        raise DataError(f"{close}; H of such a structure would mean nothing")
