"""H(k) against sums written out by hand, against sisl, and against the DFT codes' own
eigenvalues."""

from __future__ import annotations

import pathlib
import subprocess
import sys

import numpy as np
import pytest
import scipy.linalg

from deeph_gformer import bands
from deeph_gformer.analysis.redescribe import relattice
from deeph_gformer.bands import BlochProblem
from deeph_gformer.bands.bloch import bloch_phases
from deeph_gformer.bands.optics import optical_conductivity
from deeph_gformer.bands.surface import PrincipalLayers
from deeph_gformer.bands.topology import anomalous_hall
from deeph_gformer.errors import DataError
from deeph_gformer.io import BlockMatrix

from .conftest import blocks, chain, graphene, random_problem, ssh, structure


def by_hand(problem: BlochProblem, matrix: BlockMatrix, k: np.ndarray, double: bool) -> np.ndarray:
    """The Bloch sum as in the textbook, block by block."""
    counts = problem.structure.orbital_counts * problem.spin
    first = np.concatenate([[0], np.cumsum(counts)])
    out = np.zeros((first[-1], first[-1]), dtype=complex)
    for (x, y, z, i, j), block in matrix:
        full = np.kron(np.eye(2), block) if double else block
        out[first[i] : first[i + 1], first[j] : first[j + 1]] += (
            np.exp(2j * np.pi * np.dot(k, (x, y, z))) * full
        )
    return out


@pytest.mark.parametrize("spin", [1, 2])
@pytest.mark.parametrize("k", [(0.0, 0.0, 0.0), (0.5, 0.0, 0.5), (0.13, -0.27, 0.41)])
def test_bloch_sum_is_the_textbook_one(spin: int, k: tuple[float, ...]) -> None:
    problem = random_problem(spin=spin)
    h, s = problem.at(k)
    assert np.abs(h - by_hand(problem, problem.h, np.array(k), False)).max() < 1e-13
    assert np.abs(s - by_hand(problem, problem.s, np.array(k), spin == 2)).max() < 1e-13
    assert np.abs(h - h.conj().T).max() < 1e-13
    assert np.isrealobj(s) == (k != (0.13, -0.27, 0.41))


def test_real_matrices_at_time_reversal_invariant_momenta() -> None:
    cells = np.array([[1, 0, 0], [0, 1, 0], [1, 1, 0]])
    assert bloch_phases(cells, (0.5, 0, 0)).tolist() == [-1.0, 1.0, -1.0]
    assert np.iscomplexobj(bloch_phases(cells, (0.25, 0, 0)))


def test_chain_ssh_and_graphene_in_closed_form() -> None:
    for k in np.linspace(-0.5, 0.5, 7):
        c = np.cos(2 * np.pi * k)
        h, s = chain(overlap=0.1).at((k, 0, 0))
        assert scipy.linalg.eigh(h, s, eigvals_only=True)[0] == pytest.approx(
            (0.3 - 2 * c) / (1 + 0.2 * c), abs=1e-14
        )
        h, _ = ssh(1.0, 0.6).at((k, 0, 0))
        assert np.linalg.eigvalsh(h)[1] == pytest.approx(
            abs(1.0 + 0.6 * np.exp(-2j * np.pi * k)), abs=1e-14
        )
    assert np.abs(np.linalg.eigvalsh(graphene().at((1 / 3, 1 / 3, 0))[0])).max() < 1e-14
    assert np.linalg.eigvalsh(graphene().at((0, 0, 0))[0]) == pytest.approx([-8.1, 8.1], abs=1e-13)


def test_phase_convention_without_inversion_symmetry() -> None:
    """H_01(R=+1) = t i (a complex hopping, no inversion, no time reversal): E(k) = e + 2 Re(t i
    exp(2 pi i k)) = e - 2 t sin(2 pi k), not its mirror image."""
    problem = BlochProblem(
        structure(np.diag([2.0, 9, 9]), np.zeros((1, 3)), ((0,),)),
        blocks({(0, 0, 0, 0, 0): 0.0, (1, 0, 0, 0, 0): 0.7j}),
    )
    for k in (0.1, 0.25, -0.3):
        assert problem.at((k, 0, 0))[0][0, 0].real == pytest.approx(
            -1.4 * np.sin(2 * np.pi * k), abs=1e-14
        )


def test_spin_order_sorts_into_up_and_down() -> None:
    problem = random_problem(spin=2)
    _, s = problem.at((0.1, 0.2, 0.3))
    s = s[np.ix_(problem.spin_order, problem.spin_order)]
    n = problem.size // 2
    assert np.abs(s[:n, n:]).max() == 0 and np.abs(s[:n, :n] - s[n:, n:]).max() == 0


def test_blocks_in_h_only_and_in_s_only_are_reported() -> None:
    problem = random_problem()
    assert len(problem.missing_in_s) == 18 and any(
        "18 of" in n and "overlap is taken as zero" in n for n in problem.notes
    )
    swapped = BlochProblem(problem.structure, problem.s, problem.h)
    assert len(swapped.missing_in_h) == 18 and any("S and not in H" in n for n in swapped.notes)


def test_wrong_shapes_are_refused() -> None:
    problem, doubled = random_problem(), random_problem(spin=2)
    with pytest.raises(DataError, match="spinless"):
        BlochProblem(doubled.structure, doubled.h, doubled.h)
    with pytest.raises(DataError, match="different structures"):
        BlochProblem(chain().structure, problem.h)
    bad = blocks(
        {(0, 0, 0, 0, 0): np.eye(4), (0, 0, 0, 1, 1): np.eye(1), (0, 0, 0, 2, 2): np.eye(5)}
    )
    with pytest.raises(
        DataError, match=r"block \[0, 0, 0, 3, 3\] of H has shape \(5, 5\).*\(6, 6\)"
    ):
        BlochProblem(problem.structure, bad)
    with pytest.raises(DataError, match="different structures"):
        BlochProblem(chain().structure, chain().h, blocks({(3, 0, 0, 0, 0): 1.0}))


