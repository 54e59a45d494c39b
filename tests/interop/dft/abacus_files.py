"""ABACUS runs written here from known matrices, in both layouts of its sparse files."""

from __future__ import annotations

import pathlib

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from deeph_gformer.interop.sparse import block_entries
from deeph_gformer.io import BlockMatrix, Structure

from .conftest import RYDBERG_EV, moved, quarters

#: ABACUS' orbitals of a shell (m = 0, 1, -1, 2, -2) as (legacy orbital, sign).
SHELL = {
    0: [(0, 1)],
    1: [(2, 1), (0, -1), (1, -1)],
    2: [(0, 1), (3, -1), (4, -1), (1, 1), (2, 1)],
}
LABEL = {16: "S1", 42: "Mo"}
BANNER = " #----------------------------------------------------------------------#\n"


def _to_abacus(structure: Structure) -> tuple[NDArray, NDArray]:
    """(legacy orbital, sign) of each of ABACUS' orbitals."""
    index, signs = [], []
    for shells in structure.orbital_types:
        for l in shells:
            start = len(index)
            index += [start + place for place, _ in SHELL[l]]
            signs += [sign for _, sign in SHELL[l]]
    return np.array(index), np.array(signs)


def _rows(values: NDArray, complex_values: bool, digits: int) -> str:
    if complex_values:
        return "".join(f" ({v.real:.{digits}e},{v.imag:.{digits}e})" for v in values)
    return "".join(f" {v:.{digits}e}" for v in values)


def csr_text(
    matrices: dict[tuple[int, ...], sp.csr_matrix],
    size: int,
    name: str,
    *,
    layout: str,
    complex_values: bool,
    structure: str,
    digits: int = 12,
) -> str:
    """A sparse file as ABACUS writes it.

    Args:
        matrices: {R: X(R)}.
        size: orbitals.
        name: H or S.
        layout: ``old`` or ``new``.
        complex_values: as with nspin 4.
        structure: the structure block of the new layout.
        digits: of the values.
    """
    if layout == "old":
        text = f"STEP: 0\nMatrix Dimension of {name}(R): {size}\n"
        text += f"Matrix number of {name}(R): {len(matrices)}\n"
    else:
        text = (
            f" --- Ionic Step 1 ---\n # print {name} matrix in real space {name}(R)\n"
            f" 1 # number of spin directions\n 1 # spin index\n {size} # number of localized "
            "basis\n"
            f" {len(matrices) + 3} # number of Bravais lattice vector R\n\n{structure}\n{BANNER}"
            " #                               CSR Format                             #\n"
            " # The outer loop corresponds to the number of Bravais lattice vectors. #\n"
            + BANNER
            + "\n"
        )
    for cell, matrix in matrices.items():
        matrix = sp.csr_matrix(matrix)
        labels = ["", "", ""]
        if layout == "new":
            labels = [f" # CSR {what}\n" for what in ("values", "column indices", "row pointers")]
        text += f"{' '.join(map(str, cell))} {matrix.nnz}\n"
        text += labels[0] + _rows(matrix.data, complex_values, digits) + "\n"
        text += labels[1] + "".join(f" {n}" for n in matrix.indices) + "\n"
        text += labels[2] + "".join(f" {n}" for n in matrix.indptr) + "\n"
    return text


def _cells(
    matrix: BlockMatrix, structure: Structure, unit: float
) -> dict[tuple[int, ...], sp.csr_matrix]:
    """X(R) of a spinless matrix in ABACUS' orbitals, divided by ``unit``.

    Keys counted from the cell.
    """
    inside, matrix = moved(structure, matrix)
    index, signs = _to_abacus(structure)
    block, row, column = block_entries(matrix, structure.orbital_counts)
    size = len(index)
    out = {}
    for cell in sorted(set(map(tuple, matrix.keys[:, :3].tolist()))):
        mine = (matrix.keys[block, :3] == cell).all(axis=1)
        whole = sp.csr_matrix(
            (matrix.values[mine] / unit, (row[mine], column[mine])), shape=(size, size)
        )
        signed = sp.diags(signs)
        out[cell] = sp.csr_matrix(signed @ whole[index][:, index] @ signed)
    return out


def _spinor(
    parts: dict[str, dict[tuple[int, ...], sp.csr_matrix]],
) -> dict[tuple[int, ...], sp.csr_matrix]:
    """Spin as the fastest index."""
    out = {}
    for cell in parts["uu"]:
        size = parts["uu"][cell].shape[0]
        whole = np.zeros((size, 2, size, 2), complex)
        for name, (a, b) in {"uu": (0, 0), "ud": (0, 1), "du": (1, 0), "dd": (1, 1)}.items():
            whole[:, a, :, b] = parts[name][cell].toarray()
        out[cell] = sp.csr_matrix(whole.reshape(2 * size, 2 * size))
    return out


