"""CUDA graphs played by the CPU: what a function does is recorded and done again.

Like a real graph, the record knows tensors by their memory, not by what they hold: what lies
elsewhere at the next step, or was decided in Python, is not noticed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

__all__ = ["recorded"]


class Record(TorchDispatchMode):
    """All operations, in order, those of the backward pass, too."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[Any, Any, Any, list[torch.Tensor]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        tensors = [x for x in tree_leaves(out) if isinstance(x, torch.Tensor)]
        self.operations.append((func, args, kwargs or {}, tensors))
        return out

    def replay(self) -> None:
        """Do all again; results go where they were."""
        with torch.no_grad():
            for func, args, kwargs, places in self.operations:
                out = func(*args, **kwargs)
                made = [x for x in tree_leaves(out) if isinstance(x, torch.Tensor)]
                for place, value in zip(places, made, strict=True):
                    if value.data_ptr() != place.data_ptr():
                        place.copy_(value)


def recorded(step: Callable[[], Any], shared: dict[str, Any]) -> tuple[Callable[[], None], Any]:
    """Stands in for :func:`deeph_gformer.training.cuda_graphs.capture`."""
    shared["captures"] = shared.get("captures", 0) + 1
    step()
    with Record() as record:
        result = step()
    return record.replay, result
