"""Edges of a structure that several processes share: each has those of its own atoms only."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from ..data.edges import EdgeChoice
from ..errors import DataError
from ..io.blocks import match_keys, reverse_keys, sort_keys
from ..io.structure import Structure
from ..overlap import OverlapProvider
from ..runtime.communicator import Communicator
from ..runtime.processes import agreed

__all__ = ["deal_edges", "find_shared", "partners"]


def find_shared(
    comm: Communicator, structure: Structure, provider: OverlapProvider, pbc: Sequence[bool]
) -> tuple[Communicator, NDArray[np.int64]]:
    """Each process finds the edges of as many atoms; then they are dealt out evenly.

    Args:
        comm: the processes.
        structure: the same on each.
        provider: says which edges there are.
        pbc: whether each lattice vector repeats.

    Returns:
        The processes with the atoms shared out, and (E of this one, 5) keys in canonical order.

    Raises:
        DataError: processes find different edges; see also :meth:`OverlapProvider.edges`.
        ConfigError: fewer atoms than processes.
    """
    if comm.size == 1:
        return comm, provider.edges(structure, pbc)
    with agreed(comm):
        atoms = comm.over(np.ones(len(structure), dtype=np.int64)).atoms
        keys = provider.edges_of(structure, pbc, atoms)
    comm, keys = _deal(comm, keys, len(structure))
    _require_pairs(comm, keys, structure.name)
    return comm, keys


def deal_edges(
    comm: Communicator, choice: EdgeChoice | None, atoms: int
) -> tuple[Communicator, EdgeChoice]:
    """The first process deals out the edges that it has read.

    Args:
        comm: the processes.
        choice: all edges, on the first one.
        atoms: of the structure.

    Returns:
        The processes with the atoms shared out, and the edges of this one's.

    Raises:
        ConfigError: fewer atoms than processes.
    """
    if comm.size == 1 and choice is not None:
        return comm, choice
    keys = np.zeros((0, 5), dtype=np.int64) if choice is None else choice.keys
    told = comm.objects(None if choice is None else choice._replace(keys=keys[:0]))[0]
    comm, keys = _deal(comm, keys, atoms)
    return comm, told._replace(keys=keys)


def _deal(
    comm: Communicator, keys: NDArray[np.int64], atoms: int
) -> tuple[Communicator, NDArray[np.int64]]:
    """Share out the atoms by their edges, and send each edge to where its atom i is.

    Args:
        comm: the processes.
        keys: (n, 5), canonical order; those of rank 0, 1, ... are all edges in order.
        atoms: of the structure.
    """
    degree = comm.sum(torch.from_numpy(np.bincount(keys[:, 3], minlength=atoms))).numpy()
    with agreed(comm):
        comm = comm.over(degree)
    places = np.searchsorted(keys[:, 3], comm.bounds)
    return comm, comm.deal(keys, [int(b - a) for a, b in itertools.pairwise(places)])


def _require_pairs(comm: Communicator, keys: NDArray[np.int64], name: str) -> None:
    """Raise unless (-R, j, i) is there, on the process of j, for each (R, i, j) of another one."""
    owner = comm.owner(keys[:, 4])
    here: list[str] = []
    there: list[str] = []
    for rank in range(comm.size):
        part = keys[owner == rank] if rank != comm.rank else keys[:0]
        back = reverse_keys(part)
        for digests, each in ((here, part), (there, back[sort_keys(back)])):
            digests.append(hashlib.sha256(np.ascontiguousarray(each).tobytes()).hexdigest())
    said = comm.objects(here)
    with agreed(comm):
        for rank in range(comm.size):
            if rank != comm.rank and said[rank][comm.rank] != there[rank]:
                raise DataError(
                    f"structure '{name}': processes {comm.rank} and {rank} find different edges "
                    "between their atoms; all must see the same overlaps (--overlap)"
                )


def partners(
    comm: Communicator, keys: NDArray[np.int64]
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Where (-R, j, i) of each (R, i, j) is.

    Args:
        comm: processes that share the structure.
        keys: (E, 5), of this process, canonical order.

    Returns:
        (E,), its number on this process, -1 where another one has it; and for each process the
        numbers (n,) of this one's edges whose partners it has, rising.
    """
    if comm.size == 1:
        return torch.from_numpy(match_keys(reverse_keys(keys), keys)), []
    owner = comm.owner(keys[:, 4])
    partner = np.full(len(keys), -1, dtype=np.int64)
    own = np.flatnonzero(owner == comm.rank)
    partner[own] = own[match_keys(reverse_keys(keys[own]), keys[own])]
    none = np.zeros(0, dtype=np.int64)
    theirs = [
        none if rank == comm.rank else np.flatnonzero(owner == rank) for rank in range(comm.size)
    ]
    return torch.from_numpy(partner), [torch.from_numpy(rows) for rows in theirs]
