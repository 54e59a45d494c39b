"""States in space: |psi|² and local densities of states on grids, STM images."""

from __future__ import annotations

from .density import Grid, Orbitals, SelectedStates, density_on_grid, states_at, states_in_window
from .files import write_volume
from .plot import plot_stm
from .stm import StmImage, require_image, stm_image

__all__ = [
    "SelectedStates",
    "Grid",
    "Orbitals",
    "StmImage",
    "density_on_grid",
    "plot_stm",
    "states_at",
    "states_in_window",
    "require_image",
    "stm_image",
    "write_volume",
]
