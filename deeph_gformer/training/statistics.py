"""What a new stage-1 network takes from the training set before its first step."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..algebra.blocks import DirectSumToProduct
from ..data.dataset import Sample
from ..stage1.embedded.calibrate import calibrate
from ..stage1.embedded.network import DeepHE3Net
from ..stage1.embedded.output import OutputScale, edge_types

__all__ = ["start_at_statistics", "start_scale"]


@torch.no_grad()
def start_at_statistics(
    net: DeepHE3Net, samples: Sequence[Sample], to_product: DirectSumToProduct | None
) -> None:
    """Set the output's shift and the constants of the norms, where a network has such.

    Args:
        net: new; changed in place.
        samples: the training set.
        to_product: of the labels; None where the network learns something else than these (a
            residual, whose mean is taken to be zero).
    """
    if net.scale is not None and to_product is not None:
        start_scale(net.scale, samples, to_product)
    if net.config.norm == "training":
        calibrate(net, (sample.graph for sample in samples))


@torch.no_grad()
def start_scale(
    scale: OutputScale, samples: Sequence[Sample], to_product: DirectSumToProduct
) -> None:
    """Shift = mean of each 0e of the labels' direct sum per type of edge; types that do not occur
    keep zero.

    The scale stays one, as DeepH-E3's later version starts: at the labels' rms it learns slower
    (measured in the documentation, :doc:`/measured/accuracy`).

    Args:
        scale: changed in place.
        samples: the training set.
        to_product: of the labels.
    """
    if (0, 1) not in scale.layout.channels:
        return
    elements = len(to_product.targets.basis.elements)
    total = torch.zeros_like(scale.mu, dtype=torch.float64)
    count = total.new_zeros(len(total))
    for sample in samples:
        known = sample.mask.flatten(1).any(dim=1)  # edges that have a label
        graph = sample.graph
        source, destination = graph.edge_index[:, known]
        loops = graph.self_loop[known]
        types = edge_types(graph.node_type, source, destination, loops, elements)
        flat = to_product.inverse(sample.label[known])
        value = scale.layout.split(flat)[0, 1][:, 0].double()  # (edges, irreps 0e)
        count.index_add_(0, types, torch.ones_like(value[:, 0]))
        total.index_add_(0, types, value)
    scale.mu.copy_(total / count.clamp(min=1)[:, None])
