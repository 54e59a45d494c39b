r"""The paths of DeepH-E3's tensor product and the matrices that they add up to in edge frames.

The official tensor product is, per path p = (slot in, l2, slot out),

.. math:: z_{w m_3} = a_p \sum_{u v m_1 m_2} W^1_{uw} W^2_{vw}\;
   \sqrt{2 l_3 + 1}\, w_{3j}(l_1 l_2 l_3)_{m_1 m_2 m_3}\; x_{u m_1} Y_{v m_2}.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from e3nn.o3 import Irreps
from torch import Tensor

from ...algebra.layout import Key, Layout
from ...algebra.wigner import Generation, path_weights

__all__ = ["Path", "Tile", "enumerate_paths", "make_tiles"]


class Path(NamedTuple):
    """One path of the official tensor product.

    Attributes:
        i_in, i_sh, i_out: slots.
        rows, columns: multiplicities in and out.
        copies: multiplicity of the harmonics (1 but for a Bessel basis).
        start1, start2: first weight in the flat parameters.
        factor: path normalisation.
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
    fan_in: dict[int, list[int]] = {}
    for a, b, c in triples:
        fan_in.setdefault(c, []).append(irreps_in[a].mul * irreps_sh[b].mul)
    factors = {c: iter(path_weights(fan, generation)) for c, fan in fan_in.items()}
    paths, start1, start2 = [], 0, 0
    for a, b, c in triples:
        rows, copies, columns = irreps_in[a].mul, irreps_sh[b].mul, irreps_out[c].mul
        paths.append(Path(a, b, c, rows, columns, copies, start1, start2, next(factors[c])))
        start1, start2 = start1 + rows * columns, start2 + copies * columns
    return paths


class Tile(NamedTuple):
    """All paths between one irrep in and one out.

    Attributes:
        key_in, key_out: the irreps.
        rows, columns: their channels, slots joined.
        harmonics: (slot, copy) of each harmonic that joins them.
    """

    key_in: Key
    key_out: Key
    rows: int
    columns: int
    harmonics: tuple[tuple[int, int], ...]


def make_tiles(
    paths: Sequence[Path],
    layout_in: Layout,
    irreps_sh: Irreps,
    layout_out: Layout,
    columns: Mapping[Key, Sequence[int]],
) -> tuple[list[Tile], Tensor, Tensor]:
    """The tiles, and what their products of weights are made of.

    Args:
        paths: in the official order.
        layout_in: the slots.
        irreps_sh: the slots.
        layout_out: the slots.
        columns: which channel of an irrep out stands at each column, where not in their order.

    Returns:
        ``(tiles, first, second)``: the products of tile after tile, (harmonics, rows, columns)
        each, are ``weight1[first] * weight2[second]``.
    """
    found: dict[tuple[Key, Key], list[Path]] = {}
    for path in paths:
        pair = (layout_in.slots[path.i_in][0], layout_out.slots[path.i_out][0])
        found.setdefault(pair, []).append(path)
    tiles, firsts, seconds = [], [], []
    for (key_in, key_out), own in found.items():
        harmonics = [
            (slot, copy)
            for slot in sorted({p.i_sh for p in own})
            for copy in range(irreps_sh[slot].mul)
        ]
        shape = (len(harmonics), layout_in.channels[key_in], layout_out.channels[key_out])
        first, second = torch.zeros(2, *shape, dtype=torch.int64)
        for path in own:
            row, column = layout_in.slots[path.i_in][1], layout_out.slots[path.i_out][1]
            place = (slice(row, row + path.rows), slice(column, column + path.columns))
            one = torch.arange(path.rows * path.columns).view(path.rows, path.columns)
            for copy in range(path.copies):
                n = harmonics.index((path.i_sh, copy))
                first[n][place] = path.start1 + one  # W1[u, w]
                two = path.start2 + copy * path.columns + torch.arange(path.columns)  # W2[v, w]
                second[n][place] = two
        if key_out in columns:
            first, second = (x[:, :, list(columns[key_out])] for x in (first, second))
        tiles.append(Tile(key_in, key_out, shape[1], shape[2], tuple(harmonics)))
        firsts.append(first.flatten())
        seconds.append(second.flatten())
    nothing = torch.zeros(0, dtype=torch.int64)
    return tiles, torch.cat([*firsts, nothing]), torch.cat([*seconds, nothing])
