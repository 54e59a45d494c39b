"""The two-centre form of S: one radial function per (shell, shell, |m|) of a pair of elements, and
blocks made from them.

In the frame whose z axis points from atom i to atom j, ``<i, l1 m1 | j, l2 m2>`` is zero unless
m1 = m2, and depends on |m| and the distance alone (Slater and Koster, Phys. Rev. 94, 1498). A block
is that matrix turned back: ``S = D_iᵀ B D_j``.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from ..io.blocks import BlockMatrix, format_key, match_keys, onsite_keys, reverse_keys, sort_keys
from ..io.structure import Structure
from .neighbours import symbol
from .rotation import ORDER, block_rotation, bond_rotation

__all__ = ["PairTable", "Shells", "TwoCentre", "bond_functions", "leading", "swap_sign"]

Shells = tuple[int, ...]
_CHUNK = 2_000  # blocks at a time, what fits into a processor's cache


@functools.cache
def bond_functions(
    a: Shells, b: Shells
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Which radial function stands where in a bond-frame block.

    Args:
        a: l of each shell of the first atom.
        b: of the second.

    Returns:
        functions (F, 3): index of the shell of a, of the shell of b, and |m|; and for the non-zero
        elements of the block: rows, columns, function.
    """
    start_a, start_b = (
        np.concatenate([[0], np.cumsum([2 * l + 1 for l in s])]).astype(int) for s in (a, b)
    )
    functions: list[tuple[int, int, int]] = []
    places: list[tuple[int, int, int]] = []
    for p, la in enumerate(a):
        for q, lb in enumerate(b):
            for m in range(min(la, lb) + 1):
                for signed in {m, -m}:
                    places.append(
                        (
                            start_a[p] + ORDER[la].index(signed),
                            start_b[q] + ORDER[lb].index(signed),
                            len(functions),
                        )
                    )
                functions.append((p, q, m))
    rows, columns, which = np.array(places, dtype=np.int64).reshape(-1, 3).T
    return np.array(functions, dtype=np.int64).reshape(-1, 3), rows, columns, which


def swap_sign(a: Shells, b: Shells) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """How the functions of (a, b) become those of (b, a): ``f_ba = sign * f_ab[index]``, sign
    (-1)^(l1+l2).

    Returns:
        index (F,) and sign (F,), both for the functions of (b, a).
    """
    place = {tuple(f): n for n, f in enumerate(bond_functions(a, b)[0].tolist())}
    back = bond_functions(b, a)[0].tolist()
    index = np.array([place[p, q, m] for q, p, m in back], dtype=np.int64)
    return index, np.array([(-1.0) ** (b[q] + a[p]) for q, p, _ in back])


