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

__all__ = ["first_rank", "memory_hint", "note", "own_device", "rank", "echo", "warn"]


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
            "out of memory: lower training.batch_size (stage1.training.batch_size), model.width "
            "or model.gated_channels, set data.cache to disk or, for train-stage1, edge_chunk to "
            "4096; what is finished is kept, and a run goes on from its last epoch"
        ) from None
