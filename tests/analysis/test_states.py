"""State errors against eigenvalues of the perturbed Hamiltonian, two-level formulas and the
gauge."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy.linalg import eigh

import deeph_gformer
from deeph_gformer.analysis.evaluate import evaluate
from deeph_gformer.analysis.redescribe import relattice
from deeph_gformer.analysis.states import dft_states, state_errors
from deeph_gformer.bands import load
from deeph_gformer.bands.bloch import BlochProblem
from deeph_gformer.bands.kmesh import time_reversal_part
from deeph_gformer.cli import main
from deeph_gformer.data.dataset import spin_double
from deeph_gformer.errors import ConfigError, DataError
from deeph_gformer.io import BlockMatrix, Structure, legacy

from ..conftest import random_structure

Folder = Callable[..., pathlib.Path]


def made(seed: int = 0, spinful: bool = False) -> tuple[BlochProblem, BlockMatrix]:
    """A problem, and a Hermitian error of unit size."""
    structure, h, s = random_structure(seed, atoms=4, spinful=spinful)
    rng = np.random.default_rng(seed)
    values = rng.normal(size=len(h.values)) + (
        1j * rng.normal(size=len(h.values)) if spinful else 0
    )
    return BlochProblem(structure, h, s), BlockMatrix(h.keys, h.shapes, values).hermitian()


def plus(h: BlockMatrix, error: BlockMatrix, size: float) -> BlockMatrix:
    return BlockMatrix(h.keys, h.shapes, h.values + size * error.values)


@pytest.mark.parametrize("spinful", [False, True])
def test_first_order_is_the_slope_of_the_eigenvalues(spinful: bool) -> None:
    problem, error = made(spinful=spinful)
    states = dft_states(problem, 0.0, mesh=(2, 2, 1))
    size = 1e-5
    found = state_errors(states, plus(problem.h, error, size))
    moves, weights = [], []
    for point in states.points:
        levels = [
            eigh(
                *BlochProblem(problem.structure, plus(problem.h, error, e), problem.s).at(point.k),
                eigvals_only=True,
            )
            for e in (-size, 0.0, size)
        ]
        inside = np.abs(levels[1]) < 3.0
        moves.append((levels[2] - levels[0])[inside] / 2)
        weights.append(np.full(inside.sum(), point.weight))
    move, weight = np.concatenate(moves), np.concatenate(weights)
    mean = np.average(move, weights=weight)
    assert found.states == len(move) > 20 and found.kpoints == len(states.points)
    assert found.mu_eV == pytest.approx(mean, rel=1e-3)
    expected = np.average(np.abs(move - mean), weights=weight) * 1e3
    assert found.error_meV == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("spinful", [False, True])
def test_a_shift_of_the_energy_zero_is_no_error(spinful: bool) -> None:
    problem, error = made(spinful=spinful)
    states = dft_states(problem, 0.0, mesh=(2, 1, 1))
    s = spin_double(problem.s) if spinful else problem.s
    found = state_errors(states, plus(problem.h, s, 0.7))
    assert found.mu_eV == pytest.approx(0.7, abs=1e-9)
    assert found.error_meV < 1e-8 and found.ghost_meV < 1e-8
    one, two = (
        state_errors(states, plus(plus(problem.h, error, 0.01), s, mu)) for mu in (0.0, -2.0)
    )
    assert one.error_meV == pytest.approx(two.error_meV, rel=1e-8) and one.error_meV > 1
    assert one.ghost_meV == pytest.approx(two.ghost_meV, rel=1e-8) and one.ghost_meV > 0.1


def molecule(levels: list[float], seed: int = 0) -> tuple[BlochProblem, np.ndarray]:
    """Atoms with one s orbital each, joined by S, whose eigenvalues are ``levels``.

    And the eigenvectors.
    """
    n, rng = len(levels), np.random.default_rng(seed)
    structure = Structure(
        20 * np.eye(3), rng.normal(size=(n, 3)) * 3, np.full(n, 1), ((0,),) * n, False, {}, "m"
    )
    s = np.eye(n) + 0.1 * (lambda a: a + a.T)(rng.random((n, n)))
    root = np.linalg.cholesky(s)
    basis = np.linalg.qr(rng.normal(size=(n, n)))[0]
    h = root @ basis @ np.diag(levels) @ basis.T @ root.T
    return BlochProblem(structure, blocks(h), blocks(s)), np.linalg.solve(root.T, basis)


def blocks(matrix: np.ndarray) -> BlockMatrix:
    pairs = list(np.ndindex(matrix.shape))
    keys = np.array([[0, 0, 0, i, j] for i, j in pairs])
    return BlockMatrix.from_blocks(keys, [matrix[i : i + 1, j : j + 1] for i, j in pairs])


@pytest.mark.parametrize("coupling", [0.01, 0.3, 2.0])
def test_ghost_measure_is_the_two_level_repulsion(coupling: float) -> None:
    problem, c = molecule([-8.0, -1.0, 0.5, 2.0, 6.0])
    s = problem.at([0, 0, 0])[1]
    both = s @ (np.outer(c[:, 2], c[:, 4]) + np.outer(c[:, 4], c[:, 2])) @ s
    h = problem.at([0, 0, 0])[0] + coupling * both
    after = eigh(h, s, eigvals_only=True)
    found = state_errors(dft_states(problem, 0.0), blocks(h))
    assert found.states == 3 and found.error_meV < 1e-9
    pushed = 0.5 - min(after, key=lambda e: abs(e - (3.25 - np.hypot(2.75, coupling))))
    assert found.ghost_meV == pytest.approx(pushed / 3 * 1e3, rel=1e-9)


def test_degenerate_states_take_the_eigenvalues_of_their_block() -> None:
    problem, c = molecule([0.5, 0.5, 0.5, 9.0])
    s = problem.at([0, 0, 0])[1]
    d = np.random.default_rng(5).normal(size=(3, 3)) * 0.01
    d = d + d.T
    h = problem.at([0, 0, 0])[0] + s @ c[:, :3] @ d @ c[:, :3].T @ s
    split = np.linalg.eigvalsh(d)
    found = state_errors(dft_states(problem, 0.0), blocks(h))
    expected = np.abs(split - split.mean()).mean() * 1e3
    assert found.error_meV == pytest.approx(expected, rel=1e-9)


def chain(overlap: float) -> BlochProblem:
    """S(k) = 1 + 2 s cos 2πk, one orbital."""
    structure = Structure(np.diag([3.0, 20, 20]), np.zeros((1, 3)), np.array([1]), ((0,),), False)
    keys = np.array([[0, 0, 0, 0, 0], [1, 0, 0, 0, 0], [-1, 0, 0, 0, 0]])
    matrix = lambda a, b: BlockMatrix.from_blocks(keys, [np.full((1, 1), v) for v in (a, b, b)])  # noqa: E731
    return BlochProblem(structure, matrix(0.1, 0.2), matrix(1.0, overlap), source="chain")


def test_kpoints_where_s_is_no_overlap_are_left_out_and_named() -> None:
    states = dft_states(chain(0.6), 0.0, mesh=(4, 1, 1))
    assert [p.k[0] for p in states.points] == [0.0, 0.25]
    assert len(states.left_out) == 1
    assert "chain, k = [0.5, 0.0, 0.0]" in states.left_out[0]
    assert "not positive definite" in states.left_out[0]
    with pytest.raises(DataError, match="chain, k = .*not positive definite"):
        dft_states(chain(-0.8), 0.0, mesh=(1, 1, 1))


def test_errors_that_break_time_reversal_are_those_at_k_and_at_its_opposite() -> None:
    """Time reversal leaves DFT's H alone and takes the prediction to one that is as far from it."""
    structure, h, s = random_structure(spinful=True)
    truth = time_reversal_part(BlochProblem(structure, h, s))
    states = dft_states(truth, 0.0, mesh=(3, 2, 1))
    both = [
        BlockMatrix(h.keys, h.shapes, truth.h.values + sign * (h.values - truth.h.values))
        for sign in (1, -1)
    ]
    errors = [state_errors(states, one).error_meV for one in both]
    assert errors[0] > 1.0 and errors[0] == pytest.approx(errors[1], rel=1e-9)