def leading(structure: Structure, keys: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which of two partners (R, i, j) and (-R, j, i) is the one that is computed.

    It starts at the lighter atom, and among equals depends on nothing but the key.

    Args:
        structure: gives the elements.
        keys: (E, 5), 0-based.

    Returns:
        (E,), True for one of two partners; on-site keys are their own.
    """
    first, second = structure.numbers[keys[:, 3]], structure.numbers[keys[:, 4]]
    ahead = np.sign(keys[:, :3]) @ (9, 3, 1)  # the sign of the first R that is not zero
    same = (keys[:, 3] < keys[:, 4]) | ((keys[:, 3] == keys[:, 4]) & (ahead <= 0))
    return (first < second) | ((first == second) & same)


@dataclasses.dataclass(frozen=True)
class PairTable:
    """Radial functions of one pair of elements as B-splines.

    Attributes:
        knots: (K,), Å.
        coefficients: (K - degree - 1, F).
        degree: of the spline.
        cutoff: edges are pairs closer than this, Å.
        valid: (n, 2), distances at which the functions are known, Å, ascending; what lies between
            are gaps.
        report: figures of the fit (plain JSON values).
    """

    knots: NDArray[np.float64]
    coefficients: NDArray[np.float64]
    degree: int
    cutoff: float
    valid: NDArray[np.float64]
    report: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __call__(self, distance: NDArray[np.float64]) -> NDArray[np.float64]:
        """(E, F) values at distances (E,) in Å; zero beyond the last knot."""
        from scipy.interpolate import BSpline

        spline = BSpline(self.knots, self.coefficients, self.degree, extrapolate=True)
        low, high = self.knots[self.degree], self.knots[-self.degree - 1]
        values = spline(np.clip(distance, low, high))
        values[distance >= high] = 0.0
        return values

    def slope(self, distance: NDArray[np.float64]) -> NDArray[np.float64]:
        """(E, F) derivatives by the distance, 1/Å, of :meth:`__call__`."""
        from scipy.interpolate import BSpline

        spline = BSpline(self.knots, self.coefficients, self.degree, extrapolate=True)
        low, high = self.knots[self.degree], self.knots[-self.degree - 1]
        values = spline(np.clip(distance, low, high), nu=1)
        values[(distance >= high) | (distance < low)] = 0.0
        return values

    def known(self, distance: NDArray[np.float64]) -> NDArray[np.bool_]:
        """(E,), whether each distance (E,) lies in the valid range."""
        place = np.searchsorted(self.valid[:, 0], distance + 1e-9, side="right") - 1
        return (place >= 0) & (distance <= self.valid[np.maximum(place, 0), 1] + 1e-9)


@dataclasses.dataclass(frozen=True)
class TwoCentre:
    """Two-centre overlaps of a set of elements.

    Attributes:
        orbital_types: l of each shell, by atomic number.
        pairs: radial functions by (Z1, Z2), Z1 <= Z2, rows = orbitals of Z1.
        onsite: (n, n) on-site block by atomic number.
        report: where it comes from and how good it is (plain JSON values).
    """

    orbital_types: Mapping[int, Shells]
    pairs: Mapping[tuple[int, int], PairTable]
    onsite: Mapping[int, NDArray[np.float64]]
    report: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def cutoffs(self) -> dict[tuple[int, int], float]:
        """Edge cutoff of each pair of elements, Å."""
        return {pair: table.cutoff for pair, table in self.pairs.items()}

    def check(self, structure: Structure) -> None:
        """Raise where the structure has elements or shells that the table does not know.

        Raises:
            DataError: names the element and what is known.
        """
        known = ", ".join(f"{symbol(z)} {list(s)}" for z, s in sorted(self.orbital_types.items()))
        for z in np.unique(structure.numbers).tolist():
            if z not in self.orbital_types:
                raise DataError(
                    f"overlap: element {symbol(z)} of '{structure.name}' is not in the table, "
                    f"which knows {known}; "
                    "fit a table on structures that contain it, or give its basis file"
                )
        for atom, (z, shells) in enumerate(
            zip(structure.numbers.tolist(), structure.orbital_types, strict=True)
        ):
            if tuple(shells) != tuple(self.orbital_types[z]):
                raise DataError(
                    f"overlap: atom {atom + 1} ({symbol(z)}) of '{structure.name}' has shells "
                    f"{list(shells)}, the table knows {known}; "
                    "H and S must be in one basis"
                )

    def blocks(
        self, structure: Structure, keys: NDArray[np.int64], extrapolate: bool = False
    ) -> BlockMatrix:
        """S on given edges.

        Args:
            structure: gives positions, elements and shells.
            keys: (E, 5), any order; where both (R, i, j) and (-R, j, i) are there, one is the exact
                transpose of the other.
            extrapolate: allow distances outside the valid range.

        Raises:
            DataError: unknown element or shells, or a distance outside the valid range (named with
                its atoms).
        """
        self.check(structure)
        keys = np.asarray(keys, dtype=np.int64).reshape(-1, 5)
        keys = keys[sort_keys(keys)]
        vectors = structure.edge_vectors(keys)
        distance = np.linalg.norm(vectors, axis=1)
        itself = onsite_keys(keys)
        self._require_known(structure, keys, distance, itself, extrapolate)
        matrix = BlockMatrix(
            keys,
            structure.orbital_counts[keys[:, 3:]],
            np.zeros(int(structure.orbital_counts[keys[:, 3:]].prod(axis=1).sum())),
        )
        partner = match_keys(reverse_keys(keys), keys)
        first, second = structure.numbers[keys[:, 3]], structure.numbers[keys[:, 4]]
        forward = leading(structure, keys)
        for z in np.unique(structure.numbers).tolist():
            self._fill(
                matrix,
                np.flatnonzero(itself & (first == z)),
                np.asarray(self.onsite[z], float)[None],
            )
        for (a, b), table in self.pairs.items():
            wanted = np.flatnonzero(~itself & forward & (first == a) & (second == b))
            self._pair(matrix, table, (a, b), wanted, vectors, distance, partner)
            lonely = np.flatnonzero(
                ~itself & ~forward & (partner < 0) & (first == b) & (second == a)
            )
            self._pair(matrix, table, (a, b), lonely, -vectors, distance, None)
        return matrix

    def _pair(
        self,
        matrix: BlockMatrix,
        table: PairTable,
        pair: tuple[int, int],
        wanted: NDArray[np.int64],
        vectors: NDArray[np.float64],
        distance: NDArray[np.float64],
        partner: NDArray[np.int64] | None,
    ) -> None:
        """Fill the blocks of one pair of elements and their transposes; with ``partner`` None only
        the transposes."""
        shells = tuple(self.orbital_types[pair[0]]), tuple(self.orbital_types[pair[1]])
        _, rows, columns, which = bond_functions(*shells)
        sizes = [sum(2 * l + 1 for l in s) for s in shells]
        for start in range(0, len(wanted), _CHUNK):
            part = wanted[start : start + _CHUNK]
            bond = np.zeros((len(part), sizes[0], sizes[1]))
            values = table(distance[part])
            if table.report.get("cut_hard"):
                values[distance[part] >= table.cutoff] = 0.0
            bond[:, rows, columns] = values[:, which]
            turn = bond_rotation(vectors[part])
            left = block_rotation(shells[0], turn)
            right = left if shells[0] == shells[1] else block_rotation(shells[1], turn)
            block = np.swapaxes(left, 1, 2) @ bond @ right
            if partner is None:
                self._fill(matrix, part, np.swapaxes(block, 1, 2))
                continue
            self._fill(matrix, part, block)
            back = np.flatnonzero(partner[part] >= 0)
            self._fill(matrix, partner[part][back], np.swapaxes(block[back], 1, 2))

    @staticmethod
    def _fill(matrix: BlockMatrix, index: NDArray[np.int64], blocks: NDArray[np.float64]) -> None:
        if len(index):
            size = blocks.shape[1] * blocks.shape[2]
            windows = np.lib.stride_tricks.sliding_window_view(matrix.values, size, writeable=True)
            windows[matrix.offsets[index]] = blocks.reshape(len(blocks), size)

    def too_close(self, structure: Structure, keys: NDArray[np.int64], part: float = 1.0) -> str:
        """A sentence on the two atoms that are closest to each other below the shortest distance
        known for their elements.

        Args:
            structure: gives positions and elements.
            keys: (E, 5) edges, on-site ones included or not.
            part: below this part of that distance.

        Returns:
            The sentence, empty where all distances are longer. Pairs of elements that the table
            does not have are left out.
        """
        distance = np.linalg.norm(structure.edge_vectors(keys), axis=1)
        numbers = np.sort(structure.numbers[keys[:, 3:]], axis=1)
        itself = onsite_keys(keys)
        shortest = np.zeros(len(keys))
        for (a, b), table in self.pairs.items():
            shortest[(numbers == (a, b)).all(axis=1)] = table.valid[0, 0] - 1e-9
        bad = np.flatnonzero((distance < part * shortest) & ~itself)
        if not len(bad):
            return ""
        e = bad[np.argmin(distance[bad])]
        i, j = keys[e, 3:].tolist()
        names = symbol(structure.numbers[i]), symbol(structure.numbers[j])
        return (
            f"atoms {i + 1} ({names[0]}) and {j + 1} ({names[1]}) of '{structure.name}', block "
            f"{format_key(keys[e])}, are {distance[e]:.4f} Å "
            f"apart, closer than the known range of {'-'.join(names)} pairs "
            f"(from {shortest[e]:.3f} Å)"
        )

    def _require_known(
        self,
        structure: Structure,
        keys: NDArray[np.int64],
        distance: NDArray[np.float64],
        itself: NDArray[np.bool_],
        extrapolate: bool,
    ) -> None:
        """Raise on pairs of elements without functions, and, unless extrapolating, on distances
        outside the valid range."""
        numbers = np.sort(structure.numbers[keys[:, 3:]], axis=1)
        known = ", ".join(f"{symbol(a)}-{symbol(b)}" for a, b in sorted(self.pairs))
        for a, b in np.unique(numbers[~itself], axis=0).tolist():
            mine = np.flatnonzero(~itself & (numbers[:, 0] == a) & (numbers[:, 1] == b))
            table = self.pairs.get((a, b))
            if table is None:
                raise DataError(
                    f"overlap: the table has no pair {symbol(a)}-{symbol(b)}, but "
                    f"'{structure.name}' has edges between them; known pairs: {known}"
                )
            bad = mine[(distance[mine] < table.cutoff) & ~table.known(distance[mine])]
            if extrapolate or not len(bad):
                continue
            e = bad[np.argmin(distance[bad])]
            i, j = keys[e, 3:].tolist()
            ranges = ", ".join(f"{low:.3f}-{high:.3f}" for low, high in table.valid)
            why = (
                "closer than the known range"
                if distance[e] < table.valid[0, 0]
                else "a distance that the training set does not cover"
            )
            raise DataError(
                f"atoms {i + 1} ({symbol(structure.numbers[i])}) and {j + 1} "
                f"({symbol(structure.numbers[j])}) of '{structure.name}', block "
                f"{format_key(keys[e])}, are {distance[e]:.4f} Å apart: {why}. "
                f"Known for {symbol(a)}-{symbol(b)}: {ranges} Å ({len(bad)} such blocks). "
                "Fit on structures that cover it, use basis files, or allow it (deeph-gformer "
                "overlap predict --extrapolate; in Python: extrapolate=True)"
            )
