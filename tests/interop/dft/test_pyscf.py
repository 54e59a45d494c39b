"""PySCF: its own eigenvalues on and off the mesh, rotation of overlaps and kinetic energies for s
to f, checkpoints, refusals."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import h5py
import numpy as np
import pytest

from deeph_gformer import bands
from deeph_gformer.errors import DataError
from deeph_gformer.interop.dft import read_run
from deeph_gformer.io import read_folder, read_matrix
from deeph_gformer.overlap.rotation import block_rotation

pytest.importorskip("pyscf", reason="pyscf is not installed")

HARTREE_EV = 27.211386245988
BASIS = {
    "Li": [[0, [1.2, 1.0]], [1, [0.5, 1.0]], [0, [0.45, 1.0]]],  # shells not sorted by l
    "H": [[0, [0.9, 0.5], [0.35, 0.6]], [1, [0.8, 1.0]]],
}


def make_cell(**options: Any) -> Any:
    from pyscf.pbc import gto

    cell = gto.Cell()
    cell.atom = "Li 0.1 0.05 0.2; H 4.25 0.3 -0.1"  # the second one outside the cell
    cell.a = np.array([[2.8, 0, 0], [0.3, 2.6, 0], [0, 0.2, 2.7]])
    cell.basis, cell.pseudo = BASIS, {"Li": "gth-pade", "H": "gth-pade"}
    cell.mesh, cell.verbose = [15, 15, 15], 0
    for name, value in options.items():
        setattr(cell, name, value)
    return cell.build()


def calculate(
    polarised: bool, mesh: list[int], file: pathlib.Path | None = None, **options: Any
) -> Any:
    from pyscf.pbc import dft

    cell = make_cell(spin=2 if polarised else 0, **options)
    mf = (dft.KUKS if polarised else dft.KRKS)(cell, cell.make_kpts(mesh))
    mf.xc, mf.conv_tol = "lda,vwn", 1e-11
    mf.chkfile = None if file is None else str(file)
    mf.kernel()
    assert mf.converged
    return mf


@pytest.mark.parametrize("polarised", [False, True])
def test_eigenvalues_equal_pyscfs(polarised: bool, tmp_path: pathlib.Path) -> None:
    """On a mesh that is too coarse for the orbitals' range; k on and off it."""
    from deeph_gformer.interop.dft.pyscf import write_pyscf

    mf = calculate(polarised, [2, 2, 2])
    write_pyscf(tmp_path / "lih", mf)
    problem = bands.load(tmp_path / "lih")
    assert problem.spinful == polarised and problem.structure.numbers.tolist() == [3, 1]
    assert problem.structure.orbital_types == ((0, 0, 1), (0, 1))
    assert problem.structure.positions[1, 0] == pytest.approx(4.25)
    for k in ([0, 0, 0], [0.5, 0, 0.5], [0.17, 0.3, 0.1]):
        own = np.ravel(mf.get_bands(np.array([k]) @ mf.cell.reciprocal_vectors())[0]) * HARTREE_EV
        mine = bands.solve_dense(*problem.at(k)).energies
        np.testing.assert_allclose(mine, np.sort(own), rtol=0, atol=1e-5)
    info = read_folder(tmp_path / "lih").info
    assert (info["code"], info["functional"], info["electrons"]) == ("PySCF", "lda,vwn", 4)
    assert info["spin"] == ("collinear" if polarised else "none")
    states = np.concatenate([np.ravel(e) for e in np.reshape(np.array(mf.mo_energy), (-1,))[None]])
    below = (states * HARTREE_EV < info["fermi_level"]).sum() / 8 * (1 if polarised else 2)
    assert below == 4
    with pytest.raises(DataError, match="holds a structure already"):
        write_pyscf(tmp_path / "lih", mf)


