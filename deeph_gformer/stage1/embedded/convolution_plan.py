"""A trained convolution for inference.

Every matrix ready for :mod:`.local`'s order, all linear maps before it folded in.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from e3nn.o3 import Irreps
from torch import Tensor, nn

from ...algebra.layout import Features, Key
from .layout import Layout
from .local import Local, LocalLayout, signs
from .tensor_product import Matrices
from .updates import Update

__all__ = ["ConvolutionPlan"]


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


class Rows(NamedTuple):
    """The rows of one irrep in a matrix of a convolution.

    Attributes:
        key: the irrep.
        of_i: (channels, columns), what multiplies its channels of node i; may be empty, as below.
        of_j: of node j.
        of_edge: of the edge.
    """

    key: Key
    of_i: Tensor
    of_j: Tensor
    of_edge: Tensor


def cut_rows(matrix: Tensor, keys: Sequence[Key], node: Layout, edge: Layout) -> Iterator[Rows]:
    """A matrix of a tensor product, cut at the seams of its input.

    Its rows stand irrep after irrep, and in each irrep those of node i, of node j, of the edge;
    scalars of nodes are not among them.

    Args:
        matrix: (rows, columns).
        keys: the irreps in, in the order of the rows.
        node: of the features of one atom.
        edge: of the features of the edge.
    """
    for key in keys:
        n, e = node.channels.get(key, 0) if key[0] else 0, edge.channels.get(key, 0)
        of_i, of_j, of_edge, matrix = matrix.split([n, n, e, len(matrix) - 2 * n - e])
        yield Rows(key, of_i, of_j, of_edge)


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

    def __init__(self, plan: ConvolutionPlan, matrices: Matrices) -> None:
        """
        Args:
            plan: whose layouts count, and whose linear map before the convolution is folded into
                the rows of what it acts on.
            matrices: of the trained tensor product.
        """
        pre, mix = plan.pre, plan.pre.matrices()
        self.factors: dict[tuple[int, int], list[Factor]] = {}
        self.node = matrices.node
        self.constant: dict[int, Tensor] = {}
        for (f_out, m), factors in matrices.factors.items():
            for f_in, odd, matrix in factors:
                keys = [key for key in plan.product_in.keys[f_in] if key[0] >= m]
                pair, edge = [], []
                for rows in cut_rows(matrix, keys, plan.node.layout, plan.edge.layout):
                    if len(rows.of_i):
                        both = [rows.of_i, rows.of_j]
                        pair += [mix[rows.key] @ x for x in both] if plan.pre_is_node else both
                    if len(rows.of_edge) and plan.pre_is_node:
                        edge.append(rows.of_edge)
                    elif len(rows.of_edge):
                        edge.append(mix[rows.key] @ rows.of_edge)
                        if rows.key == (0, 1) and len(pre.bias):
                            before = self.constant.get(f_out, 0)
                            self.constant[f_out] = pre.bias @ rows.of_edge + before
                factor = Factor(
                    f_in,
                    odd,
                    torch.cat(pair) if pair else None,
                    torch.cat(edge) if edge else None,
                )
                self.factors.setdefault((f_out, m), []).append(factor)


class ConvolutionPlan:
    """``EquiConv`` of one update, from (rotated nodes i and j, edge) to gated messages, all in edge
    frames."""

    def __init__(
        self, update: Update, node: Irreps, edge: Irreps, pre_is_node: bool, parity: bool
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
        self.node, self.edge = tp.node, tp.edge
        self.pair = LocalLayout(Irreps([(2 * mul, ir) for mul, ir in node if ir.l > 0]), parity)
        self.product_in, self.product_out = tp.product_in, tp.product_out
        self.out = LocalLayout(gate.irreps_out, parity)
        self.pre, self.pre_is_node, self.copies = update.lin_pre, pre_is_node, tp.copies
        self.gate_key, self.act, self.gate_act = gate.gate_key, gate.act, gate.gate_act
        self.gate_count = sum(self.out.layout.channels[key] for key in conv.gated)
        self.scalars = {
            f: next((k for k in self.product_out.keys[f] if k[0] == 0), None) for f in (0, 1)
        }
        self.scalar_count = {
            f: self.out.layout.channels.get(k, 0) if k else 0 for f, k in self.scalars.items()
        }
        first, second, _ = conv.linears
        last, bias = conv.last_layer()
        self.layers = [
            (first.weight.T, first.bias),
            (second.weight.T, second.bias),
            (last.T.contiguous(), bias),
        ]
        regular, loops = tp.matrices()
        self.regular = ProductPlan(self, regular)
        self.loops = self.regular if loops is regular else ProductPlan(self, loops)

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
        result: Local = [[], []]
        for f in (0, 1):
            for m in range(self.product_out.lmax(f) + 1):
                z = None  # (edges * signs, copies * columns)
                if m == 0 and f in node:
                    of_i, of_j = node[f]
                    z = of_i.index_select(0, source).add_(of_j.index_select(0, destination))
                elif m == 0 and f in product.constant:
                    z = product.constant[f].expand(len(source), -1).clone()
                z = self._product(product.factors.get((f, m), []), m, pair, edge, z)
                columns = self.product_out.width(f, m)
                if z is None:
                    z = distance.new_zeros(len(source) * signs(m), columns * self.copies)
                if radial is not None:  # each copy of the harmonics counts by its radial factor
                    each = z.view(len(source), signs(m), self.copies, columns)
                    z = torch.matmul(radial[:, None, None, :], each).view(-1, columns)
                result[f].append(z)
        return self._gate(result, distance)

    @staticmethod
    def _product(
        factors: list[Factor], m: int, pair: Local, edge: Local, z: Tensor | None
    ) -> Tensor | None:
        """``z`` plus the products of one family out and one m; in place where there is a ``z``."""
        odd = None  # what goes from component m to -m and back
        for factor in factors:
            for features, matrix in ((pair, factor.pair), (edge, factor.edge)):
                if matrix is None:
                    continue
                x = features[factor.family][m]
                if factor.odd:
                    odd = x @ matrix if odd is None else odd.addmm_(x, matrix)
                else:
                    z = x @ matrix if z is None else z.addmm_(x, matrix)
        if odd is None:
            return z
        # rows are (-m, +m) of each edge; antisymmetric: w3j(m, 0, -m) = -w3j(-m, 0, m)
        of_minus, of_plus = odd.view(len(odd) // 2, 2, -1).unbind(1)
        odd = torch.stack([of_plus, -of_minus], dim=1).view(len(odd), -1)
        return odd if z is None else z.add_(odd)

    def _weights(self, distance: Tensor) -> Tensor:
        """The factor of each channel from the edge length, times the constant of its activation:
        first those of the gated channels, as they stand, then those of the scalars, family after
        family."""
        weight = distance
        for number, (matrix, bias) in enumerate(self.layers):
            weight = torch.addmm(bias, weight, matrix)
            if number < len(self.layers) - 1:
                nn.functional.silu(weight, inplace=True)
        return weight

    def _gate(self, result: Local, distance: Tensor) -> Local:
        """Activations, gates and channel factors; in place. The columns of ``made[f][0]`` are those
        of l > 0 (``gated`` of them), then the scalars, then, in one family, the gates."""
        weight, edges, count = self._weights(distance), len(distance), self.gate_count
        gates = weight[:, :0]
        if count and self.gate_key is not None:
            function, _ = self.gate_act[self.gate_key[1]]
            family = result[0 if self.scalars[0] == self.gate_key else 1]
            gates = function(family[0][:, -count:]).mul_(weight[:, :count])
        first_gate, first_weight = 0, count  # of this family: in ``gates``, in ``weight``
        out: Local = [[], []]
        for f in (0, 1):
            if self.out.lmax(f) < 0:
                continue
            gated, scalars, key = self.out.width(f, 1), self.scalar_count[f], self.scalars[f]
            of_family = gates[:, first_gate : first_gate + gated]
            result[f][0][:, :gated].mul_(of_family)
            out[f].append(result[f][0][:, : gated + scalars])
            for m in range(1, self.out.lmax(f) + 1):
                z = result[f][m]  # those with l >= m are the first columns
                z.view(edges, 2, -1).mul_(of_family[:, None, : z.shape[1]])
                out[f].append(z)
            if scalars and key is not None:
                function, _ = self.act[key[1]]
                z = result[f][0][:, gated : gated + scalars]
                factor = weight[:, first_weight : first_weight + scalars]
                z.copy_(function(z).mul_(factor))
                first_weight += scalars
            first_gate += gated
        return out
