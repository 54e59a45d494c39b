"""One on-site energy of H that is another one.

Equal atoms have other energies in other surroundings, so one energy alone tells nothing. But the
energies of an atom's orbitals change together: each is nearly a linear function of the others, with
coefficients that the atoms of its element share. In 140 structures of two DFT codes energies differ
by 1 to 5 eV, and by 0.01 to 0.15 eV from what the others say.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..io.blocks import BlockMatrix, onsite_keys
from ..overlap.neighbours import symbol

__all__ = ["Energies", "odd_energy", "odd_error", "onsite_energies"]

#: So many atoms of an element are needed.
_ATOMS = 12
#: So many errors are needed.
_ERRORS = 50
#: Of the mean variance, what the regression takes for noise.
_RIDGE = 1e-3
#: An energy is told that is further from all others, as the other orbitals say, than this many
#: times their range; 0.8 in the structures above. eV: their range is at least this.
_FAR, _RANGE = 2.0, 0.05
_OTHERS, _USUAL = "what the atom's other orbitals say", "what it usually is"


class Energies(NamedTuple):
    """On-site energies of a structure.

    Attributes:
        name: of the structure.
        numbers: (N,), atomic numbers.
        values: of each atom (n,), eV, spin doubling included; empty where it has no on-site block.
    """

    name: str
    numbers: NDArray[np.int64]
    values: tuple[NDArray[np.float64], ...]


def onsite_energies(name: str, numbers: NDArray[np.int64], matrix: BlockMatrix) -> Energies:
    """Diagonals of on-site blocks.

    Args:
        name: of the structure.
        numbers: (N,), atomic numbers.
        matrix: H, or a difference of two.
    """
    keys, values = matrix.keys, [np.zeros(0)] * len(numbers)
    itself = onsite_keys(keys)
    for e in np.flatnonzero(itself).tolist():
        values[int(keys[e, 3])] = np.diagonal(matrix.block(e)).real.astype(np.float64)
    return Energies(name, numbers, tuple(values))


def odd_energy(structures: Sequence[Energies]) -> str:
    """A sentence on the energy that is unlike those of all other atoms of its element; empty where
    there is none.

    Args:
        structures: all of one basis.
    """
    atoms: dict[tuple[int, int], list[tuple[Energies, int, NDArray[np.float64]]]] = {}
    for one in structures:
        for atom, (z, own) in enumerate(zip(one.numbers.tolist(), one.values, strict=True)):
            if len(own):
                atoms.setdefault((z, len(own)), []).append((one, atom, own))
    mean = {kind: np.median([own for *_, own in rows], axis=0) for kind, rows in atoms.items()}
    off: dict[int, list[NDArray[np.float64]]] = {}
    for kind, rows in atoms.items():
        for one, _, own in rows:
            off.setdefault(id(one), []).append(own - mean[kind])
    zero = {key: float(np.median(np.concatenate(parts))) for key, parts in off.items()}
    worst, found = 1.0, ""
    for (z, length), rows in atoms.items():
        if len(rows) < _ATOMS:
            continue
        # each structure has a zero of energy of its own
        values = np.stack([own - zero[id(one)] for one, _, own in rows]) - mean[z, length]
        # of a whole block that is another one the regression leaves nothing
        for rest, what in ((_unexplained(values), _OTHERS), (values, _USUAL)):
            gap, others = _apart(rest)
            far = gap / (_FAR * np.maximum(others, _RANGE))
            if far.max() <= worst:
                continue
            worst = float(far.max())
            n, orbital = (int(v) for v in np.unravel_index(np.argmax(far), far.shape))
            one, atom, own = rows[n]
            alike = np.delete(rest[:, orbital], n)
            found = (
                f"{one.name}: on-site energy {orbital + 1} of atom {atom + 1} ({symbol(z)}) is "
                f"{own[orbital]:.3f} eV, {rest[n, orbital]:+.3f} eV from {what}; "
                f"{alike.min():+.3f} to {alike.max():+.3f} eV for the other {len(rows) - 1} atoms. "
                "Is H damaged there?"
            )
    return found


def odd_error(errors: Sequence[Energies], truth: Sequence[Energies]) -> str:
    """A sentence on the on-site energy whose error is unlike those of all others, of any element;
    empty where there is none. This needs few atoms, as a model knows what an energy should be.

    Args:
        errors: on-site energies of a prediction less those of DFT, of each structure.
        truth: those of DFT.
    """
    flat = np.concatenate([np.zeros(0), *(own for one in errors for own in one.values)])
    if len(flat) < _ERRORS:
        return ""
    gap, others = (values[:, 0] for values in _apart(flat[:, None]))
    far = gap / (_FAR * np.maximum(others, _RANGE))
    worst = int(far.argmax())
    if far[worst] <= 1:
        return ""
    places = [
        (n, atom, orbital)
        for n, one in enumerate(errors)
        for atom, own in enumerate(one.values)
        for orbital in range(len(own))
    ]
    n, atom, orbital = places[worst]
    alike, one = np.delete(flat, worst), truth[n]
    return (
        f"{one.name}: on-site energy {orbital + 1} of atom {atom + 1} "
        f"({symbol(int(one.numbers[atom]))}) is {one.values[atom][orbital]:.3f} eV, the prediction "
        f"{flat[worst]:+.3f} eV from it; {alike.min():+.3f} to {alike.max():+.3f} eV for the other "
        f"{len(alike)}. Is H damaged there?"
    )


def _unexplained(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N, n), what a linear regression on an atom's other orbitals leaves of each energy, eV.

    Args:
        values: (N, n), of atoms of one element, less their medians.
    """
    covariance = values.T @ values / len(values)
    noise = _RIDGE * max(float(np.trace(covariance)) / len(covariance), 1e-12)
    inverse = np.linalg.inv(covariance + noise * np.eye(len(covariance)))
    return np.asarray(values @ inverse / np.diagonal(inverse), np.float64)


def _apart(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """How far each value is from the nearest other one of its column, and the range of the others.

    Args:
        values: (N, n), N > 2.
    """
    order = np.argsort(values, axis=0)
    ranked = np.take_along_axis(values, order, 0)
    step = np.pad(np.diff(ranked, axis=0), ((1, 1), (0, 0)), constant_values=np.inf)
    near = np.minimum(step[1:], step[:-1])
    wide = np.tile(ranked[-1] - ranked[0], (len(ranked), 1))
    wide[0], wide[-1] = ranked[-1] - ranked[1], ranked[-2] - ranked[0]
    gap, others = np.empty_like(near), np.empty_like(wide)
    np.put_along_axis(gap, order, near, 0)
    np.put_along_axis(others, order, wide, 0)
    return gap, others
