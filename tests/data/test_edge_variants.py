"""The same structure with other edges: what they are, and that nothing else is another."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Callable

import h5py
import numpy as np
import pytest
import torch

from deeph_gformer.algebra.orbitals import make_target_blocks
from deeph_gformer.data.dataset import Sample, basis_of, load_sample
from deeph_gformer.data.edge_variants import load_variants, small_pairs
from deeph_gformer.io import read_matrix
from deeph_gformer.io.folder import read_folder

Folder = Callable[..., pathlib.Path]
Key = tuple[int, ...]


def reverse(key: Key) -> Key:
    x, y, z, i, j = key
    return -x, -y, -z, j, i


def blocks(folder: pathlib.Path, file: str) -> dict[Key, float]:
    """Largest |element| of each block of a file, by its name alone."""
    with h5py.File(folder / file) as f:
        return {tuple(json.loads(name)): float(np.abs(f[name][()]).max()) for name in f}


def cut(folder: pathlib.Path, count: int) -> set[Key]:
    """Take the smallest pairs of blocks out of S; gives their keys, atoms from 1 on."""
    size = blocks(folder, "overlaps.h5")
    gone: set[Key] = set()
    with h5py.File(folder / "overlaps.h5", "a") as f:
        for key in sorted(size, key=size.__getitem__):
            if len(gone) < 2 * count and key not in gone and key != reverse(key):
                gone |= {key, reverse(key)}
        for key in gone:
            del f[str(list(key))]
    return gone


def variants(
    folder: pathlib.Path, count: int, seed: int = 1, edges: str = "overlaps"
) -> tuple[Sample, list[Sample]]:
    targets = make_target_blocks(basis_of([folder]))
    plain = load_sample(folder, targets, edges, torch.float64)  # type: ignore[arg-type]
    return plain, load_variants(folder, targets, edges, torch.float64, "raw", count, seed)  # type: ignore[arg-type]


def keys(sample: Sample) -> set[Key]:
    """As in files: atoms from 1 on."""
    table = sample.graph.edge_key.numpy() + [0, 0, 0, 1, 1]
    return {tuple(key) for key in table.tolist()}


@pytest.mark.parametrize("spinful", [False, True])
def test_edges_differ_and_h_does_not(make_folder: Folder, spinful: bool) -> None:
    folder = make_folder("a", atoms=8, spinful=spinful)
    only_h = cut(folder, 3)
    plain, (more, *less) = variants(folder, 4)
    assert keys(more) == keys(plain) | only_h == set(blocks(folder, "hamiltonians.h5"))
    gone = [keys(plain) - keys(sample) for sample in less]
    assert all(gone) and len({frozenset(each) for each in gone}) > 1
    s = blocks(folder, "overlaps.h5")
    few = sorted(v for k, v in s.items() if k != reverse(k))[: int(0.04 * len(s)) + 2]
    for sample, lost in zip(less, gone, strict=True):
        assert keys(sample) < keys(plain)
        assert lost == {reverse(key) for key in lost}
        assert not any(key == reverse(key) for key in lost)
        assert max(s[key] for key in lost) <= few[-1]
        assert len(lost) < 0.04 * len(s)
    own = {tuple(k): n for n, k in enumerate(plain.graph.edge_key.tolist())}
    for number, sample in enumerate((more, *less), start=1):
        assert sample.variant == number and sample.name == plain.name
        rows = [own.get(tuple(k)) for k in sample.graph.edge_key.tolist()]
        here = [n for n, row in enumerate(rows) if row is not None]
        there = [row for row in rows if row is not None]
        assert torch.equal(sample.label[here], plain.label[there])
        assert torch.equal(sample.mask[here], plain.mask[there])
        assert torch.equal(sample.graph.edge_vector[here], plain.graph.edge_vector[there])
        key = sample.graph.edge_key
        turned = torch.cat([-key[:, :3], key[:, 4:], key[:, 3:4]], dim=1)
        assert torch.equal(key[sample.partner], turned)
    assert len({sample.key for sample in (plain, more, *less)}) == 5
    assert bool(more.mask[~torch.isin(torch.arange(more.graph.edges), torch.tensor(here))].any())


def test_what_a_structure_gets_depends_on_its_name_and_the_seed_only(make_folder: Folder) -> None:
    folder, other = make_folder("a", atoms=8), make_folder("b", atoms=8)

    def sets(where: pathlib.Path, count: int, seed: int) -> list[frozenset[Key]]:
        return [frozenset(keys(sample)) for sample in variants(where, count, seed)[1]]

    np.random.seed(5)
    first = sets(folder, 5, 1)
    np.random.seed(6)
    assert sets(other, 5, 1) != first  # the same atoms under another name
    assert sets(folder, 3, 1) == first[:3] and sets(folder, 5, 1) == first
    assert sets(folder, 5, 2) != first


def test_no_edge_with_a_large_h_goes(make_folder: Folder) -> None:
    """Whatever S is: that of an orthogonal basis says nothing, nor does one that is not there."""
    folder = make_folder("a", atoms=8, seed=3)
    h = blocks(folder, "hamiltonians.h5")
    size = sorted(v for k, v in h.items() if k != reverse(k))
    smallest = size[: int(0.04 * len(size)) + 2][-1]
    with h5py.File(folder / "overlaps.h5", "a") as f:
        for key in h:
            if key != reverse(key):
                f[str(list(key))][...] = 0
    for edges in ("overlaps", "hamiltonians"):
        plain, found = variants(folder, 3, edges=edges)
        gone = set().union(*(keys(plain) - keys(sample) for sample in found))
        assert len(gone) > 2 and max(h[key] for key in gone) <= smallest
        (folder / "overlaps.h5").unlink(missing_ok=edges == "hamiltonians")
    with h5py.File(folder / "hamiltonians.h5", "a") as f:  # an atom's own block is no pair
        for key in h:
            if key == reverse(key):
                f[str(list(key))][...] = 0
    plain, found = variants(folder, 3, edges="hamiltonians")
    gone = set().union(*(keys(plain) - keys(sample) for sample in found))
    assert gone and max(h[key] for key in gone) <= smallest

    folder = make_folder("b", atoms=8, seed=1)
    structure = read_folder(folder)
    hamiltonian, s = (read_matrix(folder, k, structure) for k in ("hamiltonian", "overlap"))
    found = small_pairs(hamiltonian.keys, hamiltonian, s)
    assert len(found) > 1
    hamiltonian.block(int(found[0]))[...] = 1e3
    assert small_pairs(hamiltonian.keys, hamiltonian, s).tolist() == found[1:].tolist()


def test_zeros_that_reach_too_far_are_no_edges(make_folder: Folder) -> None:
    """Files padded with them: the structure as it is has no edges there."""
    folder = make_folder("a", atoms=8)
    of_s = variants(folder, 2, edges="overlaps")
    for name in ("overlaps.h5", "hamiltonians.h5"):
        with h5py.File(folder / name, "a") as f:
            for cells in (30, -30):  # 123 Å
                f[f"[{cells}, 0, 0, 1, 1]"] = 0 * f["[0, 0, 0, 1, 1]"][()]
    plain, found = variants(folder, 2, edges="overlaps")
    assert keys(plain) == keys(of_s[0])
    assert list(map(keys, found)) == list(map(keys, of_s[1]))


def test_few_edges_are_not_varied(make_folder: Folder) -> None:
    folder = make_folder("a", atoms=1)
    plain, found = variants(folder, 2)
    assert plain.graph.edges < 50
    assert all(keys(sample) == keys(plain) for sample in found)
