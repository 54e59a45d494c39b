"""Structure folders and block matrices on disk."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Callable

import h5py
import numpy as np
import pytest

from deeph_gformer.errors import DataError
from deeph_gformer.io import BlockMatrix, dock, find_structures, legacy, read_folder, read_matrix
from deeph_gformer.io.blocks import format_key, match_keys, onsite_keys, reverse_keys, sort_keys
from deeph_gformer.io.files import atomic_path, read_json, write_json
from deeph_gformer.io.folder import (
    holds_another,
    is_free,
    replaced_folder,
    split_structures,
    write_matrix,
)
from deeph_gformer.io.formats import get_format

from ..conftest import ROOT, golden, random_structure

Folder = Callable[..., pathlib.Path]


@pytest.mark.parametrize("spinful", [False, True])
def test_legacy_file_is_what_deeph_reads(make_folder: Folder, spinful: bool) -> None:
    """Read the file with h5py alone, by the format's definition."""
    folder = make_folder(spinful=spinful)
    structure, h, _ = random_structure(spinful=spinful)
    with h5py.File(folder / "hamiltonians.h5") as handle:
        assert len(handle) == len(h)
        for key, block in h:
            x, y, z, i, j = key
            stored = handle[f"[{x}, {y}, {z}, {i + 1}, {j + 1}]"][()]
            assert stored.shape == tuple(structure.orbital_counts[[i, j]] * (2 if spinful else 1))
            assert np.array_equal(stored, block)
    assert np.array_equal(np.loadtxt(folder / "lat.dat").T, structure.lattice)
    assert np.allclose(
        np.loadtxt(folder / "rlat.dat").T @ structure.lattice.T, 2 * np.pi * np.eye(3), atol=1e-12
    )
    again = read_matrix(folder, "hamiltonian")
    assert np.array_equal(again.keys, h.keys) and np.array_equal(again.values, h.values)


def test_structure_round_trip(make_folder: Folder) -> None:
    structure, *_ = random_structure()
    again = read_folder(make_folder())
    for name in ("lattice", "positions", "numbers"):
        assert np.array_equal(getattr(again, name), getattr(structure, name))
    assert (
        again.orbital_types == structure.orbital_types
        and again.info == structure.info
        and again.spinful is False
    )


def test_dock_pair_of_the_deeph_group() -> None:
    """The same Hamiltonian in both formats, written by DeepH-dock."""
    folder = golden("external/MoTe2")
    old, new = folder / "legacy", folder / "dock"
    for kind in ("hamiltonian", "overlap"):
        a, b = read_matrix(old, kind), read_matrix(new, kind)
        assert np.array_equal(a.keys, b.keys)
        assert np.abs(a.values - b.values).max() < 1e-12
    assert read_folder(old).orbital_types == read_folder(new).orbital_types
    assert np.allclose(read_folder(old).positions, read_folder(new).positions, atol=1e-6)


def test_dock_file_layout(tmp_path: pathlib.Path) -> None:
    """Order inside a shell by definition: m = -l..l is (y, z, x) for p."""
    structure, h, _ = random_structure()
    order = np.argsort(structure.numbers, kind="stable")
    assert not np.array_equal(order, np.arange(4))
    with pytest.raises(DataError, match="grouped by element"):
        dock.write_structure(tmp_path / "d", structure)
    write_matrix(tmp_path / "d", "hamiltonian", h, structure, "dock")
    with h5py.File(tmp_path / "d" / "hamiltonian.h5") as handle:
        e = int(np.flatnonzero((handle["atom_pairs"][()] == [0, 0, 0, 0, 0]).all(axis=1))[0])
        a, b = handle["chunk_boundaries"][e : e + 2]
        block = handle["entries"][a:b].reshape(handle["chunk_shapes"][e])
    mine = h.block(int(np.flatnonzero((h.keys == [0, 0, 0, 0, 0]).all(axis=1))[0]))
    perm = [0, 2, 3, 1]  # s, then p: x y z -> y z x
    assert np.array_equal(block, mine[np.ix_(perm, perm)])


@pytest.mark.parametrize("name", ["atom_pairs", "chunk_shapes", "chunk_boundaries", "entries"])
def test_a_dataset_without_a_shape_is_named(tmp_path: pathlib.Path, name: str) -> None:
    structure, h, _ = random_structure()
    path = write_matrix(tmp_path, "hamiltonian", h, structure, "dock")
    with h5py.File(path, "r+") as handle:
        del handle[name]
        handle[name] = h5py.Empty("f8")
    with pytest.raises(DataError, match=f"hamiltonian.h5: {name} is empty"):
        dock.read_blocks(path, structure)


