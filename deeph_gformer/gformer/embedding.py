"""Initial features (paper, "Initial Features"): element embeddings, pair embeddings, Gaussians of the distance, spherical harmonics."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..algebra.rotation import spherical_harmonics
from ..data.graph import Graph
from .layers import gaussian_basis

__all__ = ["Embedding"]


class Embedding(nn.Module):
    """z_i, z_ij, d_ij and Y_lm of a graph.

    Gives n^(0) = W z_i and e^(0) = W cat(z_ij, d_ij, Y_lm). Without harmonics (``lmax < 0``) both are invariant.
    """

    def __init__(
        self, elements: int, width: int, embed: int, gaussians: int, cutoff: float, lmax: int
    ) -> None:
        """
        Args:
            elements: number of elements. width: d. embed: width of z_i and z_ij. gaussians: of the distance.
            cutoff: last Gaussian, Å. lmax: of the harmonics.
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

    def forward(self, graph: Graph, distances: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Element embeddings z_i (N, embed), n^(0) (N, d) and e^(0) (E, d)."""
        kind = (
            graph.node_type[graph.edge_index[0]] * self.elements
            + graph.node_type[graph.edge_index[1]]
        )
        parts = [self.pair(kind), distances]
        if self.lmax >= 0:
            parts.append(spherical_harmonics(graph.edge_vector, self.lmax))
        z = self.element(graph.node_type)
        return z, self.node(z), self.edge(torch.cat(parts, dim=-1))  # (N, embed), (N, d), (E, d)
