"""``convert``: DFT runs into folders, legacy <-> DeepH-dock, and folders out to Wannier90, sisl,
SciPy and POSCAR.

Legacy to DeepH-dock permutes atoms and keys together and remembers the order
(:mod:`deeph_gformer.interop.folders`), so that the way back restores it.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import tempfile
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from .. import fields
from ..errors import ConfigError, DataError
from ..io import Structure, dock, find_structures, read_folder, read_matrix
from ..io.files import atomic_path, real_path
from ..io.folder import Format, Kind, folder_format, has_matrix, replaced_folder, write_matrix
from ..io.formats import formats, get_format, targets
from ..io.gauge import OURS
from .dft.runs import convert_runs
from .folders import (
    ATOM_ORDER,
    element_order,
    permute_matrix,
    permute_structure,
    with_order,
    write_problem,
)

__all__ = ["Target", "convert", "convert_folder"]

#: A name of :func:`deeph_gformer.io.formats.targets`.
Target = str
_KINDS: tuple[Kind, ...] = ("hamiltonian", "overlap", "prediction")


def _stored_order(
    info: dict[str, Any], count: int, where: pathlib.Path
) -> NDArray[np.int64] | None:
    ours = info.get(OURS)
    order = ours.get(ATOM_ORDER) if isinstance(ours, dict) else None
    if order is None:
        return None
    if sorted(order) != list(range(count)):
        raise DataError(
            f"{where / fields.INFO_FILE}: {ATOM_ORDER} is no permutation of the {count} atoms; "
            "was an atom added or removed? Delete the entry to "
            "keep the order of the POSCAR"
        )
    return np.array(order, dtype=np.int64)


def _check_target(target: pathlib.Path, source: pathlib.Path, overwrite: bool) -> None:
    if real_path(target) == real_path(source):
        raise ConfigError(f"{target}: is the folder that is read; name another one to write")
    if not overwrite and target.is_dir() and any(target.iterdir()):
        raise DataError(
            f"{target}: is there already and not empty; add --overwrite to replace its "
            "structure, or name another folder"
        )


def _to_folder(
    source: pathlib.Path, target: pathlib.Path, form: Format
) -> tuple[list[str], list[str]]:
    structure, notes, files = read_folder(source), [], []
    if structure.spinful is None:  # no file says so: spin-doubled shapes tell
        candidates: tuple[Kind, ...] = ("hamiltonian", "prediction")
        kinds = [kind for kind in candidates if has_matrix(source, kind)]
        structure = dataclasses.replace(
            structure, spinful=_doubled(source, kinds[0], structure) if kinds else None
        )
    order, remembered = np.arange(len(structure)), None
    if get_format(form).grouped:
        order = element_order(structure)
        if (order != np.arange(len(order))).any():
            remembered = order
            notes.append(
                f"atoms grouped by element for the POSCAR: POSCAR atoms 1 to {len(order)} are "
                f"atoms {' '.join(str(n + 1) for n in order[:20].tolist())}"
                + (" ..." if len(order) > 20 else "")
                + f" of {source.name} (kept in {fields.INFO_FILE}, {OURS}.{ATOM_ORDER})"
            )
    else:
        stored = _stored_order(structure.info, len(structure), source)
        if stored is not None:
            order = np.argsort(stored)
            notes.append(
                f"atoms put back into the order that {fields.INFO_FILE} remembers "
                f"({OURS}.{ATOM_ORDER})"
            )
    moved = permute_structure(structure, order)
    moved = dataclasses.replace(moved, info=with_order(structure.info, remembered))
    get_format(form).write_structure(target, moved)
    for kind in _KINDS:
        if not has_matrix(source, kind):
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
        source: legacy or DeepH-dock folder.
        target: folder to write (``legacy``, ``dock``, ``wannier90``, ``wannierberri``,
            ``kwant``, ``pyatb``), or file (``sisl``,
            ``npz``, ``poscar``).
        to: what to write.
        kind: which Hamiltonian goes to Wannier90, sisl and SciPy; default: DFT's, or the prediction
            where that is alone.
        overlap_folder: where S is, when not beside H.
        mesh: k mesh of the Löwdin transform (Wannier90, WannierBerri; kwant: without one H and S
            are written as they are).
        overwrite: replace what is there.

    Returns:
        ``{"source", "target", "to", "files", "notes"}``.

    Raises:
        DataError: the source is no structure folder or is damaged, or the target is there.
        ConfigError: unknown format, or an option that has no effect on it.
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
            files, notes = _to_folder(source, scratch, to)
        return {
            "source": str(source),
            "target": str(target),
            "to": to,
            "files": files,
            "notes": notes,
        }
    into_folder = to in ("wannier90", "wannierberri", "kwant", "pyatb")
    if target.exists() and target.is_dir() != into_folder:
        raise DataError(
            f"{target}: is a {'folder' if target.is_dir() else 'file'}; --to {to} writes a "
            f"{'folder' if into_folder else 'file'}"
        )
    if (
        target.exists()
        and not overwrite
        and not (into_folder and target.is_dir() and not any(target.iterdir()))
    ):
        raise DataError(
            f"{target}: is there already; add --overwrite to replace it, or name another one"
        )
    if to == "poscar":
        return {"source": str(source), "target": str(target), "to": to, **_poscar(source, target)}
    from ..bands import load

    if kind is None:
        kind = "hamiltonian" if has_matrix(source, "hamiltonian") else "prediction"
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
    elif to == "pyatb":
        from ..io.positions import position_path, read_positions
        from .pyatb import write_pyatb

        place = next(
            (f for f in (overlap_folder, source) if f is not None and position_path(f).is_file()),
            None,
        )
        positions = None if place is None else read_positions(place, problem.structure)
        files, more = write_pyatb(target, problem, positions, problem.stated_fermi_eV)
        notes += more
    elif to == "kwant":
        from .kwant import write_kwant

        files, more = write_kwant(target, problem, mesh)
        notes += more
    elif to == "wannierberri":
        from .wannierberri import write_wannierberri

        files, more = write_wannierberri(target, problem, mesh)
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
    useful: tuple[str, ...] = {
        **dict.fromkeys(("wannier90", "wannierberri", "kwant"), tuple(options)),
        "poscar": (),
    }.get(to, () if to in formats() else ("--kind", "--overlap"))
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
    with tempfile.TemporaryDirectory() as scratch, atomic_path(target) as temporary:
        dock.write_structure(scratch, dataclasses.replace(moved, info={}))
        made = pathlib.Path(scratch) / fields.DOCK_STRUCTURE_FILE
        temporary.write_bytes(made.read_bytes())
    return {"files": [target.name], "notes": notes}


def _from_npz(
    source: pathlib.Path, target: pathlib.Path, to: str, overwrite: bool
) -> dict[str, Any]:
    """Our own .npz into a folder."""
    from .sparse import read_npz

    if to not in formats():
        raise ConfigError(
            f"{source}: is a file; it can be converted to {', '.join(formats())}, from there to "
            f"{to}"
        )
    _check_target(target, source, overwrite)
    problem = read_npz(source)
    with replaced_folder(target) as scratch:
        files = write_problem(scratch, problem, to)
    return {
        "source": str(source),
        "target": str(target),
        "to": to,
        "files": files,
        "notes": list(problem.notes),
    }


def _refuse(
    where: pathlib.Path, what: str, options: Mapping[str, Any], named: Mapping[str, str]
) -> None:
    """Refuse options that were given and have no effect here."""
    unused = [named[key] for key, value in options.items() if value and key in named]
    if unused:
        raise ConfigError(f"{', '.join(unused)}: has no effect on {where}, {what}; leave it out")


_OF_FOLDERS = {"kind": "--kind", "overlap_folder": "--overlap", "mesh": "--mesh"}
_OF_RUNS = {
    "code": "--from",
    "form": "--format",
    "unconverged": "--unconverged",
    "fdf": "--fdf",
    "processes": "--processes",
}


def convert(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    to: Target | None = None,
    *,
    code: str | None = None,
    form: Format | None = None,
    unconverged: bool = False,
    fdf: str | os.PathLike[str] | None = None,
    processes: int | None = None,
    progress: bool = False,
    overwrite: bool = False,
    skip_existing: bool = False,
    say: Callable[[str], None] = lambda text: None,
    **options: Any,
) -> list[dict[str, Any]]:
    """Convert a folder or a DFT run, or every one below ``source`` into ``<target>/<name>``.

    Args:
        source: a structure folder, a DFT run (its folder, or OpenMX's ``.scfout``, SIESTA's
            ``.TSHS``, ...), a folder of either, or our ``.npz``.
        target: see :func:`convert_folder`; a folder for DFT runs.
        to: default: the other one of ``legacy`` and ``dock``.
        code: ``auto``, ``openmx``, ``abacus``, ...: ``source`` is a DFT run or a folder of them;
            default: DFT runs are looked for where there are no structure folders.
        form: folder format for DFT runs; default: ``legacy``.
        unconverged: read DFT runs that did not converge, too.
        fdf: SIESTA's input, where it is not the only one beside the matrix.
        processes: DFT runs read at a time; default: one per CPU.
        progress: show a bar.
        overwrite: replace what is there.
        skip_existing: leave targets that are there (they are whole) and go on with the others; DFT
            runs that did not change are skipped always.
        say: called with a line per structure and note.
        options: ``kind``, ``overlap_folder`` and ``mesh`` of :func:`convert_folder`.

    Returns:
        a record per structure, see :func:`convert_folder` and
        :func:`deeph_gformer.interop.dft.runs.convert_runs`.

    Raises:
        DataError: nothing to convert; see also :func:`convert_folder`.
        ConfigError: an option has no effect, or contradicts another.
    """
    source, target = pathlib.Path(source), pathlib.Path(target)
    given = {
        "code": code,
        "form": form,
        "unconverged": unconverged,
        "fdf": fdf,
        "processes": processes,
    }
    if source.is_file() and source.suffix == ".npz":
        _refuse(source, "which is a file", options | given, _OF_RUNS | _OF_FOLDERS)
        record = _from_npz(source, target, to or "legacy", overwrite)
        say(f"{source} -> {target} ({record['to']})")
        return [record]
    if code is not None or source.is_file() or not _holds_structures(source):
        _refuse(source, "a DFT run", options, _OF_FOLDERS)
        return convert_runs(
            source,
            target,
            code or "auto",
            _run_format(to, form),
            unconverged=unconverged,
            overwrite=overwrite,
            processes=processes,
            progress=progress,
            say=say,
            **({} if fdf is None else {"fdf": fdf}),
        )
    _refuse(source, "which holds structure folders", given, _OF_RUNS)
    single = folder_format(source) is not None
    folders = [source] if single else find_structures(source)
    suffix = {"npz": ".npz", "sisl": ".TSHS", "poscar": ".vasp"}
    records: list[dict[str, Any]] = []
    for folder in folders:
        form = to or ("legacy" if folder_format(folder) == "dock" else "dock")
        place = target if single else target / f"{real_path(folder).name}{suffix.get(form, '')}"
        if skip_existing and (place.is_file() or folder_format(place) == form):
            say(f"{place}: is there already, skipped")
            records.append({"source": str(folder), "target": str(place), "skipped": True})
            continue
        records.append(convert_folder(folder, place, form, overwrite=overwrite, **options))
        say(f"{folder} -> {place} ({form})")
        for note in records[-1]["notes"]:
            say(f"  {note}")
    return records


def _holds_structures(source: pathlib.Path) -> bool:
    """Whether there are structure folders at or below ``source``."""
    return any(folder_format(path) is not None for path, _, _ in os.walk(source, followlinks=True))


def _run_format(to: str | None, form: Format | None) -> Format:
    """The folder format that a DFT run becomes."""
    if to is not None and form is not None and to != form:
        raise ConfigError(f"--to {to} and --format {form}: give one of them")
    wanted = form or to or "legacy"
    if wanted not in formats():
        raise ConfigError(
            f"--to {wanted}: DFT runs become {' or '.join(formats())}; convert that folder to "
            f"{wanted}"
        )
    return wanted
