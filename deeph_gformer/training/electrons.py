"""Valence electrons of the training set, for the bundle: counted at the DFT Fermi level."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from math import gcd
from typing import Any

from ase.data import chemical_symbols

from ..bands import load, mesh_spectrum
from ..bands.fermi import electrons_at, whole_electrons
from ..bands.loading import info_fermi_eV
from ..errors import GFormerError
from ..io.folder import has_matrix, read_folder

__all__ = ["count_electrons"]

#: Larger structures are not diagonalised for this.
MOST_ORBITALS = 2000


def count_electrons(folders: Sequence[pathlib.Path]) -> list[dict[str, Any]]:
    """Electrons of one structure per composition.

    Those without overlaps or Fermi level, or whose count is not whole, are left out.

    Args:
        folders: structure folders with ``hamiltonians.h5``; where ``overlaps.h5`` and info.json's
            Fermi level are there too, states are counted.

    Returns:
        ``{"composition": {symbol: atoms}, "electrons": number}`` per composition, for
        :func:`deeph_gformer.bands.electrons.electrons_by_composition`.
    """
    tried: dict[tuple[tuple[str, int], ...], int] = {}
    result: list[dict[str, Any]] = []
    for folder in folders:
        structure = read_folder(folder)
        counts = {
            chemical_symbols[z]: int((structure.numbers == z).sum())
            for z in sorted(set(structure.numbers.tolist()))
        }
        common = gcd(*counts.values())
        key = tuple((s, n // common) for s, n in counts.items())
        level = info_fermi_eV(structure)
        if tried.get(key, 0) >= 2 or level is None or not has_matrix(folder, "overlap"):
            continue
        tried[key] = tried.get(key, 0) + 1
        try:
            problem = load(folder, "hamiltonian")
            if problem.size > MOST_ORBITALS:
                continue
            spectrum = mesh_spectrum(problem)
            number, _ = whole_electrons(problem, spectrum, electrons_at(spectrum, level))
        except GFormerError:  # no bands, or no whole number: nothing is known about its electrons
            continue
        result.append({"composition": counts, "electrons": number})
        tried[key] = 2
    return result
