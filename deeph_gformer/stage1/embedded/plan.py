"""What inference prepares from the parameters of one update: every matrix ready for :mod:`.local`'s order, all linear maps before a convolution folded in."""

from __future__ import annotations

import torch
from e3nn.o3 import Irreps
from torch import Tensor, nn

from ...algebra.layout import Features, Key
from .convolution import EdgeTensorProduct
from .local import Local, LocalLayout, signs
from .modules import ChannelLinear, LayerNorm, Segments
from .network import _Update

__all__ = ["ConvolutionPlan", "NormPlan"]


class _Product:
    """The matrices of one tensor product: for regular edges, or (``scalar``) for self-loops.

    Attributes:
        parts: per output family and m: list of (input family, odd, pair matrix or None, edge matrix or None).
        node: per output family: list of (scalar key, matrix of node i, matrix of node j). constant: per output family, from the bias of ``lin_pre``.
    """

    def __init__(
        self,
        plan: ConvolutionPlan,
        tp: EdgeTensorProduct,
        suffix: str,
        pre: ChannelLinear,
        pre_is_node: bool,
    ) -> None:
        vector = tp._vector(suffix).reshape(tp.copies, -1)
        mix = pre.matrices()
        self.parts: dict[tuple[int, int], list[tuple[int, bool, Tensor | None, Tensor | None]]] = {}
        self.node: dict[int, list[tuple[Key, Tensor, Tensor]]] = {0: [], 1: []}
        self.constant: dict[int, Tensor] = {}
        for block in tp.blocks:
            f_in = next(f for f in (0, 1) if block.keys_in[0] in plan.product_in.keys[f])
            f_out = next(f for f in (0, 1) if block.keys_out[0] in plan.product_out.keys[f])
            for m, ((rows, columns), start) in enumerate(zip(block.shapes, block.starts)):
                if block.odd and m == 0:
                    continue
                matrix = vector[:, start : start + rows * columns].reshape(
                    tp.copies, rows, columns
                )[:, :, plan.order(f_out, m)]
                matrix = matrix.transpose(0, 1).reshape(rows, -1)
                pair, edge, row = [], [], 0
                for key in block.keys_in:
                    if key[0] < m:
                        continue
                    n, e = (
                        plan.node.layout.channels.get(key, 0),
                        plan.edge.layout.channels.get(key, 0),
                    )
                    of_i, of_j, of_e = (
                        matrix[row : row + n],
                        matrix[row + n : row + 2 * n],
                        matrix[row + 2 * n : row + 2 * n + e],
                    )
                    row += 2 * n + e
                    if key[0] == 0 and n:
                        self.node[f_out].append((key, of_i, of_j))
                    elif n:
                        pair += [mix[key] @ of_i, mix[key] @ of_j] if pre_is_node else [of_i, of_j]
                    if e:
                        if not pre_is_node and key == (0, 1) and len(pre.bias):
                            self.constant[f_out] = pre.bias @ of_e + self.constant.get(f_out, 0)
                        edge.append(of_e if pre_is_node else mix[key] @ of_e)
                self.parts.setdefault((f_out, m), []).append(
                    (
                        f_in,
                        block.odd,
                        torch.cat(pair) if pair else None,
                        torch.cat(edge) if edge else None,
                    )
                )


