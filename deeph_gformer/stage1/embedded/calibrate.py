"""The means of a network whose norms do not depend on the structure (``NetConfig.norm``)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from ...data.graph import Graph
from .network import DeepHE3Net
from .norm import LayerNorm

__all__ = ["calibrate"]


class _Moments:
    """Sums over rows and channels of each slot of scalars that a norm is given."""

    def __init__(self, norm: LayerNorm) -> None:
        self.norm = norm
        self.slots = [slot for slot in norm.layout.slots if slot[0][0] == 0]
        self.sums = torch.zeros(3, len(self.slots), dtype=torch.float64)  # number, x, x²

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        for n, (key, start, mul) in enumerate(self.slots):
            value: Tensor = inputs[0][key][:, 0, start : start + mul].double()
            self.sums[:, n] += torch.stack(
                [value.new_tensor(value.numel()), value.sum(), value.square().sum()]
            ).cpu()

    def apply(self) -> None:
        """Put mean and rms into the norm's parameters."""
        weight, bias = self.norm.weight, self.norm.bias
        places = self.norm.layout.multiplicity_index()
        for n, (key, start, mul) in enumerate(self.slots):
            count, total, square = self.sums[:, n].tolist()
            # 0o has no mean: it changes its sign under inversion
            mean = total / max(count, 1) if key == (0, 1) else 0.0
            rms = max(square / max(count, 1) - mean**2, 0.0) ** 0.5
            index = places[key][start : start + mul]
            weight[index] /= rms + self.norm.eps
            if key == (0, 1):
                bias[start : start + mul] -= weight[index] * mean


@torch.no_grad()
def calibrate(net: DeepHE3Net, graphs: Iterable[Graph]) -> None:
    """Make every norm of a new network what it would be on average over a set of structures.

    One pass per structure, in which norms take its own means, as DeepH-E3's do; then the means over
    all of them become constants of the network (see :class:`.norm.LayerNorm`).

    Args:
        net: with ``norm = "training"``; changed in place.
        graphs: the training set, on the network's device and in its type.
    """
    norms = [module for module in net.modules() if isinstance(module, LayerNorm)]
    moments = [_Moments(norm) for norm in norms]
    hooks = [
        norm.register_forward_pre_hook(moment) for norm, moment in zip(norms, moments, strict=True)
    ]
    try:
        for norm in norms:
            norm.graph = True
        for graph in graphs:
            net(graph, features=True)
    finally:
        for norm, hook in zip(norms, hooks, strict=True):
            norm.graph = False
            hook.remove()
    for moment in moments:
        moment.apply()
