"""Numbers as other programs store them: every type, order, link and size, in both formats."""

from __future__ import annotations

import pathlib
from collections.abc import Callable

import h5py
import numpy as np
import pytest

from deeph_gformer.errors import DataError
from deeph_gformer.io import BlockMatrix, dock, legacy, read_matrix
from deeph_gformer.io.folder import write_matrix

from ..conftest import random_structure

FORMS = ["legacy", "dock"]
#: Datasets of a DeepH-dock file.
TABLES = ("atom_pairs", "chunk_shapes", "chunk_boundaries", "entries")
READ = {"legacy": legacy.read_blocks, "dock": dock.read_blocks}


def _made(tmp_path: pathlib.Path, form: str, spinful: bool = False) -> tuple:
    structure, h, _ = random_structure(spinful=spinful)
    h = BlockMatrix(h.keys, h.shapes, np.round(h.values * 16) / 16)  # exact in half precision
    path = write_matrix(tmp_path, "hamiltonian", h, structure, form, spinful)
    return structure, h, path


def _stored_as(path: pathlib.Path, form: str, dtype: object, **options: object) -> None:
    """The same file with its values in another type."""
    with h5py.File(path, "a") as handle:
        for name in [n for n in handle if form == "legacy" or n == "entries"]:
            value = handle[name][()]
            del handle[name]
            handle.create_dataset(name, data=value.astype(dtype), **options)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("dtype", "kept"),
    [("f2", "f4"), ("<f4", "f4"), (">f4", "f4"), (">f8", "f8"), ("g", "f8")],
)
def test_real_types(tmp_path: pathlib.Path, form: str, dtype: str, kept: str) -> None:
    structure, h, path = _made(tmp_path, form)
    _stored_as(path, form, dtype)
    again = READ[form](path, structure)
    assert again.values.dtype == np.dtype(kept) and again.values.dtype.isnative
    assert np.array_equal(again.values, h.values)
    for other in FORMS:  # and it can be written again
        copy = write_matrix(tmp_path / other, "hamiltonian", again, structure, other)
        assert np.array_equal(READ[other](copy, structure).values, h.values)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", ["i1", ">i4", "u2", "i8"])
def test_integers(tmp_path: pathlib.Path, form: str, dtype: str) -> None:
    structure, h, path = _made(tmp_path, form)
    _stored_as(path, form, dtype)
    whole = np.trunc(h.values).astype(dtype).astype(float)
    again = READ[form](path, structure)
    assert again.values.dtype == np.float64 and np.array_equal(again.values, whole)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("dtype", "kept"), [("c8", "c8"), (">c16", "c16"), ("G", "c16")])
def test_complex_types(tmp_path: pathlib.Path, form: str, dtype: str, kept: str) -> None:
    structure, h, path = _made(tmp_path, form, spinful=True)
    _stored_as(path, form, dtype)
    again = READ[form](path, structure, True)
    assert again.values.dtype == np.dtype(kept) and np.array_equal(again.values, h.values)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", ["?", "S4"])
def test_what_is_no_number(tmp_path: pathlib.Path, form: str, dtype: str) -> None:
    structure, _, path = _made(tmp_path, form)
    _stored_as(path, form, dtype)
    with pytest.raises(DataError, match="holds no numbers"):
        READ[form](path, structure)


def test_blocks_of_many_types(tmp_path: pathlib.Path) -> None:
    """Real blocks among complex ones, single among double precision: one type that holds them
    all."""
    structure, h, path = _made(tmp_path, "legacy", spinful=True)
    kinds = ["f4", ">f8", "c8", "c16", "i4", "f2"]
    wanted = h.values.copy()
    with h5py.File(path, "a") as handle:
        for e, (key, block) in enumerate(h):
            name = f"[{key[0]}, {key[1]}, {key[2]}, {key[3] + 1}, {key[4] + 1}]"
            kind = np.dtype(kinds[e % len(kinds)])
            value = block if kind.kind == "c" else np.real(block)
            value = np.trunc(value) if kind.kind == "i" else value
            del handle[name]
            handle[name] = value.astype(kind)
            wanted[h.offsets[e] : h.offsets[e + 1]] = value.ravel()
    again = legacy.read_blocks(path, structure, True)
    assert again.values.dtype == np.complex128 and np.array_equal(again.values, wanted)


