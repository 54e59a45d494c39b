"""sisl against our own solver and against its own orbitals."""

from __future__ import annotations

import pathlib
import sys

import numpy as np
import pytest

from deeph_gformer import bands
from deeph_gformer.bands import BlochProblem
from deeph_gformer.cli import main
from deeph_gformer.errors import ConfigError, DataError
from deeph_gformer.interop.sisl import from_siesta, from_sisl, shell_signs, to_sisl, write_sisl
from deeph_gformer.interop.sparse import read_npz, real_space, write_npz
from deeph_gformer.io import BlockMatrix
from deeph_gformer.io.dock import LEGACY_TO_E3NN
from deeph_gformer.io.gauge import stated_level
from deeph_gformer.overlap.rotation import block_rotation, harmonics

from ..conftest import random_structure
from .conftest import golden

sisl = pytest.importorskip("sisl")
K = [(0.0, 0.0, 0.0), (0.5, 0.0, 0.0), (0.13, -0.27, 0.0)]


def _problem(name: str) -> BlochProblem:
    if name == "MoTe2":
        return bands.load(golden("external") / "MoTe2" / "legacy")
    root = golden(name) / "structures"
    return bands.load(sorted(root.iterdir())[0])


def _eigenvalues(problem: BlochProblem, k) -> np.ndarray:
    return bands.solve_dense(*problem.at(k)).energies


@pytest.mark.parametrize("name", ["MoTe2", "bismuthene_soc_f64"])
def test_eigenvalues_and_round_trip(name: str) -> None:
    problem = _problem(name)
    h = to_sisl(problem)
    for k in K[2:] if problem.spinful else K:
        np.testing.assert_allclose(
            np.sort(h.eigh(k=k)), _eigenvalues(problem, k), atol=1e-9 if problem.spinful else 1e-10
        )
    back = from_sisl(h)
    assert (
        back.structure.orbital_types == problem.structure.orbital_types
        and back.spin == problem.spin
    )
    for mine, other in ((problem.h, back.h), (problem.s, back.s)):
        np.testing.assert_array_equal(
            other.keys[np.isin(other.keys, mine.keys).all(axis=1)][:3], other.keys[:3]
        )
        for cell_a, matrix_a in zip(
            *real_space(mine, problem.structure, 2 if mine is problem.h and problem.spinful else 1)
        ):
            cells, matrices = real_space(
                other, problem.structure, 2 if mine is problem.h and problem.spinful else 1
            )
            same = np.flatnonzero((cells == cell_a).all(axis=1))
            if len(same):
                assert abs(matrix_a - matrices[same[0]]).max() < 1e-12
            else:
                assert abs(matrix_a).max() == 0.0


def test_signs_are_those_of_the_orbitals_themselves() -> None:
    """sisl's own functions on random points, against the real harmonics of the legacy order."""
    points = np.random.default_rng(0).normal(size=(40, 3))
    points /= np.linalg.norm(points, axis=1)[:, None]
    radius = np.linspace(0, 6, 200)
    for l in (1, 2, 3):
        mine = harmonics(l, points)[:, list(LEGACY_TO_E3NN[l])]
        for m, orbital in enumerate(
            sisl.SphericalOrbital(l, (radius, np.exp(-(radius**2)))).toAtomicOrbital()
        ):
            assert orbital.m == m - l
            value = orbital.psi(points)
            correlation = np.array([np.corrcoef(value, mine[:, n])[0, 1] for n in range(2 * l + 1)])
            assert correlation[m] * shell_signs(l)[m] > 0.999


