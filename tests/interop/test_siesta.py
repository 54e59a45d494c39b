"""SIESTA's files against a chain of one s orbital, whose bands are (e + 2t cos k) / (1 + 2s cos
k)."""

from __future__ import annotations

import pathlib
import struct

import numpy as np
import pytest

from deeph_gformer import bands
from deeph_gformer.errors import DataError
from deeph_gformer.interop.fortran import normalised, read_records
from deeph_gformer.interop.sisl import from_siesta

sisl = pytest.importorskip("sisl")
E, T, S, RY = -12.0, -1.5, 0.1, 13.605693122990


def _geometry():
    atom = sisl.Atom(1, [sisl.AtomicOrbital(n=1, l=0, m=0, zeta=1, R=2.0)])
    return sisl.Geometry([[0, 0, 0]], atom, lattice=sisl.Lattice([3, 9, 9], nsc=[3, 1, 1]))


def _records(path: pathlib.Path) -> list[bytes]:
    data = path.read_bytes()
    found = read_records(data, path)
    return [data[s : s + n] for s, n in zip(found.starts, found.lengths)]


def _write(path: pathlib.Path, records: list[bytes], code: str = "<i") -> None:
    path.write_bytes(
        b"".join(struct.pack(code, len(r)) + r + struct.pack(code, len(r)) for r in records)
    )


def _chain(path: pathlib.Path, fermi: float, **options: int) -> list[bytes]:
    """The chain as SIESTA's file, with the Fermi level (eV) where SIESTA stores it."""
    h = sisl.Hamiltonian(_geometry(), orthogonal=False)
    h[0, 0] = (E, 1.0)
    for cell in ((1, 0, 0), (-1, 0, 0)):
        h[0, 0, cell] = (T, S)
    with sisl.get_sile(str(path), "w") as sile:
        sile.write_hamiltonian(h, **options)
    records = _records(path)
    number, place = (6, 0) if path.suffix == ".TSHS" else (3, 72)
    record = records[number]
    records[number] = record[:place] + struct.pack("<d", fermi / RY) + record[place + 8 :]
    _write(path, records)
    return records


def _check(path: pathlib.Path, level: float | None) -> None:
    problem = from_siesta(path, _geometry())
    for k in (0.0, 0.13, 0.5):
        cos = np.cos(2 * np.pi * k)
        found = bands.solve_dense(*problem.at((k, 0, 0))).energies
        assert found == pytest.approx((E + 2 * T * cos) / (1 + 2 * S * cos), abs=1e-5)
    stated = problem.structure.info.get("fermi_level")
    assert stated is None if level is None else stated == pytest.approx(level, abs=1e-6)


FILES = [("a.TSHS", {}), ("a.HSX", {"version": 1}), ("a.HSX", {"version": 2})]


@pytest.mark.parametrize(("name", "options"), FILES)
def test_energies_keep_siestas_zero(
    tmp_path: pathlib.Path, name: str, options: dict[str, int]
) -> None:
    for fermi in (-6.0, 0.0, 4.5):
        _chain(tmp_path / name, fermi, **options)
        _check(tmp_path / name, fermi or None)


def test_a_level_that_was_never_calculated(tmp_path: pathlib.Path) -> None:
    _chain(tmp_path / "a.HSX", np.finfo(float).max)
    _check(tmp_path / "a.HSX", None)
    _chain(tmp_path / "a.TSHS", np.finfo(float).max)
    with pytest.raises(DataError, match="a.TSHS: holds no Fermi level"):
        from_siesta(tmp_path / "a.TSHS", _geometry())


@pytest.mark.parametrize(("name", "options"), FILES)
def test_files_of_other_compilers(
    tmp_path: pathlib.Path, name: str, options: dict[str, int]
) -> None:
    path, flags = tmp_path / name, 4 if name.endswith("TSHS") else 1
    records = _chain(path, -6.0, **options)
    assert normalised(path, flags, 1 if name.endswith("TSHS") else 2) is None
    words = struct.unpack(f"<{len(records[flags]) // 4}i", records[flags])
    assert set(words) <= {0, 1} and (name.endswith("TSHS") or 1 in words)
    intel = [*records]
    intel[flags] = struct.pack(f"<{len(words)}i", *(-w for w in words))
    _write(path, intel)
    _check(path, -6.0)
    _write(path, intel, "<q")  # markers of 8 bytes
    _check(path, -6.0)
    _write(path, records, ">i")
    with pytest.raises(DataError, match="big-endian"):
        from_siesta(path, _geometry())


def test_damaged_files_say_so(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "a.HSX"
    _chain(path, 0.0)
    whole = path.read_bytes()
    for size, words in ((len(whole) - 1, "cut short, record"), (6, "in its first record")):
        path.write_bytes(whole[:size])
        with pytest.raises(DataError, match=f"a.HSX: .*{words}"):
            from_siesta(path, _geometry())
    path.write_bytes(whole)
    huge = _records(path)
    huge[2] = struct.pack("<7i", 1, 2**30, 1, 1, 3, 1, 1)
    _write(path, huge)
    with pytest.raises(DataError, match="announces 1073741824 atoms"):
        from_siesta(path, _geometry())
    path.write_bytes(whole[:-4] + b"\1\0\0\0")
    with pytest.raises(DataError, match="two different lengths"):
        from_siesta(path, _geometry())