def test_hermitian_projection_never_raises_the_error() -> None:
    _, h, _ = random_structure(spinful=True)
    rng = np.random.default_rng(3)
    noisy = BlockMatrix(
        h.keys,
        h.shapes,
        h.values + rng.normal(size=len(h.values)) + 1j * rng.normal(size=len(h.values)),
    )
    projected = noisy.hermitian()
    assert np.abs(projected.conjugate_transpose().values - projected.values).max() < 1e-14
    assert np.linalg.norm(projected.values - h.values) < np.linalg.norm(noisy.values - h.values)
    for key, block in noisy:  # against the definition, block by block
        mirror = int(match_keys(reverse_keys(np.array([key])), noisy.keys)[0])
        e = int(match_keys(np.array([key]), noisy.keys)[0])
        assert np.allclose(projected.block(e), (block + noisy.block(mirror).conj().T) / 2)


def test_keys() -> None:
    keys = np.array([[0, 0, 0, 1, 0], [1, -2, 0, 0, 1], [0, 0, 0, 0, 0]])
    assert sort_keys(keys).tolist() == [2, 1, 0]
    assert match_keys(np.array([[1, -2, 0, 0, 1], [9, 9, 9, 9, 9]]), keys).tolist() == [1, -1]
    assert onsite_keys(keys).tolist() == [False, False, True]
    assert not onsite_keys(np.array([[0, 0, -1, 1, 1]])).any()  # an atom and its image
    assert format_key((1, -2, 0, 0, 1)) == "[1, -2, 0, 1, 2]"


def test_missing_files(make_folder: Folder, tmp_path: pathlib.Path) -> None:
    folder = make_folder()
    (folder / "lat.dat").unlink()
    with pytest.raises(DataError, match="lat.dat missing"):
        read_folder(folder)
    with pytest.raises(DataError, match="no such folder"):
        read_folder(tmp_path / "nowhere")
    with pytest.raises(DataError, match="no structure folder"):
        find_structures(folder)


def test_a_folder_of_structures_is_told_from_a_structure(make_folder: Folder) -> None:
    folder = make_folder()
    with pytest.raises(DataError, match=f"holds some; give one, e.g. .*{folder.name}"):
        read_folder(folder.parent)


def _edit(folder: pathlib.Path, change: Callable[[h5py.File], None]) -> None:
    with h5py.File(folder / "hamiltonians.h5", "a") as handle:
        change(handle)


def _rename(handle: h5py.File) -> None:
    handle.move("[0, 0, 0, 1, 1]", "block")


def _reshape(handle: h5py.File) -> None:
    del handle["[0, 0, 0, 1, 1]"]
    handle["[0, 0, 0, 1, 1]"] = np.zeros((3, 4))


def _nan(handle: h5py.File) -> None:
    handle["[0, 0, 0, 2, 2]"][0, 0] = np.nan


def _far(handle: h5py.File) -> None:
    handle["[0, 0, 0, 9, 1]"] = np.zeros((1, 1))


def _twice(handle: h5py.File) -> None:
    handle["[0,0,0,1,1]"] = np.zeros((4, 4))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_rename, "'block' is no block key"),
        (_reshape, r"\(3, 4\).*\(4, 4\)"),
        (_nan, r"\[0, 0, 0, 2, 2\] contains NaN"),
        (_far, "outside 1..4"),
        (_twice, "is there twice"),
    ],
)
def test_bad_blocks_are_named(
    make_folder: Folder, change: Callable[[h5py.File], None], words: str
) -> None:
    folder = make_folder()
    _edit(folder, change)
    with pytest.raises(DataError, match=words) as caught:
        read_matrix(folder, "hamiltonian")
    assert "hamiltonians.h5" in str(caught.value)


def test_spin_doubled_file_without_spin(make_folder: Folder) -> None:
    folder = make_folder(spinful=True)
    info = json.loads((folder / "info.json").read_text())
    (folder / "info.json").write_text(json.dumps({**info, "isspinful": False}))
    with pytest.raises(DataError, match="isspinful wrong"):
        read_matrix(folder, "hamiltonian")


