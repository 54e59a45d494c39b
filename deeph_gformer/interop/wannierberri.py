"""WannierBerri's (and Wannier90's) ``_tb.dat`` from H and S, Löwdin-orthogonalised on a k mesh.

The file holds the lattice, H'(R) and <0|r|R> of an orthogonal basis (:mod:`.wannier90`). r is that
of the position matrix, or of the atom-position approximation (orbitals in the middle of each pair),
brought to Löwdin's orbitals: Berry curvatures are those of the given H, S and r.
"""

from __future__ import annotations

import functools
import os
import pathlib
from collections.abc import Sequence

import numpy as np

from ..bands import BlochProblem
from ..bands.topology.links import position_rest
from ..bands.velocity import bloch_positions
from ..io import BlockMatrix
from ..io.files import write_text
from .exports import Export, ExportSource
from .wannier90 import lowdin_mesh, lowdin_notes

__all__ = ["EXPORT", "write_wannierberri"]


def write_wannierberri(
    target: str | os.PathLike[str],
    problem: BlochProblem,
    mesh: str | Sequence[int] | None = None,
    prefix: str = "wannierberri",
    positions: Sequence[BlockMatrix] | None = None,
) -> tuple[list[str], list[str]]:
    """Write ``<prefix>_tb.dat``: what ``wannierberri.System_tb`` reads.

    Args:
        target: folder.
        problem: H and S.
        mesh: of the Löwdin transform, "9x9x1"; default: four times the range of H, plus one.
        prefix: of the name.
        positions: x, y and z of <i, 0 | r | j, R>, Å, spinless; None: orbitals sit on their atoms.

    Returns:
        (files, notes).

    Raises:
        ConfigError: not a mesh.
        DataError: see :func:`.wannier90.lowdin`.
    """
    rest = None if positions is None else position_rest(problem, positions)
    model, numbers = lowdin_mesh(problem, mesh, functools.partial(bloch_positions, rest=rest))
    crystal, size = problem.structure, problem.size
    name = "x".join(map(str, numbers))
    lines = [f" deeph-gformer: Loewdin-orthogonalised on a {name} mesh, {crystal.name}\n"]
    lines += [" ".join(f"{x:.12f}" for x in vector) + "\n" for vector in crystal.lattice]
    lines.append(f"{size:12d}\n{len(model.cells):12d}\n")
    for n in range(0, len(model.degeneracy), 15):
        lines.append("".join(f"{d:5d}" for d in model.degeneracy[n : n + 15]) + "\n")
    column, row = np.divmod(np.arange(size * size), size)
    places = [
        f"{r:5d}{c:5d}" for r, c in zip((row + 1).tolist(), (column + 1).tolist(), strict=True)
    ]
    for cell, matrix in zip(model.cells.tolist(), model.matrices, strict=True):
        values = matrix[row, column]
        lines.append("\n" + "".join(f"{c:5d}" for c in cell) + "\n")
        table = zip(places, values.real.tolist(), values.imag.tolist(), strict=True)
        lines.append("".join(f"{place} {x:.15e} {y:.15e}\n" for place, x, y in table))
    for cell, dipoles in zip(model.cells.tolist(), np.asarray(model.positions), strict=True):
        parts = np.ascontiguousarray(dipoles[:, row, column]).view(np.float64).reshape(3, -1, 2)
        rows = zip(places, parts.transpose(1, 0, 2).reshape(-1, 6).tolist(), strict=True)
        lines.append("\n" + "".join(f"{c:5d}" for c in cell) + "\n")
        lines.append(
            "".join(place + "".join(f" {v:.15e}" for v in six) + "\n" for place, six in rows)
        )
    write_text(pathlib.Path(target) / f"{prefix}_tb.dat", "".join(lines))
    notes = lowdin_notes(problem, model, numbers)
    notes.append(
        "r: from the position matrix"
        if positions is not None
        else "r: atom-position approximation, without a position matrix (positions.h5 of overlap "
        "predict --positions): Berry curvatures lack dipoles between orbitals"
    )
    return [f"{prefix}_tb.dat"], notes


def _export(target: pathlib.Path, source: ExportSource) -> tuple[list[str], list[str]]:
    return write_wannierberri(target, source.problem, source.mesh, positions=source.positions)


EXPORT = Export("wannierberri", _export, folder=True, options=("kind", "overlap", "mesh"))
