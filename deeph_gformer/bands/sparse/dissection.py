"""Nested dissection of a crystal's atoms: the order in which a sparse factorisation eliminates
them.

Planes halve the atoms again and again; the atoms that part the halves are eliminated last (A.
George, SIAM J. Numer. Anal. 10, 345 (1973)). A periodic direction is cut twice, along planes that
contain the other periodic directions, after which the halves are unwound. Of the many vertex
separators along a plane the smallest is found exactly, as a minimum vertex cover of the couplings
across it (D. König's theorem). Of several planes the one with the lowest estimated arithmetic wins,
which counts the separator, the boundary it meets and the boundaries it leaves to the halves.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.sparse.csgraph import maximum_bipartite_matching

__all__ = ["Dissection", "Separator", "Plan", "dissect", "make_plan", "minimum_cover"]

_LEAF_ATOMS = 24
_DIRECTIONS = 12
_SHARES = (0.42, 0.46, 0.5, 0.54, 0.58)
"""Share of the atoms on one side of the planes that are tried."""
_TRIED = 6
_DESCENT = 0.7
"""Arithmetic of a whole subtree over the cube of its boundary, roughly (sheets)."""

Index = NDArray[np.int64]


@dataclasses.dataclass(frozen=True)
class Separator:
    """A node of the elimination tree: its own atoms are eliminated after those of its children."""

    atoms: Index
    children: tuple[Separator, ...]


@dataclasses.dataclass(frozen=True)
class _Cut:
    """One way to halve a part: which atoms are left.

    For a cut through a periodic direction its number, dual vector and two fractions.
    """

    left: NDArray[np.bool_]
    axis: int = -1
    dual: NDArray[np.float64] | None = None
    starts: tuple[float, float] = (0.0, 0.0)


def minimum_cover(crossing: sp.csr_matrix) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Fewest rows and columns that together hold every non-zero of a matrix, by König's theorem.

    Args:
        crossing: (l, r), its pattern counts.

    Returns:
        (l,) rows and (r,) columns of the cover.
    """
    match = maximum_bipartite_matching(
        crossing, perm_type="column"
    )  # (l,) the column of each row, -1 where there is none
    partner = np.full(crossing.shape[1], -1, dtype=np.int64)
    partner[match[match >= 0]] = np.flatnonzero(match >= 0)
    rows, columns = match < 0, np.zeros(crossing.shape[1], dtype=bool)
    front = np.flatnonzero(rows)
    while len(front):  # alternating paths from unmatched rows
        reached = np.unique(crossing[front].indices)
        reached = reached[~columns[reached]]
        columns[reached] = True
        front = partner[reached]
        front = front[~rows[front]]
        rows[front] = True
    return ~rows, columns


def _dense_cost(p: float, m: float) -> float:
    """Multiply-adds (halved by symmetry) of eliminating p rows of a dense matrix of p + m rows."""
    return p**3 / 3 + p * p * m + p * m * m


