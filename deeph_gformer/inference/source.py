"""What ``refine`` reads: structure folders with their own edges, or bare structures whose edges and
overlaps come from a table.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from .. import fields as names
from ..analysis.basis import basis_table, near_blocks, require_basis
from ..data.edges import EdgeChoice, EdgeMode
from ..data.graph import Graph, build_graph
from ..data.ranges import bundle_ranges, require_within
from ..errors import DataError
from ..io.blocks import BlockMatrix
from ..io.files import real_path
from ..io.folder import (
    find_structures,
    has_matrix,
    holds_another,
    matrix_path,
    read_matrix,
    split_structures,
)
from ..io.periodicity import coupling
from ..io.structure import Structure
from ..overlap import OverlapProvider, TableOverlap, TwoCentre, load_table
from ..overlap import load as load_overlap
from ..overlap.predict import read_any
from ..pipeline import HamiltonianModel
from ..runtime.timer import Timer

__all__ = [
    "check_basis",
    "find_sources",
    "open_overlap",
    "read_source",
    "require_seen",
    "source_name",
    "too_close",
]

#: Endings of structure files that are taken from a folder without structure folders.
ENDINGS = (".vasp", ".cif", ".xyz", ".extxyz", ".poscar")


def source_name(source: pathlib.Path) -> str:
    """Name of a structure: its folder's, or its file's without ending."""
    return real_path(source).stem if source.is_file() else real_path(source).name


def open_overlap(
    overlap: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | OverlapProvider | None,
    model: HamiltonianModel,
) -> OverlapProvider | None:
    """What ``--overlap`` names.

    Args:
        overlap: see :func:`deeph_gformer.overlap.load`.
        model: its shells say what is taken from ``.pao`` files without a basis string.

    Raises:
        DataError: see :func:`deeph_gformer.overlap.load`.
    """
    if overlap is None or isinstance(overlap, OverlapProvider):
        return overlap
    basis = model.targets.basis
    return load_overlap(
        overlap,
        orbital_types=dict(zip(basis.elements, map(tuple, basis.orbital_types), strict=True)),
    )


def _training_table(model: HamiltonianModel) -> TwoCentre | None:
    """The overlap table of the training set, None where the bundle has none."""
    path = model.bundle.path / names.OVERLAP_TABLE if model.bundle and model.bundle.path else None
    return load_table(path) if path is not None and path.is_file() else None


def bundle_overlap(model: HamiltonianModel) -> OverlapProvider | None:
    """The table in the model's bundle, None where there is none or S is not two-centre there."""
    table = _training_table(model)
    return (
        TableOverlap(table) if table is not None and table.report.get("two_centre", True) else None
    )


#: Atoms closer than this part of the shortest distance of the training set are refused; others
#: below that distance are warned of.
CLOSEST = 0.95


def too_close(
    model: HamiltonianModel, structure: Structure, keys: NDArray[np.int64], part: float = 1.0
) -> str:
    """A sentence on two atoms that are closer than what training knows of their elements; empty
    where there are none.
    """
    table = _training_table(model)
    return "" if table is None else table.too_close(structure, keys, part)


def require_seen(
    model: HamiltonianModel, structure: Structure, keys: NDArray[np.int64], pbc: Sequence[bool]
) -> None:
    """Refuse a structure without DFT files that is unlike every training structure.

    Args:
        model: its bundle remembers the training set (a stage 1 alone does not).
        structure: the atoms.
        keys: (E, 5), its edges.
        pbc: for the message.

    Raises:
        DataError: it repeats in another number of directions than in training, or two atoms are
            much too close.
    """
    seen: list[int] = (model.bundle.training.get("periodicity") if model.bundle else None) or []
    found = coupling(keys, len(structure)) if seen else None
    if found is not None and found.rank not in seen:
        flags = ", ".join(str(bool(p)) for p in pbc)
        least = found.rank < min(seen)
        raise DataError(
            f"'{structure.name}': with pbc = ({flags}) it repeats in {found.rank} directions (an "
            "atom couples to its own images there), the model's training structures in "
            f"{' or '.join(map(str, seen))}. "
            + (
                "Set pbc to True along each vector that repeats (in the file, or atoms.pbc = ...)"
                if least
                else "Where nothing should repeat make the lattice vector longer: images must be "
                "further apart than atoms couple"
            )
        )
    close = too_close(model, structure, keys, CLOSEST)
    if close:
        raise DataError(f"{close}; H of such a structure would mean nothing")


#: Overlap files beyond this size are not read for :func:`check_basis` alone, bytes.
LARGEST_OVERLAP = 2**30


