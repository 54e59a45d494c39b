"""The SLEPc engine against dense LAPACK, on one rank and on three; skipped without slepc4py.

It needs no torch: where the system's interpreter has slepc4py (Debian: python3-slepc4py), run
``/usr/bin/python3 -m pytest --confcutdir tests/bands tests/bands/test_slepc.py``.
"""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest
import scipy.linalg

from deeph_gformer.bands import sparse
from deeph_gformer.bands.sparse.factors import count_below
from deeph_gformer.errors import ConfigError

from .test_sparse import ribbon

PETSc = pytest.importorskip("petsc4py.PETSc")
pytest.importorskip("slepc4py.SLEPc")
COMPLEX = np.issubdtype(PETSc.ScalarType, np.complexfloating)


def test_nearest_states_counts_and_completeness() -> None:
    problem = ribbon(100)
    h, s = problem.sparse_at((0, 0, 0))
    every = scipy.linalg.eigh(h.toarray(), s.toarray(), eigvals_only=True)
    found = sparse.solve_sparse(h, s, 0.05, 20, problem=problem, engine="slepc")
    low = int(np.argmin(np.abs(every - found.energies[0])))
    assert (
        "SLEPc" in found.engine
        and found.complete is True
        and found.first == (None if COMPLEX else low)
    )
    assert np.abs(every[low : low + len(found.energies)] - found.energies).max() < 1e-8
    assert np.abs(h @ found.vectors - (s @ found.vectors) * found.energies).max() < 1e-6
    assert count_below(h, s, 0.05, problem, "slepc")[0] == (
        None if COMPLEX else int((every < 0.05).sum())
    )


def test_general_k_needs_a_complex_build() -> None:
    problem = ribbon(64)
    h, s = problem.sparse_at((0.1, 0.3, 0))
    if not COMPLEX:
        with pytest.raises(ConfigError, match="built for real"):
            sparse.solve_sparse(h, s, 0.05, 12, problem=problem, engine="slepc")
        return
    every = scipy.linalg.eigh(h.toarray(), s.toarray(), eigvals_only=True)
    found = sparse.solve_sparse(h, s, 0.05, 12, problem=problem, engine="slepc")
    low = int(np.argmin(np.abs(every - found.energies[0])))
    assert (
        found.complete is True
        and found.first is None
        and np.abs(every[low : low + len(found.energies)] - found.energies).max() < 1e-8
    )


SCRIPT = """
import json, sys
from petsc4py import PETSc
from deeph_gformer.bands import sparse
from deeph_gformer.bands.sparse import mpi_rank
from tests.bands.test_sparse import ribbon
problem = ribbon(100)
h, s = problem.sparse_at((0, 0, 0))
found = sparse.solve_sparse(h, s, 0.05, 20, problem=problem, engine="slepc", check="random")
if mpi_rank() == 0:
    told = {"ranks": PETSc.COMM_WORLD.getSize(), "complete": found.complete}
    json.dump(told | {"energies": found.energies.tolist()}, open(sys.argv[1], "w"))
"""


@pytest.mark.skipif(shutil.which("mpirun") is None, reason="needs mpirun")
def test_three_ranks(tmp_path: pathlib.Path) -> None:
    command = [
        "mpirun",
        "--allow-run-as-root",
        "--oversubscribe",
        "-n",
        "3",
        sys.executable,
        "-c",
        SCRIPT,
        str(tmp_path / "found.json"),
    ]
    outside = {
        name: value for name, value in os.environ.items() if not name.startswith(("OMPI_", "PMIX_"))
    }  # PETSc made this process a rank
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=300,
        cwd=pathlib.Path(__file__).parents[2],
        env=outside,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads((tmp_path / "found.json").read_text())
    problem = ribbon(100)
    every = scipy.linalg.eigh(*problem.at((0, 0, 0)), eigvals_only=True)
    low = int(np.argmin(np.abs(every - result["energies"][0])))
    assert result["ranks"] == 3 and result["complete"] is True
    assert np.abs(every[low : low + len(result["energies"])] - result["energies"]).max() < 1e-8
