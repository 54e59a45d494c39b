"""HDF5 files on disks that fail: an error, no crash."""

from __future__ import annotations

import contextlib
import os
import pathlib
import resource
import signal

import h5py
import numpy as np
import pytest

from deeph_gformer.io.hdf5.writing import new_hdf5


def _fill(handle: h5py.File) -> None:
    handle["a"] = np.arange(3000.0)
    handle.create_group("g")["b"] = np.arange(5)


def test_the_file_is_one_that_hdf5_writes(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "a.h5"
    path.write_bytes(b"what was there" * 10_000)
    with new_hdf5(path) as handle:
        _fill(handle)
    with h5py.File(path) as handle:
        assert np.array_equal(handle["a"], np.arange(3000.0)) and handle["g/b"][4] == 4
        assert path.stat().st_size < 60_000


@pytest.mark.parametrize("limit", [0, 100, 3000, 20_000])
def test_a_disk_that_fails_while_hdf5_writes(tmp_path: pathlib.Path, limit: int) -> None:
    """HDF5 2.0 dies of it (signal 11) where it writes the file itself."""
    child = os.fork()
    if child == 0:
        code = 9
        with contextlib.suppress(Exception):
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            try:
                with new_hdf5(tmp_path / "a.h5") as handle:
                    _fill(handle)
            except OSError:
                code = 3
        os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3
