"""DFT runs -> structure folders: one, or all below a folder, several at a time, going on where it
stopped."""

from __future__ import annotations

import concurrent.futures
import functools
import inspect
import multiprocessing
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from ... import fields
from ...errors import ConfigError, DataError, GFormerError, reason
from ...io.files import read_json, real_path
from ...io.folder import (
    Format,
    folder_format,
    is_free,
    remove_leftovers,
    replaced_folder,
    warn_unreadable,
)
from ...io.formats import get_format
from ...io.gauge import OURS
from ...logs import shows_progress
from ...terminal import Progress
from ..folders import write_folder
from .registry import DFTReader, get_reader, readers
from .run import DFTRun, check_run

__all__ = ["FoundRun", "find_runs", "read_run", "convert_runs"]

#: Key of ``deeph_gformer`` in ``info.json``: which files a folder was made from.
CONVERTED = "converted_from"


class FoundRun(NamedTuple):
    """A run of a DFT code.

    Attributes:
        path: its folder or file.
        code: name of its reader.
        name: of the folder that it becomes.
    """

    path: pathlib.Path
    code: str
    name: str


def find_runs(source: str | os.PathLike[str], code: str = "auto") -> list[FoundRun]:
    """The runs at ``source``, or, where it is a folder without any, in the folders below.

    Args:
        source: a file or folder.
        code: name of a reader, or ``auto``.

    Raises:
        DataError: there is none, or a folder could be of two codes.
        ConfigError: the code is unknown.
    """
    source = pathlib.Path(source)
    if not source.exists():
        raise DataError(f"{source}: no such file or folder")
    using = list(readers().values()) if code == "auto" else [get_reader(code)]
    found: list[tuple[pathlib.Path, str]] = []
    for folder in _folders(source):
        here = [(path, reader.name) for reader in using for path in reader.find(folder)]
        codes = sorted({name for _, name in here})
        if len(codes) > 1:
            raise DataError(
                f"{folder}: could be a run of {' or '.join(codes)}; say which with --from "
                f"{codes[0]}"
            )
        found += here
        if folder == source and here:
            break
    if not found:
        kinds = ", ".join(reader.name for reader in using)
        raise DataError(f"{source}: neither structure folders nor DFT runs ({kinds}) here or below")
    names = _names(source, [path for path, _ in found])
    return [FoundRun(path, code, name) for (path, code), name in zip(found, names, strict=True)]


def _folders(source: pathlib.Path) -> Iterator[pathlib.Path]:
    """``source`` and the folders below it, not those of OpenMX's and ABACUS' own output."""
    if source.is_file():
        yield source
        return
    for path, below, _ in os.walk(source, onerror=warn_unreadable, followlinks=True):
        below[:] = sorted(n for n in below if not n.startswith((".", "OUT.")) and n != "output")
        yield pathlib.Path(path)


def _names(source: pathlib.Path, paths: list[pathlib.Path]) -> list[str]:
    """A name for each run: that of its folder, with the file's where several share a folder; the
    whole way where names clash.
    """
    folders = [path.parent if path.is_file() else path for path in paths]
    several = {folder for folder in folders if folders.count(folder) > 1}
    names = [
        f"{real_path(folder).name}_{path.stem}" if folder in several else real_path(folder).name
        for folder, path in zip(folders, paths, strict=True)
    ]
    if len(set(names)) == len(names):
        return names
    ways = [
        path.relative_to(source).with_suffix("") if path.is_file() else path.relative_to(source)
        for path in paths
    ]
    return [
        "_".join((way if folder in several else folder.relative_to(source)).parts)
        for way, folder in zip(ways, folders, strict=True)
    ]


def read_run(
    path: str | os.PathLike[str], code: str = "auto", *, unconverged: bool = False, **options: Any
) -> DFTRun:
    """Read one run into memory.

    Args:
        path: its folder or file.
        code: name of a reader, or ``auto``.
        unconverged: read a run that did not converge, too.
        options: further ones of the code's reader (``fdf`` of SIESTA).

    Raises:
        DataError: the run cannot be read, or there are several.
        ConfigError: the code is unknown, or has no such option.
    """
    if code == "auto":
        there = find_runs(path)
        if len(there) > 1:
            raise DataError(f"{path}: holds {len(there)} runs, first {there[0].path}; name one")
        path, code = there[0].path, there[0].code
    reader = get_reader(code)
    _check_options(reader, options)
    path = pathlib.Path(path)
    try:
        found = reader.read(path, unconverged, **options)
    except (ArithmeticError, LookupError, ValueError) as error:
        # a number that is none, somewhere in the text: readers name the places that they know
        raise DataError(
            f"{path}: output of {reader.name} that is damaged ({reason(error)})"
        ) from error
    return check_run(found, path)


