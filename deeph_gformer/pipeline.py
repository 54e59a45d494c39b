"""The page: graph -> stage 1 -> GFormer -> direct sum -> direct product -> blocks (Fig. 1).

The arrows are, in this order, :mod:`.prediction.reading`, :mod:`.stage1.stream`,
:mod:`.gformer.forward`, :mod:`.prediction.passes`, :mod:`.algebra.blocks` and
:mod:`.prediction.blocks`.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from .algebra.blocks import BlockAssembly, DirectSumToProduct
from .gformer.bundle import Bundle, load_bundle
from .prediction.identity import check_pair, open_stage1, say_weaknesses
from .prediction.passes import fast_plan
from .prediction.predictor import Predictor
from .prediction.reading import Item
from .prediction.run import Prediction, predictions
from .runtime.device import resolve_device, resolve_dtype
from .runtime.plan import ExecutionPlan
from .stage1.provider import Stage1Provider

__all__ = ["HamiltonianModel", "Prediction", "load"]


@dataclasses.dataclass
class HamiltonianModel(Predictor):
    """Stage 1 and, unless it is to run alone, a GFormer on top.

    :meth:`predict` and :meth:`predict_many` are those of :class:`.prediction.predictor.Predictor`.

    Attributes:
        stage1: frozen DeepH-E3, None only for a GFormer that stands alone.
        bundle: stage 2, None for stage 1 alone.
        device: where both run.
    """

    stage1: Stage1Provider | None
    bundle: Bundle | None = None
    device: torch.device = dataclasses.field(default_factory=lambda: torch.device("cpu"))

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
        self.learned_edges = (source if self.bundle is None else self.bundle).learned_edges

    def __repr__(self) -> str:
        return f"HamiltonianModel(\n  stage1={self.stage1!r},\n  gformer={self.bundle!r})"

    def without_levels(self) -> HamiltonianModel:
        """The same networks, whose predictions are not given the bundle's on-site levels."""
        if self.bundle is None or self.bundle.levels is None:
            return self
        ours = ("levels", "levels_validation")
        training = {k: v for k, v in self.bundle.training.items() if k not in ours}
        bundle = dataclasses.replace(self.bundle, training=training)
        return HamiltonianModel(self.stage1, bundle, self.device)

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
    """Load a model for prediction; what is known to be wrong with it is said.

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
    found = HamiltonianModel(first, None if model is None else load_bundle(model), where)
    if found.bundle is not None:
        say_weaknesses(found.bundle)
    return found
