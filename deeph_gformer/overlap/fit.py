"""Fit two-centre tables to the overlaps of training structures."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError, DataError
from ..io import read_folder, read_matrix
from ..io.blocks import BlockMatrix, match_keys, onsite_keys
from ..io.structure import Structure
from .neighbours import edge_keys, symbol
from .radial import DEGREE, fit_radial
from .rotation import block_rotation, bond_rotation
from .twocentre import PairTable, Shells, TwoCentre, bond_functions, swap_sign

__all__ = ["TWO_CENTRE_LIMIT", "Samples", "collect", "fit_samples", "fit_table", "least_eigenvalue"]

#: S counts as two-centre where no element of any block is further than this from what distance
#: alone allows.
TWO_CENTRE_LIMIT = 1e-5
_MARGIN = 0.4  # Å: how far beyond the data functions are defined at all
_SURE = 4.0  # posterior deviations that must fit into the tolerance
_MOST = 40_000  # samples of one pair of elements that enter the fit
_REACH = 3.0  # Å: how far beyond the last block pairs without one are looked for
_FUZZY = 0.5  # Å: codes drop small blocks, so presence and absence may overlap a little
_HARD = 1e-4  # larger values at the last distance mean that S was cut, not that orbitals end


@dataclasses.dataclass
class Samples:
    """What training structures say about one pair of elements: parts to be concatenated, one per
    structure.

    Attributes:
        distance: (n,), Å.
        values: (n, F), means over ±m.
        forbidden: squared sum, count and largest of what distance alone cannot give.
        absent: the least distance of a pair of atoms without a block, Å.
        absent_in: the structure where that is.
    """

    distance: list[NDArray[np.float64]] = dataclasses.field(default_factory=list)
    values: list[NDArray[np.float64]] = dataclasses.field(default_factory=list)
    forbidden: list[float] = dataclasses.field(default_factory=lambda: [0.0, 0.0, 0.0])
    absent: float = np.inf
    absent_in: str = ""


def _bond_values(
    structure: Structure,
    matrix: BlockMatrix,
    index: NDArray[np.int64],
    a: Shells,
    b: Shells,
    sample: Samples,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Distances (n,) and radial values (n, F) of blocks of one shape; what does not fit goes to
    ``sample.forbidden``."""
    vectors = structure.edge_vectors(matrix.keys[index])
    turn = bond_rotation(vectors)
    blocks = np.stack([matrix.block(e) for e in index]).astype(np.float64)
    bond = block_rotation(a, turn) @ blocks @ np.swapaxes(block_rotation(b, turn), 1, 2)
    functions, rows, columns, which = bond_functions(a, b)
    values = np.zeros((len(index), len(functions)))
    np.add.at(values.T, which, bond[:, rows, columns].T)
    values /= np.bincount(which, minlength=len(functions))
    bond[:, rows, columns] -= values[:, which]
    sample.forbidden[0] += float((bond**2).sum())
    sample.forbidden[1] += bond.size
    sample.forbidden[2] = max(sample.forbidden[2], float(np.abs(bond).max()))
    return np.linalg.norm(vectors, axis=1), values


def collect(
    structures: Iterable[tuple[Structure, BlockMatrix]],
) -> tuple[dict[int, Shells], dict[tuple[int, int], Samples], dict[int, list[NDArray[np.float64]]]]:
    """Rotate every block into its bond frame.

    Args:
        structures: structures with their S.

    Returns:
        shells by element, samples by pair of elements, on-site blocks by element.

    Raises:
        DataError: atoms of one element differ in their shells, or a block has no partner (-R, j,
            i).
    """
    shells: dict[int, Shells] = {}
    samples: dict[tuple[int, int], Samples] = {}
    onsite: dict[int, list[NDArray[np.float64]]] = {}
    for structure, matrix in structures:
        for atom, (z, mine) in enumerate(
            zip(structure.numbers.tolist(), structure.orbital_types, strict=True)
        ):
            if shells.setdefault(z, tuple(mine)) != tuple(mine):
                raise DataError(
                    f"'{structure.name}': atom {atom + 1} ({symbol(z)}) has shells {list(mine)}, "
                    f"another structure has {list(shells[z])}; "
                    "fit one basis at a time"
                )
        matrix.require_symmetric(f"S of '{structure.name}'")
        keys = matrix.keys
        first, second = structure.numbers[keys[:, 3]], structure.numbers[keys[:, 4]]
        itself = onsite_keys(keys)
        for z in np.unique(structure.numbers).tolist():
            onsite.setdefault(z, []).extend(
                matrix.block(e).astype(float)
                for e in np.flatnonzero(itself & (first == z)).tolist()
            )
        for a, b in {
            (int(x), int(y)) for x, y in zip(first[~itself], second[~itself], strict=True) if x <= y
        }:
            # of (R, i, j) and (-R, j, i) one is enough; of unlike elements it is the one that
            # starts at the lighter
            half = (
                (first == a)
                & (second == b)
                & ~itself
                & ((a != b) | (np.arange(len(keys)) < matrix.partner))
            )
            sample = samples.setdefault((a, b), Samples())
            distance, values = _bond_values(
                structure, matrix, np.flatnonzero(half), shells[a], shells[b], sample
            )
            if a == b:
                index, sign = swap_sign(shells[a], shells[a])
                values = (values + sign * values[:, index]) / 2
            sample.distance.append(distance)
            sample.values.append(values)
        _absent(structure, matrix, samples)
    return shells, samples, onsite


