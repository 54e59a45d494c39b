r"""Levels of H, a linear model of them, and H with other levels.

The level of a shell is the mean of its on-site energies. Shells of one kind (l, and how many of
this l come before) are compared over all atoms that blocks connect: with the mean of each element
over the training set taken out, and that over these atoms as well, for a constant is the zero of
energy.

A shift of all levels of an atom is one of the potential, and enters the blocks between atoms by
overlaps; what is left of a shell's own shift hardly does. So with δ_i, its mean over the shells of
an atom, and the rest,

.. math::
    H_{ii} \leftarrow H_{ii} + \tfrac12 (\delta_i + \delta_i) \circ S_{ii},\qquad
    H_{ij} \leftarrow H_{ij} + \tfrac12 (\eta_i + \eta_j) \circ S_{ij},\qquad
    \eta_i = a \bar\delta_i + b (\delta_i - \bar\delta_i)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..data.energies import onsite_energies
from ..io.blocks import BlockMatrix, match_keys, onsite_keys
from ..io.structure import Structure
from .features import Radial, Surroundings
from .reach import Reach

__all__ = ["Kind", "LevelModel", "centred", "kinds_of", "shell_levels", "with_levels"]

#: Blocks at a time.
_BLOCKS = 16384
#: l of a shell, and how many shells of this l come before it.
Kind = tuple[int, int]


def kinds_of(shells: Sequence[int]) -> list[Kind]:
    """The kind of each shell of an atom, from their l."""
    return [(l, list(shells[:n]).count(l)) for n, l in enumerate(shells)]


def shell_levels(
    structure: Structure, hamiltonian: BlockMatrix, kinds: Sequence[Kind]
) -> NDArray[np.float64]:
    """The levels of H.

    Args:
        structure: the atoms.
        hamiltonian: H, with the on-site blocks of some or all atoms.
        kinds: K of them.

    Returns:
        (N, K), eV, NaN where an atom has no such shell or no block.
    """
    result = np.full((len(structure), len(kinds)), np.nan)
    energies = onsite_energies(structure.name, structure.numbers, hamiltonian).values
    for atom, (values, shells) in enumerate(zip(energies, structure.orbital_types, strict=True)):
        if not len(values):
            continue
        sizes = [2 * l + 1 for l in shells]
        spins = values.reshape(-1, sum(sizes)).mean(axis=0)
        starts = np.concatenate([[0], np.cumsum(sizes)])[:-1]
        means = np.add.reduceat(spins, starts) / sizes
        for kind, mean in zip(kinds_of(shells), means, strict=True):
            if kind in kinds:
                result[atom, list(kinds).index(kind)] = mean
    return result


def centred(
    values: NDArray[np.float64], there: NDArray[np.bool_], piece: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Columns less their means over the atoms of a piece.

    Args:
        values: (N, K).
        there: (N, K), which of them count.
        piece: (N,), number of each atom's piece: between pieces the zero of energy is not known.

    Returns:
        (N, K), zero for what does not count.
    """
    values = np.where(there, values, 0.0)
    pieces = int(piece.max(initial=-1)) + 1
    total, count = np.zeros((2, pieces, values.shape[1]))
    np.add.at(total, piece, values)
    np.add.at(count, piece, there)
    return np.where(there, values - (total / np.maximum(count, 1))[piece], 0.0)


