"""Real DFT data for the overlap tests, read from the packed sets beside the repository.

Tests skip where they are absent.
"""

from __future__ import annotations

import io
import json
import pathlib
from collections.abc import Callable

import h5py
import numpy as np
import pytest

from deeph_gformer.io import BlockMatrix, Structure

SHARED = pathlib.Path(__file__).resolve().parents[2].parent / "shared" / "data"
STEP = {"overlaps.h5": 2.0**-23, "hamiltonians.h5": 2.0**-20}


def _matrix(group: h5py.Group, step: float) -> BlockMatrix:
    """Undo the packing: zigzag integers, one of each (R, i, j) and (-R, j, i), spin-orbit as real
    and imaginary part."""
    z = group["values"][()].astype(np.int64)
    flat = ((z >> 1) ^ -(z & 1)) * step
    if group.attrs["complex"]:
        flat = flat[0] + 1j * flat[1]
    keys, blocks, start = [], [], 0
    for key, (rows, columns) in zip(group["keys"][()].tolist(), group["shapes"][()].tolist()):
        block = flat[start : start + rows * columns].reshape(rows, columns)
        start += rows * columns
        key = [*key[:3], key[3] - 1, key[4] - 1]
        keys.append(key)
        blocks.append(block)
        mirror = [-key[0], -key[1], -key[2], key[4], key[3]]
        if mirror != key:
            keys.append(mirror)
            blocks.append(block.conj().T)
    return BlockMatrix.from_blocks(np.array(keys), blocks)


def read_packed(name: str, index: int) -> tuple[Structure, BlockMatrix, BlockMatrix]:
    """Structure, S and H of one packed structure."""
    path = SHARED / f"{name}.h5"
    if not path.is_file():
        pytest.skip(f"{name}: the DFT data beside the repository (../shared/data) are not here")
    with h5py.File(path) as file:
        group = file[sorted(file)[index]]

        def table(key: str) -> np.ndarray:
            return np.loadtxt(io.StringIO(group.attrs[key]), ndmin=2)

        shells = tuple(
            tuple(map(int, line.split()))
            for line in group.attrs["orbital_types.dat"].splitlines()
            if line.strip()
        )
        info = json.loads(group.attrs["info.json"])
        structure = Structure(
            table("lat.dat").T,
            table("site_positions.dat").T,
            table("element.dat").reshape(-1).astype(np.int64),
            shells,
            info["isspinful"],
            info,
            f"{index:04d}",
        )
        return (
            structure,
            _matrix(group["overlaps.h5"], STEP["overlaps.h5"]),
            _matrix(group["hamiltonians.h5"], STEP["hamiltonians.h5"]),
        )


@pytest.fixture(scope="session")
def packed() -> Callable[[str, int], tuple[Structure, BlockMatrix, BlockMatrix]]:
    """``packed(set, index)``: structure, S, H."""
    return read_packed


@pytest.fixture(scope="session")
def orbital_file() -> Callable[[str], pathlib.Path]:
    """``orbital_file("C")``: the ABACUS orbital file of an element."""

    def find(element: str) -> pathlib.Path:
        path = SHARED / "basis" / f"{element}.orb"
        if not path.is_file():
            pytest.skip(
                "the ABACUS orbital files beside the repository (../shared/data/basis) are not here"
            )
        return path

    return find
