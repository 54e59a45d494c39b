"""The DeepH-dock folder (2026): POSCAR, info.json and one flat HDF5 file per matrix."""

from __future__ import annotations

import os
import pathlib
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from .. import fields
from ..errors import DataError
from .blocks import BlockMatrix, format_key, sort_keys
from .files import atomic_path, claim_space, read_json, write_json
from .formats import FolderFormat, info_for
from .structure import Structure

__all__ = [
    "read_structure",
    "write_structure",
    "read_keys",
    "read_blocks",
    "reserve",
    "reorder",
    "shell_permutation",
    "LEGACY_TO_E3NN",
    "FORMAT",
]

#: e3nn[...] = legacy[LEGACY_TO_E3NN[l]]: OpenMX's order inside a shell to m = -l..l; DeepH-dock stores the latter.
LEGACY_TO_E3NN: dict[int, tuple[int, ...]] = {
    0: (0,),
    1: (1, 2, 0),
    2: (2, 4, 0, 3, 1),
    3: (6, 4, 2, 0, 1, 3, 5),
}


def shell_permutation(
    shells: tuple[int, ...], spinful: bool = False, inverse: bool = False
) -> NDArray[np.int64]:
    """Index that reorders an atom's orbitals from the legacy order to m = -l..l (or back).

    Args:
        shells: l of each shell. spinful: repeat for spin down. inverse: from m = -l..l to legacy.

    Returns:
        (n_orbitals,) or (2 n_orbitals,): ``new = old[index]``.
    """
    index: list[int] = []
    for l in shells:
        base = len(index)
        index += [base + m for m in LEGACY_TO_E3NN[l]]
    order = np.array(index, dtype=np.int64)
    if inverse:
        order = np.argsort(order)
    return np.concatenate([order, order + len(order)]) if spinful else order


def read_structure(folder: str | os.PathLike[str]) -> Structure:
    """Read ``POSCAR`` and ``info.json``.

    Raises:
        DataError: a file is missing, damaged, or lacks ``elements_orbital_map`` for an element.
    """
    from ase.data import chemical_symbols
    from ase.io import read

    folder = pathlib.Path(folder)
    info = read_json(folder / fields.INFO_FILE)
    if not isinstance(info, dict):
        raise DataError(f"{folder / fields.INFO_FILE}: holds no JSON object")
    try:
        atoms = read(folder / fields.DOCK_STRUCTURE_FILE, format="vasp")
    except FileNotFoundError:
        raise DataError(f"{folder / fields.DOCK_STRUCTURE_FILE}: file not found") from None
    except Exception as error:
        raise DataError(
            f"{folder / fields.DOCK_STRUCTURE_FILE}: not a POSCAR ({str(error) or type(error).__name__})"
        ) from None
    orbitals = info.get("elements_orbital_map", {})
    symbols = [chemical_symbols[z] for z in atoms.numbers]
    missing = sorted(set(symbols) - set(orbitals)) if isinstance(orbitals, dict) else []
    if missing:
        raise DataError(
            f"{folder / fields.INFO_FILE}: elements_orbital_map lacks {', '.join(missing)}"
        )
    if not isinstance(orbitals, dict) or not all(
        _are_shells(orbitals[symbol]) for symbol in symbols
    ):
        raise DataError(
            f'{folder / fields.INFO_FILE}: elements_orbital_map must give the l of each shell, 0 to 3, of every element, e.g. {{"C": [0, 0, 1, 1, 2]}}'
        )
    shells = tuple(tuple(orbitals[symbol]) for symbol in symbols)
    spinful = info.get("spinful")
    if spinful is not None and not isinstance(spinful, bool):
        raise DataError(
            f"{folder / fields.INFO_FILE}: spinful is {spinful!r}; it must be true or false"
        )
    return Structure(
        np.asarray(atoms.cell[:]),
        atoms.positions.copy(),
        atoms.numbers.astype(np.int64),
        shells,
        spinful,
        info,
        folder.resolve().name,
    )


def _are_shells(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(type(l) is int and l in LEGACY_TO_E3NN for l in value)
    )


