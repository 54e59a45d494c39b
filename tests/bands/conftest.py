"""Helpers of the band tests: small model crystals with known answers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from deeph_gformer.bands import BlochProblem
from deeph_gformer.io import BlockMatrix, Structure


def structure(
    lattice: NDArray[np.float64],
    positions: NDArray[np.float64],
    shells: tuple[tuple[int, ...], ...],
    **options: object,
) -> Structure:
    """Carbon atoms with the given shells."""
    return Structure(
        np.asarray(lattice, float),
        np.asarray(positions, float),
        np.full(len(shells), 6),
        shells,
        name="model",
        **options,
    )


def blocks(entries: dict[tuple[int, ...], NDArray[np.number] | complex]) -> BlockMatrix:
    """A Hermitian BlockMatrix from some blocks; the partners (-R, j, i) are added."""
    full: dict[tuple[int, ...], NDArray[np.number]] = {}
    for (x, y, z, i, j), value in entries.items():
        block = np.atleast_2d(np.asarray(value))
        full[x, y, z, i, j] = block
        full[-x, -y, -z, j, i] = block.conj().T
    return BlockMatrix.from_blocks(
        np.array(list(full)),
        [b.astype(np.result_type(*full.values(), float)) for b in full.values()],
    )


def chain(
    t: float = -1.0, onsite: float = 0.3, overlap: float = 0.0, a: float = 2.0
) -> BlochProblem:
    """One s orbital a cell: E(k) = (e + 2 t cos 2 pi k) / (1 + 2 s cos 2 pi k)."""
    crystal = structure(np.diag([a, 20.0, 20.0]), np.zeros((1, 3)), ((0,),))
    s = blocks({(0, 0, 0, 0, 0): 1.0, (1, 0, 0, 0, 0): overlap})
    return BlochProblem(
        crystal, blocks({(0, 0, 0, 0, 0): onsite, (1, 0, 0, 0, 0): t}), s, label="chain"
    )


def ssh(v: float = 1.0, w: float = 0.6) -> BlochProblem:
    """Su-Schrieffer-Heeger chain: E(k) = +-|v + w exp(-2 pi i k)|."""
    crystal = structure(
        np.diag([3.0, 20.0, 20.0]), np.array([[0, 0, 0], [1.2, 0, 0]]), ((0,), (0,))
    )
    return BlochProblem(
        crystal,
        blocks(
            {(0, 0, 0, 0, 0): 0.0, (0, 0, 0, 1, 1): 0.0, (0, 0, 0, 0, 1): v, (1, 0, 0, 1, 0): w}
        ),
        label="SSH",
    )


def graphene(t: float = -2.7, mass: float = 0.0, a: float = 2.46) -> BlochProblem:
    """Nearest neighbours on the honeycomb lattice.

    Two bands touch at K (for no mass), with velocity sqrt(3)/2 a |t|.
    """
    lattice = np.array([[a, 0, 0], [-a / 2, a * 3**0.5 / 2, 0], [0, 0, 15.0]])
    positions = np.array([[0, 0, 7.5], [0, a / 3**0.5, 7.5]])
    h = blocks(
        {
            (0, 0, 0, 0, 0): mass,
            (0, 0, 0, 1, 1): -mass,
            (0, 0, 0, 0, 1): t,
            (0, -1, 0, 0, 1): t,
            (-1, -1, 0, 0, 1): t,
        }
    )
    return BlochProblem(structure(lattice, positions, ((0,), (0,))), h, label="graphene")


def random_problem(
    seed: int = 0,
    atoms: int = 3,
    spin: int = 1,
    shells: tuple[tuple[int, ...], ...] = ((0, 1), (0,), (2, 0)),
) -> BlochProblem:
    """No symmetry at all (no inversion, triclinic cell), unequal orbital counts, H-only blocks, a
    positive definite S."""
    rng = np.random.default_rng(seed)
    lattice = np.array([[4.0, 0.2, 0.1], [-0.5, 4.4, 0.3], [0.2, 0.7, 5.1]])
    counts = [sum(2 * l + 1 for l in s) for s in shells]
    keys = [(0, 0, 0, i, j) for i in range(atoms) for j in range(i, atoms)]
    keys += [
        (*r, i, j)
        for r in ((1, 0, 0), (0, 1, 0), (0, 0, 1), (1, -1, 0))
        for i in range(atoms)
        for j in range(atoms)
    ]
    h, s = {}, {}
    for key in keys:
        shape = (spin * counts[key[3]], spin * counts[key[4]])
        block = rng.standard_normal(shape) + (1j * rng.standard_normal(shape) if spin == 2 else 0)
        onsite = not any(key[:3]) and key[3] == key[4]
        h[key] = block + block.conj().T if onsite else 0.4 * block
        small = 0.02 * rng.standard_normal((counts[key[3]], counts[key[4]]))
        if onsite:
            s[key] = np.eye(len(small)) + small + small.T
        elif key[:3] != (1, -1, 0):
            s[key] = small
    positions = rng.random((atoms, 3)) @ lattice
    return BlochProblem(structure(lattice, positions, shells), blocks(h), blocks(s), label="random")


def write_model(
    folder: str,
    problem: BlochProblem,
    positions: tuple[BlockMatrix, ...] | None = None,
    info: dict[str, object] | None = None,
) -> None:
    """A model as a legacy folder, with its position matrix where there is one."""
    import dataclasses
    import pathlib

    from deeph_gformer.io.folder import write_matrix
    from deeph_gformer.io.legacy import write_structure
    from deeph_gformer.io.positions import write_positions

    place = pathlib.Path(folder)
    crystal = dataclasses.replace(
        problem.structure,
        spinful=problem.spinful,
        info={"isspinful": problem.spinful, **(info or {})},
    )
    write_structure(place, crystal)
    write_matrix(place, "hamiltonian", problem.h, crystal)
    write_matrix(place, "overlap", problem.s, crystal)
    if positions is not None:
        write_positions(place, positions, crystal)
