"""ABACUS (LCAO): H(R) and S(R) of ``out_mat_hs2 1`` or ``calculation get_s`` ->
:class:`~deeph_gformer.interop.dft.run.DFTRun`.

Structure from STRU, shells from the running log, else from the orbital files' names. ABACUS wraps
atoms into the cell before it counts lattice vectors, orders a shell m = 0, 1, -1, 2, -2, ... with a
factor (-1)^m before the real harmonics, and, with ``nspin 4``, has spin as the fastest index. H is
in Ry. Phase exp(+2 pi i k.R).
"""

from __future__ import annotations

import dataclasses
import pathlib
import re

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from ...errors import DataError
from ...io import BlockMatrix, Structure
from ...io.dock import LEGACY_TO_E3NN
from ...io.files import real_path
from ..sparse import from_real_space
from .abacus_csr import SparseFile, read_csr
from .abacus_files import ASK, RunPaths, is_output, matrix_files, run_paths
from .abacus_log import Log, read_log
from .run import UNCONVERGED, DFTRun, common_keys, describe, double, element_from
from .stru import Stru, read_stru

__all__ = ["Abacus", "RYDBERG_EV", "orbital_order", "wrapped"]

#: ABACUS' own constant.
RYDBERG_EV = 13.605698


class Abacus:
    """Reader of ABACUS runs."""

    name = "abacus"

    def find(self, path: pathlib.Path) -> list[pathlib.Path]:
        """The run at ``path``: a folder with STRU and INPUT or an ``OUT.*``, or that ``OUT.*``
        itself.
        """
        if not path.is_dir():
            return []
        inputs = all((path / name).is_file() for name in ("STRU", "INPUT")) and not any(
            path.glob("*/OUT.*")
        )
        outputs = any(is_output(folder) for folder in path.glob("OUT.*"))
        return [path] if inputs or outputs or is_output(path) else []

    def read(self, run: pathlib.Path, unconverged: bool = False) -> DFTRun:
        """Read one run.

        Args:
            run: the run's folder, or its ``OUT.*``.
            unconverged: read runs whose density did not converge, too.

        Raises:
            DataError: files are missing, damaged or of different runs, the run did not converge, or
                a setting has no form in a folder.
        """
        place = run_paths(run)
        files = matrix_files(place)
        log = read_log(place.out, place.settings.get("calculation", "scf"))
        notes: list[str] = []
        h_files = [read_csr(path) for path in files.h]
        s_file = read_csr(files.s) if files.s else None
        for matrix, path in zip([*h_files, s_file], [*files.h, files.s], strict=True):
            if matrix is not None and matrix.folded:
                raise DataError(
                    f"{path}: holds H summed over all lattice vectors (gamma_only 1); run with "
                    "'gamma_only 0' and a KPT file of Γ alone"
                )
        stru = _structure_file(place, log, notes)
        one = h_files[0] if h_files else s_file
        if one is None:
            raise DataError(f"{run}: an ABACUS run without H(R) and S(R); {ASK}")
        shells, numbers = _species(stru, log, place.stru)
        counts = np.array([sum(2 * l + 1 for l in own) for own in shells])
        doubled = _doubled([*h_files, *([s_file] if s_file else [])], int(counts.sum()), place)
        nspin = 4 if doubled else max(1, len(h_files))
        _check_spin(nspin, place, bool(h_files))
        fractional = wrapped(stru.fractional, log, stru.lattice, place.stru)
        _check_header(one, fractional, place)
        if not log.converged and h_files:
            if not unconverged:
                raise DataError(f"{place.out}: the run did not converge; {UNCONVERGED}")
            notes.append("the density did not converge")
        notes += log.notes
        info = describe(
            "ABACUS",
            log.version,
            fermi_level=log.fermi_eV if h_files else None,
            electrons=log.electrons,
            functional=_functional(place.settings, log),
            spin={1: "none", 2: "collinear", 4: "non-collinear"}[nspin],
            converged=None if log.converged or not h_files else False,
        )
        structure = Structure(
            stru.lattice,
            fractional @ stru.lattice,
            numbers,
            shells,
            nspin != 1 if h_files else None,
            info,
            real_path(place.run).name,
        )
        order, sign = orbital_order(shells, 2 if doubled else 1)
        h = _hamiltonian(h_files, structure, order, sign)
        s = None if s_file is None else _overlap(s_file, structure, doubled, files.s or place.out)
        if nspin == 2:
            notes.append("collinear spin: H is [[up, 0], [0, down]]")
        read = (place.stru, *files.h, *([files.s] if files.s else []))
        return DFTRun(structure, h, s, tuple(notes), read)


