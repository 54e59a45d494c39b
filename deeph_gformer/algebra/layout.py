"""Spherical features: one tensor (rows, 2 l + 1, channels) per irrep, instead of e3nn's flat
vector."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from e3nn.o3 import Irreps
from torch import Tensor

__all__ = [
    "Features",
    "Frame",
    "Key",
    "Layout",
    "SplitFrame",
    "merge",
    "rotate",
    "rotate_flat",
    "turn",
    "turn_flat",
]

Key = tuple[int, int]  # (l, parity)
Features = dict[Key, Tensor]  # (rows, 2 l + 1, channels)


class SplitFrame(NamedTuple):
    """D^l of edges, of which the first move and the others do not: what is turned by the latter has
    no derivative by them.

    Attributes:
        moving: (M, 2 l + 1, 2 l + 1).
        still: (E - M, 2 l + 1, 2 l + 1).
    """

    moving: Tensor
    still: Tensor


#: D^l of every row, (E, 2 l + 1, 2 l + 1).
Frame = Tensor | SplitFrame


class Layout:
    """Where the slots ``mul x ir`` of some irreps stand in :data:`Features`: slots of equal irrep
    are joined, in their order.

    Attributes:
        irreps: as given.
        slots: per slot (key, first channel, multiplicity).
        channels: per key, in order of first appearance.
    """

    def __init__(self, irreps: Irreps | str) -> None:
        self.irreps = Irreps(irreps)
        self.channels: dict[Key, int] = {}
        self.slots: list[tuple[Key, int, int]] = []
        for mul, ir in self.irreps:
            key = (ir.l, ir.p)
            start = self.channels.get(key, 0)
            self.slots.append((key, start, mul))
            self.channels[key] = start + mul

    @property
    def lmax(self) -> int:
        """Largest l."""
        return max((l for l, _ in self.channels), default=0)

    def multiplicity_index(self) -> dict[Key, Tensor]:
        """Per key (channels,), the place of each channel in a vector with one number per
        multiplicity (e3nn's slot order)."""
        index: dict[Key, list[int]] = {key: [] for key in self.channels}
        start = 0
        for key, _, mul in self.slots:
            index[key] += range(start, start + mul)
            start += mul
        return {key: torch.tensor(value, dtype=torch.int64) for key, value in index.items()}

    def split(self, flat: Tensor) -> Features:
        """e3nn's flat layout (rows, dim) to features."""
        parts: dict[Key, list[Tensor]] = {key: [] for key in self.channels}
        start = 0
        for key, _, mul in self.slots:
            dim = 2 * key[0] + 1
            parts[key].append(
                flat[:, start : start + mul * dim].reshape(len(flat), mul, dim).transpose(1, 2)
            )
            start += mul * dim
        return {
            key: torch.cat(value, dim=2) if len(value) > 1 else value[0]
            for key, value in parts.items()
        }

    def flat(self, features: Features) -> Tensor:
        """Features to e3nn's flat layout (rows, dim)."""
        parts = [
            features[key][:, :, start : start + mul].transpose(1, 2).flatten(1)
            for key, start, mul in self.slots
        ]
        return torch.cat(parts, dim=1)


def merge(*parts: Features) -> Features:
    """Concatenate channels, part after part."""
    out: dict[Key, list[Tensor]] = {}
    for part in parts:
        for key, value in part.items():
            out.setdefault(key, []).append(value)
    return {
        key: torch.cat(value, dim=2) if len(value) > 1 else value[0] for key, value in out.items()
    }


def turn(frame: Frame, value: Tensor, to_local: bool) -> Tensor:
    """Vectors between global axes and edge frames.

    Args:
        frame: D^l of every row.
        value: (E, 2 l + 1, C).
        to_local: global to local (D^T), else local to global (D).
    """
    if isinstance(frame, SplitFrame):
        parts = zip(frame, value.split([len(part) for part in frame]), strict=True)
        return torch.cat([turn(part, rows, to_local) for part, rows in parts])
    return torch.bmm(frame.transpose(1, 2) if to_local else frame, value)


def rotate(features: Features, frames: Iterable[Frame], to_local: bool) -> Features:
    """Turn features between global axes and edge frames.

    Args:
        features: rows are edges.
        frames: D^l of every edge (see :func:`deeph_gformer.algebra.rotation.edge_frames`).
        to_local: global to local (D^T), else local to global (D).
    """
    table = list(frames)
    out = {}
    for key, value in features.items():
        out[key] = turn(table[key[0]], value, to_local) if key[0] else value
    return out


def turn_flat(value: Tensor, irreps: Irreps, frames: Iterable[Frame], to_local: bool) -> Tensor:
    """:func:`rotate` of e3nn's flat vectors (rows, dim)."""
    layout = Layout(irreps)
    return layout.flat(rotate(layout.split(value), frames, to_local))


def rotate_flat(value: Tensor, irreps: Irreps, blocks: Sequence[Tensor]) -> Tensor:
    """Turn flat irreps (rows, dim) by the D^l of one proper rotation
    (:func:`.rotation.wigner_blocks`)."""
    layout = Layout(irreps)
    return layout.flat(
        {
            key: torch.einsum("mn,rnc->rmc", blocks[key[0]].to(part), part)
            for key, part in layout.split(value).items()
        }
    )
