"""Band figures: DFT as lines, stage 1 dashed, refined as rings, each from its own Fermi level.

Band errors are passed in (:func:`~.compare.compare_bands`); with them comes a panel of E - E_ref.
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError
from ..io.files import atomic_path
from ..terminal import figures
from .palette import COLOURS, Style, colours_of, drawable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable
    from matplotlib.figure import Figure

    from .compare import BandError
    from .result import Bands

__all__ = [
    "Style",
    "bar_beside",
    "draw_bands",
    "finish_axes",
    "new_figure",
    "plot_comparison",
    "save_figure",
]

_SUFFIXES = (".png", ".svg", ".pdf")
_RINGS = 50
"""Most k-points of a path that get a ring; between them the line below stays visible."""


def new_figure(width: float, height: float) -> Figure:
    """A figure that needs no display, inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def bar_beside(ax: Axes, drawn: ScalarMappable, label: str, **options: Any) -> None:
    """A colour bar as high as the axes themselves, whatever their aspect.

    Args:
        ax: on its right.
        drawn: gives the colours.
        label: of the bar.
        **options: of ``Figure.colorbar``.
    """
    place = ax.inset_axes((1.04, 0.0, 0.05, 1.0))
    ax.figure.colorbar(drawn, cax=place, label=label, **options)


def save_figure(figure: Figure, path: str | os.PathLike[str] | None) -> None:
    """Write a figure as its suffix says; nothing for None.

    Raises:
        ConfigError: no format has this suffix.
    """
    if path is None:
        return
    path = pathlib.Path(path)
    if path.suffix.lower() not in _SUFFIXES:
        raise ConfigError(f"{path}: a figure's name ends in {', '.join(_SUFFIXES)}")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:].lower(), dpi=200)


def finish_axes(ax: Axes, bands: Bands, window: tuple[float, float], title: str | None) -> None:
    """Special points, the Fermi level, limits and names of the axes."""
    mark_path(ax, bands)
    if bands.fermi_eV is not None:
        ax.axhline(0.0, color="0.55", linewidth=0.8, linestyle=(0, (1, 2)), zorder=0)
    ax.tick_params(axis="y", direction="in")
    ax.set_ylim(*window)
    known = bands.fermi_eV is not None
    ax.set_ylabel("$E - E_\\mathrm{F}$ (eV)" if known else "$E$ (eV), no Fermi level known")
    if title:
        ax.set_title(drawable(title), fontsize="medium")


def mark_path(ax: Axes, bands: Bands) -> None:
    """Special points along x."""
    ticks = bands.path.ticks
    if len(bands.path) == 1:  # a molecule's bars lie between 0 and 1
        ticks = [(0.5, name) for _, name in ticks]
    for place, _ in ticks[1:-1]:
        ax.axvline(place, color="0.8", linewidth=0.7, zorder=0)
    ax.set_xticks([t[0] for t in ticks], [t[1] for t in ticks])
    ax.tick_params(axis="x", length=0)
    if bands.distances[-1] > bands.distances[0]:
        ax.set_xlim(bands.distances[0], bands.distances[-1])


def draw_bands(
    ax: Axes,
    bands: Bands,
    style: Style,
    colour: str,
    label: str,
    window: tuple[float, float],
    width: float = 1.3,
) -> None:
    """One Hamiltonian; only points that are complete are joined, the others are dots.

    Args:
        ax: drawn there.
        bands: of the Hamiltonian.
        style: 'line', 'dashed' or 'dots' (rings).
        colour: any of matplotlib's.
        label: in the legend.
        window: (low, high) eV relative to the Fermi level; bands that never enter it are left out.
        width: of lines, points.
    """
    energies, margin = bands.aligned_eV, 0.05 * (window[1] - window[0])
    with np.errstate(invalid="ignore"):
        near = (energies > window[0] - margin) & (energies < window[1] + margin)
    energies = energies[:, near.any(axis=0)]
    if len(energies) == 1:
        _draw_levels(ax, energies[0], style, colour, label, width)
    elif style == "dots":
        chosen = _spread(bands.distances, _RINGS)
        look = {"marker": "o", "markersize": 3.2, "markerfacecolor": "none", "zorder": 3}
        _scatter(ax, bands.distances[chosen], energies[chosen], colour, label, look)
    else:
        _draw_lines(ax, bands, energies, style, colour, label, width)


def _spread(distances: NDArray[np.float64], count: int) -> NDArray[np.int64]:
    """About ``count`` points at equal distances, both ends among them."""
    wanted = np.linspace(distances[0], distances[-1], count)
    return np.unique(np.abs(distances[:, None] - wanted[None]).argmin(axis=0))


def _scatter(
    ax: Axes,
    x: NDArray[np.float64],
    energies: NDArray[np.float64],
    colour: str,
    label: str,
    look: dict[str, Any],
) -> None:
    ax.plot(
        np.repeat(x[:, None], energies.shape[1], axis=1).ravel(),
        energies.ravel(),
        linestyle="",
        color=colour,
        label=drawable(label),
        **{"markeredgewidth": 0.7, **look},
    )


def _draw_levels(
    ax: Axes, levels: NDArray[np.float64], style: Style, colour: str, label: str, width: float
) -> None:
    """A molecule: bars, those of another style beside the first ones."""
    start = {"line": 0.0, "dashed": 0.35, "dots": 0.7}[style]
    ax.hlines(levels, start, start + 0.3, color=colour, linewidth=width, label=drawable(label))
    ax.set_xlim(-0.1, 1.1)


