"""Target blocks: which pair of shells of which pair of elements is predicted by which output
channel (DeepH-E3's ``target_blocks``)."""

from __future__ import annotations

import dataclasses
import functools
import operator
from collections.abc import Sequence
from typing import Literal

from e3nn.o3 import Irreps

from ..errors import ConfigError, ModelError

__all__ = ["Basis", "TargetBlocks", "BlockType", "make_target_blocks", "block_irreps"]

BlockType = Literal["all", "diag", "off-diag", "specify"]


@dataclasses.dataclass(frozen=True)
class Basis:
    """Elements and shells a model knows (DeepH-E3's ``dataset_info.json``).

    Attributes:
        elements: atomic numbers, in the model's order (node types index it).
        orbital_types: per element, l of each shell.
        spinful: whether H is spin-doubled and complex.
    """

    elements: tuple[int, ...]
    orbital_types: tuple[tuple[int, ...], ...]
    spinful: bool

    def counts(self, element: int) -> int:
        """Number of spinless orbitals of element number ``element`` (an index)."""
        return sum(2 * l + 1 for l in self.orbital_types[element])

    def offset(self, element: int, shell: int) -> int:
        """First orbital of a shell."""
        return sum(2 * l + 1 for l in self.orbital_types[element][:shell])


def block_irreps(l1: int, l2: int, spinful: bool, parity: bool = True) -> Irreps:
    """Irreps of one block: l1 ⊗ l2, and for spin-orbit (l1 ⊗ ½) ⊗ (l2 ⊗ ½), in DeepH-E3's order.

    Spinless: \\|l1-l2\\| ... l1+l2. Spin-orbit adds, for each of these, its product with l = 1. All
    have parity (-1)^(l1+l2).
    """
    p = (-1) ** (l1 + l2) if parity else 1
    ls = list(range(abs(l1 - l2), l1 + l2 + 1))
    if spinful:
        ls += [k for l in tuple(ls) for k in range(abs(l - 1), l + 2)]
    return Irreps([(1, (l, p)) for l in ls])


