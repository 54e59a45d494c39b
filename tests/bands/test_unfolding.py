"""Unfolding: exact for perfect supercells of crystals without symmetry, sum rules for all
others."""

from __future__ import annotations

import dataclasses
import pathlib

import numpy as np
import pytest
import scipy.linalg
from scipy.integrate import trapezoid

from deeph_gformer import bands
from deeph_gformer.bands import BlochProblem
from deeph_gformer.bands.kpath import find_path
from deeph_gformer.bands.unfolding import (
    known_window,
    plot_unfolded,
    primitive_maps,
    unfold,
)
from deeph_gformer.bands.unfolding.plot import spectral_function
from deeph_gformer.bands.unfolding.weights import unfolded_weights
from deeph_gformer.errors import ConfigError
from deeph_gformer.io import BlockMatrix, Structure

from .conftest import blocks, graphene, random_problem, structure

MATRICES = [
    np.diag([2, 1, 1]),
    np.array([[1, 1, 0], [-1, 2, 0], [0, 0, 1]]),
    np.array([[2, 1, 0], [0, 1, 1], [1, 0, 2]]),
    np.array([[0, 2, 0], [1, 0, 0], [0, 1, 1]]),  # of the other handedness
]


def representatives(matrix: np.ndarray) -> np.ndarray:
    """The primitive cells of one supercell."""
    reach = int(np.abs(matrix).sum())
    every = np.stack(np.meshgrid(*[np.arange(-reach, reach + 1)] * 3), -1).reshape(-1, 3)
    inside = every @ np.linalg.inv(matrix)
    return every[((inside > -1e-9) & (inside < 1 - 1e-9)).all(axis=1)]


def repeat(problem: BlochProblem, matrix: np.ndarray, seed: int = 0) -> BlochProblem:
    """The supercell A = M a, its atoms shuffled and moved by supercell vectors."""
    rng, small = np.random.default_rng(seed), problem.structure
    cells, count = representatives(matrix), len(problem.structure)
    inverse, lattice = np.linalg.inv(matrix), matrix @ small.lattice
    where = {tuple(cell): n for n, cell in enumerate(cells.tolist())}
    order = rng.permutation(len(cells) * count)  # new number of each atom
    moved = rng.integers(-1, 2, (len(order), 3)) * np.array(problem.periodic)

    def blown_up(source: BlockMatrix) -> BlockMatrix:
        keys, values = [], []
        for number, cell in enumerate(cells):
            for (x, y, z, i, j), block in source:
                end = cell + np.array([x, y, z])
                image = np.floor(end @ inverse + 1e-9).astype(int)
                other = where[tuple((end - image @ matrix).tolist())]
                a, b = number * count + i, other * count + j
                keys.append([*(image + moved[a] - moved[b]), order[a], order[b]])
                values.append(block)
        return BlockMatrix.from_blocks(np.array(keys), values)

    positions = np.concatenate([small.positions + cell @ small.lattice for cell in cells])
    positions += moved @ lattice
    back = np.argsort(order)
    shells = small.orbital_types * len(cells)
    big = Structure(
        lattice,
        positions[back],
        np.tile(small.numbers, len(cells))[back],
        tuple(shells[n] for n in back),
        name="supercell",
    )
    return BlochProblem(big, blown_up(problem.h), blown_up(problem.s), source="supercell")


def displaced(problem: BlochProblem, size: float, seed: int = 1) -> BlochProblem:
    """Atoms moved at random, on-site energies shifted: no translation is left."""
    rng, crystal = np.random.default_rng(seed), problem.structure
    positions = crystal.positions + size * rng.uniform(-1, 1, (len(crystal), 3))
    values = problem.h.values.copy()
    onsite = (problem.h.keys[:, 3] == problem.h.keys[:, 4]) & ~problem.h.keys[:, :3].any(axis=1)
    for e in np.flatnonzero(onsite):
        block = values[problem.h.offsets[e] : problem.h.offsets[e + 1]]
        rows = int(problem.h.shapes[e, 0])
        block.reshape(rows, rows)[np.arange(rows), np.arange(rows)] += 0.2 * rng.standard_normal()
    moved = dataclasses.replace(crystal, positions=positions)
    h = BlockMatrix(problem.h.keys, problem.h.shapes, values)
    return BlochProblem(moved, h, problem.s, source="displaced")


