"""Folders in, files out: bad input is named, and what is written reads back by other programs."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import resource
import signal

import h5py
import numpy as np
import pytest

from deeph_gformer import bands
from deeph_gformer.bands import BlochProblem, plot_fat, plot_spin
from deeph_gformer.bands.files import write_bands
from deeph_gformer.errors import ConfigError, DataError
from deeph_gformer.io import BlockMatrix
from deeph_gformer.io.folder import write_matrix
from deeph_gformer.io.legacy import write_structure

from .conftest import blocks, graphene, random_problem, structure


def write_folder(
    folder: pathlib.Path, problem: BlochProblem, overlap: bool = True, **info: object
) -> pathlib.Path:
    """A legacy folder with DFT H and S."""
    crystal = dataclasses.replace(problem.structure, spinful=problem.spinful, info=dict(info))
    write_structure(folder, crystal)
    write_matrix(folder, "hamiltonian", problem.h, crystal)
    if overlap:
        write_matrix(folder, "overlap", problem.s, crystal)
    return folder


def test_load_reads_back_what_was_written(tmp_path: pathlib.Path) -> None:
    for spin in (1, 2):
        problem = random_problem(spin=spin)
        again = bands.load(write_folder(tmp_path / str(spin), problem))
        k = (0.2, 0.1, -0.3)
        assert again.spin == spin and all(
            np.abs(a - b).max() < 1e-14 for a, b in zip(problem.at(k), again.at(k))
        )


def test_silent_info_file_is_told_by_the_shapes(tmp_path: pathlib.Path) -> None:
    folder = write_folder(tmp_path / "x", random_problem(spin=2))
    (folder / "info.json").unlink()
    assert bands.load(folder).spin == 2


def test_missing_overlap_and_orthogonal_basis(tmp_path: pathlib.Path) -> None:
    folder = write_folder(tmp_path / "a", graphene(), overlap=False)
    with pytest.raises(DataError, match="hamiltonians.h5: no overlap beside it.*isorthogonal"):
        bands.load(folder)
    problem = bands.load(write_folder(tmp_path / "b", graphene(), overlap=False, isorthogonal=True))
    assert (
        np.abs(np.linalg.eigvalsh(problem.at((1 / 3, 1 / 3, 0))[0])).max() < 1e-12
        and "S is the identity" in problem.notes[0]
    )
    whole = write_folder(tmp_path / "c", graphene())
    assert bands.load(folder, overlap_folder=whole).size == 2
    assert bands.load(folder, overlap_folder=whole / "overlaps.h5").size == 2
    with pytest.raises(DataError, match=r"d/overlaps.h5: is S of another structure"):
        bands.load(folder, overlap_folder=write_folder(tmp_path / "d", random_problem()))


def test_spin_doubled_overlap_is_refused(tmp_path: pathlib.Path) -> None:
    problem = random_problem(spin=2)
    folder = write_folder(tmp_path / "x", problem, overlap=False)
    write_matrix(
        folder,
        "overlap",
        BlockMatrix.from_blocks(problem.s.keys, [np.kron(np.eye(2), b) for _, b in problem.s]),
        problem.structure,
    )
    with pytest.raises(
        DataError, match="overlaps.h5: the overlap is spin-doubled.*upper left quarter"
    ):
        bands.load(folder)


def test_non_hermitian_hamiltonian(tmp_path: pathlib.Path) -> None:
    problem = graphene()
    folder = write_folder(tmp_path / "x", problem)
    values = problem.h.values.copy()
    values[0 if problem.h.keys[0, 3] != problem.h.keys[0, 4] else 1] += 0.02
    skew = dataclasses.replace(problem.h, values=values)
    write_matrix(folder, "hamiltonian", skew, problem.structure)
    with pytest.raises(
        DataError, match=r"hamiltonians.h5: not Hermitian.*0.02 eV in block.*--hermitize"
    ):
        bands.load(folder)
    fixed = bands.load(folder, hermitize=True)
    assert np.abs(fixed.h.values - skew.hermitian().values).max() == 0 and any(
        "projected" in n for n in fixed.notes
    )
    write_matrix(folder, "prediction", skew, problem.structure)
    assert any(
        "projected" in n for n in bands.load(folder, "prediction").notes
    )  # a network's 20 meV pass, and are said
    one_sided = problem.h.select(
        np.flatnonzero(
            ~(
                (problem.h.keys[:, 3] == 0)
                & (problem.h.keys[:, 4] == 1)
                & (problem.h.keys[:, 1] == -1)
            )
        )
    )
    write_matrix(folder, "hamiltonian", one_sided, problem.structure)
    with pytest.raises(DataError, match="has no partner"):
        bands.load(folder)


def test_unknown_kind_of_hamiltonian(tmp_path: pathlib.Path) -> None:
    with pytest.raises(
        ConfigError, match="kind 'predict' is unknown; there are hamiltonian and prediction"
    ):
        bands.load(write_folder(tmp_path / "a", graphene()), "predict")


def test_missing_hamiltonian_points_to_the_other(tmp_path: pathlib.Path) -> None:
    folder = write_folder(tmp_path / "x", graphene())
    with pytest.raises(
        DataError, match="hamiltonians_pred.h5: file not found; the folder has hamiltonians.h5"
    ):
        bands.load(folder, "prediction")


@pytest.fixture(scope="module")
def result() -> bands.Bands:
    """Spin-orbit bands with everything in them."""
    return bands.band_structure(
        random_problem(spin=2), None, 24, fermi=0.1, projections="C-s,C-p", spin=True
    )


def test_json_round_trip(tmp_path: pathlib.Path, result: bands.Bands) -> None:
    result.write_json(tmp_path / "b.json")
    again = bands.Bands.read_json(tmp_path / "b.json")
    assert (
        np.array_equal(again.energies_eV, result.energies_eV)
        and again.labels == result.labels
        and again.fermi_source == "given"
    )
    assert np.array_equal(again.spin, result.spin) and np.array_equal(
        again.projections["C-p"], result.projections["C-p"]
    )
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(DataError, match="other.json: no band file"):
        bands.Bands.read_json(tmp_path / "other.json")


def test_openmx_band_file(tmp_path: pathlib.Path, result: bands.Bands) -> None:
    write_bands(tmp_path / "openmx.Band", result)
    lines = (tmp_path / "openmx.Band").read_text().splitlines()
    number, _, fermi = lines[0].split()
    pieces = int(lines[2])
    assert int(number) == result.energies_eV.shape[1] and float(
        fermi
    ) * 27.211386245988 == pytest.approx(0.1, abs=1e-9)
    counts = [int(line.split()[0]) for line in lines[3 : 3 + pieces]]
    assert sum(counts) == len(result.path) and len(lines) == 3 + pieces + 2 * len(result.path)
    energies = (
        np.array([[float(v) for v in line.split()] for line in lines[4 + pieces :: 2]])
        * 27.211386245988
    )
    assert np.abs(energies - result.energies_eV).max() < 1e-9


def test_dock_band_file(tmp_path: pathlib.Path, result: bands.Bands) -> None:
    write_bands(tmp_path / "band.h5", result)
    with h5py.File(tmp_path / "band.h5") as handle:
        assert handle["band_data"][()].T == pytest.approx(result.aligned_eV, abs=1e-12)
        assert handle["fermi_energy_before_shift_eV"][()] == 0.1 and bool(handle["spinful"][()])
        assert {v.decode() for v in handle["hsk_symbol_list"][()].ravel()} >= {
            "GAMMA",
            "X",
        } and len(handle["hsk_distance_list"]) == handle["k_path_quantity"][()] + 1
        steps = np.linalg.norm(
            np.diff(handle["kpoints_frac_list"][:3] @ handle["rlv"][()], axis=0), axis=1
        ) / (2 * np.pi)
        assert np.diff(handle["kpoints_distance_list"][:3]) == pytest.approx(steps, rel=1e-9)


def test_dock_band_file_on_a_full_disk(tmp_path: pathlib.Path, result: bands.Bands) -> None:
    """The file-size limit of the process stands for a full disk."""
    before, handler = (
        resource.getrlimit(resource.RLIMIT_FSIZE),
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN),
    )
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, before[1]))
    try:
        with pytest.raises(DataError, match="band.h5: could not be written"):
            write_bands(tmp_path / "band.h5", result)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert not list(tmp_path.iterdir())


def test_ase_and_pymatgen(tmp_path: pathlib.Path) -> None:
    found = bands.band_structure(graphene(mass=0.2), "GMKG", 30, fermi=0.0)
    ase = found.to_ase()
    assert (
        ase.energies.shape == (1, len(found.path) - 2, 2)
        and ase.path.path == "GMKG"
        and ase.reference == 0.0
    )
    assert ase.get_labels()[2] == ["G", "M", "K", "G"]  # "M,M" where a point stands twice
    assert ase.path.cartesian_kpts() @ np.array([0, 0, 1]) == pytest.approx(0)
    broken = bands.band_structure(graphene(mass=0.2), "GM,KG", 30, fermi=0.0)
    ase = broken.to_ase()
    assert ase.path.path == "GM,KG" and ase.get_labels()[2] == ["G", "M", "K", "G"]
    assert ase.energies[0] == pytest.approx(broken.energies_eV)
    ase = found.to_ase()
    write_bands(tmp_path / "b.ase.json", found)
    from ase.io.jsonio import decode

    assert decode((tmp_path / "b.ase.json").read_text()).energies == pytest.approx(ase.energies)
    pytest.importorskip("pymatgen")
    gap = found.to_pymatgen().get_band_gap()
    assert (
        gap["energy"] == pytest.approx(0.4, abs=1e-9)
        and gap["direct"]
        and gap["transition"] == "K-K"
    )
    dos = bands.density_of_states(
        graphene(mass=0.2),
        "12x12x1",
        fermi=bands.fermi_level(graphene(mass=0.2), 2, "12x12x1"),
        width_eV=0.05,
    )
    assert (
        dos.to_pymatgen().efermi == pytest.approx(0.0, abs=1e-9)
        and dos.to_ase().get_weights().sum() > 0
    )
    dos.write_json(tmp_path / "d.json")
    assert json.loads((tmp_path / "d.json").read_text())["dos_per_eV"] == dos.total.tolist()


def test_figures(tmp_path: pathlib.Path, result: bands.Bands) -> None:
    other = bands.band_structure(graphene(t=-2.72), "GMKG", 30, fermi=0.0)
    dft = bands.band_structure(graphene(), other.path, fermi=0.0)
    error = bands.compare_bands(dft, other, 3.0)
    for name in ("a.png", "a.svg", "a.pdf"):
        ax = bands.plot_comparison(
            [("DFT", dft, "line"), ("stage 1", other, "dashed"), ("refined", other, "dots")],
            tmp_path / name,
            errors={name: error for name in ("stage 1", "refined")},
        )
    assert (
        (tmp_path / "a.png").read_bytes()[:4] == b"\x89PNG"
        and (tmp_path / "a.pdf").read_bytes()[:4] == b"%PDF"
        and "<svg" in (tmp_path / "a.svg").read_text()
    )
    below = ax.figure.axes[1]
    texts = [t.get_text() for t in below.get_legend().get_texts()]
    assert texts == [
        "DFT",
        f"stage 1: MAE {error.mae_meV:.3g} meV",
        f"refined: MAE {error.mae_meV:.3g} meV",
    ]
    styles = {line.get_label(): line.get_linestyle() for line in ax.get_lines()}
    assert styles["DFT"] == "-" and styles[texts[1]] == "--" and styles[texts[2]] == "None"
    drawn = np.concatenate([line.get_ydata() for line in below.get_lines()[:2]])
    wanted = 1e3 * (other.aligned_eV - dft.aligned_eV)[np.abs(dft.aligned_eV) <= 3.0]
    assert np.sort(drawn) == pytest.approx(np.sort(np.tile(wanted, 2)), abs=1e-9)
    assert below.get_ylabel() == "$E - E_\\mathrm{DFT}$ (meV)"
    alone = bands.plot_comparison([("prediction", other, "dashed")], tmp_path / "lone.png")
    assert {line.get_linestyle() for line in alone.get_lines() if line.get_label()[0] == "p"} == {
        "-"
    }
    assert [text.get_text() for text in alone.get_legend().get_texts()] == ["prediction"]
    panels = plot_fat(result, tmp_path / "fat.png")
    assert [panel.get_title() for panel in panels] == ["C-s", "C-p"]
    scales = {panel.collections[-1].get_clim() for panel in panels}
    assert scales == {(0.0, 1.0)}  # one scale for all
    plot_spin(result, tmp_path / "spin.png")
    with pytest.raises(ConfigError, match="ends in .png"):
        bands.plot_comparison([("DFT", dft, "line")], tmp_path / "a.gif")
    with pytest.raises(ConfigError, match="no band format"):
        write_bands(tmp_path / "a.xyz", dft)
    with pytest.raises(ConfigError, match="--fermi info"):
        write_bands(tmp_path / "x.Band", bands.band_structure(graphene(), "GM", 5))


def test_incomplete_points_are_dots_in_the_figure() -> None:
    whole = bands.band_structure(graphene(), "GM", 9, fermi=0.0)
    drawable = np.ones(len(whole.path), dtype=bool)
    drawable[4] = False
    ax = bands.plot_comparison(
        [("DFT", dataclasses.replace(whole, drawable=drawable, complete=drawable), "line")],
        window_eV=(-9, 9),
    )
    lines = [
        line for line in ax.get_lines() if line.get_linestyle() == "-" and len(line.get_xdata()) > 2
    ]
    assert all(whole.distances[4] not in line.get_xdata() for line in lines)
    assert any(
        line.get_linestyle() == "None" and set(line.get_xdata()) == {whole.distances[4]}
        for line in ax.get_lines()
    )


def test_a_molecule_is_drawn_as_levels() -> None:
    crystal = structure(15 * np.eye(3), np.array([[0, 0, 0], [1.0, 0, 0]]), ((0,), (0,)))
    hops = {(0, 0, 0, 0, 0): -5.0, (0, 0, 0, 1, 1): -5.0, (0, 0, 0, 0, 1): -5.0}
    found = bands.band_structure(BlochProblem(crystal, blocks(hops)), fermi=-5.0)
    assert len(found.path) == 1 and found.default_window() == (-6.0, 6.0)
    ax = found.plot()
    levels = [y for segment in ax.collections[0].get_segments() for y in segment[:, 1]]
    assert sorted(set(levels)) == pytest.approx([-5.0, 5.0])
