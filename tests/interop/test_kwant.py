"""kwant's own matrices, from the builders of H and S, give the eigenvalues of H c = E S c."""

from __future__ import annotations

import importlib.util
import pathlib

import numpy as np
import pytest
import scipy.linalg
from numpy.typing import NDArray

from deeph_gformer import bands
from deeph_gformer.bands import BlochProblem
from deeph_gformer.errors import MissingDependencyError
from deeph_gformer.interop.convert import convert_folder
from deeph_gformer.interop.kwant import to_kwant

from .exported import MESH, POINTS, folder_of


def bloch(builder: object, k: tuple[float, ...], problem: BlochProblem) -> NDArray[np.complex128]:
    """kwant's matrix at k; its phases are exp(i k) of the translations that a builder has."""
    import kwant

    system = kwant.wraparound.wraparound(builder).finalized()
    names = iter(("k_x", "k_y", "k_z"))
    params = {next(names): 2 * np.pi * k[a] for a in range(3) if problem.periodic[a]}
    return np.asarray(system.hamiltonian_submatrix(params=params))


@pytest.mark.parametrize("spinful", [False, True])
def test_eigenvalues_of_kwant_are_those_of_h_and_s(tmp_path: pathlib.Path, spinful: bool) -> None:
    pytest.importorskip("kwant", reason="kwant is not installed")
    problem = bands.load(folder_of(tmp_path, spinful))
    h, s = to_kwant(problem)
    alone, nothing = to_kwant(problem, orthogonal=True, mesh=MESH)
    assert nothing is None
    for k in POINTS:
        mine = scipy.linalg.eigh(*problem.at(k), eigvals_only=True)
        both = bloch(h, k, problem), bloch(s, k, problem)
        assert np.abs(scipy.linalg.eigh(*both, eigvals_only=True) - mine).max() < 1e-10
        assert np.abs(np.linalg.eigvalsh(bloch(alone, k, problem)) - mine).max() < 1e-9


def test_the_folder_stands_alone(tmp_path: pathlib.Path) -> None:
    """``model.npz`` holds every block with its orbitals; the script needs kwant alone."""
    source = folder_of(tmp_path, True)
    done = convert_folder(source, tmp_path / "out", "kwant")
    assert done["files"] == ["model.npz", "kwant_model.py"] and "nothing cut" in done["notes"][-1]
    problem = bands.load(source)
    with np.load(tmp_path / "out" / "model.npz", allow_pickle=False) as data:
        model = dict(data)
    starts = np.concatenate([[0], np.cumsum(model["orbitals"])])
    for k in POINTS:
        matrices = []
        for name in ("hamiltonian", "overlap"):
            total, at = np.zeros((starts[-1],) * 2, complex), 0
            for x, y, z, i, j in model["keys"].tolist():
                shape = model["orbitals"][i], model["orbitals"][j]
                block = model[name][at : at + shape[0] * shape[1]].reshape(shape)
                at += block.size
                phase = np.exp(2j * np.pi * np.dot(k, (x, y, z)))
                total[starts[i] : starts[i + 1], starts[j] : starts[j + 1]] += phase * block
            matrices.append(total)
        found = scipy.linalg.eigh(*matrices, eigvals_only=True)
        assert np.abs(found - scipy.linalg.eigh(*problem.at(k), eigvals_only=True)).max() < 1e-10
    assert "deeph_gformer" not in (tmp_path / "out" / "kwant_model.py").read_text()


def test_a_missing_kwant_is_named(tmp_path: pathlib.Path) -> None:
    if importlib.util.find_spec("kwant"):
        pytest.skip("kwant is installed")
    with pytest.raises(MissingDependencyError, match="kwant"):
        to_kwant(bands.load(folder_of(tmp_path, False)))
