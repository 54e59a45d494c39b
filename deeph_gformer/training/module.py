"""The Lightning module of both stages: loss in the direct-product state, validation in meV."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn

from ..algebra.blocks import DirectSumToProduct
from ..config import TrainingConfig
from ..data.symmetry import hermitian_product, time_reversal_mean, transpose_index
from ..gformer.model import GFormer
from ..stage1.embedded.inference import InferenceEngine
from ..stage1.embedded.network import DeepHE3Net
from ..stage1.provider import Stage1Provider
from .batches import Batch, rotate_batch

if TYPE_CHECKING:
    from .cuda_graphs import StepGraphs
    from .state_bank import StateBank
    from .states import StepStates

__all__ = ["HamiltonianTask", "Stage1Task", "Stage2Task", "masked_loss", "rate_factor", "warmup"]


def masked_loss(error: Tensor, mask: Tensor, kind: str, unit: float) -> Tensor:
    """Mean over masked elements of the loss of |error| / unit (|.| of the complex difference).

    Args:
        error: eV, any shape, real or complex.
        mask: of the same shape.
        kind: ``mse``, ``mae`` or ``huber`` (quadratic below one unit).
        unit: eV.

    Returns:
        A number without unit, (); of no masked element 0.
    """
    if mask.is_cuda or not mask.all():  # a GPU would wait for the answer
        error = torch.where(mask, error, error.new_zeros(()))
    if kind == "mse":  # without |.|, whose gradient is dear for complex numbers
        return (
            (torch.view_as_real(error) if error.is_complex() else error).square().sum()
            / unit**2
            / mask.sum().clamp(min=1)
        )
    size = error.abs() / unit
    if kind == "mae":
        value = size
    else:
        value = nn.functional.huber_loss(size, torch.zeros_like(size), reduction="none")
    return value.sum() / mask.sum().clamp(min=1)


def warmup(settings: TrainingConfig, steps: int) -> int:
    """Steps in which the learning rate rises: ``warmup_steps``, at most a tenth of the training."""
    return min(settings.warmup_steps, steps // 10)


def rate_factor(settings: TrainingConfig, steps: int, step: int) -> float:
    """Learning rate of a step, in units of the largest: warm-up, then the schedule.

    Args:
        settings: rates, warm-up and schedule (not ``plateau``, which waits for errors).
        steps: of the whole training.
        step: from 0.
    """
    warm = min(1.0, (step + 1) / max(1, warmup(settings, steps)))
    if settings.schedule == "constant":
        return warm
    floor = settings.min_learning_rate / settings.learning_rate
    falling = 0.5 * (1 + math.cos(math.pi * min(1.0, step / max(1, steps))))
    return warm * (floor + (1 - floor) * falling)


class HamiltonianTask(pl.LightningModule):
    """What both stages share. Subclasses give ``network`` and :meth:`error`."""

    transpose: Tensor

    def __init__(
        self,
        network: nn.Module,
        to_product: DirectSumToProduct,
        settings: TrainingConfig,
        steps: int,
        unit: float,
    ) -> None:
        """
        Args:
            network: what is trained.
            to_product: DStoDP.
            settings: see :class:`TrainingConfig`.
            steps: of the whole training.
            unit: of the loss, eV.
        """
        super().__init__()
        self.network, self.to_product = network, to_product
        self.settings, self.steps, self.unit = settings, steps, unit
        self.register_buffer("transpose", transpose_index(to_product.targets), persistent=False)
        self.start_optimizer: dict[str, Any] | None = None
        self.bank: StateBank | None = None  # DFT's states, where the training needs them
        self.judge_states = False  # in the present validation
        self.time_reversal = False  # predictions will have it, as the labels do
        self.graphs: StepGraphs | None = None  # steps that a GPU replays

    def error(self, batch: Batch) -> Tensor:
        """Prediction minus label, eV, (E, K) or (E, 4, K)."""
        raise NotImplementedError

    def _error(self, batch: Batch) -> Tensor:
        error = self.error(batch)
        if not self.settings.hermitian:
            return error
        error = hermitian_product(error, batch.partner, self.transpose)
        return time_reversal_mean(error) if self.time_reversal else error

    def losses(
        self, batch: Batch, states: Sequence[StepStates] = ()
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of one batch, and what is logged of it.

        Args:
            batch: the structures.
            states: DFT's states of each structure, on the device; none: the loss of H alone.
        """
        error = self._error(batch)
        loss = masked_loss(error, batch.mask, self.settings.loss, self.unit)
        logged = {"train_mae_meV": masked_loss(error.detach(), batch.mask, "mae", 1e-3)}
        if states and self.bank is not None and self.bank.loss is not None:
            more, logged["train_states_meV"] = self.bank.loss(error, batch, states)
            loss = loss + more
        return loss, {"train_loss": loss.detach(), **logged}

    def training_step(self, batch: Batch, number: int) -> Tensor:
        """Loss of one batch."""
        states: tuple[StepStates, ...] = ()
        if self.bank is not None and self.bank.loss is not None:
            states = self.bank.loss.draw(batch, self.global_step)
        result = None if self.graphs is None else self.graphs.step(batch, states)
        if result is None:
            result = self.losses(batch, tuple(s.to(batch.label.device) for s in states))
        loss, logged = result
        self.log_dict(  # TrainingRow writes them
            logged,
            on_step=False,
            on_epoch=True,
            logger=False,
            batch_size=len(batch.edges),
            sync_dist=True,
        )
        return loss

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Gradients; those of a replayed step are there already."""
        if self.graphs is not None and self.graphs.pending is not None:
            self.graphs.hand_over()
        else:
            super().backward(loss, *args, **kwargs)

    def validation_step(self, batch: Batch, number: int) -> None:
        """Errors of one structure."""
        error = self._error(batch)
        values: dict[str, Any] = {
            "val_mae_meV": masked_loss(error, batch.mask, "mae", 1e-3),
            "val_mse_eV2": masked_loss(error, batch.mask, "mse", 1.0),
            "val_loss": masked_loss(error, batch.mask, self.settings.loss, self.unit),
        }
        if self.bank is not None and self.judge_states:
            found = self.bank.errors(error, batch)
            values["val_states_meV"], values["val_ghost_meV"] = found.error_meV, found.ghost_meV
        self.log_dict(values, batch_size=1, sync_dist=True)

    def transfer_batch_to_device(
        self, batch: Batch, device: torch.device, dataloader_idx: int
    ) -> Batch:
        """Named tuples with graphs inside move themselves; what a GPU holds stays there."""
        held = None if self.graphs is None else self.graphs.held(batch)
        return batch.to(device) if held is None else held

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Adam (AdamW with weight decay), warm-up, and the schedule."""
        s = self.settings
        parameters = [p for p in self.network.parameters() if p.requires_grad]
        kind = torch.optim.AdamW if s.weight_decay else torch.optim.Adam
        optimizer = kind(parameters, lr=s.learning_rate, betas=s.betas, weight_decay=s.weight_decay)
        if self.start_optimizer is not None:
            optimizer.load_state_dict(
                {
                    "state": self.start_optimizer["state"],
                    "param_groups": optimizer.state_dict()["param_groups"],
                }
            )
        if s.schedule == "plateau":
            scheduler: Any = torch.optim.lr_scheduler.ReduceLROnPlateau(
                optimizer,
                factor=0.5,
                patience=-(-s.plateau_patience // s.validate_every),  # validations
                min_lr=s.min_learning_rate,
            )
            return {
                "optimizer": optimizer,
                "lr_scheduler": {
                    "scheduler": scheduler,
                    "interval": "epoch",
                    "frequency": s.validate_every,  # each validation counts once
                    "monitor": "val_mae_meV",
                },
            }
        factor = functools.partial(rate_factor, s, self.steps)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {
                "scheduler": torch.optim.lr_scheduler.LambdaLR(optimizer, factor),
                "interval": "step",
            },
        }


