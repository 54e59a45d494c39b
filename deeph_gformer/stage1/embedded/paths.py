r"""The paths of DeepH-E3's tensor product and the matrices that they add up to in edge frames.

The official tensor product is, per path p = (slot in, l2, slot out),

.. math:: z_{w m_3} = a_p \sum_{u v m_1 m_2} W^1_{uw} W^2_{vw}\;
   \sqrt{2 l_3 + 1}\, w_{3j}(l_1 l_2 l_3)_{m_1 m_2 m_3}\; x_{u m_1} Y_{v m_2}.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from e3nn.o3 import Irreps
from torch import Tensor

from ...algebra.layout import Key
from ...algebra.wigner import Generation, path_weights

__all__ = ["Path", "Block", "Terms", "enumerate_paths", "join_terms"]


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


class Block(NamedTuple):
    r"""The matrices between one family of irreps in and one out, for even or odd l1 + l2 + l3.

    A family is the irreps of natural parity (-1)^l, or the others. Its irreps stand by falling l,
    so that those with l >= m, which alone have a component m, are the first rows or columns of the
    matrix of \|m\|.

    Attributes:
        keys_in, keys_out: the irreps, l falling.
        odd: whether l1 + l2 + l3 is odd: then component m goes to -m, and m = 0 nowhere.
        shapes: per m = 0, 1, ...: rows (channels in) and columns (channels out).
        starts: per m: where the matrix begins in the vector of all matrices.
    """

    keys_in: tuple[Key, ...]
    keys_out: tuple[Key, ...]
    odd: bool
    shapes: tuple[tuple[int, int], ...]
    starts: tuple[int, ...]


class Terms(NamedTuple):
    """What the matrices are made of: ``matrices[target] += weight1[first] * weight2[second] *
    value``.

    Attributes:
        first, second, target: (T,) int64, indices into the flat parameters and into the vector of
            all matrices.
        value: (T,), Clebsch-Gordan number times normalisation.
    """

    first: Tensor
    second: Tensor
    target: Tensor
    value: Tensor


def join_terms(parts: list[Terms]) -> Terms:
    """One after the other."""
    return Terms(*(torch.cat(column) for column in zip(*parts, strict=True)))
