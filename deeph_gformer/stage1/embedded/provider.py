"""The embedded engine as a stage 1."""

from __future__ import annotations

import dataclasses
import os

import torch
from torch import Tensor

from ...algebra.wigner import Generation
from ...data.features import Stage1Features
from ...data.fingerprint import checkpoint_fingerprint
from ...data.graph import Graph
from ...runtime.plan import ExecutionPlan
from ..bundle import ModelFolder, read_model_folder
from ..provider import EdgeFunction, Stage1Provider
from .checkpoint import load_network
from .inference import InferenceEngine
from .network import DeepHE3Net
from .stream import EmbeddedStream, bytes_per_edge

__all__ = ["EmbeddedStage1"]


class EmbeddedStage1(Stage1Provider):
    """DeepH-E3's network run by our own engine: same parameters, same numbers, no clone of
    DeepH-E3.

    Attributes:
        net: the network; its parameters ask for no gradient until a trainer switches them on.
        engine: runs it.
        folder: what it was read from.
    """

    def __init__(
        self,
        folder: ModelFolder | str | os.PathLike[str],
        generation: Generation | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = None,
        fill_missing: float | None = None,
    ) -> None:
        """
        Args:
            folder: a DeepH-E3 model folder, or what :func:`read_model_folder` made of it.
            generation: where the checkpoint cannot tell.
            device: where to run.
            dtype: other than that of the parameters.
            fill_missing: see :class:`Stage1Provider`.

        Raises:
            ModelError: the folder cannot be used.
        """
        folder = folder if isinstance(folder, ModelFolder) else read_model_folder(folder)
        if dtype is not None and dtype != folder.dtype:
            folder = dataclasses.replace(folder, dtype=dtype)
        self.folder = folder
        self.generation = folder.require_generation(generation)
        self.net: DeepHE3Net = (
            load_network(folder, self.generation).to(device).requires_grad_(False).eval()
        )
        self.engine = InferenceEngine(self.net)
        self.targets, self.dtype, self.cutoff = folder.targets, folder.dtype, folder.config.r_max
        self.node_irreps, self.edge_irreps = self.net.node_irreps, self.net.edge_irreps
        self.gauge, self.learned_edges = folder.gauge, folder.learned_edges
        self.parity, self.name, self.fill_missing = (
            not folder.config.no_parity,
            str(folder.path),
            fill_missing,
        )

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        weight: Tensor = self.net.lin_edge.weight
        return weight.device

    def forward(self, graph: Graph, features: bool = True) -> Stage1Features:
        """See :meth:`Stage1Provider.forward`. The output is on the provider's device."""
        self.check_complete(graph)
        direct_sum, node, edge = self.engine(graph.to(self.device, self.dtype), features=features)
        return Stage1Features(node, edge, direct_sum)

    def differentiable(self, graph: Graph, moving: int) -> EdgeFunction:
        """See :meth:`Stage1Provider.differentiable`."""
        self.check_complete(graph)
        graph = graph.to(self.device, self.dtype)
        prepared = self.net.prepare(graph, by_kind=False)

        def run(vectors: Tensor, features: bool) -> Stage1Features:
            """Features at these first edge vectors (M, 3), Å."""
            moved = self.net.moved(prepared, graph.edge_vector[:moving], vectors)
            direct_sum, node, edge = self.net(graph, moved, features)
            return Stage1Features(node, edge, direct_sum)

        return run

    def stream(self, graph: Graph, execution: ExecutionPlan) -> EmbeddedStream:
        """See :meth:`Stage1Provider.stream`."""
        self.check_complete(graph)
        return EmbeddedStream(self.engine, graph, execution)

    def stream_bytes(self, keep_pairs: bool) -> int:
        """See :meth:`Stage1Provider.stream_bytes`."""
        return bytes_per_edge(self.engine, keep_pairs)

    def fingerprint(self) -> str:
        """See :meth:`Stage1Provider.fingerprint`."""
        return checkpoint_fingerprint([self.folder.state_dict])

    def to(self, device: torch.device | str) -> EmbeddedStage1:
        """Move to a device; returns self."""
        self.net.to(device)
        return self
