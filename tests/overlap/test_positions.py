"""<i|r|j> against integration on a grid, derivatives of S, Hermiticity, translations, and closed
forms."""

from __future__ import annotations

import dataclasses
import pathlib

import h5py
import numpy as np
import pytest
from scipy.integrate import trapezoid

from deeph_gformer.analysis.redescribe import move_by_lattice
from deeph_gformer.errors import DataError
from deeph_gformer.interop.dft import scfout
from deeph_gformer.io import BlockMatrix, Structure, dock, legacy, read_folder
from deeph_gformer.io.blocks import match_keys, reverse_keys, sort_keys
from deeph_gformer.io.positions import read_positions, write_positions
from deeph_gformer.overlap import BasisOverlap, two_centre
from deeph_gformer.overlap.basis import BOHR
from deeph_gformer.overlap.pao import OPENMX_BOHR
from deeph_gformer.overlap.positions import PositionTables, coordinate_coupling, real_harmonics
from deeph_gformer.overlap.rotation import harmonics

from .test_basis import HEAVY, LIGHT, gaussian_basis

SHELLS = {6: LIGHT, 42: HEAVY}
OPENMX = pathlib.Path(__file__).resolve().parents[2].parent / "shared" / "dft" / "openmx"


@pytest.fixture(scope="module")
def tables() -> PositionTables:
    bases = [gaussian_basis(6, LIGHT), gaussian_basis(42, HEAVY)]
    return PositionTables(bases, two_centre(bases))


@pytest.fixture
def crystal(tables: PositionTables) -> Structure:
    lattice = np.array([[3.1, 0.2, 0.0], [-1.1, 3.4, 0.3], [0.4, 0.1, 4.2]])
    positions = np.array([[0.4, -0.3, 0.2], [1.9, 5.2, -2.1], [0.9, 2.0, 2.4]])
    numbers = np.array([6, 42, 6])
    shells = tuple(tables.shells[z] for z in numbers.tolist())
    return Structure(lattice, positions, numbers, shells)


def some_keys(structure: Structure, count: int = 40) -> np.ndarray:
    random = np.random.default_rng(0)
    keys = np.concatenate(
        [random.integers(-1, 2, (count, 3)), random.integers(0, len(structure), (count, 2))], axis=1
    )
    atoms = np.arange(len(structure))
    keys = np.concatenate([keys, np.stack([0 * atoms] * 3 + [atoms] * 2, axis=1)])
    return np.unique(np.concatenate([keys, reverse_keys(keys)]), axis=0)


def orbital_values(shells, centre: np.ndarray, points: np.ndarray) -> np.ndarray:
    """(P, n) Gaussian orbitals at points, everything in bohr; norms by quadrature in the radius."""
    offset = points - centre
    r = np.linalg.norm(offset, axis=1)
    grid = np.linspace(0, 12, 24001)
    columns = []
    for l, a in shells:
        norm = trapezoid(grid ** (2 * l + 2) * np.exp(-2 * a * grid**2), grid)
        part = np.exp(-a * r**2) / np.sqrt(norm) * np.sqrt((2 * l + 1) / (4 * np.pi))
        columns.append(part[:, None] * harmonics(l, offset))  # r^l is in the solid harmonics
    return np.concatenate(columns, axis=1)


@pytest.mark.parametrize("pair", [(6, 42), (42, 6), (6, 6), (42, 42)])
def test_every_element_is_the_integral_on_a_grid(tables, pair) -> None:
    first, second = np.array([0.3, -0.2, 0.5]), np.array([1.1, 0.9, -0.4])
    structure = Structure(
        np.eye(3) * 40,
        np.array([first, second]) * BOHR,
        np.array(pair),
        tuple(tables.shells[z] for z in pair),
    )
    axis = np.linspace(-6.5, 7.5, 71)
    grid = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)
    weight = (axis[1] - axis[0]) ** 3
    a = orbital_values(SHELLS[pair[0]], first, grid)
    b = orbital_values(SHELLS[pair[1]], second, grid)
    keys = np.array([[0, 0, 0, 0, 0], [0, 0, 0, 0, 1], [0, 0, 0, 1, 0]])
    matrices = tables.blocks(structure, keys)
    for component, matrix in enumerate(matrices):
        moment = grid[:, component : component + 1] * weight * BOHR
        blocks = {tuple(key): block for key, block in matrix}
        for key, left, right in (((0, 0), a, a), ((0, 1), a, b), ((1, 0), b, a)):
            exact = left.T @ (moment * right)
            assert np.abs(blocks[(0, 0, 0, *key)] - exact).max() < 2e-7