def test_single_precision_first_does_not_round_what_follows(tmp_path: pathlib.Path) -> None:
    structure, h, _ = random_structure()
    path = write_matrix(tmp_path, "hamiltonian", h, structure)
    with h5py.File(path, "a") as handle:
        first = sorted(handle)[0]
        value = handle[first][()]
        del handle[first]
        handle[first] = value.astype("f4")
    again = legacy.read_blocks(path, structure)
    assert again.values.dtype == np.float64
    assert (again.values != h.values).sum() == value.size


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("value", [1e300, -2e7, np.nan, -np.inf])
def test_values_beyond_physics(tmp_path: pathlib.Path, form: str, value: float) -> None:
    structure, h, _ = _made(tmp_path, form)
    h.values[7] = value
    path = write_matrix(tmp_path, "hamiltonian", h, structure, form)
    with pytest.raises(DataError, match="block .* contains (NaN|a value of size)"):
        READ[form](path, structure)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("far", [1001, -(2**31), -(2**63)])
def test_cells_beyond_reason(tmp_path: pathlib.Path, form: str, far: int) -> None:
    structure, h, path = _made(tmp_path, form)
    with h5py.File(path, "a") as handle:
        if form == "legacy":
            handle[f"[{far}, 0, 0, 1, 1]"] = np.zeros((4, 4))
        else:
            handle["atom_pairs"][0, 0] = far
    with pytest.raises(DataError, match=r"cells away|no block key"):
        READ[form](path, structure)
    with pytest.raises(DataError, match=r"cells away|no block key"):
        (legacy if form == "legacy" else dock).read_keys(path, structure)


def _replace(name: str, value: object) -> Callable[[h5py.File], None]:
    def change(handle: h5py.File) -> None:
        del handle[name]
        handle[name] = value

    return change


def _twice(handle: h5py.File) -> None:
    handle["atom_pairs"][1] = handle["atom_pairs"][0]


def _unallocated(name: str, shape: tuple[int, ...], dtype: str) -> Callable[[h5py.File], None]:
    def change(handle: h5py.File) -> None:
        del handle[name]
        handle.create_dataset(name, shape, dtype, chunks=True)

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_twice, "is there twice"),
        (_replace("atom_pairs", np.zeros((3, 5))), "float64; signed integers"),
        (_replace("atom_pairs", np.zeros((3, 5), "u8")), "uint64; signed integers"),
        (_replace("atom_pairs", np.zeros(15, "i8")), r"shape \(15,\); \(n, 5\)"),
        (_replace("atom_pairs", np.zeros((5, 3), "i8")), r"shape \(5, 3\); \(n, 5\)"),
        (_replace("chunk_shapes", np.zeros((3, 2))), "chunk_shapes holds float64"),
        (_replace("chunk_boundaries", np.array([0, 2**64 - 1], "u8")), "beyond any number"),
        (_unallocated("atom_pairs", (10**9, 5), "i8"), "atom_pairs announces"),
        (_unallocated("entries", (2 * 10**9,), "f8"), "does not fit"),
        (_replace("entries", "text"), "does not fit|no numbers"),
        (_replace("atom_pairs", "text"), "shape"),
    ],
)
def test_dock_tables_that_are_none(
    tmp_path: pathlib.Path, change: Callable[[h5py.File], None], words: str
) -> None:
    structure, _, path = _made(tmp_path, "dock")
    with h5py.File(path, "a") as handle:
        change(handle)
    with pytest.raises(DataError, match=f"hamiltonian.h5: .*({words})"):
        dock.read_blocks(path, structure)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", ["external link", "external storage", "virtual", "nested"])
