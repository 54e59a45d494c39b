"""Real output files of DFT codes, where they are, and small ones written here as the codes write
theirs."""

from __future__ import annotations

import dataclasses
import pathlib

import numpy as np
import pytest
from numpy.typing import NDArray

from deeph_gformer.io import BlockMatrix, Structure

from ...conftest import SHARED

#: OpenMX's constants, from its source; ABACUS' Ry.
BOHR_A, HARTREE_EV, RYDBERG_EV = 0.529177249, 27.2113845, 13.605698
HERE = pathlib.Path(__file__).resolve().parent


def real(code: str, name: str = "") -> pathlib.Path:
    """A folder of ../shared/dft; the test is skipped where it is absent."""
    path = SHARED / "dft" / code / name
    if not path.is_dir():
        pytest.skip(f"real output of {code}: ../shared is not beside the repository")
    return path


def quarters(h: BlockMatrix) -> dict[str, BlockMatrix]:
    """uu, ud, du and dd of a spin-doubled matrix."""
    parts: dict[str, list[NDArray]] = {"uu": [], "ud": [], "du": [], "dd": []}
    for _, block in h:
        r, c = block.shape[0] // 2, block.shape[1] // 2
        for name, cut in zip(
            parts,
            np.array([[block[:r, :c], block[:r, c:]], [block[r:, :c], block[r:, c:]]]).reshape(
                4, r, c
            ),
        ):
            parts[name].append(cut)
    return {name: BlockMatrix.from_blocks(h.keys, blocks) for name, blocks in parts.items()}


def scfout_input(structure: Structure, extra: str = "") -> str:
    """An input of OpenMX whose labels, order of shells and comments are unusual but allowed."""
    basis = {16: "S7.0-p1s1", 42: "Mo7.0-d1s1p4>1"}
    names = {16: "S_PBE19", 42: "Mo_PBE19"}
    kinds = "".join(f"  sp{z}  {basis[z]} {names[z]} # one\n" for z in (42, 16))
    atoms = "".join(
        f" {n + 1} sp{z} 0.0 0.0 0.0 1.0 1.0\n" for n, z in enumerate(structure.numbers.tolist())
    )
    return (
        f"System.Name made\n<definition.of.atomic.species\n{kinds}Definition.of.Atomic.Species>\n"
        f"<Atoms.SpeciesAndCoordinates\n{atoms}Atoms.SpeciesAndCoordinates>\nscf.XcType "
        f"GGA-PBE\n{extra}"
    )


def write_scfout(
    path: pathlib.Path,
    structure: Structure,
    h: BlockMatrix,
    s: BlockMatrix,
    *,
    spin: int = 0,
    version: int = 3,
    order: str = "<",
    trailer: int = 0,
    text: str | None = None,
) -> None:
    """Write the layout of OpenMX's read_scfout; fields that are never read are filled with noise.

    Args:
        path: the file.
        structure: lattice and positions in Å.
        h: eV; spin-doubled where ``spin`` is 1 or 3.
        s: spinless.
        spin: 0, 1 or 3.
        version: 0 or 3.
        order: byte order.
        trailer: bytes after the input.
        text: the input.
    """
    rng = np.random.default_rng(7)
    count, keys = len(structure), h.keys
    shuffled = np.concatenate(
        [  # the atom itself comes first, then its neighbours in any order
            np.concatenate([mine[home], rng.permutation(mine[~home])])
            for mine in (np.flatnonzero(keys[:, 3] == n) for n in range(count))
            for home in [(keys[mine, 4] == keys[mine, 3]) & ~keys[mine, :3].any(axis=1)]
        ]
    )
    cells = np.unique(keys[:, :3], axis=0)
    cells = np.concatenate([[[0, 0, 0]], cells[cells.any(axis=1)]])
    ncn = [int(np.flatnonzero((cells == keys[e, :3]).all(axis=1))[0]) for e in shuffled]
    spoilt = rng.integers(-(2**30), 2**30, len(cells))

    def four(table: NDArray) -> NDArray:
        return np.column_stack([rng.normal(size=len(table)), table])

    def values(matrix: BlockMatrix, part: str = "real", scale: float = 1 / HARTREE_EV) -> NDArray:
        return np.concatenate([getattr(matrix.block(e), part).ravel() for e in shuffled]) * scale

    if spin == 0:
        hks, ihks = [values(h)], []
    else:
        q = quarters(h)
        hks, ihks = [values(q["uu"]), values(q["dd"])], []
        if spin == 3:  # uu = H0 + i iH0, dd = H1 + i iH1, ud = H2 + i (H3 + iH2)
            h3 = rng.normal(size=len(hks[0])) * 1e-3
            hks += [values(q["ud"]), h3]
            ihks = [values(q["uu"], "imag"), values(q["dd"], "imag"), values(q["ud"], "imag") - h3]
    lattice = structure.lattice / BOHR_A
    size = len(hks[0])
    noise = 3 + (spin + 1) + (5 if version == 3 else 0)
    text = scfout_input(structure) if text is None else text
    records = bytearray()
    for line in text.splitlines(keepends=True):
        stale = b"<Atoms.SpeciesAndCoordinates stale\n"
        record = line.encode() + b"\0" + stale * 9
        records += record[:256]
    scalars = np.array([-0.25, 300, 0, 0, 0, 0, 0, 0, 24.0, 0.5])
    parts = [
        ("i4", [count, spin + 4 * version, 0, 0, 0, len(cells) - 1]),
        *([("i4", [1])] if version else []),
        ("f8", four(cells @ lattice)),
        ("i4", np.column_stack([spoilt, cells])),
        ("i4", structure.orbital_counts),
        ("i4", np.bincount(keys[:, 3], minlength=count) - 1),
        ("i4", keys[shuffled, 4] + 1),
        ("i4", ncn),
        ("f8", four(lattice)),
        ("f8", four(2 * np.pi * np.linalg.inv(lattice).T)),
        ("f8", four(structure.positions / BOHR_A)),
        ("f8", np.concatenate([*hks, *ihks])),
        ("f8", values(s, scale=1.0)),
        ("f8", rng.normal(size=noise * size)),
        ("i4", [3]),
        ("f8", scalars),
        ("i4", [len(records) // 256]),
    ]
    data = b"".join(np.asarray(table).astype(order + kind).tobytes() for kind, table in parts)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data + bytes(records) + bytes(trailer))


def without(matrix: BlockMatrix, drop: NDArray[np.int64]) -> BlockMatrix:
    """The matrix without some of its blocks."""
    return matrix.select(np.setdiff1d(np.arange(len(matrix)), drop))


def moved(structure: Structure, *matrices: BlockMatrix) -> tuple[Structure, ...]:
    """The same crystal with every atom in the cell, block keys counted from there."""
    fractional = structure.positions @ np.linalg.inv(structure.lattice)
    shift = -np.floor(fractional).astype(np.int64)
    out = []
    for matrix in matrices:
        keys = matrix.keys.copy()
        keys[:, :3] += shift[keys[:, 3]] - shift[keys[:, 4]]
        out.append(dataclasses.replace(matrix, keys=keys).select(np.arange(len(keys))))
    inside = dataclasses.replace(structure, positions=(fractional + shift) @ structure.lattice)
    return (inside, *out)  # type: ignore[return-value]
