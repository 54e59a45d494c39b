"""From H(R) and S(R) to physics: bands, Fermi level, density of states, gaps, derivatives, comparisons. No torch needed."""
from __future__ import annotations

from .bloch import BlochProblem
from .fermi import FermiLevel, electrons_at, fermi_level
from .loading import load

__all__ = ["BlochProblem", "FermiLevel", "electrons_at", "fermi_level", "load"]