@pytest.mark.parametrize(
    "matrix", [[[1, 2, 0], [0, 1, 0], [-1, 0, 1]], [[0, 1, 0], [1, 0, 0], [0, 0, 1]]]
)
def test_lattice_vectors_that_are_given_do_not_matter(matrix: list[list[int]]) -> None:
    """The same k-points, whatever vectors describe the crystal."""
    problem, error = made()
    new = relattice(len(problem.structure), matrix)
    structure = new.structure(problem.structure)
    other = BlochProblem(structure, new.blocks(problem.h), new.blocks(problem.s))
    states, others = (dft_states(p, 0.0, spacing=0.5) for p in (problem, other))
    assert len(states.points) == len(others.points) > 4
    moved = state_errors(others, new.blocks(plus(problem.h, error, 1e-3)))
    assert moved.error_meV == pytest.approx(
        state_errors(states, plus(problem.h, error, 1e-3)).error_meV, rel=1e-9
    )


def test_the_middle_of_the_window_is_counted_where_only_electrons_are_known() -> None:
    """Half filling of E = 0.1 + 0.4 cos 2πk: 0.1 eV."""
    problem = chain(0.0)
    problem.structure.info["occupation"] = 1
    assert dft_states(problem).fermi_eV == pytest.approx(0.1, abs=1e-3)


