r"""Irreps mixed across l in the frame of each edge (the SO(2) trick of eSCN, Passaro and Zitnick
2023), gated by the Transformer's invariants.

With the polar axis along the edge, what is left of the rotations turns the components m and -m of
every irrep by the same angle. So one matrix per \|m\| may mix all channels of all l ≥ \|m\|, and
the result is exactly as equivariant as its inputs:

.. math::
    \Delta h_{m} = W_{2,|m|} \left( g_{|m|}(e^{(P)}_{ij}) \odot W_{1,|m|}\, (D^{-1} x)_{m} \right)

Reflections in planes through the edge separate two families, natural parity p = (-1)^l and
unnatural. For m > 0 a quarter turn, (x_m, x_-m) to (x_-m, -x_m), makes one look like the other; at
m = 0 they stay apart.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..algebra.layout import Features, Key
from ..algebra.rotation import direction_frames
from .layers import FullyConnected

__all__ = ["LocalMixing"]


def _natural(key: Key) -> bool:
    return key[1] == (-1) ** key[0]


class LocalMixing(nn.Module):
    """The formula above; zero for an atom with itself, which has no axis."""

    def __init__(
        self,
        available: Mapping[Key, int],
        wanted: Mapping[Key, int],
        width: int,
        hidden: int,
        start: float = 0.0,
    ) -> None:
        """
        Args:
            available: channels per irrep (l, parity) of the input.
            wanted: those of the output.
            width: d of e^(P).
            hidden: gated channels per \\|m\\|.
            start: what all gates are before training.
        """
        super().__init__()
        self.hidden = hidden
        self.inputs, self.outputs = sorted(available), sorted(wanted)
        self.channels = dict(wanted)
        self.top = max(l for l, _ in self.outputs)
        # maps of m = 0, 1, ..., and, where both sides have unnatural irreps, of their m = 0
        self.maps: list[tuple[int, list[Key], list[Key]]] = []
        for m in range(self.top + 1):
            kept = [
                [k for k in keys if k[0] >= m and (m > 0 or _natural(k))]
                for keys in (self.inputs, self.outputs)
            ]
            self.maps.append((m, kept[0], kept[1]))
        odd = [[k for k in keys if not _natural(k)] for keys in (self.inputs, self.outputs)]
        self.maps.append((0, odd[0], odd[1]))
        self.maps = [entry for entry in self.maps if entry[1] and entry[2]]
        sizes = [
            (sum(available[k] for k in first), sum(wanted[k] for k in second))
            for _, first, second in self.maps
        ]
        self.first = nn.ParameterList(
            [nn.Parameter(torch.randn(a, hidden) / a**0.5) for a, _ in sizes]
        )
        self.second = nn.ParameterList(
            [nn.Parameter(torch.randn(hidden, b) / hidden**0.5) for _, b in sizes]
        )
        self.gates = FullyConnected(width, hidden * len(self.maps), width)
        self.gates.start_at(start)

    def forward(
        self, edge: Tensor, features: Features, direction: Tensor, aligned: bool = False
    ) -> Features:
        """Mixed irreps of some edges.

        Args:
            edge: e^(P), (E, d).
            features: (E, 2 l + 1, C) per key.
            direction: (E, 3), unit vectors along the edges in e3nn's order (y, z, x), in the
                axes that the features are given in.
            aligned: every direction is the polar axis of these axes already (or zero).

        Returns:
            (E, 2 l + 1, C) per wanted key, in the same axes.
        """
        joins = direction.square().sum(dim=1, keepdim=True) > 0
        lmax = max(l for l, _ in (*self.inputs, *self.outputs))
        frames = None if aligned else direction_frames(direction, lmax)
        local = {}
        for key in self.inputs:
            value = features[key]
            local[key] = value if frames is None else frames[key[0]].transpose(1, 2) @ value
        result: dict[Key, list[Tensor | None]] = {k: [None] * (2 * k[0] + 1) for k in self.outputs}
        gates = (self.gates(edge) * joins).split(self.hidden, dim=1)
        for (m, inputs, outputs), first, second, gate in zip(
            self.maps, self.first, self.second, gates, strict=False
        ):
            x = torch.cat([_components(local[k], k, m) for k in inputs], dim=2)  # (E, 1 or 2, C)
            value = ((x @ first) * gate[:, None]) @ second
            for key, part in zip(
                outputs, value.split([self.channels[k] for k in outputs], dim=2), strict=True
            ):
                if m == 0:
                    result[key][key[0]] = part[:, 0]
                elif _natural(key):
                    result[key][key[0] + m], result[key][key[0] - m] = part[:, 0], part[:, 1]
                else:
                    result[key][key[0] - m], result[key][key[0] + m] = part[:, 0], -part[:, 1]
        out: Features = {}
        for key, parts in result.items():
            nothing = edge.new_zeros(len(edge), self.channels[key])
            value = torch.stack([nothing if part is None else part for part in parts], dim=1)
            out[key] = value if frames is None else frames[key[0]] @ value
        return out


def _components(value: Tensor, key: Key, m: int) -> Tensor:
    """(E, 2, C): components m and -m, those of unnatural parity after a quarter turn.

    (E, 1, C) for m = 0.
    """
    l = key[0]
    if m == 0:
        return value[:, l : l + 1]
    if _natural(key):
        return torch.stack([value[:, l + m], value[:, l - m]], dim=1)
    return torch.stack([value[:, l - m], -value[:, l + m]], dim=1)
