"""What inference prepares from the parameters of a whole network."""

from __future__ import annotations

from e3nn.o3 import Irreps
from torch import Tensor

from .convolution_plan import ConvolutionPlan
from .local import BlockDiagonal, Local, LocalLayout, signs
from .network import DeepHE3Net
from .norm import NormPlan
from .updates import EdgeUpdate

__all__ = ["EdgePlan", "InferencePlan"]


class EdgePlan:
    """One edge update after its convolution."""

    def __init__(self, update: EdgeUpdate, before: Irreps, types: int, parity: bool) -> None:
        old, new = LocalLayout(before, parity), LocalLayout(update.irreps_out, parity)
        self.layout, self.types = new, types
        self.post = BlockDiagonal(update.lin_post.matrices(), new, new)
        self.bias = update.lin_post.bias
        by_type = update.sc.matrices()
        self.sc = [
            BlockDiagonal({k: m[t] for k, m in by_type.items()}, old, new) for t in range(types)
        ]
        self.skip = (
            None
            if update.skip_connect.sc is None
            else BlockDiagonal(update.skip_connect.sc.matrices(), old, new)
        )
        self.norm = NormPlan(update.norm, parity)

    def before_norm(
        self, out: Local, message: Local, old: Local, kinds: list[tuple[int, Tensor]]
    ) -> None:
        """``out = lin_post(message) + sc(old)``.

        Args:
            out: filled.
            message: of the same edges.
            old: of the same edges.
            kinds: per pair of elements that occurs its number and the edges of it.
        """
        self.post.add_to(out, message, keep=False)
        if len(self.bias):
            out[0][0][:, self.layout.columns(0, (0, 1))].add_(self.bias)
        if self.types == 1:
            self.sc[0].add_to(out, old)
            return
        for t, index in kinds:
            result = [
                [x.new_zeros(len(index) * signs(m), x.shape[1]) for m, x in enumerate(family)]
                for family in out
            ]
            self.sc[t].add_to(result, _rows(old, index))
            for whole, part in zip(out, result, strict=True):
                for m, value in enumerate(part):
                    whole[m].view(-1, signs(m), value.shape[1]).index_add_(
                        0, index, value.view(len(index), signs(m), -1)
                    )

    def after_norm(self, new: Local, old: Local) -> None:
        """``new += skip(old)``."""
        if self.skip is not None:
            self.skip.add_to(new, old)
            return
        for a, b in zip(new, old, strict=True):
            for x, y in zip(a, b, strict=True):
                x.add_(y)


def _rows(local: Local, index: Tensor) -> Local:
    return [
        [
            t.view(len(t) // signs(m), signs(m), -1)[index].reshape(len(index) * signs(m), -1)
            for m, t in enumerate(family)
        ]
        for family in local
    ]


class InferencePlan:
    """Everything inference makes from the parameters once."""

    def __init__(self, net: DeepHE3Net) -> None:
        config = net.config
        parity = not config.no_parity
        node, edge = Irreps(config.irreps_embed_node), Irreps(config.irreps_edge_init)
        self.parity, self.edge_init = parity, LocalLayout(edge, parity)
        self.node_plans: list[ConvolutionPlan] = []
        self.edge_plans: list[tuple[ConvolutionPlan, EdgePlan]] = []
        for node_update, edge_update in net.updates:
            self.node_plans.append(ConvolutionPlan(node_update, node, edge, True, parity))
            node = node_update.irreps_out
            self.edge_plans.append(
                (
                    ConvolutionPlan(edge_update, node, edge, False, parity),
                    EdgePlan(edge_update, edge, config.num_species**2, parity),
                )
            )
            edge = edge_update.irreps_out