def test_a_gap_wider_than_the_window_leaves_the_states_at_its_edges() -> None:
    """E = 0.8 cos 2πk, and the same 20 eV above; the Fermi level is 8 eV."""
    one, atoms = chain(0.0), np.array([1, 1])
    two = Structure(one.structure.lattice, np.zeros((2, 3)), atoms, ((0,), (0,)), False)
    keys = np.concatenate([one.h.keys, one.h.keys + [0, 0, 0, 1, 1]])
    away = one.h.keys[:, :3].any(axis=1)
    values = np.concatenate([np.where(away, 0.4, middle) for middle in (0.0, 20.0)])
    problem = BlochProblem(two, BlockMatrix.from_blocks(keys, values[:, None, None]), source="two")
    states = dft_states(problem, 8.0, mesh=(4, 1, 1))
    assert states.window_eV == pytest.approx((-8.2, 12.2))
    inside = [p.energies[slice(*p.inside)] for p in states.points]
    assert np.sort(np.concatenate(inside)) == pytest.approx([0.0, 0.8, 19.2, 20.0])
    assert dft_states(problem, 0.0, mesh=(4, 1, 1)).window_eV == (-3.0, 3.0)
    with pytest.raises(DataError, match=r"3 eV .* at -7.2.* and 11.2.*training.states_window"):
        dft_states(problem, 8.0, mesh=(4, 1, 1), window_eV=3.0)


def test_bad_input() -> None:
    problem = chain(0.1)
    with pytest.raises(ConfigError, match="states no Fermi level"):
        dft_states(problem)
    with pytest.raises(DataError, match="within 3 eV of the Fermi level 99 eV.*; does the level"):
        dft_states(problem, 99.0)
    for mesh in ((0, 1, 1), (-1, 1, 1), (10**6, 10**6, 1)):
        with pytest.raises(ConfigError, match="k mesh"):
            dft_states(problem, 0.0, mesh=mesh)
    with pytest.raises(ConfigError, match="window 0 eV"):
        dft_states(problem, 0.0, window_eV=0.0)
    _, spinful, _ = random_structure(spinful=True)
    structure, h, s = random_structure()
    with pytest.raises(DataError, match="spin-doubled"):
        state_errors(dft_states(BlochProblem(structure, h, s), 0.0, mesh=(1, 1, 1)), spinful)


def test_weak_noise_on_dft_moves_its_bands_as_first_order_says(
    dft: Callable[[str, str], tuple[pathlib.Path, Any]],
) -> None:
    problem = load(dft("mos2", "0001")[0])
    states = dft_states(problem, mesh=(1, 1, 1))
    rng = np.random.default_rng(0)
    noise = BlockMatrix(
        problem.h.keys, problem.h.shapes, rng.normal(size=len(problem.h.values)) * 1e-6
    ).hermitian()
    h = plus(problem.h, noise, 1.0)
    levels = [
        eigh(*BlochProblem(problem.structure, m, problem.s).at([0, 0, 0]), eigvals_only=True)
        for m in (problem.h, h)
    ]
    inside = np.abs(levels[0] - problem.stated_fermi_eV) < 3
    move = (levels[1] - levels[0])[inside]
    found = state_errors(states, h)
    assert found.states == inside.sum() > 10
    expected = np.abs(move - move.mean()).mean() * 1e3
    assert found.error_meV == pytest.approx(expected, rel=1e-3)


def test_evaluate_and_compare_tell_the_same(
    make_folder: Folder, tiny_stage1: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    for n in range(2):
        make_folder(f"s{n}", seed=n)
    make_folder("bare", seed=3, overlap=False, root=tmp_path / "bare")
    model = deeph_gformer.load(stage1=tiny_stage1)
    result = evaluate(model, tmp_path / "data", rotations=0, invariance=False)
    values = [r["states_error_meV"] for r in result["structures"]]
    assert result["total"]["states_error_meV"] == pytest.approx(np.mean(values)) and min(values) > 0
    assert result["total"]["stage1_ghost_meV"] == result["total"]["ghost_meV"]  # stage 1 alone
    prediction = model.predict(tmp_path / "data" / "s0")
    legacy.write_blocks(tmp_path / "data" / "s0" / "hamiltonians_pred.h5", prediction.hamiltonian)
    out = tmp_path / "c.json"
    assert main(["compare", str(tmp_path / "data" / "s0"), "--json", str(out)]) == 0
    told = json.loads(out.read_text())
    assert told["states_error_meV"] == pytest.approx(values[0], rel=1e-6)
    assert told["ghost_meV"] == pytest.approx(result["structures"][0]["ghost_meV"], rel=1e-6)
    bare = evaluate(model, tmp_path / "bare", rotations=0, invariance=False)
    assert bare["total"]["states_error_meV"] is None
    assert bare["structures"][0]["states_notes"] == ["no overlaps"]