class Stage1Task(HamiltonianTask):
    """DeepH-E3's network learns H itself, or the residual of a frozen first network.

    The direct sums of that network are then in the batch.
    """

    network: DeepHE3Net

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._prepared: dict[int, Any] = {}
        self._engine = InferenceEngine(self.network)

    def error(self, batch: Batch) -> Tensor:
        """Prediction minus label.

        On the CPU, what depends on a structure only is made once (for batches of one).
        """
        graph, prepared = batch.graph, None
        held = self.graphs is not None and self.graphs.held(batch) is batch
        if graph.structures == 1 and (held or graph.edge_vector.device.type == "cpu"):
            key = graph.edge_vector.data_ptr()
            if key not in self._prepared:
                self._prepared[key] = (graph, self.network.prepare(graph))
            prepared = self._prepared[key][1]
        run = self.network if torch.is_grad_enabled() else self._engine
        h = run(graph, prepared)[0]
        return (
            self.to_product(h if batch.direct_sum is None else h + batch.direct_sum) - batch.label
        )


class Stage2Task(HamiltonianTask):
    """The GFormer learns the residual of stage 1, or H itself (``cascade=False``)."""

    network: GFormer

    def __init__(
        self, *args: Any, cascade: bool = True, first: Stage1Provider | None = None, **kwargs: Any
    ) -> None:
        """
        Args:
            *args: see :class:`HamiltonianTask`.
            **kwargs: see :class:`HamiltonianTask`.
            cascade: the network learns the residual.
            first: a stage 1 that is not equivariant and is run again on rotated structures; None:
                its direct sums are turned by Wigner-D.
        """
        super().__init__(*args, **kwargs)
        self.cascade, self.first = cascade, first

    def error(self, batch: Batch) -> Tensor:
        """(Stage 1 plus) correction minus label."""
        if self.settings.rotate and self.training:
            net = self.network
            batch = rotate_batch(
                batch,
                self.to_product,
                net.node_irreps,
                net.edge_irreps,
                net.irreps_out,
                (self.settings.seed, self.global_step),
            )
            if self.first is not None:
                batch = batch._replace(
                    direct_sum=self.first.to(batch.label.device)(
                        batch.graph, features=False
                    ).direct_sum
                )
        features = batch.features
        if features is not None and batch.direct_sum is not None:
            features = features._replace(direct_sum=batch.direct_sum)
        h = self.network(batch.graph, features)
        if self.cascade and batch.direct_sum is not None:
            h = h + batch.direct_sum
        return self.to_product(h) - batch.label
