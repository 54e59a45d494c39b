"""Regular k meshes, time reversal, and the spectrum of a Hamiltonian on them."""

from __future__ import annotations

import dataclasses
import functools
import math
import operator
import re
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError
from ..io import BlockMatrix
from ..io.periodicity import upright
from ..io.spin import time_reversed
from ..terminal import figures
from .bloch import BlochProblem
from .bravais import reduced_metric
from .kpath import MOST_KPOINTS
from .projection import level_means, mulliken_weights, parse_projections
from .solve import map_kpoints, solve_dense

__all__ = [
    "MeshSpectrum",
    "broken_reversal",
    "default_mesh",
    "has_time_reversal",
    "mesh_points",
    "mesh_spectrum",
    "parse_mesh",
    "shortest_mesh",
    "time_reversal_part",
]

_TIME_REVERSAL_EV = 1e-4


def parse_mesh(text: str | Sequence[int] | None, problem: BlochProblem) -> tuple[int, int, int]:
    """``12x12x1``, ``12,12,1`` or three numbers; None is :func:`default_mesh`.

    Raises:
        ConfigError: not three positive integers, or more k-points than anyone can compute.
    """
    if text is None:
        return default_mesh(problem)
    try:
        if isinstance(text, str):
            numbers = [int(v) for v in re.split(r"[x,\s]+", text.strip())]
        else:
            numbers = [operator.index(v) for v in text]
    except (TypeError, ValueError):
        numbers = []
    if len(numbers) != 3 or min(numbers) < 1:
        raise ConfigError(f"k mesh '{text}': three positive integers are needed, e.g. 12x12x1")
    if math.prod(numbers) > MOST_KPOINTS:
        raise ConfigError(
            f"k mesh {'x'.join(map(str, numbers))}: {math.prod(numbers)} k-points; at most "
            f"{MOST_KPOINTS} are computed, take fewer"
        )
    return (numbers[0], numbers[1], numbers[2])


def default_mesh(problem: BlochProblem, spacing: float = 0.12) -> tuple[int, int, int]:
    """Mesh points at most ``spacing`` 1/Å apart (2π included); one where there is no period."""
    lattice = upright(problem.structure.lattice, problem.coupled)
    return _mesh_of(lattice, problem.coupled, spacing)


def shortest_mesh(
    problem: BlochProblem, spacing: float
) -> tuple[tuple[int, int, int], NDArray[np.float64]]:
    """:func:`default_mesh` along the shortest lattice vectors, which do not depend on those that
    are given.

    Args:
        problem: gives the lattice.
        spacing: 1/Å (2π included).

    Returns:
        Numbers of points, and (3, 3) B: a point's coordinates x are ``x @ B`` along the given
        vectors.
    """
    repeats = np.array(problem.coupled)
    lattice, back = upright(problem.structure.lattice, problem.coupled), np.eye(3)
    if repeats.any():
        _, change = reduced_metric(lattice[repeats] @ lattice[repeats].T)
        lattice[repeats] = change @ lattice[repeats]
        back[np.ix_(repeats, repeats)] = np.round(np.linalg.inv(change)).T
    return _mesh_of(lattice, problem.coupled, spacing), back


def _mesh_of(
    lattice: NDArray[np.float64], periodic: Sequence[bool], spacing: float
) -> tuple[int, int, int]:
    """Numbers of points at most ``spacing`` 1/Å apart along the vectors of a lattice (3, 3)."""
    lengths = 2 * np.pi * np.linalg.norm(np.linalg.inv(lattice), axis=0)
    counts = [
        max(1, int(np.ceil(length / max(spacing, 1e-9)))) if repeats else 1
        for length, repeats in zip(lengths, periodic, strict=True)
    ]
    return (counts[0], counts[1], counts[2])


def has_time_reversal(problem: BlochProblem) -> bool:
    """Whether E(k) = E(-k): H(R) real, or with spin H_dd = H_uu*, H_du = -H_ud* in every block."""
    return broken_reversal(problem) <= _TIME_REVERSAL_EV


def _reversed(blocks: NDArray[np.number], spin: int) -> NDArray[np.number]:
    """Blocks (E, rows, columns) of T H T^-1: H*, with spin see :func:`~..io.spin.time_reversed`."""
    if spin == 1:
        return blocks.conj()
    r, c = blocks.shape[1] // 2, blocks.shape[2] // 2
    quarters = (blocks[:, :r, :c], blocks[:, :r, c:], blocks[:, r:, :c], blocks[:, r:, c:])
    uu, ud, du, dd = time_reversed(*quarters)
    return np.asarray(np.block([[uu, ud], [du, dd]]))


def broken_reversal(problem: BlochProblem) -> float:
    """Largest element of H - T H T^-1, eV; 0 for an H that time reversal leaves alone."""
    if not np.iscomplexobj(problem.h.values):
        return 0.0
    differences = (
        np.abs(blocks - _reversed(blocks, problem.spin)).max(initial=0.0)
        for _, blocks in problem.h.groups()
    )
    return float(max(differences, default=0.0))