@pytest.mark.parametrize(
    ("info", "words"),
    [
        ([], "holds no JSON object"),
        ({"elements_orbital_map": 3}, "must give the l of each shell"),
        ({"elements_orbital_map": {"C": 3}}, "must give the l of each shell"),
        ({"elements_orbital_map": {"C": ["a"]}}, "must give the l of each shell"),
        ({"elements_orbital_map": {"C": [0, 4]}}, "must give the l of each shell"),
        ({"elements_orbital_map": {"H": [0]}}, "lacks C"),
        ({"elements_orbital_map": {"C": [0, 1]}, "spinful": "yes"}, "spinful is 'yes'"),
    ],
)
def test_bad_dock_info_is_named(tmp_path: pathlib.Path, info: object, words: str) -> None:
    (tmp_path / "POSCAR").write_text("carbon\n1.0\n3 0 0\n0 3 0\n0 0 3\nC\n1\nDirect\n0 0 0\n")
    (tmp_path / "info.json").write_text(json.dumps(info))
    with pytest.raises(DataError, match=f"info.json: .*{words}"):
        read_folder(tmp_path)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("orbital_types.dat", "0 1\n0 4\n0 1\n0 1\n", "l = 0 to 3 only"),
        ("orbital_types.dat", "0 x\n", "integers"),
        ("element.dat", "16\n42\n", "do not belong together"),
        ("lat.dat", "1 0 0\n0 1 0\n", r"instead of \(3, 3\)"),
        ("lat.dat", "", r"instead of \(3, 3\)"),
        ("lat.dat", "1 0 0\n0 1 0\n1 1 0\n", "span no volume"),
        ("site_positions.dat", "1 2\n3 four\n", "table of numbers"),
        ("info.json", "{", "not valid JSON"),
        ("info.json", '{"isspinful": "no"}', "true or false"),
        ("element.dat", "16\n420\n16\n42\n", "1 to 118"),
    ],
)
def test_bad_text_files_are_named(make_folder: Folder, name: str, text: str, words: str) -> None:
    folder = make_folder()
    (folder / name).write_text(text)
    with pytest.raises(DataError, match=words):
        read_folder(folder)


@pytest.mark.parametrize("size", [0, 100, 3000])
def test_damaged_hdf5(make_folder: Folder, size: int) -> None:
    folder = make_folder()
    path = folder / "hamiltonians.h5"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(DataError, match="hamiltonians.h5.*damaged"):
        read_matrix(folder, "hamiltonian")


