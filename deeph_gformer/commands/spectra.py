"""``fermi``, ``dos`` and ``gap``: figures of one Hamiltonian."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import TYPE_CHECKING, Any, Literal

from ..results import DosResult, FermiResult, GapResult
from ..terminal import figures
from .levels import fermi_of, valence_of
from .loading import echo, progress, single_problem
from .options import Number, Verb, option
from .shared import (
    ElectronOptions,
    LevelOptions,
    OneHamiltonian,
    projections_option,
    require_window,
    window_option,
)
from .single import figure_option

if TYPE_CHECKING:
    from ..bands import BlochProblem, MeshSpectrum

__all__ = ["VERBS"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class FermiOptions(OneHamiltonian, LevelOptions):
    """Of ``fermi``."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DosOptions(OneHamiltonian, LevelOptions):
    """Of ``dos``."""

    method: Literal["gaussian", "fermi", "tetrahedron"] = option(
        default="gaussian", help="broadening of the levels"
    )
    dos_width: float = option(
        type=Number(above=0),
        default=0.05,
        unit="eV",
        metavar="EV",
        help="width of the broadening: standard deviation of the Gaussian, kT of fermi",
    )
    window: tuple[float, float] | None = window_option("energies shown", "-6 6")
    fat: str | None = projections_option()
    output: pathlib.Path | None = figure_option("NAME_dos.png")

    def __post_init__(self) -> None:
        """Check the window."""
        super().__post_init__()
        require_window(self.window)


@dataclasses.dataclass(frozen=True, kw_only=True)
class GapOptions(OneHamiltonian, ElectronOptions):
    """Of ``gap``."""

    no_refine: bool = option(
        default=False, help="take band edges on the mesh, do not search between its points"
    )


def mesh_of(
    options: ElectronOptions, problem: BlochProblem, projections: str | None = None
) -> MeshSpectrum:
    """Bands on the mesh of the options; notes on them are said.

    Args:
        options: of the verb.
        problem: the Hamiltonian.
        projections: of states, see ``--fat``.
    """
    from ..bands import mesh_spectrum

    spectrum = mesh_spectrum(
        problem,
        options.mesh,
        projections=projections,
        s_threshold=options.s_threshold,
        processes=options.processes,
        progress=progress(),
    )
    for note in spectrum.notes:
        echo(note)
    return spectrum


def _names(problem: BlochProblem) -> dict[str, Any]:
    return {"structure": problem.structure.name, "hamiltonian": problem.source}


def _run_fermi(options: FermiOptions) -> FermiResult:
    problem = single_problem(options)
    level = fermi_of(options, problem)
    print(f"Fermi level {level.energy_eV:.6f} eV: {level.source}")
    return FermiResult.of(_names(problem), level.to_json())


def _run_dos(options: DosOptions) -> DosResult:
    from ..bands import density_of_states, plot_dos
    from ..bands.solve import default_window

    problem = single_problem(options)
    spectrum = mesh_of(options, problem, options.fat)
    level = fermi_of(options, problem, spectrum=spectrum, required=options.fermi != "auto")
    window = options.window
    if window is None:
        window = default_window(spectrum.energies - (level.energy_eV if level else 0.0), 6.0)
    dos = density_of_states(
        problem,
        method=options.method,
        width_eV=options.dos_width,
        window=window,
        projections=options.fat,
        fermi=level,
        spectrum=spectrum,
    )
    print(
        f"Fermi level {level.energy_eV:.4f} eV: {level.source}"
        if level
        else "Fermi level unknown, energies are absolute"
    )
    output = options.output or pathlib.Path(f"{problem.structure.name}_dos.png")
    plot_dos([dos], output)
    print(f"written: {output} ({options.method}, {'x'.join(map(str, spectrum.mesh))} mesh)")
    return DosResult.of(_names(problem), dos.to_json())


def _run_gap(options: GapOptions) -> GapResult:
    from ..bands import band_gap
    from ..bands.electrons import electron_number
    from ..errors import ConfigError

    problem = single_problem(options)
    spectrum = mesh_of(options, problem)
    number = electron_number(problem.structure, options.electrons, valence_of(options, problem))
    if number is None:
        level = fermi_of(options, problem, spectrum=spectrum)
        if level.electrons is None:
            raise ConfigError(f"{problem.source}: the number of electrons is unknown")
        number = level.electrons, level.electrons_source
    gap = band_gap(
        problem,
        number[0],
        spectrum=spectrum,
        refine=not options.no_refine,
        s_threshold=options.s_threshold,
    )
    print(f"{number[0]:g} electrons: {number[1]}")
    print(gap)
    mesh = "x".join(map(str, gap.mesh))
    if gap.uncertain_eV:
        echo(
            f"valleys are many or narrow against the {mesh} mesh: where it was not searched, an "
            f"edge may be better by up to {figures(gap.uncertain_eV * 1e3)} meV; take a denser "
            "--mesh"
        )
    elif gap.uncertain_eV is not None:
        print(f"{mesh} mesh, and a second one half a step beside it: no other valley is as deep")
    elif gap.refined:
        echo(
            f"the {mesh} mesh has, along some axis, no more points than cells that H reaches, so "
            "narrow valleys may be missed; take a denser --mesh"
        )
    filling = {"electrons": number[0], "electrons_source": number[1]}
    return GapResult.of(_names(problem), filling, gap.to_json())


VERBS = (
    Verb(
        "fermi",
        "physics",
        "Fermi level by counting electrons",
        FermiOptions,
        _run_fermi,
        results=(FermiResult,),
        examples=("fermi structures/0030", "fermi out/0030 --electrons 72 --mesh 12x12x1"),
    ),
    Verb(
        "dos",
        "physics",
        "density of states, total and projected",
        DosOptions,
        _run_dos,
        results=(DosResult,),
        examples=("dos structures/0030 --mesh 24x24x1 --fat C-s,C-p -o dos.png",),
    ),
    Verb(
        "gap",
        "physics",
        "band gap and band edges",
        GapOptions,
        _run_gap,
        results=(GapResult,),
        examples=("gap structures/0030 --mesh 12x12x1",),
    ),
)
