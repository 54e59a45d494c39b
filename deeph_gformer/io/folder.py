"""One door to all folder formats: which is it, what is in it, where are more."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

from ..errors import DataError
from ..fields import INFO_FILE
from ..logs import LOGGER
from .blocks import BlockMatrix
from .files import entry_kind, real_path, require_file
from .formats import FolderFormat, Kind, formats, get_format, structure_files
from .hdf5.symbol_table import write_values
from .locks import await_writers
from .metric import require_metric
from .replace import is_temporary, remove_leftovers, replaced_folder
from .structure import Structure

__all__ = [
    "NoStructureError",
    "Format",
    "Kind",
    "folder_format",
    "read_folder",
    "read_matrix",
    "matrix_path",
    "has_matrix",
    "write_matrix",
    "write_part",
    "find_structures",
    "require_folder",
    "require_unchanged",
    "split_structures",
    "folder_of_overlap",
    "holds_another",
    "is_free",
    "is_temporary",
    "remove_leftovers",
    "replaced_folder",
    "require_names",
    "warn_unreadable",
]

#: Name of a folder format, see :mod:`deeph_gformer.io.formats`.
Format = str
_ROUNDING = 1e-10
"""Imaginary parts of overlaps that sums over k-points leave."""
_TIMES = 10
"""How often a structure is read that other processes replace meanwhile."""


def folder_format(folder: str | os.PathLike[str]) -> Format | None:
    """'legacy', 'dock', another format's name, or None where the folder holds no structure."""
    return next((name for name, form in formats().items() if form.is_folder(folder)), None)


def require_folder(path: str | os.PathLike[str]) -> pathlib.Path:
    """The path of a folder.

    Raises:
        DataError: it is not there, or is a file.
    """
    path = pathlib.Path(path)
    kind = entry_kind(path)
    if kind != "folder":
        wrong = "is a file; give the folder" if kind else "no such folder"
        raise DataError(f"{path}: {wrong}")
    return path


def _require_format(folder: pathlib.Path) -> Format:
    """The format of a structure folder.

    Raises:
        DataError: it is none; says what is missing, or where structures are.
    """
    form = folder_format(folder)
    if form is None:
        require_folder(folder)
        for below in sorted(folder.iterdir()):
            if not is_temporary(below.name) and folder_format(below) is not None:
                raise DataError(
                    f"{folder}: no structure folder, but holds some; give one, e.g. {below}"
                )
        first, *others = formats().values()
        missing = [name for name in first.required if not (folder / name).is_file()]
        needs = "; ".join(f"{f.title} needs {', '.join(f.required)}" for f in others)
        raise DataError(
            f"{folder}: no structure folder, {', '.join(missing)} missing ({first.name} format; "
            f"{needs})"
        )
    return form


def read_folder(folder: str | os.PathLike[str]) -> Structure:
    """Read the structure of a legacy or DeepH-dock folder.

    Another process may replace the folder meanwhile: its files are then read again.

    Raises:
        DataError: it is neither, a file is damaged, or info.json contradicts the files.
    """
    folder = pathlib.Path(folder)
    for _ in range(_TIMES):
        before = _state(folder)
        try:
            form = get_format(_require_format(folder))
            structure = form.read_structure(folder)
            _check_counts(folder, structure, form)
        except DataError:
            if _state(folder) == before:
                raise
            continue
        if _state(folder) != before:
            continue
        count, orbitals = len(structure), int(structure.orbital_counts.sum())
        LOGGER.debug("read %s (%s): %d atoms, %d orbitals", folder, form.name, count, orbitals)
        return dataclasses.replace(structure, origin=_Origin(os.path.abspath(folder), before))
    raise _replaced(folder)


class _Origin(NamedTuple):
    """Where a structure was read.

    Attributes:
        folder: its path.
        state: of its files then, see :func:`_state`.
    """

    folder: str
    state: dict[str, tuple[int, int] | None]


