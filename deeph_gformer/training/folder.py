"""The folder of a training run: who has it, where it stands, what it says to a later one."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import pathlib
import shutil
import socket
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

from .. import __version__
from ..config import TrainStage1Config, to_mapping, upgrade_model
from ..data.sketch import Sketches
from ..errors import ConfigError, DataError, GFormerError
from ..fields import MODEL_CHECKPOINT, MODEL_NOTES, RUN_CONFIG, RUN_SPLITS
from ..gformer.bundle import BUNDLE_FILE
from ..io.files import atomic_path, is_filled, read_json, require_file, write_json
from ..logs import LOGGER, PRINTED, logged_in
from ..stopping import Stopped
from .checkpoint import BEST, LAST, RUN, read_checkpoint, run_record
from .process import first_rank, require_devices

__all__ = [
    "CHECKPOINTS",
    "FREE",
    "LOCK_FILE",
    "LOG_FILE",
    "RECORD_FILE",
    "check_run",
    "resume_hint",
    "held",
    "locked",
    "recorded",
    "this_run",
]

CHECKPOINTS, LOCK_FILE, RECORD_FILE, LOG_FILE = "checkpoints", "lock", "record.json", "log.txt"

#: What a resumed run may have otherwise; structures are compared by their names.
FREE = {
    "output",
    "data.preprocessed",
    "data.splits",
    "data.cache",
    "folds",
    "training.epochs",
    "training.threads",
    "training.device",
    "training.states_memory",
    "training.cuda_graphs",
}
#: Seconds that ``info``, which asks whether a training runs, may keep its lock.
_LOOK = 0.5
#: What a training makes in its folder.
RUN_FOLDERS = ("bundle", "cache", "checkpoints", "logs", "model")


def _take(path: pathlib.Path) -> int | None:
    """Descriptor of the locked file; None where the file system has no locks."""
    import fcntl

    end = time.monotonic() + _LOOK
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() < end:
                os.close(descriptor)
                time.sleep(0.01)
                continue
            owner = os.pread(descriptor, 200, 0).decode(errors="replace").strip() or "another"
            os.close(descriptor)
            raise ConfigError(
                f"{path.parent}: is in use by {owner}, a training that runs; wait for it, stop it, "
                "or choose another output"
            ) from None
        except OSError:
            os.close(descriptor)
            return None
        try:
            same = os.fstat(descriptor).st_ino == path.stat().st_ino
        except FileNotFoundError:
            same = False
        if same:  # else its owner removed it meanwhile
            with contextlib.suppress(OSError):  # a full disk is told with the first file
                os.ftruncate(descriptor, 0)
                owner = f"process {os.getpid()} on {socket.gethostname()}"
                os.pwrite(descriptor, owner.encode(), 0)
            return descriptor
        os.close(descriptor)


@contextlib.contextmanager
def _log_of(folder: pathlib.Path) -> Iterator[None]:
    """Write what is said into the run's ``log.txt``, after what is there; a run of which nothing is
    kept keeps no new log either.
    """
    path = folder / LOG_FILE
    new = not os.path.lexists(path)
    if not new:
        require_file(path)  # opening a pipe would wait for ever
    with logged_in(path, logging.INFO):
        LOGGER.info("deeph-gformer %s, process %d", __version__, os.getpid(), extra=PRINTED)
        try:
            yield
        except (GFormerError, Stopped, KeyboardInterrupt) as error:
            LOGGER.info("ended: %s", error or type(error).__name__, extra=PRINTED)
            raise
        finally:
            if new and not (folder / RUN_CONFIG).exists():
                path.unlink(missing_ok=True)


def _claim(folder: pathlib.Path) -> tuple[list[pathlib.Path], int | None]:
    """Make a folder where it is not there, and lock it.

    Returns:
        The folders that were made, and the lock, see :func:`_take`.

    Raises:
        ConfigError: another process has it.
    """
    left = 100
    while True:
        missing = [p for p in (folder, *folder.parents) if not p.exists()]
        try:
            folder.mkdir(parents=True, exist_ok=True)
            return missing, _take(folder / LOCK_FILE)
        except (FileNotFoundError, FileExistsError):
            left -= 1  # another process, of which nothing is kept, may have removed what it made
            if not left:
                raise
        except BaseException:
            _remove_empty(missing)
            raise


def _remove_empty(folders: Sequence[pathlib.Path]) -> None:
    for empty in folders:
        with contextlib.suppress(OSError):
            empty.rmdir()


@contextlib.contextmanager
def held(folder: pathlib.Path) -> Iterator[bool]:
    """Keep a folder for this process; the operating system frees it when the process dies.

    Args:
        folder: made where it is not there, and removed again if it stays empty.

    Yields:
        Whether it is kept: some file systems have no locks.

    Raises:
        ConfigError: another process has the folder.
    """
    path = folder / LOCK_FILE
    missing, descriptor = _claim(folder)
    try:
        yield descriptor is not None
    finally:
        if descriptor is not None:
            with contextlib.suppress(OSError):  # what went wrong before is told
                path.unlink(missing_ok=True)
                os.close(descriptor)
        _remove_empty(missing)


@contextlib.contextmanager
def locked(
    folder: pathlib.Path, first: bool, check: Callable[[], object] = lambda: None
) -> Iterator[None]:
    """Keep a run folder for this process, see :func:`held`.

    Its ``log.txt`` gets what is said. A stop that is not told yet is told with how to go on.

    Args:
        folder: of the run.
        first: whether this is the first rank; the others take no lock.
        check: raises where the folder may not be used; called once no other process has it, which
            may have finished a run there.

    Raises:
        ConfigError: another training has the folder.
    """
    if not first:
        check()
        yield
        return
    _check_writable(folder)
    try:
        with held(folder) as alone:
            check()
            places = ("", *(f"{n}/" for n in (*RUN_FOLDERS, "cache/*", "model/src", "logs/csv")))
            for place in places if alone else ():
                for left in folder.glob(f"{place}.*.tmp"):
                    with contextlib.suppress(OSError):  # of a process that was killed
                        left.unlink()
            with _log_of(folder):
                yield
    except Stopped as stop:
        if not stop.note:
            stop.note = resume_hint(folder)
        raise


def resume_hint(folder: pathlib.Path, where: str = "") -> str:
    """The end of a stop's message.

    Args:
        folder: of the run.
        where: e.g. ``in epoch 3 of 10``.
    """
    if (folder / CHECKPOINTS / f"{LAST}.ckpt").is_file():
        return f"{where or 'outside the epochs'}; go on with --resume --output {folder}"
    return f"{where or 'before the first epoch'}; nothing is kept of it, start it again"


def check_run(
    config: Any,
    splits: Mapping[str, Sequence[pathlib.Path]],
    resume: bool,
    free: Collection[str] = FREE,
) -> pathlib.Path:
    """Check that a run may use its folder; nothing is made.

    There is no run in it yet, or it is resumed with the same configuration and splits.

    Args:
        config: of this run; ``output`` is the folder.
        splits: folders of each split.
        resume: go on with the run that is there.
        free: settings that a resumed run may have otherwise.

    Returns:
        The folder.

    Raises:
        ConfigError: the folder cannot be written or holds another run, there is nothing to resume,
            or processes, GPUs and precision do not go together.
        DataError: a damaged checkpoint.
    """
    folder = pathlib.Path(config.output)
    _check_writable(folder)
    require_devices(config.training)
    if not first_rank():  # the first one speaks for all, and has perhaps written already
        return folder
    if resume:
        _check_same(folder, config, splits, free)
        for name in (LAST, BEST):
            table = read_checkpoint(folder / CHECKPOINTS / f"{name}.ckpt")
            _check_record(folder, table.get(RUN), config, splits, free)
    else:
        _check_free(folder, config)
    return folder


def _product(config: Any) -> tuple[str, str]:
    """What a training makes in its folder: a folder, and the file without which it is none."""
    stage1 = isinstance(config, TrainStage1Config)
    return ("model", MODEL_CHECKPOINT) if stage1 else ("bundle", BUNDLE_FILE)


def _check_free(folder: pathlib.Path, config: Any) -> None:
    """A new run may take the folder, and nothing of a user goes; one that died before its first
    checkpoint may have left what its first validation kept.

    Args:
        folder: of the run.
        config: of the run.

    Raises:
        ConfigError: it holds another run, a model, or files of something else.
    """
    path, (name, file) = folder / RUN_CONFIG, _product(config)
    made, whole = folder / name / file, (folder / RECORD_FILE).exists()
    if made.exists() and file == BUNDLE_FILE:
        table = read_json(made)
        training = table.get("training") if isinstance(table, dict) else None
        whole = not isinstance(training, dict) or training.get("finished") is not False
    if path.exists():
        table = read_json(path)
        if not isinstance(table, dict) or not {"data", "model", "training"} <= table.keys():
            raise ConfigError(f"{path}: is of no training; choose another --output")
        if _has_checkpoint(folder):
            raise ConfigError(
                f"{folder}: holds a run already; --resume continues it, or choose another --output"
            )
    elif made.exists() and file == MODEL_CHECKPOINT and not (made.parent / MODEL_NOTES).exists():
        raise ConfigError(
            f"{made.parent}: is a model that no training here has made; choose another --output"
        )
    elif not made.exists() and is_filled(made.parent):  # a run that fails would take it away
        raise ConfigError(f"{made.parent}: is there, and of no training; choose another --output")
    if whole:
        raise ConfigError(
            f"{folder}: holds a finished run without its checkpoints; choose another --output"
        )


def _has_checkpoint(folder: pathlib.Path) -> bool:
    """Whether there is anything to go on from; a run that died before leaves a folder without."""
    return (folder / CHECKPOINTS / f"{LAST}.ckpt").exists()


def _check_writable(folder: pathlib.Path) -> None:
    there = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        reason = "cannot be written" if there.is_dir() else "is a file"
        raise ConfigError(f"--output {folder}: {there} {reason}; choose another folder")


def _check_same(
    folder: pathlib.Path,
    config: Any,
    splits: Mapping[str, Sequence[pathlib.Path]],
    free: Collection[str],
) -> None:
    """The run in the folder has this configuration (but for what is free) and these splits."""
    path = folder / RUN_CONFIG
    if not path.is_file():
        raise ConfigError(
            f"{folder}: no run to resume here ({RUN_CONFIG} is missing); start without --resume, "
            "or name the folder of the run with --output"
        )
    old = _read_config(path)
    differs = _differences(old, config, free)
    if differs:
        raise ConfigError(
            f"{folder}: is a run of another configuration ({', '.join(differs[:6])} differ); "
            "resume with the same one, or choose another output"
        )
    there, names = read_json(folder / RUN_SPLITS), _names(splits)
    lists = there.values() if isinstance(there, dict) else [None]
    if not all(isinstance(value, list) and all(type(n) is str for n in value) for value in lists):
        raise DataError(
            f"{folder / RUN_SPLITS}: damaged (lists of names under train, val and test are "
            "needed); choose another output"
        )
    for name in names:
        if there.get(name) != names[name]:
            other = ", ".join(sorted({*names[name]} ^ {*there.get(name, ())})[:6]) or "the order"
            raise ConfigError(
                f"{folder}: is a run of other splits ({name}: {other} differ); resume with "
                f"those of {folder / RUN_SPLITS}, or choose another output"
            )


def _read_config(path: pathlib.Path) -> dict[str, Any]:
    """The configuration of the run in a folder.

    Raises:
        DataError: it is none.
    """
    table = read_json(path)
    sections = table.values() if isinstance(table, dict) else ()
    model = table.get("model", {}) if isinstance(table, dict) else None
    if not sections or not isinstance(model, dict) or not isinstance(table.get("data", {}), dict):
        raise DataError(f"{path}: damaged (no settings of a run); choose another output")
    old = _absolute(table)
    return {**old, "model": upgrade_model(model)} if "arch" in model else old


def _differences(old: Mapping[str, Any], config: Any, free: Collection[str]) -> list[str]:
    """Settings that differ.

    Args:
        old: configuration of a run, plain values.
        config: of this one.
        free: settings that may.
    """
    before, now = _dotted(old), _dotted(_plain(config))
    default = _dotted(_plain(type(config)()))  # what the run in the folder does not know of
    known = {key: before.get(key, default.get(key)) for key in {*before, *now}}
    return sorted(k for k in known if k not in free and now.get(k) != known[k])


def _check_record(
    folder: pathlib.Path,
    record: Any,
    config: Any,
    splits: Mapping[str, Sequence[pathlib.Path]],
    free: Collection[str],
) -> None:
    """What a checkpoint says of its run is what the folder's files say: nobody changed those.

    Args:
        folder: of the run.
        record: see :func:`run_record`; None in checkpoints of earlier versions.
        config: of the run that goes on.
        splits: of it.
        free: settings that may be others.

    Raises:
        ConfigError: names what was changed.
    """
    if record is None:
        return
    try:
        changed, parts = _differences(record["config"], config, free), dict(record["splits"])
    except (TypeError, KeyError, ValueError, AttributeError):
        raise ConfigError(
            f"{folder / CHECKPOINTS}: damaged (a checkpoint does not say which run it is of); "
            "choose another output"
        ) from None
    if changed:
        raise ConfigError(
            f"{folder / RUN_CONFIG}: was changed after the training wrote it "
            f"({', '.join(changed[:6])}); put back what was there, or choose another output"
        )
    if parts != _names(splits):
        raise ConfigError(
            f"{folder / RUN_SPLITS}: was changed after the training wrote it; put back what was "
            "there, or choose another output"
        )


def this_run(
    config: Any,
    splits: Mapping[str, Sequence[pathlib.Path]],
    stage1: Mapping[str, Any] | None,
    data: Sketches,
) -> dict[str, Any]:
    """What the checkpoints of a run say of it; see :func:`run_record`.

    Args:
        config: of the run.
        splits: folders of each split.
        stage1: what the network reads or corrects, see :meth:`.FeatureCache.record`.
        data: of each structure, see :mod:`..data.sketch`.
    """
    return run_record(_plain(config), _names(splits), stage1, data)


def _dotted(table: Mapping[str, Any]) -> dict[str, Any]:
    """``{"training.epochs": 3, ...}`` of a configuration's sections."""
    flat: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, dict):
            flat.update({f"{key}.{inner}": v for inner, v in value.items()})
        else:
            flat[key] = value
    return flat


