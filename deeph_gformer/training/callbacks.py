"""What a training does at its epochs and steps: lines, curves, stops, and the best state so far."""

from __future__ import annotations

import csv
import io
import math
import os
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.logger import rank_zero_experiment
from torch import Tensor

from ..config import TrainingConfig
from ..errors import ConfigError, DataError
from ..io.files import read_text, write_text
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
    "TrainingRow",
    "ResumableCSVLogger",
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
        self.every, self.reference, self.start, self.best = (
            every,
            reference,
            time.perf_counter(),
            float("inf"),
        )

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


class TrainingRow(Callback):
    """Writes the training errors and the learning rate of an epoch into the logs.

    Lightning would do so after its checkpoint: a death in between would lose the row, since the
    resumed run begins with the next epoch. Rows that no checkpoint knows of are dropped instead,
    see :class:`ResumableCSVLogger`.
    """

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Write the row; callbacks that are no checkpoints come first."""
        found = {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("train_")}
        found["learning_rate"] = trainer.optimizers[0].param_groups[0]["lr"]
        for logger in trainer.loggers:
            logger.log_metrics(
                {**found, "epoch": trainer.current_epoch}, step=trainer.global_step - 1
            )
            logger.save()


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


class ResumableCSVLogger(CSVLogger):
    """``logs/csv/metrics.csv`` of the whole run: a resumed one goes on where its checkpoint is."""

    def __init__(self, folder: pathlib.Path, begin: int) -> None:
        """
        Args:
            folder: of the run.
            begin: first epoch to come; rows of it and later ones, of which no checkpoint knows, are
                dropped.
        """
        super().__init__(folder, "logs", "csv", flush_logs_every_n_steps=1)
        self._begin = begin

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The writer, with the rows that are there already."""
        if self._experiment is None:
            path = pathlib.Path(self.log_dir) / "metrics.csv"
            kept = path.with_name(".metrics.csv.kept")  # a death in here costs no rows
            source = kept if kept.is_file() else path
            rows = _read_rows(source, self._begin) if self._begin and _is_there(source) else []
            if path.is_file() and not kept.is_file():
                os.replace(path, kept)
            writer = super().experiment  # removes the file
            if rows:
                writer.metrics_keys = list(rows[0])
                text = io.StringIO(newline="")
                table = csv.DictWriter(text, writer.metrics_keys, lineterminator="\n")
                table.writeheader()
                table.writerows(rows)
                write_text(path, text.getvalue())
            kept.unlink(missing_ok=True)
        return self._experiment


def _is_there(path: pathlib.Path) -> bool:
    return path.exists() or path.is_symlink()


def _read_rows(path: pathlib.Path, begin: int) -> list[dict[str, str]]:
    """Rows of the epochs before one; a last line that a death cut short is dropped.

    Raises:
        DataError: it is no table of epochs.
    """
    lines = read_text(path).splitlines()
    if lines and not lines[-1].strip():
        lines.pop()
    hint = "delete it to go on with an empty curve"
    try:
        table = list(csv.DictReader(lines))
    except csv.Error as error:
        raise DataError(f"{path}: no table of epochs ({error}); {hint}") from None
    before, last = 0.0, dict[tuple[str, ...], float]()
    for number, row in enumerate(table[:-1], start=2):
        epoch, whole = _epoch(row), None not in row and None not in row.values()
        if not whole or not float.is_integer(epoch) or epoch < before:
            raise DataError(f"{path}: line {number} is no row of an epoch; {hint}")
        kind = tuple(name for name, value in row.items() if value)  # of training, or validation
        if last.get(kind, -1.0) == epoch:
            raise DataError(f"{path}: line {number} is there twice; {hint}")
        if "train_mae_meV" in kind and epoch - last.get(kind, epoch - 1) > 1:
            raise DataError(f"{path}: a row is missing before line {number}; {hint}")
        before = last[kind] = epoch
    return [r for r in table if _epoch(r) < begin and None not in r and None not in r.values()]


def _epoch(row: Mapping[str, str]) -> float:
    try:
        return float(row["epoch"])
    except (KeyError, TypeError, ValueError):  # a line cut short
        return math.inf


class FiniteStop(Callback):
    """Ends a run whose numbers are no longer finite, before anything of it is kept."""

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Check the loss."""
        self._check(trainer, "training loss", float(outputs["loss"]))

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
