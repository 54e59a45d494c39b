"""K-paths of lattices in any description, against ASE's standard cells and seekpath."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from deeph_gformer import bands
from deeph_gformer.bands.bravais import LOOSE, ideal_lattice, lattice_group, strain_between
from deeph_gformer.bands.kpath import automatic_path, find_path, read_path_file
from deeph_gformer.errors import ConfigError, DataError

from .conftest import graphene, structure


def test_slab_path_is_in_plane_and_k_is_the_dirac_point() -> None:
    problem = graphene()
    path = find_path(problem.structure, problem.periodic, "GMKG", 60)
    assert problem.periodic == (True, True, False) and not path.kpoints[:, 2].any()
    assert [name for _, name in path.ticks] == ["Γ", "M", "K", "Γ"]
    found = bands.band_structure(problem, path, fermi=0.0)
    at_k = next(index for index, name in path.labels if name == "K")
    assert np.abs(found.energies_eV[at_k]).max() < 1e-12
    b = 2 * np.pi / (2.46 * 3**0.5 / 2)
    assert path.ticks[1][0] == pytest.approx(b / 2, rel=1e-12)  # |Γ-M| of the hexagonal zone


def test_where_the_vacuum_points_does_not_lengthen_a_path() -> None:
    crystal = graphene().structure
    tilted = dataclasses.replace(
        crystal, lattice=np.array([[1, 0, 0], [0, 1, 0], [3, -2, 1]]) @ crystal.lattice
    )
    paths = [automatic_path(one, (True, True, False), npoints=30) for one in (crystal, tilted)]
    assert np.abs(paths[0].kpoints - paths[1].kpoints).max() < 1e-12
    assert np.abs(paths[0].distances - paths[1].distances).max() < 1e-12
    wire = dataclasses.replace(crystal, lattice=np.array([[2.0, 0, 0], [9, 30, 0], [-7, 4, 20]]))
    path = automatic_path(wire, (True, False, False))
    assert path.distances[-1] == pytest.approx(np.pi / 2)  # Γ-X


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_vacuum_along_any_axis(axis: int) -> None:
    crystal = graphene().structure
    order = [(0, 1, 2), (0, 2, 1), (2, 0, 1)][2 - axis]
    turned = dataclasses.replace(crystal, lattice=crystal.lattice[list(order)])
    periodic = tuple(k != order.index(2) for k in range(3))
    path = automatic_path(turned, periodic, npoints=20)  # type: ignore[arg-type]
    cartesian = path.kpoints @ turned.reciprocal
    assert np.abs(cartesian[:, 2]).max() < 1e-12 and [t[1] for t in path.ticks] == [
        "Γ",
        "M",
        "K",
        "Γ",
    ]


def test_distorted_cell_keeps_the_hexagonal_path_and_says_so() -> None:
    crystal = graphene().structure
    strained = dataclasses.replace(
        crystal,
        lattice=crystal.lattice
        @ (np.eye(3) + np.array([[0.004, 0.003, 0], [0.003, -0.006, 0], [0, 0, 0]])),
    )
    path = automatic_path(strained, (True, True, False))
    assert [t[1] for t in path.ticks] == ["Γ", "M", "K", "Γ"] and "exactly it is OBL" in path.source
    assert (
        automatic_path(strained, (True, True, False), "GYC").source
        == "ASE, OBL lattice, periodic in 2D"
    )  # its own points are there too
    large = dataclasses.replace(
        strained, lattice=strained.lattice * [[3], [3], [1]]
    )  # the same strain in a supercell
    assert [t[1] for t in automatic_path(large, (True, True, False)).ticks] == ["Γ", "M", "K", "Γ"]


def test_path_for_another_lattice_is_named() -> None:
    with pytest.raises(ConfigError, match="X is no special point.*HEX2D.*G, K, M"):
        automatic_path(graphene().structure, (True, True, False), "GXM")


def test_jumps_and_deeph_path_files(tmp_path) -> None:
    crystal = graphene().structure
    path = automatic_path(crystal, (True, True, False), "GM,KG", 20)
    assert [t[1] for t in path.ticks] == ["Γ", "M|K", "Γ"]
    (tmp_path / "K_PATH").write_text("5 0 0 0 0.5 0 0 GAMMA M\n7 0.5 0 0 0.333 0.333 0 M K\n")
    (tmp_path / "band_config.json").write_text(
        '{"fermi_level": -1.5, "k_data": ["5 0 0 0 0.5 0 0 Γ M", "7 0.5 0 0 0.333 0.333 0 M K"]}'
    )
    first, _ = read_path_file(tmp_path / "K_PATH", crystal)
    leaning = dataclasses.replace(
        crystal, lattice=crystal.lattice + np.outer([0, 0, 1], 0.4 * crystal.lattice[0])
    )
    film = read_path_file(tmp_path / "K_PATH", leaning, (True, True, False))[0]
    assert film.distances == pytest.approx(first.distances)  # wherever the vacuum vector points
    second, settings = read_path_file(tmp_path / "band_config.json", crystal)
    assert (
        np.array_equal(first.kpoints, second.kpoints)
        and len(first) == 12
        and settings["fermi_level"] == -1.5
    )
    assert first.segments == ((0, 5), (5, 12)) and [t[1] for t in first.ticks] == ["Γ", "M", "K"]
    (tmp_path / "bad").write_text("5 0 0 0 0.5 0 GAMMA M\n")
    with pytest.raises(DataError, match="bad: '5 0 0 0 0.5 0 GAMMA M' is no path segment"):
        read_path_file(tmp_path / "bad", crystal)
    (tmp_path / "bad").write_text("46 nan 0 0 0.5 0 0 GAMMA M\n")
    with pytest.raises(DataError, match="no path segment .a coordinate is NaN"):
        read_path_file(tmp_path / "bad", crystal)
    (tmp_path / "bad").write_text("1000000000 0 0 0 0.5 0 0 GAMMA M\n")
    with pytest.raises(ConfigError, match="bad: 1000000000 k-points"):
        read_path_file(tmp_path / "bad", crystal)


def test_seekpath_agrees_with_ase_for_a_bulk_hexagonal_cell() -> None:
    pytest.importorskip("seekpath")
    crystal = structure(
        np.array([[3, 0, 0], [-1.5, 1.5 * 3**0.5, 0], [0, 0, 5.0]]), np.zeros((1, 3)), ((0,),)
    )
    ase, seek = (
        find_path(crystal, (True,) * 3, None, 80, engine) for engine in ("ase", "seekpath")
    )
    assert (
        [t[1] for t in ase.ticks][:5] == [t[1] for t in seek.ticks][:5] == ["Γ", "M", "K", "Γ", "A"]
    )
    for place in ("M", "K", "A"):
        norms = [
            np.linalg.norm(
                p.kpoints[next(i for i, n in p.labels if n == place)] @ crystal.reciprocal
            )
            for p in (ase, seek)
        ]
        assert norms[0] == pytest.approx(norms[1], rel=1e-9)


ALL_HALVES = {(x, y, z) for x in (0, 1) for y in (0, 1) for z in (0, 1)}


def described_anew(lattice: np.ndarray, rng: np.random.Generator, scale: float) -> np.ndarray:
    """Other vectors of the same lattice: long ones, of either handedness, turned and scaled."""
    change = np.eye(3, dtype=int)
    for _ in range(5):
        i, j = rng.choice(3, 2, replace=False)
        change[i] += rng.integers(-2, 3) * change[j]
    change[0] *= rng.choice([-1, 1])
    turn = np.linalg.qr(rng.standard_normal((3, 3)))[0]
    return scale * change[rng.permutation(3)] @ lattice @ turn


def fingerprint(lattice: np.ndarray, k: np.ndarray, scale: float = 1.0) -> float:
    """Sum of exp(-|R|²) cos(k.R) in a sphere: equal where the lattice's symmetries map k on k'."""
    from ase.geometry import minkowski_reduce

    short, change = minkowski_reduce(lattice / scale)
    steps = np.stack(np.meshgrid(*[np.arange(-6, 7)] * 3), axis=-1).reshape(-1, 3)
    length = np.linalg.norm(steps @ short, axis=1)
    weights = np.where(length < 9.01, np.exp(-((length / 3.0) ** 2)), 0.0)
    return float(weights @ np.cos(2 * np.pi * steps @ (change @ k)))


def variants() -> list:
    from ase.lattice import all_variants

    return [lattice for lattice in all_variants() if lattice.tocell().rank == 3]


@pytest.mark.parametrize("standard", variants(), ids=lambda lattice: lattice.variant)
def test_any_description_of_any_bravais_lattice(standard) -> None:
    """Name, path, point group and the very points of ASE's standard cell, from any vectors."""
    spglib = pytest.importorskip("spglib")
    cell, rng = np.array(standard.tocell()), np.random.default_rng(3)
    group = spglib.get_symmetry((cell, [[0, 0, 0]], [1]), symprec=1e-5)["rotations"]
    wanted = standard.bandpath(npoints=0)
    points = wanted.special_points
    if standard.name == "TRI":  # ASE's letters depend on the description, ours must not
        points = ideal_lattice(cell, (True, True, True)).special
        assert {tuple(np.round(2 * k).astype(int) % 2) for k in points.values()} == ALL_HALVES
    for scale in (0.3, 1.0, 12.0):
        vectors = described_anew(cell, rng, scale)
        found = ideal_lattice(vectors, (True, True, True))
        assert (found.name, found.path, found.order) == (standard.name, wanted.path, len(group))
        assert found.strain < 1e-9 and set(found.special) == set(wanted.special_points)
        for name, k in found.special.items():
            right = fingerprint(cell, points[name])
            assert fingerprint(vectors, k, scale) == pytest.approx(right, abs=1e-8), name


