"""How far a prediction depends on how the crystal is written down, and how smooth it is in the
positions.

Of one structure, predicted again in other descriptions (:mod:`.redescribe`):

* *eigenvalues*: the largest difference at matching k, over the states that DFT has within 3 eV of
  its Fermi level (found by counting, so that no energy zero enters), at two k-points;
* *blocks*: the largest difference of a matrix element;
* *smoothness*: the largest second difference of a matrix element, while one atom goes through the
  nearest place where two of its neighbours change their order of distance, in steps of
  :data:`STEP_ANGSTROM`.

Cost: about eleven predictions of the structure (a doubled cell counts twice), and ten eigenproblems
of its size and two of the doubled one; eigenvalues of problems beyond 2600 orbitals are left out.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..bands.bloch import BlochProblem
from ..bands.loading import info_fermi_eV
from ..bands.solve import solve_dense
from ..errors import DataError
from ..io.blocks import BlockMatrix
from ..io.structure import Structure
from ..pipeline import HamiltonianModel, Prediction
from .redescribe import Description, move_by_lattice, relattice, renumber, supercell
from .states import MOST_ORBITALS, window_of

__all__ = ["Invariance", "descriptions", "invariance", "largest", "crossing"]

#: Step of the scan.
STEP_ANGSTROM = 1e-3
#: Points of the scan, the crossing in the middle between two of them.
POINTS = 6
#: How far an atom may be moved to where the scan is.
NEARBY_ANGSTROM = 0.02
#: Γ, and a point without symmetry.
KPOINTS = ((0.0, 0.0, 0.0), (0.21, 0.13, 0.07))


@dataclasses.dataclass(frozen=True)
class Invariance:
    """Differences in meV, by kind of description.

    Attributes:
        eigenvalues: of both stages; None where there is no S, or the problem is too large.
        blocks: largest matrix element, both stages.
        stage1_blocks: the same of stage 1.
        smoothness: largest second difference, both stages.
        stage1_smoothness: the same of stage 1.
        notes: what was left out, and why.
    """

    eigenvalues: dict[str, float | None]
    blocks: dict[str, float]
    stage1_blocks: dict[str, float]
    smoothness: float
    stage1_smoothness: float
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Keys of one structure's record."""
        return {
            "invariance_meV": self.eigenvalues,
            "invariance_blocks_meV": self.blocks,
            "stage1_invariance_blocks_meV": self.stage1_blocks,
            "smoothness_meV": {
                "step_angstrom": STEP_ANGSTROM,
                "stage1": self.stage1_smoothness,
                "refined": self.smoothness,
            },
            "invariance_notes": list(self.notes),
        }


def descriptions(
    structure: Structure, keys: NDArray[np.int64], seed: int
) -> dict[str, Description]:
    """One random description of each kind.

    Args:
        structure: the crystal.
        keys: (E, 5), its edges; they tell the periodic directions.
        seed: of the random numbers.
    """
    rng, atoms = np.random.default_rng(seed), len(structure)
    periodic = np.flatnonzero((keys[:, :3] != 0).any(axis=0))
    repeats = np.ones(3, dtype=np.int64)
    if len(periodic):
        repeats[rng.choice(periodic)] = 2
    vectors = -np.eye(3, dtype=np.int64)  # -a1, -a2, -a3: the order of all keys turns round
    if len(periodic) > 1:
        a, b = rng.choice(periodic, 2, replace=False)
        vectors[a, b] = rng.choice([-1, 1])
    return {
        "supercell": supercell(atoms, repeats),
        "lattice_vectors": relattice(atoms, vectors),
        "renumbered": renumber(rng.permutation(atoms)),
        "moved_by_lattice_vectors": move_by_lattice(rng.integers(-2, 3, (atoms, 3))),
    }


