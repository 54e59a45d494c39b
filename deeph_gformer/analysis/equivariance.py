"""How far a model is from equivariance: mean |H(Rx) - D H(x) D†| over random rotations."""

from __future__ import annotations

import torch
from torch import Tensor

from ..algebra.layout import rotate_flat
from ..algebra.rotation import random_rotation, wigner_blocks
from ..data.graph import Graph, rotate_graph
from ..pipeline import HamiltonianModel
from ..prediction.passes import whole_sums

__all__ = ["equivariance_error"]


def equivariance_error(
    model: HamiltonianModel, graph: Graph, rotations: int, seed: int = 0, frames: int = 1
) -> tuple[float, float]:
    """Equivariance error of stage 1 and of both stages.

    The structure is turned, predicted, and the direct sum turned back by Wigner-D, which is H(x) ->
    D H(x) D† with its spin part.

    Args:
        model: the model.
        graph: a structure.
        rotations: how many random proper rotations.
        seed: of them.
        frames: as at inference.

    Returns:
        (stage 1, both stages), mean over rotations and elements of the direct-product difference,
        meV.
    """
    graph = graph.to(model.device, torch.float64)
    source = model.bundle if model.stage1 is None else model.stage1
    irreps = model.targets.irreps(True if source is None else source.parity)
    lmax = max(ir.l for _, ir in irreps)
    generator = torch.Generator().manual_seed(seed)
    still = whole_sums(model, graph.to(dtype=model.dtype), frames)
    total = [0.0, 0.0]
    for _ in range(rotations):
        rotation = random_rotation(generator)
        back = [b.T.to(model.device) for b in wigner_blocks(rotation, lmax)]
        moved = whole_sums(model, rotate_graph(graph, rotation).to(dtype=model.dtype), frames)
        for n in (0, 1):
            difference: Tensor = model.to_product(
                rotate_flat(moved[n], irreps, back)
            ) - model.to_product(still[n])
            total[n] += float(difference.abs().mean()) * 1e3 / rotations
    return total[0], total[1]
