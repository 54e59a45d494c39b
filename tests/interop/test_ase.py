"""The ASE calculator against golden predictions, ASE's own tools and SciPy."""

from __future__ import annotations

import json
import pathlib

import h5py
import numpy as np
import pytest
import scipy.linalg
from ase import Atoms
from ase.build import graphene, molecule, mx2
from ase.calculators.calculator import PropertyNotImplementedError
from ase.cell import Cell
from ase.dft.dos import DOS
from ase.spectrum.band_structure import BandStructure, get_band_structure
from scipy.integrate import trapezoid

from deeph_gformer import overlap
from deeph_gformer.config import TrainConfig, from_mapping
from deeph_gformer.errors import ConfigError, DataError, ModelError
from deeph_gformer.interop import ase_io
from deeph_gformer.interop.ase import HamiltonianCalculator
from deeph_gformer.io import Structure, read_folder, read_matrix
from deeph_gformer.io.blocks import match_keys
from deeph_gformer.training.stage2 import train_gformer

from ..conftest import ROOT
from .conftest import golden, orbital_file


@pytest.fixture(scope="module")
def sheet(carbon, carbon_overlap) -> Atoms:
    atoms = graphene(a=2.46, vacuum=8.0)
    atoms.calc = HamiltonianCalculator(carbon, overlap=carbon_overlap, kpts=(4, 4, 1), electrons=8)
    return atoms


def test_hamiltonian_is_the_official_prediction(carbon, carbon_overlap) -> None:
    root = golden("graphene_small_f64")
    structure = read_folder(root / "structures" / "graphene_3x3_0001")
    atoms = ase_io.to_atoms(structure)
    atoms.info["name"] = structure.name
    calc = HamiltonianCalculator(carbon, overlap=root / "structures", hermitian=False)
    atoms.calc = calc
    h = calc.get_hamiltonian()
    with h5py.File(root / "predictions" / structure.name / "hamiltonians_pred.h5") as official:
        assert len(h) == len(official)
        for key, block in h:
            x, y, z, i, j = key
            np.testing.assert_allclose(
                block, official[f"[{x}, {y}, {z}, {i + 1}, {j + 1}]"][()], rtol=0, atol=1e-9
            )
    dft = read_matrix(root / "structures" / structure.name, "overlap", structure)
    s = HamiltonianCalculator(
        carbon, overlap=carbon_overlap, atoms=atoms.copy()
    ).get_overlap()  # edges from positions and radii alone
    place = match_keys(dft.keys, s.keys)
    assert (place >= 0).all() and len(s) - len(
        dft
    ) < 10  # the DFT code drops blocks of tiny elements
    np.testing.assert_allclose(s.select(place).values, dft.values, atol=1e-6)
    with pytest.raises(DataError, match="another geometry"):
        atoms.positions[0] += 0.1
        calc.get_hamiltonian()


def test_eigenvalues_solve_the_sparse_problem(sheet: Atoms) -> None:
    calc = sheet.calc
    for number, k in enumerate(calc.get_ibz_k_points()):
        phases = {
            tuple(c): np.exp(2j * np.pi * np.dot(k, c))
            for c in np.unique(calc.get_hamiltonian().keys[:, :3], axis=0)
        }
        h = sum(p * calc.get_hamiltonian(R=c).toarray() for c, p in phases.items())
        s = sum(p * calc.get_overlap(R=c).toarray() for c, p in phases.items())
        np.testing.assert_allclose(calc.get_hamiltonian(k=k).toarray(), h, atol=1e-12)
        np.testing.assert_allclose(
            calc.get_eigenvalues(number), scipy.linalg.eigh(h, s, eigvals_only=True), atol=1e-9
        )
    assert calc.get_hamiltonian(R=(99, 0, 0)).nnz == 0


def test_cached_until_something_moves(sheet: Atoms, monkeypatch: pytest.MonkeyPatch) -> None:
    atoms = sheet.copy()
    calc = HamiltonianCalculator(
        sheet.calc.model, overlap=sheet.calc.overlap, electrons=8, kpts=(2, 2, 1)
    )
    atoms.calc = calc
    calls: list[int] = []
    original = type(calc.model).predict_items
    monkeypatch.setattr(
        type(calc.model),
        "predict_items",
        lambda self, *a, **k: calls.append(1) or original(self, *a, **k),
    )
    first = calc.get_fermi_level()
    calc.get_eigenvalues(0)
    calc.set(kpts=(3, 3, 1))
    calc.get_eigenvalues(0)
    assert len(calls) == 1
    atoms.positions[0, 2] += 0.05
    second = calc.get_fermi_level()
    assert len(calls) == 2 and second != first
    fresh = HamiltonianCalculator(
        calc.model, overlap=calc.overlap, electrons=8, kpts=(3, 3, 1), atoms=atoms.copy()
    )
    assert fresh.get_fermi_level() == pytest.approx(second, abs=1e-12)
    atoms.pbc = (True, False, False)
    with pytest.raises(DataError, match="couple to their own images along a2, too"):
        calc.get_hamiltonian()
    monkeypatch.setattr(calc.overlap, "extrapolate", True)
    with pytest.warns(UserWarning, match="blocks are left out"):
        assert len(calc.get_hamiltonian()) < len(fresh.get_hamiltonian())


