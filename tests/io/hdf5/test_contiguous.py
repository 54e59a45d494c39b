"""Datasets read as one table against h5py, for files written in every way."""

from __future__ import annotations

import pathlib
from collections.abc import Callable

import h5py
import numpy as np
import pytest

from deeph_gformer.errors import DataError
from deeph_gformer.io.hdf5.contiguous import contiguous_datasets
from deeph_gformer.io.legacy import read_blocks, write_blocks

from ...conftest import random_structure


def plain(handle: h5py.File, blocks: dict[str, np.ndarray]) -> None:
    for name, block in blocks.items():
        handle[name] = block


def compressed(handle: h5py.File, blocks: dict[str, np.ndarray]) -> None:
    for name, block in blocks.items():
        handle.create_dataset(name, data=block, compression="gzip")


def with_an_attribute(handle: h5py.File, blocks: dict[str, np.ndarray]) -> None:
    plain(handle, blocks)
    handle[next(reversed(blocks))].attrs["note"] = "x" * 200


def one_of_another_type(handle: h5py.File, blocks: dict[str, np.ndarray]) -> None:
    plain(handle, blocks)
    name = next(reversed(blocks))
    del handle[name]
    handle[name] = blocks[name].astype("f4" if blocks[name].dtype.kind == "f" else "c8")


def big_endian(handle: h5py.File, blocks: dict[str, np.ndarray]) -> None:
    plain(
        handle,
        {name: block.astype(block.dtype.newbyteorder(">")) for name, block in blocks.items()},
    )


def linked(handle: h5py.File, blocks: dict[str, np.ndarray]) -> None:
    names = list(blocks)
    plain(handle, {name: blocks[name] for name in names[1:]})
    group = handle.create_group("there")
    group["first"] = blocks[names[0]]
    handle[names[0]] = h5py.SoftLink("/there/first")


@pytest.mark.parametrize("spinful", [False, True])
@pytest.mark.parametrize(
    ("write", "options", "at_once"),
    [
        (plain, {"libver": ("earliest", "v108")}, True),
        (plain, {"libver": "latest"}, False),
        (plain, {"libver": ("earliest", "v108"), "userblock_size": 512}, False),
        (plain, {"libver": ("earliest", "v108"), "track_order": True}, None),
        (compressed, {}, False),
        (with_an_attribute, {}, False),
        (one_of_another_type, {}, False),
        (big_endian, {}, False),
    ],
)
def test_values_are_those_of_h5py(
    tmp_path: pathlib.Path,
    spinful: bool,
    write: Callable[[h5py.File, dict[str, np.ndarray]], None],
    options: dict[str, object],
    at_once: bool | None,
) -> None:
    structure, h, _ = random_structure(spinful=spinful)
    write_blocks(tmp_path / "usual.h5", h)
    with h5py.File(tmp_path / "usual.h5") as handle:
        blocks = {name: np.array(handle[name]) for name in handle}
    path = tmp_path / "other.h5"
    with h5py.File(path, "w", **options) as handle:
        write(handle, blocks)
    with h5py.File(path) as handle:
        table = contiguous_datasets(handle)
        expected = {name: np.array(handle[name]) for name in handle}
        if at_once is not None:
            assert (table is not None) is at_once
        if table is not None:
            assert {name: table.block(n).tolist() for n, name in enumerate(table.names)} == {
                k: v.reshape(-1).tolist() for k, v in expected.items()
            }
    again = read_blocks(path, structure, spinful)
    assert np.array_equal(
        again.values,
        np.concatenate(
            [
                expected[str([*map(int, k[:3]), int(k[3]) + 1, int(k[4]) + 1])].reshape(-1)
                for k in h.keys
            ]
        ),
    )


def test_our_own_files_are_read_at_once(tmp_path: pathlib.Path) -> None:
    _, h, _ = random_structure()
    write_blocks(tmp_path / "h.h5", h)
    with h5py.File(tmp_path / "h.h5") as handle:
        assert contiguous_datasets(handle) is not None


def test_a_file_that_is_replaced_while_it_is_read(tmp_path: pathlib.Path) -> None:
    """Names and values are of one file: the open one."""
    _, h, s = random_structure()
    write_blocks(tmp_path / "h.h5", h)
    write_blocks(tmp_path / "s.h5", s)
    with h5py.File(tmp_path / "h.h5") as handle:
        expected = {name: np.array(handle[name]).reshape(-1).tolist() for name in handle}
        (tmp_path / "s.h5").replace(tmp_path / "h.h5")
        table = contiguous_datasets(handle)
        assert table is not None
        found = {name: table.block(n).tolist() for n, name in enumerate(table.names)}
    assert found == expected


def test_what_is_no_matrix_of_numbers_is_left_to_the_slow_way(tmp_path: pathlib.Path) -> None:
    structure, h, _ = random_structure()
    write_blocks(tmp_path / "h.h5", h)
    with h5py.File(tmp_path / "h.h5") as handle:
        blocks = {name: np.array(handle[name]) for name in handle}
    with h5py.File(tmp_path / "linked.h5", "w") as handle:
        linked(handle, blocks)
        del handle["there"]
    with h5py.File(tmp_path / "linked.h5") as handle:
        assert contiguous_datasets(handle) is None
    with pytest.raises(DataError, match="cannot be read"):
        read_blocks(tmp_path / "linked.h5", structure)
    with h5py.File(tmp_path / "flat.h5", "w") as handle:
        for name, block in blocks.items():
            handle[name] = block.reshape(-1)
    with h5py.File(tmp_path / "flat.h5") as handle:
        assert contiguous_datasets(handle) is None
    with pytest.raises(DataError, match="has shape"):
        read_blocks(tmp_path / "flat.h5", structure)
