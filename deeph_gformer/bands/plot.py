"""Band and DOS figures: DFT as lines, stage 1 dashed, refined as dots; relative to each Hamiltonian's own Fermi level."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ..errors import ConfigError
from ..io.files import atomic_path
from .compare import BandError, compare_bands
from .result import Bands

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from .dos import Dos

__all__ = ["plot_comparison", "plot_fat", "plot_spin", "plot_dos", "Style"]

Style = Literal["line", "dashed", "dots"]
_COLOURS = {
    "line": ["#1a1a1a", "#7a7a7a"],
    "dashed": ["#d55e00", "#e69f00"],
    "dots": ["#0072b2", "#009e73", "#cc79a7"],
}
_SUFFIXES = (".png", ".svg", ".pdf")


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()


def _save(figure: Figure, path: str | os.PathLike[str] | None) -> None:
    if path is None:
        return
    path = pathlib.Path(path)
    if path.suffix.lower() not in _SUFFIXES:
        raise ConfigError(f"{path}: a figure's name ends in {', '.join(_SUFFIXES)}")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:].lower(), dpi=200)


def _frame(ax: Axes, bands: Bands, window: tuple[float, float], title: str | None) -> None:
    ticks = bands.path.ticks
    for place, _ in ticks[1:-1]:
        ax.axvline(place, color="0.8", linewidth=0.7, zorder=0)
    if bands.fermi_eV is not None:
        ax.axhline(0.0, color="0.55", linewidth=0.8, linestyle=(0, (1, 2)), zorder=0)
    ax.set_xticks([t[0] for t in ticks], [t[1] for t in ticks])
    ax.tick_params(axis="x", length=0)
    ax.tick_params(axis="y", direction="in")
    if bands.distances[-1] > bands.distances[0]:
        ax.set_xlim(bands.distances[0], bands.distances[-1])
    ax.set_ylim(*window)
    ax.set_ylabel(
        "$E - E_\\mathrm{F}$ (eV)"
        if bands.fermi_eV is not None
        else "$E$ (eV), no Fermi level known"
    )
    if title:
        ax.set_title(title, fontsize="medium")


def _draw(
    ax: Axes,
    bands: Bands,
    style: Style,
    colour: str,
    label: str,
    window: tuple[float, float],
    single: bool,
) -> None:
    """One Hamiltonian; only points that are complete are joined, the others are dots."""
    energies, first = bands.aligned_eV, True
    margin = 0.05 * (window[1] - window[0])
    with np.errstate(invalid="ignore"):
        visible = ((energies > window[0] - margin) & (energies < window[1] + margin)).any(axis=0)
    energies = energies[:, visible]
    if style == "dots":
        step = max(1, len(energies) // 80)
        chosen = np.unique(np.concatenate([np.arange(0, len(energies), step), [len(energies) - 1]]))
        x = np.repeat(bands.distances[chosen][:, None], energies.shape[1], axis=1)
        ax.plot(
            x.ravel(),
            energies[chosen].ravel(),
            linestyle="",
            marker="o",
            markersize=2.4,
            markeredgewidth=0,
            color=colour,
            label=label,
            zorder=3,
        )
        return
    look: dict[str, Any] = {
        "line": {"linestyle": "-", "linewidth": 1.1 if single else 1.6},
        "dashed": {"linestyle": (0, (4, 2)), "linewidth": 1.1},
    }[style]
    for _, run in bands.lines():
        if len(run) > 1:
            drawn = ax.plot(
                bands.distances[run],
                energies[run],
                color=colour,
                zorder=1 if style == "line" else 2,
                **look,
            )
            if first and drawn:
                drawn[0].set_label(label)
                first = False
    loose = np.flatnonzero(~bands.drawable)
    if len(loose) or first:
        loose = loose if len(loose) else np.arange(len(energies))
        x = np.repeat(bands.distances[loose][:, None], energies.shape[1], axis=1)
        ax.plot(
            x.ravel(),
            energies[loose].ravel(),
            linestyle="",
            marker=".",
            markersize=3,
            markeredgewidth=0,
            color=colour,
            label=f"{label} (incomplete k-points)" if not first else label,
            zorder=2,
        )


def plot_comparison(
    entries: Sequence[tuple[str, Bands, Style]],
    path: str | os.PathLike[str] | None = None,
    *,
    window_eV: tuple[float, float] = (-3.0, 3.0),
    error_window_eV: float | Sequence[float] | None = None,
    compared: Sequence[bool] | None = None,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Bands of several Hamiltonians over each other, each relative to its own Fermi level.

    Args:
        entries: (label, bands, style): 'line' for DFT, 'dashed' for stage 1, 'dots' for refined. The first is the reference.
        path: .png, .svg or .pdf. window_eV: energies shown, relative to E_F.
        error_window_eV: of the band error in the legend, see :func:`~.compare.compare_bands`; default: ``window_eV``.
        compared: which entries get a band error, those of the first one's structure (default: all).
        title: default none. ax: draw there instead of into a new figure.

    Raises:
        ConfigError: nothing to draw, an unknown style or file suffix, or paths that differ.
    """
    if not entries:
        raise ConfigError("no bands to plot")
    figure = None
    if ax is None:
        figure, ax = _figure(4.6, 4.4)
    reference = entries[0][1]
    errors: list[BandError] = []
    used = {"line": 0, "dashed": 0, "dots": 0}
    for number, (label, bands, style) in enumerate(entries):
        if style not in used:
            raise ConfigError(f"style '{style}' is unknown; there are line, dashed and dots")
        colour = _COLOURS[style][used[style] % len(_COLOURS[style])]
        used[style] += 1
        if number and (compared is None or compared[number]):
            errors.append(
                compare_bands(
                    reference, bands, window_eV if error_window_eV is None else error_window_eV
                )
            )
            label = f"{label}: MAE {errors[-1].mae_meV:.3g} meV"
        _draw(ax, bands, style, colour, label, window_eV, len(entries) == 1)
    _frame(ax, reference, window_eV, title)
    if len(entries) > 1:
        note = (
            "band error over ${:g} \\leq E - E_\\mathrm{{F}} \\leq {:g}$ eV".format(
                *errors[0].window_eV
            )
            if errors
            else None
        )
        ax.legend(
            loc="upper center",
            bbox_to_anchor=(0.5, -0.07),
            ncols=min(3, len(entries)),
            frameon=False,
            fontsize="small",
            title=note,
            title_fontsize="x-small",
            handlelength=1.8,
            columnspacing=1.2,
        )
    if figure is not None:
        _save(figure, path)
    return ax


