"""Surfaces: known edge states, and slabs cut from the same bulk Hamiltonian."""

from __future__ import annotations

import json

import numpy as np
import pytest
import scipy.linalg

from deeph_gformer.bands import BlochProblem
from deeph_gformer.bands.kpath import KPath, path_from_segments
from deeph_gformer.bands.surface import (
    PrincipalLayers,
    cut_slab,
    surface_green,
    surface_spectrum,
)
from deeph_gformer.bands.topology import Links, berry_curvature
from deeph_gformer.errors import ConfigError

from .conftest import blocks, chain, graphene, random_problem, ssh, write_model
from .test_topology import bhz, haldane, mixed, wilson_dirac


def edge_states(problem: BlochProblem, axis: int, path: str | None = None, **options):
    options = {"points": 401, "broadening_eV": 0.01, **options}
    return surface_spectrum(problem, axis, (-2.0, 2.0), path, 11, **options)


@pytest.mark.parametrize(("v", "w", "bound"), [(0.5, 1.0, True), (1.0, 0.5, False)])
def test_ssh_has_an_end_state_where_the_weak_bond_is_inside(v, w, bound) -> None:
    """Zero energy, weight 1 - (v/w)² on the end atom, both ends; none the other way round."""
    found = edge_states(ssh(v, w), 0)
    middle = np.abs(found.energies_eV) < 0.25
    step = found.energies_eV[1] - found.energies_eV[0]
    for side in (found.bottom, found.top):
        weight = float(side[0, middle].sum() * step)
        expected = 1 - (v / w) ** 2 if bound else 0.0
        assert weight == pytest.approx(expected, abs=0.04)  # tails of the Lorentzian
        if bound:
            assert found.energies_eV[np.argmax(side[0])] == pytest.approx(0.0, abs=0.006)
    assert found.bulk[0, middle].sum() * step < 0.02


def test_numbers_that_overflow_are_a_line() -> None:
    """At a broadening that is next to none."""
    one, huge = np.eye(2), np.full((2, 2), np.inf)
    with pytest.raises(ConfigError, match="does not converge; take a larger --broadening"):
        surface_green(0.1 + 1e-9j, 0 * one, one, huge, 0 * one)


def test_chain_is_its_closed_formula() -> None:
    """Semi-infinite chain: A = sqrt(4 t² - E²) / (2 pi t²); bulk 1 / (pi sqrt(4 t² - E²))."""
    found = surface_spectrum(chain(-1.0, 0.0), 0, (-1.5, 1.5), points=31, broadening_eV=1e-4)
    e = found.energies_eV
    assert found.bottom[0] == pytest.approx(np.sqrt(4 - e**2) / (2 * np.pi), abs=1e-4)
    assert found.bulk[0] == pytest.approx(1 / (np.pi * np.sqrt(4 - e**2)), abs=1e-4)


