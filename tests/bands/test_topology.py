"""Topology of models with known answers, against PythTB's numbers, and in a non-orthogonal basis.

The non-orthogonal basis is a linear combination of the orthogonal one, so that its H, S and
position matrix are known exactly and every result must be that of the orthogonal model.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from deeph_gformer.analysis.redescribe import (
    Description,
    move_by_lattice,
    relattice,
    supercell,
)
from deeph_gformer.bands import BlochProblem
from deeph_gformer.bands.kmesh import default_mesh
from deeph_gformer.bands.topology import (
    ATOM_POSITIONS,
    POSITION_MATRIX,
    Links,
    anomalous_hall,
    berry_curvature,
    kubo_curvature,
    spin_hall,
    wannier_centres,
    z2_invariant,
    z2_of_crystal,
)
from deeph_gformer.bands.topology.refinement import zone_mean
from deeph_gformer.errors import ConfigError, DataError
from deeph_gformer.io import BlockMatrix, Structure

from .conftest import blocks, chain, graphene, ssh, structure

A = 2.46
HONEYCOMB = np.array([[A, 0, 0], [-A / 2, A * 3**0.5 / 2, 0], [0, 0, 15.0]])
SITES = np.array([[0, 0, 7.5], [0, A / 3**0.5, 7.5]])
BONDS = ((0, 0, 0), (0, -1, 0), (-1, -1, 0))
SECOND = ((1, 0, 0), (0, 1, 0), (-1, -1, 0))
X, Y, Z = np.array([[0, 1], [1, 0]]), np.array([[0, -1j], [1j, 0]]), np.diag([1, -1])
ONE = np.eye(2)


def haldane(mass: float, t2: float = 0.15, phi: float = np.pi / 2) -> BlochProblem:
    """Chern number 1 of the lower band while |mass| < 3 sqrt(3) t2 sin(phi), in this
    orientation."""
    h = {(0, 0, 0, 0, 0): mass + 0j, (0, 0, 0, 1, 1): -mass}
    h |= {(*cell, 0, 1): -1.0 for cell in BONDS}
    h |= {(*cell, 0, 0): t2 * np.exp(1j * phi) for cell in SECOND}
    h |= {(*cell, 1, 1): t2 * np.exp(-1j * phi) for cell in SECOND}
    return BlochProblem(structure(HONEYCOMB, SITES, ((0,), (0,))), blocks(h), source="haldane")


def kane_mele(mass: float, rashba: float = 0.05, soc: float = 0.06) -> BlochProblem:
    """Z2 = 1 while mass < 3 sqrt(3) soc, about (for small Rashba coupling)."""
    h = {(0, 0, 0, 0, 0): mass * ONE, (0, 0, 0, 1, 1): -mass * ONE}
    for cell in BONDS:
        bond = SITES[1] + np.array(cell) @ HONEYCOMB - SITES[0]
        bond = bond / np.linalg.norm(bond)
        h[(*cell, 0, 1)] = -1.0 * ONE + 1j * rashba * (X * bond[1] - Y * bond[0])
    for cell in SECOND:
        h[(*cell, 0, 0)], h[(*cell, 1, 1)] = 1j * soc * Z, -1j * soc * Z
    return BlochProblem(structure(HONEYCOMB, SITES, ((0,), (0,))), blocks(h), source="kane-mele")


def bhz(mass: float) -> BlochProblem:
    """Bernevig-Hughes-Zhang: Z2 = 1 for 0 < mass < 8, spins coupled a little; orbitals s and p."""
    up = np.diag([1.0, -1.0])
    h = {(0, 0, 0, 0, 0): np.kron(ONE, (mass - 4.0) * up)}  # spin outside, orbital inside
    h[1, 0, 0, 0, 0] = np.kron(ONE, up) - 0.5j * np.kron(Z, X)
    h[0, 1, 0, 0, 0] = np.kron(ONE, up) - 0.5j * np.kron(ONE, Y)
    h[1, 0, 0, 0, 0] = h[1, 0, 0, 0, 0] + 0.05j * np.kron(Y, ONE)
    crystal = structure(np.diag([3.0, 3.0, 20.0]), np.zeros((1, 3)), ((0, 0),))
    return BlochProblem(crystal, blocks(h), source="bhz")


def wilson_dirac(mass: float) -> BlochProblem:
    """Three-dimensional insulator: strong for 0 < mass < 2, weak for 2 < mass < 4 (units of t)."""
    beta = np.kron(ONE, np.diag([1.0, -1.0]))
    h = {(0, 0, 0, 0, 0): (mass - 3.0) * beta}
    for axis, sigma in enumerate((X, Y, Z)):
        cell = [0, 0, 0]
        cell[axis] = 1
        h[(*cell, 0, 0)] = 0.5 * beta - 0.5j * np.kron(sigma, X)
    crystal = structure(np.diag([3.0, 3.0, 3.0]), np.zeros((1, 3)), ((0, 0),))
    return BlochProblem(crystal, blocks(h), source="wilson-dirac")


def mixed(problem: BlochProblem, seed: int = 0) -> tuple[BlochProblem, tuple[BlockMatrix, ...]]:
    """The same Hilbert space in overlapping orbitals, with their exact position matrix.

    phi'_mu = sum over neighbours of phi_nu T_nu,mu; in the old basis r is diagonal.
    """
    rng, crystal, spin = np.random.default_rng(seed), problem.structure, problem.spin
    n, counts = int(crystal.orbital_counts.sum()), crystal.orbital_counts
    first = np.concatenate([[0], np.cumsum(counts)])
    atom = np.repeat(np.arange(len(crystal)), counts)
    cells = [(0, 0, 0)] + [tuple(int(v) for v in key[:3]) for key in problem.h.keys]
    mix = {cell: 0.08 * rng.standard_normal((n, n)) for cell in sorted(set(cells))}
    mix[0, 0, 0] += np.eye(n)
    old: dict = {}
    for (x, y, z, i, j), block in problem.h:
        whole = old.setdefault((x, y, z), np.zeros((spin, n, spin, n), dtype=complex))
        part = block.reshape(spin, counts[i], spin, counts[j])
        whole[:, first[i] : first[i + 1], :, first[j] : first[j + 1]] += part

    def minus(a: tuple, b: tuple) -> tuple:
        return tuple(int(p - q) for p, q in zip(a, b))

    h: dict = {}
    s: dict = {}
    r: dict = {}
    for here, t1 in mix.items():
        for there, t2 in mix.items():
            cell = minus(here, there)
            s[cell] = s.get(cell, 0) + t1.T @ t2
            place = crystal.positions[atom] + np.array(here) @ crystal.lattice
            r[cell] = r.get(cell, 0) + np.einsum("lm,la,ln->amn", t1, place, t2)
            for hop, matrix in old.items():
                other = tuple(int(p + q - v) for p, q, v in zip(here, hop, there))
                h[other] = h.get(other, 0) + np.einsum("lm,slck,kn->smcn", t1, matrix, t2)

    def cut(matrices: dict, pick, doubled: int = 1) -> BlockMatrix:
        keys, values = [], []
        for cell, matrix in matrices.items():
            for i in range(len(crystal)):
                for j in range(len(crystal)):
                    rows, columns = slice(first[i], first[i + 1]), slice(first[j], first[j + 1])
                    block = pick(matrix, rows, columns)
                    keys.append((*cell, i, j))
                    values.append(block.reshape(doubled * counts[i], doubled * counts[j]))
        return BlockMatrix.from_blocks(np.array(keys), values)

    new_h = cut(h, lambda m, a, b: m[:, a, :, b], spin)
    new_s = cut(s, lambda m, a, b: m[a, b])
    positions = tuple(cut(r, lambda m, a, b, x=x: m[x, a, b]) for x in range(3))
    return BlochProblem(crystal, new_h, new_s, source="mixed"), positions


def test_mixed_basis_has_the_same_bands() -> None:
    import scipy.linalg

    for problem in (haldane(0.3), kane_mele(0.1), bhz(1.0)):
        other, _ = mixed(problem)
        k = (0.13, 0.27, 0.0)
        one, two = (scipy.linalg.eigh(*p.at(k), eigvals_only=True) for p in (problem, other))
        assert (
            np.abs(one - two).max() < 1e-10
            and np.abs(other.at(k)[1] - np.eye(len(one))).max() > 0.1
        )


#: PythTB 1.8.0: wf_array on an 11 x 11 grid, berry_flux([0], individual_phases=True).
PYTHTB_FLUX = [
    [2.5183389e-05, 0.0006781857, 0.006095037637],
    [0.0006781857, 0.003370853273, 0.019321381256],
    [0.006095037637, 0.019321381256, 0.084764793764],
]


@pytest.mark.parametrize(("mass", "chern"), [(0.2, 1), (-0.5, 1), (1.0, 0), (-1.0, 0)])
@pytest.mark.parametrize("basis", ["orthogonal", "positions", "atoms"])
def test_chern_number_of_haldane(mass: float, chern: int, basis: str) -> None:
    problem, positions = haldane(mass), None
    if basis != "orthogonal":
        problem, positions = mixed(problem)
    links = Links(problem, 1, positions if basis == "positions" else None)
    assert links.method == (POSITION_MATRIX if basis == "positions" else ATOM_POSITIONS)
    found = berry_curvature(links, (0, 1), (16, 16))
    assert found.chern == chern
    reverse = BlochProblem(problem.structure, _conjugate(problem.h), problem.s)
    assert berry_curvature(Links(reverse, 1), (0, 1), (12, 12)).chern == -chern
    assert berry_curvature(links, (1, 0), (12, 12)).chern == -chern


def _conjugate(matrix: BlockMatrix) -> BlockMatrix:
    return BlockMatrix(matrix.keys, matrix.shapes, matrix.values.conj())


def test_flux_of_each_plaquette_is_pythtbs() -> None:
    problem = haldane(0.2)
    found = berry_curvature(Links(problem, 1), (0, 1), (10, 10))
    reciprocal = problem.structure.reciprocal
    area = np.linalg.norm(np.cross(reciprocal[0], reciprocal[1])) / 100
    assert (found.curvature_A2 * area)[:3, :3] == pytest.approx(np.array(PYTHTB_FLUX), abs=1e-9)


def test_curvature_of_a_slab_does_not_depend_on_its_vacuum_vector() -> None:
    """Of a buckled one, whose states move across the slab from k to k."""
    flat = haldane(0.2)
    buckled = dataclasses.replace(flat.structure, positions=SITES + [[0, 0, 0], [0, 0, 0.9]])
    upright = BlochProblem(buckled, flat.h, flat.s)
    tilt = relattice(2, [[1, 0, 0], [0, 1, 0], [3, -2, 1]])
    tilted = BlochProblem(tilt.structure(buckled), tilt.blocks(flat.h), tilt.blocks(flat.s))
    maps = [berry_curvature(Links(p, 1), (0, 1), (8, 8)) for p in (flat, upright, tilted)]
    for one in maps[1:]:
        assert np.abs(one.curvature_A2 - maps[0].curvature_A2).max() < 1e-9
    assert default_mesh(tilted) == default_mesh(upright)


def test_curvature_in_an_overlapping_basis_is_the_orthogonal_one() -> None:
    """With the position matrix; the atom-position approximation is off by much more."""
    problem = haldane(0.4)
    other, positions = mixed(problem)
    off = []
    for count in (12, 24):
        every = [
            berry_curvature(Links(*arguments), (0, 1), (count, count)).curvature_A2
            for arguments in ((problem, 1), (other, 1, positions), (other, 1))
        ]
        size = np.abs(every[0]).max()
        off.append([np.abs(one - every[0]).max() / size for one in every[1:]])
    assert off[1][0] < 6e-3 and off[1][0] < 0.35 * off[0][0]  # second order in the step
    assert off[1][1] > 5 * off[1][0]


@pytest.mark.parametrize("make", [lambda: haldane(0.4), lambda: kane_mele(0.1, 0.1)])
def test_sum_over_states_is_the_same_in_both_bases(make) -> None:
    from deeph_gformer.bands.topology.links import position_rest

    problem = make()
    other, positions = mixed(problem)
    rest = position_rest(other, positions)
    for k in ((0.1, 0.2, 0.0), (0.31, 0.35, 0.0)):
        for level in (-1.0, 0.0, 1.2):
            one = kubo_curvature(problem, k, level, 0.05)
            two = kubo_curvature(other, k, level, 0.05, rest)
            assert two == pytest.approx(one, abs=1e-9 * max(1.0, np.abs(one).max()))
            rough = kubo_curvature(other, k, level, 0.05)  # atom positions: near, not equal
            assert np.abs(rough - one).max() > 1e-3 * np.abs(one).max()


def test_sum_over_states_is_the_plaquettes_curvature() -> None:
    problem = haldane(0.4)
    map_ = berry_curvature(Links(problem, 1), (0, 1), (30, 30))
    for i, j in ((3, 7), (10, 20), (16, 6)):
        exact = kubo_curvature(problem, map_.k[i, j], 0.0, 1e-3)[2]
        assert map_.curvature_A2[i, j] == pytest.approx(exact, rel=3e-2, abs=1e-2)


@pytest.mark.parametrize(("mass", "chern", "mesh"), [(0.2, 1, "12x12x1"), (1.2, 0, "24x24x1")])
def test_hall_conductivity_is_minus_the_chern_number(mass: float, chern: int, mesh: str) -> None:
    problem, positions = mixed(haldane(mass))
    found = anomalous_hall(problem, 0.0, mesh, width_eV=1e-3, positions=positions)
    assert found.unit == "e2/h" and found.sigma[:2] == pytest.approx([0, 0], abs=1e-9)
    assert found.sigma[2] == pytest.approx(-2 * chern, abs=4e-3)  # both spins
    metal = anomalous_hall(problem, 1.5, "12x12x1", width_eV=0.02, positions=positions)
    assert abs(metal.sigma[2]) < 1.8
    normal = anomalous_hall(graphene(mass=0.3), 0.0, "8x8x1")
    assert np.abs(normal.sigma).max() < 1e-9  # time reversal


def test_hall_conductivity_of_stacked_layers_in_siemens_per_cm() -> None:
    """Layers 5 Å apart that do not couple: -C e²/h per 5 Å = 774.8 S/cm for each spin."""
    flat = haldane(0.2)
    lattice = flat.structure.lattice.copy()
    lattice[2] = (0, 0, 5.0)
    crystal = structure(lattice, SITES, ((0,), (0,)))
    keys = [tuple(key) for key in flat.h.keys.tolist()]
    h = dict(zip(keys, (block for _, block in flat.h)))
    h[0, 0, 1, 0, 0] = np.array([[1e-9 + 0j]])
    stack = BlochProblem(crystal, blocks(h), source="stack")
    found = anomalous_hall(stack, 0.0, "24x24x1", width_eV=1e-3)
    assert found.unit == "S/cm"
    assert found.sigma[2] == pytest.approx(-2 * 3.874045865e-5 / 5e-8, rel=2e-3)


@pytest.mark.parametrize("basis", ["orthogonal", "positions", "atoms"])
@pytest.mark.parametrize(
    ("make", "filled", "z2"),
    [
        (lambda: kane_mele(0.1), 2, 1),
        (lambda: kane_mele(0.5), 2, 0),
        (lambda: kane_mele(0.1, rashba=0.12), 2, 1),
        (lambda: bhz(1.0), 2, 1),
        (lambda: bhz(-1.0), 2, 0),
        (lambda: bhz(9.0), 2, 0),
        (lambda: bhz(5.0), 2, 1),
    ],
    ids=["km", "km-trivial", "km-rashba", "bhz", "bhz-trivial", "bhz-above", "bhz-upper"],
)
def test_z2_of_models(make, filled: int, z2: int, basis: str) -> None:
    problem, positions = make(), None
    if basis != "orthogonal":
        problem, positions = mixed(problem)
    links = Links(problem, filled, positions if basis == "positions" else None)
    found = z2_invariant(links, 0, 1)
    assert found.z2 == z2 and found.centres.shape == (len(found.k), filled)
    assert z2_invariant(links, 1, 0).z2 == z2
    for line in (found.centres[0], found.centres[-1]):  # Kramers pairs at 0 and 1/2
        assert abs((line[1] - line[0] + 0.5) % 1 - 0.5) < 2e-2


@pytest.mark.parametrize(
    ("mass", "numbers"), [(-0.5, [0, 0, 0, 0]), (1.0, [1, 0, 0, 0]), (3.0, [0, 1, 1, 1])]
)
def test_strong_and_weak_indices(mass: float, numbers: list[int]) -> None:
    found, planes = z2_of_crystal(Links(wilson_dirac(mass), 2))
    assert found == numbers and len(planes) == 4


def test_centres_of_a_chain_and_their_origin() -> None:
    """Inversion pins SSH's centre to the middle of the strong bond; moving the atoms moves it."""
    for strong, place in (((1.0, 0.4), 0.6 / 3.0), ((0.4, 1.0), 2.1 / 3.0)):
        problem = ssh(*strong)
        centres, _ = wannier_centres(Links(problem, 1), np.zeros(3), 0)
        assert centres == pytest.approx([place], abs=1e-9)
        crystal = problem.structure
        moved = Structure(
            crystal.lattice,
            crystal.positions + [0.75, 0, 0],
            crystal.numbers,
            crystal.orbital_types,
        )
        centres, _ = wannier_centres(Links(BlochProblem(moved, problem.h), 1), np.zeros(3), 0)
        assert centres == pytest.approx([(place + 0.25) % 1], abs=1e-9)
    other, positions = mixed(ssh(1.0, 0.4))
    exact, _ = wannier_centres(Links(other, 1, positions), np.zeros(3), 0)
    assert exact == pytest.approx([0.2], abs=2e-3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: z2_invariant(Links(graphene(mass=0.3), 1), 0, 1), "needs spin-orbit coupling"),
        (lambda: z2_invariant(Links(kane_mele(0.1), 1), 0, 1), "1 filled bands|a metal"),
        (
            lambda: berry_curvature(Links(graphene(), 1), (0, 1), (6, 6)),
            "a metal, or a wrong number",
        ),
        (lambda: berry_curvature(Links(haldane(0.2), 1), (0, 1), (1, 4)), "at least 2x2"),
        (lambda: Links(haldane(0.2), 2), "2 filled bands .* a filled and an empty one"),
        (lambda: Links(haldane(0.2), 0), "0 filled bands"),
        (lambda: z2_of_crystal(Links(chain(), 0 + 1)), "needed|periodic"),
        (lambda: anomalous_hall(chain(), 0.0), "needs two or three periodic directions"),
        (lambda: anomalous_hall(haldane(0.2), 0.0, width_eV=float("nan")), "positive, finite"),
    ],
)
def test_what_has_no_invariant(call, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        call()


def test_broken_time_reversal_is_named() -> None:
    problem = kane_mele(0.1)
    values = problem.h.values.copy()
    onsite = np.flatnonzero((problem.h.keys == 0).all(axis=1))[0]
    values[problem.h.offsets[onsite]] += 0.05  # a field on spin up of the first atom
    magnet = BlochProblem(
        problem.structure, BlockMatrix(problem.h.keys, problem.h.shapes, values), source="magnet"
    )
    with pytest.raises(ConfigError, match="magnet: time reversal is broken.*--kind chern"):
        z2_invariant(Links(magnet, 2), 0, 1)


@pytest.mark.parametrize("count", [2, 3, 4, 5, 7, 8])
@pytest.mark.parametrize(("below", "chern"), [(3e-3, 1), (-3e-3, 0)])
def test_a_nearly_closed_gap_on_coarse_meshes(count: int, below: float, chern: int) -> None:
    """All flux in one spot, gap 6 meV: plaquettes that hold it are quartered until it is seen."""
    near = haldane(3**1.5 * 0.15 - below)
    assert berry_curvature(Links(near, 1), (0, 1), (count, count)).chern == chern


def test_a_gap_too_small_for_a_chern_number_is_named() -> None:
    with pytest.raises(ConfigError, match="peak at k = .* that no plaquette resolves"):
        berry_curvature(Links(haldane(3**1.5 * 0.15 - 1e-4), 1), (0, 1), (4, 4))


def test_position_matrix_of_another_basis() -> None:
    problem, positions = mixed(haldane(0.2))
    wrong = [BlockMatrix.from_blocks(p.keys, [np.zeros((2, 2))] * len(p)) for p in positions]
    with pytest.raises(DataError, match="of the position matrix has shape"):
        Links(problem, 1, wrong)


@pytest.mark.parametrize("name", ["bi2te3"])
def test_kramers_pairs_of_a_dft_hamiltonian(name: str, dft) -> None:
    """Centres of the line through Γ come in pairs; those of a general line do not."""
    from deeph_gformer import bands

    folder, _ = dft(name)
    links = Links(bands.load(folder), 156)
    pairs, _ = wannier_centres(links, np.zeros(3), 0)
    apart = [np.abs((pairs[n::2] - np.roll(pairs, -1)[n::2] + 0.5) % 1 - 0.5).max() for n in (0, 1)]
    assert min(apart) < 1e-6 < 1e-3 < max(apart)
    other, _ = wannier_centres(links, np.array([0.0, 0.21, 0.0]), 0)
    apart = [np.abs((other[n::2] - np.roll(other, -1)[n::2] + 0.5) % 1 - 0.5).max() for n in (0, 1)]
    assert min(apart) > 1e-4


@pytest.mark.parametrize(("mass", "value"), [(0.1, 2.0), (0.5, 0.0)])
def test_spin_hall_conductivity_of_kane_mele(mass: float, value: float) -> None:
    """Two Haldane models, one for each spin, of opposite Chern numbers: 2 e²/h hbar/2e, or 0."""
    problem = kane_mele(mass, rashba=0.0)
    found = spin_hall(problem, 0.0, "30x30x1", width_eV=1e-3)
    assert found.unit == "e2/h" and abs(found.sigma[2, 0, 1]) == pytest.approx(value, abs=0.01)
    assert found.sigma[2, 1, 0] == pytest.approx(-found.sigma[2, 0, 1], abs=1e-9)
    assert np.abs(found.sigma[:2]).max() < 1e-9  # no other spin
    assert np.abs(anomalous_hall(problem, 0.0, "8x8x1").sigma).max() < 1e-9


def test_spin_hall_has_the_sign_of_its_spins_hall_conductivity() -> None:
    """Spin-up alone is Haldane's model: sigma^z = sigma(up) - sigma(down)."""
    problem = kane_mele(0.1, rashba=0.0)
    up = {}
    for key, block in problem.h:
        up[tuple(key)] = block[:1, :1]
    alone = BlochProblem(
        problem.structure,
        BlockMatrix.from_blocks(np.array(list(up)), list(up.values())),
        source="up",
    )
    one = anomalous_hall(alone, 0.0, "18x18x1", width_eV=1e-3).on_mesh[2] / 2  # it counts two spins
    both = spin_hall(problem, 0.0, "18x18x1", width_eV=1e-3).on_mesh[2, 0, 1]
    assert both == pytest.approx(2 * one, abs=1e-6) and abs(one) > 0.9


def test_spin_hall_in_an_overlapping_basis_is_the_orthogonal_one() -> None:
    """With Rashba coupling, where spin is not conserved and nothing is quantised."""
    problem = kane_mele(0.1, rashba=0.12)
    other, positions = mixed(problem)
    one = spin_hall(problem, 0.0, "5x5x1")
    two = spin_hall(other, 0.0, "5x5x1", positions=positions)
    assert two.sigma == pytest.approx(one.sigma, abs=1e-9) and np.abs(one.sigma).max() > 0.5
    with pytest.raises(ConfigError, match="no spin in this Hamiltonian"):
        spin_hall(graphene(mass=0.3), 0.0)


@pytest.mark.parametrize(
    ("description", "mesh", "copies"),
    [
        (relattice(2, [[1, 1, 0], [0, 1, 0], [0, 0, 1]]), "6x6x1", 1),
        (relattice(2, [[0, 0, 1], [1, 0, 0], [0, 1, 0]]), "1x6x6", 1),
        (relattice(2, [[0, 1, 0], [1, 0, 0], [0, 0, 1]]), "6x6x1", 1),
        (move_by_lattice([[2, 0, 0], [0, -1, 0]]), "6x6x1", 1),
        (supercell(2, [3, 1, 1]), "2x6x1", 3),
    ],
    ids=["sheared", "permuted", "left-handed", "moved", "supercell"],
)
def test_hall_conductivities_do_not_depend_on_the_description(
    description: Description, mesh: str, copies: int
) -> None:
    """Coarse meshes, a metal, no symmetry but the lattice's: the same points give the same sums."""
    cases = (
        (anomalous_hall, haldane(0.3), 1.5),
        (spin_hall, kane_mele(0.1, rashba=0.12), 1.2),
    )
    for hall, problem, fermi in cases:
        other = BlochProblem(
            description.structure(problem.structure),
            description.blocks(problem.h),
            source="otherwise",
        )
        here = hall(problem, fermi, "6x6x1", width_eV=0.05).on_mesh
        there = hall(other, fermi, mesh, width_eV=0.05).on_mesh
        assert other.size == copies * problem.size
        assert there == pytest.approx(here, abs=1e-9) and np.abs(here).max() > 0.1


def test_time_reversal_part_of_a_prediction() -> None:
    """A Kane-Mele H with random errors of 20 meV: its symmetric part has Z2 = 1, nearer the
    right."""
    from deeph_gformer.bands.kmesh import broken_reversal, time_reversal_part

    problem = kane_mele(0.1, 0.1)
    assert broken_reversal(problem) < 1e-15
    rng = np.random.default_rng(5)
    noise = 0.02 * (rng.standard_normal((2, len(problem.h.values))) * [[1], [1]])
    h = BlockMatrix(problem.h.keys, problem.h.shapes, problem.h.values + noise[0] + 1j * noise[1])
    wrong = BlochProblem(problem.structure, h.hermitian(), source="prediction")
    with pytest.raises(ConfigError, match="broken, by up to .* --time-reversal takes"):
        z2_invariant(Links(wrong, 2), 0, 1)
    found = time_reversal_part(wrong)
    assert broken_reversal(found) < 1e-15 and "symmetric part" in found.notes[-1]
    assert z2_invariant(Links(found, 2), 0, 1).z2 == 1
    before, after = (np.abs(p.h.values - problem.h.values) for p in (wrong, found))
    assert (after**2).sum() < 0.6 * (before**2).sum()
    spinless = time_reversal_part(haldane(0.2))
    assert not np.any(spinless.h.values.imag)


@pytest.mark.parametrize("mass", [0.2, 0.6, 0.7, 0.74, 0.77])
@pytest.mark.parametrize("mesh", [3, 6, 12, 23, 24])
def test_hall_conductivity_is_refined_and_its_error_told(mass: float, mesh: int) -> None:
    """Towards mass 0.7794 the gap at K closes and all curvature of an insulator (-2 e²/h, both
    spins) sits in a spike, of 70 times that on one mesh point."""
    hall = anomalous_hall(haldane(mass), 0.0, (mesh, mesh, 1), width_eV=1e-3)
    assert abs(hall.sigma[2] + 2) <= max(hall.error[2], 1e-3)
    assert hall.points <= 2 * mesh**2
    if mesh > 20:
        assert hall.error[2] < 0.1 and hall.largest_share < 0.1
    assert mesh > 3 or mass < 0.6 or hall.largest_share > 0.1


@pytest.mark.parametrize(("mass", "fermi", "width"), [(0.2, 1.5, 0.02), (0.6, 0.4, 0.01)])
def test_error_of_a_metals_hall_conductivity(mass: float, fermi: float, width: float) -> None:
    """Against a plain mean over a dense mesh."""
    problem, count = haldane(mass), 96
    mean = np.mean(
        [
            kubo_curvature(problem, (i / count, j / count, 0), fermi, width)[2]
            for i in range(count)
            for j in range(count)
        ]
    )
    a, b = problem.structure.lattice[:2]
    right = -2 * 2 * np.pi * mean / np.linalg.norm(np.cross(a, b))
    for mesh in (6, 12, 24, 25):
        hall = anomalous_hall(problem, fermi, (mesh, mesh, 1), width_eV=width)
        assert abs(hall.sigma[2] - right) < hall.error[2]
        assert mesh < 20 or hall.error[2] < 0.06


_SQUARE = ((-0.5, -0.5, 0), (0.5, -0.5, 0), (0.5, 0.5, 0), (-0.5, 0.5, 0))


def test_curvature_with_any_position_matrix_is_the_plaquettes_one() -> None:
    """Made-up dipoles, whose space of Bloch sums turns with k: sums over states alone miss that."""
    from deeph_gformer.bands.topology.links import position_rest

    problem, positions = mixed(haldane(0.4))
    rng, made = np.random.default_rng(5), []
    for matrix in positions:
        extra = {tuple(key): rng.normal(scale=0.2, size=b.shape) for key, b in matrix}
        values = [
            block + (extra[x, y, z, i, j] + extra[-x, -y, -z, j, i].T) / 2
            for (x, y, z, i, j), block in matrix
        ]
        made.append(BlockMatrix.from_blocks(matrix.keys, values))
    for r in (made, None):
        rest = None if r is None else position_rest(problem, r)
        links, step = Links(problem, 1, r), 1e-3
        cell = np.linalg.det(problem.structure.reciprocal[:2, :2]) * step**2
        for k in ((0.07, 0.15, 0.0), (0.63, 0.42, 0.0), (0.33, 0.12, 0.0)):
            corners = [np.array(k) + step * np.array(c) for c in _SQUARE]
            pairs = zip(corners, corners[1:] + corners[:1], strict=True)
            loop = np.prod([links.between(one, two)[0, 0] for one, two in pairs])
            exact = kubo_curvature(problem, k, 0.0, 1e-3, rest)[2]
            assert -np.angle(loop) / cell == pytest.approx(exact, rel=1e-3, abs=1e-4)
        hall = anomalous_hall(problem, 0.0, "24x24x1", width_eV=1e-3, positions=r)
        assert hall.sigma[2] == pytest.approx(-2, abs=4e-3)


def test_of_equal_smallest_gaps_the_first_is_named() -> None:
    """Graphene with a mass: both valleys have its gap, whichever rounding prefers."""
    links = Links(graphene(mass=0.3), 1)
    valleys = [np.array([2 / 3, 2 / 3, 0.0]), np.array([1 / 3, 1 / 3, 0.0])]
    for k in (*valleys, np.array([0.1, 0.2, 0.0])):
        links.states(k)
    assert links.smallest_gap_eV == pytest.approx(0.6)
    assert links.smallest_gap_k == pytest.approx(valleys[1]) and links.smallest_gap_points == 2
    links.states(np.array([1 / 3, 1 / 3, 0.0]) - 1)  # the same point
    assert links.smallest_gap_points == 2


def test_the_bar_of_curvatures_is_as_high_as_the_map() -> None:
    """Whatever the aspect: the zone of graphene is not as wide as its panel."""
    from deeph_gformer.bands.topology.plot import plot_curvature

    problem = haldane(0.4)
    map_ = berry_curvature(Links(problem, 1), (0, 1), (6, 6))
    (panel,) = plot_curvature([map_], problem.structure.reciprocal)
    (bar,) = panel.child_axes
    panel.figure.canvas.draw()
    inner, outer = bar.get_window_extent(), panel.get_window_extent()
    assert inner.y0 >= outer.y0 and inner.y1 <= outer.y1
    assert inner.height > 0.85 * outer.height  # its two tips take the rest


@pytest.mark.parametrize("mesh", [3, 4, 5])
def test_flux_beyond_two_pi_is_not_lost_on_a_coarse_mesh(mesh: int) -> None:
    """Copies of Haldane's model: their flux adds up, and a plaquette's is known up to 2 pi."""
    copies, one = 7, haldane(0.4)
    keys = [tuple(key) for key in one.h.keys.tolist()]
    many = [np.kron(block, np.eye(copies)) for _, block in one.h]
    crystal = structure(one.structure.lattice, SITES, ((0,) * copies,) * 2)
    stack = BlochProblem(crystal, blocks(dict(zip(keys, many, strict=True))), source="copies")
    alone = berry_curvature(Links(one, 1), (0, 1), (24, 24)).chern
    assert abs(alone) == 1
    found = berry_curvature(Links(stack, copies), (0, 1), (mesh, mesh))
    assert found.chern == copies * alone


def random_model(seed: int) -> tuple[BlochProblem, list[BlockMatrix]]:
    """Five overlapping orbitals on two atoms, no symmetry at all, and a position matrix."""
    rng = np.random.default_rng(seed)
    lattice = np.array([[3.1, 0.2, 0.0], [-1.2, 2.9, 0.0], [0.0, 0.0, 15.0]])
    crystal = structure(lattice, rng.uniform(-4, 6, (2, 3)), ((0, 1), (0,)))
    counts = crystal.orbital_counts
    places = [
        (a, b, 0, i, j) for a in (-1, 0, 1) for b in (-1, 0, 1) for i in (0, 1) for j in (0, 1)
    ]

    def hermitian(imaginary: bool = False) -> dict[tuple[int, ...], np.ndarray]:
        """Random numbers, smaller between cells."""
        found: dict[tuple[int, ...], np.ndarray] = {}
        for a, b, _, i, j in places:
            if (a, b, 0, i, j) in found:
                continue
            shape, fall = (counts[i], counts[j]), np.exp(-np.hypot(a, b))
            block = rng.standard_normal(shape) * fall
            if imaginary:
                block = block + 1j * rng.standard_normal(shape) * fall
            if a == b == 0 and i == j:
                block = (block + block.conj().T) / 2
            found[a, b, 0, i, j], found[-a, -b, 0, j, i] = block, block.conj().T
        return found

    h, s = hermitian(True), {key: 0.05 * block for key, block in hermitian().items()}
    for i in (0, 1):
        s[0, 0, 0, i, i] = s[0, 0, 0, i, i] + np.eye(counts[i])
    positions = []
    for axis in range(3):
        r = hermitian()
        for (a, b, c, i, j), dipole in r.items():
            ends = crystal.positions[i] + crystal.positions[j] + np.array([a, b, c]) @ lattice
            r[a, b, c, i, j] = 0.3 * dipole + ends[axis] / 2 * s[a, b, c, i, j]
        positions.append(BlockMatrix.from_blocks(np.array(list(r)), list(r.values())))
    matrices = [BlockMatrix.from_blocks(np.array(list(m)), list(m.values())) for m in (h, s)]
    return BlochProblem(crystal, *matrices, source=f"random {seed}"), positions


def dense_chern(problem: BlochProblem, filled: int, count: int = 32) -> tuple[int, float]:
    """Fukui's sum on a dense mesh in the basis of S's Cholesky factors; and the smallest gap."""
    n, every = problem.size, np.arange(count) / count
    states, gap = np.empty((count, count, n, filled), dtype=complex), np.inf
    for a in range(count):
        for b in range(count):
            h, s = problem.at((every[a], every[b], 0.0))
            lower = np.linalg.cholesky(s)
            inverse = np.linalg.inv(lower)
            energies, vectors = np.linalg.eigh(inverse @ h @ inverse.conj().T)
            states[a, b] = vectors[:, :filled]
            gap = min(gap, float(energies[filled] - energies[filled - 1]))
    link = [
        np.linalg.det(states.conj().swapaxes(-1, -2) @ np.roll(states, -1, axis)) for axis in (0, 1)
    ]
    loop = link[0] * np.roll(link[1], -1, 0) * (np.roll(link[0], -1, 1) * link[1]).conj()
    return int(np.round(-np.angle(loop).sum() / (2 * np.pi))), gap


@pytest.mark.parametrize(("seed", "filled"), [(105, 1), (131, 4), (132, 1)])
@pytest.mark.parametrize("mesh", [(2, 2), (3, 2)])
def test_coarse_meshes_have_the_chern_number_of_dense_ones(
    seed: int, filled: int, mesh: tuple[int, int]
) -> None:
    """Steps of half a zone, over which a position matrix means nothing."""
    problem, positions = random_model(seed)
    chern, gap = dense_chern(problem, filled)
    assert gap > 0.5
    for r in (None, positions):
        assert berry_curvature(Links(problem, filled, r), (0, 1), mesh).chern == chern


@pytest.mark.parametrize("mesh", [(2, 2), (4, 4), (3, 5), (6, 2)])
def test_a_mesh_coarser_than_h_is_refined(mesh: tuple[int, int]) -> None:
    """Haldane's H(2k): the same at all corners of a 2x2 mesh, four times the Chern number."""
    one = haldane(0.4)
    keys = one.h.keys.copy()
    keys[:, :3] *= 2
    far = BlockMatrix(keys, one.h.shapes, one.h.values)
    double = BlochProblem(one.structure, far, source="H(2k)")
    assert double.at((0.1, 0.3, 0.0))[0] == pytest.approx(one.at((0.2, 0.6, 0.0))[0])
    assert berry_curvature(Links(double, 1), (0, 1), mesh).chern == 4
    assert berry_curvature(Links(one, 1), (0, 1), mesh).chern == 1


def qwz_beside_a_strong_chain(reach: int) -> BlochProblem:
    """Qi-Wu-Zhang's H(n k) with small numbers, Chern number n², and large ones that decide
    nothing."""
    h = {(0, 0, 0, 0, 0): -0.05 * Z, (0, 0, 0, 1, 1): -12.0, (1, 0, 0, 1, 1): 5.0}
    h |= {(reach, 0, 0, 0, 0): 0.025 * (Z - 1j * X), (0, reach, 0, 0, 0): 0.025 * (Z - 1j * Y)}
    crystal = structure(np.diag([3.0, 3.0, 15.0]), np.zeros((2, 3)), ((0, 0), (0,)))
    return BlochProblem(crystal, blocks(h), source="beside a chain")


def qwz_through_others(depth: float = 10.0) -> BlochProblem:
    """Qi-Wu-Zhang's H(3k), Chern number 9, of hops to neighbours: through two orbitals far below
    and back, (s^(1/3) depth^(2/3))^3 / depth^2 = s."""
    onsite, hops = np.zeros((6, 6), complex), []
    onsite[:2, :2] = -Z
    for first, t in ((2, (Z - 1j * X) / 2), (4, (Z - 1j * Y) / 2)):
        left, sizes, right = np.linalg.svd(t)  # of rank one
        size, hop = np.cbrt(sizes[0] * depth**2), np.zeros((6, 6), complex)
        ends = left[:, 0], right[0]
        hop[:2, first], hop[first, first + 1], hop[first + 1, :2] = ends[0], 1.0, ends[1]
        hops.append(size * hop)
        onsite[first, first] = onsite[first + 1, first + 1] = -depth
        for end in (ends[0], ends[1].conj()):  # to and fro
            onsite[:2, :2] -= size**2 / depth * np.outer(end, end.conj())
    h = {(0, 0, 0, 0, 0): onsite, (1, 0, 0, 0, 0): hops[0], (0, 1, 0, 0, 0): hops[1]}
    crystal = structure(np.diag([3.0, 3.0, 15.0]), np.zeros((1, 3)), ((0,) * 6,))
    return BlochProblem(crystal, blocks(h), source="through others")


@pytest.mark.parametrize("mesh", [(2, 2), (3, 3), (5, 3), (5, 5)])
@pytest.mark.parametrize("case", ["chain", "others", "far others"])
def test_states_that_come_back_from_corner_to_corner(case: str, mesh: tuple[int, int]) -> None:
    """H's largest numbers, or its reach, do not tell how often states turn."""
    if case == "chain":
        problem, filled = qwz_beside_a_strong_chain(3), 2
    else:
        problem, filled = qwz_through_others(100.0 if case == "far others" else 10.0), 5
    chern, gap = dense_chern(problem, filled)
    assert abs(chern) == 9 and gap > 0.05
    assert berry_curvature(Links(problem, filled), (0, 1), mesh).chern == chern


def test_a_curvature_that_is_no_number_is_named() -> None:
    """It ends at the first one, and not in a search for cells without end."""

    def curvature(k: np.ndarray) -> np.ndarray:
        return np.array([np.nan if k[0] > 0.2 else 1.0])

    with pytest.raises(DataError, match=r"k = \[0\.3333, 0\.0, 0\.0\]: a curvature"):
        zone_mean(curvature, (3, 3, 1), 1e-3)
