"""Options that the commands on Hamiltonians share, and what they mean: which H, which S, which Fermi level."""

from __future__ import annotations

import argparse
import math
import pathlib
import re
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..bands import BlochProblem, FermiLevel
    from ..io import Structure

__all__ = [
    "Number",
    "filled",
    "one_folder",
    "hamiltonian_options",
    "fermi_options",
    "say",
    "progress",
    "kinds_of",
    "load_problem",
    "fermi_of",
    "single_problem",
    "valence_of",
    "window_of",
    "electrons_of_bundle",
]


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


def window_of(args: argparse.Namespace) -> tuple[float, float]:
    """``--window LOW HIGH``, eV.

    Raises:
        ConfigError: the first energy is not below the second.
    """
    from ..errors import ConfigError

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


def one_folder(parser: argparse.ArgumentParser, level: bool = True) -> None:
    """Add DIR, which of its Hamiltonians, and the shared options; without ``level`` not that of the Fermi level's value."""
    parser.add_argument(
        "folder", type=pathlib.Path, metavar="DIR", help="structure folder, legacy or DeepH-dock"
    )
    parser.add_argument(
        "--prediction",
        action="store_true",
        help="use the predicted Hamiltonian (default: the DFT one, where there is one)",
    )
    hamiltonian_options(parser)
    fermi_options(parser, level)
    parser.add_argument(
        "--json", type=pathlib.Path, metavar="FILE", help="the result, machine-readable"
    )


