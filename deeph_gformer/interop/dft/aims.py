"""FHI-aims: the sparse real-space matrices of ``output_rs_matrices plain`` ->
:class:`~deeph_gformer.interop.dft.run.DFTRun`.

``rs_indices.out`` holds lattice vectors and, for each of them and each basis function, where its
row begins and ends; a value is <i in cell R | H | j in the home cell>, in Hartree, stored for i <=
j only. FHI-aims counts cells from atoms mapped into the cell around the origin, orders a shell m =
-l..l and gives real harmonics of odd m > 0 another sign. H is on FHI-aims' zero of energy.
"""

from __future__ import annotations

import itertools
import pathlib
import re

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from ...errors import DataError
from ...io import BlockMatrix, Structure
from ...io.dock import LEGACY_TO_E3NN
from ...io.files import read_text, real_path, require_file
from ...io.parsing import parse_number
from ..sparse import from_real_space
from .run import UNCONVERGED, DFTRun, common_keys, describe, double

__all__ = ["Aims", "HARTREE_EV"]

#: FHI-aims' own constant.
HARTREE_EV = 27.2113845
_ASK = "set 'output_rs_matrices plain' in control.in and run FHI-aims again"
_INDICES, _OVERLAP, _BASIS = "rs_indices.out", "rs_overlap.out", "basis-indices.out"
_H = (("rs_hamiltonian.out",), ("rs_hamiltonian_up.out", "rs_hamiltonian_dn.out"))


class Aims:
    """Reader of FHI-aims runs."""

    name = "aims"

    def find(self, path: pathlib.Path) -> list[pathlib.Path]:
        """The run in a folder with ``control.in`` and ``geometry.in``."""
        inputs = all((path / name).is_file() for name in ("control.in", "geometry.in"))
        return [path] if path.is_dir() and inputs else []

    def read(self, run: pathlib.Path, unconverged: bool = False) -> DFTRun:
        """Read one run.

        Args:
            run: the folder.
            unconverged: read a run that did not converge, too.

        Raises:
            DataError: files are missing, damaged or of different runs, the run did not converge, or
                spin-orbit coupling.
        """
        missing = [n for n in (_INDICES, _OVERLAP, _BASIS) if not (run / n).is_file()]
        sets = [names for names in _H if all((run / n).is_file() for n in names)]
        if missing or len(sets) != 1:
            what = ", ".join(missing) or ("H" if not sets else "one H, but two kinds of H")
            raise DataError(f"{run}: an FHI-aims run without {what}; {_ASK}")
        control = read_text(run / "control.in")
        if _setting(control, "include_spin_orbit"):
            raise DataError(
                f"{run}: include_spin_orbit adds spin-orbit coupling after the matrices are "
                "written; they hold none"
            )
        lattice, positions, numbers = _geometry(run / "geometry.in")
        shells, order, sign = _basis(run / _BASIS, len(numbers))
        cells, rows, columns, places = _indices(run / _INDICES, len(order))
        parts = []
        for name in (*sets[0], _OVERLAP):
            values = _values(run / name)
            if places.max(initial=-1) >= len(values):
                raise DataError(
                    f"{run / name}: {len(values)} values, {_INDICES} asks for "
                    f"{int(places.max()) + 1}; cut short, or of another run"
                )
            parts.append(_matrices(values[places], cells, rows, columns, len(order)))
        notes: list[str] = []
        facts = _output(run, notes)
        if facts.pop("failed", False):
            if not unconverged:
                raise DataError(f"{run}: the run did not converge; {UNCONVERGED}")
            notes.append("the density did not converge")
            facts["converged"] = False
        polarised = len(sets[0]) == 2
        info = describe(
            "FHI-aims",
            str(facts.pop("version", "unknown")),
            **facts,
            functional=_setting(control, "xc"),
            spin="collinear" if polarised else "none",
        )
        structure = Structure(
            lattice, positions, numbers, shells, polarised, info, real_path(run).name
        )
        moved = [_blocks(part, structure, order, sign) for part in parts]
        h = [BlockMatrix(m.keys, m.shapes, m.values * HARTREE_EV) for m in moved[:-1]]
        if polarised:
            up, down = common_keys(h)
            empty = BlockMatrix(up.keys, up.shapes, np.zeros(len(up.values)))
            h = [double((up, empty, empty, down))]
            notes.append("collinear spin: H is [[up, 0], [0, down]]")
        files = tuple(run / name for name in (*sets[0], _OVERLAP, _INDICES, "geometry.in"))
        return DFTRun(structure, h[0], moved[-1], tuple(notes), files)