def test_real_harmonics_are_those_of_the_files() -> None:
    points = np.random.default_rng(1).normal(size=(50, 3))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    for l in range(4):
        usual = harmonics(l, points) * np.sqrt((2 * l + 1) / (4 * np.pi))
        assert np.abs(real_harmonics(l, points) - usual).max() < 1e-13
    # coordinates are l = 1: x_a Y_lm is complete in l - 1 and l + 1
    for l in range(4):
        total = sum(
            np.einsum("amn,pn->pam", coordinate_coupling(l, other), real_harmonics(other, points))
            for other in (l - 1, l + 1)
            if other >= 0
        )
        exact = points[:, :, None] * real_harmonics(l, points)[:, None, :]
        assert np.abs(total - exact).max() < 1e-13


def test_hermiticity_with_the_lattice_vector(tables, crystal) -> None:
    """r_ji(-R) = (r_ij(R) - R S_ij(R))ᵀ, and inversion."""
    keys = some_keys(crystal)
    s = tables.overlap.blocks(crystal, keys, True)
    flipped = dataclasses.replace(crystal, positions=-crystal.positions, lattice=-crystal.lattice)
    for component, matrix in enumerate(tables.blocks(crystal, keys, True)):
        back = match_keys(reverse_keys(matrix.keys), matrix.keys)
        for e, key in enumerate(matrix.keys):
            cell = (key[:3] @ crystal.lattice)[component]
            other = (matrix.block(e) - cell * s.block(e)).T
            assert np.abs(matrix.block(back[e]) - other).max() < 1e-12
    # inversion of all coordinates: every element takes the parity of its orbitals, and r its sign
    sign = [np.concatenate([[(-1.0) ** l] * (2 * l + 1) for l in s]) for s in crystal.orbital_types]
    for matrix, mirrored in zip(
        tables.blocks(crystal, keys, True), tables.blocks(flipped, keys, True)
    ):
        for e, (*_, i, j) in enumerate(matrix.keys):
            expected = -sign[i][:, None] * matrix.block(e) * sign[j]
            assert np.abs(mirrored.block(e) - expected).max() < 1e-9


def test_moved_origins_and_atoms(tables, crystal) -> None:
    """r grows by t S when everything moves by t; moving an atom by T renumbers cells."""
    keys = some_keys(crystal)
    s = tables.overlap.blocks(crystal, keys, True)
    old = tables.blocks(crystal, keys, True)
    shift = np.array([0.7, -2.0, 11.0])
    moved = dataclasses.replace(crystal, positions=crystal.positions + shift)
    for component, (a, b) in enumerate(zip(old, tables.blocks(moved, keys, True))):
        assert np.abs(b.values - a.values - shift[component] * s.values).max() < 1e-9
    cells = np.array([[0, 0, 0], [1, 0, -1], [0, 2, 0]])
    wrapped = dataclasses.replace(crystal, positions=crystal.positions + cells @ crystal.lattice)
    renamed = keys.copy()
    renamed[:, :3] += cells[keys[:, 3]] - cells[keys[:, 4]]
    for component, (a, b) in enumerate(zip(old, tables.blocks(wrapped, renamed, True))):
        place = match_keys(renamed, b.keys)
        origin = match_keys(keys, a.keys)
        for e in range(len(keys)):
            # <i, T | r | j> = <i, 0 | r | j> + T S
            added = (cells[keys[e, 3]] @ crystal.lattice)[component] * s.block(origin[e])
            assert np.abs(b.block(place[e]) - a.block(origin[e]) - added).max() < 1e-9


