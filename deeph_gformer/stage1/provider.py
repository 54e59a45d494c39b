"""The interface of stage 1: a frozen network that gives irreps of every encoder group and the
direct-sum Hamiltonian."""

from __future__ import annotations

import abc
import hashlib
from collections.abc import Callable, Sequence

import torch
from e3nn.o3 import Irreps
from torch import Tensor

from ..algebra.blocks import DirectSumToProduct
from ..algebra.orbitals import TargetBlocks
from ..algebra.wigner import Generation
from ..data.edges import LearnedEdges
from ..data.features import Stage1Features
from ..data.fingerprint import checkpoint_fingerprint
from ..data.graph import Graph
from ..data.stream import IrrepStream
from ..errors import ModelError
from ..io.gauge import Gauge
from ..runtime.plan import ExecutionPlan

__all__ = ["EdgeFunction", "Stage1Provider", "joint_fingerprint"]

#: Stage 1's output from edge vectors (E, 3) and whether the irreps are wanted.
EdgeFunction = Callable[[Tensor, bool], Stage1Features]


class Stage1Provider(abc.ABC):
    """A frozen stage 1.

    Third parties implement this, check it with
    :func:`deeph_gformer.stage1.conformance.check_provider`
    and register it under the entry point group ``deeph_gformer.stage1``.

    Attributes:
        targets: elements, shells, spin and output channels.
        generation: e3nn generation of the network and of the assembly of H.
        dtype: real floating type.
        cutoff: radius of the distance basis, Å (not an edge cutoff: edges come from the data).
        node_irreps, edge_irreps: per encoder group.
        name: for messages.
        parity: False for a model trained with ``ignore_parity``.
        fill_missing: value of blocks that no output channel predicts, eV; None makes such blocks an
            error.
        equivariant: whether irreps and Hamiltonian turn with the structure; False: a trainer that
            rotates structures runs it again, and may not turn its output by Wigner-D.
        gauge: energy zero of its Hamiltonians: ``raw`` (the DFT code's), ``standard`` (H - μS), or
            ``unknown``.
        learned_edges: what it was trained on where structures have both H and S.
    """

    targets: TargetBlocks
    generation: Generation
    dtype: torch.dtype
    cutoff: float
    node_irreps: tuple[Irreps, ...]
    edge_irreps: tuple[Irreps, ...]
    name: str
    parity: bool = True
    fill_missing: float | None = None
    equivariant: bool = True
    gauge: Gauge = "unknown"
    learned_edges: LearnedEdges = "hamiltonians"

    @abc.abstractmethod
    def forward(self, graph: Graph, features: bool = True) -> Stage1Features:
        """Run the network without gradients.

        Args:
            graph: one or several structures.
            features: whether the irreps are wanted (empty tuples when not).
        """

    @abc.abstractmethod
    def fingerprint(self) -> str:
        """What tells this network from any other: bundles name their stage 1 by it, and refuse
        another.

        It depends on the parameters alone, not on device, type, or where they were read from;
        :func:`deeph_gformer.data.fingerprint.fingerprint` makes one from tensors.
        """

    def differentiable(self, graph: Graph, moving: int) -> EdgeFunction:
        """The network as a function of the first edge vectors, which :mod:`torch.func` can
        differentiate.

        Args:
            graph: one structure, on the provider's device and in its type; the edges that move
                first, self-loops last.
            moving: M, how many move, all as edges of one atom do.

        Returns:
            ``f(vectors, features)``, for vectors (M, 3) with the numbers of the graph's and
            derivatives of their own; the numbers of :meth:`forward`, those of edges in edge frames
            (:func:`deeph_gformer.algebra.rotation.moved_frames`).

        Raises:
            ModelError: this provider has no such function.
        """
        raise ModelError(
            f"{self.name}: this stage-1 engine gives no derivatives; use --backend embedded"
        )

    def stream(self, graph: Graph, execution: ExecutionPlan) -> IrrepStream | None:
        """One pass whose features are handed out chunk by chunk while it runs; None where a
        provider has no better way than :meth:`forward`.

        Args:
            graph: one structure (with several ranks this rank's edges), on the provider's device
                and in its type.
            execution: see :class:`ExecutionPlan`.
        """
        return None

    def stream_bytes(self, keep_pairs: bool) -> int | None:
        """Bytes that :meth:`stream` keeps of an edge at most; None where it is not known."""
        return None

    def check_complete(self, graph: Graph) -> None:
        """Every block of the graph is predicted, or ``fill_missing`` says what to write instead.

        Raises:
            ModelError: lists the shells of the element pairs of this graph that no channel
                predicts.
        """
        if self.fill_missing is not None:
            return
        basis = self.targets.basis
        pairs = torch.unique(
            graph.node_type[graph.edge_index[0]] * len(basis.elements)
            + graph.node_type[graph.edge_index[1]]
        )
        present = {
            f"{basis.elements[i]} {basis.elements[j]}:"
            for i, j in (divmod(int(code), len(basis.elements)) for code in pairs)
        }
        missing = [
            text for text in self.targets.missing() if f"{text.partition(':')[0]}:" in present
        ]
        if missing:
            listed = "; ".join(missing[:12]) + (
                f"; and {len(missing) - 12} more" if len(missing) > 12 else ""
            )
            raise ModelError(
                f"{self.name}: {len(missing)} blocks of this structure are not predicted "
                f"({listed}); add the models that predict them to the "
                "folder, or write zeros with --fill-missing 0"
            )

    def assembly(self) -> DirectSumToProduct:
        """The DStoDP that fits this network."""
        return DirectSumToProduct(self.targets, self.generation, self.dtype)

    def to(self, device: torch.device | str) -> Stage1Provider:
        """Move to a device; returns self."""
        return self

    def close(self) -> None:  # noqa: B027  (nothing to give back is the rule)
        """Give back what the provider holds (hooks, patched modules)."""

    def __call__(self, graph: Graph, features: bool = True) -> Stage1Features:
        return self.forward(graph, features)

    def __repr__(self) -> str:
        from ase.data import chemical_symbols

        basis = self.targets.basis
        shells = ", ".join(
            f"{chemical_symbols[z]} {list(s)}"
            for z, s in zip(basis.elements, basis.orbital_types, strict=True)
        )
        return (
            f"{type(self).__name__}({self.name}: {shells}, spinful={basis.spinful}, "
            f"{len(self.node_irreps)} encoder groups, "
            f"{len(self.targets.blocks)} target blocks, {str(self.dtype).removeprefix('torch.')}, "
            f"e3nn generation {self.generation})"
        )


def joint_fingerprint(models: Sequence[Stage1Provider]) -> str:
    """The fingerprint of several providers that act as one."""
    folders = [model.folder for model in models if hasattr(model, "folder")]
    if len(folders) == len(models):
        return checkpoint_fingerprint([folder.state_dict for folder in folders])
    return hashlib.sha256(" ".join(m.fingerprint() for m in models).encode()).hexdigest()[:32]