def test_rotation_covariance() -> None:
    """S and kinetic energy of s, p, d, f functions turn as legacy orbitals do: order and relative
    signs inside shells."""
    from deeph_gformer.interop.dft import pyscf as reader

    turn, _ = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))
    turn *= np.linalg.det(turn)
    basis = {
        "Li": [[l, [0.9 + 0.2 * l, 1.0]] for l in (3, 1, 0, 2)],
        "H": [[1, [0.8, 1.0]], [0, [0.7, 1.0]]],
    }
    runs = []
    for rotation in (np.eye(3), turn):
        places = np.array([[0.1, 0.05, 0.2], [1.45, 0.3, -0.1]]) @ rotation.T
        cell = make_cell(
            atom=[["Li", places[0]], ["H", places[1]]],
            a=np.array([[2.8, 0, 0], [0.3, 2.6, 0], [0, 0.2, 2.7]]) @ rotation.T,
            basis=basis,
        )
        shells = reader.basis_of(cell, "test")
        keys = reader.pairs_of(cell, shells)

        def matrices(points: np.ndarray, cell: Any = cell) -> Any:
            k = points @ cell.reciprocal_vectors()
            return [cell.pbc_intor("int1e_kin", 1, 1, k)], cell.pbc_intor("int1e_ovlp", 1, 1, k)

        mesh = reader.mesh_for(keys, np.ones(3, dtype=np.int64))
        runs.append(reader._assemble(cell, shells, keys, mesh, matrices, {}, "turned"))
    plain, turned = runs
    assert plain.structure.orbital_types == ((0, 1, 2, 3), (0, 1))
    assert np.array_equal(plain.hamiltonian.keys, turned.hamiltonian.keys)
    wigner = {s: block_rotation(s, turn[None])[0] for s in set(plain.structure.orbital_types)}
    for one, two in ((plain.hamiltonian, turned.hamiltonian), (plain.overlap, turned.overlap)):
        assert np.abs(one.values).max() > 0.5
        for e, (*_, i, j) in enumerate(one.keys.tolist()):
            left, right = (wigner[plain.structure.orbital_types[n]] for n in (i, j))
            np.testing.assert_allclose(two.block(e), left @ one.block(e) @ right.T, atol=1e-6)


TIGHT = {"Li": [[0, [1.5, 1.0]], [1, [1.3, 1.0]]], "H": [[0, [1.2, 1.0]]]}


@pytest.mark.parametrize("polarised", [False, True])
def test_checkpoint(polarised: bool, tmp_path: pathlib.Path) -> None:
    """H from the orbitals of a checkpoint is H from the calculation."""
    from deeph_gformer.interop.dft.pyscf import from_pyscf

    mf = calculate(polarised, [4, 4, 4], tmp_path / "a.chk", basis=TIGHT)
    mine, other = read_run(tmp_path), from_pyscf(mf)
    assert np.array_equal(mine.hamiltonian.keys, other.hamiltonian.keys)
    np.testing.assert_allclose(mine.overlap.values, other.overlap.values, atol=1e-8)
    np.testing.assert_allclose(mine.hamiltonian.values, other.hamiltonian.values, atol=1e-5)
    for key in ("electrons", "fermi_level", "spin"):
        expected = other.structure.info[key]
        assert mine.structure.info[key] == (expected if key == "spin" else pytest.approx(expected))
    assert any("does not tell whether the run converged" in note for note in mine.notes)


