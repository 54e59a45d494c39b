"""Mulliken projections ("fat bands") and spin expectation values of eigenstates."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError
from .bloch import BlochProblem

__all__ = [
    "level_means",
    "mulliken_weights",
    "parse_projections",
    "spin_expectation",
    "spin_matrices",
]

_LETTERS = "spdfghi"
_ITEM = re.compile(
    r"^(?:layer(?P<layer>\d+)of(?P<layers>\d+)(?:-(?=.)|$))?"
    r"(?:(?P<element>[A-Z][a-z]?)|(?P<atom>\d+))?(?:-?(?P<shell>[spdfghi]))?$"
)
_LAYERS = re.compile(r"^layers(?P<count>[1-9]\d?)$")


def parse_projections(
    problem: BlochProblem, text: str | Sequence[str]
) -> dict[str, NDArray[np.bool_]]:
    """``Mo-d,S-p`` -> which orbitals each name selects.

    Args:
        problem: gives the orbitals.
        text: comma-separated items: element, atom number (from 1), shell letter, or two of them
            with a dash. In a slab ``layer1of2`` is the lower of two layers (cut at the widest
            gaps between heights), ``layer1of2-Mo-d`` a part of it, ``layers2`` both.

    Returns:
        name -> (n,) mask over the rows of H(k).

    Raises:
        ConfigError: an item cannot be read or selects no orbital of this structure.
    """
    from ase.data import chemical_symbols

    structure = problem.structure
    shell = np.concatenate(
        [
            np.tile(np.repeat(shells, [2 * l + 1 for l in shells]), problem.spin)
            for shells in structure.orbital_types
        ]
    )
    atom = problem.atom_of_orbital
    symbol = np.array([chemical_symbols[z] for z in structure.numbers])[atom]
    masks: dict[str, NDArray[np.bool_]] = {}
    for item in _items(text):
        found = _ITEM.match(item)
        if not item or found is None:
            raise ConfigError(
                f"projection '{item}' is not understood; write an element, an atom number, a "
                f"shell letter, or two of them: Mo-d, S-p, C, 3-s, d; or layer1of2, layers2"
            )
        mask = np.ones(problem.size, dtype=bool)
        if found["layer"]:
            mask &= np.isin(atom, _layer(problem, int(found["layer"]), int(found["layers"])))
        within = mask.copy()
        if found["element"]:
            mask &= symbol == found["element"]
        if found["atom"]:
            mask &= atom == int(found["atom"]) - 1
        if found["shell"]:
            mask &= shell == _LETTERS.index(found["shell"])
        if not mask.any():
            have = sorted(
                {f"{s}-{_LETTERS[l]}" for s, l in zip(symbol[within], shell[within], strict=True)}
            )
            part = "it" if within.all() else f"layer{found['layer']}of{found['layers']}"
            raise ConfigError(
                f"projection '{item}' selects no orbital of '{structure.name}' ({len(structure)} "
                f"atoms); {part} has {', '.join(have)}"
            )
        masks[item] = mask
    return masks


def _items(text: str | Sequence[str]) -> list[str]:
    """The items, ``layersN`` as its N layers."""
    found: list[str] = []
    for item in text.split(",") if isinstance(text, str) else text:
        every = _LAYERS.match(item.strip())
        count = int(every["count"]) if every else 0
        names = [f"layer{n + 1}of{count}" for n in range(count)]
        found += names if every else [item.strip()]
    return found


def _layer(problem: BlochProblem, number: int, count: int) -> NDArray[np.int64]:
    """Atoms of one layer of a slab.

    Raises:
        ConfigError: no slab, or no such layer.
    """
    from .unfolding.frame import split_layers

    if not 1 <= number <= count:
        raise ConfigError(f"projection 'layer{number}of{count}': layers are numbered from 1")
    return split_layers(problem.structure, problem.periodic, count)[number - 1]


def level_means(
    energies: NDArray[np.float64], values: NDArray[np.float64], width_eV: float
) -> NDArray[np.float64]:
    """Each state's value as the mean over its level: which states of a degenerate level there are,
    LAPACK chooses, and only their sum has a meaning.

    Args:
        energies: (B,), ascending, eV.
        values: (B, ...), diagonal elements.
        width_eV: states no further apart are one level.
    """
    start = np.flatnonzero(np.diff(energies, prepend=-np.inf) > width_eV)
    if len(start) == len(energies):
        return values
    count = np.diff(np.append(start, len(energies)))
    means = np.add.reduceat(values, start, axis=0) / count.reshape(-1, *[1] * (values.ndim - 1))
    return np.asarray(np.repeat(means, count, axis=0))


def mulliken_weights(
    vectors: NDArray[np.number], s: NDArray[np.number], masks: dict[str, NDArray[np.bool_]]
) -> dict[str, NDArray[np.float64]]:
    """Mulliken weight of each state on each group: Re sum_{mu in group} c_mu* (S c)_mu.

    Over all orbitals it is 1.

    Args:
        vectors: (n, B).
        s: (n, n), dense or sparse.
        masks: name -> (n,).

    Returns:
        name -> (B,).
    """
    gross = (vectors.conj() * (s @ vectors)).real
    return {name: gross[mask].sum(axis=0) for name, mask in masks.items()}


def spin_expectation(
    problem: BlochProblem, vectors: NDArray[np.number], s: NDArray[np.number]
) -> NDArray[np.float64]:
    """<sigma_x>, <sigma_y>, <sigma_z> of each state, between -1 and 1 (twice the spin in units of
    hbar).

    Args:
        problem: with spin-orbit coupling.
        vectors: (n, B), rows as in H(k).
        s: (n, n), dense or sparse.

    Returns:
        (B, 3).

    Raises:
        ConfigError: the Hamiltonian has no spin.
    """
    if not problem.spinful:
        raise ConfigError(
            f"{problem.source}: no spin in this Hamiltonian (info.json: isspinful), so no spin "
            f"expectation values"
        )
    order = problem.spin_order
    c, sc = vectors[order], np.asarray(s @ vectors)[order]
    half = problem.size // 2
    up, down, s_up, s_down = c[:half], c[half:], sc[:half], sc[half:]
    cross = np.einsum("ib,ib->b", up.conj(), s_down)  # <up|S|down>
    z = (
        np.einsum("ib,ib->b", up.conj(), s_up).real
        - np.einsum("ib,ib->b", down.conj(), s_down).real
    )
    return np.stack([2 * cross.real, 2 * cross.imag, z], axis=1)


def spin_matrices(
    problem: BlochProblem, vectors: NDArray[np.number], s: NDArray[np.number]
) -> NDArray[np.complex128]:
    """<m|sigma_x|n>, <m|sigma_y|n>, <m|sigma_z|n> between states.

    Args:
        problem: with spin-orbit coupling.
        vectors: (n, B), rows as in H(k).
        s: (n, n), dense.

    Returns:
        (3, B, B), Hermitian.
    """
    order, half = problem.spin_order, problem.size // 2
    c, sc = vectors[order], (s @ vectors)[order]
    up_up, down_down = c[:half].conj().T @ sc[:half], c[half:].conj().T @ sc[half:]
    up_down = c[:half].conj().T @ sc[half:]
    down_up = up_down.conj().T
    return np.stack([up_down + down_up, -1j * (up_down - down_up), up_up - down_down])