def test_derivative_against_finite_differences() -> None:
    problem = random_problem(spin=2)
    k, step = np.array([0.11, 0.23, -0.31]), 1e-5
    dh, ds = problem.derivative_at(k)
    for axis in range(3):
        shift = np.linalg.solve(problem.structure.reciprocal.T, np.eye(3)[axis]) * step
        (hp, sp), (hm, sm) = problem.at(k + shift), problem.at(k - shift)
        assert np.abs((hp - hm) / (2 * step) - dh[axis]).max() < 1e-7
        assert np.abs((sp - sm) / (2 * step) - ds[axis]).max() < 1e-8


def test_sisl_has_the_same_eigenvalues() -> None:
    sisl = pytest.importorskip("sisl")
    problem = random_problem(seed=4)
    crystal, counts = problem.structure, problem.structure.orbital_counts
    geometry = sisl.Geometry(
        crystal.positions,
        [sisl.Atom(6, orbitals=[-1] * int(n)) for n in counts],
        sisl.Lattice(crystal.lattice, nsc=[3, 3, 3]),
    )
    h = sisl.Hamiltonian(geometry, orthogonal=False)
    first = np.concatenate([[0], np.cumsum(counts)])
    for position, matrix in enumerate((problem.h, problem.s)):
        for (x, y, z, i, j), block in matrix:
            column = geometry.no * geometry.lattice.sc_index((x, y, z)) + first[j]
            for (row, col), value in np.ndenumerate(block):
                old = list(h[first[i] + row, column + col])
                old[position] = value
                h[first[i] + row, column + col] = tuple(old)
    for k in ((0, 0, 0), (0.2, -0.1, 0.37)):
        ours = scipy.linalg.eigh(*problem.at(k), eigvals_only=True)
        assert np.abs(ours - h.eigh(k=k)).max() < 1e-10


SETS = [
    "graphene",
    "mos2",
    "bilayer_graphene",
    "bilayer_graphene_21.8deg",
    "bilayer_graphene_21.8deg_0K",
    "bilayer_graphene_13.2deg_0K",
    "bismuthene",
    "bismuthene_21.8deg_0K",
    "bi2te3",
    "bi2se3",
]


@pytest.mark.parametrize("name", SETS)
def test_bands_equal_the_dft_codes_own_eigenvalues(name: str, dft) -> None:
    folder, stored = dft(name)
    problem = bands.load(folder)
    points = np.arange(len(stored["k"]))
    if problem.size > 500:
        points = points[[0, -1]]
    for index in points:
        energies = scipy.linalg.eigh(*problem.at(stored["k"][index]), eigvals_only=True)
        assert (
            np.abs(energies[: stored["energy_eV"].shape[1]] - stored["energy_eV"][index]).max()
            < 1e-4
        )


def test_bands_need_no_torch() -> None:
    code = (
        "import sys, deeph_gformer.bands, deeph_gformer.commands.bands; "
        "import deeph_gformer.commands.spectra; sys.exit('torch' in sys.modules or "
        "'matplotlib' in sys.modules)"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", code], cwd=pathlib.Path(__file__).parents[2]
        ).returncode
        == 0
    )


@pytest.mark.parametrize("rank", [1, 2])
def test_a_slab_with_vectors_askew_is_no_crystal(rank: int) -> None:
    """a1 + a3 and a2 span no plane of the slab: areas and dimensions would be wrong, levels not."""
    problem = graphene(mass=0.4) if rank == 2 else ssh()
    matrix = np.eye(3, dtype=int)
    matrix[0, rank] = 1
    askew = relattice(2, matrix)
    moved = BlochProblem(
        askew.structure(problem.structure), askew.blocks(problem.h), askew.blocks(problem.s)
    )
    k = np.array([0.13, 0.27, 0.41])
    levels = [scipy.linalg.eigvalsh(*p.at(q)) for p, q in ((problem, k), (moved, askew.kpoint(k)))]
    assert np.abs(levels[0] - levels[1]).max() < 1e-12
    gaps = [bands.band_gap(p, 2, (6, 6, 1), refine=False) for p in (problem, moved)]
    assert abs(gaps[0].gap_eV - gaps[1].gap_eV) < 1e-6
    for act in (
        lambda: bands.band_structure(moved, fermi=0.0),
        lambda: optical_conductivity(moved, 0.0, np.array([1.0])),
        lambda: PrincipalLayers(moved, 0),
        lambda: anomalous_hall(moved, 0.0),
    ):
        with pytest.raises(DataError, match=rf"repeats in {rank} direction.* askew"):
            act()


def test_blocks_of_zeros_add_no_dimension() -> None:
    """A reader may write all pairs within a cutoff, those across the vacuum, too."""
    slab = graphene(mass=0.4)
    keys = np.concatenate([slab.h.keys, [[0, 0, n, i, i] for n in (-1, 1) for i in (0, 1)]])
    padded = BlochProblem(
        slab.structure,
        BlockMatrix.from_blocks(keys, [*(b for _, b in slab.h), *[np.zeros((1, 1))] * 4]),
        slab.s,
    )
    found = [optical_conductivity(p, 0.0, np.array([2.0]), (8, 8, 1)) for p in (slab, padded)]
    assert padded.periodic == (True, True, False) and found[1].unit == "e2/h"
    assert np.abs(found[0].sigma - found[1].sigma).max() < 1e-12