def _structure_file(place: RunPaths, log: Log, notes: list[str]) -> Stru:
    """STRU, else the running log's structure, which has fewer digits."""
    if place.stru.is_file():
        stru = read_stru(place.stru, log.lattice)
        if log.lattice is not None and np.array_equal(stru.lattice, log.lattice):
            notes.append(
                "lattice vectors made by INPUT's latname: those of the running log, of six digits"
            )
        return stru
    if log.lattice is None or log.positions is None:
        raise DataError(
            f"{place.run}: neither {place.stru.name} nor a running log with the structure; copy "
            "the STRU of the run there"
        )
    notes.append(
        f"no {place.stru.name}: lattice and positions are those of the running log, of six digits"
    )
    return Stru(log.lattice, log.positions @ np.linalg.inv(log.lattice), log.labels, {}, {}, {})


def _species(
    stru: Stru, log: Log, where: pathlib.Path
) -> tuple[tuple[tuple[int, ...], ...], NDArray[np.int64]]:
    """Shells and atomic numbers of the atoms."""
    shells, numbers = {}, {}
    for label in dict.fromkeys(stru.labels):
        found = log.shells.get(label) or _shells_in_name(stru.orbitals.get(label, ""))
        if found is None:
            raise DataError(
                f"{where}: shells of '{label}' are unknown: neither the running log nor the "
                f"orbital file's name '{stru.orbitals.get(label, '')}' "
                "(X_gga_8au_100Ry_2s2p1d.orb) tells them"
            )
        if max(found) > 3:
            raise DataError(
                f"{where}: '{label}' has shells of l = {max(found)}; DeepH's folders hold l = 0 "
                "to 3"
            )
        shells[label] = found
        numbers[label] = element_from((label, stru.potentials.get(label, "")), where)
    return (
        tuple(shells[label] for label in stru.labels),
        np.array([numbers[label] for label in stru.labels], dtype=np.int64),
    )


def _shells_in_name(name: str) -> tuple[int, ...] | None:
    """l of the shells that the name of an orbital file ends in: ``C_gga_8au_100Ry_2s2p1d.orb``."""
    found = re.search(r"_((?:\d+[spdfg])+)(?:\.orb)?$", name.split("/")[-1])
    if not found:
        return None
    pairs = re.findall(r"(\d+)([spdfg])", found.group(1))
    return tuple(
        sorted("spdfg".index(letter) for count, letter in pairs for _ in range(int(count)))
    )


def _doubled(matrices: list[SparseFile], orbitals: int, place: RunPaths) -> bool:
    """Whether matrices have spin as the fastest index (``nspin 4``)."""
    sizes = {matrix.size for matrix in matrices}
    if len(sizes) == 1 and sizes <= {orbitals, 2 * orbitals}:
        return sizes == {2 * orbitals}
    raise DataError(
        f"{place.out}: matrices of {' and '.join(map(str, sorted(sizes)))} rows, but "
        f"{place.stru.name} has {orbitals} orbitals (twice as many with nspin 4); they are of "
        "different runs"
    )


def _check_spin(nspin: int, place: RunPaths, has_h: bool) -> None:
    said = place.settings.get("nspin", str(nspin)).split()[0]
    if not has_h and {said, str(nspin)} <= {"1", "2"}:  # overlaps are the same
        return
    if said != str(nspin):
        raise DataError(
            f"{place.out}: its files are those of nspin {nspin}, INPUT says nspin {said}; "
            + ("one spin's H is missing" if said == "2" else "they are of different runs")
        )


def wrapped(
    fractional: NDArray[np.float64], log: Log, lattice: NDArray[np.float64], where: pathlib.Path
) -> NDArray[np.float64]:
    """Positions as ABACUS wraps them into the cell, from where it counts R.

    Args:
        fractional: (N, 3), as in STRU.
        log: the running log; its positions, where it has them, are ABACUS' own.
        lattice: (3, 3), Å.
        where: STRU, for messages.

    Raises:
        DataError: STRU's positions are not those of the log.
    """
    shifted = fractional + 10000.0  # as the code does it: -1e-13 becomes 0, not 1
    inside = np.round(shifted - np.trunc(shifted) - fractional) + fractional
    if log.positions is None:
        return inside
    if len(log.positions) != len(fractional):
        raise DataError(
            f"{where}: {len(fractional)} atoms, the running log has {len(log.positions)}; they "
            "are of different runs"
        )
    own = log.positions @ np.linalg.inv(lattice)
    result = fractional + np.round(own - fractional)
    error = np.abs((result - own) @ lattice).max(axis=1)
    if error.max() > 1e-3:
        atom = int(error.argmax())
        raise DataError(
            f"{where}: atom {atom + 1} is {error[atom]:.3g} Å away from where the running log "
            "has it; they are of different runs"
        )
    return result


