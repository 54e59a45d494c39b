"""H and S as kwant builders, atoms as sites, in the non-orthogonal basis.

kwant takes one Hermitian operator per builder: there is one of H, and one of S for programs that
solve H c = E S c (``hamiltonian_submatrix`` of both, then ``scipy.linalg.eigh``). kwant's own modes
and transmissions take an orthogonal basis; for these use the Löwdin-orthogonalised one
(``orthogonal=True``), whose eigenvalues are those of H and S on the points of its mesh.
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..bands import BlochProblem
from ..errors import DataError, MissingDependencyError
from ..io import BlockMatrix
from ..io.files import atomic_path, write_text
from .exports import Export, ExportSource
from .wannier90 import lowdin_mesh, lowdin_notes

if TYPE_CHECKING:
    import kwant

__all__ = ["EXPORT", "to_kwant", "write_kwant"]

_SCRIPT = pathlib.Path(__file__).with_name("kwant_model.py")


def _arrays(
    problem: BlochProblem, mesh: str | Sequence[int] | None, orthogonal: bool
) -> tuple[dict[str, NDArray[Any]], list[str]]:
    """What the script reads, and notes."""
    crystal, spin = problem.structure, problem.spin
    arrays: dict[str, NDArray[Any]] = {
        "lattice": crystal.lattice,
        "positions": crystal.positions,
        "numbers": crystal.numbers,
        "orbitals": crystal.orbital_counts * spin,
        "periodic": np.asarray(problem.coupled, dtype=bool),
    }
    if orthogonal:
        model, numbers = lowdin_mesh(problem, mesh)
        notes = lowdin_notes(problem, model, numbers)
        starts = np.concatenate([[0], np.cumsum(arrays["orbitals"])])
        own: list[list[int]] = []
        blocks: list[NDArray[Any]] = []
        for cell, matrix, copies in zip(model.cells, model.matrices, model.degeneracy, strict=True):
            for i in range(len(crystal)):
                for j in range(len(crystal)):
                    block = matrix[starts[i] : starts[i + 1], starts[j] : starts[j + 1]] / copies
                    if np.abs(block).max() > 1e-12 or (i == j and not cell.any()):
                        own.append([*cell.tolist(), i, j])
                        blocks.append(block)
        h = BlockMatrix.from_blocks(np.array(own), blocks)
        return arrays | {"keys": h.keys, "hamiltonian": h.values}, notes
    h, s = problem.h, problem.s
    keys = np.unique(np.concatenate([h.keys, s.keys]), axis=0)
    if len(keys) != len(h) or len(keys) != len(s):
        shape = arrays["orbitals"][keys[:, 3:]]
        found: dict[str, list[NDArray[Any]]] = {"h": [], "s": []}
        for name, matrix in (("h", h), ("s", s)):
            place = {tuple(key): e for e, key in enumerate(matrix.keys.tolist())}
            for key, (rows, columns) in zip(keys.tolist(), shape.tolist(), strict=True):
                e = place.get(tuple(key))
                half = spin if name == "s" else 1
                empty = np.zeros((rows // half, columns // half))
                found[name].append(empty if e is None else matrix.block(e))
        h = BlockMatrix.from_blocks(keys, found["h"])
        s = BlockMatrix.from_blocks(keys, found["s"])
    overlap = s.values
    if spin == 2:
        overlap = np.concatenate([np.kron(np.eye(2), s.block(e)).ravel() for e in range(len(s))])
    return arrays | {"keys": h.keys, "hamiltonian": h.values, "overlap": overlap}, []


def to_kwant(
    problem: BlochProblem,
    orthogonal: bool = False,
    mesh: str | Sequence[int] | None = None,
) -> tuple[kwant.Builder, kwant.Builder | None]:
    """Builders of H and S with the translations of the crystal.

    Args:
        problem: H and S.
        orthogonal: Löwdin-orthogonalised H instead, and no S.
        mesh: of the Löwdin transform.

    Returns:
        H (eV) and S; None for an orthogonal basis.

    Raises:
        MissingDependencyError: kwant is not installed.
        DataError: see :func:`.wannier90.lowdin`.
    """
    try:
        import kwant  # noqa: F401
    except ImportError:
        raise MissingDependencyError("kwant", "kwant", "building kwant systems") from None
    from . import kwant_model

    return kwant_model.build(_arrays(problem, mesh, orthogonal)[0])


def write_kwant(
    target: str | os.PathLike[str],
    problem: BlochProblem,
    mesh: str | Sequence[int] | None = None,
) -> tuple[list[str], list[str]]:
    """Write ``model.npz`` and ``kwant_model.py``, whose ``load()`` gives the builders.

    Args:
        target: folder; needs no kwant.
        problem: H and S.
        mesh: given, H is Löwdin-orthogonalised on it, and there is no S.

    Returns:
        (files, notes).

    Raises:
        DataError: the disk is full; see also :func:`.wannier90.lowdin`.
    """
    folder = pathlib.Path(target)
    arrays, notes = _arrays(problem, mesh, mesh is not None)
    try:
        script = _SCRIPT.read_text(encoding="utf-8")
    except OSError as error:
        raise DataError(f"{_SCRIPT}: cannot be read ({error.strerror})") from None
    with atomic_path(folder / "model.npz") as temporary, open(temporary, "wb") as handle:
        np.savez_compressed(handle, allow_pickle=False, **arrays)
    write_text(folder / "kwant_model.py", script)
    if mesh is None:
        notes.append(
            "H and S as two builders, nothing cut: solve H c = E S c; for kwant's modes and "
            "transmissions take an orthogonal H (--mesh)"
        )
    return ["model.npz", "kwant_model.py"], notes


def _export(target: pathlib.Path, source: ExportSource) -> tuple[list[str], list[str]]:
    return write_kwant(target, source.problem, source.mesh)


EXPORT = Export("kwant", _export, folder=True, options=("kind", "overlap", "mesh"))
