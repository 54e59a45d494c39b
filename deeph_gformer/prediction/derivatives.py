"""∂H/∂τ of one atom by forward-mode differentiation through both stages.

All periodic images of the atom move together (q = 0); in a supercell it is one atom of many. The
edges stay those of the structure. The three directions share one pass of the network: its numbers
are computed once, its tangents as a batch of three.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from e3nn.o3 import Irreps
from torch import Tensor

from ..algebra.dual import derivatives_along
from ..algebra.layout import SplitFrame, turn_flat
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

__all__ = ["MovingAtom", "hamiltonian_derivative", "moving_atom", "sums_of_vectors"]


#: Edges whose derivatives are worked on together, so that they stay in a processor's cache.
CHUNK = 512


class MovingAtom(NamedTuple):
    """A structure with one atom that moves.

    Attributes:
        graph: its edges: first those that move, last atoms with themselves.
        order: (E,), which edge of the structure each of them is.
        speed: (M,), how the first edge vectors move with the atom: +1 where it is atom j, -1 where
            it is atom i.
    """

    graph: Graph
    order: Tensor
    speed: Tensor


def moving_atom(graph: Graph, atom: int) -> MovingAtom:
    """A structure and which of its edges move with an atom, 0-based."""
    first, second = graph.edge_index
    speed = (second == atom).to(graph.edge_vector) - (first == atom).to(graph.edge_vector)
    order = torch.argsort((speed == 0).int() + graph.self_loop.int(), stable=True)
    sorted_graph = graph._replace(
        edge_index=graph.edge_index[:, order],
        edge_vector=graph.edge_vector[order],
        edge_key=graph.edge_key[order],
    )
    return MovingAtom(sorted_graph, order, speed[speed != 0])


def sums_of_vectors(model: HamiltonianModel, moving: MovingAtom) -> Callable[[Tensor], Tensor]:
    """The direct sum of both stages as a function of the edge vectors that move.

    In edge frames as long as may be: there only the few edges that move have frames and lengths
    with a derivative.

    Args:
        model: both stages.
        moving: one structure, on the model's device and in its type.

    Returns:
        ``f(vectors)``, (M, 3) to (E, D), eV, in the order of ``moving``; derivatives with
        :mod:`torch.func`, first order.

    Raises:
        ModelError: stage 1 cannot be differentiated.
    """
    graph, count = moving.graph, len(moving.speed)
    stage1 = None if model.stage1 is None else model.stage1.differentiable(graph, count)
    network = None if model.bundle is None else model.bundle.model
    reads = network is not None and bool(network.node_irreps)
    irreps = model.targets.irreps()  # a turn does not depend on their parity
    known = network.node_irreps + network.edge_irreps if network is not None else ()
    frames = edge_frames(graph.edge_vector, max(i.lmax for i in (irreps, *known)))
    start, rest = graph.edge_vector[:count], graph.edge_vector[count:]
    marks = [0, *range(count, graph.edges, CHUNK), graph.edges]
    chunks = [slice(a, b) for a, b in itertools.pairwise(marks) if b > a]

    def run(vectors: Tensor) -> Tensor:
        """(E, D), the direct sum of both stages at these first edge vectors (M, 3)."""
        moved = moved_frames(frames, start, vectors)
        features = None if stage1 is None else stage1(vectors, reads)
        local, second = True, None
        if network is not None:
            whole = graph._replace(edge_vector=torch.cat([vectors, rest]))
            local = network.equivariant
            if features is not None and not local:
                features = _in_global_axes(features, irreps, network.edge_irreps, moved)
            second = network(whole, features if reads else None, moved if local else None, chunks)
        both = both_stages(model, None if features is None else features.direct_sum, second)
        return turn_flat(both, irreps, moved, to_local=False) if local else both

    return run


def _in_global_axes(
    features: Stage1Features,
    irreps: Irreps,
    edge_irreps: Sequence[Irreps],
    frames: list[SplitFrame],
) -> Stage1Features:
    """What stage 1 gives of edges, out of their frames."""
    edges = zip(edge_irreps, features.edge, strict=False)
    return Stage1Features(
        features.node,
        tuple(turn_flat(value, i, frames, to_local=False) for i, value in edges),
        turn_flat(features.direct_sum, irreps, frames, to_local=False),
    )


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
    moving = moving_atom(item.graph.to(model.device, model.dtype), atom)
    function, start = sums_of_vectors(model, moving), moving.graph.edge_vector[: len(moving.speed)]
    axes = torch.eye(3, dtype=start.dtype, device=start.device)
    tangents = moving.speed[None, :, None] * axes[:, None]  # (3, M, 3)

    result = derivatives_along(function, start, tangents)  # (3, E, D)
    slopes = torch.empty_like(result)
    slopes[:, moving.order] = result
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
