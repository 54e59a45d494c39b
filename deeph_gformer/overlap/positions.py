"""Position matrices ``<i, 0 | r | j, R>`` from the radial functions of S.

A coordinate measured from the atom's own nucleus, times an orbital R(r) Y_lm, is a sum of orbitals
r R(r) Y_l'm' with l' = l ± 1. So the matrix of (r - r_i) is a two-centre overlap of these raised
and lowered orbitals with those of j, and r_i S makes it absolute: r counts from the origin of the
coordinates.

    r_ij(R) = r_i S_ij(R) + <i| r - r_i |j, R>,    r_ji(-R) = [r_ij(R) - R S_ij(R)]ᵀ
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from ..io.blocks import BlockMatrix, format_key, match_keys, onsite_keys, reverse_keys, sort_keys
from ..io.structure import Structure
from .basis import AtomicBasis, pair_table, transform, wave_numbers
from .rotation import ORDER, block_rotation, bond_rotation
from .twocentre import PairTable, Shells, TwoCentre, bond_functions, leading

__all__ = ["PositionTables", "coordinate_coupling", "raised"]

_CHUNK = 1_000  # blocks at a time


def real_harmonics(l: int, points: NDArray[np.float64]) -> NDArray[np.float64]:
    """(P, 2l+1) orthonormal real harmonics of unit vectors (P, 3), in ``ORDER``, for any l."""
    from scipy.special import lpmv

    polar, azimuth = points[:, 2], np.arctan2(points[:, 1], points[:, 0])
    columns = []
    for m in ORDER[l]:
        size = abs(m)
        norm = (2 * l + 1) / (4 * math.pi) * math.factorial(l - size) / math.factorial(l + size)
        part = (-1) ** size * math.sqrt(norm) * lpmv(size, l, polar)  # lpmv has Condon's phase
        if m:
            part = part * math.sqrt(2) * (np.cos(m * azimuth) if m > 0 else np.sin(size * azimuth))
        columns.append(part)
    return np.stack(columns, axis=1)


@functools.cache
def coordinate_coupling(l: int, other: int) -> NDArray[np.float64]:
    """(3, 2l+1, 2 other+1): c in ``x_a Y_lm / r = Σ c[a, m, m'] Y_other,m'``, other = l ± 1."""
    nodes, weights = np.polynomial.legendre.leggauss(l + other + 2)
    angles = 2 * math.pi * np.arange(2 * (l + other) + 4) / (2 * (l + other) + 4)
    z, phi = (a.ravel() for a in np.meshgrid(nodes, angles, indexing="ij"))
    flat = np.sqrt(1 - z**2)
    points = np.stack([flat * np.cos(phi), flat * np.sin(phi), z], axis=1)
    weight = np.repeat(weights, len(angles)) * 2 * math.pi / len(angles)
    first, second = real_harmonics(l, points), real_harmonics(other, points)
    return np.einsum("p,pa,pm,pn->amn", weight, points, first, second, optimize=True)


def raised(basis: AtomicBasis) -> tuple[AtomicBasis, NDArray[np.float64]]:
    """The orbitals r R(r) Y_l'm', and how coordinates times orbitals are made of them.

    Args:
        basis: of one element.

    Returns:
        The raised and lowered orbitals (radial parts in bohr^(-1/2)), and (3, n, n') coefficients.
    """
    shells: list[int] = []
    origin: list[int] = []
    for p, l in enumerate(basis.shells):
        for other in (l - 1, l + 1):
            if other >= 0:
                shells.append(other)
                origin.append(p)
    orbitals = basis.orbitals[origin] * basis.radius
    more = dataclasses.replace(basis, shells=tuple(shells), orbitals=orbitals)
    rows = np.concatenate([[0], np.cumsum([2 * l + 1 for l in basis.shells])])
    columns = np.concatenate([[0], np.cumsum([2 * l + 1 for l in shells])])
    coefficients = np.zeros((3, rows[-1], columns[-1]))
    for n, (p, other) in enumerate(zip(origin, shells, strict=True)):
        coefficients[:, rows[p] : rows[p + 1], columns[n] : columns[n + 1]] = coordinate_coupling(
            basis.shells[p], other
        )
    return more, coefficients


class PositionTables:
    """Two-centre functions of raised orbitals with plain ones, for every pair of elements.

    Args:
        bases: one per element.
        overlap: S of the same orbitals.
    """

    def __init__(self, bases: Iterable[AtomicBasis], overlap: TwoCentre) -> None:
        from scipy.integrate import simpson

        found = {basis.number: basis for basis in bases}
        self.overlap = overlap
        self.shells: dict[int, Shells] = {z: basis.shells for z, basis in found.items()}
        self.raised: dict[int, Shells] = {}
        self.coefficients: dict[int, NDArray[np.float64]] = {}
        self.pairs: dict[tuple[int, int], PairTable] = {}
        self.onsite: dict[int, NDArray[np.float64]] = {}
        k = wave_numbers(found.values())
        plain = {z: transform(basis, k) for z, basis in found.items()}
        for a, basis in found.items():
            more, self.coefficients[a] = raised(basis)
            self.raised[a] = more.shells
            waves = transform(more, k)
            for b in (b for b in found if b >= a):
                table = pair_table(more, found[b], waves, plain[b], k)
                self.pairs[a, b] = dataclasses.replace(
                    table, coefficients=table.coefficients * basis.bohr
                )
            radial = simpson(
                more.orbitals[:, None] * basis.orbitals[None] * basis.radius**2,
                x=basis.radius,
                axis=2,
            )
            functions, rows, columns, which = bond_functions(more.shells, basis.shells)
            same = np.array(
                [
                    radial[p, q] * (more.shells[p] == basis.shells[q])
                    for p, q, _ in functions.tolist()
                ]
            )
            sizes = [sum(2 * l + 1 for l in s) for s in (more.shells, basis.shells)]
            block = np.zeros(sizes)
            block[rows, columns] = same[which] * basis.bohr
            self.onsite[a] = self.coefficients[a] @ block

    def blocks(
        self,
        structure: Structure,
        keys: NDArray[np.int64],
        extrapolate: bool = False,
        overlap: BlockMatrix | None = None,
    ) -> tuple[BlockMatrix, BlockMatrix, BlockMatrix]:
        """x, y and z on given edges, Å, orbitals in the legacy order.

        Args:
            structure: gives positions, elements and shells.
            keys: (E, 5), any order.
            extrapolate: allow distances outside the valid range.
            overlap: S that r_i multiplies, with blocks for all keys and their partners; default:
                that of the radial functions. With another code's S, which differs by 1e-7 or so,
                nothing depends on the origin only if r is made with the same S.

        Raises:
            DataError: unknown element or shells, a distance outside the valid range, or blocks of
                ``overlap`` are missing.
        """
        keys = np.asarray(keys, dtype=np.int64).reshape(-1, 5)
        keys = keys[sort_keys(keys)]
        itself = onsite_keys(keys)
        forward = leading(structure, keys) | itself
        computed = np.unique(np.where(forward[:, None], keys, reverse_keys(keys)), axis=0)
        computed = computed[sort_keys(computed)]
        s = self.overlap.blocks(structure, computed, extrapolate)
        if overlap is not None:
            s = _blocks_of(overlap, computed)
        own = self._centred(structure, computed)
        place = match_keys(np.where(forward[:, None], keys, reverse_keys(keys)), computed)
        shapes = structure.orbital_counts[keys[:, 3:]]
        offsets = np.concatenate([[0], np.cumsum(shapes.prod(axis=1))])
        values = np.zeros((3, offsets[-1]))
        for e, (there, ahead) in enumerate(zip(place.tolist(), forward.tolist(), strict=True)):
            low, high = s.offsets[there], s.offsets[there + 1]
            start = structure.positions[computed[there, 3]][:, None]
            block = own[:, low:high] + start * s.values[low:high]
            if not ahead:
                cell = (computed[there, :3] @ structure.lattice)[:, None]
                block = block - cell * s.values[low:high]
                shape = s.shapes[there]
                block = np.swapaxes(block.reshape(3, *shape), 1, 2).reshape(3, -1)
            values[:, offsets[e] : offsets[e + 1]] = block
        x, y, z = (BlockMatrix(keys, shapes, component) for component in values)
        return x, y, z

    def _centred(self, structure: Structure, keys: NDArray[np.int64]) -> NDArray[np.float64]:
        """(3, values) of <i| r - r_i |j, R> for keys that lead (see :func:`leading`), Å."""
        shapes = structure.orbital_counts[keys[:, 3:]]
        offsets = np.concatenate([[0], np.cumsum(shapes.prod(axis=1))])
        result = np.zeros((3, offsets[-1]))
        vectors = structure.edge_vectors(keys)
        distance = np.linalg.norm(vectors, axis=1)
        first, second = structure.numbers[keys[:, 3]], structure.numbers[keys[:, 4]]
        itself = onsite_keys(keys)
        for z, block in self.onsite.items():
            for e in np.flatnonzero(itself & (first == z)):
                result[:, offsets[e] : offsets[e + 1]] = block.reshape(3, -1)
        for (a, b), table in self.pairs.items():
            wanted = np.flatnonzero(~itself & (first == a) & (second == b))
            _, rows, columns, which = bond_functions(self.raised[a], self.shells[b])
            size = [sum(2 * l + 1 for l in s) for s in (self.raised[a], self.shells[b])]
            for begin in range(0, len(wanted), _CHUNK):
                part = wanted[begin : begin + _CHUNK]
                bond = np.zeros((len(part), *size))
                bond[:, rows, columns] = table(distance[part])[:, which]
                turn = bond_rotation(vectors[part])
                left = np.swapaxes(block_rotation(self.shells[a], turn), 1, 2)
                right = block_rotation(self.shells[b], turn)
                # coordinates along the axes of the bond, turned back to x, y, z
                local = np.stack([left @ (c @ bond) @ right for c in self.coefficients[a]])
                blocks = np.einsum("eba,bemn->aemn", turn, local, optimize=True)
                index = offsets[part][:, None] + np.arange(blocks[0, 0].size)
                result[:, index] = blocks.reshape(3, len(part), -1)
        return result


def _blocks_of(overlap: BlockMatrix, keys: NDArray[np.int64]) -> BlockMatrix:
    """The blocks of S on keys (E, 5).

    Raises:
        DataError: it lacks one.
    """
    place = match_keys(keys, overlap.keys)
    if (place < 0).any():
        missing = format_key(keys[int(np.argmax(place < 0))])
        raise DataError(f"the overlap has no block {missing}, though its partner is there")
    return overlap.select(place)
