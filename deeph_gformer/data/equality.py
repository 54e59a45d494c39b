"""The same crystal, whatever its place, its axes, and the order of its atoms."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ase.data import atomic_numbers, chemical_symbols
from numpy.typing import NDArray

from ..io.structure import Structure

__all__ = ["StructureDescriptor", "equal_structures", "match_descriptors", "structure_descriptor"]

#: Å; structures whose distances agree this well are the same one.
SAME_DISTANCE = 1e-4
#: Å; the same of their means, which vary less from structure to structure.
SAME_MEAN = 1e-5
#: Nearest neighbours (the atom itself included) that are compared.
NEAREST = 16


def equal_structures(structures: Sequence[Structure]) -> list[tuple[int, int]]:
    """Pairs of structures that are the same crystal: shifted, turned or in another order of atoms.

    Compared within :data:`SAME_DISTANCE` are elements, the lengths and angles of the lattice
    vectors, and the distances of each atom to its nearest neighbours.

    Returns:
        Indices into ``structures``; of n equal ones n - 1 pairs or more.
    """
    alike: dict[bytes, list[int]] = {}
    for n, structure in enumerate(structures):
        alike.setdefault(np.sort(structure.numbers).tobytes(), []).append(n)
    pairs = []
    for members in alike.values():
        if len(members) == 1:
            continue
        values = np.stack([_distances(structures[n]) for n in members])
        # equal ones are close in the mean, so few are compared in full
        order = np.argsort(values.mean(axis=1))
        for place, a in enumerate(order):
            for b in order[place + 1 :]:
                if values[b].mean() - values[a].mean() > SAME_DISTANCE:
                    break
                if np.abs(values[b] - values[a]).max() < SAME_DISTANCE:
                    pairs.append((members[a], members[b]))
    return pairs


@dataclasses.dataclass(frozen=True)
class StructureDescriptor:
    """A few numbers that tell one structure from others, for lists that travel with a model.

    An equivariant network cannot tell structures of equal descriptors apart either: these do not
    depend on place, axes or order of atoms, and not on the folder's name.

    Attributes:
        name: of its folder when the descriptor was made.
        elements: number of atoms of each atomic number.
        lengths: (6,), Å, of the lattice vectors and of their differences.
        neighbours: per atomic number the mean distances to the 1st, 2nd, ... neighbour, Å.
    """

    name: str
    elements: Mapping[int, int]
    lengths: tuple[float, ...]
    neighbours: Mapping[int, tuple[float, ...]]

    @property
    def key(self) -> tuple[tuple[int, int], ...]:
        """Composition: structures of different keys differ."""
        return tuple(sorted(self.elements.items()))

    @property
    def values(self) -> NDArray[np.float64]:
        """All distances in one row; of equal length for structures of one key."""
        rows = [self.neighbours[z] for z in sorted(self.elements)]
        return np.concatenate([np.array(self.lengths), *map(np.array, rows)])

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "name": self.name,
            "elements": {chemical_symbols[z]: n for z, n in sorted(self.elements.items())},
            "lengths": list(self.lengths),
            "neighbours": {
                chemical_symbols[z]: list(v) for z, v in sorted(self.neighbours.items())
            },
        }

    @classmethod
    def from_json(cls, table: Mapping[str, Any]) -> StructureDescriptor:
        """The descriptor that :meth:`to_json` wrote.

        Raises:
            KeyError, TypeError, ValueError: the table is none.
        """
        elements = {atomic_numbers[s]: int(n) for s, n in table["elements"].items()}
        neighbours = {
            atomic_numbers[s]: tuple(map(float, row)) for s, row in table["neighbours"].items()
        }
        lengths = tuple(map(float, table["lengths"]))
        if set(neighbours) != set(elements) or len(lengths) != 6:
            raise ValueError("elements and distances do not belong together")
        if {len(row) for row in neighbours.values()} != {NEAREST}:
            raise ValueError("another number of neighbours")
        return cls(str(table["name"]), elements, lengths, neighbours)


def structure_descriptor(name: str, structure: Structure) -> StructureDescriptor:
    """The descriptor of a structure.

    Args:
        name: of its folder.
        structure: with lattice and positions in Å.
    """
    values = _distances(structure)
    elements = {int(z): int((structure.numbers == z).sum()) for z in np.unique(structure.numbers)}
    neighbours, start = {}, 6
    for z in sorted(elements):
        stop = start + elements[z] * NEAREST
        means = values[start:stop].reshape(elements[z], NEAREST).mean(axis=0)
        neighbours[z], start = tuple(means.round(7).tolist()), stop
    return StructureDescriptor(name, elements, tuple(values[:6].round(7).tolist()), neighbours)


def match_descriptors(
    descriptors: Sequence[StructureDescriptor], known: Sequence[StructureDescriptor]
) -> list[StructureDescriptor | None]:
    """For each descriptor the known one that is the same structure, None where there is none.

    Args:
        descriptors: to be looked for.
        known: where they are looked for.
    """
    tables: dict[tuple[tuple[int, int], ...], list[StructureDescriptor]] = {}
    for entry in known:
        tables.setdefault(entry.key, []).append(entry)
    rows = {key: np.stack([entry.values for entry in table]) for key, table in tables.items()}
    tolerance = np.full(6, SAME_DISTANCE)
    found: list[StructureDescriptor | None] = []
    for entry in descriptors:
        if entry.key not in rows:
            found.append(None)
            continue
        away = np.abs(rows[entry.key] - entry.values)
        near = (away[:, :6] < tolerance).all(axis=1) & (away[:, 6:] < SAME_MEAN).all(axis=1)
        found.append(tables[entry.key][int(near.argmax())] if near.any() else None)
    return found


def _distances(structure: Structure) -> NDArray[np.float64]:
    """Numbers that tell a crystal whatever its place, axes and order of atoms.

    They are continuous in the positions.

    Returns:
        (6 + N nearest,), Å: lengths of the lattice vectors and of their differences; of each atom
        the distances to its nearest neighbours (27 cells), each column sorted within an element.
    """
    lattice = structure.lattice
    edges = np.linalg.norm(np.concatenate([lattice, lattice - np.roll(lattice, 1, axis=0)]), axis=1)
    cells = (np.indices((3, 3, 3)).reshape(3, -1).T - 1) @ lattice
    fraction = structure.positions @ np.linalg.inv(lattice)
    rows = np.empty((len(structure), NEAREST))
    for n, own in enumerate(fraction):
        away = fraction - own
        away -= np.round(away)
        length = np.linalg.norm((away @ lattice)[:, None] + cells, axis=2).ravel()
        rows[n] = np.sort(np.partition(length, NEAREST)[:NEAREST])
    elements = [
        np.sort(rows[structure.numbers == z], axis=0).ravel() for z in np.unique(structure.numbers)
    ]
    return np.concatenate([edges, *elements])
