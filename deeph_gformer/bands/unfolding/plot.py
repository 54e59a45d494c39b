"""The spectral function of unfolded bands as a map, as photoemission sees it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ...errors import ConfigError
from ..palette import drawable
from ..plot import finish_axes, new_figure, save_figure
from ..result import Bands
from .weights import TOTAL, Unfolded

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["known_window", "plot_unfolded", "spectral_function"]


def spectral_function(
    unfolded: Unfolded,
    energies_eV: NDArray[np.float64],
    width_eV: float = 0.05,
    name: str = TOTAL,
) -> NDArray[np.float64]:
    """A(k, E) = sum_n w_n(k) g(E - E_n(k)), g a Gaussian.

    Args:
        unfolded: supercell bands with weights.
        energies_eV: (G,), relative to the Fermi level.
        width_eV: standard deviation of the Gaussian.
        name: which weight.

    Returns:
        (K, G), states per eV, one spin channel.

    Raises:
        ConfigError: the width is not positive.
    """
    if not 0 < width_eV < np.inf:
        raise ConfigError(f"broadening {width_eV} eV: it must be positive and finite")
    levels, weights = unfolded.bands.aligned_eV, unfolded.bands.projections[name]
    result = np.zeros((len(levels), len(energies_eV)))
    for row, level, weight in zip(result, levels, weights, strict=True):
        known = np.isfinite(level)
        x = (energies_eV[:, None] - level[known]) / width_eV
        row[:] = np.exp(-0.5 * np.minimum(x**2, 1400.0)) @ weight[known]
    return result / (width_eV * np.sqrt(2 * np.pi))


def known_window(bands: Bands) -> tuple[float, float]:
    """Energies of a map, eV from the Fermi level: :meth:`~..result.Bands.default_window`, as far as
    all states are known at every k (of a few around the Fermi level a map would show none beyond).
    """
    low, high = bands.default_window()
    levels = bands.aligned_eV
    known = levels[np.isfinite(levels).any(axis=1)]
    bottom = float(np.nanmin(known, axis=1).max())
    top = float(np.nanmax(known, axis=1).min())
    cut = max(low, bottom), min(high, top)
    return cut if cut[0] < cut[1] else (low, high)


def plot_unfolded(
    unfolded: Sequence[Unfolded],
    path: str | os.PathLike[str] | None = None,
    *,
    window_eV: tuple[float, float] | None = None,
    width_eV: float = 0.05,
    title: str | None = None,
) -> list[Axes]:
    """A map of the spectral function for each Hamiltonian, and for each layer where there are some.

    Args:
        unfolded: one for each Hamiltonian.
        path: .png, .svg or .pdf.
        window_eV: energies shown, relative to E_F; default :func:`known_window`.
        width_eV: broadening, standard deviation.
        title: of the figure.

    Returns:
        The axes of the panels, Hamiltonian by Hamiltonian.
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    window = window_eV or known_window(unfolded[0].bands)
    grid = np.linspace(*window, int(np.clip(4 * (window[1] - window[0]) / width_eV, 200, 2000)))
    names = list(unfolded[0].bands.projections)
    figure = new_figure(1.2 + 3.2 * len(names), 0.4 + 3.8 * len(unfolded))
    panels = figure.subplots(len(unfolded), len(names), sharey=True, squeeze=False)
    maps = [[spectral_function(u, grid, width_eV, name) for name in names] for u in unfolded]
    # one scale for all; the brightest crossing points must not darken the rest
    top = float(np.quantile(np.concatenate([m[m > 1e-3 * m.max()] for r in maps for m in r]), 0.99))
    for row, one, images in zip(panels, unfolded, maps, strict=True):
        for ax, name, image in zip(row, names, images, strict=True):
            _image(ax, one, grid, image, top)
            words = [one.bands.label] * (len(unfolded) > 1) + [name] * (len(names) > 1)
            finish_axes(ax, one.bands, window, ", ".join(words))
            if ax is not row[0]:
                ax.set_ylabel("")
    scale = ScalarMappable(Normalize(0.0, top), "magma_r")
    figure.colorbar(scale, ax=panels.ravel().tolist(), label="$A(k, E)$ (1/eV)", extend="max")
    if title:
        figure.suptitle(drawable(title), fontsize="medium")
    save_figure(figure, path)
    return list(panels.ravel())


def _image(
    ax: Axes, one: Unfolded, grid: NDArray[np.float64], image: NDArray[np.float64], top: float
) -> None:
    """Segment by segment, so that nothing is smeared over a jump."""
    for start, stop in one.bands.path.segments:
        x = one.bands.distances[start:stop]
        if stop - start < 2 or x[-1] <= x[0]:
            continue
        ax.pcolormesh(
            x,
            grid,
            image[start:stop].T,
            cmap="magma_r",
            vmin=0.0,
            vmax=top,
            shading="gouraud",
            rasterized=True,
        )
