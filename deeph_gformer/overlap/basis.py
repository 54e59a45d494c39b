"""Two-centre overlaps from numerical atomic orbitals: ABACUS ``.orb`` files, SIESTA ``.ion.xml`` files (through sisl).

With ``f(k) = ∫ R(r) j_l(kr) r² dr`` the overlap of two orbitals a distance d apart along z is

    S_m(d) = 8 Σ_L (-1)^((l1-l2-L)/2) G(l1 m, l2 m, L 0) √((2L+1)/4π) ∫ k² f1(k) f2(k) j_L(kd) dk

(Sankey and Niklewski, Phys. Rev. B 40, 3979; Soler et al., J. Phys. Condens. Matter 14, 2745), G the integral of three real harmonics.
"""

from __future__ import annotations

import dataclasses
import math
import os
import pathlib
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError, MissingDependencyError
from .neighbours import symbol
from .rotation import MAX_L
from .twocentre import PairTable, Shells, TwoCentre, bond_functions, swap_sign

__all__ = [
    "BOHR",
    "AtomicBasis",
    "gaunt",
    "read_basis_file",
    "read_ion_xml",
    "read_orb",
    "two_centre",
]

BOHR = 0.529177210903  # Å
_K_STEP, _K_MAX = 0.05, 40.0  # 1/bohr
_D_STEP = 0.02  # bohr
_SMALLEST = 0.2  # bohr: below it no pair of atoms is meant


@dataclasses.dataclass(frozen=True)
class AtomicBasis:
    """The orbitals of one element.

    Attributes:
        number: atomic number. shells: l of each, in the order of the file.
        radius: (n,), grid, uniform from 0, bohr. orbitals: (shells, n), R(r), normalised to ∫R²r²dr = 1, bohr^(-3/2).
        cutoff: radius beyond which every orbital is zero, bohr.
        source: the file it was read from.
    """

    number: int
    shells: Shells
    radius: NDArray[np.float64]
    orbitals: NDArray[np.float64]
    cutoff: float
    source: str = ""

    def normalised(self) -> AtomicBasis:
        """The same orbitals with ∫R²r²dr = 1.

        Raises:
            DataError: an orbital is zero everywhere or not finite.
        """
        from scipy.integrate import simpson

        norm = simpson(self.orbitals**2 * self.radius**2, x=self.radius, axis=1)
        if not (np.isfinite(norm).all() and (norm > 1e-12).all()):
            raise DataError(
                f"{self.source}: orbital {int(np.argmin(np.nan_to_num(norm)))} has no norm; the file is damaged"
            )
        return dataclasses.replace(self, orbitals=self.orbitals / np.sqrt(norm)[:, None])


def read_orb(path: str | os.PathLike[str]) -> AtomicBasis:
    """Read an ABACUS numerical-orbital file; shells in the order of the file (l ascending), as ABACUS and ``orbital_types.dat`` have them.

    Raises:
        DataError: the file is missing or is no ABACUS orbital file.
    """
    from ase.data import atomic_numbers

    path = pathlib.Path(path)
    try:
        lines = path.read_text().splitlines()
    except FileNotFoundError:
        raise DataError(f"{path}: file not found") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as text ({error})") from None
    head: dict[str, str] = {}
    starts = [n for n, line in enumerate(lines) if line.split()[:3] == ["Type", "L", "N"]]
    for line in lines[: starts[0] if starts else None]:
        words = line.rsplit(maxsplit=1)
        if len(words) == 2:
            head[words[0].strip()] = words[1]
    try:
        number = atomic_numbers[head["Element"]]
        mesh, step, cutoff = (
            int(head["Mesh"]),
            float(head["dr"]),
            float(head["Radius Cutoff(a.u.)"]),
        )
        shells, orbitals = [], []
        for start, end in zip(starts, [*starts[1:], len(lines)]):
            shells.append(int(lines[start + 1].split()[1]))
            orbitals.append(np.array(" ".join(lines[start + 2 : end]).split(), dtype=float))
    except (KeyError, ValueError, IndexError) as error:
        raise DataError(
            f"{path}: not an ABACUS orbital file (missing or damaged: {error})"
        ) from None
    if not starts or any(len(o) != mesh for o in orbitals):
        raise DataError(
            f"{path}: not an ABACUS orbital file, or cut short; {mesh} values per orbital were announced, found {[len(o) for o in orbitals]}"
        )
    if max(shells) > MAX_L:
        raise DataError(
            f"{path}: l = {max(shells)}; the legacy orbital order is defined for l = 0 to {MAX_L} only"
        )
    return AtomicBasis(
        number, tuple(shells), step * np.arange(mesh), np.array(orbitals), cutoff, str(path)
    ).normalised()


