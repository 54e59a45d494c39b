"""What inference prepares from the parameters of one update: every matrix ready for :mod:`.local`'s
order, all linear maps before a convolution folded in."""

from __future__ import annotations

from typing import NamedTuple

import torch
from e3nn.o3 import Irreps
from torch import Tensor, nn

from ...algebra.layout import Features, Key
from .convolution import EdgeTensorProduct
from .local import Local, LocalLayout, signs
from .modules import ChannelLinear, LayerNorm, Segments
from .network import _Update

__all__ = ["ConvolutionPlan", "NormPlan"]


class Factor(NamedTuple):
    """What multiplies the components |m| of one family in.

    Attributes:
        family: of the irreps in.
        odd: whether m goes to -m.
        pair: (channels of nodes i and j with l > 0, columns).
        edge: (channels of the edge, columns). None: there are none.
    """

    family: int
    odd: bool
    pair: Tensor | None
    edge: Tensor | None


class ProductPlan:
    """The matrices of one tensor product for regular edges or for self-loops, split by what they
    multiply.

    The input's channels are those of node i, node j and the edge, so a matrix's rows are cut at
    these seams. Scalars of the atoms are multiplied once per atom.

    Attributes:
        factors: per output family and m.
        node: per output family: per scalar irrep of the atoms its key, and (channels, columns) for
            node i and node j.
        constant: per output family (columns,): what the bias of ``lin_pre`` adds where that acts on
            edges.
    """

    def __init__(
        self, plan: ConvolutionPlan, tp: EdgeTensorProduct, loops: bool, pre: ChannelLinear
    ) -> None:
        """
        Args:
            plan: whose layouts and order of columns count.
            tp: the trained tensor product.
            loops: whether for self-loops.
            pre: the linear map before the convolution, folded into the rows of what it acts on.
        """
        mix = pre.matrices()
        self.factors: dict[tuple[int, int], list[Factor]] = {}
        self.node: dict[int, list[tuple[Key, Tensor, Tensor]]] = {0: [], 1: []}
        self.constant: dict[int, Tensor] = {}
        for block, matrices in zip(tp.blocks, tp.matrices(loops), strict=True):
            f_in = plan.product_in.family(block.keys_in[0])
            f_out = plan.product_out.family(block.keys_out[0])
            for m, matrix in enumerate(matrices):
                if block.odd and m == 0:
                    continue
                # (copies, rows, columns) -> (rows, copies * columns), columns as the gate wants
                # them
                columns = matrix[:, :, plan.order(f_out, m)].transpose(0, 1)
                rows = columns.reshape(matrix.shape[1], -1)
                pair, edge = [], []
                for key in (k for k in block.keys_in if k[0] >= m):
                    n = plan.node.layout.channels.get(key, 0)
                    e = plan.edge.layout.channels.get(key, 0)
                    of_i, of_j, of_e, rows = rows.split([n, n, e, len(rows) - 2 * n - e])
                    if n and key[0] == 0:
                        self.node[f_out].append((key, of_i, of_j))
                    elif n and plan.pre_is_node:
                        pair += [mix[key] @ of_i, mix[key] @ of_j]
                    elif n:
                        pair += [of_i, of_j]
                    if e and plan.pre_is_node:
                        edge.append(of_e)
                    elif e:
                        edge.append(mix[key] @ of_e)
                        if key == (0, 1) and len(pre.bias):
                            self.constant[f_out] = pre.bias @ of_e + self.constant.get(f_out, 0)
                self.factors.setdefault((f_out, m), []).append(
                    Factor(
                        f_in,
                        block.odd,
                        torch.cat(pair) if pair else None,
                        torch.cat(edge) if edge else None,
                    )
                )


