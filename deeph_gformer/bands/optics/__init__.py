"""Linear optics from velocity matrices.

Joint density of states, conductivity, dielectric function.
"""

from __future__ import annotations

from .conductivity import Optics, optical_conductivity, optical_sums
from .plot import plot_optics

__all__ = ["Optics", "optical_conductivity", "optical_sums", "plot_optics"]
