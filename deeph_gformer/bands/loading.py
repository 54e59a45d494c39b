"""Folders on disk -> :class:`BlochProblem`, with every check that a stranger's file needs."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Literal

import numpy as np

from ..errors import ConfigError, DataError
from ..io import BlockMatrix, Structure, read_folder, read_matrix
from ..io.blocks import format_key
from ..io.folder import Kind, folder_of_overlap, has_matrix, matrix_path
from ..io.gauge import OURS, stated_level
from .bloch import BlochProblem

__all__ = [
    "load",
    "hermitian_defect",
    "is_orthogonal",
    "symmetrized",
    "DFT_TOLERANCE_EV",
    "PREDICTION_TOLERANCE_EV",
    "info_fermi_eV",
]

DFT_TOLERANCE_EV = 1e-3
PREDICTION_TOLERANCE_EV = 0.5


def info_fermi_eV(structure: Structure) -> float | None:
    """The Fermi level of DFT's Hamiltonian that info.json states, eV; None where it states none."""
    return stated_level(structure.info, "hamiltonian").energy_eV


def is_orthogonal(structure: Structure) -> bool:
    """Whether info.json says that S is the identity."""
    return any(structure.info.get(key) is True for key in ("isorthogonal", "orthogonal_basis"))


def hermitian_defect(matrix: BlockMatrix) -> tuple[float, int]:
    """The largest |H_ij(R) - H_ji(-R)†| and the block that has it.

    Raises:
        DataError: a block lacks its partner (-R, j, i).
    """
    difference = np.abs(matrix.values - matrix.conjugate_transpose().values)
    place = int(np.argmax(difference)) if len(difference) else 0
    return float(difference[place]) if len(difference) else 0.0, int(
        np.searchsorted(matrix.offsets, place, side="right")
    ) - 1


def symmetrized(
    matrix: BlockMatrix,
    source: str,
    tolerance: float,
    unit: str,
    notes: list[str],
    project: bool = False,
) -> BlockMatrix:
    """½(M + M†), said in ``notes`` where it changes anything that matters.

    Args:
        matrix: H(R) or S(R).
        source: file, for messages.
        tolerance: largest accepted |M - M†|.
        unit: " eV" or "".
        notes: gets a sentence where something changed.
        project: accept any.

    Raises:
        DataError: M is further from Hermitian than the tolerance, or lacks partner blocks.
    """
    matrix.require_symmetric(source)
    defect, e = hermitian_defect(matrix)
    if defect == 0.0:
        return matrix
    if defect > tolerance and not project:
        raise DataError(
            f"{source}: not Hermitian, |M - M†| reaches {defect:.3g}{unit} in block "
            f"{format_key(matrix.keys[e])} (tolerance {tolerance:g}{unit}); "
            "is the file damaged or the conjugation wrong? --hermitize projects it on ½(M + M†)"
        )
    if defect > 1e-5:
        notes.append(
            f"{pathlib.Path(source).name} is not exactly Hermitian (max |M - M†| "
            f"{defect:.3g}{unit}): projected on ½(M + M†)"
        )
    return matrix.hermitian()


def _read_h(folder: pathlib.Path, kind: Kind, structure: Structure) -> BlockMatrix:
    try:
        return read_matrix(folder, kind, structure)
    except DataError:
        if structure.spinful is not None:
            raise
        try:
            return read_matrix(
                folder, kind, structure, spinful=True
            )  # info.json is silent: spin-doubled shapes tell
        except DataError:
            pass
        raise


def _read_s(
    folder: pathlib.Path, structure: Structure, hamiltonian: pathlib.Path
) -> BlockMatrix | None:
    path = matrix_path(folder, "overlap")
    if not path.is_file():
        if is_orthogonal(structure):
            return None
        raise DataError(
            f"{hamiltonian}: no overlap beside it ({path} not found), and info.json does not say "
            f"that the basis is orthogonal (isorthogonal: true); "
            "give the folder that has S with --overlap DIR, or compute it (deeph-gformer overlap)"
        )
    try:
        return read_matrix(folder, "overlap", structure)
    except DataError as error:
        if "spin-doubled" in str(error):
            raise DataError(
                f"{path}: the overlap is spin-doubled; DeepH's overlaps are spinless, n_i x n_j: "
                f"keep the upper left quarter of each block"
            ) from None
        raise


