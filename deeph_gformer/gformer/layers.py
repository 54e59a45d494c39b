"""Small layers that several equations share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Generic, TypeVar, cast

import torch
from torch import Tensor, nn

from ..algebra.layout import Features

__all__ = ["FullyConnected", "Modules", "PairLinear", "gaussian_basis", "norms"]

M = TypeVar("M", bound=nn.Module)


class Modules(nn.ModuleList, Generic[M]):
    """Modules of one class."""

    if TYPE_CHECKING:

        def __getitem__(self, index: int) -> M: ...  # type: ignore[override]  # no slices
        def __iter__(self) -> Iterator[M]: ...


class FullyConnected(nn.Sequential):
    """The paper's FC: Linear, SiLU, Linear."""

    def __init__(self, width_in: int, width_out: int, hidden: int | None = None) -> None:
        hidden = hidden or width_out
        super().__init__(nn.Linear(width_in, hidden), nn.SiLU(), nn.Linear(hidden, width_out))

    @property
    def first(self) -> nn.Linear:
        """The layer that reads."""
        return cast(nn.Linear, self[0])

    @property
    def last(self) -> nn.Linear:
        """The layer that writes."""
        return cast(nn.Linear, self[2])

    def start_at(self, value: float) -> None:
        """Let the output be ``value`` before training, whatever the input."""
        nn.init.zeros_(self.last.weight)
        nn.init.constant_(self.last.bias, value)


def gaussian_basis(length: Tensor, stop: float, count: int) -> Tensor:
    """Gaussians d_ij of the distance: equidistant centres on [0, stop], width = spacing.

    Args:
        length: (E,), Å.
        stop: Å.
        count: number of Gaussians.

    Returns:
        (E, count).
    """
    centres = torch.linspace(0.0, stop, count, dtype=length.dtype, device=length.device)
    return torch.exp(-0.5 * ((length[:, None] - centres) / (centres[1] - centres[0])) ** 2)


def norms(features: Features, floor: float) -> list[Tensor]:
    """Invariants per key, (rows, channels): 0e as it is, else sqrt(floor² + mean over m of x²).

    The floor makes them smooth where an irrep vanishes.
    """
    return [
        value[:, 0] if key == (0, 1) else (value.square().mean(dim=1) + floor**2).sqrt()
        for key, value in features.items()
    ]


class PairLinear(nn.Module):
    """``W · cat(n, e)`` with n per node and e per edge.

    The node part is computed once per node, then gathered (E/N is 50-100).
    """

    def __init__(self, width_node: int, width_edge: int, width_out: int) -> None:
        super().__init__()
        self.node = nn.Linear(width_node, width_out, bias=False)
        self.edge = nn.Linear(width_edge, width_out)
        joint = (width_node + width_edge) ** -0.5
        for linear in (self.node, self.edge):
            nn.init.uniform_(linear.weight, -joint, joint)
