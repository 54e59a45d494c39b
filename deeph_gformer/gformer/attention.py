r"""Eq. 4 and 5, multi-head attention over the neighbours Ω(i).

.. math::
    q^h_{ij} = W^h_q\, cat(\tilde n_i, \tilde e_{ij}),\quad k^h_{ij} = W^h_k\, cat(\tilde n_j, \tilde e_{ij}),\quad
    \alpha_{ij} = softmax_{j \in \Omega(i)}(q^T k / \sqrt{d_h})

    v^h_i = \sum_j \alpha_{ij} W^h_v\, cat(\tilde n_j, \tilde e_{ij}),\qquad n_i = FC(LN(W_o\, cat(v^1_i, ..., v^H_i)) + n^{(p-1)}_i)
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch_geometric.utils import softmax

from ..errors import ConfigError
from .layers import PairLinear, fully_connected

__all__ = ["NeighbourAttention"]


class NeighbourAttention(nn.Module):
    """Eq. 4 and 5; with ``attention=False`` every neighbour has the weight 1/|Ω(i)| (the setting "-att")."""

    def __init__(self, width: int, heads: int, attention: bool = True) -> None:
        super().__init__()
        if width % heads:
            raise ConfigError(f"width {width} is no multiple of heads {heads}")
        self.heads, self.attention = heads, attention
        if attention:
            self.query, self.key = PairLinear(width, width, width), PairLinear(width, width, width)
        self.value = PairLinear(width, width, width)
        self.output = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.fc = fully_connected(width, width)

    def weights(self, node: Tensor, edge: Tensor, edge_index: Tensor) -> Tensor:
        """α_ij of every head, (E, H); sums to one over the edges of an atom."""
        source, target = edge_index
        if not self.attention:
            degree = torch.bincount(source, minlength=len(node)).to(edge.dtype)
            return (1 / degree[source])[:, None].expand(-1, self.heads)
        q = self.query(node, edge, source).unflatten(1, (self.heads, -1))  # (E, H, d/H)
        k = self.key(node, edge, target).unflatten(1, (self.heads, -1))  # (E, H, d/H)
        return softmax((q * k).sum(-1) / q.shape[-1] ** 0.5, source, num_nodes=len(node))  # (E, H)

    def forward(self, node: Tensor, edge: Tensor, old: Tensor, edge_index: Tensor) -> Tensor:
        """ñ (N, d), ẽ (E, d), n^(p-1) (N, d) -> n^(p) (N, d)."""
        source, target = edge_index
        v = self.value(node, edge, target).unflatten(1, (self.heads, -1))  # (E, H, d/H)
        v = (self.weights(node, edge, edge_index)[..., None] * v).flatten(1)  # (E, d)
        mixed = v.new_zeros(node.shape).index_add(0, source, v)  # (N, d)
        return self.fc(self.norm(self.output(mixed)) + old)
