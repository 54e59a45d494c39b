"""Bands of one Hamiltonian along a path: chooses the solver, says which, and keeps account of what is complete."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError
from .bloch import BlochProblem
from .fermi import FermiLevel
from .kpath import KPath, find_path
from .projection import mulliken_weights, parse_projections, spin_expectation
from .result import Bands
from .solve import ILL_CONDITIONED, Check, Solution, map_kpoints, solve_dense, solve_torch

__all__ = ["band_structure", "choose_solver", "DENSE_LIMIT"]

DENSE_LIMIT = 6000
"""Largest matrix (orbitals, spin included) that 'auto' gives to dense LAPACK: 6000 complex is 0.6 GB a matrix and minutes a k-point."""
Solver = Literal["auto", "dense", "sparse"]


@dataclasses.dataclass(frozen=True)
class _Task:
    """What to solve at each k-point; picklable."""

    solver: str
    center: float
    nbands: int
    window: tuple[float, float] | None
    masks: dict[str, NDArray[np.bool_]]
    spin: bool
    s_threshold: float | None
    device: str | None
    engine: str
    check: Check


@dataclasses.dataclass
class _Point:
    solution: Solution
    projections: dict[str, NDArray[np.float64]]
    spin: NDArray[np.float64] | None


def _solve_point(problem: BlochProblem, k: NDArray[np.float64], task: _Task) -> _Point:
    where = f"{problem.source}, k = {np.round(k, 5).tolist()}"
    vectors = bool(task.masks) or task.spin
    if task.solver == "sparse":
        from .sparse import solve_sparse

        h, s = problem.sparse_at(k)
        solution = solve_sparse(
            h,
            s,
            task.center,
            task.nbands,
            window=task.window,
            engine=task.engine,
            check=task.check,
            problem=problem,
            where=where,
        )
    else:
        h, s = problem.at(k)
        if task.device is not None:
            solution = solve_torch(h, s, task.device, where)
        else:
            solution = solve_dense(h, s, vectors=vectors, s_threshold=task.s_threshold, where=where)
    weights: dict[str, NDArray[np.float64]] = {}
    spin = None
    if solution.vectors is not None and vectors:
        weights = mulliken_weights(solution.vectors, s, task.masks)
        spin = spin_expectation(problem, solution.vectors, s) if task.spin else None
    solution.vectors = None
    return _Point(solution, weights, spin)


def choose_solver(problem: BlochProblem, solver: Solver = "auto") -> tuple[str, str]:
    """('dense' or 'sparse', a sentence that says why).

    Raises:
        ConfigError: the name is unknown.
    """
    if solver not in ("auto", "dense", "sparse"):
        raise ConfigError(f"solver '{solver}' is unknown; there are auto, dense and sparse")
    n = problem.size
    if solver != "auto":
        return solver, f"{solver} solver (asked for), {n} orbitals"
    if n <= DENSE_LIMIT:
        return "dense", f"dense LAPACK, {n} orbitals (all bands)"
    return (
        "sparse",
        f"sparse shift-invert around the Fermi level, {n} orbitals (dense would need {n * n * 16 * 3 / 1e9:.0f} GB)",
    )


def band_structure(
    problem: BlochProblem,
    path: str | KPath | None = None,
    npoints: int = 120,
    solver: Solver = "auto",
    window: tuple[float, float] | None = None,
    nbands: int | None = None,
    fermi: FermiLevel | float | None = None,
    *,
    path_engine: Literal["auto", "ase", "seekpath"] = "auto",
    projections: str | None = None,
    spin: bool = False,
    s_threshold: float | None = None,
    processes: int = 1,
    device: str | None = None,
    engine: str = "auto",
    check: Check = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> Bands:
    """Bands along a path.

    Args:
        problem: the Hamiltonian. path, npoints, path_engine: see :func:`~.kpath.find_path`.
        solver: 'dense' (all bands), 'sparse' (``nbands`` around the Fermi level), 'auto' by size; ``Bands.solver`` says which.
        window: (low, high) eV relative to the Fermi level: keep only bands that enter it (sparse: all states within it).
        nbands: how many bands around the Fermi level (sparse: default 50).
        fermi: the Fermi level; a plain number is taken as given. Needed for the sparse solver, ``window`` and ``nbands``.
        projections: fat bands, e.g. "Mo-d,S-p". spin: also <sigma> (spin-orbit coupling only).
        s_threshold: project out the null space of an ill-conditioned S (dense). processes: k-points in parallel. device: torch device for dense eigenvalues.
        engine: sparse factorisation, see :mod:`~.sparse`. check: how the sparse solver shows that it
            missed no state: 'count' (Sylvester's law, two more factorisations), 'random' (cheap, leaves a chance of 1e-9), 'none', or by size.
        progress: called with (done, all).

    Raises:
        ConfigError: too many bands asked, no Fermi level where one is needed, an unknown path or solver.
        DataError: S is not positive definite.
    """
    level = FermiLevel(float(fermi), "given") if isinstance(fermi, (int, float)) else fermi
    if level is not None and not np.isfinite(level.energy_eV):
        raise ConfigError(f"Fermi level {level.energy_eV} eV: a finite number is needed")
    chosen, sentence = choose_solver(problem, solver)
    if nbands is not None and not 0 < nbands <= problem.size:
        raise ConfigError(
            f"{nbands} bands asked; {problem.source} has {problem.size} orbitals, so 1 to {problem.size} bands"
        )
    if level is None and (chosen == "sparse" or window is not None or nbands is not None):
        raise ConfigError(
            f"{sentence}: bands around the Fermi level are asked and it is unknown; give --electrons N, --fermi info or --fermi VALUE"
        )
    if window is not None and not window[0] < window[1]:
        raise ConfigError(f"window {window}: the first energy must be below the second")
    if chosen == "sparse" and s_threshold is not None:
        raise ConfigError("--s-threshold needs the dense solver: the projection is a dense matrix")
    if device is not None and (
        chosen == "sparse" or projections or spin or s_threshold is not None
    ):
        raise ConfigError(
            "--device computes dense eigenvalues only; leave --fat, --spin, --s-threshold and the sparse solver away"
        )
    kpath = find_path(problem.structure, problem.periodic, path, npoints, path_engine)
    center = level.energy_eV if level else 0.0
    absolute = None if window is None else (window[0] + center, window[1] + center)
    task = _Task(
        chosen,
        center,
        nbands or min(50, problem.size),
        absolute,
        parse_projections(problem, projections) if projections else {},
        spin,
        s_threshold,
        device,
        engine,
        check,
    )
    points = map_kpoints(
        functools.partial(_solve_point, task=task), problem, kpath.kpoints, processes, progress
    )
    sentence += "".join(
        f", {words}" for words in (points[0].solution.engine, points[0].solution.check) if words
    )
    bands = _assemble(
        problem, kpath, points, level, sentence + (f", on {device}" if device else "")
    )
    return _trim(bands, center, absolute, nbands if chosen == "dense" else None)


def _assemble(
    problem: BlochProblem,
    path: KPath,
    points: list[_Point],
    level: FermiLevel | None,
    sentence: str,
) -> Bands:
    notes = list(problem.notes)
    solutions = [p.solution for p in points]
    counted = all(s.first is not None for s in solutions if not s.failure)
    first = [(s.first or 0) if counted else 0 for s in solutions]
    base = min((f for f, s in zip(first, solutions) if len(s.energies)), default=0)
    width = max((f - base + len(s.energies) for f, s in zip(first, solutions)), default=0)
    energies = np.full((len(path), width), np.nan)
    names = list(points[0].projections)
    projections = {name: np.zeros((len(path), width)) for name in names}
    spin = np.zeros((len(path), width, 3)) if any(p.spin is not None for p in points) else None
    for row, (point, start) in enumerate(zip(points, first)):
        span = slice(start - base, start - base + len(point.solution.energies))
        energies[row, span] = point.solution.energies
        for name, weight in point.projections.items():
            projections[name][row, span] = weight
        if spin is not None and point.spin is not None:
            spin[row, span] = point.spin
    complete = np.array([s.complete is True and not s.failure for s in solutions])
    unchecked = sum(s.complete is None and not s.failure for s in solutions)
    incomplete = sum(s.complete is False and not s.failure for s in solutions)
    failed = [(i, s) for i, s in enumerate(solutions) if s.failure]
    if failed:
        notes.append(
            f"{len(failed)} of {len(path)} k-points did not converge and are not drawn, "
            f"first k = {np.round(path.kpoints[failed[0][0]], 5).tolist()}: {failed[0][1].failure}"
        )
    if incomplete:
        notes.append(
            f"{incomplete} of {len(path)} k-points are incomplete (the eigenvalue count finds states that the solver missed): drawn as dots, never joined"
        )
    if unchecked:
        notes.append(
            f"{unchecked} of {len(path)} k-points were not checked for completeness: drawn as dots, never joined"
        )
    if not counted and not unchecked:
        notes.append(
            "the engine cannot count eigenvalues here, so the bands have no numbers: drawn as dots, never joined"
        )
    overlaps = [s.smallest_overlap for s in solutions if s.smallest_overlap is not None]
    removed = max((s.removed for s in solutions), default=0)
    if removed:
        notes.append(
            f"up to {removed} of {problem.size} states a k-point projected out, where S(k) has eigenvalues below the threshold (smallest {min(overlaps):.2g})"
        )
    elif overlaps and min(overlaps) < ILL_CONDITIONED:
        notes.append(
            f"S(k) is ill-conditioned, smallest eigenvalue {min(overlaps):.2g}: errors of H are amplified, ghost bands are likely; consider --s-threshold"
        )
    return Bands(
        path,
        problem.structure.lattice,
        energies,
        level.energy_eV if level else None,
        level.source if level else "unknown",
        problem.label,
        problem.source,
        sentence,
        notes,
        base if counted else None,
        complete,
        complete & counted,
        problem.electrons_per_band,
        projections,
        spin,
    )


def _trim(
    bands: Bands, center: float, window: tuple[float, float] | None, nbands: int | None
) -> Bands:
    """Keep the bands that enter the window, or the ``nbands`` nearest the Fermi level."""
    if window is None and nbands is None:
        return bands
    keep = np.ones(bands.energies_eV.shape[1], dtype=bool)
    with np.errstate(invalid="ignore"):
        if window is not None:
            keep = ((bands.energies_eV > window[0]) & (bands.energies_eV <= window[1])).any(axis=0)
    if nbands is not None and keep.sum() > nbands:
        middle = int(np.searchsorted(np.nanmean(bands.energies_eV, axis=0), center))
        low = int(np.clip(middle - nbands // 2, 0, len(keep) - nbands))
        keep &= (np.arange(len(keep)) >= low) & (np.arange(len(keep)) < low + nbands)
    index = np.flatnonzero(keep)
    if not len(index):
        raise ConfigError(
            f"no band of {bands.source} enters the window {window[0] - center:g} to {window[1] - center:g} eV around {center:.4f} eV; is the Fermi level right?"
            if window
            else f"{bands.source}: no band left"
        )
    take = slice(index[0], index[-1] + 1)
    return dataclasses.replace(
        bands,
        energies_eV=bands.energies_eV[:, take],
        first_band=None if bands.first_band is None else bands.first_band + int(index[0]),
        projections={k: v[:, take] for k, v in bands.projections.items()},
        spin=None if bands.spin is None else bands.spin[:, take],
    )
