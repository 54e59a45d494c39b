"""Is this the basis that a model was trained on?

A model means something in one basis only, and two codes' orbitals may have equal shells. Overlaps
tell them apart: the table of S that training keeps beside a model (on-site blocks, and two-centre
functions of the distance) is compared with the S of a structure, at the distances that training
knew.
"""

from __future__ import annotations

import pathlib
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import ModelError
from ..fields import OVERLAP_TABLE
from ..io.blocks import BlockMatrix, format_key, onsite_keys
from ..io.structure import Structure
from ..overlap import TwoCentre, load_table
from ..overlap.neighbours import symbol

if TYPE_CHECKING:
    from .predictor import Predictor

__all__ = [
    "LIMIT",
    "BasisDifference",
    "another_basis",
    "basis_difference",
    "basis_table",
    "displaced",
    "near_blocks",
    "require_basis",
]

#: Largest difference of S within one basis. PAW overlaps, which are not two-centre, differ by 0.004
#: in the median; other bases by 0.1 and more.
LIMIT = 0.03
#: Compared are blocks up to this much longer than the shortest one of their pair of elements, Å.
REACH = 0.6
#: |ΔS| of one block, beyond ten times what distance alone leaves unexplained in the training set,
#: from which on S and positions do not belong together; 0.003 to 0.01 Å of a bond.
MOVED = 1e-3
#: Blocks of a pair of elements that are compared at most.
MOST = 1000


class BasisDifference(NamedTuple):
    """How far S is from that of the training set.

    Attributes:
        worst: median over blocks of the largest |ΔS|, for the pair of elements where it is largest.
        pair: that pair, e.g. ``C-C`` or ``C on-site``.
        blocks: how many were compared.
    """

    worst: float
    pair: str
    blocks: int