@pytest.mark.parametrize("spin", [1, 2])
@pytest.mark.parametrize("number", range(len(MATRICES)))
@pytest.mark.parametrize("given", ["structure", "matrix"])
def test_exact_for_a_perfect_supercell(spin: int, number: int, given: str) -> None:
    """Weights 0 or 1, and those of 1 have the primitive energies, at points of no symmetry too."""
    small, matrix = random_problem(seed=number, spin=spin), MATRICES[number]
    big = repeat(small, matrix)
    primitive = small.structure if given == "structure" else matrix
    found = unfold(big, primitive, npoints=14, fermi=0.0)
    (m,) = found.maps
    assert m.count == round(abs(np.linalg.det(matrix))) and m.displacement_A < 1e-9
    assert (m.matrix == matrix).all() and m.strain < 1e-9
    assert np.abs(found.weights - np.round(found.weights)).max() < 1e-10
    for k, energies, weights in zip(
        found.bands.kpoints, found.bands.energies_eV, np.round(found.weights)
    ):
        right = scipy.linalg.eigh(*small.at(k), eigvals_only=True)
        assert np.abs(energies[weights == 1] - right).max() < 1e-10
    lengths = bands.band_structure(small, found.bands.path, fermi=0.0).distances
    assert found.bands.distances == pytest.approx(lengths)


def test_path_from_a_file_is_one_of_the_primitive_zone(tmp_path: pathlib.Path) -> None:
    """A few points around one: in fractions, and with lengths, of the primitive lattice."""
    small, matrix = random_problem(seed=1), MATRICES[1]
    (tmp_path / "K_PATH").write_text("5 0.1 0.2 0.0 0.3 0.1 0.0 P Q\n")
    path = unfold(repeat(small, matrix), matrix, tmp_path / "K_PATH", fermi=0.0).bands.path
    assert path.kpoints == pytest.approx(np.linspace([0.1, 0.2, 0], [0.3, 0.1, 0], 5))
    away = np.array([0.2, -0.1, 0]) @ small.structure.reciprocal
    assert path.distances[-1] == pytest.approx(np.linalg.norm(away))
    assert [name for _, name in path.labels] == ["P", "Q"]


@pytest.mark.parametrize("spin", [1, 2])
def test_exact_in_a_sparse_window(spin: int) -> None:
    """Some states around an energy: weights are 0 or 1, and those of 1 are primitive energies."""
    from .test_sparse import ribbon

    small = ribbon(16, spin)
    big = repeat(small, np.array([[2, 1, 0], [-1, 2, 0], [0, 0, 1]]))
    path = find_path(small.structure, (True, True, False), "GX", 2)
    path = dataclasses.replace(path, kpoints=np.array([[0.07, 0.11, 0], [0.31, -0.23, 0]]))
    found = unfold(big, small.structure, path, fermi=0.1, solver="sparse", nbands=24)
    ones = 0
    for k, energies, weights in zip(
        found.bands.kpoints, found.bands.energies_eV, found.weights, strict=True
    ):
        energies, weights = energies[np.isfinite(energies)], weights[np.isfinite(energies)]
        assert len(energies) >= 24 and np.abs(weights - np.round(weights)).max() < 1e-7
        right = scipy.linalg.eigh(*small.at(k), eigvals_only=True)
        right = right[(right > energies[0] - 1e-9) & (right < energies[-1] + 1e-9)]
        assert np.abs(energies[np.round(weights) == 1] - right).max() < 1e-10
        ones += len(right)
    assert ones > 2


