"""Map of the spectral function of a surface."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np

from ..palette import drawable
from ..plot import new_figure, save_figure
from .green import SurfaceSpectrum

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_surface"]


def plot_surface(
    spectrum: SurfaceSpectrum,
    path: str | os.PathLike[str] | None = None,
    title: str | None = None,
) -> list[Axes]:
    """Both surfaces and the bulk, on one logarithmic scale.

    Args:
        spectrum: of :func:`~.green.surface_spectrum`.
        path: .png, .svg or .pdf.
        title: of the figure.

    Returns:
        The axes of the panels.
    """
    from matplotlib.colors import LogNorm

    figure = new_figure(9.0, 4.0)
    panels = list(figure.subplots(1, 3, sharey=True))
    maps = (spectrum.bottom, spectrum.top, spectrum.bulk)
    top = float(np.quantile(np.concatenate(maps), 0.995))
    scale = LogNorm(top / 1e3, top)
    axis, kpath = spectrum.axis + 1, spectrum.path
    names = (f"surface at $-a_{axis}$", f"surface at $+a_{axis}$", "bulk, projected")
    for ax, values, name in zip(panels, maps, names, strict=True):
        for start, stop in kpath.segments:
            x = kpath.distances[start:stop]
            if stop - start < 2:
                x = np.array([0.0, 1.0])
            drawn = ax.pcolormesh(
                x,
                spectrum.energies_eV,
                np.maximum(values[start:stop] if stop - start > 1 else values[[0, 0]], top / 1e3).T,
                cmap="magma",
                norm=scale,
                shading="gouraud",
                rasterized=True,
            )
        ticks = kpath.ticks
        for place, _ in ticks[1:-1]:
            ax.axvline(place, color="0.6", linewidth=0.6)
        ax.set_xticks([t[0] for t in ticks], [t[1] for t in ticks])
        ax.tick_params(axis="x", length=0)
        ax.set_title(name, fontsize="medium")
        if spectrum.fermi_eV is not None:
            ax.axhline(0.0, color="0.8", linewidth=0.8, linestyle=(0, (1, 2)))
    panels[0].set_ylim(spectrum.energies_eV[0], spectrum.energies_eV[-1])
    known = spectrum.fermi_eV is not None
    panels[0].set_ylabel("$E - E_\\mathrm{F}$ (eV)" if known else "$E$ (eV), no Fermi level known")
    figure.colorbar(drawn, ax=panels, label="$A(k, E)$ (1/eV)", pad=0.02, extend="min")
    if title:
        figure.suptitle(drawable(title), fontsize="medium")
    save_figure(figure, path)
    return panels
