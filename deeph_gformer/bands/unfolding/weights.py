"""Spectral weights of supercell states in the primitive Brillouin zone, in a non-orthogonal basis.

For a state c at K and a primitive k with the same phases on supercell vectors,

    w(k) = 1/N sum_m Re (sum_mu e^(-ik.r_mu) c_mu)^* (sum_mu e^(-ik.r_mu) (S c)_mu),

the inner sums over the N supercell orbitals mu, in the primitive cells r_mu, that repeat the
primitive orbital m (C.-C. Lee, Y. Yamada-Takamura, T. Ozaki, J. Phys.: Condens. Matter 25, 345501
(2013)). It is a Mulliken population: over the N wave vectors k that fold onto K it adds up to 1 for
any crystal, and over layers with primitive cells of their own, too. In a perfect supercell it is 0
or 1.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import pathlib
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from ...errors import ConfigError, DataError, GFormerError
from ...io import Structure
from ...io.files import write_json
from ...io.poscar import read_frames
from ..bandstructure import band_structure
from ..bloch import BlochProblem
from ..fermi import FermiLevel
from ..kpath import KPath, find_path, read_path_file
from ..result import Bands
from ..sparse.product import RowParts
from .frame import split_layers
from .primitive import by_matrix, by_translations
from .supercell import Cell, PrimitiveMap, map_onto

__all__ = ["TOTAL", "Unfolded", "primitive_maps", "unfold", "unfolded_weights"]

TOTAL = "unfolded"
"""Name of the weight of all layers together."""


@dataclasses.dataclass(frozen=True)
class Unfolded:
    """Supercell bands on a primitive path.

    Attributes:
        bands: on the primitive path; ``projections`` holds the weights (K, B): "unfolded", and with
            several primitive cells "layer 1", "layer 2", ...
        maps: how each primitive cell lies in the supercell.
    """

    bands: Bands
    maps: tuple[PrimitiveMap, ...]

    @property
    def weights(self) -> NDArray[np.float64]:
        """(K, B), spectral weights."""
        return self.bands.projections[TOTAL]

    def to_json(self) -> dict[str, Any]:
        """For JSON; units in the key names."""
        return {
            **self.bands.to_json(),
            "unfolding": [
                {
                    "matrix": m.matrix.tolist(),
                    "cells": m.count,
                    "atoms": (m.atoms + 1).tolist(),
                    "sites": (m.sites + 1).tolist(),
                    "primitive_lattice_angstrom": m.cell.lattice.tolist(),
                    "displacement_angstrom": m.displacement_A,
                    "strain": m.strain,
                }
                for m in self.maps
            ],
        }

    def write_json(self, path: str | os.PathLike[str]) -> None:
        """Write :meth:`to_json`."""
        write_json(path, self.to_json())


def _read_cell(source: str | os.PathLike[str] | Structure | Any) -> tuple[Cell, str]:
    """A primitive cell from a structure, a DeepH folder, or a file that ASE reads.

    Raises:
        ConfigError: it is none of them.
    """
    if isinstance(source, Structure):
        return Cell(source.lattice, source.positions, source.numbers), f"'{source.name}'"
    import ase.io

    if isinstance(source, ase.Atoms):
        cell = Cell(np.array(source.cell), source.get_positions(), source.numbers)
        return cell, f"'{source.get_chemical_formula()}'"
    path = pathlib.Path(source)
    if path.is_dir():
        from ...io import read_folder

        return _read_cell(read_folder(path))[0], str(path)
    if not path.is_file():
        raise ConfigError(
            f"--unfold {path}: no such file or folder; give the primitive cell, a matrix such as "
            "2,2,1 (or nine numbers), or spglib"
        )
    try:
        return _read_cell(read_frames(path)[-1])[0], str(path)
    except GFormerError:
        raise
    except Exception as error:  # noqa: BLE001 - ASE's readers raise many kinds
        raise ConfigError(f"{path}: ASE cannot read a structure from it ({error})") from None


def _parse_matrix(text: str) -> NDArray[np.int64] | None:
    """``2,2,1``, ``2x2x1`` or nine integers, rows; None where it is something else."""
    words = re.split(r"[x,;\s]+", text.strip())
    if not all(re.fullmatch(r"[+-]?\d+", word) for word in words) or len(words) not in (3, 9):
        return None
    numbers = np.array([int(word) for word in words])
    return np.diag(numbers) if len(numbers) == 3 else numbers.reshape(3, 3)


def primitive_maps(
    structure: Structure, periodic: tuple[bool, bool, bool], primitives: Sequence[Any]
) -> tuple[PrimitiveMap, ...]:
    """How primitive cells lie in a supercell.

    Args:
        structure: the supercell.
        periodic: along which of its vectors it repeats.
        primitives: one, or one for each layer of a slab from below: a structure (file, DeepH
            folder, ``Structure``, ``ase.Atoms``), an integer matrix ("2,2,1", nine numbers, an
            array), or "spglib".

    Raises:
        ConfigError: one of them cannot be read or is no primitive cell of the structure.
    """
    layers: list[NDArray[np.int64] | None] = [None]
    if len(primitives) > 1:
        layers = list(split_layers(structure, periodic, len(primitives)))
    maps = []
    for primitive, atoms in zip(primitives, layers, strict=True):
        text = str(primitive) if isinstance(primitive, (str, os.PathLike)) else ""
        matrix = _parse_matrix(text) if text else None
        if isinstance(primitive, (np.ndarray, list, tuple)):
            matrix = np.asarray(primitive, dtype=np.int64)
        if text == "spglib":
            maps.append(by_translations(structure, periodic, atoms))
        elif matrix is not None:
            maps.append(by_matrix(structure, periodic, matrix, f"--unfold {text}", atoms))
        else:
            cell, name = _read_cell(primitive)
            maps.append(map_onto(structure, periodic, cell, name, atoms))
    return tuple(maps)


def _fold(problem: BlochProblem, m: PrimitiveMap, big_k: NDArray[np.float64]) -> sp.csr_matrix:
    """(m, n) matrix that sums the orbitals of one map's atoms with e^(-ik.r).

    Args:
        problem: of the supercell.
        m: a map onto a primitive cell.
        big_k: (3,), fractional, of the supercell: k is the same vector.

    Raises:
        DataError: atoms on one site have different orbitals.
    """
    k = np.linalg.solve(m.matrix.astype(float), big_k)
    sizes = problem.structure.orbital_counts * problem.spin
    first = np.concatenate([[0], np.cumsum(sizes)])
    site_size = np.zeros(len(m.cell.numbers), dtype=np.int64)
    for site in range(len(site_size)):
        mine = m.atoms[m.sites == site]
        shells = {problem.structure.orbital_types[atom] for atom in mine}
        if len(shells) > 1:
            raise DataError(
                f"{problem.source}: atoms {(mine[:3] + 1).tolist()}... repeat one site of the "
                "primitive cell and have different orbitals"
            )
        site_size[site] = sizes[mine[0]]
    site_first = np.concatenate([[0], np.cumsum(site_size)])
    count = sizes[m.atoms]
    inner = np.arange(int(count.sum())) - np.repeat(np.cumsum(count) - count, count)
    rows = np.repeat(site_first[m.sites], count) + inner
    columns = np.repeat(first[m.atoms], count) + inner
    phases = np.repeat(np.exp(-2j * np.pi * (m.cells @ k)), count)
    shape = (int(site_first[-1]), problem.size)
    return sp.csr_matrix((phases, (rows, columns)), shape=shape)


def unfolded_weights(
    problem: BlochProblem,
    big_k: NDArray[np.float64],
    vectors: NDArray[np.number],
    energies: NDArray[np.float64],
    s: NDArray[np.number] | sp.csr_matrix,
    maps: Sequence[PrimitiveMap],
) -> dict[str, NDArray[np.float64]]:
    """Weights of states at one wave vector.

    Degenerate states are those combinations that make the total weight diagonal: k and -k, say,
    fold onto the same K, and LAPACK mixes their states as it likes.

    Args:
        problem: of the supercell.
        big_k: (3,), fractional, of the supercell, not reduced: it names the primitive k, too.
        vectors: (n, B), c† S c = 1.
        energies: (B,), ascending, eV.
        s: (n, n), S(K).
        maps: of :func:`primitive_maps`.

    Returns:
        name -> (B,); "unfolded" is the sum.
    """
    metric = RowParts(s) @ vectors if sp.issparse(s) else s @ vectors
    sums = []
    for m in maps:
        fold = _fold(problem, m, big_k)
        sums.append(((fold @ vectors).conj() / m.count, fold @ metric))
    parts = np.array([(a * b).sum(axis=0).real for a, b in sums])  # (L, B)
    edges = np.flatnonzero(np.diff(energies) > problem.rounding_eV) + 1
    for group in np.split(np.arange(len(energies)), edges):
        if len(group) < 2:
            continue
        blocks = [a[:, group].T @ b[:, group] for a, b in sums]
        blocks = [(block + block.conj().T) / 2 for block in blocks]
        _, turn = np.linalg.eigh(np.sum(blocks, axis=0))
        for part, block in zip(parts, blocks, strict=True):
            part[group] = np.einsum("ij,ik,kj->j", turn.conj(), block, turn).real
    layers = {f"layer {n}": part for n, part in enumerate(parts, 1)} if len(maps) > 1 else {}
    return {TOTAL: parts.sum(axis=0), **layers}


def _primitive_structure(structure: Structure, m: PrimitiveMap, name: str) -> Structure:
    shells = []
    for site in range(len(m.cell.numbers)):
        shells.append(structure.orbital_types[int(m.atoms[m.sites == site][0])])
    return Structure(
        m.cell.lattice, m.cell.positions, m.cell.numbers, tuple(shells), name=f"{name}, primitive"
    )


def unfold(
    problem: BlochProblem,
    primitives: Sequence[Any] | Any,
    path: str | KPath | pathlib.Path | None = None,
    npoints: int = 120,
    *,
    fermi: FermiLevel | float | None = None,
    window: tuple[float, float] | None = None,
    nbands: int | None = None,
    solver: Any = "auto",
    path_engine: Any = "auto",
    processes: int = 1,
    progress: Callable[[int, int], None] | None = None,
    **options: Any,
) -> Unfolded:
    """Bands of a supercell on the path of its (first) primitive cell.

    Args:
        problem: the supercell's Hamiltonian.
        primitives: see :func:`primitive_maps`.
        path: special points of the primitive lattice, or a path in its fractional coordinates,
            also from a file (:func:`~..kpath.read_path_file`).
        npoints: over the whole path.
        fermi: the Fermi level of the supercell.
        window: (low, high], eV relative to it.
        nbands: how many bands around it.
        solver: see :func:`~..bandstructure.band_structure`.
        path_engine: see there.
        processes: k-points in parallel.
        progress: called with (done, all).
        **options: further ones of :func:`~..bandstructure.band_structure`.

    Raises:
        ConfigError: the structure is no supercell; what the band structure raises.
    """
    if isinstance(primitives, (str, os.PathLike, Structure, np.ndarray)):
        primitives = [primitives]
    maps = primitive_maps(problem.structure, problem.periodic, primitives)
    small = _primitive_structure(problem.structure, maps[0], problem.structure.name)
    if isinstance(path, pathlib.Path):
        path = read_path_file(path, small, problem.periodic)[0]
    primitive_path = find_path(small, problem.periodic, path, npoints, path_engine)
    big = dataclasses.replace(primitive_path, kpoints=primitive_path.kpoints @ maps[0].matrix.T)
    found = band_structure(
        problem,
        big,
        npoints,
        solver,
        window,
        nbands,
        fermi,
        weigh=functools.partial(unfolded_weights, maps=maps),
        processes=processes,
        progress=progress,
        **options,
    )
    notes = [_describe(m, number if len(maps) > 1 else 0) for number, m in enumerate(maps, 1)]
    bands = dataclasses.replace(
        found, path=primitive_path, lattice=small.lattice, notes=[*found.notes, *notes]
    )
    return Unfolded(bands, maps)


def _describe(m: PrimitiveMap, layer: int) -> str:
    name = f"layer {layer}" if layer else "the supercell"
    return (
        f"{name} is {m.count} primitive cells, atoms up to {m.displacement_A:.3f} Å from their "
        f"sites, "
        f"strain {m.strain:.2%}"
    )
