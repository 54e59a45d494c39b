"""The default GFormer on the shipped first stages of all six systems: ideal and displaced crystals.

Weights are random where the head starts at zero, so the correction is some meV. What a crystal
looks like does not depend on how it is written down; rounding is not amplified where symmetry makes
things vanish; and H is about as smooth in the positions as stage 1's.
"""

from __future__ import annotations

import copy
import dataclasses
import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from deeph_gformer.algebra.blocks import DirectSumToProduct
from deeph_gformer.analysis.redescribe import Description, relattice, renumber, supercell
from deeph_gformer.config import GFormerConfig
from deeph_gformer.data.features import Stage1Features
from deeph_gformer.data.graph import build_graph
from deeph_gformer.gformer.bundle import Bundle
from deeph_gformer.gformer.model import GFormer
from deeph_gformer.io.blocks import sort_keys
from deeph_gformer.io.structure import Structure
from deeph_gformer.pipeline import HamiltonianModel
from deeph_gformer.prediction.identity import identify
from deeph_gformer.stage1 import load_stage1

from ..conftest import ROOT

SYSTEMS = ROOT / "examples" / "systems" / "models"
#: Folder of stage 1, lattice constant in Å, atoms (Z, site 0, 1 or 2 of the triangle, z in Å).
CRYSTALS = {
    "graphene": (ROOT / "examples" / "graphene", 2.46, [(6, 0, 0), (6, 1, 0)]),
    "bilayer_graphene": (
        SYSTEMS / "bilayer_graphene",
        2.46,
        [(6, 0, 0), (6, 1, 0), (6, 0, 3.35), (6, 2, 3.35)],
    ),
    "mos2": (SYSTEMS / "mos2", 3.18, [(42, 0, 0), (16, 1, 1.56), (16, 1, -1.56)]),
    "bismuthene": (SYSTEMS / "bismuthene", 4.5, [(83, 0, 0), (83, 1, 1.6)]),
    "bi2te3": (
        SYSTEMS / "bi2te3",
        4.4,
        [(52, 0, 0), (83, 1, 2.0), (83, 2, -2.0), (52, 2, 3.7), (52, 1, -3.7)],
    ),
    "bi2se3": (
        SYSTEMS / "bi2se3",
        4.15,
        [(34, 0, 0), (83, 1, 1.9), (83, 2, -1.9), (34, 2, 3.5), (34, 1, -3.5)],
    ),
}
RANGE = 4.6


def keys_within(s: Structure, distance: float) -> NDArray[np.int64]:
    """(E, 5), every pair of atoms this close."""
    cells = np.array([(a, b, 0) for a, b in itertools.product(range(-3, 4), repeat=2)])
    n = len(s)
    every = np.array([(*c, i, j) for c in cells for i in range(n) for j in range(n)])
    every = every[np.linalg.norm(s.edge_vectors(every), axis=1) < distance]
    return every[sort_keys(every)]


class Case(NamedTuple):
    """A crystal, with a model in double precision and the same one in single precision."""

    ideal: Structure
    displaced: Structure
    keys: NDArray[np.int64]
    double: HamiltonianModel
    single: HamiltonianModel


