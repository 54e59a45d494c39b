"""Figures of Wannier charge centres and of Berry curvature."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..palette import FURTHER
from ..plot import bar_beside, new_figure, save_figure
from .plaquettes import BerryCurvature
from .wilson import WannierCentres, gap_middle

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_centres", "plot_curvature"]


def plot_centres(
    planes: Sequence[WannierCentres], path: str | os.PathLike[str] | None = None
) -> list[Axes]:
    """Centres over half of the zone, plane by plane, and the middle of their largest gap.

    Args:
        planes: of :func:`~.wilson.z2_of_crystal`.
        path: .png, .svg or .pdf.

    Returns:
        The axes of the panels.
    """
    figure = new_figure(1.0 + 2.8 * len(planes), 3.6)
    panels = list(figure.subplots(1, len(planes), sharey=True, squeeze=False)[0])
    for ax, plane in zip(panels, planes, strict=True):
        x = np.repeat(plane.k[:, None], plane.centres.shape[1], axis=1)
        look = {"markerfacecolor": "none", "markeredgewidth": 0.8, "markersize": 3.2}
        ax.plot(x.ravel(), plane.centres.ravel(), "o", color="0.1", **look)
        middle = [gap_middle(line)[0] for line in plane.centres]
        ax.plot(plane.k, middle, "D", color=FURTHER[1], markersize=4, label="middle of largest gap")
        ax.set_xlim(-0.01, 0.51)
        ax.set_ylim(0, 1)
        ax.set_xlabel(f"$k_{plane.pump + 1}$ (reciprocal vectors)")
        third = 3 - plane.loop - plane.pump
        where = "" if len(planes) == 1 else f"$k_{third + 1}$ = {plane.fixed[third]:g}: "
        ax.set_title(f"{where}$\\mathbb{{Z}}_2$ = {plane.z2}", fontsize="medium")
        ax.tick_params(direction="in")
    panels[0].set_ylabel(f"Wannier centre along $a_{planes[0].loop + 1}$")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", frameon=False)
    save_figure(figure, path)
    return panels


def plot_curvature(
    maps: Sequence[BerryCurvature],
    reciprocal: NDArray[np.float64],
    path: str | os.PathLike[str] | None = None,
) -> list[Axes]:
    """Berry curvature over the zone, plane by plane, on one scale.

    Args:
        maps: of :func:`~.plaquettes.berry_curvature`.
        reciprocal: (3, 3), rows, 1/Å.
        path: .png, .svg or .pdf.

    Returns:
        The axes of the panels.
    """
    figure = new_figure(1.4 + 3.4 * len(maps), 3.6)
    panels = list(figure.subplots(1, len(maps), squeeze=False)[0])
    values = np.concatenate([one.curvature_A2.ravel() for one in maps])
    top = max(float(np.quantile(np.abs(values), 0.995)), 1e-12)
    for ax, one in zip(panels, maps, strict=True):
        a, b = one.axes
        across = reciprocal[a] / np.linalg.norm(reciprocal[a])
        up = reciprocal[b] - (reciprocal[b] @ across) * across
        up = up / np.linalg.norm(up)
        rows, columns = one.curvature_A2.shape
        corner = np.stack(
            np.meshgrid(
                np.arange(rows + 1) / rows, np.arange(columns + 1) / columns, indexing="ij"
            ),
            axis=-1,
        )
        k = corner @ reciprocal[[a, b]]
        mesh = ax.pcolormesh(
            k @ across, k @ up, one.curvature_A2, cmap="RdBu_r", vmin=-top, vmax=top
        )
        ax.set_aspect("equal")
        ax.set_xlabel(f"k along $b_{a + 1}$ (1/Å)")
        ax.set_title(f"$C$ = {one.chern}", fontsize="medium")
        ax.tick_params(direction="in")
    panels[0].set_ylabel("across it (1/Å)")
    bar_beside(panels[-1], mesh, "Berry curvature (Å$^2$)", extend="both")
    save_figure(figure, path)
    return panels
