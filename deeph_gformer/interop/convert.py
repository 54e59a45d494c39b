"""Folders into other formats: legacy <-> DeepH-dock (atoms and keys permuted together), and out to Wannier90, sisl, SciPy and POSCAR.

DeepH-dock's POSCAR has its atoms grouped by element. A legacy folder whose atoms are not grouped is permuted, and the permutation is kept in
``info.json`` (``deeph_gformer: {"atom_order": [...]}``: for each atom of the POSCAR, its number, from 0, in the legacy folder), so
that the way back restores the order.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import shutil
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from .. import fields
from ..bands import BlochProblem
from ..errors import ConfigError, DataError
from ..io import BlockMatrix, Structure, dock, read_folder, read_matrix
from ..io.blocks import sort_keys
from ..io.folder import Format, Kind, folder_format, matrix_path, replaced_folder, write_matrix
from ..io.formats import formats, get_format, targets

__all__ = [
    "Target",
    "convert",
    "convert_folder",
    "write_problem",
    "element_order",
    "permute_structure",
    "permute_matrix",
]

#: A name of :func:`deeph_gformer.io.formats.targets`.
Target = str
_KINDS: tuple[Kind, ...] = ("hamiltonian", "overlap", "prediction")
_ORDER = "atom_order"
_OURS = "deeph_gformer"


def element_order(structure: Structure) -> NDArray[np.int64]:
    """(N,), old index of each atom once atoms are grouped by element: elements by first appearance, atoms of one element in their order."""
    _, first, which = np.unique(structure.numbers, return_index=True, return_inverse=True)
    return np.argsort(first[which.reshape(-1)], kind="stable")


def permute_structure(structure: Structure, order: NDArray[np.int64]) -> Structure:
    """Atoms in another order: new atom n is old atom ``order[n]``."""
    return dataclasses.replace(
        structure,
        positions=structure.positions[order],
        numbers=structure.numbers[order],
        orbital_types=tuple(structure.orbital_types[n] for n in order.tolist()),
    )


def permute_matrix(matrix: BlockMatrix, order: NDArray[np.int64]) -> BlockMatrix:
    """Blocks of the same atoms under their new numbers; see :func:`permute_structure`."""
    keys = matrix.keys.copy()
    keys[:, 3:] = np.argsort(order)[keys[:, 3:]]
    renamed = dataclasses.replace(matrix, keys=keys)
    return (
        renamed
        if (sort_keys(keys) == np.arange(len(keys))).all()
        else renamed.select(np.arange(len(keys)))
    )


def _stored_order(
    info: dict[str, Any], count: int, where: pathlib.Path
) -> NDArray[np.int64] | None:
    ours = info.get(_OURS)
    order = ours.get(_ORDER) if isinstance(ours, dict) else None
    if order is None:
        return None
    if sorted(order) != list(range(count)):
        raise DataError(
            f"{where / fields.INFO_FILE}: {_ORDER} is no permutation of the {count} atoms; was an atom added or removed? Delete the entry to "
            "keep the order of the POSCAR"
        )
    return np.array(order, dtype=np.int64)


def _with_order(info: dict[str, Any], order: NDArray[np.int64] | None) -> dict[str, Any]:
    """The same ``info.json`` with another stored order of atoms, or none."""
    ours = {k: v for k, v in dict(info.get(_OURS) or {}).items() if k != _ORDER}
    if order is not None:
        ours[_ORDER] = order.tolist()
    rest = {k: v for k, v in info.items() if k != _OURS}
    return rest | ({_OURS: ours} if ours else {})


def _check_target(target: pathlib.Path, source: pathlib.Path, overwrite: bool) -> None:
    if target.resolve() == source.resolve():
        raise ConfigError(f"{target}: is the folder that is read; name another one to write")
    if not overwrite and target.is_dir() and any(target.iterdir()):
        raise DataError(
            f"{target}: is there already and not empty; add --overwrite to replace its structure, or name another folder"
        )


def _to_folder(
    source: pathlib.Path, target: pathlib.Path, form: Format
) -> tuple[list[str], list[str]]:
    structure, notes, files = read_folder(source), [], []
    if structure.spinful is None:  # no file says so: spin-doubled shapes tell
        kinds = [
            kind for kind in ("hamiltonian", "prediction") if matrix_path(source, kind).is_file()
        ]  # type: ignore[arg-type]
        structure = dataclasses.replace(
            structure, spinful=_doubled(source, kinds[0], structure) if kinds else None
        )  # type: ignore[arg-type]
    order, remembered = np.arange(len(structure)), None
    if get_format(form).grouped:
        order = element_order(structure)
        if (order != np.arange(len(order))).any():
            remembered = order
            notes.append(
                f"atoms grouped by element for the POSCAR: POSCAR atoms 1 to {len(order)} are atoms "
                f"{' '.join(str(n + 1) for n in order[:20].tolist())}"
                + (" ..." if len(order) > 20 else "")
                + f" of {source.name} (kept in {fields.INFO_FILE}, {_OURS}.{_ORDER})"
            )
    else:
        stored = _stored_order(structure.info, len(structure), source)
        if stored is not None:
            order = np.argsort(stored)
            notes.append(
                f"atoms put back into the order that {fields.INFO_FILE} remembers ({_OURS}.{_ORDER})"
            )
    moved = permute_structure(structure, order)
    moved = dataclasses.replace(moved, info=_with_order(structure.info, remembered))
    get_format(form).write_structure(target, moved)
    for kind in _KINDS:
        if not matrix_path(source, kind).is_file():
            continue
        doubled = kind != "overlap" and bool(structure.spinful)
        matrix = permute_matrix(read_matrix(source, kind, structure, doubled), order)
        files.append(write_matrix(target, kind, matrix, moved, form, doubled).name)
    return files, notes


def _doubled(source: pathlib.Path, kind: Kind, structure: Structure) -> bool:
    """Whether the blocks of a folder without a word on spin are spin-doubled."""
    try:
        read_matrix(source, kind, structure, False)
    except DataError:
        return True
    return False


def convert_folder(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    to: Target,
    *,
    kind: Literal["hamiltonian", "prediction"] | None = None,
    overlap_folder: str | os.PathLike[str] | None = None,
    mesh: str | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Convert one structure folder.

    Args:
        source: legacy or DeepH-dock folder. target: folder to write (``legacy``, ``dock``, ``wannier90``), or file (``sisl``, ``npz``, ``poscar``).
        to: what to write. kind: which Hamiltonian goes to Wannier90, sisl and SciPy; default: DFT's, or the prediction where that is alone.
        overlap_folder: where S is, when not beside H. mesh: k mesh of the Löwdin transform (Wannier90). overwrite: replace what is there.

    Returns:
        ``{"source", "target", "to", "files", "notes"}``.

    Raises:
        DataError: the source is no structure folder or is damaged, or the target is there. ConfigError: unknown format, or an option that has no effect on it.
        MissingDependencyError: sisl is not installed.
    """
    if to not in targets():
        raise ConfigError(f"--to {to}: there are {', '.join(targets())}")
    source, target = pathlib.Path(source), pathlib.Path(target)
    _refuse_unused(to, {"--kind": kind, "--overlap": overlap_folder, "--mesh": mesh})
    if folder_format(source) is None:
        read_folder(source)
    if to in formats():
        _check_target(target, source, overwrite)
        with replaced_folder(target) as scratch:
            files, notes = _to_folder(source, scratch, to)  # type: ignore[arg-type]
        return {
            "source": str(source),
            "target": str(target),
            "to": to,
            "files": files,
            "notes": notes,
        }
    if target.exists() and target.is_dir() != (to == "wannier90"):
        raise DataError(
            f"{target}: is a {'folder' if target.is_dir() else 'file'}; --to {to} writes a {'folder' if to == 'wannier90' else 'file'}"
        )
    if (
        target.exists()
        and not overwrite
        and not (to == "wannier90" and target.is_dir() and not any(target.iterdir()))
    ):
        raise DataError(
            f"{target}: is there already; add --overwrite to replace it, or name another one"
        )
    if to == "poscar":
        return {"source": str(source), "target": str(target), "to": to, **_poscar(source, target)}
    from ..bands import load

    if kind is None:
        kind = "hamiltonian" if matrix_path(source, "hamiltonian").is_file() else "prediction"
    problem = load(source, kind, overlap_folder)
    notes = list(problem.notes)
    if to == "npz":
        from .sparse import write_npz

        write_npz(target, problem)
        files = [target.name]
    elif to == "sisl":
        from .sisl import write_sisl

        files, more = write_sisl(target, problem)
        notes += more
    else:
        from .wannier90 import write_wannier90

        files, more = write_wannier90(target, problem, mesh)
        notes += more
    return {
        "source": str(source),
        "target": str(target),
        "to": to,
        "kind": kind,
        "files": files,
        "notes": notes,
    }


