"""The Green's function of a semi-infinite crystal, by decimation.

M. P. Lopez Sancho, J. M. Lopez Sancho, J. Rubio, J. Phys. F 15, 851 (1985), with z S - H in place
of z - H. Each step doubles the thickness that has been eliminated.

The spectral function of the surface cell is that of its orbitals, Mulliken weights included:

    A(k, E) = -1/(2 pi) Im sum_i (G S + S G)_ii,   i over one cell.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from ...errors import ConfigError
from ..bloch import BlochProblem
from ..fermi import FermiLevel
from ..kpath import KPath, find_path
from ..solve import map_kpoints
from .layers import PrincipalLayers

__all__ = ["SurfaceSpectrum", "surface_green", "surface_spectrum"]

_STEPS = 60
_CONVERGED = 1e-8
"""eV; what is left out of G's inverse is the square of it."""
_LARGEST = 3000
Matrix = NDArray[np.complexfloating]


@dataclasses.dataclass(frozen=True)
class SurfaceSpectrum:
    """Spectral functions on a path in the surface zone.

    Attributes:
        path: k-points, zero along ``axis``.
        axis: lattice vector that points into the crystal, 0 to 2.
        energies_eV: (W,), relative to the Fermi level, or absolute where none is known.
        bottom: (K, W), 1/eV, of the surface cell of the crystal that fills the side of +a (its
            surface is on the side of -a).
        top: (K, W), of the one that fills the side of -a.
        bulk: (K, W), of a cell deep inside.
        fermi_eV: the Fermi level, or None.
        broadening_eV: imaginary part of the energy.
        label: of the Hamiltonian.
    """

    path: KPath
    axis: int
    energies_eV: NDArray[np.float64]
    bottom: NDArray[np.float64]
    top: NDArray[np.float64]
    bulk: NDArray[np.float64]
    fermi_eV: float | None
    broadening_eV: float
    label: str

    def to_json(self) -> dict[str, Any]:
        """For JSON; units in the names."""
        return {
            "surface_along": self.axis + 1,
            "kpoints_fractional": self.path.kpoints.tolist(),
            "distances_per_angstrom": self.path.distances.tolist(),
            "labels": [list(v) for v in self.path.labels],
            "energies_eV": self.energies_eV.tolist(),
            "bottom_per_eV": self.bottom.tolist(),
            "top_per_eV": self.top.tolist(),
            "bulk_per_eV": self.bulk.tolist(),
            "fermi_eV": self.fermi_eV,
            "broadening_eV": self.broadening_eV,
        }


def surface_green(
    z: complex, h00: Matrix, s00: Matrix, h01: Matrix, s01: Matrix
) -> tuple[Matrix, Matrix, Matrix]:
    """G of the outermost principal layers and of one inside.

    Args:
        z: energy, eV, with a positive imaginary part.
        h00: (n, n), within a principal layer, eV.
        s00: (n, n).
        h01: (n, n), to the next one along +a.
        s01: (n, n).

    Returns:
        G of the surface layer of a crystal at +a, of one at -a, and of the bulk; 1/eV.

    Raises:
        ConfigError: the decimation does not converge.
    """
    inside = z * s00 - h00
    ahead, back = z * s01 - h01, z * s01.conj().T - h01.conj().T  # of zS - H
    plus, minus = inside.copy(), inside.copy()
    for _ in range(_STEPS):
        largest = max(np.abs(ahead).max(), np.abs(back).max())
        if not np.isfinite(largest):
            break
        if largest < _CONVERGED:
            eye = np.eye(len(inside))
            first, second, bulk = (np.linalg.solve(m, eye) for m in (plus, minus, inside))
            return first, second, bulk
        beyond = scipy.linalg.solve(inside, np.hstack([back, ahead]), check_finite=False)
        to_plus, ahead = np.hsplit(ahead @ beyond, 2)
        back, to_minus = np.hsplit(back @ beyond, 2)
        plus, minus, inside = plus - to_plus, minus - to_minus, inside - to_plus - to_minus
        ahead, back = -ahead, -back
    raise ConfigError(
        f"the surface Green's function at {z.real:.4f} eV does not converge; take a larger "
        "--broadening"
    )


