from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from deeph_gformer.errors import DataError
from deeph_gformer.io import Structure
from deeph_gformer.overlap import BasisOverlap, TwoCentre, two_centre
from deeph_gformer.overlap.basis import BOHR, AtomicBasis, gaunt
from deeph_gformer.overlap.ion import read_ion_xml
from deeph_gformer.overlap.neighbours import symbol
from deeph_gformer.overlap.orb import read_orb

from .gaussians import overlap_block

LIGHT, HEAVY = (
    ((0, 0.8), (1, 0.9), (2, 0.7), (3, 1.1)),
    ((0, 0.5), (0, 1.4), (1, 0.6), (2, 1.2), (3, 0.8)),
)  # (l, exponent in 1/bohr²)


def gaussian_basis(
    number: int, shells: tuple[tuple[int, float], ...], cutoff: float = 7.0
) -> AtomicBasis:
    radius = np.linspace(0, cutoff, 701)
    return AtomicBasis(
        number,
        tuple(l for l, _ in shells),
        radius,
        np.array([radius**l * np.exp(-a * radius**2) for l, a in shells]),
        cutoff,
    ).normalised()


def dimer(
    numbers: tuple[int, int], vector: np.ndarray, shells: dict[int, tuple[int, ...]]
) -> Structure:
    return Structure(
        np.eye(3) * 60,
        np.array([[1.0, 2, 3], np.array([1.0, 2, 3]) + vector]),
        np.array(numbers),
        tuple(shells[z] for z in numbers),
    )


@pytest.fixture(scope="module")
def both() -> TwoCentre:
    return two_centre([gaussian_basis(6, LIGHT), gaussian_basis(42, HEAVY)])


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("numbers", [(6, 42), (42, 6), (6, 6)])
def test_every_block_is_the_exact_integral_of_gaussians(
    both: TwoCentre, numbers: tuple[int, int], seed: int
) -> None:
    shells, table = {6: LIGHT, 42: HEAVY}, both
    vector = np.random.default_rng(seed).normal(size=3) * BOHR * (0.7 + seed)
    structure = dimer(numbers, vector, dict(table.orbital_types))
    matrix = table.blocks(structure, np.array([[0, 0, 0, 0, 1], [0, 0, 0, 1, 0], [0, 0, 0, 0, 0]]))
    exact = overlap_block(shells[numbers[0]], shells[numbers[1]], vector / BOHR)
    found = {key: block for key, block in matrix}
    assert np.abs(found[0, 0, 0, 0, 1] - exact).max() < 1e-8
    assert np.array_equal(found[0, 0, 0, 1, 0], found[0, 0, 0, 0, 1].T)
    assert (
        np.abs(
            found[0, 0, 0, 0, 0]
            - overlap_block(shells[numbers[0]], shells[numbers[0]], np.zeros(3))
        ).max()
        < 1e-8
    )


def test_the_known_closed_forms_of_two_equal_gaussians() -> None:
    a, d = 0.8, 1.7
    table = two_centre([gaussian_basis(6, ((0, a), (1, a)))])
    block = table.blocks(
        dimer((6, 6), np.array([0, 0, d * BOHR]), {6: (0, 1)}), np.array([[0, 0, 0, 0, 1]])
    ).block(0)
    decay = np.exp(-a * d * d / 2)
    expected = decay * np.array(
        [
            [1, 0, 0, -np.sqrt(a) * d],
            [0, 1, 0, 0],
            [0, 0, 1, 0],
            [np.sqrt(a) * d, 0, 0, 1 - a * d * d],
        ]
    )
    assert np.abs(block - expected).max() < 1e-8


def test_slater_orbitals() -> None:
    """1s-1s: e^-d (1 + d + d²/3) for e^-r (Slater); the grid ends at 30 bohr."""
    radius = np.linspace(0, 30, 6001)
    table = two_centre([AtomicBasis(1, (0,), radius, np.exp(-radius)[None], 30.0).normalised()])
    for d in (0.5, 1.4, 3.0, 6.0):
        block = table.blocks(
            dimer((1, 1), np.array([d * BOHR, 0, 0]), {1: (0,)}), np.array([[0, 0, 0, 0, 1]])
        ).block(0)
        assert block[0, 0] == pytest.approx(
            np.exp(-d) * (1 + d + d * d / 3), abs=3e-6
        )  # the cusp at r = 0 decays as k^-4


