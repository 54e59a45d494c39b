"""What ``refine`` reads: structure folders with their own edges, or bare structures whose edges and overlaps come from a table."""

from __future__ import annotations

import dataclasses
import os
import pathlib

import torch

from .. import fields as names
from ..data.edges import EdgeChoice, EdgeMode
from ..data.graph import Graph, build_graph
from ..errors import DataError
from ..io.folder import Format, find_structures, matrix_path, write_matrix
from ..io.structure import Structure
from ..overlap import OverlapProvider
from ..overlap import load as load_overlap
from ..overlap.predict import read_any
from ..pipeline import HamiltonianModel
from .steps import Steps

__all__ = ["find_sources", "open_overlap", "read_source", "source_name"]

#: Endings of structure files that are taken from a folder without structure folders.
ENDINGS = (".vasp", ".cif", ".xyz", ".extxyz", ".poscar")


def source_name(source: pathlib.Path) -> str:
    """Name of a structure: its folder's, or its file's without ending."""
    return source.resolve().stem if source.is_file() else source.resolve().name


def open_overlap(overlap: str | os.PathLike[str] | OverlapProvider | None) -> OverlapProvider | None:
    """What ``--overlap`` names.

    Raises:
        DataError: see :func:`deeph_gformer.overlap.load`.
    """
    return overlap if overlap is None or isinstance(overlap, OverlapProvider) else load_overlap(overlap)


def bundle_overlap(model: HamiltonianModel) -> OverlapProvider | None:
    """The table in the model's bundle, None where there is none or S is not two-centre there."""
    path = model.bundle.path / names.OVERLAP_TABLE if model.bundle and model.bundle.path else None
    if path is None or not path.is_file():
        return None
    provider = load_overlap(path)
    return provider if getattr(provider, "table", None) is None or provider.table.report.get("two_centre", True) else None  # type: ignore[attr-defined]


def find_sources(
    root: str | os.PathLike[str], model: HamiltonianModel, overlap: OverlapProvider | None, output: str | os.PathLike[str] | None = None
) -> tuple[list[pathlib.Path], OverlapProvider | None]:
    """Structures at or below ``root``, or the structure file ``root`` itself.

    Args:
        root: folder or file. model: its bundle may hold a table. overlap: where edges and S of bare structures come from.
        output: folder of the predictions, which is not searched.

    Returns:
        The sources, and ``overlap`` or the bundle's table where that is needed.

    Raises:
        DataError: there is no structure, or none with edges and no table.
    """
    root = pathlib.Path(root)
    if root.is_file():
        provider = overlap or bundle_overlap(model)
        if provider is None:
            raise DataError(f"{root}: a structure file has no edges; say where overlaps come from with --overlap (a table or basis files)")
        return [root], provider
    if overlap is None:
        try:
            return find_structures(root, ("overlap", "hamiltonian"), output), None
        except DataError:
            overlap = bundle_overlap(model)
            if overlap is None:
                raise
    try:
        return find_structures(root, skip=output), overlap
    except DataError:
        files = (
            sorted(p for p in root.iterdir() if p.is_file() and (p.suffix.lower() in ENDINGS or p.name.startswith("POSCAR")))
            if root.is_dir()
            else []
        )
        if not files:
            raise
        return files, overlap


def read_source(
    source: pathlib.Path,
    model: HamiltonianModel,
    edges: EdgeMode,
    overlap: OverlapProvider | None,
    target: pathlib.Path,
    form: Format,
    steps: Steps,
    write: bool = True,
) -> tuple[Structure, Graph, EdgeChoice]:
    """One structure as the model wants it; without overlaps of its own they are made, and written into ``target``.

    Args:
        source: from :func:`find_sources`. edges: see :func:`select_edges`. overlap: for bare structures. target, form: where the prediction goes.
        steps: clock. write: False where another process writes the overlaps.

    Raises:
        DataError, ModelError: see :meth:`HamiltonianModel.read` and :meth:`OverlapProvider.overlap`.
    """
    steps.enter("edges")
    bare = overlap is not None and (source.is_file() or (edges in ("auto", "overlaps") and not matrix_path(source, "overlap").is_file()))
    if not bare or overlap is None:
        return model.read(source, edges)
    structure, pbc = _bare_structure(source, model, overlap)
    keys = overlap.edges(structure, pbc)
    graph = build_graph(structure, keys, model.targets.basis, torch.float64)
    if write:
        steps.enter("overlap")
        matrix = overlap.overlap(structure, keys)
        write_matrix(target, "overlap", matrix, structure, form)
    return structure, graph, EdgeChoice(graph.edge_key.numpy(), "overlap table")


def _bare_structure(source: pathlib.Path, model: HamiltonianModel, overlap: OverlapProvider) -> tuple[Structure, tuple[bool, bool, bool]]:
    basis = model.targets.basis
    structure, pbc, _ = read_any(source, overlap)
    if structure.spinful is not None and structure.spinful != basis.spinful:
        raise DataError(
            f"{source}: info.json says isspinful = {structure.spinful}, the model predicts {'spinful' if basis.spinful else 'spinless'} Hamiltonians"
        )
    return dataclasses.replace(structure, spinful=basis.spinful), pbc
