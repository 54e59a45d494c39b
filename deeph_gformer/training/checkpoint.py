"""Checkpoints of a run: read as data, held against the run that goes on from them."""

from __future__ import annotations

import io
import math
import pathlib
import pickle
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..data.sketch import Sketches, changed_data
from ..errors import ConfigError, DataError, ModelError, printable
from ..io.files import atomic_path, require_file
from ..stage1.strict import require_checkpoint

__all__ = [
    "BEST",
    "LAST",
    "RUN",
    "check_weights",
    "read_checkpoint",
    "read_tensors",
    "require_same_data",
    "run_record",
    "write_tensors",
]

T = TypeVar("T")
#: Names of the checkpoints of the last and of the best epoch, without ending.
LAST, BEST = "last", "best"
#: Key of a checkpoint: which run it is of, see :func:`run_record`.
RUN = "deeph_gformer_run"
#: What every checkpoint has, and of which type.
_KEYS = {
    "epoch": int,
    "global_step": int,
    "state_dict": dict,
    "callbacks": dict,
    "optimizer_states": list,
    "lr_schedulers": list,
    "loops": dict,
}
#: What ``torch.load`` raises on damaged files.
_DAMAGED = (
    *(RuntimeError, OSError, EOFError, LookupError, ValueError, TypeError, AttributeError),
    *(pickle.UnpicklingError, ModelError),
)


def read_tensors(path: pathlib.Path, mmap: bool = False) -> Any:
    """Content of a file that ``torch.save`` wrote, on the CPU; its checksums are checked.

    Args:
        path: the file.
        mmap: leave numbers on disk until they are used.

    Raises:
        DataError: it is damaged, or holds more than tensors and plain values.
    """
    try:
        require_checkpoint(path)
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except _DAMAGED as error:
        reason = (str(error).splitlines() or ["it ends early"])[0].removeprefix(f"{path}: ")
        raise DataError(f"{path}: damaged ({printable(reason)[:200]})") from None


def write_tensors(path: pathlib.Path, value: Any) -> None:
    """``torch.save`` in one step; a full disk is an ``OSError`` only where Python writes.

    Raises:
        DataError: the file cannot be written.
    """
    buffer = io.BytesIO()
    torch.save(value, buffer)
    with atomic_path(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())


def read_checkpoint(path: pathlib.Path) -> dict[str, Any]:
    """Content of a checkpoint, on the CPU.

    Raises:
        ConfigError: it is not there.
        DataError: it is damaged, or no checkpoint of a training.
    """
    if not path.exists() and not path.is_symlink():
        raise ConfigError(
            f"{path}: not there, so there is nothing to resume; start without --resume"
        )
    require_file(path)
    try:
        table = read_tensors(path)
        _check(table, path)
    except DataError as error:
        other = path.with_name(f"{LAST if path.stem == BEST else BEST}.ckpt")
        raise DataError(
            f"{error}; copy {other.name} over it to go on from there, or choose another output"
        ) from None
    content: dict[str, Any] = table
    return content


def _check(table: Any, path: pathlib.Path) -> None:
    """Raise unless this is a checkpoint of plain, finite numbers.

    Raises:
        DataError: says what is wrong.
    """
    if not isinstance(table, dict):
        raise DataError(f"{path}: damaged (no checkpoint of a training)")
    for key, kind in _KEYS.items():
        value = table.get(key)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise DataError(f"{path}: damaged (no '{key}' of a training)")
    if not (0 <= table["epoch"] < 10**9 and 0 <= table["global_step"] < 10**15):
        raise DataError(f"{path}: damaged (epoch {str(table['epoch'])[:30]})")
    for place, value in _leaves(table, Tensor):
        if value.layout != torch.strided or value.is_quantized or value.is_meta:
            raise DataError(f"{path}: damaged ('{printable(place)}' is no plain tensor)")
        number = value.dtype in (torch.float32, torch.float64, torch.int64)
        if not number and not (value.dtype == torch.bool and place.startswith("state_dict")):
            raise DataError(f"{path}: damaged ('{printable(place)}' is of type {value.dtype})")
        if value.numel() * value.itemsize > value.untyped_storage().nbytes():
            raise DataError(f"{path}: damaged ('{printable(place)}' has fewer values than it says)")
        learned = place.startswith(("state_dict", "current_model_state", "optimizer_states"))
        if learned and value.is_floating_point() and not torch.isfinite(value).all():
            raise DataError(f"{path}: damaged ('{printable(place)}' holds NaN or infinite values)")
        if place.startswith("optimizer_states") and not value.is_floating_point():
            raise DataError(f"{path}: damaged ('{printable(place)}' is of type {value.dtype})")
    for state in table["optimizer_states"] or [{}]:
        groups = state.get("param_groups") if isinstance(state, dict) else None
        listed = isinstance(groups, list) and groups and all(isinstance(g, dict) for g in groups)
        if not listed or not all(isinstance(g.get("lr"), float) for g in groups or ()):
            raise DataError(f"{path}: damaged (no state of an optimiser)")
    for place, setting in _leaves(table["optimizer_states"], float):
        if not math.isfinite(setting):
            raise DataError(f"{path}: damaged (a setting of the optimiser, {place}, is {setting})")