@pytest.mark.parametrize("vectors", ["given", "others"])
@pytest.mark.parametrize("kind", ["CUB", "FCC", "BCC", "TET", "HEX", "ORC"])
def test_points_are_those_of_seekpath(kind: str, vectors: str) -> None:
    """Hinuma's and Setyawan's letters mean the same points of these lattices."""
    pytest.importorskip("seekpath")
    standard = next(lattice for lattice in variants() if lattice.name == kind)
    cell = np.array(standard.tocell())
    if vectors == "others":
        cell = described_anew(cell, np.random.default_rng(8), 1.0)
        cell[0] *= np.sign(np.linalg.det(cell))  # seekpath takes right-handed cells
    crystal = structure(cell, np.zeros((1, 3)), ((0,),))
    ours, theirs = (find_path(crystal, (True,) * 3, None, 60, e) for e in ("ase", "seekpath"))
    points = [{n: path.kpoints[i] for i, n in path.labels} for path in (ours, theirs)]
    same = {"TET": "ΓXMZRA", "HEX": "ΓMKALH", "ORC": "ΓXYZSTUR"}.get(kind, "".join(points[0]))
    assert len(same) >= 4
    for name in same:
        a, b = (fingerprint(cell, known[name]) for known in points if name in known)
        assert a == pytest.approx(b, abs=1e-8), name


