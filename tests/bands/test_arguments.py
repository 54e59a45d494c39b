"""What is asked of the solvers: a word on what makes no sense, and nothing cut by rounding."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from deeph_gformer import bands
from deeph_gformer.bands.sparse import solve_sparse
from deeph_gformer.errors import ConfigError, DataError

from ..conftest import random_structure

LEVEL = 0.3


@pytest.fixture(scope="module")
def problem() -> bands.BlochProblem:
    structure, h, s = random_structure(1, 4)
    return bands.BlochProblem(structure, h, s, source="crystal")


@pytest.mark.parametrize("imaginary", [0.0, 1.0])
def test_a_window_that_ends_on_a_level_of_36_states(imaginary: float) -> None:
    """(low, high] holds all of them at the upper end and none at the lower, whatever rounding
    makes of them."""
    rng = np.random.default_rng(0)
    levels = np.concatenate([np.full(36, LEVEL), np.linspace(-8, -3, 20), np.linspace(3, 8, 20)])
    n = len(levels)
    q, _ = np.linalg.qr(rng.normal(size=(n, n)) + 1j * imaginary * rng.normal(size=(n, n)))
    root = np.linalg.cholesky(np.eye(n) + 0.01 * np.diag(rng.random(n)))
    h = root @ (q * levels) @ q.conj().T @ root.T
    h, s = (h + h.conj().T) / 2, root @ root.T
    for low, high in ((LEVEL, 4.0), (-4.0, LEVEL), (LEVEL - 1e-8, 4.0), (-4.0, LEVEL - 1e-8)):
        found = bands.solve_dense(h, s, window=(low, high))
        inside = np.sort(levels[(levels > low + 1e-7) & (levels <= high + 1e-7)])
        assert found.complete is True and len(found.energies) == len(inside), (low, high)
        assert found.energies == pytest.approx(inside, abs=1e-9)


def changed(matrix: np.ndarray, value: complex) -> np.ndarray:
    new = matrix.copy()
    new[0, 1] = value  # in the triangle that LAPACK does not read
    return new


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda h, s: (changed(h, np.nan), s), r"H\(k\) contains NaN"),
        (lambda h, s: (h, changed(s, np.inf)), r"S\(k\) contains NaN"),
        (lambda h, s: (changed(h, 5.0), s), r"H\(k\) is not Hermitian"),
        (lambda h, s: (h[:3, :3], s), "no square matrices of one size"),
        (lambda h, s: (h[:0, :0], s[:0, :0]), "no square matrices of one size"),
    ],
)
def test_matrices_that_are_no_h_and_s(
    problem: bands.BlochProblem, change: Callable[..., tuple[np.ndarray, np.ndarray]], words: str
) -> None:
    with pytest.raises(DataError, match=words):
        bands.solve_dense(*change(*problem.at((0.1, 0.2, 0.3))))


def test_sparse_matrices_that_are_not_of_the_problem(problem: bands.BlochProblem) -> None:
    h, s = problem.sparse_at((0.1, 0.2, 0.3))
    with pytest.raises(DataError, match=r"H\(k\) is \(5, 5\), the problem has 26 orbitals"):
        solve_sparse(h[:5, :5], s[:5, :5], 0.0, 3, problem=problem)
    broken = h.copy()
    broken.data[3] = np.nan
    with pytest.raises(DataError, match=r"H\(k\) contains NaN"):
        solve_sparse(broken, s, 0.0, 3, problem=problem)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"path_engine": "sekpath"}, "path engine 'sekpath' is unknown; there are auto, ase"),
        ({"npoints": 1.5}, "1.5 k-points of the path asked"),
        ({"nbands": 1.5, "fermi": 0.0}, "crystal: 1.5 bands asked; at least 1 and at most 26"),
        ({"nbands": 0, "fermi": 0.0}, "crystal: 0 bands asked"),
        ({"fermi": "x"}, "Fermi level x eV: a finite number is needed"),
        ({"fermi": 10**400}, "Fermi level 1000.* eV: a finite number is needed"),
        ({"processes": 2.5}, "2.5 processes asked; at least 1 and at most"),
    ],
)
def test_numbers_and_names_that_mean_nothing(
    problem: bands.BlochProblem, options: dict[str, object], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        bands.band_structure(problem, "GX", **{"npoints": 3, **options})  # type: ignore[arg-type]


def test_a_mesh_is_not_rounded(problem: bands.BlochProblem) -> None:
    with pytest.raises(ConfigError, match="three positive integers"):
        bands.mesh_spectrum(problem, (1.5, 1, 1))  # type: ignore[arg-type]
    assert bands.mesh_spectrum(problem, np.array([1, 1, 1])).mesh == (1, 1, 1)
    for number in ("x", 10**400):
        with pytest.raises(ConfigError, match="electrons: a number is needed"):
            bands.fermi_level(problem, number, "1x1x1")  # type: ignore[arg-type]
