from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from deeph_gformer.errors import ConfigError, DataError
from deeph_gformer.io import BlockMatrix, Structure
from deeph_gformer.overlap import TableOverlap, TwoCentre, two_centre
from deeph_gformer.overlap.basis import BOHR
from deeph_gformer.overlap.describe import describe, verdict
from deeph_gformer.overlap.fit import collect, fit_samples
from deeph_gformer.overlap.radial import fit_radial
from deeph_gformer.overlap.twocentre import PairTable, bond_functions, swap_sign

from .gaussians import overlap_block
from .test_basis import gaussian_basis

SHELLS = {6: ((0, 0.9), (1, 1.0)), 14: ((0, 0.7), (1, 0.8), (2, 0.9))}  # (l, exponent in 1/bohr²)


@pytest.fixture(scope="module")
def truth() -> TwoCentre:
    return two_centre([gaussian_basis(z, s, 4.0) for z, s in SHELLS.items()])


def crystal(truth: TwoCentre, seed: int, spread: float = 0.12) -> tuple[Structure, BlockMatrix]:
    """A shaken cubic C-Si cell with the overlaps of ``truth``."""
    random = np.random.default_rng(seed)
    lattice = np.diag([4.4, 4.4, 4.4]) + random.normal(0, 0.05, (3, 3))
    sites = np.array(
        [
            [0, 0, 0],
            [0.5, 0.5, 0],
            [0.5, 0, 0.5],
            [0, 0.5, 0.5],
            [0.25, 0.25, 0.25],
            [0.75, 0.75, 0.25],
        ]
    )
    numbers = np.array([6, 6, 14, 14, 6, 14])
    shells = tuple(truth.orbital_types[z] for z in numbers.tolist())
    structure = Structure(
        lattice, sites @ lattice + random.normal(0, spread, (6, 3)), numbers, shells, name=f"{seed}"
    )
    return structure, TableOverlap(truth).overlap(structure)


@pytest.fixture(scope="module")
def fitted(truth: TwoCentre) -> TwoCentre:
    return fit_samples(*collect(crystal(truth, seed) for seed in range(8)))


def test_an_unseen_structure_is_predicted(truth: TwoCentre, fitted: TwoCentre) -> None:
    structure, exact = crystal(truth, 100, 0.08)
    provider = TableOverlap(fitted, extrapolate=False)
    assert np.array_equal(provider.edges(structure), exact.keys)
    predicted = provider.overlap(structure)
    assert np.abs(predicted.values - exact.values).max() < 1e-5
    assert np.array_equal(predicted.conjugate_transpose().values, predicted.values)
    for key, block in list(predicted)[3:200:17]:  # and against the integrals themselves
        vector = structure.edge_vectors(np.array([key]))[0]
        if 0.1 < np.linalg.norm(vector) < 3.5:
            a, b = (SHELLS[int(structure.numbers[n])] for n in key[3:])
            assert np.abs(block - overlap_block(a, b, vector / BOHR)).max() < 2e-5


def test_prediction_turns_with_the_structure(fitted: TwoCentre, truth: TwoCentre) -> None:
    from scipy.spatial.transform import Rotation

    from deeph_gformer.overlap.rotation import block_rotation

    structure, matrix = crystal(truth, 101)
    turn = Rotation.random(random_state=4).as_matrix()
    turned = dataclasses.replace(
        structure, lattice=structure.lattice @ turn.T, positions=structure.positions @ turn.T
    )
    provider = TableOverlap(fitted)
    before, after = provider.overlap(structure, matrix.keys), provider.overlap(turned, matrix.keys)
    for e in range(0, len(before), 37):
        left, right = (
            block_rotation(structure.orbital_types[n], turn[None])[0] for n in before.keys[e, 3:]
        )
        assert np.allclose(after.block(e), left @ before.block(e) @ right.T, atol=1e-12)


