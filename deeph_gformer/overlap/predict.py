"""Write the overlaps of structures that have none."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import time
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError, DataError, GFormerError, reason
from ..io import BlockMatrix, Structure, read_folder, read_matrix
from ..io.files import real_path
from ..io.folder import (
    Format,
    folder_format,
    holds_another,
    matrix_path,
    replaced_folder,
    write_matrix,
)
from ..io.formats import get_format
from ..io.poscar import read_frames
from ..io.positions import position_path, write_positions
from .atoms import structure_from_atoms
from .provider import BasisOverlap, OverlapProvider

__all__ = ["Predicted", "predict_overlap", "read_any", "require_same_basis"]


@dataclasses.dataclass(frozen=True)
class Predicted:
    """What was written.

    Attributes:
        file: with S.
        structure: its structure.
        edges: number of blocks.
        seconds: of each step.
    """

    file: pathlib.Path
    structure: Structure
    edges: int
    seconds: dict[str, float]


def read_any(
    source: str | os.PathLike[str], provider: OverlapProvider, pbc: Sequence[bool] | None = None
) -> tuple[Structure, tuple[bool, bool, bool], Format | None]:
    """Read a structure folder or any file that ASE reads.

    Args:
        source: folder or file.
        provider: gives the shells where the file has none.
        pbc: which lattice vectors repeat; default: what the file says, and all three for a folder.

    Returns:
        the structure, which vectors repeat, and the folder's format (None for a file).

    Raises:
        DataError: it is neither, or holds several structures, no cell, no atoms, or an unknown
            element.
    """
    path = pathlib.Path(source)
    if path.is_dir():
        structure, form = read_folder(path), folder_format(path)
        repeats: NDArray[np.bool_] = np.array([True] * 3)
    else:
        from ase import Atoms

        if not os.path.lexists(path) and "@" not in path.name:
            raise DataError(f"{path}: no such file or folder")
        try:
            frames = read_frames(path)
        except GFormerError:
            raise
        except Exception as error:  # noqa: BLE001 - readers of ASE fail in many ways
            raise DataError(
                f"{path}: neither a structure folder nor a file that ASE reads ({reason(error)})"
            ) from None
        if len(frames) > 1:
            raise DataError(
                f"{path}: holds {len(frames)} structures; make a folder of each first, in Python: "
                "ase.io.write('DIR', ase.io.read("
                f"'{path.name}', ':'), format='deeph', orbital_types={{'C': [0, 0, 1, 1, 2]}}) "
                "with the shells of your elements, and give DIR"
            )
        atoms = frames[0] if frames else Atoms()
        structure, form, repeats = (
            structure_from_atoms(atoms, provider.orbital_types, path.stem),
            None,
            np.asarray(atoms.pbc),
        )
    x, y, z = (bool(p) for p in (repeats if pbc is None else pbc))
    return structure, (x, y, z), form


def predict_overlap(
    source: str | os.PathLike[str],
    provider: OverlapProvider,
    output: str | os.PathLike[str] | None = None,
    form: Format | None = None,
    pbc: Sequence[bool] | None = None,
    overwrite: bool = False,
    positions: bool = False,
) -> Predicted:
    """Predict S of one structure and write it.

    Args:
        source: a structure folder, or a file that ASE reads (POSCAR, CIF, xyz, ...).
        provider: where S comes from.
        output: folder to write to; default for a folder: the folder itself. Where it is another
            folder the structure is written there, too.
        form: 'legacy' or 'dock'; default: that of the source, legacy for a file.
        pbc: see :func:`read_any`.
        overwrite: replace an overlap file, or another structure with its matrices, that is there.
        positions: also write the position matrix (see :mod:`deeph_gformer.io.positions`); beside an
            S that is there, on the blocks of that S, which is kept.

    Raises:
        DataError: see :meth:`OverlapProvider.overlap`, or the file or another structure is there
            already.
        ConfigError: no output folder for a file.
    """
    if positions and not isinstance(provider, BasisOverlap):
        raise ConfigError(
            "--positions: a table or S of a DFT run does not know <i|r|j>; give basis files "
            "(.orb, .ion, .ion.xml, .pao) with --overlap"
        )
    start = time.perf_counter()
    structure, repeats, found = read_any(source, provider, pbc)
    if output is None and found is None:
        raise ConfigError(f"{source}: is a file; name the folder to write with --output")
    folder = pathlib.Path(source if output is None else output)
    in_place = output is None or (found is not None and real_path(folder) == real_path(source))
    if in_place and form not in (None, found):
        raise ConfigError(
            f"{folder}: is a {found} folder; to write {form} files name another folder "
            "with --output"
        )
    form = form or found or "legacy"
    target = matrix_path(folder, "overlap", form)
    if target.exists() and positions and in_place and not overwrite:
        return _add_positions(folder, structure, provider)
    foreign = not in_place and (
        holds_another(folder, structure) or folder_format(folder) not in (None, form)
    )
    if not overwrite:
        _require_free(folder, target, foreign)
    seconds = {"read": time.perf_counter() - start}
    start = time.perf_counter()
    keys = provider.edges(structure, repeats)
    seconds["edges"] = time.perf_counter() - start
    start = time.perf_counter()
    matrix = provider.overlap(structure, keys)
    seconds["overlap"] = time.perf_counter() - start
    moments = None
    if positions and isinstance(provider, BasisOverlap):
        start = time.perf_counter()
        moments = provider.positions(structure, keys)
        seconds["positions"] = time.perf_counter() - start
    start = time.perf_counter()
    with replaced_folder(folder) if foreign else contextlib.nullcontext(folder) as place:
        if folder_format(place) is None:
            get_format(form).write_structure(place, structure)
        write_matrix(place, "overlap", matrix, structure, form)
        if moments is not None:
            write_positions(place, moments, structure, form)
    seconds["write"] = time.perf_counter() - start
    return Predicted(target, structure, len(matrix), seconds)


#: S of the basis files and S that is there may differ by this; DFT codes integrate to 1e-5 or
#: better.
_SAME_BASIS = 1e-3


def _require_free(folder: pathlib.Path, target: pathlib.Path, foreign: bool) -> None:
    """Refuse to write over what is there.

    Args:
        folder: where S goes.
        target: its file.
        foreign: the folder holds another structure.

    Raises:
        DataError: something would be lost.
    """
    if target.exists():
        raise DataError(
            f"{target}: is there already; add --overwrite to replace it, or name another folder "
            "with --output"
        )
    if foreign:
        raise DataError(
            f"{folder}: holds another structure; add --overwrite to replace it with all its "
            "matrices, or name another folder"
        )


def require_same_basis(
    provider: OverlapProvider, structure: Structure, overlap: BlockMatrix, where: object
) -> None:
    """Make sure that a given S is that of a provider's orbitals.

    Args:
        provider: of the orbitals.
        structure: its structure.
        overlap: S.
        where: the folder, for the message.

    Raises:
        DataError: it is that of another basis.
    """
    own = provider.overlap(structure, overlap.keys)
    worst = float(np.abs(own.values - overlap.values).max(initial=0.0))
    if worst > _SAME_BASIS:
        raise DataError(
            f"{where}: its S differs from that of the basis files by up to {worst:.2g}; they are "
            "of another basis"
        )


def _add_positions(
    folder: pathlib.Path, structure: Structure, provider: OverlapProvider
) -> Predicted:
    """Write the position matrix beside S, on the blocks of S.

    Raises:
        DataError: it is there already, or S is not that of the basis files.
    """
    path = position_path(folder)
    if path.exists():
        raise DataError(f"{path}: is there already; add --overwrite to replace it")
    if not isinstance(provider, BasisOverlap):
        raise ConfigError("--positions needs basis files")
    start = time.perf_counter()
    s = read_matrix(folder, "overlap", structure)
    seconds = {"read": time.perf_counter() - start}
    start = time.perf_counter()
    require_same_basis(provider, structure, s, folder)
    write_positions(folder, provider.positions(structure, s.keys, s), structure)
    seconds["positions"] = time.perf_counter() - start
    return Predicted(path, structure, len(s), seconds)
