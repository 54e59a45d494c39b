"""A stage 1 of somebody else.

H and features are Gaussians of the distance times spherical harmonics.

It holds one tensor, the strengths; a model is a JSON file with elements, shells and strengths.
"""

from __future__ import annotations

import json
import pathlib

import torch
from e3nn.o3 import Irreps

from deeph_gformer.algebra.orbitals import Basis, make_target_blocks
from deeph_gformer.algebra.rotation import spherical_harmonics
from deeph_gformer.data.features import Stage1Features
from deeph_gformer.data.fingerprint import fingerprint
from deeph_gformer.stage1.provider import Stage1Provider


class ToyStage1(Stage1Provider):
    """See the module's text."""

    def __init__(self, table: dict, name: str, dtype: torch.dtype) -> None:
        shells = tuple(tuple(s) for s in table["orbital_types"])
        self.targets = make_target_blocks(Basis(tuple(table["elements"]), shells, False))
        self.strengths = torch.tensor(table["strengths"], dtype=dtype)
        self.generation, self.dtype, self.cutoff, self.name = ">=0.5", dtype, 6.0, name
        self.node_irreps = self.edge_irreps = (Irreps("2x0e+2x1o+2x2e"),)

    def fingerprint(self) -> str:
        return fingerprint({"strengths": self.strengths})

    def to(self, device: torch.device | str) -> ToyStage1:
        self.strengths = self.strengths.to(device)
        return self

    @torch.no_grad()
    def forward(self, graph, features: bool = True) -> Stage1Features:
        graph = graph.to(self.strengths.device, self.dtype)
        i, j = graph.edge_index
        harmonics = spherical_harmonics(graph.edge_vector, 4).split([1, 3, 5, 7, 9], dim=1)
        kinds = (1 + graph.node_type[i] + graph.node_type[j]).to(self.dtype)
        radial = torch.exp(-graph.edge_length[:, None] * self.strengths) * kinds[:, None]  # (E, 2)
        parts = []
        for number, (_, ir) in enumerate(self.targets.irreps()):
            natural = ir.p == (-1) ** ir.l and ir.l <= 4  # no pseudo-tensors from one direction
            weight = radial[:, number % 2, None] * float(natural)
            parts.append(weight * harmonics[min(ir.l, 4)][:, : 2 * ir.l + 1])
        direct_sum = torch.cat(parts, dim=1)
        if not features:
            return Stage1Features((), (), direct_sum)
        edge = torch.cat(
            [(radial[:, :, None] * h[:, None]).flatten(1) for h in harmonics[:3]], dim=1
        )
        node = edge.new_zeros(graph.nodes, edge.shape[1]).index_add(0, i, edge)
        return Stage1Features((node,), (edge,), direct_sum)


def load(model_dir, *, generation=None, device="cpu", dtype=None, fill_missing=None) -> ToyStage1:
    """What the entry point names."""
    path = pathlib.Path(model_dir)
    return ToyStage1(json.loads(path.read_text()), path.name, dtype or torch.float64).to(device)