def _draw_lines(
    ax: Axes,
    bands: Bands,
    energies: NDArray[np.float64],
    style: Style,
    colour: str,
    label: str,
    width: float,
) -> None:
    dashes: Any = "-" if style == "line" else (0, (4, 2))
    joined = [run for _, run in bands.lines() if len(run) > 1]
    for number, run in enumerate(joined):
        drawn = ax.plot(
            bands.distances[run],
            energies[run],
            color=colour,
            linestyle=dashes,
            linewidth=width,
            zorder=1 if style == "line" else 2,
        )
        if drawn and not number:
            drawn[0].set_label(label)
    loose = np.flatnonzero(~bands.drawable) if joined else np.arange(len(energies))
    if len(loose):
        look: dict[str, Any] = {
            "marker": ".",
            "markersize": 3,
            "markeredgewidth": 0,
            "zorder": 2,
        }
        name = f"{label} (incomplete k-points)" if joined else label
        _scatter(ax, bands.distances[loose], energies[loose], colour, name, look)


def _draw_residuals(
    ax: Axes, bands: Bands, error: BandError, style: Style, colour: str
) -> NDArray[np.float64]:
    """E - E_ref of the states that the error counts, meV; returns those."""
    residual = error.residual_meV
    x = np.repeat(bands.distances[:, None], residual.shape[1], axis=1)
    shown = np.isfinite(residual)
    marker: dict[str, Any] = {"markersize": 2.2, "markeredgewidth": 0.5}
    fill = "none" if style == "dots" else colour
    ax.plot(x[shown], residual[shown], "o", color=colour, markerfacecolor=fill, **marker)
    return residual[shown]


def plot_comparison(
    entries: Sequence[tuple[str, Bands, Style]],
    path: str | os.PathLike[str] | None = None,
    *,
    window_eV: tuple[float, float] | None = None,
    errors: Mapping[str, BandError] | None = None,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Bands of several Hamiltonians over each other, each relative to its own Fermi level.

    Args:
        entries: (label, bands, style): 'line' for DFT, 'dashed' for stage 1, 'dots' for refined.
            The first is the reference. A label that ends with such a word has its colour, see
            :mod:`.palette`.
        path: .png, .svg or .pdf.
        window_eV: energies shown, relative to E_F; default :meth:`~.result.Bands.default_window`.
        errors: label -> band error against the first entry, for the legend and for a panel of E -
            E_ref below.
        title: of the figure.
        ax: draw there instead of into a new figure; then without the panel.

    Returns:
        The axes of the bands.

    Raises:
        ConfigError: nothing to draw, or an unknown style or file suffix.
    """
    if not entries:
        raise ConfigError("no bands to plot")
    reference, errors = entries[0][1], errors or {}
    labels, _, styles = zip(*entries, strict=True)
    colours = colours_of(labels, styles)
    if len(entries) == 1:  # nothing to tell it from
        entries = [(entries[0][0], reference, "line")]
    window = window_eV or reference.default_window()
    figure, below = None, None
    if ax is None and errors and len(reference.path) > 1:
        figure = new_figure(4.6, 5.6)
        ax, below = figure.subplots(2, 1, sharex=True, height_ratios=(3.2, 1))
    elif ax is None:
        figure = new_figure(4.6, 4.4)
        ax = figure.add_subplot()
    width = 1.1 if len(entries) == 1 else 1.6
    residuals = [np.zeros(0)]
    for (label, bands, style), colour in zip(entries, colours, strict=True):
        error = errors.get(label)
        words = label if error is None else f"{label}: MAE {figures(error.mae_meV)} meV"
        draw_bands(ax, bands, style, colour, words, window, width if style == "line" else 1.1)
        if below is not None and error is not None:
            residuals.append(_draw_residuals(below, bands, error, style, colour))
    finish_axes(ax, reference, window, title)
    if below is not None:
        _finish_residuals(below, reference, np.concatenate(residuals), entries[0][0])
    _legend(ax if below is None else below, ax, list(errors.values()), len(entries))
    if figure is not None:
        save_figure(figure, path)
    return ax


def _finish_residuals(ax: Axes, reference: Bands, values: NDArray[np.float64], label: str) -> None:
    mark_path(ax, reference)
    ax.axhline(0.0, color=COLOURS["DFT"], linewidth=0.8, zorder=0)
    reach = 1.15 * float(np.abs(values).max(initial=1e-3))
    ax.set_ylim(-reach, reach)
    name = label if label.isalnum() and len(label) < 8 else "ref"
    ax.set_ylabel(f"$E - E_\\mathrm{{{name}}}$ (meV)")
    ax.tick_params(axis="y", direction="in")


def _legend(below: Axes, source: Axes, errors: list[BandError], entries: int) -> None:
    """The legend of ``source``, under the axes ``below``."""
    handles, labels = source.get_legend_handles_labels()
    shown = [(handle, label) for handle, label in zip(handles, labels, strict=True) if label]
    if not shown:
        return
    window = errors[0].window_eV if errors else (0.0, 0.0)
    note = "band error over ${:g} \\leq E - E_\\mathrm{{F}} \\leq {:g}$ eV".format(*window)
    below.legend(
        *zip(*shown, strict=True),
        loc="upper center",
        bbox_to_anchor=(0.5, -0.09 if below is source else -0.24),
        ncols=min(2 if errors else 3, entries),
        frameon=False,
        fontsize="small",
        title=note if errors else None,
        title_fontsize="x-small",
        handlelength=1.8,
        columnspacing=1.2,
    )