def test_edges_without_their_partners_are_the_same(fitted: TwoCentre, truth: TwoCentre) -> None:
    structure, matrix = crystal(truth, 102)
    provider = TableOverlap(fitted)
    whole, odd = (
        provider.overlap(structure, matrix.keys),
        provider.overlap(structure, matrix.keys[1::3]),
    )
    assert np.allclose(odd.values, whole.select(np.arange(len(whole))[1::3]).values, atol=1e-13)


def pair_at(table: TwoCentre, distance: float, numbers: tuple[int, int] = (6, 14)) -> Structure:
    return Structure(
        np.eye(3) * 40,
        np.array([[0, 0, 0], [0, distance, 0.0]]),
        np.array(numbers),
        tuple(table.orbital_types[z] for z in numbers),
        name="pair",
    )


def test_unknown_distances_are_refused_with_atoms_and_values(fitted: TwoCentre) -> None:
    low = fitted.pairs[6, 14].valid[0, 0]
    provider, brave = TableOverlap(fitted), TableOverlap(fitted, extrapolate=True)
    close = pair_at(fitted, low - 0.1)
    with pytest.raises(
        DataError,
        match=rf"atoms 1 \(C\) and 2 \(Si\).*{low - 0.1:.4f} Å.*closer than the known range",
    ):
        provider.overlap(close)
    assert len(brave.overlap(close)) == 4
    narrow = dataclasses.replace(
        fitted,
        pairs={
            **fitted.pairs,
            (6, 14): dataclasses.replace(
                fitted.pairs[6, 14], valid=np.array([[1.0, 2.0], [2.5, 4.2]])
            ),
        },
    )
    with pytest.raises(
        DataError,
        match="2.2000 Å apart: a distance that the training set does not cover.*1.000-2.000, "
        "2.500-4.200",
    ):
        TableOverlap(narrow).overlap(pair_at(fitted, 2.2))
    assert len(TableOverlap(narrow).overlap(pair_at(fitted, 1.9))) == 4


def test_unknown_elements_shells_and_pairs_are_named(fitted: TwoCentre) -> None:
    structure = pair_at(fitted, 2.0)
    with pytest.raises(DataError, match=r"element Ge.*knows C \[0, 1\], Si \[0, 1, 2\]"):
        TableOverlap(fitted).edges(dataclasses.replace(structure, numbers=np.array([6, 32])))
    with pytest.raises(DataError, match=r"atom 2 \(Si\).*shells \[0\]"):
        TableOverlap(fitted).overlap(dataclasses.replace(structure, orbital_types=((0, 1), (0,))))
    lacking = dataclasses.replace(
        fitted, pairs={pair: t for pair, t in fitted.pairs.items() if pair != (6, 14)}
    )
    for brave in (False, True):
        with pytest.raises(DataError, match="no pair C-Si"):
            TableOverlap(lacking, extrapolate=brave).overlap(structure)
    assert len(TableOverlap(lacking).overlap(pair_at(fitted, 15.0))) == 2  # too far apart to matter


def test_gaps_are_found_and_what_is_called_known_is_known() -> None:
    random = np.random.default_rng(0)
    distance = np.concatenate(
        [random.uniform(1.3, 1.6, 300), random.uniform(2.9, 3.4, 300), [4.4] * 20]
    )

    def functions(d: np.ndarray) -> np.ndarray:
        return np.stack([np.exp(-d * d / 2) * (1 - d * d / 3), d * np.exp(-d * d / 3)], axis=1)

    fit = fit_radial(distance, functions(distance) + random.normal(0, 3e-8, (620, 2)), 0.9, 8.0)
    table = PairTable(fit.knots, fit.coefficients, 7, 8.0, np.zeros((0, 2)))
    error = np.abs(table(fit.grid) - functions(fit.grid)).max(axis=1)
    known = 4 * fit.deviation < 1e-5
    assert error[known].max() < 2e-5
    inside = lambda a, b: known[(fit.grid > a) & (fit.grid < b)]  # noqa: E731
    assert inside(1.3, 1.6).all() and inside(2.9, 3.4).all() and inside(4.3999, 4.4001).all()
    assert not inside(1.9, 2.4).any() and not inside(0.9, 1.1).any() and not inside(3.8, 4.2).any()


