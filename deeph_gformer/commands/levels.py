"""The Fermi level that the options ask for, and where the number of electrons comes from."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, overload

from .loading import HamiltonianKind, echo, progress
from .shared import ElectronOptions

if TYPE_CHECKING:
    from ..bands import BlochProblem, FermiLevel
    from ..io import Structure

__all__ = ["electrons_of_bundle", "fermi_of", "valence_of"]


def valence_of(options: ElectronOptions, problem: BlochProblem) -> dict[str, float] | None:
    """``--valence``, electrons per element; elements that the structure lacks are said.

    Args:
        options: of the verb.
        problem: the Hamiltonian.

    Raises:
        ConfigError: it is not of that form.
    """
    from ase.data import chemical_symbols

    from ..bands.electrons import parse_valence

    if options.valence is None:
        return None
    valence = parse_valence(options.valence)
    extra = sorted(set(valence) - {chemical_symbols[z] for z in problem.structure.numbers})
    if extra:
        echo(
            f"{problem.label}: --valence gives electrons of {', '.join(extra)}, "
            f"which '{problem.structure.name}' does not have"
        )
    return valence


@dataclasses.dataclass(frozen=True)
class _Electrons:
    """A number of electrons per cell and where it comes from."""

    number: float
    source: str


def _level_without_counting(options: ElectronOptions, problem: BlochProblem) -> FermiLevel | None:
    """What ``--fermi info`` or ``--fermi VALUE`` says; None where electrons are to be counted.

    Raises:
        ConfigError: info.json states no level of this Hamiltonian.
    """
    from ..bands import FermiLevel
    from ..io.gauge import require_level

    if options.counts:
        return None
    if options.fermi == "info":
        kind: HamiltonianKind = "prediction" if problem.predicted else "hamiltonian"
        level = require_level(problem.structure.info, kind, problem.source)
        return FermiLevel(level, "info.json of this folder, as asked")
    return FermiLevel(float(options.fermi), "given with --fermi")


def _electrons_asked(
    options: ElectronOptions, problem: BlochProblem, known: FermiLevel | None
) -> _Electrons | None:
    """From ``--electrons``, the Hamiltonian before, or ``--bundle``, in this order."""
    if options.electrons is not None:
        return _Electrons(options.electrons, "given with --electrons")
    if options.valence is not None:
        return None  # fermi_level counts them by element
    if known is not None and known.electrons is not None:
        return _Electrons(known.electrons, known.electrons_source)
    if options.bundle is not None:
        number = electrons_of_bundle(options.bundle, problem.structure)
        return _Electrons(number, f"as in the training set of {options.bundle}")
    return None


def _electrons_lent(problem: BlochProblem, others: Sequence[BlochProblem]) -> _Electrons | None:
    """From the info.json of another Hamiltonian of equal composition."""
    from ..bands.electrons import electron_number

    composition = sorted(problem.structure.numbers)
    for other in others:
        number = electron_number(other.structure)
        if number is not None and sorted(other.structure.numbers) == composition:
            return _Electrons(number[0], f"{number[1]} of {other.label}")
    return None


def _count(
    options: ElectronOptions,
    problem: BlochProblem,
    electrons: _Electrons | None,
    valence: dict[str, float] | None,
    spectrum: Any,
) -> FermiLevel:
    """Count electrons: at Γ by inertia for large matrices, else on a mesh."""
    from ..bands import fermi_level
    from ..bands.bandstructure import DENSE_LIMIT
    from ..bands.electrons import electron_number
    from ..errors import ConfigError

    number = None if electrons is None else electrons.number
    if problem.size > DENSE_LIMIT and spectrum is None:
        from ..bands.sparse import fermi_level_by_inertia

        found = electron_number(problem.structure, number, valence)
        if found is None:
            raise ConfigError(
                f"{problem.source}: the number of electrons is unknown; give --electrons N, "
                "--valence C=4,..., --bundle BUNDLE (its training set had this composition), "
                "--fermi info or --fermi VALUE"
            )
        source = found[1] if electrons is None else electrons.source
        return fermi_level_by_inertia(problem, found[0], electrons_source=source)
    return fermi_level(
        problem,
        number,
        options.mesh,
        options.smearing,
        options.width,
        valence=valence,
        count_at_info=True,
        spectrum=spectrum,
        electrons_source=None if electrons is None else electrons.source,
        s_threshold=options.s_threshold,
        processes=options.processes,
        progress=progress(),
    )


@overload
def fermi_of(
    options: ElectronOptions,
    problem: BlochProblem,
    known: FermiLevel | None = None,
    spectrum: Any = None,
    required: Literal[True] = True,
    others: Sequence[BlochProblem] = (),
) -> FermiLevel:
    """A level, or an error that says what to give."""


@overload
def fermi_of(
    options: ElectronOptions,
    problem: BlochProblem,
    known: FermiLevel | None = None,
    spectrum: Any = None,
    required: bool = True,
    others: Sequence[BlochProblem] = (),
) -> FermiLevel | None:
    """A level, None where none is known."""


def fermi_of(
    options: ElectronOptions,
    problem: BlochProblem,
    known: FermiLevel | None = None,
    spectrum: Any = None,
    required: bool = True,
    others: Sequence[BlochProblem] = (),
) -> FermiLevel | None:
    """The Fermi level that the options ask for.

    Electrons come from the options, else from ``known``, else from this info.json's ``occupation``,
    else from its Fermi level where that belongs to this Hamiltonian, else from ``others``.

    Args:
        options: of the verb.
        problem: the Hamiltonian.
        known: the level of another Hamiltonian of the same structure; lends its electrons.
        spectrum: the solved mesh, where there is one.
        required: False: an unknown number of electrons is said, and None returned.
        others: Hamiltonians whose info.json may lend a number of electrons.

    Raises:
        GFormerError: the level cannot be found.
    """
    from ..bands.bandstructure import DENSE_LIMIT
    from ..bands.electrons import electron_number
    from ..bands.kmesh import parse_mesh
    from ..errors import DataError, GFormerError

    valence = valence_of(options, problem)
    parse_mesh(options.mesh, problem)  # an error, where unknown electrons need not be one
    level = _level_without_counting(options, problem)
    if level is not None:
        return level
    electrons, spare = _electrons_asked(options, problem, known), None
    if electrons is None and valence is None and electron_number(problem.structure) is None:
        spare = _electrons_lent(problem, others)
        if problem.size > DENSE_LIMIT or problem.stated_fermi_eV is None:
            electrons, spare = spare, None  # nothing of its own to count below
    try:
        return _count(options, problem, electrons, valence, spectrum)
    except GFormerError as error:
        if spare is not None:
            return _count(options, problem, spare, None, spectrum)
        unknown = options.electrons is None and valence is None and not isinstance(error, DataError)
        if required or not unknown:
            raise
        echo(f"no Fermi level, energies are absolute: {error}")
        return None


def electrons_of_bundle(bundle: pathlib.Path, structure: Structure) -> float:
    """Electrons per cell, from the compositions that a bundle's training counted.

    Raises:
        ConfigError: not a bundle, or its compositions do not determine the number.
    """
    from ..bands.electrons import electrons_by_composition
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
            f"{path}: electrons of {structure.formula} are unknown (counted in training: {known}); "
            "give --electrons N"
        )
    return number