def _check_options(reader: DFTReader, options: dict[str, Any]) -> None:
    unknown = sorted(set(options) - set(inspect.signature(reader.read).parameters))
    if unknown:
        raise ConfigError(f"--{unknown[0]}: has no effect on runs of {reader.name}; leave it out")


def _stamp(run: DFTRun, path: pathlib.Path) -> dict[str, list[int]]:
    """{file: [bytes, time of change]} of the files that a folder was made from."""
    base = path if path.is_dir() else path.parent
    stamps = {}
    for file in run.files:
        name = str(file.relative_to(base)) if file.is_relative_to(base) else file.name
        stamps[name] = [file.stat().st_size, file.stat().st_mtime_ns]
    return stamps


def _is_current(place: pathlib.Path, run: FoundRun, form: Format) -> bool:
    """Whether the folder was made, whole, from these files as they are now."""
    if folder_format(place) != form:
        return False
    try:
        info = read_json(place / fields.INFO_FILE)
    except DataError:
        return False
    ours = info.get(OURS) if isinstance(info, dict) else None
    record = ours.get(CONVERTED) if isinstance(ours, dict) else None
    if not isinstance(record, dict) or not isinstance(record.get("files"), dict):
        return False
    base = run.path if run.path.is_dir() else run.path.parent
    for name, stamp in record["files"].items():
        file = base / name
        if not file.is_file() or [file.stat().st_size, file.stat().st_mtime_ns] != stamp:
            return False
    return all((place / name).is_file() for name in record.get("wrote", []))


def _check_free(place: pathlib.Path, overwrite: bool) -> None:
    if not overwrite and not is_free(place):
        raise DataError(
            f"{place}: holds a structure that was not made from these files as they are now; "
            "add --overwrite to replace it, or name another folder"
        )


def _convert_one(
    run: FoundRun,
    place: pathlib.Path,
    form: Format,
    unconverged: bool,
    overwrite: bool,
    options: dict[str, Any],
) -> dict[str, Any]:
    """Convert one run; errors are part of the record."""
    record: dict[str, Any] = {
        "source": str(run.path),
        "target": str(place),
        "from": run.code,
        "to": form,
        "files": [],
        "notes": [],
    }
    try:
        if not overwrite and _is_current(place, run, form):
            return record | {"skipped": True}
        check = functools.partial(_check_free, place, overwrite)
        check()
        read = read_run(run.path, run.code, unconverged=unconverged, **options)
        result = {
            "files": _stamp(read, run.path),
            "wrote": [get_format(form).files[kind] for kind in read.matrices],
        }
        read.structure.info.setdefault(OURS, {})[CONVERTED] = result
        with replaced_folder(place, check) as scratch:
            files, notes = write_folder(scratch, read.structure, read.matrices, form)
        remove_leftovers(place)
    except (GFormerError, OSError, MemoryError) as error:
        if not overwrite and _is_current(place, run, form):  # another process made it meanwhile
            return record | {"skipped": True}
        return record | {"error": str(error) or type(error).__name__}
    return record | {"files": files, "notes": [*read.notes, *notes]}


