"""A pass over some structures, and what comes of each."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from ..bands import BlochProblem
from ..bands.loading import is_orthogonal
from ..data.edges import EdgeChoice
from ..data.graph import Graph, batch_graphs
from ..errors import DataError
from ..io.blocks import BlockMatrix
from ..io.folder import has_matrix, read_matrix
from ..io.structure import Structure
from ..overlap import OverlapProvider
from ..runtime.communicator import Communicator
from ..runtime.plan import ExecutionPlan
from ..runtime.processes import agreed
from .blocks import assemble, check_finite, sum_of_differences, symmetrise
from .guard import Guard, Judgement
from .levels import Prepared, corrected, prepare
from .passes import direct_products, fast_plan
from .reading import Item

if TYPE_CHECKING:
    from ..pipeline import HamiltonianModel

__all__ = ["Prediction", "hermitian_products", "predictions"]


class Prediction(NamedTuple):
    """What a model says about one structure.

    Attributes:
        structure: the structure, with the model's spin.
        graph: what the network saw.
        hamiltonian: refined H, eV, legacy orbital order.
        stage1: stage 1's H on the same edges.
        edges: which blocks are edges, and where they came from.
        correction: mean |ΔH| of the GFormer in eV, over the elements of all blocks.
        overlap: what makes S; None where the folder has it.
        folder: where the structure was read; None where it comes from elsewhere.
        judgement: how unusual the structure is for this model, see :mod:`.guard`; None where the
            bundle does not know its training set, and for stage 1 alone.
    """

    structure: Structure
    graph: Graph
    hamiltonian: BlockMatrix
    stage1: BlockMatrix
    edges: EdgeChoice
    correction: float
    overlap: OverlapProvider | None = None
    folder: pathlib.Path | None = None
    judgement: Judgement | None = None

    def problem(self) -> BlochProblem:
        """H(k) c = E S(k) c of the prediction, for everything in :mod:`deeph_gformer.bands`.

        Raises:
            DataError: S is neither in the folder nor known to the model.
        """
        s: BlockMatrix | None
        if self.overlap is not None:
            s = self.overlap.overlap(self.structure, self.edges.keys)
        elif self.folder is not None and has_matrix(self.folder, "overlap"):
            s = read_matrix(self.folder, "overlap", self.structure)
        elif self.folder is not None:
            if not is_orthogonal(self.structure):
                raise DataError(
                    f"{self.folder}: S is not there, only H; put its overlaps.h5 beside H, or say "
                    "where S comes from: predict(..., overlap=TABLE)"
                )
            s = None
        else:
            raise DataError(
                f"'{self.structure.name}': its S is unknown, for only keys were given; predict the "
                "folder or the atoms, or make a BlochProblem with your own S"
            )
        h = self.hamiltonian.hermitian()
        name = self.structure.name
        return BlochProblem(self.structure, h, s, label=self.label, source=name, predicted=True)

    @property
    def label(self) -> str:
        """What H is, for legends: "refined", or "stage 1" where no GFormer had a part in it."""
        return "stage 1" if self.hamiltonian is self.stage1 else "refined"

    def __repr__(self) -> str:
        change = f"mean correction {self.correction * 1e3:.4g} meV"
        return f"Prediction({self.structure!r}, {self.hamiltonian!r}, {change})"


@torch.no_grad()
def predictions(
    model: HamiltonianModel,
    items: Sequence[Item],
    execution: ExecutionPlan,
    hermitian: bool = True,
    frames: int = 1,
) -> Iterator[Prediction]:
    """Predict some structures in one pass, edges in chunks: to rounding what each gets alone.

    Args:
        model: both stages.
        items: the structures; with several processes one, the same on each.
        execution: see :func:`deeph_gformer.inference.requirements.plan_structure`, of all of them.
        hermitian: symmetrise, see :func:`.blocks.symmetrise`.
        frames: rotated frames to average (not for ``arch: equivariant``).

    Yields:
        The predictions in order. With several processes ``hamiltonian`` and ``stage1`` hold the
        blocks of this process's atoms.

    Raises:
        ModelError: a prediction is not finite, or blocks are missing.
        DataError: the model has on-site levels that cannot be made, see :func:`.levels.prepare`.
        ConfigError: the chunk is smaller than the edges of one atom.
    """
    levels = None if model.bundle is None else model.bundle.levels
    prepared: list[Prepared | None] = []
    with agreed(execution.comm):
        prepared += [None if levels is None else prepare(model, item, levels) for item in items]
    execution.timer.start("stage 1")
    graph = batch_graphs([item.graph for item in items])
    guard = Guard.of(model)
    seen: list[Tensor] | None = None if guard is None else []
    first, both = direct_products(
        model, graph.to(model.device, model.dtype), execution, frames, seen
    )
    nodes = seen[0].split([item.graph.nodes for item in items]) if seen else None
    sizes = [len(first)] if len(items) == 1 else [item.graph.edges for item in items]
    firsts = list(first.split(sizes))
    boths = [None] * len(items) if first is both else list(both.split(sizes))
    del first, both  # each structure's part is given away, so that its memory comes back early
    for number, item in enumerate(items):
        made = _finished(model, item, firsts.pop(0), boths.pop(0), hermitian, execution.comm)
        verdict: Judgement | None = None
        if guard is not None:
            features = None if nodes is None else nodes[number]
            verdict = guard.judge(item.graph, features, made.correction, item.total_edges)
        if levels is not None:
            with agreed(execution.comm):
                moved, unusual = corrected(model, item, levels, prepared.pop(0), made.hamiltonian)
            made = made._replace(hamiltonian=moved)
            if unusual is not None:
                verdict = (verdict or Judgement()).with_levels(*unusual)
        made = made._replace(judgement=verdict)
        yield made


def hermitian_products(
    model: HamiltonianModel,
    graph: Graph,
    frames: int = 1,
    hermitian: bool = True,
    nodes: list[Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """H of stage 1 and of both stages in the direct-product state: Fig. 1 without the last arrow.

    Args:
        model: both stages.
        graph: one structure.
        frames: rotated frames to average (not for ``arch: equivariant``).
        hermitian: symmetrise, see :func:`.blocks.symmetrise`.
        nodes: see :func:`.passes.direct_sums`.

    Returns:
        (E, K) or (E, 4, K) each, eV, legacy orbital order, on the CPU; the same tensor twice
        without a GFormer.
    """
    execution = fast_plan([graph], model.device)
    inputs = graph.to(model.device, model.dtype)
    products = direct_products(model, inputs, execution, frames, nodes)
    if hermitian:
        symmetrise(model, *products, graph.edge_key.cpu().numpy(), execution.comm)
    return products


def _finished(
    model: HamiltonianModel,
    item: Item,
    first: Tensor,
    both: Tensor | None,
    hermitian: bool,
    comm: Communicator,
) -> Prediction:
    """Vectors of one structure to a prediction; ``both`` is None where there is no second stage."""
    structure, graph, edges = item[:3]
    alone, both = both is None, first if both is None else both
    if hermitian:
        symmetrise(model, first, both, edges.keys, comm)
    own, types = edges.keys, graph.node_type.cpu().numpy()
    with agreed(comm):
        check_finite(both, structure.name)
        refined = assemble(model, both, types, own)
        del both  # a third of the memory at this point
        stage1 = refined if alone else assemble(model, first, types, own)
        change = sum_of_differences(stage1, refined)
    sums, counts = zip(*comm.objects(change), strict=True)
    mean = sum(sums) / max(1, sum(counts))
    return Prediction(structure, graph, refined, stage1, edges, mean, item.overlap, item.folder)
