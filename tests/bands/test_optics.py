"""Optics against closed formulas, sum rules, the Hall conductivity and, in tests/interop, PYATB."""

from __future__ import annotations

import json

import numpy as np
import pytest

from deeph_gformer.bands import BlochProblem
from deeph_gformer.bands.optics import Optics, optical_conductivity, optical_sums, plot_optics
from deeph_gformer.bands.optics.conductivity import E2_OVER_EPSILON0
from deeph_gformer.bands.topology import anomalous_hall
from deeph_gformer.errors import ConfigError
from deeph_gformer.results import ConductivityResult

from .conftest import blocks, chain, graphene, ssh, structure, write_model
from .test_topology import haldane, kane_mele, mixed, wilson_dirac

ALL = np.array([0.0, 0.7, 1.9, 3.2, 6.0])


def at(problem: BlochProblem, **options) -> Optics:
    return optical_conductivity(problem, options.pop("fermi", 0.0), ALL, "6x6x1", **options)


@pytest.mark.parametrize("make", [lambda: haldane(0.4), lambda: kane_mele(0.1, 0.1)])
def test_overlapping_basis_has_the_spectrum_of_the_orthogonal_one(make) -> None:
    """With its position matrix, insulator and metal; without, it is visibly another."""
    problem = make()
    other, positions = mixed(problem)
    for fermi in (0.0, 1.3):
        one, two = at(problem, fermi=fermi), at(other, fermi=fermi, positions=positions)
        size = np.abs(one.sigma).max()
        assert two.sigma == pytest.approx(one.sigma, abs=1e-9 * size)
        assert two.drude_weight == pytest.approx(one.drude_weight, abs=1e-9)
        rough = at(other, fermi=fermi)
        assert rough.method != two.method and np.abs(rough.sigma - one.sigma).max() > 1e-3 * size
        assert rough.joint_dos == pytest.approx(two.joint_dos)


def test_dirac_cones_absorb_the_universal_conductance() -> None:
    """Massive Dirac: Re sigma = (pi/2) (1 + gap²/w²) / 2 e²/h for spins and valleys, above the gap.

    (V. P. Gusynin et al., Phys. Rev. Lett. 98, 157402 (2007), at zero temperature.)
    """
    mass, eta = 0.15, 0.02
    problem = graphene(mass=mass)
    photon = np.array([0.45, 0.6, 0.75])
    reciprocal = problem.structure.reciprocal
    slope = 3**0.5 / 2 * 2.46 * 2.7
    radius, wr = np.polynomial.legendre.leggauss(120)
    reach = 1.2 / slope  # far beyond the resonances
    radius, wr = reach * (radius + 1) / 2, wr * reach / 2
    total = np.zeros(3, dtype=complex)
    for corner in ((1 / 3, 1 / 3, 0), (2 / 3, 2 / 3, 0)):
        for angle in 2 * np.pi * np.arange(6) / 6:
            step = np.array([np.cos(angle), np.sin(angle), 0]) @ np.linalg.inv(reciprocal)
            for r, w in zip(radius, wr, strict=True):
                k = np.array(corner) + r * step
                sums = optical_sums(problem, k, photon, 0.0, eta, 1e-4)
                trace = sums.interband[:, 0] + sums.interband[:, 4]
                total += trace / 2 * w * r * 2 * np.pi / 6
    # 2 spins, i e²/hbar, d²k / (2 pi)²; to e²/h
    sigma = (2 * 1j * total / (2 * np.pi) ** 2).real * 2 * np.pi
    z = photon + 1j * eta
    # closed form at complex frequency: gap D, Matsubara-like continuation of the PRL's Eq. for T =
    # 0
    gap, top = 2 * mass, 2 * np.hypot(mass, slope * reach)
    inside = (1 + gap**2 / z**2) * (np.arctanh(z / gap + 0j) - np.arctanh(z / top + 0j))
    edge = gap**2 / z * (1 / gap - 1 / top)
    closed = (-1j * (inside - edge)).real
    assert sigma == pytest.approx(closed, rel=0.03)
    assert sigma == pytest.approx(np.pi / 2 * (1 + gap**2 / photon**2), rel=0.08)


