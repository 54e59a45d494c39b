"""An ASE calculator that knows the Hamiltonian instead of the energy.

>>> calc = HamiltonianCalculator("gformer/", stage1="stage1/", overlap="carbon.npz",
...                              valence={"C": 4})                          # doctest: +SKIP
>>> atoms.calc = calc                                                       # doctest: +SKIP
>>> calc.get_fermi_level(), calc.get_hamiltonian(k=(0, 0, 0))               # doctest: +SKIP
>>> calc.band_structure("GMKG").plot()                                      # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from ase import Atoms
from ase.dft.kpoints import BandPath, monkhorst_pack
from numpy.typing import NDArray

from ..bands import (
    BandGap,
    Dos,
    FermiLevel,
    MeshSpectrum,
    band_gap,
    band_structure,
    density_of_states,
    fermi_level,
    mesh_spectrum,
    solve_dense,
)
from ..bands.bravais import strain_between
from ..bands.electrons import electron_number, electrons_by_composition
from ..bands.kpath import KPath
from ..errors import ConfigError
from .ase_io import from_atoms, read_deeph, to_atoms, write_deeph
from .ase_matrices import MatrixCalculator

__all__ = ["HamiltonianCalculator", "from_atoms", "read_deeph", "to_atoms", "write_deeph"]

_ANOTHER_CELL = 0.1
"""Strain; less is the same cell after a step of a relaxation."""


class HamiltonianCalculator(MatrixCalculator):
    """ASE calculator: H from the model, S from an overlap source, physics from
    :mod:`deeph_gformer.bands`.

    ``atoms.calc = calc`` binds it; every ``get_...`` then speaks of the atoms as they are at the
    moment of the call. H and S are computed again when positions, cell, elements or boundary
    conditions changed, and kept otherwise. Energy and forces do not exist.

    Attributes:
        model: stage 1 and GFormer.
        overlap: where edges and S come from.
        seconds: of each step of the last computation.
    """

    _mesh: Any = None
    _spectrum: MeshSpectrum | None = None
    _level: FermiLevel | None = None
    _points: dict[int, NDArray[np.float64]]

    def set(self, **kwargs: Any) -> dict[str, Any]:
        """Change parameters, see :meth:`MatrixCalculator.set`; the mesh is kept for the level."""
        changed = super().set(**kwargs)
        if "kpts" in changed and self._is_mesh(changed["kpts"]):
            self._mesh = changed["kpts"]
        return changed

    def _forget(self) -> None:
        self._spectrum, self._level, self._points = None, None, {}

    # --- k-points and eigenvalues ---
    @staticmethod
    def _is_mesh(kpts: Any) -> bool:
        return not isinstance(kpts, BandPath) and (
            kpts is None or isinstance(kpts, (str, Mapping)) or np.ndim(kpts) != 2
        )

    def _explicit(self) -> NDArray[np.float64] | None:
        kpts = self.parameters["kpts"]
        if self._is_mesh(kpts):
            return None
        return (
            self._fractions(kpts) if isinstance(kpts, BandPath) else np.asarray(kpts, dtype=float)
        )

    def _fractions(self, path: BandPath) -> NDArray[np.float64]:
        """(K, 3), fractional.

        Raises:
            ConfigError: they are fractions of the vectors of another cell.
        """
        kpts = np.asarray(path.kpts, dtype=float)
        used = np.flatnonzero(np.abs(kpts).max(axis=0, initial=0.0) > 1e-9)
        there, here = np.array(path.cell)[used], self.get_problem().structure.lattice[used]
        strain = strain_between(here @ here.T, there @ there.T) if len(used) else 0.0
        if strain > _ANOTHER_CELL:
            raise ConfigError(
                f"the BandPath is one of another cell (its vectors differ by {strain:.0%}), so its "
                "fractional coordinates are other k-points here; make it with "
                "atoms.cell.bandpath('GMKG', pbc=atoms.pbc)"
            )
        return kpts

    def get_spectrum(self, atoms: Atoms | None = None) -> MeshSpectrum:
        """Eigenvalues on the Γ-centred mesh: that of ``kpts``, or, where ``kpts`` are explicit
        points, the mesh set before them.
        """
        problem = self.get_problem(atoms)
        if self._spectrum is None:
            kpts = self._mesh
            if isinstance(kpts, Mapping):
                if (
                    "size" not in kpts
                    or set(kpts) - {"size", "gamma"}
                    or kpts.get("gamma") is False
                ):
                    raise ConfigError(
                        f"kpts = {dict(kpts)}: only Γ-centred meshes by size, {{'size': (6, 6, "
                        f"1)}} or '6x6x1'; for a path call band_structure('GMKG')"
                    )
                kpts = kpts["size"]
            self._spectrum = mesh_spectrum(
                problem, kpts, s_threshold=self.parameters["s_threshold"]
            )
        return self._spectrum

    def get_ibz_k_points(self) -> NDArray[np.float64]:
        """(K, 3), fractional: the mesh's points up to time reversal, or the explicit ones."""
        explicit = self._explicit()
        return self.get_spectrum().kpoints if explicit is None else explicit

    def get_k_point_weights(self) -> NDArray[np.float64]:
        """(K,), sum 1."""
        explicit = self._explicit()
        return (
            self.get_spectrum().weights
            if explicit is None
            else np.full(len(explicit), 1.0 / len(explicit))
        )

    def get_bz_k_points(self) -> NDArray[np.float64]:
        """(K, 3): every point of the mesh, in the order of ``ase.dft.kpoints.monkhorst_pack``."""
        explicit = self._explicit()
        if explicit is not None:
            return explicit
        mesh = np.array(self.get_spectrum().mesh)
        return monkhorst_pack(mesh) + np.where(mesh % 2 == 0, 0.5 / mesh, 0.0)

    def get_bz_to_ibz_map(self) -> NDArray[np.int64]:
        """(K,): which of :meth:`get_ibz_k_points` each point of :meth:`get_bz_k_points` is
        equivalent to.
        """
        explicit = self._explicit()
        if explicit is not None:
            return np.arange(len(explicit))
        spectrum = self.get_spectrum()
        mesh = np.array(spectrum.mesh)
        index = np.round(self.get_bz_k_points() * mesh).astype(np.int64) % mesh
        return np.asarray(spectrum.full[tuple(index.T)])

    def get_number_of_spins(self) -> int:
        """1: no collinear spin. With spin-orbit coupling bands hold one electron each, so use
        ``DOS(calc).get_dos(spin=0)``, not the sum.
        """
        return 1

    def get_spin_polarized(self) -> bool:
        """False."""
        return False

    def get_number_of_bands(self) -> int:
        """Orbitals, spin included."""
        return self.get_problem().size

    def get_eigenvalues(self, kpt: int = 0, spin: int = 0) -> NDArray[np.float64]:
        """(B,), eV on the scale of H, ascending, at k-point number ``kpt`` of
        :meth:`get_ibz_k_points`; infinite for states that ``s_threshold`` projects out.

        Raises:
            ConfigError: no such k-point or spin.
        """
        points = self.get_ibz_k_points()
        if spin != 0 or not 0 <= kpt < len(points):
            raise ConfigError(
                f"eigenvalues of k-point {kpt}, spin {spin} asked; there are {len(points)} "
                "k-points and one spin"
            )
        problem = self.get_problem()
        if self._explicit() is None:
            return self.get_spectrum().energies[kpt].copy()
        if kpt not in self._points:
            h, s = problem.at(points[kpt])
            found = solve_dense(
                h,
                s,
                s_threshold=self.parameters["s_threshold"],
                where=f"{problem.source}, k-point {kpt}",
            ).energies
            self._points[kpt] = np.pad(
                found, (0, problem.size - len(found)), constant_values=np.inf
            )
        return self._points[kpt].copy()

    # --- physics ---
    def _electrons(self) -> float | None:
        """Per cell: as given, else from what the bundle's training set taught."""
        structure = self.get_problem().structure
        found = electron_number(structure, self.parameters["electrons"], self.parameters["valence"])
        if found is not None:
            return found[0]
        return (
            electrons_by_composition(structure, self.model.bundle.training.get("electrons", ()))
            if self.model.bundle
            else None
        )

    def _need_electrons(self, what: str) -> float:
        found = self._electrons()
        if found is None:
            raise ConfigError(
                f"{what} needs the number of electrons; give HamiltonianCalculator electrons=N "
                f"per cell, or valence={{'C': 4, ...}} per element"
            )
        return found

    def _known_level(self) -> FermiLevel | None:
        return (
            self.get_fermi()
            if self.parameters["fermi"] is not None or self._electrons() is not None
            else None
        )

    def get_fermi(self, atoms: Atoms | None = None) -> FermiLevel:
        """The Fermi level and how it was found.

        Raises:
            ConfigError: neither ``fermi``, ``electrons`` nor ``valence`` is set.
        """
        problem = self.get_problem(atoms)
        if self._level is None:
            given = self.parameters["fermi"]
            self._level = (
                FermiLevel(float(given), "given")
                if given is not None
                else fermi_level(
                    problem,
                    self._need_electrons("the Fermi level"),
                    smearing=self.parameters["smearing"],
                    width_eV=self.parameters["width"],
                    spectrum=self.get_spectrum(),
                )
            )
        return self._level

    def get_fermi_level(self) -> float:
        """eV, on the scale of H; see :meth:`get_fermi`."""
        return self.get_fermi().energy_eV

    def get_band_gap(self, atoms: Atoms | None = None, refine: bool = True) -> BandGap:
        """The gap by electron counting, see :func:`deeph_gformer.bands.band_gap`."""
        problem = self.get_problem(atoms)
        return band_gap(
            problem,
            self._need_electrons("the gap"),
            spectrum=self.get_spectrum(),
            refine=refine,
            s_threshold=self.parameters["s_threshold"],
        )

    def get_dos(self, **options: Any) -> Dos:
        """Both spins, see :func:`deeph_gformer.bands.density_of_states`; options override the
        calculator's mesh and ``s_threshold``.
        """
        options = {"s_threshold": self.parameters["s_threshold"], **options}
        spectrum = None if {"mesh", "projections"} & set(options) else self.get_spectrum()
        return density_of_states(
            self.get_problem(), spectrum=spectrum, fermi=self._known_level(), **options
        )

    def band_structure(
        self, path: str | BandPath | None = None, npoints: int = 120, **options: Any
    ) -> Any:
        """``ase.spectrum.band_structure.BandStructure`` along a path, with the Fermi level (0 where
        it is unknown) as reference.

        Args:
            path: special points such as "GMKG", a ``BandPath``, or None for the lattice's standard
                path.
            npoints: of the path.
            options: of :func:`deeph_gformer.bands.band_structure`; ``s_threshold`` is that of the
                calculator by default.
        """
        from ase.spectrum.band_structure import BandStructure

        problem = self.get_problem()
        level = self._known_level()
        options = {"s_threshold": self.parameters["s_threshold"], **options}
        if not isinstance(path, BandPath):
            return band_structure(problem, path, npoints, fermi=level, **options).to_ase()
        kpts = self._fractions(path)
        points = KPath(kpts, np.zeros(len(kpts)), ((0, len(kpts)),), ())
        energies = band_structure(problem, points, fermi=level, **options).energies_eV
        known = np.isfinite(energies).all(axis=0)
        return BandStructure(
            path, energies[None][:, :, known], reference=level.energy_eV if level else 0.0
        )
