"""∂H/∂τ of one atom by forward-mode differentiation through both stages.

All periodic images of the atom move together (q = 0); in a supercell it is one atom of many. The
edges stay those of the structure. The three directions share one pass of the network: its numbers
are computed once, its tangents as a batch of three.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ..algebra.rotation import edge_frames, moved_frames
from ..data.features import Stage1Features
from ..data.graph import Graph
from ..errors import ConfigError, ModelError
from ..io.blocks import BlockMatrix
from ..runtime.communicator import Communicator
from .blocks import symmetrise
from .passes import both_stages
from .reading import Item

if TYPE_CHECKING:
    from ..pipeline import HamiltonianModel

__all__ = ["edge_speeds", "hamiltonian_derivative", "sums_of_vectors"]


def edge_speeds(graph: Graph, atom: int) -> Tensor:
    """How edge vectors move with an atom, (E,): +1 where it is atom j, -1 where it is atom i."""
    first, second = graph.edge_index
    return (second == atom).to(graph.edge_vector) - (first == atom).to(graph.edge_vector)


def sums_of_vectors(model: HamiltonianModel, graph: Graph) -> Callable[[Tensor], Tensor]:
    """The direct sum of both stages as a function of the edge vectors.

    Args:
        model: both stages.
        graph: one structure, on the model's device and in its type.

    Returns:
        ``f(vectors)``, (E, 3) to (E, D), eV; derivatives with :mod:`torch.func`, first order.

    Raises:
        ModelError: stage 1 cannot be differentiated.
    """
    stage1 = None if model.stage1 is None else model.stage1.differentiable(graph)
    network = None if model.bundle is None else model.bundle.model
    local = network is not None and network.equivariant
    frames: list[Tensor] = []
    if network is not None and local:
        irreps = (*network.node_irreps, *network.edge_irreps, network.irreps_out)
        frames = edge_frames(graph.edge_vector, max(i.lmax for i in irreps))

    def run(vectors: Tensor) -> Tensor:
        """(E, D), the direct sum of both stages at these edge vectors (E, 3)."""
        features: Stage1Features | None = None
        if stage1 is not None:
            features = stage1(vectors, network is not None and bool(network.node_irreps))
        if network is None:
            return both_stages(model, None if features is None else features.direct_sum, None)
        moved = moved_frames(frames, graph.edge_vector, vectors) if local else None
        reads = features if network.node_irreps else None
        second = network(graph._replace(edge_vector=vectors), reads, moved)
        return both_stages(model, None if features is None else features.direct_sum, second)

    return run


@torch.no_grad()
def hamiltonian_derivative(
    model: HamiltonianModel, item: Item, atom: int, hermitian: bool = True
) -> tuple[BlockMatrix, BlockMatrix, BlockMatrix]:
    """∂H/∂x, ∂H/∂y and ∂H/∂z of an atom.

    Args:
        model: both stages.
        item: what :meth:`HamiltonianModel.read` gives of the structure.
        atom: 0-based.
        hermitian: of ½(H + H†), which is what a prediction is by default.

    Returns:
        Three matrices with the blocks of the structure, eV/Å, legacy orbital order.

    Raises:
        ConfigError: there is no such atom.
        ModelError: stage 1 cannot be differentiated, or H has no derivative here.
    """
    if not 0 <= atom < item.graph.nodes:
        raise ConfigError(
            f"'{item.structure.name}' has atoms 1 to {item.graph.nodes}, not {atom + 1}"
        )
    graph = item.graph.to(model.device, model.dtype)
    function, speed = sums_of_vectors(model, graph), edge_speeds(graph, atom)
    axes = torch.eye(3, dtype=graph.edge_vector.dtype, device=graph.edge_vector.device)
    tangents = speed[None, :, None] * axes[:, None]  # (3, E, 3)

    def along(tangent: Tensor) -> Tensor:
        """(E, D), the slope along one set of velocities (E, 3) of the edges."""
        made: Tensor = torch.func.jvp(function, (graph.edge_vector,), (tangent,))[1]
        return made

    slopes = torch.func.vmap(along)(tangents)  # (3, E, D)
    if not torch.isfinite(slopes).all():
        raise ModelError(
            f"'{item.structure.name}': H has no derivative by the position of atom {atom + 1}: the "
            "model has a kink here (a norm that vanishes by symmetry). Bundles trained with "
            "norm_floor above 0 have none"
        )
    keys, types = item.graph.edge_key.numpy(), item.graph.node_type.numpy()
    fill = getattr(model.stage1, "fill_missing", None)
    out = []
    for slope in slopes:
        product = model.to_product(slope).cpu().contiguous()
        if hermitian:
            symmetrise(model, None, product, keys, Communicator())
        # a block that no channel predicts is written as a constant
        matrix = model.blocks.to_matrix(
            product.numpy(), types, keys, np.nan if fill is None else 0.0
        )
        out.append(matrix)
    return out[0], out[1], out[2]
