"""Where the networks run."""

from __future__ import annotations

import torch

from ..errors import ConfigError

__all__ = ["resolve_device", "resolve_dtype"]


def resolve_dtype(name: str | None) -> torch.dtype | None:
    """``float32`` or ``float64``; None for None.

    Raises:
        ConfigError: another name.
    """
    kinds = {None: None, "float32": torch.float32, "float64": torch.float64}
    if name not in kinds:
        raise ConfigError(f"dtype '{name}' is unknown; choose float32 or float64")
    return kinds[name]


def resolve_device(name: str) -> torch.device:
    """``auto`` (a GPU where there is one), or what the name says.

    Raises:
        ConfigError: the device does not exist here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(
            f"device '{name}' is unknown; choose cpu, cuda, cuda:0 ... or auto"
        ) from None
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"device '{name}': cpu and cuda are supported")
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise ConfigError(
                f"device '{name}': torch {torch.__version__} sees no GPU here; choose cpu"
            )
        count = torch.cuda.device_count()
        if (device.index or 0) >= count:
            raise ConfigError(
                f"device '{name}': this machine has {count} GPU(s), numbered from 0; choose "
                "one of them, or auto"
            )
    return device
