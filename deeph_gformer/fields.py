"""Names of files and HDF5 datasets, each in one place: name | shape | unit.

N atoms, E edges (blocks). An edge (R, i, j) points from atom i of the home cell to atom j of cell
R.
"""

from __future__ import annotations

from typing import Final

# --- files of a legacy DeepH folder (DeepH-pack, DeepH-E3) ----------------------------------------
LATTICE_FILE: Final = "lat.dat"  # (3, 3), columns = lattice vectors | Å
RECIPROCAL_FILE: Final = "rlat.dat"  # (3, 3), columns = reciprocal vectors, with 2π | 1/Å
POSITIONS_FILE: Final = "site_positions.dat"  # (3, N), columns = atoms, Cartesian | Å
ELEMENTS_FILE: Final = "element.dat"  # (N,), atomic numbers
ORBITAL_TYPES_FILE: Final = "orbital_types.dat"  # a line per atom: l of each shell
INFO_FILE: Final = "info.json"  # isspinful, fermi_level | eV, nsites, norbits, isorthogonal
HAMILTONIAN_FILE: Final = (
    "hamiltonians.h5"  # dataset "[Rx, Ry, Rz, i, j]", i and j 1-based -> block | eV
)
OVERLAP_FILE: Final = "overlaps.h5"  # the same keys, never spin-doubled | 1
POSITION_MATRIX_FILE: Final = "positions.h5"  # "[Rx, Ry, Rz, i, j, a]", a = 1, 2, 3: x, y, z | Å
PREDICTION_FILE: Final = "hamiltonians_pred.h5"  # the same keys | eV
LEGACY_FILES: Final = (ELEMENTS_FILE, LATTICE_FILE, ORBITAL_TYPES_FILE, POSITIONS_FILE)

# --- files of a DeepH-dock folder -----------------------------------------------------------------
DOCK_STRUCTURE_FILE: Final = "POSCAR"
DOCK_HAMILTONIAN_FILE: Final = "hamiltonian.h5"  # datasets below | eV
OVERLAP_TABLE: Final = "overlap.npz"  # of a bundle: radial tables of S | 1
DOCK_OVERLAP_FILE: Final = "overlap.h5"  # datasets below | 1
DOCK_POSITION_MATRIX_FILE: Final = "position_matrix.h5"  # entries (3, n), x y z | Å
DOCK_PREDICTION_FILE: Final = "hamiltonian_pred.h5"
DOCK_PAIRS: Final = "atom_pairs"  # (E, 5) int64, Rx Ry Rz i j, i and j 0-based
DOCK_SHAPES: Final = "chunk_shapes"  # (E, 2) int64, spin doubling included
DOCK_BOUNDARIES: Final = "chunk_boundaries"  # (E + 1,) int64
DOCK_ENTRIES: Final = "entries"  # flat, row-major | eV or 1

# --- files of a DeepH-E3 model folder -------------------------------------------------------------
MODEL_CHECKPOINT: Final = "best_model.pkl"
MODEL_NOTES: Final = "deeph_gformer.json"  # what our training adds: gauge (DeepH-E3 ignores it)
MODEL_SOURCE: Final = "src"  # train.ini, dataset_info.json, target_blocks.json, build_model.py

# --- files of a training run ----------------------------------------------------------------------
RUN_CONFIG: Final = "config.json"  # all settings
RUN_SPLITS: Final = "splits.json"  # names of the structures of each split
