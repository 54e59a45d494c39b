"""Predictions whose on-site levels follow the linear model of their bundle (:mod:`..onsite`)."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from ..io.blocks import BlockMatrix, match_keys, onsite_keys, require_onsite
from ..io.folder import has_matrix, read_matrix
from ..io.structure import Structure
from ..logs import LOGGER
from ..onsite import LevelModel, Surroundings, onsite_features, shell_levels, with_levels
from ..onsite.features import require_elements
from ..onsite.reach import furthest_bond
from ..overlap import OverlapProvider, TableOverlap
from ..overlap.neighbours import symbol
from .seen import bundle_overlap, why_no_overlap

if TYPE_CHECKING:
    from .predictor import Predictor
    from .reading import Item

__all__ = [
    "APART",
    "LIMIT",
    "Prepared",
    "Unusual",
    "corrected",
    "overlap_of",
    "prepare",
    "require_levels",
    "shifts_of",
    "slopes_of",
    "unusual_levels",
]

#: How much further than in the fit a structure may be, as a factor; and its parts from each other,
#: Å more.
LIMIT, APART = 2.0, 0.3

#: Å, of the differences of features: exact to 1e-10, as these are smooth.
STEP = 1e-2
#: Weights of f(n STEP) in STEP f'(0), exact for polynomials of degree 4.
_STENCIL = ((-2, 1 / 12), (-1, -8 / 12), (1, 8 / 12), (2, -1 / 12))
#: Derivatives by x, y and z.
Three = tuple[BlockMatrix, BlockMatrix, BlockMatrix]


class Prepared(NamedTuple):
    """What the levels of a structure need beside the networks' H.

    Attributes:
        around: of all atoms.
        overlap: S on the edges of this process.
    """

    around: Surroundings
    overlap: BlockMatrix


def prepare(model: Predictor, item: Item, levels: LevelModel) -> Prepared | None:
    """Everything that can be known, and be wrong, before networks run.

    Args:
        model: whose prediction it will be.
        item: the structure; with several processes each has the edges of its atoms.
        levels: the linear model.

    Returns:
        None, and a warning, for a structure that repeats in another number of directions than all
        of those that the levels were fitted to: potentials are others there.

    Raises:
        DataError: S is not known, or the levels know nothing of an element.
    """
    structure, keys = item.structure, item.edges.keys
    around = onsite_features(structure, keys, levels.elements, levels.radial, item.comm)
    if around.rank not in levels.ranks:
        LOGGER.warning(
            "%s: repeats in %d directions, structures of the fit in %s; its on-site levels stay "
            "those of the networks",
            structure.name,
            around.rank,
            " or ".join(map(str, levels.ranks)),
        )
        return None
    return Prepared(around, overlap_of(model, item))


def corrected(
    model: Predictor,
    item: Item,
    levels: LevelModel,
    prepared: Prepared | None,
    hamiltonian: BlockMatrix,
) -> tuple[BlockMatrix, Unusual | None]:
    """H with the levels of the linear model, to the share that it has, and how unusual that is.

    Args:
        model: whose prediction it is.
        item: the structure; with several processes each has the edges of its atoms.
        levels: the linear model.
        prepared: see :func:`prepare`; without it H stays.
        hamiltonian: H on these edges, as the networks give it.

    Returns:
        H; and what :func:`unusual_levels` says.
    """
    if prepared is None:
        return hamiltonian, None
    structure, spinful = item.structure, model.targets.basis.spinful
    shifts = shifts_of(item, levels, prepared, hamiltonian)
    between = levels.between_atoms(structure, shifts)
    moved = with_levels(
        structure, hamiltonian, prepared.overlap, levels.kinds, shifts, between, spinful
    )
    return moved, unusual_levels(item, levels, prepared.around, shifts)


def shifts_of(
    item: Item, levels: LevelModel, prepared: Prepared, hamiltonian: BlockMatrix
) -> NDArray[np.float64]:
    """δ of each level, (N, K), eV; arguments are those of :func:`corrected`."""
    own, comm = shell_levels(item.structure, hamiltonian, levels.kinds), item.comm
    if comm.size > 1:
        parts = np.stack(comm.objects(own))
        there = np.isfinite(parts)
        own = np.where(there.any(axis=0), np.where(there, parts, 0.0).sum(axis=0), np.nan)
    return levels.shifts(item.structure, prepared.around, own)


class Unusual(NamedTuple):
    """How far a structure is from those that levels were fitted to.

    Attributes:
        distance: 1 is as far as training structures are from each other, or the shifts of
            validation, at most; there is a warning above :data:`LIMIT`.
        warning: a sentence, or None.
    """

    distance: float
    warning: str | None


def unusual_levels(
    item: Item, levels: LevelModel, around: Surroundings, shifts: NDArray[np.float64]
) -> Unusual | None:
    """Compare a structure and its shifts with those of the fit.

    Args:
        item: the structure.
        levels: the linear model.
        around: of all its atoms.
        shifts: (N, K), δ, eV.

    Returns:
        None where the bundle does not know those of the fit.
    """
    reach, structure = levels.reach, item.structure
    if reach is None:
        return None
    far = reach.distances(levels.moved(structure, around))
    size = np.sqrt((shifts**2).mean(axis=1))  # of each atom
    whole = math.sqrt(float((size**2).mean()))
    cutoff, enough = levels.radial.cutoff, reach.apart + APART
    apart = furthest_bond(structure, item.edges.keys, cutoff, item.comm, enough)
    found = None
    if far.max() > LIMIT:
        found = (
            f"{_atom(structure, far)} is {far.max():.1f} times as far from all training atoms as "
            "any of these from those of other structures, in the features that levels are a "
            "linear function of"
        )
    elif apart > enough:
        found = (
            f"its parts are {apart:.2f} Å apart, and {reach.apart:.2f} at most in training"
            if math.isfinite(apart)
            else f"it has parts that no bond within {cutoff:g} Å connects, so they do not feel "
            "each other and each has a zero of energy of its own; training structures have none"
        )
    elif whole > LIMIT * reach.shift:
        found = (
            f"they shift by {whole * 1e3:.0f} meV (rms; {reach.shift * 1e3:.0f} at most on "
            f"validation), most at {_atom(structure, size)}: the networks and the linear model "
            "disagree, and one of them is wrong here"
        )
    text = found and (
        f"on-site levels may be off: {found}; fit them with such structures ('deeph-gformer "
        "onsite'), or compare with H without them (in Python model.without_levels())"
    )
    return Unusual(float(max(far.max(), whole / reach.shift)), text)


def _atom(structure: Structure, values: NDArray[np.float64]) -> str:
    """The atom with the largest value, for messages."""
    worst = int(values.argmax())
    return f"atom {worst + 1} ({symbol(structure.numbers[worst])})"


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
        DataError: S is neither in its folder nor known to the model, or has no on-site block of an
            atom.
    """
    structure, keys, found = item.structure, item.edges.keys, item.s
    if found is None and item.overlap is None and item.folder is not None and _has_overlap(item):
        found = read_matrix(item.folder, "overlap", structure)
    if found is not None:
        index = match_keys(keys, found.keys)
        found = found.select(index[index >= 0])
    else:
        provider = item.overlap or bundle_overlap(model)
        if provider is None:
            raise _unknown(model, item)
        found = _made(provider, structure, keys)
    where = f"{item.folder or structure.name}, S"
    require_onsite(found.keys, keys[onsite_keys(keys), 3].tolist(), where)
    return found


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


def require_levels(model: Predictor, item: Item) -> None:
    """Raise where levels could not be made; without levels nothing is asked.

    Args:
        model: both stages.
        item: the structure.

    Raises:
        DataError: S is not known, or the levels know nothing of an element.
    """
    if model.bundle is None or model.bundle.levels is None:
        return
    require_elements(item.structure, model.bundle.levels.elements)
    if item.s is None and item.overlap is None and not _has_overlap(item):
        if bundle_overlap(model) is None:
            raise _unknown(model, item)


def _unknown(model: Predictor, item: Item) -> DataError:
    """That nothing tells S of a structure, and what to do."""
    return DataError(
        f"{item.folder or item.structure.name}: this model shifts on-site levels, which needs S, "
        f"and {why_no_overlap(model)}; put overlaps.h5 into the folder, or say where S comes from "
        "(--overlap; in Python overlap=)"
    )