def hamiltonian_options(parser: argparse.ArgumentParser) -> None:
    """Add the options about H, S and the eigenvalue problem; negative numbers with an exponent are values from now on, not options."""
    parser._negative_number_matcher = re.compile(
        r"-(\d+\.?\d*|\.\d+)(e[-+]?\d+)?$|-(inf|nan)$", re.IGNORECASE
    )
    group = parser.add_argument_group("Hamiltonian")
    group.add_argument(
        "--overlap",
        type=pathlib.Path,
        metavar="DIR",
        help="folder with the overlap (default: beside H, else the first folder's)",
    )
    group.add_argument(
        "--s-threshold",
        type=Number(above=0),
        metavar="X",
        help="project out eigenvectors of S(k) with smaller eigenvalues (ill-conditioned bases; e.g. 1e-4)",
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


def fermi_options(parser: argparse.ArgumentParser, level: bool = True) -> None:
    """Add the options about the Fermi level; without ``level`` only those about the number of electrons."""
    group = parser.add_argument_group("Fermi level" if level else "electrons")
    parser.set_defaults(fermi="auto")
    if level:
        group.add_argument(
            "--fermi",
            type=filled,
            metavar="auto|info|EV",
            help="auto: by counting electrons (default); info: info.json's value; or a number in eV",
        )
    group.add_argument(
        "--electrons",
        type=Number(above=0),
        metavar="N",
        help="electrons per cell (default: occupation in info.json, else as in --bundle, else counted below the DFT's Fermi level)",
    )
    group.add_argument(
        "--bundle",
        type=pathlib.Path,
        metavar="BUNDLE",
        help="GFormer bundle whose training set tells the electrons",
    )
    group.add_argument(
        "--valence",
        type=filled,
        metavar="C=4,Mo=14",
        help="electrons per element, instead of --electrons",
    )
    group.add_argument(
        "--mesh", metavar="12x12x1", help="k mesh of the counting (default: 0.12 1/Å apart)"
    )
    group.add_argument(
        "--smearing",
        choices=("gaussian", "fermi", "tetrahedron"),
        default="gaussian",
        help="of the occupations (default: gaussian)",
    )
    group.add_argument(
        "--width",
        type=Number(above=0),
        default=0.02,
        metavar="EV",
        help="of the smearing (default: 0.02 eV)",
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


def kinds_of(folder: pathlib.Path) -> list[Any]:
    """Which Hamiltonians a folder has."""
    from ..errors import DataError
    from ..io.folder import matrix_path

    kinds = [kind for kind in ("hamiltonian", "prediction") if matrix_path(folder, kind).is_file()]
    if not kinds:
        names = " nor ".join(
            matrix_path(folder, kind).name for kind in ("hamiltonian", "prediction")
        )
        raise DataError(f"{folder}: a structure without a Hamiltonian, neither {names} is there")
    return kinds


def load_problem(
    args: argparse.Namespace,
    folder: pathlib.Path,
    kind: Any,
    label: str | None = None,
    fallback: pathlib.Path | None = None,
) -> BlochProblem:
    """Read H and S; S from --overlap, beside H, or from ``fallback``."""
    from ..bands import load
    from ..io.folder import matrix_path

    overlap = args.overlap
    if overlap is None and fallback is not None and not matrix_path(folder, "overlap").is_file():
        overlap = fallback
    problem = load(folder, kind, overlap, label=label, hermitize=args.hermitize)
    for note in problem.notes:
        say(f"{problem.label}: {note}")
    return problem


def valence_of(args: argparse.Namespace, problem: BlochProblem) -> dict[str, float] | None:
    """``--valence``, electrons per element; elements that the structure lacks are said.

    Raises:
        ConfigError: it is not of that form, or options about the Fermi level contradict each other.
    """
    from ase.data import chemical_symbols

    from ..bands.fermi import parse_valence
    from ..errors import ConfigError

    if args.electrons is not None and args.valence is not None:
        raise ConfigError(
            "--electrons and --valence both say how many electrons there are; give one of them"
        )
    if args.fermi not in ("auto", "count") and (
        args.electrons is not None or args.valence is not None
    ):
        raise ConfigError(
            f"--fermi {args.fermi} needs no electrons; leave --electrons and --valence away, or --fermi to count them"
        )
    if args.valence is None:
        return None
    valence = parse_valence(args.valence)
    extra = sorted(set(valence) - {chemical_symbols[z] for z in problem.structure.numbers})
    if extra:
        say(
            f"{problem.label}: --valence gives electrons of {', '.join(extra)}, which '{problem.structure.name}' does not have"
        )
    return valence


def fermi_of(
    args: argparse.Namespace,
    problem: BlochProblem,
    known: FermiLevel | None = None,
    spectrum: Any = None,
    required: bool = True,
    others: Sequence[BlochProblem] = (),
) -> FermiLevel | None:
    """The Fermi level that the options ask for; ``known`` lends its number of electrons, and so does the info.json of ``others`` of equal composition."""
    from ..bands import FermiLevel, fermi_level
    from ..bands.bandstructure import DENSE_LIMIT
    from ..bands.fermi import electron_number
    from ..bands.kmesh import parse_mesh
    from ..bands.loading import info_fermi_eV
    from ..errors import ConfigError, DataError, GFormerError

    valence = valence_of(args, problem)
    parse_mesh(
        args.mesh, problem
    )  # a mesh that is none is an error, an unknown number of electrons need not be
    if args.fermi == "info":
        stated = info_fermi_eV(problem.structure)
        if stated is None:
            raise ConfigError(
                f"{problem.source}: --fermi info, but info.json has neither fermi_level nor fermi_energy_eV; give --electrons N or --fermi VALUE"
            )
        return FermiLevel(stated, "info.json of this folder, as asked (the DFT's value)")
    if args.fermi not in ("auto", "count"):
        try:
            return FermiLevel(Number()(args.fermi), "given with --fermi")
        except argparse.ArgumentTypeError:
            raise ConfigError(f"--fermi {args.fermi}: auto, info, or an energy in eV") from None
    electrons, source = args.electrons, "given with --electrons"
    if electrons is None and valence is None and known is not None and known.electrons is not None:
        electrons, source = known.electrons, known.electrons_source
    if electrons is None and valence is None and args.bundle is not None:
        electrons, source = (
            electrons_of_bundle(args.bundle, problem.structure),
            f"as in the training set of {args.bundle}",
        )
    lent = None
    if electrons is None and valence is None and electron_number(problem.structure) is None:
        numbers = ((electron_number(other.structure), other) for other in others)
        same = sorted(problem.structure.numbers)
        lent = next(
            (
                (n[0], f"{n[1]} of {other.label}")
                for n, other in numbers
                if n and sorted(other.structure.numbers) == same
            ),
            None,
        )
        if lent and (
            problem.predicted
            or problem.size > DENSE_LIMIT
            or info_fermi_eV(problem.structure) is None
        ):
            (electrons, source), lent = lent, None  # DFT's own count goes first where there is one
    try:
        if problem.size > DENSE_LIMIT and spectrum is None:
            from ..bands.sparse import fermi_level_by_inertia

            number = electron_number(problem.structure, electrons, valence)
            if number is None:
                raise ConfigError(
                    f"{problem.source}: the number of electrons is unknown; give --electrons N, --valence C=4,..., --fermi info or --fermi VALUE"
                )
            return fermi_level_by_inertia(problem, number[0], electrons_source=number[1])
        return fermi_level(
            problem,
            electrons,
            args.mesh,
            args.smearing,
            args.width,
            valence=valence,
            count_at_info=not problem.predicted,
            spectrum=spectrum,
            electrons_source=source if electrons is not None else None,
            s_threshold=args.s_threshold,
            processes=args.processes,
        )
    except GFormerError as error:
        if lent:
            return fermi_of(args, problem, FermiLevel(math.nan, "", *lent), spectrum, required)
        if (
            required
            or isinstance(error, DataError)
            or args.electrons is not None
            or valence is not None
        ):
            raise
        say(f"no Fermi level, energies are absolute: {error}")
        return None


def single_problem(args: argparse.Namespace) -> BlochProblem:
    """The Hamiltonian of a command on one folder; says which it is."""
    kinds = kinds_of(args.folder)
    kind = "prediction" if args.prediction else kinds[0]
    problem = load_problem(args, args.folder, kind)
    print(f"{problem.label}: {problem.source}")
    return problem


def electrons_of_bundle(bundle: pathlib.Path, structure: Structure) -> float:
    """Electrons per cell, from the compositions that a bundle's training counted.

    Raises:
        ConfigError: not a bundle, or its compositions do not determine the number.
    """
    from ..bands.fermi import electrons_by_composition
    from ..errors import ConfigError
    from ..io.files import read_json

    path = bundle / "bundle.json"
    table = read_json(path)
    rows = table.get("training", {}).get("electrons", []) if isinstance(table, dict) else []
    number = electrons_by_composition(structure, rows) if rows else None
    if number is None:
        known = (
            ", ".join("".join(f"{s}{n}" for s, n in row["composition"].items()) for row in rows)
            or "none"
        )
        raise ConfigError(
            f"{path}: electrons of {structure.formula} are unknown (counted in training: {known}); give --electrons N"
        )
    return number