def _setting(control: str, name: str) -> str | None:
    found = re.search(rf"^[ \t]*{name}\b[ \t]*([^#\n]*)", control, re.MULTILINE)
    return None if found is None else found.group(1).strip() or "yes"


def _geometry(
    path: pathlib.Path,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """(lattice, positions in the cell around the origin, atomic numbers), Å."""
    from ase.data import atomic_numbers

    lattice, atoms, symbols = [], [], []
    for line in read_text(path).splitlines():
        words = line.split("#")[0].split()
        try:
            if words[:1] == ["lattice_vector"]:
                lattice.append([float(x) for x in words[1:4]])
            elif words[:1] in (["atom"], ["atom_frac"]):
                atoms.append((words[0] == "atom_frac", [float(x) for x in words[1:4]]))
                symbols.append(re.sub(r"[^A-Za-z].*", "", words[4]))
        except (ValueError, IndexError):
            raise DataError(f"{path}: damaged: '{line.strip()[:60]}'") from None
    if len(lattice) != 3 or not atoms:
        raise DataError(
            f"{path}: {len(lattice)} lattice vectors and {len(atoms)} atoms; a periodic run has 3"
        )
    unknown = [s for s in symbols if atomic_numbers.get(s, 0) < 1]
    if unknown:
        raise DataError(f"{path}: species '{unknown[0]}' tells no element")
    cell = np.array(lattice)
    inverse = np.linalg.inv(cell)
    fractional = np.array([p if frac else np.array(p) @ inverse for frac, p in atoms])
    # FHI-aims maps atoms into [-1/2, 1/2) up to rounding: what lies on the edge stays at +1/2
    fractional = fractional - np.ceil(fractional - 0.5 - 1e-8)
    return cell, fractional @ cell, np.array([atomic_numbers[s] for s in symbols], dtype=np.int64)


def _basis(
    path: pathlib.Path, count: int
) -> tuple[tuple[tuple[int, ...], ...], NDArray[np.int64], NDArray[np.float64]]:
    """(shells of each atom, FHI-aims' function of each legacy orbital, its sign)."""
    rows = [line.split() for line in read_text(path).splitlines()]
    try:
        table = np.array(
            [[int(x) for x in (r[0], *r[2:6])] for r in rows if len(r) == 6 and r[0].isdigit()]
        )
    except ValueError:
        raise DataError(f"{path}: no table of basis functions") from None
    if (
        not len(table)
        or (table[:, 0] != np.arange(1, len(table) + 1)).any()
        or table[:, 1].max() != count
    ):
        raise DataError(
            f"{path}: does not list the basis functions of the {count} atoms of geometry.in"
        )
    atom, l, m = table[:, 1] - 1, table[:, 3], table[:, 4]
    own: list[list[tuple[int, int]]] = [[] for _ in range(count)]
    place = 0
    while place < len(table):
        degree = int(l[place])
        part = slice(place, place + 2 * degree + 1)
        if (
            m[part].tolist() != list(range(-degree, degree + 1))
            or len(set(atom[part])) > 1
            or degree > 3
        ):
            raise DataError(
                f"{path}: basis function {place + 1} begins a shell l = {degree} that is "
                "incomplete, in another order, or beyond f"
            )
        own[atom[place]].append((degree, place))
        place = part.stop
    shells, order, sign = [], [], []
    for shell in own:
        shell = sorted(shell)
        for degree, first in shell:
            ms = np.argsort(LEGACY_TO_E3NN[degree]) - degree  # m of each legacy orbital
            order += [first + degree + int(k) for k in ms]
            sign += [-1.0 if k > 0 and k % 2 else 1.0 for k in ms.tolist()]
        shells.append(tuple(degree for degree, _ in shell))
    return tuple(shells), np.array(order), np.array(sign)


def _values(path: pathlib.Path) -> NDArray[np.float64]:
    try:
        text = require_file(path).read_bytes()
        return np.array(text.split(), dtype=np.float64)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not a list of numbers ({error})") from None


def _indices(
    path: pathlib.Path, size: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """(lattice vector, row, column, place among the values) of each stored element."""
    words = require_file(path).read_bytes().split()
    names = (b"n_hamiltonian_matrix_size:", b"n_cells_in_hamiltonian:", b"n_basis:")
    if len(words) < 6 or tuple(words[:6:2]) != names:
        raise DataError(f"{path}: no rs_indices.out of FHI-aims ({_ASK})")
    try:
        total, cells, basis = (int(words[n]) for n in (1, 3, 5))
        numbers = [w for w in words[6:] if not w[:1].isalpha()]
        flat = np.array(numbers, dtype=np.int64)
    except ValueError:
        raise DataError(f"{path}: damaged: a word that is no number") from None
    if basis != size or len(flat) != 3 * cells + 2 * cells * basis + total:
        raise DataError(
            f"{path}: {basis} basis functions and {len(flat)} numbers; {_BASIS} lists {size} "
            "functions: cut short, or of another run"
        )
    vectors = flat[: 3 * cells].reshape(cells, 3)
    first, last = flat[3 * cells :][: 2 * cells * basis].reshape(2, cells, basis) - 1
    columns = flat[-total:] - 1
    # the last lattice vector is a mark, not a cell
    first, last, vectors = first[:-1].ravel(), last[:-1].ravel(), vectors[:-1]
    lengths = np.maximum(last - first + 1, 0) * (first >= 0)
    row = np.repeat(np.arange(len(first)), lengths)
    places = (
        np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths) + first[row]
    )
    if places.max(initial=-1) >= total or columns[places].max(initial=-1) >= basis:
        raise DataError(f"{path}: damaged: a row that ends beyond the values")
    return vectors[row // basis], row % basis, columns[places], places


def _matrices(
    values: NDArray[np.float64],
    cells: NDArray[np.int64],
    rows: NDArray[np.int64],
    columns: NDArray[np.int64],
    size: int,
) -> tuple[NDArray[np.int64], list[sp.csr_matrix]]:
    """X(R) of <home cell | X | cell R>: what is stored, and its transposes."""
    mirrored = rows != columns
    r = np.concatenate([-cells, cells[mirrored]])
    i, j = np.concatenate([rows, columns[mirrored]]), np.concatenate([columns, rows[mirrored]])
    v = np.concatenate([values, values[mirrored]])
    every, which = np.unique(r, axis=0, return_inverse=True)
    which = which.reshape(-1)
    order = np.argsort(which, kind="stable")
    bounds = np.searchsorted(which[order], np.arange(len(every) + 1))
    parts = [order[a:b] for a, b in itertools.pairwise(bounds)]
    return every, [sp.csr_matrix((v[p], (i[p], j[p])), shape=(size, size)) for p in parts]


def _blocks(
    part: tuple[NDArray[np.int64], list[sp.csr_matrix]],
    structure: Structure,
    order: NDArray[np.int64],
    sign: NDArray[np.float64],
) -> BlockMatrix:
    cells, matrices = part
    signs = sp.diags(sign)
    return from_real_space(cells, [signs @ m[order][:, order] @ signs for m in matrices], structure)


def _output(run: pathlib.Path, notes: list[str]) -> dict[str, object]:
    """Facts of the standard output, where it was kept in the folder (``aims.out``, ``*.log``)."""
    for path in sorted([*run.glob("aims*"), *run.glob("*.log"), *run.glob("*.out")]):
        if (
            not path.is_file()
            or path.name.startswith(("rs_", "basis-"))
            or path.stat().st_size > 2**28
        ):
            continue
        text = path.read_text(errors="replace")
        if "FHI-aims" not in text:
            continue
        facts: dict[str, object] = {}
        version = re.search(r"FHI-aims version\s*:\s*(\S+)", text)
        if version:
            facts["version"] = version.group(1)
        levels = re.findall(r"Chemical potential \(Fermi level\)[^:\n]*:\s*(\S+)", text)
        if levels:
            facts["fermi_level"] = parse_number(levels[-1], str(path))
        electrons = re.search(r"Formal number of electrons[^:\n]*:\s*(\S+)", text)
        if electrons:
            facts["electrons"] = parse_number(electrons.group(1), str(path))
        if "Self-consistency cycle converged" not in text:
            facts["failed"] = True
        return facts
    notes.append(
        "no standard output of FHI-aims beside the matrices: Fermi "
        "level and convergence are unknown"
    )
    return {}