def _overlap_by_quadrature(vector: np.ndarray) -> sisl.Hamiltonian:
    """S of two atoms from sisl's own orbitals on a grid; no convention of ours enters."""
    radius = np.linspace(0, 5, 400)
    orbitals = [
        a
        for l in (0, 1, 2, 3)
        for a in sisl.SphericalOrbital(
            l, (radius, np.exp(-1.2 * radius**2) * radius**l)
        ).toAtomicOrbital()
    ]
    axis = np.arange(-4.0, 4.01, 0.4)
    points = (
        np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3) + vector / 2
    )
    one = np.array([o.psi(points) for o in orbitals])
    two = np.array([o.psi(points - vector) for o in orbitals])
    named = [sisl.AtomicOrbital(n=o.l + 1, l=o.l, m=o.m, zeta=1, R=5.0) for o in orbitals]
    h = sisl.Hamiltonian(
        sisl.Geometry([[0, 0, 0], vector], sisl.Atom(6, named), lattice=[20, 20, 20]),
        orthogonal=False,
    )
    n = len(orbitals)
    for block, (a, b) in {
        (0, 0): (one, one),
        (0, n): (one, two),
        (n, 0): (two, one),
        (n, n): (two, two),
    }.items():
        product = a @ b.T * 0.4**3
        for row, column in np.ndindex(n, n):
            h[block[0] + row, block[1] + column] = [product[row, column]] * 2
    return h


def test_rotation_covariance_through_sisl() -> None:
    from scipy.spatial.transform import Rotation

    vector = np.array([0.9, -0.4, 0.7])
    turn = Rotation.from_euler("zyx", (0.5, -1.1, 2.0)).as_matrix()
    before, after = (
        from_sisl(_overlap_by_quadrature(vector)),
        from_sisl(_overlap_by_quadrature(turn @ vector)),
    )
    assert before.structure.orbital_types == ((0, 1, 2, 3),) * 2
    wigner = block_rotation((0, 1, 2, 3), turn[None])[0]
    place = np.flatnonzero((before.s.keys[:, 3] == 0) & (before.s.keys[:, 4] == 1))[0]
    first, second = before.s.block(place), after.s.block(place)
    np.testing.assert_allclose(second, wigner @ first @ wigner.T, atol=2e-4 * np.abs(first).max())
    assert np.abs(second - first).max() > 0.1 * np.abs(first).max()


def test_tshs(tmp_path: pathlib.Path) -> None:
    problem = _problem("MoTe2")
    files, notes = write_sisl(tmp_path / "a.TSHS", problem)
    assert files == ["a.TSHS"] and "keeps no l and m" in notes[0]
    again = sisl.get_sile(str(tmp_path / "a.TSHS")).read_hamiltonian()
    np.testing.assert_allclose(np.sort(again.eigh(k=K[2])), _eigenvalues(problem, K[2]), atol=1e-6)
    back = from_siesta(tmp_path / "a.TSHS", to_sisl(problem).geometry)
    np.testing.assert_allclose(_eigenvalues(back, K[2]), _eigenvalues(problem, K[2]), atol=1e-6)
    assert back.structure.orbital_types == problem.structure.orbital_types
    with pytest.raises(DataError, match="no l and m.*fdf"):
        from_siesta(tmp_path / "a.TSHS")
    (tmp_path / "b.HSX").write_bytes(b"cut")
    with pytest.raises(DataError, match="b.HSX: no unformatted Fortran file"):
        from_siesta(tmp_path / "b.HSX")
    with pytest.raises(DataError, match=".TSHS or .nc"):
        write_sisl(tmp_path / "a.xyz", problem)


@pytest.mark.parametrize("kind", ["spin-orbit", "orthogonal"])
def test_tshs_of_every_kind(tmp_path: pathlib.Path, kind: str) -> None:
    """What TBtrans' files become in sisl: eigenvalues at several k are ours."""
    problem = _problem("bismuthene_soc_f64" if kind == "spin-orbit" else "MoTe2")
    if kind == "orthogonal":
        problem = BlochProblem(problem.structure, problem.h)
    write_sisl(tmp_path / "a.TSHS", problem)
    again = sisl.get_sile(str(tmp_path / "a.TSHS")).read_hamiltonian()
    assert again.orthogonal == (kind == "orthogonal")
    assert again.spin.is_spinorbit == (kind == "spin-orbit")
    for k in K:
        expected = _eigenvalues(problem, k)
        np.testing.assert_allclose(np.sort(again.eigh(k=k)), expected, atol=1e-6)