class ConvolutionPlan:
    """``EquiConv`` of one update, from (rotated nodes i and j, edge) to gated messages, all in edge frames."""

    def __init__(
        self, update: _Update, node: Irreps, edge: Irreps, pre_is_node: bool, parity: bool
    ) -> None:
        """
        Args:
            update: the trained modules. node, edge: irreps of the features they read. pre_is_node: whether ``lin_pre`` acts on nodes or on edges.
            parity: see :class:`LocalLayout`.
        """
        conv, gate, tp = update.conv, update.conv.gate, update.conv.tp
        self.node, self.edge = LocalLayout(node, parity), LocalLayout(edge, parity)
        self.pair = LocalLayout(Irreps([(2 * mul, ir) for mul, ir in node if ir.l > 0]), parity)
        self.product_in, self.product_out = (
            LocalLayout(tp.irreps_in, parity),
            LocalLayout(tp.irreps_out, parity),
        )
        self.out = LocalLayout(gate.irreps_out, parity)
        self.pre, self.pre_is_node, self.copies = update.lin_pre, pre_is_node, tp.copies
        self.gates: dict[Key, list[int]] = {}
        start = 0
        for key, mul in gate.gated:
            self.gates.setdefault(key, []).extend(range(start, start + mul))
            start += mul
        wanted = [(f, k) for f in (0, 1) for k in self.out.keys[f] if k[0] > 0]
        self.gate_order = [g for _, k in wanted for g in self.gates[k]]
        self.gate_key = next(
            (key for number, (key, _, _) in enumerate(gate.pieces) if number >= gate.scalar_count),
            None,
        )
        self.act, self.gate_act = gate.act, gate.gate_act
        self.scalars = {
            f: next((k for k in self.product_out.keys[f] if k[0] == 0), None) for f in (0, 1)
        }
        self.scalar_count = {
            f: self.out.layout.channels.get(k, 0) if k else 0 for f, k in self.scalars.items()
        }
        places = conv.layout.multiplicity_index()
        columns = [places[k] for _, k in wanted] + [
            places[k] for f in (0, 1) if (k := self.scalars[f]) is not None and self.scalar_count[f]
        ]
        order = torch.cat(columns).to(conv.fc[4].weight.device)
        last = conv.fc[4]
        self.layers = [
            (conv.fc[0].weight.T, conv.fc[0].bias),
            (conv.fc[2].weight.T, conv.fc[2].bias),
            (last.weight[order].T.contiguous(), last.bias[order]),
        ]
        self.regular = _Product(self, tp, "", self.pre, pre_is_node)
        self.loops = (
            self.regular if tp.radial else _Product(self, tp, "_scalar", self.pre, pre_is_node)
        )

    def order(self, f: int, m: int) -> list[int]:
        """Columns of an output family as the gate wants them: l > 0, scalars, gates in the order of the channels they gate."""
        width = self.product_out.width(f, m)
        key = self.scalars[f]
        if m or key is None or key != self.gate_key:
            return list(range(width))
        start = self.product_out.columns(f, key).start + self.scalar_count[f]
        return [*range(start), *(start + g for g in self.gate_order)]

    def node_part(self, product: _Product, node: Features) -> dict[int, tuple[Tensor, Tensor]]:
        """What the scalars of nodes i and j add to m = 0, once per node: per output family two (N, columns)."""
        scalars = {key: value for key, value in node.items() if key[0] == 0}
        if self.pre_is_node:
            mix = self.pre.matrices()
            scalars = {key: value @ mix[key] for key, value in scalars.items()}
            if (0, 1) in scalars and len(self.pre.bias):
                scalars[0, 1] = scalars[0, 1] + self.pre.bias
        out = {}
        for f, parts in product.node.items():
            for key, of_i, of_j in parts:
                value = scalars[key][:, 0]
                i, j = value @ of_i, value @ of_j
                out[f] = (out[f][0] + i, out[f][1] + j) if f in out else (i, j)
            if f in out and f in product.constant:
                out[f] = (out[f][0] + product.constant[f], out[f][1])
        return out

    def __call__(
        self,
        product: _Product,
        pair: Local,
        edge: Local,
        node: dict[int, tuple[Tensor, Tensor]],
        source: Tensor,
        destination: Tensor,
        distance: Tensor,
        radial: Tensor | None,
    ) -> Local:
        """Gated messages of some edges.

        Args:
            product: :attr:`regular` or :attr:`loops`. pair: rotated nodes, l > 0. edge: edge features. node: see :meth:`node_part`.
            source, destination: (E,). distance: (E, basis). radial: (E, copies) with a Bessel basis.
        """
        edges = len(source)
        made: Local = [[], []]
        for f in (0, 1):
            for m in range(self.product_out.lmax(f) + 1):
                columns = self.product_out.width(f, m)
                z = None
                if m == 0 and f in node:
                    z = (
                        node[f][0]
                        .index_select(0, source)
                        .add_(node[f][1].index_select(0, destination))
                    )
                elif m == 0 and f in product.constant:
                    z = product.constant[f].expand(edges, -1).clone()
                odd = None
                for f_in, is_odd, of_pair, of_edge in product.parts.get((f, m), []):
                    for source_part, matrix in ((pair, of_pair), (edge, of_edge)):
                        if matrix is None:
                            continue
                        x = source_part[f_in][m]
                        if is_odd:
                            odd = x @ matrix if odd is None else odd.addmm_(x, matrix)
                        else:
                            z = x @ matrix if z is None else z.addmm_(x, matrix)
                if odd is not None:
                    odd = odd.view(edges, 2, -1)
                    odd = torch.stack([odd[:, 1], -odd[:, 0]], dim=1).view(2 * edges, -1)
                    z = odd if z is None else z.add_(odd)
                if z is None:
                    z = distance.new_zeros(edges * signs(m), columns * self.copies)
                if radial is not None:
                    z = torch.matmul(
                        radial[:, None, None, :], z.view(edges, signs(m), self.copies, columns)
                    ).view(edges * signs(m), columns)
                made[f].append(z)
        return self._gate(made, distance)

    def _gate(self, made: Local, distance: Tensor) -> Local:
        weight = distance
        for number, (matrix, bias) in enumerate(self.layers):
            weight = torch.addmm(bias, weight, matrix)
            if number < 2:
                nn.functional.silu(weight, inplace=True)
        edges, count = len(distance), len(self.gate_order)
        gates = None
        if count:
            f = next(f for f in (0, 1) if self.scalars[f] == self.gate_key)
            function, scale = self.gate_act[self.gate_key[1]]  # type: ignore[index]
            gates = function(made[f][0][:, -count:]).mul_(weight[:, :count]).mul_(scale)
        start, place = 0, count
        out: Local = [[], []]
        for f in (0, 1):
            high = self.out.width(f, 1)
            if self.out.lmax(f) < 0:
                continue
            for m in range(self.out.lmax(f) + 1):
                z = made[f][m]
                if m:
                    z.view(edges, 2, -1).mul_(gates[:, None, start : start + z.shape[1]])  # type: ignore[index]
                elif high:
                    z[:, :high].mul_(gates[:, start : start + high])  # type: ignore[index]
                out[f].append(z if m else z[:, : high + self.scalar_count[f]])
            if self.scalar_count[f]:
                function, scale = self.act[self.scalars[f][1]]  # type: ignore[index]
                z = made[f][0][:, high : high + self.scalar_count[f]]
                z.copy_(
                    function(z).mul_(weight[:, place : place + self.scalar_count[f]]).mul_(scale)
                )
                place += self.scalar_count[f]
            start += high
        return out