def _state(folder: pathlib.Path) -> dict[str, tuple[int, int] | None]:
    """Of all files that tell of a structure, in any format: time of change and size, where they are
    there. Numbers of files are none that every network file system keeps.
    """
    state: dict[str, tuple[int, int] | None] = {}
    for name in (n for form in formats().values() for n in (*form.required, INFO_FILE)):
        try:
            found = os.stat(folder / name)
        except (OSError, ValueError):
            state[name] = None
        else:
            state[name] = found.st_mtime_ns, found.st_size
    return state


def _replaced(folder: pathlib.Path, changed: str = "") -> DataError:
    more = f"; if you changed {changed} yourself, read the structure again" if changed else ""
    return DataError(
        f"{folder}: another process replaced it while it was read; give the command again{more}"
    )


def require_unchanged(folder: pathlib.Path, kind: Kind, structure: Structure) -> None:
    """What was just read belongs to the structure that was read before it from the same folder.

    Args:
        folder: of both.
        kind: of the matrix. What ``info.json`` says beside the structure belongs to the prediction.
        structure: its structure.

    Raises:
        DataError: another process replaced the folder in between, or a file of it was changed.
    """
    origin = structure.origin
    if not isinstance(origin, _Origin) or origin.folder != os.path.abspath(folder):
        return
    now = _state(folder)
    for name, was in origin.state.items():
        if now[name] != was and (name != INFO_FILE or kind == "prediction"):
            raise _replaced(folder, name)


def _check_counts(folder: pathlib.Path, structure: Structure, form: FolderFormat) -> None:
    """The numbers of atoms and orbitals in info.json, where it has them, are those of the files.

    Some preprocessors count both spins' orbitals.

    Raises:
        DataError: they are not.
    """
    orbitals = int(structure.orbital_counts.sum())
    for what, count in (("atoms", len(structure)), ("orbitals", orbitals)):
        name = form.info_names.get(what, "")
        said = structure.info.get(name)
        doubled = what == "orbitals" and bool(structure.spinful) and said == 2 * count
        if said is not None and said != count and not doubled:
            raise DataError(
                f"{folder / INFO_FILE}: {name} is {said!r}, but the structure's files have {count} "
                f"{what}; one of them is of another structure: correct {name}, or make the folder "
                "again"
            )


def is_free(folder: str | os.PathLike[str]) -> bool:
    """Whether the folder, where it exists, has no file of a structure of either format."""
    return not any((pathlib.Path(folder) / name).exists() for name in structure_files())


def holds_another(folder: str | os.PathLike[str], structure: Structure) -> bool:
    """Whether the folder holds a structure with other atoms or shells, or moved by over 1e-3 Å."""
    if folder_format(folder) is None:
        return False
    try:
        there = read_folder(folder)
    except DataError:
        return True
    return not there.same_as(structure)


def matrix_path(
    folder: str | os.PathLike[str], kind: Kind, form: Format | None = None
) -> pathlib.Path:
    """The file that holds H, S or a prediction in this folder's format.

    Args:
        folder: of a structure, or one that holds nothing but a prediction.
        kind: 'hamiltonian', 'overlap' or 'prediction'.
        form: folder format, where it is known.

    Raises:
        DataError: the folder is of no format.
    """
    folder = pathlib.Path(folder)
    if form is None and folder_format(folder) is None:
        form = next((n for n, f in formats().items() if (folder / f.files[kind]).is_file()), None)
    return folder / get_format(form or _require_format(folder)).files[kind]


def folder_of_overlap(path: str | os.PathLike[str]) -> pathlib.Path:
    """The structure folder that ``path`` is, or that has it as its file of overlaps.

    Args:
        path: a folder, or the ``overlaps.h5`` (``overlap.h5``) in one.

    Raises:
        DataError: the file has no structure beside it, or is not the one that its folder's format
            reads.
    """
    path = pathlib.Path(path)
    names = {form.files["overlap"] for form in formats().values()}
    if path.is_dir() or path.name not in names:
        return path
    require_file(path)
    form = folder_format(path.parent)
    if form is None:
        needs = "; ".join(f"{f.title}: {', '.join(f.required)}" for f in formats().values())
        raise DataError(
            f"{path}: no structure beside it says whose S this is; put its files there ({needs})"
        )
    own = matrix_path(path.parent, "overlap", form)
    if own.name != path.name:
        raise DataError(
            f"{path}: its folder is of format {form}, whose overlaps are in {own.name}; give that "
            "file, or the folder"
        )
    return path.parent


