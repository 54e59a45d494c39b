"""The sparse solver against dense LAPACK, and its completeness count against one that misses states."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import scipy.sparse as sp

from deeph_gformer import bands
from deeph_gformer.bands import BlochProblem, sparse
from deeph_gformer.bands.frontal import FrontalFactor, _Pivot, dissect, periodic_points
from deeph_gformer.errors import ConfigError, MissingDependencyError
from deeph_gformer.io import BlockMatrix

from .conftest import blocks, structure


def ribbon(cells: int = 150, spin: int = 1, seed: int = 3) -> BlochProblem:
    """A disordered two-dimensional sheet, periodic in the plane, two shells an atom, non-orthogonal."""
    rng = np.random.default_rng(seed)
    side = int(cells**0.5)
    grid = np.array([(x, y) for x in range(side) for y in range(side)])
    positions = np.concatenate([grid * 2.0, np.full((len(grid), 1), 5.0)], axis=1)
    h, s = {}, {}
    for i, (x, y) in enumerate(grid):
        onsite = rng.standard_normal((4 * spin, 4 * spin)) + (1j * rng.standard_normal((4 * spin, 4 * spin)) if spin == 2 else 0)
        h[0, 0, 0, i, i], s[0, 0, 0, i, i] = onsite + onsite.conj().T, np.eye(4)
        for dx, dy in ((1, 0), (0, 1), (1, 1)):
            a, b = x + dx, y + dy
            key = (a // side, b // side, 0, i, (a % side) * side + b % side)
            h[key] = 0.5 * rng.standard_normal((4 * spin, 4 * spin))
            s[key] = 0.03 * rng.standard_normal((4, 4))
    crystal = structure(np.diag([2.0 * side, 2.0 * side, 20.0]), positions, ((0, 1),) * len(grid))
    return BlochProblem(crystal, blocks(h), blocks(s), label="ribbon", source="ribbon")


@pytest.mark.parametrize("kind", [float, complex])
@pytest.mark.parametrize("n", [1, 2, 7, 80])
def test_pivot_block_solves_and_counts(n: int, kind: type) -> None:
    rng = np.random.default_rng(n)
    a = rng.standard_normal((n, n)) + (1j * rng.standard_normal((n, n)) if kind is complex else 0)
    a = a + a.conj().T
    b = rng.standard_normal((n, 3)).astype(a.dtype)
    pivot = _Pivot(np.array(a, order="F"))
    assert np.abs(a @ pivot.solve(b) - b).max() < 1e-10
    assert pivot.negative == int((np.linalg.eigvalsh(a) < 0).sum())


@pytest.mark.parametrize("k", [(0.0, 0.0, 0.0), (0.2, -0.1, 0.0)])
def test_frontal_factor_solves_and_counts(k: tuple[float, ...]) -> None:
    problem = ribbon()
    tree, offsets = sparse._tree(problem)
    assert tree.children and tree.children[0].children  # really dissected
    h, s = problem.sparse_at(k)
    energies = scipy.linalg.eigh(h.toarray(), s.toarray(), eigvals_only=True)
    for sigma in (-2.0, 0.1, 3.0):
        matrix = (h - sigma * s).tocsr()
        factor = FrontalFactor(matrix, tree, offsets)
        b = np.random.default_rng(0).standard_normal((h.shape[0], 2))
        assert np.abs(matrix @ factor.solve(b) - b).max() < 1e-8
        assert factor.negative == int((energies < sigma).sum()) == sparse.states_below(problem, np.array(k), sigma)
        assert factor.entries < 0.8 * h.shape[0] ** 2


def test_dissection_separates() -> None:
    problem = ribbon(400)
    n = len(problem.structure)
    graph = sp.coo_matrix((np.ones(len(problem.h)), (problem.h.keys[:, 3], problem.h.keys[:, 4])), shape=(n, n)).tocsr()
    root = dissect(graph, periodic_points(problem.structure.positions, problem.structure.lattice, problem.periodic))

    def below(node) -> np.ndarray:
        return np.concatenate([node.atoms] + [below(c) for c in node.children])

    left, right = (below(c) for c in root.children)
    assert sorted(below(root).tolist()) == list(range(n)) and graph[left][:, right].nnz == 0
    assert len(root.atoms) < 0.4 * n


@pytest.mark.parametrize("engine", ["frontal", "superlu", "mumps"])
@pytest.mark.parametrize("spin", [1, 2])
def test_sparse_equals_dense(engine: str, spin: int) -> None:
    if engine == "mumps":
        pytest.importorskip("mumps")
    problem = ribbon(100, spin)
    k = (0.1, 0.3, 0.0)
    every = scipy.linalg.eigh(*problem.at(k), eigvals_only=True)
    h, s = problem.sparse_at(k)
    found, _ = sparse.solve_sparse(h, s, 0.05, 20, problem=problem, engine=engine)
    if engine == "mumps":
        assert found.complete is None and found.first is None  # cannot count complex Hermitian matrices, and says so
        low = int(np.argmin(np.abs(every - found.energies[0])))
    else:
        assert found.complete is True
        low = found.first
    assert np.abs(every[low : low + len(found.energies)] - found.energies).max() < 1e-8
    nearest = np.sort(np.sort(np.abs(every - 0.05))[:20])
    assert np.sort(np.abs(found.energies - 0.05))[:20] == pytest.approx(nearest, abs=1e-8)


def test_all_states_of_a_window_and_degenerate_levels() -> None:
    problem = ribbon(64)
    pairs = BlockMatrix.from_blocks(problem.h.keys, [np.kron(np.eye(2), block) for _, block in problem.h])
    doubled = BlochProblem(problem.structure, pairs, problem.s, source="pairs")
    k = (0.2, 0.1, 0.0)
    every = scipy.linalg.eigh(*doubled.at(k), eigvals_only=True)  # every level twice
    h, s = doubled.sparse_at(k)
    found, _ = sparse.solve_sparse(h, s, 0.0, 0, problem=doubled, window=(-0.4, 0.5))
    inside = every[(every > -0.4) & (every <= 0.5)]
    assert found.complete is True and len(found.energies) == len(inside) and np.abs(found.energies - inside).max() < 1e-8


def test_a_missed_state_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = ribbon(64)
    h, s = problem.sparse_at((0, 0, 0))
    real = sparse.shift_invert_lanczos

    def forgetful(*args, **kwargs):
        theta, x, good = real(*args, **kwargs)
        keep = np.arange(x.shape[1]) != 3
        return theta[keep], x[:, keep], good

    monkeypatch.setattr(sparse, "shift_invert_lanczos", forgetful)
    found, _ = sparse.solve_sparse(h, s, 0.0, 12, problem=problem)
    assert found.complete is False


def test_incomplete_and_unconverged_points_are_not_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = ribbon(36)
    real = sparse.shift_invert_lanczos
    calls = []

    def sometimes(solve, s, count, dtype, **options):
        calls.append(1)
        theta, x, good = real(solve, s, count, dtype, **options)
        return (theta, x, count - 2) if len(calls) == 3 else (theta, x, good)

    monkeypatch.setattr(sparse, "shift_invert_lanczos", sometimes)
    found = bands.band_structure(problem, "GX", 6, "sparse", nbands=10, fermi=0.0)
    assert "multifrontal" in found.solver and (~found.complete).sum() == 1
    assert any("1 of " in note and "did not converge and are not drawn" in note for note in found.notes)
    bad = int(np.flatnonzero(~found.complete)[0])
    assert np.isnan(found.energies_eV[bad]).all() and all(bad not in run for _, run in found.lines())
    unchecked = bands.band_structure(problem, "GX", 4, "sparse", nbands=10, fermi=0.0, check=False)
    assert not unchecked.drawable.any() and any("not checked" in n for n in unchecked.notes)


def test_sparse_bands_carry_the_numbers_of_the_dense_ones() -> None:
    problem = ribbon(49)
    dense = bands.band_structure(problem, "GXM", 6, "dense", fermi=0.0)
    some = bands.band_structure(problem, dense.path, 6, "sparse", nbands=12, fermi=0.0)
    low = some.first_band
    both = dense.energies_eV[:, low : low + some.energies_eV.shape[1]]
    known = np.isfinite(some.energies_eV)
    assert known.sum(axis=1).min() >= 12 and np.abs(both - some.energies_eV)[known].max() < 1e-8
    assert bands.compare_bands(dense, some, 0.5).max_meV < 1e-5


def test_fermi_level_by_inertia_is_the_middle_of_the_gap_at_gamma() -> None:
    problem = ribbon(49)
    energies = scipy.linalg.eigh(*problem.at((0, 0, 0)), eigvals_only=True)
    for bands_filled, start in ((98, 0.0), (60, 9.0), (140, -9.0)):
        level = sparse.fermi_level_by_inertia(problem, 2.0 * bands_filled, start)
        assert level.energy_eV == pytest.approx((energies[bands_filled - 1] + energies[bands_filled]) / 2, abs=1e-8)


def test_wrong_wishes() -> None:
    problem = ribbon(36)
    h, s = problem.sparse_at((0, 0, 0))
    with pytest.raises(ConfigError, match="--solver dense"):
        sparse.solve_sparse(h, s, 0.0, problem.size - 3, problem=problem)
    with pytest.raises(ConfigError, match="engine 'magic' is unknown"):
        sparse.factorize(h, s, 0.0, problem, "magic")
    with pytest.raises(ConfigError, match="--fermi VALUE"):
        bands.band_structure(problem, solver="sparse")
    with pytest.raises(ConfigError, match="needs the dense solver"):
        bands.band_structure(problem, solver="sparse", fermi=0.0, s_threshold=1e-4)


def test_missing_mumps_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "mumps", None)
    problem = ribbon(36)
    with pytest.raises(MissingDependencyError, match="python-mumps"):
        sparse.factorize(*problem.sparse_at((0, 0, 0)), 0.0, problem, "mumps")