def test_spglib_finds_the_primitive_cell_of_a_displaced_supercell() -> None:
    pytest.importorskip("spglib")
    big = repeat(graphene(), np.array([[3, 1, 0], [-1, 2, 0], [0, 0, 1]]))
    for size, tolerance in ((0.0, 1e-9), (0.02, 0.06), (0.1, 0.3)):
        crystal = displaced(big, size)
        (m,) = primitive_maps(crystal.structure, (True, True, False), ["spglib"])
        assert m.count == 7 and m.displacement_A <= tolerance
        lengths = np.linalg.norm(m.cell.lattice[:2], axis=1)
        assert lengths == pytest.approx([2.46, 2.46], rel=1e-9)


@pytest.mark.parametrize("size", [0.0, 0.03, 0.08])
def test_weights_of_all_folded_vectors_add_up_to_one(size: float) -> None:
    matrix = MATRICES[2]
    small = random_problem(spin=2)
    crystal = displaced(repeat(small, matrix), size)
    maps = primitive_maps(crystal.structure, crystal.periodic, [small.structure])
    assert maps[0].displacement_A <= 2 * 3**0.5 * size + 1e-9
    big_k = np.array([0.11, -0.23, 0.37])
    h, s = crystal.at(big_k)
    energies, vectors = scipy.linalg.eigh(h, s)
    total = sum(
        unfolded_weights(crystal, big_k + g, vectors, energies, s, maps)["unfolded"]
        for g in representatives(matrix.T)  # reciprocal vectors of the supercell
    )
    assert total == pytest.approx(np.ones(len(energies)), abs=1e-10)


def test_strained_and_turned_supercell() -> None:
    """The primitive cell of a file, 1 % too small and turned by 37 degrees: still found."""
    small, matrix = random_problem(), MATRICES[2]
    big = repeat(small, matrix)
    angle = np.deg2rad(37)
    turn = np.array(
        [[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]]
    )
    stretch = 0.99 * turn
    crystal = small.structure
    other = dataclasses.replace(
        crystal, lattice=crystal.lattice @ stretch, positions=crystal.positions @ stretch
    )
    found = unfold(big, other, npoints=8, fermi=0.0)
    assert found.maps[0].strain == pytest.approx(1 / 0.99 - 1, rel=1e-6)
    assert found.maps[0].displacement_A < 1e-6
    assert np.abs(found.weights - np.round(found.weights)).max() < 1e-10


def twisted(coupling: float = 0.0, m: int = 3, n: int = 1) -> tuple[BlochProblem, Structure]:
    """Two honeycomb layers turned against each other, and one layer's primitive cell."""
    small = graphene(t=-2.7)
    # m a1 + n a2 and the same turned by 120 degrees; the second layer: m and n exchanged
    first = np.array([[m, n, 0], [-n, m - n, 0], [0, 0, 1]])
    second = np.array([[n, m, 0], [-m, n - m, 0], [0, 0, 1]])
    parts, lattice = [], None
    for number, (matrix, height) in enumerate(((first, 5.0), (second, 8.3))):
        layer = repeat(small, matrix, seed=number)
        own = layer.structure
        # turn the second one's lattice onto the first one's
        if lattice is None:
            lattice = own.lattice
        turn = np.linalg.solve(own.lattice, lattice)
        positions = own.positions @ turn
        positions[:, 2] = height
        parts.append((layer, positions))
    count = len(parts[0][1])
    h = {}
    for number, (layer, _) in enumerate(parts):
        for key, block in layer.h:
            h[(*key[:3], key[3] + number * count, key[4] + number * count)] = block
    rng = np.random.default_rng(2)
    for i in range(count):
        for j in range(count):
            h[0, 0, 0, i, count + j] = np.array([[coupling * rng.standard_normal()]])
    positions = np.concatenate([parts[0][1], parts[1][1]])
    crystal = structure(lattice, positions, ((0,),) * (2 * count))
    return BlochProblem(crystal, blocks(h), source="twisted"), small.structure


