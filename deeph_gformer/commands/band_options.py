"""What ``bands`` was asked for: its options, and the Hamiltonians."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from ..errors import ConfigError
from .loading import echo, kinds_of, load_problem
from .options import FIGURES, Ending, Number, argument, filled, option
from .shared import LevelOptions, projections_option, require_window, window_option

if TYPE_CHECKING:
    from ..bands import Bands, BlochProblem
    from ..bands.palette import Style

__all__ = ["BandsOptions", "require_states", "wanted_hamiltonians"]

_PATH, _SOLVER, _OUTPUT = "path", "solver", "output"


@dataclasses.dataclass(frozen=True, kw_only=True)
class BandsOptions(LevelOptions):
    """Of ``bands``."""

    folders: tuple[pathlib.Path, ...] = argument(
        metavar="DIR", nargs="+", help="structure folder(s), legacy or DeepH-dock"
    )
    stage1: pathlib.Path | None = option(
        type=pathlib.Path,
        metavar="DIR",
        help="folder with DeepH-E3's prediction of the first structure",
    )
    refined: pathlib.Path | None = option(
        type=pathlib.Path,
        metavar="DIR",
        help="folder with the refined prediction of the first structure",
    )
    path: str | None = option(
        type=filled,
        metavar="GMKG",
        group=_PATH,
        shown="the lattice's standard path",
        help="special points; a comma jumps: GMK,AL",
    )
    path_file: pathlib.Path | None = option(
        type=pathlib.Path,
        metavar="FILE",
        group=_PATH,
        help="DeepH-dock's K_PATH or DeepH-pack's band_config.json",
    )
    path_from: Literal["auto", "ase", "seekpath"] = option(
        default="auto",
        group=_PATH,
        help="library that chooses the standard path; auto is ASE",
    )
    npoints: int = option(
        type=Number(int, least=1),
        default=120,
        metavar="N",
        group=_PATH,
        help="k-points over the whole path",
    )
    unfold: tuple[str, ...] = option(
        type=filled,
        action="append",
        metavar="PRIMITIVE",
        group="unfolding",
        help="unfold a supercell onto the path of this primitive cell: a structure file or folder, "
        "integers (2,2,1, or nine of a matrix), or spglib; once for each layer of a slab, from "
        "below",
    )
    broadening: float = option(
        type=Number(above=0),
        default=0.05,
        unit="eV",
        metavar="EV",
        group="unfolding",
        help="broadening of the spectral function in the figure, standard deviation",
    )
    solver: Literal["auto", "dense", "sparse"] = option(
        default="auto",
        group=_SOLVER,
        help="eigenvalue solver; auto: sparse above 6000 orbitals",
    )
    nbands: int | None = option(
        type=Number(int, least=1),
        metavar="N",
        group=_SOLVER,
        shown="all; sparse: 50",
        help="only N bands around the Fermi level",
    )
    engine: Literal["auto", "frontal", "slepc"] = option(
        default="auto",
        group=_SOLVER,
        help="factorisation of the sparse solver; auto is frontal; slepc runs over MPI ranks: "
        "mpirun -n 4 python -m deeph_gformer bands DIR --engine slepc",
    )
    check: Literal["auto", "count", "random", "none"] = option(
        default="auto",
        group=_SOLVER,
        help="how the sparse solver shows that no state is missing: by counting eigenvalues "
        "(exact, slower), by random vectors (leaves a chance of 1e-9), or not at all; auto: one "
        "of the first two, by size; with --unfold: random",
    )
    device: str | None = option(
        metavar="cuda", group=_SOLVER, help="solve dense problems on a GPU, through torch"
    )
    window: tuple[float, float] | None = window_option(
        "energies shown and compared", "-3 3", _OUTPUT
    )
    fat: str | None = projections_option(_OUTPUT)
    spin: Literal["x", "y", "z"] | None = option(
        group=_OUTPUT,
        help="colour bands by a spin expectation value (spin-orbit coupling)",
    )
    output: tuple[pathlib.Path, ...] = option(
        "-o",
        "--output",
        type=Ending(*FIGURES, ".json", ".Band", ".h5", ".hdf5"),
        action="append",
        metavar="FILE",
        group=_OUTPUT,
        writes="file",
        shown="NAME_bands.png",
        help=".png, .svg, .pdf, .json, .ase.json, .Band (OpenMX), .h5 (DeepH-dock); repeatable; "
        "data files hold the first Hamiltonian",
    )
    title: str | None = option(metavar="TEXT", group=_OUTPUT, help="title of the figure")

    def __post_init__(self) -> None:
        """Check which options go together.

        Raises:
            ConfigError: some do not.
        """
        super().__post_init__()
        require_window(self.window)
        if self.unfold:
            for name in ("fat", "spin", "device"):
                if getattr(self, name):
                    raise ConfigError(f"--unfold and --{name.replace('_', '-')} exclude each other")
        if self.path and self.path_file:
            raise ConfigError("--path and --path-file both say which path; give one of them")
        if self.engine == "slepc" and self.processes > 1:
            raise ConfigError(
                "--engine slepc solves a k-point over MPI ranks (mpirun -n N); leave --processes "
                "away"
            )


def wanted_hamiltonians(options: BandsOptions) -> list[tuple[BlochProblem, Style]]:
    """The Hamiltonians of ``bands``, each with its style; DFT first.

    Args:
        options: of the verb.

    Raises:
        DataError: a folder has no Hamiltonian, or a damaged one.
    """
    from ..bands.loading import prediction_label
    from ..io.folder import read_folder

    first = options.folders[0]
    explicit = options.stage1 is not None or options.refined is not None
    names = {folder.resolve().name for folder in options.folders}
    result: list[BlochProblem] = []
    for folder in options.folders:
        kinds = kinds_of(folder)
        for kind in kinds:
            if kind == "prediction" and explicit and "hamiltonian" in kinds:
                continue
            label = "DFT"
            if kind == "prediction":
                label = prediction_label(read_folder(folder), "hamiltonian" in kinds)
            if len(options.folders) > 1:
                name = (
                    folder.resolve().name
                    if len(names) == len(options.folders)
                    else "/".join(folder.resolve().parts[-2:])
                )
                label = f"{name} {label}"
            fallback = first if folder != first else None
            result.append(load_problem(options, folder, kind, label, fallback))
    for source, label in ((options.stage1, "stage 1"), (options.refined, "refined")):
        if source is not None:
            result.append(load_problem(options, source, "prediction", label, first))
    styles = _styles([problem.label for problem in result])
    return list(zip(result, styles, strict=True))


def _styles(labels: Sequence[str]) -> list[Style]:
    """How each Hamiltonian is drawn: as its role is, or, where another is drawn so, as none is."""
    from ..bands.palette import STYLES, role_of

    found: list[Style] = []
    for label in labels:
        own = STYLES[role_of(label) or "DFT"]
        free = [style for style in STYLES.values() if style not in found]
        found.append(free[0] if free and own not in free else own)
    return found


def require_states(bands: Bands, window: tuple[float, float]) -> None:
    """Whether there is something to show.

    Args:
        bands: of the first Hamiltonian.
        window: eV from the Fermi level, or absolute where that is unknown (then it is only said).

    Raises:
        ConfigError: no band lies in the window.
    """
    from ..bands.solve import nearest_levels

    levels = bands.aligned_eV
    if ((levels >= window[0]) & (levels <= window[1])).any():
        return
    message = f"no band of {bands.source} lies in --window {window[0]:g} {window[1]:g}"
    if bands.fermi_eV is not None:
        raise ConfigError(
            f"{message}, relative to the Fermi level {bands.fermi_eV:.4f} eV"
            f"{nearest_levels(levels)}"
        )
    echo(f"{message}, an absolute one because the Fermi level is unknown: the figure is empty")
