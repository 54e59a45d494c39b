"""WannierBerri's (and Wannier90's) ``_tb.dat`` from H and S, Löwdin-orthogonalised on a k mesh.

The file holds the lattice, H'(R) and <0|r|R> of an orthogonal basis (:mod:`.wannier90`). Of the
position matrix it has the diagonal at R = 0: every orbital sits on its atom. Energies and
velocities of the bands do not depend on it, Berry curvatures do; :mod:`.pyatb` keeps all of r.
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Sequence

import numpy as np

from ..bands import BlochProblem
from ..io.files import write_text
from .exports import Export, ExportSource
from .wannier90 import lowdin_mesh, lowdin_notes

__all__ = ["EXPORT", "write_wannierberri"]


def write_wannierberri(
    target: str | os.PathLike[str],
    problem: BlochProblem,
    mesh: str | Sequence[int] | None = None,
    prefix: str = "wannierberri",
) -> tuple[list[str], list[str]]:
    """Write ``<prefix>_tb.dat``: what ``wannierberri.System_tb`` reads.

    Args:
        target: folder.
        problem: H and S.
        mesh: of the Löwdin transform, "9x9x1"; default: four times the range of H, plus one.
        prefix: of the name.

    Returns:
        (files, notes).

    Raises:
        ConfigError: not a mesh.
        DataError: see :func:`.wannier90.lowdin`.
    """
    model, numbers = lowdin_mesh(problem, mesh)
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
    centres = np.repeat(crystal.positions, crystal.orbital_counts * problem.spin, axis=0)
    nothing = "".join(f"{place} 0. 0. 0. 0. 0. 0.\n" for place in places)
    own = "".join(
        place + "".join(f" {x:.12f} 0." for x in (centres[r] if r == c else (0.0, 0.0, 0.0))) + "\n"
        for place, r, c in zip(places, row.tolist(), column.tolist(), strict=True)
    )
    for cell in model.cells.tolist():
        lines.append("\n" + "".join(f"{c:5d}" for c in cell) + "\n")
        lines.append(nothing if any(cell) else own)
    write_text(pathlib.Path(target) / f"{prefix}_tb.dat", "".join(lines))
    notes = lowdin_notes(problem, model, numbers)
    notes.append(
        "orbitals sit on their atoms (no matrix of r in the orthogonal basis): Berry curvatures "
        "are those of this approximation; --to pyatb keeps r"
    )
    return [f"{prefix}_tb.dat"], notes


def _export(target: pathlib.Path, source: ExportSource) -> tuple[list[str], list[str]]:
    return write_wannierberri(target, source.problem, source.mesh)


EXPORT = Export("wannierberri", _export, folder=True, options=("kind", "overlap", "mesh"))
