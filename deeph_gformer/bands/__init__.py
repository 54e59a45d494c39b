"""From H(R) and S(R) to physics, without torch: bands, Fermi level, density of states, gaps ...

>>> from deeph_gformer import bands                                            # doctest: +SKIP
>>> problem = bands.load("graphene/0000")
>>> level = bands.fermi_level(problem, electrons=72)
>>> bands.band_structure(problem, "GMKG", fermi=level).plot("bands.png")
"""

from __future__ import annotations

from .bandstructure import band_structure
from .bloch import BlochProblem
from .compare import BandError, HamiltonianError, compare, compare_bands
from .derivatives import band_curvature, effective_masses, velocities
from .dos import Dos, density_of_states
from .fermi import FermiLevel, electrons_at, fermi_level
from .gap import BandGap, band_gap
from .ghosts import error_modes, find_ghosts
from .kmesh import MeshSpectrum, mesh_spectrum
from .kpath import KPath, automatic_path, read_path_file, seekpath_path
from .loading import load
from .plot import plot_comparison
from .plot_states import plot_dos, plot_fat, plot_spin
from .result import Bands
from .solve import solve_dense
from .unfolding import Unfolded, plot_unfolded, unfold

__all__ = [
    "BandError",
    "BandGap",
    "Bands",
    "BlochProblem",
    "Dos",
    "FermiLevel",
    "HamiltonianError",
    "KPath",
    "MeshSpectrum",
    "Unfolded",
    "automatic_path",
    "band_curvature",
    "band_gap",
    "band_structure",
    "compare",
    "compare_bands",
    "density_of_states",
    "effective_masses",
    "electrons_at",
    "error_modes",
    "fermi_level",
    "find_ghosts",
    "load",
    "mesh_spectrum",
    "plot_comparison",
    "plot_dos",
    "plot_fat",
    "plot_spin",
    "plot_unfolded",
    "read_path_file",
    "seekpath_path",
    "solve_dense",
    "unfold",
    "velocities",
]
