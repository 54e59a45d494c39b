"""One training run on a task: loaders, Lightning trainer, logs, checkpoints, resume."""

from __future__ import annotations

import contextlib
import csv
import errno
import io
import json
import logging
import math
import os
import pathlib
import pickle
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.loggers.logger import rank_zero_experiment
from lightning.pytorch.plugins import TorchCheckpointIO
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor
from torch.utils.data import DataLoader

from ..config import TrainingConfig, to_mapping, upgrade_model
from ..errors import ConfigError, DataError, lacks_memory
from ..io.files import read_json, write_json, write_text
from ..runtime.device import resolve_device
from ..stopping import Stopped, install, installed
from .batches import Batch, EpochSampler, RankSampler, write_tensors
from .folder import how_to_go_on
from .module import HamiltonianTask

__all__ = [
    "fit",
    "check_run",
    "recorded",
    "first_rank",
    "say",
    "note",
    "loaders",
    "memory_hint",
    "own_device",
]

LAST, BEST = "last", "best"
CONFIG_FILE, SPLIT_FILE, CHECKPOINTS = "config.json", "splits.json", "checkpoints"


#: What a resumed run may have otherwise; structures are compared by their names.
FREE = {
    "output",
    "data.preprocessed",
    "data.splits",
    "data.cache",
    "training.epochs",
    "training.threads",
    "training.device",
}


def first_rank() -> bool:
    """Whether this process writes and prints: in data-parallel training, started by torchrun or by Lightning, only the first one does."""
    return rank_zero_only.rank == 0


def own_device(settings: TrainingConfig) -> torch.device:
    """The device of this process; where several train together on GPUs each has its own.

    Raises:
        ConfigError: the device does not exist here.
    """
    device = resolve_device(settings.device)
    several = device.type == "cuda" and settings.devices > 1
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if several else device


def say(text: str) -> None:
    """Print one line, on the first rank only."""
    if first_rank():
        print(text, flush=True)


def note(text: str) -> None:
    """A note on standard error, on the first rank only."""
    if first_rank():
        print(f"note: {text}", file=sys.stderr)


def check_run(
    config: Any, splits: Mapping[str, Sequence[pathlib.Path]], resume: bool
) -> pathlib.Path:
    """Check that a run may use its folder: there is none yet, or it is resumed with the same
    configuration and splits. Nothing is made.

    Args:
        config: of this run; ``output`` is the folder.
        splits: folders of each split.
        resume: go on with the run that is there.

    Returns:
        The folder.

    Raises:
        ConfigError: the folder cannot be written or holds another run, there is nothing to resume,
            or torchrun started another number of processes.
        DataError: a damaged checkpoint.
    """
    folder = pathlib.Path(config.output)
    there = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        reason = "cannot be written" if there.is_dir() else "is a file"
        raise ConfigError(f"--output {folder}: {there} {reason}; choose another folder")
    devices = config.training.devices
    started = (
        int(os.environ["WORLD_SIZE"]) if torch.distributed.is_torchelastic_launched() else devices
    )
    if started != devices:
        raise ConfigError(
            f"torchrun started {started} processes, but training.devices is {devices}; set "
            f"training.devices={started}"
        )
    if not first_rank():  # the first one speaks for all, and has perhaps written already
        return folder
    path = folder / CONFIG_FILE
    mine = _plain(config)
    if resume:
        if not path.is_file():
            raise ConfigError(f"{folder}: no run to resume here (config.json is missing)")
        old = _absolute(read_json(path))
        if "arch" in old.get("model", {}):
            old["model"] = upgrade_model(old["model"])
        differs = sorted(
            f"{k}.{j}" if isinstance(mine.get(k), dict) else k
            for k in old
            for j in (old[k] if isinstance(old[k], dict) else [""])
            if (
                mine.get(k, {}).get(j) != old[k][j]
                if isinstance(old[k], dict) and isinstance(mine.get(k), dict)
                else mine.get(k) != old[k]
            )
        )
        differs = [d for d in dict.fromkeys(differs) if d not in FREE]
        if differs:
            raise ConfigError(
                f"{folder}: is a run of another configuration ({', '.join(differs[:6])} differ); "
                f"resume with the same one, or choose another output"
            )
        known, names = read_json(folder / SPLIT_FILE), _names(splits)
        for name in names:
            if known.get(name) != names[name]:
                other = (
                    ", ".join(sorted({*names[name]} ^ {*known.get(name, ())})[:6]) or "the order"
                )
                raise ConfigError(
                    f"{folder}: is a run of other splits ({name}: {other} differ); resume with "
                    f"those of {folder / SPLIT_FILE}, or choose another output"
                )
        for file in (folder / CHECKPOINTS / f"{name}.ckpt" for name in (LAST, BEST)):
            read_checkpoint(file)
    elif path.exists():
        raise ConfigError(
            f"{folder}: holds a run already; --resume continues it, or choose another --output"
        )
    return folder


