"""What readers of basis files share: their lines, and the shells that are allowed."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

from ..errors import DataError
from ..io.files import read_text
from .rotation import MAX_L

__all__ = ["GRID_STEP", "WHERE", "basis_lines", "require_l"]

GRID_STEP = 0.01  # bohr, of grids made by readers
WHERE = (
    "basis files usually lie in DFT_DATA19/PAO of OpenMX (.pao), in the orbital_dir of ABACUS's "
    "INPUT (.orb), or in the run folder of SIESTA (.ion, .ion.xml)"
)


def basis_lines(path: pathlib.Path) -> list[str]:
    """Lines of a basis file.

    Raises:
        DataError: it is missing or no text.
    """
    return read_text(path, 2**26, WHERE, strict=False).splitlines()


def require_l(path: pathlib.Path, shells: Sequence[int]) -> None:
    """Refuse a basis without shells, and shells that have no order in DeepH's files.

    Raises:
        DataError: none, or l is not 0 to 3.
    """
    if not shells:
        raise DataError(f"{path}: holds no orbitals")
    if min(shells) < 0 or max(shells) > MAX_L:
        wrong = max(shells) if max(shells) > MAX_L else min(shells)
        raise DataError(
            f"{path}: l = {wrong}; the legacy orbital order is defined for l = 0 to {MAX_L} only"
        )
