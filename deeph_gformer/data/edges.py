"""Which blocks of a structure folder become edges of the graph.

The edge set changes the graph and so the prediction. DeepH-E3 trains on the keys of
``hamiltonians.h5`` and infers on those of ``overlaps.h5``, which may be fewer; our trainings take
those of ``overlaps.h5`` where it is there, which are all that a new structure has.
"""

from __future__ import annotations

import functools
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from ..io.blocks import BlockMatrix, format_key, match_keys, reverse_keys, sort_keys
from ..io.folder import Kind, folder_format, has_matrix, matrix_path
from ..io.formats import FolderFormat, get_format
from ..io.structure import Structure
from ..overlap.neighbours import Cutoffs, find_edges, pair_cutoff
from .ranges import Ranges, beyond, describe_beyond, without_block

__all__ = [
    "EdgeChoice",
    "EdgeMode",
    "LearnedEdges",
    "at_the_cutoff",
    "learned_edges",
    "select_edges",
    "training_edges",
]

#: Elements of S or H (eV) that are no larger count as zero.
_ZERO = 1e-12
#: Positions in files are rounded to about this, Å.
_ROUNDING_A = 1e-4
#: Share of the edges from which on those at the cutoff are a shell and no chance.
_SHELL = 1e-3
#: Atoms whose neighbours are looked at for that.
_LOOKED_AT = 64

EdgeMode = Literal["auto", "overlaps", "hamiltonians", "union"]
#: What a model was trained on where a structure had both files; ``auto`` is the same again.
LearnedEdges = Literal["overlaps", "hamiltonians"]


class EdgeChoice(NamedTuple):
    """The edges of a structure.

    Attributes:
        keys: (E, 5) int64, 0-based, canonical order, symmetric.
        source: where they come from, for people.
        hamiltonian_only: blocks that ``hamiltonians.h5`` has and ``overlaps.h5`` has not, whether
            they are edges or not; None where one of the files was not read.
        notes: for people, a sentence each on blocks that were left out, on those that only one of H
            and S has, and on those that are missing.
        lacking: the last of these, see :func:`~.ranges.without_block`; else empty.
    """

    keys: NDArray[np.int64]
    source: str
    hamiltonian_only: int | None = None
    notes: tuple[str, ...] = ()
    lacking: str = ""

    def __repr__(self) -> str:
        return f"EdgeChoice({len(self.keys)} edges, {self.source})"


def at_the_cutoff(structure: Structure, cutoffs: Cutoffs) -> tuple[str, ...]:
    """A sentence on shells of neighbours at the very cutoff: rounding decides whether they are
    edges, so the same crystal with other digits gets others.

    By chance a few edges lie there, too, the more the larger the structure: a shell is one edge of
    a thousand (:data:`_SHELL`). S vanishes there, and H is about 1 meV or less.

    Args:
        structure: the atoms; the first ones are looked at.
        cutoffs: by pair of elements, Å.
    """
    wider = {pair: cutoff + _ROUNDING_A for pair, cutoff in cutoffs.items()}
    some = (0, min(len(structure), _LOOKED_AT))
    numbers = structure.numbers
    keys = find_edges(structure.lattice, structure.positions, numbers, wider, atoms=some)
    kinds, kind = np.unique(numbers, return_inverse=True)
    table = np.array([[pair_cutoff(cutoffs, int(a), int(b)) for b in kinds] for a in kinds])
    ends = table[kind[keys[:, 3]], kind[keys[:, 4]]]  # (E,)
    distances = np.linalg.norm(structure.edge_vectors(keys), axis=1)
    near = np.flatnonzero((np.abs(ends - distances) < _ROUNDING_A) & (distances > 0))
    if len(near) < max(1.0, _SHELL * len(keys)):
        return ()
    first = near[0]
    i, j = (int(v) for v in keys[first, 3:])
    return (
        f"{len(near)} of {len(keys)} neighbours lie at the very cutoff of edges (atoms {i + 1} and "
        f"{j + 1}: {distances[first]:.5f} of {ends[first]:.5f} Å): the last digits of the "
        "positions decide whether they are edges, and with other edges every block is predicted "
        "otherwise; compare it only with predictions on the same edges",
    )


def training_edges(mode: EdgeMode, folders: Iterable[pathlib.Path]) -> EdgeMode:
    """The edges of a training with a setting ``data.edges``: ``auto`` is one of the others for all
    structures.

    Args:
        mode: the setting.
        folders: the structures.
    """
    if mode != "auto":
        return mode
    return "overlaps" if all(has_matrix(f, "overlap") for f in folders) else "hamiltonians"


def learned_edges(mode: EdgeMode) -> LearnedEdges:
    """What a model remembers of :func:`training_edges`."""
    return "overlaps" if mode == "overlaps" else "hamiltonians"


def _keys(path: pathlib.Path, structure: Structure, form: FolderFormat) -> NDArray[np.int64]:
    """(E, 5), the keys of a file of H or S.

    Raises:
        DataError: the file is damaged, or a key has no partner (-R, j, i).
    """
    keys = form.read_keys(path, structure)
    lonely = match_keys(reverse_keys(keys), keys) < 0
    if lonely.any():
        BlockMatrix(keys, np.zeros((len(keys), 2), dtype=np.int64), np.zeros(0)).require_symmetric(
            str(path)
        )
    return keys