@contextlib.contextmanager
def recorded(
    folder: pathlib.Path, config: Any, splits: Mapping[str, Sequence[pathlib.Path]]
) -> Iterator[None]:
    """Write what a run is of, on the first rank: its configuration and the names of its structures.

    Where the run ends before its first checkpoint all is as it was, so that the corrected command
    may use the folder.

    Args:
        folder: of the run.
        config: of the run.
        splits: folders of each split.
    """
    if not first_rank():
        yield
        return
    product, _ = _product(config)
    if (folder / RUN_CONFIG).exists() and not _has_checkpoint(folder):
        for name in ("cache", CHECKPOINTS, "logs", product):
            shutil.rmtree(folder / name, ignore_errors=True)
    path = folder / RUN_SPLITS  # perhaps a user's own, which --splits names
    before = path.read_bytes() if path.is_file() else None
    write_json(path, _names(splits))
    write_json(folder / RUN_CONFIG, _plain(config))
    try:
        yield
    except BaseException:
        if not (folder / CHECKPOINTS / f"{LAST}.ckpt").is_file():
            shutil.rmtree(folder / product, ignore_errors=True)
            if before is None:
                path.unlink(missing_ok=True)
            else:
                with atomic_path(path) as temporary:
                    temporary.write_bytes(before)
            (folder / RUN_CONFIG).unlink(missing_ok=True)  # the last one: it says whose these are
        raise


def _names(splits: Mapping[str, Sequence[pathlib.Path]]) -> dict[str, list[str]]:
    return {name: [folder.resolve().name for folder in folders] for name, folders in splits.items()}


def _plain(config: Any) -> Any:
    """The configuration as JSON gives it back."""
    return _absolute(json.loads(json.dumps(to_mapping(config))))


def _absolute(table: dict[str, Any]) -> dict[str, Any]:
    """The same with paths that hold in every working directory."""
    data = dict(table.get("data", {}))
    table = {**table, "data": data}
    for place, key in (
        (data, "preprocessed"),
        (data, "splits"),
        (table, "stage1"),
        (table, "start"),
        (table, "cross_fit"),
        (table, "final"),
    ):
        if isinstance(place.get(key), str) and place[key]:
            place[key] = os.path.abspath(place[key])
    return table
