"""``convert``: DFT runs into folders, legacy <-> DeepH-dock, and folders out to Wannier90, sisl,
SciPy and POSCAR.

Legacy to DeepH-dock permutes atoms and keys together and remembers the order
(:mod:`deeph_gformer.interop.folders`), so that the way back restores it.
"""

from __future__ import annotations

import contextlib
import functools
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from ..errors import ConfigError, DataError
from ..io import find_structures, read_folder
from ..io.files import is_filled, real_path
from ..io.folder import Format, folder_format, folder_of_overlap, is_temporary, replaced_folder
from ..io.formats import formats
from .dft.runs import convert_runs
from .exports import ExportSource, exports, targets
from .folders import (
    rewrite_folder,
    write_problem,
)

__all__ = ["Target", "convert", "convert_folder"]

#: A name of :func:`deeph_gformer.interop.exports.targets`.
Target = str


def _check_target(target: pathlib.Path, source: pathlib.Path, overwrite: bool) -> None:
    if real_path(target) == real_path(source):
        raise ConfigError(f"{target}: is the folder that is read; name another one to write")
    if not overwrite and is_filled(target):
        raise DataError(
            f"{target}: is there already and not empty; add --overwrite to replace its "
            "structure, or name another folder"
        )


def _checked_target(
    target: pathlib.Path, source: pathlib.Path, overwrite: bool
) -> contextlib.AbstractContextManager[pathlib.Path]:
    """The folder in the making; whether it may take its name is asked before the work and after."""
    check = functools.partial(_check_target, target, source, overwrite)
    check()
    return replaced_folder(target, check)


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
    source, target = pathlib.Path(source), pathlib.Path(target)
    options = {"kind": kind, "overlap": overlap_folder, "mesh": mesh}
    if to in formats():
        _refuse_unused(to, options, ())
        if folder_format(source) is None:
            read_folder(source)  # says what is missing
        with _checked_target(target, source, overwrite) as scratch:
            files, notes = rewrite_folder(source, scratch, to)
        return _record(source, target, to, files, notes)
    if to not in exports():
        raise ConfigError(f"--to {to}: there are {', '.join(targets())}")
    export = exports()[to]
    _refuse_unused(to, options, export.options)
    if folder_format(source) is None:
        read_folder(source)
    export.check_target(target, overwrite)
    place = None if overlap_folder is None else folder_of_overlap(overlap_folder)
    asked = ExportSource(source, kind, place, mesh)
    known = list(asked.problem.notes) if "kind" in export.options else []
    files, notes = export.write(target, asked)
    level = asked.problem.stated_fermi_eV if "kind" in export.options else None
    if level is not None:
        notes = [f"its Fermi level, on the same zero of energy, is {level:.4f} eV", *notes]
    record = _record(source, target, to, files, known + notes)
    return record | ({"kind": asked.matrix} if "kind" in export.options else {})


def _record(
    source: pathlib.Path, target: pathlib.Path, to: str, files: list[str], notes: list[str]
) -> dict[str, Any]:
    names = {"source": str(source), "target": str(target), "to": to}
    return {**names, "files": files, "notes": notes}


def _refuse_unused(to: str, options: Mapping[str, Any], useful: Sequence[str]) -> None:
    """Refuse options that were given and that what is written does not read."""
    unused = [
        f"--{name}" for name, value in options.items() if value is not None and name not in useful
    ]
    if unused:
        raise ConfigError(f"{', '.join(unused)}: has no effect on {to}; leave it out")


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
    with _checked_target(target, source, overwrite) as scratch:
        problem = read_npz(source)
        files = write_problem(scratch, problem, to)
    return _record(source, target, to, files, list(problem.notes))


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
    echo: Callable[[str], None] = lambda text: None,
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
        processes: DFT runs read at a time; default: one per CPU. 1 stays in this process; more
            needs the usual ``if __name__ == "__main__":`` in a script.
        progress: show a bar.
        overwrite: replace what is there.
        skip_existing: leave targets that are there (they are whole) and go on with the others; DFT
            runs that did not change are skipped always.
        echo: called with a line per structure and note.
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
        echo(f"{source} -> {target} ({record['to']})")
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
            echo=echo,
            **({} if fdf is None else {"fdf": fdf}),
        )
    _refuse(source, "which holds structure folders (its DFT runs: --from CODE)", given, _OF_RUNS)
    return _convert_folders(source, target, to, overwrite, skip_existing, echo, options)


def _convert_folders(
    source: pathlib.Path,
    target: pathlib.Path,
    to: Target | None,
    overwrite: bool,
    skip_existing: bool,
    echo: Callable[[str], None],
    options: Mapping[str, Any],
) -> list[dict[str, Any]]:
    """The structure folder ``source``, or all below it; the arguments are those of
    :func:`convert`."""
    single = folder_format(source) is not None
    folders = [source] if single else find_structures(source)
    records: list[dict[str, Any]] = []
    for folder in folders:
        form = to or ("legacy" if folder_format(folder) == "dock" else "dock")
        suffix = exports()[form].suffix if form not in formats() and form in exports() else ""
        place = target if single else target / f"{real_path(folder).name}{suffix}"
        skipped = {"source": str(folder), "target": str(place), "skipped": True}
        try:
            record = (
                skipped
                if skip_existing and _is_there(place, form)
                else convert_folder(folder, place, form, overwrite=overwrite, **options)
            )
        except DataError:
            if not skip_existing or not _is_there(place, form):
                raise
            record = skipped  # another process made it meanwhile
        records.append(record)
        if record is skipped:
            echo(f"{place}: is there already, skipped")
            continue
        echo(f"{folder} -> {place} ({form})")
        for note in records[-1]["notes"]:
            echo(f"  {note}")
    return records


def _is_there(place: pathlib.Path, form: Format) -> bool:
    """Whether what would be written is there, whole."""
    return place.is_file() or folder_format(place) == form


def _holds_structures(source: pathlib.Path) -> bool:
    """Whether there are structure folders at or below ``source``."""
    places = (pathlib.Path(path) for path, _, _ in os.walk(source, followlinks=True))
    return any(folder_format(p) is not None for p in places if not is_temporary(p.name))


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
