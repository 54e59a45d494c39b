"""The folder formats: what each one is called, which files it has, and who reads and writes them.

A new format is one module with a :class:`FolderFormat`, and one line: in ``_BUILT_IN`` here, or the
entry point ``deeph_gformer.formats`` of another package.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError
from ..plugins import installed
from .blocks import BlockMatrix
from .files import atomic_path
from .hdf5.symbol_table import write_values
from .shared import FirstWrites, SharedFile, Writers
from .structure import Structure

__all__ = [
    "ENTRY_POINTS",
    "FolderFormat",
    "Kind",
    "formats",
    "get_format",
    "info_for",
    "derivative_file",
    "structure_files",
]

Kind = Literal["hamiltonian", "overlap", "prediction"]
#: Entry point group where another package names its :class:`FolderFormat`.
ENTRY_POINTS = "deeph_gformer.formats"
_BUILT_IN = ("legacy", "dock")


def _as_in_memory(matrix: BlockMatrix, structure: Structure, spinful: bool) -> BlockMatrix:
    return matrix


@dataclasses.dataclass(frozen=True)
class FolderFormat:
    """One way to keep a structure and its matrices in a folder.

    In memory atoms have the order of the files, orbitals the legacy order.

    Attributes:
        name: as options name it.
        title: as messages name it.
        required: files that make a folder one of this format; the last of them is written last.
        files: file name of H, S and a prediction.
        optional: further files of a structure.
        read_structure: folder -> structure.
        write_structure: (folder, structure); the required files last, so that a folder is never
            taken for a structure before it is one.
        read_keys: (file, structure) -> keys (E, 5), 0-based, canonical order.
        read_blocks: (file, structure, spin-doubled) -> blocks, orbitals in the legacy order.
        reserve: (temporary file, keys, shapes (E, 2), dtype) -> first byte of the values, which
            stand in the order of the keys, without gaps; writes everything else.
        shared: (keys, shapes, dtype, processes) -> the file that they write together, each with its
            own consecutive blocks; None: the first one does what ``reserve`` does.
        size: (blocks, bytes of values) -> about how many bytes a matrix file takes.
        stored: (matrix, structure, spin-doubled) -> the blocks as this format orders orbitals.
        grouped: whether atoms must be grouped by element.
        info_names: how ``info.json`` calls ``atoms``, ``orbitals``, ``orthogonal``, ``spinful`` and
            ``fermi_level``.
        own_info: further names of ``info.json`` that follow from the structure.
    """

    name: str
    title: str
    required: tuple[str, ...]
    files: Mapping[Kind, str]
    read_structure: Callable[[pathlib.Path], Structure]
    write_structure: Callable[[pathlib.Path, Structure], None]
    read_keys: Callable[[pathlib.Path, Structure], NDArray[np.int64]]
    read_blocks: Callable[[pathlib.Path, Structure, bool], BlockMatrix]
    reserve: Callable[[pathlib.Path, NDArray[np.int64], NDArray[np.int64], np.dtype], int]
    size: Callable[[int, int], int]
    stored: Callable[[BlockMatrix, Structure, bool], BlockMatrix] = _as_in_memory
    shared: (
        Callable[[NDArray[np.int64], NDArray[np.int64], np.dtype, Writers], SharedFile] | None
    ) = None
    optional: tuple[str, ...] = ()
    grouped: bool = False
    info_names: Mapping[str, str] = dataclasses.field(default_factory=dict)
    own_info: tuple[str, ...] = ()

    def is_folder(self, folder: str | os.PathLike[str]) -> bool:
        """Whether the folder has all required files."""
        return all((pathlib.Path(folder) / name).is_file() for name in self.required)

    def share(
        self,
        keys: NDArray[np.int64],
        shapes: NDArray[np.int64],
        dtype: np.dtype,
        writers: Writers,
    ) -> SharedFile:
        """The file that processes write together.

        Args:
            keys: (E, 5), 0-based, of this process's blocks, which follow those of the ranks below.
            shapes: (E, 2), rows and columns.
            dtype: of the values.
            writers: the processes.
        """
        if self.shared is not None:
            return self.shared(keys, shapes, dtype, writers)
        return FirstWrites(keys, shapes, dtype, writers, self.reserve)

    def write_blocks(
        self,
        path: str | os.PathLike[str],
        matrix: BlockMatrix,
        structure: Structure,
        spinful: bool = False,
        before: Callable[[], None] | None = None,
    ) -> None:
        """Write H or S (given in the legacy orbital order) in one step.

        Args:
            path: the file to create or replace.
            matrix: the blocks; stored in their own floating type.
            structure: gives the shells.
            spinful: whether blocks are spin-doubled.
            before: see :func:`~deeph_gformer.io.files.atomic_path`.

        Raises:
            DataError: not enough space, or the file cannot be written.
        """
        size = self.size(len(matrix), matrix.values.nbytes)
        with atomic_path(path, size, before) as temporary:
            start = self.reserve(temporary, matrix.keys, matrix.shapes, matrix.values.dtype)
            write_values(temporary, start, self.stored(matrix, structure, spinful).values)


@functools.cache
def formats() -> Mapping[str, FolderFormat]:
    """Every known format by its name; those of this package first.

    Raises:
        GFormerError: another package's entry point is no :class:`FolderFormat`.
    """
    import importlib

    known: dict[str, FolderFormat] = {}
    for name in _BUILT_IN:
        known[name] = importlib.import_module(f".{name}", __package__).FORMAT

    def check(found: object) -> FolderFormat | None:
        return found if isinstance(found, FolderFormat) else None

    return installed(ENTRY_POINTS, known, check, "FolderFormat")


def get_format(name: str) -> FolderFormat:
    """The format of this name.

    Raises:
        ConfigError: there is none.
    """
    if name not in formats():
        raise ConfigError(f"format '{name}' is unknown; there are {', '.join(formats())}")
    return formats()[name]


def info_for(structure: Structure, form: FolderFormat) -> dict[str, Any]:
    """``structure.info`` with the names that one format has for its entries.

    What the other formats call by names of their own is renamed, what follows from the structure is
    left out, everything else is kept.

    Args:
        structure: read in any format.
        form: to be written.
    """
    meaning = {name: key for f in formats().values() for key, name in f.info_names.items()}
    derived = {name for f in formats().values() for name in f.own_info}
    known = {meaning[name]: value for name, value in structure.info.items() if name in meaning}
    if structure.spinful is not None:
        known["spinful"] = structure.spinful
    counts = {"atoms": len(structure), "orbitals": int(structure.orbital_counts.sum())}
    known |= {key: count for key, count in counts.items() if key in known}
    info = {form.info_names[key]: value for key, value in known.items() if key in form.info_names}
    others = structure.info.items()
    return info | {k: v for k, v in others if k not in meaning and k not in derived}


def structure_files() -> tuple[str, ...]:
    """Every file that belongs to a structure in any format."""
    names: dict[str, None] = {}
    for form in formats().values():
        names |= dict.fromkeys((*form.required, *form.optional, *form.files.values()))
        names |= dict.fromkeys(derivative_file(n, a) for n in form.files.values() for a in "xyz")
    return tuple(names)


def derivative_file(name: str, axis: str) -> str:
    """The name of a matrix' derivative: ``hamiltonians_dx.h5`` of ``hamiltonians.h5`` and ``x``."""
    stem, _, ending = name.rpartition(".")
    return f"{stem}_d{axis}.{ending}"
