"""The Fermi level of a predicted Hamiltonian, by counting electrons on its own bands."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import NamedTuple

import numpy as np

from ..bands import BlochProblem, fermi_level, load, mesh_spectrum
from ..bands.electrons import electron_number, electrons_by_composition
from ..bands.fermi import electrons_at, whole_electrons
from ..bands.kmesh import MeshSpectrum, parse_mesh
from ..errors import GFormerError
from ..io.blocks import BlockMatrix
from ..io.folder import folder_format, has_matrix, read_folder, read_matrix
from ..io.gauge import stated_level
from ..io.structure import Structure
from ..pipeline import HamiltonianModel, Prediction

__all__ = ["PredictedLevel", "known_electrons", "predicted_level", "MOST_ORBITALS"]

#: Larger structures (orbitals, spin included) are not diagonalised for a level in info.json.
MOST_ORBITALS = 400
#: Orbitals cubed times k-points (complex: times four) up to which the mesh is the full one.
MOST_WORK = 3e9


class PredictedLevel(NamedTuple):
    """The Fermi level of one Hamiltonian.

    Attributes:
        energy_eV: on the scale of that Hamiltonian; None where it is unknown.
        electrons: per cell; None where unknown.
        note: how the level was found, or why there is none.
    """

    energy_eV: float | None
    electrons: float | None
    note: str


def _spectrum(problem: BlochProblem) -> MeshSpectrum:
    """Bands on the mesh that ``bands`` takes; on one half as dense where that is dear."""
    mesh = parse_mesh(None, problem)
    work = float(problem.size) ** 3 * np.prod(mesh) * (4 if problem.spinful else 1)
    if work > MOST_WORK:
        mesh = -(-mesh[0] // 2), -(-mesh[1] // 2), -(-mesh[2] // 2)
    return mesh_spectrum(problem, mesh)


def known_electrons(structure: Structure, model: HamiltonianModel) -> tuple[float | None, str]:
    """Electrons per cell, without bands, and where their number comes from; None where unknown.

    Args:
        structure: its info.json may state them.
        model: its training set may.
    """
    number = electron_number(structure)
    if number is not None:
        return number
    rows = model.bundle.training.get("electrons", ()) if model.bundle else ()
    return (electrons_by_composition(structure, rows) if rows else None), "training set"


def predicted_level(
    prediction: Prediction,
    model: HamiltonianModel,
    source: pathlib.Path,
    target: pathlib.Path,
    overlap: BlockMatrix | None = None,
) -> PredictedLevel:
    """Count electrons on the bands of a prediction.

    The number of electrons is info.json's ``occupation``, else that of the model's training set
    for this composition, else counted on DFT's own Hamiltonian where that is in ``source``.

    Args:
        prediction: H of all edges.
        model: which made it.
        source: folder of the structure, or a structure file.
        target: folder that is written; S is looked for in both.
        overlap: S, where it is at hand.

    Returns:
        The level, or why there is none; nothing is raised for what is merely unknown.
    """
    structure = prediction.structure
    spin = 2 if model.targets.basis.spinful else 1
    size = int(structure.orbital_counts.sum()) * spin
    electrons, of = known_electrons(structure, model)
    if size > MOST_ORBITALS:
        return PredictedLevel(
            None, electrons, f"not counted: {size} orbitals, more than {MOST_ORBITALS}"
        )
    places = [f for f in (source, target) if f.is_dir() and folder_format(f) is not None]
    try:
        places = [f for f in places if has_matrix(f, "overlap")]
        if overlap is None and not places:
            return PredictedLevel(None, electrons, "not counted: there are no overlaps")
        if overlap is None:
            overlap = read_matrix(places[0], "overlap", structure)
        if electrons is None:
            electrons, of = _dft_electrons(source), "counted on DFT's Hamiltonian"
        if electrons is None:
            return PredictedLevel(
                None,
                None,
                "not counted: the number of electrons is unknown (no 'occupation' in info.json, "
                "and no structure of this composition in the model's training set)",
            )
        return _count(prediction, overlap, electrons, of)
    except GFormerError as error:
        return PredictedLevel(None, electrons, f"not counted: {error}")


def _count(
    prediction: Prediction, overlap: BlockMatrix, electrons: float, electrons_source: str
) -> PredictedLevel:
    """Fill the bands of a prediction with electrons.

    Args:
        prediction: H of all edges.
        overlap: S, spinless.
        electrons: per cell.
        electrons_source: where their number comes from, for the note.
    """
    structure = dataclasses.replace(prediction.structure, info={})
    h = prediction.hamiltonian.hermitian()
    problem = BlochProblem(
        structure, h, overlap, label="prediction", source=structure.name, predicted=True
    )
    level = fermi_level(
        problem,
        electrons,
        spectrum=_spectrum(problem),
        electrons_source=electrons_source,
    )
    return PredictedLevel(level.energy_eV, electrons, level.source)


def _dft_electrons(source: pathlib.Path) -> float | None:
    """Electrons below the level of the DFT's own Hamiltonian; None where that is not there."""
    if not source.is_dir() or not has_matrix(source, "hamiltonian"):
        return None
    stated = stated_level(read_folder(source).info, "hamiltonian")
    if stated.energy_eV is None:
        return None
    problem = load(source, "hamiltonian")
    spectrum = _spectrum(problem)
    return whole_electrons(problem, spectrum, electrons_at(spectrum, stated.energy_eV))[0]
