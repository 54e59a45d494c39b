"""A structure's folder is replaced whole, by one that was made beside it.

At every moment ``<folder>`` is the old one or the new one (where the file system cannot exchange
two names, for an instant not there); what a killed process left is put right, or removed, when the
folder is next written.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator

from ..errors import DataError
from ..stopping import shielded
from .files import entry_kind
from .formats import structure_files
from .locks import alone, hold_folder, lock_folder

__all__ = ["is_temporary", "remove_leftovers", "replaced_folder"]

#: Ends of the names of folders in the making, and of old ones on their way out.
_NEW, _OLD = ".tmp", ".old"
#: Seconds after which files in the making have no process any more that makes them.
_STALE = 24 * 3600


def is_temporary(name: str) -> bool:
    """Whether a folder of this name is one in the making, or on its way out, and no structure.

    Args:
        name: of the folder.
    """
    return name.startswith(".") and name.endswith((_NEW, _OLD))


def _age(path: pathlib.Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except OSError:
        return 0.0


def remove_leftovers(folder: str | os.PathLike[str]) -> None:
    """Put right what killed processes left in a structure's folder and beside it.

    Files in the making are removed; an old folder that lost its name gets it back.

    Args:
        folder: of the structure; it need not be there.
    """
    folder = pathlib.Path(os.path.realpath(folder))
    with alone(folder.parent):
        _remove_leftovers(folder)


def _remove_leftovers(folder: pathlib.Path) -> None:
    """See :func:`remove_leftovers`; the folder's parent is this process's."""
    left = [p for n in structure_files() for p in folder.glob(f".{_escape(n)}.*{_NEW}")]
    lock = lock_folder(folder) if left else None
    for path in left:
        if lock is not None or _age(path) > _STALE:
            path.unlink(missing_ok=True)
    if lock is not None:
        os.close(lock)
    for end in (_OLD, _NEW):
        for path in folder.parent.glob(f".{_escape(folder.name)}.*{end}"):
            _settle(path, folder, end == _OLD)


def _escape(name: str) -> str:
    import glob

    return glob.escape(name)


def _settle(path: pathlib.Path, folder: pathlib.Path, old: bool) -> None:
    """Finish with a folder that a killed process left, not with one that a living process holds.

    Args:
        path: the folder.
        folder: whose old or new state it is.
        old: whether it is an old state.
    """
    if not path.is_dir() or path.is_symlink():
        return
    descriptor = lock_folder(path)
    if descriptor is None and _age(path) < _STALE:
        return
    try:
        if old and not folder.exists():
            os.rename(path, folder)
            return
        if old:
            _move_others(path, folder)
        _remove(path)
    except OSError:
        pass  # it stays, and is in nobody's way
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _remove(folder: pathlib.Path) -> None:
    """Remove a folder as far as that can be done, also one that may only be read."""
    with contextlib.suppress(OSError):
        os.chmod(folder, 0o700)
    shutil.rmtree(folder, ignore_errors=True)


def _move_others(old: pathlib.Path, folder: pathlib.Path) -> None:
    """What is no part of the structure, as notes and figures, moves to the new folder."""
    known = set(structure_files())
    for path in old.iterdir():
        temporary = path.name.startswith(".") and path.name.endswith(_NEW)
        if path.name not in known and not temporary and not (folder / path.name).exists():
            os.rename(path, folder / path.name)


@contextlib.contextmanager
def replaced_folder(
    folder: str | os.PathLike[str], check: Callable[[], object] | None = None
) -> Iterator[pathlib.Path]:
    """Yield a temporary folder, which takes the name ``folder`` when the block ends well.

    It replaces the structure and all matrices that are in ``folder``; other files stay. When the
    block fails ``folder`` is as it was.

    Args:
        folder: to make or replace; a link to a folder keeps being one.
        check: raises where the folder may not be replaced; called once the new one is whole, while
            no other process replaces it: one may have made it meanwhile.

    Raises:
        DataError: a file has the folder's name, or the folder cannot be made.
    """
    given = pathlib.Path(folder)
    if entry_kind(given) == "file":
        raise DataError(f"{given}: is a file, and a folder is to be written; name another one")
    folder = pathlib.Path(os.path.realpath(given))
    scratch: pathlib.Path | None = None
    lock: int | None = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with alone(folder.parent), shielded():  # who waits can be stopped
            _remove_leftovers(folder)
            scratch = pathlib.Path(
                tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=_NEW, dir=folder.parent)
            )
            lock = hold_folder(scratch)
        yield scratch
        for path in (*scratch.rglob("*"), scratch):
            _to_disk(path)
        with alone(folder.parent), shielded():
            if check is not None:
                check()
            _put(scratch, folder)
    except DataError as error:
        raise DataError(str(error).replace(str(scratch), str(given))) from error
    except OSError as error:
        raise DataError(
            f"{given}: could not be written ({error.strerror or error}); choose another folder"
        ) from error
    finally:
        with shielded():
            if lock is not None:
                os.close(lock)
            if scratch is not None:
                _remove(scratch)


def _put(scratch: pathlib.Path, folder: pathlib.Path) -> None:
    """Give the finished folder its name; the parent is this process's.

    Raises:
        OSError: it cannot be done.
    """
    mask = os.umask(0)
    os.umask(mask)
    os.chmod(scratch, 0o777 & ~mask)
    if not folder.exists():
        os.rename(scratch, folder)
        _to_disk(folder.parent)
        return
    shutil.copymode(folder, scratch)
    old = pathlib.Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=_OLD, dir=folder.parent))
    os.rename(scratch, old)  # before and after the exchange, what has this name is to go
    exchanged = _exchange(old, folder)
    if not exchanged:
        os.rename(old, scratch)
        try:
            old.mkdir()
            os.rename(folder, old)
        except OSError:  # a mount point cannot be renamed: file by file, the last one last
            old.rmdir()
            _put_files(scratch, folder)
            return
    try:
        if not exchanged:
            os.rename(scratch, folder)
        _move_others(old, folder)
        _to_disk(folder.parent)
    finally:
        if not folder.exists():
            os.rename(old, folder)
    _remove(old)


def _exchange(a: pathlib.Path, b: pathlib.Path) -> bool:
    """Let two folders change names in one step (Linux): at no moment is one of them not there.

    Args:
        a: one folder.
        b: the other.

    Returns:
        False where the system or the file system cannot.
    """
    import ctypes

    try:
        rename = ctypes.CDLL(None).renameat2
    except (AttributeError, OSError, TypeError):
        return False
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return int(rename(here, os.fsencode(a), here, os.fsencode(b), exchange)) == 0


def _put_files(scratch: pathlib.Path, folder: pathlib.Path) -> None:
    """Move the files one by one; without its last file no folder counts as a structure."""
    from .formats import formats

    last = {form.required[-1] for form in formats().values()}
    for name in sorted(structure_files(), key=lambda name: name not in last):
        (folder / name).unlink(missing_ok=True)
    for path in sorted(scratch.iterdir(), key=lambda path: path.name in last):
        os.replace(path, folder / path.name)


def _to_disk(path: pathlib.Path) -> None:
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
