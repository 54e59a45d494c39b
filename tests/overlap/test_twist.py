from __future__ import annotations

import math

import ase
import numpy as np
import pytest
from ase.build import graphene, make_supercell, mx2
from ase.neighborlist import neighbor_list

from deeph_gformer.errors import ConfigError, DataError
from deeph_gformer.overlap.twist import list_twists, read_layers, twist_bilayer, twist_of


@pytest.fixture
def sheet() -> ase.Atoms:
    return graphene(a=2.46, vacuum=10)


@pytest.mark.parametrize(
    "mn, angle, atoms",
    [
        ((1, 2), 21.787, 28),
        ((2, 3), 13.174, 76),
        ((5, 6), 6.009, 364),
        ((10, 11), 3.150, 1324),
        ((16, 17), 2.005, 3268),
        ((22, 23), 1.470, 6076),
        ((30, 31), 1.085, 11164),
    ],
)
def test_the_known_angles_of_twisted_graphene(
    sheet: ase.Atoms, mn: tuple[int, int], angle: float, atoms: int
) -> None:
    bottom, top, _ = read_layers(sheet)
    twist = twist_of(bottom, top, mn)
    assert (twist.atoms, twist.strain) == (atoms, 0) and twist.angle == pytest.approx(
        angle, abs=6e-4
    )
    m, n = mn
    assert math.cos(math.radians(twist.angle)) == pytest.approx(
        (m * m + 4 * m * n + n * n) / 2 / (m * m + m * n + n * n), abs=1e-12
    )


def bond_angles(atoms: ase.Atoms) -> np.ndarray:
    i, vectors = neighbor_list("iD", atoms, 1.6)
    return np.degrees(np.arctan2(vectors[:, 1], vectors[:, 0])) % 60


def test_a_built_cell_is_two_perfect_layers_turned_by_the_angle(sheet: ase.Atoms) -> None:
    bottom, top, _ = read_layers(sheet)
    twist = twist_of(bottom, top, (2, 3))
    atoms = twist_bilayer(bottom, top, twist, 3.35)
    assert len(atoms) == 76 and np.bincount(atoms.get_tags()).tolist() == [38, 38]
    i, length = neighbor_list("id", atoms, 1.6)
    assert (np.bincount(i) == 3).all() and np.allclose(length, 2.46 / math.sqrt(3), atol=1e-9)
    turns = [bond_angles(atoms[atoms.get_tags() == tag]) for tag in (0, 1)]
    assert all(np.ptp((t - t[0] + 30) % 60) < 1e-6 for t in turns)
    apart = abs(turns[0][0] - turns[1][0]) % 60
    assert min(apart, 60 - apart) == pytest.approx(twist.angle, abs=1e-6)
    z = [atoms.positions[atoms.get_tags() == tag, 2] for tag in (0, 1)]
    assert np.allclose(z[1] - z[0][0], 3.35) and atoms.cell[2, 2] == pytest.approx(23.35)
    moved = twist_bilayer(bottom, top, twist, 3.35, shift=(0.5, 0.0))
    assert np.allclose(
        moved.positions[moved.get_tags() == 0], atoms.positions[atoms.get_tags() == 0]
    )
    assert not np.allclose(
        moved.positions[moved.get_tags() == 1], atoms.positions[atoms.get_tags() == 1]
    )


def test_a_bilayer_cell_keeps_its_layers_and_distance(sheet: ase.Atoms) -> None:
    upper = sheet.copy()
    upper.positions += [0, 1.42, 3.4]
    both = sheet + upper
    both.cell[2, 2] = 25
    both.positions[:, 2] += 13.5  # the upper layer leaves through the top of the cell
    both.wrap(pbc=(True, True, True))
    bottom, top, distance = read_layers(both)
    assert distance == pytest.approx(3.4) and len(bottom.atoms) == len(top.atoms) == 2
    assert len(read_layers(both * (1, 1, 1))[0].atoms) == 2


