r"""A weight per edge that fades out where the edge ends, so that nothing jumps when it enters or
leaves.

.. math:: f(r) = t^3 (10 - 15 t + 6 t^2),\qquad t = \min(1, (1 - r / R) / w)

R is the range of the ordered pair of elements: the longest edge of the training set. f is 1 up to
(1 - w) R, 0 from R on, and has two continuous derivatives.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..data.graph import Graph

__all__ = ["Envelope"]

#: Range of a pair before :meth:`Envelope.fit`, Å: no edge ends there.
UNKNOWN = 1e6


class Envelope(nn.Module):
    """f of every edge; 1 for an atom with itself, 0 for pairs that the training set does not have.

    Attributes:
        range: (elements, elements), Å, of ordered pairs.
        width: w, the part of the range over which an edge fades; 0: f is 1 everywhere.
    """

    range: Tensor

    def __init__(self, elements: int, width: float) -> None:
        super().__init__()
        self.width = width
        self.register_buffer("range", torch.full((elements, elements), UNKNOWN))

    def fit(self, graphs: Sequence[Graph]) -> None:
        """Set the ranges to the longest edges of these structures."""
        longest = torch.zeros(self.range.numel(), dtype=torch.float64)
        for graph in graphs:
            longest.scatter_reduce_(
                0, self._pairs(graph).cpu(), graph.edge_length.double().cpu(), "amax"
            )
        self.range.copy_(longest.view_as(self.range))

    def _pairs(self, graph: Graph) -> Tensor:
        source, target = graph.node_type[graph.edge_index]
        return source * len(self.range) + target

    def forward(self, graph: Graph) -> Tensor:
        """(E,)."""
        length = graph.edge_length
        if not self.width:
            return torch.ones_like(length)
        longest = self.range.reshape(-1)[self._pairs(graph)].to(length.dtype).clamp(min=1e-6)
        t = ((1 - length / longest) / self.width).clamp(0, 1)
        return torch.where(graph.self_loop, 1.0, t**3 * (10 - 15 * t + 6 * t**2))