class ConvolutionPlan:
    """``EquiConv`` of one update, from (rotated nodes i and j, edge) to gated messages, all in edge
    frames."""

    def __init__(
        self, update: _Update, node: Irreps, edge: Irreps, pre_is_node: bool, parity: bool
    ) -> None:
        """
        Args:
            update: the trained modules.
            node: irreps of the features they read.
            edge: irreps of the features they read.
            pre_is_node: whether ``lin_pre`` acts on nodes or on edges.
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
        gated = [(f, k) for f in (0, 1) for k in self.out.keys[f] if k[0] > 0]
        self.gate_key = gate.gate_key
        self.gate_order = [g for _, k in gated for g in gate.gate_channels[k]]
        self.act, self.gate_act = gate.act, gate.gate_act
        self.scalars = {
            f: next((k for k in self.product_out.keys[f] if k[0] == 0), None) for f in (0, 1)
        }
        self.scalar_count = {
            f: self.out.layout.channels.get(k, 0) if k else 0 for f, k in self.scalars.items()
        }
        # the network that weighs channels: its outputs in the order in which _gate uses them
        places = conv.layout.multiplicity_index()
        weighed = [k for _, k in gated]
        weighed += [k for f, k in self.scalars.items() if k is not None and self.scalar_count[f]]
        first, second, last = conv.linears
        order = torch.cat([places[k] for k in weighed]).to(last.weight.device)
        self.layers = [
            (first.weight.T, first.bias),
            (second.weight.T, second.bias),
            (last.weight[order].T.contiguous(), last.bias[order]),
        ]
        self.regular = ProductPlan(self, tp, False, self.pre)
        self.loops = self.regular if tp.radial else ProductPlan(self, tp, True, self.pre)

    def order(self, f: int, m: int) -> list[int]:
        """Columns of an output family as the gate wants them: l > 0, scalars, gates in the order of
        the channels they gate."""
        width = self.product_out.width(f, m)
        key = self.scalars[f]
        if m or key is None or key != self.gate_key:
            return list(range(width))
        start = self.product_out.columns(f, key).start + self.scalar_count[f]
        return [*range(start), *(start + g for g in self.gate_order)]

    def node_part(self, product: ProductPlan, node: Features) -> dict[int, tuple[Tensor, Tensor]]:
        """What the scalars of nodes i and j add to m = 0, once per node: per output family two (N,
        columns)."""
        scalars = {key: value for key, value in node.items() if key[0] == 0}
        if self.pre_is_node:
            mix = self.pre.matrices()
            scalars = {key: value @ mix[key] for key, value in scalars.items()}
            if (0, 1) in scalars and len(self.pre.bias):
                scalars[0, 1] = scalars[0, 1] + self.pre.bias
        out: dict[int, tuple[Tensor, Tensor]] = {}
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
        product: ProductPlan,
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
            product: :attr:`regular` or :attr:`loops`.
            pair: rotated nodes, l > 0.
            edge: edge features.
            node: see :meth:`node_part`.
            source: (E,).
            destination: (E,).
            distance: (E, basis).
            radial: (E, copies) with a Bessel basis.
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
                for f_in, is_odd, of_pair, of_edge in product.factors.get((f, m), []):
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
    """``e3LayerNorm`` on :data:`Local`: sums over edges first (chunk by chunk), then the
    subtraction.

    Means are per slot (``mul x ir`` of e3nn), and slots of one family stand by falling l like its
    channels, so those with l >= m come first.

    Attributes:
        average: per family (channels, slots): 1 / multiplicity where the channel belongs to the
            slot.
        spread: per family (slots, channels): the channel's weight where it belongs to the slot.
        weight: per family (channels,).
        count: per family and m: slots with l >= m.
    """

    def __init__(self, norm: LayerNorm, parity: bool) -> None:
        """
        Args:
            norm: the trained module.
            parity: see :class:`LocalLayout`.
        """
        self.layout = LocalLayout(norm.layout.irreps, parity)
        self.eps, self.bias = norm.eps, norm.bias
        self.average: list[Tensor] = []
        self.spread: list[Tensor] = []
        self.weight: list[Tensor] = []
        self.count: list[list[int]] = []
        #: Per family with scalars: their key, (channels, slots) averages, and (slots, channels) of
        #: ones.
        self.scalars: dict[int, tuple[Key, Tensor, Tensor]] = {}
        places = norm.layout.multiplicity_index()
        for f in (0, 1):
            keys = self.layout.keys[f]
            slots = [s for k in keys for s in norm.layout.slots if s[0] == k]
            average = norm.weight.new_zeros(self.layout.width(f, 0), len(slots))
            for n, (key, start, mul) in enumerate(slots):
                first = self.layout.columns(f, key).start + start
                average[first : first + mul, n] = 1 / mul
            weight = torch.cat([norm.weight[places[k]] for k in keys] or [norm.weight[:0]])
            member = (average > 0).to(average)
            self.average.append(average)
            self.weight.append(weight)
            self.spread.append(member.T * weight)
            self.count.append(
                [sum(1 for s in slots if s[0][0] >= m) for m in range(self.layout.lmax(f) + 1)]
            )
            if keys and keys[-1][0] == 0:
                channels, first = self.layout.columns(f, keys[-1]), self._slots(f, 0).start
                self.scalars[f] = (
                    keys[-1],
                    average[channels, first:].contiguous(),
                    member[channels, first:].T.contiguous(),
                )

    def _slots(self, f: int, l: int) -> slice:
        """The slots of one l."""
        return slice(self.count[f][l + 1] if l < self.layout.lmax(f) else 0, self.count[f][l])

    def sums(
        self,
        local: Local,
        frames: list[Tensor],
        segments: Segments,
        into: dict[tuple[int, int], Tensor],
    ) -> None:
        """Add, per family and l, the means over each slot's channels in global axes: (structures, 2
        l + 1, slots).

        Args:
            local: some edges.
            frames: theirs.
            segments: theirs.
            into: where to add.
        """
        for f in (0, 1):
            edges = len(local[f][0]) if local[f] else 0
            means = [
                local[f][m] @ self.average[f][: self.layout.width(f, m), : self.count[f][m]]
                for m in range(self.layout.lmax(f) + 1)
            ]
            for l, _ in self.layout.keys[f]:
                slots = self._slots(f, l)
                value = means[0].new_empty(edges, 2 * l + 1, slots.stop - slots.start)
                value[:, l] = means[0][:, slots]
                for m in range(1, l + 1):
                    pair = means[m].view(edges, 2, -1)
                    value[:, l - m : l + m + 1 : 2 * m] = pair[:, :, slots]
                if (f, l) not in into:
                    into[f, l] = value.new_zeros(segments.structures, *value.shape[1:])
                if segments.rows is None:  # turn and sum in one product
                    turn = frames[l].transpose(1, 2).reshape(-1, 2 * l + 1).T
                    into[f, l][0].addmm_(turn, value.view(-1, value.shape[2]))
                else:
                    into[f, l].index_add_(0, segments.rows, torch.bmm(frames[l], value))

    def squares(
        self,
        local: Local,
        centre: dict[tuple[int, int], Tensor],
        segments: Segments,
        into: dict[int, Tensor],
    ) -> None:
        """Add, per family with scalars, the mean squares over each slot's channels: (structures,
        slots).

        Args:
            local: some edges.
            centre: per family and l, see :meth:`apply`.
            segments: of these edges.
            into: where to add.
        """
        for f, (key, average, member) in self.scalars.items():
            middle = segments.spread(centre[f, 0][:, 0] @ member)
            square = (local[f][0][:, self.layout.columns(f, key)] - middle).square_()
            value = segments.sum(square @ average)
            into[f] = into[f].add_(value) if f in into else value

    def apply(
        self,
        local: Local,
        centre: dict[tuple[int, int], Tensor],
        inverse: dict[int, Tensor],
        frames: list[Tensor],
        segments: Segments,
    ) -> None:
        """Norm of some edges, in place.

        Args:
            local: their features.
            centre: per family and l (structures, 2 l + 1, slots), global axes: what is subtracted.
            inverse: per family with scalars (structures, slots): what scalars are multiplied by.
            frames: of these edges.
            segments: of these edges.
        """
        for f in (0, 1):
            if not local[f]:
                continue
            turned = {}
            for l, _ in self.layout.keys[f]:
                mean = centre[f, l]
                if segments.rows is None:
                    rows = frames[l].transpose(1, 2).reshape(-1, 2 * l + 1)
                    turned[l] = (rows @ mean[0]).view(len(local[f][0]), 2 * l + 1, -1)
                else:
                    turned[l] = torch.bmm(frames[l].transpose(1, 2), mean[segments.rows])
            for m in range(self.layout.lmax(f) + 1):
                components = [
                    turned[l][:, l - m : l + m + 1 : 2 * m or 1]
                    for l, _ in self.layout.keys[f]
                    if l >= m
                ]
                shift = torch.cat(components, dim=2).flatten(0, 1)  # (edges * signs, slots)
                width = self.layout.width(f, m)
                local[f][m].mul_(self.weight[f][:width]).addmm_(
                    shift, self.spread[f][: self.count[f][m], :width], alpha=-1
                )
        for f, (key, _, member) in self.scalars.items():
            value = local[f][0][:, self.layout.columns(f, key)]
            value.mul_(segments.spread(inverse[f] @ member))
            if key == (0, 1):
                value.add_(self.bias)
