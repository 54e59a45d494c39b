"""A bulk Hamiltonian as layers of cells along one lattice vector, and slabs of some of them.

The surface is the plane of the other two lattice vectors, cut between cells. Its blocks are those
of the bulk: no relaxation, no charge that flows, no states of saturating atoms.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...errors import ConfigError
from ...io import BlockMatrix, Structure
from ..bloch import BlochProblem, bloch_phases
from ..cell_sums import BlochSum

__all__ = ["PrincipalLayers", "cut_slab"]

Complex = NDArray[np.complex128]


class PrincipalLayers:
    """H and S between layers of cells, at k in the surface.

    Attributes:
        problem: the bulk Hamiltonian.
        axis: lattice vector along which layers follow each other, 0 to 2.
        depth: cells of a principal layer: only neighbouring principal layers couple.
    """

    def __init__(self, problem: BlochProblem, axis: int) -> None:
        """Look how far the couplings reach.

        Args:
            problem: the bulk Hamiltonian.
            axis: 0 to 2.

        Raises:
            ConfigError: cells along ``axis`` do not couple.
        """
        if axis not in (0, 1, 2):
            raise ConfigError(f"surface along lattice vector {axis + 1}: there are 1, 2 and 3")
        if not problem.periodic[axis]:
            raise ConfigError(
                f"{problem.source}: '{problem.structure.name}' does not repeat along a{axis + 1}; "
                "a surface is cut from a crystal whose cells couple there"
            )
        self.problem, self.axis = problem, axis
        keys = np.concatenate([problem.h.keys, problem.s.keys])
        self.depth = int(np.abs(keys[:, axis]).max())

    @property
    def size(self) -> int:
        """Orbitals of a principal layer."""
        return self.depth * self.problem.size

    def between(self, k: ArrayLike) -> list[tuple[NDArray[np.number], NDArray[np.number]]]:
        """H and S of cells 0 and R for R = 0 to ``depth`` along the axis.

        Args:
            k: (3,), fractional; its component along the axis does not count.
        """
        point = np.array(k, dtype=float)
        point[self.axis] = 0.0
        found = []
        for number in range(self.depth + 1):
            h, s = (self._part(sums, point, number) for sums in self.problem._sums)
            found.append((h, s))
        return found

    def _part(self, sums: BlochSum, k: NDArray[np.float64], number: int) -> NDArray[np.number]:
        phases = bloch_phases(sums.cells, k)
        return sums.csr(np.where(sums.cells[:, self.axis] == number, phases, 0.0)).toarray()

    def principal(self, k: ArrayLike) -> tuple[Complex, Complex, Complex, Complex]:
        """H00, S00 of a principal layer and H01, S01 to the next; eV and 1."""
        parts, n, depth = self.between(k), self.problem.size, self.depth
        result: list[Complex] = []
        for shift in (0, depth):
            for which in (0, 1):
                whole = np.zeros((depth * n, depth * n), dtype=np.complex128)
                for a in range(depth):
                    for b in range(depth):
                        apart = b + shift - a
                        if abs(apart) > depth:
                            continue
                        block = parts[abs(apart)][which]
                        block = block if apart >= 0 else block.conj().T
                        whole[a * n : (a + 1) * n, b * n : (b + 1) * n] = block
                result.append(whole)
        h00, s00, h01, s01 = result
        return h00, s00, h01, s01


def cut_slab(problem: BlochProblem, axis: int, cells: int, vacuum_A: float = 15.0) -> BlochProblem:
    """Some cells of a crystal along one lattice vector, with the couplings of the bulk.

    Args:
        problem: the bulk Hamiltonian.
        axis: lattice vector that no longer repeats, 0 to 2.
        cells: thickness.
        vacuum_A: added to that lattice vector.

    Raises:
        ConfigError: less than one cell, or a crystal that does not repeat along ``axis``.
    """
    PrincipalLayers(problem, axis)
    if cells < 1:
        raise ConfigError(f"a slab of {cells} cells: at least one is needed")
    crystal = problem.structure
    count, step = len(crystal), crystal.lattice[axis]
    lattice = crystal.lattice.copy()
    lattice[axis] = step * cells + vacuum_A * step / np.linalg.norm(step)
    slab = Structure(
        lattice,
        np.concatenate([crystal.positions + layer * step for layer in range(cells)]),
        np.tile(crystal.numbers, cells),
        tuple(crystal.orbital_types) * cells,
        name=f"{crystal.name}_slab{cells}",
    )
    slab = dataclasses.replace(slab, spinful=crystal.spinful)
    matrices = [_slab_blocks(matrix, axis, cells, count) for matrix in (problem.h, problem.s)]
    return BlochProblem(
        slab,
        matrices[0],
        matrices[1],
        label=problem.label,
        source=f"{problem.source} (slab of {cells} cells along a{axis + 1})",
        predicted=problem.predicted,
    )


def _slab_blocks(matrix: BlockMatrix, axis: int, cells: int, atoms: int) -> BlockMatrix:
    keys, blocks = [], []
    for key, block in matrix:
        for layer in range(cells):
            other = layer + int(key[axis])
            if 0 <= other < cells:
                new = [int(v) for v in key]
                new[axis] = 0
                new[3] += layer * atoms
                new[4] += other * atoms
                keys.append(new)
                blocks.append(block)
    return BlockMatrix.from_blocks(np.array(keys), blocks)