@pytest.mark.parametrize(
    "make",
    [
        lambda: chain(-1.0, 0.1, overlap=0.2),
        lambda: mixed(haldane(0.2))[0],
        lambda: random_problem(3),
        lambda: random_problem(4, spin=2),
    ],
    ids=["chain", "haldane", "random", "random-soc"],
)
def test_surface_is_that_of_a_thick_slab(make) -> None:
    """Overlapping orbitals: Mulliken spectral function of the outer cells of a slab, same width."""
    problem = make()
    axis = 0
    k = np.array([0.0, 0.17 if problem.periodic[1] else 0.0, 0.0])
    cells, eta = 30, 0.6
    slab = cut_slab(problem, axis, cells)
    h, s = slab.at(k)
    energies, c = scipy.linalg.eigh(h, s)
    gross = (c.conj() * (s @ c)).real
    n = problem.size
    grid = np.linspace(energies[0], energies[-1], 9)
    lorentz = eta / np.pi / ((grid[:, None] - energies) ** 2 + eta**2)
    from deeph_gformer.bands.surface.green import _point

    found = _point(problem, k, axis, grid, eta)
    for rows, ours in zip((slice(0, n), slice(-n, None)), found[:2], strict=True):
        assert ours == pytest.approx(lorentz @ gross[rows].sum(axis=0), abs=3e-4)
    middle = slice(n * (cells // 2), n * (cells // 2 + 1))
    assert found[2] == pytest.approx(lorentz @ gross[middle].sum(axis=0), abs=2e-3)


def test_bulk_is_the_bands_of_the_crystal() -> None:
    """The projected bulk is the mean over k along the axis, depth of two cells included."""
    problem = random_problem(5)
    from deeph_gformer.bands.surface.green import _point

    grid, eta = np.linspace(-3, 3, 5), 0.4
    found = _point(problem, np.array([0.0, 0.21, 0.13]), 0, grid, eta)[2]
    total = np.zeros(5)
    for k in range(60):
        energies = scipy.linalg.eigh(*problem.at((k / 60, 0.21, 0.13)), eigvals_only=True)
        total += (eta / np.pi / ((grid[:, None] - energies) ** 2 + eta**2)).sum(axis=1) / 60
    assert found == pytest.approx(total, rel=1e-3)


def test_topological_insulators_have_surface_states_and_trivial_ones_have_none() -> None:
    """In the bulk gap: weight in the window around zero at the surface, none in the bulk."""
    for make, mass in ((bhz, 1.0), (bhz, -1.0), (wilson_dirac, 1.0), (wilson_dirac, -0.7)):
        problem = make(mass)
        kpath = gamma_to_x(problem)
        axis = 1 if make is bhz else 2
        found = surface_spectrum(problem, axis, (-0.4, 0.4), kpath, points=81, broadening_eV=0.01)
        weight = found.bottom.max(axis=1)  # of each k
        if mass > 0:
            assert weight[0] > 10.0 and found.energies_eV[
                np.argmax(found.bottom[0])
            ] == pytest.approx(0.0, abs=0.02)
        else:
            assert weight.max() < 0.5
        assert found.bulk[0].max() < 0.5


def on_line(problem: BlochProblem, start: float, stop: float, count: int, axis: int = 0) -> KPath:
    ends = [(np.eye(3)[axis] * start, np.eye(3)[axis] * stop)]
    return path_from_segments(problem.structure.lattice, ends, [("A", "B")], [count], "test")


def test_helical_edge_states_of_bhz_are_their_closed_formula() -> None:
    """E = ±√(1 + 0.1²) sin k where |mass - 4 + 2 cos k| < 2: states of a semi-infinite edge are
    eigenstates of τx, on which both spin terms act alone. Elsewhere the gap is empty."""
    problem = bhz(1.0)
    kpath = on_line(problem, 0.0, 0.5, 21)
    found = surface_spectrum(problem, 1, (-0.9, 0.9), kpath, points=901, broadening_eV=0.004)
    seen = 0
    for n, k in enumerate(2 * np.pi * kpath.kpoints[:, 0]):
        energy = 1.01**0.5 * np.sin(k)
        if abs(-3 + 2 * np.cos(k)) < 1.9 and energy < 0.6:
            for side in (found.bottom, found.top):
                for sign in (1, -1):
                    half = np.sign(found.energies_eV) == sign if n else slice(None)
                    peak = found.energies_eV[half][np.argmax(side[n, half])]
                    assert peak == pytest.approx(sign * energy, abs=0.003)
                assert side[n].max() > 20.0
            seen += 1
    assert seen == 5
    away = np.abs(2 * np.pi * kpath.kpoints[:, 0]) > 2.2  # |mass - 4 + 2 cos k| > 2
    assert away.sum() > 3 and found.bottom[away].max() < 1.0


@pytest.mark.parametrize(("mass", "centre"), [(1.0, 0.0), (7.0, 0.5)])
def test_chiral_edge_states_turn_as_the_chern_number_says(mass: float, centre: float) -> None:
    """One spin of BHZ: one branch, E = ±sin k, that goes one way at each surface. Its direction is
    that of -C at the one, C at the other."""
    up, x, y = np.diag([1.0, -1.0]), np.array([[0, 1], [1, 0]]), np.array([[0, -1j], [1j, 0]])
    h = {
        (0, 0, 0, 0, 0): (mass - 4.0) * up,
        (1, 0, 0, 0, 0): up - 0.5j * x,
        (0, 1, 0, 0, 0): up - 0.5j * y,
    }
    problem = BlochProblem(bhz(1.0).structure, blocks(h))
    kpath = on_line(problem, centre - 0.05, centre + 0.05, 5)
    found = surface_spectrum(problem, 1, (-0.6, 0.6), kpath, points=601, broadening_eV=0.004)
    chern = berry_curvature(Links(problem, 1), (0, 1), (16, 16)).chern
    assert abs(chern) == 1
    peaks = [found.energies_eV[side.argmax(axis=1)] for side in (found.bottom, found.top)]
    line = np.sin(2 * np.pi * (kpath.kpoints[:, 0] - centre))
    signs = [int(np.sign(p[-1])) for p in peaks]
    for sign, peak in zip(signs, peaks, strict=True):
        assert peak == pytest.approx(sign * line, abs=0.003)
    assert signs == [-chern, chern]


def test_zigzag_edge_of_graphene() -> None:
    """A flat band at zero with weight 1 - 4 cos²(k/2) on the edge where that is positive (M. Fujita
    et al., J. Phys. Soc. Jpn. 65, 1920 (1996)), on both edges; none between the other cones."""
    problem = graphene()
    kpath = on_line(problem, 0.0, 0.5, 13, axis=1)
    found = surface_spectrum(problem, 0, (-0.3, 0.3), kpath, points=601, broadening_eV=0.002)
    step = found.energies_eV[1] - found.energies_eV[0]
    for n, k in enumerate(2 * np.pi * kpath.kpoints[:, 1]):
        right = 1 - 4 * np.cos(k / 2) ** 2
        if abs(right) < 0.3:  # near the cones
            continue
        for side in (found.bottom, found.top):
            assert side[n].sum() * step == pytest.approx(max(right, 0.0), abs=0.02)
            if right > 0:
                assert abs(found.energies_eV[side[n].argmax()]) < 1e-6


def gamma_to_x(problem: BlochProblem) -> KPath:
    return path_from_segments(
        problem.structure.lattice, [((0, 0, 0), (0.5, 0, 0))], [("Γ", "X")], [11], "test"
    )


def test_slab_is_a_folder_of_its_own() -> None:
    """Edge bands of the slab lie where the semi-infinite crystal has its peaks."""
    problem = bhz(1.0)
    slab = cut_slab(problem, 1, 24)
    assert slab.periodic == (True, False, False) and len(slab.structure) == 24
    kpath = gamma_to_x(problem)
    found = surface_spectrum(problem, 1, (-0.8, 0.8), kpath, points=161, broadening_eV=0.005)
    for number in (0, 2):
        levels = scipy.linalg.eigh(*slab.at(kpath.kpoints[number]), eigvals_only=True)
        peak = found.energies_eV[np.argmax(found.bottom[number])]
        assert np.abs(levels - peak).min() < 0.01


def test_what_has_no_surface() -> None:
    with pytest.raises(ConfigError, match="does not repeat along a2"):
        PrincipalLayers(ssh(), 1)
    with pytest.raises(ConfigError, match="there are 1, 2 and 3"):
        PrincipalLayers(ssh(), 3)
    with pytest.raises(ConfigError, match="a slab of 0 cells"):
        cut_slab(ssh(), 0, 0)
    with pytest.raises(ConfigError, match="broadening 0.0 eV"):
        surface_spectrum(ssh(), 0, (-1, 1), broadening_eV=0.0)


def test_command(tmp_path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    from deeph_gformer.cli import main

    monkeypatch.chdir(tmp_path)
    write_model("bhz", bhz(1.0))
    words = ["surface", "bhz", "--along", "2", "--window", "-1", "1", "--fermi", "0"]
    assert main([*words, "--points", "21", "--energies", "41", "--json", "s.json"]) == 0
    table = json.loads((tmp_path / "s.json").read_text())
    assert len(table["bottom_per_eV"]) == len(table["kpoints_fractional"]) >= 21
    assert np.shape(table["bulk_per_eV"])[1] == 41 and (tmp_path / "bhz_surface.png").is_file()
    assert main(["surface", "bhz", "--along", "3", "--fermi", "0"]) == 2
    assert "does not repeat along a3" in capsys.readouterr().err
