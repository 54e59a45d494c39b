"""Sets of whole atoms: all edges of an atom are worked on together, those of a large structure set
after set."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from ..data.graph import Graph
from ..errors import ConfigError

__all__ = ["Span", "atom_spans"]


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
