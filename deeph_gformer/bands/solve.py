"""The dense generalised eigenproblem of one k-point, and many k-points over processes."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, TypeVar

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from ..errors import ConfigError, DataError, MissingDependencyError
from .arguments import require_count, require_pencil, require_window
from .bloch import BlochProblem
from .memory import kept_memory

__all__ = [
    "Check",
    "Solution",
    "not_definite",
    "EDGE_EV",
    "default_window",
    "nearest_levels",
    "solve_dense",
    "solve_torch",
    "map_kpoints",
    "ILL_CONDITIONED",
]

ILL_CONDITIONED = 1e-5
"""Eigenvalues of S(k) below this are reported: they amplify errors of H by their inverse."""
Check = Literal["auto", "count", "random", "none"]
"""How the sparse solver shows that it missed no state: two counts (Sylvester's law), a search from
random vectors, or, 'auto', one of them by size."""
#: More than any machine has use for.
MOST_PROCESSES = 1024

T = TypeVar("T")


@dataclasses.dataclass
class Solution:
    """Eigenpairs of one k-point.

    Attributes:
        energies: (B,), ascending, eV.
        vectors: (n, B) with c† S c = 1, or None.
        first: index, among all bands of the k-point, of ``energies[0]``; None where unknown
            (partial spectrum without a count).
        complete: whether every eigenvalue between the lowest and the highest is there; None where
            it was not checked.
        smallest_overlap: smallest eigenvalue of S(k), where it was looked at.
        removed: states projected out because S(k) has no norm for them.
        failure: why the solver did not converge; empty where it did.
        engine: what solved it, for reports; empty for LAPACK.
        check: how completeness was shown, for reports; empty where all eigenvalues are there.
    """

    energies: NDArray[np.float64]
    vectors: NDArray[np.number] | None = None
    first: int | None = 0
    complete: bool | None = True
    smallest_overlap: float | None = None
    removed: int = 0
    failure: str = ""
    engine: str = ""
    check: str = ""


EDGE_EV = 1e-7
"""A level so near an end of a window counts as lying on it: rounding must not decide."""


def default_window(levels: NDArray[np.float64], reach_eV: float) -> tuple[float, float]:
    """-reach to reach, and where a gap is wider, as far as 1 eV beyond its edges.

    Args:
        levels: of any shape, relative to the Fermi level, eV; NaN and infinite ones do not count.
        reach_eV: on both sides.
    """
    known = levels[np.isfinite(levels)]
    low = min(-reach_eV, float(known[known <= 0].max(initial=-np.inf)) - 1.0)
    high = max(reach_eV, float(known[known > 0].min(initial=np.inf)) + 1.0)
    return low if low > -np.inf else -reach_eV, high if high < np.inf else reach_eV


def nearest_levels(levels: NDArray[np.float64]) -> str:
    """Words on the levels next to zero, for messages; empty where there is none.

    Args:
        levels: of any shape, eV; NaN and infinite ones do not count.
    """
    known = levels[np.isfinite(levels)]
    below, above = known[known <= 0], known[known > 0]
    nearest = [part(side) for part, side in ((np.max, below), (np.min, above)) if len(side)]
    words = [f"{level:.3f}" for level in nearest]
    return f"; the nearest levels are at {' and '.join(words)} eV" if words else ""


def _overlap_condition(s: NDArray[np.number]) -> tuple[bool, float]:
    """(positive definite, reciprocal condition number estimate) of S from its Cholesky factor
    (LAPACK potrf, pocon)."""
    potrf, pocon = scipy.linalg.get_lapack_funcs(("potrf", "pocon"), (s,))
    factor, info = potrf(s, lower=False, clean=False)
    if info != 0:
        return False, 0.0
    rcond, _ = pocon(factor, float(np.abs(s).sum(axis=0).max()), uplo="U")
    return True, float(rcond)


def not_definite(where: str, finding: str) -> str:
    """The message for an S(k) that is no overlap.

    Args:
        where: file and k-point.
        finding: how it was seen.
    """
    return (
        f"{where}: S(k) is not positive definite, {finding}; the overlap file is damaged, "
        f"belongs to another structure "
        "or the basis is linearly dependent: check S, or project the null space out with the "
        "dense solver and --s-threshold 1e-4"
    )


def solve_dense(
    h: NDArray[np.number],
    s: NDArray[np.number],
    *,
    index: tuple[int, int] | None = None,
    window: tuple[float, float] | None = None,
    vectors: bool = False,
    s_threshold: float | None = None,
    where: str = "",
) -> Solution:
    """All eigenpairs of H c = E S c, or those of a range, by LAPACK.

    Args:
        h: (n, n) Hermitian, eV.
        s: (n, n).
        index: (first, last) bands, inclusive, from 0.
        window: (low, high], eV; not together with ``index``. A level within 1e-7 eV of an end lies
            on it.
        vectors: also the eigenvectors.
        s_threshold: project out eigenvectors of S with smaller eigenvalues (they are linear
            dependences of the basis; DeepH's ``ill_project``).
        where: file and k-point, for messages.

    Raises:
        ConfigError: ``index`` is outside the bands there are. DataError: S is not positive definite
            and no threshold was given, or H or S is no Hermitian matrix.
    """
    h, s = np.asarray(h), np.asarray(s)
    require_pencil(h, s, where)
    n = len(h)
    if window is not None:
        window = require_window(window)
    if s_threshold is not None and not 0 < s_threshold < np.inf:
        raise ConfigError(f"S threshold {s_threshold}: it must be positive and finite, e.g. 1e-4")
    if index is not None and not (0 <= index[0] <= index[1] < n):
        raise ConfigError(
            f"bands {index[0] + 1} to {index[1] + 1} asked, but {where or 'the problem'} has {n} "
            f"bands"
        )
    definite, rcond = _overlap_condition(s)
    smallest, removed = None, 0
    if not definite or rcond < ILL_CONDITIONED * 0.1 or s_threshold is not None:
        lowest = scipy.linalg.eigh(s, eigvals_only=True, subset_by_index=[0, 0])
        smallest = float(lowest[0])
        if smallest <= 0 and s_threshold is None:
            raise DataError(not_definite(where, f"its smallest eigenvalue is {smallest:.3g}"))
    kwargs: dict[str, Any] = {"eigvals_only": not vectors, "check_finite": False}
    if s_threshold is not None and smallest is not None and smallest < s_threshold:
        value, basis = scipy.linalg.eigh(s)
        keep = value > s_threshold
        removed = int(n - keep.sum())
        if removed == n:
            raise ConfigError(
                f"{where}: S threshold {s_threshold:g} is above all eigenvalues of S(k), the "
                f"largest is {value[-1]:.3g}; take e.g. 1e-4"
            )
        basis = basis[:, keep] / np.sqrt(value[keep])
        kwargs["subset_by_index"] = (
            None if index is None else [index[0], min(index[1], int(keep.sum()) - 1)]
        )
        arguments: tuple[NDArray[np.number], ...] = (basis.conj().T @ h @ basis,)
    else:
        basis = None
        kwargs["subset_by_index"] = None if index is None else list(index)
        arguments = (h, s)
    first: int | None = 0 if index is None else index[0]
    if window is not None and index is None:
        # rounding must not cut a degenerate level on an end
        kwargs["subset_by_value"], first = [end + EDGE_EV for end in window], None
    try:
        result = scipy.linalg.eigh(*arguments, **{k: v for k, v in kwargs.items() if v is not None})
    except scipy.linalg.LinAlgError as error:
        return Solution(
            np.zeros(0), None, None, False, smallest, removed, f"LAPACK did not converge ({error})"
        )
    energies, coefficients = (result[0], result[1]) if vectors else (result, None)
    if basis is not None and coefficients is not None:
        coefficients = basis @ coefficients
    return Solution(energies, coefficients, first, True, smallest, removed)


def solve_torch(
    h: NDArray[np.number], s: NDArray[np.number], device: str, where: str = ""
) -> Solution:
    """All eigenvalues on a GPU through torch: Cholesky reduction, then ``eigvalsh``.

    Raises:
        MissingDependencyError: torch is not installed. ConfigError: the device is not there.
            DataError: S is not positive definite.
    """
    try:
        import torch
    except ImportError:
        raise MissingDependencyError("torch", "all", f"--device {device}") from None
    try:
        h_t, s_t = (torch.as_tensor(np.ascontiguousarray(m), device=device) for m in (h, s))
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"device '{device}' cannot be used ({str(error).splitlines()[0]}); leave --device "
            f"away for LAPACK on the CPU"
        ) from None
    factor, info = torch.linalg.cholesky_ex(s_t)
    if int(info) != 0:
        raise DataError(not_definite(where, f"its Cholesky factor on '{device}' does not exist"))
    reduced = torch.linalg.solve_triangular(
        factor, h_t.to(s_t.dtype) if not h_t.is_complex() else h_t, upper=False
    )
    reduced = torch.linalg.solve_triangular(factor, reduced.mH, upper=False)
    return Solution(torch.linalg.eigvalsh((reduced + reduced.mH) / 2).cpu().numpy())


_WORKER: dict[str, Any] = {}


def _start_worker(
    function: Callable[[BlochProblem, NDArray[np.float64]], Any],
    problem: BlochProblem,
    kpoints: int,
) -> None:
    _WORKER.update(function=function, problem=problem, memory=kept_memory(problem, kpoints))
    _WORKER["memory"].__enter__()  # until the process ends


def _work(k: NDArray[np.float64]) -> Any:
    return _WORKER["function"](_WORKER["problem"], k)


@contextlib.contextmanager
def _single_threaded_children(processes: int) -> Iterator[None]:
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    threads = str(max(1, (os.cpu_count() or 1) // processes))
    old = {name: os.environ.get(name) for name in names}
    os.environ.update({name: threads for name in names})
    try:
        yield
    finally:
        for name, value in old.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def map_kpoints(
    function: Callable[[BlochProblem, NDArray[np.float64]], T],
    problem: BlochProblem,
    kpoints: NDArray[np.float64],
    processes: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> list[T]:
    """``[function(problem, k) for k in kpoints]``, equal k-points once, over fresh processes.

    BLAS threads are shared out among them.

    Args:
        function: importable by name (a top-level function or ``functools.partial`` of one).
        problem: handed to it.
        kpoints: (K, 3), fractional.
        processes: 1 stays in this process; more needs the usual ``if __name__ == "__main__":``
            guard in scripts.
        progress: called with (done, all).

    Raises:
        ConfigError: ``processes`` is less than 1 or above :data:`MOST_PROCESSES`. Whatever
            ``function`` raises.
    """
    processes = require_count(processes, "processes", MOST_PROCESSES)
    _, index, inverse = np.unique(
        np.round(kpoints, 12), axis=0, return_index=True, return_inverse=True
    )
    unique = kpoints[index]
    results: list[T] = []

    def collect(items: Iterator[T] | Sequence[T]) -> None:
        """Keep results as they come."""
        for result in items:
            results.append(result)
            if progress is not None:
                progress(len(results), len(unique))

    if processes == 1 or len(unique) == 1:
        with kept_memory(problem, len(unique)):
            collect(function(problem, k) for k in unique)
    else:
        import concurrent.futures
        import multiprocessing

        with (
            _single_threaded_children(processes),
            concurrent.futures.ProcessPoolExecutor(
                min(processes, len(unique)),
                mp_context=multiprocessing.get_context("spawn"),
                initializer=_start_worker,
                initargs=(function, problem, -(-len(unique) // processes)),
            ) as pool,
        ):
            try:
                collect(pool.map(_work, unique))
            except concurrent.futures.process.BrokenProcessPool:
                raise ConfigError(
                    f"a worker process died, most likely for lack of memory ({processes} "
                    f"processes, matrices of {problem.size} x {problem.size}); "
                    "use fewer --processes"
                ) from None
    return [results[i] for i in inverse.reshape(-1)]
