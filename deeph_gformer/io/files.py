"""The one place that opens files to read, and that writes them whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import pathlib
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

from ..errors import DataError, GFormerError
from ..stopping import shielded
from .locks import alone, begin_file
from .parsing import parse_json
from .streams import is_stream, write_through

__all__ = [
    "MAX_TEXT",
    "require_file",
    "real_path",
    "entry_kind",
    "is_filled",
    "read_text",
    "read_json",
    "atomic_path",
    "write_errors",
    "write_text",
    "write_json",
    "json_text",
]


#: Text files beyond this are refused: 256 MiB.
MAX_TEXT = 2**28


def require_file(
    path: str | os.PathLike[str],
    limit: int | None = None,
    missing: str = "",
    error: type[GFormerError] = DataError,
) -> pathlib.Path:
    """The path of a regular file (or of a link to one): opening it can neither wait nor act.

    Args:
        path: the file.
        limit: largest size, bytes.
        missing: what to do where it is not there, for the message.
        error: class of the error.

    Raises:
        GFormerError: of the class ``error``; not there, a folder, device, pipe or socket, or
            larger.
    """
    path = pathlib.Path(path)
    hint = f"; {missing}" if missing else ""
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise error(f"{path}: file not found{hint}") from None
    except (OSError, ValueError) as wrong:
        reason = getattr(wrong, "strerror", None) or str(wrong)
        raise error(f"{path}: cannot be read ({reason})") from None
    if not stat.S_ISREG(found.st_mode):
        kind = "a folder" if stat.S_ISDIR(found.st_mode) else "a device, pipe or socket"
        raise error(f"{path}: is {kind}, and a file is needed{hint}")
    if limit is not None and found.st_size > limit:
        raise error(
            f"{path}: {found.st_size / 2**20:.0f} MiB, and at most {limit / 2**20:.0f} MiB are "
            "read of such a file; is it the right one?"
        )
    return path


def real_path(path: str | os.PathLike[str]) -> pathlib.Path:
    """The path without links; where they run in a circle, which ``Path.resolve`` does not survive,
    as far as they lead.
    """
    return pathlib.Path(os.path.realpath(path))


def entry_kind(path: str | os.PathLike[str]) -> Literal["folder", "file"] | None:
    """What has this name, from one look: two could see what another process replaces in between.

    Args:
        path: of anything, or a link to it.

    Returns:
        "file" for all that is no folder; None where nothing is there, or it cannot be told.
    """
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):
        return None
    return "folder" if stat.S_ISDIR(mode) else "file"


def is_filled(folder: pathlib.Path) -> bool:
    """Whether a folder is there and something is in it; one that vanishes meanwhile is not there.

    Args:
        folder: its path.
    """
    try:
        return any(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return False


def read_text(
    path: str | os.PathLike[str],
    limit: int = MAX_TEXT,
    missing: str = "",
    error: type[GFormerError] = DataError,
    strict: bool = True,
) -> str:
    """The text of a file (UTF-8, with or without byte order mark).

    Args:
        path: the file.
        limit: largest size, bytes.
        missing: what to do where it is not there, for the message.
        error: class of the error.
        strict: refuse what is no UTF-8; False: replace it (comments of old programs' files).

    Raises:
        GFormerError: of the class ``error``; see :func:`require_file`, or it is no text.
    """
    path = require_file(path, limit, missing, error)
    try:
        text = path.read_bytes().decode("utf-8-sig", "strict" if strict else "replace")
    except OSError as wrong:
        raise error(f"{path}: cannot be read ({wrong.strerror})") from None
    except UnicodeDecodeError as wrong:
        raise error(f"{path}: no text (byte {wrong.start + 1} is not UTF-8)") from None
    if strict and "\0" in text:
        raise error(f"{path}: no text (it holds NUL bytes)")
    return text


@contextlib.contextmanager
def write_errors(target: str | os.PathLike[str]) -> Iterator[None]:
    """What the operating system says while ``target`` is written, as one sentence.

    Raises:
        DataError: in place of an OSError.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error).splitlines()[0]
        hint = (
            "free some space or choose another folder"
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
            else "choose another folder"
        )
        raise DataError(
            f"{target}: could not be written ({reason}), no part of this file was left behind; "
            f"{hint}"
        ) from error


