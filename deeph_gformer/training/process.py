"""One process of a training: its rank, device, printed lines, and its word on a lack of memory."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import torch
from lightning.pytorch.utilities import rank_zero_only

from ..config import TrainingConfig
from ..errors import ConfigError, lacks_memory
from ..logs import LOGGER, PRINTED
from ..runtime.device import resolve_device

__all__ = [
    "first_rank",
    "memory_hint",
    "note",
    "own_device",
    "rank",
    "require_devices",
    "echo",
    "warn",
]


def rank() -> int:
    """Number of this process in data-parallel training (torchrun or Lightning); else 0."""
    return int(getattr(rank_zero_only, "rank", 0))


def first_rank() -> bool:
    """Whether this process writes and prints: only the first one does."""
    return rank() == 0


def own_device(settings: TrainingConfig) -> torch.device:
    """The device of this process; where several train together on GPUs each has its own.

    Raises:
        ConfigError: the device does not exist here.
    """
    device = resolve_device(settings.device)
    several = device.type == "cuda" and settings.devices > 1
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if several else device


def require_devices(settings: TrainingConfig) -> None:
    """Raise on processes, GPUs and precisions that do not go together, before anything is read.

    Args:
        settings: device, devices, precision.

    Raises:
        ConfigError: torchrun started another number of processes, there are fewer GPUs than
            processes, a GPU with a number for several, a torch without NCCL, or a GPU without
            bfloat16.
    """
    device, devices = resolve_device(settings.device), settings.devices
    launched = torch.distributed.is_torchelastic_launched()
    started = int(os.environ["WORLD_SIZE"]) if launched else devices
    if started != devices:
        raise ConfigError(
            f"torchrun started {started} processes, but training.devices is {devices}; set "
            f"training.devices={started}"
        )
    if device.type != "cuda":
        return
    if devices > 1:
        here = int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if launched else devices
        there = torch.cuda.device_count()
        if ":" in settings.device:
            raise ConfigError(
                f"training.device {settings.device} is one GPU, and training.devices is {devices}; "
                "set training.device=cuda, and each process takes its own"
            )
        if here > there:
            raise ConfigError(
                f"training.devices is {devices}: {here} processes would share {there} GPU(s) of "
                f"this machine; set training.devices={there}, or training.device=cpu"
            )
        if not torch.distributed.is_nccl_available():
            raise ConfigError(
                f"torch {torch.__version__} has no NCCL, through which processes on GPUs talk: "
                "install a build that has it, or set training.devices=1 or training.device=cpu"
            )
    bf16 = settings.precision == "bf16-mixed"
    if bf16 and not torch.cuda.is_bf16_supported(including_emulation=False):
        major, minor = torch.cuda.get_device_capability(device)
        raise ConfigError(
            f"training.precision bf16-mixed: {torch.cuda.get_device_name(device)} (compute "
            f"capability {major}.{minor}) has no bfloat16, which came with 8.0; set "
            "training.precision=model"
        )


def echo(text: str) -> None:
    """Print one line, on the first rank only; log files get it, too."""
    if first_rank():
        print(text, flush=True)
        LOGGER.info(text, extra=PRINTED)


def note(text: str) -> None:
    """A note on standard error, on the first rank only."""
    if first_rank():
        LOGGER.info(text)


def warn(text: str) -> None:
    """A warning on standard error, on the first rank only."""
    if first_rank():
        LOGGER.warning(text)


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
            "out of memory: set training.checkpoint_activations=true, lower training.batch_size "
            "(stage1.training.batch_size), model.width or model.gated_channels, set data.cache to "
            "disk or, for train-stage1, edge_chunk to 4096; what is finished is kept, and a run "
            "goes on from its last epoch"
        ) from None
