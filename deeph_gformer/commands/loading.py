"""Hamiltonians as the options ask for them, and what is said on the way."""

from __future__ import annotations

import pathlib
import time
from typing import TYPE_CHECKING, Literal

from ..logs import LOGGER, shows_progress
from ..terminal import Progress
from .shared import HamiltonianOptions, OneHamiltonian

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..bands import BlochProblem
    from ..io import BlockMatrix, Structure

__all__ = [
    "HamiltonianKind",
    "kinds_of",
    "load_problem",
    "print_line",
    "progress",
    "echo",
    "single_problem",
    "warn",
]

HamiltonianKind = Literal["hamiltonian", "prediction"]
_BETWEEN_LINES_S = 30.0
"""Of progress, where there is no terminal."""


def print_line(text: str) -> None:
    """A line of a long work's result, at once."""
    print(text, flush=True)


def echo(text: str) -> None:
    """A note on standard error."""
    LOGGER.info(text)


def warn(text: str) -> None:
    """A warning on standard error."""
    LOGGER.warning(text)


def progress(unit: str = "k-point") -> Callable[[int, int], None]:
    """What is called with (done, all): a bar on a terminal, elsewhere a note now and then.

    Args:
        unit: what is counted.
    """
    bar: Progress | None = None
    told = time.monotonic()

    def at(done: int, count: int) -> None:
        """Move the bar; the last step takes it away."""
        nonlocal bar, told
        if not shows_progress():
            now = time.monotonic()
            if now - told >= _BETWEEN_LINES_S and done < count:
                told = now
                echo(f"{done} of {count} {unit}s")
            return
        if bar is None:
            bar = Progress(f"{unit}s", count, True, unit)
        bar.at(done, count)
        if done == count:
            bar.close()
            bar = None

    return at


def kinds_of(folder: pathlib.Path) -> list[HamiltonianKind]:
    """Which Hamiltonians a folder has."""
    from ..errors import DataError
    from ..io.folder import has_matrix, matrix_path

    both: tuple[HamiltonianKind, ...] = ("hamiltonian", "prediction")
    kinds = [kind for kind in both if has_matrix(folder, kind)]
    if not kinds:
        names = " nor ".join(matrix_path(folder, kind).name for kind in both)
        raise DataError(f"{folder}: a structure without a Hamiltonian, neither {names} is there")
    return kinds


def _computed(source: pathlib.Path) -> Callable[[Structure], BlockMatrix] | None:
    """What makes S from basis files or a table, also that of a bundle; None where ``source`` is a
    folder with S itself."""
    from ..fields import OVERLAP_TABLE
    from ..io.folder import folder_format
    from ..overlap import load
    from ..overlap.basis_files import BASIS_ENDINGS, is_basis_name

    if source.is_dir() and folder_format(source) is not None:
        return None
    basis = source.name.endswith(BASIS_ENDINGS) or is_basis_name(str(source))
    if source.is_dir():
        table = (source / OVERLAP_TABLE).is_file()
        basis = table or any(p.name.endswith(BASIS_ENDINGS) for p in source.iterdir())
    if not basis and source.suffix != ".npz":
        return None

    def make(structure: Structure) -> BlockMatrix:
        shells = dict(zip(structure.numbers.tolist(), structure.orbital_types, strict=True))
        return load(source, orbital_types=shells).overlap(structure)

    return make


def load_problem(
    options: HamiltonianOptions,
    folder: pathlib.Path,
    kind: HamiltonianKind,
    label: str | None = None,
    fallback: pathlib.Path | None = None,
) -> BlochProblem:
    """Read H and S; S from ``--overlap``, beside H, or from ``fallback``.

    Args:
        options: which S, and whether H may be far from Hermitian.
        folder: of H.
        kind: which H.
        label: for figures and messages.
        fallback: folder that has S, too.

    Raises:
        DataError: H or S is missing or damaged.
    """
    from ..bands import load
    from ..io.folder import has_matrix

    overlap: pathlib.Path | Callable[[Structure], BlockMatrix] | None = options.overlap
    if isinstance(overlap, pathlib.Path) and (computed := _computed(overlap)):
        overlap = computed
    elif overlap is None and fallback is not None and not has_matrix(folder, "overlap"):
        overlap = fallback
    problem = load(folder, kind, overlap, label=label, hermitize=options.hermitize)
    for note in problem.notes:
        echo(f"{problem.label}: {note}")
    return problem


def single_problem(options: OneHamiltonian, projects: bool = True) -> BlochProblem:
    """The Hamiltonian of a verb on one folder; says which it is.

    Args:
        options: which folder, and which of its Hamiltonians.
        projects: whether the verb's own states obey ``--s-threshold``; else that is said.
    """
    kinds = kinds_of(options.folder)
    kind: HamiltonianKind = "prediction" if options.prediction else kinds[0]
    problem = load_problem(options, options.folder, kind)
    print(f"{problem.label}: {problem.source}")
    if options.s_threshold is not None and not projects:
        warn(
            f"--s-threshold {options.s_threshold:g} holds for the Fermi level alone; everything "
            "else here is of all states, those that it projects out among them"
        )
    return problem
