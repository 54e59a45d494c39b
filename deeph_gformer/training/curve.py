"""The curve of a training, `metrics.csv`: its rows, also of a run that goes on."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.logger import rank_zero_experiment

from ..errors import DataError, GFormerError
from ..io.files import read_text, write_text
from ..logs import LOGGER

__all__ = ["ResumableCSVLogger", "TrainingRow", "fingerprint", "read_rows"]

_HINT = "delete it to go on with an empty curve"


class ResumableCSVLogger(CSVLogger):
    """``logs/csv/metrics.csv`` of the whole run: a resumed one goes on where its checkpoint is."""

    def __init__(
        self, folder: pathlib.Path, begin: int, curve: Mapping[str, Any] | None = None
    ) -> None:
        """
        Args:
            folder: of the run.
            begin: first epoch to come; rows of it and later ones, of which no checkpoint knows, are
                dropped.
            curve: what the checkpoint says of the rows, see :class:`TrainingRow`.
        """
        super().__init__(folder, "logs", "csv", flush_logs_every_n_steps=1)
        self._begin, self._curve = begin, dict(curve or {})

    @property
    def path(self) -> pathlib.Path:
        """The file."""
        return pathlib.Path(self.log_dir) / "metrics.csv"

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The writer, with the rows that are there already."""
        if self._experiment is None:
            path = self.path
            kept = path.with_name(".metrics.csv.kept")  # a death in here costs no rows
            source = kept if kept.is_file() else path
            rows = read_rows(source, self._begin) if self._begin and _is_there(source) else []
            if self._begin:
                self._require_known(source, rows)
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

    def _require_known(self, path: pathlib.Path, rows: Sequence[Mapping[str, str]]) -> None:
        """Raise where the checkpoint knows other rows; say where the file is gone.

        Raises:
            DataError: a number or a row is another one.
        """
        before, wanted = self._curve.get("before"), self._curve.get("fingerprint")
        if not isinstance(before, int) or not isinstance(wanted, str):
            return  # of an earlier version
        if not _is_there(path):
            if wanted != fingerprint([]):
                LOGGER.warning("%s: not there, so the curve begins with epoch %d", path, before)
            return
        if fingerprint(row for row in rows if _epoch(row) < before) != wanted:
            raise DataError(
                f"{path}: its rows are not those of the checkpoint (a row or a number has "
                f"changed); {_HINT}"
            )


def _is_there(path: pathlib.Path) -> bool:
    return path.exists() or path.is_symlink()


def read_rows(path: pathlib.Path, begin: int) -> list[dict[str, str]]:
    """Rows of the epochs before one; a last line that a death cut short is dropped.

    Raises:
        DataError: it is no table of epochs.
    """
    text = read_text(path)
    lines = text.splitlines()
    if lines and (not lines[-1].strip() or not text.endswith("\n")):
        lines.pop()
    try:
        table = list(csv.DictReader(lines))
    except csv.Error as error:
        raise DataError(f"{path}: no table of epochs ({error}); {_HINT}") from None
    before, last = 0.0, dict[tuple[str, ...], float]()
    for number, row in enumerate(table[:-1], start=2):
        epoch, whole = _epoch(row), None not in row and None not in row.values()
        if not whole or not float.is_integer(epoch) or epoch < before:
            raise DataError(f"{path}: line {number} is no row of an epoch; {_HINT}")
        kind = tuple(name for name, value in row.items() if value)  # of training, or validation
        if last.get(kind, -1.0) == epoch:
            raise DataError(f"{path}: line {number} is there twice; {_HINT}")
        if "train_mae_meV" in kind and epoch - last.get(kind, epoch - 1) > 1:
            raise DataError(f"{path}: a row is missing before line {number}; {_HINT}")
        before = last[kind] = epoch
    return [r for r in table if _epoch(r) < begin and None not in r and None not in r.values()]


def _epoch(row: Mapping[str, str]) -> float:
    try:
        return float(row["epoch"])
    except (KeyError, TypeError, ValueError):  # a line cut short
        return math.inf


def fingerprint(rows: Iterable[Mapping[str, str]]) -> str:
    """Of what the rows say; columns that are empty do not count.

    Args:
        rows: see :func:`read_rows`.
    """
    said = [sorted((name, value) for name, value in row.items() if value) for row in rows]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()


class TrainingRow(Callback):
    """Writes the training errors and the learning rate of an epoch into the logs.

    Lightning would do so after its checkpoint: a death in between would lose the row, since the
    resumed run begins with the next epoch. Rows that no checkpoint knows of are dropped instead,
    see :class:`ResumableCSVLogger`.
    """

    def __init__(self) -> None:
        self.curve: dict[str, Any] = {}

    def state_dict(self) -> dict[str, Any]:
        """Kept in checkpoints: what the rows before an epoch are, see :func:`fingerprint`."""
        return {"curve": self.curve}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """From a checkpoint."""
        self.curve = state["curve"]

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Write the row; callbacks that are no checkpoints come first."""
        found = {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("train_")}
        found["learning_rate"] = trainer.optimizers[0].param_groups[0]["lr"]
        for logger in trainer.loggers:
            logger.log_metrics(
                {**found, "epoch": trainer.current_epoch}, step=trainer.global_step - 1
            )
            logger.save()
        tables = [x for x in trainer.loggers if isinstance(x, ResumableCSVLogger)]
        if trainer.is_global_zero and tables:
            begin = trainer.current_epoch + 1
            try:
                rows = fingerprint(read_rows(tables[0].path, begin))
            except (GFormerError, OSError):  # somebody changes it meanwhile
                self.curve = {}
            else:
                self.curve = {"before": begin, "fingerprint": rows}
