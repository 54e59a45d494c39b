"""Two Hamiltonians or two band structures against each other, without the gauge H -> H + mu S."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError, DataError
from ..io import BlockMatrix
from ..io.blocks import format_key, match_keys
from .arguments import require_window
from .fermi import FermiLevel
from .kmesh import MeshSpectrum, mesh_points
from .kpath import KPath
from .result import Bands
from .solve import EDGE_EV, nearest_levels

__all__ = [
    "HamiltonianError",
    "compare",
    "BandError",
    "common_bands",
    "compare_bands",
    "mesh_bands",
]


@dataclasses.dataclass(frozen=True)
class HamiltonianError:
    """Difference of two Hamiltonians, raw and with mu S removed.

    Attributes:
        mu_eV: <dH, S> / <S, S>, the part of the difference that is only a shift of the energy zero.
        raw_mae_meV, raw_rmse_meV, raw_max_meV: of dH.
        mae_meV, rmse_meV, max_meV: of dH - mu S.
        blocks: compared.
        only_in_first, only_in_second: blocks that the other lacks (left out).
        worst: (block name, its mean |dH - mu S| in meV), the worst first.
    """

    mu_eV: float
    raw_mae_meV: float
    raw_rmse_meV: float
    raw_max_meV: float
    mae_meV: float
    rmse_meV: float
    max_meV: float
    blocks: int
    only_in_first: int
    only_in_second: int
    worst: tuple[tuple[str, float], ...]

    def to_json(self) -> dict[str, Any]:
        """For JSON; units in the key names."""
        return {
            **dataclasses.asdict(self),
            "worst": [{"block": name, "mae_meV": value} for name, value in self.worst],
        }


def _spin_doubled(s: BlockMatrix, shapes: NDArray[np.int64]) -> BlockMatrix:
    """kron(I2, S) block by block, where H's blocks are twice as large; S itself otherwise."""
    if (s.shapes == shapes).all():
        return s
    if (2 * s.shapes != shapes).any():
        wrong = int(np.flatnonzero((2 * s.shapes != shapes).any(axis=1))[0])
        raise DataError(
            f"block {format_key(s.keys[wrong])}: H is {tuple(shapes[wrong].tolist())}, S is "
            f"{tuple(s.shapes[wrong].tolist())}; neither equal nor spin-doubled"
        )
    return BlockMatrix.from_blocks(s.keys, [np.kron(np.eye(2), block) for _, block in s])


def compare(h1: BlockMatrix, h2: BlockMatrix, s: BlockMatrix, worst: int = 5) -> HamiltonianError:
    """Errors of ``h2`` against ``h1``, raw and without mu S.

    mu = <dH, S> / <S, S> over their common blocks (Frobenius product over R).

    Args:
        h1: reference, eV.
        h2: e.g. a prediction, eV.
        s: spinless overlap; blocks it lacks count as zero.
        worst: how many blocks to name.

    Raises:
        DataError: no common block, shapes that differ, or a spin-doubled S.
    """
    place = match_keys(h1.keys, h2.keys)
    common = np.flatnonzero(place >= 0)
    if not len(common):
        raise DataError(
            f"the two Hamiltonians have no block in common ({len(h1)} and {len(h2)} blocks); do "
            f"they belong to the same structure?"
        )
    a, b = h1.select(common), h2.select(place[common])
    if (a.shapes != b.shapes).any():
        wrong = int(np.flatnonzero((a.shapes != b.shapes).any(axis=1))[0])
        raise DataError(
            f"block {format_key(a.keys[wrong])} is {tuple(a.shapes[wrong].tolist())} in the "
            f"first and "
            f"{tuple(b.shapes[wrong].tolist())} in the second Hamiltonian; "
            "do both have spin-orbit coupling, and the same basis?"
        )
    dtype = np.result_type(a.values.dtype, b.values.dtype, np.float64)
    difference = b.values.astype(dtype) - a.values
    in_s = match_keys(a.keys, s.keys)
    have = np.flatnonzero(in_s >= 0)
    overlap = _spin_doubled(s.select(in_s[have]), a.shapes[have])
    overlap_values = np.zeros(len(difference))
    lengths = a.offsets[have + 1] - a.offsets[have]
    target = np.repeat(a.offsets[have] - np.cumsum(lengths) + lengths, lengths) + np.arange(
        int(lengths.sum())
    )
    overlap_values[target] = overlap.values
    norm = float(overlap_values @ overlap_values)
    mu = float((difference.real @ overlap_values) / norm) if norm > 0 else 0.0
    rest = difference - mu * overlap_values
    means = (
        np.add.reduceat(np.abs(rest), a.offsets[:-1])
        / np.maximum(a.offsets[1:] - a.offsets[:-1], 1)
        * 1e3
    )
    order = np.argsort(-means)[:worst]

    def figures(x: NDArray[np.number]) -> tuple[float, float, float]:
        """Mean, rms and largest |x|, meV."""
        size = np.abs(x) * 1e3
        return float(size.mean()), float(np.sqrt((size**2).mean())), float(size.max())

    return HamiltonianError(
        mu,
        *figures(difference),
        *figures(rest),
        len(common),
        len(h1) - len(common),
        len(h2) - len(common),
        tuple((format_key(a.keys[e]), float(means[e])) for e in order),
    )


