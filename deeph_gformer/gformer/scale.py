"""Units of features: stage 1's irreps at unit variance, without amplifying what has no spread."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from e3nn.o3 import Irreps
from torch import Tensor, nn

from ..algebra.layout import Features, Key, Layout

__all__ = ["FeatureScale", "KeyedScale", "channel_rms", "constant_channels", "VANISHES", "SMALL"]

#: A channel whose spread is below this part of the rms spread of all channels beside it vanishes by
#: symmetry or Hermiticity; what is left is rounding, so it is switched off.
VANISHES = 1e-6
#: No channel is scaled up by more than one with this part of the rms spread would be: in a
#: symmetric crystal it can vanish although it does not in the training set, and rounding must not
#: grow.
SMALL = 1e-2


def channel_rms(irreps: Irreps, samples: Sequence[Tensor]) -> Tensor:
    """Root mean square of every channel, over rows and components.

    Args:
        irreps: of the columns.
        samples: (rows, dim) each.

    Returns:
        (channels,) float64.
    """
    index = _channel_index(irreps)
    rows = max(1, sum(len(s) for s in samples))
    square = sum(
        (s.detach().double().square().sum(0).cpu() for s in samples),
        torch.zeros(len(index), dtype=torch.float64),
    )
    total = torch.zeros(int(irreps.num_irreps), dtype=torch.float64)
    total = total.index_add(0, index, square / rows)
    return (total / torch.bincount(index, minlength=len(total))).sqrt()


def constant_channels(spread: Tensor) -> Tensor:
    """Which channels vanish, compared with the others: see :data:`VANISHES`; (channels,) bool."""
    return spread <= VANISHES * spread.square().mean().sqrt()


def _channel_index(irreps: Irreps) -> Tensor:
    """(dim,), the channel of each column."""
    dims = torch.tensor([ir.dim for mul, ir in irreps for _ in range(mul)], dtype=torch.int64)
    return torch.repeat_interleave(torch.arange(len(dims)), dims)


class FeatureScale(nn.Module):
    """Equivariant scaling of irreps to unit variance: one factor a channel, a mean for 0e only."""

    index: Tensor
    scalar: Tensor
    mean: Tensor
    factor: Tensor

    def __init__(self, irreps: Irreps) -> None:
        super().__init__()
        self.irreps = Irreps(irreps)
        scalar = [ir.l == 0 and ir.p == 1 for mul, ir in self.irreps for _ in range(mul)]
        self.register_buffer("index", _channel_index(self.irreps), persistent=False)
        self.register_buffer("scalar", torch.tensor(scalar, dtype=torch.bool), persistent=False)
        self.register_buffer("mean", torch.zeros(len(scalar)))
        self.register_buffer("factor", torch.ones(len(scalar)))

    def fit(self, samples: Sequence[Tensor]) -> None:
        """Set mean and factor from features (rows, dim) of the training set.

        The factor is 0 for channels that vanish, and bounded for those with little spread.
        """
        rows = max(1, sum(len(s) for s in samples))
        total = sum(
            (s.detach().double().sum(0).cpu() for s in samples),
            torch.zeros(self.irreps.dim, dtype=torch.float64),
        )
        first = torch.searchsorted(self.index.cpu(), torch.arange(len(self.mean)))
        mean = torch.where(self.scalar.cpu(), total[first] / rows, torch.zeros(()).double())
        centred = [s.detach().double().cpu() - mean[self.index.cpu()] for s in samples]
        spread = channel_rms(self.irreps, centred)
        floor = SMALL * spread.square().mean().sqrt() if len(spread) else torch.zeros(())
        self.mean.copy_(mean)
        self.factor.copy_(
            torch.where(
                constant_channels(spread), torch.zeros(()).double(), 1 / spread.clamp(min=floor)
            )
        )

    def forward(self, value: Tensor) -> Tensor:
        """(rows, dim) -> (rows, dim)."""
        return (value - self.mean[self.index]) * self.factor[self.index]


@functools.lru_cache(maxsize=256)
def _places(irreps: str, device: torch.device) -> dict[Key, Tensor]:
    """See :meth:`Layout.multiplicity_index`, on a device."""
    index = Layout(Irreps(irreps)).multiplicity_index()
    return {key: place.to(device) for key, place in index.items()}


class KeyedScale:
    """A :class:`FeatureScale` on features per irrep instead of e3nn's flat vector."""

    def __init__(self, scale: FeatureScale) -> None:
        index = _places(str(scale.irreps), scale.factor.device)
        self.factor = {key: scale.factor[place] for key, place in index.items()}
        self.mean = {key: scale.mean[place] for key, place in index.items() if key == (0, 1)}

    def __call__(self, features: Features) -> Features:
        """Scaled features, of the keys that are there."""
        centred = {
            key: features[key] - self.mean[key] if key in self.mean else features[key]
            for key in self.factor
            if key in features
        }
        return {key: value * self.factor[key] for key, value in centred.items()}

    def axis(self, values: dict[Key, Tensor]) -> list[Tensor]:
        """Projections Y_l · x on the edge axis, scaled, per l component."""
        return [
            values[key] * (factor / (2 * key[0] + 1))
            for key, factor in self.factor.items()
            if key in values
        ]