def test_sum_rule_of_a_chain_and_of_graphene() -> None:
    """w Im sigma -> sum f_n <n| d²H/dk² |n>: interband and Drude part together (f-sum rule).

    In an orthogonal basis with r diagonal; metal and insulator.
    """
    for problem, fermi in (
        (ssh(), 0.0),
        (ssh(), 0.7),
        (chain(), 0.1),
        (graphene(mass=0.4), 1.9),
    ):
        width, far = 0.4, np.array([1e5])
        mesh = (30, 30, 1) if problem.periodic[1] else (60, 1, 1)
        found = optical_conductivity(problem, fermi, far, mesh, width_eV=width, broadening_eV=0.1)
        left = (far[0] * found.sigma[0, 0, 0].imag) / (2 * np.pi)
        total = 0.0
        for x in range(mesh[0]):
            for y in range(mesh[1]):
                k = np.array([x / mesh[0], y / mesh[1], 0.0])
                step = 1e-3 * np.array([1, 0, 0]) @ np.linalg.inv(problem.structure.reciprocal)
                h = [_position_gauge(problem, k + n * step) for n in (-1, 0, 1)]
                energies, c = np.linalg.eigh(h[1])
                bend = (h[0] - 2 * h[1] + h[2]) / 1e-6
                f = 1 / (1 + np.exp((energies - fermi) / width))
                total += float((f * np.einsum("in,ij,jn->n", c.conj(), bend, c).real).sum())
        extent = problem.structure.lattice[0, 0]
        if problem.periodic[1]:
            extent *= problem.structure.lattice[1, 1]
        right = 2 * total / (mesh[0] * mesh[1]) / extent
        assert left == pytest.approx(right, rel=2e-4)


def _position_gauge(problem: BlochProblem, k: np.ndarray) -> np.ndarray:
    """H(k) with positions in its phases: the derivative is then the whole velocity."""
    tau = problem.structure.positions @ np.linalg.inv(problem.structure.lattice)
    phase = np.exp(2j * np.pi * (tau @ k))
    return phase.conj()[:, None] * problem.at(k)[0] * phase


def test_kramers_and_kronig() -> None:
    """Re of chi from its Im by the principal value integral, on a fine grid."""
    problem, positions = mixed(kane_mele(0.1, 0.1))
    grid = np.arange(0, 120, 0.02)
    found = optical_conductivity(
        problem, 0.0, grid, "4x4x1", broadening_eV=0.2, positions=positions
    )
    chi = found.susceptibility[:, 0, 0]
    for place in (25, 60, 110, 250):
        w = grid[place]
        with np.errstate(divide="ignore", invalid="ignore"):
            kernel = grid * chi.imag / (grid**2 - w**2)
        kernel[place] = 0.0
        # the point itself: half the derivative of grid * Im / (grid + w)
        smooth = grid * chi.imag / (grid + w)
        kernel[place] = (smooth[place + 1] - smooth[place - 1]) / 0.04
        integral = 2 / np.pi * float(kernel.sum() * 0.02)
        assert integral == pytest.approx(chi[place].real, abs=4e-3 * np.abs(chi).max())


def test_static_limit_is_the_hall_conductivity() -> None:
    """sigma_xy at zero photon energy, of a Chern insulator; antisymmetric."""
    problem, positions = mixed(haldane(0.2))
    hall = anomalous_hall(problem, 0.0, "24x24x1", width_eV=1e-3, positions=positions)
    found = optical_conductivity(
        problem,
        0.0,
        np.array([0.0]),
        "24x24x1",
        broadening_eV=1e-3,
        width_eV=1e-3,
        positions=positions,
    )
    assert found.unit == "e2/h"
    assert found.sigma[0, 0, 1].real == pytest.approx(hall.sigma[2], abs=0.02)
    assert found.sigma[0, 1, 0] == pytest.approx(-found.sigma[0, 0, 1], abs=1e-9)


