"""Which Bravais lattice some vectors span, exactly or nearly; in one, two or three dimensions.

Nearness is a strain, a number without a unit that does not depend on the size of the cell or on the
choice of its vectors: the largest relative change of any length that makes the lattice ideal. The
point group of the lattice is found in its metric, the metric is averaged over the group, and ASE
names the lattice that is now ideal and its special points (conventions of Setyawan and Curtarolo,
Comput. Mater. Sci. 49, 299 (2010)).
"""

from __future__ import annotations

import dataclasses
import itertools
import warnings

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError

__all__ = [
    "EXACT",
    "LOOSE",
    "IdealLattice",
    "ideal_lattice",
    "lattice_group",
    "reduced_metric",
    "strain_between",
]

EXACT = 1e-4
"""Strain below which a lattice counts as ideal: four digits of a structure file."""
LOOSE = 0.02
"""Strain within which a distorted cell keeps the path of the ideal lattice."""
_LARGEST_GROUP = 48
_ASE_TOLERANCES = (2e-4, 1e-5, 1e-3, 1e-6)

Metric = NDArray[np.float64]
Group = NDArray[np.int64]


@dataclasses.dataclass(frozen=True)
class IdealLattice:
    """A Bravais lattice that given vectors span within a strain.

    Attributes:
        name: ASE's, e.g. HEX2D, FCC.
        special: special points, fractional, of the given vectors: (3,), zero where not periodic.
        path: the standard path through them, ASE's notation.
        strain: largest relative change of a length that makes the given lattice this one.
        order: of the point group.
    """

    name: str
    special: dict[str, NDArray[np.float64]]
    path: str
    strain: float
    order: int


def strains_from(metric: Metric, others: NDArray[np.float64]) -> NDArray[np.float64]:
    """Largest relative change of any length from one metric (d, d) to each of others (G, d, d)."""
    root = np.linalg.inv(np.linalg.cholesky(metric))
    stretch = np.linalg.eigvalsh(root @ others @ root.T)  # squared lengths of former unit vectors
    return np.abs(np.sqrt(np.maximum(stretch, 0.0)) - 1).max(axis=-1)


def strain_between(metric: Metric, other: Metric) -> float:
    """Largest relative change of any length from one metric (d, d) to another."""
    return float(strains_from(metric, other[None])[0])


def reduced_metric(metric: Metric) -> tuple[Metric, Group]:
    """Metric of the shortest basis vectors and (d, d) integers that make them of the given ones.

    Args:
        metric: (d, d), scalar products of the given ones, Å².
    """
    from ase.geometry import minkowski_reduce

    d = len(metric)
    padded = np.eye(3) * np.sqrt(np.trace(metric)) * 1e3  # long and orthogonal: never mixed in
    padded[:d, :d] = np.linalg.cholesky(metric)
    _, operation = minkowski_reduce(padded, pbc=[True] * d + [False] * (3 - d))
    change = np.round(operation[:d, :d]).astype(np.int64)
    return change @ metric @ change.T, change


def _unimodular(d: int) -> Group:
    """(G, d, d), all matrices of -1, 0, 1 with determinant 1 or -1.

    The symmetries of a lattice are among them when its vectors are the shortest ones.
    """
    every = np.array(list(itertools.product((-1, 0, 1), repeat=d * d))).reshape(-1, d, d)
    return every[np.abs(np.abs(np.linalg.det(every)) - 1) < 1e-9]


def _closure(group: Group) -> Group | None:
    """All products of some matrices; None where they are more than any lattice allows."""
    known = {matrix.tobytes(): matrix for matrix in np.ascontiguousarray(group)}
    while len(known) <= _LARGEST_GROUP:
        every = np.array(list(known.values()))
        products = np.einsum("aij,bjk->abik", every, every).reshape(-1, *group.shape[1:])
        before = len(known)
        known.update({matrix.tobytes(): matrix for matrix in np.ascontiguousarray(products)})
        if len(known) == before:
            return every
    return None


def lattice_group(metric: Metric, tolerance: float) -> tuple[Group, Metric, float]:
    """The largest point group of a lattice within a strain.

    Args:
        metric: (d, d), scalar products of the shortest lattice vectors, Å².
        tolerance: strain.

    Returns:
        The group, (G, d, d) integers W with a' = W a; the metric averaged over it; its strain.
    """
    candidates = _unimodular(len(metric))
    moved = candidates @ metric @ candidates.transpose(0, 2, 1)
    strains = strains_from(metric, moved)
    # an element changes the metric by no more than twice the strain from the ideal one
    near = strains <= 2.5 * tolerance + 1e-9
    best: tuple[Group, Metric, float] | None = None
    for level in np.unique(np.round(strains[near], 9))[::-1]:
        group = _closure(candidates[near & (strains <= level + 2e-9)])
        if group is None:
            continue
        ideal = (group @ metric @ group.transpose(0, 2, 1)).mean(axis=0)
        strain = strain_between(metric, ideal)
        if strain <= tolerance and (best is None or len(group) > len(best[0])):
            best = group, ideal, strain
    if best is None:  # the identity and the inversion always are symmetries
        one = np.eye(len(metric), dtype=np.int64)
        return np.stack([one, -one]), metric, 0.0
    return best


