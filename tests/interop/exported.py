"""What the tests of exports share: a made-up crystal with H and S, and points of its mesh."""

from __future__ import annotations

import pathlib

from deeph_gformer.io import legacy
from deeph_gformer.io.folder import write_matrix

from ..conftest import random_structure

MESH = "5x5x5"
#: On the mesh, where the Löwdin transform is exact.
POINTS = ((0.0, 0.0, 0.0), (0.2, 0.6, 0.0), (0.4, 0.8, 0.2))


def folder_of(tmp_path: pathlib.Path, spinful: bool) -> pathlib.Path:
    """A legacy folder with H and S."""
    structure, h, s = random_structure(seed=3, atoms=3, spinful=spinful)
    folder = tmp_path / "made"
    legacy.write_structure(folder, structure)
    write_matrix(folder, "hamiltonian", h, structure, "legacy", spinful)
    write_matrix(folder, "overlap", s, structure)
    return folder
