"""The position matrix that a command on one Hamiltonian uses, and the words where there is none."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from .options import basis_files, say

if TYPE_CHECKING:
    from ..bands import BlochProblem
    from ..io.positions import PositionMatrix

__all__ = ["position_option", "positions_of"]


def position_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--atom-positions``."""
    parser.add_argument(
        "--atom-positions",
        action="store_true",
        help="do not use a position matrix: orbitals sit on their atoms",
    )


def positions_of(
    args: argparse.Namespace, problem: BlochProblem, without: str
) -> PositionMatrix | None:
    """The position matrix beside the overlap, or computed from the basis files of ``--overlap``.

    Args:
        args: with ``--overlap`` and ``--atom-positions``.
        problem: gives structure and blocks.
        without: what the atom-position approximation does to the result, said where it is used.

    Returns:
        x, y and z, Å, or None.

    Raises:
        DataError: the matrix, or a basis file, cannot be read or does not fit.
    """
    from ..io.folder import folder_format
    from ..io.positions import position_path, read_positions
    from ..overlap.provider import BasisOverlap

    if not args.atom_positions:
        if args.overlap is not None and basis_files(args.overlap):
            crystal = problem.structure
            shells = dict(zip(crystal.numbers.tolist(), crystal.orbital_types, strict=True))
            print(f"position matrix: from the basis files {args.overlap}")
            basis = BasisOverlap([args.overlap], orbital_types=shells)
            return basis.positions(crystal, problem.s.keys)
        for folder in (args.overlap, args.folder):
            if folder is None or not folder.is_dir() or folder_format(folder) is None:
                continue
            path = position_path(folder)
            if path.is_file():
                print(f"position matrix: {path}")
                return read_positions(folder, problem.structure)
    say(f"atom-position approximation: {without}")
    return None
