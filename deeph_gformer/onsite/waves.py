r"""Electrostatic potentials of dipoles in a structure (Ewald, reciprocal part).

The potential at r_i of dipoles p_j whose charge is smeared by Gaussians of width σ is, in Gaussian
units,

.. math::
    \varphi_i = \sum_k w_k \sum_j (p_j \cdot k) \sin(k \cdot (r_i - r_j)),\qquad
    w_k = \frac{4\pi}{V k^2} e^{-\sigma^2 k^2 / 2} t_k

(the term k = 0 is none for dipoles). t_k cuts the interaction where a structure does not repeat, so
that images do not see each other and vacuum does not matter: Ismail-Beigi, Phys. Rev. B 73, 233103
(2006) for slabs; Rozzi et al., Phys. Rev. B 73, 205119 (2006) for chains and molecules. For them V
is the volume of a box of their own, wide enough for the cut interaction.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..io.periodicity import periods
from ..io.structure import Structure

if TYPE_CHECKING:
    from ..runtime.communicator import Communicator

__all__ = ["SMEARING", "Waves", "lattice_waves", "potentials"]

#: σ, Å: neighbours are further away.
SMEARING = 1.0
#: Waves beyond this many 1/σ are left out: exp(-18) of the largest.
_REACH = 6.0
#: Phases (atoms times waves) that are made at a time.
_AT_ONCE = 2**20


class Waves(NamedTuple):
    """Half of all waves, as k and -k give the same.

    Attributes:
        position: (N, 3), Å, atoms together where the structure does not repeat.
        vector: (K, 3), 1/Å (2π included).
        weight: (K,), twice w_k, 1/Å.
    """

    position: NDArray[np.float64]
    vector: NDArray[np.float64]
    weight: NDArray[np.float64]

    def potentials(self, dipoles: NDArray[np.float64]) -> NDArray[np.float64]:
        """Potentials of the atoms in the field of all others.

        Args:
            dipoles: (N, C, 3), of each atom in each of C channels, p.

        Returns:
            (N, C), p/Å².
        """
        atoms, channels, _ = dipoles.shape
        total, flat = np.zeros((atoms, channels)), dipoles.reshape(atoms, -1)
        step = max(1, _AT_ONCE // max(1, atoms))
        for start in range(0, len(self.vector), step):
            k = self.vector[start : start + step]
            phase = self.position @ k.T
            cos, sin = np.cos(phase), np.sin(phase)  # (N, K)
            even, odd = (
                np.einsum("kcx,kx->kc", (wave.T @ flat).reshape(len(k), channels, 3), k)
                * self.weight[start : start + step, None]
                for wave in (cos, sin)
            )
            total += sin @ even - cos @ odd
        return total


def potentials(
    structure: Structure,
    keys: NDArray[np.int64],
    piece: NDArray[np.int64],
    dipoles: NDArray[np.float64],
    comm: Communicator | None = None,
) -> NDArray[np.float64]:
    """Potentials of all atoms in the field of the others of their piece.

    Args:
        structure: the atoms.
        keys: (E, 5), Rx Ry Rz i j, 0-based: blocks that tell how they repeat.
        piece: (N,), see :func:`..io.periodicity.piece_of`; pieces do not feel each other.
        dipoles: (N, C, 3).
        comm: processes that share the work; all give and get all atoms. Default: one.

    Returns:
        (N, C), p/Å².
    """
    rank, size = (0, 1) if comm is None else (comm.rank, comm.size)
    total = np.zeros(dipoles.shape[:2])
    for number in range(int(piece.max(initial=-1)) + 1):
        atoms = np.flatnonzero(piece == number)
        if not dipoles[atoms].any():  # an atom that is alone
            continue
        own = keys[piece[keys[:, 3]] == number]
        own = np.concatenate([own[:, :3], np.searchsorted(atoms, own[:, 3:])], axis=1)
        waves = lattice_waves(structure.lattice, structure.positions[atoms], own)
        mine = slice(rank, None, size)
        waves = waves._replace(vector=waves.vector[mine], weight=waves.weight[mine])
        total[atoms] = waves.potentials(dipoles[atoms])
    return total if comm is None or size == 1 else np.sum(comm.objects(total), axis=0)


def lattice_waves(
    lattice: NDArray[np.float64], positions: NDArray[np.float64], keys: NDArray[np.int64]
) -> Waves:
    """The waves of atoms that blocks connect.

    Args:
        lattice: (3, 3), rows, Å.
        positions: (N, 3), Å.
        keys: (E, 5), Rx Ry Rz i j, 0-based: blocks that tell how they repeat
            (:func:`..io.periodicity.periods`).
    """
    basis, shifts = periods(keys, len(positions))
    repeats, together = basis @ lattice, positions + shifts @ lattice
    box, width = _box(repeats, together)
    reciprocal = np.asarray(2 * np.pi * np.linalg.inv(box).T, dtype=np.float64)
    vectors = _half_sphere(reciprocal, _REACH / SMEARING)
    square = (vectors**2).sum(axis=1)
    weight = 4 * np.pi / abs(np.linalg.det(box)) * np.exp(-square * SMEARING**2 / 2) / square
    return Waves(together, vectors, 2 * weight * _cut(vectors, repeats, width))


def _box(
    repeats: NDArray[np.float64], position: NDArray[np.float64]
) -> tuple[NDArray[np.float64], float]:
    """Lattice vectors (3, 3) of the waves, and the length of the cut, Å.

    Twice the length fits along each direction that does not repeat.

    Args:
        repeats: (n, 3), vectors along which atoms repeat, Å.
        position: (N, 3), Å.
    """
    if len(repeats) == 3:
        return repeats, np.inf
    across = position - position @ np.linalg.pinv(repeats) @ repeats if len(repeats) else position
    centre = (across.max(axis=0) + across.min(axis=0)) / 2
    width = 2 * float(np.linalg.norm(across - centre, axis=1).max()) + 2 * _REACH * SMEARING
    # orthonormal vectors that complete those that repeat
    others = np.linalg.svd(repeats)[2][len(repeats) :] if len(repeats) else np.eye(3)
    return np.concatenate([repeats, 2 * width * others]), width


def _half_sphere(reciprocal: NDArray[np.float64], radius: float) -> NDArray[np.float64]:
    """(K, 3), 1/Å: integer combinations of the rows within a radius, one of each k and -k."""
    inverse = np.linalg.inv(reciprocal)
    reach = np.floor(radius * np.linalg.norm(inverse, axis=0) + 1e-9).astype(int)
    first = np.arange(0, reach[0] + 1)
    rest = [np.arange(-n, n + 1) for n in reach[1:]]
    found = np.stack(np.meshgrid(first, *rest, indexing="ij"), axis=-1).reshape(-1, 3)
    a, b, c = found.T
    found = found[(a > 0) | ((a == 0) & ((b > 0) | ((b == 0) & (c > 0))))]
    vectors = found @ reciprocal
    return np.asarray(vectors[(vectors**2).sum(axis=1) < radius**2])


def _cut(
    vectors: NDArray[np.float64], plane: NDArray[np.float64], width: float
) -> NDArray[np.float64]:
    """t_k of waves (K, 3), with the lattice vectors that repeat (n, 3), and the length of the
    cut, Å."""
    from scipy.special import j0, j1, k0, k1

    if len(plane) == 3:
        return np.ones(len(vectors))
    along = vectors @ np.linalg.pinv(plane) @ plane if len(plane) else np.zeros_like(vectors)
    g = np.linalg.norm(along, axis=1) * width
    q = np.linalg.norm(vectors - along, axis=1) * width
    if len(plane) == 2:
        return np.asarray(1 - np.exp(-g) * np.cos(q))
    if len(plane) == 0:
        return np.asarray(1 - np.cos(q))
    safe = np.where(g > 0, g, 1.0)
    repeating = 1 + q * j1(q) * k0(safe) - g * j0(q) * k1(safe)
    return np.asarray(np.where(g > 0, repeating, 1 - j0(q) - q * np.log(width) * j1(q)))
