"""Files of many matrices written as tables, read back by HDF5 itself.

Looked up, listed, changed.
"""

from __future__ import annotations

import pathlib

import h5py
import numpy as np
import pytest

from deeph_gformer.io.hdf5.symbol_table import write_matrices, write_values


def make(
    path: pathlib.Path, count: int, dtype: str, seed: int = 0
) -> tuple[list[str], list[np.ndarray]]:
    """A file of random matrices; their names and values."""
    rng = np.random.default_rng(seed)
    names = [
        f"[{rng.integers(-12, 12)}, {rng.integers(-3, 3)}, 0, {i + 1}, {rng.integers(1, 99999)}]"
        for i in range(count)
    ]
    shapes = rng.integers(1, 6, (count, 2))
    unit = 1j if dtype[0] == "c" else 1
    blocks = [
        (rng.normal(size=shape) + unit * rng.normal(size=shape)).astype(dtype) for shape in shapes
    ]
    path.touch()
    start = write_matrices(path, np.array(names, dtype=np.bytes_), shapes, np.dtype(dtype))
    write_values(
        path,
        start,
        np.concatenate([b.reshape(-1) for b in blocks]) if blocks else np.zeros(0, dtype),
    )
    return names, blocks


# 64 names fill a node, 128 nodes of names fill a node of the tree
@pytest.mark.parametrize(
    ("count", "dtype"),
    [
        (0, "f4"),
        (1, "f8"),
        (2, "c8"),
        (63, "f4"),
        (64, "f4"),
        (65, "c16"),
        (129, "f8"),
        (8192, "f4"),
        (8193, "f4"),
    ],
)
def test_hdf5_reads_every_matrix(tmp_path: pathlib.Path, count: int, dtype: str) -> None:
    path = tmp_path / "h.h5"
    names, blocks = make(path, count, dtype)
    with h5py.File(path) as handle:
        assert len(handle) == count and list(handle) == sorted(names)
        for name, block in zip(names, blocks):
            found = handle[name]
            assert (
                found.dtype == block.dtype
                and found.shape == block.shape
                and np.array_equal(found[()], block)
            )
        assert "[0, 0, 0, 0, 0]" not in handle and "zzz" not in handle and " " not in handle


def test_hdf5_goes_on_with_the_file(tmp_path: pathlib.Path) -> None:
    """Deleting, adding and attributes split and empty nodes; what was there stays."""
    path = tmp_path / "h.h5"
    names, blocks = make(path, 700, "f8")
    with h5py.File(path, "r+") as handle:
        for name in names[::3]:
            del handle[name]
        for n in range(400):
            handle[f"[7, {n}]"] = np.arange(n)
        handle[names[1]].attrs["note"] = "x" * 1000
        handle[names[2]][...] = 5.0
    with h5py.File(path) as handle:
        assert len(handle) == 700 - len(names[::3]) + 400
        assert not any(name in handle for name in names[::3])
        assert (
            np.array_equal(handle["[7, 399]"], np.arange(399))
            and handle[names[1]].attrs["note"] == "x" * 1000
        )
        assert (handle[names[2]][()] == 5).all()
        for n in range(4, 700, 3):
            assert np.array_equal(handle[names[n]], blocks[n])


def test_values_in_parts(tmp_path: pathlib.Path) -> None:
    """Whoever writes what, in any order: the file is the same, and so it is when it is written
    again."""
    make(tmp_path / "a.h5", 50, "f8")
    names, blocks = make(tmp_path / "b.h5", 50, "f8")
    shapes = np.array([b.shape for b in blocks])
    (tmp_path / "b.h5").write_bytes(b"something else")
    start = write_matrices(
        tmp_path / "b.h5", np.array(names, dtype=np.bytes_), shapes, np.dtype("f8")
    )
    where = start + 8 * np.concatenate([[0], np.cumsum(shapes.prod(axis=1))])
    for first, last in ((20, 50), (0, 20)):
        write_values(
            tmp_path / "b.h5",
            int(where[first]),
            np.concatenate([b.reshape(-1) for b in blocks[first:last]]),
        )
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()