class Dissection:
    """The cuts of one graph; see :func:`dissect`."""

    def __init__(
        self, graph: sp.csr_matrix, positions: NDArray[np.float64], lattice: NDArray[np.float64]
    ) -> None:
        self.graph, self.lattice = graph, lattice
        self.positions = np.array(
            positions, dtype=np.float64
        )  # moved by lattice vectors where the part is unwound
        self.side = np.zeros(len(positions), dtype=np.int8)

    def _cuts(self, atoms: Index, periodic: tuple[int, ...]) -> Iterator[_Cut]:
        x, n = self.positions[atoms], len(atoms)
        if periodic:
            duals = np.linalg.pinv(self.lattice[list(periodic)]).T
            for axis, dual in zip(periodic, duals, strict=True):
                fraction = (x @ dual) % 1.0
                order = np.argsort(fraction, kind="stable")
                for start in np.arange(4) * n // 8:
                    turned = np.roll(order, -start)
                    left = np.zeros(n, dtype=bool)
                    left[turned[: n // 2]] = True
                    yield _Cut(
                        left,
                        axis,
                        dual,
                        (float(fraction[turned[0]]), float(fraction[turned[n // 2]])),
                    )
            return
        _, extent, axes = np.linalg.svd(x - x.mean(axis=0), full_matrices=False)
        if extent[-1] < 0.3 * extent[1]:  # a sheet: directions in its plane
            angles = np.arange(_DIRECTIONS) * np.pi / _DIRECTIONS
            axes = np.cos(angles)[:, None] * axes[0] + np.sin(angles)[:, None] * axes[1]
        for direction in axes:
            order = np.argsort(x @ direction, kind="stable")
            for share in _SHARES:
                left = np.zeros(n, dtype=bool)
                left[order[: int(share * n)]] = True
                yield _Cut(left)

    def _separate(
        self, atoms: Index, pairs: tuple[Index, Index], left: NDArray[np.bool_]
    ) -> list[tuple[Index, Index, Index]]:
        """Separators of one cut: the smallest, and the two one-sided boundaries.

        Each as (separator, left, right).
        """
        side = self.side
        side[atoms] = np.where(left, 1, 2)
        crossing = (side[pairs[0]] == 1) & (side[pairs[1]] == 2)
        lefts, i = np.unique(pairs[0][crossing], return_inverse=True)
        rights, j = np.unique(pairs[1][crossing], return_inverse=True)
        found = [lefts, rights]
        if len(lefts):
            matrix = sp.csr_matrix(
                (np.ones(len(i), dtype=np.int8), (i, j)), shape=(len(lefts), len(rights))
            )
            rows, columns = minimum_cover(matrix)
            found.insert(0, np.concatenate([lefts[rows], rights[columns]]))
        result = []
        for separator in found:
            kept = side[separator]
            side[separator] = 3
            result.append((separator, atoms[side[atoms] == 1], atoms[side[atoms] == 2]))
            side[separator] = kept
        side[atoms] = 0
        return result

    def _boundary_size(self, part: Index) -> int:
        near = np.zeros(len(self.side), dtype=bool)
        near[self.graph[part].indices] = True
        near[part] = False
        return int(near.sum())

    def _cost(self, boundary: int, separator: Index, parts: tuple[Index, Index]) -> float:
        """Estimated arithmetic of a node with its subtrees."""
        total = _dense_cost(len(separator), boundary)
        for part in parts:
            m = self._boundary_size(part)
            total += min(_dense_cost(len(part), m), _DESCENT * float(m) ** 3)
        return total

    def _boundary_only(
        self, pairs: tuple[Index, Index], left: NDArray[np.bool_], atoms: Index
    ) -> int:
        """Size of the smaller one-sided boundary: a cheap measure that ranks cuts."""
        self.side[atoms] = np.where(left, 1, 2)
        crossing = (self.side[pairs[0]] == 1) & (self.side[pairs[1]] == 2)
        size = min(len(np.unique(pairs[k][crossing])) for k in (0, 1))
        self.side[atoms] = 0
        return size

    def _unwind(self, cut: _Cut, parts: tuple[Index, Index]) -> None:
        """Move the atoms of each half into one image, so that the direction is not periodic."""
        if cut.dual is None:
            return
        for part, start in zip(parts, cut.starts, strict=True):
            fraction = self.positions[part] @ cut.dual
            self.positions[part] += ((fraction - start + 0.25) % 1.0 - fraction)[
                :, None
            ] * self.lattice[cut.axis]

    def _sorted(self, separator: Index, cut: _Cut) -> Index:
        """Separator atoms along its length, so that the boundary of a neighbouring part is a few
        runs of them."""
        if len(separator) < 3:
            return np.sort(separator)
        x = self.positions[separator]
        group = np.zeros(len(separator))
        if cut.dual is not None:
            away = (
                x @ cut.dual - cut.starts[0] + 0.25
            ) % 1.0  # about 0.25 at one of the two cuts, 0.75 at the other
            group = (away > 0.5).astype(float)
            x = x - (x @ cut.dual)[:, None] * self.lattice[cut.axis]
        along = (x - x.mean(axis=0)) @ np.linalg.svd(x - x.mean(axis=0), full_matrices=False)[2][0]
        return separator[np.lexsort((along, group))]

    def run(self, atoms: Index, periodic: tuple[int, ...]) -> Separator:
        """The dissection of some atoms, which still repeat along the ``periodic`` directions."""
        if len(atoms) <= _LEAF_ATOMS:
            return Separator(atoms, ())
        rows = self.graph[atoms]
        pairs = np.repeat(atoms, np.diff(rows.indptr)), rows.indices.astype(np.int64)
        inside = np.zeros(len(self.side), dtype=bool)
        inside[atoms] = True
        within = inside[pairs[1]]
        boundary = len(np.unique(pairs[1][~within]))
        pairs = pairs[0][within], pairs[1][within]
        cuts = list(self._cuts(atoms, periodic))
        cuts = [
            cuts[k]
            for k in np.argsort(
                [self._boundary_only(pairs, cut.left, atoms) for cut in cuts], kind="stable"
            )[:_TRIED]
        ]
        best = _dense_cost(len(atoms), boundary)
        chosen: tuple[_Cut, Index, Index, Index] | None = None
        for cut in cuts:
            for separator, left, right in self._separate(atoms, pairs, cut.left):
                if len(left) or len(right):
                    cost = self._cost(boundary, separator, (left, right))
                    if cost < best:
                        best, chosen = cost, (cut, separator, left, right)
        if chosen is None:
            return Separator(atoms, ())
        cut, separator, left, right = chosen
        separator = self._sorted(separator, cut)
        self._unwind(cut, (left, right))
        periodic = tuple(axis for axis in periodic if axis != cut.axis)
        return Separator(
            separator, tuple(self.run(part, periodic) for part in (left, right) if len(part))
        )


def dissect(
    graph: sp.csr_matrix,
    positions: NDArray[np.float64],
    lattice: NDArray[np.float64] | None = None,
    periodic: tuple[bool, bool, bool] = (False, False, False),
) -> Separator:
    """Elimination tree of the atoms.

    Args:
        graph: (N, N), symmetric pattern, non-zero where two atoms couple (any cell).
        positions: (N, 3), Å. They and the lattice only guide the choice of cuts; that halves do not
            couple follows from the graph.
        lattice: (3, 3), rows, Å.
        periodic: directions in which cells couple.

    Returns:
        The root of the tree.
    """
    axes = tuple(axis for axis in range(3) if periodic[axis])
    cell = np.eye(3) if lattice is None else np.asarray(lattice, dtype=np.float64)
    return Dissection(graph, positions, cell).run(np.arange(graph.shape[0]), axes)


@dataclasses.dataclass(frozen=True)
class Front:
    """One dense matrix of the factorisation.

    Attributes:
        rows: (p,) eliminated here.
        boundary: (m,) rows left to ancestors, in the order of elimination.
        children: their numbers in the plan.
    """

    rows: Index
    boundary: Index
    children: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a factorisation does, for every matrix with this pattern.

    Attributes:
        fronts: children before parents.
        order: (n,) rows in the order of elimination.
        multiply_adds: of a real factorisation; symmetry is used.
        entries: stored numbers of the factor.
        largest: rows of the largest front.
        space: most numbers at a time of finished fronts and of triangles that wait for parents.
    """

    fronts: tuple[Front, ...]
    order: Index
    multiply_adds: float
    entries: float
    largest: int
    space: int


def make_plan(tree: Separator, graph: sp.csr_matrix, offsets: Index) -> Plan:
    """Fronts of an elimination tree.

    Args:
        tree: of :func:`dissect`.
        graph: (N, N), as there.
        offsets: (N + 1,), first row of each atom.
    """
    nodes: list[tuple[Separator, tuple[int, ...]]] = []

    def visit(node: Separator) -> int:
        """Number a separator after its children."""
        children = tuple(visit(child) for child in node.children)
        nodes.append((node, children))
        return len(nodes) - 1

    def rows_of(atoms: Index) -> Index:
        """Rows of some atoms, one atom after the other."""
        lengths = offsets[atoms + 1] - offsets[atoms]
        return np.repeat(offsets[atoms] - np.cumsum(lengths) + lengths, lengths) + np.arange(
            int(lengths.sum())
        )

    visit(tree)
    sequence = np.concatenate([node.atoms for node, _ in nodes])
    rank = np.empty(graph.shape[0], dtype=np.int64)  # of those in the tree
    rank[sequence] = np.arange(len(sequence))
    fronts: list[Front] = []
    boundaries: list[Index] = []
    done = 0
    cost = entries = 0.0
    largest = waiting = space = 0
    for node, children in nodes:
        done += len(node.atoms)
        near = np.unique(
            np.concatenate(
                [rank[graph[node.atoms].indices]] + [boundaries[child] for child in children]
            )
        )
        boundaries.append(near[near >= done])
        front = Front(rows_of(node.atoms), rows_of(sequence[boundaries[-1]]), children)
        p, m = len(front.rows), len(front.boundary)
        cost, entries, largest = (
            cost + _dense_cost(p, m),
            entries + p * (p + m),
            max(largest, p + m),
        )
        waiting += m * m - sum(len(fronts[child].boundary) ** 2 for child in children)
        space = max(space, int(entries) + waiting)
        fronts.append(front)
    return Plan(tuple(fronts), rows_of(sequence), cost, entries, largest, space)