def test_another_codes_overlap_leaves_no_origin(tables, crystal) -> None:
    """DFT's S is not that of the radial functions to the last digit.

    What is left of r without the middles of pairs must not depend on the cells atoms are in.
    """
    keys = some_keys(crystal)
    keys = keys[sort_keys(keys)]
    own = tables.overlap.blocks(crystal, keys, True)
    noise = 1 + 1e-5 * np.cos(np.arange(len(own.values)))
    s = BlockMatrix(own.keys, own.shapes, own.values * noise)
    back = match_keys(reverse_keys(s.keys), s.keys)
    s = BlockMatrix(
        s.keys,
        s.shapes,
        np.concatenate([(s.block(e) + s.block(b).T).ravel() / 2 for e, b in enumerate(back)]),
    )
    moved = move_by_lattice([[9, -20, 11], [0, 30, 0], [-25, 0, 3]])

    def rest(structure: Structure, overlap: BlockMatrix, axis: int, given: bool) -> BlockMatrix:
        r = tables.blocks(structure, overlap.keys, True, overlap if given else None)[axis]
        end = structure.positions[r.keys[:, 4]] + r.keys[:, :3] @ structure.lattice
        middle = (structure.positions[r.keys[:, 3]] + end)[:, axis] / 2
        return BlockMatrix(
            r.keys, r.shapes, r.values - np.repeat(middle, np.diff(r.offsets)) * overlap.values
        )

    for axis in range(3):
        for given, expected in ((True, True), (False, False)):
            here = moved.blocks(rest(crystal, s, axis, given))
            there = rest(moved.structure(crystal), moved.blocks(s), axis, given)
            assert (np.abs(here.values - there.values).max() < 1e-12) == expected
    lacking = s.select(np.arange(len(s))[1:])
    with pytest.raises(DataError, match="the overlap has no block"):
        tables.blocks(crystal, s.keys, True, lacking)


def test_gaussian_shift_derivative(tables) -> None:
    """d/dX_i of an s Gaussian exp(-a|r - r_i|²) is 2a (x - x_i) times it: r from differences of
    S."""
    a = LIGHT[0][1]
    shells = (tables.shells[6], tables.shells[42])
    base = np.array([[1.0, 2.0, 3.0], [2.1, 1.2, 2.4]])
    keys = np.array([[0, 0, 0, 0, 1]])

    def structure(step: np.ndarray) -> Structure:
        return Structure(np.eye(3) * 40, base + [step, 0 * step], np.array([6, 42]), shells)

    matrices = tables.blocks(structure(np.zeros(3)), keys)
    s = tables.overlap.blocks(structure(np.zeros(3)), keys).block(0)
    h = 2e-3
    for axis, matrix in enumerate(matrices):
        step = np.eye(3)[axis] * h
        values = [
            tables.overlap.blocks(structure(n * step), keys).block(0)[0] for n in (-2, -1, 1, 2)
        ]
        slope = (values[0] - 8 * values[1] + 8 * values[2] - values[3]) / (12 * h)
        expected = slope / (2 * a) * BOHR**2 + base[0, axis] * s[0]
        assert np.abs(matrix.block(0)[0] - expected).max() < 1e-6


@pytest.mark.parametrize("form", ["legacy", "dock"])
def test_files_keep_every_number(tables, crystal, tmp_path: pathlib.Path, form: str) -> None:
    order = np.argsort(crystal.numbers, kind="stable")  # POSCAR groups atoms
    crystal = dataclasses.replace(
        crystal,
        positions=crystal.positions[order],
        numbers=crystal.numbers[order],
        orbital_types=tuple(crystal.orbital_types[n] for n in order),
    )
    matrices = tables.blocks(crystal, some_keys(crystal), True)
    (legacy if form == "legacy" else dock).write_structure(tmp_path, crystal)
    path = write_positions(tmp_path, matrices, crystal)
    for written, read in zip(matrices, read_positions(tmp_path, crystal)):
        assert np.array_equal(written.keys, read.keys)
        assert np.array_equal(written.values, read.values)
    with h5py.File(path) as handle:  # as DeepH's own tools read it
        e = int(np.flatnonzero((matrices[0].keys[:, 3:] == [2, 0]).all(axis=1))[0])
        key = matrices[0].keys[e]
        if form == "legacy":
            name = "[{}, {}, {}, 3, 1, {}]".format(*key[:3], 2)
            assert np.array_equal(handle[name][()], matrices[1].block(e))
        else:
            pairs = handle["atom_pairs"][()]
            there = int(np.flatnonzero((pairs == key).all(axis=1))[0])
            low, high = handle["chunk_boundaries"][there : there + 2]
            block = handle["entries"][1, low:high].reshape(handle["chunk_shapes"][there])
            rows, columns = (dock.shell_permutation(crystal.orbital_types[n]) for n in (2, 0))
            assert np.array_equal(block, matrices[1].block(e)[rows][:, columns])