def crossing(
    structure: Structure, keys: NDArray[np.int64]
) -> tuple[int, NDArray[np.float64], float]:
    """A place nearby where two near neighbours of an atom change their order of distance.

    Of all such places within :data:`NEARBY_ANGSTROM` (else of all) it is that of the closest
    neighbours.

    Args:
        structure: the crystal.
        keys: (E, 5), its edges in canonical order.

    Returns:
        (atom, direction (3,), distance along it in Å).
    """
    best: tuple[int, NDArray[np.float64], float] = (0, np.array([1.0, 0.0, 0.0]), 0.0)
    nearest: tuple[float, float] = (np.inf, np.inf)
    vectors = structure.edge_vectors(keys)
    for atom in range(len(structure)):
        own = np.flatnonzero(keys[:, 3] == atom)
        length = np.linalg.norm(vectors[own], axis=1)
        own, length = own[length > 1e-6], length[length > 1e-6]
        order = np.argsort(length, kind="stable")
        own, length = own[order], length[order]
        # moving the atom moves its own images too: their distance does not change
        slope = np.where((keys[own, 4] == atom)[:, None], 0.0, -vectors[own] / length[:, None])
        change = np.diff(slope, axis=0)
        size = np.linalg.norm(change, axis=1)
        away = np.where(size > 0.3, np.diff(length) / np.maximum(size, 0.3), np.inf)
        rank = np.stack([np.maximum(away - NEARBY_ANGSTROM, 0.0), np.round(length[:-1], 6)])
        for n in np.lexsort(rank[::-1])[:1]:
            found = (float(rank[0, n]), float(rank[1, n]))
            if found < nearest and np.isfinite(away[n]):
                nearest, best = found, (atom, -change[n] / size[n], float(away[n]))
    return best


def _second_difference(matrices: list[NDArray[np.number]]) -> float:
    values = np.stack(matrices).astype(np.complex128)
    return float(np.abs(values[2:] - 2 * values[1:-1] + values[:-2]).max()) * 1e3


def _levels(problem: BlochProblem, k: NDArray[np.float64]) -> NDArray[np.float64]:
    return solve_dense(
        *problem.at(k), where=f"{problem.source}, k = {np.round(k, 4).tolist()}"
    ).energies


def _eigenvalues(
    new: Description,
    old: tuple[BlochProblem, BlochProblem],
    again: BlochProblem,
    fermi: float | None,
) -> float:
    """Largest difference of eigenvalues, meV.

    Args:
        new: the description.
        old: DFT and the prediction, as they were.
        again: the prediction in the new description.
        fermi: of DFT, eV; None: all states count.
    """
    worst = 0.0
    for k in KPOINTS:
        point = new.kpoint(k)
        dft, mine = (
            np.sort(np.concatenate([_levels(p, q) for q in new.unfolded(point)])) for p in old
        )
        ends = (0, len(dft))
        if fermi is not None:
            low, high = window_of(dft - fermi)
            ends = tuple(np.searchsorted(dft, [fermi + low, fermi + high]))
        theirs = _levels(again, point)
        worst = max(worst, float(np.abs(mine - theirs)[slice(*ends)].max(initial=0.0)) * 1e3)
    return worst


