"""Numerical atomic orbitals at points in space."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .basis import AtomicBasis
from .rotation import harmonics

if TYPE_CHECKING:
    from scipy.interpolate import CubicSpline

__all__ = ["OrbitalValues"]


class OrbitalValues:
    """R(r) Y_lm of every element, the radial functions as cubic splines.

    Attributes:
        reach: radius beyond which all orbitals of an element are zero, by atomic number, Å.
    """

    def __init__(self, bases: Iterable[AtomicBasis]) -> None:
        """Make the splines.

        Args:
            bases: one per element.
        """
        from scipy.interpolate import CubicSpline

        self._radial: dict[int, CubicSpline] = {}
        self._shells: dict[int, tuple[int, ...]] = {}
        self.reach: dict[int, float] = {}
        for basis in bases:
            radius = basis.radius * basis.bohr
            values = basis.orbitals.T * basis.bohr**-1.5  # (n, shells), Å^(-3/2)
            self._radial[basis.number] = CubicSpline(radius, values)
            self._shells[basis.number] = tuple(basis.shells)
            self.reach[basis.number] = min(basis.cutoff * basis.bohr, float(radius[-1]))

    def values(self, number: int, vectors: NDArray[np.float64]) -> NDArray[np.float64]:
        """Orbitals of one atom, in the legacy order.

        Args:
            number: atomic number.
            vectors: (P, 3), from the nucleus, Å.

        Returns:
            (P, n), Å^(-3/2).
        """
        shells = self._shells[number]
        result = np.zeros((len(vectors), sum(2 * l + 1 for l in shells)))
        distance = np.linalg.norm(vectors, axis=1)
        near = np.flatnonzero(distance < self.reach[number])
        radial = self._radial[number](distance[near])  # (P', shells)
        unit = vectors[near] / np.maximum(distance[near], 1e-12)[:, None]
        angular = {l: math.sqrt((2 * l + 1) / (4 * math.pi)) * harmonics(l, unit) for l in shells}
        start = 0
        for column, l in enumerate(shells):
            result[near, start : start + 2 * l + 1] = radial[:, column, None] * angular[l]
            start += 2 * l + 1
        return result