@contextlib.contextmanager
def recorded(
    folder: pathlib.Path, config: Any, splits: Mapping[str, Sequence[pathlib.Path]]
) -> Iterator[None]:
    """Write what a run is of, on the first rank: its configuration and the names of its structures.

    Both are taken back when the run ends before its first checkpoint, so that the corrected command
    may use the folder.

    Args:
        folder: of the run.
        config: of the run.
        splits: folders of each split.
    """
    if first_rank():
        write_json(folder / SPLIT_FILE, _names(splits))
        write_json(folder / CONFIG_FILE, _plain(config))
    try:
        yield
    except BaseException:
        if first_rank() and not (folder / CHECKPOINTS / f"{LAST}.ckpt").is_file():
            for file in (CONFIG_FILE, SPLIT_FILE):
                (folder / file).unlink(missing_ok=True)
        raise


def _names(splits: Mapping[str, Sequence[pathlib.Path]]) -> dict[str, list[str]]:
    return {name: [folder.resolve().name for folder in folders] for name, folders in splits.items()}


def _plain(config: Any) -> Any:
    """The configuration as JSON gives it back."""
    return _absolute(json.loads(json.dumps(to_mapping(config))))


def _absolute(table: dict[str, Any]) -> dict[str, Any]:
    """The same with paths that hold in every working directory."""
    data = dict(table.get("data", {}))
    for place, key in ((data, "preprocessed"), (data, "splits"), (table, "stage1")):
        if isinstance(place.get(key), str) and place[key]:
            place[key] = os.path.abspath(place[key])
    return {**table, "data": data}


def loaders(
    train: Sequence[Any],
    val: Sequence[Any],
    join: Callable[[list[Any]], Batch],
    settings: TrainingConfig,
) -> tuple[DataLoader, DataLoader]:
    """Shuffled training batches (reproducible per epoch) and one-structure validation batches; in data-parallel training those of this rank."""
    rank, ranks = (rank_zero_only.rank, settings.devices) if settings.devices > 1 else (0, 1)
    shuffled = EpochSampler(len(train), settings.seed, rank, ranks)
    return (
        DataLoader(train, batch_size=settings.batch_size, sampler=shuffled, collate_fn=join),  # type: ignore[arg-type]
        DataLoader(val, batch_size=1, sampler=RankSampler(len(val), rank, ranks), collate_fn=join),  # type: ignore[arg-type]
    )


class WholeCheckpoints(TorchCheckpointIO):
    """Checkpoints that a reader never meets half of."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        """See :func:`write_tensors`."""
        write_tensors(pathlib.Path(path), checkpoint)


def read_checkpoint(path: pathlib.Path) -> dict[str, Any]:
    """Content of a checkpoint, on the CPU.

    Raises:
        ConfigError: it is not there. DataError: it is damaged.
    """
    if not path.is_file():
        raise ConfigError(
            f"{path}: not there, so there is nothing to resume; start without --resume into "
            f"another output"
        )
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, OSError, EOFError, KeyError, ValueError, pickle.UnpicklingError) as error:
        other = path.with_name(f"{LAST if path.stem == BEST else BEST}.ckpt")
        raise DataError(
            f"{path}: damaged ({(str(error).splitlines() or ['it ends early'])[0][:120]}); copy "
            f"{other.name} over it to go on from there, "
            "or choose another output"
        ) from None


class EpochLine(Callback):
    """One line per epoch, in meV, on standard output."""

    def __init__(self, every: int, reference: float | None) -> None:
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

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Print the line."""
        metrics = trainer.callback_metrics
        value = float(metrics["val_mae_meV"])
        self.best = min(self.best, value)
        last = trainer.current_epoch + 1 == trainer.max_epochs
        if trainer.is_global_zero and (trainer.current_epoch % self.every == 0 or last):
            rate = trainer.optimizers[0].param_groups[0]["lr"]
            ratio = f" | {value / self.reference:.3f} of stage 1" if self.reference else ""
            print(
                f"epoch {trainer.current_epoch:5d} | {time.perf_counter() - self.start:7.0f} s | "
                f"lr {rate:.2e} | train {float(metrics['train_mae_meV']):9.4f} meV | "
                f"val {value:9.4f} meV | best {self.best:9.4f} meV{ratio}",
                flush=True,
            )


def running_average(decay: float) -> Callable[[Tensor, Tensor, Tensor | int], Tensor]:
    """The average of weights over steps; it forgets faster at first, so that a short run is not
    judged by its beginning.

    Args:
        decay: share of the old average that stays, at least (1 + n) / (10 + n) after n steps.

    Returns:
        (average, weight, n) -> new average.
    """

    def average(old: Tensor, new: Tensor, n: Tensor | int) -> Tensor:
        """One step."""
        keep = min(decay, (1.0 + float(n)) / (10.0 + float(n)))
        return old + (1.0 - keep) * (new - old)

    return average


