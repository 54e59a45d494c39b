r"""One number per structure that stage 1 gets wrong where it was not trained: the scale of the on-site blocks.

DeepH-E3's norm divides by means over the whole graph. A deep level of 100 eV, the same in every structure, leaves the network as a constant times normed features,
so on structures that it has not seen all on-site blocks come out some 0.1 to 4 % too large or too small, together, where DFT's vary by some 0.01 %. On
training structures the factor is right, so that no second stage can learn it there. What training can tell is where it belongs: with r the mean on-site
invariants (0e of the direct sum) of an element over the training atoms, and r' their part orthogonal to a shift of the zero of energy,

.. math:: \kappa = \frac{\sum_i \langle h_{ii}, r'_{z_i} \rangle}{\sum_i \langle r_{z_i}, r'_{z_i} \rangle} - 1, \qquad
          h_{ii} \leftarrow h_{ii} - \kappa \max(0, 1 - (2 \sigma / \kappa)^2)\; r_{z_i}

where σ is the standard deviation of κ in DFT's own Hamiltonians of the training set. Invariants alone change, so equivariance is exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..algebra.blocks import BlockAssembly, DirectSumToProduct
from ..algebra.orbitals import TargetBlocks
from ..data.dataset import Sample
from ..data.graph import Graph
from ..io.blocks import BlockMatrix

__all__ = ["OnsiteScale", "onsite_rows"]

#: A factor of unseen structures that is so many times the largest one of validation is cut there.
MARGIN = 5.0


def _scalars(targets: TargetBlocks, parity: bool) -> Tensor:
    """Where the 0e components stand in the direct sum."""
    places, start = [], 0
    for mul, ir in targets.irreps(parity):
        if ir.l == 0 and ir.p == 1:
            places += range(start, start + mul)
        start += mul * ir.dim
    return torch.tensor(places)


def _identity(targets: TargetBlocks, to_product: DirectSumToProduct) -> Tensor:
    """The direct sum of a unit matrix on each element's atom, (elements, D)."""
    basis = targets.basis
    numbers = np.arange(len(basis.elements))
    keys = np.stack([0 * numbers, 0 * numbers, 0 * numbers, numbers, numbers], axis=1)
    kind = np.complex128 if basis.spinful else np.float64
    units = [np.eye(basis.counts(n) * (2 if basis.spinful else 1), dtype=kind) for n in range(len(numbers))]
    vectors, _ = BlockAssembly(targets).from_matrix(BlockMatrix.from_blocks(keys, units), numbers)
    return to_product.inverse(torch.from_numpy(vectors).to(to_product.get_buffer("inverse_0").dtype))


def onsite_rows(graph: Graph) -> tuple[Tensor, Tensor]:
    """Rows of the self-loops among a graph's edges, and the element of each."""
    rows = torch.nonzero(graph.self_loop).reshape(-1)
    return rows, graph.node_type[graph.edge_index[0, rows]]


class OnsiteScale:
    """Measures the factor of a structure and takes it out.

    Attributes:
        reference: r, (elements, D), eV. axis: r', the same shape. spread: σ. limit: largest factor that is taken out.
    """

    def __init__(self, record: dict[str, Any], targets: TargetBlocks, parity: bool, to_product: DirectSumToProduct) -> None:
        """
        Args:
            record: of :meth:`measure`. targets, parity, to_product: of the model.
        """
        buffer = to_product.get_buffer("sum_order")
        places = _scalars(targets, parity)
        unit = _identity(targets, to_product).cpu().double()
        self.reference = torch.zeros_like(unit)
        for n, z in enumerate(targets.basis.elements):
            if str(z) in record["scalars_eV"]:
                self.reference[n, places] = torch.tensor(record["scalars_eV"][str(z)], dtype=torch.float64)
        along = (self.reference * unit).sum(1) / unit.square().sum(1).clamp(min=1e-30)
        self.axis = self.reference - along[:, None] * unit
        self.spread, self.limit = float(record["spread"]), float(record["limit"])
        self.reference, self.axis = self.reference.to(buffer.device), self.axis.to(buffer.device)

    def sums(self, blocks: Tensor, types: Tensor) -> Tensor:
        """Numerator and denominator of 1 + κ over some atoms: (2,), to be added up.

        Args:
            blocks: (n, D), direct sums of their self-loops, eV. types: (n,), their elements.
        """
        axis = self.axis[types]
        return torch.stack([(blocks.double() * axis).sum(), (self.reference[types] * axis).sum()])

    def factor(self, sums: Tensor) -> float:
        """What is taken out, from the sums of all self-loops: κ without what DFT's own Hamiltonians show."""
        kappa = self.kappa(sums)
        if abs(kappa) <= 2 * self.spread:
            return 0.0
        return max(-self.limit, min(self.limit, kappa * (1 - (2 * self.spread / kappa) ** 2)))

    @staticmethod
    def kappa(sums: Tensor) -> float:
        """κ itself; 0 where no element has a reference."""
        top, bottom = sums.tolist()
        return top / bottom - 1 if bottom > 0 else 0.0

    def change(self, types: Tensor, factor: float) -> Tensor:
        """What is added to the direct sums of self-loops, (n, D), eV."""
        return -factor * self.reference[types]

    def corrected(self, direct_sum: Tensor, graph: Graph) -> Tensor:
        """The direct sum (E, D) of whole structures without their factors."""
        rows, types = onsite_rows(graph)
        owner = graph.node_batch[graph.edge_index[0, rows]]
        out = direct_sum.clone()
        for structure in range(graph.structures):
            mine = owner == structure
            factor = self.factor(self.sums(direct_sum[rows[mine]], types[mine]))
            out[rows[mine]] += self.change(types[mine], factor).to(out.dtype)
        return out

    @classmethod
    def measure(
        cls,
        targets: TargetBlocks,
        parity: bool,
        to_product: DirectSumToProduct,
        train: Sequence[Sample],
        val: Sequence[tuple[Graph, Tensor]],
    ) -> dict[str, Any]:
        """The record of a bundle.

        Args:
            targets, parity, to_product: of the model. train: structures with their labels. val: graphs of unseen structures and their predicted direct sums.

        Returns:
            Plain values; empty with fewer than two training structures, which have no spread.
        """
        if len(train) < 2:
            return {}
        places, elements = _scalars(targets, parity), targets.basis.elements
        device = to_product.get_buffer("sum_order").device
        total, count = torch.zeros(len(elements), len(places), dtype=torch.float64), torch.zeros(len(elements), dtype=torch.float64)
        truths = []
        for sample in train:
            rows, types = onsite_rows(sample.graph)
            blocks = to_product.inverse(sample.label[rows].to(device))
            total.index_add_(0, types, blocks[:, places].cpu().double())
            count += torch.bincount(types, minlength=len(elements))
            truths.append((blocks, types.to(device)))
        mean = total / count.clamp(min=1)[:, None]
        record = {"scalars_eV": {str(z): mean[n].tolist() for n, z in enumerate(elements) if count[n]}, "spread": 0.0, "limit": 0.0}
        scale = cls(record, targets, parity, to_product)
        spread = float(np.std([cls.kappa(scale.sums(*truth)) for truth in truths], ddof=1))
        seen = []
        for graph, predicted in val:
            rows, types = onsite_rows(graph)
            seen.append(abs(cls.kappa(scale.sums(predicted[rows.to(device)], types.to(device)))))
        return {**record, "spread": spread, "validation": max(seen, default=0.0), "limit": MARGIN * max([2 * spread, *seen])}
