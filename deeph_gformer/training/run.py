"""One training run on a task: loaders, Lightning trainer, logs, checkpoints, resume."""

from __future__ import annotations

import contextlib
import errno
import logging
import pathlib
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.plugins import TorchCheckpointIO
from torch.utils.data import DataLoader

from ..config import TrainingConfig
from ..errors import ConfigError, DataError, lacks_memory, reason
from ..runtime.device import resolve_device
from ..runtime.heap import keep_freed_memory
from ..stopping import Stopped, installed
from .batches import Batch
from .callbacks import EpochLine, FiniteStop, OwnSignals, PlateauStop, running_average
from .checkpoint import (
    BEST,
    LAST,
    RUN,
    check_weights,
    read_checkpoint,
    require_same_data,
    write_tensors,
)
from .cuda_graphs import step_graphs
from .curve import ResumableCSVLogger, TrainingRow
from .folder import CHECKPOINTS, resume_hint
from .module import HamiltonianTask, rate_factor, warmup
from .monitor import Monitor, monitor_key
from .process import echo, note, rank
from .sampling import RankSampler, ShareSampler

__all__ = ["fit", "loaders"]

#: What a disk says that cannot be written.
DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)


def loaders(
    train: Sequence[Any],
    val: Sequence[Any],
    join: Callable[[list[Any]], Batch],
    settings: TrainingConfig,
    weights: Sequence[float] | None = None,
) -> tuple[DataLoader, DataLoader]:
    """Shuffled training batches (reproducible per epoch), and validation batches of one structure.

    In data-parallel training they are those of this rank.

    Args:
        train: training samples.
        val: validation samples.
        join: what makes a batch of samples.
        settings: batch size, seed, number of processes.
        weights: share of the epochs in which each training sample takes part; None: all of them.
    """
    own, ranks = (rank(), settings.devices) if settings.devices > 1 else (0, 1)
    shuffled = ShareSampler(weights or [1.0] * len(train), settings.seed, own, ranks)
    return (
        DataLoader(
            train,  # type: ignore[arg-type]  # a list will do
            batch_size=settings.batch_size,
            sampler=shuffled,
            collate_fn=join,
        ),
        DataLoader(
            val,  # type: ignore[arg-type]
            batch_size=1,
            sampler=RankSampler(len(val), own, ranks),
            collate_fn=join,
        ),
    )


class AtomicCheckpointIO(TorchCheckpointIO):
    """Checkpoints that a reader never meets half of, and that say which run they are of."""

    def __init__(self, run: Mapping[str, Any]) -> None:
        """
        Args:
            run: see :func:`.checkpoint.run_record`.
        """
        super().__init__()
        self.run = dict(run)

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        """See :func:`write_tensors`."""
        write_tensors(pathlib.Path(path), {**checkpoint, RUN: self.run})


def _hooks(
    files: pathlib.Path, settings: TrainingConfig, more: Sequence[Callback]
) -> tuple[ModelCheckpoint, list[Callback]]:
    """The one that keeps the best state, and all that happens at epochs and steps.

    Args:
        files: where states go.
        settings: which stops and averages are asked for.
        more: of one training. They come before the average of weights: what they save at
            validation are the averaged weights, which are in place until its hook has run.
    """
    key = monitor_key(settings)
    keep = ModelCheckpoint(files, BEST, monitor=key, save_top_k=1, enable_version_counter=False)
    # every epoch, better or not: save_last of the one above writes only when there is a new best
    last_state = ModelCheckpoint(
        files,
        LAST,
        save_top_k=1,
        every_n_epochs=1,
        save_on_train_epoch_end=True,
        enable_version_counter=False,
    )
    hooks: list[Callback] = [FiniteStop(), TrainingRow(), keep, last_state, *more]
    if settings.early_stopping:
        hooks.append(
            EarlyStopping(
                key,
                patience=-(-settings.early_stopping // settings.validate_every),  # validations
                check_on_train_epoch_end=False,
            )
        )
    if settings.schedule == "plateau":
        hooks.append(PlateauStop(settings.min_learning_rate))
    if settings.ema:
        from lightning.pytorch.callbacks import WeightAveraging

        # buffers are indices and units, never averaged
        hooks.append(WeightAveraging(use_buffers=False, multi_avg_fn=running_average(settings.ema)))
    if installed():
        hooks.append(OwnSignals())
    return keep, hooks


def _trainer(
    folder: pathlib.Path,
    settings: TrainingConfig,
    begin: int,
    hooks: list[Callback],
    run: Mapping[str, Any],
    curve: Mapping[str, Any],
) -> pl.Trainer:
    """Lightning's trainer.

    Args:
        folder: of the run.
        settings: epochs, devices, precision, clipping.
        begin: first epoch to come.
        hooks: what happens at epochs and steps.
        run: what checkpoints say of the run.
        curve: what the checkpoint says of the curve.

    Raises:
        ConfigError: an unknown device.
    """
    device = resolve_device(settings.device)
    if settings.precision == "tf32":
        torch.set_float32_matmul_precision("high")
    return pl.Trainer(
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
            ResumableCSVLogger(folder, begin, curve),
        ],
        callbacks=hooks,
        gradient_clip_val=settings.gradient_clip or None,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        log_every_n_steps=10**9,
        precision="bf16-mixed" if settings.precision == "bf16-mixed" else None,
        plugins=[AtomicCheckpointIO(run)],
        use_distributed_sampler=False,  # our samplers know their rank
    )


