"""Overlaps <u_mk | u_nk'> of the filled states at neighbouring k, in a non-orthogonal basis.

With psi_n = sum_R e^(2 pi i k.R) sum_mu c_mu phi_mu(r - R) and q = k' - k

    <u_mk | u_nk'> = c_m† sum_R e^(i (k + q/2).R) e^(-i q.(tau_mu + tau_nu) / 2)
                     [S(R) - i q.(r(R) - (tau_mu + tau_nu + R) / 2 S(R))] c_n  +  O(q²),

symmetric about the middle of the step, so that a closed loop is right to second order in its steps.
Without a position matrix r(R) the second term is left out (the atom-position approximation).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
import scipy.linalg
from numpy.typing import ArrayLike, NDArray

from ...errors import ConfigError, DataError
from ...io import BlockMatrix
from ...io.blocks import format_key
from ..bloch import BlochProblem, bloch_phases
from ..cell_sums import BlochSum, bloch_sums
from ..solve import not_definite

__all__ = ["ATOM_POSITIONS", "POSITION_MATRIX", "Links"]

POSITION_MATRIX = "position matrix"
ATOM_POSITIONS = "atom-position approximation"
EQUAL_GAP_EV = 1e-6
"""Gaps so near are equal: k-points that symmetry relates differ by rounding."""
SMALLEST_GAP_EV = 1e-4
"""Filled and empty bands nearer than this cannot be told apart."""
_KEPT = 400
"""k-points whose states are remembered."""


class Links:
    """Overlaps of filled states.

    Attributes:
        problem: the Hamiltonian.
        filled: number of filled bands.
        method: :data:`POSITION_MATRIX` or :data:`ATOM_POSITIONS`.
        smallest_gap_eV: between the filled and the empty bands, over the k-points met so far.
        smallest_gap_k: where it was, fractional; of equal ones the first in lexical order.
        smallest_gap_points: how many k-points share it, within :data:`EQUAL_GAP_EV`.
        top_eV: highest filled energy met so far.
        bottom_eV: lowest empty energy met so far.
    """

    def __init__(
        self,
        problem: BlochProblem,
        filled: int,
        positions: Sequence[BlockMatrix] | None = None,
    ) -> None:
        """Prepare the sums over cells.

        Args:
            problem: the Hamiltonian.
            filled: bands filled at every k.
            positions: x, y and z of <i, 0 | r | j, R>, Å, spinless, origin that of the structure.

        Raises:
            ConfigError: no filled, or no empty band.
            DataError: the position matrix has other shapes than the overlap.
        """
        if not 0 < filled < problem.size:
            raise ConfigError(
                f"{filled} filled bands of {problem.source}, which has {problem.size}: "
                "a filled and an empty one are needed"
            )
        self.problem, self.filled = problem, filled
        self.method = ATOM_POSITIONS if positions is None else POSITION_MATRIX
        self.smallest_gap_eV = np.inf
        self._smallest: list[tuple[tuple[float, ...], float]] = []
        self.top_eV, self.bottom_eV = -np.inf, np.inf
        self._orbital_positions = problem.structure.positions[problem.atom_of_orbital]  # (n, 3)
        self._reciprocal = problem.reciprocal
        self._overlap = problem._sums[1]
        self._rest = None if positions is None else position_rest(problem, positions)
        self._states: OrderedDict[bytes, NDArray[np.number]] = OrderedDict()

    def states(self, k: ArrayLike) -> NDArray[np.number]:
        """(n, filled), filled states at k (fractional), the same at equivalent k.

        Raises:
            ConfigError: filled and empty bands touch.
            DataError: S is not positive definite.
        """
        point = np.round(np.asarray(k, dtype=float) % 1.0, 12) % 1.0
        key = point.tobytes()
        if key in self._states:
            self._states.move_to_end(key)
            return self._states[key]
        h, s = self.problem.at(point)
        where = f"{self.problem.source}, k = {np.round(point, 5).tolist()}"
        try:
            energies, vectors = scipy.linalg.eigh(h, s, subset_by_index=[0, self.filled])
        except scipy.linalg.LinAlgError as error:
            raise DataError(not_definite(where, str(error))) from None
        gap = float(energies[self.filled] - energies[self.filled - 1])
        if gap < SMALLEST_GAP_EV:
            raise ConfigError(
                f"{where}: band {self.filled} (filled) and the next one are {gap * 1e3:.2g} meV "
                "apart: a metal, or a wrong number of electrons; no invariant of the filled bands"
            )
        self._note_gap(gap, point)
        self.top_eV = max(self.top_eV, float(energies[self.filled - 1]))
        self.bottom_eV = min(self.bottom_eV, float(energies[self.filled]))
        self._states[key] = vectors[:, : self.filled]
        if len(self._states) > _KEPT:
            self._states.popitem(last=False)
        return self._states[key]

    def _note_gap(self, gap: float, point: NDArray[np.float64]) -> None:
        if gap > self.smallest_gap_eV + EQUAL_GAP_EV:
            return
        self.smallest_gap_eV = min(gap, self.smallest_gap_eV)
        place = tuple(np.round(point, 9).tolist())
        met = {**dict(self._smallest), place: gap}
        limit = self.smallest_gap_eV + EQUAL_GAP_EV
        self._smallest = sorted((k, value) for k, value in met.items() if value <= limit)

    @property
    def smallest_gap_k(self) -> NDArray[np.float64]:
        """See the class."""
        return np.array(self._smallest[0][0]) if self._smallest else np.zeros(3)

    @property
    def smallest_gap_points(self) -> int:
        """See the class."""
        return len(self._smallest)

    def between(self, start: ArrayLike, end: ArrayLike) -> NDArray[np.complex128]:
        """(filled, filled), <u_m(start) | u_n(end)>; k fractional, not reduced."""
        return self.between_and_first_order(start, end)[0]

    def between_and_first_order(
        self, start: ArrayLike, end: ArrayLike
    ) -> tuple[NDArray[np.complex128], float]:
        """:meth:`between`, and the norm of the position matrix' part of it.

        What is left out of the overlap is about half the square of that norm.
        """
        k1, k2 = np.asarray(start, dtype=float), np.asarray(end, dtype=float)
        q = (k2 - k1) @ self._reciprocal  # 1/Å
        phase = np.exp(-0.5j * (self._orbital_positions @ q))[:, None]
        left, right = self.states(k1) * phase.conj(), self.states(k2) * phase
        overlap = left.conj().T @ (_at(self._overlap, (k1 + k2) / 2) @ right)
        if self._rest is None:
            return overlap, 0.0
        along = np.zeros((len(phase), len(phase)), dtype=complex)
        for axis in range(3):
            along -= 1j * q[axis] * _at(self._rest[axis], (k1 + k2) / 2)
        first_order = left.conj().T @ (along @ right)
        return overlap + first_order, float(np.linalg.norm(first_order, 2))


def _at(sums: BlochSum, k: NDArray[np.float64]) -> NDArray[np.number]:
    """Dense M(k) of a sum over cells."""
    return sums.dense(bloch_phases(sums.cells, k))


def position_rest(problem: BlochProblem, positions: Sequence[BlockMatrix]) -> list[BlochSum]:
    """Sums of r(R) - (tau_i + tau_j + R) / 2 S(R): what the atom-position approximation leaves out.

    Args:
        problem: gives S.
        positions: x, y and z, Å.

    Raises:
        DataError: blocks or shapes differ from those of S.
    """
    from ...io.blocks import match_keys

    crystal, s = problem.structure, problem.s
    rests = []
    for axis, matrix in enumerate(positions):
        place = match_keys(matrix.keys, s.keys)
        blocks = []
        for e, (key, block) in enumerate(matrix):
            i, j = key[3], key[4]
            if block.shape != (crystal.orbital_counts[i], crystal.orbital_counts[j]):
                raise DataError(
                    f"{problem.source}: block {format_key(matrix.keys[e])} of the position "
                    f"matrix has "
                    f"shape {block.shape}, which does not fit the overlap"
                )
            end = crystal.positions[j, axis] + np.dot(key[:3], crystal.lattice[:, axis])
            middle = (crystal.positions[i, axis] + end) / 2
            overlap = s.block(int(place[e])) if place[e] >= 0 else 0.0
            blocks.append(block - middle * overlap)
        rests.append(BlockMatrix.from_blocks(matrix.keys, blocks))
    return bloch_sums(tuple(rests), crystal.orbital_counts, problem.spin, problem.spin == 2)