def has_matrix(folder: str | os.PathLike[str], kind: Kind, form: Format | None = None) -> bool:
    """Whether H, S or a prediction is in a folder.

    Args:
        folder: of any format.
        kind: 'hamiltonian', 'overlap' or 'prediction'.
        form: folder format, where it is known.

    Raises:
        DataError: something else has the file's name: a folder, a pipe, a link to nothing.
    """
    path = matrix_path(folder, kind, form)
    if kind == "prediction" and not os.path.lexists(path):
        await_writers(path.parent)
    try:
        require_file(path)
    except DataError:
        if os.path.lexists(path):
            raise
        return False
    return True


def read_matrix(
    folder: str | os.PathLike[str],
    kind: Kind,
    structure: Structure | None = None,
    spinful: bool | None = None,
) -> BlockMatrix:
    """Read H, S or a prediction of a folder; orbitals in the legacy order, whatever the format.

    Args:
        folder: legacy or DeepH-dock folder.
        kind: 'hamiltonian', 'overlap' or 'prediction'.
        structure: the folder's structure, where it was read already.
        spinful: whether H is spin-doubled; default: what info.json says, else no. Overlaps never
            are.

    Raises:
        DataError: the file is missing, damaged, or does not fit the structure, or S can be that of
            no orbitals; or another process replaced the folder since its structure was read.
    """
    structure = structure or read_folder(folder)
    doubled = kind != "overlap" and bool(structure.spinful if spinful is None else spinful)
    try:
        path = matrix_path(folder, kind)
        form = next(f for f in formats().values() if f.files[kind] == path.name)
        matrix = form.read_blocks(path, structure, doubled)
    finally:
        require_unchanged(pathlib.Path(folder), kind, structure)
    if kind == "overlap" and np.iscomplexobj(matrix.values):
        if not np.abs(matrix.values.imag).max(initial=0) <= _ROUNDING:
            raise DataError(f"{path}: holds complex overlaps; those of atomic orbitals are real")
        matrix = BlockMatrix(matrix.keys, matrix.shapes, matrix.values.real.copy())
    if kind == "overlap":
        require_metric(matrix, structure.orbital_counts, str(path))
    LOGGER.debug("read %s: %d blocks, %d values", path, len(matrix), len(matrix.values))
    return matrix


def write_matrix(
    folder: str | os.PathLike[str],
    kind: Kind,
    matrix: BlockMatrix,
    structure: Structure,
    form: Format = "legacy",
    spinful: bool = False,
    before: Callable[[], None] | None = None,
) -> pathlib.Path:
    """Write H, S or a prediction (legacy orbital order) into a folder; returns the file's path.

    Args:
        folder: where.
        kind: 'hamiltonian', 'overlap' or 'prediction'.
        matrix: the blocks.
        structure: its atoms.
        form: folder format.
        spinful: whether H is spin-doubled.
        before: see :func:`~deeph_gformer.io.files.atomic_path`.
    """
    path = matrix_path(folder, kind, form)
    doubled = spinful and kind != "overlap"
    get_format(form).write_blocks(path, matrix, structure, doubled, before)
    LOGGER.debug("wrote %s: %d blocks, %d values", path, len(matrix), len(matrix.values))
    return path


def write_part(
    path: pathlib.Path,
    form: Format,
    start: int,
    part: BlockMatrix,
    structure: Structure,
    doubled: bool,
) -> None:
    """Write the values of consecutive blocks; several processes may do so at once.

    Args:
        path: begun by :meth:`.FolderFormat.share`.
        form: of the file.
        start: first byte of the first block.
        part: the blocks, orbitals in the legacy order.
        structure: gives the shells.
        doubled: whether blocks are spin-doubled.

    Raises:
        OSError: the disk is full.
    """
    write_values(path, start, get_format(form).stored(part, structure, doubled).values)