def test_energy_and_forces_do_not_exist(sheet: Atoms) -> None:
    for ask in (sheet.get_potential_energy, sheet.get_forces, sheet.get_stress):
        with pytest.raises(PropertyNotImplementedError):
            ask()


def test_weights_and_zone(sheet: Atoms) -> None:
    calc = sheet.calc
    assert calc.get_k_point_weights().sum() == pytest.approx(1.0)
    zone, irreducible, index = (
        calc.get_bz_k_points(),
        calc.get_ibz_k_points(),
        calc.get_bz_to_ibz_map(),
    )
    assert len(zone) == 16 and len(irreducible) < 16
    for k, other in zip(zone, irreducible[index]):
        assert min(np.abs((k - s * other) - np.round(k - s * other)).max() for s in (1, -1)) < 1e-12
    np.testing.assert_allclose(np.bincount(index) / 16, calc.get_k_point_weights())


def test_ase_dos(sheet: Atoms) -> None:
    dos = DOS(sheet.calc, width=0.2, npts=2001, window=(-40, 40))
    weights, energies = (
        sheet.calc.get_k_point_weights(),
        np.array(
            [sheet.calc.get_eigenvalues(k) for k in range(len(sheet.calc.get_ibz_k_points()))]
        ),
    )
    inside = 2 * weights @ (np.abs(energies - sheet.calc.get_fermi_level()) < 40).sum(axis=1)
    assert 20 < inside < 52 and trapezoid(dos.get_dos(), dos.get_energies()) == pytest.approx(
        inside, rel=0.02
    )
    ours = sheet.calc.get_dos(
        method="gaussian",
        width_eV=0.2 / np.sqrt(2),
        window=(dos.get_energies()[0], dos.get_energies()[-1]),
        points=2001,
    )
    np.testing.assert_allclose(ours.total, dos.get_dos(), atol=1e-6 * dos.get_dos().max())
    sheet.calc.set(kpts=(5, 4, 1))  # ASE's rule loses triangles whose corners are at one energy
    try:
        fine = DOS(sheet.calc, width=0.0, npts=160001, window=(-40, 40)).get_dos()
        own = sheet.calc.get_dos(method="tetrahedron", window=(-40, 40), points=1601)
    finally:
        sheet.calc.set(kpts=(4, 4, 1))
    means = np.convolve(fine, [0.005, *[0.01] * 99, 0.005], "same")[::100]  # over own's steps
    np.testing.assert_allclose(own.total[1:-1], means[1:-1], atol=2.5e-3 * own.total.max())


def test_ase_band_structure(sheet: Atoms) -> None:
    calc = sheet.calc
    fermi = calc.get_fermi_level()
    path = sheet.cell.bandpath("GMKG", npoints=8, pbc=(1, 1, 0))
    direct = calc.band_structure(path)
    assert isinstance(direct, BandStructure) and direct.reference == fermi
    calc.set(kpts=path)
    try:
        through_ase = get_band_structure(sheet)
        np.testing.assert_allclose(through_ase.energies, direct.energies, atol=1e-12)
        assert through_ase.reference == direct.reference  # still that of the 4x4 mesh
    finally:
        calc.set(kpts=(4, 4, 1))
    own = calc.band_structure("GMKG", npoints=8)
    assert own.path.path == "GMKG" and own.energies.shape[2] == 26
    np.testing.assert_allclose(own.energies[0, 0], direct.energies[0, 0], atol=1e-10)
    json.dumps(direct.todict(), default=str)
    turned = sheet.cell[:].copy()
    turned[1] += turned[0]  # 60 degrees between the vectors: K has other fractions
    foreign = Cell(turned).bandpath("GMKG", npoints=8, pbc=(1, 1, 0))
    for ask in (lambda: calc.band_structure(foreign), lambda: get_band_structure(sheet)):
        calc.set(kpts=foreign)
        with pytest.raises(ConfigError, match="BandPath is one of another cell"):
            ask()
    calc.set(kpts=(4, 4, 1))
    taller = sheet.cell[:] * np.array([[1.0], [1.0], [2.0]])  # more vacuum is no other cell
    path = Cell(taller).bandpath("GMKG", npoints=8, pbc=(1, 1, 0))
    np.testing.assert_allclose(calc.band_structure(path).energies, direct.energies, atol=1e-12)


