"""Memory that one factorisation after the other uses: that of fresh arrays has to be cleared by the
operating system, which takes a tenth of the time of a factorisation."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from .bloch import BlochProblem

__all__ = ["Memory", "kept_memory", "memory_of"]


class Memory:
    """Arrays by name, lent to one user at a time.

    Attributes:
        kpoints: at how many k-points a problem is solved with it, about.
        shared: what serves all of them.
    """

    def __init__(self, kpoints: int = 1) -> None:
        """Empty; for so many k-points."""
        self.kpoints = kpoints
        self.shared: dict[str, Any] = {}
        self._bytes: dict[str, NDArray[np.uint8]] = {}
        self._user: weakref.ref[Any] | None = None

    def lend_to(self, user: object) -> bool:
        """Whether the memory is the user's from now on: it is nobody else's, who still lives."""
        if self._user is not None and self._user() is not None:
            return False
        self._user = weakref.ref(user)
        return True

    def array(self, name: str, size: int, dtype: DTypeLike) -> NDArray[Any]:
        """(size,), with whatever was in it before."""
        count = int(size) * np.dtype(dtype).itemsize
        if name not in self._bytes or len(self._bytes[name]) < count:
            self._bytes.pop(name, None)  # before the new one is there
            self._bytes[name] = np.empty(count, dtype=np.uint8)
        return self._bytes[name][:count].view(dtype)


def memory_of(problem: BlochProblem) -> Memory:
    """What :func:`kept_memory` keeps, or memory for one user."""
    kept: Memory | None = problem.__dict__.get("_memory")
    return Memory() if kept is None else kept


@contextlib.contextmanager
def kept_memory(problem: BlochProblem, kpoints: int = 1) -> Iterator[None]:
    """Factorisations of this problem use the same memory, which is given back at the end.

    Args:
        problem: the Hamiltonian.
        kpoints: how many will be solved, about.
    """
    outer = "_memory" in problem.__dict__
    problem.__dict__.setdefault("_memory", Memory(kpoints))
    try:
        yield
    finally:
        if not outer:
            del problem.__dict__["_memory"]
