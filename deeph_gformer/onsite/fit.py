"""The linear model of a training set's levels, in closed form (ridge regression)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import lsq_linear

from ..data.gauge import aligned
from ..errors import DataError
from ..io.blocks import BlockMatrix, match_keys, onsite_keys
from ..io.structure import Structure
from .features import Radial, onsite_features
from .levels import Kind, LevelModel, centred, kinds_of, shell_levels, with_levels
from .reach import furthest_bond, leverage

__all__ = ["Fit", "Known", "fit_levels", "with_share"]

#: Å; and from the shortest distance of two atoms to the centre of the last radial function.
_CUTOFF, _SPREAD = 6.2, 2.4
#: Numbers of radial functions that are tried.
_COUNTS = (3, 4)
#: Ridge parameters that are tried, for features of unit spread.
_RIDGES = tuple(10.0**n for n in range(-5, 3))
#: So many structures are needed.
_LEAST = 4


class Fit(NamedTuple):
    """What :func:`fit_levels` found.

    Attributes:
        model: with a share of 1.
        left_out: (K,), eV: rms error of each kind's levels in structures that were left out of the
            fit, each in turn.
        spread: (K,), eV: rms of the levels.
    """

    model: LevelModel
    left_out: NDArray[np.float64]
    spread: NDArray[np.float64]


def fit_levels(structures: Sequence[tuple[Structure, BlockMatrix]]) -> Fit:
    """Fit the levels of DFT.

    The ridge parameter of each kind of shell, and the number of radial functions, are those with
    the least error in structures left out.

    Args:
        structures: atoms and DFT's H, whose blocks reach beyond the nearest neighbours.

    Raises:
        DataError: there are too few structures, or an atom has no neighbours.
    """
    if len(structures) < _LEAST:
        raise DataError(
            f"{len(structures)} training structures: a model of levels needs {_LEAST} at least"
        )
    elements = tuple(sorted({z for s, _ in structures for z in s.numbers.tolist()}))
    kinds = tuple(
        sorted({k for s, _ in structures for shells in s.orbital_types for k in kinds_of(shells)})
    )
    shortest, cutoff = _distances(structures)
    found = [
        _fit(structures, elements, kinds, Radial(cutoff, shortest, _SPREAD, count))
        for count in _COUNTS
    ]
    best = min(found, key=lambda fit: float(fit.left_out.mean()))
    apart = max(furthest_bond(s, h.keys, cutoff) for s, h in structures)
    reach = best.model.reach and best.model.reach._replace(apart=apart)
    return best._replace(model=dataclasses.replace(best.model, reach=reach))


def _distances(structures: Sequence[tuple[Structure, BlockMatrix]]) -> tuple[float, float]:
    """The shortest distance of two atoms, and a cutoff within which all pairs have blocks, Å."""
    shortest, reach = math.inf, dict[tuple[int, int], float]()
    for structure, matrix in structures:
        keys = matrix.keys[~onsite_keys(matrix.keys)]
        if not len(keys):
            raise DataError(f"structure '{structure.name}' has no block between two atoms")
        distance = np.linalg.norm(structure.edge_vectors(keys), axis=1)
        shortest = min(shortest, float(distance.min()))
        pairs = structure.numbers[keys[:, 3:]]
        for pair in {(int(a), int(b)) for a, b in np.unique(pairs, axis=0)}:
            own = float(distance[(pairs == pair).all(axis=1)].max())
            reach[pair] = min(reach.get(pair, math.inf), own)
    return round(shortest, 3), round(min(_CUTOFF, *reach.values()), 3)


def _fit(
    structures: Sequence[tuple[Structure, BlockMatrix]],
    elements: tuple[int, ...],
    kinds: tuple[Kind, ...],
    radial: Radial,
) -> Fit:
    """:func:`fit_levels` with given radial functions."""
    around = [onsite_features(s, h.keys, elements, radial) for s, h in structures]
    features = [a.features for a in around]
    ranks = tuple(sorted({a.rank for a in around}))
    levels = [shell_levels(s, h, kinds) for s, h in structures]
    element = [np.array([elements.index(z) for z in s.numbers.tolist()]) for s, _ in structures]
    every, rows, known = (np.concatenate(v) for v in (element, features, levels))
    mean_features = np.stack([rows[every == n].mean(axis=0) for n in range(len(elements))])
    mean_levels = np.stack([_means(known[every == n]) for n in range(len(elements))])
    weights = np.zeros((len(kinds), rows.shape[1]))
    errors, spreads, ridges = np.zeros((3, len(kinds)))
    for k in range(len(kinds)):
        parts = []
        for (f, piece, _), own, e in zip(around, levels, element, strict=True):
            there = np.isfinite(own[:, k])
            both = np.column_stack([f - mean_features[e], (own - mean_levels[e])[:, k]])
            moved = centred(both, np.repeat(there[:, None], both.shape[1], axis=1), piece)[there]
            parts.append((moved[:, :-1], moved[:, -1]))
        weights[k], errors[k], ridges[k] = _ridge(parts)
        spreads[k] = math.sqrt(float(np.mean(np.concatenate([t for _, t in parts]) ** 2)))
    share, between = np.ones(len(kinds)), np.ones(2)
    model = LevelModel(
        elements, kinds, radial, ranks, mean_features, mean_levels, weights, share, between
    )
    far = [model.moved(s, a) for (s, _), a in zip(structures, around, strict=True)]
    reach = leverage(far, float(ridges.min()))
    return Fit(dataclasses.replace(model, reach=reach), errors, spreads)


def _means(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """(K,), means of columns (n, K) of which some are NaN throughout."""
    there = np.isfinite(rows)
    count = there.sum(axis=0)
    return np.where(
        count > 0, np.where(there, rows, 0.0).sum(axis=0) / np.maximum(count, 1), np.nan
    )


def _ridge(
    parts: Sequence[tuple[NDArray[np.float64], NDArray[np.float64]]],
) -> tuple[NDArray[np.float64], float, float]:
    """Weights (F,) for features (n, F) and targets (n,) of each structure, the rms error of
    structures left out, and the ridge parameter with which it is least."""
    scale = np.concatenate([f for f, _ in parts]).std(axis=0)
    used = scale > 1e-6 * scale.max(initial=0.0)
    weights = np.zeros(len(scale))
    scaled = [(f[:, used] / scale[used], t) for f, t in parts]
    squares = [(f.T @ f, f.T @ t) for f, t in scaled]
    whole = [np.sum([s[n] for s in squares], axis=0) for n in (0, 1)]
    best, chosen = math.inf, _RIDGES[0]
    for ridge in _RIDGES:
        penalty = ridge * np.eye(int(used.sum()))
        total, count = 0.0, 0
        for (f, t), (own, right) in zip(scaled, squares, strict=True):
            solution = np.linalg.solve(whole[0] - own + penalty, whole[1] - right)
            total, count = total + float(((t - f @ solution) ** 2).sum()), count + len(t)
        error = math.sqrt(total / max(count, 1))
        if error < best:
            best, chosen = error, ridge
            weights[used] = np.linalg.solve(whole[0] + penalty, whole[1]) / scale[used]
    return weights, best, chosen


class Known(NamedTuple):
    """A structure that neither the linear model nor the network has learned.

    Attributes:
        structure: its atoms.
        truth: DFT's H.
        made: the network's H.
        overlap: S, spinless.
    """

    structure: Structure
    truth: BlockMatrix
    made: BlockMatrix
    overlap: BlockMatrix


def with_share(model: LevelModel, validation: Sequence[Known], spinful: bool) -> LevelModel:
    """The model with the share that makes a network's H best.

    Each kind's share minimises the squares of levels, a and b of :mod:`.levels` then those of the
    blocks between atoms (without μS).

    Args:
        model: see :func:`fit_levels`.
        validation: at least one structure.
        spinful: whether H has spin.
    """
    over, norm, steps = np.zeros(len(model.kinds)), np.zeros(len(model.kinds)), []
    for structure, truth, made, _ in validation:
        around = onsite_features(structure, truth.keys, model.elements, model.radial)
        dft, net = (shell_levels(structure, h, model.kinds) for h in (truth, made))
        wanted = centred(dft - net, np.isfinite(dft), around.piece)
        step = model.differences(structure, around, net)
        steps.append(step)
        over, norm = over + (wanted * step).sum(axis=0), norm + (step**2).sum(axis=0)
    share = np.clip(over / np.where(norm > 0, norm, 1.0), 0.0, 1.0)
    squares, products = np.zeros((2, 2)), np.zeros(2)
    for one, step in zip(validation, steps, strict=True):
        rows, wanted = _between_atoms(model, one, share * step, spinful)
        squares, products = squares + rows @ rows.T, products + rows @ wanted
    root = np.linalg.cholesky(squares + 1e-12 * max(float(np.trace(squares)), 1e-300) * np.eye(2))
    between = lsq_linear(root.T, np.linalg.solve(root, products), bounds=(0.0, 1.0)).x
    sizes = [math.sqrt(float(np.mean((share * step) ** 2))) for step in steps]
    reach = model.reach and model.reach._replace(shift=max(sizes) or math.inf)
    return dataclasses.replace(model, share=share, between=between, reach=reach)


def _between_atoms(
    model: LevelModel, one: Known, shifts: NDArray[np.float64], spinful: bool
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """What a and b multiply (2, M), and what they should make (M,): elements of blocks between
    atoms, real and imaginary parts, eV."""
    structure, truth, made, overlap = one
    made = aligned(made, truth, overlap, spinful)
    index = match_keys(made.keys, truth.keys)
    made, truth = made.select(np.flatnonzero(index >= 0)), truth.select(index[index >= 0])
    zero = dataclasses.replace(made, values=np.zeros_like(made.values))
    apart = np.repeat(~onsite_keys(made.keys), np.diff(made.offsets))

    def numbers(values: NDArray[np.number]) -> NDArray[np.float64]:
        """Those between atoms, complex ones as two."""
        return values[apart].astype(np.complex128).view(np.float64)

    nothing = np.zeros_like(shifts)
    rows = [
        with_levels(structure, zero, overlap, model.kinds, nothing, part, spinful).values
        for part in model.parts(structure, shifts)
    ]
    return np.stack([numbers(r) for r in rows]), numbers(truth.values - made.values)
