r"""What an atom's levels are a linear function of.

With smooth radial functions B_c and the elements Z of an edge's two atoms,

.. math::
    g_i^{Z_i Z c} = \sum_{j: Z_j = Z} B_c(d_{ij}),\qquad
    p_i^{Z_i Z c} = \sum_{j: Z_j = Z} B_c(d_{ij})\, \hat r_{ij}

are its surroundings and the dipoles of its bonds; features are g, and the potential of all dipoles
p at the atom (:mod:`.waves`). All are smooth, and the same in every description of a crystal.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from ..io.blocks import onsite_keys
from ..io.periodicity import periods, piece_of, skeleton
from ..io.structure import Structure
from ..overlap.neighbours import symbol
from .waves import potentials

if TYPE_CHECKING:
    from ..runtime.communicator import Communicator

__all__ = ["Radial", "Surroundings", "onsite_features", "require_elements"]


class Radial(NamedTuple):
    """Gaussians that fade out.

    Attributes:
        cutoff: where they are zero, Å.
        first: centre of the first one, Å.
        spread: from the first centre to the last one, Å.
        number: how many; w of exp(-((d - c) / w)²) is the distance of two centres.
    """

    cutoff: float
    first: float
    spread: float
    number: int

    @property
    def centres(self) -> NDArray[np.float64]:
        """(number,), Å."""
        return np.linspace(self.first, self.first + self.spread, self.number)

    @property
    def width(self) -> float:
        """w, Å."""
        return self.spread / (self.number - 1)

    def __call__(self, distance: NDArray[np.float64]) -> NDArray[np.float64]:
        """B_c(d), (E, number), of distances (E,), Å."""
        inside = np.minimum(distance / self.cutoff, 1.0)
        fade = (1 + np.cos(np.pi * inside)) / 2
        return np.asarray(
            np.exp(-(((distance[:, None] - self.centres) / self.width) ** 2)) * fade[:, None]
        )


class Surroundings(NamedTuple):
    """What is known of the atoms of a structure.

    Attributes:
        features: (N, F): g, then potentials; F = 2 n² radial functions.
        piece: (N,), see :func:`..io.periodicity.piece_of`, of bonds within the cutoff.
        rank: in how many directions atoms repeat by these bonds.
    """

    features: NDArray[np.float64]
    piece: NDArray[np.int64]
    rank: int


def onsite_features(
    structure: Structure,
    keys: NDArray[np.int64],
    elements: Sequence[int],
    radial: Radial,
    comm: Communicator | None = None,
) -> Surroundings:
    """Features of all atoms.

    Args:
        structure: the atoms.
        keys: (E, 5), Rx Ry Rz i j, 0-based, of this process's atoms, at least of all pairs within
            the cutoff.
        elements: atomic numbers that the model knows, n.
        radial: of the sums.
        comm: processes that share the structure; default: one.

    Raises:
        DataError: an element is not among them.
    """
    require_elements(structure, elements)
    keys = keys[np.linalg.norm(structure.edge_vectors(keys), axis=1) < radial.cutoff]
    around, dipoles = _sums(structure, keys, elements, radial)
    if comm is not None and comm.size > 1:
        parts = comm.objects((around, dipoles, skeleton(keys, len(structure))))
        around, dipoles = (np.sum([part[n] for part in parts], axis=0) for n in (0, 1))
        keys = np.concatenate([part[2] for part in parts])
    piece = piece_of(keys, len(structure))
    felt = potentials(structure, keys, piece, dipoles, comm)
    rank = len(periods(keys, len(structure))[0])
    return Surroundings(np.concatenate([around, felt], axis=1), piece, rank)


def require_elements(structure: Structure, elements: Sequence[int]) -> None:
    """Raise unless a model of levels knows all elements.

    Args:
        structure: the atoms.
        elements: atomic numbers that it knows.

    Raises:
        DataError: it does not.
    """
    if unknown := sorted(set(structure.numbers.tolist()) - set(elements)):
        raise DataError(
            f"{structure.name}: has {', '.join(map(symbol, unknown))}, which no structure has that "
            "the on-site levels were fitted to; fit them again with such structures "
            "('deeph-gformer onsite')"
        )


def _sums(
    structure: Structure, keys: NDArray[np.int64], elements: Sequence[int], radial: Radial
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """g (N, C) and p (N, C, 3) from these edges, all within the cutoff; C = n² number."""
    keys = keys[~onsite_keys(keys)]
    vectors = structure.edge_vectors(keys)
    distance = np.linalg.norm(vectors, axis=1)
    order = {z: n for n, z in enumerate(elements)}
    kinds = np.array([order[z] for z in structure.numbers.tolist()], dtype=np.int64)
    first, second = keys[:, 3], keys[:, 4]
    values = radial(distance)  # (E, number)
    pair = kinds[first] * len(elements) + kinds[second]
    shape = len(structure), len(elements) ** 2, radial.number
    around, dipoles = np.zeros(shape), np.zeros((*shape, 3))
    np.add.at(around, (first, pair), values)
    np.add.at(dipoles, (first, pair), values[:, :, None] * (vectors / distance[:, None])[:, None])
    return around.reshape(len(structure), -1), dipoles.reshape(len(structure), -1, 3)