@pytest.mark.parametrize(("m", "n"), [(3, 2), (4, 1), (5, 2)])
def test_twisted_layers_without_coupling(m: int, n: int) -> None:
    """Each layer's weight is that of its own honeycomb lattice, at its own k."""
    crystal, primitive = twisted(0.0, m, n)
    found = unfold(crystal, [primitive, primitive], "GMKG", 16, fermi=0.0)
    first, second = found.maps
    assert first.count == second.count == m * m + n * n - m * n
    assert max(first.displacement_A, second.displacement_A) < 1e-6
    angles = [np.arctan2(*one.cell.lattice[0, [1, 0]]) for one in found.maps]
    twist = np.rad2deg(abs(angles[0] - angles[1])) % 60
    assert min(twist, 60 - twist) > 1  # really turned
    layer = graphene(t=-2.7)
    cartesian = found.bands.kpoints @ np.linalg.inv(found.bands.lattice).T
    for number, one in enumerate(found.maps, 1):
        weights = found.bands.projections[f"layer {number}"]
        for k, energies, weight in zip(cartesian, found.bands.energies_eV, weights):
            own = k @ one.cell.lattice.T
            right = scipy.linalg.eigh(*_in_lattice(layer, one).at(own), eigvals_only=True)
            assert weight.sum() == pytest.approx(2.0, abs=1e-9)
            assert (weight @ energies) == pytest.approx(right.sum(), abs=1e-5)
            assert (weight @ energies**2) == pytest.approx((right**2).sum(), abs=1e-4)


def _in_lattice(layer: BlochProblem, one) -> BlochProblem:
    """Nearest-neighbour honeycomb in the vectors of a map, which may be other ones."""
    cell = one.cell
    hops: dict = {(0, 0, 0, i, i): 0.0 for i in (0, 1)}
    for x in range(-3, 4):
        for y in range(-3, 4):
            bond = cell.positions[1] + x * cell.lattice[0] + y * cell.lattice[1] - cell.positions[0]
            if np.linalg.norm(bond[:2]) < 1.5:
                hops[x, y, 0, 0, 1] = -2.7
    assert len(hops) == 5
    return BlochProblem(structure(cell.lattice, cell.positions, ((0,), (0,))), blocks(hops))


def test_layers_add_up_with_coupling() -> None:
    crystal, primitive = twisted(0.3)
    found = unfold(crystal, [primitive, primitive], "GMKG", 10, fermi=0.0)
    parts = found.bands.projections
    assert parts["unfolded"] == pytest.approx(parts["layer 1"] + parts["layer 2"], abs=1e-12)
    assert parts["unfolded"].sum(axis=1) == pytest.approx(4.0, abs=1e-9)


def test_sparse_and_dense_agree() -> None:
    from .test_sparse import ribbon

    small = ribbon(16)
    crystal = displaced(repeat(small, np.diag([3, 3, 1])), 0.05)
    every = unfold(crystal, small.structure, "GX", 3, fermi=0.0, solver="dense")
    some = unfold(crystal, small.structure, "GX", 3, fermi=0.0, solver="sparse", nbands=30)
    low = some.bands.first_band
    width = some.weights.shape[1]
    known = np.isfinite(some.bands.energies_eV)
    assert known.sum() >= 4 * 30
    difference = np.abs(every.weights[:, low : low + width] - some.weights)[known]
    assert difference.max() < 1e-5
    # a map shows no energies at which states were not computed
    low_eV, high_eV = known_window(some.bands)
    assert known_window(every.bands) == every.bands.default_window()
    assert (np.nanmin(some.bands.aligned_eV, axis=1) <= low_eV + 1e-9).all()
    assert (np.nanmax(some.bands.aligned_eV, axis=1) >= high_eV - 1e-9).all()