class OwnSignals(Callback):
    """Lightning listens to SIGTERM, too, and would end the training without a word: our handlers come back."""

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Install them."""
        install()


class WholeCurve(CSVLogger):
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
            rows: list[dict[str, str]] = []
            if path.is_file():
                with open(path, newline="") as file:
                    rows = [r for r in csv.DictReader(file) if _epoch(r) < self._begin]
            writer = super().experiment  # removes the file
            if rows:
                writer.metrics_keys = list(rows[0])
                text = io.StringIO(newline="")
                table = csv.DictWriter(text, writer.metrics_keys, lineterminator="\n")
                table.writeheader()
                table.writerows(rows)
                write_text(path, text.getvalue())
        return self._experiment


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


@contextlib.contextmanager
def memory_hint() -> Iterator[None]:
    """Turn a lack of memory, on a GPU or not, into advice.

    Raises:
        ConfigError: says what to lower.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not lacks_memory(error):
            raise
        raise ConfigError(
            "out of memory: lower training.batch_size (stage1.training.batch_size), model.width "
            "or model.gated_channels, set data.cache "
            "to disk or, for train-stage1, edge_chunk to 4096; what is finished is kept, and a "
            "run goes on from its last epoch"
        ) from None


def fit(
    task: HamiltonianTask,
    train: DataLoader,
    val: DataLoader,
    folder: pathlib.Path,
    settings: TrainingConfig,
    *,
    resume: bool = False,
    reference: float | None = None,
    every: int = 1,
    callbacks: Sequence[Callback] = (),
) -> dict[str, Any]:
    """Train, keep the best and the last state, and load the best weights into ``task.network``.

    Args:
        task: what is trained.
        train, val: see :func:`loaders`.
        folder: of the run (``logs/``, ``checkpoints/``).
        resume: go on from ``checkpoints/last.ckpt``.
        reference: validation MAE of stage 1 in meV, for the lines.
        every: epochs between lines.

    Returns:
        ``{"epochs", "best_val_mae_meV", "seconds"}``.

    Raises:
        ConfigError: an unknown device, or training diverged. DataError: a full disk, or a damaged
            checkpoint.
    """
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    if settings.threads:
        torch.set_num_threads(settings.threads)
    device = resolve_device(settings.device)
    files = folder / CHECKPOINTS
    keep = ModelCheckpoint(
        files, BEST, monitor="val_mae_meV", save_top_k=1, enable_version_counter=False
    )
    # every epoch, better or not: save_last of the one above writes only when there is a new best
    last_state = ModelCheckpoint(
        files,
        LAST,
        save_top_k=1,
        every_n_epochs=1,
        save_on_train_epoch_end=True,
        enable_version_counter=False,
    )
    hooks: list[Callback] = [
        FiniteStop(),
        keep,
        last_state,
        EpochLine(every, reference),
        *callbacks,
    ]
    if settings.early_stopping:
        hooks.append(EarlyStopping("val_mae_meV", patience=settings.early_stopping))
    if settings.schedule == "plateau":
        hooks.append(PlateauStop(settings.min_learning_rate))
    if settings.ema:
        from lightning.pytorch.callbacks import WeightAveraging

        # buffers are indices and units, never averaged
        hooks.append(WeightAveraging(use_buffers=False, avg_fn=running_average(settings.ema)))
    if settings.precision == "tf32":
        torch.set_float32_matmul_precision("high")
    if installed():
        hooks.append(OwnSignals())
    last = files / f"{LAST}.ckpt"
    begin = read_checkpoint(last)["epoch"] + 1 if resume else 0
    trainer = pl.Trainer(
        max_epochs=settings.epochs,
        accelerator=device.type if device.type != "cuda" else "gpu",
        devices=[device.index]
        if settings.devices == 1 and device.index is not None
        else settings.devices,
        strategy="ddp_find_unused_parameters_true"
        if settings.devices > 1
        else "auto",  # DeepH-E3 has some (node outputs)
        logger=[
            TensorBoardLogger(folder, "logs", "tensorboard"),
            WholeCurve(folder, begin),
        ],
        callbacks=hooks,
        gradient_clip_val=settings.gradient_clip or None,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        log_every_n_steps=10**9,
        precision="bf16-mixed" if settings.precision == "bf16-mixed" else None,
        plugins=[WholeCheckpoints()],
        use_distributed_sampler=False,  # our samplers know their rank
    )
    start = time.perf_counter()
    try:
        trainer.fit(task, train, val, ckpt_path=last if resume else None, weights_only=True)
    except OSError as error:  # of a log
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES):
            raise
        raise DataError(
            f"{folder}: could not be written ({error.strerror}); free some space and start "
            f"again, with --resume where there is a checkpoint"
        ) from error
    except Stopped as stop:
        stop.note = how_to_go_on(folder, f"in epoch {trainer.current_epoch} of {settings.epochs}")
        launcher = trainer.strategy.launcher
        if launcher is not None and hasattr(launcher, "kill"):
            launcher.kill(stop.signum)
        raise
    except SystemExit:  # how Lightning ends at Ctrl-C, where nobody listens to signals
        if trainer.interrupted:
            raise KeyboardInterrupt from None
        raise
    best = files / f"{BEST}.ckpt"
    state = read_checkpoint(best)["state_dict"]
    task.network.load_state_dict(
        {k.removeprefix("network."): v for k, v in state.items() if k.startswith("network.")}
    )
    return {
        "epochs": trainer.current_epoch,
        "best_val_mae_meV": float(keep.best_model_score),
        "seconds": time.perf_counter() - start,
    }
