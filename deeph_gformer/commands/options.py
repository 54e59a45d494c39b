"""Options that the commands on Hamiltonians share: which H, which S, which energies."""

from __future__ import annotations

import argparse
import math
import pathlib
import re
import sys
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..bands import BlochProblem
    from ..io import BlockMatrix, Structure

__all__ = [
    "Number",
    "filled",
    "hamiltonian_options",
    "say",
    "progress",
    "kinds_of",
    "load_problem",
    "single_problem",
    "window_of",
    "window_option",
]


HamiltonianKind = Literal["hamiltonian", "prediction"]


class Number:
    """argparse type: a finite number, ``above`` one and of at ``least`` another."""

    def __init__(
        self, kind: type[float] = float, above: float = -math.inf, least: float = -math.inf
    ) -> None:
        self.kind, self.above, self.least = kind, above, least

    def __call__(self, text: str) -> float:
        """The number.

        Raises:
            ArgumentTypeError: it is none, or not allowed.
        """
        try:
            value = self.kind(text)
        except ValueError:
            value = math.nan
        if math.isfinite(value) and value > self.above and value >= self.least:
            return value
        bound = (
            f" above {self.above:g}"
            if self.above > -math.inf
            else f" of at least {self.least:g}"
            if self.least > -math.inf
            else ""
        )
        raise argparse.ArgumentTypeError(
            f"'{text}': {'an integer' if self.kind is int else 'a finite number'}{bound} is needed"
        )


def window_option(parser: Any, what: str, default: str) -> None:
    """Add ``--window LOW HIGH``, eV; left away it is None, and the command takes its default."""
    parser.add_argument(
        "--window",
        nargs=2,
        type=Number(),
        metavar=("LOW", "HIGH"),
        help=f"{what}, eV relative to E_F (default: {default}, wider where the gap is)",
    )


def window_of(args: argparse.Namespace) -> tuple[float, float] | None:
    """``--window LOW HIGH``, eV; None where it was left away.

    Raises:
        ConfigError: the first energy is not below the second.
    """
    from ..errors import ConfigError

    if args.window is None:
        return None
    low, high = args.window
    if not low < high:
        raise ConfigError(f"--window {low:g} {high:g}: the first energy must be below the second")
    return (low, high)


def filled(text: str) -> str:
    """argparse type: not empty, as an unset shell variable would be.

    Raises:
        ArgumentTypeError: it is.
    """
    if not text.strip():
        raise argparse.ArgumentTypeError("is empty; give a value or leave the option away")
    return text


def hamiltonian_options(parser: argparse.ArgumentParser) -> None:
    """Add the options about H, S and the eigenvalue problem.

    From then on negative numbers with an exponent are values, not options.
    """
    parser._negative_number_matcher = re.compile(
        r"-(\d+\.?\d*|\.\d+)(e[-+]?\d+)?$|-(inf|nan)$", re.IGNORECASE
    )
    group = parser.add_argument_group("Hamiltonian")
    group.add_argument(
        "--overlap",
        type=pathlib.Path,
        metavar="DIR",
        help="folder with the overlap, or of basis files (OpenMX: the "
        "shells say what is taken), or a "
        "table of overlaps (default: beside H, else the first folder's)",
    )
    group.add_argument(
        "--s-threshold",
        type=Number(above=0),
        metavar="X",
        help="project out eigenvectors of S(k) with smaller eigenvalues (ill-conditioned bases; "
        "e.g. 1e-4)",
    )
    group.add_argument(
        "--hermitize",
        action="store_true",
        help="accept a Hamiltonian far from Hermitian, as ½(H + H†)",
    )
    group.add_argument(
        "--processes",
        type=int,
        default=1,
        metavar="N",
        help="k-points in N parallel processes (default: 1)",
    )


def say(text: str) -> None:
    """A note on standard error."""
    print(f"note: {text}", file=sys.stderr)


def progress(done: int, count: int) -> None:
    """Count k-points on a terminal."""
    if sys.stderr.isatty():
        print(
            f"\r  k-point {done}/{count}",
            end="\n" if done == count else "",
            file=sys.stderr,
            flush=True,
        )


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
    """What makes S from basis files or a table; None where ``source`` is a folder with S itself."""
    from ..io.folder import folder_format
    from ..overlap import load
    from ..overlap.basis_files import BASIS_ENDINGS, is_basis_name

    if source.is_dir() and folder_format(source) is not None:
        return None
    basis = source.name.endswith(BASIS_ENDINGS) or is_basis_name(str(source))
    if source.is_dir():
        basis = any(p.name.endswith(BASIS_ENDINGS) for p in source.iterdir())
    if not basis and source.suffix != ".npz":
        return None

    def make(structure: Structure) -> BlockMatrix:
        shells = dict(zip(structure.numbers.tolist(), structure.orbital_types, strict=True))
        return load(source, orbital_types=shells).overlap(structure)

    return make


def load_problem(
    args: argparse.Namespace,
    folder: pathlib.Path,
    kind: HamiltonianKind,
    label: str | None = None,
    fallback: pathlib.Path | None = None,
) -> BlochProblem:
    """Read H and S; S from --overlap, beside H, or from ``fallback``."""
    from ..bands import load
    from ..io.folder import has_matrix

    overlap = args.overlap
    if overlap is not None and (made := _computed(overlap)):
        overlap = made
    elif overlap is None and fallback is not None and not has_matrix(folder, "overlap"):
        overlap = fallback
    problem = load(folder, kind, overlap, label=label, hermitize=args.hermitize)
    for note in problem.notes:
        say(f"{problem.label}: {note}")
    return problem


def single_problem(args: argparse.Namespace) -> BlochProblem:
    """The Hamiltonian of a command on one folder; says which it is."""
    kinds = kinds_of(args.folder)
    kind = "prediction" if args.prediction else kinds[0]
    problem = load_problem(args, args.folder, kind)
    print(f"{problem.label}: {problem.source}")
    return problem