def test_slab_across_the_cell_boundary() -> None:
    """Buckled layer with atoms above and below z = 0, moved by the vacuum vector."""
    small = graphene(mass=0.3)
    crystal = small.structure
    crystal = dataclasses.replace(
        crystal, positions=crystal.positions + np.array([[0, 0, -7.6], [0, 0, -7.4]])
    )
    small = BlochProblem(crystal, small.h, small.s)
    big = repeat(small, np.array([[2, 1, 0], [-1, 1, 0], [0, 0, 1]]))
    positions = big.structure.positions.copy()
    low = np.flatnonzero(positions[:, 2] < 0)
    positions[low[0]] += big.structure.lattice[2]
    one = dataclasses.replace(big.structure, positions=positions)
    (m,) = primitive_maps(one, (True, True, False), [crystal])
    assert m.count == 3 and m.displacement_A < 1e-9


def test_spectral_function_counts_states(tmp_path) -> None:
    big = displaced(repeat(graphene(mass=0.3), np.diag([2, 2, 1])), 0.03)
    found = unfold(big, "2,2,1", "GMK", 12, fermi=0.0)
    grid = np.linspace(-12, 12, 4001)
    image = spectral_function(found, grid, 0.1)
    assert trapezoid(image, grid, axis=1) == pytest.approx(found.weights.sum(axis=1), abs=1e-9)
    axes = plot_unfolded([found, found], tmp_path / "a.png", window_eV=(-9, 9))
    assert len(axes) == 2 and (tmp_path / "a.png").stat().st_size > 5000
    found.write_json(tmp_path / "a.json")
    with pytest.raises(ConfigError, match="broadening 0"):
        spectral_function(found, grid, 0.0)


@pytest.mark.parametrize(
    ("primitive", "message"),
    [
        ("nowhere.vasp", "no such file or folder; give the primitive cell, a matrix"),
        ("2,2,2", "1 along vectors in which 'supercell' does not repeat"),
        ("0,2,1", "an integer matrix with a determinant"),
        ("3,1,1", "3 primitive cells do not divide the 8 atoms"),
        ([graphene(), graphene(), graphene()], "atoms of 'supercell' are no multiple"),
    ],
)
def test_no_primitive_cell(primitive, message: str) -> None:
    big = repeat(graphene(), np.diag([2, 2, 1]))
    many = [p.structure for p in primitive] if isinstance(primitive, list) else [primitive]
    with pytest.raises(ConfigError, match=message):
        unfold(big, many, "GM", 4, fermi=0.0)


def test_a_supercell_that_is_none_says_how_far() -> None:
    big = repeat(graphene(), np.diag([2, 2, 1]))
    crystal = big.structure
    positions = crystal.positions.copy()
    positions[0] += (0.9, 0.4, 0.0)
    bad = dataclasses.replace(crystal, positions=positions)
    with pytest.raises(ConfigError, match="is none of its supercells: atoms are up to 0.* Å"):
        primitive_maps(bad, (True, True, False), [graphene().structure])
    wide = dataclasses.replace(crystal, lattice=crystal.lattice * [[1.2], [1], [1]])
    off = 0.2 * 2 * np.linalg.norm(graphene().structure.lattice[0])
    words = rf"is none of its supercells with 4 cells: the nearest, .*, off by up to {off:.2f} Å"
    words += ".*--unfold once for each layer"
    with pytest.raises(ConfigError, match=words):
        primitive_maps(wide, (True, True, False), [graphene().structure])
    with pytest.raises(ConfigError, match="3 primitive cells do not divide the 8 atoms"):
        primitive_maps(crystal, (True, True, False), ["3,1,1"])
    with pytest.raises(ConfigError, match="2 layers are asked.*they need a slab"):
        primitive_maps(crystal, (True, True, True), ["2,2,1", "2,2,1"])
