"""DeepH folders as an I/O format of ASE: ``ase.io.read("folder", format="deeph")``,
``ase.io.write("folders", trajectory, format="deeph", ...)``.

A folder says nothing about periodic boundary conditions. An ``Atoms`` read from one repeats along
the lattice vectors that its blocks cross, or, where there is no matrix file, along those without 8
Å of vacuum.
"""

from __future__ import annotations

import contextlib
import functools
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from ase.utils.plugins import ExternalIOFormat

if TYPE_CHECKING:
    from ase import Atoms

    from ..io import Structure
    from ..overlap import OverlapProvider

__all__ = ["io_format", "read_deeph", "write_deeph", "to_atoms", "from_atoms"]

#: What the entry point ``deeph`` of ``ase.ioformats`` loads.
io_format = ExternalIOFormat(
    desc="DeepH structure folder (legacy or DeepH-dock)",
    code="+S",
    module="deeph_gformer.interop.ase_io",
    glob="site_positions.dat",
)

Shells = Mapping[str, Sequence[int]] | Sequence[Sequence[int]]


def _periodic(folder: pathlib.Path, structure: Structure) -> tuple[bool, bool, bool]:
    from ..bands.kpath import periodic_directions
    from ..io.folder import folder_format, matrix_path
    from ..io.formats import get_format

    reader = get_format(folder_format(folder) or "legacy")
    for kind in ("overlap", "hamiltonian"):
        path = matrix_path(folder, kind)
        if path.is_file():
            x, y, z = (bool(v) for v in (reader.read_keys(path, structure)[:, :3] != 0).any(axis=0))
            return x, y, z
    return periodic_directions(structure)


def _by_element(
    symbols: Sequence[str], shells: Sequence[Sequence[int]], name: str
) -> dict[str, list[int]]:
    """Shells of each element from shells of each atom: unlike a list per atom they stay right when
    ASE reorders atoms.
    """
    from ..errors import DataError

    table: dict[str, list[int]] = {}
    for atom, (symbol, mine) in enumerate(zip(symbols, shells, strict=True), 1):
        if table.setdefault(symbol, list(mine)) != list(mine):
            raise DataError(
                f"'{name}', atom {atom} ({symbol}): its shells are {list(mine)}, those of "
                f"{symbol} before it {table[symbol]}; were atoms "
                f"reordered or changed? Set atoms.info['orbital_types'] = {{'{symbol}': ...}} "
                "for each element, or pass orbital_types"
            )
    return table


def to_atoms(structure: Structure, pbc: Sequence[bool] | bool = True) -> Atoms:
    """``Atoms`` with the same positions, not wrapped; shells and ``info.json`` go to
    ``atoms.info``.

    Args:
        structure: from a folder.
        pbc: which lattice vectors repeat.

    Returns:
        ``atoms.info["orbital_types"]`` holds l of each element's shells, ``["isspinful"]`` the
        spin, ``["deeph"]`` the rest, ``["name"]`` the name.

    Raises:
        DataError: two atoms of one element have different shells, which ASE cannot keep apart.
    """
    from ase import Atoms
    from ase.data import chemical_symbols

    info: dict[str, Any] = {
        "name": structure.name,
        "orbital_types": _by_element(
            [chemical_symbols[z] for z in structure.numbers],
            structure.orbital_types,
            structure.name,
        ),
        "isspinful": structure.spinful,
    }
    if structure.info:
        info["deeph"] = dict(structure.info)
    return Atoms(
        numbers=structure.numbers,
        positions=structure.positions,
        cell=structure.lattice,
        pbc=pbc,
        info=info,
    )


def from_atoms(
    atoms: Atoms,
    orbital_types: Shells | None = None,
    spinful: bool | None = None,
    name: str | None = None,
) -> Structure:
    """A structure from ``Atoms``, in their order.

    Args:
        atoms: positions and a full cell, Å.
        orbital_types: ``{"C": [0, 0, 1, 1, 2]}`` or a list per atom; default
            ``atoms.info["orbital_types"]``.
        spinful: default ``atoms.info["isspinful"]``.
        name: default ``atoms.info["name"]``, else the formula.

    Raises:
        DataError: no cell, no shells for an element, or lists that do not fit the atoms.
    """
    from ase.data import chemical_symbols

    from ..errors import DataError
    from ..io import Structure
    from ..overlap import check_shells, structure_from_atoms

    name = str(name or atoms.info.get("name") or atoms.get_chemical_formula())
    shells: Any = orbital_types if orbital_types is not None else atoms.info.get("orbital_types")
    if shells is None:
        raise DataError(
            f"'{name}': a DeepH folder needs the shells of each element; pass "
            f"orbital_types={{'C': [0, 0, 1, 1, 2]}}, as the model or basis "
            "has them"
        )
    if not isinstance(shells, Mapping):
        if (
            not isinstance(shells, (Sequence, np.ndarray))
            or isinstance(shells, str)
            or len(shells) != len(atoms)
        ):
            raise DataError(
                f"'{name}': orbital_types = {shells!r}; give one list of shells per atom "
                f"({len(atoms)}), or a dict with one per element"
            )
        shells = [check_shells(value, f"'{name}', atom {n}") for n, value in enumerate(shells, 1)]
        if orbital_types is None:
            _by_element(atoms.get_chemical_symbols(), shells, name)
        per_atom = tuple(shells)
    else:
        table = {
            chemical_symbols.index(s): check_shells(value, f"'{name}', {s}")
            for s, value in shells.items()
            if s in chemical_symbols
        }
        per_atom = structure_from_atoms(atoms, table, name).orbital_types
    plain = structure_from_atoms(atoms, {int(z): () for z in atoms.numbers}, name)
    spin = atoms.info.get("isspinful") if spinful is None else spinful
    info = {
        k: v
        for k, v in atoms.info.get("deeph", {}).items()
        if k in ("fermi_level", "fermi_energy_eV", "occupation", "isorthogonal", "orthogonal_basis")
    }
    return Structure(
        plain.lattice,
        plain.positions,
        plain.numbers,
        per_atom,
        None if spin is None else bool(spin),
        info,
        name,
    )


