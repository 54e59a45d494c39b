"""Files that we write, read by other programs: each that is installed here."""

from __future__ import annotations

import pathlib
import re
import shutil
import subprocess
from collections.abc import Callable

import h5py
import numpy as np
import pytest

from deeph_gformer.io import legacy
from deeph_gformer.io.blocks import BlockMatrix
from deeph_gformer.io.formats import get_format

from ...conftest import random_structure

Read = Callable[[pathlib.Path, str], np.ndarray]


def matrix(count: int, kind: str) -> BlockMatrix:
    """Blocks of the pair (0, 1) in consecutive cells: 2 x 3 and random."""
    rng = np.random.default_rng(count)
    keys = np.array([[n // 50, n % 50, 0, 0, 1] for n in range(count)], dtype=np.int64)
    values = rng.normal(size=6 * count).astype(kind)
    if values.dtype.kind == "c":
        values = values + 1j * rng.normal(size=6 * count).astype(values.real.dtype)
    return BlockMatrix(keys, np.full((count, 2), (2, 3)), values.astype(kind))


def by_h5dump(path: pathlib.Path, name: str) -> np.ndarray:
    """From the text of all of it: ``-d`` takes brackets in a name for a range."""
    words = ["h5dump", "-y", "-w", "0", "-m", "%.17g", str(path)]
    text = subprocess.run(words, check=True, capture_output=True, text=True).stdout
    block = text.split(f'DATASET "{name}" {{')[1].split("DATA {")[1].split("DATASET")[0]
    with h5py.File(path) as file:
        kind, shape = file[name].dtype, file[name].shape
    real = kind.type(0).real.dtype if kind.kind == "c" else kind
    found = np.array(re.findall(r"[-+.\deE]*\d[-+.\deE]*", block)).astype(real)
    return found.view(kind).reshape(shape)


def by_pyfive(path: pathlib.Path, name: str) -> np.ndarray:
    pyfive = pytest.importorskip("pyfive")
    with pyfive.File(str(path)) as file:
        return np.asarray(file[name][()])


def by_pytables(path: pathlib.Path, name: str) -> np.ndarray:
    tables = pytest.importorskip("tables")
    with tables.open_file(str(path)) as file:
        return np.asarray(file.root._f_get_child(name)[()])


def by_netcdf4(path: pathlib.Path, name: str) -> np.ndarray:
    library = pytest.importorskip("netCDF4")
    with library.Dataset(str(path), auto_complex=True) as file:
        return np.asarray(file[name][...])


READERS: dict[str, Read] = {
    "h5dump": by_h5dump,
    "pyfive": by_pyfive,
    "PyTables": by_pytables,
    "netCDF4": by_netcdf4,
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("reader", sorted(READERS))
@pytest.mark.parametrize("kind", ["f4", "f8", "c16"])
def test_legacy_files(tmp_path: pathlib.Path, reader: str, kind: str) -> None:
    if reader == "h5dump" and shutil.which("h5dump") is None:
        pytest.skip("h5dump is not installed (hdf5-tools)")
    for count in (1, 2, 127, 128, 129):
        made, path = matrix(count, kind), tmp_path / f"{count}.h5"
        legacy.write_blocks(path, made)
        for row in {0, count // 2, count - 1}:
            name = "[" + ", ".join(str(x + (n > 2)) for n, x in enumerate(made.keys[row])) + "]"
            found = READERS[reader](path, name)
            assert found.shape == (2, 3) and np.array_equal(
                found.reshape(-1), made.values[6 * row : 6 * row + 6]
            )


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("reader", sorted(READERS))
@pytest.mark.parametrize("spinful", [False, True])
def test_dock_files(tmp_path: pathlib.Path, reader: str, spinful: bool) -> None:
    if reader == "h5dump" and shutil.which("h5dump") is None:
        pytest.skip("h5dump is not installed (hdf5-tools)")
    structure, h, _ = random_structure(1, 3, spinful, grouped=True)
    path = tmp_path / "hamiltonian.h5"
    get_format("dock").write_blocks(path, h, structure, spinful)
    with h5py.File(path) as file:
        wanted = {name: file[name][()] for name in file}
    assert set(wanted) == {"atom_pairs", "chunk_shapes", "chunk_boundaries", "entries"}
    for name, values in wanted.items():
        assert np.array_equal(READERS[reader](path, name), values)
