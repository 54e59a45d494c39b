"""Surfaces of a bulk Hamiltonian: semi-infinite crystals and slabs cut from it."""

from __future__ import annotations

from .green import SurfaceSpectrum, surface_green, surface_spectrum
from .layers import PrincipalLayers, cut_slab
from .plot import plot_surface

__all__ = [
    "PrincipalLayers",
    "SurfaceSpectrum",
    "cut_slab",
    "plot_surface",
    "surface_green",
    "surface_spectrum",
]
