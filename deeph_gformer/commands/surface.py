"""``surface``: spectral functions of a semi-infinite crystal."""

from __future__ import annotations

import dataclasses
import pathlib

from ..errors import ConfigError
from ..results import SurfaceResult
from .levels import fermi_of
from .loading import echo, progress, single_problem
from .options import Number, Verb, option
from .shared import LevelOptions, OneHamiltonian, require_window
from .single import figure_option

__all__ = ["VERBS"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SurfaceOptions(OneHamiltonian, LevelOptions):
    """Of ``surface``."""

    along: int = option(
        type=Number(int, least=1),
        default=3,
        metavar="N",
        help="lattice vector that points into the crystal, 1 to 3; the surface is the plane of the "
        "others, cut between cells",
    )
    window: tuple[float, float] | None = option(
        nargs=2,
        type=Number(),
        metavar=("LOW", "HIGH"),
        shown="-1 1",
        help="energies shown, eV from the Fermi level",
    )
    path: str | None = option(
        metavar="GMKG", shown="that of the surface lattice", help="special points in the surface"
    )
    points: int = option(
        type=Number(int, least=1), default=100, metavar="N", help="k-points of the path"
    )
    energies: int = option(
        type=Number(int, least=2), default=200, metavar="N", help="energies in --window"
    )
    broadening: float = option(
        type=Number(above=0),
        default=0.01,
        unit="eV",
        metavar="EV",
        help="broadening of the energies",
    )
    output: pathlib.Path | None = figure_option("NAME_surface.png")

    def __post_init__(self) -> None:
        """A window that is one, and numbers that fit into memory.

        Raises:
            ConfigError: they are not.
        """
        super().__post_init__()
        require_window(self.window)
        if self.energies * self.points > 10**8:
            raise ConfigError(
                f"--points {self.points} --energies {self.energies}: at most 10^8 of both together"
            )


def _run(options: SurfaceOptions) -> SurfaceResult:
    from ..bands.surface import PrincipalLayers, plot_surface, surface_spectrum

    problem = single_problem(options, projects=False)
    layer = PrincipalLayers(problem, options.along - 1)
    level = fermi_of(options, problem)
    found = surface_spectrum(
        problem,
        options.along - 1,
        options.window or (-1.0, 1.0),
        options.path,
        options.points,
        fermi=level,
        points=options.energies,
        broadening_eV=options.broadening,
        processes=options.processes,
        progress=progress(),
    )
    print(f"principal layer: {layer.depth} cells along a{options.along}, {layer.size} orbitals")
    print(f"Fermi level {level.energy_eV:.4f} eV: {level.source} (of the bulk)")
    echo("blocks of the bulk: no relaxation and no charge transfer at the surface")
    output = options.output or pathlib.Path(f"{problem.structure.name}_surface.png")
    plot_surface(found, output)
    print(f"written: {output}")
    head = {
        "structure": problem.structure.name,
        "hamiltonian": problem.source,
        "fermi": level.to_json(),
        "principal_layer_cells": layer.depth,
    }
    return SurfaceResult.of(head, found.to_json())


VERBS = (
    Verb(
        "surface",
        "physics",
        "surface states of a semi-infinite crystal, from its bulk Hamiltonian",
        SurfaceOptions,
        _run,
        "Green's function of a half-infinite crystal (decimation of Lopez Sancho and Rubio) in the "
        "non-orthogonal basis: Mulliken spectral functions of the outermost cell on either side, "
        "and of the bulk, along a path in the surface. DIR holds the Hamiltonian of a crystal that "
        "repeats along the surface normal (a slab does not).",
        results=(SurfaceResult,),
        examples=("surface bulk --along 3 --window -0.5 0.5",),
    ),
)