@contextlib.contextmanager
def _quiet_threads() -> Iterator[None]:
    """TensorBoard writes in a thread of its own: an OSError there is raised again at its next
    entry or its end, and told once, without the thread's traceback.
    """
    before = threading.excepthook

    def told(found: threading.ExceptHookArgs) -> None:
        if not isinstance(found.exc_value, OSError):
            before(found)

    threading.excepthook = told
    try:
        yield
    finally:
        threading.excepthook = before


def _raised(state: dict[str, Any], task: HamiltonianTask) -> str:
    """A sentence where a resumed run begins at a larger learning rate than it stopped at; else
    empty.

    Args:
        state: the checkpoint.
        task: of the resumed run.
    """
    settings = task.settings
    if settings.schedule == "plateau":
        return ""
    before = float(state["optimizer_states"][0]["param_groups"][0]["lr"])
    now = settings.learning_rate * rate_factor(settings, task.steps, int(state["global_step"]))
    if now <= 1.01 * before:
        return ""
    return (
        f"the learning rate rises from {before:.2g} to {now:.2g}: its schedule is now one of "
        f"{settings.epochs} epochs. Errors may grow at first; the best epoch is kept"
    )


def _begin(
    last: pathlib.Path, task: HamiltonianTask, run: Mapping[str, Any]
) -> tuple[int, dict[str, Any]]:
    """First epoch to come of a run that goes on, and what its checkpoint says of the curve.

    Args:
        last: its checkpoint.
        task: what is trained.
        run: what this run is, see :func:`.folder.this_run`.

    Raises:
        ConfigError: the checkpoint was made on another stage 1, or on other data.
        DataError: it is damaged, or of another network.
    """
    table = read_checkpoint(last)
    check_weights(table, task.state_dict(), last)
    before = table[RUN].get("stage1") if RUN in table else run["stage1"]
    if not _same_stage1(before, run["stage1"]):
        raise ConfigError(
            f"{last}: was made on another stage 1 (its parameters, e3nn generation, "
            "--fill-missing or fold networks differ); resume with that one, or choose another "
            "output"
        )
    require_same_data(table.get(RUN), run["data"], last)
    row = table["callbacks"].get(TrainingRow.__qualname__)
    curve = row.get("curve") if isinstance(row, dict) else None
    return int(table["epoch"]) + 1, curve if isinstance(curve, dict) else {}


def _same_stage1(before: Any, now: Mapping[str, Any] | None) -> bool:
    """Whether a checkpoint's stage 1 is that of now; what it does not tell does not count."""
    if not isinstance(before, Mapping) or now is None:
        return before is None and now is None
    return all(before.get(key, value) == value for key, value in now.items())


class Started(Callback):
    """Tells whether the training itself has begun: a checkpoint has been restored by then."""

    now = False

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """It has."""
        self.now = True


def _announce(task: HamiltonianTask, begin: int, last: pathlib.Path) -> None:
    """Say how far a resumed run is, and what else its settings alone do not tell.

    Args:
        task: what is trained.
        begin: first epoch to come; 0: the run is new.
        last: the checkpoint of a resumed one.
    """
    settings, rising = task.settings, warmup(task.settings, task.steps)
    if begin:
        left = settings.epochs - begin
        what = f"{left} to go" if left > 0 else "nothing left to do (--epochs N for more)"
        echo(f"resumed: {begin} of {settings.epochs} epochs are done, {what}")
        if left > 0 and (text := _raised(read_checkpoint(last), task)):
            note(text)
    elif rising < settings.warmup_steps and settings.schedule != "plateau":
        echo(f"a short run: the learning rate rises over {rising} of {task.steps} steps")
    if settings.ema:
        echo(f"validation and what is kept: the running average of the weights ({settings.ema:g})")


