"""Predictions whose on-site levels follow the linear model of their bundle (:mod:`..onsite`)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from ..io.blocks import BlockMatrix, match_keys
from ..io.folder import has_matrix, read_matrix
from ..io.structure import Structure
from ..logs import LOGGER
from ..onsite import LevelModel, Surroundings, onsite_features, shell_levels, with_levels
from ..overlap import OverlapProvider, TableOverlap
from .seen import bundle_overlap, why_no_overlap

if TYPE_CHECKING:
    from .predictor import Predictor
    from .reading import Item

__all__ = ["corrected", "overlap_of", "require_levels", "shifts_of", "slopes_of"]

#: Å, of the differences of features: exact to 1e-10, as these are smooth.
STEP = 1e-2
#: Weights of f(n STEP) in STEP f'(0), exact for polynomials of degree 4.
_STENCIL = ((-2, 1 / 12), (-1, -8 / 12), (1, 8 / 12), (2, -1 / 12))
#: Derivatives by x, y and z.
Three = tuple[BlockMatrix, BlockMatrix, BlockMatrix]


def corrected(
    model: Predictor, item: Item, levels: LevelModel, hamiltonian: BlockMatrix
) -> BlockMatrix:
    """H with the levels of the linear model, to the share that it has.

    Args:
        model: whose prediction it is.
        item: the structure; with several processes each has the edges of its atoms.
        levels: the linear model.
        hamiltonian: H on these edges, as the networks give it.

    Raises:
        DataError: S is not known, or the levels know nothing of an element.
    """
    shifts = shifts_of(item, levels, hamiltonian)
    if shifts is None:
        return hamiltonian
    overlap, spinful = overlap_of(model, item), model.targets.basis.spinful
    between = levels.between_atoms(item.structure, shifts)
    return with_levels(item.structure, hamiltonian, overlap, levels.kinds, shifts, between, spinful)


def shifts_of(
    item: Item, levels: LevelModel, hamiltonian: BlockMatrix
) -> NDArray[np.float64] | None:
    """δ of each level, (N, K), eV; arguments and errors are those of :func:`corrected`.

    None, and a warning, for a structure that repeats in another number of directions than all of
    those that the levels were fitted to: potentials are others there.
    """
    structure, comm = item.structure, item.comm
    around = onsite_features(structure, item.edges.keys, levels.elements, levels.radial, comm)
    if around.rank not in levels.ranks:
        LOGGER.warning(
            "%s: repeats in %d directions, structures of the fit in %s; its on-site levels stay "
            "those of the networks",
            structure.name,
            around.rank,
            " or ".join(map(str, levels.ranks)),
        )
        return None
    own = shell_levels(structure, hamiltonian, levels.kinds)
    if comm.size > 1:
        parts = np.stack(comm.objects(own))
        there = np.isfinite(parts)
        own = np.where(there.any(axis=0), np.where(there, parts, 0.0).sum(axis=0), np.nan)
    return levels.shifts(structure, around, own)


def slopes_of(
    model: Predictor,
    item: Item,
    levels: LevelModel,
    shifts: NDArray[np.float64],
    atom: int,
    slopes: Three,
    overlap: BlockMatrix,
    overlap_slopes: Three,
) -> Three:
    """∂H/∂x, ∂H/∂y and ∂H/∂z of an atom with the levels of the linear model.

    Args:
        model: whose H it is.
        item: the structure, on one process.
        levels: the linear model.
        shifts: (N, K), δ, eV, see :func:`shifts_of`.
        atom: which moves, 0-based.
        slopes: derivatives of H as the networks give it, eV/Å.
        overlap: S.
        overlap_slopes: derivatives of S, 1/Å.
    """
    structure, spinful, kinds = item.structure, model.targets.basis.spinful, levels.kinds
    result = []
    for axis, (slope, moved) in enumerate(zip(slopes, overlap_slopes, strict=True)):
        ends = [_features(item, levels, atom, axis, n * STEP) for n, _ in _STENCIL]
        change = sum(w * end.features for (_, w), end in zip(_STENCIL, ends, strict=True))
        around = ends[0]._replace(features=np.asarray(change) / STEP)
        turn = levels.slopes(structure, around, shell_levels(structure, slope, kinds))
        for delta, matrix in ((turn, overlap), (shifts, moved)):
            between = levels.between_atoms(structure, delta)
            slope = with_levels(structure, slope, matrix, kinds, delta, between, spinful)
        result.append(slope)
    return result[0], result[1], result[2]


def _features(item: Item, levels: LevelModel, atom: int, axis: int, step: float) -> Surroundings:
    """Features with an atom ``step`` Å away along an axis; edges stay."""
    positions = item.structure.positions.copy()
    positions[atom, axis] += step
    moved = dataclasses.replace(item.structure, positions=positions)
    return onsite_features(moved, item.edges.keys, levels.elements, levels.radial)


def overlap_of(model: Predictor, item: Item) -> BlockMatrix:
    """S on the edges of a structure.

    Args:
        model: its bundle may have a table of overlaps.
        item: the structure.

    Raises:
        DataError: S is neither in its folder nor known to the model.
    """
    structure, keys, found = item.structure, item.edges.keys, item.s
    if found is None and item.overlap is not None:
        return _made(item.overlap, structure, keys)
    if found is None and item.folder is not None and _has_overlap(item):
        found = read_matrix(item.folder, "overlap", structure)
    if found is not None:
        index = match_keys(keys, found.keys)
        return found.select(index[index >= 0])
    provider = bundle_overlap(model)
    if provider is None:
        raise _unknown(model, item)
    return _made(provider, structure, keys)


def _made(provider: OverlapProvider, structure: Structure, keys: NDArray[np.int64]) -> BlockMatrix:
    """S of a provider; a table is also asked for distances between those that it knows, as edges
    were checked before."""
    if isinstance(provider, TableOverlap):
        return provider.table.blocks(structure, keys, extrapolate=True)
    return provider.overlap(structure, keys)


def _has_overlap(item: Item) -> bool:
    """Whether a structure was read from a folder, not a file, that has S."""
    folder = item.folder
    return folder is not None and folder.is_dir() and has_matrix(folder, "overlap")


def require_levels(model: Predictor, items: Sequence[Item]) -> None:
    """Raise where levels could not be made, before networks run.

    Args:
        model: both stages; without levels nothing is asked.
        items: the structures.

    Raises:
        DataError: S of one is not known.
    """
    if model.bundle is None or model.bundle.levels is None:
        return
    known = bundle_overlap(model) is not None
    for item in items:
        if not known and item.s is None and item.overlap is None and not _has_overlap(item):
            raise _unknown(model, item)


def _unknown(model: Predictor, item: Item) -> DataError:
    """That nothing tells S of a structure, and what to do."""
    return DataError(
        f"{item.folder or item.structure.name}: this model shifts on-site levels, which needs S, "
        f"and {why_no_overlap(model)}; put overlaps.h5 into the folder, or say where S comes from "
        "(--overlap; in Python overlap=)"
    )
