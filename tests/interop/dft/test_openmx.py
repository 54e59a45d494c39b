"""OpenMX against its own eigenvalues, verified folders, and files written in its layout with known
numbers."""

from __future__ import annotations

import contextlib
import pathlib
import re
import shutil
from typing import Any

import h5py
import numpy as np
import pytest

from deeph_gformer import bands
from deeph_gformer.errors import DataError
from deeph_gformer.interop.dft import read_run
from deeph_gformer.interop.dft.openmx import shells_of
from deeph_gformer.interop.dft.run import DFTRun, element_from
from deeph_gformer.io import BlockMatrix, Structure, read_folder, read_matrix

from ...conftest import random_structure
from .conftest import HARTREE_EV, HERE, real, scfout_input, write_scfout

RUNS = {
    "bismuthene_soc": "non-collinear",
    "bismuthene_soc_small": "non-collinear",
    "c_chain_f": "none",
    "fete_chain_nc_soc": "non-collinear",
    "graphene": "none",
    "h2o_cluster": "none",
    "h2o_mixed": "none",
    "mos2_small": "none",
    "o2_spin": "collinear",
    "v38_graphene": "none",
}


def levels(run: DFTRun, k: Any) -> np.ndarray:
    problem = bands.BlochProblem(run.structure, run.hamiltonian, run.overlap)
    return bands.solve_dense(*problem.at(k)).energies


def collinear_levels(run: DFTRun, k: Any, spin: int) -> np.ndarray:
    """Eigenvalues of one spin alone."""
    problem = bands.BlochProblem(run.structure, run.hamiltonian, run.overlap)
    h, s = problem.at(k)
    first = np.concatenate([[0], np.cumsum(2 * run.structure.orbital_counts)])
    own = [
        np.arange(n) + start + spin * n
        for start, n in zip(first[:-1], run.structure.orbital_counts)
    ]
    place = np.concatenate(own)
    assert np.abs(h[np.ix_(place, np.setdiff1d(np.arange(len(h)), place))]).max() == 0
    return bands.solve_dense(h[np.ix_(place, place)], s[np.ix_(place, place)]).energies


@pytest.mark.parametrize("name", RUNS)
def test_real_runs(name: str) -> None:
    folder = real("openmx", name)
    run = read_run(folder, unconverged=name.startswith("fete"))
    verified = read_folder(folder / "legacy")
    assert run.structure.same_as(verified, 1e-9)
    assert run.structure.spinful == verified.spinful
    for kind, matrix in (("hamiltonian", run.hamiltonian), ("overlap", run.overlap)):
        expected = read_matrix(folder / "legacy", kind, verified)  # type: ignore[arg-type]
        assert np.array_equal(matrix.keys, expected.keys)
        np.testing.assert_allclose(matrix.values, expected.values, rtol=0, atol=1e-12)
    info = run.structure.info
    assert info["fermi_level"] == pytest.approx(verified.info["fermi_level"], abs=1e-9)
    assert info["version"] == ("3.8.5" if name.startswith("v38") else "3.9.9")
    assert (info["code"], info["functional"], info["spin"]) == ("OpenMX", "GGA-PBE", RUNS[name])
    text = (folder / "eigenvalues.txt").read_text().splitlines()[1:]
    for head, line in zip(text[::2], text[1::2]):
        k = [float(word) for word in head.split()[1:4]]
        own = np.array(line.split(), float)
        if RUNS[name] == "collinear":
            mine = collinear_levels(run, k, 0 if "spin up" in head else 1)
        else:
            mine = levels(run, k)
        np.testing.assert_allclose(mine, own, rtol=0, atol=1e-6)


def test_shipped_run() -> None:
    """A water molecule by OpenMX 3.9.9: eigenvalues, electrons and chemical potential of its own
    text output."""
    run = read_run(HERE / "h2o_cluster.scfout")
    text = (HERE / "h2o_cluster.out").read_text()
    table = text.partition("Eigenvalues\n")[2].partition("****")[0]
    own = np.array([line.split()[1] for line in table.splitlines()[1:] if line.split()], float)
    np.testing.assert_allclose(levels(run, (0, 0, 0)), own * HARTREE_EV, rtol=0, atol=1e-6)
    potential = float(re.findall(r"Chemical potential \(Hartree\)\s+(\S+)", text)[-1])
    assert run.structure.info["fermi_level"] == pytest.approx(potential * HARTREE_EV, abs=1e-8)
    assert run.structure.info["electrons"] == run.structure.info["occupation"] == 8
    assert run.structure.info["gauge"] == "raw" and not run.notes
    assert run.structure.numbers.tolist() == [8, 1, 1]