def test_scissor_moves_the_spectrum_and_keeps_position_elements() -> None:
    problem, positions = mixed(wilson_dirac(1.0))
    options = {"mesh": "3x3x3", "positions": positions, "broadening_eV": 0.2}
    plain = optical_conductivity(problem, 0.0, np.array([0.0]), **options)
    moved = optical_conductivity(problem, 0.0, np.array([0.0]), scissor_eV=1e6, **options)
    # chi(0) = 2 e²/eps0 V sum |r|² / D: with D -> infinity it falls as 1/D
    ratio = moved.susceptibility[0, 0, 0].real / plain.susceptibility[0, 0, 0].real
    assert 0 < ratio < 1e-5
    shift = optical_conductivity(problem, 0.0, ALL, scissor_eV=0.7, **options)
    assert np.abs(shift.joint_dos).max() > 0 and shift.scissor_eV == 0.7
    assert shift.dielectric.shape == (5, 3, 3) and shift.plasma_eV.max() < 1e-5


def test_joint_dos_counts_pairs() -> None:
    grid = np.arange(0, 20, 0.01)
    found = optical_conductivity(graphene(mass=0.5), 0.0, grid, "9x9x1")
    assert 2.0 == pytest.approx(found.joint_dos.sum() * 0.01, rel=1e-6)  # one pair, two spins
    first = found.photon_eV[np.flatnonzero(found.joint_dos > 1e-4)[0]]
    assert found.smallest_gap_eV == pytest.approx(1.0) and 0.6 < first < 1.1