@contextlib.contextmanager
def atomic_path(
    target: str | os.PathLike[str],
    expected_bytes: int = 0,
    before: Callable[[], None] | None = None,
) -> Iterator[pathlib.Path]:
    """Yield a temporary path, which takes the name ``target`` when the block ends well.

    A regular file is replaced by renaming (a link to one keeps being a link). What is there and is
    no regular file - a pipe, a device, the standard output - is written to.

    Args:
        target: the file to create or replace; its folder is created.
        expected_bytes: about how large it gets; checked against the free space.
        before: called once the new file is whole, before it takes its name: what must be there
            whenever the file is. The old file, if any, is gone then; no other process replaces the
            folder meanwhile, or a file with a ``before`` in it.

    Raises:
        DataError: ``target`` is a folder or a socket, cannot be written, or the disk is full (the
            old file, if any, is untouched).
    """
    target = pathlib.Path(target)
    with write_errors(target):
        stream = is_stream(target)
    place = pathlib.Path(os.path.realpath(target)) if target.is_symlink() else target
    folder = pathlib.Path(tempfile.gettempdir()) if stream else place.parent
    existing = next(p for p in (folder, *folder.absolute().parents) if p.is_dir())
    free = shutil.disk_usage(existing).free if expected_bytes else 0
    if expected_bytes > free:
        raise DataError(
            f"{target}: needs about {expected_bytes / 2**20:.0f} MiB, {free / 2**20:.0f} MiB are "
            "free; free some space or choose another folder"
        )
    temporary: pathlib.Path | None = None
    descriptor: int | None = None
    with write_errors(target):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with shielded():  # what is made is known before anything else happens
                descriptor, temporary = begin_file(folder, target.name)
            yield temporary
            if stream:
                write_through(temporary, target)
                return
            with open(temporary, "rb") as handle:
                os.fsync(handle.fileno())
            os.chmod(temporary, 0o666 & ~_umask())
            with contextlib.ExitStack() as together:
                if before is not None:
                    together.enter_context(alone(pathlib.Path(os.path.realpath(folder)).parent))
                    place.unlink(missing_ok=True)
                    before()
                with shielded():
                    os.replace(temporary, place)
                    temporary = None  # the name is free, and may be another process's by now
        finally:
            with shielded():
                if temporary is not None:
                    with contextlib.suppress(OSError):  # what went wrong before is told
                        temporary.unlink(missing_ok=True)
                if descriptor is not None:
                    with contextlib.suppress(OSError):
                        os.close(descriptor)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_text(target: str | os.PathLike[str], text: str) -> None:
    """Write ``text`` to ``target`` in one step (UTF-8)."""
    with atomic_path(target) as path:
        path.write_bytes(text.encode("utf-8", "backslashreplace"))


def _plain(value: Any) -> Any:
    """JSON has no NaN and no infinity: unknown numbers are null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):  # also a result
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def write_json(target: str | os.PathLike[str], value: Any) -> None:
    """Write ``value`` as indented JSON to ``target`` in one step; NaN and infinity become null."""
    write_text(target, json_text(value))


def json_text(value: Any) -> str:
    """Indented JSON; NaN and infinity become null."""
    return json.dumps(_plain(value), indent=1, allow_nan=False) + "\n"


def read_json(path: str | os.PathLike[str]) -> Any:
    """Read a JSON file.

    Raises:
        DataError: it is missing, or is not JSON; names the place of the mistake.
    """
    return parse_json(read_text(path), str(path))
