"""FHI-aims: runs written here in its sparse layout from known matrices. Its own eigenvalues are not
at hand."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from deeph_gformer.errors import DataError
from deeph_gformer.interop.dft import read_run
from deeph_gformer.io import BlockMatrix, Structure

from ...conftest import random_structure
from .conftest import quarters

HARTREE_EV = 27.2113845
#: FHI-aims' functions of a shell (m = -l..l) as (legacy orbital, sign): y z x; xy yz 3z²-r² xz
#: x²-y².
SHELL = {
    0: [(0, 1)],
    1: [(1, 1), (2, 1), (0, -1)],
    2: [(2, 1), (4, 1), (0, 1), (3, -1), (1, 1)],
}


def functions(structure: Structure) -> list[tuple[int, int, int, int, float]]:
    """(atom, l, m, legacy orbital of the cell, sign) of each basis function.

    Shells of l = 1 come before l = 0.
    """
    out, start = [], 0
    for atom, shells in enumerate(structure.orbital_types):
        first = dict(zip(range(len(shells)), np.cumsum([0] + [2 * l + 1 for l in shells])))
        for place in sorted(range(len(shells)), key=lambda n: -shells[n]):
            l = shells[place]
            for m, (orbital, sign) in zip(range(-l, l + 1), SHELL[l]):
                out.append((atom, l, m, start + first[place] + orbital, sign))
        start += sum(2 * l + 1 for l in shells)
    return out


def dense(
    matrix: BlockMatrix, structure: Structure, rows: list[Any]
) -> dict[tuple[int, ...], np.ndarray]:
    """{R: <home | X | R>} in FHI-aims' functions."""
    first = np.concatenate([[0], np.cumsum(structure.orbital_counts)])
    out: dict[tuple[int, ...], np.ndarray] = {}
    for (x, y, z, i, j), block in matrix:
        whole = out.setdefault((x, y, z), np.zeros((first[-1], first[-1])))
        whole[first[i] : first[i + 1], first[j] : first[j + 1]] = block.real
    place, sign = [r[3] for r in rows], np.array([r[4] for r in rows])
    return {cell: m[np.ix_(place, place)] * np.outer(sign, sign) for cell, m in out.items()}


def centred(structure: Structure, *matrices: BlockMatrix) -> tuple[Any, ...]:
    """The crystal with atoms mapped into the cell around the origin, where FHI-aims counts cells
    from."""
    import dataclasses

    fractional = structure.positions @ np.linalg.inv(structure.lattice)
    shift = -np.ceil(fractional - 0.5).astype(np.int64)
    out = []
    for matrix in matrices:
        keys = matrix.keys.copy()
        keys[:, :3] += shift[keys[:, 3]] - shift[keys[:, 4]]
        out.append(dataclasses.replace(matrix, keys=keys).select(np.arange(len(keys))))
    positions = (fractional + shift) @ structure.lattice
    return (dataclasses.replace(structure, positions=positions), *out)


def write_run(run: pathlib.Path, polarised: bool = False) -> tuple[Any, ...]:
    """Write a run; returns the structure and matrices that it means."""
    structure, h, s = random_structure(4, 4, polarised)
    inside, h_inside, s_inside = centred(structure, h, s)
    rows = functions(structure)
    spins = [h_inside]
    if polarised:
        parts = quarters(h_inside)
        spins = [BlockMatrix(p.keys, p.shapes, p.values.real) for p in (parts["uu"], parts["dd"])]
        spins = [p.hermitian() for p in spins]
    tables = [dense(m, inside, rows) for m in (*spins, s_inside)]
    cells = sorted(tables[-1], key=lambda c: (c != (0, 0, 0), c))
    first, last, columns, values = [], [], [], [[] for _ in tables]
    for cell in cells:  # <i in cell R | X | j in home> = <home | X | -R>, stored for i <= j
        for i in range(len(rows)):
            kept = [
                j
                for j in range(i, len(rows))
                if any(t[tuple(-x for x in cell)][i, j] for t in tables)
            ]
            first.append(len(columns) + 1 if kept else 0)
            columns += [j + 1 for j in kept]
            last.append(len(columns) if kept else -1)
            for t, out in zip(tables, values):
                out += [t[tuple(-x for x in cell)][i, j] for j in kept]
    n = len(rows)
    index = (
        f"n_hamiltonian_matrix_size: {len(columns) + 1}\nn_cells_in_hamiltonian: {len(cells) + 1}\n"
    )
    index += f"n_basis: {n}\ncell_index\n"
    index += "".join(f"{x} {y} {z}\n" for x, y, z in cells) + "999999999 999999999 999999999\n"
    for name, table, empty in (("1", first, 0), ("2", last, -1)):
        index += f"index_hamiltonian({name},:,:)\n"
        filled = [*table, *[empty] * n]
        index += "".join(
            " ".join(map(str, filled[k : k + n])) + "\n" for k in range(0, len(filled), n)
        )
    index += "column_index_hamiltonian\n" + "".join(f"{c}\n" for c in columns) + "0\n"
    run.mkdir(parents=True)
    (run / "rs_indices.out").write_text(index)
    names = (
        ["rs_hamiltonian_up.out", "rs_hamiltonian_dn.out"] if polarised else ["rs_hamiltonian.out"]
    )
    for name, out in zip([*names, "rs_overlap.out"], values):
        unit = 1.0 if name == "rs_overlap.out" else HARTREE_EV
        (run / name).write_text("".join(f" {v / unit:.16E}\n" for v in [*out, 0.0]))
    basis = "\n  fn.   type   at.   n   l   m\n"
    basis += "".join(
        f"{k + 1} atomic {a + 1} {l + 1} {l} {m}\n" for k, (a, l, m, *_) in enumerate(rows)
    )
    (run / "basis-indices.out").write_text(basis)
    geometry = "".join(
        "lattice_vector " + " ".join(f"{x:.15f}" for x in v) + "\n" for v in structure.lattice
    )
    for z, place in zip(structure.numbers.tolist(), structure.positions):
        name = {16: "S", 42: "Mo"}[z]
        geometry += "atom " + " ".join(f"{x:.15f}" for x in place) + f" {name} # comment\n"
    (run / "geometry.in").write_text(geometry)
    (run / "control.in").write_text("xc pbe\noutput_rs_matrices plain\n")
    return inside, spins, s_inside


