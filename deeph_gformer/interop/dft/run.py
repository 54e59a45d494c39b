"""What a reader of a DFT code's files returns, and how it becomes a folder."""

from __future__ import annotations

import dataclasses
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ... import fields
from ...errors import DataError, printable
from ...io import BlockMatrix, Structure
from ...io.blocks import format_key, match_keys, reverse_keys, sort_keys
from ...io.formats import Kind
from ...io.metric import require_metric
from .functionals import is_functional

__all__ = [
    "DFTRun",
    "UNCONVERGED",
    "describe",
    "check_run",
    "double",
    "common_keys",
    "complete_pairs",
    "element_from",
]

#: What every reader says to do about a run whose density is not converged.
UNCONVERGED = (
    "let it converge (more iterations, other mixing), or read it as it is with --unconverged"
)


@dataclasses.dataclass(frozen=True)
class DFTRun:
    """One structure as a DFT code left it.

    Attributes:
        structure: atoms, shells (sorted by l, legacy order inside) and ``info``; positions where
            the code's cell indices count from.
        hamiltonian: H(R), eV, on the code's own zero of energy; spin-doubled and complex where
            ``structure.spinful``. None for a run that wrote overlaps only.
        overlap: S(R), spinless; None where the code wrote none.
        notes: what a user should know, a sentence each.
        files: the files that were read.
    """

    structure: Structure
    hamiltonian: BlockMatrix | None
    overlap: BlockMatrix | None
    notes: tuple[str, ...] = ()
    files: tuple[pathlib.Path, ...] = ()

    @property
    def matrices(self) -> dict[Kind, BlockMatrix]:
        """Those of H and S that there are."""
        both: dict[Kind, BlockMatrix | None] = {
            "hamiltonian": self.hamiltonian,
            "overlap": self.overlap,
        }
        return {kind: matrix for kind, matrix in both.items() if matrix is not None}


def describe(code: str, version: str, **more: Any) -> dict[str, Any]:
    """The part of ``info.json`` that says where a Hamiltonian comes from; keys that are None are
    left out.

    Args:
        code: name of the DFT code.
        version: as the code gives it.
        more: ``fermi_level`` (eV), ``electrons`` (per cell), ``functional``, ``spin``, ...

    Returns:
        the keys, with ``occupation`` (DeepH-dock's name for ``electrons``) and ``gauge``.
    """
    info: dict[str, Any] = {"code": code, "version": version, "gauge": "raw"}
    info |= {key: value for key, value in more.items() if value is not None}
    for key in ("version", "functional"):  # zeros that a disk left are no name
        if not str(info.get(key, "")).isprintable():
            info.pop(key)
    info.setdefault("version", "unknown")
    if "electrons" in info:
        info["occupation"] = info["electrons"]
    return info


def check_run(run: DFTRun, where: pathlib.Path) -> DFTRun:
    """Refuse what no folder may hold, and say which pairs of atoms have H or S alone.

    Args:
        run: what a reader made.
        where: for messages.

    Returns:
        the run with its notes completed.

    Raises:
        DataError: nothing was read, NaN or infinite values, blocks of a wrong shape, a matrix that
            is not Hermitian, or an S of no orbitals.
    """
    run = dataclasses.replace(
        run,
        hamiltonian=run.hamiltonian and complete_pairs(run.hamiltonian),
        overlap=run.overlap and complete_pairs(run.overlap),
    )
    matrices = {"H": run.hamiltonian, "S": run.overlap}
    present = {name: matrix for name, matrix in matrices.items() if matrix is not None}
    if not present:
        raise DataError(f"{where}: holds neither H nor S")
    counts, notes = run.structure.orbital_counts, list(run.notes)
    _check_facts(run.structure, where)
    for name, matrix in present.items():
        factor = 2 if name == "H" and run.structure.spinful else 1
        wanted = counts[matrix.keys[:, 3:]] * factor
        wrong = np.flatnonzero((matrix.shapes != wanted).any(axis=1))
        if len(wrong):
            raise DataError(
                f"{where}: block {format_key(matrix.keys[wrong[0]])} of {name} has shape "
                f"{tuple(matrix.shapes[wrong[0]].tolist())}, its atoms' shells ask for "
                f"{tuple(wanted[wrong[0]].tolist())}"
            )
        bad = np.flatnonzero(~np.isfinite(matrix.values))
        if len(bad):
            e = int(np.searchsorted(matrix.offsets, bad[0], side="right")) - 1
            raise DataError(
                f"{where}: block {format_key(matrix.keys[e])} of {name} contains NaN or infinite "
                f"values ({len(bad)} in all); did the run fail?"
            )
        _check_hermitian(matrix, name, where)
    if run.overlap is not None:
        require_metric(run.overlap, counts, str(where))
    if run.hamiltonian is not None:
        notes += _missing_facts(run.structure.info, notes)
    if len(present) == 2:
        notes += _one_sided_pairs(run)
    elif run.overlap is not None:
        notes.append(f"overlaps only: no {fields.HAMILTONIAN_FILE} is written")
    else:
        notes.append(f"no overlaps: no {fields.OVERLAP_FILE} is written")
    return dataclasses.replace(run, notes=tuple(notes))


