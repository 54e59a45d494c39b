"""Matrices of folders, whatever the format."""

from __future__ import annotations

import pathlib
from collections.abc import Callable

import h5py
import numpy as np
import pytest

from deeph_gformer.errors import DataError
from deeph_gformer.io.folder import read_matrix


def test_complex_overlaps_are_refused(make_folder: Callable[..., pathlib.Path]) -> None:
    """Not so where only their type is complex, or sums over k-points have left rounding."""
    folder = make_folder("a", atoms=2)
    wanted = read_matrix(folder, "overlap").values
    with h5py.File(folder / "overlaps.h5", "r+") as handle:
        value = handle["[0, 0, 0, 2, 2]"][()]
        del handle["[0, 0, 0, 2, 2]"]
        handle["[0, 0, 0, 2, 2]"] = value + 1e-17j
    found = read_matrix(folder, "overlap").values
    assert found.dtype.kind == "f" and np.array_equal(found, wanted)
    with h5py.File(folder / "overlaps.h5", "r+") as handle:
        handle["[0, 0, 0, 2, 2]"][0, 0] += 1e-3j
    with pytest.raises(DataError, match="overlaps.h5: holds complex overlaps"):
        read_matrix(folder, "overlap")