def _within(
    path: pathlib.Path,
    keys: NDArray[np.int64],
    structure: Structure,
    form: FolderFormat,
    ranges: Ranges | None,
    spinful: bool,
) -> tuple[NDArray[np.int64], str]:
    """Keys without blocks of zeros that reach too far, and a sentence on those.

    Args:
        path: file of H or S.
        keys: (E, 5), its keys.
        structure: the atoms.
        form: format of the folder.
        ranges: of the model's training set; None: only what no orbital reaches is too far.
        spinful: whether blocks are spin-doubled.

    Raises:
        DataError: a block that reaches too far is not zero.
    """
    far = beyond(structure, keys, ranges)
    if not far.any():
        return keys, ""
    matrix = form.read_blocks(path, structure, spinful)
    full = matrix.largest()[match_keys(keys[far], matrix.keys)] > _ZERO
    if full.any():
        bad = np.zeros(len(keys), dtype=bool)
        bad[np.flatnonzero(far)[full]] = True
        raise DataError(
            f"{path}: {describe_beyond(structure, keys, bad, ranges)}. H of such a block would "
            "mean nothing; use S of the basis that the model was trained on"
        )
    said = describe_beyond(structure, keys, far, ranges)
    return keys[~far], f"{path.name}: blocks of zeros are left out, {said}"


def _of_both(
    paths: Mapping[str, pathlib.Path],
    sets: Mapping[str, NDArray[np.int64]],
    only_s: bool,
    notes: Sequence[str],
) -> EdgeChoice:
    """The choice where H and S were read, and what the one lacks of the other.

    Args:
        paths: of both files, by :data:`EdgeMode`.
        sets: their keys.
        only_s: edges are the blocks of S; H was read for what it lacks.
        notes: earlier ones.
    """
    h, s = paths["hamiltonians"].name, paths["overlaps"].name
    more = match_keys(sets["hamiltonians"], sets["overlaps"]) < 0
    keys, source, said = sets["overlaps"], s, list(notes)
    if not only_s:
        source, keys = f"{s} and {h}", np.concatenate([keys, sets["hamiltonians"][more]])
        if more.any():
            said.append(
                f"{int(more.sum())} of {len(keys)} edges are in {h} and not in {s}; they move all "
                "of H, and a file without DFT's H gets another prediction: --edges overlaps (in "
                'Python edges="overlaps") leaves them out'
            )
    absent = match_keys(sets["overlaps"], sets["hamiltonians"]) < 0
    if absent.any():
        first = format_key(sets["overlaps"][np.flatnonzero(absent)[0]])
        said.append(
            f"{int(absent.sum())} of {len(keys)} edges are in {s} and not in {h}, the first is "
            f"{first}: is H complete? H reaches as far as S"
        )
    return EdgeChoice(keys[sort_keys(keys)], source, int(more.sum()), tuple(said))


def select_edges(
    folder: str | os.PathLike[str],
    structure: Structure,
    mode: EdgeMode = "auto",
    ranges: Ranges | None = None,
    learned: LearnedEdges = "hamiltonians",
) -> EdgeChoice:
    """Choose the edges of one folder.

    Args:
        folder: legacy or DeepH-dock.
        structure: its structure.
        mode: ``overlaps``, ``hamiltonians``, ``union``, or ``auto``: as ``learned`` says when there
            are both files, else the one that is there.
        ranges: of the model's training set; blocks of zeros beyond them are left out, others
            refused.
        learned: what the model was trained on; ``auto`` takes ``overlaps`` for the one, and the
            union for ``hamiltonians``, so that no block of S is without H.

    Raises:
        DataError: a file that the mode needs is missing or damaged, its edge set is asymmetric, or
            a block reaches further than any in the training set.
    """
    folder = pathlib.Path(folder)
    form = get_format(folder_format(folder) or "legacy")
    paths = {
        "overlaps": matrix_path(folder, "overlap"),
        "hamiltonians": matrix_path(folder, "hamiltonian"),
    }
    kinds: dict[str, Kind] = {"overlaps": "overlap", "hamiltonians": "hamiltonian"}
    there = [name for name, kind in kinds.items() if has_matrix(folder, kind)]
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
            f"{folder}: neither {paths['overlaps'].name} nor {paths['hamiltonians'].name} is "
            "there, so there are no edges; overlaps.h5 comes from the DFT code's overlap-only run "
            "or from 'deeph-gformer overlap predict'"
        )
    sets, notes, lacking = {}, [], ""
    only_s = mode == "auto" and learned == "overlaps" and len(there) == 2
    for name in wanted:
        # H may reach further than S, by way of projectors: ranges of S say nothing of it
        of_s = only_s or (ranges is not None and ranges.overlaps_only)
        known = None if of_s and name == "hamiltonians" else ranges
        spinful = bool(structure.spinful) and name == "hamiltonians"
        keys = _keys(paths[name], structure, form)
        sets[name], note = _within(paths[name], keys, structure, form, known, spinful)
        notes += [note] if note else []
        if not lacking:
            blocks = functools.partial(form.read_blocks, paths[name], structure, spinful)
            hole = without_block(structure, sets[name], blocks)
            lacking = f"{paths[name].name}: {hole}" if hole else ""
    notes += [lacking] if lacking else []
    if len(sets) == 1:
        name, keys = next(iter(sets.items()))
        choice = EdgeChoice(keys, paths[name].name, notes=tuple(notes))
    else:
        choice = _of_both(paths, sets, only_s, notes)
    return choice._replace(lacking=lacking)
