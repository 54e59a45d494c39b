"""The solutions of many k-points as one table in which a column is one band."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from .bloch import BlochProblem
from .fermi import FermiLevel
from .kpath import KPath
from .result import Bands
from .solve import ILL_CONDITIONED, Solution

__all__ = ["Point", "assemble"]


@dataclasses.dataclass
class Point:
    """What is known of one k-point.

    Attributes:
        solution: its energies.
        projections: name -> (B,), Mulliken weights.
        spin: (B, 3), <sigma>, or None.
    """

    solution: Solution
    projections: dict[str, NDArray[np.float64]]
    spin: NDArray[np.float64] | None


def _columns(solutions: list[Solution]) -> tuple[bool, int, list[int], int]:
    """Which column of the result each k-point's first energy takes, so that a column is one band.

    Returns:
        Whether every solution knows the number of its first band (else all start in column 0); the
        band number of column 0; the first column of each solution; the number of columns.
    """
    counted = all(s.first is not None for s in solutions if not s.failure)
    first = [(s.first or 0) if counted else 0 for s in solutions]
    lowest = min((f for f, s in zip(first, solutions, strict=True) if len(s.energies)), default=0)
    starts = [f - lowest for f in first]
    ends = [c + len(s.energies) for c, s in zip(starts, solutions, strict=True) if len(s.energies)]
    width = max(ends, default=0)
    return counted, lowest, starts, width


def _table(
    rows: list[NDArray[np.float64] | None],
    starts: list[int],
    width: int,
    fill: float,
    depth: tuple[int, ...] = (),
) -> NDArray[np.float64]:
    """(K, width, *depth): row k has its (B, *depth) values from column ``starts[k]`` on."""
    table = np.full((len(rows), width, *depth), fill)
    for row, values, start in zip(table, rows, starts, strict=True):
        if values is not None and len(values):
            row[start : start + len(values)] = values
    return table


def _completeness_notes(path: KPath, solutions: list[Solution], counted: bool) -> list[str]:
    """What the reader of the bands must know about states that may be missing."""
    total, notes = len(path), []
    failed = [n for n, s in enumerate(solutions) if s.failure]
    incomplete = sum(s.complete is False and not s.failure for s in solutions)
    unchecked = sum(s.complete is None and not s.failure for s in solutions)
    if failed:
        notes.append(
            f"{len(failed)} of {total} k-points did not converge and are not drawn, first k = "
            f"{np.round(path.kpoints[failed[0]], 5).tolist()}: {solutions[failed[0]].failure}"
        )
    if incomplete:
        notes.append(
            f"{incomplete} of {total} k-points are incomplete (the eigenvalue count finds states "
            "that the solver missed): drawn as dots, never joined"
        )
    if unchecked:
        notes.append(
            f"{unchecked} of {total} k-points were not checked for completeness: "
            "drawn as dots, never joined"
        )
    if not counted and not unchecked:
        notes.append(
            "the engine cannot count eigenvalues here, so the bands have no numbers: "
            "drawn as dots, never joined"
        )
    return notes


def _overlap_notes(size: int, solutions: list[Solution]) -> list[str]:
    """What the reader must know about nearly linearly dependent orbitals."""
    smallest = min(
        (s.smallest_overlap for s in solutions if s.smallest_overlap is not None), default=1.0
    )
    removed = max((s.removed for s in solutions), default=0)
    if removed:
        return [
            f"up to {removed} of {size} states a k-point projected out, where S(k) has eigenvalues "
            f"below the threshold (smallest {smallest:.2g})"
        ]
    if smallest < ILL_CONDITIONED:
        return [
            f"S(k) is ill-conditioned, smallest eigenvalue {smallest:.2g}: errors of H are "
            "amplified, ghost bands are likely; consider --s-threshold"
        ]
    return []


def assemble(
    problem: BlochProblem,
    path: KPath,
    points: list[Point],
    level: FermiLevel | None,
    sentence: str,
) -> Bands:
    """The solutions of all k-points as one table of bands.

    Args:
        problem: the Hamiltonian.
        path: its k-points.
        points: one for each of them.
        level: the Fermi level, where it is known.
        sentence: how the bands were computed.
    """
    solutions = [point.solution for point in points]
    counted, lowest, starts, width = _columns(solutions)
    complete = np.array([s.complete is True and not s.failure for s in solutions])
    spin = None
    if any(point.spin is not None for point in points):
        spin = _table([point.spin for point in points], starts, width, 0.0, (3,))
    return Bands(
        path,
        problem.structure.lattice,
        _table([s.energies for s in solutions], starts, width, np.nan),
        level.energy_eV if level else None,
        level.source if level else "unknown",
        problem.label,
        problem.source,
        sentence,
        [
            *problem.notes,
            *_completeness_notes(path, solutions, counted),
            *_overlap_notes(problem.size, solutions),
        ],
        lowest if counted else None,
        complete,
        complete & counted,
        problem.electrons_per_band,
        {
            name: _table([point.projections.get(name) for point in points], starts, width, 0.0)
            for name in points[0].projections
        },
        spin,
    )