def test_foreign_basis_is_refused() -> None:
    h = sisl.Hamiltonian(sisl.geom.graphene())
    h.construct([(0.1, 1.5), (0.0, -2.7)])
    with pytest.raises(DataError, match="atom 1 .C., orbital 1.*no l and m"):
        from_sisl(h)
    atom = sisl.Atom(6, [sisl.AtomicOrbital(n=2, l=1, m=m, zeta=1, R=2.0) for m in (-1, 1)])
    half = sisl.Hamiltonian(sisl.Geometry([[0, 0, 0]], atom, lattice=[5, 5, 5]))
    half[0, 0] = 1.0
    with pytest.raises(DataError, match="full shells"):
        from_sisl(half)


def test_other_objects_and_missing_files_are_named(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    geometry = sisl.geom.graphene()
    for wrong in (geometry, None, sisl.DensityMatrix(geometry)):
        with pytest.raises(
            ConfigError, match=f"a sisl.Hamiltonian is needed, not {type(wrong).__name__}"
        ):
            from_sisl(wrong)
    with pytest.raises(ConfigError, match="a BlochProblem is needed, not str"):
        to_sisl("folder")  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "netCDF4", None)
    with pytest.raises(DataError, match="a.nc: .nc files need the library netCDF4"):
        write_sisl(tmp_path / "a.nc", None)  # type: ignore[arg-type]
    (tmp_path / "b.HSX").write_bytes(b"cut")
    with pytest.raises(DataError, match="nope.fdf: file not found"):
        from_siesta(tmp_path / "b.HSX", tmp_path / "nope.fdf")


def test_collinear_spin_becomes_spin_doubled() -> None:
    atom = sisl.Atom(1, [sisl.AtomicOrbital(n=1, l=0, m=0, zeta=1, R=2.0)])
    h = sisl.Hamiltonian(
        sisl.Geometry([[0, 0, 0]], atom, lattice=sisl.Lattice([3, 9, 9], nsc=[3, 1, 1])),
        spin="polarized",
    )
    h[0, 0] = [-1.0, 1.0]
    h[0, 0, (1, 0, 0)] = [-0.5, -0.25]
    h[0, 0, (-1, 0, 0)] = [-0.5, -0.25]
    problem = from_sisl(h)
    for kx in (0.0, 0.2, 0.5):
        exact = np.sort([-1.0 - np.cos(2 * np.pi * kx), 1.0 - 0.5 * np.cos(2 * np.pi * kx)])
        np.testing.assert_allclose(_eigenvalues(problem, (kx, 0, 0)), exact, atol=1e-12)


@pytest.mark.parametrize("level", [0.0, -3.25, None])
@pytest.mark.parametrize("predicted", [False, True])
def test_npz_keeps_the_level_of_its_hamiltonian(
    tmp_path: pathlib.Path, level: float | None, predicted: bool
) -> None:
    """Through the file and a folder; DFT's level is not that of a prediction."""
    structure, h, s = random_structure()
    own = {"gauge": "standard"} | ({} if level is None else {"fermi_level": level})
    structure.info.update({"fermi_level": 9.0, "occupation": 12} if predicted else own)
    if predicted:
        structure.info["deeph_gformer"] = own
    elif level is None:
        del structure.info["fermi_level"]
    write_npz(tmp_path / "a.npz", BlochProblem(structure, h, s, predicted=predicted))
    main(["convert", str(tmp_path / "a.npz"), str(tmp_path / "a"), "--to", "legacy"])
    back = bands.load(tmp_path / "a")
    assert stated_level(back.structure.info, "hamiltonian")[:2] == (level, "standard")
    assert back.structure.info.get("occupation") == (12 if predicted else None)
    np.testing.assert_allclose(
        _eigenvalues(back, K[2]), _eigenvalues(BlochProblem(structure, h, s), K[2])
    )


