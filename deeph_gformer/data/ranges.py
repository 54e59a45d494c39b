"""How far edges of each pair of elements reach in a training set, and edges that lie beyond.

A network extrapolates to a distance that it never saw without a word: a block of zeros 295 Å away
gave |H| of 2.7 eV there, and moved the on-site blocks of its atoms.
"""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from ..fields import OVERLAP_TABLE
from ..io.blocks import BlockMatrix, format_key, match_keys, onsite_keys
from ..io.structure import Structure
from ..overlap import load_table
from ..overlap.neighbours import find_edges, symbol

if TYPE_CHECKING:
    from ..gformer.bundle import Bundle

__all__ = [
    "LONGEST",
    "Ranges",
    "beyond",
    "bundle_ranges",
    "describe_beyond",
    "require_within",
    "without_block",
]

#: Å; no orbitals reach so far, whatever the training set.
LONGEST = 60.0
#: How much further than in the training set an edge may reach: strained cells, rounded cutoffs.
_RELATIVE, _ABSOLUTE = 0.02, 0.1
#: Two atoms closer than this part of the longest block of their elements have a block, too. In 275
#: structures of three DFT codes the part is 0.999 or more; where x, y and z of positions changed
#: places it is 0.66 at most.
_NEARER = 0.75
#: Blocks that are smaller than this part of the largest element do not say how far orbitals reach:
#: projectors of a third atom couple others further apart.
_SMALL = 1e-4
#: Pairs of atoms that are looked at.
_PAIRS = 2_000_000
_UNKNOWN = 1e5  # Å: larger ranges in a bundle say that there is no range


class Ranges(NamedTuple):
    """What a training set knows.

    Attributes:
        longest: Å, by ordered pair of atomic numbers; pairs that are not named have no edges.
        overlaps_only: it was seen in S; H may couple atoms that are further apart.
    """

    longest: Mapping[tuple[int, int], float]
    overlaps_only: bool


@functools.lru_cache(maxsize=4)
def _of_table(path: pathlib.Path, changed: int) -> Ranges:
    """Ranges of an overlap table; ``changed`` is its time stamp, ns."""
    longest = {}
    for (a, b), pair in load_table(path).pairs.items():
        seen = pair.report.get("max_distance_A")
        reach = max(pair.cutoff, float(seen) if isinstance(seen, (int, float)) else 0.0)
        longest[a, b] = longest[b, a] = reach
    return Ranges(longest, True)


def bundle_ranges(bundle: Bundle | None) -> Ranges | None:
    """The ranges of a bundle's training set; None where the bundle does not know.

    They are those of its edges and of its overlap table, the longer ones of both: a shell of
    neighbours just inside the orbitals' reach may be in a new structure and in none of training.
    Bundles of earlier formats have the table alone.
    """
    if bundle is None:
        return None
    path = bundle.path / OVERLAP_TABLE if bundle.path else None
    known = _of_table(path, path.stat().st_mtime_ns) if path and path.is_file() else None
    envelope = getattr(bundle.model, "envelope", None)
    table = getattr(envelope, "range", None)
    if table is not None and float(table.max()) < _UNKNOWN:
        elements = bundle.targets.basis.elements
        values = table.double().tolist()
        seen = {
            (a, b): max(values[i][j], known.longest.get((a, b), 0.0) if known else 0.0)
            for i, a in enumerate(elements)
            for j, b in enumerate(elements)
        }
        return Ranges({pair: reach for pair, reach in seen.items() if reach > 0}, False)
    return known


def beyond(
    structure: Structure, keys: NDArray[np.int64], ranges: Ranges | None
) -> NDArray[np.bool_]:
    """Which edges reach further than any of their elements in the training set.

    Args:
        structure: positions, Å.
        keys: (E, 5), 0-based.
        ranges: None: only edges of more than :data:`LONGEST` count.

    Returns:
        (E,); an atom with itself never does.
    """
    distance = np.linalg.norm(structure.edge_vectors(keys), axis=1)
    limit = np.full(len(keys), LONGEST)
    if ranges is not None:
        first, second = structure.numbers[keys[:, 3]], structure.numbers[keys[:, 4]]
        kinds = np.unique(structure.numbers).tolist()
        for a in kinds:
            for b in kinds:
                reach = ranges.longest.get((a, b), 0.0)
                reach = reach * (1 + _RELATIVE) + _ABSOLUTE if reach else 0.0
                limit[(first == a) & (second == b)] = min(reach, LONGEST)
    itself = onsite_keys(keys)
    return (distance > limit) & ~itself


