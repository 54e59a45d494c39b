"""``_tb.dat``: read by WannierBerri itself where it is installed, and against H c = E S c."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest
import scipy.linalg

from deeph_gformer import bands
from deeph_gformer.interop.convert import convert_folder
from deeph_gformer.interop.wannierberri import write_wannierberri

from .exported import MESH, POINTS, folder_of


@pytest.mark.parametrize("spinful", [False, True])
def test_eigenvalues_of_wannierberri_are_those_of_h_and_s(
    tmp_path: pathlib.Path, spinful: bool
) -> None:
    pytest.importorskip("wannierberri", reason="WannierBerri is not installed")
    source = folder_of(tmp_path, spinful)
    done = convert_folder(source, tmp_path / "out", "wannierberri", mesh=MESH)
    assert done["files"] == ["wannierberri_tb.dat"]
    problem = bands.load(source)
    from wannierberri.system.system_tb import get_system_tb

    system = get_system_tb(tb_file=str(tmp_path / "out" / done["files"][0]))
    assert np.abs(np.asarray(system.real_lattice) - problem.structure.lattice).max() < 1e-9
    ham = {tuple(r): h for r, h in zip(system.rvec.iRvec.tolist(), system.Ham_R, strict=True)}
    assert abs(sum(np.linalg.norm(h) for h in ham.values())) > 1.0
    from wannierberri.evaluate_k import evaluate_k

    for k in POINTS:
        mine = scipy.linalg.eigh(*problem.at(k), eigvals_only=True)
        theirs = evaluate_k(system, k=list(k), quantities=["energy"], return_single_as_dict=True)
        assert np.abs(np.sort(theirs["energy"]) - mine).max() < 1e-9
    centres = np.repeat(
        problem.structure.positions, problem.structure.orbital_counts * problem.spin, 0
    )
    assert np.abs(system.wannier_centers_cart - centres).max() < 1e-9


def test_the_file_is_read_back_by_hand(tmp_path: pathlib.Path) -> None:
    """Wannier90's layout: lattice, degeneracies, H(R), r(R); notes say what was cut."""
    problem = bands.load(folder_of(tmp_path, False))
    files, notes = write_wannierberri(tmp_path / "out", problem, MESH)
    lines = (tmp_path / "out" / files[0]).read_text().splitlines()
    size, count = int(lines[4]), int(lines[5])
    assert size == problem.size
    start = 6 + -(-count // 15)
    degeneracy = np.array(" ".join(lines[6:start]).split(), dtype=int)
    body = lines[start : start + count * (size * size + 2)]
    h = np.zeros((count, size, size), dtype=complex)
    cells = np.zeros((count, 3), dtype=int)
    for c in range(count):
        own = body[c * (size * size + 2) : (c + 1) * (size * size + 2)]
        assert own[0] == ""
        cells[c] = own[1].split()
        for line in own[2:]:
            m, n, x, y = line.split()
            h[c, int(m) - 1, int(n) - 1] = float(x) + 1j * float(y)
    for k in POINTS:
        at = np.tensordot(np.exp(2j * np.pi * cells @ np.array(k)) / degeneracy, h, 1)
        assert (
            np.abs(
                np.linalg.eigvalsh(at) - scipy.linalg.eigh(*problem.at(k), eigvals_only=True)
            ).max()
            < 1e-10
        )
    assert "off by up to" in notes[0] and "meV" in notes[0] and "Berry" in notes[1]
