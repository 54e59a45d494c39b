r"""DeepH-E3's equivariant convolution in edge frames (SO(2) convolution, eSCN of Passaro & Zitnick 2023).

The official tensor product is, per path p = (slot in, l2, slot out),

.. math:: z_{w m_3} = a_p \sum_{u v m_1 m_2} W^1_{uw} W^2_{vw}\; \sqrt{2 l_3 + 1}\, w_{3j}(l_1 l_2 l_3)_{m_1 m_2 m_3}\; x_{u m_1} Y_{v m_2}.

With the edge on the polar axis only :math:`Y_{l_2 0} = \sqrt{2 l_2 + 1}` is left, so m3 = m1 (l1+l2+l3 even) or m3 = -m1 (odd), and all l2 between one slot in
and one slot out add up to one matrix per \|m\|. A self-loop has Y_00 alone; it uses the matrices of the l2 = 0 paths.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from e3nn.o3 import Irreps
from torch import Tensor, nn

from ...algebra.layout import Features, Key
from ...algebra.wigner import Generation, path_weights, wigner_3j
from .layout import Layout
from .modules import Collapsing, Gate

__all__ = ["EdgeTensorProduct", "EquivariantConvolution", "Path"]


class Path(NamedTuple):
    """One path of the official tensor product.

    Attributes:
        i_in, i_sh, i_out: slots. rows, columns: multiplicities in and out. copies: multiplicity of the harmonics (1 but for a Bessel basis).
        start1, start2: first weight in the flat parameters. factor: path normalisation.
    """

    i_in: int
    i_sh: int
    i_out: int
    rows: int
    columns: int
    copies: int
    start1: int
    start2: int
    factor: float


def enumerate_paths(
    irreps_in: Irreps, irreps_sh: Irreps, irreps_out: Irreps, generation: Generation
) -> list[Path]:
    """The paths in the order of the official parameters ``weights1.n`` / ``weights2.n``."""
    triples = [
        (a, b, c)
        for a, (_, x) in enumerate(irreps_in)
        for b, (_, y) in enumerate(irreps_sh)
        for c, (_, z) in enumerate(irreps_out)
        if z in x * y
    ]
    fan_in = {
        c: [irreps_in[a].mul * irreps_sh[b].mul for a, b, other in triples if other == c]
        for _, _, c in triples
    }
    factors = {c: iter(path_weights(fan, generation)) for c, fan in fan_in.items()}
    paths, start1, start2 = [], 0, 0
    for a, b, c in triples:
        rows, copies, columns = irreps_in[a].mul, irreps_sh[b].mul, irreps_out[c].mul
        paths.append(Path(a, b, c, rows, columns, copies, start1, start2, next(factors[c])))
        start1, start2 = start1 + rows * columns, start2 + copies * columns
    return paths


class _Block(NamedTuple):
    """One matrix family: input keys and output keys (l descending), even or odd paths, and where its matrices stand."""

    keys_in: tuple[Key, ...]
    keys_out: tuple[Key, ...]
    odd: bool
    shapes: tuple[tuple[int, int], ...]  # per m: (rows, columns)
    starts: tuple[int, ...]  # per m: first element in the collapsed vector


class EdgeTensorProduct(Collapsing):
    """``SeparateWeightTensorProduct`` in edge frames. Parameters ``weight1``, ``weight2`` are the official ones, flattened path after path."""

    def __init__(
        self,
        irreps_in: Irreps,
        irreps_sh: Irreps,
        irreps_out: Irreps,
        generation: Generation,
        parity: bool,
        radial: bool,
    ) -> None:
        """
        Args:
            irreps_in: of the concatenated features, slot by slot. irreps_sh: harmonics. irreps_out: what the gate wants.
            generation: of e3nn. parity: False where every irrep is called even. radial: the harmonics carry distance-dependent factors.
        """
        super().__init__()
        self.irreps_in, self.irreps_sh, self.irreps_out = irreps_in, irreps_sh, irreps_out
        self.layout_in, self.layout_out = Layout(irreps_in), Layout(irreps_out)
        self.generation, self.radial = generation, radial
        self.paths = enumerate_paths(irreps_in, irreps_sh, irreps_out, generation)
        self.weight1 = nn.Parameter(torch.randn(sum(p.rows * p.columns for p in self.paths)))
        self.weight2 = nn.Parameter(torch.randn(sum(p.copies * p.columns for p in self.paths)))
        self.copies = sum(mul for mul, _ in irreps_sh) if radial else 1
        self._plan(parity)

    def _plan(self, parity: bool) -> None:
        def families(layout: Layout) -> list[tuple[Key, ...]]:
            natural = [k for k in layout.channels if not parity or k[1] == (-1) ** k[0]]
            rest = [k for k in layout.channels if k not in natural]
            return [tuple(sorted(group, key=lambda k: -k[0])) for group in (natural, rest) if group]

        sums = {
            (
                self.layout_in.slots[p.i_in][0],
                self.layout_out.slots[p.i_out][0],
                (
                    self.irreps_in[p.i_in].ir.l
                    + self.irreps_sh[p.i_sh].ir.l
                    + self.irreps_out[p.i_out].ir.l
                )
                % 2,
            )
            for p in self.paths
        }
        self.blocks: list[_Block] = []
        total = 0
        for keys_in in families(self.layout_in):
            for keys_out in families(self.layout_out):
                for odd in (0, 1):
                    if not any(a in keys_in and b in keys_out and o == odd for a, b, o in sums):
                        continue
                    shapes, starts = [], []
                    for m in range(min(keys_in[0][0], keys_out[0][0]) + 1):
                        rows = sum(self.layout_in.channels[k] for k in keys_in if k[0] >= m)
                        columns = sum(self.layout_out.channels[k] for k in keys_out if k[0] >= m)
                        shapes.append((rows, columns))
                        starts.append(total)
                        total += rows * columns
                    self.blocks.append(
                        _Block(keys_in, keys_out, bool(odd), tuple(shapes), tuple(starts))
                    )
        self.collapsed_size = total
        source1, source2, target, value, only_scalar = [], [], [], [], []
        sh_starts = [0]
        for mul, _ in self.irreps_sh:
            sh_starts.append(sh_starts[-1] + mul)
        for p in self.paths:
            l1, l2, l3 = (
                self.irreps_in[p.i_in].ir.l,
                self.irreps_sh[p.i_sh].ir.l,
                self.irreps_out[p.i_out].ir.l,
            )
            (key_in, row0, _), (key_out, column0, _) = (
                self.layout_in.slots[p.i_in],
                self.layout_out.slots[p.i_out],
            )
            odd = (l1 + l2 + l3) % 2
            symbol = (
                wigner_3j(l1, l2, l3, self.generation)
                * math.sqrt((2 * l3 + 1) * (2 * l2 + 1))
                * p.factor
            )
            block = next(
                b
                for b in self.blocks
                if key_in in b.keys_in and key_out in b.keys_out and b.odd == bool(odd)
            )
            row = row0 + sum(
                self.layout_in.channels[k] for k in block.keys_in[: block.keys_in.index(key_in)]
            )
            column = column0 + sum(
                self.layout_out.channels[k] for k in block.keys_out[: block.keys_out.index(key_out)]
            )
            first1 = torch.arange(p.start1, p.start1 + p.rows * p.columns).reshape(
                p.rows, p.columns
            )
            for m in range(odd, min(l1, l3) + 1):
                coefficient = float(symbol[l1 + m, l2, l3 - m if odd else l3 + m])
                place = (
                    block.starts[m]
                    + torch.arange(row, row + p.rows)[:, None] * block.shapes[m][1]
                    + torch.arange(column, column + p.columns)
                )
                for v in range(p.copies):
                    first2 = torch.arange(
                        p.start2 + v * p.columns, p.start2 + (v + 1) * p.columns
                    ).expand(p.rows, -1)
                    source1.append(first1.reshape(-1))
                    source2.append(first2.reshape(-1))
                    target.append(place.reshape(-1) + (sh_starts[p.i_sh] + v) * total * self.radial)
                    value.append(torch.full((first1.numel(),), coefficient, dtype=torch.float64))
                    only_scalar.append(torch.full((first1.numel(),), l2 == 0))
        scalar = torch.cat(only_scalar)
        for name, tensor in (
            ("source1", torch.cat(source1)),
            ("source2", torch.cat(source2)),
            ("target", torch.cat(target)),
            ("value", torch.cat(value).to(torch.get_default_dtype())),
        ):
            self.register_buffer(f"_{name}", tensor, persistent=False)
            self.register_buffer(f"_{name}_scalar", tensor[scalar].clone(), persistent=False)

    def _vector(self, suffix: str) -> Tensor:
        source1, source2, target, value = (
            self.get_buffer(f"_{n}{suffix}") for n in ("source1", "source2", "target", "value")
        )
        made = self.weight1[source1] * self.weight2[source2] * value
        return made.new_zeros(self.copies * self.collapsed_size).index_add(0, target, made)

    def _matrices(self, suffix: str) -> list[list[Tensor]]:
        """Per block and m: (rows, columns), with a radial basis (rows, copies * columns)."""
        vector = self._vector(suffix).reshape(self.copies, -1)
        out = []
        for block in self.blocks:
            out.append(
                [
                    vector[:, start : start + r * c]
                    .reshape(self.copies, r, c)
                    .transpose(0, 1)
                    .reshape(r, self.copies * c)
                    for start, (r, c) in zip(block.starts, block.shapes)
                ]
            )
        return out

    def _build(self) -> tuple[list[list[Tensor]], list[list[Tensor]] | None]:
        return self._matrices(""), None if self.radial else self._matrices("_scalar")

    def forward(self, features: Features, regular: int, radial: Tensor | None = None) -> Features:
        """The product, in edge frames.

        Args:
            features: rows are edges, self-loops last; keys as in ``irreps_in``. regular: number of edges that are no self-loops.
            radial: (E, copies), with a Bessel basis: the radial factor of each harmonic (zero for l > 0 on self-loops).

        Returns:
            Features with the keys of ``irreps_out``.
        """
        matrices, scalar = self.collapsed(self._build)
        edges = len(next(iter(features.values())))
        cut = edges if scalar is None else regular
        collected: dict[Key, list[list[Tensor | None]]] = {
            k: [[None] * (2 * k[0] + 1)] for k in self.layout_out.channels
        }
        orders = {
            k: value.unbind(1) for k, value in features.items()
        }  # per key 2 l + 1 views (E, channels)
        for number, block in enumerate(self.blocks):
            for m, (_, columns) in enumerate(block.shapes):
                if block.odd and m == 0:
                    continue
                for sign in (0,) if m == 0 else (1, -1):
                    x = torch.cat(
                        [orders[k][k[0] + sign * m] for k in block.keys_in if k[0] >= m], dim=1
                    )
                    if scalar is None or cut == edges:
                        z = x @ matrices[number][m]
                    elif cut == 0:
                        z = x @ scalar[number][m]
                    else:
                        z = torch.cat([x[:cut] @ matrices[number][m], x[cut:] @ scalar[number][m]])
                    if radial is not None:
                        z = torch.einsum(
                            "evw,ev->ew", z.reshape(edges, self.copies, columns), radial
                        )
                    if block.odd and sign < 0:
                        z = -z
                    self._scatter(collected, block, m, -sign * m if block.odd else sign * m, z)
        zero = next(iter(features.values()))
        out: Features = {}
        for key, channels in self.layout_out.channels.items():
            parts = [
                p if p is not None else zero.new_zeros(edges, channels) for p in collected[key][0]
            ]
            out[key] = torch.stack(parts, dim=1)
        return out

    def _scatter(
        self,
        collected: dict[Key, list[list[Tensor | None]]],
        block: _Block,
        m: int,
        place: int,
        z: Tensor,
    ) -> None:
        start = 0
        for key in block.keys_out:
            if key[0] < m:
                continue
            part = z[:, start : start + self.layout_out.channels[key]]
            start += self.layout_out.channels[key]
            row = collected[key][0]
            old = row[key[0] + place]
            row[key[0] + place] = part if old is None else old + part


class EquivariantConvolution(nn.Module):
    """DeepH-E3's ``EquiConv``: tensor product, gate, and a factor per channel from the edge length. All in edge frames."""

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
        self.fc = nn.Sequential(
            nn.Linear(basis, 64),
            nn.SiLU(),
            nn.Linear(64, 64),
            nn.SiLU(),
            nn.Linear(64, multiplicities),
        )
        self.layout = Layout(self.irreps_out)
        index = self.layout.multiplicity_index()
        order = torch.cat(list(index.values()))
        self.contiguous = bool((order == torch.arange(len(order))).all())
        self.register_buffer("_order", order, persistent=False)

    def forward(
        self, features: Features, distance: Tensor, regular: int, radial: Tensor | None = None
    ) -> Features:
        """Messages of every edge.

        Args:
            features: (E, 2 l + 1, channels) of (node i, node j, edge), in edge frames. distance: (E, basis), Gaussians of the edge length.
        """
        out = self.gate(self.tp(features, regular, radial))
        weight = self.fc(distance)
        if not self.contiguous:
            weight = weight[:, self._order]
        start = 0
        for key, channels in self.layout.channels.items():
            out[key] = out[key] * weight[:, None, start : start + channels]
            start += channels
        return out
