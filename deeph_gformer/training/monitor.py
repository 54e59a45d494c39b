"""What the best epoch of a training is best in: errors of H, of DFT's states, or both."""

from __future__ import annotations

import math
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback

from ..config import TrainingConfig
from .module import HamiltonianTask

__all__ = ["Monitor", "best_errors", "monitor_key", "monitored"]

#: Epochs between validations that no training has.
NEVER = 10**9
#: Validation errors that a log, a record and a bundle name, where they are known.
ERRORS = ("val_mae_meV", "val_states_meV", "val_ghost_meV")


def monitor_key(settings: TrainingConfig) -> str:
    """Name of the logged value whose smallest one is the best."""
    return "val_mae_meV" if settings.monitor == "mae" else "val_score"


def monitored(trainer: pl.Trainer, module: pl.LightningModule) -> float:
    """The present value of what is monitored.

    Args:
        trainer: its metrics.
        module: the task, whose settings say what is monitored.
    """
    settings = getattr(module, "settings", TrainingConfig())
    return float(trainer.callback_metrics[monitor_key(settings)])


def best_errors(trainer: pl.Trainer, module: pl.LightningModule) -> dict[str, float]:
    """``best_val_mae_meV`` and, where the states are judged, theirs: the present errors.

    Args:
        trainer: its metrics.
        module: the task.
    """
    names = ERRORS if getattr(module, "judge_states", False) else ERRORS[:1]
    return {f"best_{name}": float(trainer.callback_metrics[name]) for name in names}


class Monitor(Callback):
    """Says when DFT's states are judged, makes ``val_score`` of errors, and knows the best epoch.

    ``val_score`` is the state error, or the geometric mean of the errors of H and of the states: of
    two epochs the better one is the one with the better product of both ratios to stage 1. Between
    two judgements of the states it stays what it was.
    """

    def __init__(self, settings: TrainingConfig) -> None:
        """
        Args:
            settings: ``monitor`` and ``states_every``.
        """
        self.settings, self.score = settings, math.inf
        self.best_score, self.best = math.inf, dict[str, Any]()

    def state_dict(self) -> dict[str, Any]:
        """Kept in checkpoints."""
        return {"score": self.score, "best_score": self.best_score, "best": self.best}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """From a checkpoint."""
        self.score, self.best_score, self.best = state["score"], state["best_score"], state["best"]

    def on_train_epoch_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Whether this epoch is validated: each N-th, the first, the last, and where no error is
        known yet (after a resume)."""
        epoch = trainer.current_epoch
        due = epoch % self.settings.validate_every == 0 or epoch + 1 == trainer.max_epochs
        due = due or monitor_key(self.settings) not in trainer.callback_metrics
        trainer.check_val_every_n_epoch = 1 if due else NEVER

    def on_validation_epoch_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Whether this epoch judges the states: each N-th, the first and the last one."""
        if isinstance(module, HamiltonianTask):
            epoch = trainer.current_epoch
            due = epoch % self.settings.states_every == 0 or epoch + 1 == trainer.max_epochs
            module.judge_states = module.bank is not None and (due or math.isinf(self.score))

    def on_validation_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Log the score; keep the errors of the best epoch."""
        judged = getattr(module, "judge_states", False)
        now = best_errors(trainer, module)
        value = now["best_val_mae_meV"]
        if judged:
            self.score = now["best_val_states_meV"]
            if self.settings.monitor == "both":
                self.score = math.sqrt(value * self.score)
        if self.settings.monitor != "mae":
            value = self.score
            module.log("val_score", value, sync_dist=True)
        if value < self.best_score:
            self.best_score, self.best = value, {**now, "best_epoch": trainer.current_epoch}

    def record(self, kept: float) -> dict[str, Any]:
        """Errors of the best epoch for the record of a run.

        Args:
            kept: score of the checkpoint of the best epoch; a run that an earlier version began has
                no errors beside it.
        """
        monitor = {"monitor": self.settings.monitor}
        known = self.best and self.best_score <= kept * (1 + 1e-6)
        return {**(self.best if known else {"best_val_mae_meV": kept}), **monitor}