def _refuse_unused(to: str, options: Mapping[str, Any]) -> None:
    useful: tuple[str, ...] = {"wannier90": tuple(options), "poscar": ()}.get(
        to, () if to in formats() else ("--kind", "--overlap")
    )
    unused = [name for name, value in options.items() if value is not None and name not in useful]
    if unused:
        raise ConfigError(f"{', '.join(unused)}: has no effect on {to}; leave it out")


def _poscar(source: pathlib.Path, target: pathlib.Path) -> dict[str, Any]:
    structure = read_folder(source)
    order = element_order(structure)
    moved = permute_structure(structure, order)
    notes = (
        []
        if (order == np.arange(len(order))).all()
        else [
            "atoms grouped by element; the order differs from that of the folder: "
            + " ".join(str(n + 1) for n in order.tolist())
        ]
    )
    scratch = target.parent / f".{target.name}.folder"
    try:
        dock.write_structure(scratch, dataclasses.replace(moved, info={}))
        os.replace(scratch / fields.DOCK_STRUCTURE_FILE, target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return {"files": [target.name], "notes": notes}


def _from_file(
    source: pathlib.Path, target: pathlib.Path, to: str, overwrite: bool, options: dict[str, Any]
) -> dict[str, Any]:
    """SIESTA's matrices (through sisl) or our own .npz into a folder."""
    from .sisl import from_siesta
    from .sparse import read_npz

    fdf = options.pop("fdf", None)
    named = {"kind": "--kind", "overlap_folder": "--overlap", "mesh": "--mesh"}
    unused = [named.get(key, key) for key, value in options.items() if value is not None] + [
        "--fdf"
    ] * (fdf is not None and source.suffix == ".npz")
    if unused:
        raise ConfigError(
            f"{', '.join(unused)}: has no effect on {source}, which is a file; leave it out"
        )
    if to not in formats():
        raise ConfigError(
            f"{source}: is a file; it can be converted to legacy or dock folders, from there to {to}"
        )
    _check_target(target, source, overwrite)
    problem = read_npz(source) if source.suffix == ".npz" else from_siesta(source, fdf)
    with replaced_folder(target) as scratch:
        files = write_problem(scratch, problem, to)  # type: ignore[arg-type]
    return {
        "source": str(source),
        "target": str(target),
        "to": to,
        "files": files,
        "notes": list(problem.notes),
    }


def write_problem(
    target: str | os.PathLike[str], problem: BlochProblem, form: Format = "legacy"
) -> list[str]:
    """Write structure, H and S of a problem as a folder; returns the names of the matrix files.

    Args:
        target: folder. problem: e.g. from sisl or GPAW. form: ``legacy`` or ``dock`` (atoms are grouped by element then).
    """
    target = pathlib.Path(target)
    order = (
        element_order(problem.structure)
        if get_format(form).grouped
        else np.arange(len(problem.structure))
    )
    structure = permute_structure(
        dataclasses.replace(problem.structure, spinful=problem.spinful), order
    )
    info = {
        "nsites": len(structure),
        "isorthogonal": False,
        "norbits": int(structure.orbital_counts.sum()),
        **structure.info,
    }
    structure = dataclasses.replace(structure, info=info)
    get_format(form).write_structure(target, structure)
    pairs: tuple[tuple[Kind, BlockMatrix], ...] = (
        ("hamiltonian", problem.h),
        ("overlap", problem.s),
    )
    return [
        write_matrix(
            target, kind, permute_matrix(matrix, order), structure, form, problem.spinful
        ).name
        for kind, matrix in pairs
    ]


def convert(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    to: Target | None = None,
    *,
    overwrite: bool = False,
    say: Callable[[str], None] = lambda text: None,
    **options: Any,
) -> list[dict[str, Any]]:
    """Convert a folder, or every structure folder below it into ``<target>/<name>``.

    Args:
        source: a structure folder, a folder of them, a SIESTA matrix file (.HSX, .TSHS, .nc) or our .npz. target: see :func:`convert_folder`.
        to: default: the other one of ``legacy`` and ``dock``.
        overwrite: replace what is there. say: called with a line per note. options: of :func:`convert_folder`, and ``fdf`` of
            :func:`deeph_gformer.interop.sisl.from_siesta`.

    Returns:
        a record per structure, see :func:`convert_folder`.
    """
    from ..io import find_structures

    source, target = pathlib.Path(source), pathlib.Path(target)
    if source.is_file():
        record = _from_file(source, target, to or "legacy", overwrite, options)
        say(f"{source} -> {target} ({record['to']})")
        return [record]
    if options.pop("fdf", None) is not None:
        raise ConfigError(
            f"--fdf: has no effect on {source}, which is a folder; it belongs to SIESTA's matrix files"
        )
    single = folder_format(source) is not None
    folders = [source] if single else find_structures(source)
    suffix = {"npz": ".npz", "sisl": ".TSHS", "poscar": ".vasp"}
    records = []
    for folder in folders:
        form: Any = to or ("legacy" if folder_format(folder) == "dock" else "dock")
        place = target if single else target / f"{folder.resolve().name}{suffix.get(form, '')}"
        records.append(convert_folder(folder, place, form, overwrite=overwrite, **options))
        say(f"{folder} -> {place} ({form})")
        for note in records[-1]["notes"]:
            say(f"  {note}")
    return records
