r"""Irreps that an atom gathers from its edges before the equivariant head reads them.

.. math::
    u_i = \frac{1}{\sqrt{\sum_j f_{ij}}} \sum_{j \in \Omega(i)}
        f_{ij} D\, W_2 \left( g(e^{(P)}_{ij}) \odot W_1\, D^{-1} x_{ij} \right)

f is the envelope (:mod:`.envelope`); W, g and D are those of :mod:`.local`. An edge reads u of both
its atoms; an atom's own block, whose frame has no axis to mix l about, learns the directions of its
neighbours from u alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from ..algebra.layout import Features, Key
from .layers import norms
from .local import LocalMixing

__all__ = ["Messages"]


class Messages(nn.Module):
    """``mixing`` makes an edge's message; the rest is the way from u to the edges."""

    def __init__(
        self,
        available: Mapping[Key, int],
        keys: Sequence[Key],
        channels: int,
        width: int,
        hidden: int,
    ) -> None:
        """
        Args:
            available: channels per irrep of the edges.
            keys: irreps of u.
            channels: of u per irrep.
            width: d of e^(P).
            hidden: gated channels per \\|m\\|.
        """
        super().__init__()
        self.channels: dict[Key, int] = dict.fromkeys(keys, channels)
        self.mixing = LocalMixing(available, self.channels, width, hidden, start=1.0)
        self.of_i, self.of_j = (
            nn.Linear(channels * len(keys), width, bias=False) for _ in range(2)
        )

    def empty(self, atoms: int, like: Tensor) -> Features:
        """u of atoms without neighbours, (N, 2 l + 1, C) per key."""
        return {
            key: like.new_zeros(atoms, 2 * key[0] + 1, channels)
            for key, channels in self.channels.items()
        }

    def sizes(self, received: Features, floor: float) -> tuple[Tensor, Tensor]:
        """What |u| adds to e^(P) of an atom's edges, as atom i and as atom j, (N, d) each."""
        size = torch.cat(norms(received, floor), dim=1)
        return self.of_i(size), self.of_j(size)
