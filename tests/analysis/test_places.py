"""Places of an error against structures whose layers are known by construction."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, graphene, mx2

from deeph_gformer.analysis.places import PLACES, PlaceErrors, edge_places, layers
from deeph_gformer.io.blocks import BlockMatrix, sort_keys
from deeph_gformer.io.structure import Structure
from deeph_gformer.overlap.neighbours import edge_keys


def edges(atoms: Atoms, radius: float = 6.0) -> tuple[Structure, np.ndarray]:
    shells = tuple((0,) for _ in atoms)
    structure = Structure(np.array(atoms.cell), atoms.positions, atoms.numbers, shells, False)
    kinds = sorted(set(atoms.numbers.tolist()))
    keys = edge_keys(structure, {(a, b): radius for a in kinds for b in kinds if a <= b})
    return structure, keys[sort_keys(keys)]


def bilayer(gap: float, wrapped: bool = False) -> Atoms:
    """Two sheets; the cell is as high as twice their distance, so each sheet has a neighbour above
    and below."""
    sheet = graphene(size=(2, 2, 1), vacuum=0)
    sheet.cell[2] = (0, 0, 2 * gap)
    other = sheet.copy()
    other.translate((0.7, 0.3, gap))
    both = sheet + other
    both.pbc = True
    if wrapped:  # atoms in other cells: a layer is a layer whatever cell its atoms are written in
        shifts = np.random.default_rng(0).integers(-2, 3, size=(len(both), 3))
        both.positions += shifts @ both.cell
    return both


@pytest.mark.parametrize("wrapped", [False, True])
def test_between_layers_is_told_by_height(wrapped: bool) -> None:
    structure, keys = edges(bilayer(3.3, wrapped))
    place = edge_places(structure, keys)
    height = np.abs(structure.edge_vectors(keys)[:, 2])
    length = np.linalg.norm(structure.edge_vectors(keys), axis=1)
    assert set(place) == {0, 1, 2}
    assert (place == np.where(length < 1e-9, 0, np.where(height < 1, 1, 2))).all()


def test_a_thick_layer_is_one_layer_and_a_crystal_too() -> None:
    for atoms in (mx2("MoS2", vacuum=10), bulk("Si", cubic=True)):
        structure, keys = edges(atoms)
        assert set(edge_places(structure, keys)) == {0, 1}


def test_images_of_one_sheet_are_other_layers() -> None:
    sheet = graphene(vacuum=0)
    sheet.cell[2] = (0, 0, 3.4)
    sheet.pbc = True
    structure, keys = edges(sheet)
    layer, _, periods = layers(structure, keys)
    assert set(layer) == {0} and len(periods[0]) == 2
    assert (edge_places(structure, keys)[np.abs(keys[:, 2]) > 0] == 2).all()


def test_sums_by_hand() -> None:
    structure, keys = edges(bilayer(3.3))
    place = edge_places(structure, keys)
    truth = BlockMatrix(keys, np.full((len(keys), 2), 2), np.ones(4 * len(keys)))
    first = BlockMatrix(
        keys, truth.shapes, truth.values + np.repeat(np.array([1e-3, 2e-3, 3e-3])[place], 4)
    )
    errors = PlaceErrors()
    errors.add(structure, truth, [first, truth])
    table = errors.table()
    assert [row["place"] for row in table] == list(PLACES)
    assert [row["stage1_mae_meV"] for row in table] == pytest.approx([1, 2, 3])
    assert all(
        row["refined_mae_meV"] == 0 and row["mean_abs_hamiltonian_meV"] == pytest.approx(1e3)
        for row in table
    )
    assert sum(row["share_of_elements"] for row in table) == pytest.approx(1)
