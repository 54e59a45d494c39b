"""What files say, without the time that it took and the place that it came from."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import h5py
import numpy as np

__all__ = ["timeless", "value"]

#: Keys of records that tell time, and other things that no two runs share. A note tells where the
#: number of electrons is from: of the second run, from ``info.json``, where the first one put it.
TIMES = ("second", "time", "date", "unix", "when", "gb", "memory", "fermi_level_note", "evaluated")
#: Keys that tell where something came from.
PLACES = ("converted_from",)


def timeless(value: Any) -> Any:
    """JSON without what tells time."""
    if isinstance(value, dict):
        words = (*TIMES, *PLACES)
        return {
            k: timeless(v) for k, v in value.items() if not any(w in str(k).lower() for w in words)
        }
    return [timeless(v) for v in value] if isinstance(value, (list, tuple)) else value


def value(path: pathlib.Path) -> Any:
    """The numbers of a file."""
    if path.suffix == ".json":
        return timeless(json.loads(path.read_text()))
    if path.suffix == ".h5":
        with h5py.File(path) as handle:
            return {name: np.asarray(handle[name][()]) for name in handle}
    if path.suffix == ".npz":
        with np.load(path) as table:
            return {name: table[name] for name in table.files}
    if path.suffix == ".safetensors":
        from safetensors.numpy import load_file

        return dict(load_file(path))
    import torch

    table = torch.load(path, weights_only=True)
    return {k: v.numpy() for k, v in table["state_dict"].items()}