def test_a_lattice_vector_that_always_occurs_is_known_and_what_lies_beyond_is_not_dropped() -> None:
    """Overlap still large at the last distance seen, and no pair until far beyond: a pair in
    between must be refused, not left without an edge."""
    orbitals = two_centre([gaussian_basis(6, ((0, 0.3), (1, 0.3)), 4.0)])
    structure = Structure(np.eye(3) * 3.0, np.zeros((1, 3)), np.array([6]), ((0, 1),))
    table = fit_samples(*collect([(structure, TableOverlap(orbitals).overlap(structure))]))
    pair = table.pairs[6, 6]
    assert (
        pair.report["max_distance_A"] == pytest.approx(3.0)
        and pair.report["cut_hard"]
        and pair.cutoff == pytest.approx(3 * np.sqrt(2))
    )
    exact, found = (TableOverlap(t).overlap(structure) for t in (orbitals, table))
    assert np.abs(exact.values - found.values).max() < 1e-6
    with pytest.raises(
        DataError, match="3.3000 Å apart: a distance that the training set does not cover"
    ):
        TableOverlap(table).overlap(pair_at(table, 3.3, (6, 6)))


def test_overlaps_that_were_cut_end_where_they_were_cut() -> None:
    """S cut at 2.6 Å while still 3e-2: up to there the functions are right, beyond there is
    nothing."""
    orbitals = two_centre([gaussian_basis(6, ((0, 0.3), (1, 0.3)), 5.0)])
    samples = []
    for seed in range(4):
        random = np.random.default_rng(seed)
        positions = np.array([[0, 0, 0], [2, 2, 0], [2, 0, 2], [0, 2, 2]]) * 0.8 + random.normal(
            0, 0.2, (4, 3)
        )
        structure = Structure(np.eye(3) * 4.0, positions, np.full(4, 6), ((0, 1),) * 4)
        matrix = TableOverlap(orbitals).overlap(structure)
        samples.append(
            (
                structure,
                matrix.select(
                    np.flatnonzero(
                        np.linalg.norm(structure.edge_vectors(matrix.keys), axis=1) < 2.6
                    )
                ),
            )
        )
    table = fit_samples(*collect(samples))
    pair = table.pairs[6, 6]
    assert pair.report["cut_hard"] and pair.cutoff == pytest.approx(2.6, abs=0.06)
    beyond = pair_at(table, 2.8, (6, 6))
    assert not TableOverlap(table).overlap(beyond, np.array([[0, 0, 0, 0, 1]])).values.any()
    near = pair_at(table, 2.5, (6, 6))
    assert (
        np.abs(
            TableOverlap(table).overlap(near).values - TableOverlap(orbitals).overlap(near).values
        ).max()
        < 1e-5
    )


def test_three_centre_parts_are_noticed(truth: TwoCentre) -> None:
    def spoiled(seed: int) -> tuple[Structure, BlockMatrix]:
        structure, matrix = crystal(truth, seed)
        noise = BlockMatrix(
            matrix.keys,
            matrix.shapes,
            np.random.default_rng(seed).normal(0, 3e-4, len(matrix.values)),
        ).hermitian()
        return structure, BlockMatrix(matrix.keys, matrix.shapes, matrix.values + noise.values)

    table = fit_samples(*collect(spoiled(seed) for seed in range(4)))
    assert (
        not table.report["two_centre"]
        and 5e-4 < table.report["worst_off_site"] < 5e-3
        and 5e-4 < table.report["worst_on_site"] < 5e-3
    )
    assert (
        "NOT two-centre" in verdict(table) and verdict(table) == describe(TableOverlap(table))[-1]
    )
    assert 1e-4 < table.pairs[6, 6].report["off_m_rms"] < 4e-4


def test_clean_data_are_called_two_centre(fitted: TwoCentre) -> None:
    assert fitted.report["two_centre"] and verdict(fitted).startswith("S is two-centre")
    assert fitted.pairs[6, 6].report["off_m_max"] < 1e-10


