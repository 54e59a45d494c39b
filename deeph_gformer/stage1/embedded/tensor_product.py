r"""DeepH-E3's tensor product of a convolution, in edge frames (the SO(2) convolution of eSCN,
Passaro & Zitnick 2023).

Of the tensor product (:mod:`.paths`) with the edge on the polar axis only
:math:`Y_{l_2 0} = \sqrt{2 l_2 + 1}` is left, so m3 = m1 (l1 + l2 + l3 even) or m3 = -m1 (odd), and
all l2 between one irrep in and one out add up to one matrix per \|m\|. A self-loop has Y_00
alone; it uses the matrices of the l2 = 0 paths.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import torch
from e3nn.o3 import Irreps
from torch import Tensor, nn

from ...algebra.layout import Key
from ...algebra.wigner import Generation, wigner_3j
from .linear import CachedWeights
from .local import LocalLayout
from .paths import Tile, enumerate_paths, make_tiles
from .recompute import Recompute

__all__ = ["Matrices", "Factor", "EdgeTensorProduct"]


class Factor(NamedTuple):
    r"""What multiplies the components \|m\| of one family in.

    Attributes:
        family: of the irreps in.
        odd: whether m goes to -m.
        matrix: (channels, copies * columns). Channels stand irrep after irrep, l falling, and in
            each irrep those of node i, of node j, of the edge; scalars of nodes are not among them.
    """

    family: int
    odd: bool
    matrix: Tensor


class Matrices(NamedTuple):
    """The tensor product of regular edges, or of self-loops.

    Attributes:
        factors: per family out and m.
        node: per family out: per scalar irrep of the atoms its key, and (channels, copies *
            columns) for node i and node j. They are multiplied once per atom, not once per edge.
    """

    factors: dict[tuple[int, int], list[Factor]]
    node: dict[int, list[tuple[Key, Tensor, Tensor]]]


#: Irrep in, irrep out, whether l1 + l2 + l3 is odd, m.
Piece = tuple[Key, Key, bool, int]


class Seam(NamedTuple):
    """A matrix in the vector of all of them.

    Attributes:
        f_out: family out.
        m: component.
        f_in: family in.
        odd: whether m goes to -m.
        scalar: what it multiplies, where these are scalars of node i and node j; else None.
        rows: channels in.
    """

    f_out: int
    m: int
    f_in: int
    odd: bool
    scalar: Key | None
    rows: int


class EdgeTensorProduct(CachedWeights):
    """``SeparateWeightTensorProduct`` in edge frames: its weights, and the matrices made of them.

    Parameters ``weight1``, ``weight2`` are the official ones, flattened path after path.

    Attributes:
        paths: in the official order.
        copies: multiplicity of all harmonics with a Bessel basis (one set of matrices for each),
            else 1.
        product_in: columns of a matrix' input, but for scalars of nodes.
        product_out: columns of its output.
        used: family in, m and :attr:`Factor.odd` of all factors.
    """

    _first: Tensor
    _second: Tensor
    _factor: Tensor

    def __init__(
        self,
        node: Irreps,
        edge: Irreps,
        irreps_sh: Irreps,
        irreps_out: Irreps,
        columns: dict[Key, list[int]],
        generation: Generation,
        parity: bool,
        radial: bool,
    ) -> None:
        """
        Args:
            node: features of one atom.
            edge: features of an edge; the input is (node i, node j, edge).
            irreps_sh: harmonics.
            irreps_out: what the gate wants.
            columns: which channel of some irreps out stands at each column; the others stand in
                their order.
            generation: of e3nn.
            parity: False where every irrep is called even.
            radial: the harmonics carry distance-dependent factors.
        """
        super().__init__()
        self.irreps_in, self.irreps_sh, self.irreps_out = node + node + edge, irreps_sh, irreps_out
        self.node, self.edge = LocalLayout(node, parity), LocalLayout(edge, parity)
        self.product_in = LocalLayout(self.irreps_in, parity)
        self.product_out = LocalLayout(irreps_out, parity)
        self.generation, self.radial = generation, radial
        self.paths = enumerate_paths(self.irreps_in, irreps_sh, irreps_out, generation)
        self.weight1 = nn.Parameter(torch.randn(sum(p.rows * p.columns for p in self.paths)))
        self.weight2 = nn.Parameter(torch.randn(sum(p.copies * p.columns for p in self.paths)))
        self.copies = sum(mul for mul, _ in irreps_sh) if radial else 1
        layout_in, layout_out = self.product_in.layout, self.product_out.layout
        self.tiles, first, second = make_tiles(
            self.paths, layout_in, irreps_sh, layout_out, columns
        )
        dtype = torch.get_default_dtype()
        self.seams: dict[bool, list[Seam]] = {}
        self._tables: dict[bool, list[tuple[int, str]]] = {}
        for loops in (False, True):
            places = self._tabulate(loops, dtype)
            self.seams[loops], index = self._join(places)
            self.register_buffer(f"_place_{int(loops)}", index, persistent=False)
        every = (seam for seams in self.seams.values() for seam in seams if seam.scalar is None)
        self.used = {(seam.f_in, seam.m, seam.odd) for seam in every}
        self.register_buffer("_first", first, persistent=False)
        self.register_buffer("_second", second, persistent=False)
        factor = torch.cat(
            [torch.full((p.copies * p.columns,), p.factor, dtype=torch.float64) for p in self.paths]
            or [torch.zeros(0, dtype=torch.float64)]
        )
        self.register_buffer("_factor", factor.to(dtype), persistent=False)

    def _tabulate(self, loops: bool, dtype: torch.dtype) -> dict[Piece, Tensor]:
        """Keep the coefficients of every tile.

        Args:
            loops: those of self-loops.
            dtype: of the coefficients.

        Returns:
            Where each piece of a matrix, (rows, copies, columns), stands in the vector of all
            pieces that :meth:`_assemble` makes.
        """
        self._tables[loops], places, count = [], {}, 1  # the vector begins with a zero
        for n, tile in enumerate(self.tiles):
            for odd in (False, True):
                values = self._coefficients(tile, odd, loops)
                if not len(values):
                    continue
                name = f"_coefficients_{n}_{int(odd)}_{int(loops)}"
                self.register_buffer(name, values.to(dtype), persistent=False)
                self._tables[loops].append((n, name))
                shape = (-1, self.copies, tile.rows, tile.columns)
                stop = count + len(values) * tile.rows * tile.columns
                table = torch.arange(count, stop).view(shape).transpose(1, 2)
                for k, piece in enumerate(table):
                    places[tile.key_in, tile.key_out, odd, k + int(odd)] = piece
                count = stop
        return places

    def _coefficients(self, tile: Tile, odd: bool, loops: bool) -> Tensor:
        """(m * copies, harmonics): what each harmonic of a tile adds to the matrix of each m (from
        1 on for odd l1 + l2 + l3); empty where none does."""
        l1, l3 = tile.key_in[0], tile.key_out[0]
        ms = range(int(odd), min(l1, l3) + 1)
        out = torch.zeros(len(ms), self.copies, len(tile.harmonics), dtype=torch.float64)
        for n, (slot, copy) in enumerate(tile.harmonics):
            l2 = self.irreps_sh[slot].ir.l
            if (l1 + l2 + l3) % 2 != odd or (loops and l2):
                continue
            # on the axis Y_l2 is sqrt(2 l2 + 1) at m = 0 and zero elsewhere
            symbol = wigner_3j(l1, l2, l3, self.generation)[:, l2]  # (2 l1 + 1, 2 l3 + 1)
            symbol = symbol * math.sqrt((2 * l3 + 1) * (2 * l2 + 1))
            # with a Bessel basis each copy of each harmonic has matrices of its own
            place = sum(mul for mul, _ in self.irreps_sh[:slot]) + copy if self.radial else 0
            for k, m in enumerate(ms):
                out[k, place, n] = symbol[l1 + m, l3 - m if odd else l3 + m]
        return out.flatten(0, 1) if out.any() else out.new_zeros(0, len(tile.harmonics))

    def _products(self) -> Sequence[Tensor]:
        """Per tile (harmonics, rows * columns): products of the two weights."""

        def factors() -> dict[Hashable, Tensor]:
            # index_select, not [...]: its gradient is the faster one
            two = (self.weight2 * self._factor).index_select(0, self._second)
            return {1: self.weight1.index_select(0, self._first), 2: two}

        kept = Recompute(factors, (self.weight1, self.weight2))
        with kept.saving():
            one, two = factors().values()
            kept.name(1, one)
            kept.name(2, two)
            products = one * two
        kept.done()
        sizes = [len(t.harmonics) * t.rows * t.columns for t in self.tiles]
        parts = products.split(sizes)
        return [p.view(len(t.harmonics), -1) for p, t in zip(parts, self.tiles, strict=True)]

    def matrices(self) -> tuple[Matrices, Matrices]:
        """Those of regular edges, and of self-loops."""
        return self.cached(self._build)

    def _build(self) -> tuple[Matrices, Matrices]:
        """:meth:`matrices`, anew."""
        products = self._products()
        regular = self._assemble(products, False)
        # a Bessel basis has zeros for l > 0 on self-loops, so all edges have the same matrices
        return regular, regular if self.radial else self._assemble(products, True)

    def _join(self, places: dict[Piece, Tensor]) -> tuple[list[Seam], Tensor]:
        """Where each matrix begins, and the places of all their elements in the vector of pieces.

        Args:
            places: of the pieces.
        """
        layout_in, layout_out = self.product_in, self.product_out
        seams, parts = [], [torch.zeros(0, dtype=torch.int64)]
        for f_in, f_out, odd in itertools.product((0, 1), (0, 1), (False, True)):
            for m in range(int(odd), min(layout_in.lmax(f_in), layout_out.lmax(f_out)) + 1):
                columns = [k for k in layout_out.keys[f_out] if k[0] >= m]
                rows = []  # key, (channels, copies * columns)
                for key in [k for k in layout_in.keys[f_in] if k[0] >= m]:
                    count = layout_in.layout.channels[key]
                    shape = (count, self.copies)
                    found = [
                        places.get(
                            (key, k, odd, m),
                            torch.zeros(*shape, layout_out.layout.channels[k], dtype=torch.int64),
                        )
                        for k in columns
                    ]
                    row = torch.cat(found, dim=2).flatten(1)
                    nodes = self.node.layout.channels.get(key, 0)
                    if key[0] == 0 and nodes:
                        of_i, of_j, row = row.split([nodes, nodes, count - 2 * nodes])
                        if of_i.any():
                            seams.append(Seam(f_out, m, f_in, odd, key, 2 * nodes))
                            parts += [of_i, of_j]
                    rows.append(row)
                whole = torch.cat(rows)
                if whole.any():
                    seams.append(Seam(f_out, m, f_in, odd, None, len(whole)))
                    parts.append(whole)
        return seams, torch.cat([part.flatten() for part in parts])

    def _assemble(self, products: Sequence[Tensor], loops: bool) -> Matrices:
        """The matrices of regular edges, or of self-loops, from the products of the weights."""
        pieces = [self.weight1.new_zeros(1)]
        for n, name in self._tables[loops]:
            pieces.append((self.get_buffer(name) @ products[n]).flatten())
        whole = torch.cat(pieces).index_select(0, self.get_buffer(f"_place_{int(loops)}"))
        seams = self.seams[loops]
        widths = [self.copies * self.product_out.width(s.f_out, s.m) for s in seams]
        parts = whole.split([s.rows * width for s, width in zip(seams, widths, strict=True)])
        out = Matrices({}, {0: [], 1: []})
        for seam, part, width in zip(seams, parts, widths, strict=True):
            matrix = part.view(seam.rows, width)
            if seam.scalar is None:
                factor = Factor(seam.f_in, seam.odd, matrix)
                out.factors.setdefault((seam.f_out, seam.m), []).append(factor)
            else:
                of_i, of_j = matrix.chunk(2)
                out.node[seam.f_out].append((seam.scalar, of_i, of_j))
        return out
