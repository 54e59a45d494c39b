"""The DeepH-dock folder (2026): POSCAR, info.json and one flat HDF5 file per matrix."""

from __future__ import annotations

import math
import os
import pathlib
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from .. import fields
from ..errors import DataError, printable
from .blocks import BlockMatrix, format_key, require_keys, sort_keys
from .files import atomic_path, read_json, real_path, write_json
from .formats import FolderFormat, info_for
from .hdf5.reading import open_dataset, open_hdf5, read_numbers, require_memory
from .hdf5.writing import claim_space, new_hdf5
from .poscar import read_poscar
from .structure import Structure

__all__ = [
    "read_structure",
    "write_structure",
    "read_integers",
    "read_keys",
    "read_pairs",
    "read_blocks",
    "reserve",
    "reorder",
    "shell_permutation",
    "LEGACY_TO_E3NN",
    "FORMAT",
]

#: e3nn[...] = legacy[LEGACY_TO_E3NN[l]]: OpenMX's order inside a shell to m = -l..l; DeepH-dock
#: stores the latter.
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
        shells: l of each shell.
        spinful: repeat for spin down.
        inverse: from m = -l..l to legacy.

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

    folder = pathlib.Path(folder)
    info = read_json(folder / fields.INFO_FILE)
    if not isinstance(info, dict):
        raise DataError(
            f"{folder / fields.INFO_FILE}: holds no JSON object; names and values in braces are "
            'needed, e.g. {"elements_orbital_map": {"C": [0, 0, 1]}}'
        )
    atoms = read_poscar(folder / fields.DOCK_STRUCTURE_FILE)
    orbitals = info.get("elements_orbital_map", {})
    symbols = [chemical_symbols[z] for z in atoms.numbers]
    missing = sorted(set(symbols) - set(orbitals)) if isinstance(orbitals, dict) else []
    if missing:
        raise DataError(
            f"{folder / fields.INFO_FILE}: elements_orbital_map lacks {', '.join(missing)}; "
            "add the l of each of its shells"
        )
    if not isinstance(orbitals, dict) or not all(
        _are_shells(orbitals[symbol]) for symbol in symbols
    ):
        raise DataError(
            f"{folder / fields.INFO_FILE}: elements_orbital_map must give the l of each shell, 0 "
            f'to 3, of every element, e.g. {{"C": [0, 0, 1, 1, 2]}}'
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
        real_path(folder).name,
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
        DataError: atoms are not grouped by element (a POSCAR cannot keep such an order), or atoms
            of one element differ in their shells.
    """
    from ase.data import chemical_symbols

    folder = pathlib.Path(folder)
    symbols = [chemical_symbols[z] for z in structure.numbers]
    groups = [s for n, s in enumerate(symbols) if n == 0 or s != symbols[n - 1]]
    if len(set(groups)) != len(groups):
        raise DataError(
            f"{folder}: atoms are not grouped by element ({' '.join(groups)}), and DeepH-dock's "
            "POSCAR needs them so; convert with deeph-gformer convert"
        )
    orbital_map: dict[str, list[int]] = {}
    for symbol, shells in zip(symbols, structure.orbital_types, strict=True):
        if orbital_map.setdefault(symbol, list(shells)) != list(shells):
            raise DataError(
                f"{folder}: two {symbol} atoms have different shells, {orbital_map[symbol]} and "
                f"{list(shells)}; DeepH-dock stores one list per element"
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


def read_integers(
    handle: h5py.File, path: pathlib.Path, name: str, columns: int, signed: bool = False
) -> NDArray[np.int64]:
    """A dataset of integers: (n, columns), or (n,) for one column.

    Args:
        handle: the open file.
        path: the same file, for messages.
        name: of the dataset.
        columns: how many it must have.
        signed: whether a type without sign is refused, which could not hold lattice vectors.

    Raises:
        DataError: it is missing, damaged, of another shape or type, or larger than the file.
    """
    dataset = open_dataset(handle, path, name)
    where, shape = f"{path}: {name}", dataset.shape
    wanted = "(n,)" if columns == 1 else f"(n, {columns})"
    if len(shape) != (1 if columns == 1 else 2) or (columns > 1 and shape[1] != columns):
        raise DataError(f"{where} has shape {shape}; {wanted} is needed")
    found = dataset.dtype
    if found.kind not in ("i" if signed else "iu") or found.itemsize > 8:
        kind = "signed integers are" if signed else "integers are"
        raise DataError(f"{where} holds {found}; {kind} needed")
    require_memory(path, handle.id.get_vfd_handle(), 8 * math.prod(shape), name)
    values = np.empty(shape, dtype=found)
    try:
        dataset.read(h5py.h5s.ALL, h5py.h5s.ALL, values)
    except (ValueError, OSError, TypeError, RuntimeError) as error:
        raise DataError(f"{where} cannot be read ({printable(str(error))[:200]})") from None
    if found.kind == "u" and values.size and int(values.max()) > np.iinfo(np.int64).max:
        raise DataError(f"{where} holds {values.max()}, beyond any number of values")
    return values.astype(np.int64)


def read_pairs(handle: h5py.File, path: pathlib.Path, structure: Structure) -> NDArray[np.int64]:
    """The keys as they stand in the file.

    Raises:
        DataError: not of this structure, or one is there twice.
    """
    pairs = read_integers(handle, path, fields.DOCK_PAIRS, 5, signed=True)
    require_keys(pairs, len(structure), str(path), 0, fields.DOCK_PAIRS)
    return pairs


def read_keys(path: str | os.PathLike[str], structure: Structure) -> NDArray[np.int64]:
    """The block keys of a matrix, without its values.

    Returns:
        (E, 5) int64, 0-based, canonical order.

    Raises:
        DataError: the file is missing or damaged, or has a key that this structure cannot have.
    """
    path = pathlib.Path(path)
    with open_hdf5(path) as handle:
        pairs = read_pairs(handle, path, structure)
    return pairs[sort_keys(pairs)]


def read_blocks(
    path: str | os.PathLike[str], structure: Structure, spinful: bool = False
) -> BlockMatrix:
    """Read H or S; its orbitals come in the legacy order, as everywhere in memory.

    Args:
        path: ``hamiltonian.h5``, ``overlap.h5`` or ``hamiltonian_pred.h5``.
        structure: gives the shells.
        spinful: whether blocks are spin-doubled.

    Raises:
        DataError: damaged file, missing dataset, wrong shapes, NaN; the message names file and
            block.
    """
    path = pathlib.Path(path)
    with open_hdf5(path) as handle:
        pairs = read_pairs(handle, path, structure)
        shapes = read_integers(handle, path, fields.DOCK_SHAPES, 2)
        bounds = read_integers(handle, path, fields.DOCK_BOUNDARIES, 1)
        entries = open_dataset(handle, path, fields.DOCK_ENTRIES)
        count = entries.shape
        _require_fit(path, structure, spinful, pairs, shapes, bounds, count)
        size = 4 * math.prod(count)
        require_memory(path, handle.id.get_vfd_handle(), size, fields.DOCK_ENTRIES)
        values = read_numbers(entries, f"{path}: {fields.DOCK_ENTRIES}")
    matrix = BlockMatrix(pairs, shapes, values).select(np.arange(len(pairs)))
    matrix.require_numbers(str(path))
    return reorder(matrix, structure, spinful, inverse=True)


def _require_fit(
    path: pathlib.Path,
    structure: Structure,
    spinful: bool,
    pairs: NDArray[np.int64],
    shapes: NDArray[np.int64],
    bounds: NDArray[np.int64],
    entries: tuple[int, ...],
) -> None:
    """Raise unless the tables of a file belong together and to the structure.

    Args:
        path: the file, for messages.
        structure: gives the orbitals.
        spinful: whether blocks are spin-doubled.
        pairs: (E, 5).
        shapes: (E, 2).
        bounds: (E + 1,).
        entries: shape of the values.

    Raises:
        DataError: they do not.
    """
    if len(shapes) != len(pairs) or len(bounds) != len(pairs) + 1:
        raise DataError(
            f"{path}: {len(pairs)} pairs, {len(shapes)} shapes and {len(bounds)} boundaries do "
            "not fit together; make the file again"
        )
    expected = structure.orbital_counts[pairs[:, 3:]] * (2 if spinful else 1)
    wrong = np.flatnonzero((shapes != expected).any(axis=1))
    if len(wrong):
        e = wrong[0]
        doubled = not spinful and (shapes[e] == 2 * expected[e]).all()
        raise DataError(
            f"{path}: block {format_key(pairs[e])} has shape {tuple(shapes[e].tolist())}; the "
            f"orbitals of its atoms ask for {tuple(expected[e].tolist())}"
            + (". It fits a spin-doubled matrix: is spinful wrong in info.json?" if doubled else "")
        )
    begins = np.concatenate([[0], np.cumsum(expected.prod(axis=1))])
    if (bounds != begins).any() or entries != (begins[-1],):
        raise DataError(
            f"{path}: {fields.DOCK_BOUNDARIES} does not fit {fields.DOCK_SHAPES} and "
            f"{fields.DOCK_ENTRIES}; make the file again"
        )


def reserve(
    path: str | os.PathLike[str],
    keys: NDArray[np.int64],
    shapes: NDArray[np.int64],
    dtype: np.dtype,
) -> int:
    """Write all of a file but the values; see :func:`deeph_gformer.io.legacy.reserve`."""
    bounds = np.concatenate([[0], np.cumsum(shapes.prod(axis=1))])
    claim_space(path, _size(len(keys), int(bounds[-1]) * np.dtype(dtype).itemsize))
    with new_hdf5(path) as handle:
        handle[fields.DOCK_PAIRS] = keys
        handle[fields.DOCK_SHAPES] = shapes
        handle[fields.DOCK_BOUNDARIES] = bounds
        early = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        early.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        early.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
        early.set_obj_track_times(False)  # the same matrix is the same file
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
    """About how many bytes a file takes, see :attr:`.FolderFormat.size`."""
    return values + 64 * blocks + 8192


def reorder(
    matrix: BlockMatrix, structure: Structure, spinful: bool, inverse: bool = False
) -> BlockMatrix:
    """Permute the orbitals inside each shell from the legacy order to m = -l..l, or back.

    Args:
        matrix: to permute, in one pass per pair of atom kinds.
        structure: gives the shells.
        spinful: whether blocks are spin-doubled.
        inverse: from m = -l..l to the legacy order.
    """
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
    optional=(fields.DOCK_POSITION_MATRIX_FILE,),
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