def find_structures(
    root: str | os.PathLike[str],
    kinds: tuple[Kind, ...] = (),
    skip: str | os.PathLike[str] | None = None,
) -> list[pathlib.Path]:
    """The structure folders at or below ``root``: the first list of :func:`split_structures`.

    Args:
        root: where to look.
        kinds: folders that have at least one of these matrices; empty: all.
        skip: a folder that is left out.

    Raises:
        DataError: see :func:`split_structures`.
    """
    return split_structures(root, kinds, skip)[0]


def warn_unreadable(error: OSError) -> None:
    """Say that a folder is left out, because its content cannot be listed (for :func:`os.walk`)."""
    if not isinstance(error, (FileNotFoundError, NotADirectoryError)):  # no folder, or not any more
        LOGGER.warning("%s: cannot be read (%s); it is left out", error.filename, error.strerror)


def _warn_incomplete(folder: pathlib.Path) -> None:
    """Say that a folder with matrices is left out, because files of its structure are missing."""
    for form in formats().values():
        matrix = next((n for n in form.files.values() if os.path.lexists(folder / n)), None)
        if matrix is not None:
            lacking = ", ".join(n for n in form.required if not (folder / n).is_file())
            LOGGER.warning("%s: holds %s but no %s; it is left out", folder, matrix, lacking)
            return


class NoStructureError(DataError):
    """There is no structure folder of the wanted kind."""


def require_names(named: Iterable[tuple[str, pathlib.Path]]) -> None:
    """Raise where two structures have one name: output folders are named after them.

    Args:
        named: name and folder or file of each.

    Raises:
        DataError: names both.
    """
    seen: dict[str, pathlib.Path] = {}
    for name, path in named:
        first = seen.setdefault(name, path)
        if first is not path:
            linked = any(name not in (p.name, p.stem) for p in (first, path))
            raise DataError(
                f"two structures have the name '{name}': {first} and {path}; rename one, "
                "output folders are named after them"
                + (" (a link has the name of what it points to)" if linked else "")
            )


def split_structures(
    root: str | os.PathLike[str],
    kinds: tuple[Kind, ...] = (),
    skip: str | os.PathLike[str] | None = None,
) -> tuple[list[pathlib.Path], list[pathlib.Path]]:
    """Every structure folder at or below ``root`` (as DeepH-E3 walks), sorted.

    Args:
        root: where to look.
        kinds: folders that have at least one of these matrices are wanted; empty wants all.
        skip: a folder below ``root`` that is left out (where output goes).

    Returns:
        The wanted folders (one at least), and those that have none of the matrices.

    Raises:
        NoStructureError: ``root`` holds no wanted structure folder.
        DataError: it is no folder, or two structures have the same name (the outputs would
            collide).
    """
    root = require_folder(root)
    folders, bare = [], []
    for path, below, _ in os.walk(root, onerror=warn_unreadable, followlinks=True):
        below[:] = sorted(name for name in below if not is_temporary(name))
        folder = pathlib.Path(path)
        if skip is not None and folder != root and real_path(folder) == real_path(skip):
            below.clear()
            continue
        form = folder_format(folder)
        if form is None:
            _warn_incomplete(folder)
            continue
        if not kinds or any(has_matrix(folder, kind, form) for kind in kinds):
            folders.append(folder)
        else:
            bare.append(folder)
    if not folders:
        wanted = (
            " or ".join(sorted({form.files[kind] for form in formats().values() for kind in kinds}))
            if kinds
            else ""
        )
        if bare:
            raise NoStructureError(
                f"{root}: {len(bare)} structure folder(s), first {bare[0]}, but none has {wanted}; "
                "put it there, or give another folder"
            )
        raise NoStructureError(
            f"{root}: no structure folder here or below; one needs "
            f"{', '.join(get_format('legacy').required)}" + (f" and {wanted}" if wanted else "")
        )
    require_names((real_path(folder).name, folder) for folder in folders)
    return folders, bare
