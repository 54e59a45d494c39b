"""Converters against the pairs of folders that DeepH-dock's authors published."""

from __future__ import annotations

import json
import pathlib
import shutil

import h5py
import numpy as np
import pytest

from deeph_gformer import bands
from deeph_gformer.errors import ConfigError, DataError
from deeph_gformer.interop.convert import convert, convert_folder
from deeph_gformer.interop.folders import element_order, permute_matrix, permute_structure
from deeph_gformer.io import legacy, read_folder, read_matrix

from .conftest import golden


def _dock_blocks(path: pathlib.Path) -> dict[tuple[int, ...], np.ndarray]:
    with h5py.File(path) as f:
        pairs, shapes, bounds, entries = (
            f[n][()] for n in ("atom_pairs", "chunk_shapes", "chunk_boundaries", "entries")
        )
    return {
        tuple(p): entries[a:b].reshape(s)
        for p, s, a, b in zip(pairs.tolist(), shapes.tolist(), bounds, bounds[1:])
    }


def _legacy_blocks(path: pathlib.Path) -> dict[str, np.ndarray]:
    with h5py.File(path) as f:
        return {key: f[key][()] for key in f}


@pytest.mark.parametrize(
    ("name", "kinds"), [("MoTe2", ("hamiltonian", "overlap")), ("Bi2Se3_SOC", ("overlap",))]
)
def test_both_ways_against_published_pairs(
    name: str, kinds: tuple[str, ...], tmp_path: pathlib.Path
) -> None:
    root = golden("external") / name
    convert_folder(root / "legacy", tmp_path / "dock", "dock")
    convert_folder(root / "dock", tmp_path / "legacy", "legacy")
    assert {p.name for p in (tmp_path / "dock").iterdir()} == {
        p.name for p in (root / "dock").iterdir()
    }
    assert {p.name for p in (tmp_path / "legacy").iterdir()} == {
        p.name for p in (root / "legacy").iterdir()
    }
    for kind in kinds:
        mine, other = (
            _dock_blocks(tmp_path / "dock" / f"{kind}.h5"),
            _dock_blocks(root / "dock" / f"{kind}.h5"),
        )
        assert set(mine) == set(other)
        assert max(np.abs(mine[k] - other[k]).max() for k in other) < 1e-12
        one, two = (
            _legacy_blocks(tmp_path / "legacy" / f"{kind}s.h5"),
            _legacy_blocks(root / "legacy" / f"{kind}s.h5"),
        )
        assert set(one) == set(two)
        assert max(np.abs(one[k] - two[k]).max() for k in two) < 1e-12
    info, theirs = (json.loads((p / "dock" / "info.json").read_text()) for p in (tmp_path, root))
    assert {k: info[k] for k in theirs} == theirs
    info, theirs = (json.loads((p / "legacy" / "info.json").read_text()) for p in (tmp_path, root))
    assert {k: info[k] for k in theirs} == theirs


@pytest.fixture
def mixed(tmp_path: pathlib.Path) -> pathlib.Path:
    """MoTe2 with its atoms as Te Mo Te: an order that no POSCAR keeps."""
    source = golden("external") / "MoTe2" / "legacy"
    structure, order = read_folder(source), np.array([0, 2, 1])
    folder = tmp_path / "mixed"
    legacy.write_structure(folder, permute_structure(structure, order))
    for kind, name in (("hamiltonian", "hamiltonians.h5"), ("overlap", "overlaps.h5")):
        legacy.write_blocks(
            folder / name, permute_matrix(read_matrix(source, kind, structure), order)
        )
    return folder