def near_blocks(
    table: TwoCentre, structure: Structure, keys: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Which blocks can be compared: on-site ones, and short ones at distances that the table knows.

    Args:
        table: of the training set.
        structure: its elements and shells are those of the table.
        keys: (E, 5), 0-based.

    Returns:
        (n,), index into ``keys``.
    """
    length = np.linalg.norm(structure.edge_vectors(keys), axis=1)
    numbers, onsite = _kinds(structure, keys)
    half = ~onsite & (keys[:, 3] <= keys[:, 4])  # S is symmetric
    parts = [np.flatnonzero(onsite & (numbers[:, 0] == z))[:MOST] for z in table.onsite]
    for pair, radial in table.pairs.items():
        mine = half & (numbers == pair).all(axis=1) & (length < radial.cutoff)
        mine = np.flatnonzero(mine)[radial.known(length[mine])]
        near = mine[length[mine] <= length[mine].min(initial=np.inf) + REACH]
        parts.append(near[np.argsort(length[near], kind="stable")[:MOST]])
    return np.concatenate(parts)


def _kinds(
    structure: Structure, keys: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Atomic numbers (E, 2), the smaller first, and whether a block is on-site (E,)."""
    onsite = onsite_keys(keys)
    return np.sort(structure.numbers[keys[:, 3:]], axis=1), onsite


def basis_difference(
    table: TwoCentre, structure: Structure, overlap: BlockMatrix
) -> BasisDifference | None:
    """Compare S with the table of a training set.

    Args:
        table: of the training set.
        structure: its elements and shells are those of the table.
        overlap: its S.

    Returns:
        None where no block can be compared, or where S of the training set is no function of
        distance.
    """
    own = (table.report.get(f"worst_{place}", 0.0) for place in ("off_site", "on_site"))
    if any(isinstance(value, (int, float)) and value > LIMIT for value in own):
        return None
    chosen = near_blocks(table, structure, overlap.keys)
    if not len(chosen):
        return None
    mine = overlap.select(chosen)
    expected = table.blocks(structure, mine.keys, extrapolate=True)
    gap = np.maximum.reduceat(np.abs(mine.values - expected.values), mine.offsets[:-1])
    numbers, onsite = _kinds(structure, mine.keys)
    worst = BasisDifference(-1.0, "", len(chosen))
    for a, b, same in np.unique(np.column_stack([numbers, onsite]), axis=0).tolist():
        value = float(np.median(gap[(numbers == (a, b)).all(axis=1) & (onsite == bool(same))]))
        if value > worst.worst:
            name = f"{symbol(a)} on-site" if same else f"{symbol(a)}-{symbol(b)}"
            worst = BasisDifference(value, name, len(chosen))
    return worst


def displaced(table: TwoCentre, structure: Structure, overlap: BlockMatrix) -> str:
    """A sentence where S of an atom's shortest edges (of all, and of those over each side of the
    cell) is not that of its positions: a digit of a position, of the lattice or of S was lost, or
    S is that of another geometry.

    Args:
        table: of the training set.
        structure: its elements and shells are those of the table.
        overlap: its S.

    Returns:
        Empty where all agree, or where S of the training set is no function of distance.
    """
    report = table.report
    worst = max(float(report.get(f"worst_{place}", 0.0)) for place in ("off_site", "on_site"))
    if not report.get("two_centre", True) or 10 * worst > LIMIT:
        return ""
    keys = overlap.keys
    length = np.linalg.norm(structure.edge_vectors(keys), axis=1)
    numbers, onsite = _kinds(structure, keys)
    known = np.zeros(len(keys), dtype=bool)
    for pair, radial in table.pairs.items():
        alike = np.flatnonzero(~onsite & (numbers == pair).all(axis=1) & (length < radial.cutoff))
        known[alike[radial.known(length[alike])]] = True
    order = np.flatnonzero(known)[np.lexsort((length[known], keys[known, 3]))]
    if not len(order):
        return ""
    over = [order[keys[order, axis] != 0] for axis in range(3)]  # these tell the lattice
    first = [one[np.unique(keys[one, 3], return_index=True)[1]] for one in (order, *over)]
    mine = overlap.select(np.unique(np.concatenate(first)))
    expected = table.blocks(structure, mine.keys, extrapolate=True)
    gap = np.maximum.reduceat(np.abs(mine.values - expected.values), mine.offsets[:-1])
    e = int(np.argmax(gap))
    if gap[e] <= MOVED + 10 * worst:
        return ""
    i, j = (mine.keys[e, 3:] + 1).tolist()
    return (
        f"S of atoms {i} and {j} (block {format_key(mine.keys[e])}) is not that of their "
        f"positions: it differs by {gap[e]:.2g} from what the training set's overlaps say of their "
        f"distance, {np.linalg.norm(structure.edge_vectors(mine.keys[e : e + 1])):.4f} Å. Was a "
        "digit of a position, of the lattice or of S changed?"
    )


def basis_table(model: Predictor) -> tuple[TwoCentre, pathlib.Path] | None:
    """The overlap table of a model's training set: the bundle's, else that of stage 1's folder.

    None where neither has one.
    """
    folders = [model.bundle.path if model.bundle is not None else None]
    one = model.stage1
    stage1 = getattr(one, "models", (one,))
    folders += [getattr(getattr(m, "folder", None), "path", None) for m in stage1]
    for folder in folders:
        path = pathlib.Path(folder) / OVERLAP_TABLE if folder is not None else None
        if path is not None and path.is_file():
            return load_table(path), path
    return None


def another_basis(
    table: TwoCentre, source: pathlib.Path, structure: Structure, overlap: BlockMatrix
) -> str:
    """A sentence where S is not in the basis of the training set, else empty.

    Args:
        table: of :func:`basis_table`.
        source: its file.
        structure: the crystal.
        overlap: its S.
    """
    found = basis_difference(table, structure, overlap)
    if found is None or found.worst <= LIMIT:
        return ""
    return (
        f"this is not the basis that the model was trained on: S differs by {found.worst:.2g} from "
        f"that of the training set ({found.pair}, {source}). A model is valid for one code, basis "
        "set and orbital radius; train one on data of this basis"
    )


def require_basis(
    table: TwoCentre, source: pathlib.Path, structure: Structure, overlap: BlockMatrix, where: str
) -> None:
    """Refuse an S of another basis.

    Args:
        table: of :func:`basis_table`.
        source: its file, for the message.
        structure: the crystal.
        overlap: its S.
        where: the file of S, for the message.

    Raises:
        ModelError: the difference is beyond :data:`LIMIT`.
    """
    if other := another_basis(table, source, structure, overlap):
        raise ModelError(
            f"{where}: {other} (to predict nevertheless: refine --any-basis, in Python "
            "predict(..., any_basis=True))"
        )
