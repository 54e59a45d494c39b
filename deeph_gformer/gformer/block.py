r"""Eq. 2 and 6, one encoder group p of the Transformer.

.. math::
    \tilde n_i = n_i^{(p-1)} + \alpha\, n_i^{stage1} + \beta\, n_i^{invar},\qquad \tilde e_{ij} = e_{ij}^{(p-1)} + \lambda\, e_{ij}^{stage1}

    e_{ij}^{(p)} = FC(cat(n_i^{(p)}, n_j^{(p)}, e_{ij}^{(p-1)}))
"""

from __future__ import annotations

from torch import Tensor, nn

from .attention import NeighbourAttention

__all__ = ["EncoderGroup"]


class EncoderGroup(nn.Module):
    """Eq. 2, then attention (Eq. 4-5), then the edge update (Eq. 6).

    With ``residual`` (ours) the edge update reads ẽ instead of e^(p-1) and is added to it: stage 1's edge irreps then reach the edge
    they belong to directly, and not only through the attention.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        node_in: int,
        edge_in: int,
        alpha: float,
        beta: float,
        lam: float,
        attention: bool,
        residual: bool,
    ) -> None:
        """
        Args:
            width: d. heads: H. node_in, edge_in: widths of stage 1's features in this group (0: none, alpha and lam have no effect).
            alpha, beta, lam: weights of Eq. 2. attention: False for the plain mean. residual: see above.
        """
        super().__init__()
        self.alpha, self.beta, self.lam, self.residual = alpha, beta, lam, residual
        self.from_node = nn.Linear(node_in, width) if node_in and alpha else None
        self.from_edge = nn.Linear(edge_in, width) if edge_in and lam else None
        self.attention = NeighbourAttention(width, heads, attention)
        self.edge_node_i, self.edge_node_j = (
            nn.Linear(width, width, bias=False),
            nn.Linear(width, width, bias=False),
        )
        self.edge_old = nn.Linear(width, width)
        for linear in (self.edge_node_i, self.edge_node_j, self.edge_old):
            nn.init.uniform_(linear.weight, -((3 * width) ** -0.5), (3 * width) ** -0.5)
        self.edge_out = nn.Sequential(nn.SiLU(), nn.Linear(width, width))
        self.edge_norm = nn.LayerNorm(width) if residual else nn.Identity()

    def forward(
        self,
        node: Tensor,
        edge: Tensor,
        node_stage1: Tensor | None,
        edge_stage1: Tensor | None,
        invariant: Tensor | None,
        edge_index: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """n^(p-1) (N, d), e^(p-1) (E, d), stage 1's features of this group, n_invar (N, d) -> n^(p), e^(p)."""
        node_in, edge_in = node, edge  # Eq. 2
        if self.from_node is not None:
            node_in = node_in + self.alpha * self.from_node(node_stage1)
        if invariant is not None and self.beta:
            node_in = node_in + self.beta * invariant
        if self.from_edge is not None:
            edge_in = edge_in + self.lam * self.from_edge(edge_stage1)
        new = self.attention(node_in, edge_in, node, edge_index)  # Eq. 4-5
        source, target = edge_index
        old = edge_in if self.residual else edge
        update = (
            self.edge_old(self.edge_norm(old))
            + self.edge_node_i(new)[source]
            + self.edge_node_j(new)[target]
        )
        update = self.edge_out(update)  # Eq. 6
        return new, old + update if self.residual else update