def _absent(
    structure: Structure, matrix: BlockMatrix, samples: Mapping[tuple[int, int], Samples]
) -> None:
    """Note the least distance, per pair of elements, at which this structure has atoms but no
    block."""
    reach = {
        pair: max(float(d.max()) for d in sample.distance) + _REACH
        for pair, sample in samples.items()
    }
    keys = edge_keys(structure, reach)
    keys = keys[match_keys(keys, matrix.keys) < 0]
    distance = np.linalg.norm(structure.edge_vectors(keys), axis=1)
    first, second = structure.numbers[keys[:, 3]], structure.numbers[keys[:, 4]]
    for (a, b), sample in samples.items():
        mine = distance[(first == a) & (second == b)]
        if len(mine) and mine.min() < sample.absent:
            sample.absent, sample.absent_in = float(mine.min()), structure.name


def _intervals(grid: NDArray[np.float64], good: NDArray[np.bool_]) -> NDArray[np.float64]:
    """(n, 2) ranges of the grid where ``good`` holds."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], good, [False]]).astype(int)))
    pairs = edges.reshape(-1, 2)
    return np.stack([grid[pairs[:, 0]], grid[pairs[:, 1] - 1]], axis=1)


def _cutoff(present: float, absent: float, edge: float, tolerance: float) -> float:
    """Where edges end, from the last distance with a block, the first without, and the size of S
    there (all Å but the latter two).

    Where S is still large at the last distance and nothing was seen beyond, the first distance
    without a block is the safe side: pairs in between become edges, and are refused as unknown
    instead of being dropped.
    """
    if absent - present < 0.1:
        return (present + absent) / 2
    return absent if edge > tolerance else present + 0.05


def _fit_pair(
    pair: tuple[int, int],
    sample: Samples,
    shells: Mapping[int, Shells],
    tolerance: float,
    cutoff: float | None,
) -> PairTable:
    distance, values = np.concatenate(sample.distance), np.concatenate(sample.values)
    order = np.argsort(distance)
    distance, values = distance[order], values[order]
    present = float(distance[-1])
    edge = float(np.abs(values[distance > present - 0.02]).max())
    absent = min(sample.absent, present + _REACH)
    if cutoff is None and absent < present - _FUZZY:
        raise DataError(
            f"overlap fit: {symbol(pair[0])}-{symbol(pair[1])} blocks reach to {present:.3f} Å, "
            f"but in '{sample.absent_in}' atoms {absent:.3f} Å "
            "apart have none: S is incomplete, or the set mixes bases. Leave such structures out, "
            "or say with --cutoff how far edges go"
        )
    cutoff = cutoff or _cutoff(present, absent, edge, tolerance)
    high = max(present, cutoff) + _MARGIN
    part = np.unique(np.linspace(0, len(distance) - 1, min(len(distance), _MOST)).astype(int))
    ended = (
        edge < _HARD or 0.3 < sample.absent - present < np.inf
    )  # atoms without a block: there S is zero, unless it was cut
    nothing = np.arange(max(present, absent) + 0.02, high, 0.02) if ended else np.zeros(0)
    fit = fit_radial(
        np.concatenate([distance[part], nothing]),
        np.concatenate([values[part], np.zeros((len(nothing), values.shape[1]))]),
        max(0.2, float(distance[0]) - _MARGIN),
        high,
    )
    table = PairTable(fit.knots, fit.coefficients, DEGREE, cutoff, np.zeros((0, 2)))
    residual = table(distance) - values
    noise = float(fit.noise.max())
    valid = _intervals(
        fit.grid, (_SURE * fit.deviation < max(tolerance, 3 * noise)) & (fit.grid <= cutoff + 0.011)
    )
    if not len(valid):
        raise DataError(
            f"overlap fit: {len(distance)} blocks of {symbol(pair[0])}-{symbol(pair[1])} fix no "
            f"radial function to {tolerance:g}; "
            "give more structures or a larger --tolerance"
        )
    valid[-1, 1] = cutoff if valid[-1, 1] > cutoff - 0.02 else valid[-1, 1]
    report = {
        "blocks": len(distance),
        "min_distance_A": float(distance[0]),
        "max_distance_A": present,
        "first_absent_A": sample.absent if np.isfinite(sample.absent) else None,
        "edge_value": edge,
        "cut_hard": edge >= _HARD,
        "residual_rms": float(np.sqrt((residual**2).mean())),
        "residual_max": float(np.abs(residual).max()),
        "noise": noise,
        "off_m_rms": float(np.sqrt(sample.forbidden[0] / sample.forbidden[1])),
        "off_m_max": sample.forbidden[2],
        "tolerance": tolerance,
    }
    return dataclasses.replace(table, valid=valid, report=report)


def _fit_onsite(
    blocks: list[NDArray[np.float64]], shells: Shells
) -> tuple[NDArray[np.float64], float]:
    """The part of the mean on-site block that no rotation changes, and the largest departure of any
    block from it."""
    mean = np.mean(blocks, axis=0)
    mean = (mean + mean.T) / 2
    result = np.zeros_like(mean)
    starts = np.concatenate([[0], np.cumsum([2 * l + 1 for l in shells])]).astype(int)
    for p, la in enumerate(shells):
        for q, lb in enumerate(shells):
            if la == lb:
                rows, columns = starts[p] + np.arange(2 * la + 1), starts[q] + np.arange(2 * la + 1)
                result[rows, columns] = mean[rows, columns].mean()
    return result, max(float(np.abs(b - result).max()) for b in blocks)


def fit_samples(
    shells: Mapping[int, Shells],
    samples: Mapping[tuple[int, int], Samples],
    onsite: Mapping[int, list[NDArray[np.float64]]],
    tolerance: float = 1e-5,
    cutoffs: Mapping[tuple[int, int], float] | None = None,
) -> TwoCentre:
    """Fit what :func:`collect` found.

    Args:
        shells: l of each shell, by atomic number.
        samples: of each pair of elements.
        onsite: blocks (n, n) of each element.
        tolerance: a distance is valid where every function is known this well (S has no unit).
        cutoffs: edge cutoffs in Å that replace the learned ones, by pair of atomic numbers, the
            smaller first.

    Raises:
        DataError: too few blocks.
        ConfigError: tolerance not positive.
    """
    if not tolerance > 0:
        raise ConfigError(f"tolerance is {tolerance}; it must be positive, e.g. 1e-5")
    if not samples:
        raise DataError("overlap fit: no off-site block in any structure")
    cutoffs = cutoffs or {}
    pairs = {
        pair: _fit_pair(pair, sample, shells, tolerance, cutoffs.get(pair))
        for pair, sample in sorted(samples.items())
    }
    own: dict[int, NDArray[np.float64]] = {}
    departure = 0.0
    for z, blocks in onsite.items():
        if not blocks:
            raise DataError(f"overlap fit: no on-site block of {symbol(z)}")
        own[z], worst = _fit_onsite(blocks, shells[z])
        departure = max(departure, worst)
    worst = max(
        max(float(p.report["residual_max"]), float(p.report["off_m_max"])) for p in pairs.values()
    )
    report: dict[str, Any] = {
        "kind": "fitted",
        "two_centre": worst < TWO_CENTRE_LIMIT and departure < TWO_CENTRE_LIMIT,
        "worst_off_site": worst,
        "worst_on_site": departure,
    }
    return TwoCentre(dict(shells), pairs, own, report)


def fit_table(
    folders: Iterable[str | os.PathLike[str]],
    tolerance: float = 1e-5,
    cutoffs: Mapping[tuple[int, int], float] | None = None,
    progress: Callable[[str], None] | None = None,
) -> TwoCentre:
    """Fit a table to structure folders that hold S; see :func:`fit_samples`.

    Args:
        folders: legacy or DeepH-dock folders.
        tolerance: see :func:`fit_samples`.
        cutoffs: see :func:`fit_samples`.
        progress: called with each folder's name.

    Raises:
        DataError: a folder cannot be read, or the fit is impossible.
    """
    paths = [pathlib.Path(f) for f in folders]
    if not paths:
        raise DataError("overlap fit: no structure folder given")

    def read() -> Iterable[tuple[Structure, BlockMatrix]]:
        """Structure and S of each folder."""
        for folder in paths:
            if progress:
                progress(folder.name)
            structure = read_folder(folder)
            yield structure, read_matrix(folder, "overlap", structure)

    table = fit_samples(*collect(read()), tolerance=tolerance, cutoffs=cutoffs)
    report: dict[str, Any] = {**table.report, "structures": [f.name for f in paths]}
    if not table.report["two_centre"]:
        structure = read_folder(paths[-1])
        matrix = read_matrix(paths[-1], "overlap", structure)
        report["least_eigenvalue"] = least_eigenvalue(matrix, structure)
        report["least_eigenvalue_predicted"] = least_eigenvalue(
            table.blocks(structure, matrix.keys, extrapolate=True), structure
        )
    return dataclasses.replace(table, report=report)


def least_eigenvalue(matrix: BlockMatrix, structure: Structure) -> float:
    """The least eigenvalue of S at k = 0; S of a usable basis is positive definite."""
    starts = np.concatenate([[0], np.cumsum(structure.orbital_counts)])
    total = np.zeros((starts[-1], starts[-1]))
    for (*_, i, j), block in matrix:
        total[starts[i] : starts[i + 1], starts[j] : starts[j + 1]] += block
    return float(np.linalg.eigvalsh(total)[0])