def write_structure(folder: str | os.PathLike[str], structure: Structure) -> None:
    """Write ``POSCAR`` (Cartesian, atoms in their order) and ``info.json`` with DeepH-dock's keys.

    Raises:
        DataError: atoms are not grouped by element (a POSCAR cannot keep such an order), or atoms of one element differ in their shells.
    """
    from ase.data import chemical_symbols

    folder = pathlib.Path(folder)
    symbols = [chemical_symbols[z] for z in structure.numbers]
    groups = [s for n, s in enumerate(symbols) if n == 0 or s != symbols[n - 1]]
    if len(set(groups)) != len(groups):
        raise DataError(
            f"{folder}: atoms are not grouped by element ({' '.join(groups)}), and DeepH-dock's POSCAR needs them so; convert with deeph-gformer convert"
        )
    orbital_map: dict[str, list[int]] = {}
    for symbol, shells in zip(symbols, structure.orbital_types):
        if orbital_map.setdefault(symbol, list(shells)) != list(shells):
            raise DataError(
                f"{folder}: two {symbol} atoms have different shells, {orbital_map[symbol]} and {list(shells)}; DeepH-dock stores one list per element"
            )
    lines = ["deeph-gformer", "1.0"] + [
        "  ".join(f"{x: .16f}" for x in row) for row in structure.lattice
    ]
    lines += [" ".join(groups), " ".join(str(symbols.count(s)) for s in groups), "Cartesian"]
    lines += ["  ".join(f"{x: .16f}" for x in row) for row in structure.positions]
    with atomic_path(folder / fields.DOCK_STRUCTURE_FILE) as path:
        path.write_text("\n".join(lines) + "\n")
    old = info_for(structure, FORMAT)
    info = {
        "atoms_quantity": len(structure),
        "orbits_quantity": int(structure.orbital_counts.sum()),
        "orthogonal_basis": bool(old.pop("orthogonal_basis", False)),
        "spinful": bool(structure.spinful),
        "fermi_energy_eV": old.pop("fermi_energy_eV", None),
        "elements_orbital_map": orbital_map,
    }
    write_json(folder / fields.INFO_FILE, old | info)


def _tables(path: pathlib.Path, *wanted: tuple[str, int]) -> list[NDArray[np.number]]:
    """Datasets of a matrix file, each given as (name, columns): (n, columns) int64; (n,) for one column; (n,) numbers as stored for none.

    Raises:
        DataError: the file is missing, damaged, or lacks one of them.
    """
    try:
        with h5py.File(path, "r") as handle:
            found = [(np.asarray(handle[name][()]), columns) for name, columns in wanted]
            return [
                table.reshape(-1)
                if not n
                else table.astype(np.int64).reshape((-1, n) if n > 1 else -1)
                for table, n in found
            ]
    except FileNotFoundError:
        raise DataError(f"{path}: file not found") from None
    except KeyError as error:
        raise DataError(
            f"{path}: not a DeepH-dock matrix, a dataset is missing ({error})"
        ) from None
    except (OSError, RuntimeError, TypeError, ValueError, MemoryError) as error:
        raise DataError(
            f"{path}: not a readable HDF5 file, damaged or cut short ({str(error).splitlines()[0]})"
        ) from None


def read_keys(path: str | os.PathLike[str], structure: Structure) -> NDArray[np.int64]:
    """The block keys of a DeepH-dock matrix, without its values: (E, 5) int64, 0-based, canonical order.

    Raises:
        DataError: the file is missing or damaged, or names an atom that does not exist.
    """
    path = pathlib.Path(path)
    (pairs,) = _tables(path, (fields.DOCK_PAIRS, 5))
    if len(pairs) and (pairs[:, 3:].min() < 0 or pairs[:, 3:].max() >= len(structure)):
        raise DataError(
            f"{path}: {fields.DOCK_PAIRS} names an atom outside 0..{len(structure) - 1}"
        )
    return pairs[sort_keys(pairs)]


def read_blocks(
    path: str | os.PathLike[str], structure: Structure, spinful: bool = False
) -> BlockMatrix:
    """Read H or S and put its orbitals into the legacy order, the one order all of deeph-gformer uses in memory.

    Args:
        path: ``hamiltonian.h5``, ``overlap.h5`` or ``hamiltonian_pred.h5``.
        structure: gives the shells. spinful: whether blocks are spin-doubled.

    Raises:
        DataError: damaged file, missing dataset, wrong shapes, NaN; the message names file and block.
    """
    path = pathlib.Path(path)
    pairs, shapes, bounds, values = _tables(
        path,
        (fields.DOCK_PAIRS, 5),
        (fields.DOCK_SHAPES, 2),
        (fields.DOCK_BOUNDARIES, 1),
        (fields.DOCK_ENTRIES, 0),
    )
    if len(pairs) and (pairs[:, 3:].min() < 0 or pairs[:, 3:].max() >= len(structure)):
        raise DataError(
            f"{path}: {fields.DOCK_PAIRS} names an atom outside 0..{len(structure) - 1}"
        )
    expected = structure.orbital_counts[pairs[:, 3:]] * (2 if spinful else 1)
    if len(shapes) != len(pairs) or len(bounds) != len(pairs) + 1:
        raise DataError(
            f"{path}: {len(pairs)} pairs, {len(shapes)} shapes and {len(bounds)} boundaries do not fit together"
        )
    wrong = np.flatnonzero((shapes != expected).any(axis=1))
    if len(wrong):
        raise DataError(
            f"{path}: block {format_key(pairs[wrong[0]])} has shape {tuple(shapes[wrong[0]].tolist())}; the orbitals of its atoms ask for {tuple(expected[wrong[0]].tolist())}"
        )
    if (
        (np.diff(bounds) != shapes.prod(axis=1)).any()
        or bounds[0] != 0
        or bounds[-1] != len(values)
    ):
        raise DataError(
            f"{path}: {fields.DOCK_BOUNDARIES} does not fit {fields.DOCK_SHAPES} and {fields.DOCK_ENTRIES}"
        )
    matrix = BlockMatrix(pairs, shapes, values).select(np.arange(len(pairs)))
    if not np.isfinite(matrix.values).all():
        e = (
            int(
                np.searchsorted(
                    matrix.offsets, np.flatnonzero(~np.isfinite(matrix.values))[0], side="right"
                )
            )
            - 1
        )
        raise DataError(
            f"{path}: block {format_key(matrix.keys[e])} contains NaN or infinite values"
        )
    return reorder(matrix, structure, spinful, inverse=True)


