"""Commensurate twisted bilayers of hexagonal or square layers.

A layer's superlattice vector t = m a1 + n a2 and the same turned by 60 (90) degrees span a cell;
where the vectors of two layers have equal length, one turned layer fits the other. For two equal
layers (m, n) and (n, m) do, at cos θ = (m² + 4mn + n²) / 2(m² + mn + n²) on a hexagonal lattice
(Lopes dos Santos, Peres and Castro Neto, Phys. Rev. Lett. 99, 256802).
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Literal

import numpy as np

from ..errors import ConfigError, DataError

if TYPE_CHECKING:
    import ase

__all__ = ["Twist", "Layer", "list_twists", "read_layers", "twist_bilayer", "twist_of"]

_GAP = 2.2  # Å: larger steps in height part two layers


@dataclasses.dataclass(frozen=True)
class Layer:
    """One layer in its primitive cell, a1 and a2 in the plane, 60 (hexagonal) or 90 (square)
    degrees apart.

    Attributes:
        atoms: the layer, lowest atom at height 0.
        kind: 'hexagonal' or 'square'.
        constant: |a1|, Å.
        thickness: Å.
    """

    atoms: ase.Atoms
    kind: Literal["hexagonal", "square"]
    constant: float
    thickness: float

    def length(self, m: int, n: int) -> float:
        """|m a1 + n a2|, Å."""
        return self.constant * math.sqrt(m * m + n * n + (m * n if self.kind == "hexagonal" else 0))

    def direction(self, m: int, n: int) -> float:
        """Angle of m a1 + n a2 against a1, degrees."""
        if self.kind == "hexagonal":
            return math.degrees(math.atan2(n * math.sqrt(3) / 2, m + n / 2))
        return math.degrees(math.atan2(n, m))

    def cells(self, m: int, n: int) -> int:
        """Primitive cells in the supercell."""
        return m * m + n * n + (m * n if self.kind == "hexagonal" else 0)


@dataclasses.dataclass(frozen=True)
class Twist:
    """One commensurate cell.

    Attributes:
        bottom: (m, n) of the bottom layer.
        top: (m, n) of the top layer.
        angle: degrees.
        strain: relative, of the top layer.
        atoms: in the cell.
    """

    bottom: tuple[int, int]
    top: tuple[int, int]
    angle: float
    strain: float
    atoms: int


def _primitive(atoms: ase.Atoms, where: str) -> Layer:
    """Bring one layer into the standard form."""
    cell = atoms.cell[:].copy()
    if np.abs(cell[:2, 2]).max() > 1e-3 or np.abs(cell[2, :2]).max() > 1e-3:
        raise DataError(
            f"{where}: the first two lattice vectors must lie in the xy plane and the third along "
            "z; turn the cell first"
        )
    lengths = np.linalg.norm(cell[:2], axis=1)
    cosine = float(cell[0] @ cell[1] / lengths.prod())
    if (
        abs(lengths[0] - lengths[1]) > 1e-3 * lengths[0]
        or min(abs(abs(cosine) - 0.5), abs(cosine)) > 2e-3
    ):
        raise DataError(
            f"{where}: |a1| = {lengths[0]:.4f}, |a2| = {lengths[1]:.4f} Å, angle "
            f"{math.degrees(math.acos(cosine)):.2f} degrees; "
            "commensurate cells are built for hexagonal (60 or 120 degrees) and square layers only"
        )
    atoms = atoms.copy()
    if cosine < -0.25:
        cell[1] += cell[0]
        atoms.set_cell(cell, scale_atoms=False)
    if np.cross(cell[0], cell[1])[2] < 0:
        raise DataError(f"{where}: a1, a2 and z form a left-handed system; exchange a1 and a2")
    atoms.positions[:, 2] -= atoms.positions[:, 2].min()
    return Layer(
        atoms,
        "hexagonal" if abs(cosine) > 0.25 else "square",
        float(lengths[0]),
        float(np.ptp(atoms.positions[:, 2])),
    )


def read_layers(cell: ase.Atoms, top: ase.Atoms | None = None) -> tuple[Layer, Layer, float | None]:
    """Bottom and top layer of a cell.

    Args:
        cell: one layer, or two layers one above the other.
        top: the other layer, where ``cell`` has one.

    Returns:
        bottom, top, and the distance between their facing atoms in Å where ``cell`` has both.

    Raises:
        DataError: more than two layers, a lattice that is neither hexagonal nor square, or lattices
            of different kinds.
    """

    def parts(atoms: ase.Atoms) -> list[ase.Atoms]:
        """The layers of a cell, from below, parted where heights step by more than the gap."""
        height = atoms.cell[2, 2]
        z = atoms.positions[:, 2] % height if height > 0 else atoms.positions[:, 2]
        order = np.argsort(z)
        steps = np.diff(np.append(z[order], z[order[0]] + height))
        start = (int(np.argmax(steps)) + 1) % len(z)  # above the vacuum
        order = np.roll(order, -start)
        rise = (z[order] - z[order[0]]) % height if height > 0 else z[order] - z[order[0]]
        moved = atoms.copy()
        moved.positions[order, 2] = rise
        cuts = np.flatnonzero(np.diff(rise) > _GAP) + 1
        return [moved[np.sort(group)] for group in np.split(order, cuts)]

    found = parts(cell)
    distance = None
    if top is not None:
        other = parts(top)
        if len(found) != 1 or len(other) != 1:
            raise DataError(
                f"twist: {len(found)} and {len(other)} layers in the two cells; each must hold "
                f"one (steps in height above {_GAP} Å part layers)"
            )
        found += other
    elif len(found) == 1:
        found = [found[0], found[0].copy()]
    elif len(found) == 2:
        distance = float(found[1].positions[:, 2].min() - found[0].positions[:, 2].max())
    else:
        raise DataError(
            f"twist: {len(found)} layers in the cell (steps in height above {_GAP} Å part "
            "layers); one or two are needed"
        )
    layers = [
        _primitive(atoms, name)
        for atoms, name in zip(found, ("bottom layer", "top layer"), strict=True)
    ]
    if layers[0].kind != layers[1].kind:
        raise DataError(
            f"twist: the bottom layer is {layers[0].kind}, the top layer {layers[1].kind}; both "
            "must be of one kind"
        )
    return layers[0], layers[1], distance


def twist_of(
    bottom: Layer, top: Layer, mn: tuple[int, int], pq: tuple[int, int] | None = None
) -> Twist:
    """Angle, strain and atoms of one cell, before it is built.

    Args:
        bottom: from :func:`read_layers`.
        top: from :func:`read_layers`.
        mn: superlattice vector of the bottom layer.
        pq: of the top layer; default (n, m), which fits where the layers have one lattice.

    Raises:
        ConfigError: negative or zero numbers.
    """
    m, n = mn
    p, q = pq or (n, m)
    if min(m, n, p, q) < 0 or m + n == 0 or p + q == 0:
        raise ConfigError(
            f"twist: (m, n) = ({m}, {n}), (p, q) = ({p}, {q}); numbers must be 0 or more, and not "
            "both 0"
        )
    turn = 60.0 if bottom.kind == "hexagonal" else 90.0
    angle = (bottom.direction(m, n) - top.direction(p, q)) % turn
    angle = min(angle, turn - angle)
    strain = bottom.length(m, n) / top.length(p, q) - 1
    return Twist(
        (m, n),
        (p, q),
        angle,
        strain,
        bottom.cells(m, n) * len(bottom.atoms) + top.cells(p, q) * len(top.atoms),
    )


def list_twists(
    bottom: Layer, top: Layer, max_atoms: int = 500, max_strain: float = 0.005
) -> list[Twist]:
    """The smallest commensurate cell of each angle, by number of atoms.

    Args:
        bottom: from :func:`read_layers`.
        top: from :func:`read_layers`.
        max_atoms: largest cell.
        max_strain: largest |strain| of the top layer.

    Raises:
        ConfigError: no positive number of atoms, or a negative strain.
    """
    if max_atoms < 1 or not 0 <= max_strain < math.inf:
        raise ConfigError(
            f"twist: at most {max_atoms} atoms and a strain of {max_strain}; at least 1 atom and "
            "a strain of 0 or more are needed"
        )
    reach = int(math.sqrt(max_atoms / min(len(bottom.atoms), len(top.atoms)))) + 1
    # (0, n) is (n, 0) turned
    vectors = [
        [
            (m, n)
            for m in range(1, reach + 1)
            for n in range(reach + 1)
            if layer.cells(m, n) * len(layer.atoms) <= max_atoms
        ]
        for layer in (bottom, top)
    ]
    vectors[1].sort(key=lambda pq: top.length(*pq))
    lengths = np.array([top.length(*pq) for pq in vectors[1]])
    found: dict[int, Twist] = {}
    for mn in vectors[0]:
        length = bottom.length(*mn)
        first, last = np.searchsorted(
            lengths, [length / (1 + max_strain) - 1e-9, length / max(1 - max_strain, 1e-3) + 1e-9]
        )
        for pq in vectors[1][first:last]:
            twist = twist_of(bottom, top, mn, pq)
            key = round(twist.angle * 1e4)
            if twist.atoms <= max_atoms and (
                key not in found
                or (twist.atoms, abs(twist.strain)) < (found[key].atoms, abs(found[key].strain))
            ):
                found[key] = twist
    return sorted(found.values(), key=lambda t: (t.atoms, t.angle))


def twist_bilayer(
    bottom: Layer,
    top: Layer,
    twist: Twist,
    distance: float,
    vacuum: float = 20.0,
    shift: tuple[float, float] = (0.0, 0.0),
) -> ase.Atoms:
    """Build one cell; the top layer takes the whole strain. Layers turn about the origin of their
    cells.

    Args:
        bottom: from :func:`read_layers`.
        top: from :func:`read_layers`.
        twist: from :func:`twist_of` or :func:`list_twists`.
        distance: height between the facing atoms of the layers, Å.
        vacuum: empty height between periodic images of the bilayer, Å.
        shift: of the top layer before it is turned, in its lattice vectors.

    Returns:
        Atoms grouped by element, tags 0 (bottom) and 1 (top); periodic in the plane and, through
        the vacuum, along z.

    Raises:
        ConfigError: distance or vacuum not positive, or a shift that is no number.
    """
    from ase.build import make_supercell

    if not (0 < distance < math.inf and 0 < vacuum < math.inf):
        raise ConfigError(
            f"twist: distance {distance} and vacuum {vacuum} Å must be positive and finite"
        )
    if not np.isfinite(shift).all():
        raise ConfigError(f"twist: shift {shift}; two finite numbers are needed")
    height = bottom.thickness + distance + top.thickness + vacuum
    length = bottom.length(*twist.bottom)
    angle = math.radians(60 if bottom.kind == "hexagonal" else 90)
    target = np.array(
        [[length, 0, 0], [length * math.cos(angle), length * math.sin(angle), 0], [0, 0, height]]
    )
    parts = []
    for tag, (layer, (m, n), base) in enumerate(
        (
            (bottom, twist.bottom, vacuum / 2),
            (top, twist.top, vacuum / 2 + bottom.thickness + distance),
        )
    ):
        atoms = layer.atoms.copy()
        heights = atoms.positions[:, 2] + base
        flat = atoms.cell[:].copy()
        flat[2] = [0, 0, height]
        atoms.set_cell(flat)
        atoms.positions[:, 2] = heights
        if tag:
            atoms.positions += shift[0] * flat[0] + shift[1] * flat[1]
        second = [-n, m + n, 0] if layer.kind == "hexagonal" else [-n, m, 0]
        big = make_supercell(atoms, [[m, n, 0], second, [0, 0, 1]])
        big.set_cell(target, scale_atoms=True)
        big.set_tags(tag)
        parts.append(big)
    whole: ase.Atoms = parts[0] + parts[1]
    whole.pbc = True
    whole.wrap(pbc=(True, True, False))
    return whole[np.argsort(whole.numbers, kind="stable")]
