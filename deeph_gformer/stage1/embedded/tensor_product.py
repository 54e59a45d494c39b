r"""DeepH-E3's tensor product of a convolution, in edge frames (the SO(2) convolution of eSCN,
Passaro & Zitnick 2023).

Of the tensor product (:mod:`.paths`) with the edge on the polar axis only
:math:`Y_{l_2 0} = \sqrt{2 l_2 + 1}` is left, so m3 = m1 (l1 + l2 + l3 even) or m3 = -m1 (odd), and
all l2 between one slot in and one slot out add up to one matrix per \|m\|. A self-loop has Y_00
alone; it uses the matrices of the l2 = 0 paths.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Hashable, Iterable

import torch
from e3nn.o3 import Irreps
from torch import Tensor, nn

from ...algebra.layout import Features, Key
from ...algebra.wigner import Generation, wigner_3j
from .layout import Layout
from .linear import CachedWeights
from .paths import Block, Path, Terms, enumerate_paths, join_terms
from .recompute import Recompute

__all__ = ["Matrices", "Place", "EdgeTensorProduct"]


#: Per block and m, of regular edges and of self-loops (None: the same).
Matrices = tuple[list[list[Tensor]], list[list[Tensor]] | None]


#: Irreps in of a block, and m.
Place = tuple[tuple[Key, ...], int]


def _inputs(features: Features, places: Iterable[Place]) -> dict[Place, Tensor]:
    """(E, channels) of some irreps at one m, side by side."""
    components = {k: value.unbind(1) for k, value in features.items()}  # (E, channels) each
    return {
        (keys, m): torch.cat([components[k][k[0] + m] for k in keys if k[0] >= abs(m)], dim=1)
        for keys, m in places
    }


class EdgeTensorProduct(CachedWeights):
    """``SeparateWeightTensorProduct`` in edge frames.

    Parameters ``weight1``, ``weight2`` are the official ones, flattened path after path.

    Attributes:
        paths: in the official order.
        blocks: the matrices that all paths add up to.
        copies: multiplicity of all harmonics with a Bessel basis (one set of matrices for each),
            else 1.
    """

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
            irreps_in: of the concatenated features, slot by slot.
            irreps_sh: harmonics.
            irreps_out: what the gate wants.
            generation: of e3nn.
            parity: False where every irrep is called even.
            radial: the harmonics carry distance-dependent factors.
        """
        super().__init__()
        self.irreps_in, self.irreps_sh, self.irreps_out = irreps_in, irreps_sh, irreps_out
        self.layout_in, self.layout_out = Layout(irreps_in), Layout(irreps_out)
        self.generation, self.radial = generation, radial
        self.paths = enumerate_paths(irreps_in, irreps_sh, irreps_out, generation)
        self.weight1 = nn.Parameter(torch.randn(sum(p.rows * p.columns for p in self.paths)))
        self.weight2 = nn.Parameter(torch.randn(sum(p.copies * p.columns for p in self.paths)))
        self.copies = sum(mul for mul, _ in irreps_sh) if radial else 1
        self.blocks, self._size = self._make_blocks(parity)
        on_loops = [self._path_terms(p) for p in self.paths if irreps_sh[p.i_sh].ir.l == 0]
        others = [self._path_terms(p) for p in self.paths if irreps_sh[p.i_sh].ir.l > 0]
        # a self-loop has no direction: of the harmonics it has Y_00 alone
        for name, parts in (("all", on_loops + others), ("loops", on_loops)):
            terms = join_terms(parts)
            terms = terms._replace(value=terms.value.to(torch.get_default_dtype()))
            for field, tensor in terms._asdict().items():
                self.register_buffer(f"_{name}_{field}", tensor, persistent=False)

    def _ls(self, path: Path) -> tuple[int, int, int]:
        """l1, l2, l3 of a path."""
        return (
            self.irreps_in[path.i_in].ir.l,
            self.irreps_sh[path.i_sh].ir.l,
            self.irreps_out[path.i_out].ir.l,
        )

    def _make_blocks(self, parity: bool) -> tuple[list[Block], int]:
        """The blocks that have a path, and the length of the vector of all their matrices."""

        def families(layout: Layout) -> list[tuple[Key, ...]]:
            natural = [k for k in layout.channels if not parity or k[1] == (-1) ** k[0]]
            rest = [k for k in layout.channels if k not in natural]
            return [tuple(sorted(group, key=lambda k: -k[0])) for group in (natural, rest) if group]

        def count(layout: Layout, keys: tuple[Key, ...], m: int) -> int:
            return sum(layout.channels[k] for k in keys if k[0] >= m)

        joined = {
            (
                self.layout_in.slots[p.i_in][0],
                self.layout_out.slots[p.i_out][0],
                bool(sum(self._ls(p)) % 2),
            )
            for p in self.paths
        }
        blocks, total = [], 0
        for keys_in, keys_out, odd in itertools.product(
            families(self.layout_in), families(self.layout_out), (False, True)
        ):
            if not any((a, b, odd) in joined for a in keys_in for b in keys_out):
                continue
            shapes, starts = [], []
            for m in range(min(keys_in[0][0], keys_out[0][0]) + 1):
                shapes.append(
                    (count(self.layout_in, keys_in, m), count(self.layout_out, keys_out, m))
                )
                starts.append(total)
                total += shapes[-1][0] * shapes[-1][1]
            blocks.append(Block(keys_in, keys_out, odd, tuple(shapes), tuple(starts)))
        return blocks, total

    def _path_terms(self, path: Path) -> Terms:
        """What one path adds to the matrices of its block, for every m and every copy of its
        harmonic."""
        l1, l2, l3 = self._ls(path)
        (key_in, row, _), (key_out, column, _) = (
            self.layout_in.slots[path.i_in],
            self.layout_out.slots[path.i_out],
        )
        odd = bool((l1 + l2 + l3) % 2)
        block = next(
            b for b in self.blocks if key_in in b.keys_in and key_out in b.keys_out and b.odd == odd
        )
        # rows and columns of the irreps before this one (larger l, so there for every m of this
        # path)
        before_in = block.keys_in[: block.keys_in.index(key_in)]
        before_out = block.keys_out[: block.keys_out.index(key_out)]
        rows = row + sum(self.layout_in.channels[k] for k in before_in) + torch.arange(path.rows)
        columns = (
            column
            + sum(self.layout_out.channels[k] for k in before_out)
            + torch.arange(path.columns)
        )
        shape = (path.rows, path.columns)
        first = path.start1 + torch.arange(path.rows * path.columns)  # W1[u, w]
        # on the axis Y_l2 is sqrt(2 l2 + 1) at m = 0 and zero elsewhere
        symbol = wigner_3j(l1, l2, l3, self.generation)[:, l2]  # (2 l1 + 1, 2 l3 + 1)
        symbol = symbol * math.sqrt((2 * l3 + 1) * (2 * l2 + 1)) * path.factor
        # with a Bessel basis each copy of each harmonic has matrices of its own
        copy0 = sum(mul for mul, _ in self.irreps_sh[: path.i_sh]) if self.radial else 0
        parts = []
        for m in range(int(odd), min(l1, l3) + 1):
            coefficient = float(symbol[l1 + m, l3 - m if odd else l3 + m])
            place = block.starts[m] + rows[:, None] * block.shapes[m][1] + columns
            for v in range(path.copies):
                second = path.start2 + v * path.columns + torch.arange(path.columns)  # W2[v, w]
                offset = (copy0 + v) * self._size if self.radial else 0
                parts.append(
                    Terms(
                        first,
                        second.expand(shape).reshape(-1),
                        place.reshape(-1) + offset,
                        torch.full((len(first),), coefficient, dtype=torch.float64),
                    )
                )
        return join_terms(parts)

    def matrices(self, loops: bool) -> list[list[Tensor]]:
        """Per block and m: (copies, rows, columns).

        Args:
            loops: those of self-loops, which have Y_00 alone, else those of all other edges.
        """
        name = "loops" if loops else "all"
        terms = Terms(*(self.get_buffer(f"_{name}_{field}") for field in Terms._fields))

        def factors() -> dict[Hashable, Tensor]:
            return {1: self.weight1[terms.first], 2: self.weight2[terms.second]}

        kept = Recompute(factors, (self.weight1, self.weight2))
        with kept.saving():
            one, two = factors().values()
            kept.name(1, one)
            kept.name(2, two)
            products = one * two * terms.value
        kept.done()
        vector = products.new_zeros(self.copies * self._size).index_add(0, terms.target, products)
        vector = vector.reshape(self.copies, self._size)
        shapes = [shape for block in self.blocks for shape in block.shapes]
        parts = vector.split([rows * columns for rows, columns in shapes], dim=1)
        each = iter(p.reshape(self.copies, *shape) for p, shape in zip(parts, shapes, strict=True))
        return [[next(each) for _ in block.shapes] for block in self.blocks]

    def both_matrices(self) -> Matrices:
        """Matrices (rows, copies * columns) of regular edges, and of self-loops where they have
        their own."""
        return self.cached(self._build)

    def _build(self) -> Matrices:
        """:meth:`both_matrices`, anew."""

        def side_by_side(table: list[list[Tensor]]) -> list[list[Tensor]]:
            """(rows, copies * columns) of each."""
            return [[x.transpose(0, 1).reshape(x.shape[1], -1) for x in row] for row in table]

        # a Bessel basis has zeros for l > 0 on self-loops, so all edges have the same matrices
        return side_by_side(self.matrices(False)), (
            None if self.radial else side_by_side(self.matrices(True))
        )

    def forward(
        self,
        features: Features,
        matrices: Matrices,
        regular: int,
        radial: Tensor | None = None,
        again: Callable[[], Features] | None = None,
    ) -> Features:
        """The product, in edge frames.

        Args:
            features: rows are edges, self-loops last; keys as in ``irreps_in``.
            matrices: see :meth:`both_matrices`.
            regular: number of edges that are no self-loops.
            radial: (E, copies), with a Bessel basis: the radial factor of each harmonic (zero for l
                > 0 on self-loops).
            again: gives ``features`` again for the backward pass; None: what it needs is kept.

        Returns:
            Features with the keys of ``irreps_out``.
        """
        if again is None:
            return self._product(features, matrices, regular, radial, None)
        remake, places = again, self._input_places()
        kept = Recompute(lambda: _inputs(remake(), places))
        with kept.saving():
            out = self._product(features, matrices, regular, radial, kept)
        kept.done()
        return out

    def _input_places(self) -> list[Place]:
        """Irreps and m of all factors, each once."""
        found: dict[Place, None] = {}
        for block in self.blocks:
            for m in range(int(block.odd), len(block.shapes)):
                for sign in (1,) if m == 0 else (1, -1):
                    found[block.keys_in, sign * m] = None
        return list(found)

    def _product(
        self,
        features: Features,
        matrices: Matrices,
        regular: int,
        radial: Tensor | None,
        kept: Recompute | None,
    ) -> Features:
        regularly, on_loops = matrices
        edges = len(next(iter(features.values())))
        inputs = _inputs(features, self._input_places())  # some blocks share
        if kept is not None:
            for place_in, x in inputs.items():
                kept.name(place_in, x)
        sums: dict[tuple[Key, int], Tensor] = {}  # by irrep and m
        for number, block in enumerate(self.blocks):
            for m, (_, columns) in enumerate(block.shapes):
                if block.odd and m == 0:
                    continue
                for sign in (1,) if m == 0 else (1, -1):
                    x = inputs[block.keys_in, sign * m]
                    if on_loops is None or regular == edges:
                        z = x @ regularly[number][m]
                    elif regular == 0:
                        z = x @ on_loops[number][m]
                    else:
                        z = torch.cat(
                            [
                                x[:regular] @ regularly[number][m],
                                x[regular:] @ on_loops[number][m],
                            ]
                        )
                    if radial is not None:
                        z = torch.einsum(
                            "evw,ev->ew", z.reshape(edges, self.copies, columns), radial
                        )
                    # odd paths are antisymmetric in m: w3j(m, 0, -m) = -w3j(-m, 0, m)
                    z = -z if block.odd and sign < 0 else z
                    keys = [k for k in block.keys_out if k[0] >= m]
                    parts = z.split([self.layout_out.channels[k] for k in keys], dim=1)
                    for key, part in zip(keys, parts, strict=True):
                        place = (key, -sign * m if block.odd else sign * m)
                        sums[place] = sums[place] + part if place in sums else part
        like = next(iter(features.values()))
        out: Features = {}
        for key, channels in self.layout_out.channels.items():
            every = [sums.get((key, m)) for m in range(-key[0], key[0] + 1)]
            out[key] = torch.stack(
                [like.new_zeros(edges, channels) if x is None else x for x in every], dim=1
            )
        return out
