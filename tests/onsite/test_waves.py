"""Potentials of dipoles against direct sums and against closed formulas of dipole layers."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import erf

from deeph_gformer.io import Structure
from deeph_gformer.io.periodicity import piece_of
from deeph_gformer.onsite.waves import SMEARING, Waves, lattice_waves, potentials

CELL = np.array([[4.4, 0.0, 0.0], [2.2, 3.8, 0.0], [0.0, 0.0, 30.0]])
RNG = np.random.default_rng(0)
PLACES = RNG.random((4, 3)) @ np.array([[4.4, 0.0, 0.0], [2.2, 3.8, 0.0], [0.0, 0.0, 8.0]])
DIPOLES = RNG.normal(size=(4, 2, 3))


def waves_of(
    positions: NDArray[np.float64],
    keys: NDArray[np.int64],
    lattice: NDArray[np.float64] = CELL,
) -> Waves:
    return lattice_waves(lattice, positions, keys)


def bonds(count: int, *vectors: tuple[int, int, int]) -> NDArray[np.int64]:
    """Keys of atoms in a row, all of which repeat along lattice vectors."""
    rows = [[0, 0, 0, i, i + 1] for i in range(count - 1)]
    rows += [[*v, i, i] for v in vectors for i in range(count)]
    keys = np.array(rows, dtype=np.int64).reshape(-1, 5)
    back = np.concatenate([-keys[:, :3], keys[:, [4, 3]]], axis=1)
    return np.concatenate([keys, back, [[0, 0, 0, i, i] for i in range(count)]])


def smeared(vectors: NDArray[np.float64], dipole: NDArray[np.float64]) -> float:
    """Potential at these vectors from one dipole: -p · grad of erf(r / √2 σ) / r, summed."""
    r = np.linalg.norm(vectors, axis=1)
    vectors, r = vectors[r > 1e-9], r[r > 1e-9]
    slope = erf(r / 2**0.5 / SMEARING) / r**2
    slope -= (2 / np.pi) ** 0.5 / SMEARING * np.exp(-((r / SMEARING) ** 2) / 2) / r
    return float((vectors @ dipole * slope / r).sum())


def direct(lattice: NDArray[np.float64], reach: tuple[int, int, int]) -> NDArray[np.float64]:
    """(N, C), the sum over images."""
    images = np.array(list(itertools.product(*[range(-n, n + 1) for n in reach]))) @ lattice
    return np.array(
        [
            [
                sum(smeared(a - b - images, p[c]) for b, p in zip(PLACES, DIPOLES))
                for c in range(DIPOLES.shape[1])
            ]
            for a in PLACES
        ]
    )


def test_a_molecule_is_the_plain_sum() -> None:
    found = waves_of(PLACES, bonds(4)).potentials(DIPOLES)
    assert np.abs(found - direct(CELL, (0, 0, 0))).max() < 1e-8


def test_a_chain_is_the_sum_over_its_images() -> None:
    cell = np.diag([4.0, 30.0, 30.0])
    found = waves_of(PLACES, bonds(4, (1, 0, 0)), cell).potentials(DIPOLES)
    assert np.abs(found - direct(cell, (1000, 0, 0))).max() < 1e-6


def test_a_slab_is_the_limit_of_discs() -> None:
    """What is left out of a sum over |R| < n falls as 1/n: extrapolated."""
    found = waves_of(PLACES, bonds(4, (1, 0, 0), (0, 1, 0))).potentials(DIPOLES)
    sums = [direct(CELL, (n, n, 0)) for n in (40, 80)]
    limit = 2 * sums[1] - sums[0]
    assert np.abs((found - found[0]) - (limit - limit[0])).max() < 1e-3 * np.abs(found).max()


def test_the_step_of_a_dipole_layer() -> None:
    """4π p / A between both sides of a layer that is alone, at any distance."""
    places = np.array([[0.0, 0.0, 14.0], [0.3, 0.2, 28.0], [0.1, 0.5, 1.0]])
    waves = waves_of(places, bonds(3, (1, 0, 0), (0, 1, 0)))
    layer = np.zeros((3, 1, 3))
    layer[0, 0, 2] = 0.7
    found = waves.potentials(layer)[:, 0]
    area = np.linalg.norm(np.cross(CELL[0], CELL[1]))
    assert found[1] - found[2] == pytest.approx(4 * np.pi * 0.7 / area, rel=1e-6)
    assert found[0] == pytest.approx((found[1] + found[2]) / 2, abs=1e-9)


def test_layers_of_a_bulk_crystal() -> None:
    """Between layers of dipoles p a distance c apart: 4π p / A (1/2 - z/c)."""
    cell = CELL.copy()
    cell[2] = [0.4, -0.3, 40.0]
    places = np.array([[0.0, 0.0, 0.0], [0.2, 0.1, 12.0], [1.0, 0.5, 25.0]])
    waves = waves_of(places, bonds(3, (1, 0, 0), (0, 1, 0), (0, 0, 1)), cell)
    layer = np.zeros((3, 1, 3))
    layer[0, 0, 2] = 0.7
    area = np.linalg.norm(np.cross(cell[0], cell[1]))
    expected = 4 * np.pi * 0.7 / area * (0.5 - np.array([12.0, 25.0]) / 40.0)
    assert np.allclose(waves.potentials(layer)[1:, 0], expected, rtol=1e-6)


def test_vacuum_and_the_cell_boundary_do_not_matter() -> None:
    keys = bonds(4, (1, 0, 0), (0, 1, 0))
    found = waves_of(PLACES, keys).potentials(DIPOLES)
    cell = CELL.copy()
    cell[2] = [1.3, -0.4, 47.0]
    assert np.allclose(waves_of(PLACES, keys, cell).potentials(DIPOLES), found)
    moved, other = PLACES.copy(), keys.copy()
    moved[2] += CELL[2] - CELL[0]  # another image of atom 2
    for side, sign in ((3, 1), (4, -1)):
        other[:, :3] += sign * np.array([-1, 0, 1]) * (keys[:, side : side + 1] == 2)
    assert np.allclose(waves_of(moved, other).potentials(DIPOLES), found)


def test_pieces_do_not_feel_each_other() -> None:
    """Two layers beyond each other's reach in one cell, wherever in the vacuum: each is alone."""
    keys = bonds(4, (1, 0, 0), (0, 1, 0))
    both = np.concatenate([keys, keys + [0, 0, 0, 4, 4]])
    places = np.concatenate([PLACES, PLACES + [0.3, 0.1, 17.0]])
    structure = Structure(CELL, places, np.full(8, 6), ((0,),) * 8, False, {}, "two")
    piece = piece_of(both, 8)
    assert piece.tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    alone = waves_of(PLACES, keys).potentials(DIPOLES)
    found = potentials(structure, both, piece, np.concatenate([DIPOLES, -DIPOLES]))
    assert np.allclose(found, np.concatenate([alone, -alone]))
    nothing = np.concatenate([DIPOLES, 0 * DIPOLES])
    assert not potentials(structure, both, piece, nothing)[4:].any()


def test_askew_lattice_vectors_are_as_good() -> None:
    """A layer none of whose lattice vectors leaves it alone: the same crystal, described askew."""
    keys = bonds(4, (1, 0, 0), (0, 1, 0))
    found = waves_of(PLACES, keys).potentials(DIPOLES)
    turn = np.array([[1, 0, 1], [1, 1, 1], [0, 0, 1]])  # new vectors in the old ones
    other = keys.copy()
    other[:, :3] = np.round(keys[:, :3] @ np.linalg.inv(turn)).astype(np.int64)
    assert np.allclose(other[:, :3] @ turn, keys[:, :3])
    assert np.allclose(waves_of(PLACES, other, turn @ CELL).potentials(DIPOLES), found)


def test_processes_share_the_waves() -> None:
    keys = bonds(4, (1, 0, 0), (0, 1, 0))
    waves = waves_of(PLACES, keys)
    parts = [
        waves._replace(vector=waves.vector[n::3], weight=waves.weight[n::3]).potentials(DIPOLES)
        for n in range(3)
    ]
    assert np.allclose(np.sum(parts, axis=0), waves.potentials(DIPOLES))
