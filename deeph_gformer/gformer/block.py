r"""Eq. 2 and 6, one encoder group p of the Transformer.

.. math::
    \tilde n_i = n_i^{(p-1)} + \alpha\, n_i^{stage1} + \beta\, n_i^{invar},\qquad
    \tilde e_{ij} = e_{ij}^{(p-1)} + \lambda\, e_{ij}^{stage1}

    e_{ij}^{(p)} = FC(cat(n_i^{(p)}, n_j^{(p)}, e_{ij}^{(p-1)}))
"""

from __future__ import annotations

from torch import Tensor, nn

from ..errors import ModelError
from .attention import get_attention

__all__ = ["EncoderGroup"]


class EncoderGroup(nn.Module):
    """Eq. 2, attention (Eq. 4-5) and the edge update (Eq. 6) of one group.

    With ``residual`` (ours) the edge update reads ẽ instead of e^(p-1) and is added to it: stage
    1's edge irreps then reach their edge directly, and not only through the attention.
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
        attention: str,
        residual: bool,
    ) -> None:
        """
        Args:
            width: d.
            heads: H.
            node_in: width of stage 1's node features in this group (0: none, alpha has no effect).
            edge_in: width of its edge features (0: none, lam has no effect).
            alpha: weight of stage 1's node features in Eq. 2.
            beta: weight of n_invar.
            lam: weight λ of stage 1's edge features.
            attention: its name, see :func:`.attention.attentions`.
            residual: see above.
        """
        super().__init__()
        self.alpha, self.beta, self.lam, self.residual = alpha, beta, lam, residual
        self.from_node = nn.Linear(node_in, width) if node_in and alpha else None
        self.from_edge = nn.Linear(edge_in, width) if edge_in and lam else None
        self.attention = get_attention(attention)(width, heads)
        self.edge_node_i = nn.Linear(width, width, bias=False)
        self.edge_node_j = nn.Linear(width, width, bias=False)
        self.edge_old = nn.Linear(width, width)
        for linear in (self.edge_node_i, self.edge_node_j, self.edge_old):
            nn.init.uniform_(linear.weight, -((3 * width) ** -0.5), (3 * width) ** -0.5)
        self.edge_out = nn.Sequential(nn.SiLU(), nn.Linear(width, width))
        self.edge_norm = nn.LayerNorm(width) if residual else nn.Identity()

    def node_input(self, node: Tensor, stage1: Tensor | None, invariant: Tensor | None) -> Tensor:
        """ñ (N, d) from n^(p-1), stage 1's node features (N, node_in) and n_invar (N, d)."""
        if self.from_node is not None and stage1 is not None:
            node = node + self.alpha * self.from_node(stage1)
        if invariant is not None and self.beta:
            node = node + self.beta * invariant
        return node

    def edge_part(self, stage1: Tensor, columns: slice, bias: bool) -> Tensor:
        """What some columns of stage 1's edge features add to ẽ, (E, d).

        One part carries the bias.
        """
        layer = self.from_edge
        if layer is None:
            raise ModelError("this encoder group reads no edge irreps")
        added = nn.functional.linear(stage1, layer.weight[:, columns], layer.bias if bias else None)
        return self.lam * added

    def edge_update(self, old: Tensor, of_i: Tensor, of_j: Tensor) -> Tensor:
        """e^(p), (E, d).

        Args:
            old: e^(p-1), with ``residual`` ẽ.
            of_i: ``edge_node_i`` of n^(p) at atom i, (E, d).
            of_j: ``edge_node_j`` at atom j, (E, d).
        """
        update = self.edge_out(self.edge_old(self.edge_norm(old)) + of_i + of_j)
        return old + update if self.residual else update