def test_wrong_files_are_named(tables, crystal, tmp_path: pathlib.Path) -> None:
    legacy.write_structure(tmp_path, crystal)
    with pytest.raises(DataError, match="positions.h5: file not found; 'overlap predict --positi"):
        read_positions(tmp_path, crystal)
    write_positions(tmp_path, tables.blocks(crystal, some_keys(crystal), True), crystal)
    whole = (tmp_path / "positions.h5").read_bytes()

    def change(name: str | None, new: str | None, value: object = None) -> None:
        (tmp_path / "positions.h5").write_bytes(whole)
        with h5py.File(tmp_path / "positions.h5", "a") as handle:
            if name:
                value = handle[name][()] if value is None else value
                del handle[name]
            if new:
                handle[new] = value

    shape = (int(crystal.orbital_counts[0]),) * 2
    for name, new, value, words in (
        ("[0, 0, 0, 1, 1, 2]", None, None, "not every block has one x, y and z"),
        ("[0, 0, 0, 1, 1, 2]", "[0, 0, 0, 1, 1, 4]", None, "is no block of a position matrix"),
        ("[0, 0, 0, 1, 1, 2]", "[0, 0, 0, 1, 9, 2]", None, "names an atom outside 1"),
        ("[0, 0, 0, 1, 1, 2]", "[0, 0, 0, 1, 1, 2]", np.zeros((1, 1)), "has shape"),
        ("[0, 0, 0, 1, 1, 2]", "[0, 0, 0, 1, 1, 2]", np.full(shape, np.nan), "NaN"),
        ("[0, 0, 0, 1, 1, 2]", "[0, 0, 0, 1, 1, 2]", np.full(shape, 1j), "is complex"),
    ):
        change(name, new, value)
        with pytest.raises(DataError, match=words):
            read_positions(tmp_path, crystal)
    (tmp_path / "positions.h5").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="damaged"):
        read_positions(tmp_path, crystal)


@pytest.mark.parametrize(
    "name, basis",
    [
        ("h2o_cluster", "H6.0-s2p1 O6.0-s2p2d1"),
        ("mos2_small", "Mo7.0-s2p1d1 S7.0-s2p1"),
        ("c_chain_f", "C6.0-s3p2d2f1"),
    ],
)
def test_position_matrices_of_openmx_are_met(
    monkeypatch: pytest.MonkeyPatch, name: str, basis: str
) -> None:
    """The .scfout holds <i| r - r_i |j>, integrated on OpenMX's grid (good to about 1e-4 Å)."""
    if not OPENMX.is_dir():
        pytest.skip("the OpenMX runs beside the repository (../shared/dft/openmx) are not here")
    found: dict[str, np.ndarray] = {}
    skip = scfout._Fields.skip

    def keep(data: scfout._Fields, kind: str, count: int, what: str) -> None:
        start = data.place
        skip(data, kind, count, what)
        if what == "the position matrices":
            found["r"] = np.frombuffer(data.data, data.order + kind, count, start)

    monkeypatch.setattr(scfout._Fields, "skip", keep)
    run = scfout.read_scfout(OPENMX / name / f"{name}.scfout")
    structure = read_folder(OPENMX / name / "legacy")
    provider = BasisOverlap([OPENMX / "pao", *basis.split()])
    s = provider.overlap(structure, run.keys)
    shapes = run.orbital_counts[run.keys[:, 3:]]
    centres = np.repeat(structure.positions[s.keys[:, 3]], np.diff(s.offsets), axis=0)
    for axis, matrix in enumerate(provider.positions(structure, run.keys)):
        stored = found["r"].reshape(3, -1)[axis] * OPENMX_BOHR
        theirs = BlockMatrix(run.keys, shapes, stored).select(np.arange(len(run.keys)))
        ours = matrix.values - centres[:, axis] * s.values
        assert np.abs(ours - theirs.values).max() < 1e-4 < np.abs(theirs.values).max()
