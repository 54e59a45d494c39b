"""Bands of one Hamiltonian along a path: which solver, what is complete, which band is which."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError
from .arguments import require_count, require_energy, require_window
from .assemble import Point, assemble
from .bloch import BlochProblem
from .fermi import FermiLevel
from .kpath import KPath, PathEngine, find_path
from .projection import level_means, mulliken_weights, parse_projections, spin_expectation
from .result import Bands
from .solve import (
    EDGE_EV,
    Check,
    map_kpoints,
    nearest_levels,
    solve_dense,
    solve_torch,
)

__all__ = ["band_structure", "choose_solver", "DENSE_LIMIT"]

DENSE_LIMIT = 6000
"""Largest matrix (orbitals, spin included) that 'auto' gives to dense LAPACK: 6000 complex is 0.6
GB a matrix and minutes a k-point."""
Solver = Literal["auto", "dense", "sparse"]
Weigh = Callable[..., dict[str, NDArray[np.float64]]]
"""(problem, k (3,), vectors (n, B), energies (B,), S(k)) -> weights (B,) by name.

Importable by name.
"""


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
    weigh: Weigh | None


def _solve_point(problem: BlochProblem, k: NDArray[np.float64], task: _Task) -> Point:
    where = f"{problem.source}, k = {np.round(k, 5).tolist()}"
    vectors = bool(task.masks) or task.spin or task.weigh is not None
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
            k=k,
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
        level = functools.partial(level_means, solution.energies, width_eV=problem.rounding_eV)
        found = mulliken_weights(solution.vectors, s, task.masks)
        weights = {name: level(values=value) for name, value in found.items()}
        if task.weigh is not None:
            weights |= task.weigh(problem, k, solution.vectors, solution.energies, s)
        if task.spin:
            spin = level(values=spin_expectation(problem, solution.vectors, s))
    solution.vectors = None
    return Point(solution, weights, spin)


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
        f"sparse shift-invert around the Fermi level, {n} orbitals "
        f"(dense would need {n * n * 16 * 3 / 1e9:.0f} GB)",
    )


def _absolute_window(
    window: tuple[float, float] | None, level: FermiLevel | None
) -> tuple[float, float] | None:
    """A window relative to the Fermi level, on the scale of H."""
    if window is None:
        return None
    low, high = require_window(window)
    zero = level.energy_eV if level else 0.0
    return low + zero, high + zero


def _require_sense(
    problem: BlochProblem,
    chosen: str,
    sentence: str,
    level: FermiLevel | None,
    window: tuple[float, float] | None,
    nbands: int | None,
) -> None:
    """Refuse a Fermi level or a number of bands that means nothing.

    Raises:
        ConfigError: it is so.
    """
    if level is not None:
        require_energy(level.energy_eV, "Fermi level")
    if nbands is not None:
        require_count(nbands, f"{problem.source}: bands", problem.size)
    if level is None and (chosen == "sparse" or window is not None or nbands is not None):
        raise ConfigError(
            f"{sentence}: bands around the Fermi level are asked and it is unknown; "
            "give --electrons N, --fermi info or --fermi VALUE"
        )


def _require_solver(
    chosen: str, s_threshold: float | None, device: str | None, states: bool
) -> None:
    """Refuse what a solver cannot do.

    Args:
        chosen: see :func:`choose_solver`.
        s_threshold: see :func:`band_structure`.
        device: see :func:`band_structure`.
        states: whether eigenvectors are needed.

    Raises:
        ConfigError: says what needs which solver.
    """
    if chosen == "sparse" and s_threshold is not None:
        raise ConfigError("--s-threshold needs the dense solver: the projection is a dense matrix")
    if device is not None and (chosen == "sparse" or states or s_threshold is not None):
        raise ConfigError(
            "--device computes dense eigenvalues only; leave --fat, --spin, --s-threshold and the "
            "sparse solver away"
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
    path_engine: PathEngine = "auto",
    projections: str | None = None,
    spin: bool = False,
    s_threshold: float | None = None,
    processes: int = 1,
    device: str | None = None,
    engine: str = "auto",
    check: Check = "auto",
    weigh: Weigh | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Bands:
    """Bands along a path.

    Args:
        problem: the Hamiltonian.
        path: special points, a k-path, or None for the lattice's own; see
            :func:`~.kpath.find_path`.
        npoints: over the whole path.
        solver: 'dense' (all bands), 'sparse' (``nbands`` around the Fermi level), 'auto' by size;
            ``Bands.solver`` says which.
        window: (low, high], eV relative to the Fermi level: keep only bands that enter it (sparse:
            all states within it).
        nbands: how many bands around the Fermi level (sparse: default 50).
        fermi: the Fermi level; a plain number is taken as given. Needed for the sparse solver,
            ``window`` and ``nbands``.
        path_engine: who chooses the lattice's own path.
        projections: fat bands, e.g. "Mo-d,S-p"; states of a degenerate level share its mean.
        spin: also <sigma> (spin-orbit coupling only); as well.
        s_threshold: project out the null space of an ill-conditioned S (dense).
        processes: k-points in parallel.
        device: torch device for dense eigenvalues.
        engine: sparse factorisation, see :mod:`~.sparse`.
        check: how the sparse solver shows that it missed no state: 'count' (Sylvester's law, two
            more factorisations), 'random' (cheap, leaves a chance of 1e-9), 'none', or by size.
        weigh: further weights of the states, see :data:`Weigh`.
        progress: called with (done, all).

    Raises:
        ConfigError: too many bands asked, no Fermi level where one is needed, a window that is
            none, an unknown path or solver.
        DataError: S is not positive definite.
    """
    if fermi is not None and not isinstance(fermi, FermiLevel):
        fermi = FermiLevel(require_energy(fermi, "Fermi level"), "given")
    level = fermi
    npoints = require_count(npoints, "k-points of the path")
    chosen, sentence = choose_solver(problem, solver)
    absolute = _absolute_window(window, level)
    _require_sense(problem, chosen, sentence, level, window, nbands)
    _require_solver(chosen, s_threshold, device, bool(projections or spin or weigh))
    kpath = path
    if not isinstance(kpath, KPath):
        kpath = find_path(problem.structure, problem.periodic, kpath, npoints, path_engine)
    center = level.energy_eV if level else 0.0
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
        weigh,
    )
    points = map_kpoints(
        functools.partial(_solve_point, task=task), problem, kpath.kpoints, processes, progress
    )
    sentence += "".join(
        f", {words}" for words in (points[0].solution.engine, points[0].solution.check) if words
    )
    bands = assemble(problem, kpath, points, level, sentence + (f", on {device}" if device else ""))
    return _trim(bands, center, absolute, nbands if chosen == "dense" else None)


def _trim(
    bands: Bands, center: float, window: tuple[float, float] | None, nbands: int | None
) -> Bands:
    """Keep the bands that enter the window, or the ``nbands`` nearest the Fermi level."""
    if window is None and nbands is None:
        return bands
    keep: NDArray[np.bool_] = np.ones(bands.energies_eV.shape[1], dtype=bool)
    with np.errstate(invalid="ignore"):
        if window is not None:
            low, high = window[0] + EDGE_EV, window[1] + EDGE_EV
            keep &= ((bands.energies_eV > low) & (bands.energies_eV <= high)).any(axis=0)
    if nbands is not None and keep.sum() > nbands:
        middle = int(np.searchsorted(np.nanmean(bands.energies_eV, axis=0), center))
        low = int(np.clip(middle - nbands // 2, 0, len(keep) - nbands))
        keep &= (np.arange(len(keep)) >= low) & (np.arange(len(keep)) < low + nbands)
    index = np.flatnonzero(keep)
    if not len(index):
        raise ConfigError(
            f"no band of {bands.source} enters the window {window[0] - center:g} to "
            f"{window[1] - center:g} eV around {center:.4f} "
            f"eV{nearest_levels(bands.energies_eV - center)}"
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
