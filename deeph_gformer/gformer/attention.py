r"""Eq. 4 and 5, multi-head attention over the neighbours Ω(i).

.. math::
    q^h_{ij} = W^h_q\, cat(\tilde n_i, \tilde e_{ij}),\quad
    k^h_{ij} = W^h_k\, cat(\tilde n_j, \tilde e_{ij}),\quad
    \alpha_{ij} = softmax_{j \in \Omega(i)}(q^T k / \sqrt{d_h})

    v^h_i = \sum_j \alpha_{ij} W^h_v\, cat(\tilde n_j, \tilde e_{ij}),\qquad
    n_i = FC(LN(W_o\, cat(v^1_i, ..., v^H_i)) + n^{(p-1)}_i)

Every term of the softmax carries the edge's envelope f (see :mod:`.envelope`; 1 in ``arch:
paper``).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..errors import ConfigError
from .layers import FullyConnected, PairLinear
from .spans import Span, edge_counts

__all__ = ["AtomParts", "NeighbourAttention"]


class AtomParts(NamedTuple):
    """What queries, keys and values are made of, without the edges.

    Attributes:
        node: parts of the atoms, (N, d) each: (q, k, v), or (v,) without attention.
        weight, bias: of the edges' part of all of them, (d, 3 d) or (d, d).
    """

    node: tuple[Tensor, ...]
    weight: Tensor
    bias: Tensor


class NeighbourAttention(nn.Module):
    """Eq. 4 and 5; ``attention=False``: all neighbours weigh the same (the setting "-att")."""

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
        self.fc = FullyConnected(width, width)

    def atoms(self, node: Tensor) -> AtomParts:
        """The atoms' parts, made once: ñ (N, d)."""
        linears = [self.query, self.key, self.value] if self.attention else [self.value]
        return AtomParts(
            tuple(linear.node(node) for linear in linears),
            torch.cat([linear.edge.weight for linear in linears]).T,
            torch.cat([linear.edge.bias for linear in linears]),
        )

    def weights(
        self, logits: Tensor | None, envelope: Tensor, source: Tensor, atoms: int
    ) -> Tensor:
        """α_ij, (E, H) or (E, 1); sums to one over the edges of an atom.

        Args:
            logits: (E, H); None without attention.
            envelope: (E,), of which every atom has one that is not 0 (its own).
            source: (E,), atom of each edge, in order.
            atoms: number of atoms.
        """
        if logits is None:
            weight = envelope[:, None]
        else:
            logits = logits + envelope.log()[:, None]
            degree = edge_counts(source, atoms)
            largest = torch.segment_reduce(
                logits.detach(), "max", lengths=degree, axis=0, unsafe=True
            )
            weight = torch.exp(logits - largest[source])
        total = weight.new_zeros(atoms, weight.shape[1]).index_add(0, source, weight)
        return weight / total[source]

    def mix(
        self, edge: Tensor, parts: AtomParts, envelope: Tensor, edge_index: Tensor, span: Span
    ) -> Tensor:
        """Values of all neighbours, mixed.

        Args:
            edge: ẽ of the span's edges, (E, d).
            parts: see :meth:`atoms`.
            envelope: (E,).
            edge_index: (2, E), of the graph.
            span: whose edges these are.

        Returns:
            (atoms of the span, d).
        """
        (source, target), heads = edge_index, self.heads
        edges = torch.addmm(parts.bias, edge, parts.weight).chunk(len(parts.node), dim=1)
        value = (edges[-1] + parts.node[-1][target]).unflatten(1, (heads, -1))  # (E, H, d/H)
        logits = None
        if self.attention:
            q = (edges[0] + parts.node[0][source]).unflatten(1, (heads, -1))  # (E, H, d/H)
            k = (edges[1] + parts.node[1][target]).unflatten(1, (heads, -1))  # (E, H, d/H)
            logits = (q * k).sum(-1) / q.shape[-1] ** 0.5  # (E, H)
        source = source - span.first
        weight = self.weights(logits, envelope, source, span.atoms)
        value = (weight[..., None] * value).flatten(1)  # (E, d)
        return value.new_zeros(span.atoms, value.shape[1]).index_add(0, source, value)

    def finish(self, mixed: Tensor, old: Tensor) -> Tensor:
        """n^(p) from the mixed values and n^(p-1), (N, d)."""
        return self.fc(self.norm(self.output(mixed)) + old)