def read_ion_xml(path: str | os.PathLike[str]) -> AtomicBasis:
    """Read a SIESTA ``.ion.xml`` file through sisl; one shell per (n, l, zeta, polarisation), in the order of the file.

    Raises:
        DataError: the file is missing or unreadable. MissingDependencyError: sisl is not installed.
    """
    try:
        import sisl
    except ImportError:
        raise MissingDependencyError("sisl", "sisl", "reading SIESTA .ion.xml files") from None
    path = pathlib.Path(path)
    if not path.is_file():
        raise DataError(f"{path}: file not found")
    try:
        atom = sisl.get_sile(path).read_basis()
        found: dict[tuple[int, ...], sisl.AtomicOrbital] = {}
        for orbital in atom.orbitals:
            found.setdefault(
                (int(orbital.n), int(orbital.l), int(orbital.zeta), int(orbital.P)), orbital
            )
        reach = max(float(o.R) for o in found.values())
        count = 2 * math.ceil(reach / BOHR / 0.01 / 2) + 1
        radius = np.linspace(0, reach, count)
        orbitals = np.array([np.nan_to_num(o.radial(radius)) for o in found.values()])
        number = int(atom.Z)
    except Exception as error:
        raise DataError(
            f"{path}: not a SIESTA basis that sisl can read ({str(error) or type(error).__name__})"
        ) from None
    shells = tuple(key[1] for key in found)
    if number < 1:
        raise DataError(
            f"{path}: atomic number {number}, a floating basis without an atom; only bases of atoms are read"
        )
    if max(shells) > MAX_L:
        raise DataError(
            f"{path}: l = {max(shells)}; the legacy orbital order is defined for l = 0 to {MAX_L} only"
        )
    return AtomicBasis(
        number, shells, radius / BOHR, orbitals, reach / BOHR, str(path)
    ).normalised()


def read_basis_file(path: str | os.PathLike[str]) -> AtomicBasis:
    """Read one basis file, by its name: ``*.orb`` or ``*.ion.xml``.

    Raises:
        DataError: neither, missing or damaged.
    """
    name = pathlib.Path(path).name
    if name.endswith(".orb"):
        return read_orb(path)
    if name.endswith(".ion.xml"):
        return read_ion_xml(path)
    raise DataError(f"{path}: basis files end in .orb (ABACUS) or .ion.xml (SIESTA)")


def gaunt(l1: int, l2: int, L: int, m: int) -> float:
    """∫ Y_{l1 m} Y_{l2 m} Y_{L 0} dΩ of real harmonics, m >= 0."""
    from scipy.special import lpmv

    x, weights = np.polynomial.legendre.leggauss(l1 + l2 + L + 1)

    def legendre(l: int, order: int) -> NDArray[np.float64]:
        scale = math.sqrt((2 * l + 1) / 2 * math.factorial(l - order) / math.factorial(l + order))
        return scale * lpmv(order, l, x)

    return float(
        (weights * legendre(l1, m) * legendre(l2, m) * legendre(L, 0)).sum()
        / math.sqrt(2 * math.pi)
    )


