"""Basis files and position matrices that commands on one Hamiltonian use."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import TYPE_CHECKING

from .loading import echo
from .options import Options, filled, option
from .shared import OneHamiltonian

if TYPE_CHECKING:
    from ..bands import BlochProblem
    from ..io.positions import PositionMatrix
    from ..overlap.provider import BasisOverlap

__all__ = ["BasisOption", "PositionOptions", "basis_of", "positions_of"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class BasisOption(Options):
    """``--basis``."""

    basis: tuple[str, ...] = option(
        nargs="+",
        type=filled,
        metavar="FILE",
        shown="--overlap, where it is one",
        help="basis files of the DFT code (.orb, .ion, .ion.xml, .pao with names such as "
        "C6.0-s2p2d1), or their folder",
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class PositionOptions(BasisOption):
    """Where position matrices come from."""

    atom_positions: bool = option(
        default=False, help="do not use a position matrix: orbitals sit on their atoms"
    )


def basis_of(
    options: OneHamiltonian, basis: tuple[str, ...], problem: BlochProblem
) -> BasisOverlap | None:
    """The orbitals that ``--basis``, or else ``--overlap``, names; None where neither does.

    Args:
        options: with ``--overlap``.
        basis: ``--basis``.
        problem: its shells say what is taken from ``.pao`` files; its S must be theirs.

    Raises:
        DataError: a file cannot be read, or belongs to other orbitals.
    """
    from ..errors import DataError
    from ..io.folder import folder_format
    from ..overlap import load
    from ..overlap.predict import require_same_basis
    from ..overlap.provider import BasisOverlap

    source = options.overlap
    if not basis and (source is None or (source.is_dir() and folder_format(source) is not None)):
        return None
    structure = problem.structure
    shells = dict(zip(structure.numbers.tolist(), structure.orbital_types, strict=True))
    found = load(basis if basis else str(source), orbital_types=shells)
    if isinstance(found, BasisOverlap):
        found.table.check(structure)
        require_same_basis(found, structure, problem.s, problem.source)
        return found
    if not basis:
        return None
    raise DataError(f"--basis {' '.join(basis)}: no basis files (.orb, .ion, .ion.xml, .pao)")


def positions_of(
    options: OneHamiltonian, chosen: PositionOptions, problem: BlochProblem, without: str
) -> PositionMatrix | None:
    """The position matrix of basis files, or that beside the overlap.

    Args:
        options: with ``--overlap``.
        chosen: the same options, as those about positions.
        problem: gives structure and blocks.
        without: what the atom-position approximation does to the result, said where it is used.

    Returns:
        x, y and z, Å, or None.

    Raises:
        DataError: the matrix, or a basis file, cannot be read or does not fit.
    """
    from ..io.folder import folder_format, folder_of_overlap
    from ..io.positions import position_path, read_positions

    if not chosen.atom_positions:
        basis = basis_of(options, chosen.basis, problem)
        if basis is not None:
            print("position matrix: from basis files")
            return basis.positions(problem.structure, problem.s.keys, problem.s)
        for source in (options.overlap, options.folder):
            folder = None if source is None else folder_of_overlap(source)
            if folder is None or not folder.is_dir() or folder_format(folder) is None:
                continue
            path: pathlib.Path = position_path(folder)
            if path.is_file():
                print(f"position matrix: {path}")
                return read_positions(folder, problem.structure)
    echo(f"atom-position approximation: {without}")
    return None