def test_order_is_permuted_remembered_and_restored(
    mixed: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    record = convert_folder(mixed, tmp_path / "dock", "dock")
    assert "grouped by element" in record["notes"][0]
    assert json.loads((tmp_path / "dock" / "info.json").read_text())["deeph_gformer"][
        "atom_order"
    ] == [0, 2, 1]
    official = _dock_blocks(golden("external") / "MoTe2" / "dock" / "hamiltonian.h5")
    mine = _dock_blocks(tmp_path / "dock" / "hamiltonian.h5")
    assert (
        set(mine) == set(official)
        and max(np.abs(mine[k] - official[k]).max() for k in official) < 1e-12
    )
    back = convert_folder(tmp_path / "dock", tmp_path / "back", "legacy")
    assert "put back" in back["notes"][0]
    for name in ("hamiltonians.h5", "overlaps.h5"):
        one, two = _legacy_blocks(mixed / name), _legacy_blocks(tmp_path / "back" / name)
        assert set(one) == set(two) and max(np.abs(one[k] - two[k]).max() for k in one) == 0.0
    assert read_folder(tmp_path / "back").numbers.tolist() == [52, 42, 52]
    assert "deeph_gformer" not in json.loads((tmp_path / "back" / "info.json").read_text())
    k = (0.1, 0.2, 0.0)
    levels = [
        bands.solve_dense(*bands.load(folder).at(k)).energies
        for folder in (mixed, tmp_path / "dock", tmp_path / "back")
    ]
    np.testing.assert_allclose(levels[0], levels[1], atol=1e-9)
    np.testing.assert_allclose(levels[0], levels[2], atol=1e-12)


def test_element_order_keeps_first_appearance(mixed: pathlib.Path) -> None:
    assert element_order(read_folder(mixed)).tolist() == [0, 2, 1]


def test_batch_default_target_and_poscar(tmp_path: pathlib.Path) -> None:
    shutil.copytree(golden("external"), tmp_path / "in")
    for name in ("MoTe2", "Bi2Se3_SOC"):
        (tmp_path / "in" / name / "legacy").rename(tmp_path / "in" / f"{name}_l")
        shutil.rmtree(tmp_path / "in" / name)
    said: list[str] = []
    records = convert(tmp_path / "in", tmp_path / "out", echo=said.append)
    assert len(records) == 2 and all(r["to"] == "dock" for r in records) and len(said) >= 2
    assert (tmp_path / "out" / "MoTe2_l" / "POSCAR").is_file()
    convert(tmp_path / "in" / "MoTe2_l", tmp_path / "one.vasp", "poscar")
    from ase.io import read

    assert read(tmp_path / "one.vasp").get_chemical_symbols() == ["Te", "Te", "Mo"]


def test_refusals(mixed: pathlib.Path, tmp_path: pathlib.Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("keep me")
    with pytest.raises(DataError, match="not empty.*--overwrite"):
        convert_folder(mixed, tmp_path / "full", "dock")
    convert_folder(mixed, tmp_path / "full", "dock", overwrite=True)
    assert (tmp_path / "full" / "thesis.txt").read_text() == "keep me"
    with pytest.raises(ConfigError, match="is the folder that is read"):
        convert_folder(mixed, mixed, "dock", overwrite=True)
    with pytest.raises(ConfigError, match="wannier90"):
        convert_folder(mixed, tmp_path / "x", "wannier")  # type: ignore[arg-type]
    with pytest.raises(DataError, match="no structure folder"):
        convert_folder(tmp_path, tmp_path / "x", "dock")
    info = json.loads((tmp_path / "full" / "info.json").read_text())
    info["deeph_gformer"]["atom_order"] = [0, 1]
    (tmp_path / "full" / "info.json").write_text(json.dumps(info))
    with pytest.raises(DataError, match="atom_order is no permutation of the 3 atoms"):
        convert_folder(tmp_path / "full", tmp_path / "y", "legacy")


def test_overwrite_keeps_the_target_until_all_is_read(
    mixed: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    target = tmp_path / "old"
    convert_folder(mixed, target, "dock")
    before = {p.name: p.read_bytes() for p in target.iterdir()}
    (mixed / "hamiltonians.h5").write_bytes(b"cut short")
    with pytest.raises(DataError, match="hamiltonians.h5: not a readable HDF5 file"):
        convert_folder(mixed, target, "dock", overwrite=True)
    assert {p.name: p.read_bytes() for p in target.iterdir()} == before
    (mixed / "hamiltonians.h5").unlink()
    convert_folder(mixed, target, "legacy", overwrite=True)
    assert (
        not (target / "POSCAR").exists()
        and not (target / "hamiltonian.h5").exists()
        and (target / "overlaps.h5").exists()
    )