@contextlib.contextmanager
def _told(
    trainer: pl.Trainer, folder: pathlib.Path, last: pathlib.Path | None, started: Started
) -> Iterator[None]:
    """What ends a run early, as one sentence that says what to do.

    Args:
        trainer: what runs.
        folder: of the run.
        last: the checkpoint that it goes on from; None: the run is new.
        started: whether that has been restored.

    Raises:
        DataError: a full disk, or a checkpoint of something else.
        Stopped: by a signal, with how to go on.
    """
    try:
        yield
    except OSError as error:  # of a log
        if error.errno not in DISK:
            raise
        raise DataError(
            f"{error.filename or folder}: could not be written ({error.strerror}); free some space "
            f"and start again, with --resume where there is a checkpoint"
        ) from error
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        if last is None or started.now or lacks_memory(error):
            raise
        raise DataError(
            f"{last}: does not fit this training ({reason(error)}); choose another output"
        ) from error
    except Stopped as stop:
        epochs = f"in epoch {trainer.current_epoch} of {trainer.max_epochs}"
        stop.note = resume_hint(folder, epochs)
        launcher = trainer.strategy.launcher
        if launcher is not None and hasattr(launcher, "kill"):
            launcher.kill(stop.signum)
        raise
    except SystemExit:  # how Lightning ends at Ctrl-C, where nobody listens to signals
        if trainer.interrupted:
            raise KeyboardInterrupt from None
        raise


def _load_best(best: pathlib.Path, task: HamiltonianTask) -> None:
    """Put the weights of the best epoch into ``task.network``."""
    state = read_checkpoint(best)["state_dict"]
    task.network.load_state_dict(
        {k.removeprefix("network."): v for k, v in state.items() if k.startswith("network.")}
    )


def fit(
    task: HamiltonianTask,
    train: DataLoader,
    val: DataLoader,
    folder: pathlib.Path,
    settings: TrainingConfig,
    run: Mapping[str, Any],
    *,
    resume: bool = False,
    reference: float | None = None,
    every: int = 1,
    callbacks: Sequence[Callback] = (),
) -> dict[str, Any]:
    """Train, keep the best and the last state, and load the best weights into ``task.network``.

    Args:
        task: what is trained.
        train: training batches, see :func:`loaders`.
        val: validation batches.
        folder: of the run (``logs/``, ``checkpoints/``).
        settings: how to train.
        run: see :func:`.folder.this_run`.
        resume: go on from ``checkpoints/last.ckpt``.
        reference: validation MAE of stage 1 in meV, for the lines.
        every: epochs between lines.
        callbacks: further ones.

    Returns:
        ``epochs``, ``seconds``, ``monitor`` and the errors of the best epoch, ``best_...``.

    Raises:
        ConfigError: an unknown device, or training diverged.
        DataError: a full disk, or a damaged checkpoint.
    """
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    if settings.threads:
        torch.set_num_threads(settings.threads)
    keep_freed_memory()
    files = folder / CHECKPOINTS
    keep, hooks = _hooks(files, settings, [EpochLine(every, reference), *callbacks])
    last = files / f"{LAST}.ckpt"
    begin, curve = _begin(last, task, run) if resume else (0, {})
    task.graphs = step_graphs(task, settings, resolve_device(settings.device), echo)
    monitor = Monitor(settings)
    hooks = [monitor, *hooks]
    started = Started()
    trainer = _trainer(folder, settings, begin, [*hooks, started], run, curve)
    _announce(task, begin, last)
    start = time.perf_counter()
    goes_on_from = last if resume else None
    with _told(trainer, folder, goes_on_from, started), _quiet_threads():
        trainer.fit(task, train, val, ckpt_path=goes_on_from, weights_only=True)
    if keep.best_model_score is None:  # resumed when nothing was left to do, from an older folder
        raise ConfigError(f"{folder}: no epoch was run; raise training.epochs to go on with it")
    _load_best(files / f"{BEST}.ckpt", task)
    return {
        "epochs": trainer.current_epoch,
        **monitor.record(float(keep.best_model_score)),
        "seconds": time.perf_counter() - start,
    }
