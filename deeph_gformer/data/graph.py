"""The graph a network sees: atoms, and one directed edge per Hamiltonian block."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..algebra.orbitals import Basis
from ..errors import DataError, ModelError
from ..io.blocks import format_key, onsite_keys, require_onsite, sort_keys
from ..io.structure import Structure

__all__ = [
    "Graph",
    "batch_graphs",
    "build_graph",
    "node_types",
    "require_spin",
    "rotate_graph",
]


class Graph(NamedTuple):
    """Immutable; functions on it are free functions.

    Attributes:
        node_type: (N,) int64, index into the model's elements.
        edge_index: (2, E) int64, atoms i and j; edges are in canonical order (by i, j, R),
            structure after structure.
        edge_vector: (E, 3), r_j + R - r_i, Cartesian, Å; exactly zero for a self-loop (R = 0, i =
            j).
        edge_key: (E, 5) int64, Rx Ry Rz i j, 0-based within the structure.
        node_batch: (N,) int64, structure of each atom.
        structures: number of structures.
    """

    node_type: Tensor
    edge_index: Tensor
    edge_vector: Tensor
    edge_key: Tensor
    node_batch: Tensor
    structures: int = 1

    def __repr__(self) -> str:
        many = f", {self.structures} structures" if self.structures > 1 else ""
        return f"Graph({self.nodes} atoms, {self.edges} edges{many})"

    @property
    def nodes(self) -> int:
        """N, the number of atoms."""
        return len(self.node_type)

    @property
    def edges(self) -> int:
        """E, the number of edges."""
        return self.edge_index.shape[1]

    @property
    def edge_length(self) -> Tensor:
        """(E,), Å."""
        return torch.linalg.vector_norm(self.edge_vector, dim=-1)

    @property
    def self_loop(self) -> Tensor:
        """(E,) bool, on-site blocks."""
        key = self.edge_key
        return (key[:, :3] == 0).all(dim=1) & (key[:, 3] == key[:, 4])

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> Graph:
        """The same graph on another device, its vectors in another floating type."""
        return Graph(
            self.node_type.to(device),
            self.edge_index.to(device),
            self.edge_vector.to(device, dtype),
            self.edge_key.to(device),
            self.node_batch.to(device),
            self.structures,
        )


def require_spin(structure: Structure, basis: Basis, where: str) -> None:
    """Raise where a structure's H is spin-doubled and the model's is not, or the other way round.

    Args:
        structure: one of which info.json says nothing fits every model.
        basis: the model's.
        where: folder or name, for the message.

    Raises:
        DataError: info.json says the other one.
    """
    if structure.spinful is not None and structure.spinful != basis.spinful:
        kind = "spinful" if basis.spinful else "spinless"
        raise DataError(
            f"{where}: info.json says isspinful = {structure.spinful}, the model predicts {kind} "
            f"Hamiltonians; use {kind} data, or a model that was trained on data like these"
        )


def node_types(structure: Structure, basis: Basis) -> NDArray[np.int64]:
    """Element index of each atom.

    Returns:
        (N,) int64.

    Raises:
        ModelError: the model does not know an element, or knows other shells for it; both lists are
            named.
    """
    from ase.data import chemical_symbols

    index = {z: n for n, z in enumerate(basis.elements)}
    unknown = sorted(set(structure.numbers.tolist()) - set(index))
    if unknown:
        raise ModelError(
            f"structure '{structure.name}' has "
            f"{', '.join(chemical_symbols[z] for z in unknown)}, which the model does not know; "
            f"it was trained on {', '.join(chemical_symbols[z] for z in basis.elements)}"
        )
    for atom, (z, shells) in enumerate(
        zip(structure.numbers.tolist(), structure.orbital_types, strict=True)
    ):
        if tuple(shells) != basis.orbital_types[index[z]]:
            raise ModelError(
                f"structure '{structure.name}', atom {atom + 1} ({chemical_symbols[z]}): "
                f"shells l = {list(shells)}, but the model was trained with "
                f"{list(basis.orbital_types[index[z]])}; use data of the same basis set"
            )
    return np.array([index[z] for z in structure.numbers.tolist()], dtype=np.int64)


def build_graph(
    structure: Structure,
    keys: NDArray[np.int64],
    basis: Basis,
    dtype: torch.dtype = torch.float64,
    atoms: tuple[int, int] | None = None,
) -> Graph:
    """The graph whose edges are ``keys``.

    Args:
        structure: the atoms.
        keys: (E, 5), 0-based, any order.
        basis: the model's elements.
        dtype: of the edge vectors.
        atoms: first atom whose edges are there, and the one after the last; default: all.

    Raises:
        ModelError: see :func:`node_types`.
        DataError: an edge without its reverse, an atom without its on-site block, or two atoms at
            the same place.
    """
    types = node_types(structure, basis)
    keys = keys[sort_keys(keys)]
    vectors = structure.edge_vectors(keys)
    onsite = onsite_keys(keys)
    vectors[onsite] = 0.0
    require_onsite(keys, range(*(atoms or (0, len(structure)))), f"structure '{structure.name}'")
    near = np.flatnonzero(~onsite & (np.linalg.norm(vectors, axis=1) < 1e-3))
    if len(near):
        raise DataError(
            f"structure '{structure.name}': block {format_key(keys[near[0]])} joins two atoms "
            "at the same place; is an atom listed twice, or a position wrong?"
        )
    return Graph(
        torch.from_numpy(types),
        torch.from_numpy(keys[:, 3:].T.copy()),
        torch.from_numpy(vectors).to(dtype),
        torch.from_numpy(keys),
        torch.zeros(len(types), dtype=torch.int64),
    )


def batch_graphs(graphs: Sequence[Graph]) -> Graph:
    """Several structures as one graph without edges between them."""
    if len(graphs) == 1:
        return graphs[0]
    starts = np.concatenate([[0], np.cumsum([g.nodes for g in graphs])])
    firsts = np.concatenate([[0], np.cumsum([g.structures for g in graphs])])
    return Graph(
        torch.cat([g.node_type for g in graphs]),
        torch.cat([g.edge_index + int(s) for g, s in zip(graphs, starts[:-1], strict=True)], dim=1),
        torch.cat([g.edge_vector for g in graphs]),
        torch.cat([g.edge_key for g in graphs]),
        torch.cat([g.node_batch + int(f) for g, f in zip(graphs, firsts[:-1], strict=True)]),
        int(firsts[-1]),
    )


def rotate_graph(graph: Graph, rotation: Tensor) -> Graph:
    """The graph with every edge vector turned by a Cartesian matrix (3, 3)."""
    return graph._replace(edge_vector=graph.edge_vector @ rotation.to(graph.edge_vector).T)
