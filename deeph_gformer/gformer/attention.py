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

import functools
from collections.abc import Mapping
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from ..errors import ConfigError
from ..plugins import installed
from .layers import FullyConnected, PairLinear
from .spans import Span

__all__ = [
    "AtomParts",
    "ENTRY_POINTS",
    "MeanAttention",
    "NeighbourAttention",
    "SoftmaxAttention",
    "attentions",
    "get_attention",
]

#: Entry point group where a package registers a subclass of :class:`NeighbourAttention`; the name
#: of its entry point is the value of ``model.attention``.
ENTRY_POINTS = "deeph_gformer.attention"


class AtomParts(NamedTuple):
    """What projections and values are made of, without the edges.

    Attributes:
        node: parts of the atoms, (N, d) each, in the order of ``projections``, the value last.
        weight: of the edges' part of all of them, (d, n d).
        bias: likewise, (n d,).
    """

    node: tuple[Tensor, ...]
    weight: Tensor
    bias: Tensor


class NeighbourAttention(nn.Module):
    """Eq. 4 and 5 but for the logits, which a subclass gives; without them the plain mean.

    Attributes:
        projections: what a subclass makes its logits of, by name, and which atom's ñ goes into it
            beside ẽ_ij: ``i`` or ``j``. Each is a learned linear map.
    """

    projections: ClassVar[Mapping[str, Literal["i", "j"]]] = {}

    def __init__(self, width: int, heads: int) -> None:
        """
        Args:
            width: d.
            heads: H, a divisor of d.

        Raises:
            ConfigError: it is none.
        """
        super().__init__()
        if width % heads:
            raise ConfigError(f"width {width} is no multiple of heads {heads}")
        self.heads = heads
        for name in self.projections:
            self.add_module(name, PairLinear(width, width, width))
        self.value = PairLinear(width, width, width)
        self.output = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.fc = FullyConnected(width, width)

    def logits(self, **projected: Tensor) -> Tensor | None:
        """Logits of the softmax, (E, H); None: all neighbours weigh the same.

        Args:
            projected: (E, H, d / H) of every name in ``projections``.
        """
        return None

    def _linears(self) -> list[PairLinear]:
        named = dict(self.named_children())
        return [
            layer
            for name in (*self.projections, "value")
            if isinstance(layer := named[name], PairLinear)
        ]

    def atoms(self, node: Tensor) -> AtomParts:
        """The atoms' parts, made once: ñ (N, d)."""
        linears = self._linears()
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
            source: (E,), atom of each edge.
            atoms: number of atoms.
        """
        if logits is None:
            weight = envelope[:, None]
        else:
            inside = envelope > 0  # log f has no derivative where f ends
            faded = logits + torch.where(inside, envelope, 1.0).log()[:, None]
            logits = torch.where(inside[:, None], faded, -torch.inf)
            known = logits.detach()
            largest = known.new_full((atoms, known.shape[1]), -torch.inf).scatter_reduce(
                0, source[:, None].expand_as(known), known, "amax"
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
        projected = {
            name: (of_edge + of_atom[source if end == "i" else target]).unflatten(1, (heads, -1))
            for (name, end), of_edge, of_atom in zip(
                self.projections.items(), edges[:-1], parts.node[:-1], strict=True
            )
        }
        logits = self.logits(**projected)
        source = source - span.first
        weight = self.weights(logits, envelope, source, span.atoms)
        value = (weight[..., None] * value).flatten(1)  # (E, d)
        return value.new_zeros(span.atoms, value.shape[1]).index_add(0, source, value)

    def finish(self, mixed: Tensor, old: Tensor) -> Tensor:
        """n^(p) from the mixed values and n^(p-1), (N, d)."""
        return self.fc(self.norm(self.output(mixed)) + old)


class SoftmaxAttention(NeighbourAttention):
    """Eq. 4 and 5 as printed."""

    projections = {"query": "i", "key": "j"}

    def logits(self, **projected: Tensor) -> Tensor:
        """q^T k / sqrt(d_h), (E, H)."""
        q, k = projected["query"], projected["key"]
        return (q * k).sum(-1) / q.shape[-1] ** 0.5


class MeanAttention(NeighbourAttention):
    """All neighbours weigh the same (the setting "-att")."""


@functools.cache
def attentions() -> Mapping[str, type[NeighbourAttention]]:
    """What ``model.attention`` may be, by name; those of this package first.

    Raises:
        GFormerError: another package's entry point is no :class:`NeighbourAttention`.
    """

    def check(found: object) -> type[NeighbourAttention] | None:
        if isinstance(found, type) and issubclass(found, NeighbourAttention):
            return found
        return None

    known = {"softmax": SoftmaxAttention, "mean": MeanAttention}
    return installed(ENTRY_POINTS, known, check, "NeighbourAttention")


def get_attention(name: str) -> type[NeighbourAttention]:
    """The attention of this name.

    Raises:
        ConfigError: there is none.
    """
    if name not in attentions():
        raise ConfigError(f"model.attention '{name}': there are {', '.join(attentions())}")
    return attentions()[name]
