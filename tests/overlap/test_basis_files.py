"""Readers of basis files: synthetic files against closed forms, real ones against the codes' own
S."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest
from scipy.integrate import trapezoid

from deeph_gformer.errors import DataError
from deeph_gformer.io import read_folder, read_matrix
from deeph_gformer.overlap import BasisOverlap, load
from deeph_gformer.overlap.basis import BOHR
from deeph_gformer.overlap.basis_files import read_bases
from deeph_gformer.overlap.ion import read_ion
from deeph_gformer.overlap.pao import OPENMX_BOHR, read_pao

from .gaussians import overlap_block
from .test_basis import dimer

SHARED = pathlib.Path(__file__).resolve().parents[2].parent / "shared" / "dft" / "openmx"
EXPONENTS = ((0.9, 0.5, 1.3), (0.8, 0.6, 1.1), (0.7, 1.2, 0.9))  # per l, one a column


def pao_text(number: int, cutoff: float = 6.5, rows: int = 500, scale: float = 1.0) -> str:
    """A file in OpenMX's layout: Gaussians with three columns for each of l = 0, 1, 2."""
    x = np.linspace(np.log(5e-4), np.log(cutoff * 1.15), rows)
    r = np.exp(x)
    text = [
        "*** a header with words ***",
        "<Contraction.coefficients1",
        "  Atom=  1  L= 0  Mul= 0  p=  0   0.99",
        "Contraction.coefficients1>",
        f"AtomSpecies   {number}   # nucleus",
        f"grid.num.output   {rows}",
        f"radial.cutoff.pao   {cutoff}   # bohr",
        "<valence.charge.density",
        "  -7.0 0.001 0.4",
        "valence.charge.density>",
        "PAO.Lmax   2",
        "PAO.Mul    3",
    ]
    for l, exponents in enumerate(EXPONENTS):
        values = [scale * r**l * np.exp(-a * r**2) * (r < cutoff) for a in exponents]
        text.append(f"<pseudo.atomic.orbitals.L={l}")
        text += ["  ".join(f"{v:.15e}" for v in row) for row in np.stack([x, r, *values], 1)]
        text.append(f"pseudo.atomic.orbitals.L={l}>")
    return "\n".join(text) + "\n"


def ion_text(number: int, shells: tuple[tuple[int, float], ...]) -> str:
    """A file in SIESTA's layout (R / r^l; each function on a grid of its own)."""
    lines = ["<preamble>", " junk 1 2 3", "</preamble>", "C      # Symbol", "C      # Label"]
    lines += [f"  {number}      # Atomic number", "  4.0     # Valence charge"]
    lines += ["  2  4    # Lmax for basis, no. of nl orbitals", "# PAOs:__________________________"]
    for n, (l, a) in enumerate(shells):
        cutoff = 6.5 + 0.1 * n
        radius = np.linspace(0, cutoff, 500)
        lines.append(f"  {l}  2  1  0  2.000000   #orbital l, n, z, is_polarized, population")
        lines.append(f" 500  {radius[1]:.12E}  {cutoff:.12f}  # npts, delta, cutoff")
        lines += [f"  {r:.12E}  {np.exp(-a * r * r):.12E}" for r in radius]
    lines += [
        "# KBs:__________________________",
        "  0  1  2.0   #kb l, n (sequence number), energy",
    ]
    lines += [" 500  0.1  9.9   # npts, delta, cutoff", *["  0.0  1.0"] * 500]
    return "\n".join(lines) + "\n"