def _check_header(matrix: SparseFile, fractional: NDArray[np.float64], place: RunPaths) -> None:
    """The structure in the head of newer matrix files is that of STRU."""
    there = matrix.fractional
    if there is None:
        return
    same = there.shape == fractional.shape
    if same:
        offset = there - fractional
        same = bool(np.abs(offset - np.round(offset)).max(initial=0) < 1e-4)
    if not same:
        raise DataError(
            f"{place.stru}: its atoms are not those in the head of the matrix files; they are of "
            "different runs"
        )


def orbital_order(
    shells: tuple[tuple[int, ...], ...], spin: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """(for each legacy orbital the row in ABACUS' matrices, its sign), over the whole cell.

    Args:
        shells: l of each atom's shells.
        spin: 2 where spin is ABACUS' fastest index; legacy orbitals of an atom are then all up, all
            down.
    """
    order: list[int] = []
    signs: list[float] = []
    first = 0
    for own in shells:
        index: list[int] = []
        sign: list[float] = []
        for l in own:
            m_of = np.argsort(LEGACY_TO_E3NN[l]) - l  # m of each legacy orbital
            start = first + len(index)
            index += [start + (2 * m - 1 if m > 0 else -2 * m) for m in m_of.tolist()]
            sign += [(-1.0) ** m for m in m_of.tolist()]
        for s in range(spin):
            order += [spin * n + s for n in index]
            signs += sign
        first += len(index)
    return np.array(order, dtype=np.int64), np.array(signs)


def _real_space(
    file: SparseFile,
    structure: Structure,
    spin: int,
    order: NDArray[np.int64],
    sign: NDArray[np.float64],
) -> BlockMatrix:
    """X(R) in legacy order, in the file's unit."""
    signs = sp.diags(sign)
    moved = [signs @ matrix[order][:, order] @ signs for matrix in file.matrices]
    return from_real_space(file.cells, moved, structure, spin)


def _hamiltonian(
    files: list[SparseFile],
    structure: Structure,
    order: NDArray[np.int64],
    sign: NDArray[np.float64],
) -> BlockMatrix | None:
    """H in eV."""
    spin = 2 if len(order) > structure.orbital_counts.sum() else 1
    parts = [_real_space(file, structure, spin, order, sign) for file in files]
    parts = [dataclasses.replace(part, values=part.values * RYDBERG_EV) for part in parts]
    if len(parts) < 2:
        return parts[0] if parts else None
    up, down = common_keys(parts)
    empty = BlockMatrix(up.keys, up.shapes, np.zeros(len(up.values)))
    return double((up, empty, empty, down))


def _overlap(
    file: SparseFile, structure: Structure, doubled: bool, path: pathlib.Path
) -> BlockMatrix:
    """S, spinless: of a spin-doubled one the up-up part."""
    order, sign = orbital_order(structure.orbital_types, 1)
    if doubled:
        mixed = max((np.abs(m[0::2, 1::2]).max() for m in file.matrices), default=0)
        if mixed > 1e-8:
            raise DataError(f"{path}: S mixes spins ({mixed:.2g}); the file is damaged")
        plain = [m[0::2, 0::2] for m in file.matrices]
        file = dataclasses.replace(file, size=file.size // 2, matrices=plain)
    s = _real_space(file, structure, 1, order, sign)
    if np.iscomplexobj(s.values) and np.abs(s.values.imag).max(initial=0) > 1e-8:
        raise DataError(f"{path}: S is complex; the file is damaged")
    return dataclasses.replace(s, values=np.ascontiguousarray(s.values.real))


def _functional(settings: dict[str, str], log: Log) -> str | None:
    """The functional that INPUT asks for, else that of the pseudopotentials."""
    named = settings.get("dft_functional", "default").split("#")[0].strip()
    return log.functional if named.lower() in ("", "default", "none") else named