@pytest.mark.parametrize("form", ["legacy", "dock"])
def test_random_bytes_in_hdf5_never_escape_as_another_error(
    tmp_path: pathlib.Path, form: str
) -> None:
    structure, h, _ = random_structure(spinful=False)
    path = write_matrix(tmp_path, "hamiltonian", h, structure, form)
    whole, rng, refused = path.read_bytes(), np.random.default_rng(0), 0
    module = legacy if form == "legacy" else dock
    for place in range(96, len(whole) - 64, len(whole) // 60):
        path.write_bytes(whole[:place] + rng.bytes(64) + whole[place + 64 :])
        for read in (module.read_blocks, module.read_keys):
            try:
                read(path, structure)
            except DataError as error:
                assert path.name in str(error)
                refused += 1
    assert refused > 10


def test_asymmetric_edges(make_folder: Folder) -> None:
    folder = make_folder()
    with h5py.File(folder / "hamiltonians.h5", "a") as handle:
        victim = next(k for k in handle if not k.startswith("[0, 0, 0"))
        del handle[victim]
    with pytest.raises(DataError, match="no partner"):
        read_matrix(folder, "hamiltonian").hermitian()


def test_names_collide(make_folder: Folder, tmp_path: pathlib.Path) -> None:
    make_folder("a", root=tmp_path / "x" / "one")
    make_folder("a", root=tmp_path / "x" / "two")
    with pytest.raises(DataError, match="the name 'a'.* named after them$"):
        find_structures(tmp_path / "x")
    (tmp_path / "links").mkdir()
    for name in ("one", "two"):  # renaming a link changes no name
        (tmp_path / "links" / name).symlink_to(tmp_path / "x" / name / "a")
    with pytest.raises(DataError, match="the name 'a'.*name of what it points to"):
        find_structures(tmp_path / "links")


def test_failure_leaves_the_old_file(tmp_path: pathlib.Path) -> None:
    target = tmp_path / "a.json"
    write_json(target, [1])
    with pytest.raises(DataError, match="could not be written"), atomic_path(target) as path:
        path.write_text("half")
        raise OSError(28, "No space left on device")
    assert read_json(target) == [1] and os.listdir(tmp_path) == ["a.json"]


_WRITE = """
import sys; sys.path.insert(0, {root!r})
import resource, signal
from tests.conftest import random_structure
from deeph_gformer.errors import DataError
from deeph_gformer.io import legacy
structure, h, _ = random_structure()
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    legacy.write_blocks({target!r}, h)
except DataError as error:
    print(error)
    sys.exit(2)
"""


def test_full_disk(tmp_path: pathlib.Path) -> None:
    """The file-size limit of the process stands for a full disk: the write fails half-way, the old
    file stays."""
    target = tmp_path / "hamiltonians_pred.h5"
    target.write_text("old")
    run = subprocess.run(
        [sys.executable, "-c", _WRITE.format(root=str(ROOT), target=str(target))],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 2, run.stderr
    assert (
        "could not be written" in run.stdout
        and "no part of this file was left behind; free some space" in run.stdout
    )
    assert target.read_text() == "old" and os.listdir(tmp_path) == [target.name]


def test_a_folder_is_replaced_whole_or_not_at_all(
    make_folder: Folder, tmp_path: pathlib.Path
) -> None:
    folder = make_folder("x")
    (folder / "notes.txt").write_text("mine")
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    with (
        pytest.raises(DataError, match="x: atoms are not grouped"),
        replaced_folder(folder) as scratch,
    ):
        dock.write_structure(scratch, read_folder(folder))
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
    assert [p.name for p in folder.parent.iterdir()] == ["x"]
    with replaced_folder(folder) as scratch:
        (scratch / "POSCAR").write_text("new")
    assert sorted(p.name for p in folder.iterdir()) == ["POSCAR", "notes.txt"] and not is_free(
        folder
    )
    with (
        pytest.raises(DataError, match="notes.txt: is a file"),
        replaced_folder(folder / "notes.txt"),
    ):
        pass
    with pytest.raises(DataError, match="notes.txt: is a file; give the folder"):
        read_folder(folder / "notes.txt")


def test_another_structure(make_folder: Folder, tmp_path: pathlib.Path) -> None:
    structure = read_folder(make_folder("x"))
    moved = dataclasses.replace(structure, positions=structure.positions + [0.0, 0.0, 0.01])
    other = dataclasses.replace(structure, numbers=structure.numbers[::-1].copy())
    found = [holds_another(tmp_path / "data" / "x", s) for s in (structure, moved, other)]
    assert found == [False, True, True] and not holds_another(tmp_path, structure)


@pytest.mark.parametrize("form", ["legacy", "dock"])
def test_counts_of_info_are_those_of_the_files(form: str, tmp_path: pathlib.Path) -> None:
    """Both numbers are named; those that count both spins' orbitals are right, too."""
    structure, _, _ = random_structure(spinful=True, grouped=True)
    atoms, orbitals = len(structure), int(structure.orbital_counts.sum())
    get_format(form).write_structure(tmp_path, structure)
    names = get_format(form).info_names
    info = json.loads((tmp_path / "info.json").read_text())
    for what, count, good in (
        ("atoms", atoms + 1, False),
        ("atoms", 2 * atoms, False),
        ("atoms", atoms, True),
        ("orbitals", orbitals, True),
        ("orbitals", 2 * orbitals, True),
        ("orbitals", orbitals + 1, False),
        ("orbitals", str(orbitals), False),
    ):
        (tmp_path / "info.json").write_text(json.dumps(info | {names[what]: count}))
        if good:
            assert len(read_folder(tmp_path)) == atoms
            continue
        have = atoms if what == "atoms" else orbitals
        words = f"info.json: {names[what]} is {count!r}, .* have {have} {what}"
        with pytest.raises(DataError, match=words):
            read_folder(tmp_path)


def test_what_is_written_counts_its_own_atoms(tmp_path: pathlib.Path) -> None:
    """A structure that was made of another one, whose info it still carries."""
    structure, _, _ = random_structure()
    stale = dataclasses.replace(structure, info={"nsites": 1, "norbits": 2, "note": "kept"})
    legacy.write_structure(tmp_path, stale)
    assert read_folder(tmp_path).info["nsites"] == len(structure)
    assert read_folder(tmp_path).info["norbits"] == structure.orbital_counts.sum()
    assert read_folder(tmp_path).info["note"] == "kept"


def test_folders_without_matrices_are_told_apart(
    make_folder: Folder, tmp_path: pathlib.Path
) -> None:
    whole, bare = make_folder("a"), make_folder("b", hamiltonian=False, overlap=False)
    assert split_structures(tmp_path / "data", ("overlap", "hamiltonian")) == ([whole], [bare])


def test_a_folder_that_lacks_a_file_is_not_left_out_in_silence(
    make_folder: Folder, tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole, broken = make_folder("a"), make_folder("b")
    (broken / "element.dat").unlink()
    with caplog.at_level("WARNING", "deeph_gformer"):
        assert find_structures(tmp_path / "data") == [whole]
    assert f"{broken}: holds hamiltonians.h5 but no element.dat; it is left out" in caplog.text


def test_a_folder_that_cannot_be_read_is_not_left_out_in_silence(
    make_folder: Folder,
    tmp_path: pathlib.Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole, closed, look = make_folder("a"), make_folder("b"), os.scandir

    def scandir(path: str) -> object:
        if pathlib.Path(path) == closed:  # permissions do not hold root back
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return look(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with caplog.at_level("WARNING", "deeph_gformer"):
        assert find_structures(tmp_path / "data") == [whole]
    assert f"{closed}: cannot be read (Permission denied); it is left out" in caplog.text


def test_a_link_to_nothing_is_no_missing_info(make_folder: Folder) -> None:
    folder = make_folder("a")
    (folder / "info.json").unlink()
    read_folder(folder)
    (folder / "info.json").symlink_to("nowhere")
    with pytest.raises(DataError, match="info.json: file not found"):
        read_folder(folder)