def invariance(
    model: HamiltonianModel,
    prediction: Prediction,
    truth: BlockMatrix,
    overlap: BlockMatrix | None,
    *,
    frames: int = 1,
    seed: int = 0,
) -> Invariance:
    """Predict a structure in other descriptions, and along a scan.

    Args:
        model: the model.
        prediction: of the structure as it is.
        truth: DFT's H, for the window of energies.
        overlap: S; None: no eigenvalues.
        frames: as at inference.
        seed: of the descriptions.

    Raises:
        ModelError: a prediction is not finite.
    """
    structure, keys = prediction.structure, prediction.hamiltonian.keys
    fermi = info_fermi_eV(structure)
    notes = [] if fermi is not None else ["no Fermi level in info.json: all states count"]
    if overlap is None:
        notes = ["no overlaps: no eigenvalues"]
    eigenvalues: dict[str, float | None] = {}
    blocks: dict[str, float] = {}
    stage1: dict[str, float] = {}
    for kind, new in descriptions(structure, keys, seed).items():
        there = new.structure(structure)
        s = None if overlap is None else new.blocks(overlap)
        again = _predicted(model, there, new.keys(keys)[0], frames, s)
        for target, mine, theirs in (
            (blocks, prediction.hamiltonian, again.hamiltonian),
            (stage1, prediction.stage1, again.stage1),
        ):
            gap = new.blocks(mine).values - theirs.values
            target[kind] = float(np.abs(gap).max(initial=0.0)) * 1e3
        eigenvalues[kind] = None
        if overlap is None:
            continue
        problem = BlochProblem(there, again.hamiltonian, new.blocks(overlap), source=structure.name)
        if problem.size > MOST_ORBITALS:
            notes.append(f"{kind}: {problem.size} orbitals, more than {MOST_ORBITALS}")
            continue
        old = (
            BlochProblem(structure, truth, overlap, source=structure.name),
            BlochProblem(structure, prediction.hamiltonian, overlap, source=structure.name),
        )
        try:
            eigenvalues[kind] = _eigenvalues(new, old, problem, fermi)
        except DataError as error:  # S(k) is not positive definite
            notes.append(f"{kind}: {error}")
    scan = _smoothness(model, structure, keys, frames, notes)
    return Invariance(eigenvalues, blocks, stage1, *scan, tuple(notes))


def _predicted(
    model: HamiltonianModel,
    structure: Structure,
    keys: NDArray[np.int64],
    frames: int,
    s: BlockMatrix | None = None,
) -> Prediction:
    """Without a word on what is unusual: that was said of the structure itself.

    Args:
        model: both stages.
        structure: the atoms.
        keys: (E, 5), its edges.
        frames: as at inference.
        s: its S, where it is known.
    """
    item = model.read(structure, keys=keys)._replace(s=s)
    return next(model.predict_graphs([item], frames=frames))


def _smoothness(
    model: HamiltonianModel,
    structure: Structure,
    keys: NDArray[np.int64],
    frames: int,
    notes: list[str],
) -> tuple[float, float]:
    """Largest second difference of both stages and of stage 1, meV.

    On-site levels take part where the bundle has a table of overlaps; where not, ``notes`` says so.
    """
    try:
        return _scanned(model, structure, keys, frames)
    except DataError:
        if model.without_levels() is model:
            raise
        notes.append("smoothness is that of the networks, without on-site levels: no table of S")
        return _scanned(model.without_levels(), structure, keys, frames)


def _scanned(
    model: HamiltonianModel, structure: Structure, keys: NDArray[np.int64], frames: int
) -> tuple[float, float]:
    """:func:`_smoothness` of a model as it is."""
    atom, direction, distance = crossing(structure, keys)
    first, both = [], []
    for n in range(POINTS):
        positions = structure.positions.copy()
        positions[atom] += (distance + (n - (POINTS - 1) / 2) * STEP_ANGSTROM) * direction
        there = dataclasses.replace(structure, positions=positions)
        moved = _predicted(model, there, keys, frames)
        first.append(moved.stage1.values)
        both.append(moved.hamiltonian.values)
    return _second_difference(both), _second_difference(first)


def largest(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The worst of all structures, in the keys of :meth:`Invariance.to_json`."""
    out: dict[str, Any] = {}
    for key in ("invariance_meV", "invariance_blocks_meV", "stage1_invariance_blocks_meV"):
        found = {kind: [r[key][kind] for r in records] for kind in records[0][key]}
        out[key] = {
            kind: max((v for v in values if v is not None), default=None)
            for kind, values in found.items()
        }
    scans = [r["smoothness_meV"] for r in records]
    out["smoothness_meV"] = {name: max(s[name] for s in scans) for name in scans[0]}
    return out