def prediction_label(structure: Structure, beside_dft: bool = False) -> str:
    """What a folder's prediction is: "refined" or "stage 1" where ``refine`` has written it;
    otherwise a file of other programs, DeepH-E3's ("stage 1") beside DFT's, else a "prediction".

    Args:
        structure: of the folder, with its info.json.
        beside_dft: whether DFT's H is in the folder, too.
    """
    ours = structure.info.get(OURS)
    if isinstance(ours, Mapping):
        return "refined" if ours.get("gformer") else "stage 1"
    return "stage 1" if beside_dft else "prediction"


def load(
    folder: str | os.PathLike[str],
    kind: Literal["hamiltonian", "prediction"] = "hamiltonian",
    overlap_folder: str | os.PathLike[str] | Callable[[Structure], BlockMatrix] | None = None,
    *,
    label: str | None = None,
    hermitize: bool = False,
    tolerance: float | None = None,
) -> BlochProblem:
    """Read H and S of a legacy or DeepH-dock folder.

    Args:
        folder: holds the structure and H.
        kind: 'hamiltonian' (DFT) or 'prediction' (``hamiltonians_pred.h5``).
        overlap_folder: where S is, when not beside H: the folder, or its ``overlaps.h5``; its
            structure must be the same one. Or what makes S of a structure.
        label: name in legends and reports; default: "DFT", or see :func:`prediction_label`.
        hermitize: project H on ½(H + H†) however far from Hermitian it is.
        tolerance: largest accepted |H - H†|, eV; default 1e-3 for DFT, 0.5 for a prediction
            (networks are not exactly Hermitian).

    Raises:
        ConfigError: unknown ``kind``.
        DataError: a file is missing, damaged, not Hermitian, or H and S do not belong together; the
            message says what to do.
    """
    if kind not in ("hamiltonian", "prediction"):
        raise ConfigError(f"kind '{kind}' is unknown; there are hamiltonian and prediction")
    folder = pathlib.Path(folder)
    structure = read_folder(folder)
    path = matrix_path(folder, kind)
    if not has_matrix(folder, kind):
        other = matrix_path(folder, "prediction" if kind == "hamiltonian" else "hamiltonian")
        raise DataError(
            f"{path}: file not found"
            + (f"; the folder has {other.name}, ask for that one" if other.is_file() else "")
        )
    notes: list[str] = []
    h = _read_h(folder, kind, structure)
    if tolerance is None:
        tolerance = DFT_TOLERANCE_EV if kind == "hamiltonian" else PREDICTION_TOLERANCE_EV
    h = symmetrized(h, str(path), tolerance, " eV", notes, hermitize)
    computed = callable(overlap_folder)
    s_folder = folder if callable(overlap_folder) else folder_of_overlap(overlap_folder or folder)
    of_s = structure if s_folder == folder else read_folder(s_folder)
    if not structure.same_as(of_s):
        raise DataError(
            f"{matrix_path(s_folder, 'overlap')}: is S of another structure than {folder} (atoms, "
            "orbitals, lattice or positions differ by more than 1e-3 Å); S must belong to the same "
            "atoms in the same order"
        )
    s = (
        overlap_folder(structure)
        if callable(overlap_folder)
        else _read_s(s_folder, dataclasses.replace(structure, origin=of_s.origin), path)
    )
    if s is None:
        notes.append("orthogonal basis (info.json): S is the identity")
    elif computed:
        notes.append("S is computed from basis files or a table, as asked for")
    else:
        s = symmetrized(s, str(matrix_path(s_folder, "overlap")), 1e-4, "", notes, hermitize)
    return BlochProblem(
        structure,
        h,
        s,
        label=label or ("DFT" if kind == "hamiltonian" else prediction_label(structure)),
        source=str(path),
        predicted=kind == "prediction",
        notes=tuple(notes),
    )
