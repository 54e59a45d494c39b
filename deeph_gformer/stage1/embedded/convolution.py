"""DeepH-E3's equivariant convolution: tensor product, gate, and weights from the distance."""

from __future__ import annotations

from collections.abc import Callable, Hashable

import torch
from e3nn.o3 import Irreps
from torch import Tensor, nn

from ...algebra.layout import Features
from ...algebra.wigner import Generation
from .gate import Gate
from .layout import Layout
from .recompute import Recompute
from .tensor_product import EdgeTensorProduct, Matrices

__all__ = ["EdgeTensorProduct", "EquivariantConvolution"]


class EquivariantConvolution(nn.Module):
    """DeepH-E3's ``EquiConv``: tensor product, gate, and a factor per channel from the edge length.

    All in edge frames.
    """

    def __init__(
        self,
        basis: int,
        irreps_in: Irreps,
        irreps_sh: Irreps,
        irreps_out: Irreps,
        generation: Generation,
        parity: bool,
        radial: bool,
    ) -> None:
        super().__init__()
        self.gate = Gate(irreps_in, irreps_sh, irreps_out)
        self.tp = EdgeTensorProduct(
            irreps_in, irreps_sh, self.gate.irreps_in, generation, parity, radial
        )
        self.irreps_out = self.gate.irreps_out
        multiplicities = sum(mul for mul, _ in self.irreps_out)
        first, second, last = nn.Linear(basis, 64), nn.Linear(64, 64), nn.Linear(64, multiplicities)
        self.fc = nn.Sequential(first, nn.SiLU(), second, nn.SiLU(), last)
        self.linears = (first, second, last)
        self.layout = Layout(self.irreps_out)
        index = self.layout.multiplicity_index()
        order = torch.cat(list(index.values()))
        self.contiguous = bool((order == torch.arange(len(order))).all())
        self.register_buffer("_order", order, persistent=False)

    def forward(
        self,
        features: Features,
        matrices: Matrices,
        distance: Tensor,
        regular: int,
        radial: Tensor | None = None,
        again: Callable[[], Features] | None = None,
    ) -> Features:
        """Messages of every edge.

        Args:
            features: (E, 2 l + 1, channels) of (node i, node j, edge), in edge frames.
            distance: (E, basis), Gaussians of the edge length.
            matrices: see :meth:`EdgeTensorProduct.forward`.
            regular: see :meth:`EdgeTensorProduct.forward`.
            radial: see :meth:`EdgeTensorProduct.forward`.
            again: see :meth:`EdgeTensorProduct.forward`; what the gate and the distance network
                make is made again, too.
        """
        product = self.tp(features, matrices, regular, radial, again)
        out = self.gate(product)
        if again is None:
            return self._weigh(out, self._weights(distance, None))
        plain = {key: value.detach() for key, value in product.items()}  # the gate keeps them
        kept = Recompute(lambda: dict(self.gate(plain)))
        for key, value in out.items():
            kept.name(key, value)
        layers = Recompute(lambda: self._hidden(distance.detach()), list(self.fc.parameters()))
        with layers.saving():
            weight = self._weights(distance, layers)
        layers.done()
        with kept.saving():
            result = self._weigh(out, weight)
        kept.done()
        return result

    def _hidden(self, distance: Tensor, kept: Recompute | None = None) -> dict[Hashable, Tensor]:
        """What the layers of the distance network give, all but the last, by their number; with
        ``kept`` they are not to be kept."""
        found: dict[Hashable, Tensor] = {}
        for number, layer in enumerate(list(self.fc)[:-1]):
            distance = found[number] = layer(distance)
            if kept is not None:
                kept.name(number, distance)
        return found

    def _weights(self, distance: Tensor, kept: Recompute | None) -> Tensor:
        """(E, channels), factors from the edge length."""
        *_, hidden = self._hidden(distance, kept).values()
        weight = self.linears[-1](hidden)
        return weight if self.contiguous else weight[:, self._order]

    def _weigh(self, out: Features, weight: Tensor) -> Features:
        # split, not slices: see Gate
        parts = weight[:, None].split(list(self.layout.channels.values()), dim=2)
        return {key: out[key] * part for key, part in zip(self.layout.channels, parts, strict=True)}