def reserve(
    path: str | os.PathLike[str],
    keys: NDArray[np.int64],
    shapes: NDArray[np.int64],
    dtype: np.dtype,
) -> int:
    """Write all of a file but the values. Arguments, return value and errors: see :func:`deeph_gformer.io.legacy.reserve`."""
    bounds = np.concatenate([[0], np.cumsum(shapes.prod(axis=1))])
    claim_space(
        path, _size(len(keys), int(bounds[-1]) * np.dtype(dtype).itemsize)
    )  # HDF5 itself cannot close a file on a full disk cleanly
    with h5py.File(path, "w") as handle:
        handle[fields.DOCK_PAIRS], handle[fields.DOCK_SHAPES], handle[fields.DOCK_BOUNDARIES] = (
            keys,
            shapes,
            bounds,
        )
        early = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        early.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        early.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
        space = h5py.h5s.create_simple((int(bounds[-1]),))
        entries = h5py.h5d.create(
            handle.id,
            fields.DOCK_ENTRIES.encode(),
            h5py.h5t.py_create(dtype, logical=True),
            space,
            dcpl=early,
        )
        return int(entries.get_offset() or 0)


def _size(blocks: int, values: int) -> int:
    return values + 64 * blocks + 8192


def reorder(
    matrix: BlockMatrix, structure: Structure, spinful: bool, inverse: bool = False
) -> BlockMatrix:
    """Permute the orbitals inside each shell from the legacy order to m = -l..l (``inverse``: back), one pass per pair of atom kinds."""
    kinds = {shells: n for n, shells in enumerate(dict.fromkeys(structure.orbital_types))}
    orders = [shell_permutation(shells, spinful, inverse) for shells in kinds]
    kind = np.array([kinds[shells] for shells in structure.orbital_types], dtype=np.int64)
    pair = kind[matrix.keys[:, 3]] * len(kinds) + kind[matrix.keys[:, 4]]
    values = np.empty_like(matrix.values)
    for code in np.unique(pair):
        row, column = orders[code // len(kinds)], orders[code % len(kinds)]
        flat = (row[:, None] * len(column) + column[None, :]).reshape(-1)
        if len(kinds) == 1:
            np.take(
                matrix.values.reshape(-1, len(flat)),
                flat,
                axis=1,
                out=values.reshape(-1, len(flat)),
                mode="clip",
            )
            continue
        start = matrix.offsets[np.flatnonzero(pair == code)][:, None]
        values[start + np.arange(len(flat))] = matrix.values[start + flat]
    return BlockMatrix(matrix.keys, matrix.shapes, values)


FORMAT = FolderFormat(
    name="dock",
    title="DeepH-dock",
    required=(fields.DOCK_STRUCTURE_FILE, fields.INFO_FILE),
    files={
        "hamiltonian": fields.DOCK_HAMILTONIAN_FILE,
        "overlap": fields.DOCK_OVERLAP_FILE,
        "prediction": fields.DOCK_PREDICTION_FILE,
    },
    read_structure=read_structure,
    write_structure=write_structure,
    read_keys=read_keys,
    read_blocks=read_blocks,
    reserve=reserve,
    size=_size,
    stored=reorder,
    grouped=True,
    info_names={
        "atoms": "atoms_quantity",
        "orbitals": "orbits_quantity",
        "orthogonal": "orthogonal_basis",
        "spinful": "spinful",
        "fermi_level": "fermi_energy_eV",
    },
    own_info=("elements_orbital_map",),
)