def test_k_and_minus_k_are_one_where_time_reversal_holds() -> None:
    problem = kane_mele(0.1, 0.1)
    one = at(problem)
    values = problem.h.values.copy()
    values[problem.h.offsets[np.flatnonzero((problem.h.keys == 0).all(axis=1))[0]]] += 2e-4
    two = at(
        BlochProblem(problem.structure, type(problem.h)(problem.h.keys, problem.h.shapes, values))
    )  # broken by 0.2 meV, so every k-point is solved
    assert two.sigma == pytest.approx(one.sigma, abs=5e-3 * np.abs(one.sigma).max())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"broadening_eV": 0.0}, "broadening 0.0 eV"),
        ({"width_eV": float("nan")}, "width of the Fermi function"),
        ({"scissor_eV": -1.0}, "scissor -1.0 eV"),
        ({"scissor_eV": 1.0, "fermi": 1.9}, "a scissor of 1 eV on a metal"),
        ({"fermi": -50.0}, "the Fermi level, -50 eV, is below or above all bands"),
        ({"fermi": 50.0}, "the Fermi level, 50 eV, is below or above all bands"),
        ({"broadening_eV": 1e-320}, "broadening 1e-320 eV: it must be finite, and 1e-09"),
    ],
)
def test_what_has_no_spectrum(options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        at(graphene(mass=0.3), **options)
    with pytest.raises(ConfigError, match="photon energies"):
        optical_conductivity(graphene(mass=0.3), 0.0, [-1.0])
    with pytest.raises(ConfigError, match="three periodic directions"):
        at(graphene(mass=0.3)).dielectric  # noqa: B018


def test_a_level_that_rounding_parts_is_one_level() -> None:
    """A doubled chain at half filling: k and -k fold onto one level, which an ulp of single
    precision parts by 4e-6 eV. The closed formula, sum_k 4 v² (-df/dE), does not see it."""
    t, a, width = -1.0, 2.0, 0.05
    drude = []
    for ulps in (0, 1, -2):
        onsite = np.float32(33.3)
        other = onsite + np.float32(ulps) * np.spacing(onsite)
        crystal = structure(
            np.diag([2 * a, 20.0, 20.0]), np.array([[0, 0, 0], [a, 0, 0]]), ((0,), (0,))
        )
        h = blocks(
            {
                (0, 0, 0, 0, 0): float(onsite),
                (0, 0, 0, 1, 1): float(other),
                (0, 0, 0, 0, 1): t,
                (1, 0, 0, 1, 0): t,
            }
        )
        found = optical_conductivity(
            BlochProblem(crystal, h), float(onsite), [0.5], "40x1x1", width_eV=width
        )
        drude.append(found.drude_weight[0, 0])
    k = np.arange(80) / 80
    e, v = 2 * t * np.cos(2 * np.pi * k), -2 * t * a * np.sin(2 * np.pi * k)
    slope = 1 / (4 * width * np.cosh(e / (2 * width)) ** 2)
    weight = E2_OVER_EPSILON0 / a * 2 * (v**2 * slope).mean()
    assert drude == pytest.approx([weight] * 3, rel=1e-6)


def test_polarizability_of_a_molecule() -> None:
    """Two levels, +-sqrt(1/4 + t²): 4 |x_01|² / gap e²/epsilon_0, and a result that holds it."""
    h = blocks({(0, 0, 0, 0, 0): -0.5, (0, 0, 0, 1, 1): 0.5, (0, 0, 0, 0, 1): -1.0})
    places = np.array([[0, 0, 0], [0, 0, 1.4]])
    crystal = structure(np.diag([20.0, 20.0, 20.0]), places, ((0,), (0,)))
    found = optical_conductivity(BlochProblem(crystal, h), 0.0, [0.0], broadening_eV=1e-4)
    gap = 2 * np.sqrt(0.25 + 1.0)
    wanted = 4 * (1.4 * 1.0 / gap) ** 2 / gap * E2_OVER_EPSILON0
    assert found.susceptibility[0].real == pytest.approx(
        np.diag([0, 0, wanted]), rel=1e-6, abs=1e-9
    )
    head = {"structure": "m", "hamiltonian": "h", "fermi": {}}
    result = ConductivityResult.of(head, found.to_json())
    assert result["susceptibility_A3"]["zz"]["real"] == pytest.approx([wanted])
    assert result.unit == "e2/h A^2"


def test_figure(tmp_path) -> None:
    found = optical_conductivity(graphene(mass=0.5), 0.0, np.arange(0, 12, 0.05), "8x8x1")
    panels = plot_optics(found, tmp_path / "optics.png")
    assert (tmp_path / "optics.png").stat().st_size > 10_000
    assert "e^2/h" in panels[1].get_ylabel()


def test_a_molecule_with_a_wide_gap(tmp_path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """Two levels, x between their states d / 2, two electrons: e² d² / (epsilon_0 gap)."""
    from deeph_gformer.cli import main

    monkeypatch.chdir(tmp_path)
    distance, gap = 0.8, 12.0
    cell = structure(15 * np.eye(3), np.array([[0, 0, 0], [distance, 0, 0]]), ((0,), (0,)))
    h = blocks({(0, 0, 0, 0, 0): -5.0, (0, 0, 0, 1, 1): -5.0, (0, 0, 0, 0, 1): -gap / 2})
    write_model("h2", BlochProblem(cell, h), info={"occupation": 2, "isorthogonal": True})
    assert main(["optics", "h2", "--json", "o.json", "--broadening", "0.01"]) == 0
    table = json.loads((tmp_path / "o.json").read_text())
    static = [table["susceptibility_A3"][n]["real"][0] for n in ("xx", "yy", "zz")]
    assert static == pytest.approx([E2_OVER_EPSILON0 * distance**2 / gap, 0, 0], rel=1e-5)
    assert "--photon ends at 10 eV, below the gap" in capsys.readouterr().err


def test_command(tmp_path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """From a folder with a position matrix, and without it: the approximation is named."""
    from deeph_gformer.cli import main

    monkeypatch.chdir(tmp_path)
    problem, positions = mixed(kane_mele(0.1))
    write_model("km", problem, positions)
    words = ["optics", "km", "--photon", "0", "4", "0.5", "--mesh", "4x4x1", "--fermi", "0"]
    assert main([*words, "--json", "o.json"]) == 0
    table = json.loads((tmp_path / "o.json").read_text())
    right = optical_conductivity(problem, 0.0, np.arange(9) * 0.5, "4x4x1", positions=positions)
    assert table["sigma_e2_per_h"]["xy"]["real"] == pytest.approx(right.sigma[:, 0, 1].real)
    assert table["method"] == "position matrix" and (tmp_path / "km_optics.png").is_file()
    static = right.susceptibility[0].real.diagonal()
    named = ", ".join(f"{axis} {value:.4f}" for axis, value in zip(("xx", "yy", "zz"), static))
    assert f"Re susceptibility (Å) at 0 eV: {named}\n" in capsys.readouterr().out
    assert main([*words, "--atom-positions"]) == 0
    assert "strengths are wrong" in capsys.readouterr().err
    assert main([*words[:2], "--photon", "3", "2", "1"]) == 2
    assert main([*words[:2], "--photon", "0", "10", "1e-320"]) == 2
    assert "inf energies; at most 20000" in capsys.readouterr().err
    assert main([*words, "--basis", "km"]) == 2
    assert "no basis files" in capsys.readouterr().err