def test_a_threshold_of_s_counts_everywhere(sheet: Atoms) -> None:
    """States of small eigenvalues of S are projected out, whichever way energies are asked for."""
    calc = sheet.calc
    h, s = calc.get_problem().at((0, 0, 0))
    value, basis = scipy.linalg.eigh(s)
    cut = float(value[4:6].mean())
    keep = basis[:, value > cut] / np.sqrt(value[value > cut])
    wanted = np.linalg.eigvalsh(keep.conj().T @ h @ keep)
    path = sheet.cell.bandpath("GMKG", npoints=8, pbc=(1, 1, 0))
    calc.set(s_threshold=cut)
    try:
        for found in (calc.band_structure("GMKG", npoints=8), calc.band_structure(path)):
            count = found.energies.shape[2]
            assert 10 < count <= len(wanted)
            np.testing.assert_allclose(found.energies[0, 0], wanted[:count], atol=1e-9)
        options = {"window": (-60, 60), "width_eV": 0.3}
        again = calc.get_dos(mesh="4x4x1", projections="C", **options)
        np.testing.assert_allclose(again.total, calc.get_dos(**options).total, atol=1e-9)
    finally:
        calc.set(s_threshold=None)


def test_bad_atoms_and_options(carbon, carbon_overlap, sheet: Atoms) -> None:
    with pytest.raises(ConfigError, match="overlap="):
        HamiltonianCalculator(carbon)
    calc = HamiltonianCalculator(carbon, overlap=carbon_overlap)
    with pytest.raises(ConfigError, match="no atoms yet"):
        calc.get_hamiltonian()
    with pytest.raises(DataError, match="no full cell"):
        calc.get_hamiltonian(Atoms("C2", [(0, 0, 0), (1.4, 0, 0)]))
    with pytest.raises(ModelError, match="element H is unknown.*trained on C"):
        calc.get_hamiltonian(molecule("CH4", vacuum=5))
    with pytest.raises(ConfigError, match="number of electrons.*valence"):
        calc.get_fermi(sheet.copy())
    with pytest.raises(ConfigError, match="parameter kpoints is unknown"):
        calc.set(kpoints=3)
    with pytest.raises(ConfigError, match="Γ-centred"):
        HamiltonianCalculator(
            carbon, overlap=carbon_overlap, kpts={"size": (2, 2, 1), "gamma": False}
        ).get_spectrum(sheet.copy())
    with pytest.raises(ConfigError, match="k-point 99"):
        sheet.calc.get_eigenvalues(99)


# --- I/O ------------------------------------------------------------------------------------------
def test_atoms_round_trip(tmp_path: pathlib.Path) -> None:
    folder = golden("external") / "MoTe2" / "legacy"
    structure = read_folder(folder)
    atoms = next(ase_io.read_deeph(folder))
    assert atoms.pbc.tolist() == [True, True, False] or atoms.pbc.tolist() == [True, True, True]
    back = ase_io.from_atoms(atoms)
    assert back.orbital_types == structure.orbital_types and back.spinful == structure.spinful
    np.testing.assert_array_equal(back.positions, structure.positions)
    ase_io.write_deeph(tmp_path / "one", atoms)
    again = read_folder(tmp_path / "one")
    np.testing.assert_allclose(again.positions, structure.positions, rtol=0, atol=1e-14)
    np.testing.assert_allclose(again.lattice, structure.lattice, rtol=0, atol=1e-14)
    assert again.info["fermi_level"] == structure.info["fermi_level"]