def made(spin: int, seed: int = 3) -> tuple[Structure, BlockMatrix, BlockMatrix]:
    structure, h, s = random_structure(seed, 4, spinful=spin > 0)
    if spin == 1:  # nothing between up and down, both real
        groups = []
        for index, array in h.groups():
            array = array.real + 0j
            r, c = array.shape[1] // 2, array.shape[2] // 2
            array[:, :r, c:] = array[:, r:, :c] = 0
            groups.append((index, array))
        h = h.with_groups(groups)
    return structure, h, s


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("version", [0, 3])
@pytest.mark.parametrize("spin", [0, 1, 3])
def test_layouts(spin: int, version: int, order: str, tmp_path: pathlib.Path) -> None:
    structure, h, s = made(spin)
    write_scfout(tmp_path / "a.scfout", structure, h, s, spin=spin, version=version, order=order)
    run = read_run(tmp_path)
    assert np.array_equal(run.hamiltonian.keys, h.keys)
    np.testing.assert_allclose(run.hamiltonian.values, h.values, rtol=0, atol=1e-13)
    assert np.array_equal(run.overlap.values, s.values)
    assert run.structure.same_as(structure, 1e-12)
    assert run.structure.orbital_types == ((0, 1), (0, 1, 2)) * 2
    info = run.structure.info
    assert info["fermi_level"] == pytest.approx(-0.25 * HARTREE_EV) and info["electrons"] == 24
    assert info["version"] == ("3.9" if version else "3.8 or older")
    assert any("whether the run converged is unknown" in note for note in run.notes)


def test_what_newer_versions_append(tmp_path: pathlib.Path) -> None:
    structure, h, s = made(0)
    extra = len(s.values) * 8
    write_scfout(tmp_path / "a.scfout", structure, h, s, trailer=extra)
    assert any("exchange-correlation matrix" in note for note in read_run(tmp_path).notes)
    write_scfout(tmp_path / "a.scfout", structure, h, s, trailer=extra - 8)
    assert any(f"{extra - 8} bytes after" in note for note in read_run(tmp_path).notes)


def _cut(data: bytearray) -> bytearray:
    return data[: len(data) // 2]


def _words(*words: int) -> Any:
    def change(data: bytearray) -> bytearray:
        data[: 4 * len(words)] = np.array(words, "<i4").tobytes()
        return data

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_cut, "cut short or damaged: .* would end at byte"),
        (lambda data: data[:20], "the header would end at byte 24, the file has 20"),
        (lambda data: bytearray(), "the header would end at byte 24, the file has 0"),
        (lambda data: bytearray(b"%PDF-1.7" * 99), "no .scfout of OpenMX"),
        (_words(4, 16), "version 4 of .scfout is unknown"),
        (_words(4, 14), "spin 2 in the header"),
        (_words(4, 12, 2, 1, 1), "transport calculation with leads"),
        (_words(9999, 12), "would end at byte|damaged"),
        (_words(4, 12, 0, 0, 0, 10**8), "would end at byte"),
    ],
)
def test_damaged(change: Any, message: str, tmp_path: pathlib.Path) -> None:
    structure, h, s = made(0)
    path = tmp_path / "a.scfout"
    write_scfout(path, structure, h, s)
    path.write_bytes(change(bytearray(path.read_bytes())))
    with pytest.raises(DataError, match=message):
        read_run(path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("Mo7.0-d1s1p4>1", "Mo7.0-s2p1d1", "atom 2 has 9 orbitals, but its basis 'Mo7.0-s2p1d1'"),
        ("Mo7.0-d1s1p4>1", "Mo7.0-s1p1g1", "'Mo7.0-s1p1g1' has g shells"),
        ("Mo7.0-d1s1p4>1", "Mo7.0", "'Mo7.0' has no basis"),
        ("Mo7.0-d1s1p4>1", "Mo7.0-s1s1p1", "names a shell twice"),
        ("Mo7.0-d1s1p4>1 Mo_PBE19", "E7.0-s1p1d1 E", "tells an element"),
        ("2 sp42", "2 other", "atom 2 is a 'other', a label that"),
        (" 4 sp42 0.0 0.0 0.0 1.0 1.0\n", "", "4 atoms, but its input lists 3"),
        ("definition.of.atomic", "no", "has no <Definition.of.Atomic.Species"),
    ],
)
def test_input_that_does_not_fit(old: str, new: str, message: str, tmp_path: pathlib.Path) -> None:
    structure, h, s = made(0)
    text = scfout_input(structure)
    assert old in text
    write_scfout(tmp_path / "a.scfout", structure, h, s, text=text.replace(old, new))
    with pytest.raises(DataError, match=message):
        read_run(tmp_path)