def test_complex_h_without_spin_is_no_file_of_sisl(tmp_path: pathlib.Path) -> None:
    """sisl's writers drop imaginary parts; its Hamiltonian in memory has them."""
    structure, h, s = random_structure()
    turned = np.exp(0.3j * (h.keys[:, 3] - h.keys[:, 4]))  # another phase of each atom's orbitals
    values = h.values * np.repeat(turned, np.diff(h.offsets))
    problem = BlochProblem(structure, BlockMatrix(h.keys, h.shapes, values), s)
    with pytest.raises(ConfigError, match="H.R. is complex without spin-orbit.*to_sisl"):
        write_sisl(tmp_path / "a.TSHS", problem)
    assert not list(tmp_path.iterdir())
    np.testing.assert_allclose(np.sort(to_sisl(problem).eigh(k=K[2])), _eigenvalues(problem, K[2]))


def test_npz(tmp_path: pathlib.Path) -> None:
    problem = _problem("MoTe2")
    write_npz(tmp_path / "a.npz", problem)
    again = read_npz(tmp_path / "a.npz")
    np.testing.assert_array_equal(again.structure.positions, problem.structure.positions)
    assert again.structure.orbital_types == problem.structure.orbital_types
    np.testing.assert_allclose(_eigenvalues(again, K[2]), _eigenvalues(problem, K[2]), atol=1e-11)
    with np.load(tmp_path / "a.npz", allow_pickle=False) as table:
        import scipy.sparse as sp

        home = np.flatnonzero((table["H_cells"] == 0).all(axis=1))[0]
        csr = sp.csr_matrix(
            (table[f"H_{home}_data"], table[f"H_{home}_indices"], table[f"H_{home}_indptr"])
        )
        assert abs(csr - csr.T).max() < 1e-6 and csr.shape == (57, 57)
    (tmp_path / "b.npz").write_bytes(b"nothing")
    with pytest.raises(DataError, match="no sparse Hamiltonian"):
        read_npz(tmp_path / "b.npz")


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("H_0_indptr", lambda x: np.where(np.arange(len(x)) == 1, 5, x), "no CSR matrix|twice"),
        ("H_0_indptr", lambda x: np.where(np.arange(len(x)) == 2, 2**31 - 1, x), "no CSR matrix"),
        ("H_0_indptr", lambda x: np.where(np.arange(len(x)) == 2, -1, x), "no CSR matrix"),
        ("H_0_indices", lambda x: x * 0, "an element twice"),
        ("H_0_indices", lambda x: x + 10**6, "no CSR matrix"),
        ("H_0_data", lambda x: x[:-1], "no CSR matrix"),
        ("lattice", lambda x: x * (1 + 1e-3j), "complex128 where real numbers"),
        ("positions", lambda x: x + 0j, "complex128 where real numbers"),
        ("H_0_data", lambda x: x.astype(int), "no numbers"),
        ("H_cells", lambda x: x * 0, "a cell twice"),
        ("numbers", lambda x: x[:, None], "another shape"),
        ("spin", lambda x: x + 2, "shells or spin"),
        ("fermi_level", lambda x: x * np.nan, "fermi_level is nan"),
        ("gauge", lambda x: np.array("mine"), "gauge 'mine'"),
    ],
)
def test_npz_that_is_none(tmp_path: pathlib.Path, name: str, change, words: str) -> None:
    """SciPy trusts CSR arrays: wrong ones wrote beyond its memory before they were checked here."""
    write_npz(tmp_path / "a.npz", _problem("MoTe2"))
    with np.load(tmp_path / "a.npz") as table:
        arrays = {n: table[n] for n in table.files}
    np.savez(tmp_path / "a.npz", **(arrays | {name: change(arrays[name])}))
    with pytest.raises(DataError, match=f"a.npz: no sparse Hamiltonian.*({words})"):
        read_npz(tmp_path / "a.npz")
