"""``optics``: joint density of states, conductivity, dielectric function."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import TYPE_CHECKING, Any

from ..results import ConductivityResult
from .levels import fermi_of
from .loading import echo, progress, single_problem
from .options import Number, Verb, option
from .positions import PositionOptions, positions_of
from .shared import LevelOptions, OneHamiltonian
from .single import figure_option

if TYPE_CHECKING:
    from ..bands import BlochProblem

__all__ = ["VERBS"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class OpticsOptions(OneHamiltonian, LevelOptions, PositionOptions):
    """Of ``optics``."""

    photon: tuple[float, float, float] = option(
        nargs=3,
        type=Number(least=0),
        default=(0.0, 10.0, 0.02),
        shown="0 10 0.02",
        metavar=("FROM", "TO", "STEP"),
        help="photon energies, eV",
    )
    broadening: float = option(
        type=Number(above=0),
        default=0.1,
        unit="eV",
        metavar="EV",
        help="broadening: eta of the response, standard deviation of the joint density of states",
    )
    fermi_width: float = option(
        type=Number(above=0),
        default=0.01,
        unit="eV",
        metavar="EV",
        help="kT of the occupations in the response",
    )
    scissor: float = option(
        type=Number(least=0),
        default=0.0,
        unit="eV",
        metavar="EV",
        help="move the empty states of an insulator up",
    )
    output: pathlib.Path | None = figure_option("NAME_optics.png")


def _photon_energies(options: OpticsOptions) -> Any:
    """(W,), eV.

    Raises:
        ConfigError: there is none, or too many.
    """
    import numpy as np

    from ..errors import ConfigError

    low, high, step = options.photon
    if not (low < high and step > 0):
        raise ConfigError(
            f"--photon {low:g} {high:g} {step:g}: the first energy must be below the second, "
            "the step positive"
        )
    count = (high - low) / step + 1e-9
    if not count < 20_000:
        raise ConfigError(
            f"--photon {low:g} {high:g} {step:g}: {count:.3g} energies; at most 20000 are computed"
        )
    return low + step * np.arange(int(count) + 1)


def _say_supercell(problem: BlochProblem) -> None:
    """Say what a supercell does to the joint density of states."""
    from ..bands.unfolding.primitive import by_translations
    from ..errors import ConfigError, MissingDependencyError

    try:
        m = by_translations(problem.structure, problem.periodic)
    except (ConfigError, MissingDependencyError):
        return
    echo(
        f"the cell repeats {m.count} primitive cells (atoms up to {m.displacement_A:.3f} Å from "
        "their sites): states of different k of the primitive zone fold onto one k, and the joint "
        "DOS counts their pairs, too; conductivity and susceptibility do not depend on the cell"
    )


def _run(options: OpticsOptions) -> ConductivityResult:
    from ..bands.optics import optical_conductivity, plot_optics

    energies = _photon_energies(options)
    problem = single_problem(options, projects=False)
    positions = positions_of(
        options,
        options,
        problem,
        "transitions within an atom are missing and strengths are wrong (MoS2: a static "
        "susceptibility of 163 instead of 88 Å); energies and the joint DOS are right. Give "
        "--basis",
    )
    level = fermi_of(options, problem)
    found = optical_conductivity(
        problem,
        level.energy_eV,
        energies,
        options.mesh,
        broadening_eV=options.broadening,
        width_eV=options.fermi_width,
        scissor_eV=options.scissor,
        positions=positions,
        processes=options.processes,
        progress=progress(),
    )
    _say_supercell(problem)
    print(f"Fermi level {level.energy_eV:.4f} eV: {level.source}")
    length = "Å" if found.dimensions == 2 else f"Å^{3 - found.dimensions}"
    print(f"smallest direct gap on the {'x'.join(map(str, found.mesh))} mesh", end=" ")
    print(f"{found.smallest_gap_eV:.4f} eV, {found.method}")
    if not found.metal and found.smallest_gap_eV + options.scissor > energies[-1]:
        echo(f"--photon ends at {energies[-1]:g} eV, below the gap: there is no transition in it")
    if found.metal:
        words = "plasma frequencies (intraband)" if found.dimensions == 3 else "Drude weight"
        values = found.plasma_eV if found.dimensions == 3 else found.drude_weight.diagonal()
        print(f"{words} x, y, z: {', '.join(f'{v:.4g}' for v in values)}", end="")
        print(" eV" if found.dimensions == 3 else f" eV² {length}")
        if max(found.mesh) < 40:
            echo("a metal's Drude weight and low energies need a dense --mesh; make sure it is")
    if found.dimensions == 3:
        static = found.dielectric[0].real.diagonal()
        name = "epsilon"
    else:
        static = found.susceptibility[0].real.diagonal()
        name = f"susceptibility ({length})"
    named = zip(("xx", "yy", "zz"), static, strict=True)
    print(f"Re {name} at {energies[0]:g} eV: {', '.join(f'{axis} {v:.4f}' for axis, v in named)}")
    output = options.output or pathlib.Path(f"{problem.structure.name}_optics.png")
    plot_optics(found, output)
    print(f"written: {output}")
    head = {
        "structure": problem.structure.name,
        "hamiltonian": problem.source,
        "fermi": level.to_json(),
    }
    return ConductivityResult.of(head, found.to_json())


VERBS = (
    Verb(
        "optics",
        "physics",
        "optical conductivity, dielectric function, joint density of states",
        OpticsOptions,
        _run,
        "Kubo-Greenwood conductivity from velocity matrices with the position operator, in the "
        "non-orthogonal basis; the intraband (Drude) part of metals is included and told apart. "
        "No local fields, no excitons. Position matrices come from basis files or the folder "
        "(positions.h5, position_matrix.h5), else orbitals sit on their atoms.",
        results=(ConductivityResult,),
        examples=("optics mos2 --basis Mo.orb S.orb --mesh 24x24x1 --photon 0 8 0.02",),
    ),
)