def test_not_a_number(tmp_path: pathlib.Path) -> None:
    structure, h, s = made(0)
    h.values[h.offsets[7]] = np.nan
    write_scfout(tmp_path / "a.scfout", structure, h, s)
    with pytest.raises(DataError, match=r"block \[.*\] of H contains NaN or infinite values \(1 "):
        read_run(tmp_path)


def test_any_damaged_word_is_one_sentence(tmp_path: pathlib.Path) -> None:
    structure, h, s = made(3)
    path, rng = tmp_path / "a.scfout", np.random.default_rng(0)
    write_scfout(path, structure, h, s, spin=3)
    data = path.read_bytes()
    for _ in range(150):
        spoilt, place = bytearray(data), int(rng.integers(0, 1500)) // 4 * 4
        spoilt[place : place + 4] = rng.integers(0, 256, 4).astype(np.uint8).tobytes()
        path.write_bytes(spoilt)
        with contextlib.suppress(DataError):
            read_run(path)


def test_not_hermitian(tmp_path: pathlib.Path) -> None:
    structure, h, s = made(0)
    h.values[h.offsets[5]] += 0.1
    write_scfout(tmp_path / "a.scfout", structure, h, s)
    with pytest.raises(DataError, match="differs from the conjugate transpose"):
        read_run(tmp_path)


OUT = """\
 This calculation was performed by OpenMX Ver. 3.9.6
   SCF history at MD= 1
   SCF=   1  NormRD=  1.0  Uele= -5.0
   SCF=   2  NormRD=  0.1  Uele= -5.0000000001
   SCF history at MD= 2
   SCF=   1  NormRD=  1.0  Uele= -6.0
   SCF=   2  NormRD=  0.1  Uele= {last}

  Chemical potential (Hartree)      {level}
"""


def test_convergence_is_that_of_the_last_structure(tmp_path: pathlib.Path) -> None:
    structure, h, s = made(0)
    text = scfout_input(structure, "scf.criterion 1.0e-7\n")
    write_scfout(tmp_path / "made.scfout", structure, h, s, text=text)
    out = tmp_path / "made.out"
    out.write_text(OUT.format(last="-6.00000005", level=-0.25))
    run = read_run(tmp_path)
    assert run.structure.info["version"] == "3.9.6" and "converged" not in run.structure.info
    out.write_text(OUT.format(last="-6.0000002", level=-0.25))
    with pytest.raises(DataError, match="did not converge.*--unconverged"):
        read_run(tmp_path)
    run = read_run(tmp_path, unconverged=True)
    assert run.structure.info["converged"] is False
    assert any("did not converge" in note for note in run.notes)
    out.write_text(OUT.format(last="-6.00000005", level=-0.26))
    with pytest.raises(DataError, match="made.out: is of another run than made.scfout"):
        read_run(tmp_path)


def test_missing_matrices_say_what_to_set(tmp_path: pathlib.Path) -> None:
    structure, h, s = made(0)
    (tmp_path / "a.dat").write_text(scfout_input(structure))
    with pytest.raises(DataError, match="without .scfout; set 'HS.fileout on'"):
        read_run(tmp_path)


def test_h_without_self_consistency_is_left_out(tmp_path: pathlib.Path) -> None:
    structure, h, s = made(3)
    write_scfout(tmp_path / "overlap.scfout", structure, h, s, spin=3)
    run = read_run(tmp_path)
    assert run.hamiltonian is None and np.array_equal(run.overlap.values, s.values)
    assert "fermi_level" not in run.structure.info and run.structure.spinful is False


