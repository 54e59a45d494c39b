"""Features of the engine (:mod:`deeph_gformer.algebra.layout`) to global axes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from e3nn.o3 import Irreps
from torch import Tensor

from ...algebra.layout import Features
from ...algebra.layout import Layout as FeatureLayout

__all__ = ["Layout"]


class Layout(FeatureLayout):
    """A layout that also turns features on their way into e3nn's flat vector."""

    def __init__(self, irreps: Irreps | str) -> None:
        super().__init__(irreps)
        self._columns: Tensor | None = None

    def flat_global(self, features: Features, frames: Sequence[Tensor]) -> Tensor:
        """Features in edge frames to e3nn's flat layout in global axes.

        Args:
            features: (rows, 2 l + 1, channels) per key.
            frames: D^l of every row (see :func:`deeph_gformer.algebra.rotation.edge_frames`).

        Returns:
            (rows, dim).
        """
        turned = {  # (rows, channels, 2 l + 1), as e3nn has it: x^T D^T
            key: torch.bmm(value.transpose(1, 2), frames[key[0]].transpose(1, 2))
            if key[0]
            else value.transpose(1, 2)
            for key, value in features.items()
        }
        if len(self.slots) <= 2 * len(self.channels):
            return torch.cat(
                [turned[key][:, start : start + mul].flatten(1) for key, start, mul in self.slots],
                dim=1,
            )
        joined = torch.cat(
            [turned[key].flatten(1) for key in self.channels], dim=1
        )  # irrep after irrep, then the slots' order in one go
        if self._columns is None or self._columns.device != joined.device:
            self._columns = self._column_order().to(joined.device)
        return joined.index_select(1, self._columns)

    def _column_order(self) -> Tensor:
        """(dim,), where each component of the flat vector stands when slots of equal irrep are
        joined."""
        first, total = {}, 0
        for key, channels in self.channels.items():
            first[key] = total
            total += channels * (2 * key[0] + 1)
        return torch.cat(
            [
                torch.arange(
                    first[key] + start * (2 * key[0] + 1),
                    first[key] + (start + mul) * (2 * key[0] + 1),
                )
                for key, start, mul in self.slots
            ]
        )
