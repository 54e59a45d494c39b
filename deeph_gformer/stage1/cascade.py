"""Two DeepH-E3 networks in a row: the second was trained on the residual of the first (the paper's
S1_DeepHE3 + S2_DeepHE3)."""

from __future__ import annotations

import torch
from torch import Tensor

from ..data.features import Stage1Features
from ..data.graph import Graph
from ..errors import ModelError
from .provider import EdgeFunction, Stage1Provider, joint_fingerprint

__all__ = ["CascadedStage1"]


class CascadedStage1(Stage1Provider):
    """The sum of two networks' Hamiltonians, with the irreps of the second; equivariant because
    both are."""

    def __init__(self, first: Stage1Provider, second: Stage1Provider) -> None:
        """
        Args:
            first: predicts H.
            second: predicts the residual of ``first``.

        Raises:
            ModelError: they do not predict the same blocks in the same conventions.
        """
        for what, a, b in (
            ("target blocks", first.targets, second.targets),
            ("e3nn generations", first.generation, second.generation),
            ("floating types", first.dtype, second.dtype),
            ("parities", first.parity, second.parity),
        ):
            if a != b:
                raise ModelError(
                    f"{first.name} and {second.name} have different {what} and cannot be added"
                )
        self.models, self.gauge = (first, second), first.gauge
        self.learned_edges = second.learned_edges
        self.equivariant = first.equivariant and second.equivariant
        self.targets, self.generation, self.dtype, self.parity = (
            second.targets,
            second.generation,
            second.dtype,
            second.parity,
        )
        self.cutoff, self.node_irreps, self.edge_irreps = (
            second.cutoff,
            second.node_irreps,
            second.edge_irreps,
        )
        self.name, self.fill_missing = f"{first.name} + {second.name}", first.fill_missing

    def forward(self, graph: Graph, features: bool = True) -> Stage1Features:
        """See :meth:`Stage1Provider.forward`."""
        out = self.models[1](graph, features)
        return out._replace(
            direct_sum=out.direct_sum + self.models[0](graph, features=False).direct_sum
        )

    def differentiable(self, graph: Graph, moving: int) -> EdgeFunction:
        """See :meth:`Stage1Provider.differentiable`."""
        first, second = (model.differentiable(graph, moving) for model in self.models)

        def run(vectors: Tensor, features: bool) -> Stage1Features:
            """Features of the second network; the direct sum of both."""
            out = second(vectors, features)
            return out._replace(direct_sum=out.direct_sum + first(vectors, False).direct_sum)

        return run

    def fingerprint(self) -> str:
        """See :meth:`Stage1Provider.fingerprint`."""
        return joint_fingerprint(self.models)

    def to(self, device: torch.device | str) -> CascadedStage1:
        """Move both; returns self."""
        for model in self.models:
            model.to(device)
        return self
