r"""Eq. 3, the invariant node feature from distances and angles.

As printed (``AdjacentPairs``, for ``arch: paper``):

.. math:: n_i^{invar} = \sum_{(j,k) \in \Omega(i)} FC(cat(z_i, z_j, z_k, d_{ij}, d_{ik}, c_{ijk}))

(j, k) are adjacent in the array Ω(i), sorted by distance. Neighbours at equal distances have no
order; there the sum is averaged over all orders, so it does not depend on how a crystal is
described. It still jumps where two distances cross.

Over all pairs, smooth, and as cheap (``DensityPairs``, our default): a density expansion and its
power spectrum, which is the sum over all pairs by the addition theorem of the Legendre polynomials.

.. math::
    A_{nlm} = \sum_j f(r_{ij})\, \varphi_n(r_{ij}, z_j)\, Y_{lm}(\hat r_{ij}),\qquad
    p_{nn'l} = \frac{1}{2l+1} \sum_m A_{nlm} A_{n'lm}
             = \sum_{jk} f f\, \varphi_n \varphi_{n'}\, P_l(\cos\theta_{jk})

    n_i^{invar} = FC(cat(z_i, p))
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..algebra.rotation import spherical_harmonics
from ..data.graph import Graph
from .layers import FullyConnected
from .scale import SMALL
from .spans import Span

__all__ = ["Triplets", "find_triplets", "AdjacentPairs", "DensityPairs"]

#: Distances that differ by less, in Å, are equal: rounding must not order the neighbours of a
#: crystal.
DISTANCE_STEP = 1e-5


class Triplets(NamedTuple):
    """Adjacent pairs of every Ω(i).

    Attributes:
        edge_j, edge_k: (T,) int64, the edges (i, j) and (i, k).
        cosine: (T,), cos of the angle between them.
        weight: (T,), the part of all orders of equal distances in which this pair is adjacent.
    """

    edge_j: Tensor
    edge_k: Tensor
    cosine: Tensor
    weight: Tensor


def find_triplets(graph: Graph) -> Triplets:
    """Adjacent pairs in the sorted Ω(i), averaged over the orders of neighbours at equal distances.

    Without equal distances these are |Ω(i)| - 1 pairs. A shell of g equal ones has every ordered
    pair within it with the weight 1/g, and is joined to the next shell, of h, by g h pairs of 1/(g
    h). Self-loops are left out, they have no angle.
    """
    length, source = graph.edge_length.double(), graph.edge_index[0]
    keep = torch.nonzero(~graph.self_loop).reshape(-1)
    order = keep[torch.argsort(length[keep], stable=True)]
    order = order[torch.argsort(source[order], stable=True)]
    atom, sorted_length = source[order], length[order]
    new = torch.ones(len(order), dtype=torch.bool, device=order.device)
    same_atom = atom[1:] == atom[:-1]
    new[1:] = ~same_atom | (sorted_length[1:] - sorted_length[:-1] > DISTANCE_STEP)
    shell = torch.cumsum(new, 0) - 1  # (edges,) number of the shell
    size = torch.bincount(shell)
    start = torch.cumsum(size, 0) - size
    following = torch.zeros(len(size), dtype=torch.bool, device=order.device)
    if len(size) > 1:
        following[:-1] = atom[start[1:]] == atom[start[:-1]]
    # every member of a shell with all members of the same one, and with all of the next one
    j: list[Tensor] = []
    k: list[Tensor] = []
    weight: list[Tensor] = []
    for shift in (0, 1):
        mine = (
            torch.nonzero(following[shell]).reshape(-1)
            if shift
            else torch.arange(len(order), device=order.device)
        )
        other = shell[mine] + shift
        count = size[other]
        left = torch.repeat_interleave(mine, count)
        inside = torch.arange(len(left), device=order.device) - torch.repeat_interleave(
            torch.cumsum(count, 0) - count, count
        )
        right = start[shell[left] + shift] + inside
        own = size[shell[left]].double()
        part = 1 / (own * size[shell[left] + 1]) if shift else 1 / own
        different = left != right
        j.append(order[left[different]])
        k.append(order[right[different]])
        weight.append(part[different])
    edge_j, edge_k = torch.cat(j), torch.cat(k)
    a, b = graph.edge_vector[edge_j].double(), graph.edge_vector[edge_k].double()
    cosine = (a * b).sum(-1) / (length[edge_j] * length[edge_k])
    kind = graph.edge_vector.dtype
    return Triplets(edge_j, edge_k, cosine.clamp(-1, 1).to(kind), torch.cat(weight).to(kind))


class AdjacentPairs(nn.Module):
    """Eq. 3 as printed. FC's first layer is taken apart per argument, its second acts once per
    atom."""

    def __init__(self, width: int, embed: int, gaussians: int, repeat: int = 16) -> None:
        """
        Args:
            width: d.
            embed: width of z.
            gaussians: width of d_ij.
            repeat: copies of the cosine in c_ijk, which weigh it up.
        """
        super().__init__()
        self.repeat = repeat
        self.sizes = [embed, embed, embed, gaussians, gaussians, repeat]
        self.fc = FullyConnected(sum(self.sizes), width)

    def span(self, graph: Graph, span: Span, table: Tensor, distances: Tensor, f: Tensor) -> Tensor:
        """Sums over the pairs of a span's atoms, which :meth:`finish` needs.

        Args:
            graph: all atoms, and the span's edges.
            span: whose edges these are.
            table: z of every element, (elements, embed).
            distances: d_ij, (E, gaussians).
            f: envelope; not used.

        Returns:
            (atoms of the span, hidden + 1).
        """
        first = self.fc.first
        zi, zj, zk, dj, dk, c = first.weight.split(self.sizes, dim=1)
        by_i = nn.functional.linear(table, zi, first.bias)
        j, k, cosine, weight = find_triplets(graph)
        source, kind = graph.edge_index[0], graph.node_type[graph.edge_index[1]]
        hidden = by_i[graph.node_type[source[j]]]
        hidden = hidden + ((table @ zj.T)[kind] + distances @ dj.T)[j]
        hidden = hidden + ((table @ zk.T)[kind] + distances @ dk.T)[k]
        hidden = nn.functional.silu(torch.addmm(hidden, cosine[:, None], c.sum(dim=1)[None]))
        terms = torch.cat([hidden, torch.ones_like(cosine)[:, None]], dim=1) * weight[:, None]
        return terms.new_zeros(span.atoms, terms.shape[1]).index_add(
            0, source[j] - span.first, terms
        )

    def finish(self, sums: Tensor, z: Tensor) -> Tensor:
        """n_invar (N, d) from the sums (N, hidden + 1).

        Zero for an atom with fewer than two neighbours.
        """
        second = self.fc.last
        return sums[:, :-1] @ second.weight.T + sums[:, -1:] * second.bias


class DensityPairs(nn.Module):
    """Eq. 3 over all pairs.

    The radial functions are φ_n(r, z) = (W d(r))_n (1 + (V z)_n). Entries of the power spectrum are
    given to FC in units of their spread over the training set, measured before training.
    """

    mean: Tensor
    factor: Tensor
    upper: Tensor

    def __init__(self, width: int, embed: int, gaussians: int, channels: int, lmax: int) -> None:
        """
        Args:
            width: d.
            embed: width of z.
            gaussians: width of d_ij.
            channels: radial functions n.
            lmax: of the harmonics.
        """
        super().__init__()
        self.channels, self.lmax = channels, lmax
        self.radial = nn.Linear(gaussians, channels, bias=False)
        self.element = nn.Linear(embed, channels, bias=False)
        entries = (lmax + 1) * channels * (channels + 1) // 2
        self.fc = FullyConnected(embed + entries, width, width)
        self.register_buffer("mean", torch.zeros(entries))
        self.register_buffer("factor", torch.ones(entries))
        upper = torch.triu_indices(channels, channels)
        self.register_buffer("upper", upper[0] * channels + upper[1], persistent=False)

    @property
    def sums(self) -> int:
        """Numbers per atom that are summed over its edges."""
        return self.channels * (self.lmax + 1) ** 2

    @torch.no_grad()
    def fit(self, sums: Sequence[Tensor]) -> None:
        """Set the units of the power spectrum from A of the training set, (N, (lmax + 1)² n)
        each."""
        values = torch.cat([self._spectrum(a).double() for a in sums])
        spread = values.std(dim=0, correction=0)
        floor = SMALL * spread.square().mean().sqrt()
        self.mean.copy_(values.mean(dim=0))
        self.factor.copy_(1 / spread.clamp(min=floor.clamp(min=1e-12)))

    def span(self, graph: Graph, span: Span, table: Tensor, distances: Tensor, f: Tensor) -> Tensor:
        """A of a span's atoms; see :meth:`AdjacentPairs.span`.

        Returns:
            (atoms of the span, (lmax + 1)² n).
        """
        source, target = graph.edge_index
        radial = self.radial(distances) * (1 + self.element(table))[graph.node_type[target]]
        radial = radial * (f * ~graph.self_loop)[:, None]  # (E, n)
        harmonics = spherical_harmonics(graph.edge_vector, self.lmax)  # (E, (lmax + 1)^2)
        terms = (harmonics[:, :, None] * radial[:, None]).flatten(1)
        return terms.new_zeros(span.atoms, terms.shape[1]).index_add(0, source - span.first, terms)

    def _spectrum(self, sums: Tensor) -> Tensor:
        """p of the atoms, (N, entries), without units."""
        density = sums.unflatten(1, (-1, self.channels))  # (N, (lmax + 1)^2, n)
        parts = []
        for l, a in enumerate(density.split([2 * l + 1 for l in range(self.lmax + 1)], dim=1)):
            power = a.transpose(1, 2) @ a / (2 * l + 1)  # (N, n, n)
            parts.append(power.flatten(1)[:, self.upper])
        return torch.cat(parts, dim=1)

    def finish(self, sums: Tensor, z: Tensor) -> Tensor:
        """n_invar (N, d) from A (N, (lmax + 1)² n) and z (N, embed)."""
        spectrum = (self._spectrum(sums) - self.mean) * self.factor
        return self.fc(torch.cat([z, spectrum], dim=1))
