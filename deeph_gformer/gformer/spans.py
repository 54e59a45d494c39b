"""Sets of whole atoms: all edges of an atom are worked on together, those of a large structure set
after set."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..data.graph import Graph
from ..errors import ConfigError

__all__ = ["Span", "atom_spans", "edge_counts", "graph_spans"]


class Span(NamedTuple):
    """Edges start to stop (rows of the graph), which are those of atoms first to last."""

    start: int
    stop: int
    first: int
    last: int

    @property
    def rows(self) -> slice:
        """The edges."""
        return slice(self.start, self.stop)

    @property
    def atoms(self) -> int:
        """Number of atoms."""
        return self.last - self.first

    def of(self, graph: Graph) -> Graph:
        """The graph with these edges only, and all atoms."""
        rows = self.rows
        return graph._replace(
            edge_index=graph.edge_index[:, rows],
            edge_vector=graph.edge_vector[rows],
            edge_key=graph.edge_key[rows],
        )


def edge_counts(source: Tensor, atoms: int) -> Tensor:
    """Number of edges of each atom, (atoms,) int64, without waiting for a GPU as ``bincount`` does.

    Args:
        source: (E,), atom of each edge.
        atoms: number of atoms.
    """
    return source.new_zeros(atoms).index_add(0, source, torch.ones_like(source))


def graph_spans(graph: Graph, first: int, last: int, chunk: int) -> list[Span]:
    """:func:`atom_spans` of a graph.

    Args:
        graph: all atoms; the edges are those of atoms ``first`` to ``last`` - 1.
        first: number of the first atom.
        last: number after the last atom.
        chunk: edges.

    Raises:
        ConfigError: one atom has more edges.
    """
    if 0 < graph.edges <= chunk:  # a GPU would wait for the counts
        return [Span(0, graph.edges, first, last)]
    counts = edge_counts(graph.edge_index[0], graph.nodes)
    return atom_spans(counts[first:last], first, chunk)


def atom_spans(degree: Tensor, first: int, chunk: int) -> list[Span]:
    """Whole atoms, at most ``chunk`` edges together.

    Args:
        degree: (n,), edges of each atom from number ``first`` on.
        first: number of the first atom.
        chunk: edges.

    Raises:
        ConfigError: one atom has more edges; the message names the minimum.
    """
    counts = degree.tolist()
    most = max(counts, default=0)
    if most > chunk:
        raise ConfigError(
            f"a chunk of {chunk} edges is too small: one atom has {most}, and all edges of an atom "
            "belong together; give more --max-memory"
        )
    out, start, row, begin = [], 0, 0, 0
    for atom, count in enumerate(counts):
        if row + count - start > chunk:
            out.append(Span(start, row, first + begin, first + atom))
            start, begin = row, atom
        row += count
    if row > start:
        out.append(Span(start, row, first + begin, first + len(counts)))
    return out
