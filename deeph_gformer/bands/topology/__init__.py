"""Berry phases and what they tell: Wannier charge centres, Z2 and Chern numbers, Hall conductivity.

All of it in the non-orthogonal basis of H and S. Where the position operator enters, its matrix
<i, 0 | r | j, R> is used if it is given; else that of orbitals sitting in the middle of each pair
of atoms, r_ij(R) = (tau_i + tau_j + R) / 2 S_ij(R): the *atom-position approximation*. Integers
(Z2, Chern) do not depend on it; curvatures, centres and the Hall conductivity of a metal do.
"""

from __future__ import annotations

from .curvature import (
    HallConductivity,
    SpinHallConductivity,
    anomalous_hall,
    kubo_curvature,
    spin_hall,
)
from .links import ATOM_POSITIONS, POSITION_MATRIX, Links
from .plaquettes import BerryCurvature, berry_curvature, upward_plane
from .wilson import WannierCentres, wannier_centres, z2_invariant, z2_of_crystal

__all__ = [
    "ATOM_POSITIONS",
    "POSITION_MATRIX",
    "BerryCurvature",
    "WannierCentres",
    "HallConductivity",
    "Links",
    "SpinHallConductivity",
    "anomalous_hall",
    "berry_curvature",
    "kubo_curvature",
    "spin_hall",
    "upward_plane",
    "wannier_centres",
    "z2_invariant",
    "z2_of_crystal",
]
