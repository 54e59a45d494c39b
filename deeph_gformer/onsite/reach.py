r"""How far a structure is from those that a linear model of levels was fitted to.

A linear function goes on without bound, so what is told is where it is no longer known. With x, the
features of an atom less the means that levels are compared without, and X those of all training
atoms,

.. math::
    h = x^T (X^T X + \lambda)^{-1} x

is the variance of what ridge regression gives there, over that of the levels' noise (leverage). The
unit of :math:`\sqrt h` is the largest one of a training structure that is left out of X.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..io.blocks import onsite_keys
from ..io.periodicity import coupling, skeleton
from ..io.structure import Structure

if TYPE_CHECKING:
    from ..runtime.communicator import Communicator

__all__ = ["Reach", "furthest_bond", "leverage"]

#: Of :func:`furthest_bond`, Å.
_STEP = 0.005


class Reach(NamedTuple):
    """What the training and validation structures of a fit tell.

    Attributes:
        factor: (F, F), lower triangle: the length of ``factor @ x`` is sqrt(h), 1 for the training
            atom that is furthest from the other structures.
        apart: the largest :func:`furthest_bond` of a training structure, Å; inf: not known.
        shift: the largest rms shift of the levels of a validation structure, eV; inf: not known.
    """

    factor: NDArray[np.float64]
    apart: float = math.inf
    shift: float = math.inf

    def distances(self, features: NDArray[np.float64]) -> NDArray[np.float64]:
        """(N,), sqrt(h) of atoms with these x (N, F)."""
        return np.asarray(np.linalg.norm(features @ self.factor.T, axis=1))

    def to_json(self) -> dict[str, Any]:
        """Five digits, the lower triangle; None for inf."""
        rows = [[float(f"{v:.5g}") for v in row[: n + 1]] for n, row in enumerate(self.factor)]
        known = {name: getattr(self, name) for name in ("apart", "shift")}
        return {
            "factor": rows,
            **{k: float(f"{v:.5g}") if math.isfinite(v) else None for k, v in known.items()},
        }

    @classmethod
    def from_json(cls, table: Any, size: int) -> Reach:
        """What :meth:`to_json` made, for ``size`` features.

        Raises:
            ValueError, TypeError, KeyError: it is something else.
        """
        rows = table["factor"]
        if len(rows) != size or any(len(row) != n for n, row in enumerate(rows, 1)):
            raise ValueError("'reach' is no triangle of the features")
        factor = np.zeros((size, size))
        factor[np.tril_indices(size)] = [float(v) for row in rows for v in row]
        apart, shift = (
            math.inf if table[k] is None else float(table[k]) for k in ("apart", "shift")
        )
        if not np.isfinite(factor).all() or not min(apart, shift) > 0:
            raise ValueError("'reach' has a number that is out of range")
        return cls(factor, apart, shift)


def leverage(parts: Sequence[NDArray[np.float64]], ridge: float) -> Reach:
    """The reach of training structures, with what :func:`.fit.fit_levels` says of features.

    Args:
        parts: x (n, F) of the atoms of each structure.
        ridge: λ, for features of unit spread.
    """
    scale = np.concatenate(parts).std(axis=0)
    used = scale > 1e-6 * scale.max(initial=0.0)
    scaled = [x[:, used] / scale[used] for x in parts]
    squares = [x.T @ x for x in scaled]
    whole = np.sum(squares, axis=0) + ridge * np.eye(int(used.sum()))
    furthest = [
        float((x * np.linalg.solve(whole - own, x.T).T).sum(axis=1).max())
        for x, own in zip(scaled, squares, strict=True)
    ]
    inverse = np.linalg.inv(np.linalg.cholesky(whole)) / math.sqrt(max(furthest))
    factor = np.zeros((len(scale), len(scale)))
    factor[np.ix_(used, used)] = inverse / scale[used]
    return Reach(factor)


def furthest_bond(
    structure: Structure,
    keys: NDArray[np.int64],
    cutoff: float,
    comm: Communicator | None = None,
    enough: float = 0.0,
) -> float:
    """The length of the longest bond without which a structure would fall apart, Å.

    Bonds up to it connect all atoms, and repeat in as many directions, as bonds within the cutoff
    do. Between layers it is how far they are from each other.

    Args:
        structure: the atoms.
        keys: (E, 5), Rx Ry Rz i j, 0-based, of this process's atoms.
        cutoff: Å.
        comm: processes that share the structure; default: one.
        enough: Å; shorter lengths are not told from this one.

    Returns:
        It, up to 0.005 Å too much; inf where bonds within the cutoff leave parts.
    """
    keys = keys[~onsite_keys(keys)]
    length = np.linalg.norm(structure.edge_vectors(keys), axis=1)

    def holds(reach: float) -> tuple[int, int]:
        """Parts, and directions in which they repeat, of bonds up to a length."""
        own = keys[length < reach]
        if comm is not None and comm.size > 1:
            own = np.concatenate(comm.objects(skeleton(own, len(structure))))
        found = coupling(own, len(structure))
        return found.pieces, found.rank

    wanted = holds(cutoff)
    if wanted[0] > 1:
        return math.inf
    if holds(enough) == wanted:
        return enough
    low, high = min(enough, cutoff), cutoff
    while high - low > _STEP:
        middle = (low + high) / 2
        low, high = (low, middle) if holds(middle) == wanted else (middle, high)
    return high
