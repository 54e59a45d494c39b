"""Features of the engine (:mod:`deeph_gformer.algebra.layout`) to global axes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from e3nn.o3 import Irreps
from torch import Tensor

from ...algebra.layout import Features
from ...algebra.layout import Layout as FeatureLayout
from .rows import permuted

__all__ = ["Layout"]


class Layout(FeatureLayout):
    """A layout that also turns features on their way into e3nn's flat vector."""

    def __init__(self, irreps: Irreps | str) -> None:
        super().__init__(irreps)
        self._columns: tuple[Tensor, Tensor] | None = None

    def flat_global(self, features: Features, frames: Sequence[Tensor]) -> Tensor:
        """Features in edge frames to e3nn's flat layout in global axes.

        Args:
            features: (rows, 2 l + 1, channels) per key.
            frames: D^l of every row (see :func:`deeph_gformer.algebra.rotation.edge_frames`).

        Returns:
            (rows, dim).
        """
        joined = torch.cat(
            [
                (torch.bmm(frames[key[0]], value) if key[0] else value).flatten(1)
                for key, value in ((key, features[key]) for key in self.channels)
            ],
            dim=1,
        )  # irrep after irrep, component after component, then e3nn's order in one go
        if self._columns is None or self._columns[0].device != joined.device:
            columns = self._column_order().to(joined.device)
            self._columns = columns, torch.argsort(columns)
        return permuted(joined, *self._columns, dim=1)

    def _column_order(self) -> Tensor:
        """(dim,), where each component of the flat vector stands when slots of equal irrep are
        joined, component after component."""
        first, total = {}, 0
        for key, channels in self.channels.items():
            first[key] = total
            total += channels * (2 * key[0] + 1)
        places = []
        for key, start, mul in self.slots:
            channel = torch.arange(start, start + mul)[:, None]
            component = torch.arange(2 * key[0] + 1) * self.channels[key]
            places.append((first[key] + channel + component).flatten())
        return torch.cat(places)