def _leaves(value: Any, kind: type[T], place: str = "") -> Iterator[tuple[str, T]]:
    """Every value of a type in dictionaries and lists, and where it stands."""
    if isinstance(value, kind):
        yield place, value
    elif isinstance(value, (dict, list, tuple)):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in pairs:
            yield from _leaves(item, kind, f"{place}.{key}" if place else str(key))


def check_weights(table: Mapping[str, Any], wanted: Mapping[str, Any], path: pathlib.Path) -> None:
    """Raise unless the weights of a checkpoint are those of a network in name, shape and type.

    Args:
        table: the checkpoint.
        wanted: ``state_dict`` of what is trained.
        path: the checkpoint, for messages.

    Raises:
        DataError: names the first that differs.
    """
    hint = ""
    if RUN not in table:
        hint = (
            "; a run of an earlier version ends here: start a new one from its bundle, with --from"
        )
    for state in (table["state_dict"], table.get("current_model_state", wanted)):
        if not isinstance(state, dict):
            raise DataError(f"{path}: damaged (no weights)")
        for name in sorted({*wanted, *state}, key=str):
            mine, theirs = wanted.get(name), state.get(name)
            if mine is theirs:
                continue
            if not isinstance(mine, Tensor) or not isinstance(theirs, Tensor):
                there = "is missing" if theirs is None else "is unknown"
                where = printable(str(name))
                raise DataError(f"{path}: is of another network ('{where}' {there}){hint}")
            if mine.shape != theirs.shape or mine.dtype != theirs.dtype:
                raise DataError(
                    f"{path}: is of another network ('{name}' is {_kind(theirs)}, {_kind(mine)} "
                    f"is needed){hint}"
                )


def _kind(value: Tensor) -> str:
    return f"{value.dtype} of shape {tuple(value.shape)}".removeprefix("torch.")


def run_record(
    config: Mapping[str, Any],
    splits: Mapping[str, Sequence[str]],
    stage1: Mapping[str, Any] | None,
    data: Sketches,
) -> dict[str, Any]:
    """What a checkpoint says of its run, so that another one is told from it.

    Args:
        config: of the run, plain values.
        splits: names of the structures of each split.
        stage1: what the network reads or corrects, see :meth:`.FeatureCache.record`.
        data: of each structure, see :mod:`..data.sketch`.

    Returns:
        ``config``, ``splits``, ``stage1`` and ``data``.
    """
    return {
        "config": dict(config),
        "splits": {k: list(v) for k, v in splits.items()},
        "stage1": None if stage1 is None else dict(stage1),
        "data": {name: dict(parts) for name, parts in data.items()},
    }


def require_same_data(record: Any, now: Sketches, path: pathlib.Path) -> None:
    """Raise unless structures are what they were when a training began.

    Args:
        record: see :func:`run_record`; checkpoints of earlier versions say nothing of their data.
        now: of each structure, see :mod:`..data.sketch`.
        path: the checkpoint, for messages.

    Raises:
        ConfigError: names what has changed.
        DataError: the record is damaged.
    """
    before = record.get("data") if isinstance(record, Mapping) else None
    if before is None:
        return
    try:
        changed = changed_data(before, now)
    except (TypeError, ValueError, AttributeError):
        raise DataError(f"{path}: damaged (it does not say on which data it was made)") from None
    if changed:
        more = f" and {len(changed) - 4} more" if len(changed) > 4 else ""
        raise ConfigError(
            f"{path}: was made on other data: {', '.join(changed[:4])}{more} changed since; put "
            "back what was there, or choose another output"
        )