def test_trajectory_to_folders_through_ase_io(
    tmp_path: pathlib.Path, carbon_overlap, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ase.io
    import ase.io.formats as formats

    if "deeph" not in formats.ioformats:  # the entry point, where the package is not installed
        formats.define_io_format("deeph", **ase_io.io_format._asdict(), external=True)
    frames = []
    for step in range(3):
        atoms = graphene(a=2.46, vacuum=8.0)
        atoms.positions[0, 2] += 0.01 * step
        frames.append(atoms)
    ase.io.write(
        str(tmp_path / "many"),
        frames,
        format="deeph",
        orbital_types={"C": [0, 0, 1, 1, 2]},
        overlap=carbon_overlap,
    )
    assert sorted(p.name for p in (tmp_path / "many").iterdir()) == ["0000", "0001", "0002"]
    back = ase.io.read(str(tmp_path / "many"), ":", format="deeph")
    assert len(back) == 3 and back[0].pbc.tolist() == [True, True, False]
    for one, two in zip(frames, back):
        np.testing.assert_allclose(one.positions, two.positions, rtol=0, atol=1e-14)
    assert (tmp_path / "many" / "0002" / "overlaps.h5").is_file()
    with pytest.raises(DataError, match="overwrite=True"):
        ase.io.write(
            str(tmp_path / "many"), frames, format="deeph", orbital_types={"C": [0, 0, 1, 1, 2]}
        )
    with pytest.raises(DataError, match="needs the shells"):
        ase_io.write_deeph(tmp_path / "bare", frames[0])
    with pytest.raises(DataError, match="no orbitals are known of element C"):
        ase_io.write_deeph(tmp_path / "bare", frames[0], {"H": [0]})


def test_the_bundle_brings_overlaps_and_electrons(carbon, dft, tmp_path: pathlib.Path) -> None:
    folders = [dft("graphene", f"000{n}")[0] for n in (0, 1)]
    config = {
        "data": {"preprocessed": str(folders[0].parent), "train_ratio": 0.5, "val_ratio": 0.5},
        "model": {"width": 16, "heads": 2, "gated_channels": 4},
        "training": {"epochs": 1, "threads": 1},
        "output": str(tmp_path / "run"),
    }
    train_gformer(from_mapping(TrainConfig, config), carbon.stage1)
    known = json.loads((tmp_path / "run" / "splits.json").read_text())["train"][0]
    calc = HamiltonianCalculator(
        tmp_path / "run" / "bundle", stage1=golden("graphene_small_f64") / "model", kpts="2x2x1"
    )
    structure = read_folder(folders[0].parent / known)
    atoms = ase_io.to_atoms(structure)
    atoms.calc = calc
    truth = read_matrix(folders[0].parent / known, "overlap", structure)
    s = calc.get_overlap()
    np.testing.assert_allclose(
        s.select(match_keys(truth.keys, s.keys)).values, truth.values, atol=1e-5
    )
    assert calc.get_fermi().electrons == 72.0 and calc.model.bundle.training["periodicity"] == [2]


# --- shells and frames that do not fit ------------------------------------------------------------
def _pair() -> Atoms:
    """Mo and S, with shells as a folder's reader stores them."""
    shells = ((0, 1, 2), (0, 1))
    return ase_io.to_atoms(
        Structure(
            np.eye(3) * 9,
            np.array([[0.0, 0, 0], [2.4, 0, 0]]),
            np.array([42, 16]),
            shells,
            False,
            {},
            "pair",
        )
    )


def test_shells_follow_their_element() -> None:
    atoms = _pair()
    assert ase_io.from_atoms(atoms[[1, 0]]).orbital_types == ((0, 1), (0, 1, 2))
    atoms.symbols[1] = "Se"
    with pytest.raises(DataError, match="no orbitals are known of element Se"):
        ase_io.from_atoms(atoms)
    old = Atoms(
        "MoS2",
        cell=[9, 9, 9],
        positions=np.eye(3),
        info={"orbital_types": [[0, 1, 2], [0, 1], [0, 1]]},
    )
    assert ase_io.from_atoms(old).orbital_types == ((0, 1, 2), (0, 1), (0, 1))
    with pytest.raises(
        DataError, match=r"atom 3 \(S\): its shells are \[0, 1\], those of S before it \[0, 1, 2\]"
    ):
        ase_io.from_atoms(old[[1, 0, 2]])


@pytest.mark.parametrize("wrong", [{"Mo": "spd"}, {"Mo": 3}, {"Mo": [9]}, [[0], "s"], 3, "spd"])
def test_wrong_shells_are_named(wrong: object) -> None:
    with pytest.raises(DataError, match="shells .* are no list of l|orbital_types = "):
        ase_io.from_atoms(_pair(), wrong)  # type: ignore[arg-type]


def test_frames_appear_together_or_not_at_all(tmp_path: pathlib.Path, carbon_overlap) -> None:
    good = graphene(a=2.46, vacuum=8.0)
    for bad, words in (
        (Atoms("C2", positions=good.positions), "no full cell"),
        (Atoms(cell=good.cell), "holds no atoms"),
    ):
        with pytest.raises(DataError, match=words):
            ase_io.write_deeph(tmp_path / "many", [good, bad], {"C": [0, 0, 1, 1, 2]})
        assert not list(tmp_path.rglob("*.dat"))
    ase_io.write_deeph(tmp_path / "one", good, overlap=carbon_overlap)
    ase_io.write_deeph(tmp_path / "one", good, {"C": [0, 0, 1, 1, 2]}, overwrite=True)
    assert (
        not (tmp_path / "one" / "overlaps.h5").exists() and len(read_folder(tmp_path / "one")) == 2
    )


def test_structures_that_the_model_never_saw() -> None:
    folder = ROOT / "examples" / "systems" / "models" / "mos2"
    atoms = mx2("MoS2", a=3.18, thickness=3.13, vacuum=10.0)
    atoms.pbc = True
    calc = HamiltonianCalculator(folder / "gformer", folder / "stage1")
    assert len(calc.get_hamiltonian(atoms)) > 3
    for pbc, crossed in ((False, 0), ((True, False, False), 1)):
        atoms.pbc = pbc
        with pytest.raises(DataError, match=f"pbc = .*cross {crossed} of the 3 lattice vectors"):
            calc.get_hamiltonian(atoms)
        assert len(HamiltonianCalculator(calc.model, extrapolate=True).get_hamiltonian(atoms)) >= 3
        wide = overlap.load(
            folder / "gformer", extrapolate=True
        )  # a table that may go further lets the calculator do so
        assert len(HamiltonianCalculator(calc.model, overlap=wide).get_hamiltonian(atoms)) >= 3
    basis = [orbital_file("Mo"), orbital_file("S")]
    atoms.pbc = (True, True, False)
    atoms.positions[1, 2] -= 0.9
    with pytest.raises(
        DataError,
        match=r"atoms 1 \(Mo\) and 2 \(S\) of 'MoS2'.*closer than the known range of Mo-S pairs",
    ):
        HamiltonianCalculator(calc.model, overlap=basis).get_hamiltonian(atoms)
    with pytest.raises(DataError, match="holds no atoms"):
        calc.get_hamiltonian(Atoms(cell=[9, 9, 9]))


@pytest.mark.parametrize("k", [(0, 0), "G", (0, np.nan, 0), 0.5])
def test_k_points_are_three_numbers(sheet: Atoms, k: object) -> None:
    with pytest.raises(ConfigError, match="k = .*three finite fractional numbers"):
        sheet.calc.get_hamiltonian(k=k)


@pytest.mark.parametrize("cell", [(0, 0), (0.5, 0, 0), "G"])
def test_lattice_vectors_are_three_integers(sheet: Atoms, cell: object) -> None:
    with pytest.raises(ConfigError, match="R = .*three integers"):
        sheet.calc.get_overlap(R=cell)


def test_wrong_options_of_the_calculator(sheet: Atoms, tmp_path: pathlib.Path) -> None:
    with pytest.raises(ConfigError, match="option foo is unknown; of the model there are device"):
        HamiltonianCalculator(tmp_path, foo=1)
    model = sheet.calc.model
    with pytest.raises(ConfigError, match="option kpt is unknown"):
        HamiltonianCalculator(model, kpt="2x2x1")
    with pytest.raises(ConfigError, match="is given, so stage1, device would have no effect"):
        HamiltonianCalculator(model, stage1=tmp_path, device="cpu")
    for options, words in (
        ({"kpts": 6}, "k mesh '6': three positive integers"),
        ({"kpts": np.int64(6)}, "k mesh '6': three positive integers"),
        ({"kpts": {"path": "GMK", "npoints": 10}}, "band_structure"),
        ({"kpts": {"density": 3.5}}, "'size': "),
        ({"valence": "C=4"}, "valence = 'C=4': write electrons per element"),
        ({"valence": 4}, "valence = 4: write electrons per element"),
    ):
        calc = HamiltonianCalculator(
            sheet.calc.model, overlap=sheet.calc.overlap, **{"kpts": (2, 2, 1), **options}
        )
        with pytest.raises(ConfigError, match=words):
            calc.get_fermi(sheet.copy()) if "valence" in options else calc.get_spectrum(
                sheet.copy()
            )
    ase_io.write_deeph(tmp_path / "one", sheet, {"C": [0, 0, 1, 1, 2]})
    with pytest.raises(DataError, match="structure number 7 is asked for; there are 1"):
        list(ase_io.read_deeph(tmp_path / "one", 7))