def _check_facts(structure: Structure, where: pathlib.Path) -> None:
    """Raise unless electrons fit into the orbitals, and the Fermi level is an energy.

    Raises:
        DataError: names the number.
    """
    room, electrons = 2 * int(structure.orbital_counts.sum()), structure.info.get("electrons")
    if electrons is not None and not 0 < electrons <= room:
        raise DataError(
            f"{where}: tells of {electrons:g} electrons, and its orbitals hold {room}; is its "
            "output damaged, or of another run?"
        )
    level = structure.info.get("fermi_level")
    if level is not None and not abs(level) < 1e5:
        raise DataError(f"{where}: tells of a Fermi level of {level:g} eV; did the run fail?")


#: What every run tells of, and how a note calls it.
_FACTS = {
    "version": "the code's version",
    "fermi_level": "the Fermi level",
    "electrons": "the number of electrons",
    "functional": "the functional",
}


def _missing_facts(info: Mapping[str, Any], notes: Sequence[str]) -> list[str]:
    """Notes on the facts that no file of a run tells, or that were lost where one is damaged, and
    on a functional that is none.

    Args:
        info: of the structure.
        notes: what is said already.
    """
    missing = [text for key, text in _FACTS.items() if info.get(key, "unknown") == "unknown"]
    told = " ".join(notes)
    names = ", ".join(text for text in missing if text.rpartition("the ")[2] not in told)
    found, functional = list[str](), str(info.get("functional", "unknown"))
    if names:
        found.append(f"not found in the files of the run, so not in {fields.INFO_FILE}: {names}")
    if functional != "unknown" and not is_functional(functional):
        found.append(
            f"the functional is '{printable(functional)[:60]}', a name that is not known here; is "
            "a file of the run damaged?"
        )
    return found


def double(parts: Sequence[BlockMatrix]) -> BlockMatrix:
    """Spin-doubled blocks [[uu, ud], [du, dd]] from four matrices with the same keys; complex.

    Args:
        parts: uu, ud, du, dd.
    """
    first = parts[0]
    out = BlockMatrix(
        first.keys, 2 * first.shapes, np.zeros(4 * len(first.values), dtype=np.complex128)
    )
    grouped = zip(*(part.groups() for part in parts), strict=True)
    return out.with_groups(
        (four[0][0], np.block([[four[0][1], four[1][1]], [four[2][1], four[3][1]]]))
        for four in grouped
    )


def common_keys(parts: Sequence[BlockMatrix]) -> list[BlockMatrix]:
    """The matrices on the keys of all of them, zero where one has no block.

    Args:
        parts: of one structure, in one unit.
    """
    keys = np.unique(np.concatenate([part.keys for part in parts]), axis=0)
    keys = keys[sort_keys(keys)]
    return [on_keys(part, keys) for part in parts]


