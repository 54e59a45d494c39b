"""sum_n w_n |psi_n(r)|² of chosen states, block of points by block of points.

    psi_nk(r) = sum_R e^(2 pi i k.R) sum_mu c_mu,nk phi_mu(r - tau_mu - R)

Only the atoms whose orbitals reach a block of points count there; memory is that of one block.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...errors import ConfigError
from ...io import Structure
from ..arguments import require_window
from ..bloch import BlochProblem
from ..kmesh import has_time_reversal, mesh_points, parse_mesh
from ..solve import EDGE_EV, solve_dense

__all__ = [
    "SelectedStates",
    "Grid",
    "Orbitals",
    "density_at",
    "density_on_grid",
    "states_at",
    "states_in_window",
]

_BLOCK = 16
"""Points of a block along each axis."""
MOST_POINTS = 50_000_000
Progress = Callable[[int, int], None] | None


class Orbitals(Protocol):
    """Atomic orbitals at points; :class:`deeph_gformer.overlap.orbitals.OrbitalValues` is one."""

    reach: dict[int, float]

    def values(self, number: int, vectors: NDArray[np.float64]) -> NDArray[np.float64]:
        """(P, n), Å^(-3/2), of an atom at the origin; vectors (P, 3), Å."""


@dataclasses.dataclass(frozen=True)
class SelectedStates:
    """States of one k-point and how often each counts.

    Attributes:
        k: (3,), fractional.
        vectors: (n, B), rows as in H(k), orthonormal in S.
        weights: (B,).
        energies: (B,), eV.
    """

    k: NDArray[np.float64]
    vectors: NDArray[np.number]
    weights: NDArray[np.float64]
    energies: NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Grid:
    """Points i / n_i of the lattice vectors; the last before the next cell.

    Attributes:
        lattice: (3, 3), rows, Å.
        counts: points along each.
    """

    lattice: NDArray[np.float64]
    counts: tuple[int, int, int]

    @classmethod
    def of(cls, structure: Structure, spacing: float) -> Grid:
        """Points at most ``spacing`` Å apart along each lattice vector.

        Raises:
            ConfigError: no spacing, or more points than anyone can look at.
        """
        if not 0 < spacing < np.inf:
            raise ConfigError(f"grid spacing {spacing} Å: it must be positive and finite")
        lengths = np.linalg.norm(structure.lattice, axis=1)
        if np.prod(lengths / spacing) > MOST_POINTS:
            raise ConfigError(
                f"grid spacing {spacing:g} Å: more than {MOST_POINTS} points in this cell; "
                "take a wider --spacing"
            )
        x, y, z = (max(1, int(np.ceil(length / spacing - 1e-9))) for length in lengths)
        return cls(structure.lattice, (x, y, z))

    @property
    def volume(self) -> float:
        """Of one point, Å³."""
        return abs(float(np.linalg.det(self.lattice))) / float(np.prod(self.counts))

    def blocks(self) -> Iterator[tuple[tuple[slice, slice, slice], NDArray[np.float64]]]:
        """Index ranges, and the points (P, 3) in them, Å."""
        for corner in itertools.product(*(range(0, n, _BLOCK) for n in self.counts)):
            x, y, z = (
                slice(start, min(start + _BLOCK, n))
                for start, n in zip(corner, self.counts, strict=True)
            )
            axes = [np.arange(s.start, s.stop) for s in (x, y, z)]
            index = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
            yield (x, y, z), index / np.array(self.counts) @ self.lattice


@dataclasses.dataclass(frozen=True)
class _Image:
    """An atom in one cell."""

    atom: int
    cell: NDArray[np.int64]
    position: NDArray[np.float64]


def _images(structure: Structure, orbitals: Orbitals, points: NDArray[np.float64]) -> list[_Image]:
    """Atoms whose orbitals may reach one of the points."""
    middle = (points.min(axis=0) + points.max(axis=0)) / 2
    radius = float(np.linalg.norm(points - middle, axis=1).max())
    inverse = np.linalg.inv(structure.lattice)
    found = []
    for atom, number in enumerate(structure.numbers.tolist()):
        reach = orbitals.reach[number] + radius
        offset = (middle - structure.positions[atom]) @ inverse
        extent = reach * np.linalg.norm(inverse, axis=0)
        ranges = [
            range(int(np.ceil(o - e)), int(np.floor(o + e)) + 1)
            for o, e in zip(offset, extent, strict=True)
        ]
        for cell in itertools.product(*ranges):
            position = structure.positions[atom] + np.array(cell) @ structure.lattice
            if np.linalg.norm(position - middle) < reach:
                found.append(_Image(atom, np.array(cell, dtype=np.int64), position))
    return found


def density_at(
    problem: BlochProblem,
    orbitals: Orbitals,
    chosen: Sequence[SelectedStates],
    points: NDArray[np.float64],
) -> NDArray[np.float64]:
    """sum_n w_n |psi_n|² at points near each other.

    Args:
        problem: gives atoms and the order of the orbitals.
        orbitals: of every element.
        chosen: the states.
        points: (P, 3), Å.

    Returns:
        (P,), 1/Å³.
    """
    crystal = problem.structure
    first = np.concatenate([[0], np.cumsum(crystal.orbital_counts)])
    parts: list[tuple[slice, NDArray[np.int64], NDArray[np.float64]]] = []
    for image in _images(crystal, orbitals, points):
        values = orbitals.values(int(crystal.numbers[image.atom]), points - image.position)
        if values.any():
            columns = slice(int(first[image.atom]), int(first[image.atom + 1]))
            parts.append((columns, image.cell, values))
    total = np.zeros(len(points))
    if not parts:
        return total
    size = int(first[-1])
    for states in chosen:
        bloch = np.zeros((len(points), size), dtype=np.complex128)
        for columns, cell, values in parts:
            bloch[:, columns] += np.exp(2j * np.pi * float(cell @ states.k)) * values
        rows = problem.spin_order.reshape(problem.spin, size)  # all up, all down
        for spin in rows:
            total += (np.abs(bloch @ states.vectors[spin]) ** 2) @ states.weights
    return total


def density_on_grid(
    problem: BlochProblem,
    orbitals: Orbitals,
    chosen: Sequence[SelectedStates],
    grid: Grid,
    progress: Progress = None,
) -> NDArray[np.float64]:
    """sum_n w_n |psi_n|² on a grid over the cell.

    Args:
        problem: gives atoms and the order of the orbitals.
        orbitals: of every element.
        chosen: the states.
        grid: the points.
        progress: called with (blocks done, blocks).

    Returns:
        (counts), 1/Å³; its sum times the volume of a point is the sum of the weights, but for the
        grid.
    """
    result = np.zeros(grid.counts)
    blocks = list(grid.blocks())
    for done, (place, points) in enumerate(blocks, 1):
        shape = result[place].shape
        result[place] = density_at(problem, orbitals, chosen, points).reshape(shape)
        if progress is not None:
            progress(done, len(blocks))
    return result


def _solve(
    problem: BlochProblem, k: NDArray[np.float64], s_threshold: float | None
) -> SelectedStates:
    h, s = problem.at(k)
    where = f"{problem.source}, k = {np.round(k, 5).tolist()}"
    found = solve_dense(h, s, vectors=True, s_threshold=s_threshold, where=where)
    if found.failure or found.vectors is None:
        raise ConfigError(f"{where}: {found.failure}")
    return SelectedStates(k, found.vectors, np.ones(len(found.energies)), found.energies)


def states_in_window(
    problem: BlochProblem,
    window_eV: tuple[float, float],
    mesh: str | Sequence[int] | None = None,
    s_threshold: float | None = None,
    progress: Progress = None,
) -> list[SelectedStates]:
    """The states of a window on a Γ-centred mesh; their weights add up to states per cell.

    Args:
        problem: the Hamiltonian.
        window_eV: (low, high], absolute.
        mesh: e.g. "12x12x1"; default 0.12 1/Å apart.
        s_threshold: see :func:`~..solve.solve_dense`.
        progress: called with (k-points done, k-points).

    Raises:
        ConfigError: no state lies in the window, or the window is none.
    """
    low, high = require_window(window_eV)
    numbers = parse_mesh(mesh, problem)
    points, weights, _ = mesh_points(numbers, has_time_reversal(problem))
    chosen, nearest = [], np.inf
    for done, (k, weight) in enumerate(zip(points, weights, strict=True), 1):
        every = _solve(problem, k, s_threshold)
        inside = (every.energies > low + EDGE_EV) & (every.energies <= high + EDGE_EV)
        away = np.maximum(low - every.energies, every.energies - high)
        nearest = min(nearest, float(away.min()))
        if inside.any():
            share = np.full(int(inside.sum()), problem.electrons_per_band * weight)
            chosen.append(
                SelectedStates(k, every.vectors[:, inside], share, every.energies[inside])
            )
        if progress is not None:
            progress(done, len(points))
    if not chosen:
        raise ConfigError(
            f"{problem.source}: no state lies between {low:.4f} and {high:.4f} eV on the "
            f"{'x'.join(map(str, numbers))} mesh; the nearest is {nearest:.3f} eV away"
        )
    return chosen


def states_at(
    problem: BlochProblem,
    k: ArrayLike,
    bands: Sequence[int],
    s_threshold: float | None = None,
    degeneracy_eV: float = 1e-4,
) -> tuple[SelectedStates, list[int]]:
    """Bands of one k-point, each counted once.

    Args:
        problem: the Hamiltonian.
        k: (3,), fractional.
        bands: from 0.
        s_threshold: see :func:`~..solve.solve_dense`.
        degeneracy_eV: levels nearer than this are one.

    Returns:
        The states, and bands that are degenerate with one of them and were not asked for: of such
        a level only the sum of all densities has a meaning.

    Raises:
        ConfigError: a band that is not there.
    """
    every = _solve(problem, np.asarray(k, dtype=float), s_threshold)
    count, wanted = len(every.energies), sorted(set(bands))
    if not wanted or wanted[0] < 0 or wanted[-1] >= count:
        raise ConfigError(
            f"{problem.source}: bands {[b + 1 for b in wanted]} asked; it has 1 to {count}"
        )
    levels = every.energies[wanted]
    near = (np.abs(every.energies[:, None] - levels) < degeneracy_eV).any(axis=1)
    missed = sorted(set(np.flatnonzero(near).tolist()) - set(wanted))
    one = np.ones(len(wanted))
    return SelectedStates(every.k, every.vectors[:, wanted], one, levels), missed
