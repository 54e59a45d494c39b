"""Orbitals of a PySCF cell: shells, their order, and which atoms are close enough for a block."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...errors import DataError, MissingDependencyError
from ...io.dock import LEGACY_TO_E3NN
from ...overlap.neighbours import find_edges

__all__ = ["TOLERANCE", "Basis", "basis_of", "bohr", "load_pyscf", "pairs_of"]

#: Overlap at which pairs of atoms end.
TOLERANCE = 1e-9


def load_pyscf() -> Any:
    """PySCF with its periodic parts.

    Raises:
        MissingDependencyError: it is not installed.
    """
    try:
        import pyscf
        import pyscf.pbc.gto
        import pyscf.pbc.scf
    except ImportError:
        raise MissingDependencyError("pyscf", "pyscf", "reading PySCF calculations") from None
    return pyscf


class Basis(NamedTuple):
    """Shells (legacy order) of a cell's atoms, PySCF's orbital for each legacy one, and the most
    diffuse exponents by l.
    """

    shells: tuple[tuple[int, ...], ...]
    order: NDArray[np.int64]
    exponents: list[dict[int, float]]
    numbers: NDArray[np.int64]


def basis_of(cell: Any, where: str) -> Basis:
    """The basis of a cell.

    Raises:
        DataError: Cartesian functions, shells beyond f, empty atoms.
    """
    if cell.cart:
        raise DataError(
            f"{where}: Cartesian Gaussians; folders hold spherical ones: cell.cart = False"
        )
    charge = load_pyscf().gto.charge
    shells, order, exponents, numbers = [], [], [], []
    rows: list[list[tuple[int, int, float]]] = [
        [] for _ in range(cell.natm)
    ]  # l, first orbital, exponent
    first = 0
    for n in range(cell.nbas):
        l, lowest = int(cell.bas_angular(n)), float(np.min(cell.bas_exp(n)))
        for _ in range(int(cell.bas_nctr(n))):
            rows[int(cell.bas_atom(n))].append((l, first, lowest))
            first += 2 * l + 1
    for atom, own in enumerate(rows):
        symbol = str(cell._atom[atom][0])
        if symbol.upper().startswith(("GHOST", "X-")) or charge(symbol) == 0 or not own:
            raise DataError(
                f"{where}: atom {atom + 1} ('{symbol}') is empty; folders have no such atoms"
            )
        if max(l for l, _, _ in own) > 3:
            raise DataError(
                f"{where}: atom {atom + 1} ('{symbol}') has shells beyond f; folders hold s to f"
            )
        own = sorted(own, key=lambda row: row[0])
        for l, start, _ in own:
            places = range(3) if l == 1 else np.argsort(LEGACY_TO_E3NN[l])
            order += [start + int(place) for place in places]
        shells.append(tuple(l for l, _, _ in own))
        exponents.append({l: min(a for k, _, a in own if k == l) for l, _, _ in own})
        numbers.append(int(charge(symbol)))
    return Basis(tuple(shells), np.array(order), exponents, np.array(numbers, dtype=np.int64))


def _range(one: dict[int, float], two: dict[int, float], tolerance: float) -> float:
    """Distance (bohr) beyond which overlaps of two atoms' functions stay below the tolerance.

    Of r^l e^{-a r²} and r^m e^{-b r²}, normalised, the overlap at distance d is at most about
    (1 + d sqrt(ab/(a+b)))^(l+m) e^{-d² ab/(a+b)}.
    """
    grid = np.arange(0.0, 200.0, 0.05)
    reach = 0.0
    for l, a in one.items():
        for m, b in two.items():
            mu = a * b / (a + b)
            bound = (1 + grid * np.sqrt(mu)) ** (l + m) * np.exp(-mu * grid**2)
            reach = max(reach, float(grid[bound > tolerance].max(initial=0.0)))
    return reach + 0.05


def bohr() -> float:
    """PySCF's own, Å."""
    return float(load_pyscf().data.nist.BOHR)


def pairs_of(cell: Any, basis: Basis) -> NDArray[np.int64]:
    """(E, 5), the pairs of atoms that become blocks."""
    # per element the most diffuse function of each l, so that the set depends on distances alone
    kinds: dict[int, dict[int, float]] = {}
    for z, own in zip(basis.numbers.tolist(), basis.exponents, strict=True):
        for l, a in own.items():
            kinds.setdefault(z, {})[l] = min(a, kinds.get(z, {}).get(l, a))
    cutoffs = {
        (a, b): _range(kinds[a], kinds[b], TOLERANCE) * bohr()
        for a in kinds
        for b in kinds
        if a <= b
    }
    periodic = [axis < int(cell.dimension) for axis in range(3)]
    lattice, positions = cell.lattice_vectors() * bohr(), cell.atom_coords() * bohr()
    return find_edges(lattice, positions, basis.numbers, cutoffs, periodic)