@pytest.mark.parametrize("unit", ["Ang", "AU", "FRAC"])
def test_overlaps_alone(unit: str, tmp_path: pathlib.Path) -> None:
    """The overlap-only change of OpenMX writes one HDF5 file a process.

    Fractional positions are wrapped, others are not.
    """
    structure, _, s = random_structure(5, 4)
    fractional = structure.positions @ np.linalg.inv(structure.lattice)
    scale = {"Ang": 1.0, "AU": 0.529177249, "FRAC": 1.0}[unit]
    shifted = fractional + [[1, 0, -2], [0, 0, 0], [0, -1, 0], [3, 0, 0]]
    table = shifted if unit == "FRAC" else structure.positions / scale
    lines = [
        f" {n + 1} sp{z} {x:.15f} {y:.15f} {z_:.15f} 1 1\n"
        for n, (z, (x, y, z_)) in enumerate(zip(structure.numbers.tolist(), table.tolist()))
    ]
    text = scfout_input(structure)
    head, rest = text.split("<Atoms.SpeciesAndCoordinates\n")
    tail = rest[rest.index("Atoms.SpeciesAndCoordinates>") :]
    cell = "\n".join(" ".join(f"{v:.15f}" for v in row) for row in structure.lattice)
    text = (
        f"{head}<Atoms.SpeciesAndCoordinates\n{''.join(lines)}{tail}"
        f"Atoms.SpeciesAndCoordinates.Unit {unit}\nAtoms.UnitVectors.Unit Ang\n"
        f"<Atoms.UnitVectors\n{cell}\nAtoms.UnitVectors>\n"
    )
    (tmp_path / "a.dat").write_text(text)
    (tmp_path / "output").mkdir()
    for process, atoms in enumerate(([0, 2], [1, 3])):
        with h5py.File(tmp_path / "output" / f"overlaps_{process}.h5", "w") as file:
            for (x, y, z, i, j), block in s:
                if i in atoms:
                    file[f"[{x}, {y}, {z}, {i + 1}, {j + 1}]"] = block
    run = read_run(tmp_path)
    assert run.hamiltonian is None and np.array_equal(run.overlap.keys, s.keys)
    assert np.array_equal(run.overlap.values, s.values)
    wanted = structure.positions
    if unit == "FRAC":
        wanted = (fractional - np.floor(fractional)) @ structure.lattice
    np.testing.assert_allclose(run.structure.positions, wanted, atol=1e-10)


def test_overlaps_alone_of_a_real_structure(tmp_path: pathlib.Path) -> None:
    """Wrapped positions of a real run with fractional input: the overlap-only folder is the
    verified one."""
    folder = real("openmx", "h2o_mixed")
    shutil.copy(folder / "h2o_mixed.out", tmp_path)
    (tmp_path / "output").mkdir()
    shutil.copy(folder / "legacy" / "overlaps.h5", tmp_path / "output" / "overlaps_0.h5")
    run, verified = read_run(tmp_path), read_folder(folder / "legacy")
    np.testing.assert_allclose(run.structure.positions, verified.positions, atol=1e-6)
    assert run.structure.orbital_types == verified.orbital_types
    assert run.structure.numbers.tolist() == verified.numbers.tolist()


@pytest.mark.parametrize(
    ("pao", "expected"),
    [
        ("C6.0-s2p2d1", (0, 0, 1, 1, 2)),
        ("Fe5.5H-s3p2d10f1", (0,) * 3 + (1,) * 2 + (2,) * 10 + (3,)),
        ("C4.5-p4>1s4>2", (0, 0, 1)),
    ],
)
def test_basis_strings(pao: str, expected: tuple[int, ...]) -> None:
    assert shells_of(pao, HERE) == expected


@pytest.mark.parametrize(
    ("names", "number"),
    [(("O_PBE19", "O5.0"), 8), (("Fe_PBE19H", ""), 26), (("mine", "Te7.0-s2"), 52), (("B", ""), 5)],
)
def test_elements(names: tuple[str, str], number: int) -> None:
    assert element_from(names, HERE) == number


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (r"(?s)Uele=\s*\S+(?!.*Uele=)", "Uele= ********", "converge"),
        (r"Chemical potential \(Hartree\)\s+\S+", "Chemical potential (Hartree)  *****", "another"),
    ],
)
def test_numbers_that_overflowed_in_the_output(
    tmp_path: pathlib.Path, old: str, new: str, words: str
) -> None:
    """Fortran writes stars: such a run did not converge, or nothing tells that it is the same."""
    for name in ("h2o_cluster.out", "h2o_cluster.scfout"):
        shutil.copy(pathlib.Path(__file__).parent / name, tmp_path / name)
    path = tmp_path / "h2o_cluster.out"
    path.chmod(0o644)
    path.write_text(re.sub(old, new, path.read_text()))
    with pytest.raises(DataError, match=words):
        read_run(tmp_path / "h2o_cluster.scfout", "openmx")