@pytest.fixture(scope="module", params=CRYSTALS)
def case(request: pytest.FixtureRequest) -> Case:
    folder, a, sites = CRYSTALS[request.param]
    first = {d: load_stage1(folder / "stage1", dtype=d) for d in (torch.float32, torch.float64)}
    provider = first[torch.float64]
    basis = provider.targets.basis
    lattice = np.array([[a, 0, 0], [-a / 2, a * 3**0.5 / 2, 0], [0, 0, 30.0]])
    fractions = np.array(
        [[(0, 0, 0), (1 / 3, 2 / 3, 0), (2 / 3, 1 / 3, 0)][n] for _, n, _ in sites]
    )
    positions = fractions @ lattice + np.array([(0, 0, z + 10) for _, _, z in sites])
    numbers = np.array([z for z, _, _ in sites])
    shells = tuple(basis.orbital_types[basis.elements.index(z)] for z in numbers.tolist())
    ideal = Structure(lattice, positions, numbers, shells, basis.spinful, name=request.param)
    rng = np.random.default_rng(0)
    moved = [
        dataclasses.replace(ideal, positions=positions + rng.normal(0, 0.05, positions.shape))
        for _ in range(2)
    ]
    keys = keys_within(ideal, RANGE)
    graphs = [build_graph(s, keys, basis) for s in moved]
    outs = [provider(g) for g in graphs]
    torch.manual_seed(0)
    model = GFormer(
        GFormerConfig(width=32, gated_channels=16),
        len(basis.elements),
        provider.targets.irreps(provider.parity),
        provider.node_irreps,
        provider.edge_irreps,
        provider.cutoff,
    ).double()
    features = [Stage1Features(o.node, o.edge, o.direct_sum) for o in outs]
    # some meV on every edge, in the pattern of stage 1's own prediction
    sums = [o.direct_sum / o.direct_sum.square().mean(dim=1, keepdim=True).sqrt() for o in outs]
    residuals = [5e-3 * torch.randn(len(d), 1).double() * d for d in sums]
    model.fit_scales(graphs, features, residuals)
    head = model.head
    last = [head.gates[-1], head.scalars[-1], head.mixing.gates[-1]]
    with torch.no_grad():
        for layer in [*last, head.messages.mixing.gates[-1]]:
            layer.weight.copy_(torch.randn_like(layer.weight) / layer.weight.shape[1] ** 0.5)
        product = DirectSumToProduct(provider.targets, provider.generation, provider.dtype)
        size = float(product(model(graphs[0], features[0])).abs().mean())
        for layer in last:
            layer.weight.mul_(3e-3 / size)
            layer.bias.mul_(3e-3 / size)
    model = model.float().eval().requires_grad_(False)
    both = []
    for dtype in (torch.float64, torch.float32):
        stage1, mine = first[dtype], copy.deepcopy(model).to(dtype)
        both.append(
            HamiltonianModel(
                stage1,
                Bundle(
                    mine,
                    stage1.targets,
                    identify(stage1),
                    stage1.generation,
                    dtype=dtype,
                    gauge=stage1.gauge,
                ),
            )
        )
    return Case(ideal, moved[0], keys, *both)


def meV(values: NDArray[np.number]) -> float:
    return float(np.abs(values).max()) * 1e3


def test_other_descriptions_of_the_same_crystal(case: Case) -> None:
    rng, n = np.random.default_rng(0), len(case.ideal)
    kinds: list[Description] = [
        supercell(n, np.array([2, 1, 1])),
        relattice(n, np.array([[-1, 0, 0], [1, 1, 0], [0, 0, -1]])),
        renumber(rng.permutation(n)),
    ]
    for s in (case.ideal, case.displaced):
        made = case.double.predict(s, keys=case.keys)
        assert made.correction > 1e-4
        for new in kinds:
            again = case.double.predict(new.structure(s), keys=new.keys(case.keys)[0])
            gap = new.blocks(made.hamiltonian).values - again.hamiltonian.values
            assert meV(gap) < 1e-6  # ten thousand times less than what is asked of bands


def test_single_precision_is_double_precision(case: Case) -> None:
    """Ideal crystals: of the correction, which is some meV, at most a hundredth of a meV is
    rounding."""
    made = [m.predict(case.ideal, keys=case.keys) for m in (case.single, case.double)]
    single, double = (p.hamiltonian.values.astype(np.complex128) - p.stage1.values for p in made)
    assert meV(double) > 3 and meV(single - double) < 0.01


def second(values: Sequence[NDArray[np.number]]) -> NDArray[np.number]:
    """Second differences of arrays at equal steps."""
    v = np.stack(values)
    return v[2:] - 2 * v[1:-1] + v[:-2]


def turn(values: Sequence[NDArray[np.number]]) -> float:
    """Second differences over the values themselves, root mean squares."""
    rms = [np.sqrt(np.mean(np.abs(v) ** 2)) for v in (second(values), values[0])]
    return float(rms[0] / rms[1])


def test_smooth_in_the_positions(case: Case) -> None:
    """Second differences over steps of 0.001 Å, through the ideal crystal and beside it, against
    stage 1's.

    Stage 1 itself divides irreps that vanish in ideal crystals by their norm, so with spin-orbit
    coupling its features turn round within 0.001 Å there, whatever its H does. The correction,
    which is made of them, turns round by a quarter as much at most.
    """
    stage1 = case.double.stage1
    assert stage1 is not None
    for start in (0.0, 0.02):
        first, both, edges = [], [], []
        for n in range(4):
            positions = case.ideal.positions.copy()
            positions[-1] += (start + (n - 1.5) * 1e-3) * np.array([0.6, 0.64, 0.48])
            moved = dataclasses.replace(case.ideal, positions=positions)
            made = case.double.predict(moved, keys=case.keys)
            first.append(made.stage1.values)
            both.append(made.hamiltonian.values)
            found = stage1(build_graph(moved, case.keys, stage1.targets.basis)).edge
            edges.append(np.concatenate([part.numpy().ravel() for part in found]))
        smooth = meV(second(both)) < 2 * meV(second(first))
        correction = [a - b for a, b in zip(both, first, strict=True)]
        assert smooth or turn(edges) > 0.01 and turn(correction) < 0.25 * turn(edges)
