"""Tensors that the backward pass makes again instead of finding them kept.

Autograd keeps what each product needs for its gradient. Some of that is cheap to make from what is
kept anyway: rotated and gathered features from those of the atoms, gated features from those before
the gate. Saved-tensor hooks put a recipe in its place. Formulas of gradients stay autograd's own,
so double backward and forward mode work as without.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import torch
from torch import Tensor

__all__ = ["Recompute"]


class _Recipe(NamedTuple):
    """A view of a tensor that will be made again."""

    of: Recompute
    name: Hashable
    size: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int

    def tensor(self) -> Tensor:
        """The view."""
        return self.of.take(self.name).as_strided(self.size, self.stride, self.offset)


def _address(tensor: Tensor) -> int | None:
    """Of its storage; None where there is none of its own (zero tangents, torch.func, wrappers)."""
    if type(tensor) not in (Tensor, torch.nn.Parameter):
        return None
    try:
        return tensor.untyped_storage().data_ptr() or None
    except (RuntimeError, NotImplementedError):
        return None


class Recompute:
    """What replaces some saved tensors of a part of the forward pass."""

    def __init__(
        self, make: Callable[[], Mapping[Any, Tensor]], sources: Sequence[Tensor] = ()
    ) -> None:
        """
        Args:
            make: gives the tensors again, contiguous, by the names of :meth:`name`; called without
                gradients, once for all of them.
            sources: what ``make`` reads; must not change before the backward pass.
        """
        self._make = make
        self._sources = [(source, source._version) for source in sources]
        self._names: dict[int, Hashable] = {}
        self._alive: list[Tensor] = []  # until the hooks end: an address must mean one tensor
        self._made: Mapping[Any, Tensor] = {}
        self._saved = self._taken = 0

    def name(self, name: Hashable, tensor: Tensor) -> None:
        """``tensor`` (with storage of its own) and its views are not to be kept."""
        address = _address(tensor)
        if address is not None:
            self._names[address] = name
            self._alive.append(tensor)

    def saving(self) -> AbstractContextManager[None]:
        """Within the block named tensors are replaced."""
        return torch.autograd.graph.saved_tensors_hooks(self._pack, self._unpack)

    def done(self) -> None:
        """Nothing more will be saved."""
        self._names.clear()
        self._alive.clear()

    def take(self, name: Hashable) -> Tensor:
        """A tensor, made with all others when the first is asked for, forgotten after the last."""
        if not self._made:
            if any(source._version != version for source, version in self._sources):
                raise RuntimeError(
                    "one of the variables needed for gradient computation has been modified by an "
                    "inplace operation: what a convolution was made of changed between its forward "
                    "and its backward pass"
                )
            with torch.no_grad():
                self._made = self._make()
        value = self._made[name]
        self._taken += 1
        if self._taken == self._saved:
            self._made, self._taken = {}, 0
        return value

    def _pack(self, tensor: Tensor) -> Tensor | _Recipe:
        address = _address(tensor) if self._names else None
        name = None if address is None else self._names.get(address)
        if name is None:
            return tensor
        self._saved += 1
        offset = int(tensor.storage_offset())
        return _Recipe(self, name, tuple(tensor.size()), tuple(tensor.stride()), offset)

    @staticmethod
    def _unpack(kept: Tensor | _Recipe) -> Tensor:
        return kept.tensor() if isinstance(kept, _Recipe) else kept
