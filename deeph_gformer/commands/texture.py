"""``spin-texture``: <sigma> of a band over a square of k-points."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import TYPE_CHECKING

from ..results import TextureResult
from .levels import fermi_of
from .loading import echo, progress, single_problem
from .options import Number, Verb, option
from .shared import LevelOptions, OneHamiltonian
from .single import figure_option

if TYPE_CHECKING:
    from ..bands import BlochProblem

__all__ = ["VERBS"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextureOptions(OneHamiltonian, LevelOptions):
    """Of ``spin-texture``."""

    band: tuple[int, ...] = option(
        action="append",
        type=Number(int, least=1),
        metavar="N",
        shown="the last below and the first above the Fermi level at the centre",
        help="band, counted from 1; repeatable",
    )
    centre: tuple[float, float, float] = option(
        nargs=3,
        type=Number(),
        default=(0.0, 0.0, 0.0),
        shown="0 0 0",
        metavar=("K1", "K2", "K3"),
        help="k at the middle of the square, fractional",
    )
    radius: float = option(
        type=Number(above=0), default=0.2, unit="1/Å", metavar="R", help="half a side of the square"
    )
    points: int = option(
        type=Number(int, least=2), default=41, metavar="N", help="k-points along a side"
    )
    output: pathlib.Path | None = figure_option("NAME_spin_texture.png")


def _near_level(problem: BlochProblem, options: TextureOptions, level_eV: float) -> list[int]:
    """The last band below the Fermi level at the centre, and the next, from 0.

    Raises:
        DataError: S is not positive definite there.
    """
    from ..bands.solve import solve_dense
    from ..errors import DataError

    where = f"{problem.source}, k = {list(options.centre)}"
    found = solve_dense(*problem.at(options.centre), where=where)
    if found.failure:
        raise DataError(f"{where}: {found.failure}")
    filled = int((found.energies <= level_eV).sum())
    return [band for band in (filled - 1, filled) if 0 <= band < problem.size]


def _run(options: TextureOptions) -> TextureResult:
    from ..bands.texture import plot_texture, spin_texture

    problem = single_problem(options, projects=False)
    level = fermi_of(options, problem)
    bands = [band - 1 for band in options.band]
    bands = bands or _near_level(problem, options, level.energy_eV)
    found = spin_texture(
        problem,
        bands,
        options.centre,
        options.radius,
        options.points,
        fermi_eV=level.energy_eV,
        processes=options.processes,
        progress=progress(),
    )
    print(f"Fermi level {level.energy_eV:.4f} eV: {level.source}")
    for band, share in zip(found.bands, found.degenerate, strict=True):
        if share > 0.5:
            echo(
                f"band {band + 1} is degenerate with a neighbour at {share * 100:.0f} % of the "
                "k-points (inversion and time reversal): its spin alone has no meaning"
            )
    output = options.output or pathlib.Path(f"{problem.structure.name}_spin_texture.png")
    plot_texture(found, output)
    print(f"written: {output}")
    head = {"structure": problem.structure.name, "hamiltonian": problem.source}
    return TextureResult.of(head, found.to_json())


VERBS = (
    Verb(
        "spin-texture",
        "physics",
        "spin of a band over a square of k-points, as arrows",
        TextureOptions,
        _run,
        "Arrows are <sigma_x>, <sigma_y>, their colour is <sigma_z>, lines are constant energies "
        "from the Fermi level. With spin-orbit coupling only.",
        results=(TextureResult,),
        examples=("spin-texture film --radius 0.1",),
    ),
)