def _point(
    problem: BlochProblem,
    k: NDArray[np.float64],
    axis: int,
    energies: NDArray[np.float64],
    broadening: float,
) -> NDArray[np.float64]:
    """(3, W): bottom, top and bulk."""
    layer = PrincipalLayers(problem, axis)
    h00, s00, h01, s01 = layer.principal(k)
    n, size = problem.size, layer.size
    first, last = slice(0, n), slice(size - n, size)
    result = np.zeros((3, len(energies)))
    for number, energy in enumerate(energies):
        z = energy + 1j * broadening
        plus, minus, inside = surface_green(z, h00, s00, h01, s01)
        ahead = z * s01 - h01
        back = z * s01.conj().T - h01.conj().T
        above = _behind(plus, ahead, back, s01)
        below = _behind(minus, back, ahead, s01.conj().T)
        result[0, number] = _weight(plus, s00, above)[first].sum()
        result[1, number] = _weight(minus, s00, below)[last].sum()
        both = _weight(inside, s00, above) + _weight(inside, s00, below)
        result[2, number] = (both - _weight(inside, s00)).sum() / layer.depth
    return result


def _behind(behind: Matrix, ahead: Matrix, back: Matrix, s01: Matrix) -> tuple[Matrix, Matrix]:
    """What the layer behind adds to a layer's S: G_01 S_10 = G X and S_01 G_10 = Y G.

    G_01 = -G (zS - H)_01 G+ and G_10 = -G+ (zS - H)_10 G.

    Args:
        behind: G+, of the surface layer of what lies behind.
        ahead: zS - H from the layer to the next.
        back: zS - H from the next to the layer.
        s01: S from the layer to the next.
    """
    return -ahead @ (behind @ s01.conj().T), -(s01 @ behind) @ back


def _weight(
    green: Matrix, s00: Matrix, behind: tuple[Matrix, Matrix] | None = None
) -> NDArray[np.float64]:
    """(n,), -Im / pi of the diagonal of (G S + S G) / 2, the part of :func:`_behind` included.

    Args:
        green: G of the layer.
        s00: its overlap.
        behind: X and Y of the layer behind, where it counts.
    """
    right, left = (s00, s00) if behind is None else (s00 + behind[0], s00 + behind[1])
    both = np.einsum("ij,ji->i", green, right) + np.einsum("ij,ji->i", left, green)
    return np.asarray(-0.5 * both.imag / np.pi)


def surface_spectrum(
    problem: BlochProblem,
    axis: int,
    window_eV: tuple[float, float],
    path: str | KPath | None = None,
    npoints: int = 100,
    *,
    fermi: FermiLevel | None = None,
    points: int = 200,
    broadening_eV: float = 0.01,
    processes: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> SurfaceSpectrum:
    """Spectral functions of both surfaces and of the bulk along a path.

    Args:
        problem: the bulk Hamiltonian.
        axis: lattice vector that points into the crystal, 0 to 2.
        window_eV: energies relative to the Fermi level.
        path: in the surface zone, see :func:`~..kpath.find_path`.
        npoints: k-points on it.
        fermi: the Fermi level.
        points: energies.
        broadening_eV: imaginary part of the energy.
        processes: k-points in parallel.
        progress: called with (done, all).

    Raises:
        ConfigError: no crystal along ``axis``, a path that leaves the surface zone, too large
            layers, a broadening that is none.
    """
    layer = PrincipalLayers(problem, axis)
    if layer.size > _LARGEST:
        raise ConfigError(
            f"{problem.source}: a principal layer has {layer.size} orbitals ({layer.depth} cells); "
            f"at most {_LARGEST} are computed"
        )
    if not 0 < broadening_eV < np.inf:
        raise ConfigError(f"broadening {broadening_eV} eV: it must be positive and finite")
    if not window_eV[0] < window_eV[1] or points < 2:
        raise ConfigError(f"surface spectrum: {points} energies in {window_eV} eV")
    flat: list[bool] = [bool(p and a != axis) for a, p in enumerate(problem.periodic)]
    kpath = find_path(problem.structure, (flat[0], flat[1], flat[2]), path, npoints)
    if np.abs(kpath.kpoints[:, axis]).max() > 1e-9:
        raise ConfigError(
            f"the path leaves the surface zone (k{axis + 1} is not 0); give points with k{axis + 1}"
            " = 0"
        )
    zero = fermi.energy_eV if fermi else 0.0
    energies = np.linspace(*window_eV, points)
    task = functools.partial(_point, axis=axis, energies=energies + zero, broadening=broadening_eV)
    found = np.array(map_kpoints(task, problem, kpath.kpoints, processes, progress))
    return SurfaceSpectrum(
        kpath,
        axis,
        energies,
        found[:, 0],
        found[:, 1],
        found[:, 2],
        fermi.energy_eV if fermi else None,
        broadening_eV,
        problem.label,
    )