def test_obtuse_cells_and_thick_layers() -> None:
    layer = mx2("MoS2", a=3.18, thickness=3.12, vacuum=8)  # 120 degrees
    bottom, top, _ = read_layers(layer)
    assert bottom.kind == "hexagonal" and bottom.thickness == pytest.approx(3.12)
    atoms = twist_bilayer(bottom, top, twist_of(bottom, top, (1, 2)), 3.0)
    assert (
        atoms.get_chemical_formula() == "Mo14S28"
        and len({*np.diff(np.flatnonzero(np.diff(atoms.numbers)))}) == 0
    )
    i, j, length = neighbor_list("ijd", atoms, 2.6)
    assert (np.bincount(i)[atoms.numbers == 42] == 6).all() and (
        np.bincount(i)[atoms.numbers == 16] == 3
    ).all()


def test_the_list_holds_known_cells_and_fits_other_lattices(sheet: ase.Atoms) -> None:
    bottom, top, _ = read_layers(sheet)
    found = {round(t.angle, 2): t.atoms for t in list_twists(bottom, top, 100, 1e-6)}
    assert found == {0.0: 4, 21.79: 28, 27.8: 52, 13.17: 76}
    bottom, top, _ = read_layers(sheet, mx2("MoS2", a=3.18, thickness=3.12, vacuum=8))
    best = list_twists(bottom, top, 150, 0.01)[0]
    assert abs(best.strain) < 0.01 and best.atoms == 2 * bottom.cells(*best.bottom) + 3 * top.cells(
        *best.top
    )
    atoms = twist_bilayer(bottom, top, best, 3.3)
    carbon = neighbor_list("d", atoms[atoms.numbers == 6], 1.6)
    assert len(atoms) == best.atoms and np.allclose(
        carbon, 2.46 / math.sqrt(3), atol=1e-9
    )  # the bottom layer is not strained


def test_square_layers() -> None:
    layer = ase.Atoms("PbO", [[0, 0, 0], [2, 2, 1.2]], cell=[4, 4, 20], pbc=True)
    bottom, top, _ = read_layers(layer)
    twist = twist_of(bottom, top, (1, 2))
    assert twist.angle == pytest.approx(math.degrees(math.atan(0.75))) and twist.atoms == 20
    assert len(twist_bilayer(bottom, top, twist, 3.0)) == 20


def test_what_cannot_be_built_is_named(sheet: ase.Atoms) -> None:
    with pytest.raises(DataError, match="hexagonal .60 or 120 degrees. and square"):
        read_layers(ase.Atoms("C", cell=[2, 3, 20], pbc=True))
    with pytest.raises(DataError, match="xy plane"):
        read_layers(ase.Atoms("C", cell=[[2, 0, 1], [0, 2, 0], [0, 0, 20]], pbc=True))
    with pytest.raises(DataError, match="3 layers"):
        read_layers(ase.Atoms("C3", [[0, 0, 0], [0, 0, 3], [0, 0, 6]], cell=[2, 2, 20], pbc=True))
    with pytest.raises(DataError, match="bottom layer is hexagonal, the top layer square"):
        read_layers(sheet, ase.Atoms("C", cell=[2, 2, 20], pbc=True))
    bottom, top, _ = read_layers(sheet)
    with pytest.raises(ConfigError, match="0 or more"):
        twist_of(bottom, top, (-1, 2))
    with pytest.raises(ConfigError, match="must be positive"):
        twist_bilayer(bottom, top, twist_of(bottom, top, (1, 2)), -3.0)
    with pytest.raises(ConfigError, match="positive and finite"):
        twist_bilayer(bottom, top, twist_of(bottom, top, (1, 2)), 3.0, math.inf)
    with pytest.raises(ConfigError, match="two finite numbers"):
        twist_bilayer(bottom, top, twist_of(bottom, top, (1, 2)), 3.0, shift=(math.nan, 0.0))
    for limits in ((0, 0.1), (-1, 0.1), (100, -1.0), (100, math.nan)):
        with pytest.raises(ConfigError, match="at least 1 atom"):
            list_twists(bottom, top, *limits)
    with pytest.raises(DataError, match="left-handed"):
        read_layers(make_supercell(sheet, [[0, 1, 0], [1, 0, 0], [0, 0, 1]]))