def test_a_pao_basis_is_the_first_columns_as_they_are(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "C6.5.pao"
    path.write_text(pao_text(6, scale=1.7))
    basis = read_pao(path, "s2p1d1")
    assert (basis.number, basis.shells, basis.cutoff) == (6, (0, 0, 1, 2), 6.5)
    provider = load([tmp_path, "C6.5-s2p1d1"])
    assert provider.cutoffs[6, 6] == pytest.approx(13 * OPENMX_BOHR)
    shells = ((0, 0.9), (0, 0.5), (1, 0.8), (2, 0.7))
    vector = np.array([0.8, -1.0, 1.5]) * OPENMX_BOHR
    keys = np.array([[0, 0, 0, 0, 1], [0, 0, 0, 0, 0]])
    on_site, block = provider.overlap(dimer((6, 6), vector, {6: (0, 0, 1, 2)}), keys)
    grid = np.linspace(0, 12, 24001)
    norm = np.concatenate(
        [
            [np.sqrt(trapezoid(grid ** (2 * l + 2) * np.exp(-2 * a * grid**2), grid))] * (2 * l + 1)
            for l, a in shells
        ]
    )
    size = 1.7**2 * norm[:, None] * norm  # the overlaps of normalised Gaussians, times their norms
    exact = size * overlap_block(shells, shells, vector / OPENMX_BOHR)
    assert np.abs(block[1] - exact).max() < 2e-5  # 500 points on a logarithmic mesh
    exact = size * overlap_block(shells, shells, np.zeros(3))
    assert np.abs(on_site[1] - exact).max() < 2e-5 and np.abs(exact - np.eye(10)).max() > 0.1


@pytest.mark.parametrize(
    "name, basis",
    [
        ("graphene", "C6.0-s2p2d1"),
        ("v38_graphene", "C6.0-s2p2d1"),
        ("mos2_small", "Mo7.0-s2p1d1 S7.0-s2p1"),
        ("c_chain_f", "C6.0-s3p2d2f1"),
        ("bismuthene_soc", "Bi8.0-s3p2d2"),
        ("bismuthene_soc_small", "Bi8.0-s2p2d1"),
        ("fete_chain_nc_soc", "Fe5.5H-s2p2d1 Te7.0-s2p2d1"),
        ("h2o_cluster", "H6.0-s2p1 O6.0-s2p2d1"),
        ("o2_spin", "O6.0-s2p2d1"),
    ],
)
def test_s_of_openmx_is_met(name: str, basis: str) -> None:
    if not SHARED.is_dir():
        pytest.skip("the OpenMX runs beside the repository (../shared/dft/openmx) are not here")
    folder = SHARED / name / "legacy"
    structure = read_folder(folder)
    overlap = read_matrix(folder, "overlap", structure)
    provider = BasisOverlap([SHARED / "pao", *basis.split()])
    assert np.abs(provider.overlap(structure, overlap.keys).values - overlap.values).max() < 1e-6
    assert np.array_equal(provider.edges(structure), overlap.keys)


def test_siesta_ion_files(tmp_path: pathlib.Path) -> None:
    shells = ((0, 0.6), (0, 1.1), (1, 0.7), (2, 0.9))
    path = tmp_path / "C.ion"
    path.write_text(ion_text(6, shells))
    basis = read_ion(path)
    assert (basis.number, basis.shells) == (6, (0, 0, 1, 2))
    assert basis.cutoff == pytest.approx(6.8)
    provider = load(tmp_path)
    vector = np.array([0.7, -1.1, 1.6]) * BOHR
    structure = dimer((6, 6), vector, {6: basis.shells})
    block = provider.overlap(structure, np.array([[0, 0, 0, 0, 1]])).block(0)
    assert np.abs(block - overlap_block(shells, shells, vector / BOHR)).max() < 1e-6
    (tmp_path / "C.ion.xml").write_text("never read, as it is the same basis")
    with pytest.raises(DataError, match="C.ion.xml"):  # but of the two the XML file is taken
        load(tmp_path)


def test_what_is_taken_can_be_said_in_many_ways(tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "pao"
    folder.mkdir()
    for stem, number in (("C6.5", 6), ("Mo7.0", 42), ("Mo7.0H", 42)):
        (folder / f"{stem}.pao").write_text(pao_text(number))

    def shells(*sources: object, **options: object) -> dict[int, tuple[int, ...]]:
        return {b.number: b.shells for b in read_bases(sources, **options)}  # type: ignore[arg-type]

    both = {6: (0, 0, 1), 42: (0, 1, 1, 2)}
    assert shells(folder, "C6.5-s2p1", "Mo7.0H-s1p2d1") == both
    assert shells(folder / "C6.5-s2p1", folder / "Mo7.0-s1p2d1") == both
    assert shells(folder / "C6.5.pao", "C6.5-s2p1") == {6: (0, 0, 1)}
    assert shells(folder / "C6.5.pao", orbital_types=both) == {6: (0, 0, 1)}
    (tmp_path / "run.dat").write_text(
        "<Definition.of.Atomic.Species\n C C6.5-s2p1 C_PBE19\n M Mo7.0-s1p2d1 x # Mo7.0-s9\n"
    )
    assert shells(folder, tmp_path / "run.dat") == both
    for sources, options, words in (
        ([folder], {}, "holds more radial functions than a calculation takes; name the basis"),
        ([folder], {"orbital_types": both}, "Mo7.0.* are both of Mo|Mo7.0H.* are both of Mo"),
        ([folder, "N6.0-s1"], {}, "no N6.0.pao in .*DFT_DATA19/PAO"),
        ([folder, "C6.5-s2p1", "C6.5-s1"], {}, "two bases of one file"),
        ([folder, "C6.5-s4"], {}, "takes 4 s functions, the file has 3"),
        ([folder, "C6.5-s1f1"], {}, "takes 1 f functions, the file has 3 for each l up to d"),
        ([folder, "C6.5-s3>1p1"], {}, "contracted orbitals"),
        ([folder, "C6.5-s1s1"], {}, "names s twice"),
        ([tmp_path / "none.pao"], {}, "file not found; .*DFT_DATA19/PAO"),
    ):
        with pytest.raises(DataError, match=words):
            read_bases(sources, **options)  # type: ignore[arg-type]
    (folder / "basis.txt").write_text("C6.5-s2p1\nMo7.0-s1p2d1\n")
    assert shells(folder) == both
    (folder / "more.dat").write_text("C6.5-s1")
    with pytest.raises(DataError, match="basis.txt takes C6.5-s2p1, more.dat C6.5-s1"):
        read_bases([folder])


def test_damaged_files_are_refused(tmp_path: pathlib.Path) -> None:
    pao, ion = pao_text(6), ion_text(6, ((0, 0.6), (1, 0.7)))
    for name, text, words in (
        ("C.pao", pao[: len(pao) // 2], "l = 1 is damaged or cut short"),
        ("C.pao", pao.replace("AtomSpecies", "Atoms"), "no AtomSpecies|missing"),
        ("C.pao", pao.replace("cutoff.pao   6.5", "cutoff.pao   60"), "no ascending radii"),
        ("C.pao", pao.replace("PAO.Mul    3", "PAO.Mul    4"), "damaged or cut short"),
        ("C.pao", "", "not an OpenMX .pao file"),
        ("C.ion", ion[: len(ion) // 3], "cut short"),
        ("C.ion", ion.replace("#orbital l, n, z", "#"), "has no '#orbital"),
        ("C.ion", ion.replace("  6      # Atomic", " -6      # Atomic"), "floating basis"),
        ("C.ion", ion.replace("  1  2  1  0", "  4  2  1  0"), "l = 4; the legacy"),
    ):
        path = tmp_path / name
        path.write_text(text)
        with pytest.raises(DataError, match=words):
            read_pao(path, "s2p2") if name.endswith("pao") else read_ion(path)
    (tmp_path / "d.pao").mkdir()
    with pytest.raises(DataError, match="is a folder"):
        read_pao(tmp_path / "d.pao", "s1")


def test_two_bases_of_one_element_are_refused() -> None:
    """OpenMX allows them (here two kinds of H); a table by element cannot hold them."""
    if not SHARED.is_dir():
        pytest.skip("the OpenMX runs beside the repository (../shared/dft/openmx) are not here")
    with pytest.raises(DataError, match="two basis files of H: .*H6.0.pao and .*H5.0.pao"):
        load([SHARED / "pao", SHARED / "h2o_mixed" / "h2o_mixed.dat"])
    elements = load([SHARED / "pao", SHARED / "mos2_small" / "mos2_small.dat"]).orbital_types
    assert elements == {42: (0, 0, 1, 2), 16: (0, 0, 1)}