def time_reversal_part(problem: BlochProblem) -> BlochProblem:
    """The same problem with (H + T H T^-1) / 2, which has time reversal; a note tells of it.

    Where the exact H has time reversal this is a projection, which no error survives enlarged.
    """
    h = problem.h
    values = h.values.copy()
    for chosen, blocks in h.groups():
        part = (blocks + _reversed(blocks, problem.spin)) / 2
        starts = h.offsets[chosen]
        size = part[0].size
        values[starts[:, None] + np.arange(size)] = part.reshape(len(starts), size)
    words = (
        f"time reversal was broken by up to {figures(broken_reversal(problem) * 1e3)} meV; the "
        "symmetric "
        "part of H is taken"
    )
    found = BlochProblem(
        problem.structure,
        BlockMatrix(h.keys, h.shapes, values),
        problem.s,
        label=problem.label,
        source=problem.source,
        predicted=problem.predicted,
    )
    found.notes = [*problem.notes, words]
    return found


@dataclasses.dataclass
class MeshSpectrum:
    """Eigenvalues on a Γ-centred mesh.

    Attributes:
        mesh: points along the reciprocal vectors.
        kpoints: (K, 3), those solved, fractional.
        weights: (K,), sum 1.
        full: (mesh), which of ``kpoints`` each point of the whole mesh is equivalent to.
        energies: (K, B), ascending, eV, +inf where states were projected out.
        projections: name -> (K, B).
        electrons_per_band: 2, or 1 with spin-orbit coupling.
        notes: what was found on the way.
        lattice: (3, 3), rows, Å.
    """

    mesh: tuple[int, int, int]
    kpoints: NDArray[np.float64]
    weights: NDArray[np.float64]
    full: NDArray[np.int64]
    energies: NDArray[np.float64]
    projections: dict[str, NDArray[np.float64]]
    electrons_per_band: int
    notes: list[str]
    lattice: NDArray[np.float64]

    def __repr__(self) -> str:
        mesh, (points, bands) = "x".join(map(str, self.mesh)), self.energies.shape
        return f"MeshSpectrum({mesh}, {points} k-points solved, {bands} bands)"


def mesh_points(
    mesh: tuple[int, int, int], time_reversal: bool
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """Points of a Γ-centred mesh that are not equivalent.

    Args:
        mesh: points along the reciprocal vectors.
        time_reversal: whether k and -k are equivalent.

    Returns:
        (K, 3) fractional, their weights (K,) of sum 1, and (mesh) which of them each point is
        equivalent to.
    """
    grid = np.stack(np.meshgrid(*[np.arange(n) for n in mesh], indexing="ij"), axis=-1).reshape(
        -1, 3
    )
    number = np.arange(len(grid)).reshape(mesh)
    partner = number[tuple(((-grid) % np.array(mesh)).T)] if time_reversal else number.reshape(-1)
    chosen, full = np.unique(np.minimum(np.arange(len(grid)), partner), return_inverse=True)
    points = grid[chosen] / np.array(mesh)
    weights = np.bincount(full.reshape(-1)) / len(grid)
    return points - (points > 0.5), weights, full.reshape(mesh)


def _solve_point(
    problem: BlochProblem,
    k: NDArray[np.float64],
    s_threshold: float | None,
    masks: dict[str, NDArray[np.bool_]],
) -> tuple[NDArray[np.float64], dict[str, NDArray[np.float64]], float | None, int]:
    h, s = problem.at(k)
    found = solve_dense(
        h,
        s,
        vectors=bool(masks),
        s_threshold=s_threshold,
        where=f"{problem.source}, k = {np.round(k, 5).tolist()}",
    )
    if found.failure:
        raise ConfigError(f"{problem.source}, k = {np.round(k, 5).tolist()}: {found.failure}")
    energies = np.full(problem.size, np.inf)
    energies[: len(found.energies)] = found.energies
    weights = {}
    if masks and found.vectors is not None:
        for name, value in mulliken_weights(found.vectors, s, masks).items():
            weights[name] = np.zeros(problem.size)
            level = level_means(found.energies, value, problem.rounding_eV)
            weights[name][: len(value)] = level
    return energies, weights, found.smallest_overlap, found.removed


def mesh_spectrum(
    problem: BlochProblem,
    mesh: str | Sequence[int] | None = None,
    *,
    projections: str | Sequence[str] | None = None,
    s_threshold: float | None = None,
    processes: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> MeshSpectrum:
    """Solve H on a Γ-centred mesh (half of it where time reversal allows).

    Args:
        problem: the Hamiltonian.
        mesh: e.g. "12x12x1"; default: 0.12 1/Å apart.
        projections: see :func:`~.projection.parse_projections`.
        s_threshold: see :func:`~.solve.solve_dense`.
        processes: see :func:`~.solve.map_kpoints`.
        progress: called with (done, all).

    Raises:
        ConfigError, DataError: see there.
    """
    numbers = parse_mesh(mesh, problem)
    masks = parse_projections(problem, projections) if projections else {}
    points, weights, full = mesh_points(numbers, has_time_reversal(problem))
    solved = map_kpoints(
        functools.partial(_solve_point, s_threshold=s_threshold, masks=masks),
        problem,
        points,
        processes,
        progress,
    )
    notes = []
    overlaps = [s[2] for s in solved if s[2] is not None]
    if overlaps and s_threshold is None:
        notes.append(
            f"S(k) is ill-conditioned, smallest eigenvalue {min(overlaps):.2g}: consider "
            f"--s-threshold"
        )
    removed = max(s[3] for s in solved)
    if removed:
        notes.append(
            f"up to {removed} of {problem.size} states a k-point projected out (eigenvalues of "
            f"S(k) below {s_threshold:g})"
        )
    return MeshSpectrum(
        numbers,
        points,
        weights,
        full,
        np.array([s[0] for s in solved]),
        {name: np.array([s[1][name] for s in solved]) for name in masks},
        problem.electrons_per_band,
        notes,
        problem.structure.lattice,
    )
