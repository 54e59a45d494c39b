"""``deeph-gformer info RUN``: what a training run is, how far, its best, how to go on."""

from __future__ import annotations

import contextlib
import os
import pathlib
import shlex
from typing import Any

from ..errors import DataError
from ..fields import RUN_CONFIG, RUN_SPLITS
from ..gformer.bundle import BUNDLE_FILE
from ..io.files import read_json
from ..results import RunInfo
from ..results.worse import worse_than_stage1
from ..training.checkpoint import LAST
from ..training.folder import CHECKPOINTS, LOCK_FILE, RECORD_FILE
from .collect import read_run

__all__ = ["describe_run"]


def describe_run(folder: pathlib.Path) -> RunInfo:
    """What a run is and where it stands.

    Args:
        folder: of the run, with its configuration and splits.

    Raises:
        DataError: a file of it is damaged.
    """
    config, splits = read_json(folder / RUN_CONFIG), read_json(folder / RUN_SPLITS)
    try:
        verb = "train" if "stage1" in config else "train-stage1"
        planned = int(config["training"]["epochs"])
        score = "val_mae_meV" if config["training"].get("monitor", "mae") == "mae" else "val_score"
        structures = {name: len(names) for name, names in splits.items()}
        data, below = config["data"]["preprocessed"], config.get("stage1")
    except (KeyError, TypeError, ValueError, AttributeError):
        raise DataError(f"{folder / RUN_CONFIG}: no configuration of a training run") from None
    curve: dict[str, list[float | None]] = {"epoch": []}
    with contextlib.suppress(DataError):
        curve = read_run(folder)
    kept = (folder / CHECKPOINTS / f"{LAST}.ckpt").is_file()
    result = folder / ("bundle" if verb == "train" else "model")
    table: dict[str, Any] = {
        "kind": f"run of {verb}",
        "state": _state(folder, verb, kept),
        "epochs": {"done": len(curve["epoch"]), "planned": planned},
        "structures": structures,
        "data": data,
    }
    if below:
        table["stage1"] = below
    if best := _best(curve, score):
        table["best"] = best
    if result.is_dir():
        table["result"] = str(result)
    if text := _warning(result / BUNDLE_FILE):
        table["warning"] = text
    table["next"] = _next(folder, verb, table["state"], result)
    return RunInfo.of(table)


def _best(curve: dict[str, list[float | None]], score: str) -> dict[str, float]:
    """The epoch whose weights are kept, and its error of H.

    Args:
        curve: columns of the history.
        score: the column whose smallest value is the best (``training.monitor``).
    """
    columns = (curve.get(score, ()), curve["epoch"], curve.get("val_mae_meV", ()))
    values = [
        (value, epoch, error)
        for value, epoch, error in zip(*columns, strict=False)
        if value is not None and epoch is not None and error is not None
    ]
    if not values:
        return {}
    _, epoch, error = min(values)
    return {"validation_mae_meV": error, "epoch": epoch}


def _state(folder: pathlib.Path, verb: str, kept: bool) -> str:
    if _in_use(folder / LOCK_FILE):  # asked first: it may end now
        return "running"
    if verb == "train-stage1":
        finished = (folder / RECORD_FILE).is_file()
    else:  # a bundle is written at each new best; its errors are those of the end
        finished = "validation" in _training_of(folder / "bundle" / BUNDLE_FILE)
    return "finished" if finished else "stopped" if kept else "not begun"


def _warning(bundle: pathlib.Path) -> str:
    """That the bundle is worse than its stage 1; empty where it is not, or not finished."""
    errors = _training_of(bundle).get("validation")
    return worse_than_stage1(errors or {}, "the validation structures")


def _training_of(bundle: pathlib.Path) -> dict[str, Any]:
    """What a bundle says of its training; empty where it is not there, or is being replaced."""
    try:
        found = read_json(bundle).get("training", {})
    except DataError:
        if os.path.lexists(bundle):
            raise
        return {}
    return dict(found)


def _in_use(lock: pathlib.Path) -> bool:
    """Whether a process holds the lock; it is left as it is."""
    import fcntl

    try:
        with lock.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _next(folder: pathlib.Path, verb: str, state: str, result: pathlib.Path) -> str:
    place = shlex.quote(str(folder))
    if state == "running":
        return "wait for it, or stop it with SIGTERM: it ends with whole files"
    if state == "stopped":
        return f"deeph-gformer {verb} --resume --output {place}"
    if state == "not begun":
        return "nothing is kept of it; start it again"
    if verb == "train":
        model = shlex.quote(str(result))
        return f"deeph-gformer evaluate --model {model} --stage1 MODEL_DIR --preprocessed DIR"
    return f"deeph-gformer train --stage1 {shlex.quote(str(result))} --preprocessed DIR"
