"""Edges, graphs, labels."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Callable

import h5py
import numpy as np
import pytest
import torch

from deeph_gformer.algebra.blocks import BlockAssembly
from deeph_gformer.algebra.orbitals import Basis, make_target_blocks
from deeph_gformer.bands import BlochProblem
from deeph_gformer.bands.kmesh import time_reversal_part
from deeph_gformer.data import dataset as d
from deeph_gformer.data.edges import select_edges
from deeph_gformer.data.graph import batch_graphs, build_graph, node_types
from deeph_gformer.data.symmetry import hermitian_product, transpose_index
from deeph_gformer.errors import DataError, ModelError
from deeph_gformer.io import legacy, read_folder, read_matrix
from deeph_gformer.io.blocks import BlockMatrix

from ..conftest import random_structure

Folder = Callable[..., pathlib.Path]
BASIS = Basis((16, 42), ((0, 1), (0, 1, 2)), False)


def drop(folder: pathlib.Path, name: str, pair: tuple[str, str]) -> None:
    with h5py.File(folder / name, "a") as handle:
        for key in pair:
            del handle[key]


def test_blocks_that_h_lost_are_told(make_folder: Folder) -> None:
    folder = make_folder()
    structure = read_folder(folder)
    assert not select_edges(folder, structure).notes
    with h5py.File(folder / "hamiltonians.h5") as handle:
        far = next(k for k in handle if not k.startswith("[0, 0, 0"))
    x, y, z, i, j = json.loads(far)
    drop(folder, "hamiltonians.h5", (far, str([-x, -y, -z, j, i])))
    choice = select_edges(folder, structure)
    count = len(read_matrix(folder, "overlap"))
    (note,) = choice.notes
    assert f"2 of {count} edges are in overlaps.h5 and not in hamiltonians.h5" in note
    assert far in note or str([-x, -y, -z, j, i]) in note
    assert len(choice.keys) == count and choice.hamiltonian_only == 0


def test_edge_modes(make_folder: Folder) -> None:
    folder = make_folder()
    structure = read_folder(folder)
    with h5py.File(folder / "overlaps.h5") as handle:
        far = next(k for k in handle if not k.startswith("[0, 0, 0"))
    x, y, z, i, j = json.loads(far)
    drop(folder, "overlaps.h5", (far, str([-x, -y, -z, j, i])))
    count = len(read_matrix(folder, "hamiltonian"))
    sizes = {
        mode: len(select_edges(folder, structure, mode).keys)
        for mode in ("overlaps", "hamiltonians", "union", "auto")
    }
    assert sizes == {"overlaps": count - 2, "hamiltonians": count, "union": count, "auto": count}
    assert select_edges(folder, structure, "auto").hamiltonian_only == 2
    choice = select_edges(folder, structure, "auto", learned="overlaps")
    assert len(choice.keys) == count - 2 and choice.source == "overlaps.h5"
    assert choice.hamiltonian_only == 2 and not choice.notes
    (folder / "hamiltonians.h5").unlink()
    assert len(select_edges(folder, structure, "auto").keys) == count - 2
    with pytest.raises(DataError, match="--edges union"):
        select_edges(folder, structure, "union")
    (folder / "overlaps.h5").unlink()
    with pytest.raises(DataError, match="neither overlaps.h5 nor hamiltonians.h5"):
        select_edges(folder, structure, "auto")


def test_asymmetric_edge_set_is_named(make_folder: Folder) -> None:
    folder = make_folder()
    with h5py.File(folder / "overlaps.h5", "a") as handle:
        del handle[next(k for k in handle if not k.startswith("[0, 0, 0"))]
    with pytest.raises(DataError, match="overlaps.h5: asymmetric edge set"):
        select_edges(folder, read_folder(folder), "overlaps")


def test_graph_vectors_by_definition() -> None:
    structure, h, _ = random_structure()
    graph = build_graph(structure, h.keys[::-1], BASIS)
    for (x, y, z, i, j), vector in zip(graph.edge_key.tolist(), graph.edge_vector.numpy()):
        expected = (
            structure.positions[j]
            + x * structure.lattice[0]
            + y * structure.lattice[1]
            + z * structure.lattice[2]
            - structure.positions[i]
        )
        assert np.allclose(vector, expected, atol=1e-12)
    assert graph.self_loop.sum() == len(structure)
    assert (graph.edge_index[0].diff() >= 0).all()


def test_batching_keeps_structures_apart() -> None:
    graphs = [
        build_graph(s, h.keys, BASIS)
        for s, h, _ in (random_structure(0), random_structure(1, atoms=3))
    ]
    both = batch_graphs(graphs)
    assert (both.nodes, both.edges, both.structures) == (7, graphs[0].edges + graphs[1].edges, 2)
    assert (both.node_batch[both.edge_index[0]] == both.node_batch[both.edge_index[1]]).all()


def test_unknown_elements_and_shells_are_named() -> None:
    structure, h, _ = random_structure()
    with pytest.raises(ModelError, match="has Mo, which the model does not know.*S"):
        node_types(structure, Basis((16,), ((0, 1),), False))
    with pytest.raises(ModelError, match=r"atom 1 \(S\).*\[0, 1\].*\[0, 0, 1\]"):
        node_types(structure, Basis((16, 42), ((0, 0, 1), (0, 1, 2)), False))
    with pytest.raises(DataError, match="no on-site block"):
        build_graph(structure, h.keys[(h.keys[:, :3] != 0).any(axis=1)], BASIS)


@pytest.mark.parametrize("spinful", [False, True])
def test_labels_round_trip_and_hermitian_projection(spinful: bool) -> None:
    """Vectors and blocks say the same; ½(H + H†) on vectors equals the projection on blocks."""
    structure, h, _ = random_structure(spinful=spinful)
    basis = Basis((16, 42), ((0, 1), (0, 1, 2)), spinful)
    targets = make_target_blocks(basis)
    types = node_types(structure, basis)
    rng = np.random.default_rng(5)
    noisy = BlockMatrix(h.keys, h.shapes, h.values + 0.1 * rng.normal(size=len(h.values)))
    assembly = BlockAssembly(targets)
    vector, mask = assembly.from_matrix(noisy, types)
    assert mask.sum() == len(noisy.values)
    assert np.array_equal(assembly.to_matrix(vector, types, h.keys).values, noisy.values)
    turned = hermitian_product(
        torch.from_numpy(vector), torch.from_numpy(noisy.partner), transpose_index(targets)
    )
    assert np.allclose(
        assembly.to_matrix(turned.numpy(), types, h.keys).values,
        noisy.hermitian().values,
        atol=1e-14,
    )


def test_labels_of_edges_without_block_are_masked(make_folder: Folder) -> None:
    folder = make_folder()
    with h5py.File(folder / "hamiltonians.h5") as handle:
        far = next(k for k in handle if not k.startswith("[0, 0, 0"))
    x, y, z, i, j = json.loads(far)
    drop(folder, "hamiltonians.h5", (far, str([-x, -y, -z, j, i])))
    sample = d.load_sample(folder, make_target_blocks(BASIS), "overlaps", torch.float32)
    empty = ~sample.mask.reshape(len(sample.mask), -1).any(dim=1)
    assert empty.sum() == 2 and sample.label.dtype == torch.float32


def test_one_set_one_basis(make_folder: Folder) -> None:
    a, b = make_folder("a"), make_folder("b", seed=1)
    text = (b / "orbital_types.dat").read_text().splitlines()
    (b / "orbital_types.dat").write_text("\n".join(["0 0 1"] + text[1:]))
    with pytest.raises(DataError, match="one set needs one basis"):
        d.basis_of([a, b])


def test_time_reversal_of_labels(make_folder: Folder) -> None:
    def seen(folder: pathlib.Path, spinful: bool) -> bool:
        targets = make_target_blocks(Basis((16, 42), ((0, 1), (0, 1, 2)), spinful))
        samples = d.load_samples([folder], targets, "hamiltonians", torch.float64)
        return d.has_time_reversal(samples)

    magnetic = make_folder("magnetic", spinful=True)
    structure = read_folder(magnetic)
    h, s = (read_matrix(magnetic, kind, structure) for kind in ("hamiltonian", "overlap"))
    made = time_reversal_part(BlochProblem(structure, h, s)).h
    folder = make_folder("reversible", spinful=True)
    legacy.write_blocks(folder / "hamiltonians.h5", made)
    assert seen(folder, True)
    assert not seen(magnetic, True)
    assert not seen(make_folder("spinless"), False)