def describe_beyond(
    structure: Structure, keys: NDArray[np.int64], far: NDArray[np.bool_], ranges: Ranges | None
) -> str:
    """A sentence on the longest edge of those that reach too far.

    Args:
        structure: positions, Å.
        keys: (E, 5), 0-based.
        far: (E,), which of them do, at least one.
        ranges: as :func:`beyond` had them.
    """
    distance = np.linalg.norm(structure.edge_vectors(keys), axis=1)
    e = int(np.argmax(np.where(far, distance, -1.0)))
    i, j = keys[e, 3:].tolist()
    a, b = (int(structure.numbers[n]) for n in (i, j))
    known = ranges.longest.get((a, b)) if ranges is not None else None
    if ranges is None or (known or 0.0) > LONGEST:
        why = f"no orbitals reach {LONGEST:.0f} Å"
    elif known is None:
        why = f"the model's training set has no {symbol(a)}-{symbol(b)} edges"
    else:
        why = f"{symbol(a)}-{symbol(b)} edges of the model's training set end at {known:.3f} Å"
    return (
        f"'{structure.name}': block {format_key(keys[e])} joins atoms {i + 1} ({symbol(a)}) and "
        f"{j + 1} ({symbol(b)}) {distance[e]:.3f} Å apart; {why} ({int(far.sum())} such blocks)"
    )


def require_within(structure: Structure, keys: NDArray[np.int64], ranges: Ranges | None) -> None:
    """Raise where an edge reaches further than in the training set.

    Args:
        structure: positions, Å.
        keys: (E, 5), 0-based.
        ranges: see :func:`beyond`.

    Raises:
        DataError: names the longest one.
    """
    far = beyond(structure, keys, ranges)
    if far.any():
        raise DataError(
            f"{describe_beyond(structure, keys, far, ranges)}. H of such a block would mean "
            "nothing; leave it out, or use S of the basis that the model was trained on"
        )


def without_block(
    structure: Structure, keys: NDArray[np.int64], blocks: Callable[[], BlockMatrix]
) -> str:
    """A sentence on two atoms that have no block although others of their elements, further apart,
    have one: positions, lattice and blocks do not belong together then, or blocks are missing.

    Args:
        structure: the atoms; of large ones the first are looked at.
        keys: (E, 5), 0-based, of a file of H or S.
        blocks: reads that file, where the keys alone leave a doubt.

    Returns:
        The sentence; empty where there is nothing to say.
    """
    lacking, reach = _lacking(structure, keys)
    if not len(lacking):
        return ""
    matrix = blocks()
    sizes = matrix.largest()
    lacking, reach = _lacking(structure, matrix.keys[sizes > _SMALL * sizes.max(initial=0.0)], keys)
    if not len(lacking):
        return ""
    distance = np.linalg.norm(structure.edge_vectors(lacking), axis=1)
    first = int(distance.argmin())
    i, j = lacking[first, 3:].tolist()
    a, b = (int(structure.numbers[n]) for n in (i, j))
    return (
        f"atoms {i + 1} ({symbol(a)}) and {j + 1} ({symbol(b)}) are {distance[first]:.3f} Å apart "
        f"and have no block, others of these elements have one at {reach[a, b]:.3f} Å "
        f"({len(lacking)} such blocks): do positions, lattice and blocks belong together?"
    )


def _lacking(
    structure: Structure, keys: NDArray[np.int64], there: NDArray[np.int64] | None = None
) -> tuple[NDArray[np.int64], dict[tuple[int, int], float]]:
    """Keys of atoms that are near and not in ``there``, and how far ``keys`` reach, Å.

    Args:
        structure: the atoms.
        keys: (E, 5), 0-based, that say how far orbitals reach.
        there: (F, 5), all; default: ``keys``.
    """
    distance = np.linalg.norm(structure.edge_vectors(keys), axis=1)
    first, second = structure.numbers[keys[:, 3]], structure.numbers[keys[:, 4]]
    kinds = np.unique(structure.numbers).tolist()
    reach = {
        (a, b): min(float(distance[(first == a) & (second == b)].max(initial=0.0)), LONGEST)
        for a in kinds
        for b in kinds
    }
    density = len(structure) / max(abs(float(np.linalg.det(structure.lattice))), 1e-6)
    near = max(1.0, density * 4.2 * (_NEARER * max(reach.values(), default=0.0)) ** 3)
    atoms = (0, min(len(structure), max(1, int(_PAIRS / near))))
    # along a vector that no block crosses nothing repeats
    repeats = (keys[:, :3] != 0).any(axis=0).tolist()
    cutoffs = {pair: _NEARER * length for pair, length in reach.items()}
    lattice, positions, numbers = structure.lattice, structure.positions, structure.numbers
    close = find_edges(lattice, positions, numbers, cutoffs, repeats, atoms)
    return close[match_keys(close, keys if there is None else there) < 0], reach
