"""Bands of a supercell on the path of its primitive cell, with spectral weights."""

from __future__ import annotations

from .plot import known_window, plot_unfolded
from .supercell import PrimitiveMap
from .weights import Unfolded, primitive_maps, unfold

__all__ = ["PrimitiveMap", "Unfolded", "known_window", "plot_unfolded", "primitive_maps", "unfold"]