def test_gaunt_against_known_values() -> None:
    assert gaunt(0, 0, 0, 0) == pytest.approx(1 / np.sqrt(4 * np.pi))
    assert gaunt(1, 1, 2, 0) == pytest.approx(1 / np.sqrt(5 * np.pi))
    assert gaunt(1, 1, 2, 1) == pytest.approx(-0.5 / np.sqrt(5 * np.pi))
    assert gaunt(1, 1, 1, 0) == pytest.approx(0)


def orb_text(basis: AtomicBasis, element: str) -> str:
    lines = [
        "-" * 75,
        f"Element                     {element}",
        "Energy Cutoff(Ry)           100",
        f"Radius Cutoff(a.u.)         {basis.cutoff:g}",
        f"Lmax                        {max(basis.shells)}",
        "-" * 75,
        "SUMMARY  END",
        "",
        f"Mesh                        {len(basis.radius)}",
        f"dr                          {basis.radius[1]:.17g}",
    ]
    for n, (l, values) in enumerate(zip(basis.shells, basis.orbitals)):
        lines += [
            "                Type                   L                   N",
            f"                   0                   {l}                   {n}",
        ]
        lines += [
            "  ".join(f"{v:.14e}" for v in values[start : start + 4])
            for start in range(0, len(values), 4)
        ]
    return "\n".join(lines) + "\n"