def _identified(metric: Metric) -> tuple[str, dict[str, NDArray[np.float64]], str]:
    """Name, special points (d,) and path of an ideal lattice, by ASE.

    ASE's answer is checked, and asked for again with the vectors in another order or of other
    signs: it exchanges X and Y of some rectangular lattices, and does not know all forms of
    monoclinic ones.

    Raises:
        ConfigError: ASE does not know the lattice.
    """
    d, reason = len(metric), ""
    for tolerance in _ASE_TOLERANCES:
        for order in itertools.permutations(range(d)):
            for signs in itertools.product((1, -1), repeat=d - 1):
                turn = np.eye(d, dtype=np.int64)[list(order)] * np.array([1, *signs])
                try:
                    name, points, path = _ask_ase(turn @ metric @ turn.T, tolerance)
                except Exception as error:  # noqa: BLE001 - ASE raises many kinds
                    reason = reason or f"{type(error).__name__}: {error}"
                    continue
                return name, {label: turn.T @ k for label, k in points.items()}, path
    raise ConfigError(f"ASE cannot name the Bravais lattice ({reason})")


def _ask_ase(metric: Metric, tolerance: float) -> tuple[str, dict[str, NDArray[np.float64]], str]:
    """ASE's name, special points and path, if they fit the metric.

    Raises:
        ConfigError: they do not.
    """
    from ase.cell import Cell
    from ase.lattice import identify_lattice

    d, cell = len(metric), np.zeros((3, 3))
    cell[:d, :d] = np.linalg.cholesky(metric)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        lattice, operation = identify_lattice(Cell(cell), eps=tolerance)
        path = lattice.bandpath(npoints=0).transform(operation)
    standard = np.linalg.inv(operation.T)[:d, :d] @ cell[:d, :d]
    found = np.asarray(lattice.tocell())[:d, :d]
    if strain_between(standard @ standard.T, found @ found.T) > 2 * EXACT:
        raise ConfigError(f"{lattice.name} does not fit")
    return lattice.name, {n: np.asarray(k)[:d] for n, k in path.special_points.items()}, path.path


def _triclinic(metric: Metric) -> tuple[str, dict[str, NDArray[np.float64]], str]:
    """Like :func:`_identified`, with one answer for all descriptions of a triclinic lattice.

    The shortest reciprocal vectors, of signs such that all their angles are obtuse or all acute, in
    the order that puts the one nearest 90 degrees between the first two, the longer of them first.
    ASE takes any basis with such angles, so its points depend on the description.
    """
    from ase.cell import Cell
    from ase.lattice import TRI

    reciprocal, change = reduced_metric(np.linalg.inv(metric).astype(np.float64))
    root = np.sqrt(np.diag(reciprocal))
    cosines = (reciprocal / np.outer(root, root))[[1, 2, 0], [2, 0, 1]]  # b2 b3, b3 b1, b1 b2
    cosines[np.abs(cosines) < 1e-7] = 0.0
    acute = cosines.prod() > 0
    for signs in itertools.product((1, -1), repeat=3):
        turned = cosines * np.roll(signs, -1) * np.roll(signs, -2)
        if (turned >= 0).all() if acute else (turned <= 0).all():
            break
    cosines = np.abs(cosines)
    last = int(np.argmin(cosines))
    first, second = sorted((n for n in range(3) if n != last), key=lambda n: -root[n])
    turn = (np.diag(signs) @ change)[[first, second, last]]
    # b' = turn b, so a' = turn^-T a and k . a = turn^T (k . a')
    back = np.round(np.linalg.inv(turn)).astype(np.int64).T
    cell = Cell(np.linalg.cholesky(back @ metric @ back.T))
    path = TRI(*cell.cellpar()).bandpath(npoints=0)
    return "TRI", {n: turn.T @ k for n, k in path.special_points.items()}, path.path


def ideal_lattice(
    lattice: NDArray[np.float64], periodic: tuple[bool, bool, bool], tolerance: float = EXACT
) -> IdealLattice:
    """The most symmetric Bravais lattice within a strain.

    Args:
        lattice: (3, 3), rows, Å; of either handedness, reduced or not.
        periodic: along which of them the crystal repeats; at least one.
        tolerance: strain.

    Raises:
        ConfigError: ASE does not know the lattice, or the vectors span none.
    """
    axes = [axis for axis in range(3) if periodic[axis]]
    vectors = np.asarray(lattice, dtype=float)[axes]
    if not axes or np.linalg.matrix_rank(vectors) < len(axes) or not np.isfinite(vectors).all():
        raise ConfigError("the lattice vectors are linearly dependent")
    reduced, change = reduced_metric(vectors @ vectors.T)
    group, ideal, strain = lattice_group(reduced, tolerance)
    identify = _triclinic if len(axes) == 3 and len(group) == 2 else _identified
    name, points, path = identify(ideal)
    # k . a for the given vectors: those of the reduced ones, transformed like the vectors
    back = np.round(np.linalg.inv(change)).astype(np.int64)
    special = {}
    for label, k in points.items():
        special[label] = np.zeros(3)
        special[label][axes] = back @ k
    return IdealLattice(name, special, path, strain, len(group))
