r"""Eq. 3, the invariant node feature from distances and angles:

.. math:: n_i^{invar} = \sum_{(j,k) \in \Omega(i)} FC(cat(z_i, z_j, z_k, d_{ij}, d_{ik}, c_{ijk}))

(j, k) are neighbours in the array Ω(i), sorted by distance, then element, then edge key: an order that no rotation changes.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..data.graph import Graph
from .layers import fully_connected

__all__ = ["Triplets", "find_triplets", "InvariantFeature"]

#: Distances are compared in steps of this many Å, so rounding cannot reorder the neighbours of a perfect crystal.
DISTANCE_STEP = 1e-5


class Triplets(NamedTuple):
    """Adjacent pairs of every Ω(i).

    Attributes:
        edge_j, edge_k: (T,) int64, the edges (i, j) and (i, k). cosine: (T,), cos of the angle between them.
    """

    edge_j: Tensor
    edge_k: Tensor
    cosine: Tensor


def find_triplets(graph: Graph) -> Triplets:
    """Pair each edge of an atom with the next one in the sorted Ω(i): |Ω(i)| - 1 pairs, linear in the number of edges.

    Self-loops are left out, they have no angle.
    """
    length, source = graph.edge_length.double(), graph.edge_index[0]
    element = graph.node_type[graph.edge_index[1]]
    keep = torch.nonzero(~graph.self_loop).reshape(-1)
    order = keep[
        torch.argsort(element[keep], stable=True)
    ]  # edges come sorted by key; every sort here is stable
    order = order[torch.argsort(torch.round(length[order] / DISTANCE_STEP), stable=True)]
    order = order[torch.argsort(source[order], stable=True)]
    same = source[order[:-1]] == source[order[1:]]
    j, k = order[:-1][same], order[1:][same]
    a, b = graph.edge_vector[j].double(), graph.edge_vector[k].double()
    cosine = (a * b).sum(-1) / (length[j] * length[k])
    return Triplets(j, k, cosine.clamp(-1, 1).to(graph.edge_vector.dtype))


class InvariantFeature(nn.Module):
    """Eq. 3."""

    def __init__(self, width: int, embed: int, gaussians: int, repeat: int = 16) -> None:
        """
        Args:
            width: d. embed: width of z. gaussians: width of d_ij. repeat: copies of the cosine in c_ijk, which weigh it up.
        """
        super().__init__()
        self.repeat = repeat
        self.fc = fully_connected(3 * embed + 2 * gaussians + repeat, width)

    def forward(self, z: Tensor, distances: Tensor, graph: Graph, triplets: Triplets) -> Tensor:
        """z (N, embed), d_ij (E, gaussians) -> n_invar (N, d); zero for an atom with fewer than two neighbours."""
        source, target = graph.edge_index
        j, k = triplets.edge_j, triplets.edge_k
        i = source[j]
        c = triplets.cosine[:, None].expand(-1, self.repeat)  # (T, repeat)
        terms = self.fc(
            torch.cat([z[i], z[target[j]], z[target[k]], distances[j], distances[k], c], dim=-1)
        )  # (T, d)
        return terms.new_zeros(len(z), terms.shape[1]).index_add(0, i, terms)  # (N, d)