@dataclasses.dataclass(frozen=True)
class LevelModel:
    """A linear function of features, and how far a prediction's levels follow it.

    Attributes:
        elements: atomic numbers, n.
        kinds: of shells, K.
        radial: of the features, F.
        ranks: in how many directions the structures of the fit repeat.
        features: (n, F), means over the training atoms of each element.
        levels: (n, K), means of the levels, eV; NaN where an element has no such shell.
        weights: (K, F), eV.
        share: (K,), 0 to 1: 0 leaves a prediction's levels as they are, 1 replaces them.
        between: (2,), a and b, 0 to 1.
        reach: how far they hold; None in bundles that do not know.
    """

    elements: tuple[int, ...]
    kinds: tuple[Kind, ...]
    radial: Radial
    ranks: tuple[int, ...]
    features: NDArray[np.float64]
    levels: NDArray[np.float64]
    weights: NDArray[np.float64]
    share: NDArray[np.float64]
    between: NDArray[np.float64]
    reach: Reach | None = dataclasses.field(default=None, kw_only=True)

    def shifts(
        self, structure: Structure, around: Surroundings, levels: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """δ of each level.

        Args:
            structure: the atoms.
            around: see :func:`.features.onsite_features`.
            levels: (N, K), of the prediction, eV.

        Returns:
            (N, K), eV; zero where there is no such shell.
        """
        return self.share * self.differences(structure, around, levels)

    def differences(
        self, structure: Structure, around: Surroundings, levels: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """:meth:`shifts` with a share of 1: levels of the model less those of a matrix, eV."""
        element = self._element(structure)
        there = np.isfinite(levels) & np.isfinite(self.levels[element])
        wanted = (around.features - self.features[element]) @ self.weights.T
        return centred(wanted - (levels - self.levels[element]), there, around.piece)

    def slopes(
        self, structure: Structure, around: Surroundings, levels: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Derivatives of :meth:`shifts`, eV/Å, from those of features and of levels (1/Å, eV/Å)."""
        element = self._element(structure)
        there = np.isfinite(levels) & np.isfinite(self.levels[element])
        return self.share * centred(around.features @ self.weights.T - levels, there, around.piece)

    def moved(self, structure: Structure, around: Surroundings) -> NDArray[np.float64]:
        """(N, F), x of :mod:`.reach`: features less the means of elements, and of pieces."""
        own = around.features - self.features[self._element(structure)]
        return centred(own, np.ones_like(own, dtype=bool), around.piece)

    def between_atoms(
        self, structure: Structure, shifts: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """η of each level, eV, from δ (N, K)."""
        mean, rest = self.parts(structure, shifts)
        return self.between[0] * mean + self.between[1] * rest

    def parts(
        self, structure: Structure, shifts: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The means of δ (N, K) over the shells of each atom, and what is left."""
        there = np.isfinite(self.levels[self._element(structure)])
        mean = shifts.sum(axis=1, keepdims=True) / there.sum(axis=1, keepdims=True)
        return np.where(there, mean, 0.0), np.where(there, shifts - mean, 0.0)

    def _element(self, structure: Structure) -> NDArray[np.int64]:
        """(N,), number of each atom's element."""
        return np.array([self.elements.index(z) for z in structure.numbers.tolist()])

    def to_json(self) -> dict[str, Any]:
        """Numbers and lists; what :meth:`from_json` reads."""

        def rounded(values: NDArray[np.float64]) -> list[Any]:
            """Lists with eight digits, None for NaN."""
            if values.ndim > 1:
                return [rounded(row) for row in values]
            return [float(f"{v:.8g}") if np.isfinite(v) else None for v in values.tolist()]

        return {
            "elements": list(self.elements),
            "kinds": [list(kind) for kind in self.kinds],
            "radial": list(self.radial),
            "ranks": list(self.ranks),
            **{name: rounded(getattr(self, name)) for name in _ARRAYS},
            **({"reach": self.reach.to_json()} if self.reach is not None else {}),
        }

    @classmethod
    def from_json(cls, table: Mapping[str, Any]) -> LevelModel:
        """What :meth:`to_json` made.

        Raises:
            ValueError: it is something else.
        """
        try:
            elements = tuple(int(z) for z in table["elements"])
            kinds = tuple((int(l), int(n)) for l, n in table["kinds"])
            cutoff, first, spread, count = table["radial"]
            radial = Radial(float(cutoff), float(first), float(spread), int(count))
            ranks = tuple(int(rank) for rank in table["ranks"])
            arrays = [np.array(table[name], dtype=np.float64) for name in _ARRAYS]
            size = 2 * len(elements) ** 2 * radial.number
            reach = Reach.from_json(table["reach"], size) if "reach" in table else None
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"no model of levels: {error}") from None
        n, k = len(elements), len(kinds)
        shapes = (n, size), (n, k), (k, size), (k,), (2,)
        if radial.number < 2 or min(radial[:3]) <= 0 or [a.shape for a in arrays] != list(shapes):
            raise ValueError("no model of levels: sizes do not fit together")
        finite = [np.isfinite(a).all() for a in (arrays[0], *arrays[2:])]
        shares = np.concatenate(arrays[3:]) if all(finite) else np.array([-1.0])
        if not ((shares >= 0) & (shares <= 1)).all():
            raise ValueError("no model of levels: a number is missing or out of range")
        return cls(elements, kinds, radial, ranks, *arrays, reach=reach)


_ARRAYS = ("features", "levels", "weights", "share", "between")


def with_levels(
    structure: Structure,
    hamiltonian: BlockMatrix,
    overlap: BlockMatrix,
    kinds: Sequence[Kind],
    shifts: NDArray[np.float64],
    between: NDArray[np.float64],
    spinful: bool,
) -> BlockMatrix:
    """H with shifted levels (formula above); blocks that S lacks stay.

    Args:
        structure: the atoms.
        hamiltonian: H.
        overlap: S, spinless.
        kinds: K of them.
        shifts: (N, K), δ, eV, for blocks of an atom with itself.
        between: (N, K), η, eV, for all others.
        spinful: whether H has spin.
    """
    tables = [_by_orbital(structure, kinds, values) for values in (between, shifts)]
    index = match_keys(overlap.keys, hamiltonian.keys)
    there = np.flatnonzero(index >= 0)
    near, places = overlap.select(there), hamiltonian.offsets[index[there]]
    first, second, itself = near.keys[:, 3], near.keys[:, 4], onsite_keys(near.keys)
    values, spins = hamiltonian.values.copy(), 2 if spinful else 1
    for group, every in near.groups():
        for start in range(0, len(group), _BLOCKS):
            rows, blocks = group[start : start + _BLOCKS], every[start : start + _BLOCKS]
            _, n, m = blocks.shape
            apart, own = (t[first[rows], :n, None] + t[second[rows], None, :m] for t in tables)
            shift = np.where(itself[rows, None, None], own, apart)
            inside = np.arange(n)[:, None] * (spins * m) + np.arange(m)
            for spin in range(spins):  # a block is [[↑↑, ↑↓], [↓↑, ↓↓]]
                place = places[rows, None, None] + inside + spin * (n * spins * m + m)
                values[place] += (shift * blocks / 2).astype(values.dtype)
    return dataclasses.replace(hamiltonian, values=values)


def _by_orbital(
    structure: Structure, kinds: Sequence[Kind], shifts: NDArray[np.float64]
) -> NDArray[np.float64]:
    """(N, most orbitals of an atom), the shift (N, K) of each orbital's shell; zero beyond."""
    result = np.zeros((len(structure), int(structure.orbital_counts.max())))
    for atom, shells in enumerate(structure.orbital_types):
        own = [shifts[atom, list(kinds).index(kind)] for kind in kinds_of(shells)]
        sizes = [2 * l + 1 for l in shells]
        result[atom, : sum(sizes)] = np.repeat(own, sizes)
    return result