@dataclasses.dataclass(frozen=True)
class TargetBlocks:
    """The output channels of a model.

    Attributes:
        basis: elements and shells.
        blocks: per channel, ``{(element i, element j): (shell of i, shell of j)}`` with indices
            into ``basis``.
    """

    basis: Basis
    blocks: tuple[dict[tuple[int, int], tuple[int, int]], ...]

    @classmethod
    def from_json(
        cls, basis: Basis, targets: Sequence[dict[str, Sequence[int]]], where: str
    ) -> TargetBlocks:
        """From DeepH-E3's ``target_blocks.json``: ``[{"42 16": [3, 4], ...}, ...]``, atomic numbers
        and shell indices.

        Raises:
            ModelError: an unknown element, a shell that does not exist, or shells of different l in
                one channel.
        """
        out = []
        index = {z: n for n, z in enumerate(basis.elements)}
        if not isinstance(targets, (list, tuple)):
            raise ModelError(f"{where}: needs a list of target blocks, not {str(targets)[:60]!r}")
        for number, target in enumerate(targets):
            channel: dict[tuple[int, int], tuple[int, int]] = {}
            if not isinstance(target, dict) or not target:
                raise ModelError(
                    f"{where}: target block {number} is {str(target)[:60]!r}; it needs pairs of "
                    'elements with pairs of shells, as {"42 16": [3, 4]}'
                )
            for pair, shells in target.items():
                try:
                    i, j = (index[int(z)] for z in pair.split())
                    a, b = (operator.index(s) for s in shells)
                    if min(a, b) < 0 or (i, j) in channel or bool in map(type, shells):
                        raise ValueError
                    basis.orbital_types[i][a], basis.orbital_types[j][b]
                except (KeyError, ValueError, IndexError, TypeError):
                    raise ModelError(
                        f"{where}: target block {number}, '{pair}': {str(shells)[:60]} does not "
                        f"fit the elements {list(basis.elements)} with shells "
                        f"{[list(s) for s in basis.orbital_types]}"
                    ) from None
                channel[i, j] = (a, b)
            out.append(channel)
        if not out:
            raise ModelError(f"{where}: no target blocks")
        targets_object = cls(basis, tuple(out))
        targets_object.degrees  # noqa: B018  (checks that each channel has one pair of l)
        return targets_object

    def to_json(self) -> list[dict[str, list[int]]]:
        """The inverse of :meth:`from_json`."""
        z = self.basis.elements
        return [
            {f"{z[i]} {z[j]}": list(shells) for (i, j), shells in channel.items()}
            for channel in self.blocks
        ]

    @functools.cached_property
    def degrees(self) -> tuple[tuple[int, int], ...]:
        """(l1, l2) of each channel."""
        out = []
        for number, channel in enumerate(self.blocks):
            pairs = {
                (self.basis.orbital_types[i][a], self.basis.orbital_types[j][b])
                for (i, j), (a, b) in channel.items()
            }
            if len(pairs) != 1:
                raise ModelError(
                    f"target block {number} mixes shells of different l: {sorted(pairs)}; one "
                    "output channel has one pair of l"
                )
            out.append(pairs.pop())
        return tuple(out)

    @functools.cached_property
    def slices(self) -> tuple[int, ...]:
        """Start of each channel in the direct-product vector, and its length K at the end."""
        out = [0]
        for l1, l2 in self.degrees:
            out.append(out[-1] + (2 * l1 + 1) * (2 * l2 + 1))
        return tuple(out)

    @property
    def width(self) -> int:
        """K, direct-product components per edge (and spin pair)."""
        return self.slices[-1]

    def irreps(self, parity: bool = True) -> Irreps:
        """Irreps of the direct-sum vector (D components).

        With spin-orbit the real parts, then the imaginary parts.
        """
        out = sum(
            (block_irreps(l1, l2, self.basis.spinful, parity) for l1, l2 in self.degrees),
            Irreps([]),
        )
        return out + out if self.basis.spinful else out

    def missing(self) -> list[str]:
        """Pairs of shells that no channel predicts, as ``"Z_i Z_j: shell a, shell b"``."""
        have = {(pair, shells) for channel in self.blocks for pair, shells in channel.items()}
        z = self.basis.elements
        return [
            f"{z[i]} {z[j]}: shells {a}, {b}"
            for i, si in enumerate(self.basis.orbital_types)
            for j, sj in enumerate(self.basis.orbital_types)
            for a in range(len(si))
            for b in range(len(sj))
            if ((i, j), (a, b)) not in have
        ]


def make_target_blocks(
    basis: Basis,
    kind: BlockType = "all",
    element_pairs: Sequence[str] | None = None,
    specified: Sequence[dict[str, Sequence[int]]] | None = None,
) -> TargetBlocks:
    """The channels DeepH-E3 makes for ``target_blocks_type``: like shells of different element
    pairs share one channel.

    Two pairs of shells are alike when both have the same l and the same number among the shells of
    that l.

    Args:
        basis: elements and shells.
        kind: ``all``, ``diag`` (equal shells), ``off-diag``, or ``specify``.
        element_pairs: keep only these, e.g. ``["42 16"]``.
        specified: the channels for ``specify``.

    Raises:
        ConfigError: ``specify`` without channels, or nothing is left to predict.
    """
    if kind == "specify":
        if not specified:
            raise ConfigError("target_blocks_type = specify needs target_blocks")
        return TargetBlocks.from_json(basis, specified, "target_blocks")
    channels: dict[tuple[int, int, int, int], dict[tuple[int, int], tuple[int, int]]] = {}
    for i, shells_i in enumerate(basis.orbital_types):
        for j, shells_j in enumerate(basis.orbital_types):
            if element_pairs and f"{basis.elements[i]} {basis.elements[j]}" not in element_pairs:
                continue
            for a, l1 in enumerate(shells_i):
                for b, l2 in enumerate(shells_j):
                    alike = (l1, a - shells_i.index(l1), l2, b - shells_j.index(l2))
                    channels.setdefault(alike, {})[i, j] = (a, b)
    keep = {
        "all": lambda k: True,
        "diag": lambda k: k[:2] == k[2:],
        "off-diag": lambda k: k[:2] != k[2:],
    }[kind]
    blocks = tuple(channel for alike, channel in channels.items() if keep(alike))
    if not blocks:
        raise ConfigError(
            f"target_blocks_type = {kind} with element pairs {element_pairs} leaves nothing "
            "to predict"
        )
    return TargetBlocks(basis, blocks)
