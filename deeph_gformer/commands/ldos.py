"""``ldos``: local densities of states and wavefunctions as volumes, STM images."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import TYPE_CHECKING, Any, Literal

from ..results import LdosResult
from .levels import fermi_of
from .loading import echo, progress, single_problem
from .options import Number, Verb, option
from .positions import BasisOption, basis_of
from .shared import LevelOptions, OneHamiltonian, require_window
from .single import output_folder

if TYPE_CHECKING:
    from ..bands import BlochProblem
    from ..bands.space import Orbitals, SelectedStates

__all__ = ["VERBS"]

_ROUGH = 0.02
"""Relative error of a volume's norm that is said."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class LdosOptions(OneHamiltonian, LevelOptions, BasisOption):
    """Of ``ldos``."""

    window: tuple[float, float] | None = option(
        nargs=2,
        type=Number(),
        metavar=("LOW", "HIGH"),
        help="LDOS of these energies, eV from the Fermi level",
    )
    state: tuple[tuple[float, ...], ...] = option(
        action="append",
        nargs=4,
        type=Number(),
        metavar=("K1", "K2", "K3", "BAND"),
        help="|psi|² of this band (from 1) at this k, fractional; repeatable",
    )
    spacing: float = option(
        type=Number(above=0), default=0.2, unit="Å", metavar="ÅNGSTRÖM", help="spacing of the grid"
    )
    form: Literal["cube", "xsf"] = option("--format", default="cube", help="file format")
    stm: bool = option(default=False, help="also STM images of the window (a slab)")
    height: float = option(
        type=Number(above=0),
        default=2.0,
        unit="Å",
        metavar="ÅNGSTRÖM",
        help="height of the constant-height image above the topmost atom",
    )
    current: float | None = option(
        type=Number(above=0),
        metavar="X",
        shown="the mean at --height",
        help="LDOS of the constant-current image, 1/Å³",
    )
    output: pathlib.Path | None = output_folder("folder of the volumes and images", "NAME_ldos")

    def __post_init__(self) -> None:
        """Something to draw.

        Raises:
            ConfigError: nothing is asked, or a band that is none.
        """
        from ..errors import ConfigError

        super().__post_init__()
        require_window(self.window)
        if self.window is None and not self.state:
            raise ConfigError("ldos: give --window LOW HIGH, or --state K1 K2 K3 BAND")
        if self.stm and self.window is None:
            raise ConfigError("--stm: an image is that of a --window LOW HIGH")
        for entry in self.state:
            if entry[3] != round(entry[3]) or entry[3] < 1:
                raise ConfigError(f"--state: band {entry[3]:g}: an integer from 1 on is needed")


def _orbitals(options: LdosOptions, problem: BlochProblem) -> Orbitals:
    """The orbitals in space.

    Raises:
        ConfigError: no basis files are given.
    """
    from ..errors import ConfigError
    from ..overlap.orbitals import OrbitalValues

    basis = basis_of(options, options.basis, problem)
    if basis is None:
        raise ConfigError(
            f"{problem.source}: states in space need the orbitals themselves; give the basis files "
            "of the DFT run: --basis Mo.orb S.orb (or .ion, .pao). Bands, dos, --fat and topology "
            "go without"
        )
    return OrbitalValues(basis.bases)


def _write(
    problem: BlochProblem,
    orbitals: Orbitals,
    chosen: list[SelectedStates],
    path: pathlib.Path,
    words: str,
    spacing: float,
) -> dict[str, Any]:
    """One volume; its norm is said."""
    from ..bands.space import Grid, density_on_grid, write_volume

    grid = Grid.of(problem.structure, spacing)
    values = density_on_grid(problem, orbitals, chosen, grid, progress("block"))
    expected = float(sum(states.weights.sum() for states in chosen))
    found = float(values.sum()) * grid.volume
    write_volume(path, problem.structure, values, f"{words}; {problem.source}")
    shape = "x".join(map(str, grid.counts))
    print(f"{path}: {words}, {shape} points, integral {found:.5f} (states: {expected:.5f})")
    if abs(found / expected - 1) > _ROUGH:
        echo(
            f"the integral is off by {(found / expected - 1) * 100:.1f} %: take a finer --spacing, "
            "and see whether the basis files are those of the run"
        )
    return {
        "file": str(path),
        "content": words,
        "grid": list(grid.counts),
        "integral": found,
        "states": expected,
    }


def _run(options: LdosOptions) -> LdosResult:
    from ..bands.space import plot_stm, require_image, states_at, states_in_window, stm_image

    problem = single_problem(options)
    orbitals = _orbitals(options, problem)
    if options.stm:
        require_image(problem, orbitals, options.height, options.current)
    single = [  # a band that is not there is refused before anything is written
        states_at(problem, k, [int(band) - 1], options.s_threshold) for *k, band in options.state
    ]
    folder = options.output or pathlib.Path(f"{problem.structure.name}_ldos")
    result: dict[str, Any] = {
        "structure": problem.structure.name,
        "hamiltonian": problem.source,
        "volumes": [],
    }
    if options.window is not None:
        level = fermi_of(options, problem)
        low, high = options.window
        window = (low + level.energy_eV, high + level.energy_eV)
        chosen = states_in_window(problem, window, options.mesh, options.s_threshold, progress())
        words = f"LDOS {low:g} to {high:g} eV from the Fermi level"
        image = None
        if options.stm:  # it may find no state above the surface: before anything is written
            image = stm_image(
                problem,
                orbitals,
                chosen,
                height_A=options.height,
                current=options.current,
                spacing=options.spacing,
                progress=progress("block"),
            )
        print(f"Fermi level {level.energy_eV:.4f} eV: {level.source}")
        path = folder / f"ldos_{low:g}_{high:g}.{options.form}"
        volume = _write(problem, orbitals, chosen, path, words, options.spacing)
        result["volumes"].append(volume)
        result |= {"fermi": level.to_json(), "window_eV": [low, high]}
        if image is not None:
            plot_stm(image, folder / "stm.png", f"{problem.structure.name}: {words}")
            print(f"written: {folder / 'stm.png'}")
            result["stm"] = image.to_json()
    for (*k, band), (states, missed) in zip(options.state, single, strict=True):
        name = "_".join(f"{v:g}" for v in k)
        words = f"|psi|² of band {int(band)} at k = {k}, {states.energies[0]:.4f} eV"
        if missed:
            bands = ", ".join(str(other + 1) for other in missed)
            echo(
                f"band {int(band)} at {k} is degenerate with {bands}: which mixture it is, LAPACK "
                "chose; only the sum of their densities has a meaning"
            )
        path = folder / f"state_{name}_band{int(band)}.{options.form}"
        volume = _write(problem, orbitals, [states], path, words, options.spacing)
        volume |= {"k_fractional": k, "band": int(band), "energy_eV": float(states.energies[0])}
        result["volumes"].append(volume)
    return LdosResult.of(result)


VERBS = (
    Verb(
        "ldos",
        "physics",
        "local density of states and wavefunctions as .cube or .xsf, STM images",
        LdosOptions,
        _run,
        "States in space need the orbitals: give the basis files of the DFT run. A volume's "
        "integral is the number of its states (both spins), which is checked and said. .cube "
        "holds 1/bohr³, .xsf 1/Å³.",
        results=(LdosResult,),
        examples=("ldos mos2 --basis Mo.orb S.orb --window -0.5 0 --stm",),
    ),
)