def test_nothing_is_read_from_another_file(tmp_path: pathlib.Path, form: str, kind: str) -> None:
    structure, h, path = _made(tmp_path, form)
    other = tmp_path / "other.h5"
    other.write_bytes(path.read_bytes())
    with h5py.File(path, "a") as handle:
        name = "entries" if form == "dock" else sorted(handle)[0]
        shape, value = handle[name].shape, handle[name][()]
        del handle[name]
        if kind == "external link":
            handle[name] = h5py.ExternalLink(str(other), name)
        elif kind == "nested":
            handle.create_group("g")["x"] = h5py.ExternalLink(str(other), "/")
            handle[name] = h5py.SoftLink(f"/g/x/{name}")
        elif kind == "external storage":
            (tmp_path / "raw").write_bytes(value.tobytes())
            stored = [(str(tmp_path / "raw"), 0, value.nbytes)]
            handle.create_dataset(name, shape, value.dtype, external=stored)
        else:
            layout = h5py.VirtualLayout(shape, value.dtype)
            layout[...] = h5py.VirtualSource(str(other), name, shape)
            handle.create_virtual_dataset(name, layout)
    with pytest.raises(DataError, match="another file|virtual dataset|no block key"):
        READ[form](path, structure)


@pytest.mark.parametrize("form", FORMS)
def test_soft_links_inside_a_file_are_followed(tmp_path: pathlib.Path, form: str) -> None:
    structure, h, path = _made(tmp_path, form)
    with h5py.File(path, "a") as handle:
        name = "entries" if form == "dock" else sorted(handle)[0]
        if form == "dock":
            handle.move(name, "real")
            handle[name] = h5py.SoftLink("real")
        else:  # the blocks of -R and R of one atom are equal here when H is, so link to itself
            twin = handle[name][()]
            del handle[name]
            handle[name] = twin
            handle.move(name, "[9, 9, 9, 1, 1]")
            handle[name] = h5py.SoftLink("/[9, 9, 9, 1, 1]")
    if form == "legacy":
        assert np.isfinite(READ[form](path, structure).values).all()
    else:
        assert np.array_equal(READ[form](path, structure).values, h.values)


@pytest.mark.parametrize("form", FORMS)
def test_rows_in_any_order(tmp_path: pathlib.Path, form: str) -> None:
    structure, h, path = _made(tmp_path, form)
    if form == "dock":
        with h5py.File(path, "a") as handle:
            pairs, shapes, bounds, entries = (handle[n][()] for n in TABLES)
            order = np.random.default_rng(0).permutation(len(pairs))
            parts = [entries[bounds[e] : bounds[e + 1]] for e in order]
            new = (pairs[order], shapes[order], np.cumsum([0, *map(len, parts)]))
            for name, value in zip(TABLES, (*new, np.concatenate(parts))):
                _replace(name, value)(handle)
    else:
        with h5py.File(path) as source, h5py.File(tmp_path / "b.h5", "w", track_order=True) as out:
            for name in np.random.default_rng(0).permutation(list(source)):
                out[name] = source[name][()]
        path = tmp_path / "b.h5"
    again = READ[form](path, structure)
    assert np.array_equal(again.keys, h.keys) and np.array_equal(again.values, h.values)


def test_read_matrix_names_what_is_in_the_way(tmp_path: pathlib.Path) -> None:
    structure, *_ = _made(tmp_path, "legacy")
    (tmp_path / "hamiltonians.h5").unlink()
    legacy.write_structure(tmp_path, structure)
    (tmp_path / "hamiltonians.h5").mkdir()
    with pytest.raises(DataError, match="hamiltonians.h5: is a folder"):
        read_matrix(tmp_path, "hamiltonian")


@pytest.mark.parametrize("spinful", [False, True])
def test_largest_element_of_each_block(spinful: bool) -> None:
    """Of blocks of several shapes, of one shape, and of none."""
    _, h, _ = random_structure(spinful=spinful)
    one = h.select(np.flatnonzero((h.shapes == h.shapes[0]).all(axis=1)))
    assert len(np.unique(h.shapes, axis=0)) > 1 and one.uniform
    for matrix in (h, one, h.select(np.arange(0))):
        assert matrix.largest().tolist() == [max(abs(block.ravel())) for _, block in matrix]
