"""The graph that a model sees of a structure folder, or of a structure with given edges."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, Union

import numpy as np
import torch
from numpy.typing import NDArray

from ..algebra.orbitals import Basis
from ..data.edges import EdgeChoice, EdgeMode, LearnedEdges, at_the_cutoff, select_edges
from ..data.graph import Graph, build_graph, require_spin
from ..data.ranges import Ranges, bundle_ranges, require_within
from ..errors import ConfigError, DataError
from ..io.blocks import BlockMatrix
from ..io.folder import has_matrix, read_folder
from ..io.structure import Structure
from ..overlap import FolderOverlap, OverlapProvider, structure_from_atoms
from ..overlap import load as load_overlap
from ..overlap.predict import read_any
from ..runtime.communicator import Communicator
from ..runtime.processes import agreed, same_structure
from .seen import bundle_overlap, require_seen, why_no_overlap
from .sharing import deal_edges, find_shared

if TYPE_CHECKING:
    import ase
    from pymatgen.core import Structure as PymatgenStructure

    from .predictor import Predictor

__all__ = ["Item", "OverlapSource", "Source", "item_of", "open_overlap", "read_graph", "read_item"]

#: A structure folder, a file that ASE reads, ASE's atoms, or a structure of ours or of pymatgen.
Source: TypeAlias = Union[str, os.PathLike[str], Structure, "ase.Atoms", "PymatgenStructure"]
#: Where edges and S come from that a structure has not; see :func:`deeph_gformer.overlap.load`.
OverlapSource: TypeAlias = (
    str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | OverlapProvider
)


class Item(NamedTuple):
    """A structure to predict.

    Attributes:
        structure: with the model's spin.
        graph: what the network sees.
        edges: which blocks are edges, and where they come from.
        overlap: what makes its S; None where its folder has one, or nobody asked.
        folder: where it was read; None where it comes from elsewhere.
        comm: processes that share it; ``graph`` and ``edges`` have the edges of this one's atoms.
        s: S on these edges or more, where somebody has it already.
    """

    structure: Structure
    graph: Graph
    edges: EdgeChoice
    overlap: OverlapProvider | None = None
    folder: pathlib.Path | None = None
    comm: Communicator = Communicator()
    s: BlockMatrix | None = None

    @property
    def total_edges(self) -> int:
        """Edges of all processes."""
        return self.comm.edges[-1] if self.comm.edges else self.graph.edges


def read_graph(
    folder: str | os.PathLike[str],
    basis: Basis,
    ranges: Ranges | None,
    edges: EdgeMode,
    comm: Communicator | None = None,
    learned: LearnedEdges = "hamiltonians",
) -> Item:
    """A folder with the model's spin, its graph, and where its edges come from.

    Args:
        folder: with its own S or H.
        basis: the model's elements, shells and spin.
        ranges: of its training set.
        edges: which blocks are edges.
        comm: processes that share it; the first one reads the edges.
        learned: what ``auto`` means, see :func:`select_edges`.

    Raises:
        DataError: missing or damaged files, edges beyond the ranges, or another spin in info.json.
        ModelError: unknown elements or other shells.
    """
    comm, first = comm or Communicator(), None
    with agreed(comm):
        structure = _with_spin(read_folder(folder), basis, str(folder))
    with agreed(comm):
        same_structure(comm, structure)
    with agreed(comm):
        if comm.rank == 0:
            first = select_edges(folder, structure, edges, ranges, learned)
    comm, choice = deal_edges(comm, first, len(structure))
    with agreed(comm):
        graph = build_graph(structure, choice.keys, basis, torch.float64, comm.own_atoms)
    return Item(structure, graph, choice, None, pathlib.Path(folder), comm)


def read_item(
    model: Predictor,
    source: Source,
    edges: EdgeMode = "auto",
    keys: NDArray[np.int64] | None = None,
    overlap: OverlapProvider | None = None,
    comm: Communicator | None = None,
) -> Item:
    """What a model sees of a structure, wherever it comes from.

    Args:
        model: its basis and ranges; its bundle may hold a table of overlaps.
        source: a folder with its own S or H; or a folder without, a file, or atoms, whose edges
            then come from ``keys`` or from overlaps.
        edges: which blocks are edges (folders only).
        keys: (E, 5), 0-based, any order; for a :class:`.Structure`.
        overlap: where edges come from that the source has not; None: the table in the bundle, for
            sources with neither S nor H.
        comm: processes that share the structure: each gets the edges of its atoms; default: one.

    Raises:
        DataError: the source cannot be read or is unlike every training structure, or its edges
            reach further than those of the training set.
        ModelError: unknown elements or other shells.
        ConfigError: another kind of source, or one without edges.
    """
    basis, ranges = model.targets.basis, bundle_ranges(model.bundle)
    if keys is not None:
        if not isinstance(source, Structure):
            raise ConfigError("keys belong to a Structure; a folder and atoms have their own edges")
        structure = dataclasses.replace(source, spinful=basis.spinful)
        graph = build_graph(structure, keys, basis, torch.float64)
        choice = EdgeChoice(graph.edge_key.numpy(), "given keys")
        require_within(structure, choice.keys, ranges)
        return Item(structure, graph, choice)
    comm = comm or Communicator()
    with agreed(comm):
        where = _where_edges_are(model, source, edges, overlap)
    if isinstance(where, pathlib.Path):
        return read_graph(where, basis, ranges, edges, comm, model.learned_edges)
    folder, provider = where
    with agreed(comm):
        structure, pbc = _bare(source, provider, basis)
    return item_of(model, structure, pbc, provider, comm)._replace(folder=folder)


def item_of(
    model: Predictor,
    structure: Structure,
    pbc: Sequence[bool],
    provider: OverlapProvider,
    comm: Communicator | None = None,
    seen: bool = True,
) -> Item:
    """What a model sees of a structure whose edges come from overlaps.

    Args:
        model: its basis and ranges.
        structure: with the model's spin.
        pbc: whether each lattice vector repeats.
        provider: finds the edges.
        comm: processes that share the structure: each gets the edges of its atoms; default: one.
        seen: refuse what is unlike every training structure, see :func:`.seen.require_seen`.

    Raises:
        DataError, ModelError: see :func:`read_item`.
    """
    basis, comm = model.targets.basis, comm or Communicator()
    with agreed(comm):
        same_structure(comm, structure)
    comm, found = find_shared(comm, structure, provider, pbc)
    with agreed(comm):
        if seen:
            require_seen(model, structure, found, pbc, comm)
        require_within(structure, found, bundle_ranges(model.bundle))
        graph = build_graph(structure, found, basis, torch.float64, comm.own_atoms)
    keys = graph.edge_key.numpy()
    given = isinstance(provider, FolderOverlap)  # edges of a file are those that they are
    notes = () if given else at_the_cutoff(structure, provider.cutoffs)
    choice = EdgeChoice(keys, "overlap table", notes=notes)
    return Item(structure, graph, choice, provider, None, comm)


def _where_edges_are(
    model: Predictor, source: Source, edges: EdgeMode, overlap: OverlapProvider | None
) -> pathlib.Path | tuple[pathlib.Path | None, OverlapProvider]:
    """The folder whose own files tell the edges; else the path of a source that has one, and what
    finds the edges.

    Raises:
        DataError: there is no such path.
        ConfigError: nothing knows the edges, or those of H are wanted of what has no H.
    """
    folder = None
    if isinstance(source, (str, os.PathLike)):
        folder = pathlib.Path(source)
        if not folder.exists():
            raise DataError(f"{folder}: no such file or folder")
        own = folder.is_dir() and has_matrix(folder, "overlap")
        own_h = folder.is_dir() and has_matrix(folder, "hamiltonian")
        if overlap is None and not own and not own_h:
            overlap = bundle_overlap(model)
        bare = not folder.is_dir() or (edges in ("auto", "overlaps") and not own)
        if folder.is_dir() and (overlap is None or not bare):
            return folder
    _require_structure(source)
    if edges in ("hamiltonians", "union"):
        raise ConfigError(
            f"{_name(source)}: has no hamiltonians.h5, and edges were asked for from it (--edges "
            f"{edges}); leave that out, or give a structure folder with DFT's H"
        )
    provider = overlap or bundle_overlap(model)
    if provider is None:
        raise ConfigError(
            f"{_name(source)}: comes without S, so nothing tells which atoms overlap, and "
            f"{why_no_overlap(model)}; give a folder with overlaps.h5, or say where S comes from "
            "(--overlap, in Python predict(..., overlap=SOURCE)): a table, a GFormer's bundle "
            "that holds one, or basis files"
        )
    return folder, provider


def open_overlap(overlap: OverlapSource | None, model: Predictor) -> OverlapProvider | None:
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


def _with_spin(structure: Structure, basis: Basis, where: str) -> Structure:
    """The same with the model's spin; ``where`` is its folder or name.

    Raises:
        DataError: its info.json says the other one.
    """
    require_spin(structure, basis, where)
    return dataclasses.replace(structure, spinful=basis.spinful)


def _name(source: Source) -> str:
    """Of a source, for messages."""
    if isinstance(source, (str, os.PathLike)):
        return os.fspath(source)
    if isinstance(source, Structure):
        return f"'{source.name}'"
    formula = getattr(source, "get_chemical_formula", None) or getattr(source, "formula", None)
    words = formula() if callable(formula) else formula
    return f"{type(source).__name__} {words}" if words else type(source).__name__


def _require_structure(source: object) -> None:
    """Refuse what no structure comes as.

    Raises:
        ConfigError: says what is wanted.
    """
    from ase import Atoms

    known = isinstance(source, (str, os.PathLike, Structure, Atoms))
    if not known and not hasattr(source, "to_ase_atoms"):  # pymatgen's, which may be absent
        several = isinstance(source, (Iterator, np.ndarray))
        raise ConfigError(
            f"a structure is wanted (a folder, a file, ase.Atoms, a pymatgen Structure), not "
            f"{type(source).__name__}{'; for several give a list' if several else ''}"
        )


def _bare(
    source: Source, provider: OverlapProvider, basis: Basis
) -> tuple[Structure, tuple[bool, bool, bool]]:
    """A structure without edges, and which lattice vectors repeat.

    Raises:
        DataError: it cannot be read, or has partly occupied sites.
    """
    if isinstance(source, Structure):
        return _with_spin(source, basis, source.name), (True, True, True)
    if isinstance(source, (str, os.PathLike)):
        structure, pbc, _ = read_any(source, provider)
        return _with_spin(structure, basis, os.fspath(source)), pbc
    atoms: Any = source
    if hasattr(atoms, "to_ase_atoms"):  # pymatgen's, which need not be installed
        if not atoms.is_ordered:
            raise DataError(
                f"{atoms.formula}: has partly occupied sites; a Hamiltonian needs whole atoms"
            )
        atoms = atoms.to_ase_atoms()
    shells = dict(zip(basis.elements, map(tuple, basis.orbital_types), strict=True))
    name = str(atoms.info.get("name") or atoms.get_chemical_formula())
    x, y, z = (bool(p) for p in atoms.pbc)
    return structure_from_atoms(atoms, shells, name, basis.spinful), (x, y, z)
