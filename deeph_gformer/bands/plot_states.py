"""Figures of what states are made of: Mulliken weights, spin, densities of states."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError
from .palette import FURTHER, colours_of, drawable
from .plot import draw_bands, finish_axes, new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import PathCollection

    from .dos import Dos
    from .result import Bands

__all__ = ["plot_dos", "plot_fat", "plot_spin"]

_TOTALS = ("-", (0, (4, 2)), (0, (1, 1)))


def _coloured(
    ax: Axes,
    bands: Bands,
    values: NDArray[np.float64],
    window: tuple[float, float],
    scale: tuple[float, float],
    colours: str,
    sizes: NDArray[np.float64] | float,
) -> PathCollection:
    """Grey lines, and a dot for each state in the window, coloured by ``values`` (K, B)."""
    draw_bands(ax, bands, "line", "0.8", "", window, 0.8)
    energies = bands.aligned_eV
    x = np.repeat(bands.distances[:, None], energies.shape[1], axis=1)
    if len(bands.path) == 1:
        x = x + 0.15  # the middle of a molecule's bars
    with np.errstate(invalid="ignore"):
        shown = (energies >= window[0]) & (energies <= window[1])
    order = np.argsort(np.abs(values[shown]), kind="stable")  # the largest on top
    size = np.broadcast_to(sizes, values.shape)[shown][order]
    return ax.scatter(
        x[shown][order],
        energies[shown][order],
        s=size,
        c=values[shown][order],
        cmap=colours,
        vmin=scale[0],
        vmax=scale[1],
        linewidths=0,
        zorder=3,
    )


def plot_fat(
    bands: Bands,
    path: str | os.PathLike[str] | None = None,
    *,
    window_eV: tuple[float, float] | None = None,
    title: str | None = None,
) -> list[Axes]:
    """One panel for each projection; area and colour are its Mulliken weight, one scale for all.

    Args:
        bands: computed with projections.
        path: .png, .svg or .pdf.
        window_eV: energies shown, relative to E_F; default :meth:`~.result.Bands.default_window`.
        title: of the figure.

    Raises:
        ConfigError: the bands were computed without projections.
    """
    if not bands.projections:
        raise ConfigError(
            f"bands '{bands.label}' have no projections; compute them with --fat Mo-d,S-p"
        )
    window, count = window_eV or bands.default_window(), len(bands.projections)
    figure = new_figure(1.4 + 3.0 * count, 4.2)
    panels = figure.subplots(1, count, sharey=True, squeeze=False)[0]
    for ax, (name, weight) in zip(panels, bands.projections.items(), strict=True):
        size = 1.0 + 22 * np.clip(weight, 0, 1)
        dots = _coloured(ax, bands, weight, window, (0.0, 1.0), "viridis_r", size)
        finish_axes(ax, bands, window, name)
        if ax is not panels[0]:
            ax.set_ylabel("")
    figure.colorbar(dots, ax=list(panels), label="Mulliken weight", pad=0.02)
    if title:
        figure.suptitle(drawable(title), fontsize="medium")
    save_figure(figure, path)
    return list(panels)


def plot_spin(
    bands: Bands,
    path: str | os.PathLike[str] | None = None,
    *,
    axis: Literal["x", "y", "z"] = "z",
    window_eV: tuple[float, float] | None = None,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Bands coloured by a spin expectation value.

    The states of a degenerate level share its mean; with inversion and time reversal that is 0.

    Args:
        bands: computed with spin.
        path: .png, .svg or .pdf.
        axis: of the spin.
        window_eV: energies shown, relative to E_F; default :meth:`~.result.Bands.default_window`.
        title: of the figure.
        ax: draw there instead of into a new figure.

    Raises:
        ConfigError: the bands were computed without spin.
    """
    if bands.spin is None:
        raise ConfigError(
            f"bands '{bands.label}' have no spin expectation values; compute them with --spin "
            "(spin-orbit coupling only)"
        )
    window, figure = window_eV or bands.default_window(), None
    if ax is None:
        figure = new_figure(5.2, 4.4)
        ax = figure.add_subplot()
    value = bands.spin[:, :, "xyz".index(axis)]
    dots = _coloured(ax, bands, value, window, (-1.0, 1.0), "coolwarm", 5.0)
    finish_axes(ax, bands, window, title)
    ax.figure.colorbar(dots, ax=ax, label=f"$\\langle\\sigma_{axis}\\rangle$", pad=0.02)
    if figure is not None:
        save_figure(figure, path)
    return ax


def plot_dos(
    doses: Sequence[Dos],
    path: str | os.PathLike[str] | None = None,
    ax: Axes | None = None,
    window_eV: tuple[float, float] | None = None,
) -> Axes:
    """Densities of states over each other; projections of the first are filled.

    Args:
        doses: each relative to its own Fermi level.
        path: .png, .svg or .pdf.
        ax: draw there instead of into a new figure.
        window_eV: energies shown, relative to E_F; default: all of the first's grid.
    """
    figure = None
    if ax is None:
        figure = new_figure(5.6, 3.4)
        ax = figure.add_subplot()
    zero = doses[0].fermi.energy_eV if doses[0].fermi else 0.0
    grid = doses[0].energies_eV - zero
    for number, (name, value) in enumerate(doses[0].projected.items()):
        colour = FURTHER[number % len(FURTHER)]
        ax.fill_between(grid, value, color=colour, alpha=0.35, linewidth=0, label=name)
        ax.plot(grid, value, color=colour, linewidth=0.8)
    for number, (dos, colour) in enumerate(
        zip(doses, colours_of([dos.label for dos in doses]), strict=True)
    ):
        style = _TOTALS[number % len(_TOTALS)]
        x = dos.energies_eV - (dos.fermi.energy_eV if dos.fermi else 0.0)
        look: dict[str, Any] = {"color": colour, "linewidth": 1.1, "linestyle": style}
        ax.plot(x, dos.total, label=drawable(dos.label or "total"), **look)
    if doses[0].fermi:
        ax.axvline(0.0, color="0.55", linewidth=0.8, linestyle=(0, (1, 2)), zorder=0)
    window = window_eV or (grid[0], grid[-1])
    inside = (grid >= window[0]) & (grid <= window[1])
    ax.set_xlim(*window)
    ax.set_ylim(0, 1.08 * max(float(doses[0].total[inside].max(initial=0.0)), 1e-3))
    ax.set_xlabel("$E - E_\\mathrm{F}$ (eV)" if doses[0].fermi else "$E$ (eV)")
    ax.set_ylabel("DOS (states / eV / cell)")
    ax.tick_params(direction="in")
    ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, fontsize="small")
    if figure is not None:
        save_figure(figure, path)
    return ax