@pytest.mark.parametrize("polarised", [False, True])
def test_layout(polarised: bool, tmp_path: pathlib.Path) -> None:
    inside, spins, s = write_run(tmp_path / "r", polarised)
    run = read_run(tmp_path / "r")
    assert run.structure.same_as(inside, 1e-9) and run.structure.spinful == polarised
    assert np.array_equal(run.overlap.keys, s.keys) and np.array_equal(run.hamiltonian.keys, s.keys)
    np.testing.assert_allclose(run.overlap.values, s.values, rtol=0, atol=1e-12)
    if polarised:
        mine = quarters(run.hamiltonian)
        for name, expected in zip(("uu", "dd"), spins):
            np.testing.assert_allclose(mine[name].values, expected.values, rtol=0, atol=1e-12)
        assert not mine["ud"].values.any()
    else:
        np.testing.assert_allclose(run.hamiltonian.values, spins[0].values, rtol=0, atol=1e-12)
    assert run.structure.info["functional"] == "pbe" and "fermi_level" not in run.structure.info
    assert any("Fermi level and convergence are unknown" in note for note in run.notes)


OUT = """  FHI-aims version      : 240507
  | Formal number of electrons (from input files) :   24.0000000000
  | Chemical potential (Fermi level):    -5.12345678 eV
  {last}
"""


def test_standard_output(tmp_path: pathlib.Path) -> None:
    write_run(tmp_path / "r")
    (tmp_path / "r" / "aims.out").write_text(OUT.format(last="Self-consistency cycle converged."))
    info = read_run(tmp_path / "r").structure.info
    assert (info["version"], info["fermi_level"], info["electrons"]) == ("240507", -5.12345678, 24)
    (tmp_path / "r" / "aims.out").write_text(OUT.format(last="Self-consistency cycle not yet"))
    with pytest.raises(DataError, match="did not converge"):
        read_run(tmp_path / "r")
    assert read_run(tmp_path / "r", unconverged=True).structure.info["converged"] is False


def _edit(name: str, old: str, new: str) -> Callable[[pathlib.Path], Any]:
    def change(run: pathlib.Path) -> None:
        text = (run / name).read_text()
        assert re.search(old, text)
        (run / name).write_text(re.sub(old, new, text, count=1))

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda run: (run / "rs_overlap.out").unlink(),
            "without rs_overlap.out; set 'output_rs_matrices plain'",
        ),
        (
            lambda run: (run / "rs_hamiltonian.out").unlink(),
            "without H; set 'output_rs_matrices plain'",
        ),
        (_edit("control.in", "xc", "include_spin_orbit\nxc"), "they hold none"),
        (_edit("rs_indices.out", r"0\n\Z", ""), "cut short, or of another run"),
        (_edit("rs_indices.out", "n_basis: ", "n_basis: 1"), "cut short, or of another run"),
        (_edit("rs_indices.out", "n_basis", "basis"), "no rs_indices.out of FHI-aims"),
        (_edit("rs_overlap.out", r"(?s)\n.*", "\n"), "1 values, rs_indices.out asks for"),
        (_edit("rs_overlap.out", "E", "Q"), "not a list of numbers"),
        (_edit("basis-indices.out", " 1 -1\n", " 1 0\n"), "shell l = 1 that is incomplete"),
        (_edit("basis-indices.out", "\n1 ", "\n2 "), "does not list the basis functions"),
        (_edit("geometry.in", "lattice_vector", "lattice"), "2 lattice vectors"),
        (_edit("geometry.in", " Mo ", " Qq "), "species 'Qq' tells no element"),
    ],
)
def test_bad_input(
    change: Callable[[pathlib.Path], Any], message: str, tmp_path: pathlib.Path
) -> None:
    write_run(tmp_path / "r")
    change(tmp_path / "r")
    with pytest.raises(DataError, match=message):
        read_run(tmp_path / "r")
