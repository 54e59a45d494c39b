r"""DeepH-E3's equivariant convolution: tensor product, gate, and weights from the distance.

All in edge frames, with the components of an irrep in the order m = 0, -1, 1, -2, 2, ...
(:func:`.local.by_m`): those of one \|m\| then lie side by side, and one matrix product does them.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import NamedTuple

import torch
from e3nn.o3 import Irreps
from torch import Tensor, nn

from ...algebra.layout import Features, Key
from ...algebra.wigner import Generation
from .gate import Gate
from .layout import Layout
from .local import LocalLayout, signs
from .recompute import Recompute
from .rows import gather_rows
from .tensor_product import EdgeTensorProduct, Matrices

__all__ = ["EdgeTensorProduct", "EquivariantConvolution", "Inputs"]

#: By family, m, and whether for paths that take m to -m.
_Components = dict[tuple[int, int, bool], Tensor]


class Inputs(NamedTuple):
    """What a convolution is made of.

    Attributes:
        pair: irreps of nodes i and j with l > 0, in the frame of each edge; (E, 2 l + 1, channels)
            per key, those of i first.
        node: of every atom; its scalars (N, 1, channels) are read.
        edge: (E, 2 l + 1, channels) per key, in the frame of each edge.
        source, destination: (E,), atoms i and j.
        distance: (E, basis), Gaussians of the edge length.
        radial: (E, copies), with a Bessel basis: the radial factor of each harmonic (zero for l > 0
            on self-loops).
    """

    pair: Features
    node: Features
    edge: Features
    source: Tensor
    destination: Tensor
    distance: Tensor
    radial: Tensor | None


class EquivariantConvolution(nn.Module):
    """DeepH-E3's ``EquiConv``: tensor product, gate, and a factor per channel from the edge length.

    Attributes:
        weighed: the order of the distance network's factors here: the gated irreps as the columns
            of the tensor product stand, then the scalars.
    """

    _order: Tensor
    _scale: Tensor

    def __init__(
        self,
        basis: int,
        node: Irreps,
        edge: Irreps,
        irreps_sh: Irreps,
        irreps_out: Irreps,
        generation: Generation,
        parity: bool,
        radial: bool,
    ) -> None:
        super().__init__()
        self.gate = Gate(node + node + edge, irreps_sh, irreps_out)
        self.irreps_out = self.gate.irreps_out
        out = LocalLayout(self.irreps_out, parity)
        self.gated = [key for keys in out.keys for key in keys if key[0] > 0]
        order = self.gate.order(self.gated)
        self.tp = EdgeTensorProduct(
            node, edge, irreps_sh, self.gate.irreps_in, order, generation, parity, radial
        )
        multiplicities = sum(mul for mul, _ in self.irreps_out)
        first, second, last = nn.Linear(basis, 64), nn.Linear(64, 64), nn.Linear(64, multiplicities)
        self.fc = nn.Sequential(first, nn.SiLU(), second, nn.SiLU(), last)
        self.linears = (first, second, last)
        self.layout = Layout(self.irreps_out)
        scalars = [key for keys in out.keys for key in keys if key[0] == 0]
        self.weighed = [*self.gated, *scalars]
        places, gate_act = self.layout.multiplicity_index(), self.gate.gate_act
        self.register_buffer(
            "_order", torch.cat([places[key] for key in self.weighed]), persistent=False
        )
        # the constants of the activations are part of the factors from the distance
        of_gates = gate_act[self.gate.gate_key[1]][1] if self.gate.gate_key else 1.0
        scales = [of_gates] * len(self.gated)
        scales += [self.gate.act[p][1] for _, p in scalars]
        each = [
            torch.full((self.layout.channels[key],), scale, dtype=torch.float64)
            for key, scale in zip(self.weighed, scales, strict=True)
        ]
        self.register_buffer(
            "_scale", torch.cat(each).to(torch.get_default_dtype()), persistent=False
        )

    def forward(
        self,
        inputs: Inputs,
        matrices: Matrices,
        again: Callable[[], tuple[Features, Features]] | None = None,
    ) -> Features:
        """Messages of some edges, either all self-loops or none.

        Args:
            inputs: of these edges.
            matrices: of self-loops or of regular edges, see :class:`EdgeTensorProduct`.
            again: gives :attr:`Inputs.pair` and :attr:`Inputs.edge` for the backward pass, in which
                they, the gates and the distance network are made again; None: what it needs is
                kept.
        """
        if again is None:
            product = self._product(inputs, self._columns(inputs.pair, inputs.edge), matrices)
            return self._gate(product, self._factors(product, inputs.distance))
        remake = again
        kept = Recompute(lambda: self._columns(*remake()))
        with kept.saving():
            columns = self._columns(inputs.pair, inputs.edge)
            for place, x in columns.items():
                kept.name(place, x)
            product = self._product(inputs, columns, matrices)
        kept.done()
        plain = {key: value.detach() for key, value in product.items() if key[0] == 0}
        layers = Recompute(
            lambda: self._factors(plain, inputs.distance.detach()), list(self.fc.parameters())
        )
        with layers.saving():
            factors = self._factors(product, inputs.distance, layers)
            result = self._gate(product, factors)
        layers.done()
        return result

    def last_layer(self) -> tuple[Tensor, Tensor]:
        """Weights and bias of the distance network's last layer: factors in the order of
        :attr:`weighed`, times the constants of the activations."""
        last, order = self.linears[-1], self._order
        weight = last.weight.index_select(0, order) * self._scale[:, None]
        return weight, last.bias.index_select(0, order) * self._scale

    def _columns(self, pair: Features, edge: Features) -> _Components:
        """Per family in and m: (E * signs, channels), as the rows of its matrices stand."""
        layout = self.tp.product_in
        parts: dict[Key, list[tuple[Tensor, ...]]] = {}
        for features in (pair, edge):
            for key, value in features.items():
                parts.setdefault(key, []).append(value.split([1] + [2] * key[0], dim=1))
        out = {}
        for f in (0, 1):
            for m in range(layout.lmax(f) + 1):
                found = [part[m] for k in layout.keys[f] if k[0] >= m for part in parts.get(k, [])]
                if not found:
                    continue
                whole = torch.cat(found, dim=2) if len(found) > 1 else found[0]
                if (f, m, False) in self.tp.used:
                    out[f, m, False] = whole.flatten(0, 1)
                if (f, m, True) in self.tp.used:
                    # antisymmetric: w3j(m, 0, -m) = -w3j(-m, 0, m)
                    minus, plus = whole.split(1, dim=1)
                    out[f, m, True] = torch.cat([plus, -minus], dim=1).flatten(0, 1)
        return out

    def _product(self, inputs: Inputs, columns: _Components, matrices: Matrices) -> Features:
        """The tensor product: (E, 2 l + 1, channels) of the gate's input."""
        layout, edges = self.tp.product_out, len(inputs.source)
        pieces: dict[Key, list[Tensor]] = {}
        for f in (0, 1):
            for m in range(layout.lmax(f) + 1):
                z = self._components(f, m, inputs, columns, matrices)
                keys = [k for k in layout.keys[f] if k[0] >= m]
                z = z.view(edges, signs(m), -1)
                parts = z.split([layout.layout.channels[k] for k in keys], dim=2)
                for key, part in zip(keys, parts, strict=True):
                    pieces.setdefault(key, []).append(part)
        return {
            key: torch.cat(found, dim=1) if key[0] else found[0] for key, found in pieces.items()
        }

    def _components(
        self, f: int, m: int, inputs: Inputs, columns: _Components, matrices: Matrices
    ) -> Tensor:
        """One family out and one m: (E * signs, channels)."""
        z = None
        if m == 0:
            for key, of_i, of_j in matrices.node[f]:
                scalars = inputs.node[key].flatten(1)
                part = gather_rows(scalars @ of_i, inputs.source)
                part = part + gather_rows(scalars @ of_j, inputs.destination)
                z = part if z is None else z + part
        for factor in matrices.factors.get((f, m), []):
            x = columns[factor.family, m, factor.odd]
            z = x @ factor.matrix if z is None else torch.addmm(z, x, factor.matrix)
        edges, width = len(inputs.source), self.tp.product_out.width(f, m)
        if z is None:
            return inputs.distance.new_zeros(edges * signs(m), width)
        if inputs.radial is None:
            return z
        # each copy of the harmonics counts by its radial factor
        each = z.view(edges, signs(m), self.tp.copies, width)
        return (inputs.radial[:, None, :, None] * each).sum(dim=2).flatten(0, 1)

    def _factors(
        self, product: Features, distance: Tensor, kept: Recompute | None = None
    ) -> dict[Hashable, Tensor]:
        """Scalars as they come out, per key ("scalars", key), and the factors of all others,
        "factor" (E, gated channels); with ``kept`` they, and what they are made of, are not kept.

        Args:
            product: its scalars are read.
            distance: (E, basis).
            kept: what makes them again.
        """
        found: dict[Hashable, Tensor] = {}

        def noted(name: Hashable, value: Tensor) -> Tensor:
            """``value``, before anything keeps it."""
            found[name] = value
            if kept is not None:
                kept.name(name, value)
            return value

        hidden = distance
        for number, layer in enumerate(list(self.fc)[:-1]):
            hidden = noted(number, layer(hidden))
        weight = noted("weight", nn.functional.linear(hidden, *self.last_layer()))
        sizes = [self.layout.channels[key] for key in self.weighed]
        gated, split = sum(sizes[: len(self.gated)]), sizes[len(self.gated) :]
        of_gates, *of_scalars = weight.split([gated, *split], dim=1)
        weights = dict(zip(self.weighed[len(self.gated) :], of_scalars, strict=True))
        for key, value in product.items():
            if key[0]:
                continue
            scalars = self.layout.channels.get(key, 0)
            own, gates = value.flatten(1).split([scalars, value.shape[2] - scalars], dim=1)
            if scalars:
                active = noted(("active", key), self.gate.act[key[1]][0](own))
                noted(("scalars", key), active * weights[key])
            if key == self.gate.gate_key:
                gate = noted("gate", self.gate.gate_act[key[1]][0](gates))
                noted("factor", gate * of_gates)
        return found

    def _gate(self, product: Features, factors: dict[Hashable, Tensor]) -> Features:
        """Every channel times its factor.

        Args:
            product: see :meth:`_product`.
            factors: see :meth:`_factors`.
        """
        out = {key: factors["scalars", key][:, None] for key in self.layout.channels if key[0] == 0}
        if self.gated:
            sizes = [self.layout.channels[key] for key in self.gated]
            each = factors["factor"][:, None].split(sizes, dim=2)
            out.update({k: product[k] * x for k, x in zip(self.gated, each, strict=True)})
        return out