def plot_fat(
    bands: Bands,
    path: str | os.PathLike[str] | None = None,
    *,
    window_eV: tuple[float, float] = (-3.0, 3.0),
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Bands with circles whose area is the Mulliken weight of each projection.

    Raises:
        ConfigError: the bands were computed without projections.
    """
    if not bands.projections:
        raise ConfigError(
            f"bands '{bands.label}' have no projections; compute them with --fat Mo-d,S-p"
        )
    figure = None
    if ax is None:
        figure, ax = _figure(4.6, 4.4)
    _draw(ax, bands, "line", "0.75", "", window_eV, True)
    colours = ["#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"]
    energies = bands.aligned_eV
    x = np.repeat(bands.distances[:, None], energies.shape[1], axis=1)
    with np.errstate(invalid="ignore"):
        shown = (energies > window_eV[0]) & (energies < window_eV[1])
    for number, (name, weight) in enumerate(bands.projections.items()):
        ax.scatter(
            x[shown],
            energies[shown],
            s=26 * np.clip(weight[shown], 0, None),
            color=colours[number % len(colours)],
            alpha=0.55,
            linewidths=0,
            label=name,
            zorder=3,
        )
    _frame(ax, bands, window_eV, title)
    legend = ax.legend(
        loc="upper center",
        bbox_to_anchor=(0.5, -0.07),
        ncols=min(4, len(bands.projections)),
        frameon=False,
        fontsize="small",
        handletextpad=0.2,
    )
    for handle in legend.legend_handles:
        handle.set_sizes([26])
    if figure is not None:
        _save(figure, path)
    return ax


def plot_spin(
    bands: Bands,
    path: str | os.PathLike[str] | None = None,
    *,
    axis: Literal["x", "y", "z"] = "z",
    window_eV: tuple[float, float] = (-3.0, 3.0),
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Bands coloured by a spin expectation value; degenerate pairs are averaged by the eye, and appear grey.

    Raises:
        ConfigError: the bands were computed without spin.
    """
    if bands.spin is None:
        raise ConfigError(
            f"bands '{bands.label}' have no spin expectation values; compute them with --spin (spin-orbit coupling only)"
        )
    figure = None
    if ax is None:
        figure, ax = _figure(5.2, 4.4)
    _draw(ax, bands, "line", "0.8", "", window_eV, True)
    energies = bands.aligned_eV
    x = np.repeat(bands.distances[:, None], energies.shape[1], axis=1)
    with np.errstate(invalid="ignore"):
        shown = (energies > window_eV[0]) & (energies < window_eV[1])
    value = bands.spin[:, :, "xyz".index(axis)]
    points = ax.scatter(
        x[shown],
        energies[shown],
        s=5,
        c=value[shown],
        cmap="coolwarm",
        vmin=-1,
        vmax=1,
        linewidths=0,
        zorder=3,
    )
    _frame(ax, bands, window_eV, title)
    ax.figure.colorbar(points, ax=ax, label=f"$\\langle\\sigma_{axis}\\rangle$", pad=0.02)
    if figure is not None:
        _save(figure, path)
    return ax


def plot_dos(
    doses: Sequence[Dos],
    path: str | os.PathLike[str] | None = None,
    ax: Axes | None = None,
    window_eV: tuple[float, float] | None = None,
) -> Axes:
    """Densities of states over each other; projections of the first are filled."""
    figure = None
    if ax is None:
        figure, ax = _figure(5.2, 3.4)
    colours = ["#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"]
    zero = doses[0].fermi.energy_eV if doses[0].fermi else 0.0
    for number, (name, value) in enumerate(doses[0].projected.items()):
        ax.fill_between(
            doses[0].energies_eV - zero,
            value,
            color=colours[number % len(colours)],
            alpha=0.35,
            linewidth=0,
            label=name,
        )
        ax.plot(
            doses[0].energies_eV - zero, value, color=colours[number % len(colours)], linewidth=0.8
        )
    looks = [("-", "#1a1a1a"), ((0, (4, 2)), "#d55e00"), ((0, (1, 1)), "#0072b2")]
    for number, dos in enumerate(doses):
        style, colour = looks[number % len(looks)]
        ax.plot(
            dos.energies_eV - (dos.fermi.energy_eV if dos.fermi else 0.0),
            dos.total,
            color=colour,
            linewidth=1.1,
            linestyle=style,
            label=dos.label or "total",
        )
    if doses[0].fermi:
        ax.axvline(0.0, color="0.55", linewidth=0.8, linestyle=(0, (1, 2)), zorder=0)
    window = window_eV or (doses[0].energies_eV[0] - zero, doses[0].energies_eV[-1] - zero)
    inside = (doses[0].energies_eV - zero >= window[0]) & (doses[0].energies_eV - zero <= window[1])
    ax.set_xlim(*window)
    ax.set_ylim(0, 1.08 * max(float(doses[0].total[inside].max(initial=0.0)), 1e-3))
    ax.set_xlabel("$E - E_\\mathrm{F}$ (eV)" if doses[0].fermi else "$E$ (eV)")
    ax.set_ylabel("DOS (states / eV / cell)")
    ax.tick_params(direction="in")
    if len(doses) > 1 or doses[0].projected:
        ax.legend(frameon=False, fontsize="small")
    if figure is not None:
        _save(figure, path)
    return ax
