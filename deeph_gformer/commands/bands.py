"""``bands``: one or several Hamiltonians over each other along a path."""

from __future__ import annotations

import contextlib
import os
import pathlib
from typing import TYPE_CHECKING, Any, NamedTuple

from ..results import BandPlot, UnfoldedPlot
from .band_options import BandsOptions, require_states, wanted_hamiltonians
from .levels import fermi_of
from .loading import echo, progress
from .options import FIGURES, Verb
from .unfold import run_unfold

if TYPE_CHECKING:
    from ..bands import Bands, BlochProblem, FermiLevel
    from ..bands.compare import BandError
    from ..bands.palette import Style

__all__ = ["VERBS"]


class _Solved(NamedTuple):
    """What ``bands`` was asked for.

    Attributes:
        found: label, bands and style of every Hamiltonian.
        reference: the first Hamiltonian.
        same: which are of its structure.
        lines: for people.
    """

    found: list[tuple[str, Bands, Style]]
    reference: BlochProblem
    same: list[bool]
    lines: list[str]


def _solve_bands(options: BandsOptions) -> _Solved:
    """Bands of every Hamiltonian that the options name."""
    from ..bands import band_structure, read_path_file

    problems, nbands = wanted_hamiltonians(options), options.nbands
    reference = problems[0][0]
    path: Any = options.path
    if options.path_file:
        path, settings = read_path_file(options.path_file, reference.structure, reference.coupled)
        if nbands is None and isinstance(settings.get("num_band"), int):
            nbands = settings["num_band"] if options.solver == "sparse" else None
    found: list[tuple[str, Bands, Style]] = []
    lines: list[str] = []
    level: FermiLevel | None = None
    for problem, style in problems:
        if not found or level is not None:  # all relative to their own Fermi level, or all absolute
            level = fermi_of(
                options,
                problem,
                level,
                required=not options.counts,
                others=[other for other, _ in problems],
            )
        bands = band_structure(
            problem,
            path,
            options.npoints,
            options.solver,
            nbands=nbands,
            fermi=level,
            path_engine=options.path_from,
            projections=options.fat,
            spin=bool(options.spin),
            s_threshold=options.s_threshold,
            processes=options.processes,
            device=options.device,
            engine=options.engine,
            check=options.check,
            progress=progress(),
        )
        for note in bands.notes[len(problem.notes) :]:
            echo(f"{problem.label}: {note}")
        path = bands.path
        found.append((problem.label, bands, style))
        lines.append(
            f"{problem.label}: {bands.solver}; Fermi level "
            + (f"{level.energy_eV:.4f} eV, {level.source}" if level else "unknown")
        )
    ticks = " ".join(name for _, name in path.ticks)
    lines.append(f"path {ticks} ({path.source}), {len(path)} k-points")
    same = [reference.structure.same_as(problem.structure) for problem, _ in problems]
    for (problem, _), alike in zip(problems, same, strict=True):
        if not alike:
            echo(
                f"{problem.label}: {problem.source} is of another structure than "
                f"{reference.source}, no band error"
            )
    return _Solved(found, reference, same, lines)


def _run_bands(options: BandsOptions) -> BandPlot | UnfoldedPlot | None:
    if options.unfold:
        return run_unfold(options)
    if options.engine == "slepc":
        from ..bands.sparse import mpi_rank

        if mpi_rank() > 0:  # the same work for the sake of the first rank, which alone speaks
            with (
                open(os.devnull, "w") as nowhere,
                contextlib.redirect_stdout(nowhere),
                contextlib.redirect_stderr(nowhere),
            ):
                _solve_bands(options)
            return None
    return _show_bands(options)


def _show_bands(options: BandsOptions) -> BandPlot:
    """Figures, files and errors."""
    from ..bands import compare_bands, plot_comparison, plot_fat, plot_spin
    from ..bands.files import write_bands

    found, reference, same, lines = _solve_bands(options)
    window = options.window or found[0][1].default_window()
    require_states(found[0][1], window)
    errors = {
        label: compare_bands(found[0][1], bands, window)
        for (label, bands, _), alike in zip(found[1:], same[1:], strict=True)
        if alike
    }
    print("\n".join(lines))
    _print_errors(errors, window)
    for output in options.output or (pathlib.Path(f"{reference.structure.name}_bands.png"),):
        if output.suffix.lower() not in FIGURES:
            write_bands(output, found[0][1])
        elif options.spin:
            plot_spin(found[0][1], output, axis=options.spin, window_eV=window, title=options.title)
        elif options.fat:
            plot_fat(found[0][1], output, window_eV=window, title=options.title)
        else:
            plot_comparison(found, output, window_eV=window, errors=errors, title=options.title)
        print(f"written: {output}")
    return BandPlot(
        structure=reference.structure.name,
        window_eV=window,
        bands=[bands.to_json() for _, bands, _ in found],
        errors={label: error.to_json() for label, error in errors.items()},
    )


def _print_errors(errors: dict[str, BandError], window: tuple[float, float]) -> None:
    """The errors of bands, one Hamiltonian a line."""
    if not errors:
        return
    where = (
        f"within {window[1]:g} eV"
        if window[0] == -window[1]
        else f"{window[0]:g} to {window[1]:g} eV"
    )
    heads = ("MAE", "RMSE", "max", "shift", "states")
    print(f"{'band error (meV), ' + where:<34}" + "".join(f"{head:>9}" for head in heads))
    for label, error in errors.items():
        print(
            f"{label:<34}{error.mae_meV:9.3f}{error.rmse_meV:9.3f}{error.max_meV:9.3f}"
            f"{error.shift_meV:9.3f}{error.states:9d}"
        )


VERBS = (
    Verb(
        "bands",
        "physics",
        "band structure of one or several Hamiltonians over each other",
        BandsOptions,
        _run_bands,
        "Bands along a path. A folder with a DFT Hamiltonian and a prediction shows both; --stage1 "
        "and --refined add predictions of the same structure. DFT is drawn as lines, stage 1 "
        "dashed, refined as rings, each relative to its own Fermi level.",
        results=(BandPlot, UnfoldedPlot),
        examples=(
            "bands structures/0030 --refined out/0030 --path GMKG -o bands.png",
            "bands supercell --unfold primitive.vasp -o unfolded.png",
        ),
    ),
)