def test_nearness_is_a_strain_whatever_the_size_of_the_cell() -> None:
    """A long vector, or a large cell, makes nothing more similar; a small one nothing less."""
    tilt = np.eye(3)
    tilt[2, 0] = 0.01  # the third vector leans by 0.6 degrees: a strain of half a per cent
    for scale in (0.2, 1.0, 20.0):
        for cell, exact, loose in (
            (np.diag([3.0, 3.0, 60.0]), "MCL", "TET"),
            (np.diag([3.0, 3.2, 60.0]), "MCL", "ORC"),  # a and b differ by 6 per cent
            (np.diag([60.0, 60.0, 61.0]), "MCL", "CUB"),
            (np.diag([3.0, 3.0, 3.2]), "MCL", "TET"),
        ):
            vectors = scale * cell @ tilt
            assert ideal_lattice(vectors, (True,) * 3).name == exact
            found = ideal_lattice(vectors, (True,) * 3, LOOSE)
            assert found.name == loose and found.strain <= LOOSE
    crystal = structure(np.diag([60.0, 60.0, 65.0]), np.zeros((1, 3)), ((0,),))
    assert "TET" in automatic_path(crystal, (True,) * 3).source  # 8 per cent: not cubic
    leaning = structure(np.diag([3.0, 3.0, 60.0]) @ tilt, np.zeros((1, 3)), ((0,),))
    source = automatic_path(leaning, (True,) * 3).source
    assert "TET lattice (within a strain of 0.5%; exactly it is MCL)" in source


