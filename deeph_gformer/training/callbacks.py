"""What a training does at its epochs and steps: lines, curves, stops, and the best state so far."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from ..config import TrainingConfig
from ..errors import ConfigError
from ..logs import shows_progress
from ..stopping import install, shielded
from ..terminal import Progress
from .monitor import monitored
from .process import echo

__all__ = [
    "EpochLine",
    "FiniteStop",
    "OwnSignals",
    "PlateauStop",
    "SaveBest",
    "running_average",
]


class SaveBest(Callback):
    """Hands the network over at every new best validation: a run that is stopped leaves one."""

    def __init__(self) -> None:
        self.best = float("inf")

    def save(self, trainer: pl.Trainer, module: pl.LightningModule, value: float) -> None:
        """Write what there is, on the first rank; averaged weights are still in place.

        Args:
            trainer: its epoch and its metrics.
            module: its network.
            value: the new best.
        """
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """Kept in checkpoints."""
        return {"best": self.best}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """From a checkpoint."""
        self.best = state["best"]

    def on_validation_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Save when better."""
        value = monitored(trainer, module)
        if not math.isfinite(value) or value >= self.best:
            return
        self.best = value
        if trainer.is_global_zero:
            with shielded():
                self.save(trainer, module, value)


#: What the epoch line calls the value that the best epoch is best in.
_BEST = {"mae": "", "states": "states ", "both": "of H and states "}


class EpochLine(Callback):
    """One line per epoch, in meV, on standard output; ``best`` is of what is monitored.

    Below it, on a terminal, the time left.
    """

    def __init__(self, every: int, reference: float | None) -> None:
        """
        Args:
            every: epochs between lines.
            reference: validation MAE of stage 1 in meV; None: there is none.
        """
        self.bar, self.steps = Progress("train", 0, False), 0
        self.every, self.reference = every, reference
        self.start, self.best = time.perf_counter(), float("inf")

    def state_dict(self) -> dict[str, Any]:
        """Kept in checkpoints."""
        return {"best": self.best}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """From a checkpoint."""
        self.best = state["best"]

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Begin with the bar, where standard error is a terminal."""
        self.steps = int(trainer.num_training_batches)
        show = trainer.is_global_zero and shows_progress()
        total, done = self.steps * (trainer.max_epochs or 0), self.steps * trainer.current_epoch
        self.bar = Progress("train", total, show, "step", done)

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Move the bar."""
        last = (trainer.max_epochs or 0) - 1
        where = f"epoch {trainer.current_epoch} of {last}, step {batch_idx + 1} of {self.steps}"
        self.bar.tick(where, 1)

    def teardown(self, trainer: pl.Trainer, module: pl.LightningModule, stage: str) -> None:
        """Take the bar away."""
        self.bar.close()

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Print the line."""
        metrics = trainer.callback_metrics
        value = float(metrics["val_mae_meV"])
        validated = trainer.check_val_every_n_epoch == 1  # else it is that of an earlier epoch
        self.best = min(self.best, monitored(trainer, module))
        monitor = getattr(module, "settings", TrainingConfig()).monitor
        last = trainer.current_epoch + 1 == trainer.max_epochs
        if trainer.is_global_zero and (trainer.current_epoch % self.every == 0 or last):
            rate = trainer.optimizers[0].param_groups[0]["lr"]
            shown, ratio = f"{value:9.4f} meV" if validated else "-", ""
            if validated and self.reference:
                ratio = f" | {value / self.reference:.3f} of stage 1"
            if validated and getattr(module, "judge_states", False):
                ratio += f" | states {float(metrics['val_states_meV']):.3f} meV"
            with self.bar.aside():
                echo(
                    f"epoch {trainer.current_epoch:5d} | {time.perf_counter() - self.start:7.0f} s "
                    f"| lr {rate:.2e} | train {float(metrics['train_mae_meV']):9.4f} meV | "
                    f"val {shown} | best {_BEST[monitor]}{self.best:9.4f} meV{ratio}"
                )


def running_average(
    decay: float,
) -> Callable[[Sequence[Tensor], Sequence[Tensor], Tensor | int], None]:
    """The average of weights over steps, of all weights at the same time.

    It forgets faster at first, so that a short run is not judged by its beginning.

    Args:
        decay: share of the old average that stays, at least (1 + n) / (10 + n) after n steps.

    Returns:
        Function of averages, which it changes, weights, and n.
    """

    def average(old: Sequence[Tensor], new: Sequence[Tensor], n: Tensor | int) -> None:
        """One step."""
        count = float(n)
        keep = min(decay, (1.0 + count) / (10.0 + count))
        torch._foreach_lerp_(list(old), list(new), 1.0 - keep)

    return average


class OwnSignals(Callback):
    """Brings our handlers back: Lightning, too, listens to SIGTERM and would end without a word."""

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Install them."""
        install()


class FiniteStop(Callback):
    """Ends a run whose numbers are no longer finite, before anything of it is kept."""

    def __init__(self) -> None:
        self._loss: Tensor | None = None

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Check the loss of the step before: that of this step a GPU may still be working on."""
        self._check_loss(trainer)
        self._loss = outputs["loss"]

    def on_validation_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Check the last loss."""
        self._check_loss(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Check the last loss of an epoch without validation."""
        self._check_loss(trainer)

    def _check_loss(self, trainer: pl.Trainer) -> None:
        if self._loss is not None:
            value, self._loss = float(self._loss), None
            self._check(trainer, "training loss", value)

    def on_validation_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Check the error."""
        self._check(
            trainer, "validation MAE in meV", float(trainer.callback_metrics["val_mae_meV"])
        )

    @staticmethod
    def _check(trainer: pl.Trainer, what: str, value: float) -> None:
        if not math.isfinite(value):
            raise ConfigError(
                f"training diverged: the {what} is {value} in epoch {trainer.current_epoch}; "
                f"lower training.learning_rate, set training.gradient_clip "
                "or raise training.warmup_steps, and choose another output"
            )


class PlateauStop(Callback):
    """Ends a ``plateau`` run when the learning rate has reached its floor."""

    def __init__(self, floor: float) -> None:
        self.floor = floor

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Check the rate."""
        if (
            not trainer.sanity_checking
            and trainer.optimizers[0].param_groups[0]["lr"] <= self.floor * 1.0001
        ):
            trainer.should_stop = True