def test_damaged_checkpoints(tmp_path: pathlib.Path) -> None:
    """Each would give another H, Fermi level or number of electrons in silence."""
    path = tmp_path / "a.chk"
    calculate(False, [4, 4, 4], path, basis=TIGHT)
    read_run(tmp_path)
    whole = path.read_bytes()

    def changed(name: str, change: Any, words: str) -> None:
        path.write_bytes(whole)
        with h5py.File(path, "a") as file:
            item = file["scf"]
            listed = f"{name}__from_list__"
            place = f"{listed}/{sorted(item[listed])[1]}" if listed in item else name
            value = np.array(item[place])
            del item[place]
            item[place] = change(value)
        with pytest.raises(DataError, match=words):
            read_run(tmp_path)

    def one(value: np.ndarray, number: float) -> np.ndarray:
        flat = value.reshape(-1).copy()
        flat[-1] = number
        return flat.reshape(value.shape)

    changed("mo_coeff", lambda v: v * 1.01, "not orthonormal in its own cell")
    changed("mo_energy", lambda v: v[..., ::-1], "energies of its orbitals are not in order")
    changed("mo_energy", lambda v: one(v, 1e3), "energies at k and -k differ")
    changed("mo_occ", lambda v: one(v, 1.5), "occupations make .* electrons, the cell has")
    changed("mo_occ", lambda v: v.astype("c16"), "mo_occ holds no finite numbers")
    changed(
        "mo_energy", lambda v: v.astype("f4"), "mo_energy holds no finite numbers|no checkpoint"
    )
    changed("kpts", lambda v: np.concatenate([v, v[:1]]), "k-points")


def test_checkpoint_of_a_coarse_mesh(tmp_path: pathlib.Path) -> None:
    calculate(False, [2, 1, 1], tmp_path / "a.chk")
    with pytest.raises(DataError, match="its 2x1x1 k-points cannot tell pairs of .*write_pyscf"):
        read_run(tmp_path)


def test_nothing_in_a_checkpoint_is_executed(tmp_path: pathlib.Path) -> None:
    """PySCF's own loader evaluates strings of the file; this one reads numbers."""
    with h5py.File(tmp_path / "a.chk", "w") as file:
        bomb = f"open({str(tmp_path / 'executed')!r}, 'w')"
        file["mol"] = json.dumps({"atom": bomb, "basis": bomb, "pseudo": bomb, "ecp": bomb})
        for name in ("mo_coeff", "mo_energy", "mo_occ", "kpts"):
            file[f"scf/{name}"] = np.zeros((1, 3))
    with pytest.raises(DataError, match="no checkpoint of a periodic PySCF calculation"):
        read_run(tmp_path)
    assert not (tmp_path / "executed").exists()
    (tmp_path / "a.chk").write_bytes(b"\x89HDF\r\n")
    with pytest.raises(DataError, match="a.chk: not a readable HDF5 file"):
        read_run(tmp_path)


def test_refusals(tmp_path: pathlib.Path) -> None:
    from pyscf.pbc import dft, scf

    from deeph_gformer.interop.dft.pyscf import from_pyscf

    cell = make_cell()
    with pytest.raises(DataError, match="not converged"):
        from_pyscf(dft.KRKS(cell, cell.make_kpts([2, 1, 1])))
    with pytest.raises(DataError, match="is a KROHF"):
        from_pyscf(scf.KROHF(cell, cell.make_kpts([2, 1, 1])))
    with pytest.raises(DataError, match="is a RHF"):
        from_pyscf(scf.RHF(cell))
    mf = calculate(False, [1, 1, 1])
    for options, message in (
        ({"cart": True}, "Cartesian Gaussians"),
        (
            {"basis": {"Li": [[4, [1.0, 1.0]]], "H": BASIS["H"]}},
            r"atom 1 \('Li'\) has shells beyond f",
        ),
        (
            {"atom": "ghost-Li 0.1 0.05 0.2; H 4.25 0.3 -0.1", "spin": 1},
            r"atom 1 \('.*'\) is empty",
        ),
    ):
        mf.cell = make_cell(**options)
        with pytest.raises(DataError, match=message):
            from_pyscf(mf)


def test_written_as_dock(tmp_path: pathlib.Path) -> None:
    from deeph_gformer.interop.dft.pyscf import write_pyscf

    run = write_pyscf(tmp_path / "d", calculate(False, [1, 1, 1]), "dock")
    np.testing.assert_allclose(
        read_matrix(tmp_path / "d", "hamiltonian").values, run.hamiltonian.values
    )