def test_strain_of_a_stretched_lattice() -> None:
    a = np.array([[2.0, 0.3], [0.1, 1.5]])
    b = a @ np.diag([1.02, 0.97])
    assert strain_between(a @ a.T, b @ b.T) == pytest.approx(0.03)
    group, ideal, strain = lattice_group(np.diag([1.0, 1.0201]), 0.02)
    assert len(group) == 8 and ideal == pytest.approx(np.diag([1.01005, 1.01005]))
    assert strain == pytest.approx(0.005, abs=2e-4)
    assert len(lattice_group(np.diag([1.0, 1.0201]), 1e-3)[0]) == 4


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize(
    ("kind", "sheet"),
    [
        ("SQR", [[3.0, 0], [0, 3.0]]),
        ("RECT", [[3.0, 0], [0, 4.0]]),
        ("HEX2D", [[3.0, 0], [-1.5, 1.5 * 3**0.5]]),
        ("HEX2D", [[3.0, 0], [1.5, 1.5 * 3**0.5]]),
        ("CRECT", [[2.0, 3.0], [2.0, -3.0]]),
        ("OBL", [[3.0, 0], [1.0, 4.0]]),
    ],
)
def test_slabs_along_any_axis_in_any_description(kind: str, sheet: list, axis: int) -> None:
    from ase.cell import Cell

    rng = np.random.default_rng(4)
    flat = np.zeros((3, 3))
    flat[:2, :2] = sheet
    wanted = Cell(flat).bandpath(npoints=0, pbc=(1, 1, 0))
    lengths = {n: np.linalg.norm(wanted.cartesian_kpts()) for n in ""}
    reciprocal = 2 * np.pi * np.linalg.pinv(flat).T
    lengths = {n: np.linalg.norm(k @ reciprocal) for n, k in wanted.special_points.items()}
    for _ in range(4):
        change = np.eye(2, dtype=int)
        for _ in range(3):
            i = rng.integers(2)
            change[i] += rng.integers(-2, 3) * change[1 - i]
        change[0] *= rng.choice([-1, 1])
        vectors = np.insert(change @ np.array(sheet), 2, 0.0, axis=1)
        lattice = np.insert(vectors, axis, (0.2, -0.1, 25.0), axis=0)  # the vacuum leans a little
        periodic = tuple(n != axis for n in range(3))
        path = automatic_path(structure(lattice, np.zeros((1, 3)), ((0,),)), periodic)
        assert f"{kind} lattice, periodic in 2D" in path.source
        assert not path.kpoints[:, axis].any()
        in_plane = 2 * np.pi * np.linalg.pinv(vectors).T  # of the sheet alone
        for index, name in path.labels:
            k = np.delete(path.kpoints[index], axis) @ in_plane
            fractions = [np.linalg.norm(k + n @ in_plane) for n in NEIGHBOURS]
            assert min(fractions) == pytest.approx(
                min(
                    np.linalg.norm(
                        wanted.special_points[name.replace("Γ", "G")][:2] @ reciprocal[:2]
                        + n @ reciprocal[:2]
                    )
                    for n in NEIGHBOURS
                ),
                abs=1e-9,
            ), name
    assert lengths


NEIGHBOURS = np.stack(np.meshgrid(np.arange(-9, 10), np.arange(-9, 10)), -1).reshape(-1, 2)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_wires_and_molecules(axis: int) -> None:
    lattice = 20 * np.eye(3) + 0.3
    lattice[axis] *= 0.2
    crystal = structure(lattice, np.zeros((1, 3)), ((0,),))
    path = automatic_path(crystal, tuple(n == axis for n in range(3)), npoints=11)
    assert [t[1] for t in path.ticks] == ["Γ", "X"] and "LINE" in path.source
    assert path.kpoints[-1] == pytest.approx(0.5 * np.eye(3)[axis])
    with pytest.raises(ConfigError, match="M is no special point"):
        automatic_path(crystal, tuple(n == axis for n in range(3)), "GM")
    molecule = automatic_path(crystal, (False,) * 3)
    assert len(molecule) == 1 and not molecule.kpoints.any()
    with pytest.raises(ConfigError, match="it is a molecule"):
        automatic_path(crystal, (False,) * 3, "GX")
    with pytest.raises(ConfigError, match="linearly dependent"):
        ideal_lattice(np.array([[1.0, 0, 0], [2.0, 0, 0], [0, 0, 9]]), (True, True, False))
