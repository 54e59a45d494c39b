"""What an error of H does to DFT's own states: the errors that bands see.

With DFT's eigenvectors C of a k-point, C† S C = 1 and C† H C = E, and a predicted H', the states p
within a window around the Fermi level are judged by the matrix D = C† H' C - E, without any
eigenproblem of the prediction:

* *first order*: D_pp is how far state p moves; mean |D_pp - μ| over states and k-points. μ = mean
  D_pp is the shift of the energy zero (H' - μS moves every D_pp by -μ and no other element).
  Degenerate states take the eigenvalues of their block of D.
* *ghost measure*: how far the states outside the window push into it, Σ_q of two-level repulsions
  (√(Δ² + 4|D_qp|²) - Δ) / 2 with Δ = |E_q - E_p|; it is |D_qp|² / Δ where the coupling is weak.
  Coefficients of states with a small eigenvalue of S are large, so an error of H that no average
  shows becomes a strong coupling, and the predicted bands have states where DFT has none.

Both are the same in every gauge. Torch-free.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..bands.bloch import BlochProblem
from ..bands.electrons import electron_number
from ..bands.fermi import fermi_level
from ..bands.kmesh import mesh_points, parse_mesh, shortest_mesh
from ..bands.solve import EDGE_EV, default_window, nearest_levels, solve_dense
from ..errors import ConfigError, DataError
from ..io.blocks import BlockMatrix
from .metric import Case, Scores

__all__ = [
    "DftStates",
    "KStates",
    "StateErrors",
    "block_errors",
    "dft_states",
    "States",
    "state_errors",
    "MOST_ORBITALS",
    "WINDOW_EV",
    "window_of",
]

#: States this close to the Fermi level count; where there are none, see :func:`window_of`.
WINDOW_EV = 3.0
#: Largest distance of k-points, 1/Å (2π included): a few points for the cells of training sets, Γ
#: for large ones.
SPACING = 0.6
#: Larger problems, spin included, are left out by ``evaluate`` and ``compare``: all eigenvectors
#: are needed.
MOST_ORBITALS = 2600
#: States closer than this are degenerate, eV.
DEGENERATE_EV = 1e-5


@dataclasses.dataclass(frozen=True)
class KStates:
    """DFT's states of one k-point.

    Attributes:
        k: (3,), fractional.
        weight: of the k-point.
        energies: (n,), ascending, eV.
        vectors: (n, n), columns are states, c† S c = 1.
        inside: (2,), first state of the window and first one above it.
    """

    k: NDArray[np.float64]
    weight: float
    energies: NDArray[np.float64]
    vectors: NDArray[np.number]
    inside: tuple[int, int]


@dataclasses.dataclass(frozen=True)
class DftStates:
    """DFT's states of one structure; made once, used for any number of predictions.

    Attributes:
        problem: DFT's H and S.
        points: those k-points that have states in the window.
        fermi_eV: the Fermi level.
        window_eV: (low, high), relative to it.
        left_out: k-points where S is not positive definite, and why, one sentence each.
    """

    problem: BlochProblem
    points: tuple[KStates, ...]
    fermi_eV: float
    window_eV: tuple[float, float]
    left_out: tuple[str, ...] = ()

    @property
    def nbytes(self) -> int:
        """Memory of the eigenvectors."""
        return sum(p.vectors.nbytes for p in self.points)


@dataclasses.dataclass(frozen=True)
class StateErrors:
    """Errors of DFT's states.

    Attributes:
        error_meV: mean |D_pp - μ|.
        ghost_meV: mean over states of the repulsion by states outside the window.
        mu_eV: mean D_pp, the shift of the energy zero.
        states: how many, over all k-points.
        kpoints: how many.
    """

    error_meV: float
    ghost_meV: float
    mu_eV: float
    states: int
    kpoints: int


def window_of(levels: NDArray[np.float64]) -> tuple[float, float]:
    """(low, high) eV: within :data:`WINDOW_EV`; where a gap leaves no level there, as far as 1 eV
    beyond its edges.

    Args:
        levels: of any shape, relative to the Fermi level, eV.
    """
    if (np.abs(levels) <= WINDOW_EV + EDGE_EV).any():
        return -WINDOW_EV, WINDOW_EV
    return default_window(levels, WINDOW_EV)


def dft_states(
    problem: BlochProblem,
    fermi_eV: float | None = None,
    *,
    window_eV: float | None = None,
    mesh: Sequence[int] | None = None,
    spacing: float = SPACING,
    shift: Sequence[float] = (0.0, 0.0, 0.0),
    memory_GiB: float = np.inf,
) -> DftStates:
    """Solve DFT's H at a few k-points.

    Args:
        problem: DFT's H and S.
        fermi_eV: middle of the window; default: what info.json says, its Fermi level or, where it
            states none, that of its number of electrons (``occupation``).
        window_eV: its half width; default: see :func:`window_of`.
        mesh: numbers of k-points; default: points no further apart than ``spacing``, along the
            shortest lattice vectors.
        spacing: 1/Å (2π included).
        shift: of the mesh from Γ, in steps of the mesh along periodic directions.
        memory_GiB: most that all eigenvectors may take.

    Raises:
        ConfigError: no Fermi level is known, the window is not positive, the mesh is none, or its
            states need too much memory.
        DataError: no state lies in the window, all states lie on one side of the Fermi level, or S
            is positive definite at no k-point.
    """
    fermi = problem.stated_fermi_eV if fermi_eV is None else fermi_eV
    if fermi is None:
        number = electron_number(problem.structure)
        if number is None:
            raise ConfigError(
                f"{problem.source}: info.json states no Fermi level and no number of electrons "
                "(occupation), so the window of states has no middle"
            )
        fermi = fermi_level(problem, number[0]).energy_eV
    if window_eV is not None and not 0 < window_eV < np.inf:
        raise ConfigError(f"window {window_eV:g} eV: it must be positive and finite")
    numbers, back = shortest_mesh(problem, spacing) if mesh is None else (mesh, np.eye(3))
    numbers = parse_mesh(numbers, problem)
    moved = np.where(problem.coupled, np.asarray(shift, dtype=float), 0.0)
    # k serves for -k where a prediction cannot break time reversal: H(R) is real
    halved = not np.iscomplexobj(problem.h.values) and not moved.any()
    kpoints, weights, _ = mesh_points(numbers, halved)
    kpoints = (kpoints + moved / np.array(numbers)) @ back
    need = len(kpoints) * problem.size**2 * np.dtype(complex).itemsize / 2**30
    if need > memory_GiB:
        raise ConfigError(
            f"{problem.source}: DFT's states at {len(kpoints)} k-points take {need:.3g} GiB while "
            f"they are made, more than training.states_memory = {memory_GiB:g}: use fewer k-points "
            "(training.states_spacing), or raise it"
        )
    solved, left_out = [], []
    for k, weight in zip(kpoints, weights, strict=True):
        where = f"{problem.source}, k = {np.round(k, 4).tolist()}"
        try:
            found = solve_dense(*problem.at(k), vectors=True, where=where)
        except DataError as error:
            left_out.append(str(error))
            continue
        if found.failure or found.vectors is None:
            left_out.append(f"{where}: {found.failure}")
            continue
        solved.append((k, float(weight), found.energies, found.vectors))
    if not solved:
        raise DataError(left_out[0])
    levels = np.concatenate([energies for _, _, energies, _ in solved]) - fermi
    one_sided = bool((levels > 0).all() or (levels < 0).all())
    far = window_eV is None and one_sided and np.abs(levels).min() > WINDOW_EV
    low, high = window_of(levels) if window_eV is None else (-window_eV, window_eV)
    points = []
    for k, weight, energies, vectors in solved:
        ends = [fermi + low - EDGE_EV, fermi + high + EDGE_EV]
        first, last = np.searchsorted(energies, ends).tolist()
        if last > first:
            points.append(KStates(k, weight, energies, vectors, (first, last)))
    if far or not points:
        reach = WINDOW_EV if window_eV is None else window_eV
        advice = "does the level belong to this Hamiltonian?"
        if not one_sided:
            advice = "take a wider window (training.states_window)"
        raise DataError(
            f"{problem.source}: no state lies within {reach:g} eV of the Fermi level {fermi:g} eV "
            f"at {len(kpoints)} k-points{nearest_levels(levels)} from it; {advice}"
        )
    return DftStates(problem, tuple(points), float(fermi), (low, high), tuple(left_out))


def _first_order(d: NDArray[np.number], energies: NDArray[np.float64]) -> NDArray[np.float64]:
    """Shifts of the states: the diagonal of D (w, w), and eigenvalues of degenerate blocks."""
    shifts = np.array(d.diagonal().real, dtype=np.float64)
    groups = np.split(
        np.arange(len(energies)), np.flatnonzero(np.diff(energies) > DEGENERATE_EV) + 1
    )
    for group in groups:
        if len(group) > 1:
            block = d[np.ix_(group, group)]
            shifts[group] = np.linalg.eigvalsh((block + block.conj().T) / 2)
    return shifts


def state_errors(states: DftStates, hamiltonian: BlockMatrix) -> StateErrors:
    """Errors of a predicted Hamiltonian in DFT's states.

    Args:
        states: of :func:`dft_states`.
        hamiltonian: predicted H of the same structure, in any gauge, eV; blocks that it lacks count
            as zero.

    Raises:
        DataError: it does not fit the structure.
    """
    reference = states.problem
    problem = BlochProblem(reference.structure, hamiltonian, reference.s, source=reference.source)
    if problem.spin != reference.spin:
        raise DataError(f"{reference.source}: one Hamiltonian is spin-doubled and the other is not")
    blocks = []
    for point in states.points:
        first, last = point.inside
        h, _ = problem.at(point.k)
        d = point.vectors.conj().T @ (h @ point.vectors[:, first:last])
        own = np.arange(last - first)
        d[first + own, own] = d[first + own, own] - point.energies[first:last]
        blocks.append(d)
    return block_errors(states.points, blocks)


def block_errors(points: Sequence[KStates], blocks: Sequence[NDArray[np.number]]) -> StateErrors:
    """Errors of DFT's states from the error of H in these states.

    Args:
        points: k-points with n states, w of them in the window.
        blocks: of each point, (n, w): columns of D = C† ΔH(k) C that belong to the window, eV.
    """
    shifts, pushes, weights = [], [], []
    for point, d in zip(points, blocks, strict=True):
        first, last = point.inside
        shifts.append(_first_order(d[first:last], point.energies[first:last]))
        rest = np.r_[0:first, last : len(point.energies)]
        coupling = np.abs(d[rest])
        gap = np.abs(point.energies[rest, None] - point.energies[None, first:last])
        pushes.append((np.sqrt(gap**2 + 4 * coupling**2) - gap).sum(axis=0) / 2)
        weights.append(np.full(last - first, point.weight))
    shift, push, weight = (np.concatenate(v) for v in (shifts, pushes, weights))
    mu = float(np.average(shift, weights=weight))
    return StateErrors(
        float(np.average(np.abs(shift - mu), weights=weight)) * 1e3,
        float(np.average(push, weights=weight)) * 1e3,
        mu,
        len(shift),
        len(points),
    )


class States:
    """:func:`state_errors` as a :class:`.metric.Metric`."""

    name = "states"
    labels = {
        "states_error_meV": f"states within {WINDOW_EV:g} eV, first order",
        "ghost_meV": "coupling to states outside",
    }

    def __call__(self, case: Case) -> Scores:
        """Errors of DFT's states near the Fermi level.

        Raises:
            GFormerError: there are no overlaps, no Fermi level or no states, or too many orbitals.
        """
        if case.problem is None:
            raise DataError("no overlaps")
        if case.problem.size > MOST_ORBITALS:
            raise ConfigError(f"{case.problem.size} orbitals, more than {MOST_ORBITALS}")
        known = dft_states(case.problem, case.fermi_eV)
        found = [state_errors(known, h) for h in case.predictions]
        values = {
            "states_error_meV": [f.error_meV for f in found],
            "ghost_meV": [f.ghost_meV for f in found],
        }
        notes = list(known.left_out)
        if known.window_eV != (-WINDOW_EV, WINDOW_EV):
            low, high = known.window_eV
            notes.append(
                f"no state lies within {WINDOW_EV:g} eV of the Fermi level, so those from "
                f"{low:.3g} to {high:.3g} eV are judged"
            )
        return Scores(values, notes, {"states": found[-1].states})
