"""Comparisons of band structures on meshes."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import scipy.linalg

from deeph_gformer.bands.bloch import BlochProblem
from deeph_gformer.bands.compare import compare_bands, mesh_bands
from deeph_gformer.bands.fermi import FermiLevel
from deeph_gformer.bands.kmesh import mesh_spectrum
from deeph_gformer.io import BlockMatrix

from ..conftest import random_structure


def test_a_mesh_is_compared_where_only_one_has_time_reversal() -> None:
    """A prediction with spin-orbit coupling breaks time reversal by rounding.

    Its mesh is solved whole, DFT's by half.
    """
    structure, h, s = random_structure(spinful=True)
    flip = np.array([[0, 1], [-1, 0]])

    def reversed_in_time(block: np.ndarray) -> np.ndarray:
        n, m = block.shape[0] // 2, block.shape[1] // 2
        return np.kron(flip, np.eye(n)) @ block.conj() @ np.kron(flip, np.eye(m)).T

    even = BlockMatrix.from_blocks(h.keys, [(b + reversed_in_time(b)) / 2 for _, b in h])
    odd = dataclasses.replace(even, values=even.values + 1e-3 * h.values)
    spectra = [mesh_spectrum(BlochProblem(structure, m, s), "3x3x1") for m in (even, odd)]
    assert [len(x.kpoints) for x in spectra] == [5, 9]
    one, two = (mesh_bands(x, FermiLevel(0.0, "given"), "x") for x in spectra)
    assert one.kpoints == pytest.approx(two.kpoints)
    error = compare_bands(one, two, 50.0)
    expected = []
    for k, levels in zip(one.kpoints, one.energies_eV):
        for matrix, known in ((even, levels), (odd, None)):
            found = scipy.linalg.eigh(*BlochProblem(structure, matrix, s).at(k), eigvals_only=True)
            if known is not None:
                assert found == pytest.approx(known, abs=1e-9)
                base = found
            else:
                expected.append(np.abs(found - base).mean())
    assert error.mae_meV == pytest.approx(np.mean(expected) * 1e3, rel=1e-6)
