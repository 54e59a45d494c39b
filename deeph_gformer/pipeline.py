"""The page: graph -> stage 1 -> GFormer -> direct sum -> direct product -> blocks (Fig. 1).

The arrows are, in this order, :mod:`.prediction.reading`, :mod:`.stage1.stream`,
:mod:`.gformer.forward`, :mod:`.prediction.passes`, :mod:`.algebra.blocks` and
:mod:`.prediction.blocks`.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, overload

import numpy as np
import torch
from numpy.typing import NDArray

from .algebra.blocks import BlockAssembly, DirectSumToProduct
from .data.edges import EdgeMode
from .data.features import Stage1Features
from .data.graph import Graph
from .errors import ConfigError
from .gformer.bundle import Bundle, load_bundle
from .overlap import OverlapProvider
from .prediction.identity import check_pair, open_stage1
from .prediction.passes import fast_plan
from .prediction.reading import Item, Source, read_item
from .prediction.run import Prediction, predict_all, predictions
from .prediction.seen import warn_close
from .runtime.device import resolve_device, resolve_dtype
from .runtime.plan import ExecutionPlan
from .stage1.provider import Stage1Provider

__all__ = ["HamiltonianModel", "Prediction", "load"]


@dataclasses.dataclass
class HamiltonianModel:
    """Stage 1 and, unless it is to run alone, a GFormer on top.

    Attributes:
        stage1: frozen DeepH-E3, None only for a GFormer that stands alone.
        bundle: stage 2, None for stage 1 alone.
        device: where both run.
        observe: called with every graph and stage 1's node irreps; None: nobody looks.
    """

    stage1: Stage1Provider | None
    bundle: Bundle | None = None
    device: torch.device = dataclasses.field(default_factory=lambda: torch.device("cpu"))
    observe: Callable[[Graph, Stage1Features], None] | None = None

    def __post_init__(self) -> None:
        source = check_pair(self.stage1, self.bundle)
        if self.bundle is not None:
            self.bundle.model.to(self.device)
        if self.stage1 is not None:
            self.stage1.to(self.device)
        self.targets, self.dtype = source.targets, source.dtype
        to_product = DirectSumToProduct(self.targets, source.generation, self.dtype)
        self.to_product = to_product.to(self.device)
        self.blocks = BlockAssembly(self.targets)
        #: Energy zero of the predicted Hamiltonian: ``raw``, ``standard`` or ``unknown``.
        self.gauge = source.gauge if self.bundle is None else self.bundle.gauge

    def __repr__(self) -> str:
        return f"HamiltonianModel(\n  stage1={self.stage1!r},\n  gformer={self.bundle!r})"

    def read(
        self,
        source: Source,
        edges: EdgeMode = "auto",
        keys: NDArray[np.int64] | None = None,
        overlap: OverlapProvider | None = None,
    ) -> Item:
        """The graph of a structure for this model; see :func:`.prediction.reading.read_item`."""
        return read_item(self, source, edges, keys, overlap)

    @overload
    def predict(
        self,
        source: Source,
        edges: EdgeMode = "auto",
        hermitian: bool = True,
        frames: int = 1,
        keys: NDArray[np.int64] | None = None,
    ) -> Prediction: ...

    @overload
    def predict(
        self,
        source: list[Source] | list[str] | tuple[Source, ...],
        edges: EdgeMode = "auto",
        hermitian: bool = True,
        frames: int = 1,
    ) -> list[Prediction]: ...

    def predict(
        self,
        source: Any,
        edges: EdgeMode = "auto",
        hermitian: bool = True,
        frames: int = 1,
        keys: NDArray[np.int64] | None = None,
    ) -> Prediction | list[Prediction]:
        """Predict the Hamiltonian of one structure, or of each in a list.

        Args:
            source: a structure folder, a file that ASE reads, ``ase.Atoms``, a pymatgen
                ``Structure`` or a :class:`.Structure`; or a list of them. A folder has its own
                edges; the others take theirs from the overlap table in the model's bundle.
            edges: which blocks are edges (folders only).
            hermitian: make it ½(H + H†).
            frames: rotated frames to average (not for ``arch: equivariant``).
            keys: (E, 5), the edges of one :class:`.Structure`.

        Raises:
            DataError: a source cannot be read or is unlike every training structure.
            ModelError: unknown elements or other shells.
            ConfigError: no source of edges.
        """
        if isinstance(source, (list, tuple)):
            if keys is not None:
                raise ConfigError("keys are of one structure; predict them one by one")
            return self.predict_many(source, edges, hermitian, frames)
        item = self.read(source, edges, keys)
        warn_close(self, item)
        return next(self.predict_graphs([item], None, hermitian, frames))

    def predict_many(
        self,
        sources: Sequence[Source],
        edges: EdgeMode = "auto",
        hermitian: bool = True,
        frames: int = 1,
    ) -> list[Prediction]:
        """:meth:`predict` of a list, small ones together; to rounding the same numbers."""
        return predict_all(self, sources, edges, hermitian, frames)

    def predict_graphs(
        self,
        items: Sequence[Item],
        execution: ExecutionPlan | None = None,
        hermitian: bool = True,
        frames: int = 1,
    ) -> Iterator[Prediction]:
        """What :meth:`read` gave, in one pass; see :func:`.prediction.run.predictions`."""
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
    kind, where = resolve_dtype(dtype), resolve_device(device)
    first = None if stage1 is None else open_stage1(stage1, kind, where, **stage1_options)
    return HamiltonianModel(first, None if model is None else load_bundle(model), where)