@dataclasses.dataclass(frozen=True)
class BandError:
    """Eigenvalue errors of one band structure against another, both relative to their own Fermi
    level.

    Attributes:
        mae_meV: mean absolute error over the states of the reference in ``window_eV``.
        rmse_meV: root of their mean squared error.
        max_meV: the largest.
        shift_meV: mean signed error.
        spread_meV: RMSE after removing it (what no shift of the Fermi level can mend).
        states: how many.
        window_eV: (low, high) around the reference's Fermi level.
        residual_meV: (K, B), the errors themselves, by k-point and common band; NaN outside the
            window.
    """

    mae_meV: float
    rmse_meV: float
    max_meV: float
    shift_meV: float
    spread_meV: float
    states: int
    window_eV: tuple[float, float]
    residual_meV: NDArray[np.float64] = dataclasses.field(
        default_factory=lambda: np.zeros((0, 0)), repr=False, compare=False
    )

    def to_json(self) -> dict[str, Any]:
        """For JSON, without the single errors; units in the key names."""
        fields = dataclasses.asdict(self)
        del fields["residual_meV"]
        return fields


def common_bands(one: Bands, two: Bands) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Energies of the bands that both have, (K, B) each, relative to their own Fermi levels.

    Args:
        one: bands.
        two: on the same path.

    Raises:
        ConfigError: the paths differ, or the bands of one have no numbers.
    """
    if one.kpoints.shape != two.kpoints.shape or np.abs(one.kpoints - two.kpoints).max() > 1e-6:
        raise ConfigError(
            f"bands '{one.label}' and '{two.label}' lie on different k-paths ({len(one.kpoints)} "
            f"and {len(two.kpoints)} points); compute both on one path"
        )
    if one.first_band is None or two.first_band is None:
        name = one.label if one.first_band is None else two.label
        raise ConfigError(
            f"bands '{name}' are a partial spectrum without an eigenvalue count, so its bands "
            f"cannot be told apart; run with --check auto"
        )
    low = max(one.first_band, two.first_band)
    high = min(one.first_band + one.energies_eV.shape[1], two.first_band + two.energies_eV.shape[1])
    a = one.aligned_eV[:, low - one.first_band : max(low, high) - one.first_band]
    b = two.aligned_eV[:, low - two.first_band : max(low, high) - two.first_band]
    return a, b


def compare_bands(
    reference: Bands, other: Bands, window_eV: float | Sequence[float] | None = None
) -> BandError:
    """Errors of ``other``, band by band, over the reference's states in a window around E_F.

    Args:
        reference: bands that are right.
        other: on the same path.
        window_eV: (low, high) relative to the Fermi level, both ends included; one number x is (-x,
            x); default :meth:`~.result.Bands.default_window`.

    Raises:
        ConfigError: the k-paths differ, bands cannot be identified, the window is none, or no state
            lies in it.
    """
    if window_eV is None:
        window_eV = reference.default_window()
    if isinstance(window_eV, (int, float)):
        window_eV = (-window_eV, window_eV)
    low, high = require_window(window_eV)
    a, b = common_bands(reference, other)
    with np.errstate(invalid="ignore"):
        inside = (a >= low - EDGE_EV) & (a <= high + EDGE_EV) & np.isfinite(a) & np.isfinite(b)
    if not inside.any():
        raise ConfigError(
            f"no common state of '{reference.label}' and '{other.label}' lies {low:g} to "
            f"{high:g} eV "
            f"around the Fermi level{nearest_levels(a)}"
        )
    residual = np.where(inside, (b - a) * 1e3, np.nan)
    error = residual[inside]
    return BandError(
        float(np.abs(error).mean()),
        float(np.sqrt((error**2).mean())),
        float(np.abs(error).max()),
        float(error.mean()),
        float(error.std()),
        int(inside.sum()),
        (low, high),
        residual,
    )


def mesh_bands(spectrum: MeshSpectrum, fermi: FermiLevel | None, label: str) -> Bands:
    """The spectrum of a whole mesh as :class:`Bands` without a path, for :func:`compare_bands` and
    :func:`find_ghosts`."""
    index = spectrum.full.reshape(-1)
    kpoints = mesh_points(spectrum.mesh, False)[0]  # of all points, whatever was solved
    path = KPath(
        kpoints,
        np.zeros(len(index)),
        tuple((i, i + 1) for i in range(len(index))),
        (),
        f"{'x'.join(map(str, spectrum.mesh))} mesh",
    )
    energies = np.where(np.isfinite(spectrum.energies[index]), spectrum.energies[index], np.nan)
    return Bands(
        path,
        spectrum.lattice,
        energies,
        fermi.energy_eV if fermi else None,
        fermi.source if fermi else "unknown",
        label,
        electrons_per_band=spectrum.electrons_per_band,
    )