def on_keys(matrix: BlockMatrix, keys: NDArray[np.int64]) -> BlockMatrix:
    """The matrix on more keys, zero where it has no block.

    Args:
        matrix: every atom of ``keys`` has a block in it.
        keys: (E, 5), canonical order.
    """
    rows = dict(zip(matrix.keys[:, 3].tolist(), matrix.shapes[:, 0].tolist(), strict=True))
    shapes = np.array([[rows[i], rows[j]] for i, j in keys[:, 3:].tolist()]).reshape(-1, 2)
    out = BlockMatrix(keys, shapes, np.zeros(int(shapes.prod(axis=1).sum()), matrix.values.dtype))
    have = np.flatnonzero(match_keys(keys, matrix.keys) >= 0)
    size = shapes[have].prod(axis=1)
    inside = np.arange(int(size.sum())) - np.repeat(np.cumsum(size) - size, size)
    out.values[np.repeat(out.offsets[have], size) + inside] = matrix.values
    return out


#: Blocks whose largest element is below this (eV, or 1) may lack their partner: a code's own
#: threshold for
#: what it writes can keep one of two equal elements.
_NEGLIGIBLE = 1e-7


def complete_pairs(matrix: BlockMatrix) -> BlockMatrix:
    """Add the partner (-R, j, i) of blocks that lack it and are negligible; others are left as they
    are.

    Args:
        matrix: H or S.
    """
    lonely = np.flatnonzero(matrix.partner < 0)
    if not len(lonely) or any(
        np.abs(matrix.block(int(e))).max(initial=0) > _NEGLIGIBLE for e in lonely
    ):
        return matrix
    keys = np.concatenate([matrix.keys, reverse_keys(matrix.keys[lonely])])
    blocks = [block for _, block in matrix] + [matrix.block(int(e)).conj().T for e in lonely]
    return BlockMatrix.from_blocks(keys, blocks)


def element_from(names: Sequence[str], where: pathlib.Path) -> int:
    """The atomic number that the first of these names is called after (``O_PBE19``, ``Fe1``,
    ``Mo.upf``).

    Args:
        names: of species, potentials or orbital files, the surest first.
        where: for messages.

    Raises:
        DataError: none is called after an element (an empty atom, or files with names of one's
            own).
    """
    from ase.data import atomic_numbers

    for name in names:
        found = re.match(r"([A-Z][a-z]?)(?![A-Za-z])", name)
        if found and atomic_numbers.get(found.group(1), 0) > 0:
            return int(atomic_numbers[found.group(1)])
    raise DataError(
        f"{where}: none of {', '.join(map(repr, names))} tells an element; folders have no empty "
        "atoms: give species and files names that start with the element (O_PBE19, Fe1, Mo.upf)"
    )


#: Largest |H - H†| (eV) and |S - S†| that rounding in files of eight or nine digits leaves.
_ASYMMETRY = {"H": 1e-4, "S": 1e-5}


def _check_hermitian(matrix: BlockMatrix, name: str, where: pathlib.Path) -> None:
    matrix.require_symmetric(f"{where} ({name})")
    error = np.abs(matrix.values - matrix.conjugate_transpose().values)
    worst = int(error.argmax())
    if error[worst] > _ASYMMETRY[name] * max(1.0, float(np.abs(matrix.values[worst]))):
        e = int(np.searchsorted(matrix.offsets, worst, side="right")) - 1
        raise DataError(
            f"{where}: block {format_key(matrix.keys[e])} of {name} differs from the conjugate "
            f"transpose of its partner by {error[worst]:.2g}; the file is damaged or is read in a "
            "wrong way"
        )


def _one_sided_pairs(run: DFTRun) -> list[str]:
    h, s = run.hamiltonian, run.overlap
    if h is None or s is None:
        return []
    notes = []
    for name, other, matrix, rest, unit in (("H", "S", h, s, " eV"), ("S", "H", s, h, "")):
        alone = np.flatnonzero(match_keys(matrix.keys, rest.keys) < 0)
        if len(alone):
            largest = max(float(np.abs(matrix.block(int(e))).max(initial=0)) for e in alone)
            notes.append(
                f"{len(alone)} of {len(matrix)} pairs have {name} but no {other} (largest element "
                f"{largest:.2g}{unit}); kept"
            )
    return notes
