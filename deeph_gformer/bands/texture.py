"""Spin textures: <sigma> of one band on a square of k-points."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import ConfigError
from .bloch import BlochProblem
from .kpath import MOST_KPOINTS
from .palette import drawable
from .plot import bar_beside, new_figure, save_figure
from .projection import spin_expectation
from .solve import map_kpoints, solve_dense

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["SpinTexture", "plot_texture", "spin_texture"]

DEGENERATE_EV = 1e-4
_ARROWS = 17
"""Arrows along each side of a figure."""


@dataclasses.dataclass(frozen=True)
class SpinTexture:
    """<sigma> of some bands around a k-point.

    Attributes:
        centre: (3,), fractional.
        offsets: (N,), 1/Å, along both sides of the square.
        bands: numbers, from 0.
        energies_eV: (B, N, N), relative to the Fermi level where it is known; [band, x, y].
        spin: (B, N, N, 3), along Cartesian x, y, z.
        degenerate: (B,), share of the k-points where a neighbouring band has the same energy;
            there <sigma> of one band alone has no meaning.
        fermi_eV: the Fermi level, or None.
    """

    centre: NDArray[np.float64]
    offsets: NDArray[np.float64]
    bands: tuple[int, ...]
    energies_eV: NDArray[np.float64]
    spin: NDArray[np.float64]
    degenerate: NDArray[np.float64]
    fermi_eV: float | None

    def to_json(self) -> dict[str, Any]:
        """For JSON; units in the names; bands from 1."""
        return {
            "centre_fractional": self.centre.tolist(),
            "offsets_per_angstrom": self.offsets.tolist(),
            "bands": [band + 1 for band in self.bands],
            "energies_eV": self.energies_eV.tolist(),
            "spin_expectation": self.spin.tolist(),
            "degenerate_share": self.degenerate.tolist(),
            "fermi_eV": self.fermi_eV,
        }


def _solve(
    problem: BlochProblem, k: NDArray[np.float64], bands: tuple[int, ...]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    h, s = problem.at(k)
    where = f"{problem.source}, k = {np.round(k, 5).tolist()}"
    low, high = max(min(bands) - 1, 0), min(max(bands) + 1, problem.size - 1)
    found = solve_dense(h, s, index=(low, high), vectors=True, where=where)
    if found.failure or found.vectors is None:
        raise ConfigError(f"{where}: {found.failure}")
    index = np.array(bands) - low
    near = np.diff(found.energies) < DEGENERATE_EV
    shared = np.append(near, False) | np.append(False, near)
    spin = spin_expectation(problem, found.vectors[:, index], s)
    return found.energies[index], spin, shared[index]


def _require_plane(problem: BlochProblem) -> None:
    """Raise where kx or ky changes nothing: a slab that stands on edge, a chain, a molecule."""
    rows = problem.structure.lattice[list(problem.periodic)][:, :2]
    spread = np.linalg.svd(rows, compute_uv=False) if len(rows) else np.zeros(0)
    if len(spread) < 2 or spread[1] < 1e-3 * spread[0]:
        axes = [f"a{n + 1}" for n in range(3) if problem.periodic[n]]
        raise ConfigError(
            f"{problem.source}: repeats along {' and '.join(axes) or 'no lattice vector'}; a "
            "texture over kx and ky needs a crystal that repeats in the xy plane (of a slab: the "
            "vacuum along z; turn the structure)"
        )


def spin_texture(
    problem: BlochProblem,
    bands: Sequence[int],
    centre: ArrayLike = (0.0, 0.0, 0.0),
    radius: float = 0.2,
    points: int = 41,
    *,
    fermi_eV: float | None = None,
    processes: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> SpinTexture:
    """<sigma> on a square in the plane of the first two Cartesian axes.

    Args:
        problem: a Hamiltonian with spin.
        bands: numbers, from 0.
        centre: (3,), fractional.
        radius: half a side of the square, 1/Å.
        points: k-points along a side.
        fermi_eV: subtracted from the energies.
        processes: k-points in parallel.
        progress: called with (done, all).

    Raises:
        ConfigError: no spin, a band that is not there, a square that is none, too many k-points, or
            a structure that does not repeat along x and y.
    """
    if not problem.spinful:
        raise ConfigError(
            f"{problem.source}: no spin in this Hamiltonian (info.json: isspinful), so no spin "
            "texture"
        )
    chosen = tuple(int(band) for band in bands)
    if not chosen or min(chosen) < 0 or max(chosen) >= problem.size:
        raise ConfigError(
            f"{problem.source}: bands {[b + 1 for b in chosen]} asked; it has 1 to {problem.size}"
        )
    if not 0 < radius < np.inf or points < 2:
        raise ConfigError(
            f"spin texture: a square of half a side {radius} 1/Å with {points} points along it; "
            "a positive, finite one with at least 2 points is needed"
        )
    if points**2 > MOST_KPOINTS:
        raise ConfigError(
            f"spin texture: {points} points along a side are {points**2} k-points; at most "
            f"{MOST_KPOINTS} are computed, take fewer"
        )
    _require_plane(problem)
    middle = np.asarray(centre, dtype=float)
    offsets = np.linspace(-radius, radius, points)
    square = np.stack(np.meshgrid(offsets, offsets, indexing="ij"), axis=-1).reshape(-1, 2)
    flat = np.concatenate([square, np.zeros((len(square), 1))], axis=1)
    k = middle + flat @ problem.structure.lattice.T / (2 * np.pi)
    k = np.where(problem.periodic, k, middle)
    found = map_kpoints(functools.partial(_solve, bands=chosen), problem, k, processes, progress)
    shape = (points, points, len(chosen))
    energies = np.array([one[0] for one in found]).reshape(shape)
    spin = np.array([one[1] for one in found]).reshape(*shape, 3)
    shared = np.array([one[2] for one in found])
    return SpinTexture(
        middle,
        offsets,
        chosen,
        np.moveaxis(energies, 2, 0) - (fermi_eV or 0.0),
        np.moveaxis(spin, 2, 0),
        shared.mean(axis=0),
        fermi_eV,
    )


def plot_texture(
    texture: SpinTexture, path: str | os.PathLike[str] | None = None, title: str | None = None
) -> list[Axes]:
    """Arrows (sigma_x, sigma_y) on lines of constant energy, coloured by sigma_z; a panel a band.

    Args:
        texture: of :func:`spin_texture`.
        path: .png, .svg or .pdf.
        title: of the figure.

    Returns:
        The axes of the panels.
    """
    from matplotlib.ticker import MaxNLocator

    count = len(texture.bands)
    figure = new_figure(1.3 + 3.3 * count, 3.9)
    panels = list(figure.subplots(1, count, squeeze=False, sharey=True)[0])
    step = max(1, len(texture.offsets) // _ARROWS)
    at = slice((len(texture.offsets) - 1) % step // 2, None, step)
    x, y = np.meshgrid(texture.offsets[at], texture.offsets[at], indexing="ij")
    reach = float(texture.offsets[-1] - texture.offsets[0]) / max(len(x), 1)
    energy = "E" if texture.fermi_eV is None else "E - E_\\mathrm{F}"
    origin = " from the centre" if texture.centre.any() else ""
    for ax, band, energies, spin in zip(
        panels, texture.bands, texture.energies_eV, texture.spin, strict=True
    ):
        lines = ax.contour(
            texture.offsets,
            texture.offsets,
            energies.T,
            7,
            colors="0.6",
            linewidths=0.7,
            linestyles="solid",  # a sign must not look like a dash of its line
        )
        ax.clabel(lines, fontsize=6, fmt="%+.2f", inline_spacing=2)
        part = spin[at, at]
        arrows = ax.quiver(
            x,
            y,
            part[..., 0],
            part[..., 1],
            part[..., 2],
            cmap="coolwarm",
            clim=(-1, 1),
            pivot="mid",
            angles="xy",
            scale_units="xy",
            scale=1.15 / reach,
            width=0.006,
            edgecolor="0.25",
            linewidth=0.3,
        )
        ax.set_title(f"band {band + 1}, lines: ${energy}$ (eV)", fontsize="medium")
        ax.set_aspect("equal")
        ax.xaxis.set_major_locator(MaxNLocator(5, prune="both"))
        ax.set_xlabel(f"$k_x${origin} (1/Å)")
        ax.tick_params(direction="in")
    panels[0].set_ylabel(f"$k_y${origin} (1/Å)")
    bar_beside(panels[-1], arrows, "$\\langle\\sigma_z\\rangle$")
    if title:
        figure.suptitle(drawable(title), fontsize="medium")
    save_figure(figure, path)
    return panels
