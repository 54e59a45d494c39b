r"""``arch: equivariant`` (ours), exactly E(3)-equivariant.

Invariants drive the Transformer, its output gates stage 1's irreps.

.. math::
    \Delta h^{(l)}_{ij} = W^{(l)}_2
        \left( g^{(l)}(e^{(P)}_{ij}) \odot W^{(l)}_1\, x^{(l)}_{ij} \right)

x collects, per irrep, stage 1's own prediction (saturated, in units of the residual), its edge
features, those of both atoms, and the harmonics Y_l of the edge. The Transformer of Eq. 2-6 sees
invariants only: scalars, norms, and projections on the edge axis. Gates alone keep every irrep to
itself; :mod:`.local` adds mixing across l, :mod:`.messages` irreps that atoms gather from their
edges first.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from e3nn.o3 import Irreps
from torch import Tensor, nn

from ..algebra.layout import Features, Key, Layout, merge
from ..errors import ModelError
from .layers import FullyConnected
from .local import LocalMixing
from .messages import Messages

__all__ = ["saturated", "invariant_widths", "GatedHead"]


def saturated(features: Features) -> Features:
    """x / sqrt(1 + |x|²/(2l+1)): small irreps as they are, large ones by their direction.

    An equivariant map.
    """
    return {
        key: value / (1 + value.square().mean(dim=1, keepdim=True)).sqrt()
        for key, value in features.items()
    }


def invariant_widths(node: Irreps, edge: Irreps) -> tuple[int, int]:
    """Invariants of an atom: norms.

    Of an edge: norms, its projections on the axis, those of both atoms.
    """

    def natural(irreps: Irreps) -> int:
        return sum(mul for mul, ir in irreps if ir.l > 0 and ir.p == (-1) ** ir.l)

    return node.num_irreps, edge.num_irreps + natural(edge) + 2 * natural(node)


def _join(irreps: Sequence[Features], harmonics: Sequence[Tensor]) -> Features:
    """Channels of all irreps, and the harmonics as one more channel."""
    return merge(*irreps, {(l, (-1) ** l): value[:, :, None] for l, value in enumerate(harmonics)})


class GatedHead(nn.Module):
    """The direct-sum correction from gated irreps (formula above)."""

    def __init__(
        self,
        edge_irreps: Sequence[Irreps],
        node_irreps: Irreps,
        irreps_out: Irreps,
        width: int,
        hidden: int,
        lmax: int,
        mixing: bool = True,
        messages: int = 0,
    ) -> None:
        """
        Args:
            edge_irreps: of the direct sum and the encoder groups that are read.
            node_irreps: of the last group.
            irreps_out: direct sum.
            width: d of e^(P).
            hidden: gated channels per irrep.
            lmax: of the edge harmonics.
            mixing: also mix across l (:mod:`.local`).
            messages: channels per irrep that atoms gather from their edges first
                (:mod:`.messages`); 0, or no mixing: none.
        """
        super().__init__()
        self.layout_out = Layout(irreps_out)
        available: dict[Key, int] = {}
        for layout in (*map(Layout, edge_irreps), Layout(node_irreps), Layout(node_irreps)):
            for key, channels in layout.channels.items():
                available[key] = available.get(key, 0) + channels
        for l in range(lmax + 1):
            available[l, (-1) ** l] = available.get((l, (-1) ** l), 0) + 1
        mixing = mixing and lmax > 0
        self.messages = (
            Messages(available, list(self.layout_out.channels), messages, width, hidden)
            if mixing and messages
            else None
        )
        if self.messages is not None:  # of atom i and atom j
            for key, channels in self.messages.channels.items():
                available[key] = available.get(key, 0) + 2 * channels
        self.keys = [key for key in self.layout_out.channels if key in available]
        self.hidden = hidden
        self.first = nn.ParameterList(
            [
                nn.Parameter(torch.randn(available[k], hidden) / available[k] ** 0.5)
                for k in self.keys
            ]
        )
        self.second = nn.ParameterList(
            [
                nn.Parameter(torch.randn(hidden, self.layout_out.channels[k]) / hidden**0.5)
                for k in self.keys
            ]
        )
        self.gates = FullyConnected(width, hidden * len(self.keys), width)
        self.gates.start_at(0.0)
        self.mixing = (
            LocalMixing(available, self.layout_out.channels, width, hidden) if mixing else None
        )
        scalars = self.layout_out.channels.get((0, 1), 0)
        self.scalars = FullyConnected(width, scalars, width) if scalars else None
        if self.scalars is not None:
            self.scalars.start_at(0.0)

    def send(
        self,
        edge: Tensor,
        irreps: Sequence[Features],
        harmonics: Sequence[Tensor],
        aligned: bool = False,
    ) -> Features:
        """What edges give to their atoms i (zero on an atom with itself).

        Arguments and frames as those of :meth:`forward`.
        """
        if self.messages is None:
            raise ModelError("this GFormer sends no messages (model.messages is 0)")
        return self.messages.mixing(edge, _join(irreps, harmonics), harmonics[1], aligned)

    def forward(
        self,
        edge: Tensor,
        irreps: Sequence[Features],
        harmonics: Sequence[Tensor],
        aligned: bool = False,
    ) -> Features:
        """The correction of some edges.

        Args:
            edge: e^(P), (E, d).
            irreps: of every edge: direct sum, edge groups, atom i, atom j and, with messages, u of
                atom i and of atom j.
            harmonics: Y_l. All in the same frame, which may be another one for every edge.
            aligned: these frames have the polar axis along the edge.

        Returns:
            The direct sum in units of the residual, in these frames.
        """
        gates = self.gates(edge).split(self.hidden, dim=1)
        joined = _join(irreps, harmonics)
        out: Features = {}
        for number, key in enumerate(self.keys):
            out[key] = ((joined[key] @ self.first[number]) * gates[number][:, None]) @ self.second[
                number
            ]
        if self.scalars is not None:
            out[0, 1] = out[0, 1] + self.scalars(edge)[:, None]
        if self.mixing is not None:
            for key, value in self.mixing(edge, joined, harmonics[1], aligned).items():
                out[key] = out[key] + value if key in out else value
        for key, channels in self.layout_out.channels.items():
            if key not in out:
                out[key] = edge.new_zeros(len(edge), 2 * key[0] + 1, channels)
        return out