def test_damaged_numbers_of_orbitals_are_noticed(tmp_path: pathlib.Path) -> None:
    """A norm that is not 1, and a value far from its neighbours."""
    good = gaussian_basis(42, HEAVY)
    path = tmp_path / "Mo.orb"
    place = int(0.3 * len(good.radius))
    for change, words in ((lambda v: v * 1.2, "norm of 1.44"), (lambda v: v, "jumps at")):
        orbitals = good.orbitals.copy()
        orbitals[1] = change(orbitals[1])
        if words == "jumps at":
            orbitals[1, place] += 0.3 * np.abs(orbitals[1]).max()
        path.write_text(orb_text(dataclasses.replace(good, orbitals=orbitals), "Mo"))
        with pytest.raises(DataError, match=f"Mo.orb: orbital 1 .*{words}.*damaged"):
            read_orb(path)
    orbitals = good.orbitals.copy()  # a row of the file that has changed places with one of the end
    size = np.abs(orbitals[1]) / np.abs(orbitals[1]).max()
    row = 4 * (int(np.flatnonzero(size > 0.1)[-1]) // 4)
    orbitals[1, row : row + 4], orbitals[1, -8:-4] = orbitals[1, -8:-4], orbitals[1, row : row + 4]
    path.write_text(orb_text(dataclasses.replace(good, orbitals=orbitals), "Mo"))
    with pytest.raises(DataError, match="Mo.orb: orbital 1 jumps at"):
        read_orb(path)
    for off, place in ((6e-5, 40), (1e-6, 300), (-1e-6, len(good.radius) - 20)):  # a digit
        orbitals = good.orbitals.copy()
        orbitals[2, place] += off * np.abs(orbitals[2]).max()
        path.write_text(orb_text(dataclasses.replace(good, orbitals=orbitals), "Mo"))
        with pytest.raises(DataError, match=r"Mo.orb: a value of orbital 2 .* does not fit"):
            read_orb(path)
    path.write_text(orb_text(good, "Mo"))
    assert read_orb(path).shells == good.shells


@pytest.mark.parametrize("element", ["Bi", "C", "Mo", "S", "Se", "Te"])
def test_real_orbitals_are_far_smoother_than_what_is_refused(
    orbital_file: Callable[[str], pathlib.Path], element: str
) -> None:
    """Eighth differences of 2e-7 of the largest value at most; 2e-5 are refused."""
    found = read_orb(orbital_file(element))
    size = np.abs(found.orbitals).max(axis=1)
    assert (np.abs(np.diff(found.orbitals, 8, axis=1)).max(axis=1) < 5e-7 * size).all()


def test_orb_files_are_read_in_their_order(tmp_path: pathlib.Path) -> None:
    basis = gaussian_basis(42, HEAVY)
    path = tmp_path / "Mo.orb"
    path.write_text(orb_text(basis, "Mo"))
    found = read_orb(path)
    assert (found.number, found.shells, found.cutoff) == (42, (0, 0, 1, 2, 3), 7.0) and np.allclose(
        found.orbitals, basis.orbitals, atol=1e-12
    )
    assert BasisOverlap([path]).cutoffs == {(42, 42): pytest.approx(14 * BOHR)}


def test_damaged_orb_files_are_refused(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "Mo.orb"
    text = orb_text(gaussian_basis(42, HEAVY), "Mo")
    for damaged, words in (
        (text[:-400], "cut short"),
        (text.replace("Mesh", "Mash"), "Mesh"),
        (text.replace("Element                     Mo", "Element   Xx1"), "Xx1"),
        ("", "not an ABACUS"),
    ):
        path.write_text(damaged)
        with pytest.raises(DataError, match=words):
            read_orb(path)
    with pytest.raises(DataError, match="not found"):
        read_orb(tmp_path / "absent.orb")
    with pytest.raises(DataError, match="two basis files of Mo"):
        two_centre([gaussian_basis(42, HEAVY)] * 2)


def ion_xml_text(number: int, shells: Sequence[tuple[int, int, int, int, float]]) -> str:
    """A file in SIESTA's layout: Gaussians, tabulated as R / r^l.

    Args:
        number: of the element.
        shells: n, l, zeta, whether it is a polarisation orbital, exponent.
    """
    radius, name = np.linspace(0, 7.0, 500), symbol(number)
    orbitals = "".join(
        f'<orbital l="{l}" n="{n}" z="{z}" ispol="{p}" population="1.0">\n<radfunc>'
        f"<npts>{len(radius)}</npts>\n<delta>{radius[1]:.17e}</delta>\n<cutoff>7.0</cutoff>\n"
        "<data>\n"
        + "\n".join(f"{r:.12e} {np.exp(-a * r * r):.12e}" for r in radius)
        + "\n</data></radfunc></orbital>\n"
        for n, l, z, p, a in shells
    )
    return (
        f'<ion version="0.1">\n<symbol>{name}</symbol>\n<label>{name}</label>\n<z>{number}</z>\n'
        f"<valence>4</valence>\n<mass>12.0</mass>\n<paos>\n{orbitals}</paos>\n</ion>\n"
    )


def test_damaged_radii_of_an_ion_xml_are_refused(tmp_path: pathlib.Path) -> None:
    """sisl makes splines through points in any order, of 10^6."""
    pytest.importorskip("sisl")
    path, text = tmp_path / "C.ion.xml", ion_xml_text(6, ((2, 0, 1, 0, 0.6),))
    lines = text.split("\n")
    row = next(n for n, line in enumerate(lines) if line.startswith("1.40"))
    value = lines[row].split()[1]
    for new, words in ((f"0 {value}", "radii do not ascend"), (value, "or damaged")):
        path.write_text("\n".join([*lines[:row], new, *lines[row + 1 :]]))
        with pytest.raises(DataError, match=f"C.ion.xml: .*{words}"):
            read_ion_xml(path)
    path.write_text(text[: len(text) // 2])
    with pytest.raises(DataError, match="C.ion.xml: not a SIESTA basis, or damaged"):
        read_ion_xml(path)


def test_siesta_ion_xml(tmp_path: pathlib.Path) -> None:
    """A file in SIESTA's layout (radial data are R / r^l), against the exact Gaussians."""
    pytest.importorskip("sisl")
    path = tmp_path / "C.ion.xml"
    path.write_text(
        ion_xml_text(
            6, ((2, 0, 1, 0, 0.6), (2, 0, 2, 0, 1.1), (2, 1, 1, 0, 0.7), (3, 2, 1, 1, 0.9))
        )
    )
    shells = ((0, 0.6), (0, 1.1), (1, 0.7), (2, 0.9))
    provider = BasisOverlap([path])
    assert provider.orbital_types == {6: (0, 0, 1, 2)} and provider.cutoffs[6, 6] == pytest.approx(
        14 * BOHR, abs=1e-4
    )
    vector = np.array([0.7, -1.1, 1.6]) * BOHR
    block = provider.overlap(
        dimer((6, 6), vector, {6: (0, 0, 1, 2)}), np.array([[0, 0, 0, 0, 1]])
    ).block(0)
    assert np.abs(block - overlap_block(shells, shells, vector / BOHR)).max() < 1e-5


@pytest.mark.parametrize(
    "name, elements",
    [
        ("graphene", "C"),
        ("mos2", "Mo S"),
        ("bilayer_graphene_21.8deg", "C"),
        ("bismuthene_21.8deg_0K", "Bi"),
        ("bi2te3", "Bi Te"),
        ("bi2se3", "Bi Se"),
    ],
)
def test_stored_overlaps_of_abacus_are_met(packed, orbital_file, name: str, elements: str) -> None:
    structure, overlap, _ = packed(name, 0)
    provider = BasisOverlap([orbital_file(e) for e in elements.split()])
    predicted = provider.overlap(structure, overlap.keys)
    assert np.abs(predicted.values - overlap.values).max() < 1e-6
    edges = provider.edges(structure)
    assert {tuple(k) for k in overlap.keys.tolist()} <= {tuple(k) for k in edges.tolist()}