def _transform(basis: AtomicBasis, k: NDArray[np.float64]) -> NDArray[np.float64]:
    """(shells, K), ∫ R(r) j_l(kr) r² dr, bohr^(3/2)."""
    from scipy.integrate import simpson
    from scipy.special import spherical_jn

    waves = {l: spherical_jn(l, k[:, None] * basis.radius) for l in set(basis.shells)}
    return np.array(
        [
            simpson(waves[l] * (orbital * basis.radius**2), x=basis.radius, axis=1)
            for l, orbital in zip(basis.shells, basis.orbitals)
        ]
    )


def _pair(
    a: AtomicBasis,
    b: AtomicBasis,
    fa: NDArray[np.float64],
    fb: NDArray[np.float64],
    k: NDArray[np.float64],
) -> PairTable:
    from scipy.interpolate import make_interp_spline
    from scipy.special import spherical_jn

    reach = a.cutoff + b.cutoff
    distance = np.linspace(_SMALLEST, reach, math.ceil((reach - _SMALLEST) / _D_STEP) + 1)
    waves = [
        spherical_jn(L, k * distance[:, None]) for L in range(max(a.shells) + max(b.shells) + 1)
    ]
    functions = bond_functions(a.shells, b.shells)[0]
    values = np.zeros((len(distance), len(functions)))
    weight = (
        k**2 * k[1]
    )  # trapezoidal rule: the integrand is even in k and of limited range in its transform
    for n, (p, q, m) in enumerate(functions.tolist()):
        l1, l2 = a.shells[p], b.shells[q]
        product = weight * fa[p] * fb[q]
        for L in range(abs(l1 - l2), l1 + l2 + 1, 2):
            sign = (-1) ** ((l1 - l2 - L) // 2)
            values[:, n] += (
                8
                * sign
                * gaunt(l1, l2, L, m)
                * math.sqrt((2 * L + 1) / (4 * math.pi))
                * (waves[L] @ product)
            )
    if a.number == b.number:
        index, sign = swap_sign(a.shells, b.shells)
        values = (values + sign * values[:, index]) / 2
    values[-1] = 0.0
    spline = make_interp_spline(distance * BOHR, values, k=5)
    cutoff = reach * BOHR
    return PairTable(
        spline.t, spline.c, 5, cutoff, np.array([[_SMALLEST * BOHR, cutoff]]), {"kind": "basis"}
    )


def two_centre(bases: Iterable[AtomicBasis]) -> TwoCentre:
    """Tables of every pair of elements.

    Args:
        bases: one per element.

    Raises:
        DataError: none, or two files of one element.
    """
    from scipy.integrate import simpson

    found: dict[int, AtomicBasis] = {}
    for basis in bases:
        if basis.number in found:
            raise DataError(
                f"two basis files of {symbol(basis.number)}: {found[basis.number].source} and {basis.source}; give one per element"
            )
        found[basis.number] = basis
    if not found:
        raise DataError("no basis file given; name one .orb or .ion.xml file per element")
    # no aliasing: the transform of the integrand reaches twice the largest distance
    k = np.arange(
        0, _K_MAX, min(_K_STEP, math.pi / (2.2 * max(basis.cutoff for basis in found.values())))
    )
    transforms = {z: _transform(basis, k) for z, basis in found.items()}
    pairs = {
        (a, b): _pair(found[a], found[b], transforms[a], transforms[b], k)
        for a in sorted(found)
        for b in sorted(found)
        if a <= b
    }
    onsite = {}
    for z, basis in found.items():
        radial = simpson(
            basis.orbitals[:, None] * basis.orbitals[None] * basis.radius**2, x=basis.radius, axis=2
        )
        _, rows, columns, which = bond_functions(basis.shells, basis.shells)
        functions = bond_functions(basis.shells, basis.shells)[0]
        same = np.array(
            [
                radial[p, q] if basis.shells[p] == basis.shells[q] else 0.0
                for p, q, _ in functions.tolist()
            ]
        )
        block = np.zeros((sum(2 * l + 1 for l in basis.shells),) * 2)
        block[rows, columns] = same[which]
        onsite[z] = block
    report = {"kind": "basis", "files": [basis.source for basis in found.values()]}
    return TwoCentre({z: basis.shells for z, basis in found.items()}, pairs, onsite, report)
