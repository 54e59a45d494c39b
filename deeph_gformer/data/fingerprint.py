"""Which network is this? A short number from its parameters."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

__all__ = ["checkpoint_fingerprint", "fingerprint"]

#: Parameters of a checkpoint, in contrast to its buffers.
_PARAMETER = re.compile(r"(weight|bias|weights[12]\.\d+)$")


def fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names and float32 values of all tensors, independent of order, device and
    precision of storage."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].detach().to("cpu", torch.float32).contiguous()
        digest.update(f"{name}{tuple(value.shape)}".encode())
        digest.update(value.numpy().tobytes())
    return digest.hexdigest()[:32]


def checkpoint_fingerprint(states: Sequence[Mapping[str, Tensor]]) -> str:
    """That of several ``state_dict``\\ s together.

    Buffers do not count, so every backend and type gives the same.
    """
    return fingerprint(
        {
            f"{number}.{name}": value
            for number, state in enumerate(states)
            for name, value in state.items()
            if _PARAMETER.search(name) and value.numel()
        }
    )