class NormPlan:
    """``e3LayerNorm`` on :data:`Local`: sums over edges first (chunk by chunk), then the subtraction."""

    def __init__(self, norm: LayerNorm, parity: bool) -> None:
        self.layout = LocalLayout(norm.layout.irreps, parity)
        self.eps, self.bias = norm.eps, norm.bias
        like = norm.weight
        self.average: list[Tensor] = []
        self.spread: list[Tensor] = []
        self.weight: list[Tensor] = []
        self.count: list[list[int]] = []
        places = norm.layout.multiplicity_index()
        for f in (0, 1):
            keys = self.layout.keys[f]
            slots = [s for k in keys for s in norm.layout.slots if s[0] == k]
            average = like.new_zeros(self.layout.width(f, 0), len(slots))
            for n, (key, start, mul) in enumerate(slots):
                first = self.layout.columns(f, key).start + start
                average[first : first + mul, n] = 1 / mul
            weight = (
                torch.cat([norm.weight[places[k]] for k in keys]) if keys else like.new_zeros(0)
            )
            self.average.append(average)
            self.weight.append(weight)
            self.spread.append((average > 0).to(like).T * weight)
            self.count.append(
                [sum(1 for s in slots if s[0][0] >= m) for m in range(self.layout.lmax(f) + 1)]
            )

    def sums(
        self,
        local: Local,
        frames: list[Tensor],
        segments: Segments,
        start: int,
        into: dict[tuple[int, int], Tensor],
    ) -> None:
        """Add, per family and l, the means over each slot's channels in global axes: (structures, 2 l + 1, slots).

        Args:
            local: some edges, from number ``start`` on. frames: theirs. segments: of all edges. into: where to add.
        """
        for f in (0, 1):
            edges = len(local[f][0]) if local[f] else 0
            table = [
                local[f][m] @ self.average[f][: self.layout.width(f, m), : self.count[f][m]]
                for m in range(self.layout.lmax(f) + 1)
            ]
            for key in self.layout.keys[f]:
                l = key[0]
                low, high = (
                    (self.count[f][l + 1] if l < self.layout.lmax(f) else 0),
                    self.count[f][l],
                )
                value = table[0].new_empty(edges, 2 * l + 1, high - low)
                value[:, l] = table[0][:, low:high]
                for m in range(1, l + 1):
                    value[:, l - m : l + m + 1 : 2 * m] = table[m].view(edges, 2, -1)[
                        :, :, low:high
                    ]
                total = into.setdefault(
                    (f, l), value.new_zeros(segments.count, 2 * l + 1, high - low)
                )
                if segments.rows is None:
                    total[0].addmm_(
                        frames[l].transpose(1, 2).reshape(-1, 2 * l + 1).T,
                        value.view(-1, high - low),
                    )
                else:
                    total.index_add_(
                        0,
                        segments.rows[start : start + edges],
                        torch.bmm(frames[l], value),
                    )

    def apply(
        self,
        local: Local,
        centre: dict[tuple[int, int], Tensor],
        frames: list[Tensor],
        segments: Tensor | None,
    ) -> None:
        """Subtract the means (structures, 2 l + 1, slots), global axes, and multiply by the weights; in place."""
        for f in (0, 1):
            if not local[f]:
                continue
            edges, turned = len(local[f][0]), {}
            for key in self.layout.keys[f]:
                mean = centre[f, key[0]]
                if segments is None:
                    rows = frames[key[0]].transpose(1, 2).reshape(-1, 2 * key[0] + 1)
                    turned[key[0]] = (rows @ mean[0]).view(edges, 2 * key[0] + 1, -1)
                else:
                    turned[key[0]] = torch.bmm(frames[key[0]].transpose(1, 2), mean[segments])
            for m in range(self.layout.lmax(f) + 1):
                high = [k[0] for k in self.layout.keys[f] if k[0] >= m]
                shift = torch.cat(
                    [
                        turned[l][:, l - m : l + m + 1 : 2 * m] if m else turned[l][:, l : l + 1]
                        for l in high
                    ],
                    dim=2,
                )
                width = self.layout.width(f, m)
                local[f][m].mul_(self.weight[f][:width]).addmm_(
                    shift.reshape(-1, shift.shape[2]),
                    self.spread[f][: self.count[f][m], :width],
                    alpha=-1,
                )
