"""What ``refine`` reads: structure folders with their own edges, or bare structures whose edges and
overlaps come from a table.
"""

from __future__ import annotations

import os
import pathlib

from ..data.edges import EdgeMode
from ..errors import DataError
from ..io.files import real_path
from ..io.folder import (
    NoStructureError,
    find_structures,
    has_matrix,
    holds_another,
    require_names,
    split_structures,
)
from ..io.structure import Structure
from ..overlap import OverlapProvider
from ..pipeline import HamiltonianModel
from ..prediction.reading import Item
from ..prediction.seen import bundle_overlap, why_no_overlap
from ..runtime.communicator import Communicator
from ..runtime.processes import agreed
from ..runtime.timer import Timer

__all__ = [
    "find_sources",
    "read_source",
    "require_own",
    "source_name",
]

#: Endings of structure files that are taken from a folder without structure folders.
ENDINGS = (".vasp", ".cif", ".xyz", ".extxyz", ".poscar")


def source_name(source: pathlib.Path) -> str:
    """Name of a structure: its folder's, or its file's without ending."""
    return real_path(source).stem if source.is_file() else real_path(source).name


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
        DataError: there is no structure, or none with edges and no table, or two have one name.
    """
    root = pathlib.Path(root)
    table = overlap or bundle_overlap(model)
    if root.is_file():
        if table is None:
            raise DataError(
                f"{root}: a structure file has no overlaps S, and {why_no_overlap(model)}; say "
                "where S comes from with --overlap (a table, basis files, or a GFormer's bundle "
                "that holds a table)"
            )
        return [root], []
    if overlap is None:
        try:
            folders, bare = split_structures(root, ("overlap", "hamiltonian"), output)
        except NoStructureError:
            if table is None:
                raise
        else:
            bare = [folder for folder in bare if not has_matrix(folder, "prediction")]
            chosen = list(folders)
            if table is not None and edges in ("auto", "overlaps"):
                chosen = sorted([*folders, *bare])
                require_names((source_name(folder), folder) for folder in chosen)
            return chosen, [folder for folder in bare if folder not in chosen]
    try:
        return find_structures(root, skip=output), []
    except NoStructureError:
        files = sorted(
            p
            for p in root.iterdir()
            if p.is_file() and (p.suffix.lower() in ENDINGS or p.name.startswith("POSCAR"))
        )
        if not files:
            raise
        require_names((source_name(file), file) for file in files)
        return files, []


def read_source(
    source: pathlib.Path,
    model: HamiltonianModel,
    edges: EdgeMode,
    overlap: OverlapProvider | None,
    target: pathlib.Path | None,
    timer: Timer,
    comm: Communicator | None = None,
) -> Item:
    """One structure as the model wants it.

    Args:
        source: from :func:`find_sources`.
        model: its basis, dtype and ranges.
        edges: see :func:`select_edges`.
        overlap: for bare structures; None: the bundle's table, for those with neither S nor H.
        target: where the prediction goes, None where another process writes.
        timer: clock.
        comm: processes that share the structure.

    Returns:
        The structure, its graph and edges, and what makes its overlaps, where it has none of its
        own (see :func:`make_overlap`).

    Raises:
        DataError: ``target`` holds another structure; see also :func:`.reading.read_item`.
        ModelError: see there.
    """
    timer.start("edges")
    item = model.read(source, edges, overlap=overlap, comm=comm)
    with agreed(item.comm):
        if target is not None:
            require_own(target, item.structure)
    return item


def require_own(target: pathlib.Path, structure: Structure) -> None:
    """Make sure that an output folder holds no other structure.

    Raises:
        DataError: it does.
    """
    if holds_another(target, structure):
        raise DataError(
            f"{target}: holds another structure than '{structure.name}'; choose another "
            "--output, or remove that folder"
        )