def check_basis(
    model: HamiltonianModel,
    source: pathlib.Path,
    structure: Structure,
    keys: NDArray[np.int64],
    overlap: OverlapProvider | None,
) -> BlockMatrix | None:
    """Refuse a structure whose S is not in the basis of the training set.

    Args:
        model: it, or its stage 1, may keep a table of the training set's overlaps; else nothing is
            checked.
        source: from :func:`find_sources`.
        structure: the crystal.
        keys: (E, 5), its edges.
        overlap: what makes its S; None: its own file is read, where it is there.

    Returns:
        The S that was read.

    Raises:
        ModelError: see :func:`deeph_gformer.analysis.basis.require_basis`.
    """
    found = basis_table(model)
    if found is None:
        return None
    if overlap is not None:
        if isinstance(overlap, TableOverlap) and overlap.table is found[0]:
            return None
        near = near_blocks(found[0], structure, keys)
        require_basis(*found, structure, overlap.overlap(structure, keys[near]), str(source))
        return None
    path = matrix_path(source, "overlap") if source.is_dir() else None
    if path is not None and path.is_file() and path.stat().st_size <= LARGEST_OVERLAP:
        matrix = read_matrix(source, "overlap", structure)
        require_basis(*found, structure, matrix, str(path))
        return matrix
    return None


def find_sources(
    root: str | os.PathLike[str],
    model: HamiltonianModel,
    overlap: OverlapProvider | None,
    edges: EdgeMode = "auto",
    output: str | os.PathLike[str] | None = None,
) -> tuple[list[pathlib.Path], list[pathlib.Path]]:
    """Structures at or below ``root``, or the structure file ``root`` itself.

    Args:
        root: folder or file.
        model: its bundle may hold a table.
        overlap: where edges and S of bare structures come from.
        edges: see :func:`select_edges`.
        output: folder of the predictions, which is not searched.

    Returns:
        The sources, and folders that are left out because they have no edges (those of earlier
        predictions not counted).

    Raises:
        DataError: there is no structure, or none with edges and no table.
    """
    root = pathlib.Path(root)
    table = overlap or bundle_overlap(model)
    if root.is_file():
        if table is None:
            raise DataError(
                f"{root}: a structure file has no edges; say where overlaps come from with "
                "--overlap (a table or basis files)"
            )
        return [root], []
    if overlap is None:
        try:
            folders, bare = split_structures(root, ("overlap", "hamiltonian"), output)
        except DataError:
            if table is None:
                raise
        else:
            bare = [folder for folder in bare if not has_matrix(folder, "prediction")]
            taken = {source_name(folder): folder for folder in folders}
            if table is not None and edges in ("auto", "overlaps"):
                for folder in bare:
                    taken.setdefault(source_name(folder), folder)
            chosen = sorted(taken.values())
            return chosen, [folder for folder in bare if folder not in chosen]
    try:
        return find_structures(root, skip=output), []
    except DataError:
        files = (
            sorted(
                p
                for p in root.iterdir()
                if p.is_file() and (p.suffix.lower() in ENDINGS or p.name.startswith("POSCAR"))
            )
            if root.is_dir()
            else []
        )
        if not files:
            raise
        return files, []


def read_source(
    source: pathlib.Path,
    model: HamiltonianModel,
    edges: EdgeMode,
    overlap: OverlapProvider | None,
    target: pathlib.Path | None,
    timer: Timer,
) -> tuple[Structure, Graph, EdgeChoice, OverlapProvider | None]:
    """One structure as the model wants it.

    Args:
        source: from :func:`find_sources`.
        model: its basis, dtype and ranges.
        edges: see :func:`select_edges`.
        overlap: for bare structures; None: the bundle's table, for those with neither S nor H.
        target: where the prediction goes, None where another process writes.
        timer: clock.

    Returns:
        The structure, its graph and edges, and what makes its overlaps, where it has none of its
        own (see :func:`make_overlap`).

    Raises:
        DataError: ``target`` holds another structure; see also :meth:`HamiltonianModel.read` and
            :func:`require_seen`.
        ModelError: see :meth:`HamiltonianModel.read`.
    """
    timer.start("edges")
    if overlap is None and (
        source.is_file() or not (has_matrix(source, "overlap") or has_matrix(source, "hamiltonian"))
    ):
        overlap = bundle_overlap(model)
    bare = overlap is not None and (
        source.is_file() or (edges in ("auto", "overlaps") and not has_matrix(source, "overlap"))
    )
    if not bare or overlap is None:
        structure, graph, choice = model.read(source, edges)
        _check_target(target, structure)
        return structure, graph, choice, None
    structure, pbc = _bare_structure(source, model, overlap)
    keys = overlap.edges(structure, pbc)
    require_seen(model, structure, keys, pbc)
    require_within(structure, keys, bundle_ranges(model.bundle))
    graph = build_graph(structure, keys, model.targets.basis, torch.float64)
    _check_target(target, structure)
    return structure, graph, EdgeChoice(graph.edge_key.numpy(), "overlap table"), overlap


def _check_target(target: pathlib.Path | None, structure: Structure) -> None:
    if target is not None and holds_another(target, structure):
        raise DataError(
            f"{target}: holds another structure than '{structure.name}'; choose another "
            "--output, or remove that folder"
        )


def _bare_structure(
    source: pathlib.Path, model: HamiltonianModel, overlap: OverlapProvider
) -> tuple[Structure, tuple[bool, bool, bool]]:
    basis = model.targets.basis
    structure, pbc, _ = read_any(source, overlap)
    if structure.spinful is not None and structure.spinful != basis.spinful:
        raise DataError(
            f"{source}: info.json says isspinful = {structure.spinful}, the model predicts "
            f"{'spinful' if basis.spinful else 'spinless'} Hamiltonians"
        )
    return dataclasses.replace(structure, spinful=basis.spinful), pbc