def read_deeph(filename: str | os.PathLike[str], index: int | slice | None = -1) -> Iterator[Atoms]:
    """ASE's reader: one folder, a file in it, or every structure folder below, sorted.

    Args:
        filename: folder.
        index: which of them.

    Raises:
        DataError: no structure folder there, not so many, or a damaged one.
    """
    from ..errors import DataError
    from ..io import find_structures, read_folder
    from ..io.folder import folder_format

    root = pathlib.Path(filename)
    root = root.parent if root.is_file() else root
    folders = [root] if folder_format(root) else find_structures(root)
    if isinstance(index, int) and not -len(folders) <= index < len(folders):
        raise DataError(
            f"{root}: structure number {index} is asked for; there are {len(folders)}, counted "
            "from 0"
        )
    for folder in (
        folders[index] if isinstance(index, slice) else [folders[-1 if index is None else index]]
    ):
        structure = read_folder(folder)
        yield to_atoms(structure, _periodic(folder, structure))


def write_deeph(
    filename: str | os.PathLike[str],
    images: Atoms | Sequence[Atoms],
    orbital_types: Shells | None = None,
    spinful: bool | None = None,
    form: str = "legacy",
    overlap: OverlapProvider | str | os.PathLike[str] | None = None,
    overwrite: bool = False,
) -> list[pathlib.Path]:
    """ASE's writer: one image into the folder itself, several into ``<folder>/0000``, ``0001``, ...

    Args:
        filename: folder.
        images: one ``Atoms`` or many.
        orbital_types: see :func:`from_atoms`.
        spinful: see :func:`from_atoms`.
        form: ``legacy`` or ``dock`` (atoms must be grouped by element).
        overlap: also write S from this source (see :func:`deeph_gformer.overlap.load`).
        overwrite: replace structures that are there, with all their matrices.

    Returns:
        the folders.

    Raises:
        DataError: a folder holds a structure already, a structure lacks cell or shells, or S cannot
            be known.
        ConfigError: unknown ``form``.
    """
    from ase import Atoms

    from ..errors import DataError
    from ..io.folder import is_free, replaced_folder, write_matrix
    from ..io.formats import get_format
    from ..overlap import OverlapProvider, load

    writer = get_format(form)
    provider = overlap if overlap is None or isinstance(overlap, OverlapProvider) else load(overlap)
    frames = [images] if isinstance(images, Atoms) else list(images)
    root, digits = pathlib.Path(filename), max(4, len(str(len(frames) - 1)))
    folders = (
        [root]
        if len(frames) == 1
        else [root / f"{number:0{digits}d}" for number in range(len(frames))]
    )

    def check(folder: pathlib.Path) -> None:
        if not is_free(folder) and not overwrite:
            raise DataError(
                f"{folder}: holds a structure already; pass overwrite=True or choose another folder"
            )

    for folder in folders:
        check(folder)
    with contextlib.ExitStack() as stack:  # all frames appear, or none
        for folder, atoms in zip(folders, frames, strict=True):
            shells = orbital_types
            if shells is None and provider is not None and "orbital_types" not in atoms.info:
                from ase.data import chemical_symbols

                shells = {chemical_symbols[z]: s for z, s in provider.orbital_types.items()}
            structure = from_atoms(atoms, shells, spinful, folder.name)
            replaced = replaced_folder(folder, functools.partial(check, folder))
            scratch = stack.enter_context(replaced)
            writer.write_structure(scratch, structure)
            if provider is not None:
                keys = provider.edges(structure, tuple(np.asarray(atoms.pbc, bool).tolist()))
                write_matrix(scratch, "overlap", provider.overlap(structure, keys), structure, form)
    return folders
