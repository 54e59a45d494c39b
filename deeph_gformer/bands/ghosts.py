"""States of a prediction where the reference has none, and the blocks of H that cause errors."""

from __future__ import annotations

import dataclasses

import numpy as np
import scipy.linalg
from numpy.typing import ArrayLike, NDArray

from ..errors import ConfigError, DataError
from .bloch import BlochProblem
from .compare import common_bands, compare
from .result import Bands
from .solve import not_definite

__all__ = ["ErrorMode", "Ghost", "block_contributions", "error_modes", "find_ghosts"]


@dataclasses.dataclass(frozen=True)
class Ghost:
    """A state of the prediction where the reference has none.

    Attributes:
        k_index, k: where, on the path.
        band: index among all bands.
        energy_eV: relative to the Fermi level.
        gap_eV: the (low, high) edges of the reference's gap it lies in; low is -inf below all
            bands.
    """

    k_index: int
    k: tuple[float, float, float]
    band: int
    energy_eV: float
    gap_eV: tuple[float, float]


def find_ghosts(
    reference: Bands, other: Bands, margin_eV: float = 0.1, window_eV: float = 10.0
) -> list[Ghost]:
    """States of ``other`` that lie in a gap of ``reference`` (over the whole path) by more than
    ``margin_eV`` from its edges.

    Args:
        reference: complete bands.
        other: on the same path.
        margin_eV: an ordinary band error is smaller.
        window_eV: looked at around E_F.

    Raises:
        ConfigError: the paths differ, or the reference is not complete.
    """
    common_bands(reference, other)
    if not bool(np.all(reference.complete)):
        raise ConfigError(
            f"bands '{reference.label}' are incomplete; ghost bands can only be told from a "
            f"complete reference"
        )
    levels = reference.aligned_eV
    edges: list[tuple[float, float]] = []
    if reference.first_band == 0:
        edges.append((-np.inf, float(np.nanmin(levels))))
    tops, bottoms = (
        np.maximum.accumulate(np.nanmax(levels, axis=0))[:-1],
        np.nanmin(levels, axis=0)[1:],
    )
    edges += [
        (float(t), float(b)) for t, b in zip(tops, bottoms, strict=True) if b - t > 2 * margin_eV
    ]
    energies, ghosts = other.aligned_eV, []
    for low, high in edges:
        with np.errstate(invalid="ignore"):
            found = np.argwhere(
                (energies > low + margin_eV)
                & (energies < high - margin_eV)
                & (np.abs(energies) < window_eV)
            )
        for row, column in found:
            x, y, z = other.kpoints[row].tolist()
            ghosts.append(
                Ghost(
                    int(row),
                    (x, y, z),
                    int(column) + (other.first_band or 0),
                    float(energies[row, column]),
                    (low, high),
                )
            )
    return ghosts


@dataclasses.dataclass(frozen=True)
class ErrorMode:
    """One S-weighted mode of the error: dH c = epsilon S c.

    Attributes:
        energy_eV: epsilon, the largest first-order energy error any normalised state can have.
        blocks: (atom i, atom j, share in eV), atoms from 1.
    """

    energy_eV: float
    blocks: tuple[tuple[int, int, float], ...]


def block_contributions(
    problem: BlochProblem, difference: NDArray[np.number], state: NDArray[np.number], count: int = 5
) -> tuple[tuple[int, int, float], ...]:
    """Which atom pairs make <c|dH|c>: Re c_i† dH_ij c_j, pairs (i, j) and (j, i) together, the
    largest first.

    Args:
        problem: gives the atoms.
        difference: (n, n), dH(k), eV.
        state: (n,).
        count: pairs to name.

    Returns:
        (i, j, share in eV), atoms from 1, i <= j.
    """
    offsets = np.concatenate([[0], np.cumsum(problem.structure.orbital_counts * problem.spin)])[:-1]
    share = (state.conj()[:, None] * difference * state[None, :]).real
    share = np.add.reduceat(np.add.reduceat(share, offsets, axis=0), offsets, axis=1)
    share = np.triu(share + share.T) - np.diag(np.diag(share))
    order = np.argsort(-np.abs(share), axis=None)[:count]
    return tuple(
        (int(i) + 1, int(j) + 1, float(share[i, j]))
        for i, j in zip(*np.unravel_index(order, share.shape), strict=True)
    )


def error_modes(
    reference: BlochProblem,
    other: BlochProblem,
    k: ArrayLike = (0.0, 0.0, 0.0),
    count: int = 3,
    mu_eV: float | None = None,
) -> list[ErrorMode]:
    """The worst S-weighted error modes at one k-point and the blocks that cause them.

    Large modes along nearly linearly dependent combinations of orbitals (small eigenvalues of S)
    are what makes ghost bands.

    Args:
        reference: its S is used.
        other: of the same structure.
        k: (3,), fractional.
        count: modes.
        mu_eV: gauge shift to remove; default that of :func:`compare`.

    Raises:
        DataError: the two do not belong together, or S is not positive definite.
    """
    if reference.size != other.size:
        raise DataError(
            f"{reference.source} has {reference.size} orbitals, {other.source} has {other.size}; "
            f"they belong to different structures"
        )
    mu = compare(reference.h, other.h, reference.s).mu_eV if mu_eV is None else mu_eV
    h1, s = reference.at(k)
    h2, _ = other.at(k)
    difference = h2 - h1 - mu * s
    try:
        values, vectors = scipy.linalg.eigh(difference, s)
    except scipy.linalg.LinAlgError:
        raise DataError(
            not_definite(
                f"{reference.source}, k = {np.asarray(k).tolist()}",
                "so H and S have no common eigenstates",
            )
        ) from None
    order = np.argsort(-np.abs(values))[:count]
    return [
        ErrorMode(float(values[n]), block_contributions(reference, difference, vectors[:, n]))
        for n in order
    ]