def write_run(
    run: pathlib.Path,
    structure: Structure,
    h: BlockMatrix | None,
    s: BlockMatrix,
    *,
    nspin: int = 1,
    layout: str = "old",
    names: str | None = None,
    log: str = "old",
    fermi: float = -1.25,
    converged: bool = True,
    coordinates: str = "Direct",
) -> None:
    """Write STRU, INPUT, the running log and the matrices.

    Args:
        run: folder.
        structure: atoms grouped by element.
        h: eV; None for overlaps alone.
        s: spinless.
        nspin: 1, 2 or 4.
        layout: of the matrix files.
        names: ``old`` or ``new`` file names; default: those of the layout.
        log: ``old`` or ``new`` wording.
        fermi: eV.
        converged: what the log says.
        coordinates: kind of STRU's positions.
    """
    out = run / "OUT.made"
    out.mkdir(parents=True, exist_ok=True)
    constant = 1.889726124625770 * 1.5
    lattice = structure.lattice / 1.5
    fractional = structure.positions @ np.linalg.inv(structure.lattice)
    table = {
        "Direct": fractional,
        "Cartesian": structure.positions / 1.5,
        "Cartesian_au": structure.positions * 1.889726124625770,
    }[coordinates]
    elements = list(dict.fromkeys(structure.numbers.tolist()))
    stru = "ATOMIC_SPECIES // label mass file\n" + "".join(
        f"{LABEL[z]} 1.0 {z}.upf\n" for z in elements
    )
    stru += "\nNUMERICAL_ORBITAL\n" + "".join(
        f"{LABEL[z]}_gga_8au_100Ry_9s.orb\n" for z in elements
    )
    stru += f"\nLATTICE_CONSTANT\n{constant:.15f} # Bohr\nLATTICE_VECTORS\n"
    stru += "".join(" ".join(f"{v:.15f}" for v in row) + "\n" for row in lattice)
    stru += f"\nATOMIC_POSITIONS\n{coordinates}\n"
    for z in elements:
        mine = table[structure.numbers == z]
        stru += f"\n{LABEL[z]} // element\n0.0\n{len(mine)}\n"
        stru += "".join(" ".join(f"{v:.15f}" for v in row) + " m 1 1 1\n" for row in mine)
    (run / "STRU").write_text(stru)
    kind = "scf" if h is not None else "get_s"
    (run / "INPUT").write_text(
        f"INPUT_PARAMETERS\nsuffix made\ncalculation {kind}\nnspin {nspin} # spin\nout_mat_hs2 1\n"
    )
    inside = (fractional - np.floor(fractional)) @ lattice
    text = "                              ABACUS v3.9.0.25\n"
    for z in elements:
        text += f"                               atom label = {LABEL[z]}\n"
        for l in sorted({0, 1, 2} if z == 42 else {0, 1}):
            text += f"                      L={l}, number of zeta = 1\n"
    text += f"CARTESIAN COORDINATES ( UNIT = {constant:.12f} Bohr ).\n    atom   x   y   z  mag\n"
    for n, row in enumerate(inside.tolist()):
        label = LABEL[int(structure.numbers[n])]
        number = int((structure.numbers[: n + 1] == structure.numbers[n]).sum())
        text += f"tauc_{label}{number} " + " ".join(f"{v:.10f}" for v in row) + " 0.0 0.0 0.0 0.0\n"
    text += "\n Lattice vectors: (Cartesian coordinate: in unit of a_0)\n"
    text += "".join(" ".join(f"{v:+.6g}" for v in row) + "\n" for row in lattice)
    if log == "old":
        text += "            AUTOSET number of electrons:  = 24\n"
        text += (
            " charge density convergence is achieved\n"
            if converged
            else " !! convergence has not been achieved @_@\n"
        )
    else:
        text += " Autoset the number of electrons = 24\n"
        text += " #SCF IS CONVERGED#\n" if converged else " !!SCF IS NOT CONVERGED!!\n"
    text += f" EFERMI = {fermi:.10f} eV\n" if h is not None else ""
    (out / f"running_{kind}.log").write_text(text)

    counts = [int((structure.numbers == z).sum()) for z in elements]
    block = " user_defined_lattice\n 1.5\n" + "".join(
        " " + " ".join(f"{v:.6g}" for v in row) + "\n" for row in lattice
    )
    block += f" {' '.join(LABEL[z] for z in elements)}\n {' '.join(map(str, counts))}\n Direct\n"
    block += "".join(
        " " + " ".join(f"{v:.6g}" for v in row) + "\n" for row in fractional - np.floor(fractional)
    )
    spinor = nspin == 4
    plain = _cells(s, structure, 1.0)
    zero = {cell: matrix * 0 for cell, matrix in plain.items()}
    overlap = _spinor({"uu": plain, "ud": zero, "du": zero, "dd": plain}) if spinor else plain
    size = int(structure.orbital_counts.sum()) * (2 if spinor else 1)
    files = {"S": overlap}
    if h is not None and spinor:
        parts = {n: _cells(part, structure, RYDBERG_EV) for n, part in quarters(h).items()}
        files["H1"] = _spinor(parts)
    elif h is not None and nspin == 2:
        parts = quarters(h)
        for n, part in (("H1", parts["uu"]), ("H2", parts["dd"])):
            real = BlockMatrix(part.keys, part.shapes, part.values.real)
            files[n] = _cells(real, structure, RYDBERG_EV)
    elif h is not None:
        files["H1"] = _cells(h, structure, RYDBERG_EV)
    called = {
        "old": {
            "H1": "data-HR-sparse_SPIN0.csr",
            "H2": "data-HR-sparse_SPIN1.csr",
            "S": "data-SR-sparse_SPIN0.csr" if h is not None else "SR.csr",
        },
        "new": {
            "H1": "hrs1_nao.csr",
            "H2": "hrs2_nao.csr",
            "S": "srs1_nao.csr" if h is not None else "sr_nao.csr",
        },
    }[names or layout]
    for n, matrices in files.items():
        text = csr_text(matrices, size, n[0], layout=layout, complex_values=spinor, structure=block)
        (out / called[n]).write_text(text)
