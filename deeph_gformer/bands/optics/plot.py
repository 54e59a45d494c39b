"""Figure of an optical response."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np

from ..palette import FURTHER, drawable
from ..plot import new_figure, save_figure
from .conductivity import Optics

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_optics"]

_STYLES: tuple[Any, ...] = ("-", (0, (4, 2)), (0, (1, 1)))


def plot_optics(
    optics: Optics, path: str | os.PathLike[str] | None = None, title: str | None = None
) -> list[Axes]:
    """Joint density of states, Re sigma, and epsilon (a crystal) or the susceptibility below.

    Args:
        optics: of :func:`~.conductivity.optical_conductivity`.
        path: .png, .svg or .pdf.
        title: of the figure.

    Returns:
        The axes of the panels.
    """
    figure = new_figure(5.4, 6.4)
    panels = list(figure.subplots(3, 1, sharex=True, height_ratios=(0.7, 1, 1)))
    x = optics.photon_eV
    panels[0].fill_between(x, optics.joint_dos, color="0.8", linewidth=0)
    panels[0].plot(x, optics.joint_dos, color="0.1", linewidth=1.0)
    panels[0].set_ylabel("joint DOS (1/eV/cell)")
    crystal = optics.dimensions == 3
    chi = optics.dielectric if crystal else optics.susceptibility
    shown = [a for a in range(3) if np.abs(optics.sigma[:, a, a]).max() > 0]
    same: list[tuple[str, int]] = []
    for a in shown:  # equal components share a line
        twin = next(
            (
                n
                for n, (_, b) in enumerate(same)
                if np.allclose(
                    optics.sigma[:, a, a],
                    optics.sigma[:, b, b],
                    rtol=1e-3,
                    atol=1e-3 * np.abs(optics.sigma).max(),
                )
            ),
            None,
        )
        if twin is None:
            same.append(("xyz"[a] * 2, a))
        else:
            same[twin] = (f"{same[twin][0]} = {'xyz'[a] * 2}", same[twin][1])
    for (name, a), colour in zip(same, FURTHER, strict=False):  # at most three
        panels[1].plot(x, optics.sigma[:, a, a].real, color=colour, linewidth=1.2, label=name)
        for part, style in (("Re", _STYLES[0]), ("Im", _STYLES[1])):
            values = chi[:, a, a].real if part == "Re" else chi[:, a, a].imag
            panels[2].plot(x, values, color=colour, linestyle=style, linewidth=1.2, label=part)
    unit = {"e2/h": "$e^2/h$", "S/cm": "S/cm"}.get(optics.unit, optics.unit.replace("e2", "e²"))
    panels[1].set_ylabel(f"Re $\\sigma$ ({unit})")
    power = 3 - optics.dimensions
    words = "$\\epsilon$" if crystal else f"$\\chi$ (Å{f'$^{power}$' if power > 1 else ''})"
    panels[2].set_ylabel(words)
    panels[2].axhline(0.0, color="0.8", linewidth=0.8, zorder=0)
    panels[2].set_xlabel("$\\hbar\\omega$ (eV)")
    panels[1].legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, fontsize="small")
    handles, labels = panels[2].get_legend_handles_labels()
    panels[2].legend(
        handles[:2],
        labels[:2],
        loc="upper left",
        bbox_to_anchor=(1.0, 1.0),
        frameon=False,
        fontsize="small",
    )
    for ax in panels:
        ax.set_xlim(x[0], x[-1])
        ax.tick_params(direction="in")
    panels[0].set_ylim(bottom=0)
    if title:
        figure.suptitle(drawable(title), fontsize="medium")
    save_figure(figure, path)
    return panels
