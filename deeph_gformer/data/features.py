"""What stage 1 hands to stage 2."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Stage1Features"]


class Stage1Features(NamedTuple):
    """What stage 1 says about a graph.

    Edges in the graph's order, irreps in e3nn's flat layout and global axes.

    Attributes:
        node: per encoder group p of P (N, d_n^p); empty where the irreps were not asked for.
        edge: per encoder group (E, d_e^p); empty likewise.
        direct_sum: (E, D), eV; with spin-orbit coupling real parts, then imaginary parts.
    """

    node: tuple[Tensor, ...]
    edge: tuple[Tensor, ...]
    direct_sum: Tensor

    def to(self, device: torch.device | str) -> Stage1Features:
        """The same on another device."""
        return Stage1Features(
            tuple(t.to(device) for t in self.node),
            tuple(t.to(device) for t in self.edge),
            self.direct_sum.to(device),
        )
