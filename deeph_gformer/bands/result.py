"""The result of a band calculation, and its conversions."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError, DataError, MissingDependencyError
from ..io.files import read_json, write_json
from .kpath import KPath
from .solve import default_window

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Bands"]

_KIND = "deeph-gformer bands"


def _unset() -> NDArray[np.bool_]:
    """Stands for a flag that is the same at all k-points."""
    return np.zeros(0, dtype=bool)


@dataclasses.dataclass
class Bands:
    """Eigenvalues along a path.

    Attributes:
        path: the k-points.
        lattice: (3, 3), rows, Å.
        energies_eV: (K, B), ascending along B; NaN where a band is not known at a k-point (partial
            spectra, failed k-points).
        fermi_eV: Fermi level on the same scale, None where unknown.
        fermi_source: how it was found.
        label: name in legends.
        source: the file of H.
        solver: what solved it.
        notes: what was found on the way.
        first_band: index of column 0 among all bands, None where no count fixes it.
        complete: (K,), whether every eigenvalue between the lowest and the highest found at the
            k-point is there (False also where unchecked).
        drawable: (K,), complete and with a known band index: such points are joined into lines,
            others are drawn as dots.
        electrons_per_band: 2, or 1 with spin-orbit coupling.
        projections: name -> (K, B), Mulliken weights.
        spin: (K, B, 3), <sigma>, or None.
    """

    path: KPath
    lattice: NDArray[np.float64]
    energies_eV: NDArray[np.float64]
    fermi_eV: float | None = None
    fermi_source: str = "unknown"
    label: str = ""
    source: str = ""
    solver: str = ""
    notes: list[str] = dataclasses.field(default_factory=list)
    first_band: int | None = 0
    complete: NDArray[np.bool_] = dataclasses.field(default_factory=_unset)
    drawable: NDArray[np.bool_] = dataclasses.field(default_factory=_unset)
    electrons_per_band: int = 2
    projections: dict[str, NDArray[np.float64]] = dataclasses.field(default_factory=dict)
    spin: NDArray[np.float64] | None = None

    def __post_init__(self) -> None:
        if self.energies_eV.ndim != 2 or len(self.energies_eV) != len(self.path):
            raise DataError(
                f"bands '{self.label}': energies {self.energies_eV.shape} do not fit "
                f"{len(self.path)} k-points"
            )
        if not len(self.complete):
            self.complete = np.ones(len(self.path), dtype=bool)
        if not len(self.drawable):
            self.drawable = self.complete.copy()

    def __repr__(self) -> str:
        points, bands = self.energies_eV.shape
        path = " ".join(name for _, name in self.path.ticks)
        return f"Bands({self.label!r}, {points} k-points, {bands} bands, {path})"

    @property
    def kpoints(self) -> NDArray[np.float64]:
        """(K, 3), fractional."""
        return self.path.kpoints

    @property
    def distances(self) -> NDArray[np.float64]:
        """(K,), 1/Å along the path."""
        return self.path.distances

    @property
    def labels(self) -> tuple[tuple[int, str], ...]:
        """(k-point index, name) of the special points."""
        return self.path.labels

    @property
    def aligned_eV(self) -> NDArray[np.float64]:
        """(K, B), relative to the Fermi level (absolute where none is known)."""
        return self.energies_eV - (self.fermi_eV or 0.0)

    def default_window(self, reach_eV: float = 3.0) -> tuple[float, float]:
        """(low, high) eV relative to the Fermi level: what figures show and errors are taken over.

        From -reach to reach; where the gap is wider, as far as its edges and 1 eV more. Without a
        Fermi level all energies, if none lies in that range.
        """
        levels = self.aligned_eV
        with np.errstate(invalid="ignore"):
            near = (np.abs(levels) <= reach_eV).any()
        if self.fermi_eV is None and not near and np.isfinite(levels).any():
            return float(np.nanmin(levels)) - 1.0, float(np.nanmax(levels)) + 1.0
        return default_window(levels, reach_eV)

    def lines(self) -> Iterator[tuple[slice, NDArray[np.int64]]]:
        """Pieces of the path whose points may be joined.

        Yields:
            Segment, and indices of its drawable k-points without a break.
        """
        for start, stop in self.path.segments:
            index = np.arange(start, stop)
            good = index[self.drawable[start:stop]]
            for run in np.split(good, np.flatnonzero(np.diff(good) > 1) + 1):
                if len(run):
                    yield slice(start, stop), run

    def plot(
        self,
        path: str | os.PathLike[str] | None = None,
        window_eV: tuple[float, float] | None = None,
        **options: Any,
    ) -> Axes:
        """Draw the bands relative to the Fermi level; see :func:`~.plot.plot_comparison`."""
        from .plot import plot_comparison

        return plot_comparison(
            [(self.label or "bands", self, "line")], path, window_eV=window_eV, **options
        )

    def to_ase(self) -> Any:
        """``ase.spectrum.band_structure.BandStructure`` (reference = Fermi level).

        Bands that are not known everywhere are left out.
        """
        from ase.cell import Cell
        from ase.dft.kpoints import BandPath
        from ase.spectrum.band_structure import BandStructure

        here = {index: ("G" if name == "Γ" else name) for index, name in self.labels}
        pieces: list[str] = []
        chosen: list[int] = []  # ASE has a point that two segments share once
        for start, stop in self.path.segments:
            first, last = here.get(start, ""), here.get(stop - 1, "")
            same = chosen and np.array_equal(self.kpoints[chosen[-1]], self.kpoints[start])
            if same and here.get(chosen[-1], "") == first:
                pieces[-1] += last
                chosen.extend(range(start + 1, stop))
            else:
                pieces.append(first + last)
                chosen.extend(range(start, stop))
        path = BandPath(
            Cell(self.lattice),
            kpts=self.kpoints[chosen],
            special_points={name: self.kpoints[index] for index, name in here.items()},
            path=",".join(pieces),
        )
        known = np.isfinite(self.energies_eV).all(axis=0)
        energies = self.energies_eV[chosen][:, known]
        return BandStructure(path, energies[None], reference=self.fermi_eV or 0.0)

    def to_pymatgen(self) -> Any:
        """``pymatgen.electronic_structure.bandstructure.BandStructureSymmLine``.

        Bands that are not known everywhere are left out.

        Raises:
            MissingDependencyError: pymatgen is not installed. ConfigError: there is no Fermi level.
        """
        try:
            from pymatgen.core.lattice import Lattice
            from pymatgen.electronic_structure.bandstructure import BandStructureSymmLine
            from pymatgen.electronic_structure.core import Spin
        except ImportError:
            raise MissingDependencyError("pymatgen", "pymatgen", "Bands.to_pymatgen") from None
        if self.fermi_eV is None:
            raise ConfigError(
                "pymatgen's band structure needs a Fermi level; give the number of electrons or "
                "fermi="
            )
        names = {
            ("\\Gamma" if name == "Γ" else name): self.kpoints[index] for index, name in self.labels
        }
        known = np.isfinite(self.energies_eV).all(axis=0)
        return BandStructureSymmLine(
            list(self.kpoints),
            {Spin.up: self.energies_eV[:, known].T},
            Lattice(self.lattice).reciprocal_lattice,
            self.fermi_eV,
            names,
        )

    def to_json(self) -> dict[str, Any]:
        """Everything, for JSON; units in the key names, unknown energies null."""
        energies = [
            [None if not np.isfinite(v) else float(v) for v in row] for row in self.energies_eV
        ]
        return {
            "kind": _KIND,
            "label": self.label,
            "source": self.source,
            "solver": self.solver,
            "notes": self.notes,
            "fermi_eV": self.fermi_eV,
            "fermi_source": self.fermi_source,
            "lattice_angstrom": self.lattice.tolist(),
            "kpoints_fractional": self.kpoints.tolist(),
            "distances_per_angstrom": self.distances.tolist(),
            "segments": [list(s) for s in self.path.segments],
            "labels": [list(v) for v in self.labels],
            "path_source": self.path.source,
            "energies_eV": energies,
            "first_band": self.first_band,
            "complete": [bool(v) for v in self.complete],
            "drawable": [bool(v) for v in self.drawable],
            "electrons_per_band": self.electrons_per_band,
            "projections": {k: v.tolist() for k, v in self.projections.items()},
            "spin_expectation": None if self.spin is None else self.spin.tolist(),
        }

    def write_json(self, path: str | os.PathLike[str]) -> None:
        """Write :meth:`to_json`; :meth:`read_json` reads it again."""
        write_json(path, self.to_json())

    @classmethod
    def read_json(cls, path: str | os.PathLike[str]) -> Bands:
        """Read what :meth:`write_json` wrote.

        Raises:
            DataError: it is no such file.
        """
        path = pathlib.Path(path)
        data = read_json(path)
        if not isinstance(data, dict) or data.get("kind") != _KIND:
            raise DataError(f"{path}: no band file of deeph-gformer (kind: {_KIND})")
        try:
            kpath = KPath(
                np.array(data["kpoints_fractional"], dtype=float),
                np.array(data["distances_per_angstrom"], dtype=float),
                tuple((int(a), int(b)) for a, b in data["segments"]),
                tuple((int(i), str(n)) for i, n in data["labels"]),
                data["path_source"],
            )
            return cls(
                kpath,
                np.array(data["lattice_angstrom"], dtype=float),
                np.array(data["energies_eV"], dtype=float),
                data["fermi_eV"],
                data["fermi_source"],
                data["label"],
                data["source"],
                data["solver"],
                list(data["notes"]),
                data["first_band"],
                np.array(data["complete"], dtype=bool),
                np.array(data["drawable"], dtype=bool),
                data["electrons_per_band"],
                {k: np.array(v) for k, v in data["projections"].items()},
                None if data["spin_expectation"] is None else np.array(data["spin_expectation"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"{path}: damaged band file ({type(error).__name__}: {error})"
            ) from None