def convert_runs(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    code: str = "auto",
    form: Format = "legacy",
    *,
    unconverged: bool = False,
    overwrite: bool = False,
    processes: int | None = None,
    progress: bool = False,
    echo: Callable[[str], None] = lambda text: None,
    **options: Any,
) -> list[dict[str, Any]]:
    """Convert a run into ``target``, or each run below ``source`` into ``<target>/<name>``.

    A folder that was made from the same, unchanged files is left as it is, so an interrupted
    conversion goes on.

    Args:
        source: a run's folder or file, or a folder of runs.
        target: the folder to write.
        code: name of a reader, or ``auto``.
        form: folder format to write.
        unconverged: read runs that did not converge, too.
        overwrite: replace what is there.
        processes: runs read at a time; default: one per CPU. 1 stays in this process; more needs
            the usual ``if __name__ == "__main__":`` in a script.
        progress: show a bar (standard error, where that is a terminal).
        echo: called with the lines of the summary.
        options: further ones of the code's reader (``fdf`` of SIESTA).

    Returns:
        a record per run: ``source``, ``target``, ``from``, ``to``, ``files``, ``notes``, and
        ``skipped`` or ``error``.

    Raises:
        DataError: there is no run, or the only one cannot be converted.
        ConfigError: an option is unknown or out of range.
    """
    if processes is not None and processes < 1:
        raise ConfigError(f"--processes {processes}: at least 1 is needed")
    source, target = pathlib.Path(source), pathlib.Path(target)
    runs = find_runs(source, code)
    for name in {run.code for run in runs}:
        _check_options(get_reader(name), options)
    single = len(runs) == 1 and runs[0].path == source or source.is_file()
    single = single or (len(runs) == 1 and runs[0].path.parent == source)
    places = [target if single else target / run.name for run in runs]
    taken = {real_path(path) for path, *_ in runs}
    taken |= {real_path(path).parent for path, *_ in runs if path.is_file()}
    if any(real_path(place) in taken for place in places):
        raise ConfigError(f"{target}: is the folder that is read; name another one to write")
    jobs = [
        (run, place, form, unconverged, overwrite, options)
        for run, place in zip(runs, places, strict=True)
    ]
    count = min(processes or len(os.sched_getaffinity(0)), len(jobs))
    records = _all(jobs, count, progress)
    if single and "error" in records[0]:
        raise DataError(records[0]["error"])
    _summarise(records, single, echo)
    return records


def _all(jobs: list[Any], count: int, progress: bool) -> list[dict[str, Any]]:
    """The record of each job, in order."""

    def bar(items: Iterable[Any]) -> Iterator[Any]:
        """The items, counted on a terminal."""
        shown = Progress("convert", len(jobs), progress and shows_progress(), "run")
        try:
            for item in items:
                yield item
                shown.tick("", 1)
        finally:
            shown.close()

    if count == 1:
        return [_convert_one(*job) for job in bar(jobs)]
    records: list[dict[str, Any]] = [{} for _ in jobs]
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(count, mp_context=context) as pool:
        futures = {pool.submit(_convert_one, *job): n for n, job in enumerate(jobs)}
        try:
            for future in bar(concurrent.futures.as_completed(futures)):
                try:
                    records[futures[future]] = future.result()
                except concurrent.futures.process.BrokenProcessPool:
                    run, place = jobs[futures[future]][:2]
                    records[futures[future]] = {
                        "source": str(run.path),
                        "target": str(place),
                        "error": f"{run.path}: a process ended while runs were read (out of "
                        "memory?); the command goes on where it stopped: give fewer --processes "
                        "(in a Python script without 'if __name__ == \"__main__\":' processes=1)",
                    }
        except KeyboardInterrupt:
            pool.shutdown(cancel_futures=True)
            raise
    return records


def _summarise(records: list[dict[str, Any]], single: bool, echo: Callable[[str], None]) -> None:
    """One line per converted run and each note once, then what failed and why."""
    for record in records:
        if "error" not in record:
            done = "there already, from the same files" if record.get("skipped") else record["to"]
            echo(f"{record['source']} -> {record['target']} ({done})")
    notes: dict[str, list[str]] = {}
    for record in records:
        for note in record.get("notes", ()):
            notes.setdefault(note, []).append(pathlib.Path(record["target"]).name)
    for note, names in notes.items():
        where = "" if single else f" [{', '.join(names[:3])}{', ...' if len(names) > 3 else ''}]"
        echo(f"  {note}{where}")
    failed = [record for record in records if "error" in record]
    if single:
        return
    skipped = sum("skipped" in record for record in records)
    echo(
        f"{len(records) - skipped - len(failed)} converted, {skipped} there already, "
        f"{len(failed)} failed" + (":" if failed else "")
    )
    for record in failed:
        echo(f"  {record['error']}")
