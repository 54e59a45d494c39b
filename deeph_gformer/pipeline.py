"""The page: graph -> stage 1 -> GFormer -> direct sum -> direct product -> blocks (Fig. 1 of the
paper).

>>> model = load("gformer/", stage1="stage1/")                                      # doctest: +SKIP
>>> prediction = model.predict("structures/0030")                                   # doctest: +SKIP
>>> prediction.hamiltonian                                                          # doctest: +SKIP
BlockMatrix(826 blocks, 139594 values, float32)
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .algebra.blocks import BlockAssembly, DirectSumToProduct
from .algebra.orbitals import TargetBlocks
from .data.edges import EdgeMode
from .data.features import Stage1Features
from .data.graph import Graph
from .data.ranges import bundle_ranges
from .errors import ConfigError
from .gformer.bundle import BUNDLE_FILE, Bundle, load_bundle
from .io.gauge import Gauge
from .io.structure import Structure
from .prediction.blocks import make_hermitian
from .prediction.identity import GFormerStage1, check_pair
from .prediction.passes import direct_products, fast_plan, whole_sums
from .prediction.reading import Item, read_graph
from .prediction.run import Prediction, predictions
from .runtime.device import resolve_device
from .runtime.plan import ExecutionPlan
from .stage1 import load_stage1
from .stage1.provider import Stage1Provider

__all__ = ["HamiltonianModel", "Prediction", "load"]


@dataclasses.dataclass
class HamiltonianModel:
    """Stage 1 and, unless it is to run alone, a GFormer on top.

    Attributes:
        stage1: frozen DeepH-E3, None only for a GFormer that stands alone.
        bundle: stage 2, None for stage 1 alone.
        device: where both run.
        observe: called with every graph and stage 1's node irreps, e.g. by the guard; None: nobody
            looks.
    """

    stage1: Stage1Provider | None
    bundle: Bundle | None = None
    device: torch.device = dataclasses.field(default_factory=lambda: torch.device("cpu"))
    observe: Callable[[Graph, Stage1Features], None] | None = None

    def __post_init__(self) -> None:
        source = self.bundle if self.stage1 is None else self.stage1
        if source is None:
            raise ConfigError("neither a stage 1 nor a GFormer bundle is given")
        if self.bundle is not None:
            check_pair(self.stage1, self.bundle)
            self.bundle.model.to(self.device)
        if self.stage1 is not None:
            self.stage1.to(self.device)
        self.targets: TargetBlocks = source.targets
        self.dtype: torch.dtype = source.dtype
        to_product = DirectSumToProduct(self.targets, source.generation, self.dtype)
        self.to_product = to_product.to(self.device)
        self.blocks = BlockAssembly(self.targets)

    @property
    def gauge(self) -> Gauge:
        """Energy zero of the predicted Hamiltonian: ``raw``, ``standard`` or ``unknown``."""
        if self.bundle is not None:
            return self.bundle.gauge
        return self.stage1.gauge if self.stage1 is not None else "unknown"

    def __repr__(self) -> str:
        return f"HamiltonianModel(\n  stage1={self.stage1!r},\n  gformer={self.bundle!r})"

    def direct_sums(self, graph: Graph, frames: int = 1, seed: int = 0) -> tuple[Tensor, Tensor]:
        """Direct-sum H of stage 1 and of both stages, (E, D) each, eV."""
        return whole_sums(self, graph, frames, seed)

    def direct_products(
        self,
        graph: Graph,
        frames: int = 1,
        hermitian: bool = True,
        execution: ExecutionPlan | None = None,
    ) -> tuple[Tensor, Tensor]:
        """H of stage 1 and of both stages in the direct-product state: Fig. 1 without the last
        arrow.

        Args:
            graph: one structure.
            frames: rotated frames to average.
            hermitian: make it ½(H + H†).
            execution: see :meth:`predict_graphs`.

        Returns:
            (E, K) or (E, 4, K) each, eV, legacy orbital order, on the CPU, of this rank's edges;
            the same tensor twice without a GFormer.
        """
        execution = execution or fast_plan([graph], self.device)
        products = direct_products(self, graph.to(self.device, self.dtype), execution, frames)
        if hermitian:
            make_hermitian(products, graph.edge_key.cpu().numpy(), self.targets, execution.comm)
        return products

    def read(
        self,
        source: str | os.PathLike[str] | Structure,
        edges: EdgeMode = "auto",
        keys: NDArray[np.int64] | None = None,
    ) -> Item:
        """The graph of a structure as this model wants it.

        See :func:`.prediction.reading.read_graph`.
        """
        return read_graph(source, self.targets.basis, bundle_ranges(self.bundle), edges, keys)

    def predict(
        self,
        source: str | os.PathLike[str] | Structure,
        edges: EdgeMode = "auto",
        hermitian: bool = True,
        frames: int = 1,
        keys: NDArray[np.int64] | None = None,
    ) -> Prediction:
        """Predict the Hamiltonian of one structure.

        Args:
            source: a structure folder; or a :class:`Structure`, with ``keys`` (E, 5) for its edges.
            edges: which blocks are edges (folders only).
            hermitian: make it ½(H + H†).
            frames: rotated frames to average (not for ``arch: equivariant``).
            keys: see ``source``.

        Raises:
            DataError, ModelError: see :meth:`read` and :meth:`predict_graphs`.
        """
        return next(self.predict_graphs([self.read(source, edges, keys)], None, hermitian, frames))

    def predict_graphs(
        self,
        items: Sequence[Item],
        execution: ExecutionPlan | None = None,
        hermitian: bool = True,
        frames: int = 1,
    ) -> Iterator[Prediction]:
        """Predict some structures in one pass, edges in chunks.

        See :func:`.prediction.run.predictions`.

        Args:
            items: what :meth:`read` gives of each; with several processes one, the same on each.
            execution: chunk, storage, processes; None: no limit of memory, one process.
            hermitian: see :meth:`predict`.
            frames: see :meth:`predict`.
        """
        execution = execution or fast_plan([item.graph for item in items], self.device)
        return predictions(self, items, execution, hermitian, frames)


def load(
    model: str | os.PathLike[str] | None = None,
    stage1: str | os.PathLike[str] | None = None,
    *,
    device: str = "cpu",
    dtype: str | None = None,
    **stage1_options: Any,
) -> HamiltonianModel:
    """Load a model for prediction.

    Args:
        model: a GFormer bundle; None runs stage 1 alone.
        stage1: a DeepH-E3 model folder (or a folder of several), or the bundle of a GFormer alone.
        device: ``cpu``, ``cuda``, ... or ``auto``.
        dtype: ``float32`` or ``float64``, other than that of stage 1's parameters.
        stage1_options: see :func:`deeph_gformer.stage1.load_stage1`.

    Raises:
        ModelError: a model cannot be read, or bundle and stage 1 do not belong together.
        ConfigError: an unknown option value.
    """
    kinds = {None: None, "float32": torch.float32, "float64": torch.float64}
    if dtype not in kinds:
        raise ConfigError(f"dtype '{dtype}' is unknown; choose float32 or float64")
    where = resolve_device(device)
    provider: Stage1Provider | None = None
    if stage1 is not None:
        is_bundle = (pathlib.Path(stage1) / BUNDLE_FILE).is_file()
        provider = (
            GFormerStage1(load_bundle(stage1))
            if is_bundle
            else load_stage1(stage1, dtype=kinds[dtype], device=where, **stage1_options)
        )
    return HamiltonianModel(provider, None if model is None else load_bundle(model), where)
