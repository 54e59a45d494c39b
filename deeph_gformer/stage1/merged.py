"""Several models of one ``trained_model_dir``, each predicting some blocks, as one stage 1."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from e3nn.o3 import Irreps

from ..algebra.orbitals import TargetBlocks
from ..data.features import Stage1Features
from ..data.graph import Graph
from ..errors import ModelError
from .provider import EdgeFunction, Stage1Provider, joint_fingerprint

__all__ = ["MergedStage1"]


class MergedStage1(Stage1Provider):
    """Models side by side: their output channels are joined, model after model, and so are their
    irreps, group by group.

    The irreps of group p are those of all models, concatenated, so stage 2 sees what every model
    knows. Models with fewer encoder groups set P; of the others the last P groups count (the last
    group is the one the output is made of).
    """

    def __init__(self, models: Sequence[Stage1Provider], fill_missing: float | None = None) -> None:
        """
        Args:
            models: at least one; of one basis, dtype and e3nn generation.
            fill_missing: see :class:`Stage1Provider`.

        Raises:
            ModelError: the models do not belong together, or two of them predict the same block.
        """
        if not models:
            raise ModelError("no models to merge")
        first = models[0]
        for other in models[1:]:
            for what, a, b in (
                ("e3nn generations", first.generation, other.generation),
                ("floating types", first.dtype, other.dtype),
                ("gauges", first.gauge, other.gauge),
                ("edges", first.learned_edges, other.learned_edges),
                ("elements, orbitals or spin", first.targets.basis, other.targets.basis),
            ):
                if a != b:
                    raise ModelError(
                        f"models of different {what} cannot be merged: {first.name} ({a}) and "
                        f"{other.name} ({b}); keep them in separate folders"
                    )
        owner: dict[tuple[tuple[int, int], tuple[int, int]], str] = {}
        for model in models:
            for channel in model.targets.blocks:
                for pair, shells in channel.items():
                    if owner.setdefault((pair, shells), model.name) != model.name:
                        z = [first.targets.basis.elements[n] for n in pair]
                        raise ModelError(
                            f"{owner[pair, shells]} and {model.name} both predict shells "
                            f"{list(shells)} of elements {z}; "
                            "name one of them instead of their folder"
                        )
        self.models = tuple(models)
        self.targets = TargetBlocks(
            first.targets.basis,
            tuple(channel for model in models for channel in model.targets.blocks),
        )
        self.gauge, self.learned_edges = first.gauge, first.learned_edges
        self.equivariant = all(model.equivariant for model in models)
        self.generation, self.dtype, self.fill_missing = first.generation, first.dtype, fill_missing
        self.cutoff, self.parity = max(m.cutoff for m in models), all(m.parity for m in models)
        self.name = " + ".join(m.name for m in models)
        groups = min(len(m.node_irreps) for m in models)
        self.node_irreps = tuple(
            sum((m.node_irreps[p - groups] for m in models), Irreps([])) for p in range(groups)
        )
        self.edge_irreps = tuple(
            sum((m.edge_irreps[p - groups] for m in models), Irreps([])) for p in range(groups)
        )
        for model in models:
            model.fill_missing = 0.0  # completeness is a matter of all of them together

    def forward(self, graph: Graph, features: bool = True) -> Stage1Features:
        """See :meth:`Stage1Provider.forward`."""
        self.check_complete(graph)
        outputs = [model(graph, features) for model in self.models]
        return self._joined(outputs, features)

    def differentiable(self, graph: Graph, moving: int) -> EdgeFunction:
        """See :meth:`Stage1Provider.differentiable`."""
        self.check_complete(graph)
        models = [model.differentiable(graph, moving) for model in self.models]
        return lambda vectors, features: self._joined(
            [model(vectors, features) for model in models], features
        )

    def _joined(self, outputs: Sequence[Stage1Features], features: bool) -> Stage1Features:
        """The output of all models as one."""
        if self.targets.basis.spinful:
            halves = [o.direct_sum.chunk(2, dim=1) for o in outputs]
            direct_sum = torch.cat([re for re, _ in halves] + [im for _, im in halves], dim=1)
        else:
            direct_sum = torch.cat([o.direct_sum for o in outputs], dim=1)
        groups = range(len(self.node_irreps)) if features else ()
        last = len(self.node_irreps)
        node = tuple(torch.cat([o.node[p - last] for o in outputs], dim=1) for p in groups)
        edge = tuple(torch.cat([o.edge[p - last] for o in outputs], dim=1) for p in groups)
        return Stage1Features(node, edge, direct_sum)

    def fingerprint(self) -> str:
        """See :meth:`Stage1Provider.fingerprint`."""
        return joint_fingerprint(self.models)

    def to(self, device: torch.device | str) -> MergedStage1:
        """Move every model; returns self."""
        for model in self.models:
            model.to(device)
        return self

    def close(self) -> None:
        """Close every model."""
        for model in self.models:
            model.close()
