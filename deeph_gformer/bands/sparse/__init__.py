"""Some eigenvalues of large sparse H c = E S c: everything that the rest of the package calls is
here.

``solver`` finds the states around an energy, ``factors`` factorises H - sigma S (``frontal`` on a
``dissection`` of the atoms, or ``slepc`` over MPI ranks), ``lanczos`` iterates, ``inertia`` counts.
"""

from __future__ import annotations

from .inertia import fermi_level_by_inertia, states_below
from .slepc import mpi_rank
from .solver import solve_sparse

__all__ = ["fermi_level_by_inertia", "mpi_rank", "solve_sparse", "states_below"]