def test_like_atoms_have_functions_of_the_right_parity(fitted: TwoCentre) -> None:
    index, sign = swap_sign((0, 1, 2), (0, 1, 2))
    values = fitted.pairs[14, 14](np.linspace(1.5, 4, 20))
    assert np.allclose(values, sign * values[:, index], atol=1e-12)
    functions = bond_functions((0, 1, 2), (0, 1, 2))[0]
    assert len(functions) == 3 + 4 + 7 and sign[[(f == (0, 1, 0)).all() for f in functions]] == -1


def test_bad_input_to_a_fit(truth: TwoCentre) -> None:
    structure, matrix = crystal(truth, 0)
    with pytest.raises(ConfigError, match="positive"):
        fit_samples(*collect([(structure, matrix)]), tolerance=0)
    other = dataclasses.replace(
        structure, name="other", orbital_types=tuple((0, 1) for _ in structure.numbers)
    )
    with pytest.raises(DataError, match="'other': atom 3"):
        collect([(structure, matrix), (other, matrix)])
    with pytest.raises(DataError, match="asymmetric edge set"):
        collect([(structure, matrix.select(np.arange(1, len(matrix))[matrix.keys[1:, 3] < 5]))])
    length = np.linalg.norm(structure.edge_vectors(matrix.keys), axis=1)
    holes = matrix.select(np.flatnonzero((length < 2.5) | (length > 3.0)))
    with pytest.raises(
        DataError, match="C-C blocks reach to 4.*but in '0' atoms 2[.].* apart have none"
    ):
        fit_samples(*collect([crystal(truth, 1), (structure, holes)]))
    with pytest.raises(DataError, match="no off-site block"):
        fit_samples({6: (0,)}, {}, {6: [np.eye(1)]})


@pytest.mark.parametrize(
    "name, train, test",
    [("graphene", range(7), 8), ("mos2", range(7), 9), ("bismuthene", range(6), 7)],
)
def test_unseen_dft_structures(packed, name: str, train: range, test: int) -> None:
    table = fit_samples(*collect(packed(name, n)[:2] for n in train))
    structure, exact, _ = packed(name, test)
    provider = TableOverlap(table)
    assert np.array_equal(provider.edges(structure), exact.keys)
    assert np.abs(provider.overlap(structure).values - exact.values).max() < 1e-5


def test_bands_of_a_twisted_bilayer_from_a_table_fitted_to_untwisted_ones(packed) -> None:
    from scipy.linalg import eigh

    table = fit_samples(*collect(packed("bilayer_graphene", n)[:2] for n in range(9)))
    structure, exact, hamiltonian = packed("bilayer_graphene_21.8deg", 1)
    predicted = TableOverlap(table).overlap(structure)
    assert np.abs(predicted.values - exact.values).max() < 1e-5
    starts = np.concatenate([[0], np.cumsum(structure.orbital_counts)])

    def bloch(matrix: BlockMatrix, k: np.ndarray) -> np.ndarray:
        total = np.zeros((starts[-1],) * 2, complex)
        for key, block in matrix:
            total[starts[key[3]] : starts[key[3] + 1], starts[key[4]] : starts[key[4] + 1]] += (
                np.exp(2j * np.pi * np.dot(k, key[:3])) * block
            )
        return total

    k = np.array([0.21, 0.34, 0])
    bands = [
        eigh(bloch(hamiltonian, k), bloch(s, k), eigvals_only=True) for s in (exact, predicted)
    ]
    near = np.abs(bands[0] - structure.info["fermi_level"]) < 3
    assert near.sum() > 5 and np.abs(bands[0] - bands[1])[near].max() < 1e-3


def test_gpaw_overlaps_are_called_not_two_centre(packed) -> None:
    table = fit_samples(*collect(packed("graphene_gpaw", n)[:2] for n in range(3)))
    assert not table.report["two_centre"] and table.report["worst_on_site"] > 1e-3
