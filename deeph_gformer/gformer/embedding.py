"""Initial features (paper, "Initial Features").

Element and pair embeddings, Gaussians of the distance, harmonics.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..algebra.rotation import spherical_harmonics
from ..data.graph import Graph
from .layers import gaussian_basis

__all__ = ["Embedding"]


class Embedding(nn.Module):
    """n^(0) = W z_i and e^(0) = W cat(z_ij, d_ij, Y_lm).

    Both invariant without harmonics (``lmax < 0``).
    """

    def __init__(
        self, elements: int, width: int, embed: int, gaussians: int, cutoff: float, lmax: int
    ) -> None:
        """
        Args:
            elements: number of elements.
            width: d.
            embed: width of z_i and z_ij.
            gaussians: of the distance.
            cutoff: last Gaussian, Å.
            lmax: of the harmonics.
        """
        super().__init__()
        self.elements, self.gaussians, self.cutoff, self.lmax = elements, gaussians, cutoff, lmax
        self.element = nn.Embedding(elements, embed)
        self.pair = nn.Embedding(elements**2, embed)
        self.node = nn.Linear(embed, width)
        self.edge = nn.Linear(embed + gaussians + (lmax + 1) ** 2, width)

    def distances(self, graph: Graph) -> Tensor:
        """d_ij, (E, gaussians)."""
        return gaussian_basis(graph.edge_length, self.cutoff, self.gaussians)

    def nodes(self, graph: Graph) -> Tensor:
        """n^(0), (N, d)."""
        return self.node(self.element(graph.node_type))

    def edges(self, graph: Graph) -> Tensor:
        """e^(0), (E, d); W z_ij is made once per pair of elements."""
        weight, width = self.edge.weight, self.pair.embedding_dim
        table = nn.functional.linear(self.pair.weight, weight[:, :width], self.edge.bias)
        source, target = graph.node_type[graph.edge_index]
        parts = [self.distances(graph)]
        if self.lmax >= 0:
            parts.append(spherical_harmonics(graph.edge_vector, self.lmax))
        known = torch.cat(parts, dim=1)
        return torch.addmm(table[source * self.elements + target], known, weight[:, width:].T)
