"""Stage 1's features chunk by chunk: what stage 2 reads of an edge, in frames of stage 1's choice.

Everything stage 2's equivariant head does commutes with rotations, so it may work in any frame per edge, as long as irreps, harmonics and the atoms' irreps
are given in the same one. The embedded engine gives edge frames (only m = 0 of the harmonics is non-zero there), any other stage 1 global axes.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from torch import Tensor

from ..algebra.layout import Features, Key

__all__ = ["EdgeChunk", "FinalChunk", "IrrepStream", "project"]


class EdgeChunk(NamedTuple):
    """Some edges after one encoder group.

    Attributes:
        rows: (n,) int64, which edges of the graph. group: number of the encoder group.
        edge: their irreps, (n, 2 l + 1, C) per key.
        axis_edge, axis_i, axis_j: Y_l · x of every natural-parity key with l > 0, of the edge and of its two atoms, (n, C).
        flat: function without arguments: the irreps in e3nn's flat layout and global axes, (n, d).
    """

    rows: Tensor
    group: int
    edge: Features
    axis_edge: dict[Key, Tensor]
    axis_i: dict[Key, Tensor]
    axis_j: dict[Key, Tensor]
    flat: Callable[[], Tensor]


class FinalChunk(NamedTuple):
    """Some edges at the end of stage 1.

    Attributes:
        rows: (n,) int64, which edges of the graph. own: the direct sum, eV. edges: irreps of the last (up to two) encoder groups.
        node_i, node_j: the last node irreps of both atoms. harmonics: Y_l, per l (n, 2 l + 1).
        frames: D^l of the frames that all of these are in, per l (n, 2 l + 1, 2 l + 1) (see :func:`deeph_gformer.algebra.rotation.edge_frames`);
            None: they are in global axes.
        flat: turns direct-sum features in these frames into e3nn's flat layout and global axes, (n, D).
        direct_sum: function without arguments: ``flat(own)``.
    """

    rows: Tensor
    own: Features
    edges: Sequence[Features]
    node_i: Features
    node_j: Features
    harmonics: Sequence[Tensor]
    frames: Sequence[Tensor] | None
    flat: Callable[[Features], Tensor]
    direct_sum: Callable[[], Tensor]


def project(features: Features, harmonics: Sequence[Tensor]) -> dict[Key, Tensor]:
    """Y_l · x of every natural-parity key with l > 0.

    Args:
        features: (n, 2 l + 1, C) per key. harmonics: per l (n, 2 l + 1).

    Returns:
        Per key (n, C).
    """
    return {
        (l, p): (harmonics[l][:, None] @ value).squeeze(1)
        for (l, p), value in features.items()
        if l > 0 and p == (-1) ** l
    }


class IrrepStream(abc.ABC):
    """One pass of a stage 1 over a graph (the edges of this rank's atoms, all atoms).

    Attributes:
        nodes: after encoder group p, ``nodes[p]`` is (N, d_n^p), e3nn's flat layout, global axes.
    """

    nodes: list[Tensor]

    @abc.abstractmethod
    def groups(self, features: bool) -> Iterator[EdgeChunk]:
        """Run the encoder groups; gives every edge of every group once, group after group (nothing with ``features`` off)."""

    @abc.abstractmethod
    def final(self, features: bool) -> Iterator[FinalChunk]:
        """After :meth:`groups`: every edge once more. With ``features`` off only rows, own, flat and direct_sum are set."""

    def close(self) -> None:  # noqa: B027  (nothing to give back is the rule)
        """Forget edge-wise arrays."""
