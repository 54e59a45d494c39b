"""Builders of kwant from ``model.npz``: made by deeph-gformer, and independent of it.

from kwant_model import load
hamiltonian, overlap = load()          # kwant.Builder each; None without an overlap
"""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np


def build(model: Mapping[str, Any]) -> tuple[Any, Any]:
    """Builders of H (eV) and S; sites are the atoms, in the order of the folder.

    Args:
        model: ``lattice`` (3, 3) rows and ``positions`` (N, 3), Å; ``orbitals`` (N,); ``periodic``
            (3,); ``keys`` (E, 5) Rx Ry Rz i j; ``hamiltonian`` and ``overlap``: the blocks,
            row-major, one after the other.
    """
    import kwant

    orbitals = [int(n) for n in model["orbitals"]]
    lattice = kwant.lattice.general(
        model["lattice"].tolist(), model["positions"].tolist(), norbs=orbitals
    )
    vectors = [model["lattice"][n].tolist() for n in range(3) if model["periodic"][n]]
    builders: list[kwant.Builder | None] = []
    for name in ("hamiltonian", "overlap"):
        if name not in model:
            builders.append(None)
            continue
        symmetry = kwant.TranslationalSymmetry(*vectors) if vectors else None
        system = kwant.Builder(symmetry)
        blocks, start = {}, 0
        for key in model["keys"].tolist():
            shape = orbitals[key[3]], orbitals[key[4]]
            stop = start + shape[0] * shape[1]
            blocks[tuple(key)] = np.asarray(model[name][start:stop]).reshape(shape)
            start = stop
        sites = lattice.sublattices
        for i, site in enumerate(sites):
            system[site(0, 0, 0)] = blocks.pop((0, 0, 0, i, i))
        for (x, y, z, i, j), block in blocks.items():
            system[sites[i](0, 0, 0), sites[j](x, y, z)] = block
        builders.append(system)
    return builders[0], builders[1]


def load(path: str | None = None) -> tuple[Any, Any]:
    """:func:`build` of a file; default: ``model.npz`` beside this one."""
    place = pathlib.Path(path) if path else pathlib.Path(__file__).with_name("model.npz")
    with np.load(place, allow_pickle=False) as data:
        return build(dict(data))
