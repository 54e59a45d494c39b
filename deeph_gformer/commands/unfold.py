"""``bands --unfold``: spectral weights of a supercell on the path of a primitive one."""

from __future__ import annotations

import pathlib
from typing import TYPE_CHECKING

from ..results import UnfoldedPlot
from .band_options import BandsOptions, require_states, wanted_hamiltonians
from .levels import fermi_of
from .loading import echo, progress
from .options import FIGURES

if TYPE_CHECKING:
    from ..bands import FermiLevel
    from ..bands.unfolding import Unfolded

__all__ = ["run_unfold"]


def run_unfold(options: BandsOptions) -> UnfoldedPlot:
    """Every Hamiltonian on the path of the first primitive cell, as figure and files.

    Args:
        options: of ``bands``, with ``unfold``.

    Raises:
        GFormerError: see :func:`deeph_gformer.bands.unfolding.unfold`.
    """
    from ..bands.files import write_bands
    from ..bands.unfolding import known_window, plot_unfolded, unfold

    problems = [problem for problem, _ in wanted_hamiltonians(options)]
    found: list[Unfolded] = []
    lines = []
    level: FermiLevel | None = None
    for problem in problems:
        if not found or level is not None:
            required = not options.counts
            level = fermi_of(options, problem, level, required=required, others=problems)
        one = unfold(
            problem,
            options.unfold,
            options.path_file or options.path,
            options.npoints,
            fermi=level,
            nbands=options.nbands,
            solver=options.solver,
            path_engine=options.path_from,
            processes=options.processes,
            progress=progress(),
            s_threshold=options.s_threshold,
            engine=options.engine,
            check="random" if options.check == "auto" else options.check,
        )
        for note in one.bands.notes[len(problem.notes) :]:
            echo(f"{problem.label}: {note}")
        known = f"{level.energy_eV:.4f} eV, {level.source}" if level else "unknown"
        lines.append(f"{problem.label}: {one.bands.solver}; Fermi level {known}")
        found.append(one)
    path = found[0].bands.path
    ticks = " ".join(name for _, name in path.ticks)
    lines.append(f"path {ticks} ({path.source}), {len(path)} k-points of the primitive cell")
    window = options.window or known_window(found[0].bands)
    require_states(found[0].bands, window)
    print("\n".join(lines))
    name = problems[0].structure.name
    for output in options.output or (pathlib.Path(f"{name}_unfolded.png"),):
        if output.suffix.lower() not in FIGURES:
            write_bands(output, found[0].bands)
        else:
            plot_unfolded(
                found, output, window_eV=window, width_eV=options.broadening, title=options.title
            )
        print(f"written: {output}")
    bands = [one.to_json() for one in found]
    return UnfoldedPlot(name, window, bands)
