"""Two-centre integrals of numerical atomic orbitals (read by :mod:`.basis_files`).

With ``f(k) = ∫ R(r) j_l(kr) r² dr`` the overlap of two orbitals a distance d apart along z is

    S_m(d) = 8 Σ_L (-1)^((l1-l2-L)/2) G(l1 m, l2 m, L 0) √((2L+1)/4π) ∫ k² f1(k) f2(k) j_L(kd) dk

(Sankey and Niklewski, Phys. Rev. B 40, 3979; Soler et al., J. Phys. Condens. Matter 14, 2745),
G the integral of three real harmonics.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from .neighbours import symbol
from .twocentre import PairTable, Shells, TwoCentre, bond_functions, swap_sign

__all__ = [
    "require_grid",
    "BOHR",
    "AtomicBasis",
    "gaunt",
    "pair_table",
    "transform",
    "two_centre",
    "wave_numbers",
]

BOHR = 0.529177210903  # Å
_K_STEP, _K_MAX = 0.05, 40.0  # 1/bohr
_D_STEP = 0.02  # bohr
LARGEST_CUTOFF = 100.0  # bohr
_SMALLEST = 0.2  # bohr: below it no pair of atoms is meant
#: Largest error of the norm of orbitals that a code normalises; and how far a value may lie from
#: the mean of its neighbours, of the largest value, on grids at least this fine (bohr). Orbitals of
#: ABACUS reach 0.001.
_NORM_ERROR, _ROUGH, _FINE = 0.1, 0.02, 0.021


def require_grid(radius: NDArray[np.float64], cutoff: float, where: str) -> None:
    """Raise unless radii ascend from 0 or more to about the cutoff.

    Args:
        radius: of the radial functions, bohr.
        cutoff: as the file says, bohr.
        where: the file, for the message.

    Raises:
        DataError: they do not.
    """
    if not 0 < cutoff <= LARGEST_CUTOFF:
        raise DataError(
            f"{where}: a cutoff of {cutoff:g} bohr; orbitals end before {LARGEST_CUTOFF} bohr"
        )
    if len(radius) < 5 or radius[0] < 0 or not (np.diff(radius) > 0).all():
        raise DataError(f"{where}: its radii do not ascend from 0, the file is damaged")
    if not abs(radius[-1] - cutoff) <= 0.05 * cutoff:  # NaN is not near
        raise DataError(
            f"{where}: its functions end at {radius[-1]:g} bohr, its cutoff is {cutoff:g} bohr; "
            "the file is damaged"
        )


@dataclasses.dataclass(frozen=True)
class AtomicBasis:
    """The orbitals of one element.

    Attributes:
        number: atomic number.
        shells: l of each, in the order of the file.
        radius: (n,), grid, uniform from 0, bohr.
        orbitals: (shells, n), R(r), bohr^(-3/2), with the norm that the code gives them.
        cutoff: radius beyond which every orbital is zero, bohr.
        source: the file it was read from.
        bohr: Å, as the code has it.
    """

    number: int
    shells: Shells
    radius: NDArray[np.float64]
    orbitals: NDArray[np.float64]
    cutoff: float
    source: str = ""
    bohr: float = BOHR

    def check(self) -> None:
        """Raise unless atom, grid and cutoff are possible ones.

        Raises:
            DataError: says which is not.
        """
        if not 0 < self.number < 119:
            raise DataError(f"{self.source}: atomic number {self.number}; 1 to 118 are elements")
        require_grid(self.radius, self.cutoff, self.source)

    def normalised(self, near: bool = False) -> AtomicBasis:
        """The same orbitals with ∫R²r²dr = 1.

        Args:
            near: whether the code writes them with that norm, up to rounding.

        Raises:
            DataError: an orbital is zero everywhere, not finite or not smooth, its grid is none, or
                its norm is far from 1 although the code writes normalised ones.
        """
        from scipy.integrate import simpson

        self.check()

        norm = simpson(self.orbitals**2 * self.radius**2, x=self.radius, axis=1)
        if not (np.isfinite(norm).all() and (norm > 1e-12).all()):
            raise DataError(
                f"{self.source}: orbital {int(np.argmin(np.nan_to_num(norm)))} has no norm; the "
                "file is damaged"
            )
        if near and np.abs(norm - 1).max() > _NORM_ERROR:
            worst = int(np.abs(norm - 1).argmax())
            raise DataError(
                f"{self.source}: orbital {worst} has a norm of {norm[worst]:.3g} instead of 1; the "
                "file is damaged"
            )
        bend = np.abs(self.orbitals[:, 1:-1] - (self.orbitals[:, :-2] + self.orbitals[:, 2:]) / 2)
        rough = bend.max(axis=1) > _ROUGH * np.abs(self.orbitals).max(axis=1)
        if self.radius[1] <= _FINE and rough.any():
            raise DataError(
                f"{self.source}: orbital {int(rough.argmax())} jumps at "
                f"{self.radius[1 + int(bend[rough.argmax()].argmax())]:.3g} bohr; the file is "
                "damaged"
            )
        return dataclasses.replace(self, orbitals=self.orbitals / np.sqrt(norm)[:, None])


def gaunt(l1: int, l2: int, L: int, m: int) -> float:
    """∫ Y_{l1 m} Y_{l2 m} Y_{L 0} dΩ of real harmonics, m >= 0."""
    from scipy.special import lpmv

    x, weights = np.polynomial.legendre.leggauss(l1 + l2 + L + 1)

    def legendre(l: int, order: int) -> NDArray[np.float64]:
        """Normalised associated Legendre function of degree l at the points."""
        scale = math.sqrt((2 * l + 1) / 2 * math.factorial(l - order) / math.factorial(l + order))
        return scale * lpmv(order, l, x)

    return float(
        (weights * legendre(l1, m) * legendre(l2, m) * legendre(L, 0)).sum()
        / math.sqrt(2 * math.pi)
    )


def transform(basis: AtomicBasis, k: NDArray[np.float64]) -> NDArray[np.float64]:
    """(shells, K), ∫ R(r) j_l(kr) r² dr, bohr^(3/2)."""
    from scipy.integrate import simpson
    from scipy.special import spherical_jn

    waves = {l: spherical_jn(l, k[:, None] * basis.radius) for l in set(basis.shells)}
    return np.array(
        [
            simpson(waves[l] * (orbital * basis.radius**2), x=basis.radius, axis=1)
            for l, orbital in zip(basis.shells, basis.orbitals, strict=True)
        ]
    )


def pair_table(
    a: AtomicBasis,
    b: AtomicBasis,
    fa: NDArray[np.float64],
    fb: NDArray[np.float64],
    k: NDArray[np.float64],
) -> PairTable:
    """S_m(d) of two elements as B-splines.

    Args:
        a: orbitals of the first atom.
        b: orbitals of the second.
        fa: (shells of a, K), see :func:`transform`.
        fb: (shells of b, K).
        k: (K,), uniform from 0, 1/bohr.
    """
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
    if a is b:
        index, sign = swap_sign(a.shells, b.shells)
        values = (values + sign * values[:, index]) / 2
    values[-1] = 0.0
    spline = make_interp_spline(distance * a.bohr, values, k=5)
    cutoff = reach * a.bohr
    return PairTable(
        spline.t, spline.c, 5, cutoff, np.array([[_SMALLEST * a.bohr, cutoff]]), {"kind": "basis"}
    )


def wave_numbers(bases: Iterable[AtomicBasis]) -> NDArray[np.float64]:
    """(K,), 1/bohr, fine enough that the transform of an integrand reaches twice the largest
    distance."""
    step = min(_K_STEP, math.pi / (2.2 * max(basis.cutoff for basis in bases)))
    return np.arange(0, _K_MAX, step)


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
                f"two basis files of {symbol(basis.number)}: {found[basis.number].source} and "
                f"{basis.source}; give one per element"
            )
        found[basis.number] = basis
    if not found:
        raise DataError(
            "no basis file given; name one .orb, .ion, .ion.xml or .pao file per element"
        )
    if len({basis.bohr for basis in found.values()}) > 1:
        files = ", ".join(basis.source for basis in found.values())
        raise DataError(f"basis files of different codes: {files}; H and S are of one code")
    k = wave_numbers(found.values())
    transforms = {z: transform(basis, k) for z, basis in found.items()}
    pairs = {
        (a, b): pair_table(found[a], found[b], transforms[a], transforms[b], k)
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
