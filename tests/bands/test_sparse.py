"""The sparse solver against dense LAPACK, and its completeness count against one that misses
states."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import scipy.sparse as sp

from deeph_gformer import bands
from deeph_gformer.analysis.redescribe import supercell
from deeph_gformer.bands import BlochProblem, sparse
from deeph_gformer.bands.memory import kept_memory, memory_of
from deeph_gformer.bands.sparse import factors, frontal, solver
from deeph_gformer.bands.sparse.condensed import CondensedFactor, condensed
from deeph_gformer.bands.sparse.dissection import dissect, minimum_cover
from deeph_gformer.bands.sparse.factors import count_below, elimination_plan, factorize, refines
from deeph_gformer.bands.sparse.frontal import FrontalFactor
from deeph_gformer.bands.sparse.lanczos import chance_of_missing
from deeph_gformer.bands.sparse.product import RowParts, thread_count
from deeph_gformer.errors import ConfigError, DataError
from deeph_gformer.io import BlockMatrix

from .conftest import blocks, graphene, structure


def ribbon(cells: int = 150, spin: int = 1, seed: int = 3) -> BlochProblem:
    """A disordered two-dimensional sheet, periodic in the plane, two shells an atom,
    non-orthogonal."""
    rng = np.random.default_rng(seed)
    side = int(cells**0.5)
    grid = np.array([(x, y) for x in range(side) for y in range(side)])
    positions = np.concatenate([grid * 2.0, np.full((len(grid), 1), 5.0)], axis=1)
    h, s = {}, {}
    for i, (x, y) in enumerate(grid):
        onsite = rng.standard_normal((4 * spin, 4 * spin)) + (
            1j * rng.standard_normal((4 * spin, 4 * spin)) if spin == 2 else 0
        )
        h[0, 0, 0, i, i], s[0, 0, 0, i, i] = onsite + onsite.conj().T, np.eye(4)
        for dx, dy in ((1, 0), (0, 1), (1, 1)):
            a, b = x + dx, y + dy
            key = (a // side, b // side, 0, i, (a % side) * side + b % side)
            h[key] = 0.5 * rng.standard_normal((4 * spin, 4 * spin))
            s[key] = 0.03 * rng.standard_normal((4, 4))
    crystal = structure(np.diag([2.0 * side, 2.0 * side, 20.0]), positions, ((0, 1),) * len(grid))
    return BlochProblem(crystal, blocks(h), blocks(s), label="ribbon", source="ribbon")


@pytest.mark.parametrize("k", [(0.0, 0.0, 0.0), (0.2, -0.1, 0.0)])
def test_frontal_factor_solves_and_counts(k: tuple[float, ...]) -> None:
    problem = ribbon()
    plan = elimination_plan(problem)
    assert len(plan.fronts) > 3  # really dissected
    h, s = problem.sparse_at(k)
    energies = scipy.linalg.eigh(h.toarray(), s.toarray(), eigvals_only=True)
    for sigma in (-2.0, 0.1, 3.0):
        matrix = (h - sigma * s).tocsr()
        factor = FrontalFactor(matrix, plan)
        b = np.random.default_rng(0).standard_normal((h.shape[0], 2))
        assert np.abs(matrix @ factor.solve(b) - b).max() < 1e-10
        assert np.abs(matrix @ factor.solve(b[:, 0]) - b[:, 0]).max() < 1e-10
        assert (
            factor.negative
            == int((energies < sigma).sum())
            == sparse.states_below(problem, np.array(k), sigma)
        )
        assert factor.entries < 0.8 * h.shape[0] ** 2


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex64, np.complex128])
def test_pivots_too_small_are_delayed(dtype: type) -> None:
    """Every pivot block singular (zero diagonal blocks of a bipartite lattice): only what is handed
    on to other rows can be eliminated."""
    problem = ribbon(144)
    h, _ = problem.sparse_at(
        (0.1, 0.2, 0) if np.issubdtype(dtype, np.complexfloating) else (0, 0, 0)
    )
    sublattice = np.repeat(np.indices((12, 12)).sum(axis=0).ravel() % 2, 4)
    rows, columns = h.nonzero()
    matrix = h.multiply(
        sp.csr_matrix((sublattice[rows] != sublattice[columns], (rows, columns)), shape=h.shape)
    ).tocsr()
    eigenvalues = np.linalg.eigvalsh(matrix.toarray())
    matrix = (matrix + 1e-9 * sp.identity(len(eigenvalues))).tocsr()
    factor = FrontalFactor(matrix, elimination_plan(problem), dtype)
    assert factor.delayed > 20 and factor.dtype == dtype
    assert factor.negative == int((eigenvalues + 1e-9 < 0).sum())
    b = np.random.default_rng(0).standard_normal((len(eigenvalues), 3)).astype(matrix.dtype)
    wrong = np.abs(matrix @ factor.solve(b) - b).max()
    assert wrong < (1e-2 if np.finfo(dtype).eps > 1e-10 else 1e-9)


def test_growth_without_delayed_pivots(monkeypatch: pytest.MonkeyPatch) -> None:
    """The threshold matters: without it the same factorisation loses digits."""
    problem = ribbon(144)
    h, s = problem.sparse_at((0, 0, 0))
    b = np.random.default_rng(0).standard_normal((h.shape[0], 3))
    wrong = []
    for growth in (10.0, np.inf):
        monkeypatch.setattr(frontal, "_GROWTH", growth)
        monkeypatch.setattr(frontal, "_CHUNK", 8)
        matrix = factors.shifted(h, s, 0.05)
        wrong.append(
            np.abs(matrix @ FrontalFactor(matrix, elimination_plan(problem)).solve(b) - b).max()
        )
    assert wrong[0] < 0.2 * wrong[1]


def test_dissection_separates() -> None:
    problem = ribbon(900)
    n = len(problem.structure)
    graph = sp.coo_matrix(
        (np.ones(len(problem.h)), (problem.h.keys[:, 3], problem.h.keys[:, 4])), shape=(n, n)
    ).tocsr()
    root = dissect(graph, problem.structure.positions, problem.structure.lattice, problem.periodic)

    def below(node) -> np.ndarray:
        return np.concatenate([node.atoms] + [below(c) for c in node.children])

    left, right = (below(c) for c in root.children)
    assert sorted(below(root).tolist()) == list(range(n)) and graph[left][:, right].nnz == 0
    assert len(root.atoms) == 60  # two closed lines of a 30 x 30 torus: nothing less parts it
    assert max(len(left), len(right)) < 0.6 * n
    plan = elimination_plan(problem)
    assert (
        sorted(plan.order.tolist()) == list(range(problem.size))
        and sum(len(f.rows) for f in plan.fronts) == problem.size
    )


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_product_on_threads(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = sp.random(40, 30, 0.2, format="csr", random_state=np.random.default_rng(2))
    matrix.data[:] += 1
    x = np.random.default_rng(3).standard_normal((30, 4)) + 1j
    assert RowParts(matrix, threads) @ x == pytest.approx(matrix.toarray() @ x)
    assert RowParts(matrix, threads) @ x[:, 0] == pytest.approx(matrix.toarray() @ x[:, 0])
    monkeypatch.setenv("OMP_NUM_THREADS", str(threads))
    assert thread_count() == threads


@pytest.mark.parametrize("dtype", [float, complex, np.complex64])
def test_product_by_panels(dtype: type) -> None:
    """Rows of an atom share their columns; empty rows and rows of their own are among them."""
    rng, rows = np.random.default_rng(7), []
    for count in (4, 1, 9, 5, 4):
        columns = rng.random(30) < 0.3
        rows.append(np.where(columns, rng.standard_normal((count, 30)), 0))
    dense = np.concatenate([*rows, np.zeros((3, 30)), rng.standard_normal((2, 30))]).astype(dtype)
    if dtype is not float:
        dense = dense * dtype(1 + 2j)
    parts = RowParts(sp.csr_matrix(dense))
    assert parts._panels is not None and len(parts._panels) == 7
    for x in (rng.standard_normal((30, 6)).astype(dtype), rng.standard_normal(30).astype(dtype)):
        found = parts @ x
        assert found.dtype == dtype and found == pytest.approx(dense @ x, rel=1e-4)
    assert RowParts(sp.random(90, 30, 0.2, format="csr", random_state=rng))._panels is None


@pytest.mark.parametrize("seed", range(6))
def test_minimum_cover_against_all_covers(seed: int) -> None:
    rng = np.random.default_rng(seed)
    pattern = rng.random((6, 5)) < 0.3
    rows, columns = minimum_cover(sp.csr_matrix(pattern.astype(np.int8)))
    assert not pattern[~rows][:, ~columns].any()
    sizes = [
        bin(chosen).count("1")
        + pattern[~np.array([chosen >> i & 1 for i in range(6)], dtype=bool)].any(axis=0).sum()
        for chosen in range(64)
    ]
    assert rows.sum() + columns.sum() == min(sizes)


@pytest.mark.parametrize("spin", [1, 2])
def test_what_all_k_share_is_eliminated_once(spin: int) -> None:
    """Solutions and counts of a condensed factor, at special and general k."""
    problem = ribbon(81, spin)
    b = np.random.default_rng(0).standard_normal((problem.size, 3))
    ks = ((0.0, 0.0, 0.0), (0.5, 0.0, 0.0), (0.2, -0.1, 0.0), (0.37, 0.81, 0.0))
    every = [scipy.linalg.eigh(*problem.at(k), eigvals_only=True) for k in ks]
    with kept_memory(problem, 10):
        for sigma in (-2.0, 0.1, float(every[2][150]) + 1e-6):
            cell, inside = condensed(problem, sigma, np.inf, np.dtype(complex))
            assert inside.dtype == (float if spin == 1 else complex)
            assert 0 < cell.outer.sum() < 0.5 * len(cell.outer)
            assert condensed(problem, sigma, np.inf, np.dtype(complex))[1] is inside
            for k, energies in zip(ks, every, strict=True):
                matrix = factors.shifted(*problem.sparse_at(k), sigma)
                memory = memory_of(problem)
                factor = CondensedFactor(matrix, problem, cell, inside, k, complex, memory)
                assert factor.negative == int((energies < sigma).sum())
                x = factor.solve(b)
                assert np.abs(matrix @ x - b).max() < 1e-10 * max(1.0, np.abs(x).max())
                y = factor.solve(1j * b[:, 0])
                assert np.abs(y - 1j * x[:, 0]).max() < 1e-6 * np.abs(x).max()
        single = condensed(problem, sigma, np.inf, np.dtype(np.complex64))[1]
        assert single.dtype == (np.float32 if spin == 1 else np.complex64)  # not what is kept
    with kept_memory(problem, 2):
        assert condensed(problem, 0.1, np.inf, np.dtype(complex)) is None


def test_bands_by_condensed_factors_are_the_dense_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = ribbon(144)
    monkeypatch.setattr("deeph_gformer.bands.sparse.condensed._WORTH", np.inf)
    ks = np.array([(0.0, 0.0, 0.0), (0.1, 0.3, 0.0), (0.45, -0.2, 0.0)])
    with kept_memory(problem, 3):
        for k in ks:
            h, s = problem.sparse_at(k)
            found = sparse.solve_sparse(
                h, s, 0.05, 20, problem=problem, precision="single", check="random", k=k
            )
            assert "condensed" in found.engine and "polished" in found.engine
            assert found.complete is True
            every = scipy.linalg.eigh(*problem.at(k), eigvals_only=True)
            mine = every[found.first : found.first + len(found.energies)]
            assert np.abs(mine - found.energies).max() < 1e-8


@pytest.mark.parametrize("k", [(0.0, 0.0, 0.0), (0.1, 0.3, 0.0)])
def test_single_precision_gives_double_energies(k: tuple[float, ...]) -> None:
    problem = ribbon(225)
    every = scipy.linalg.eigh(*problem.at(k), eigvals_only=True)
    h, s = problem.sparse_at(k)
    found = sparse.solve_sparse(h, s, 0.05, 20, problem=problem, precision="single")
    assert "single precision, polished" in found.engine and found.complete is True
    assert (
        np.abs(every[found.first : found.first + len(found.energies)] - found.energies).max() < 1e-8
    )
    assert np.abs(h @ found.vectors - (s @ found.vectors) * found.energies).max() < 1e-3
    assert (
        found.vectors.dtype == h.dtype
        and np.abs(found.vectors.conj().T @ (s @ found.vectors) - np.eye(len(found.energies))).max()
        < 1e-10
    )


def test_single_precision_is_given_up_where_it_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = ribbon(100)
    h, s = problem.sparse_at((0, 0, 0))
    every = scipy.linalg.eigh(h.toarray(), s.toarray(), eigvals_only=True)
    factor, _ = factorize(h, s, 0.05, problem, single=True)
    matrix = factors.shifted(h, s, 0.05)
    assert refines(factor, matrix)
    exact = factor.solve
    monkeypatch.setattr(
        FrontalFactor,
        "solve",
        lambda self, b: exact(b) * (1.6 if self.dtype == np.float32 else np.nan),
    )
    assert not refines(factor, matrix)
    monkeypatch.undo()
    real = factors.factorize

    def poor(h, s, sigma, problem, engine="auto", single=False, k=None):
        """Single precision that is off by much more than rounding: factor and count of another
        energy."""
        return real(h, s, sigma + (0.7 if single else 0.0), problem, engine, single)

    monkeypatch.setattr(factors, "factorize", poor)
    monkeypatch.setattr(solver, "factorize", poor)
    assert count_below(h, s, 0.05, problem, precision="single")[0] == int((every < 0.05).sum())
    found = sparse.solve_sparse(h, s, 0.05, 12, problem=problem, precision="single")
    assert "single" not in found.engine and found.complete is True
    assert (
        np.abs(every[found.first : found.first + len(found.energies)] - found.energies).max() < 1e-8
    )


@pytest.mark.parametrize("spin", [1, 2])
def test_sparse_equals_dense(spin: int) -> None:
    problem = ribbon(100, spin)
    k = (0.1, 0.3, 0.0)
    every = scipy.linalg.eigh(*problem.at(k), eigvals_only=True)
    h, s = problem.sparse_at(k)
    found = sparse.solve_sparse(h, s, 0.05, 20, problem=problem)
    assert found.complete is True
    low = found.first
    assert np.abs(every[low : low + len(found.energies)] - found.energies).max() < 1e-8
    nearest = np.sort(np.sort(np.abs(every - 0.05))[:20])
    assert np.sort(np.abs(found.energies - 0.05))[:20] == pytest.approx(nearest, abs=1e-8)


@pytest.mark.parametrize("away", [0.0, 1e-9, 1e-7])
def test_sigma_on_a_level(away: float) -> None:
    """H - sigma S is singular there; the states are found all the same."""
    problem = ribbon(40)
    k = np.array([0.13, 0.0, 0.0])
    dense = scipy.linalg.eigh(*problem.at(k), eigvals_only=True)
    sigma = float(dense[len(dense) // 2]) + away
    found = sparse.solve_sparse(*problem.sparse_at(k), sigma, 7, problem=problem, check="count")
    assert not found.failure and found.complete
    first = int(np.argmin(np.abs(dense - found.energies[0])))
    assert np.abs(dense[first : first + len(found.energies)] - found.energies).max() < 1e-8
    assert found.first == first and np.abs(found.energies - sigma).min() < 1e-6


def test_all_states_of_a_window_and_degenerate_levels() -> None:
    problem = ribbon(64)
    pairs = BlockMatrix.from_blocks(
        problem.h.keys, [np.kron(np.eye(2), block) for _, block in problem.h]
    )
    doubled = BlochProblem(problem.structure, pairs, problem.s, source="pairs")
    k = (0.2, 0.1, 0.0)
    every = scipy.linalg.eigh(*doubled.at(k), eigvals_only=True)  # every level twice
    h, s = doubled.sparse_at(k)
    found = sparse.solve_sparse(h, s, 0.0, 0, problem=doubled, window=(-0.4, 0.5))
    inside = every[(every > -0.4) & (every <= 0.5)]
    assert (
        found.complete is True
        and len(found.energies) == len(inside)
        and np.abs(found.energies - inside).max() < 1e-8
    )


def test_a_missed_state_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = ribbon(64)
    h, s = problem.sparse_at((0, 0, 0))
    real = solver.shift_invert_lanczos

    def forgetful(*args, **kwargs):
        theta, x, good = real(*args, **kwargs)
        keep = np.arange(x.shape[1]) != 3
        return theta[keep], x[:, keep], good

    every = scipy.linalg.eigh(h.toarray(), s.toarray(), eigvals_only=True)
    monkeypatch.setattr(solver, "shift_invert_lanczos", forgetful)
    for check in ("count", "random"):
        with monkeypatch.context() as once:
            once.setattr(solver, "_SEARCHES", 1)
            found = sparse.solve_sparse(h, s, 0.0, 12, problem=problem, check=check)
            assert found.complete is False
        found = sparse.solve_sparse(h, s, 0.0, 12, problem=problem, check=check)  # searched again
        right = every[found.first : found.first + len(found.energies)]
        assert found.complete is True and found.energies == pytest.approx(right, abs=1e-8)


@pytest.mark.parametrize("precision", ["single", "double"])
@pytest.mark.parametrize("k", [(0.0, 0.0, 0.0), (0.1, 0.3, 0.0)])
def test_random_check_shows_completeness_and_knows_the_band_numbers(
    k: tuple[float, ...], precision: str
) -> None:
    problem = ribbon(225)
    h, s = problem.sparse_at(k)
    every = scipy.linalg.eigh(h.toarray(), s.toarray(), eigvals_only=True)
    found = sparse.solve_sparse(
        h, s, 0.05, 20, problem=problem, check="random", precision=precision
    )
    assert found.complete is True and "but for a chance of" in found.check
    assert (
        np.abs(every[found.first : found.first + len(found.energies)] - found.energies).max() < 1e-8
    )


def test_chance_of_missing_is_a_bound() -> None:
    """Runs too short to see the state that is missing: how often it hides must not exceed the
    bounds that are given."""
    n = 400
    rng = np.random.default_rng(4)
    energies = np.sort(rng.uniform(-1, 1, n))
    u = 0.3 * rng.standard_normal((n, n)) / np.sqrt(n) + np.eye(n)  # states c with c† S c = 1
    inverse = np.linalg.inv(u)
    s = sp.csr_matrix(inverse.T @ inverse)
    near = np.argsort(np.abs(energies))[:60]
    found, reach = u[:, np.delete(near, 29)], abs(energies[near[30]])

    def solve(b: np.ndarray) -> np.ndarray:
        return u @ ((u.T @ b) / energies[:, None])

    for steps, least in ((3, 30), (4, 10)):
        runs = [
            chance_of_missing(solve, s, found, reach, width=1, max_steps=steps, target=0.0, seed=i)
            for i in range(300)
        ]
        hidden = np.array([chance for chance, met in runs if not met])
        assert len(hidden) >= least  # else this shows nothing
        assert all((hidden < level).sum() <= 300 * level for level in (0.01, 0.03, 0.1, 0.3))
    chance, met = chance_of_missing(solve, s, u[:, near], reach)
    assert chance < 1e-9 and not met
    assert chance_of_missing(solve, s, found, reach)[1]


def test_incomplete_and_unconverged_points_are_not_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = ribbon(36)
    real = solver.shift_invert_lanczos
    calls = []

    def sometimes(solve, s, count, dtype, **options):
        calls.append(1)
        theta, x, good = real(solve, s, count, dtype, **options)
        # the third point, wherever sigma is moved to
        return (theta, x, count - 2) if len(calls) in (3, 4, 5) else (theta, x, good)

    monkeypatch.setattr(solver, "shift_invert_lanczos", sometimes)
    found = bands.band_structure(problem, "GX", 6, "sparse", nbands=10, fermi=0.0)
    assert "multifrontal" in found.solver and (~found.complete).sum() == 1
    assert any(
        "1 of " in note and "did not converge and are not drawn" in note for note in found.notes
    )
    bad = int(np.flatnonzero(~found.complete)[0])
    assert np.isnan(found.energies_eV[bad]).all() and all(
        bad not in run for _, run in found.lines()
    )
    unchecked = bands.band_structure(problem, "GX", 4, "sparse", nbands=10, fermi=0.0, check="none")
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
        assert level.energy_eV == pytest.approx(
            (energies[bands_filled - 1] + energies[bands_filled]) / 2, abs=1e-8
        )


@pytest.mark.parametrize("start", [0.0, 0.3, -1.7])
@pytest.mark.parametrize(("mass", "cells"), [(0.0, 3), (0.4, 3), (0.0, 6), (0.4, 6)])
def test_fermi_level_by_inertia_of_degenerate_levels(start: float, mass: float, cells: int) -> None:
    """Supercells fold both Dirac points onto Γ: four states at 0, or two each at -0.4 and 0.4; the
    bisection may end on any of them."""
    unit, larger = graphene(mass=mass), supercell(2, [cells, cells, 1])
    problem = BlochProblem(larger.structure(unit.structure), larger.blocks(unit.h))
    for guess in (start, start + 0.1):
        level = sparse.fermi_level_by_inertia(problem, 2.0 * cells**2, guess)
        assert level.energy_eV == pytest.approx(0.0, abs=1e-8)
        assert "middle between" in level.source


def test_wrong_wishes() -> None:
    problem = ribbon(36)
    h, s = problem.sparse_at((0, 0, 0))
    with pytest.raises(ConfigError, match="--solver dense"):
        sparse.solve_sparse(h, s, 0.0, problem.size - 3, problem=problem)
    with pytest.raises(ConfigError, match="engine 'magic' is unknown"):
        factorize(h, s, 0.0, problem, "magic")
    with pytest.raises(ConfigError, match="--fermi VALUE"):
        bands.band_structure(problem, solver="sparse")
    with pytest.raises(ConfigError, match="needs the dense solver"):
        bands.band_structure(problem, solver="sparse", fermi=0.0, s_threshold=1e-4)


@pytest.mark.parametrize("window", [None, (-0.5, 0.5)])
def test_overlap_that_is_not_positive_definite(window: tuple[float, float] | None) -> None:
    problem = ribbon()
    values = problem.s.values.copy()
    onsite = (problem.s.keys[:, 3] == problem.s.keys[:, 4]) & ~problem.s.keys[:, :3].any(axis=1)
    values[problem.s.offsets[:-1][onsite][::3]] -= 1.5
    bad = BlochProblem(
        problem.structure,
        problem.h,
        BlockMatrix(problem.s.keys, problem.s.shapes, values),
        source="file",
    )
    with pytest.raises(DataError, match=r"file, k = .*: S\(k\) is not positive definite"):
        bands.band_structure(bad, "GX", 2, "sparse", fermi=0.0, nbands=20, window=window)


def flat_levels(levels: dict[float, int], atoms: int = 100) -> BlochProblem:
    """Atoms of four orbitals that do not couple but for S: levels with given numbers of states."""
    energies = np.repeat(list(levels), list(levels.values()))
    rest = np.linspace(5.0, 9.0, 4 * atoms - len(energies))
    every = np.concatenate([energies, rest]).reshape(atoms, 4)
    rng = np.random.default_rng(5)
    h, s = {}, {}
    for atom in range(atoms):
        root = np.eye(4) + 0.1 * rng.standard_normal((4, 4))
        h[0, 0, 0, atom, atom] = root @ np.diag(every[atom]) @ root.T
        s[0, 0, 0, atom, atom] = root @ root.T
    line = np.stack([2.0 * np.arange(atoms), np.zeros(atoms), np.zeros(atoms)], axis=1)
    crystal = structure(np.diag([2.0 * atoms, 20, 20]), line, ((0, 1),) * atoms)
    return BlochProblem(crystal, blocks(h), blocks(s), source="flat")


@pytest.mark.parametrize("precision", ["single", "double"])
def test_degenerate_levels_on_both_ends_of_a_window(precision: str) -> None:
    """36 states at each end: (low, high] holds those at the upper one and none at the lower."""
    problem = flat_levels({-3.0: 7, -1.0: 36, 0.2: 5, 1.0: 36, 2.5: 4})
    h, s = problem.sparse_at((0, 0, 0))
    found = sparse.solve_sparse(
        h, s, 0.0, 0, problem=problem, window=(-1.0, 1.0), precision=precision
    )
    assert found.complete is True and found.first == 7 + 36
    assert found.energies == pytest.approx([0.2] * 5 + [1.0] * 36, abs=1e-7)
    below = sparse.solve_sparse(h, s, 0.0, 0, problem=problem, window=(-2.0, -1.0))
    assert below.complete is True and below.first == 7 and len(below.energies) == 36
    none = sparse.solve_sparse(h, s, 0.0, 0, problem=problem, window=(-2.9, -1.1))
    assert none.complete is True and none.first == 7 and len(none.energies) == 0


@pytest.mark.parametrize("check", ["count", "random"])
def test_a_level_larger_than_what_is_asked_is_not_cut(check: str) -> None:
    problem = flat_levels({-3.0: 7, -1.0: 36, 0.5: 5, 2.5: 4})
    h, s = problem.sparse_at((0, 0, 0))
    found = sparse.solve_sparse(h, s, -0.95, 6, problem=problem, check=check)
    assert found.complete is True and found.first == 7
    assert found.energies == pytest.approx([-1.0] * 36, abs=1e-7)
    whole = flat_levels({-1.0: 300})
    h, s = whole.sparse_at((0, 0, 0))
    found = sparse.solve_sparse(h, s, -0.95, 4, problem=whole, check=check)
    assert found.complete is False or len(found.energies) == 300


@pytest.mark.parametrize(
    ("sigma", "nbands", "options", "message"),
    [
        (np.nan, 5, {}, "states around nan eV"),
        (np.inf, 5, {}, "states around inf eV"),
        (0.0, 0, {}, "0 bands asked; at least 1"),
        (0.0, -3, {}, "-3 bands asked"),
        (0.0, 5, {"window": (1.0, -1.0)}, "the first below the second"),
        (0.0, 5, {"window": (1.0, 1.0)}, "the first below the second"),
        (0.0, 5, {"window": (np.nan, 1.0)}, "two finite energies"),
        (0.0, 5, {"window": (-np.inf, 1.0)}, "two finite energies"),
        (0.0, 5, {"window": 3.0}, "two finite energies"),
        (0.0, 5, {"check": "luck"}, "check 'luck' is unknown"),
        (0.0, 5, {"precision": "half"}, "precision 'half' is unknown"),
    ],
)
def test_wishes_without_meaning(sigma: float, nbands: int, options: dict, message: str) -> None:
    problem = ribbon(36)
    h, s = problem.sparse_at((0, 0, 0))
    with pytest.raises(ConfigError, match=message):
        sparse.solve_sparse(h, s, sigma, nbands, problem=problem, **options)
    for energy in (np.nan, np.inf):
        with pytest.raises(ConfigError, match="a finite number is needed"):
            sparse.states_below(problem, (0, 0, 0), energy)
        with pytest.raises(ConfigError, match="do not fill whole bands"):
            sparse.fermi_level_by_inertia(problem, energy)


def test_factors_that_live_together_share_no_memory() -> None:
    """One after the other does, with the same numbers; at the end none is kept."""
    problem = ribbon(40)
    h, s = problem.sparse_at((0.1, 0.3, 0.0))
    b = np.random.default_rng(0).standard_normal((problem.size, 3)).astype(complex)
    fresh = [factors.factorize(h, s, sigma, problem)[0].solve(b) for sigma in (0.05, 0.4)]
    assert np.abs(fresh[0] - fresh[1]).max() > 1e-3
    with kept_memory(problem):
        one, two = (factors.factorize(h, s, sigma, problem)[0] for sigma in (0.05, 0.4))
        assert np.array_equal(one.solve(b), fresh[0]) and np.array_equal(two.solve(b), fresh[1])
        kept = memory_of(problem).array("space", 1, np.uint8)
        del one, two
        again, _ = factors.factorize(h, s, 0.4, problem)
        assert np.array_equal(again.solve(b), fresh[1])
        assert np.shares_memory(kept, memory_of(problem).array("space", 1, np.uint8))
    assert memory_of(problem) is not memory_of(problem)
