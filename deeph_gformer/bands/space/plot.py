"""Figure of an STM image."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..palette import FURTHER, drawable
from ..plot import bar_beside, new_figure, save_figure
from .stm import StmImage

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_stm"]

_EXTENT = 12.0
"""Å that a map shows at least."""
_PIXELS = 300


def plot_stm(
    image: StmImage, path: str | os.PathLike[str] | None = None, title: str | None = None
) -> list[Axes]:
    """Constant height and constant current side by side, some surface cells of each.

    Args:
        image: of :func:`~.stm.stm_image`.
        path: .png, .svg or .pdf.
        title: of the figure.

    Returns:
        The axes of the panels.
    """
    figure = new_figure(8.4, 3.8)
    panels = list(figure.subplots(1, 2))
    names = (
        f"LDOS at {image.height_A:g} Å (1/Å$^3$)",
        f"height at LDOS = {image.current:.2g} 1/Å$^3$ (Å)",
    )
    side = max(_EXTENT, 1.2 * float(np.linalg.norm(image.vectors, axis=1).max()))
    corner = np.array([[0, 0], [1, 0], [1, 1], [0, 1], [0, 0]]) @ image.vectors
    for ax, values, name in zip(panels, (image.ldos, image.topography_A), names, strict=True):
        pixels = _square(image.vectors, values, side)
        drawn = ax.imshow(
            pixels.T, origin="lower", extent=(0, side, 0, side), cmap="afmhot", rasterized=True
        )
        ax.plot(corner[:, 0], corner[:, 1], color=FURTHER[3], linewidth=0.9)
        ax.set_xlim(0, side)
        ax.set_ylim(0, side)
        ax.set_xlabel("$x$ (Å)")
        ax.tick_params(direction="in")
        bar_beside(ax, drawn, name)
    panels[0].set_ylabel("$y$ (Å)")
    if title:
        figure.suptitle(drawable(title), fontsize="medium")
    save_figure(figure, path)
    return panels


def _square(
    vectors: NDArray[np.float64], values: NDArray[np.float64], side: float
) -> NDArray[np.float64]:
    """(X, Y), a square of ``side`` Å cut out of the repeated map."""
    from scipy.ndimage import map_coordinates

    at = (np.arange(_PIXELS) + 0.5) / _PIXELS * side
    place = np.stack(np.meshgrid(at, at, indexing="ij"), axis=-1) @ np.linalg.inv(vectors)
    index = np.moveaxis(place % 1.0 * np.array(values.shape), -1, 0)
    found: NDArray[np.float64] = map_coordinates(values, index, order=1, mode="grid-wrap")
    return found
